"""Statements and transactions that leave nothing behind in the connection they used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from attrs import define
from sqlalchemy import Connection, Engine, Executable, Row
from sqlalchemy.exc import DBAPIError

from .archive import NOTE
from .sql_statements import Change, noted

__all__ = ["Database", "Session"]

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
