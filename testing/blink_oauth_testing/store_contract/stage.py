"""What every test of the contract starts from: a store, and the usual steps in it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import cached_property
from uuid import uuid4

from blink_oauth_keeper.store.protocol import TokenStore
from blink_oauth_keeper.store.records import GrantKey, JournalEntry, Record, Settlement, State

from .material import ISSUED, KEY, Clock, T, at_once, at_rest, days, note, pair

__all__ = ["Stage"]


class Stage:
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
