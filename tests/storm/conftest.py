"""The database of a storm is of either kind."""

from storm.databases import database

__all__ = ["database"]
