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

from .protocol import (
    Due,
    GrantKey,
    HistoryEntry,
    JournalEntry,
    Note,
    Origin,
    Record,
    Settlement,
    State,
    TokenStore,
)
from .rules import (
    bare,
    claimed,
    fingerprint,
    is_due,
    is_owned,
    is_pair,
    kept_once,
    newest_to_salvage,
    nothing_yet,
    renewed,
    revoked,
    same_second,
    urgency,
    utc,
)

__all__ = ["MemoryTokenStore", "Row"]

HISTORY_LENGTH = 20

Line = tuple[datetime, int, str | None, Note]
"""A line of the history: when, the generation, the id of the call, and the rest of the note."""


@define(eq=False, repr=False, weakref_slot=False)
class Row:
    """All that is known of a grant, in few bytes: there may be 100,000 of them.

    Attributes:
        record: The record, without lease and pause.
        lease_until: When the lease ends.
        pause_until: When the pause ends.
        journal: The journal, the oldest entry first.
        lines: The history but for the newest line, the oldest first.
        newest: What the newest line says, if the rest of it stands in the record.
    """

    record: Record | None = None
    lease_until: datetime | None = None
    pause_until: datetime | None = None
    journal: tuple[JournalEntry, ...] = ()
    lines: tuple[Line, ...] = ()
    newest: Note | None = None

    def read(self, now: datetime) -> Record | None:
        """Return the record, and what is left of lease and pause."""
        # Most grants are at rest, and all who read one share its record.
        if self.record is None or (self.lease_until is None and self.pause_until is None):
            return self.record
        return evolve(
            self.record,
            lease_left=_seconds_until(self.lease_until, now),
            pause_left=_seconds_until(self.pause_until, now),
        )

    def write(
        self,
        record: Record,
        now: datetime,
        *,
        lease_until: datetime | None = None,
        pause_until: datetime | None = None,
        note: Note | None = None,
    ) -> Record:
        """Replace the record, lease and pause, and return what can be read now."""
        self.lines, self.newest = self._all_lines()[-HISTORY_LENGTH:], None
        call = note.correlation_id if note else None
        known = call or record.correlation_id
        written = evolve(
            record,
            lease_left=0.0,
            pause_left=0.0,
            correlation_id=known,
            updated_at=same_second(now),
        )
        self.record, self.lease_until, self.pause_until = written, lease_until, pause_until
        if note and call:
            self.newest = kept_once(evolve(note, correlation_id=None))
        elif note:
            line = (now, record.generation, None, note)
            self.lines = (*self.lines[1 - HISTORY_LENGTH :], line)
        return self.read(now) or written

    def keep(
        self, record: Record, token: Token, origin: Origin, now: datetime, *, ahead: int = 0
    ) -> None:
        """Add a pair to the journal, under a generation so many ahead of the record's."""
        entry = JournalEntry(
            key=record.key,
            generation=record.generation + ahead,
            consent=record.consent,
            origin=origin,
            token=bare(token),
            at=now,
        )
        self.journal = (*self.journal, entry)

    def holds(self, token: Token) -> bool:
        """Say whether a pair is in the journal."""
        return any(is_pair(entry.token, token) for entry in self.journal)

    def history(self) -> list[HistoryEntry]:
        """Return the lines of the history, the newest first."""
        return [
            HistoryEntry(at=at, generation=generation, note=evolve(rest, correlation_id=call))
            for at, generation, call, rest in self._all_lines()[: -HISTORY_LENGTH - 1 : -1]
        ]

    def forget(self, journal_before: datetime, history_before: datetime) -> int:
        """Drop what is older, and say how many entries that were."""
        journal = tuple(entry for entry in self.journal if entry.at >= journal_before)
        lines = self._all_lines()
        young = tuple(line for line in lines if line[0] >= history_before)
        forgotten = len(self.journal) - len(journal) + len(lines) - len(young)
        if forgotten:
            self.journal, self.lines, self.newest = journal, young, None
        return forgotten

    def _all_lines(self) -> tuple[Line, ...]:
        record = self.record
        if record is None or self.newest is None:
            return self.lines
        line = (record.updated_at, record.generation, record.correlation_id, self.newest)
        return (*self.lines, line)


def _seconds_until(moment: datetime | None, now: datetime) -> float:
    return 0.0 if moment is None else max((moment - now) / timedelta(seconds=1), 0.0)


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
            entry = newest_to_salvage(row.journal, record)
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
