"""The engine: how it is made, what becomes of it after a fork, what its failures mean.

The tables are created once, by the first process, and their version is checked.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from contextlib import suppress
from pathlib import Path

from sqlalchemy import (
    URL,
    Engine,
    Pool,
    QueuePool,
    create_engine,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
)
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    IntegrityError,
    OperationalError,
    ProgrammingError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from blink_oauth.errors import InvalidInputError
from blink_oauth_keeper.errors import SchemaError, StoreError

from .sql_tables import VERSION, Database, metadata, schema

__all__ = [
    "check_schema",
    "create_schema",
    "engine_for",
    "explain",
    "forget_connections",
    "has_schema",
    "is_conflict",
]

POOL_SIZE = 5
POOL_TIMEOUT = 10.0
CONNECT_TIMEOUT = 5
BUSY_TIMEOUT = 30.0
BUSY_PAUSE = 0.01
OWNER_ONLY = 0o600

# A server that is gone is noticed within about 20 s, also in the middle of a statement.
TCP = {
    "connect_timeout": CONNECT_TIMEOUT,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}

DRIVERS = {"sqlite": "pysqlite", "postgresql": "psycopg"}
SQLITE_SETTINGS = (
    # A claim or a pair that was committed survives a loss of power.
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",
    "PRAGMA secure_delete = ON",
)


def engine_for(database: str | URL | Engine) -> Engine | InvalidInputError:
    """Return an engine for a URL, or the application's own if it can be used.

    An error is returned instead of raised, so that no traceback holds a URL with a password.

    Args:
        database: `sqlite:///…` with a file, `postgresql+psycopg://…`, or an engine for one of them.
    """
    if isinstance(database, Engine):
        return _problem(database.url, database.dialect.name, database.dialect.driver) or database
    try:
        url = make_url(database)
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        dialect = url.get_dialect()
        problem = _problem(url, dialect.name, dialect.driver)
        if problem is None:
            return _sqlite(url) if dialect.name == "sqlite" else _postgresql(url)
    except ArgumentError:
        problem = InvalidInputError(
            "The database must be a URL such as sqlite:///tokens.db or "
            "postgresql+psycopg://user@host/name, or an Engine of SQLAlchemy."
        )
    except ImportError:
        problem = InvalidInputError(
            "PostgreSQL needs psycopg: pip install 'blink-oauth[postgresql]'."
        )
    return problem.with_traceback(None)


def _problem(url: URL, name: str, driver: str) -> InvalidInputError | None:
    if DRIVERS.get(name) != driver:
        return InvalidInputError(
            f"Tokens are kept in SQLite and PostgreSQL, through pysqlite and psycopg, and not in "
            f"{name} through {driver}."
        )
    path = url.database or ""
    if name == "sqlite" and (path in ("", ":memory:") or path.startswith("file:")):
        return InvalidInputError(
            "An SQLite database must be a file, given by its path as in sqlite:///tokens.db: one "
            "in memory would be lost with the process. For that there is MemoryTokenStore."
        )
    return None


def _sqlite(url: URL) -> Engine:
    engine = create_engine(
        url,
        connect_args={"timeout": BUSY_TIMEOUT},
        hide_parameters=True,
        isolation_level="AUTOCOMMIT",
        poolclass=QueuePool,
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
    )
    # A process may change its folder later; SQLAlchemy looks at it now, too.
    path = Path(url.database or "").absolute()
    event.listen(engine, "do_connect", lambda *_: _create(path))
    event.listen(engine, "connect", _set_up)
    return engine


def _postgresql(url: URL) -> Engine:
    # Nothing below leaves anything in the session, so that a pooler may hand each transaction to
    # another connection.
    return create_engine(
        url,
        connect_args={name: value for name, value in TCP.items() if name not in url.query}
        | {"prepare_threshold": None},
        hide_parameters=True,
        isolation_level="AUTOCOMMIT",
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        pool_pre_ping=True,
        use_native_hstore=False,
    )


_creating = threading.Lock()


def _create(path: Path) -> None:
    # SQLite gives the files beside it the mode of the database. To close a file that is in use
    # here would give up the locks on it (POSIX), hence O_EXCL, and nobody connects meanwhile.
    with _creating, suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, OWNER_ONLY))


def _set_up(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    for setting in SQLITE_SETTINGS:
        cursor.execute(setting)
    cursor.execute("PRAGMA journal_mode")
    if cursor.fetchone() != ("wal",):
        _write_ahead(cursor)
    cursor.close()


def _write_ahead(cursor: DBAPICursor) -> None:
    # The mode is kept in the file. Of several that set it at once SQLite refuses all but the first,
    # whatever the timeout.
    end = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(BUSY_PAUSE)
        else:
            return


_inherited: list[Pool] = []


def forget_connections(engine: Engine) -> None:
    """Leave the connections to the parent process, and open others in this one."""
    global _creating  # noqa: PLW0603 - another thread of the parent may hold it
    _creating = threading.Lock()
    # Kept, because to drop a connection would close it, and it is the parent's.
    _inherited.append(engine.pool)
    engine.dispose(close=False)


CONFLICTS = frozenset({"40001", "40P01", "23505"})
"""Serialization failure, deadlock, and a row that another has inserted just now."""
UNKNOWN_TABLES = frozenset({"42P01", "42703", "SQLITE_ERROR"})
"""No such table, no such column, and what SQLite says of either."""
HINTS = {
    "25006": "The database is read-only.",
    "28P01": "The database refuses the password.",
    "3D000": "There is no such database.",
    "42501": "The database refuses the permission.",
    "53300": "The database has too many connections.",
    "55P03": "Somebody held a lock for too long.",
    "57P01": "The server is shutting down.",
    "57P03": "The server is starting or shutting down.",
    "SQLITE_BUSY": "Somebody held the file for too long.",
    "SQLITE_CANTOPEN": "The file cannot be opened.",
    "SQLITE_FULL": "The disk is full.",
    "SQLITE_READONLY": "The file is read-only.",
}


def is_conflict(error: Exception) -> bool:
    """Say whether the database asks to try again, because others were at the same rows."""
    return _code(error) in CONFLICTS


def _code(error: Exception) -> str | None:
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)


def explain(name: str, error: Exception) -> StoreError:
    """Return the error of a store for a failure of its database.

    Args:
        name: What was called.
        error: What SQLAlchemy or the operating system raised.
    """
    code = _code(error)
    cause = error.orig if isinstance(error, DBAPIError) else error
    what = type(cause).__name__ + (f", {code}" if code else "")
    if code in UNKNOWN_TABLES:
        return SchemaError(
            f"The tables of the token store are not those that this version knows ({what}) in "
            f"{name}. Nothing was sent and nothing was changed. Bring them up to date."
        )
    return StoreError(
        f"The token store's database failed in {name} ({what}). {_hint(error, code)} Nothing was "
        "sent. The change was not made, or nobody knows: it does no harm to call it again.",
        retryable=not isinstance(error, DatabaseError) or isinstance(error, OperationalError),
    )


def _hint(error: Exception, code: str | None) -> str:
    if isinstance(error, PoolTimeoutError):
        return "No connection of the pool became free in time."
    if isinstance(error, OSError):
        return f"The file cannot be created: {error.strerror}."
    if isinstance(error, OperationalError) and code is None:
        return "There is no connection to the server."
    return HINTS.get(code or "", "The log of the database may tell more.")


NEWEST = select(func.max(schema.c.version))


def has_schema(database: Database) -> bool:
    """Say whether the tables have been created."""
    with database.session() as session:
        return inspect(session.connection).has_table(schema.name)


def create_schema(database: Database) -> None:
    """Create the tables that are missing, and note their version.

    Raises:
        SchemaError: The tables are of a version that is not known here.
    """
    try:
        with database.transaction() as session:
            metadata.create_all(session.connection)
            if session.connection.scalar(NEWEST) is None:
                session.count(insert(schema), {"version": VERSION})
    except (IntegrityError, ProgrammingError):
        # PostgreSQL lets several begin to create a table, and refuses all but the first.
        if not has_schema(database):
            raise
    check_schema(database)


def check_schema(database: Database) -> None:
    """Look whether the tables are there, and of a version that is known here.

    Tables that a migration has created may come without a version: they are taken as they are.

    Raises:
        SchemaError: They are missing, or newer than this library.
    """
    if not has_schema(database):
        raise SchemaError(
            f"The tables of the token store are missing ({schema.name} is). Nothing was sent. Call "
            "create_schema() once, or include blink_oauth_keeper.metadata in your "
            "migrations."
        )
    with database.session() as session:
        version = session.connection.scalar(NEWEST)
    if version is not None and version > VERSION:
        raise SchemaError(
            f"The tables of the token store have version {version}, and this library knows no "
            f"more than version {VERSION}. Nothing was sent. Update the library on this machine."
        )
