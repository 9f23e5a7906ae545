"""PostgreSQL goes away in the middle of many refreshes: no pair that was received is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.sharedctypes import Synchronized

from attrs import evolve

from blink_oauth_keeper import SqlTokenStore
from blink_oauth_keeper.store.protocol import Record, State
from blink_oauth_testing.sandbox import BankPolicy, Sandbox
from blink_oauth_testing.sandbox.banks import Bank
from crash.renewer import main
from postgresql import PostgreSQL
from storm.crowd import wait_until
from storm.places import Place, ShiftedClock, authorize
from storm.processes import CONTEXT, working

PROCESSES, GRANTS = 3, 16
TOTAL, LEASE = 8.0, 10.0
"""Seconds; the server is back long before a lease ends."""
BANK = BankPolicy("IIDX00001", "Musterbank Streng", access_token_lifetime=2.0)
"""Seconds: each access token is refreshed when half of its lifetime is over."""
ANSWER_AFTER = 0.5
"""Seconds for which the bank keeps its answers back; by then the server is down."""


def test_no_pair_that_was_received_is_lost_when_the_database_restarts(
    postgresql: PostgreSQL, url: str
) -> None:
    unsettled = CONTEXT.Value("i", 0)
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox(banks=[BANK]))
        bank = sandbox.banks[BANK.target_id]
        place = Place.at(sandbox, url, total=TOTAL, lease=LEASE)
        grants = [sandbox.grant(username=f"u-{number}") for number in range(GRANTS)]
        with place.managing(ShiftedClock()) as manager, ThreadPoolExecutor() as pool:
            list(pool.map(lambda grant: authorize(manager, sandbox, grant), grants))
        bank.policy = evolve(BANK, response_delay=ANSWER_AFTER)
        store = place.store()
        stack.callback(store.close)
        workers = [
            stack.enter_context(working(main, place, grants, unsettled)) for _ in range(PROCESSES)
        ]
        wait_for_another_generation(store, place)
        for mode in ("fast", "immediate"):
            restart(postgresql, mode, bank, unsettled)
            wait_for_another_generation(store, place)
        for worker in workers:
            worker.tell("enough")
        failures = set().union(*(worker.hear() for worker in workers))
        assert [worker.end() for worker in workers] == [0] * PROCESSES

        last = records(store, place)
        assert {record.state for record in last} == {State.ACTIVE}
        assert [record.key.grant for record in last if not is_alive(sandbox, record)] == []
        stored = sum(record.generation - 1 for record in last)
        assert (stored, bank.reuses) == (bank.refreshes, 0)
        assert failures <= {"StoreError"}


def restart(postgresql: PostgreSQL, mode: str, bank: Bank, unsettled: Synchronized[int]) -> None:
    """Stop the server while an answer of the bank is due, and start it once that is noticed."""
    refreshes, before = bank.refreshes, unsettled.value
    wait_until(lambda: bank.refreshes > refreshes)
    postgresql.stop(mode)
    wait_until(lambda: unsettled.value > before)
    postgresql.start()


def records(store: SqlTokenStore, place: Place) -> list[Record]:
    """Return all records."""
    found = list(store.records(place.client_id))
    assert len(found) == GRANTS
    return found


def wait_for_another_generation(store: SqlTokenStore, place: Place) -> None:
    """Wait until every grant is refreshed once more."""
    before = [record.generation for record in records(store, place)]

    def moved_on() -> bool:
        now = [record.generation for record in records(store, place)]
        return all(new > old for new, old in zip(now, before, strict=True))

    wait_until(moved_on, pause=0.05)


def is_alive(sandbox: Sandbox, record: Record) -> bool:
    """Say whether the stored refresh token is the one that the bank accepts."""
    assert record.token
    assert record.token.refresh_token
    bank = sandbox.banks[record.key.grant.target_id]
    return bank.accepts(record.token.refresh_token.reveal())
