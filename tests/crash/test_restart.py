"""PostgreSQL restarts during many refreshes: no received pair is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.sharedctypes import Synchronized

from attrs import evolve

from blink_oauth_keeper import SqlTokenStore
from blink_oauth_keeper.store.protocol import Record, State
from blink_oauth_testing.sandbox import BankPolicy, Sandbox
from blink_oauth_testing.sandbox.banks import Bank
from crash.refreshing_process import main
from postgresql import PostgreSQL
from storm.callers import wait_until
from storm.processes import CONTEXT, running_process
from storm.shared_config import SharedConfig, ShiftedClock, authorize

PROCESSES, GRANTS = 3, 16
TOTAL, LEASE = 8.0, 10.0
"""Seconds; the server runs again long before a lease ends."""
BANK = BankPolicy("IIDX00001", "Musterbank Streng", access_token_lifetime=2.0)
"""Each access token is refreshed after half of its lifetime of two seconds."""
ANSWER_AFTER = 0.5
"""Seconds until the bank responds; by then the server is stopped."""


def test_no_received_pair_is_lost_when_the_database_restarts(
    postgresql: PostgreSQL, url: str
) -> None:
    unstored = CONTEXT.Value("i", 0)
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox(banks=[BANK]))
        bank = sandbox.banks[BANK.target_id]
        config = SharedConfig.for_sandbox(sandbox, url, total=TOTAL, lease=LEASE)
        grants = [sandbox.grant(username=f"u-{number}") for number in range(GRANTS)]
        with config.manager(ShiftedClock()) as manager, ThreadPoolExecutor() as pool:
            list(pool.map(lambda grant: authorize(manager, sandbox, grant), grants))
        bank.policy = evolve(BANK, response_delay=ANSWER_AFTER)
        store = config.store()
        stack.callback(store.close)
        workers = [
            stack.enter_context(running_process(main, config, grants, unstored))
            for _ in range(PROCESSES)
        ]
        wait_for_another_generation(store, config)
        for mode in ("fast", "immediate"):
            restart(postgresql, mode, bank, unstored)
            wait_for_another_generation(store, config)
        for worker in workers:
            worker.send("stop")
        failures = set().union(*(worker.receive() for worker in workers))
        assert [worker.join() for worker in workers] == [0] * PROCESSES

        final = records(store, config)
        assert {record.state for record in final} == {State.ACTIVE}
        assert [record.key.grant for record in final if not is_valid(sandbox, record)] == []
        stored = sum(record.generation - 1 for record in final)
        assert (stored, bank.reuses) == (bank.refreshes, 0)
        assert failures <= {"StoreError"}


def restart(postgresql: PostgreSQL, mode: str, bank: Bank, unstored: Synchronized[int]) -> None:
    """Stop the server during refreshes; start it once a received pair could not be stored."""
    refreshes, before = bank.refreshes, unstored.value
    wait_until(lambda: bank.refreshes > refreshes)
    postgresql.stop(mode)
    wait_until(lambda: unstored.value > before)
    postgresql.start()


def records(store: SqlTokenStore, config: SharedConfig) -> list[Record]:
    """Return the records of all grants."""
    found = [store.load(record.key) for record in store.records(config.client_id)]
    assert len(found) == GRANTS
    return [record for record in found if record]


def wait_for_another_generation(store: SqlTokenStore, config: SharedConfig) -> None:
    """Wait until every grant is refreshed once more."""
    before = [record.generation for record in records(store, config)]

    def all_refreshed() -> bool:
        now = [record.generation for record in records(store, config)]
        return all(new > old for new, old in zip(now, before, strict=True))

    wait_until(all_refreshed, pause=0.05)


def is_valid(sandbox: Sandbox, record: Record) -> bool:
    """Return whether the bank accepts the stored refresh token."""
    assert record.token
    assert record.token.refresh_token
    bank = sandbox.banks[record.key.grant.target_id]
    return bank.accepts(record.token.refresh_token.reveal())
