"""The tables are created once, by whoever comes first, and their version is checked."""

from __future__ import annotations

from sqlalchemy import func, insert, inspect, select
from sqlalchemy.exc import IntegrityError, ProgrammingError

from blink_oauth_keeper.errors import SchemaError

from .sql_engine import Database
from .sql_tables import VERSION, metadata, schema

__all__ = ["check_schema", "create_schema", "has_schema"]

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
