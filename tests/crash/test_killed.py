"""What a killed process leaves in the store, and what the next process does then."""

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
from crash.blocked_commits import BlockedCommits
from crash.killed_process import Step, main
from storm.callers import wait_until
from storm.processes import Worker, running_process
from storm.shared_config import TWO_DAYS, SharedConfig, ShiftedClock, authorize

TOTAL, LEASE = 4.0, 5.0
"""Seconds; the leases of all cases run at the same time."""
MOMENT = 0.5
"""Seconds between the call of a store and its effect, on a busy machine."""


@frozen
class Row:
    """What a killed process leaves, and what the next process does then.

    Attributes:
        step: The step at which the process was killed.
        bank: How the bank treats refresh tokens.
        record: The record that it left: state, generation, attempts.
        requests: Number of refresh requests that the bank has received by then.
        next_result: What the next process gets: `token`, or `refused` if the bank ends the consent.
        next_record: The record afterwards: state and generation.
        next_requests: Number of refresh requests that the bank has received by then.
        reuses: How often the bank detected the reuse of a refresh token.
    """

    step: str
    bank: str
    record: str
    requests: int
    next_result: str
    next_record: str
    next_requests: int
    reuses: int


# fmt: off
TABLE = (
    Row("before claim",   "strict",       "active 1, 0",     0, "token",   "active 2",        1, 0),
    Row("before claim",   "window",       "active 1, 0",     0, "token",   "active 2",        1, 0),
    Row("before claim",   "non-rotating", "active 1, 0",     0, "token",   "active 2",        1, 0),
    # The next process cannot know that nothing was sent, so it waits for the end of the lease.
    Row("after claim",    "strict",       "refreshing 1, 1", 0, "token",   "active 2",        1, 0),
    Row("after claim",    "window",       "refreshing 1, 1", 0, "token",   "active 2",        1, 0),
    Row("after claim",    "non-rotating", "refreshing 1, 1", 0, "token",   "active 2",        1, 0),
    # The only copy of the new pair is lost: the bank accepts a replay, or consent is needed.
    Row("after send",     "strict",       "refreshing 1, 1", 1, "refused", "needs_consent 1", 2, 1),
    Row("after send",     "window",       "refreshing 1, 1", 1, "token",   "active 2",        2, 0),
    Row("after send",     "non-rotating", "refreshing 1, 1", 1, "token",   "active 2",        2, 0),
    Row("after receive",  "strict",       "refreshing 1, 1", 1, "refused", "needs_consent 1", 2, 1),
    Row("after receive",  "window",       "refreshing 1, 1", 1, "token",   "active 2",        2, 0),
    Row("after receive",  "non-rotating", "refreshing 1, 1", 1, "token",   "active 2",        2, 0),
    Row("during commit",  "strict",       "refreshing 1, 1", 1, "refused", "needs_consent 1", 2, 1),
    Row("during commit",  "window",       "refreshing 1, 1", 1, "token",   "active 2",        2, 0),
    Row("during commit",  "non-rotating", "refreshing 1, 1", 1, "token",   "active 2",        2, 0),
    # A committed pair is safe, whether or not the process has received the reply.
    Row("server commits", "strict",       "active 2, 0",     1, "token",   "active 2",        1, 0),
    Row("server commits", "window",       "active 2, 0",     1, "token",   "active 2",        1, 0),
    Row("server commits", "non-rotating", "active 2, 0",     1, "token",   "active 2",        1, 0),
    Row("after commit",   "strict",       "active 2, 0",     1, "token",   "active 2",        1, 0),
    Row("after commit",   "window",       "active 2, 0",     1, "token",   "active 2",        1, 0),
    Row("after commit",   "non-rotating", "active 2, 0",     1, "token",   "active 2",        1, 0),
)
# fmt: on
ONLY_POSTGRESQL = {Step.SERVER_COMMITS}
"""An SQLite transaction is rolled back when its process is killed."""


