"""The tables of the SQL store, in a `MetaData` that Alembic can include.

```python
from blink_oauth_keeper import metadata

target_metadata = [Base.metadata, metadata]
```
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Identity,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    TypeDecorator,
)
from sqlalchemy.types import TypeEngine

__all__ = ["VERSION", "Moment", "grants", "history", "journal", "metadata", "schema"]

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
