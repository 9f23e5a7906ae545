"""The tables of the SQL store, the sessions on them, and the conversion of values and rows.

Statements and transactions leave no state in a connection.

Alembic can include the tables:

```python
from blink_oauth_keeper import metadata

target_metadata = [Base.metadata, metadata]
```
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from attrs import define, evolve, frozen
from sqlalchemy import (
    BigInteger,
    Boolean,
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
    and_,
    literal_column,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from blink_oauth.context import Grant
from blink_oauth.tokens import Token
from blink_oauth_keeper.clocks import BootClock
from blink_oauth_keeper.errors import SealError

from .outbox import NewNotice, NoticeKind
from .protocol import (
    LONGEST_LEASE,
    LONGEST_PAUSE,
    DueQuery,
    GrantKey,
    HistoryEntry,
    JournalEntry,
    Note,
    Origin,
    Record,
    State,
    is_revoked,
    oddities_in,
)
from .rules import CLAIMABLE
from .sealing import Binding, Sealed, Sealer, Status, altered

__all__ = [
    "HAS_CLAIMABLE_STATE",
    "KINDS",
    "SHARED_VERSION",
    "TOMBSTONE",
    "VERSION",
    "Change",
    "Claims",
    "Database",
    "Parameters",
    "Reader",
    "Session",
    "UtcDateTime",
    "binding_of",
    "clock",
    "due_params",
    "entry_binding_of",
    "entry_params",
    "grant_params",
    "grants",
    "history",
    "history_entry",
    "is_revoking",
    "is_to_be_forgotten",
    "journal",
    "key_of",
    "metadata",
    "note_params",
    "notice_params",
    "notices",
    "pair_params",
    "record_of",
    "record_params",
    "refusal_params",
    "schema",
    "sealed_in",
    "seconds_left",
    "store_key",
    "written_record",
]

VERSION = 2
"""The version of tables that only processes with all the columns below write to."""
TOMBSTONE = 0
"""The `forget_generation` of a forgotten grant."""
SHARED_VERSION = 1
"""The version of tables that processes of the version before may write to as well."""


class UtcDateTime(TypeDecorator[datetime]):
    """A time in UTC: a timestamp with time zone, or on SQLite a text that sorts in its order."""

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """Choose the column type."""
        if dialect.name == "sqlite":
            return dialect.type_descriptor(String(26))
        return dialect.type_descriptor(DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | str | None:
        """Convert a timezone-aware time into the stored value."""
        if value is None or dialect.name != "sqlite":
            return value
        utc = value.astimezone(UTC).replace(tzinfo=None)
        return utc.isoformat(sep=" ", timespec="microseconds")

    def process_result_value(
        self, value: datetime | str | None, dialect: Dialect
    ) -> datetime | None:
        """Convert the stored value into a time in UTC."""
        if isinstance(value, str):
            return datetime.fromisoformat(value).replace(tzinfo=UTC)
        return None if value is None else value.astimezone(UTC)


# Sorted by code points, whatever the collation of the database is.
SortedText = String().with_variant(String(collation="C"), "postgresql")
RowNumber = BigInteger().with_variant(Integer(), "sqlite")


def _key_columns() -> tuple[Column[str], Column[str], Column[str]]:
    return (
        Column("client_id", SortedText, nullable=False),
        Column("target_id", SortedText, nullable=False),
        Column("username", SortedText, nullable=False),
    )


metadata = MetaData()

grants = Table(
    "blink_oauth_grants",
    metadata,
    *_key_columns(),
    Column("generation", BigInteger, nullable=False),
    Column("consent", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("sealed", Text),
    Column("key_id", String),
    Column("issued_at", UtcDateTime, nullable=False),
    Column("idle_until", UtcDateTime),
    Column("expires_at", UtcDateTime),
    # A process of an older version writes a new generation without `expires_at`.
    Column("expires_generation", BigInteger),
    Column("attempts", Integer, nullable=False),
    Column("owner", String),
    Column("lease_until", UtcDateTime),
    Column("pause_until", UtcDateTime),
    Column("error", String),
    Column("refusals", Integer),
    Column("refused_since", UtcDateTime),
    Column("correlation_id", String),
    Column("updated_at", UtcDateTime, nullable=False),
    # A column that is added later is nullable: the version before writes rows without it.
    Column("mac", String),
    # The generation under which the grant is revoked and to be forgotten: a process of an older
    # version that stores a new consent changes the generation only. `TOMBSTONE` once forgotten.
    Column("forget_generation", BigInteger),
    # The kind of the last notice.
    Column("notice", String),
    PrimaryKeyConstraint("client_id", "target_id", "username", name="blink_oauth_grants_key"),
)
HAS_CLAIMABLE_STATE = grants.c.state.in_(
    # Both databases use a partial index only if a query repeats its condition with literals.
    [literal_column(f"'{state}'") for state in sorted(CLAIMABLE)]
)
Index(
    "blink_oauth_grants_claimable",
    *(grants.c.client_id, grants.c.idle_until, grants.c.target_id, grants.c.username),
    # SQLite skips a row by these without reading the row itself.
    *(grants.c.attempts, grants.c.lease_until, grants.c.pause_until),
    sqlite_where=HAS_CLAIMABLE_STATE,
    postgresql_where=HAS_CLAIMABLE_STATE,
)
# Literal, so that the conditions of a query imply it: no index is used for parameters.
is_revoking = and_(grants.c.state == literal_column("'revoked'"), grants.c.key_id.is_not(None))
"""The condition that a revocation is not finished: the row still has a pair."""
Index(
    "blink_oauth_grants_revoking",
    grants.c.client_id,
    postgresql_where=is_revoking,
    sqlite_where=is_revoking,
)

is_to_be_forgotten = grants.c.forget_generation > literal_column(f"{TOMBSTONE}")
"""The condition that a grant may have to be forgotten."""
Index(
    "blink_oauth_grants_forgetting",
    grants.c.client_id,
    postgresql_where=is_to_be_forgotten,
    sqlite_where=is_to_be_forgotten,
)

journal = Table(
    "blink_oauth_journal",
    metadata,
    Column("id", RowNumber, Identity(), primary_key=True),
    *_key_columns(),
    Column("generation", BigInteger, nullable=False),
    Column("consent", Integer, nullable=False),
    Column("origin", String, nullable=False),
    Column("sealed", Text, nullable=False),
    Column("key_id", String, nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Index("blink_oauth_journal_grant", "client_id", "target_id", "username", "id"),
    Index("blink_oauth_journal_at", "at"),
)

history = Table(
    "blink_oauth_history",
    metadata,
    Column("id", RowNumber, Identity(), primary_key=True),
    *_key_columns(),
    Column("at", UtcDateTime, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("event", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("detail", String),
    Column("actor", String, nullable=False),
    Column("correlation_id", String),
    Index("blink_oauth_history_grant", "client_id", "target_id", "username", "id"),
    Index("blink_oauth_history_at", "at"),
)

notices = Table(
    "blink_oauth_notices",
    metadata,
    Column("id", RowNumber, Identity(), primary_key=True),
    Column("notice_id", String, nullable=False),
    # Of a certificate, target and username are empty; of a grant, `certificate` is.
    *_key_columns(),
    Column("certificate", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("reason", String),
    Column("ends_at", UtcDateTime),
    Column("correlation_id", String),
    Column("at", UtcDateTime, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("due_at", UtcDateTime, nullable=False),
    Column("delivered_at", UtcDateTime),
    Column("is_dead", Boolean, nullable=False),
    Index("blink_oauth_notices_name", "notice_id", unique=True),
    Index(
        "blink_oauth_notices_once",
        # Not by client first: `claim_notices` reads in the order of `id`, and stops at its limit.
        *("username", "target_id", "client_id", "certificate", "kind", "generation"),
        unique=True,
    ),
    Index("blink_oauth_notices_at", "at"),
)
Index(
    "blink_oauth_notices_pending",
    notices.c.id,
    sqlite_where=notices.c.delivered_at.is_(None),
    postgresql_where=notices.c.delivered_at.is_(None),
)

schema = Table(
    "blink_oauth_schema",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
)

store_key = Table(
    "blink_oauth_store_key",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("sealed", Text, nullable=False),
    Column("key_id", String, nullable=False),
)
"""The random key of the store, sealed with its keys: one row with the id 1."""

clock = Table(
    "blink_oauth_clock",
    metadata,
    Column("boot", String, primary_key=True),
    Column("anchor", UtcDateTime, nullable=False),
)
"""The wall-clock time at which a machine booted, by the first process of that boot: SQLite only."""


logger = logging.getLogger("blink_oauth_keeper.store")

BEGIN = {
    # Takes the write lock at once: SQLite may refuse it to a transaction that has read first.
    "sqlite": "BEGIN IMMEDIATE",
    # Limits the wait for a lock, and how long a stopped process can hold one.
    "postgresql": (
        "BEGIN; SET LOCAL lock_timeout = '10s'; "
        "SET LOCAL idle_in_transaction_session_timeout = '10s'"
    ),
}
# psycopg executes several statements at once only without parameters.
WITHOUT_PARAMETERS = {"no_parameters": True}


@frozen(eq=False)
class Change:
    """The statements that change a record, add to its history, and write a notice about it.

    Attributes:
        record: Changes the record and returns its row.
        history: Adds the entry.
        notice: Writes the notice.
        all: Does all of it in one statement, with CTEs that SQLite does not support.
    """

    record: Executable
    history: Executable
    notice: Executable
    all: Executable


@frozen(eq=False)
class Claims:
    """The statements that claim records which the transaction has locked.

    Attributes:
        one: Claims one record.
        all: Claims all records whose keys and MACs are in arrays. SQLite has no arrays.
    """

    one: Executable
    all: Executable


@define(eq=False)
class Session:
    """A connection, and the clock that its statements use.

    Args:
        connection: The connection.
        time: Returns the parameters of the current time.
    """

    connection: Connection
    time: Callable[[], Mapping[str, object]]

    def rows(self, statement: Executable, parameters: Mapping[str, object]) -> Sequence[Row[Any]]:
        """Execute a statement and return all its rows."""
        return self.connection.execute(statement, {**parameters, **self.time()}).all()

    def row(self, statement: Executable, parameters: Mapping[str, object]) -> Row[Any] | None:
        """Execute a statement and return its first row, or None."""
        return next(iter(self.rows(statement, parameters)), None)

    def count(self, statement: Executable, parameters: Mapping[str, object]) -> int:
        """Execute a statement and return the number of rows that it changed."""
        return self.connection.execute(statement, {**parameters, **self.time()}).rowcount

    def each(self, statement: Executable, parameters: Sequence[Mapping[str, object]]) -> None:
        """Execute a statement with each of these parameters, in one round trip."""
        if parameters:
            self.connection.execute(statement, [{**each, **self.time()} for each in parameters])

    def claim(
        self, claims: Claims, lease: Mapping[str, object], records: Sequence[Mapping[str, object]]
    ) -> None:
        """Claim records of one client.

        Args:
            claims: The statements.
            lease: The parameters that all claims have in common.
            records: The parameters of each record: its key and new MAC.
        """
        if self.connection.dialect.name != "postgresql":
            self.each(claims.one, [{**lease, **each} for each in records])
        elif records:
            names = ("target", "user", "new_mac")
            arrays = {f"{name}s": [each[name] for each in records] for name in names}
            self.count(claims.all, {**lease, **arrays})

    def change(self, change: Change, parameters: Mapping[str, object]) -> Row[Any] | None:
        """Change a record and add to the history; return its row, or None if nothing changed."""
        if self.connection.dialect.name == "postgresql":
            return self.row(change.all, parameters)
        row = self.row(change.record, parameters)
        if row is not None:
            self.count(change.history, {**parameters, "new_generation": row.generation})
            if row.notice is not None and row.notice == parameters["new_notice"]:
                self.count(change.notice, parameters)
        return row


@define(eq=False)
class Database:
    """Opens sessions and transactions.

    Args:
        engine: An engine for SQLite or PostgreSQL, in autocommit mode.
        clock: Returns the current time, timezone-aware, in tests. None for the database's clock.
        boot_clock: The clock by which leases and pauses run in an SQLite file.
        operation: Surrounds each session.
        strict: Whether every row was written with all columns, so that they can be relied on. A
            process that began before the tables were upgraded keeps False until it restarts.
    """

    engine: Engine
    clock: Callable[[], datetime] | None
    boot_clock: BootClock
    operation: Callable[[], AbstractContextManager[None]]
    strict: bool = False

    def time(self) -> Mapping[str, object]:
        """Return the parameters of the current time."""
        return {
            "now": self.clock() if self.clock else None,
            "boot": self.boot_clock.boot,
            "boot_seconds": self.boot_clock.seconds(),
        }

    @contextmanager
    def session(self) -> Iterator[Session]:
        """Open a session in which each statement is its own transaction."""
        with self.operation(), self.engine.connect() as connection:
            yield Session(connection, self.time)

    @contextmanager
    def transaction(self) -> Iterator[Session]:
        """Open a session for one transaction that writes."""
        with self.session() as session:
            connection = session.connection
            begin = BEGIN[connection.dialect.name]
            connection.exec_driver_sql(begin, execution_options=WITHOUT_PARAMETERS)
            try:
                yield session
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise

    @contextmanager
    def single_change(self) -> Iterator[Session]:
        """Open a session for one change, which is a single statement on PostgreSQL.

        In SQLite the write lock is taken first: the time of a statement is read before it waits.
        """
        is_one_statement = self.engine.dialect.name == "postgresql"
        with self.session() if is_one_statement else self.transaction() as session:
            yield session


def _roll_back(connection: Connection) -> None:
    try:
        if not connection.invalidated:
            connection.exec_driver_sql("ROLLBACK")
    except DBAPIError:
        # Closing the connection ends the transaction.
        connection.invalidate()


Parameters = dict[str, object]


def grant_params(key: GrantKey) -> Parameters:
    """Return the parameters that select a grant."""
    return {"client": key.client_id, "target": key.grant.target_id, "user": key.grant.username}


def record_params(record: Record) -> Parameters:
    """Return the parameters that select a record by generation and owner."""
    return grant_params(record.key) | {
        "expected_generation": record.generation,
        "expected_owner": record.owner,
    }


def note_params(note: Note) -> Parameters:
    """Return the parameters of a history entry, and of the notice that goes with the change."""
    return notice_params(note.notice) | {
        "note_correlation_id": note.correlation_id,
        "note_event": note.event,
        "note_outcome": note.outcome,
        "note_detail": note.detail,
        "note_actor": note.actor,
    }


def notice_params(notice: NewNotice | None) -> Parameters:
    """Return the parameters of a new notice."""
    return {
        "new_notice": notice and notice.kind.value,
        "new_notice_id": notice and str(uuid4()),
        "new_reason": notice and notice.reason,
        "new_ends_at": notice and notice.ends_at,
    }


def pair_params(record: Record, sealed: Sealed | None) -> Parameters:
    """Return the parameters of the columns that a new pair or a revocation changes, but the MAC."""
    return {
        "new_generation": record.generation,
        "new_consent": record.consent,
        # Rows and processes of the first version know no `revoking`: it is `revoked` with a pair.
        "new_state": State.REVOKED.value if is_revoked(record) else record.state.value,
        "new_sealed": sealed and sealed.text,
        "new_key_id": sealed and sealed.key_id,
        "new_issued_at": record.issued_at,
        "new_idle_until": record.idle_until,
        "new_expires_at": record.expires_at,
        "new_attempts": record.attempts,
        "new_owner": record.owner,
        "new_error": record.error,
        "new_forget_generation": record.generation if record.forgetting else None,
    }


def refusal_params(claim: Record) -> Parameters:
    """Return the parameters of the columns that count refusals."""
    return {"new_refusals": claim.refusals, "new_refused_since": claim.refused_since}


def entry_params(binding: Binding, sealed: Sealed) -> Parameters:
    """Return the parameters of a journal entry."""
    assert binding.origin is not None
    return grant_params(binding.key) | {
        "new_generation": binding.generation,
        "new_consent": binding.consent,
        "new_origin": binding.origin.value,
        "new_sealed": sealed.text,
        "new_key_id": sealed.key_id,
    }


ANY_TIME = datetime(9999, 1, 1, tzinfo=UTC)


def due_params(query: DueQuery, key_ids: Sequence[str], limit: int, *, strict: bool) -> Parameters:
    """Return the parameters that select due records sealed with one of these keys.

    Args:
        query: Which records.
        key_ids: The ids of the keys.
        limit: The most records.
        strict: Whether the MAC must be made with one of these keys as well.
    """
    return {
        "client": query.client_id,
        "before": query.before,
        "issued_before": query.issued_before or ANY_TIME,
        "max_attempts": query.max_attempts,
        "targets": list(query.targets or ()),
        "except_targets": list(query.except_targets),
        "key_ids": key_ids,
        "any_mac": not strict,
        "limit": limit,
    }


def sealed_in(row: Row[Any]) -> Sealed | None:
    """Return the sealed pair in a row, or None."""
    return None if row.sealed is None else Sealed(row.sealed, row.key_id)


def key_of(row: Row[Any]) -> GrantKey:
    """Return the key of the grant of a row."""
    return GrantKey(row.client_id, Grant(row.target_id, row.username))


STATES = frozenset(state.value for state in State)
KINDS = {kind.value: kind for kind in NoticeKind}
ORIGINS = frozenset(origin.value for origin in Origin)


def binding_of(key: GrantKey, row: Row[Any], origin: Origin | None = None) -> Binding:
    """Return the binding of the pair in a row.

    Args:
        key: The client and the grant.
        row: The row.
        origin: The origin of a journal entry; None for a record.
    """
    return Binding(key, row.generation, row.consent, origin)


def entry_binding_of(key: GrantKey, row: Row[Any]) -> Binding:
    """Return the binding of the pair in a row of the journal.

    Raises:
        SealError: The origin is none that was ever written.
    """
    if row.origin not in ORIGINS:
        raise altered(binding_of(key, row))
    return binding_of(key, row, Origin(row.origin))


def _state_of(row: Row[Any]) -> State:
    if row.forget_generation == TOMBSTONE:
        return State.FORGOTTEN
    state = State(row.state) if row.state in STATES else State.UNCERTAIN
    return State.REVOKING if state is State.REVOKED and row.key_id is not None else state


def record_of(key: GrantKey, row: Row[Any], token: Token | None) -> Record:
    """Return the record in a row, with the given pair."""
    return Record(
        key=key,
        generation=row.generation,
        consent=row.consent,
        state=_state_of(row),
        token=token,
        issued_at=row.issued_at,
        # The sealed time cannot have been changed past the store.
        expires_at=token.expires_at if token else row.expires_at,
        idle_until=row.idle_until,
        attempts=row.attempts,
        owner=row.owner,
        lease_left=seconds_left(row.lease_until, row, LONGEST_LEASE),
        pause_left=seconds_left(row.pause_until, row, LONGEST_PAUSE),
        error=row.error,
        refusals=row.refusals or 0,
        refused_since=row.refused_since,
        forgetting=row.forget_generation == row.generation and row.state == State.REVOKED,
        notice=KINDS.get(row.notice),
        correlation_id=row.correlation_id,
        updated_at=row.updated_at,
    )


def written_record(new: Record, row: Row[Any]) -> Record:
    """Return a record that was written as the row that the statement returned."""
    return evolve(
        new,
        lease_left=seconds_left(row.lease_until, row, LONGEST_LEASE),
        pause_left=0.0,
        refusals=0,
        refused_since=None,
        notice=KINDS.get(row.notice),
        correlation_id=row.correlation_id,
        updated_at=row.updated_at,
    )


def history_entry(row: Row[Any]) -> HistoryEntry:
    """Return the history entry in a row."""
    note = Note(
        event=row.event,
        correlation_id=row.correlation_id,
        outcome=row.outcome,
        detail=row.detail,
        actor=row.actor,
    )
    return HistoryEntry(at=row.at, generation=row.generation, note=note)


def _unopened(key: GrantKey, row: Row[Any]) -> Record:
    return evolve(record_of(key, row, None), error=SealError.__name__)


def seconds_left(until: datetime | None, row: Row[Any], longest: float) -> float:
    """Return the seconds until the end of the lease or pause in a row.

    Never more than there were when the end was set: the clock may have been set back since.

    Args:
        until: The end.
        row: The row.
        longest: The most seconds that a lease or pause has.
    """
    if until is None:
        return 0.0
    was_set_back = row.ends_set_at is not None and row.now < row.ends_set_at < until
    begin: datetime = row.ends_set_at if was_set_back else row.now
    return min(max((until - begin).total_seconds(), 0.0), longest)


@define(eq=False, repr=False)
class Reader:
    """Reads rows, and opens the pairs in them."""

    _sealer: Sealer
    _database: Database

    def record(self, key: GrantKey, row: Row[Any]) -> Record:
        """Return the record in a row.

        Raises:
            SealError: Its pair cannot be opened, or the row was altered.
        """
        has_pair = row.sealed is not None
        try:
            token = self.token(binding_of(key, row), row) if has_pair else None
        except SealError as error:
            error.record = _unopened(key, row)
            raise
        return record_of(key, row, token)

    def token(self, binding: Binding, row: Row[Any]) -> Token:
        """Return the pair in a row that has one, of the grants or of the journal.

        Raises:
            SealError: The pair cannot be opened, or the row was altered.
        """
        sealed, strict = Sealed(row.sealed, row.key_id), self._database.strict
        if binding.origin is not None:
            return self._sealer.open(binding, sealed, strict=strict)
        if row.state not in STATES:
            raise altered(binding)
        status = Status(row.state, row.attempts)
        return self._sealer.open_record(binding, sealed, status, row.mac, strict=strict)

    def record_if_opened(self, key: GrantKey, row: Row[Any]) -> Record:
        """Return the record in a row. If its pair cannot be opened, log a warning.

        The record then has no token, and `SealError` as its error.
        """
        try:
            return self.record(key, row)
        except SealError as error:
            logger.warning("%s", error)
            return _unopened(key, row)

    def can_open(self, key: GrantKey, row: Row[Any]) -> bool:
        """Return whether the pair in a row can be opened."""
        try:
            self.record(key, row)
        except SealError:
            return False
        return True

    def listed(self, key: GrantKey, row: Row[Any]) -> Record:
        """Return the record in a row without its pair.

        The pair is opened only if the row does not say when the access token expires. If the key of
        the pair is missing, or the row was altered, log a warning; the record has `SealError` as
        its error.
        """
        expiry_is_known = row.sealed is None or row.expires_generation == row.generation
        if expiry_is_known and self._is_authentic(key, row):
            record = record_of(key, row, None)
        else:
            record = self.record_if_opened(key, row)
        return evolve(record, token=None, oddities=oddities_in(row.pair_detail))

    def _is_authentic(self, key: GrantKey, row: Row[Any]) -> bool:
        if row.key_id not in {None, *self._sealer.key_ids}:
            return False
        if row.sealed is None or not self._database.strict:
            return True
        try:
            self._sealer.verify(row.mac, binding_of(key, row), Status(row.state, row.attempts))
        except SealError:
            return False
        return True

    def entry(self, key: GrantKey, row: Row[Any]) -> JournalEntry:
        """Return the journal entry in a row.

        Raises:
            SealError: Its pair cannot be opened, or the row was altered.
        """
        return JournalEntry(
            key=key,
            generation=row.generation,
            consent=row.consent,
            token=self.token(entry_binding_of(key, row), row),
            origin=Origin(row.origin),
            at=row.at,
        )

    def entry_if_opened(self, key: GrantKey, row: Row[Any]) -> JournalEntry | None:
        """Return the journal entry in a row, or log a warning if it cannot be opened."""
        try:
            return self.entry(key, row)
        except SealError as error:
            logger.warning("%s", error)
            return None
