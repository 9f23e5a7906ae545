"""What a grant looks like in memory. Knows no lock and reads no clock."""

from __future__ import annotations

from datetime import datetime, timedelta

from attrs import define, evolve

from blink_oauth.tokens import Token

from .kept_once import kept_once, same_second
from .records import HistoryEntry, JournalEntry, Note, Origin, Record
from .rules import bare, is_pair

__all__ = ["Row"]

HISTORY_LENGTH = 20
SALVAGEABLE = frozenset({Origin.SUPERSEDED, Origin.ERROR})

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

    def newest_to_salvage(self, record: Record) -> JournalEntry | None:
        """Return the pair that may still be good where the record's is not."""
        # A bank that does not rotate gave all pairs the one refresh token that it refused.
        refused = [entry.token for entry in self.journal if entry.origin is Origin.REFUSED]
        useless = [None, *(token.refresh_token for token in [*refused, record.token] if token)]
        # Those that were refused one after the other came beside the same pair.
        generations = {e.generation for e in self.journal if e.origin is Origin.REFUSED}
        oldest = record.generation
        while oldest - 1 in generations:
            oldest -= 1
        for entry in reversed(self.journal):
            same = entry.origin in SALVAGEABLE and entry.consent == record.consent
            # An older one was stored in its time, and is spent.
            same = same and entry.generation >= oldest
            if same and entry.token.refresh_token not in useless:
                return entry
        return None

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
