"""What all tests of the contract use: hooks, a clock, fake pairs and threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TypeVar
from uuid import uuid4

from attrs import evolve

from blink_oauth.context import Grant
from blink_oauth.headers import ResponseMeta, Source
from blink_oauth.tokens import Token
from blink_oauth_keeper.store.protocol import (
    LONGEST_LEASE,
    DueQuery,
    GrantKey,
    JournalEntry,
    Note,
    Record,
    Settlement,
    State,
    TokenStore,
)

__all__ = [
    "CLIENT",
    "ISSUED",
    "KEY",
    "META",
    "Harness",
    "ManualClock",
    "access_tokens",
    "days",
    "due",
    "entry_values",
    "grant_key",
    "is_utc",
    "note",
    "pair",
    "run_concurrently",
    "untimed",
]

T = TypeVar("T")

CLIENT = "CIDX0000000002"
TARGET = "IIDX99999"
BEARER = "bearer"
META = ResponseMeta(
    status=200,
    correlation_id="call-1",
    echoed=True,
    source=Source.PROVIDER,
    language=None,
    caching_forbidden=True,
    retry_after=None,
)
ISSUED = datetime(2030, 5, 17, 9, 30, 0, 123456, tzinfo=UTC)


class ManualClock:
    """A clock that a test advances.

    Args:
        start: The time that it returns at first, timezone-aware.
    """

    def __init__(self, start: datetime = ISSUED) -> None:
        self._now = start

    def __call__(self) -> datetime:
        """Return the current time."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Advance the clock by this number of seconds."""
        self._now += timedelta(seconds=seconds)


def grant_key(username: str = "customer", target: str = TARGET, client: str = CLIENT) -> GrantKey:
    """Return the key of a record."""
    return GrantKey(client, Grant(target, username))


KEY = grant_key()


def pair(name: str) -> Token:
    """Return a pair of fake tokens that contain a name."""
    return Token(
        access_token=f"fake-access-token-{name}",
        refresh_token=f"fake-refresh-token-{name}",
        token_type=BEARER,
        expires_at=ISSUED + days(1),
        scope=frozenset({"accounts", "payments"}),
    )


def note(event: str = "changed", correlation_id: str | None = None) -> Note:
    """Return a note for the history."""
    return Note(event=event, correlation_id=correlation_id)


def is_utc(time: datetime) -> bool:
    """Return whether a time is timezone-aware and in UTC."""
    return time.utcoffset() == timedelta(0)


def days(count: float) -> timedelta:
    """Return this number of days."""
    return timedelta(days=count)


def due(
    within: float = 10,
    *,
    client: str = CLIENT,
    attempts: int = 0,
    targets: Collection[str] | None = None,
    except_targets: Collection[str] = (),
) -> DueQuery:
    """Return a `DueQuery` for records whose refresh tokens expire unused within some days."""
    return DueQuery(
        client_id=client,
        before=ISSUED + days(within),
        max_attempts=attempts,
        targets=targets,
        except_targets=except_targets,
    )


def run_concurrently(count: int, work: Callable[[int], T]) -> list[T]:
    """Call a function in several threads that start at the same time; return the results.

    Args:
        count: The number of threads.
        work: The function. It gets the number of its thread, from 0.
    """
    barrier = threading.Barrier(count, timeout=60)

    def run(number: int) -> T:
        barrier.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


def untimed(record: Record | None) -> Record:
    """Return a record without the seconds left of lease and pause, which change at each read."""
    assert record is not None
    return evolve(record, lease_left=0.0, pause_left=0.0)


def access_tokens(tokens: list[Token]) -> list[str]:
    """Return the access tokens of pairs, to compare the pairs by."""
    return [token.access_token.reveal() for token in tokens]


def entry_values(entries: list[JournalEntry]) -> list[tuple[str, Token, int, int]]:
    """Return origin, pair, generation and consent of each journal entry."""
    return [(entry.origin, entry.token, entry.generation, entry.consent) for entry in entries]


