"""The engine of the SQL store: its settings, its pool in a fork, and its errors."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from sqlalchemy import (
    URL,
    Engine,
    Pool,
    QueuePool,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import (
    ArgumentError,
    DatabaseError,
    DBAPIError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from blink_oauth.errors import InvalidInputError
from blink_oauth_keeper.errors import SchemaError, StoreError
from blink_oauth_keeper.processes import close_before_fork, fork_gate, reset_after_fork

__all__ = [
    "engine_for",
    "error_code",
    "is_conflict",
    "operation_on",
    "prepare_for_forks",
    "store_error_for",
]

POOL_SIZE = 5
POOL_TIMEOUT = 10.0
CONNECT_TIMEOUT = 5
BUSY_TIMEOUT = 30.0
BUSY_PAUSE = 0.01
OWNER_ONLY = 0o600
LISTED_DESCRIPTORS = 1024
"""How many file descriptors are examined where the system does not list the open ones."""

# A server that cannot be reached is detected within about 20 s, also during a statement.
TCP_OPTIONS = {
    "connect_timeout": CONNECT_TIMEOUT,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}

DRIVERS = {"sqlite": "pysqlite", "postgresql": "psycopg"}
SQLITE_SETTINGS = (
    # Committed claims and pairs survive a loss of power.
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",
    "PRAGMA secure_delete = ON",
)


def engine_for(database: str | URL | Engine) -> Engine | InvalidInputError:
    """Return an engine for a URL, or the application's engine if it is supported.

    An error is returned and not raised, so that no traceback contains a URL with a password.

    Args:
        database: `sqlite:///…` with a file, `postgresql+psycopg://…`, or an engine for one of them.
    """
    if isinstance(database, Engine):
        dialect = database.dialect
        return _unsupported(database.url, dialect.name, dialect.driver) or database
    try:
        url = make_url(database)
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")
        kind = url.get_dialect()
        error = _unsupported(url, kind.name, kind.driver)
        if error is None:
            return _sqlite(url) if kind.name == "sqlite" else _postgresql(url)
    except ArgumentError:
        error = InvalidInputError(
            "The database must be a URL such as sqlite:///tokens.db or "
            "postgresql+psycopg://user@host/name, or an Engine of SQLAlchemy."
        )
    except ImportError:
        error = InvalidInputError(
            "PostgreSQL needs psycopg: pip install 'blink-oauth[postgresql]'."
        )
    return error.with_traceback(None)


def _unsupported(url: URL, name: str, driver: str) -> InvalidInputError | None:
    if DRIVERS.get(name) != driver:
        return InvalidInputError(
            "The database must be SQLite with the driver pysqlite, or PostgreSQL with psycopg. "
            f"It is {name} with {driver}."
        )
    path = url.database or ""
    if name == "sqlite" and (path in ("", ":memory:") or path.startswith("file:")):
        return InvalidInputError(
            "An SQLite database must be a file, given by its path as in sqlite:///tokens.db. To "
            "keep tokens in memory, use MemoryTokenStore."
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
    # The process may change its working directory; SQLAlchemy resolves the path now, too.
    path = Path(url.database or "").absolute()
    event.listen(engine, "do_connect", lambda *_: _create_file(path))
    event.listen(engine, "connect", _configure_sqlite)
    return engine


def _postgresql(url: URL) -> Engine:
    # These settings leave no session state, so a pooler may give each transaction another
    # connection.
    return create_engine(
        url,
        connect_args={name: value for name, value in TCP_OPTIONS.items() if name not in url.query}
        | {"prepare_threshold": None},
        hide_parameters=True,
        isolation_level="AUTOCOMMIT",
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        pool_pre_ping=True,
        use_native_hstore=False,
    )


_file_lock = threading.Lock()


def _create_file(path: Path) -> None:
    # SQLite gives its other files the mode of this one. Closing a file that SQLite has open in this
    # process would release SQLite's locks on it (POSIX): hence O_EXCL, and the lock.
    with _file_lock, suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, OWNER_ONLY))


def _configure_sqlite(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    for setting in SQLITE_SETTINGS:
        cursor.execute(setting)
    cursor.execute("PRAGMA journal_mode")
    if cursor.fetchone() != ("wal",):
        _enable_wal(cursor)
    cursor.close()


def _enable_wal(cursor: DBAPICursor) -> None:
    # The file stores the mode. If several connections set it at the same time, SQLite refuses all
    # but the first, whatever the timeout.
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


_parent_pools: list[Pool] = []
_earlier_pools: weakref.WeakSet[Pool] = weakref.WeakSet()
_inherited: weakref.WeakSet[Engine] = weakref.WeakSet()
INHERITED = (
    "The SQLite file was open when this process was forked, so that a change of this process could "
    "be lost. Nothing was read or changed. Fork while no connection to the file is in use, or "
    "start this process by another method, such as spawn."
)


def prepare_for_forks(engine: Engine) -> None:
    """Let a forked child use an engine: with connections of its own.

    SQLite keeps book of its locks for each process. A child that inherits an open file inherits the
    book, and another process never sees what the child writes. So no connection to an SQLite file
    stays open during a fork.
    """
    path = None
    if engine.dialect.name == "sqlite":
        path = Path(engine.url.database or "").absolute()
        close_before_fork(engine, _close_idle)
    reset_after_fork(engine, partial(_replace_pool, path=path))


def _close_idle(engine: Engine) -> None:
    # A connection that was in use at an earlier fork was returned to the pool of that time.
    for pool in list(_earlier_pools):
        pool.dispose()
    _earlier_pools.add(engine.pool)
    engine.dispose()


def _replace_pool(engine: Engine, path: Path | None) -> None:
    global _file_lock  # noqa: PLW0603 - another thread of the parent may hold it
    _file_lock = threading.Lock()
    # Keeps a reference: garbage collection would close the parent's connections.
    _parent_pools.append(engine.pool)
    engine.dispose(close=False)
    if path is not None and _is_open(path):
        _inherited.add(engine)


def _is_open(path: Path) -> bool:
    """Return whether this process has a file open, even outside SQLAlchemy."""
    with suppress(OSError):
        file = path.stat()
        for descriptor in _descriptors():
            with suppress(OSError):
                if os.path.samestat(os.fstat(descriptor), file):
                    return True
    return False


def _descriptors() -> list[int]:
    try:
        return [int(entry.name) for entry in Path("/dev/fd").iterdir()]
    except OSError:
        return list(range(LISTED_DESCRIPTORS))


@contextmanager
def operation_on(engine: Engine) -> Iterator[None]:
    """Run an operation on the database; on SQLite, none runs during a fork.

    Raises:
        StoreError: The process has inherited an open SQLite file.
    """
    if engine.dialect.name != "sqlite":
        yield
        return
    with fork_gate.operation():
        if engine in _inherited:
            raise StoreError(INHERITED, retryable=False)
        yield


CONFLICTS = frozenset({"40001", "40P01", "23505"})
"""Serialization failure, deadlock, and a row that another transaction inserted."""
UNKNOWN_TABLES = frozenset({"42P01", "42703", "SQLITE_ERROR"})
"""Unknown table, unknown column, and SQLite's code for both."""
READS = frozenset(
    {
        *("load", "journal_entries", "due", "records", "history"),
        *("unreadable", "count_older_seals"),
    }
)
"""The operations that change nothing."""
READ_FAILED = "Nothing was changed."
CHANGE_FAILED = "It is unknown whether the change was made: the call can be repeated without harm."
HINTS = {
    "25006": "The database is read-only.",
    "28P01": "The database refuses the password.",
    "3D000": "The database does not exist.",
    "42501": "The role lacks a permission.",
    "53300": "The database has too many connections.",
    "55P03": "Another transaction kept a row or table locked for too long.",
    "57P01": "The server is shutting down.",
    "57P03": "The server is starting or shutting down.",
    "SQLITE_BUSY": "Another connection kept the file locked for too long.",
    "SQLITE_CANTOPEN": "The file cannot be opened.",
    "SQLITE_FULL": "The disk is full.",
    "SQLITE_READONLY": "The file is read-only.",
}


