"""A token store in the memory of one process."""

from __future__ import annotations

import os
import secrets
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from heapq import nsmallest
from itertools import islice, takewhile
from typing import NoReturn
from uuid import uuid4

from attrs import Factory, define, evolve, field, frozen

from blink_oauth.context import Grant
from blink_oauth.tokens import Token
from blink_oauth_keeper.clocks import Moment, aware, monotonic, never_back, utc_now
from blink_oauth_keeper.errors import StoreError

from .due_index import DueIndex
from .outbox import NewNotice, Notice, NoticeKind, OutboxEntry, next_notice
from .protocol import (
    DueQuery,
    GrantKey,
    HistoryEntry,
    JournalEntry,
    Note,
    Origin,
    Record,
    Settlement,
    State,
    TokenStore,
    is_revoked,
    notable_oddities,
)
from .rules import (
    claimed,
    empty_record,
    erased,
    fingerprint,
    forgotten,
    interned,
    is_among,
    is_due,
    is_journaled,
    is_latest_claim,
    is_same_pair,
    is_unchanged,
    late_origin,
    newest_salvageable,
    pseudonym,
    renewed,
    require_retentions,
    revoked,
    to_second,
    utc,
    without_metadata,
    written_back,
)

__all__ = ["MemoryTokenStore", "NoticeName", "StoredGrant", "StoredNotice"]

HISTORY_LENGTH = 20
PURGE_BATCH = 500
PURGE_PAUSE = 0.001
"""Seconds between two batches of `purge`; without them, other threads would hardly get the lock."""

Subject = GrantKey | tuple[str, str]
"""The grant of a notice, or the client and the hash of the certificate."""
NoticeName = tuple[Subject, NoticeKind, int]
"""What a notice is unique by: its subject, kind and generation."""

CompactEntry = tuple[datetime, int, str | None, Note]
"""A history entry: its time, generation, correlation id, and the note without that id."""


@frozen(repr=False, weakref_slot=False)
class Extras:
    """What a grant has besides its record. Most grants have the same, and share it.

    Attributes:
        lease_until: When the lease ends, in seconds of the store's monotonic clock.
        pause_until: When the pause ends, in seconds of the same clock.
        journal: The journal, the oldest entry first.
        older_entries: The history without the entry of `newest_note`, the oldest entry first.
        newest_note: The note of the newest entry, if the record has the rest of that entry.
    """

    lease_until: float | None = None
    pause_until: float | None = None
    journal: tuple[JournalEntry, ...] = ()
    older_entries: tuple[CompactEntry, ...] = ()
    newest_note: Note | None = None

    @property
    def until(self) -> float | None:
        """When lease and pause have ended, None without either."""
        ends = [end for end in (self.lease_until, self.pause_until) if end is not None]
        return max(ends, default=None)


NO_EXTRAS = Extras()


