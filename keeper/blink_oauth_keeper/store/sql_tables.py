"""The tables of the SQL store, how statements are executed on them, and rows as values of a store.

Statements and transactions leave nothing behind in the connection that they used.

Alembic can include the tables:

```python
from blink_oauth_keeper import metadata

target_metadata = [Base.metadata, metadata]
```
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from attrs import define, evolve, frozen
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Dialect,
    Engine,
    Executable,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Row,
    String,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from blink_oauth.context import Grant
from blink_oauth.tokens import Token
from blink_oauth_keeper.errors import SealError

from .protocol import Due, GrantKey, HistoryEntry, JournalEntry, Note, Origin, Record, State
from .sealing import Place, Sealed, Sealer

__all__ = [
    "VERSION",
    "Change",
    "Database",
    "Moment",
    "Reader",
    "Session",
    "grants",
    "history",
    "history_entry",
    "journal",
    "key_of",
    "metadata",
    "of_due",
    "of_entry",
    "of_grant",
    "of_note",
    "of_pair",
    "of_seen",
    "place_of",
    "record_of",
    "schema",
    "sealed_in",
]

VERSION = 1
"""The version of the tables below."""


class Moment(TypeDecorator[datetime]):
    """An aware moment in UTC: a timestamp with time zone, on SQLite a text that sorts as it."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column type."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(26))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | str | None:
        """Turn an aware moment into what is stored."""
        if value is None or dialect.name != "sqlite":
            return value
        utc = value.astimezone(UTC).replace(tzinfo=None)
        return utc.isoformat(sep=" ", timespec="microseconds")

    def process_result_value(
        self, value: datetime | str | None, dialect: Dialect
    ) -> datetime | None:
        """Turn what is stored into an aware moment."""
        if isinstance(value, str):
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        return None if value is None else value.astimezone(UTC)


# Sorted by code points everywhere, whatever the database's language is.
Name = String().with_variant(String(collation="C"), "postgresql")
Number = BigInteger().with_variant(Integer(), "sqlite")


def _identity() -> tuple[Column[str], Column[str], Column[str]]:
    return (
        Column("client_id", Name, nullable=False),
        Column("target_id", Name, nullable=False),
        Column("username", Name, nullable=False),
    )


metadata = MetaData()

