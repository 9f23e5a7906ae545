"""Seal pairs again with the first key while the store is in use."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from sqlalchemy import Row, Table, and_, bindparam, func, select, tuple_, update

from blink_oauth_keeper.errors import SealError

from .sealing import Sealed, Sealer
from .sql_tables import Database, binding_of, grants, journal, key_of, sealed_in

__all__ = ["count_older", "reseal_older"]

logger = logging.getLogger("blink_oauth_keeper.store")

START: dict[Table, tuple[object, ...]] = {grants: ("", "", ""), journal: (0,)}
"""For each table a value that sorts before all its primary keys."""


def _key_names(table: Table) -> list[str]:
    return [column.name for column in table.primary_key]


SELECT_OLDER = {
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
UPDATE_SEAL = {
    table: update(table)
    .where(
        and_(*(column == bindparam(f"the_{column.name}") for column in table.primary_key)),
        table.c.generation == bindparam("expected_generation"),
        table.c.key_id == bindparam("older_key"),
    )
    .values(sealed=bindparam("new_sealed"), key_id=bindparam("new_key_id"))
    for table in START
}
COUNT_OLDER = {
    table: select(func.count()).select_from(table).where(table.c.key_id != bindparam("first_key"))
    for table in START
}


def count_older(database: Database, sealer: Sealer) -> int:
    """Return the number of pairs that are sealed with another key than the first."""
    first = {"first_key": sealer.current().id}
    with database.session() as session:
        return sum(
            row[0] for statement in COUNT_OLDER.values() for row in session.rows(statement, first)
        )


def reseal_older(database: Database, sealer: Sealer, batch: int) -> int:
    """Seal with the first key the pairs of the other keys, and return their number.

    A pair that cannot be opened is skipped, and so is one that is replaced meanwhile.
    """
    count = 0
    for table in START:
        for rows in _older_rows(database, sealer, table, batch):
            resealed = [(row, sealed) for row in rows if (sealed := _reseal(sealer, row))]
            with database.transaction() as session:
                count += sum(
                    session.count(UPDATE_SEAL[table], _update_params(table, row, sealed))
                    for row, sealed in resealed
                )
    return count


def _older_rows(
    database: Database, sealer: Sealer, table: Table, batch: int
) -> Iterator[list[Row[Any]]]:
    after = START[table]
    while True:
        start = {
            f"after_{name}": value for name, value in zip(_key_names(table), after, strict=True)
        }
        keys = {"older_keys": sealer.key_ids[1:], "limit": batch}
        with database.session() as session:
            rows = list(session.rows(SELECT_OLDER[table], start | keys))
        if not rows:
            return
        yield rows
        after = tuple(getattr(rows[-1], name) for name in _key_names(table))


def _reseal(sealer: Sealer, row: Row[Any]) -> Sealed | None:
    sealed, binding = sealed_in(row), binding_of(key_of(row), row)
    try:
        return sealed and sealer.seal(binding, sealer.open(binding, sealed))
    except SealError as error:
        logger.warning("%s", error)
        return None


def _update_params(table: Table, row: Row[Any], sealed: Sealed) -> dict[str, object]:
    return {f"the_{name}": getattr(row, name) for name in _key_names(table)} | {
        "expected_generation": row.generation,
        "older_key": row.key_id,
        "new_sealed": sealed.text,
        "new_key_id": sealed.key_id,
    }