class Harness:
    """The hooks of the contract, and shorthands for the methods of a store."""

    journal_retention: timedelta = timedelta(days=7)
    """The age at which the store's `purge` deletes journal entries."""
    history_retention: timedelta = timedelta(days=400)
    """The age at which the store's `purge` deletes history entries."""

    def make_store(self, clock: ManualClock) -> TokenStore:
        """Return a new empty store. Every test calls it once.

        Args:
            clock: The clock that the store has to use.
        """
        raise NotImplementedError("Override make_store, and return your store.")

    def reopen(self, store: TokenStore) -> TokenStore:
        """Return a second store on the same data, as another process would open it.

        Override it if that is possible: each store has to see the changes of the other.

        Args:
            store: What `make_store` returned.
        """
        return store

    def let_pass(self, seconds: float) -> None:
        """Let time pass for the store.

        If the store uses the clock of a database, which cannot be advanced, override this and
        subtract `seconds` from all times that it stored by that clock: the ends of leases and
        pauses, `updated_at`, the times when notices are due, and `at` in journal, history and
        notices.

        Args:
            seconds: The seconds to let pass.
        """
        self.clock.advance(seconds)

    @cached_property
    def clock(self) -> ManualClock:
        """The clock of this test."""
        return ManualClock()

    @cached_property
    def store(self) -> TokenStore:
        """The store of this test."""
        return self.make_store(self.clock)

    @cached_property
    def second(self) -> TokenStore:
        """The second store on the data of this test."""
        return self.reopen(self.store)

    def run_concurrently(self, count: int, work: Callable[[int], T]) -> list[T]:
        """Call a function in several threads that start at the same time; return the results."""
        # Opened before the threads start: otherwise each of them may open a store.
        assert self.store is not None
        return run_concurrently(count, work)

    def teardown_method(self) -> None:
        """Close the stores of a test. The test runner calls it."""
        opened = [vars(self)[name] for name in ("second", "store") if name in vars(self)]
        for store in dict.fromkeys(opened):
            store.close()

    def put(self, name: str, key: GrantKey = KEY, *, idle: float = 30) -> Record:
        """Store the pair of a new consent.

        Args:
            name: The name in the tokens of the pair.
            key: The key of the record.
            idle: The days after which the refresh token expires unused.
        """
        return self.store.put(
            key, pair(name), issued_at=ISSUED, idle_until=ISSUED + days(idle), note=note()
        )

    def read(self, key: GrantKey = KEY) -> Record:
        """Return the record as the second store reads it."""
        record = self.second.load(key)
        assert record is not None, f"{key} is not stored, or the second store cannot read it"
        return record

    def claim(self, record: Record | None = None, *, ttl: float = LONGEST_LEASE) -> Record:
        """Claim a record; fail the test if that is not possible."""
        claim = self.store.claim(record or self.read(), owner=uuid4().hex, ttl=ttl)
        assert claim is not None, "the claim failed"
        return claim

    def claim_fails(self, record: Record) -> bool:
        """Return whether a claim fails and changes nothing."""
        before = self.second.load(record.key)
        if self.store.claim(record, owner=uuid4().hex, ttl=LONGEST_LEASE) is not None:
            return False
        after = self.second.load(record.key)
        return (before is None and after is None) or untimed(before) == untimed(after)

    def settle(
        self, claim: Record, name: str, *, state: State = State.ACTIVE, event: str = "changed"
    ) -> Settlement:
        """Settle the pair of this name."""
        issued, until = ISSUED + days(1), ISSUED + days(31)
        return self.store.settle(
            claim, pair(name), issued_at=issued, idle_until=until, note=note(event), state=state
        )

    def erase(self, record: Record, *, note: Note) -> bool:
        """Erase a revoked grant with the journal entries of its consents."""
        entries = self.store.journal_entries(record.key)
        journaled = [entry.token for entry in entries if entry.consent <= record.consent]
        return self.store.erase(record, journaled=journaled, note=note)

    def release(
        self,
        claim: Record,
        state: State = State.UNCERTAIN,
        *,
        attempts: int = 1,
        pause: float = 0.0,
        error: str | None = "TimedOutError",
    ) -> bool:
        """Release a lease."""
        return self.store.release(
            claim, state=state, attempts=attempts, pause=pause, error=error, note=note("released")
        )

    def journal(self, key: GrantKey = KEY) -> list[JournalEntry]:
        """Return the journal entries as the second store reads them, the newest first."""
        return list(self.second.journal_entries(key))

    def events(self, key: GrantKey = KEY) -> list[str]:
        """Return the events of the history as the second store reads them, the newest first."""
        return [entry.note.event for entry in self.second.history(key)]
