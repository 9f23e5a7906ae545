"""The engine of the SQL store: its settings, its pool in a fork, and its errors."""

from __future__ import annotations

import os
import selectors
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import (
    URL,
    Dialect,
    Engine,
    ExceptionContext,
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
    DisconnectionError,
    InvalidatePoolError,
    OperationalError,
)
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.pool import ConnectionPoolEntry

from blink_oauth.errors import InvalidInputError
from blink_oauth_keeper.errors import SchemaError, StoreError
from blink_oauth_keeper.processes import (
    close_before_fork,
    existing,
    fork_gate,
    reset_after_fork,
)

from .sql_statements import NEEDED_CHANGES
from .sql_tables import Database

__all__ = [
    "check_settings",
    "check_writable",
    "drop_lost_connections",
    "engine_for",
    "error_code",
    "is_conflict",
    "operation_on",
    "ping_idle_connections",
    "prepare_for_forks",
    "shown_url",
    "store_error_for",
]

POOL_SIZE = 5
POOL_TIMEOUT = 10.0
PING_AFTER = 1.0
"""Seconds after which an idle connection is pinged before its next use."""
USED_AT = "blink_oauth_used_at"
CONNECT_TIMEOUT = 5
BUSY_TIMEOUT = 30.0
BUSY_PAUSE = 0.01
OWNER_ONLY = 0o600
FULL = 2
"""The value of `PRAGMA synchronous` at which a commit survives a loss of power."""
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

# Whatever the encoding of the database is; as a startup parameter it leaves no session state.
ENCODING = {"client_encoding": "utf8"}
DRIVERS = {"sqlite": "pysqlite", "postgresql": "psycopg"}
SQLITE = "sqlite:///"
JOURNAL_MODE = "PRAGMA journal_mode"
UNWRITABLE = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
SQLITE_SETTINGS = (
    # Committed claims and pairs survive a loss of power.
    "PRAGMA synchronous = FULL",
    "PRAGMA fullfsync = ON",
    "PRAGMA secure_delete = ON",
)


def engine_for(
    database: str | URL | Path | Engine, *, create: bool = True
) -> Engine | InvalidInputError:
    """Return an engine for a URL, or the application's engine if it is supported.

    An error is returned and not raised, so that no traceback contains a URL with a password.

    Args:
        database: `sqlite:///…` with a file, the path of a file, `postgresql+psycopg://…`, or an
            engine for one of them.
        create: Whether to create an SQLite file that is missing, and set what the file keeps.
    """
    if isinstance(database, Engine):
        return _unsupported(database.url, database.dialect) or database
    try:
        url = _url_of(database)
        if url.drivername in {"postgresql", "postgres"}:
            url = url.set(drivername="postgresql+psycopg")
        kind = url.get_dialect()
        error = _unsupported(url, kind) or _with_query(database, url) or _unescaped(url)
        if error is None:
            return _sqlite(url, create) if kind.name == "sqlite" else _postgresql(url)
    except (ArgumentError, ValueError):
        # `make_url` raises a ValueError that quotes what it takes for the port.
        error = InvalidInputError(
            "The database must be a URL such as sqlite:///tokens.db or "
            "postgresql+psycopg://user@host/name, or an Engine of SQLAlchemy."
        )
    except ImportError:
        error = InvalidInputError(
            "PostgreSQL needs psycopg: pip install 'blink-oauth[postgresql]'."
        )
    return error.with_traceback(None)


def _url_of(database: str | URL | Path) -> URL:
    # Some versions of SQLAlchemy decode a path in a URL, so that %20 would be another file.
    if isinstance(database, Path):
        return URL.create("sqlite", database=str(database.absolute()))
    if isinstance(database, str) and database.startswith(SQLITE) and "?" not in database:
        return URL.create("sqlite", database=database.removeprefix(SQLITE))
    return make_url(database)


def _with_query(database: str | URL | Path, url: URL) -> InvalidInputError | None:
    has_query = url.query or (isinstance(database, str) and "?" in database)
    if url.get_backend_name() != "sqlite" or not has_query:
        return None
    return InvalidInputError(
        "The URL of an SQLite file must have no query: what follows a question mark is no part of "
        "the path. Pass a path with a question mark as a pathlib.Path."
    )


