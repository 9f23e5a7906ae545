"""The steps of a move between two databases; `moving` describes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import evolve
from sqlalchemy import bindparam, insert, null, select, update

from blink_oauth.tokens import Token
from blink_oauth_keeper.errors import StoreError

from .moving import MovingGrant, is_moved, moved_from, moved_owner, replaces
from .protocol import (
    GrantKey,
    HistoryEntry,
    JournalEntry,
    Note,
    Origin,
    Record,
    State,
    odd_detail,
)
from .rules import is_journaled, is_same_pair
from .sealing import Binding, Sealer, Status
from .sql_forgetting import Tombstones
from .sql_outbox import add_moved_notices, delete_moved_notices, undelivered_of
from .sql_statements import (
    DELETE_ROWS,
    ENTRY_VALUES,
    HAS_GENERATION,
    HISTORY_VALUES,
    INSERT_HISTORY,
    JOURNAL_ENTRIES,
    KEY_VALUES,
    LEASE_NOW,
    LOCK,
    NOW,
    PAIR_VALUES,
    is_of_grant,
    seconds_from,
)
from .sql_tables import (
    Database,
    Reader,
    Session,
    UtcDateTime,
    entry_params,
    grant_params,
    grants,
    history,
    history_entry,
    journal,
    note_params,
    pair_params,
    refusal_params,
)

__all__ = ["begin_move", "client_ids", "finish_move", "receive"]

MOVED = Note(event="grant.moved")

CLIENT_IDS = select(grants.c.client_id).distinct().order_by(grants.c.client_id)
ALL_HISTORY = select(history).where(is_of_grant(history)).order_by(history.c.id)
JOURNAL_IDS = select(journal.c.id).where(is_of_grant(journal)).order_by(journal.c.id)
# `updated_at` stays: the policy counts from the last outcome.
BLOCK = (
    update(grants)
    .where(is_of_grant(grants))
    .values(
        state=bindparam("new_state"),
        owner=bindparam("new_owner"),
        mac=bindparam("new_mac"),
        lease_until=null(),
    )
)
ROW_VALUES: dict[str, object] = PAIR_VALUES | {
    "lease_until": null(),
    "pause_until": seconds_from(LEASE_NOW, "pause"),
    "refusals": bindparam("new_refusals"),
    "refused_since": bindparam("new_refused_since", type_=UtcDateTime),
    "notice": bindparam("new_last_notice"),
    "correlation_id": bindparam("new_correlation_id"),
    "updated_at": bindparam("new_updated_at", type_=UtcDateTime),
}
INSERT_ROW = insert(grants).values(KEY_VALUES | ROW_VALUES)
UPDATE_ROW = update(grants).where(is_of_grant(grants)).values(ROW_VALUES)
INSERT_ENTRY_AT = (
    insert(journal).inline().values(ENTRY_VALUES | {"at": bindparam("new_at", type_=UtcDateTime)})
)
INSERT_HISTORY_AT = (
    insert(history).inline().values(HISTORY_VALUES | {"at": bindparam("new_at", type_=UtcDateTime)})
)
ERASE_MOVED = (
    update(grants)
    .where(HAS_GENERATION, grants.c.owner == bindparam("expected_owner"))
    .values(
        state=State.REVOKED.value,
        sealed=None,
        key_id=None,
        expires_at=None,
        mac=None,
        updated_at=NOW,
    )
)


def client_ids(database: Database) -> Sequence[str]:
    """Return the clients that have records, sorted."""
    with database.session() as session:
        return [row.client_id for row in session.rows(CLIENT_IDS, {})]


def begin_move(
    database: Database, reader: Reader, sealer: Sealer, key: GrantKey
) -> MovingGrant | None:
    """Keep every process from refreshing a grant, and return all that is stored of it.

    Raises:
        SealError: Its pair or a journal entry cannot be opened.
    """
    with database.transaction() as session:
        row = session.row(LOCK, grant_params(key))
        if row is None:
            return None
        record = reader.record(key, row)
        if record.lease_left > 0:
            return None
        state = moved_from(row.owner) or row.state
        if not is_moved(record):
            # A revocation goes on; any other state could be claimed, or taken for a revocation.
            blocked = state if state == State.REVOKED else State.NEEDS_CONSENT.value
            binding = Binding(key, record.generation, record.consent)
            mac = sealer.mac(binding, Status(blocked, record.attempts)) if row.sealed else None
            block = {"new_state": blocked, "new_owner": moved_owner(state), "new_mac": mac}
            session.count(BLOCK, grant_params(key) | block)
        entries = session.rows(JOURNAL_ENTRIES, grant_params(key))
        return MovingGrant(
            record=evolve(record, state=State(state), owner=None),
            state=state,
            journal=[reader.entry(key, row) for row in reversed(entries)],
            journal_ids=sorted(row.id for row in entries),
            history=[history_entry(row) for row in session.rows(ALL_HISTORY, grant_params(key))],
            notices=undelivered_of(session, key),
        )


def receive(
    database: Database,
    reader: Reader,
    sealer: Sealer,
    tombstones: Tombstones,
    moving: MovingGrant,
) -> None:
    """Store a grant of another store, unless the stored pair is as new.

    The older of two different pairs goes to the journal as replaced, so that nothing is lost. The
    generation stays, unless the stored one is higher. If the target has forgotten the grant, only a
    later consent is stored; other pairs go to the journal, to be revoked.

    Raises:
        SealError: The stored pair cannot be opened.
        StoreError: The stored record is itself being moved.
    """
    record, key = moving.record, moving.record.key
    with database.transaction() as session:
        row = tombstones.lock(session, key)
        stored = None if row is None else reader.record(key, row)
        if stored is not None and is_moved(stored) and stored.token is not None:
            raise StoreError(
                "A grant of the target is itself being moved to another store. Nothing was lost. "
                "Finish that move first; source and target must be different stores."
            )
        replaced = replaces(record, stored)
        entries = [*moving.journal]
        if stored is not None:
            older, newer = (stored, record) if replaced else (record, stored)
            if older.token is not None and not is_same_pair(newer.token, older.token):
                entries.append(_replaced(older, older.token))
        if row is not None and (replaced or entries):
            tombstones.restore_name(session, key, row)
        rows = session.rows(JOURNAL_ENTRIES, grant_params(key))
        existing = [each for row in rows if (each := reader.entry_if_opened(key, row))]
        _add_entries(database, sealer, session, existing, entries)
        if replaced or not (stored and stored.state is State.FORGOTTEN):
            _add_history(session, key, moving.history)
            add_moved_notices(session, key, moving.notices)
        if replaced:
            if stored is not None and stored.generation > record.generation:
                # A newer consent with a lower generation: for caches, the generation only goes up.
                record = evolve(record, generation=stored.generation + 1)
            _write(database, sealer, session, record, moving.state, is_new=row is None)
            params = grant_params(key) | {"new_generation": record.generation}
            note = evolve(MOVED, detail=odd_detail(record.token))
            session.count(INSERT_HISTORY, params | note_params(note))


def _replaced(record: Record, token: Token) -> JournalEntry:
    return JournalEntry(
        key=record.key,
        generation=record.generation,
        consent=record.consent,
        origin=Origin.REPLACED,
        token=token,
        at=record.updated_at,
    )


def _add_entries(
    database: Database,
    sealer: Sealer,
    session: Session,
    existing: Iterable[JournalEntry],
    entries: Iterable[JournalEntry],
) -> None:
    """Add the journal entries whose pairs the journal does not have."""
    added = [*existing]
    for entry in entries:
        if is_journaled(entry.token, entry.origin, added):
            continue
        added.append(entry)
        binding = Binding(entry.key, entry.generation, entry.consent, entry.origin)
        sealed = sealer.seal(binding, entry.token, strict=database.strict)
        session.count(INSERT_ENTRY_AT, entry_params(binding, sealed) | {"new_at": entry.at})


def _write(
    database: Database,
    sealer: Sealer,
    session: Session,
    record: Record,
    state: str,
    *,
    is_new: bool,
) -> None:
    sealed = sealer.seal_record(record, strict=database.strict)
    binding = Binding(record.key, record.generation, record.consent)
    mac = sealer.mac(binding, Status(state, record.attempts)) if sealed else None
    parameters = grant_params(record.key) | pair_params(record, sealed) | refusal_params(record)
    parameters |= {
        "new_state": state,
        "new_mac": mac,
        "pause": record.pause_left,
        "new_last_notice": record.notice and record.notice.value,
        "new_correlation_id": record.correlation_id,
        "new_updated_at": record.updated_at,
    }
    session.count(INSERT_ROW if is_new else UPDATE_ROW, parameters)


def _add_history(session: Session, key: GrantKey, entries: Sequence[HistoryEntry]) -> None:
    """Add the history entries that the history does not have."""
    existing = {history_entry(row) for row in session.rows(ALL_HISTORY, grant_params(key))}
    for entry in entries:
        if entry not in existing:
            at = {"new_at": entry.at, "new_generation": entry.generation}
            session.count(INSERT_HISTORY_AT, grant_params(key) | note_params(entry.note) | at)


def finish_move(database: Database, moving: MovingGrant) -> bool:
    """Delete pair, journal entries and undelivered notices that another store has received.

    Returns:
        Whether record and journal were still as `begin_move` returned them.
    """
    record = moving.record
    with database.transaction() as session:
        row = session.row(LOCK, grant_params(record.key))
        ids = [each.id for each in session.rows(JOURNAL_IDS, grant_params(record.key))]
        mark = moved_owner(moving.state)
        found = row and (row.generation, row.owner, ids)
        if found != (record.generation, mark, list(moving.journal_ids)):
            return False
        marked = {"expected_generation": record.generation, "expected_owner": mark}
        session.count(ERASE_MOVED, grant_params(record.key) | marked)
        if ids:
            session.count(DELETE_ROWS[journal], {"ids": ids})
        delete_moved_notices(session, moving.notices)
        params = grant_params(record.key) | {"new_generation": record.generation}
        session.count(INSERT_HISTORY, params | note_params(MOVED))
        return True
