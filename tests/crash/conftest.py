"""The database of a process that dies is of either kind; one that dies itself is PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from storage.databases import PostgreSQL, running_server
from storm.databases import database

__all__ = ["database", "postgresql", "url"]


@pytest.fixture
def postgresql() -> Iterator[PostgreSQL]:
    """Give a server that may be stopped; in the end it runs again."""
    server = running_server()
    yield server
    if not server.socket.exists():
        server.start()


@pytest.fixture
def url(postgresql: PostgreSQL) -> Iterator[str]:
    """Give the URL of an empty database."""
    name = postgresql.create()
    yield postgresql.url(name)
    postgresql.drop(name)
