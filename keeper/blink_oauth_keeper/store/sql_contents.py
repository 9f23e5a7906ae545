"""What a database has of a token store, read without its keys. Nothing is created or changed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from sqlalchemy import URL, Connection, Engine, func, inspect, or_, select, union_all
from sqlalchemy.exc import SQLAlchemyError

from blink_oauth.errors import InvalidInputError
from blink_oauth_keeper.processes import fork_gate

from .rules import PSEUDONYM, PSEUDONYM_LENGTH
from .sql_engine import engine_for, store_error_for
from .sql_tables import grants, journal, store_key

__all__ = ["grant_names", "has_store", "pairs_by_key"]

R = TypeVar("R")

SEALED = union_all(
    *(select(table.c.key_id).where(table.c.key_id.is_not(None)) for table in (grants, journal))
).subquery()
PAIRS_BY_KEY = select(SEALED.c.key_id, func.count()).group_by(SEALED.c.key_id).order_by("key_id")


def has_store(database: str | URL | Path) -> bool:
    """Return whether a database has the tables of a token store.

    Args:
        database: The URL of a database, or the path of an SQLite file that exists.

    Raises:
        InvalidInputError: The database is not supported.
        StoreError: The database cannot be read.
    """
    engine = engine_for(database, create=False)
    del database
    return _read("has_store", engine, lambda connection: inspect(connection).has_table(grants.name))


def pairs_by_key(database: str | URL | Path) -> Mapping[str, int]:
    """Return the number of stored pairs by the id of the key that sealed them; it reads all rows.

    The store's own key counts as a pair.

    Args:
        database: The URL of a database, or the path of an SQLite file that exists.

    Raises:
        InvalidInputError: The database is not supported.
        SchemaError: The database has no tables of a token store.
        StoreError: The database cannot be read.
    """
    engine = engine_for(database, create=False)
    del database
    return _read("pairs_by_key", engine, _pairs_by_key)


def _pairs_by_key(connection: Connection) -> Mapping[str, int]:
    pairs = Counter({row[0]: row[1] for row in connection.execute(PAIRS_BY_KEY)})
    # Tables of an older version lack it.
    if inspect(connection).has_table(store_key.name):
        pairs.update(connection.scalars(select(store_key.c.key_id)))
    return dict(sorted(pairs.items()))


def grant_names(
    database: str | URL | Path, client_id: str, *, beginning: str, limit: int
) -> Sequence[str]:
    """Return the names `TARGET/USERNAME` of a client's grants, sorted by target and username.

    Args:
        database: The URL of a database, or the path of an SQLite file that exists.
        client_id: The client's id.
        beginning: What the names begin with.
        limit: Number of names at most.

    Raises:
        InvalidInputError: The database is not supported.
        StoreError: The database cannot be read, or has no tables of a token store.
    """
    name = grants.c.target_id + "/" + grants.c.username
    query = (
        select(name)
        .where(
            grants.c.client_id == client_id,
            # LIKE of SQLite would ignore the case of letters.
            func.substr(name, 1, len(beginning)) == beginning,
            # Not `forget_generation`: tables of an older version lack it.
            or_(
                func.substr(grants.c.username, 1, len(PSEUDONYM)) != PSEUDONYM,
                func.length(grants.c.username) != PSEUDONYM_LENGTH,
            ),
        )
        .order_by(grants.c.target_id, grants.c.username)
        .limit(limit)
    )
    engine = engine_for(database, create=False)
    del database
    return _read("grant_names", engine, lambda connection: connection.scalars(query).all())


def _read(operation: str, engine: Engine | InvalidInputError, read: Callable[[Connection], R]) -> R:
    if isinstance(engine, InvalidInputError):
        raise engine
    try:
        with fork_gate.operation(), engine.connect() as connection:
            return read(connection)
    except (SQLAlchemyError, OSError) as error:
        store_error = store_error_for(operation, error)
    finally:
        engine.dispose()
    # Raised outside `except`: a chained exception would show the URL.
    raise store_error
