"""Changes that look at what is stored before they decide. Each runs in one transaction."""

from __future__ import annotations

from datetime import datetime

from attrs import evolve

from blink_oauth.tokens import Token

from . import sql_statements
from .memory import Row as Journal
from .protocol import GrantKey, JournalEntry, Note, Origin, Record, State
from .rules import is_owned, is_pair, nothing_yet, renewed, revoked
from .sealing import Place
from .sql_engine import Session
from .sql_tables import (
    Reader,
    of_entry,
    of_grant,
    of_note,
    of_pair,
    of_seen,
    place_of,
    record_of,
    sealed_in,
)

__all__ = ["entries", "keep", "put", "revoke", "salvage", "supersede"]


def entries(session: Session, reader: Reader, key: GrantKey) -> list[tuple[int, JournalEntry]]:
    """Return what the journal holds of a grant, the newest first, with the numbers of the rows."""
    rows = session.rows(sql_statements.ENTRIES, of_grant(key))
    read = ((row.id, reader.entry_if_readable(row)) for row in rows)
    return [(number, entry) for number, entry in read if entry]


def supersede(session: Session, reader: Reader, claim: Record, token: Token) -> bool:
    """Keep a pair that came home too late, and say whether it is the stored one."""
    row = session.row(sql_statements.LOCK, of_grant(claim.key))
    record = reader.record_if_readable(row) if row else None
    if record and is_pair(record.token, token):
        return True
    keep(session, reader, claim, token, Origin.SUPERSEDED)
    return False


def keep(session: Session, reader: Reader, record: Record, token: Token, origin: Origin) -> None:
    """Add a pair to the journal under the record's next generation, unless it is there."""
    session.row(sql_statements.LOCK, of_grant(record.key))
    # A second copy could be salvaged after the first was refused.
    known = [entry.token for _, entry in entries(session, reader, record.key)]
    if not any(is_pair(other, token) for other in known):
        place = Place(record.key, record.generation + 1, record.consent)
        session.count(sql_statements.KEEP, of_entry(place, reader.seal(place, token), origin))


def put(
    session: Session,
    reader: Reader,
    key: GrantKey,
    token: Token,
    *,
    issued_at: datetime,
    idle_until: datetime | None,
    note: Note,
) -> Record:
    """Store the pair of a new consent."""
    row = session.row(sql_statements.LOCK, of_grant(key))
    # What cannot be opened is kept as it is: a new consent is just what helps then.
    known = reader.record_if_readable(row) if row else nothing_yet(key, issued_at)
    if is_pair(known.token, token):
        return known
    if row and (replaced := sealed_in(row)):
        session.count(sql_statements.KEEP, of_entry(place_of(row), replaced, Origin.REPLACED))
    pair = renewed(known, token, issued_at=issued_at, idle_until=idle_until)
    pair = evolve(pair, consent=known.consent + 1)
    parameters = of_seen(known) | of_pair(pair, reader.seal(pair, token)) | of_note(note)
    written = session.change(sql_statements.WRITE if row else sql_statements.INSERT, parameters)
    assert written is not None
    return record_of(written, pair.token)


def revoke(session: Session, reader: Reader, key: GrantKey, note: Note) -> Record | None:
    """Mark a grant as revoked."""
    row = session.row(sql_statements.LOCK, of_grant(key))
    if row is None:
        return None
    known = reader.record(row)
    if known.state is State.REVOKED:
        return known
    over = revoked(known)
    sealed = None if over.token is None else reader.seal(over, over.token)
    parameters = of_seen(known) | of_pair(over, sealed) | of_note(note)
    written = session.change(sql_statements.WRITE, parameters)
    assert written is not None
    return record_of(written, over.token)


def salvage(session: Session, reader: Reader, claim: Record, note: Note) -> Record | None:
    """Put the newest superseded pair in the place of the one that was refused."""
    row = session.row(sql_statements.LOCK, of_grant(claim.key))
    if row is None or not is_owned(record := reader.record(row), claim):
        return None
    kept = entries(session, reader, claim.key)
    journal = Journal(journal=tuple(entry for _, entry in reversed(kept)))
    newest, refused = journal.newest_to_salvage(record), sealed_in(row)
    if newest is None or refused is None:
        return None
    number = next(number for number, entry in kept if entry is newest)
    session.count(sql_statements.TAKE, {"entry": number})
    session.count(sql_statements.KEEP, of_entry(place_of(row), refused, Origin.REFUSED))
    pair = renewed(record, newest.token, issued_at=newest.at, idle_until=record.idle_until)
    pair = evolve(pair, state=State.REFRESHING, attempts=1, owner=record.owner)
    parameters = of_seen(claim) | of_pair(pair, reader.seal(pair, newest.token)) | of_note(note)
    written = session.change(sql_statements.SALVAGE, parameters)
    return written and record_of(written, pair.token)
