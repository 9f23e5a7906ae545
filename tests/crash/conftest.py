"""Databases: both kinds where a process is killed, PostgreSQL where the server is stopped."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from postgresql import PostgreSQL, running_server
from storm.databases import database

__all__ = ["database", "postgresql", "url"]


@pytest.fixture
def postgresql() -> PostgreSQL:
    """Return a server that a test may stop."""
    return running_server()


@pytest.fixture
def url(postgresql: PostgreSQL) -> Iterator[str]:
    """Yield the URL of an empty database; afterwards the server runs again."""
    name = postgresql.create()
    yield postgresql.url(name)
    if not postgresql.socket.exists():
        postgresql.start()
    postgresql.drop(name)
