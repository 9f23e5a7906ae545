"""Tokens kept in the memory of one process."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from heapq import nsmallest
from itertools import islice
from typing import NoReturn

from attrs import Factory, define, evolve, field

from blink_oauth.tokens import Token
from blink_oauth_keeper.errors import StoreError

from ._row import Row
from .protocol import TokenStore
from .records import (
    Due,
    GrantKey,
    HistoryEntry,
    JournalEntry,
    Note,
    Origin,
    Record,
    Settlement,
    State,
)
from .rules import (
    claimed,
    fingerprint,
    is_due,
    is_owned,
    is_pair,
    nothing_yet,
    renewed,
    revoked,
    urgency,
    utc,
)

__all__ = ["MemoryTokenStore"]


def _utc_now() -> datetime:
    return datetime.now(UTC)


@define(eq=False, repr=False, kw_only=True)
class MemoryTokenStore(TokenStore):
    """Keep tokens in the memory of this process: for tests, and where one process is all there is.

    They end with the process. A forked child must not go on with its parent's: both would spend the
    same refresh token, so there every method raises `StoreError`. `SqlTokenStore` serves many
    processes. Of the history, the newest 20 entries of a grant are kept.

    Args:
        clock: Returns the present moment, aware. Leases and pauses run by it.
        journal_retention: The age at which `purge` deletes journal entries.
        history_retention: The age at which `purge` deletes history entries.
        rows: Where the rows are kept: for tests, which look at them and spoil them.
    """

    _clock: Callable[[], datetime] = _utc_now
    _journal_retention: timedelta = timedelta(days=7)
    _history_retention: timedelta = timedelta(days=400)
    _rows: dict[GrantKey, Row] = field(factory=dict)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)
    _key: bytes = field(init=False, default=Factory(lambda: secrets.token_bytes(32)))
    _process: int = field(init=False, factory=os.getpid)

    def __reduce__(self) -> NoReturn:
        raise TypeError("A MemoryTokenStore stays in its process. Use SqlTokenStore for several.")

    def load(self, key: GrantKey) -> Record | None:
        with self._access():
            return self._rows.get(key, Row()).read(self._now())

    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        with self._access():
            row, now = self._rows.get(seen.key, Row()), self._now()
            record = row.read(now)
            claim = claimed(record, seen, owner) if record else None
            return claim and row.write(claim, now, lease_until=now + timedelta(seconds=ttl))

    def claim_due(self, due: Due, *, owner: str, ttl: float, limit: int) -> list[Record]:
        in_turn = sorted(self._due(due), key=urgency)
        claims = (self.claim(record, owner=owner, ttl=ttl) for record in in_turn)
        return list(islice(filter(None, claims), limit))

    def settle(
        self,
        claim: Record,
        token: Token,
        *,
        issued_at: datetime,
        idle_until: datetime | None,
        note: Note,
        state: State = State.ACTIVE,
    ) -> Settlement:
        with self._access():
            row, now = self._rows.setdefault(claim.key, Row()), self._now()
            record = row.read(now)
            if record and record.generation == claim.generation:
                pair = renewed(
                    record, token, issued_at=issued_at, idle_until=idle_until, state=state
                )
                return Settlement(stored=True, record=row.write(pair, now, note=note))
            stored = record is not None and is_pair(record.token, token)
            if not stored and not row.holds(token):
                row.keep(claim, token, Origin.SUPERSEDED, now, ahead=1)
            return Settlement(stored=stored, record=record)

    def release(
        self,
        claim: Record,
        *,
        state: State,
        attempts: int,
        pause: float,
        error: str | None,
        note: Note,
    ) -> bool:
        with self._access():
            row, now = self._rows.get(claim.key, Row()), self._now()
            if row.record is None or not is_owned(row.record, claim):
                return False
            until = now + timedelta(seconds=pause) if pause > 0 else None
            after = evolve(row.record, state=state, attempts=attempts, error=error)
            row.write(after, now, pause_until=until, note=note)
            return True

    def put(
        self,
        key: GrantKey,
        token: Token,
        *,
        issued_at: datetime,
        idle_until: datetime | None,
        note: Note,
    ) -> Record:
        with self._access():
            row, now = self._rows.setdefault(key, Row()), self._now()
            record = row.read(now) or nothing_yet(key, now)
            if is_pair(record.token, token):
                return record
            pair = renewed(record, token, issued_at=issued_at, idle_until=idle_until)
            if record.token:
                row.keep(record, record.token, Origin.REPLACED, now)
            return row.write(evolve(pair, consent=record.consent + 1), now, note=note)

    def revoke(self, key: GrantKey, *, note: Note) -> Record | None:
        with self._access():
            row, now = self._rows.get(key, Row()), self._now()
            if row.record is None or row.record.state is State.REVOKED:
                return row.record
            return row.write(revoked(row.record), now, note=note)

    def erase(self, record: Record) -> bool:
        with self._access():
            row = self._rows.get(record.key, Row())
            known = row.record
            if known is None or known.state is not State.REVOKED:
                return False
            if known.generation != record.generation:
                return False
            row.journal = ()
            row.write(evolve(known, token=None), self._now())
            return True

    def journal(self, record: Record, token: Token, *, origin: Origin) -> None:
        with self._access():
            row = self._rows.setdefault(record.key, Row())
            if not row.holds(token):
                row.keep(record, token, origin, self._now(), ahead=1)

    def journal_entries(self, key: GrantKey) -> Sequence[JournalEntry]:
        with self._access():
            return self._rows.get(key, Row()).journal[::-1]

    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        with self._access():
            row, now = self._rows.get(claim.key, Row()), self._now()
            record = row.record
            if record is None or record.token is None or not is_owned(record, claim):
                return None
            entry = row.newest_to_salvage(record)
            if entry is None:
                return None
            row.journal = tuple(other for other in row.journal if other is not entry)
            row.keep(record, record.token, Origin.REFUSED, now)
            pair = renewed(record, entry.token, issued_at=entry.at, idle_until=record.idle_until)
            again = evolve(pair, state=State.REFRESHING, attempts=1, owner=record.owner)
            return row.write(again, now, lease_until=row.lease_until, note=note)

    def due(self, due: Due, *, limit: int) -> Sequence[Record]:
        return nsmallest(limit, self._due(due), key=urgency)

    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        def place(key: GrantKey) -> tuple[str, str]:
            return (key.grant.target_id, key.grant.username)

        found = [record for record in self._all() if record.key.client_id == client_id]
        if after is not None:
            found = [record for record in found if place(record.key) > place(after)]
        return nsmallest(limit, found, key=lambda record: place(record.key))

    def history(self, key: GrantKey, *, limit: int = 100) -> Sequence[HistoryEntry]:
        with self._access():
            return self._rows.get(key, Row()).history()[:limit]

    def purge(self) -> int:
        with self._access():
            now = self._now()
            journal, history = now - self._journal_retention, now - self._history_retention
            return sum(row.forget(journal, history) for row in self._rows.values())

    def fingerprint(self, text: str) -> str:
        with self._access():
            return fingerprint(self._key, text)

    def close(self) -> None:
        """Do nothing: the store has opened nothing, and keeps what it holds."""

    def _access(self) -> threading.Lock:
        # Asked before the lock, which another thread may have held at the moment of the fork.
        if os.getpid() != self._process:
            raise StoreError(
                "A MemoryTokenStore cannot be used after a fork: the parent goes on with the same "
                "refresh tokens. Nothing was changed. Use SqlTokenStore for several processes.",
                retryable=False,
            )
        return self._lock

    def _now(self) -> datetime:
        return utc(self._clock())

    def _all(self) -> list[Record]:
        with self._access():
            now = self._now()
            return [record for row in self._rows.values() if (record := row.read(now))]

    def _due(self, due: Due) -> list[Record]:
        return [record for record in self._all() if is_due(record, due)]
