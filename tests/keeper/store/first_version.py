"""The tables of version 1 as processes of that version create them."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Engine,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    insert,
)

from blink_oauth_keeper.store.sql_tables import UtcDateTime

__all__ = ["create_first_version", "first_metadata"]

sorted_text = String().with_variant(String(collation="C"), "postgresql")
row_number = BigInteger().with_variant(Integer(), "sqlite")
first_metadata = MetaData()


def key_columns() -> tuple[Column[str], ...]:
    """Return the columns of the key."""
    return tuple(
        Column(name, sorted_text, nullable=False) for name in ("client_id", "target_id", "username")
    )


grants = Table(
    "blink_oauth_grants",
    first_metadata,
    *key_columns(),
    Column("generation", BigInteger, nullable=False),
    Column("consent", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("sealed", Text),
    Column("key_id", String),
    Column("issued_at", UtcDateTime, nullable=False),
    Column("idle_until", UtcDateTime),
    Column("attempts", Integer, nullable=False),
    Column("owner", String),
    Column("lease_until", UtcDateTime),
    Column("pause_until", UtcDateTime),
    Column("error", String),
    Column("correlation_id", String),
    Column("updated_at", UtcDateTime, nullable=False),
    PrimaryKeyConstraint("client_id", "target_id", "username", name="blink_oauth_grants_key"),
    Index("blink_oauth_grants_due", "client_id", "idle_until"),
)
journal = Table(
    "blink_oauth_journal",
    first_metadata,
    Column("id", row_number, Identity(), primary_key=True),
    *key_columns(),
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
    first_metadata,
    Column("id", row_number, Identity(), primary_key=True),
    *key_columns(),
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
schema = Table(
    "blink_oauth_schema",
    first_metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
)


def create_first_version(engine: Engine) -> None:
    """Create the tables of version 1."""
    with engine.begin() as connection:
        first_metadata.create_all(connection)
        connection.execute(insert(schema).values(version=1))