@define(eq=False)
class Case:
    """One process to be killed, with a bank of its own, whose counts no other process changes."""

    sandbox: Sandbox
    step: Step
    bank: str
    key: GrantKey

    @property
    def grant(self) -> Grant:
        """The grant of the token."""
        return self.key.grant

    @property
    def requests(self) -> list[Exchange]:
        """The refresh requests that the bank has received."""
        return [
            seen
            for seen in self.sandbox.exchanges
            if seen.target_id == self.grant.target_id
            and ("grant_type", "refresh_token") in seen.form
        ]

    def kill(self, worker: Worker, blocked: BlockedCommits | None) -> None:
        """Wait until the process is killed at its step, or kill it there."""
        target_id = self.grant.target_id
        if self.step is Step.AFTER_SEND:
            wait_until(lambda: self.requests)
            worker.kill()
        elif blocked and self.step in (Step.DURING_COMMIT, Step.SERVER_COMMITS):
            backend = blocked.backend(target_id)
            worker.kill()
            if self.step is Step.DURING_COMMIT:
                blocked.roll_back(target_id, backend)
            else:
                blocked.commit(target_id, backend)
        assert worker.join() == -signal.SIGKILL

    def observe(self, manager: TokenManager, store: SqlTokenStore) -> Row:
        """Ask for the token as the next process, and return what happened."""
        record, requests = self.record(store), len(self.requests)
        next_result = self.ask(manager)
        next_record = self.record(store)
        if record.state is State.REFRESHING:
            # A lease in a file runs from the call of `claim`, a moment before the row is written.
            lease_end = record.updated_at.timestamp() + LEASE - MOMENT
            assert self.requests[-1].at >= lease_end, "the lease was still running"
        return Row(
            step=self.step,
            bank=self.bank,
            record=f"{record.state} {record.generation}, {record.attempts}",
            requests=requests,
            next_result=next_result,
            next_record=f"{next_record.state} {next_record.generation}",
            next_requests=len(self.requests),
            reuses=self.sandbox.banks[self.grant.target_id].reuses,
        )

    def ask(self, manager: TokenManager) -> str:
        """Ask for the token, and check that the bank accepts its pair."""
        try:
            token = manager.get(self.grant)
        except BlinkError as error:
            return "refused" if error.needs_consent else type(error).__name__
        accepts = self.sandbox.banks[self.grant.target_id].accepts
        assert token.refresh_token
        assert accepts(token.access_token.reveal())
        assert accepts(token.refresh_token.reveal())
        return "token"

    def record(self, store: SqlTokenStore) -> Record:
        """Return the stored record."""
        record = store.load(self.key)
        assert record is not None
        return record


def policy(number: int, bank: str) -> BankPolicy:
    """Return the policy of a bank of the table."""
    return BankPolicy(
        f"IIDX{number:05}",
        f"Musterbank {number}",
        rotates=bank != "non-rotating",
        replay_window=60.0 if bank == "window" else 0.0,
    )


def batches(cases: list[Case]) -> Iterator[list[Case]]:
    """Yield four cases at a time; more would wait for the processors."""
    for first in range(0, len(cases), 4):
        yield cases[first : first + 4]


@contextmanager
def blocked_commits(url: str, cases: list[Case]) -> Iterator[BlockedCommits | None]:
    """Block the commits that are to be interrupted, on PostgreSQL."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "postgresql":
        yield None
        return
    targets = [
        case.grant.target_id
        for case in cases
        if case.step in (Step.DURING_COMMIT, Step.SERVER_COMMITS)
    ]
    with psycopg.connect(
        dbname=parsed.database,
        user=parsed.username,
        host=str(parsed.query["host"]),
        autocommit=True,
    ) as connection:
        yield BlockedCommits.at(connection, targets)


def test_the_next_process_continues_from_what_a_killed_process_leaves(database: str) -> None:
    sqlite = database.startswith("sqlite")
    table = [row for row in TABLE if not (sqlite and row.step in ONLY_POSTGRESQL)]
    banks = [policy(number, row.bank) for number, row in enumerate(table)]
    clock = ShiftedClock()
    with ExitStack() as stack:
        sandbox = stack.enter_context(Sandbox(banks=banks))
        config = SharedConfig.for_sandbox(sandbox, database, total=TOTAL, lease=LEASE)
        grants = [sandbox.grant(bank.target_id) for bank in banks]
        cases = [
            Case(sandbox, Step(row.step), row.bank, GrantKey(config.client_id, grant))
            for row, grant in zip(table, grants, strict=True)
        ]
        store = config.store()
        manager = stack.enter_context(config.manager(clock, store=store))
        pool = stack.enter_context(ThreadPoolExecutor(len(cases)))
        list(pool.map(lambda case: authorize(manager, sandbox, case.grant), cases))
        clock.ahead = TWO_DAYS
        for case in cases:
            if case.step is Step.AFTER_SEND:
                sandbox.fail("silence-after", target_id=case.grant.target_id)
        blocked = stack.enter_context(blocked_commits(database, cases))
        observations = []
        for batch in batches(cases):
            workers = [
                stack.enter_context(running_process(main, config, case.grant, case.step))
                for case in batch
            ]
            for case, worker in zip(batch, workers, strict=True):
                case.kill(worker, blocked)
                observations.append(pool.submit(case.observe, manager, store))
        assert [observation.result() for observation in observations] == table
