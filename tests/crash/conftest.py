"""The database of a process that dies is of either kind; one that dies itself is PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from postgresql import PostgreSQL, running_server
from storm.databases import database

__all__ = ["database", "postgresql", "url"]


@pytest.fixture
def postgresql() -> PostgreSQL:
    """Give a server that may be stopped."""
    return running_server()


@pytest.fixture
def url(postgresql: PostgreSQL) -> Iterator[str]:
    """Give the URL of an empty database; in the end the server runs again."""
    name = postgresql.create()
    yield postgresql.url(name)
    if not postgresql.socket.exists():
        postgresql.start()
    postgresql.drop(name)
