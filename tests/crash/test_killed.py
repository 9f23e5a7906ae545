"""What a process that is killed leaves behind, and what the next one makes of it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

import psycopg
from attrs import define, frozen
from sqlalchemy import make_url

from blink_oauth import BlinkError, Grant
from blink_oauth_keeper import SqlTokenStore, TokenManager
from blink_oauth_keeper.store.protocol import GrantKey, Record, State
from blink_oauth_testing.sandbox import BankPolicy, Exchange, Sandbox
from crash.held import HeldBack
from crash.victim import Step, main
from storm.crowd import wait_until
from storm.places import DAYS, Place, ShiftedClock, authorize
from storm.processes import Worker, working

TOTAL, LEASE = 4.0, 5.0
"""Seconds; the leases of a table run all at the same time."""


@frozen
class Row:
    """One process that was killed.

    Attributes:
        step: Where it was.
        bank: How the bank treats refresh tokens.
        left: The record that it left: state, generation, attempts.
        posts: How many refreshes the bank has seen by then.
        next_one: What another process gets that asks: `token`, or `refused` if the bank ends the
            consent.
        then: The record after that: state and generation.
        posts_then: How many refreshes the bank has seen by then.
        reuses: How often the bank took a refresh for theft.
    """

    step: str
    bank: str
    left: str
    posts: int
    next_one: str
    then: str
    posts_then: int
    reuses: int


# fmt: off
TABLE = (
    Row("before claim",   "strict",       "active 1, 0",     0, "token",   "active 2",        1, 0),
    Row("before claim",   "window",       "active 1, 0",     0, "token",   "active 2",        1, 0),
    Row("before claim",   "not rotating", "active 1, 0",     0, "token",   "active 2",        1, 0),
    # Nobody can know that nothing was sent: the next one waits for the lease to end.
    Row("after claim",    "strict",       "refreshing 1, 1", 0, "token",   "active 2",        1, 0),
    Row("after claim",    "window",       "refreshing 1, 1", 0, "token",   "active 2",        1, 0),
    Row("after claim",    "not rotating", "refreshing 1, 1", 0, "token",   "active 2",        1, 0),
    # The only copy of the new pair is lost: what helps is the bank's leniency, or the customer.
    Row("after send",     "strict",       "refreshing 1, 1", 1, "refused", "needs_consent 1", 2, 1),
    Row("after send",     "window",       "refreshing 1, 1", 1, "token",   "active 2",        2, 0),
    Row("after send",     "not rotating", "refreshing 1, 1", 1, "token",   "active 2",        2, 0),
    Row("after receive",  "strict",       "refreshing 1, 1", 1, "refused", "needs_consent 1", 2, 1),
    Row("after receive",  "window",       "refreshing 1, 1", 1, "token",   "active 2",        2, 0),
    Row("after receive",  "not rotating", "refreshing 1, 1", 1, "token",   "active 2",        2, 0),
    Row("during commit",  "strict",       "refreshing 1, 1", 1, "refused", "needs_consent 1", 2, 1),
    Row("during commit",  "window",       "refreshing 1, 1", 1, "token",   "active 2",        2, 0),
    Row("during commit",  "not rotating", "refreshing 1, 1", 1, "token",   "active 2",        2, 0),
    # What is committed is safe, whether or not anybody was there to hear of it.
    Row("commit goes on", "strict",       "active 2, 0",     1, "token",   "active 2",        1, 0),
    Row("commit goes on", "window",       "active 2, 0",     1, "token",   "active 2",        1, 0),
    Row("commit goes on", "not rotating", "active 2, 0",     1, "token",   "active 2",        1, 0),
    Row("after commit",   "strict",       "active 2, 0",     1, "token",   "active 2",        1, 0),
    Row("after commit",   "window",       "active 2, 0",     1, "token",   "active 2",        1, 0),
    Row("after commit",   "not rotating", "active 2, 0",     1, "token",   "active 2",        1, 0),
)
# fmt: on
ONLY_POSTGRESQL = {Step.COMMIT_GOES_ON}
"""An SQLite transaction dies with its process."""


@define(eq=False)
class Case:
    """One process to be killed, with a bank of its own, so that each bank's counts are its own."""

    sandbox: Sandbox
    step: Step
    bank: str
    key: GrantKey

    @property
    def grant(self) -> Grant:
        """Whose token it is about."""
        return self.key.grant

    @property
    def posts(self) -> list[Exchange]:
        """The refreshes that the bank has seen."""
        return [
            seen
            for seen in self.sandbox.exchanges
            if seen.target_id == self.grant.target_id
            and ("grant_type", "refresh_token") in seen.form
        ]

    def kill(self, worker: Worker, held: HeldBack | None) -> None:
        """See to it that the process dies at its step."""
        target_id = self.grant.target_id
        if self.step is Step.AFTER_SEND:
            wait_until(lambda: self.posts)
            worker.kill()
        elif held and self.step in (Step.DURING_COMMIT, Step.COMMIT_GOES_ON):
            backend = held.backend(target_id)
            worker.kill()
            if self.step is Step.DURING_COMMIT:
                held.give_up(target_id, backend)
            else:
                held.go_on(target_id, backend)
        assert worker.end() == -signal.SIGKILL

    def story(self, manager: TokenManager, store: SqlTokenStore) -> Row:
        """Let another process ask, and tell what happened."""
        left, posts = self.record(store), len(self.posts)
        next_one = self.ask(manager)
        then = self.record(store)
        if left.state is State.REFRESHING:
            over = left.updated_at.timestamp() + LEASE
            assert self.posts[-1].at >= over, "the lease was still running"
        return Row(
            step=self.step,
            bank=self.bank,
            left=f"{left.state} {left.generation}, {left.attempts}",
            posts=posts,
            next_one=next_one,
            then=f"{then.state} {then.generation}",
            posts_then=len(self.posts),
            reuses=self.sandbox.banks[self.grant.target_id].reuses,
        )

    def ask(self, manager: TokenManager) -> str:
        """Ask for the token, and see whether it is the one that the bank knows."""
        try:
            token = manager.get(self.grant)
        except BlinkError as error:
            return "refused" if error.needs_consent else type(error).__name__
        alive = self.sandbox.banks[self.grant.target_id].accepts
        assert token.refresh_token
        assert alive(token.access_token.reveal())
        assert alive(token.refresh_token.reveal())
        return "token"

    def record(self, store: SqlTokenStore) -> Record:
        """Return what the store knows."""
        record = store.load(self.key)
        assert record is not None
        return record