def _unescaped(url: URL) -> InvalidInputError | None:
    """Return an error if a part of a password may have been taken for the host or the database."""
    if url.get_backend_name() == "sqlite" or "@" not in f"{url.host}{url.database}":
        return None
    return InvalidInputError(
        "The URL of the database has an @ in its host or name. In user and password, write @ as "
        "%40, / as %2F, : as %3A and % as %25."
    )


def shown_url(engine: Engine) -> str:
    """Return the URL of an engine for people: without a secret, and an SQLite path as it is."""
    if engine.dialect.name == "sqlite":
        return f"{SQLITE}{engine.url.database}"
    # The query of a URL may contain a password.
    return engine.url.set(query={}).render_as_string()


def _unsupported(url: URL, dialect: Dialect | type[Dialect]) -> InvalidInputError | None:
    name, driver = dialect.name, dialect.driver
    if DRIVERS.get(name) != driver or dialect.is_async:
        kind = "asynchronous " * dialect.is_async
        return InvalidInputError(
            "The database must be SQLite with the driver pysqlite, or PostgreSQL with psycopg. "
            f"It is {name} with the {kind}driver {driver}. Any event loop can use the store: its "
            "manager has coroutines."
        )
    path = url.database or ""
    if name == "sqlite" and (path in ("", ":memory:") or path.startswith("file:")):
        return InvalidInputError(
            "An SQLite database must be a file, given by its path as in sqlite:///tokens.db. To "
            "keep tokens in memory, use MemoryTokenStore."
        )
    return None


def _sqlite(url: URL, create: bool) -> Engine:
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
    event.listen(engine, "do_connect", partial(_open_file, path, create=create))
    if create:
        event.listen(engine, "connect", _configure_sqlite)
    event.listen(engine, "checkout", _reopen_immutable)
    return engine


def _postgresql(url: URL) -> Engine:
    # These settings leave no session state, so a pooler may give each transaction another
    # connection.
    return create_engine(
        url,
        connect_args={name: value for name, value in TCP_OPTIONS.items() if name not in url.query}
        | ENCODING
        | {"prepare_threshold": None},
        hide_parameters=True,
        isolation_level="AUTOCOMMIT",
        pool_size=POOL_SIZE,
        max_overflow=0,
        pool_timeout=POOL_TIMEOUT,
        use_native_hstore=False,
    )


def ping_idle_connections(engine: Engine, monotonic: Callable[[], float]) -> None:
    """Replace a lost connection to PostgreSQL before it is used, with few pings.

    A connection that was in use a moment ago is not pinged, unless the server has sent something
    since, such as the end of the session.

    Args:
        engine: An engine of the store.
        monotonic: Returns seconds of a clock that never goes back.
    """
    dialect = engine.dialect

    def checkin(_: object, record: ConnectionPoolEntry) -> None:
        record.info[USED_AT] = monotonic()

    def checkout(connection: DBAPIConnection, record: ConnectionPoolEntry, _: object) -> None:
        used_at = record.info.get(USED_AT)
        if used_at is None:
            return
        try:
            if monotonic() - used_at >= PING_AFTER or _has_input(connection):
                dialect.do_ping(connection)
        except dialect.loaded_dbapi.Error:
            # The pool opens a new connection, and trusts none that is as old as this one.
            raise InvalidatePoolError from None

    if dialect.name == "postgresql":
        event.listen(engine, "checkin", checkin)
        event.listen(engine, "checkout", checkout)


def _has_input(connection: Any) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(connection, selectors.EVENT_READ)
        return bool(selector.select(0))


_file_lock = threading.Lock()


def _create_file(path: Path) -> None:
    # SQLite gives its other files the mode of this one. Closing a file that SQLite has open in this
    # process would release SQLite's locks on it (POSIX): hence O_EXCL, and the lock. O_EXCL follows
    # no link, hence the real path.
    with _file_lock, suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, OWNER_ONLY))