grants = Table(
    "blink_oauth_grants",
    metadata,
    *_identity(),
    Column("generation", BigInteger, nullable=False),
    Column("consent", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("sealed", Text),
    Column("key_id", String),
    Column("issued_at", Moment, nullable=False),
    Column("idle_until", Moment),
    Column("attempts", Integer, nullable=False),
    Column("owner", String),
    Column("lease_until", Moment),
    Column("pause_until", Moment),
    Column("error", String),
    Column("correlation_id", String),
    Column("updated_at", Moment, nullable=False),
    PrimaryKeyConstraint("client_id", "target_id", "username", name="blink_oauth_grants_key"),
    Index("blink_oauth_grants_due", "client_id", "idle_until"),
)

journal = Table(
    "blink_oauth_journal",
    metadata,
    Column("id", Number, Identity(), primary_key=True),
    *_identity(),
    Column("generation", BigInteger, nullable=False),
    Column("consent", Integer, nullable=False),
    Column("origin", String, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("key_id", String, nullable=False),
    Column("at", Moment, nullable=False),
    Index("blink_oauth_journal_grant", "client_id", "target_id", "username", "id"),
    Index("blink_oauth_journal_at", "at"),
)

history = Table(
    "blink_oauth_history",
    metadata,
    Column("id", Number, Identity(), primary_key=True),
    *_identity(),
    Column("at", Moment, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("event", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("detail", String),
    Column("actor", String, nullable=False),
    Column("correlation_id", String),
    Index("blink_oauth_history_grant", "client_id", "target_id", "username", "id"),
    Index("blink_oauth_history_at", "at"),
)

schema = Table(
    "blink_oauth_schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
)


logger = logging.getLogger("blink_oauth_keeper.store")

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


@frozen(eq=False)
class Change:
    """How a grant is changed, and its line of the history written.

    Attributes:
        alone: Changes the grant and returns its row.
        line: Writes the line.
        with_line: Does both in one statement; SQLite cannot do it.
    """

    alone: Executable
    line: Executable
    with_line: Executable


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
            return self.row(change.with_line, parameters)
        row = self.row(change.alone, parameters)
        if row is not None:
            self.count(change.line, {**parameters, "new_generation": row.generation})
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


Parameters = dict[str, object]


def of_grant(key: GrantKey) -> Parameters:
    """Return the parameters that name a grant."""
    return {"client": key.client_id, "target": key.grant.target_id, "user": key.grant.username}


def of_seen(record: Record) -> Parameters:
    """Return the parameters that name a record as it was seen."""
    return of_grant(record.key) | {"seen": record.generation, "by": record.owner}


def of_note(note: Note) -> Parameters:
    """Return the parameters of a line of the history."""
    return {
        "call": note.correlation_id,
        "note_event": note.event,
        "note_outcome": note.outcome,
        "note_detail": note.detail,
        "note_actor": note.actor,
    }


def of_pair(record: Record, sealed: Sealed | None) -> Parameters:
    """Return the parameters of all that a new pair or a revocation changes."""
    return {
        "new_generation": record.generation,
        "new_consent": record.consent,
        "new_state": record.state.value,
        "new_sealed": sealed and sealed.text,
        "new_key_id": sealed and sealed.key_id,
        "new_issued_at": record.issued_at,
        "new_idle_until": record.idle_until,
        "new_attempts": record.attempts,
        "new_owner": record.owner,
        "new_error": record.error,
    }


def of_entry(place: Place, sealed: Sealed, origin: Origin) -> Parameters:
    """Return the parameters of an entry of the journal."""
    return of_grant(place.key) | {
        "new_generation": place.generation,
        "new_consent": place.consent,
        "new_origin": origin.value,
        "new_sealed": sealed.text,
        "new_key_id": sealed.key_id,
    }


def of_due(due: Due, key_ids: Sequence[str], limit: int) -> Parameters:
    """Return the parameters that say what is due, and can be opened with these keys."""
    return {
        "client": due.client_id,
        "before": due.before,
        "max_attempts": due.max_attempts,
        "targets": list(due.targets or ()),
        "except_targets": list(due.except_targets),
        "key_ids": key_ids,
        "limit": limit,
    }


def sealed_in(row: Row[Any]) -> Sealed | None:
    """Return what is sealed in a row, or None."""
    return None if row.sealed is None else Sealed(row.sealed, row.key_id)


def key_of(row: Row[Any]) -> GrantKey:
    """Return whose row it is."""
    return GrantKey(row.client_id, Grant(row.target_id, row.username))


def place_of(key: GrantKey, row: Row[Any]) -> Place:
    """Return what the pair in a row of a grant was sealed for."""
    return Place(key, row.generation, row.consent)


def record_of(key: GrantKey, row: Row[Any], token: Token | None) -> Record:
    """Return the record in a row of a grant, with its pair."""
    return Record(
        key=key,
        generation=row.generation,
        consent=row.consent,
        state=State(row.state),
        token=token,
        issued_at=row.issued_at,
        idle_until=row.idle_until,
        attempts=row.attempts,
        owner=row.owner,
        lease_left=_seconds_left(row.lease_until, row.now),
        pause_left=_seconds_left(row.pause_until, row.now),
        error=row.error,
        correlation_id=row.correlation_id,
        updated_at=row.updated_at,
    )


def history_entry(row: Row[Any]) -> HistoryEntry:
    """Return the line of the history in a row."""
    note = Note(
        event=row.event,
        correlation_id=row.correlation_id,
        outcome=row.outcome,
        detail=row.detail,
        actor=row.actor,
    )
    return HistoryEntry(at=row.at, generation=row.generation, note=note)


def _seconds_left(until: datetime | None, now: datetime) -> float:
    return 0.0 if until is None else max((until - now).total_seconds(), 0.0)


@define(eq=False)
class Reader:
    """Read rows of a grant with what is sealed in them."""

    _sealer: Sealer

    def record(self, key: GrantKey, row: Row[Any]) -> Record:
        """Return the record in a row.

        Raises:
            SealError: Its pair cannot be opened.
        """
        sealed = sealed_in(row)
        token = None if sealed is None else self._sealer.open(place_of(key, row), sealed)
        return record_of(key, row, token)

    def record_if_readable(self, key: GrantKey, row: Row[Any]) -> Record:
        """Return the record in a row; if its pair cannot be opened, warn and leave that out.

        Then the record has no token, and the error `SealError`.
        """
        try:
            return self.record(key, row)
        except SealError as error:
            logger.warning("%s", error)
            return evolve(record_of(key, row, None), error=type(error).__name__)

    def entry_if_readable(self, key: GrantKey, row: Row[Any]) -> JournalEntry | None:
        """Return the entry of the journal in a row; if it cannot be opened, warn."""
        try:
            token = self._sealer.open(place_of(key, row), Sealed(row.sealed, row.key_id))
        except SealError as error:
            logger.warning("%s", error)
            return None
        return JournalEntry(
            key=key,
            generation=row.generation,
            consent=row.consent,
            origin=Origin(row.origin),
            token=token,
            at=row.at,
        )