@define(eq=False, repr=False, weakref_slot=False)
class StoredGrant:
    """The record, journal and history of a grant, in few bytes: a store may have 100,000 of them.

    Attributes:
        record: The record, without lease and pause.
        extras: Lease, pause, journal and history.
    """

    record: Record | None = None
    extras: Extras = NO_EXTRAS

    def read(self, now: Moment) -> Record | None:
        """Return the record with the seconds left of lease and pause."""
        # Most grants have neither, and all their readers share one record.
        if self.record is None or self.extras.until is None:
            return self.record
        return evolve(
            self.record,
            lease_left=_seconds_until(self.extras.lease_until, now),
            pause_left=_seconds_until(self.extras.pause_until, now),
        )

    def write(
        self,
        record: Record,
        now: Moment,
        *,
        lease_until: float | None = None,
        pause_until: float | None = None,
        note: Note | None = None,
    ) -> Record:
        """Replace record, lease and pause, and return the record as it can be read now."""
        older_entries, newest_note = self._all_entries()[-HISTORY_LENGTH:], None
        correlation_id = note.correlation_id if note else None
        written = evolve(
            record,
            lease_left=0.0,
            pause_left=0.0,
            correlation_id=correlation_id or record.correlation_id,
            updated_at=to_second(now.now),
        )
        if note and correlation_id:
            newest_note = interned(evolve(note, correlation_id=None))
        elif note:
            entry = (now.now, record.generation, None, note)
            older_entries = (*older_entries[1 - HISTORY_LENGTH :], entry)
        extras = Extras(lease_until, pause_until, self.extras.journal, older_entries, newest_note)
        self.record, self.extras = written, _shared(extras)
        return self.read(now) or written

    def add_to_journal(
        self, record: Record, token: Token, origin: Origin, now: Moment, *, ahead: int = 0
    ) -> None:
        """Add a pair to the journal, under the record's generation plus `ahead`."""
        entry = JournalEntry(
            key=record.key,
            generation=record.generation + ahead,
            consent=record.consent,
            origin=origin,
            token=without_metadata(token),
            at=now.now,
        )
        self.extras = evolve(self.extras, journal=(*self.extras.journal, entry))

    def has_own_pair_in_journal(self) -> bool:
        """Return whether the journal has a pair that is not foreign."""
        return any(entry.origin is not Origin.FOREIGN for entry in self.extras.journal)

    def is_tombstone(self) -> bool:
        """Return whether the grant was forgotten."""
        return self.record is not None and self.record.state is State.FORGOTTEN

    def add_note(self, note: Note, now: Moment) -> None:
        """Add an entry to the history."""
        generation = self.record.generation if self.record else 0
        entry = (now.now, generation, note.correlation_id, evolve(note, correlation_id=None))
        entries = (*self._all_entries()[1 - HISTORY_LENGTH :], entry)
        self.extras = evolve(self.extras, older_entries=entries, newest_note=None)

    def history(self) -> list[HistoryEntry]:
        """Return the history, the newest entry first."""
        return [
            HistoryEntry(at=at, generation=generation, note=evolve(note, correlation_id=call_id))
            for at, generation, call_id, note in self._all_entries()[: -HISTORY_LENGTH - 1 : -1]
        ]

    def purge(self, journal_before: datetime, history_before: datetime) -> int:
        """Delete the entries of journal and history before two times, and return their number."""
        before, entries = self.extras.journal, self._all_entries()
        journal = tuple(entry for entry in before if entry.at >= journal_before)
        history = tuple(entry for entry in entries if entry[0] >= history_before)
        deleted = len(before) - len(journal) + len(entries) - len(history)
        if deleted:
            self.extras = evolve(
                self.extras, journal=journal, older_entries=history, newest_note=None
            )
        return deleted

    def _all_entries(self) -> tuple[CompactEntry, ...]:
        record, extras = self.record, self.extras
        if record is None or extras.newest_note is None:
            return extras.older_entries
        newest = (record.updated_at, record.generation, record.correlation_id, extras.newest_note)
        return (*extras.older_entries, newest)


@define(eq=False)
class StoredNotice:
    """A notice in the outbox.

    Attributes:
        notice: The notice.
        due_at: When it may be tried, in seconds of the store's monotonic clock.
        is_delivered: Whether it was delivered.
        is_dead: Whether it is not tried again.
    """

    notice: Notice
    due_at: float
    is_delivered: bool = False
    is_dead: bool = False

    def is_pending(self) -> bool:
        """Return whether it is still to be delivered."""
        return not (self.is_delivered or self.is_dead)


def _shared(extras: Extras) -> Extras:
    has_own = extras.until or extras.journal or extras.older_entries
    return extras if has_own else interned(extras)


def _seconds_until(end: float | None, now: Moment) -> float:
    # Rounded, so that a sum of seconds ends neither late nor early by the last bit.
    return 0.0 if end is None else max(round(end - now.monotonic, 6), 0.0)


