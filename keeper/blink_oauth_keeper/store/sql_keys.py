"""Seal rows again while the store is in use: with the first key, or as this version seals them."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from sqlalchemy import (
    BindParameter,
    ColumnElement,
    Row,
    Table,
    and_,
    bindparam,
    func,
    or_,
    select,
    tuple_,
    update,
)

from blink_oauth_keeper.errors import SealError

from .sealing import Sealer, Status
from .sql_schema import drop_obsolete_index, is_upgraded, store_version
from .sql_statements import mac_key_id
from .sql_store_key import count_older_key, count_unknown_key, reseal_key
from .sql_tables import (
    VERSION,
    Database,
    Reader,
    binding_of,
    entry_binding_of,
    grants,
    journal,
    key_of,
)

__all__ = ["count_older", "count_unknown", "finish_upgrade", "reseal_older"]

logger = logging.getLogger("blink_oauth_keeper.store")

START: dict[Table, tuple[object, ...]] = {grants: ("", "", ""), journal: (0,)}
"""For each table a value that sorts before all its primary keys."""
BINDING_OF = {grants: binding_of, journal: entry_binding_of}
COVERED = {
    grants: ("generation", "consent", "state", "attempts", "key_id"),
    journal: ("generation", "consent", "origin", "key_id"),
}
"""The columns that must be as they were read when a row gets a new seal."""


def _key_names(table: Table) -> list[str]:
    return [column.name for column in table.primary_key]


def _has_key(table: Table, name: str) -> ColumnElement[bool]:
    """Return the condition that one of the keys in a parameter sealed or authenticated a row."""
    keys: BindParameter[str] = bindparam(name, expanding=True)
    if table is journal:
        return table.c.key_id.in_(keys)
    # A row without a pair needs no key.
    return and_(table.c.sealed.is_not(None), or_(table.c.key_id.in_(keys), mac_key_id().in_(keys)))


def _has_other_key(table: Table) -> ColumnElement[bool]:
    first: BindParameter[str] = bindparam("first_key")
    if table is journal:
        return table.c.key_id != first
    return and_(table.c.sealed.is_not(None), or_(table.c.key_id != first, mac_key_id() != first))


ROWS = {
    table: select(table)
    .where(
        table.c.sealed.is_not(None),
        tuple_(*table.primary_key)
        > tuple_(*(bindparam(f"after_{c.name}", type_=c.type) for c in table.primary_key)),
    )
    .order_by(*table.primary_key)
    .limit(bindparam("limit"))
    for table in START
}
SELECT_OLDER = {table: ROWS[table].where(_has_key(table, "older_keys")) for table in START}
LOCK_ROWS = {table: ROWS[table].with_for_update() for table in START}
UPDATE_SEAL = {
    table: update(table)
    .where(
        *(column == bindparam(f"the_{column.name}") for column in table.primary_key),
        *(table.c[name] == bindparam(f"expected_{name}") for name in COVERED[table]),
    )
    .values(
        sealed=bindparam("new_sealed"),
        key_id=bindparam("new_key_id"),
        **({"mac": bindparam("new_mac")} if table is grants else {}),
    )
    for table in START
}
COUNT_OLDER = {
    table: select(func.count()).select_from(table).where(_has_other_key(table)) for table in START
}
COUNT_UNKNOWN = [
    select(func.count())
    .select_from(table)
    .where(table.c.key_id.not_in(bindparam("known_keys", expanding=True)))
    for table in START
]


def count_older(database: Database, sealer: Sealer) -> int:
    """Return the number of rows that need another key than the first."""
    first = {"first_key": sealer.current().id}
    with database.session() as session:
        rows: int = sum(
            row[0] for statement in COUNT_OLDER.values() for row in session.rows(statement, first)
        )
        return rows + count_older_key(session, sealer)


def count_unknown(database: Database, sealer: Sealer) -> int:
    """Return the number of rows that are sealed with an unknown key."""
    known = {"known_keys": sealer.key_ids}
    with database.session() as session:
        rows: int = sum(
            row[0] for statement in COUNT_UNKNOWN for row in session.rows(statement, known)
        )
        return rows + count_unknown_key(session, sealer)


def reseal_older(database: Database, sealer: Sealer, batch: int) -> int:
    """Seal with the first key the rows of the other keys, and return the number of pairs.

    A row that cannot be opened is skipped, and so is one that changes meanwhile.
    """
    reader = Reader(sealer, database)
    count = 0
    reseal_key(database, sealer)
    for table, start in START.items():
        after = start
        while rows := _page(database, table, after, sealer.key_ids[1:], batch):
            new_seals = list(_new_seals(table, rows, reader, sealer, strict=database.strict))
            with database.transaction() as session:
                count += sum(session.count(UPDATE_SEAL[table], values) for values in new_seals)
            after = _primary_key(table, rows[-1])
    return count


def finish_upgrade(database: Database, sealer: Sealer, batch: int) -> None:
    """Seal all rows for a strict database, then make it strict.

    A row that was altered is skipped: it stays refused.

    Raises:
        SealError: A pair is sealed with an unknown key.
    """
    if not is_upgraded(database):
        # Checked first: a process of the version before can still be started again after an error.
        _check_keys(database, sealer)
        _seal_all(database, sealer, batch)
        _check_keys(database, sealer)
        store_version(database, VERSION)
        drop_obsolete_index(database)
    database.strict = True


def _seal_all(database: Database, sealer: Sealer, batch: int) -> None:
    reader = Reader(sealer, database)
    for table, start in START.items():
        after: tuple[object, ...] | None = start
        while after is not None:
            # Locked, so that no row is skipped because it changes meanwhile.
            with database.transaction() as session:
                rows = session.rows(LOCK_ROWS[table], _page_params(table, after, batch))
                new_seals = _new_seals(table, rows, reader, sealer, strict=True)
                session.each(UPDATE_SEAL[table], list(new_seals))
            after = _primary_key(table, rows[-1]) if rows else None


def _check_keys(database: Database, sealer: Sealer) -> None:
    if count := count_unknown(database, sealer):
        raise SealError(
            f"{count} stored pairs are sealed with keys that are not among those given "
            f"({', '.join(sealer.key_ids)}). The upgrade is not finished, and the pairs are "
            "unchanged. Add those keys, and call finish_upgrade() again."
        )


def _page(
    database: Database, table: Table, after: tuple[object, ...], keys: Sequence[str], limit: int
) -> Sequence[Row[Any]]:
    with database.session() as session:
        parameters = _page_params(table, after, limit) | {"older_keys": keys}
        return session.rows(SELECT_OLDER[table], parameters)


def _page_params(table: Table, after: tuple[object, ...], limit: int) -> dict[str, object]:
    names = (f"after_{name}" for name in _key_names(table))
    return dict(zip(names, after, strict=True)) | {"limit": limit}


def _primary_key(table: Table, row: Row[Any]) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in _key_names(table))


def _new_seals(
    table: Table, rows: Iterable[Row[Any]], reader: Reader, sealer: Sealer, *, strict: bool
) -> Iterator[dict[str, object]]:
    """Yield the parameters that give each row which can be opened a new seal."""
    for row in rows:
        try:
            binding = BINDING_OF[table](key_of(row), row)
            token = reader.token(binding, row)
        except SealError as error:
            logger.warning("%s", error)
            continue
        sealed = sealer.seal(binding, token, strict=strict)
        parameters = {
            f"the_{name}": value
            for name, value in zip(_key_names(table), _primary_key(table, row), strict=True)
        }
        parameters |= {f"expected_{name}": getattr(row, name) for name in COVERED[table]}
        parameters |= {"new_sealed": sealed.text, "new_key_id": sealed.key_id}
        if table is grants:
            parameters["new_mac"] = sealer.mac(binding, Status(row.state, row.attempts))
        yield parameters