def _open_file(
    path: Path,
    dialect: Dialect,
    record: ConnectionPoolEntry,
    arguments: list[Any],
    options: dict[str, Any],
    *,
    create: bool,
) -> DBAPIConnection:
    path = Path(os.path.realpath(path))
    if create:
        _create_file(path)
        connection = dialect.connect(*arguments, **options)
    else:
        connection = dialect.connect(f"{path.as_uri()}?mode=rw", **options | {"uri": True})
    cursor = connection.cursor()
    try:
        cursor.execute(JOURNAL_MODE)
    except sqlite3.Error as error:
        connection.close()
        # A reader writes too: an index of the write-ahead log, in a file beside it.
        is_closed = not path.with_name(f"{path.name}-wal").exists()
        if _primary_code(error) not in UNWRITABLE or not is_closed:
            raise
    else:
        cursor.close()
        return connection
    connection = dialect.connect(f"{path.as_uri()}?immutable=1", **options | {"uri": True})
    record.info[IMMUTABLE] = record.info[UNUSED] = True
    return connection


IMMUTABLE, UNUSED = "blink_oauth_immutable", "blink_oauth_unused"


def _reopen_immutable(_: object, record: ConnectionPoolEntry, __: object) -> None:
    # Such a connection ignores later changes, so it is good for one use.
    if record.info.get(IMMUTABLE) and not record.info.pop(UNUSED, False):
        raise DisconnectionError


def _configure_sqlite(connection: DBAPIConnection, record: ConnectionPoolEntry) -> None:
    cursor = connection.cursor()
    try:
        for setting in SQLITE_SETTINGS:
            cursor.execute(setting)
        cursor.execute(JOURNAL_MODE)
        if cursor.fetchone() != ("wal",) and not record.info.get(IMMUTABLE):
            _use_wal(cursor)
    except sqlite3.Error:
        # The pool does not know it yet, and would leave it open.
        connection.close()
        raise
    cursor.close()


def _use_wal(cursor: DBAPICursor) -> None:
    try:
        _enable_wal(cursor)
    except sqlite3.OperationalError as error:
        if _primary_code(error) not in UNWRITABLE:
            raise
        # It can still serve what is stored.
        cursor.execute("PRAGMA query_only = ON")


def _primary_code(error: sqlite3.Error) -> int:
    return error.sqlite_errorcode & 0xFF


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
_earlier_pools: weakref.WeakKeyDictionary[Pool, None] = weakref.WeakKeyDictionary()
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
    for pool, _ in existing(_earlier_pools):
        pool.dispose()
    _earlier_pools[engine.pool] = None
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


LOST = frozenset({"25006", "25P03", "57P01", "57P02", "57P03", "57P05"})
"""The server is or becomes a standby, ended the session, stops or starts."""
LOST_CLASSES = ("08", "SQLITE_CANTOPEN", "SQLITE_IOERR", "SQLITE_READONLY")
"""Exceptions of the connection, and a file that another connection may be able to change."""


def drop_lost_connections(engine: Engine) -> None:
    """Let the pool open new connections after an error that others may not have.

    After a failover, an old connection leads to the former primary, which answers reads for ever.
    On the application's engine, only the errors of the store's own statements count.
    """
    # SQLAlchemy calls the listener for all engines that share the application's pool.
    event.listen(engine, "handle_error", partial(_mark_lost, weakref.ref(engine)))


def _mark_lost(engine: weakref.ref[Engine], context: ExceptionContext) -> None:
    code = _code_of(context.original_exception) or ""
    if context.engine is not engine():
        return
    if code in LOST or code.startswith(LOST_CLASSES):
        context.is_disconnect = True


CONFLICTS = frozenset({"40001", "40P01", "23505"})
"""Serialization failure, deadlock, and a row that another transaction inserted."""
UNKNOWN_TABLES = frozenset({"42P01", "42703", "SQLITE_ERROR"})
"""Unknown table, unknown column, and SQLite's code for both."""
READS = frozenset(
    {
        *("load", "journal_entries", "due", "records", "history"),
        *("unreadable", "count_older_seals", "count_unknown_seals", "client_ids"),
        *("has_store", "pairs_by_key"),
    }
)
"""The operations that change nothing."""
READ_FAILED = "Nothing was changed."
CHANGE_FAILED = "It is unknown whether the change was made: the call can be repeated without harm."
HINTS = {
    "22P05": "The encoding of the database lacks a character: use a database in UTF8.",
    "25006": "The database is read-only: a standby, or set so.",
    "28P01": "The database refuses the password.",
    "3D000": "The database does not exist.",
    "42501": "The role lacks a permission.",
    "53300": "The database has too many connections.",
    "55P03": "Another transaction kept a row or table locked for too long.",
    "57P01": "The server is shutting down.",
    "57P03": "The server is starting or shutting down.",
    "SQLITE_BUSY": "Another connection kept the file locked for too long.",
    "SQLITE_CANTOPEN": "The file, or one beside it, cannot be opened.",
    "SQLITE_FULL": "The disk is full.",
    "SQLITE_NOTADB": "The file is no SQLite database.",
    "SQLITE_READONLY": "The file or its folder is read-only.",
}


