"""Sealing anew what is not sealed with the first key, while everything goes on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Row, Table, and_, bindparam, func, select, tuple_, update

from blink_oauth_keeper.errors import SealError

from .sealing import Sealed, Sealer
from .sql_tables import Database, grants, journal, key_of, place_of, sealed_in

__all__ = ["count_stale", "reseal_stale"]

logger = logging.getLogger("blink_oauth_keeper.store")

START: dict[Table, tuple[object, ...]] = {grants: ("", "", ""), journal: (0,)}
"""What sorts before all primary keys of a table."""


def _names(table: Table) -> list[str]:
    return [column.name for column in table.primary_key]


STALE = {
    table: select(table)
    .where(
        table.c.key_id.in_(bindparam("older_keys", expanding=True)),
        tuple_(*table.primary_key)
        > tuple_(*(bindparam(f"after_{c.name}", type_=c.type) for c in table.primary_key)),
    )
    .order_by(*table.primary_key)
    .limit(bindparam("limit"))
    for table in START
}
RESEAL = {
    table: update(table)
    .where(
        and_(*(column == bindparam(f"the_{column.name}") for column in table.primary_key)),
        table.c.generation == bindparam("seen"),
        table.c.key_id == bindparam("older_key"),
    )
    .values(sealed=bindparam("new_sealed"), key_id=bindparam("new_key_id"))
    for table in START
}
COUNT = {
    table: select(func.count()).select_from(table).where(table.c.key_id != bindparam("first_key"))
    for table in START
}


def count_stale(database: Database, sealer: Sealer) -> int:
    """Count the pairs that are sealed with another key than the first."""
    first = {"first_key": sealer.key_ids[0]}
    with database.session() as session:
        return sum(row[0] for count in COUNT.values() for row in session.rows(count, first))


def reseal_stale(database: Database, sealer: Sealer, batch: int) -> int:
    """Seal with the first key what is sealed with one of the others, and count it.

    A pair that somebody replaces meanwhile is left alone.
    """
    done = 0
    for table in START:
        for rows in _stale(database, sealer, table, batch):
            fresh = [(row, sealed) for row in rows if (sealed := _resealed(sealer, row))]
            with database.transaction() as session:
                done += sum(
                    session.count(RESEAL[table], _reseal(table, row, sealed))
                    for row, sealed in fresh
                )
    return done


def _stale(
    database: Database, sealer: Sealer, table: Table, batch: int
) -> Iterator[list[Row[Any]]]:
    after = START[table]
    while True:
        place = {f"after_{name}": value for name, value in zip(_names(table), after, strict=True)}
        wanted = {"older_keys": sealer.key_ids[1:], "limit": batch}
        with database.session() as session:
            rows = list(session.rows(STALE[table], place | wanted))
        if not rows:
            return
        yield rows
        after = tuple(getattr(rows[-1], name) for name in _names(table))


def _resealed(sealer: Sealer, row: Row[Any]) -> Sealed | None:
    sealed, place = sealed_in(row), place_of(key_of(row), row)
    try:
        return sealed and sealer.seal(place, sealer.open(place, sealed))
    except SealError as error:
        logger.warning("%s", error)
        return None


def _reseal(table: Table, row: Row[Any], sealed: Sealed) -> dict[str, object]:
    return {f"the_{name}": getattr(row, name) for name in _names(table)} | {
        "seen": row.generation,
        "older_key": row.key_id,
        "new_sealed": sealed.text,
        "new_key_id": sealed.key_id,
    }
