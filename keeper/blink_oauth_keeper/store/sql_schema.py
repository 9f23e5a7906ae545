"""The schema of the SQL store: what is missing is added while older processes use the tables.

The version in `blink_oauth_schema` says which processes may write. At 1 a process of the version
before may: it ignores the newer columns, so a row may lack them or hold stale ones. At 2 only
processes that keep all columns start. New tables begin at 2, older ones stay at 1 until
`finish_upgrade`. Tables without a version, as a migration creates them, count as 1.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from attrs import define, field
from sqlalchemy import Column, Connection, func, insert, inspect, select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.schema import CreateColumn

from blink_oauth_keeper.errors import SchemaError

from .sql_engine import error_code
from .sql_tables import SHARED_VERSION, VERSION, Database, grants, metadata, schema

__all__ = [
    "create_schema",
    "drop_obsolete_index",
    "is_upgraded",
    "prepare_schema",
    "store_version",
]

NEWEST_VERSION = select(func.max(schema.c.version))
NO_PERMISSION = "42501"
NOT_ADDED = f" It was not added (SQLSTATE {NO_PERMISSION}): the role lacks a permission."


@define
class Missing:
    """The names of what the database lacks.

    Attributes:
        tables: The tables.
        columns: The columns of existing tables, as `table.column`.
        indexes: The indexes of existing tables, as `table.index`. The store works without them,
            where a role or a file does not permit to add one.
    """

    tables: list[str] = field(factory=list)
    columns: list[str] = field(factory=list)
    indexes: list[str] = field(factory=list)

    def __bool__(self) -> bool:
        return bool(self.tables or self.columns or self.indexes)


def create_schema(database: Database) -> None:
    """Create the tables, nullable columns and indexes that are missing, and store a version.

    Each table is locked for its own statement only. Several processes may call it at once.

    Raises:
        SchemaError: The tables are newer than this version of the library, or the database refuses
            to add what is missing.
    """
    missing = _missing(database)
    _check_version(database, missing)
    while missing:
        try:
            _add(database, missing)
            missing = Missing()
        except DatabaseError as error:
            before, missing = missing, _missing(database)
            # Otherwise another process has added the same, which makes the statement fail.
            if missing == before:
                if error_code(error) == NO_PERMISSION:
                    raise _schema_error(missing, NOT_ADDED) from None
                raise
    with database.session() as session:
        is_versioned = session.connection.scalar(NEWEST_VERSION) is not None
    if not is_versioned:
        store_version(database, SHARED_VERSION)


def prepare_schema(database: Database, *, may_add: bool) -> None:
    """Check that the tables can be used, and note in `database` who may write to them.

    Tables without a version, as a migration creates them, are accepted.

    Args:
        database: The database.
        may_add: Whether to add what is missing.

    Raises:
        SchemaError: A table or column is missing, or newer than this version of the library.
    """
    missing = _missing(database)
    if missing and may_add:
        try:
            create_schema(database)
        except (SchemaError, DatabaseError):
            if missing.tables or missing.columns:
                raise
    elif missing.tables or missing.columns:
        raise _schema_error(missing, "")
    database.strict = is_upgraded(database)


def is_upgraded(database: Database) -> bool:
    """Return whether only processes write that keep all columns.

    Raises:
        SchemaError: The tables are newer than this version of the library.
    """
    return _check_version(database, Missing()) >= VERSION


def store_version(database: Database, version: int) -> None:
    """Store the version of the tables. It never goes down."""
    try:
        with database.session() as session:
            session.count(insert(schema), {"version": version})
    except DatabaseError:
        # Another process has stored it.
        if _check_version(database, Missing()) < version:
            raise


def drop_obsolete_index(database: Database) -> None:
    """Drop the index that only the version before reads; a role without that right leaves it."""
    with suppress(DatabaseError), database.transaction() as session:
        session.connection.exec_driver_sql("DROP INDEX IF EXISTS blink_oauth_grants_due")


def _check_version(database: Database, missing: Missing) -> int:
    if schema.name in missing.tables:
        return SHARED_VERSION
    with database.session() as session:
        version: int = session.connection.scalar(NEWEST_VERSION) or SHARED_VERSION
    if version > VERSION:
        raise SchemaError(
            f"The tables of the token store have version {version}, and this library "
            f"supports versions up to {VERSION}. Nothing was sent. Update the library here."
        )
    return version


def _schema_error(missing: Missing, reason: str) -> SchemaError:
    absent = ", ".join(missing.tables + missing.columns + missing.indexes)
    return SchemaError(
        f"The tables of the token store do not match this version of the library: there is no "
        f"{absent}.{reason} Nothing was sent. Call create_schema() once, or include "
        "blink_oauth_keeper.metadata in your migrations and migrate."
    )


def _missing(database: Database) -> Missing:
    with database.session() as session:
        inspector = inspect(session.connection)
        names = list(metadata.tables)
        columns = inspector.get_multi_columns(filter_names=names)
        indexes = inspector.get_multi_indexes(filter_names=names)
    missing = Missing()
    for table in metadata.sorted_tables:
        place = (None, table.name)
        if place not in columns:
            missing.tables.append(table.name)
            continue
        existing = {column["name"] for column in columns[place]}
        missing.columns += [f"{column}" for column in table.c if column.name not in existing]
        existing = {index["name"] or "" for index in indexes.get(place, [])}
        missing.indexes += [
            f"{table.name}.{index.name}"
            for index in sorted(table.indexes, key=lambda index: str(index.name))
            if index.name not in existing
        ]
    return missing


def _add(database: Database, missing: Missing) -> None:
    if missing.tables:
        with database.transaction() as session:
            metadata.create_all(session.connection)
            if session.connection.scalar(NEWEST_VERSION) is None:
                # Only where the grants are new, no process of the version before has written.
                version = VERSION if grants.name in missing.tables else SHARED_VERSION
                session.count(insert(schema), {"version": version})
    for table in metadata.sorted_tables:
        for column in table.c:
            if str(column) in missing.columns:
                with database.transaction() as session:
                    _add_column(session.connection, column)
        for index in table.indexes:
            if f"{table.name}.{index.name}" in missing.indexes:
                with database.transaction() as session:
                    index.create(session.connection)


def _add_column(connection: Connection, column: Column[Any]) -> None:
    table = connection.dialect.identifier_preparer.format_table(column.table)
    definition = CreateColumn(column).compile(dialect=connection.dialect)
    connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {definition}")
