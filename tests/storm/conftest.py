"""The database that many callers share: SQLite and PostgreSQL in turn."""

from storm.databases import database

__all__ = ["database"]
