"""What every test of the contract starts from: a store, a clock, fake pairs, many threads."""

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
from blink_oauth.tokens import Token
from blink_oauth_keeper.store.protocol import (
    Due,
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
    "Clock",
    "Harness",
    "at_once",
    "at_rest",
    "days",
    "due",
    "grant_key",
    "is_utc",
    "note",
    "origins",
    "pair",
    "texts",
]

T = TypeVar("T")

CLIENT = "CIDX0000000002"
TARGET = "IIDX99999"
BEARER = "bearer"
ISSUED = datetime(2030, 5, 17, 9, 30, 0, 123456, tzinfo=UTC)


class Clock:
    """A clock that stands still until it is told to move on.

    Args:
        start: What it shows at first, aware.
    """

    def __init__(self, start: datetime = ISSUED) -> None:
        self._now = start

    def __call__(self) -> datetime:
        """Return the present moment."""
        return self._now

    def advance(self, seconds: float) -> None:
        """Move on by so many seconds."""
        self._now += timedelta(seconds=seconds)


def grant_key(username: str = "customer", target: str = TARGET, client: str = CLIENT) -> GrantKey:
    """Return whose token it is."""
    return GrantKey(client, Grant(target, username))


KEY = grant_key()


def pair(name: str) -> Token:
    """Return a pair of fake tokens that can be told from others by its name."""
    return Token(
        access_token=f"fake-access-token-{name}",
        refresh_token=f"fake-refresh-token-{name}",
        token_type=BEARER,
        expires_at=ISSUED + days(1),
        scope=frozenset({"accounts", "payments"}),
    )


def note(event: str = "changed", correlation_id: str | None = None) -> Note:
    """Return what the history is to say."""
    return Note(event=event, correlation_id=correlation_id)


def is_utc(moment: datetime) -> bool:
    """Say whether a moment is aware, and in UTC."""
    return moment.utcoffset() == timedelta(0)


def days(count: float) -> timedelta:
    """Return so many days."""
    return timedelta(days=count)


def due(
    within: float = 10,
    *,
    client: str = CLIENT,
    attempts: int = 0,
    targets: Collection[str] | None = None,
    except_targets: Collection[str] = (),
) -> Due:
    """Return what is due within so many days."""
    return Due(
        client_id=client,
        before=ISSUED + days(within),
        max_attempts=attempts,
        targets=targets,
        except_targets=except_targets,
    )


def at_once(count: int, work: Callable[[int], T]) -> list[T]:
    """Do something in many threads, all of which start at the same moment."""
    start = threading.Barrier(count, timeout=60)

    def one(number: int) -> T:
        start.wait()
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(one, range(count)))


def at_rest(record: Record | None) -> Record:
    """Return a record without what changes from one reading to the next."""
    assert record is not None
    return evolve(record, lease_left=0.0, pause_left=0.0)


def texts(tokens: list[Token]) -> list[str]:
    """Return the access tokens, to compare pairs by."""
    return [token.access_token.reveal() for token in tokens]


def origins(entries: list[JournalEntry]) -> list[tuple[str, Token, int, int]]:
    """Return what the journal says of each pair: why, which, and its generation and consent."""
    return [(entry.origin, entry.token, entry.generation, entry.consent) for entry in entries]


class Harness:
    """The hooks of the contract, and the usual steps in a store."""

    journal_retention: timedelta = timedelta(days=7)
    """How long the store keeps journal entries."""
    history_retention: timedelta = timedelta(days=400)
    """How long the store keeps history entries."""

    def make_store(self, clock: Clock) -> TokenStore:
        """Return a new empty store. Every test calls it once.

        Args:
            clock: The clock that the store is to run by.
        """
        raise NotImplementedError("Override make_store, and return your store.")

    def reopen(self, store: TokenStore) -> TokenStore:
        """Return a second store upon the same data, as another process would open it.

        Override it wherever that is possible: what one has written, the other must see.

        Args:
            store: What `make_store` returned.
        """
        return store

    def let_pass(self, seconds: float) -> None:
        """Let time pass for the store.

        If its clock is a database's and cannot be advanced, override this, and date back all that
        it has dated by that clock, by so many seconds: ends of leases and pauses, `updated_at`, and
        `at` in journal and history.

        Args:
            seconds: How many.
        """
        self.clock.advance(seconds)

    @cached_property
    def clock(self) -> Clock:
        """The clock of this test."""
        return Clock()

    @cached_property
    def store(self) -> TokenStore:
        """The store of this test."""
        return self.make_store(self.clock)

    @cached_property
    def second(self) -> TokenStore:
        """The same data, seen from elsewhere."""
        return self.reopen(self.store)

    def at_once(self, count: int, work: Callable[[int], T]) -> list[T]:
        """Do something in many threads, all of which start at the same moment."""
        # Opened here: of many threads that are the first to ask, each would open a store.
        assert self.store is not None
        return at_once(count, work)

    def teardown_method(self) -> None:
        """Close what a test has opened. The runner of the tests calls it."""
        opened = [vars(self)[name] for name in ("second", "store") if name in vars(self)]
        for store in dict.fromkeys(opened):
            store.close()

    def put(self, name: str, key: GrantKey = KEY, *, idle: float = 30) -> Record:
        """Store a pair of a new consent, with a refresh token that lives so many days unused."""
        return self.store.put(
            key, pair(name), issued_at=ISSUED, idle_until=ISSUED + days(idle), note=note()
        )

    def seen(self, key: GrantKey = KEY) -> Record:
        """Return the record as it is seen from elsewhere."""
        record = self.second.load(key)
        assert record is not None, f"{key} is not stored, or not visible to others"
        return record

    def claim(self, record: Record | None = None, *, ttl: float = 1000) -> Record:
        """Take the lease, which must be possible."""
        claim = self.store.claim(record or self.seen(), owner=uuid4().hex, ttl=ttl)
        assert claim is not None, "the claim should have been won"
        return claim

    def loses(self, record: Record) -> bool:
        """Say whether the lease cannot be taken, and that the attempt changes nothing."""
        before = self.second.load(record.key)
        if self.store.claim(record, owner=uuid4().hex, ttl=1000) is not None:
            return False
        after = self.second.load(record.key)
        return (before is None and after is None) or at_rest(before) == at_rest(after)

    def settle(
        self, claim: Record, name: str, *, state: State = State.ACTIVE, event: str = "changed"
    ) -> Settlement:
        """Bring a pair home."""
        issued, until = ISSUED + days(1), ISSUED + days(31)
        return self.store.settle(
            claim, pair(name), issued_at=issued, idle_until=until, note=note(event), state=state
        )

    def release(
        self,
        claim: Record,
        state: State = State.UNCERTAIN,
        *,
        attempts: int = 1,
        pause: float = 0.0,
        error: str | None = "TimedOutError",
    ) -> bool:
        """Give a lease back."""
        return self.store.release(
            claim, state=state, attempts=attempts, pause=pause, error=error, note=note("released")
        )

    def journal(self, key: GrantKey = KEY) -> list[JournalEntry]:
        """Return the journal as it is seen from elsewhere."""
        return list(self.second.journal_entries(key))

    def events(self, key: GrantKey = KEY) -> list[str]:
        """Return the events of the history, the newest first, as they are seen from elsewhere."""
        return [entry.note.event for entry in self.second.history(key)]