def policy(number: int, bank: str) -> BankPolicy:
    """Return the policy of a bank of the table."""
    return BankPolicy(
        f"IIDX{number:05}",
        f"Musterbank {number}",
        rotates=bank != "not rotating",
        replay_window=60.0 if bank == "window" else 0.0,
    )


def batches(cases: list[Case]) -> Iterator[list[Case]]:
    """Yield a few cases at a time: more would only wait for the processors, and not for long."""
    for first in range(0, len(cases), 4):
        yield cases[first : first + 4]


@contextmanager
def holding_back(url: str, cases: list[Case]) -> Iterator[HeldBack | None]:
    """Hold back the commits that are to be interrupted, where the server makes them."""
    place = make_url(url)
    if place.get_backend_name() != "postgresql":
        yield None
        return
    trapped = [
        case.grant.target_id
        for case in cases
        if case.step in (Step.DURING_COMMIT, Step.COMMIT_GOES_ON)
    ]
    with psycopg.connect(
        dbname=place.database, user=place.username, host=str(place.query["host"]), autocommit=True
    ) as connection:
        yield HeldBack.at(connection, trapped)


def test_what_a_killed_process_leaves_and_what_the_next_one_makes_of_it(database: str) -> None:
    sqlite = database.startswith("sqlite")
    table = [row for row in TABLE if not (sqlite and row.step in ONLY_POSTGRESQL)]
    banks = [policy(number, row.bank) for number, row in enumerate(table)]
    clock = ShiftedClock()
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox(banks=banks))
        place = Place.at(sandbox, database, total=TOTAL, lease=LEASE)
        grants = [sandbox.grant(bank.target_id) for bank in banks]
        cases = [
            Case(sandbox, Step(row.step), row.bank, GrantKey(place.client_id, grant))
            for row, grant in zip(table, grants, strict=True)
        ]
        store = place.store()
        manager = stack.enter_context(place.managing(clock, store=store))
        pool = stack.enter_context(ThreadPoolExecutor(len(cases)))
        list(pool.map(lambda case: authorize(manager, sandbox, case.grant), cases))
        clock.ahead = DAYS
        for case in cases:
            if case.step is Step.AFTER_SEND:
                sandbox.fail("silence-after", target_id=case.grant.target_id)
        held = stack.enter_context(holding_back(database, cases))
        stories = []
        for some in batches(cases):
            workers = [
                stack.enter_context(working(main, place, case.grant, case.step)) for case in some
            ]
            for case, worker in zip(some, workers, strict=True):
                case.kill(worker, held)
                stories.append(pool.submit(case.story, manager, store))
        assert [story.result() for story in stories] == table
