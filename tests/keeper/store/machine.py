"""A machine whose clocks a test sets, for stores in an SQLite file or in PostgreSQL."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from attrs import define, field
from sqlalchemy import Engine, create_engine, event, make_url, text

from blink_oauth import Secret
from blink_oauth_keeper import SqlTokenStore
from blink_oauth_keeper.clocks import BootClock

__all__ = ["Machine"]

START = datetime(2030, 5, 17, 9, 30, tzinfo=UTC)
# Found before PostgreSQL's own function, if the search path says so.
OWN_FUNCTION = """
CREATE TABLE test_clock (seconds double precision);
INSERT INTO test_clock VALUES (0);
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql VOLATILE AS
    'SELECT pg_catalog.clock_timestamp() + make_interval(secs => seconds) FROM public.test_clock'
"""
SEARCH_PATH = "-c search_path=public,pg_catalog"


@define(eq=False)
class Machine:
    """A machine with a database; each store is in a process of its own.

    The functions of the database that return the current time use the wall clock of this machine.

    Args:
        url: The database.
        key: The key of the stores.
    """

    url: str
    key: Secret
    boot: str = "first boot"
    wall: datetime = START
    seconds: float = 1_000.0
    _engines: list[Engine] = field(init=False, factory=list)
    _calculators: list[sqlite3.Connection] = field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        if not self.is_sqlite:
            self.execute(OWN_FUNCTION)
        self.store().create_schema()

    @property
    def is_sqlite(self) -> bool:
        """Whether the database is an SQLite file."""
        return make_url(self.url).get_backend_name() == "sqlite"

    def store(
        self, *, read_only: bool = False, before_update: Callable[[], None] | None = None
    ) -> SqlTokenStore:
        """Start a process, and return its store.

        Args:
            read_only: Whether the process can only read the database.
            before_update: Called before each UPDATE of the process.
        """
        engine = self.engine(read_only=read_only)
        if before_update is not None:
            listener = partial(_call_before_update, before_update)
            event.listen(engine, "before_cursor_execute", listener)
        boot_clock = BootClock(self.boot, lambda: self.seconds)
        return SqlTokenStore(engine, keys=[self.key], boot_clock=boot_clock)

    def engine(self, *, read_only: bool = False) -> Engine:
        """Return a new engine."""
        if self.is_sqlite:
            engine = create_engine(self.url)
            event.listen(engine, "connect", lambda connection, _: self._set_clock(connection))
            if read_only:
                event.listen(engine, "connect", lambda c, _: c.execute("PRAGMA query_only = ON"))
        else:
            options = SEARCH_PATH + " -c default_transaction_read_only=on" * read_only
            engine = create_engine(self.url, connect_args={"options": options})
        self._engines.append(engine)
        return engine

    def execute(self, statements: str, **parameters: object) -> None:
        """Execute statements of SQL without a store."""
        engine = self.engine()
        with engine.begin() as connection:
            for statement in statements.split(";\n"):
                connection.execute(text(statement), parameters)

    def scalar(self, statement: str) -> Any:
        """Return the value of an SQL expression, as any program reads it."""
        with self.engine().connect() as connection:
            return connection.scalar(text(statement))

    def elapse(self, seconds: float) -> None:
        """Let time pass."""
        self.seconds += seconds
        self.step(seconds)

    def step(self, seconds: float) -> None:
        """Set the wall clock forward or back."""
        self.wall += timedelta(seconds=seconds)
        if not self.is_sqlite:
            self.execute("UPDATE test_clock SET seconds = seconds + :step", step=seconds)

    def reboot(self, *, step: float = 0.0) -> None:
        """Reboot at once; the wall clock may be wrong afterwards.

        Args:
            step: Seconds by which the wall clock is ahead of what it was.
        """
        self.boot, self.seconds = "second boot", 5.0
        self.step(5.0 + step)

    def close(self) -> None:
        """Close all connections."""
        for engine in self._engines:
            engine.dispose()
        for calculator in self._calculators:
            calculator.close()

    def _set_clock(self, connection: sqlite3.Connection) -> None:
        original = sqlite3.connect(":memory:", check_same_thread=False)
        self._calculators.append(original)

        def strftime(*arguments: str) -> str:
            now = self.wall.strftime("%Y-%m-%d %H:%M:%S.%f")
            values = [now if value == "now" else value for value in arguments]
            marks = ", ".join("?" * len(values))
            result: str = original.execute(f"SELECT strftime({marks})", values).fetchone()[0]
            return result

        connection.create_function("strftime", -1, strftime)


def _call_before_update(
    call: Callable[[], None], connection: object, cursor: object, statement: str, *_: object
) -> None:
    if statement.startswith("UPDATE"):
        call()