@define(eq=False, repr=False, kw_only=True)
class MemoryTokenStore(TokenStore):
    """Stores tokens in the memory of one process: for tests, and for services of one process.

    The tokens are lost when the process ends. After a fork, parent and child would spend the same
    refresh tokens; therefore every method but `close` raises `StoreError` in the child.
    `SqlTokenStore` serves several processes. The history keeps the newest 20 entries of each grant.

    Args:
        clock: Returns the current time, timezone-aware.
        monotonic: Returns seconds of a clock that never goes back. Leases and pauses run by it; by
            default as `clock` does, if that is given.
        journal_retention: The age at which `purge` deletes journal entries.
        history_retention: The age at which `purge` deletes history entries.
        grants: The dictionary that contains the grants. Only for tests, which read and change it.
        outbox: The notices by subject, kind and generation, in their order. Only for tests.
        pseudonym_key: The key of the names in tombstones. Only for tests that use `grants` again.
        sleep: Sleeps some seconds, between two batches of `purge`.
    """

    _clock: Callable[[], datetime] = field(default=utc_now, converter=aware)
    _monotonic: Callable[[], float] = field()
    _journal_retention: timedelta = timedelta(days=7)
    _history_retention: timedelta = timedelta(days=400)
    _grants: dict[GrantKey, StoredGrant] = field(factory=dict)
    _outbox: dict[NoticeName, StoredNotice] = field(factory=dict)
    _sleep: Callable[[float], None] = time.sleep
    _due: DueIndex = field(init=False)
    _sorted_keys: list[GrantKey] = field(init=False, factory=list)
    _sorted_of: tuple[int, int] = field(init=False, default=(0, 0))
    _removals: int = field(init=False, default=0)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)
    _key: bytes = field(init=False, default=Factory(lambda: secrets.token_bytes(32)))
    _pseudonym_key: bytes = field(default=Factory(lambda: secrets.token_bytes(32)))
    _process: int = field(init=False, factory=os.getpid)

    @_due.default
    def _empty_index(self) -> DueIndex:
        return DueIndex(self._record_after)

    @_monotonic.default
    def _default_monotonic(self) -> Callable[[], float]:
        return monotonic if self._clock is utc_now else never_back(self._clock)

    def __attrs_post_init__(self) -> None:
        require_retentions(self._journal_retention, self._history_retention)
        now = self._monotonic()
        for grant in self._grants.values():
            if grant.record is not None:
                self._due.replace(None, grant.record, until=grant.extras.until, now=now)

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A MemoryTokenStore can be neither pickled nor copied. Use SqlTokenStore for several "
            "processes."
        )

    def load(self, key: GrantKey) -> Record | None:
        with self._access():
            tombstone = self._tombstone(key)
            if tombstone is not None:
                return tombstone
            return self._grants.get(key, StoredGrant()).read(self._now())

    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        with self._access():
            return self._claim(seen, owner, ttl, self._now())

    def claim_due(self, query: DueQuery, *, owner: str, ttl: float, limit: int) -> list[Record]:
        with self._access():
            now = self._now()
            claims = [
                self._claim(record, owner, ttl, now)
                for record in self._due_records(query, limit, now)
            ]
            return [claim for claim in claims if claim]

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
            tombstone, now = self._tombstone(claim.key), self._now()
            grant = self._restored(claim.key)
            record = grant.read(now)
            if record and not tombstone and record.generation == claim.generation:
                pair = renewed(
                    record, token, issued_at=issued_at, idle_until=idle_until, state=state
                )
                return Settlement(stored=True, record=self._write(grant, pair, now, note=note))
            stored = record is not None and is_same_pair(record.token, token)
            origin = late_origin(state)
            if not stored and not is_journaled(token, origin, grant.extras.journal):
                grant.add_to_journal(claim, token, late_origin(state), now, ahead=1)
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
            grant, now = self._grants.get(claim.key, StoredGrant()), self._now()
            if grant.record is None or not is_latest_claim(grant.record, claim):
                return False
            until = now.monotonic + pause if pause > 0 else None
            after = evolve(
                grant.record,
                state=state,
                attempts=attempts,
                error=error,
                refusals=claim.refusals,
                refused_since=claim.refused_since,
            )
            self._write(grant, after, now, pause_until=until, note=note)
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
            grant, now = self._restored(key), self._now()
            record = grant.read(now) or empty_record(key, now.now)
            if is_same_pair(record.token, token):
                return record
            pair = renewed(record, token, issued_at=issued_at, idle_until=idle_until)
            if record.token:
                grant.add_to_journal(record, record.token, Origin.REPLACED, now)
            return self._write(grant, evolve(pair, consent=record.consent + 1), now, note=note)

    def write_back(self, known: Record, *, seen: Record | None, note: Note) -> Record | None:
        with self._access():
            now = self._now()
            before = self._tombstone(known.key) or self._grants.get(known.key, StoredGrant()).record
            if not is_unchanged(before, seen):
                return None
            grant = self._restored(known.key)
            record = grant.record
            if record and record.token and not is_same_pair(known.token, record.token):
                grant.add_to_journal(record, record.token, Origin.REPLACED, now)
            return self._write(grant, written_back(known), now, note=note)

    def mark_revoked(self, key: GrantKey, *, note: Note, forget: bool = False) -> Record | None:
        with self._access():
            grant, now = self._grants.get(key, StoredGrant()), self._now()
            record = grant.record
            if record is None:
                if forget and not grant.has_own_pair_in_journal():
                    self._remove(key)
                return self._tombstone(key)
            if not is_revoked(record):
                return self._write(grant, revoked(record, forget=forget), now, note=note)
            if forget and not record.forgetting:
                return self._write(grant, evolve(record, forgetting=True), now)
            return record

    def erase(self, record: Record, *, journaled: Collection[Token], note: Note) -> bool:
        with self._access():
            grant = self._grants.get(record.key, StoredGrant())
            stored = self._tombstone(record.key) or grant.record
            if stored is None or not is_revoked(stored):
                return False
            if stored.generation != record.generation:
                return False
            if stored.state is State.FORGOTTEN:
                return True
            left = tuple(e for e in grant.extras.journal if not is_among(e.token, journaled))
            grant.extras = evolve(grant.extras, journal=left)
            if stored.token is not None:
                self._write(grant, erased(stored), self._now(), note=note)
            if stored.forgetting and not grant.has_own_pair_in_journal():
                self._replace_by_tombstone(stored)
            return True

    def revoking(self, client_id: str, *, limit: int) -> Sequence[Record]:
        with self._access():
            found = [
                grant.record
                for grant in self._grants.values()
                if grant.record
                and grant.record.key.client_id == client_id
                and is_revoked(grant.record)
                and (
                    grant.record.token or grant.record.forgetting or grant.has_own_pair_in_journal()
                )
            ]
        return nsmallest(limit, found, key=lambda record: _order(record.key))

    def journal(self, record: Record, token: Token, *, origin: Origin) -> None:
        with self._access():
            if origin is Origin.FOREIGN and self._tombstone(record.key):
                return
            grant = self._restored(record.key)
            if not is_journaled(token, origin, grant.extras.journal):
                grant.add_to_journal(record, token, origin, self._now(), ahead=1)

    def journal_entries(self, key: GrantKey) -> Sequence[JournalEntry]:
        with self._access():
            return self._grants.get(key, StoredGrant()).extras.journal[::-1]

    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        with self._access():
            grant, now = self._grants.get(claim.key, StoredGrant()), self._now()
            record = grant.record
            if record is None or record.token is None or not is_latest_claim(record, claim):
                return None
            entry = newest_salvageable(grant.extras.journal, record)
            if entry is None:
                return None
            others = tuple(other for other in grant.extras.journal if other is not entry)
            grant.extras = evolve(grant.extras, journal=others)
            grant.add_to_journal(record, record.token, Origin.REFUSED, now)
            pair = renewed(record, entry.token, issued_at=entry.at, idle_until=record.idle_until)
            salvaged = evolve(pair, state=State.REFRESHING, attempts=1, owner=record.owner)
            lease_until = grant.extras.lease_until
            return self._write(grant, salvaged, now, lease_until=lease_until, note=note)

    def due(self, query: DueQuery, *, limit: int) -> Sequence[Record]:
        with self._access():
            return self._due_records(query, limit, self._now())

    def unreadable(self, query: DueQuery) -> int:
        """Return 0: nothing is sealed."""
        with self._access():
            return 0

    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        keys = self._keys_in_order()
        start = (client_id, "", "") if after is None else (client_id, *_order(after)[1:])
        first = bisect_right(keys, start, key=_order)
        own = takewhile(
            lambda key: key.client_id == client_id,
            map(keys.__getitem__, range(first, len(keys))),
        )
        with self._access():
            now = self._now()
            # Without those that were forgotten since, so that only the last page is not full.
            stored = (self._grants[key].read(now) for key in own if key in self._grants)
            records = list(islice((record for record in stored if record), limit))
        return [_listed(record) for record in records]

    def add_note(self, key: GrantKey, *, note: Note) -> None:
        with self._access():
            if self._tombstone(key) is None:
                self._grants.setdefault(key, StoredGrant()).add_note(note, self._now())

    def history(self, key: GrantKey, *, limit: int = 100) -> Sequence[HistoryEntry]:
        with self._access():
            return self._grants.get(key, StoredGrant()).history()[:limit]

    def add_notice(self, seen: Record, notice: NewNotice) -> bool:
        with self._access():
            grant = self._grants.get(seen.key, StoredGrant())
            record = grant.record
            if record is None:
                return False
            if (record.generation, record.notice) != (seen.generation, seen.notice):
                return False
            now, until = self._now(), grant.extras.until
            grant.record = evolve(record, notice=next_notice(record.notice, notice))
            self._due.replace(record, grant.record, until=until, now=now.monotonic)
            return self._add_for_grant(grant.record, notice, now)

    def add_certificate_notice(
        self, client_id: str, certificate: str, stage: int, notice: NewNotice
    ) -> bool:
        with self._access():
            now = self._now()
            new = _notice(client_id, stage, notice, now)
            return self._add_once(evolve(new, certificate=certificate), now)

    def claim_notices(self, client_id: str, *, limit: int, ttl: float) -> Sequence[Notice]:
        with self._access():
            now = self._now().monotonic
            # The first one of each grant or certificate: the outbox is in the order of its notices.
            oldest: dict[Subject, StoredNotice] = {}
            for (subject, *_), stored in self._outbox.items():
                if stored.notice.client_id == client_id and stored.is_pending():
                    oldest.setdefault(subject, stored)
            claimed = [stored for stored in oldest.values() if stored.due_at <= now][:limit]
            for stored in claimed:
                stored.due_at = now + ttl
                stored.notice = evolve(stored.notice, tries=stored.notice.tries + 1)
            return [stored.notice for stored in claimed]

    def notice_delivered(self, notice: Notice) -> None:
        with self._access():
            if stored := self._undelivered(notice):
                stored.is_delivered, stored.is_dead = True, False

    def notice_failed(self, notice: Notice, *, pause: float | None, counts: bool = True) -> None:
        with self._access():
            stored = self._undelivered(notice)
            if stored and stored.notice.tries == notice.tries:
                stored.notice = evolve(stored.notice, tries=notice.tries - (not counts))
                stored.is_dead = pause is None
                stored.due_at = self._now().monotonic + (pause or 0.0)

    def retry_notices(self, client_id: str) -> int:
        with self._access():
            dead = [
                stored
                for stored in self._outbox.values()
                if stored.notice.client_id == client_id and stored.is_dead
            ]
            for stored in dead:
                stored.is_dead, stored.due_at = False, self._now().monotonic
            return len(dead)

    def notices(self, client_id: str, *, limit: int = 100) -> Sequence[OutboxEntry]:
        with self._access():
            now = self._now()
            undelivered = (
                OutboxEntry(
                    notice=stored.notice,
                    is_dead=stored.is_dead,
                    due_in=_seconds_until(stored.due_at, now),
                )
                for stored in self._outbox.values()
                if stored.notice.client_id == client_id and not stored.is_delivered
            )
            return list(islice(undelivered, limit))

    def purge(self) -> int:
        with self._access():
            grants, now = list(self._grants.values()), self._now().now
        journal, history = now - self._journal_retention, now - self._history_retention
        deleted = 0
        for start in range(0, len(grants), PURGE_BATCH):
            if start:
                self._sleep(PURGE_PAUSE)
            with self._access():
                batch = grants[start : start + PURGE_BATCH]
                deleted += sum(grant.purge(journal, history) for grant in batch)
        with self._access():
            old = [name for name, stored in self._outbox.items() if stored.notice.at < history]
            for name in old:
                del self._outbox[name]
            deleted += len(old)
        return deleted

    def fingerprint(self, text: str) -> str:
        with self._access():
            return fingerprint(self._key, text)

    def close(self) -> None:
        """Do nothing: the store has nothing to close, and keeps its tokens."""

    def _access(self) -> threading.Lock:
        # Checked before the lock, which another thread may have held when the process forked.
        if os.getpid() != self._process:
            raise StoreError(
                "A MemoryTokenStore cannot be used after a fork: the parent process uses the same "
                "refresh tokens. Nothing was changed. Use SqlTokenStore for several processes.",
                retryable=False,
            )
        return self._lock

    def _now(self) -> Moment:
        return Moment(utc(self._clock()), self._monotonic())

    def _write(
        self,
        grant: StoredGrant,
        record: Record,
        now: Moment,
        *,
        lease_until: float | None = None,
        pause_until: float | None = None,
        note: Note | None = None,
    ) -> Record:
        before = grant.record
        new = note.notice if note else None
        notice = next_notice(before.notice if before else None, new)
        if record.notice is not notice:
            record = evolve(record, notice=notice)
        if note and new:
            note = evolve(note, notice=None)
        written = grant.write(
            record, now, lease_until=lease_until, pause_until=pause_until, note=note
        )
        if new:
            self._add_for_grant(written, new, now)
        self._due.replace(
            before, grant.record or written, until=grant.extras.until, now=now.monotonic
        )
        return written

    def _add_for_grant(self, record: Record, new: NewNotice, now: Moment) -> bool:
        """Add a notice if it is the record's last one now, as `_add_once` does."""
        if record.notice is not new.kind:
            return False
        notice = _notice(record.key.client_id, record.generation, new, now)
        call_id = record.correlation_id
        return self._add_once(evolve(notice, grant=record.key.grant, correlation_id=call_id), now)

    def _add_once(self, notice: Notice, now: Moment) -> bool:
        """Add a notice, unless there is one of its subject, kind and generation."""
        stored = StoredNotice(notice, now.monotonic)
        return self._outbox.setdefault(_name_of(notice), stored) is stored

    def _undelivered(self, notice: Notice) -> StoredNotice | None:
        """Return the stored notice with the id of this one, unless it was delivered."""
        stored = self._outbox.get(_name_of(notice))
        is_other = stored is None or stored.notice.id != notice.id or stored.is_delivered
        return None if is_other else stored

    def _tombstone_key(self, key: GrantKey) -> GrantKey:
        target_id = key.grant.target_id
        return GrantKey(key.client_id, Grant(target_id, pseudonym(self._pseudonym_key, key)))

    def _tombstone(self, key: GrantKey) -> Record | None:
        """Return the record of a forgotten grant, or None."""
        if key in self._grants:
            return None
        grant = self._grants.get(self._tombstone_key(key))
        return evolve(grant.record, key=key) if grant and grant.record else None

    def _restored(self, key: GrantKey) -> StoredGrant:
        """Return what is stored of a grant. A tombstone becomes a record to be forgotten again."""
        tombstone = self._tombstone(key)
        grant = self._grants.setdefault(key, StoredGrant())
        if tombstone is not None:
            self._remove(self._tombstone_key(key))
            grant.record = evolve(tombstone, state=State.REVOKED, forgetting=True)
        return grant

    def _replace_by_tombstone(self, record: Record) -> None:
        """Replace all that is stored of a grant by a tombstone."""
        self._remove(record.key)
        key = self._tombstone_key(record.key)
        tombstone = evolve(forgotten(record), key=key, updated_at=to_second(self._now().now))
        self._grants[key] = StoredGrant(tombstone)

    def _remove(self, key: GrantKey) -> None:
        self._grants.pop(key, None)
        self._removals += 1
        # A notice names the customer.
        for name in [name for name in self._outbox if name[0] == key]:
            del self._outbox[name]

    def _claim(self, seen: Record, owner: str, ttl: float, now: Moment) -> Record | None:
        grant = self._grants.get(seen.key, StoredGrant())
        record = grant.read(now)
        claim = claimed(record, seen, owner) if record else None
        return claim and self._write(grant, claim, now, lease_until=now.monotonic + ttl)

    def _due_records(self, query: DueQuery, limit: int, now: Moment) -> list[Record]:
        found = self._due.records(query, now.monotonic)
        indexed = (self._grants[record.key].read(now) for record in found)
        return list(islice((r for r in indexed if r is not None and is_due(r, query)), limit))

    def _record_after(self, key: GrantKey, end: float) -> Record | None:
        grant = self._grants.get(key, StoredGrant())
        return grant.record if grant.extras.until == end else None

    def _keys_in_order(self) -> list[GrantKey]:
        with self._access():
            keys, new, state = self._sorted_keys, None, (len(self._grants), self._removals)
            if self._sorted_of != state:
                new = [key for key, grant in self._grants.items() if not grant.is_tombstone()]
        if new is not None:
            self._sorted_keys = keys = sorted(new, key=_order)
            self._sorted_of = state
        return keys


def _listed(record: Record) -> Record:
    """Return a record without its pair."""
    oddities = frozenset() if record.token is None else notable_oddities(record.token)
    return evolve(record, token=None, oddities=oddities)


def _notice(client_id: str, generation: int, new: NewNotice, now: Moment) -> Notice:
    return Notice(
        id=str(uuid4()),
        kind=new.kind,
        client_id=client_id,
        generation=generation,
        reason=new.reason,
        ends_at=new.ends_at,
        at=now.now,
    )


def _name_of(notice: Notice) -> NoticeName:
    key = notice.grant and GrantKey(notice.client_id, notice.grant)
    subject = key or (notice.client_id, notice.certificate or "")
    return (subject, notice.kind, notice.generation)


def _order(key: GrantKey) -> tuple[str, str, str]:
    return (key.client_id, key.grant.target_id, key.grant.username)