def is_conflict(error: Exception) -> bool:
    """Return whether an error is a conflict between transactions, so that a retry may succeed."""
    return error_code(error) in CONFLICTS


def error_code(error: Exception) -> str | None:
    """Return the SQLSTATE of PostgreSQL or the name of SQLite's error code, or None."""
    return _code_of(getattr(error, "orig", None))


def _code_of(cause: BaseException | None) -> str | None:
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
    if isinstance(error, FileNotFoundError):
        return f"The folder {Path(error.filename).parent} does not exist: make it."
    if isinstance(error, OSError):
        return f"The file cannot be created: {error.strerror}."
    if isinstance(error, OperationalError) and code is None:
        return "There is no connection to the server."
    # SQLITE_READONLY_DIRECTORY is a kind of SQLITE_READONLY.
    primary = "_".join((code or "").split("_")[:2])
    return HINTS.get(primary, "See the log of the database.")


SESSION_SETTINGS = {
    "postgresql": (
        "SELECT current_setting('client_encoding'), current_setting('DateStyle'), "
        "current_setting('synchronous_commit')"
    ),
    "sqlite": ("SELECT synchronous, journal_mode FROM pragma_synchronous, pragma_journal_mode"),
}


def check_settings(database: Database) -> None:
    """Check that the settings of a session keep what is stored readable and durable.

    Raises:
        StoreError: A setting does not.
    """
    name = database.engine.dialect.name
    try:
        with database.session() as session:
            found = tuple(session.connection.exec_driver_sql(SESSION_SETTINGS[name]).one())
    except TypeError:
        # From a session in SQL_ASCII psycopg returns bytes, and SQLAlchemy expects text.
        found = ("SQL_ASCII", "ISO", "on")
    problem = _sqlite_problem(*found) if name == "sqlite" else _postgresql_problem(*found)
    if problem:
        raise StoreError(
            f"The token store's database cannot be used: {problem} Nothing was read or changed.",
            retryable=False,
        )


def _postgresql_problem(encoding: str, date_style: str, synchronous_commit: str) -> str | None:
    if encoding != "UTF8":
        return (
            f"the encoding of its session is {encoding}, not UTF8. Pass "
            'connect_args={"client_encoding": "utf8"} to your engine.'
        )
    if not date_style.startswith("ISO"):
        return (
            f"DateStyle is {date_style}, and times can be read in ISO only. Set it for the role: "
            "ALTER ROLE … SET DateStyle = 'ISO'."
        )
    if synchronous_commit == "off":
        return (
            "synchronous_commit is off, so that a crash of the server can lose a stored token. Set "
            "it for the role: ALTER ROLE … SET synchronous_commit = on."
        )
    return None


def _sqlite_problem(synchronous: int, journal_mode: str) -> str | None:
    if synchronous < FULL or journal_mode in {"off", "memory"}:
        return (
            f"with PRAGMA synchronous = {synchronous} and journal_mode = {journal_mode}, a loss of "
            "power can lose a stored token. Set synchronous = FULL, and journal_mode to WAL or "
            "DELETE."
        )
    return None


class RolledBackError(Exception):
    """Rolls back a transaction in which nothing failed."""


def check_writable(database: Database) -> None:
    """Check that the database takes the changes that keep a result, without making one.

    Otherwise a missing permission would show only when a refresh token or code is spent.
    """
    with suppress(RolledBackError), database.transaction() as session:
        for change in NEEDED_CHANGES:
            session.count(change, {})
        raise RolledBackError
