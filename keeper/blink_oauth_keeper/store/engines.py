"""Engines for SQLite files and PostgreSQL."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from contextlib import suppress
from pathlib import Path

from sqlalchemy import URL, Engine, Pool, QueuePool, create_engine, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection, DBAPICursor
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import ConnectionPoolEntry

from blink_oauth.errors import InvalidInputError

__all__ = ["engine_for", "forget_in_children"]

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
            "The driver for this database is missing: pip install 'psycopg[binary]'."
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


_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
_inherited: list[Pool] = []


def forget_in_children(engine: Engine) -> None:
    """Make forked children open connections of their own, and leave their parent's alone."""
    _engines.add(engine)


def _leave_to_the_parent() -> None:
    global _creating  # noqa: PLW0603 - another thread of the parent may hold it
    _creating = threading.Lock()
    for engine in list(_engines):
        # Kept, because to drop a connection would close it, and it is the parent's.
        _inherited.append(engine.pool)
        engine.dispose(close=False)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)