def is_conflict(error: Exception) -> bool:
    """Return whether an error is a conflict between transactions, so that a retry may succeed."""
    return error_code(error) in CONFLICTS


def error_code(error: Exception) -> str | None:
    """Return the SQLSTATE of PostgreSQL or the name of SQLite's error code, or None."""
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)


def store_error_for(operation: str, error: Exception) -> StoreError:
    """Return the `StoreError` for an error of the database.

    Args:
        operation: The name of the method that failed.
        error: The exception of SQLAlchemy or the operating system.
    """
    code = error_code(error)
    cause = error.orig if isinstance(error, DBAPIError) else error
    what = type(cause).__name__ + (f", {code}" if code else "")
    if code in UNKNOWN_TABLES:
        return SchemaError(
            f"The tables of the token store do not match this version of the library ({what}, in "
            f"{operation}). Nothing was changed. Migrate the tables."
        )
    return StoreError(
        f"The token store's database failed in {operation} ({what}). {_hint(error, code)} "
        f"{READ_FAILED if operation in READS else CHANGE_FAILED}",
        retryable=not isinstance(error, DatabaseError) or isinstance(error, OperationalError),
    )


def _hint(error: Exception, code: str | None) -> str:
    if isinstance(error, PoolTimeoutError):
        return "No connection of the pool became free in time."
    if isinstance(error, OSError):
        return f"The file cannot be created: {error.strerror}."
    if isinstance(error, OperationalError) and code is None:
        return "There is no connection to the server."
    return HINTS.get(code or "", "See the log of the database.")
