"""Everything that touches the engine: how it is made, statements, transactions, failures, tables.

Statements and transactions leave nothing behind in the connection that they used. The tables are
created once, by the first process, and their version is checked.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from attrs import define
from sqlalchemy import (
    URL,
    Connection,
    Engine,
    Executable,
    Pool,
    QueuePool,
    Row,
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
    SQLAlchemyError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from blink_oauth.errors import InvalidInputError
from blink_oauth_keeper.errors import SchemaError, StoreError

from .sql_statements import NOTE, Change, noted
from .sql_tables import VERSION, metadata, schema

__all__ = [
    "Database",
    "Session",
    "check_schema",
    "create_schema",
    "engine_for",
    "forget_connections",
    "has_schema",
    "operation",
]

BEGIN = {
    # The lock is taken at once: a transaction that only asks for it later may be refused.
    "sqlite": "BEGIN IMMEDIATE",
    # Nobody waits for ever: neither we for a lock, nor others for one of a process that stopped.
    "postgresql": (
        "BEGIN; SET LOCAL lock_timeout = '10s'; "
        "SET LOCAL idle_in_transaction_session_timeout = '10s'"
    ),
}
SEVERAL_STATEMENTS = {"no_parameters": True}


@define(eq=False)
class Session:
    """A connection on loan, and the moment by which its statements go.

    Args:
        connection: The connection.
        moment: Holds `now` where a test brings its own clock.
    """

    connection: Connection
    moment: Mapping[str, object]

    def rows(self, statement: Executable, parameters: Mapping[str, object]) -> Sequence[Row[Any]]:
        """Execute a statement and return its rows, all of them."""
        return self.connection.execute(statement, {**parameters, **self.moment}).all()

    def row(self, statement: Executable, parameters: Mapping[str, object]) -> Row[Any] | None:
        """Execute a statement and return its row, or None."""
        return next(iter(self.rows(statement, parameters)), None)

    def count(self, statement: Executable, parameters: Mapping[str, object]) -> int:
        """Execute a statement and return how many rows it changed."""
        return self.connection.execute(statement, {**parameters, **self.moment}).rowcount

    def change(self, change: Change, parameters: Mapping[str, object]) -> Row[Any] | None:
        """Change a grant and write its line of the history; return its row, or None."""
        if self.connection.dialect.name == "postgresql":
            return self.row(noted(change), parameters)
        row = self.row(change, parameters)
        if row is not None:
            self.count(NOTE, {**parameters, "new_generation": row.generation})
        return row


@define(eq=False)
class Database:
    """Where statements are executed.

    Args:
        engine: An engine for SQLite or PostgreSQL, in autocommit mode.
        clock: Returns the present moment in place of the database, aware; None in production.
    """

    engine: Engine
    clock: Callable[[], datetime] | None

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Lend a connection on which every statement is committed at once."""
        with self.engine.connect() as connection:
            yield Session(connection, {"now": self.clock() if self.clock else None})

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Lend a connection for one transaction that changes something."""
        with self.session() as session:
            connection = session.connection
            begin = BEGIN[connection.dialect.name]
            connection.exec_driver_sql(begin, execution_options=SEVERAL_STATEMENTS)
            try:
                yield session
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise

    @contextmanager
    def one_change(self) -> Iterator[Session]:
        """Lend a connection for a single `change`: on PostgreSQL that is a single statement."""
        by_itself = self.engine.dialect.name == "postgresql"
        with self.session() if by_itself else self.transaction() as session:
            yield session


def _roll_back(connection: Connection) -> None:
    try:
        if not connection.invalidated:
            connection.exec_driver_sql("ROLLBACK")
    except DBAPIError:
        # What cannot be rolled back goes, and takes its transaction with it.
        connection.invalidate()


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


_inherited: list[Pool] = []


def forget_connections(engine: Engine) -> None:
    """Leave the connections to the parent process, and open others in this one."""
    global _creating  # noqa: PLW0603 - another thread of the parent may hold it
    _creating = threading.Lock()
    # Kept, because to drop a connection would close it, and it is the parent's.
    _inherited.append(engine.pool)
    engine.dispose(close=False)


ATTEMPTS = 10
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


P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def operation(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let a method of a store raise nothing but `StoreError` where its database fails.

    Where the database asks for it, because others were at the same rows, the method runs again.
    """

    @wraps(method)
    def run(store: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for left in reversed(range(ATTEMPTS)):
            try:
                return method(store, *args, **kwargs)
            except (SQLAlchemyError, OSError) as error:
                if left and _code(error) in CONFLICTS:
                    continue
                problem = _explain(method.__name__, error)
                break
        # Raised out here, where no context holds the parameters of the statement.
        raise problem

    return run


def _code(error: Exception) -> str | None:
    cause = getattr(error, "orig", None)
    return getattr(cause, "sqlstate", None) or getattr(cause, "sqlite_errorname", None)


def _explain(name: str, error: Exception) -> StoreError:
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
