"""A database for a test: a new file, or a PostgreSQL server that starts at its first use."""

from __future__ import annotations

from pathlib import Path

import pytest

from postgresql import PostgreSQL, running_server

__all__ = ["database_url", "postgres", "postgres_url"]


@pytest.fixture(scope="session")
def postgres() -> PostgreSQL:
    """Return the server."""
    return running_server()


@pytest.fixture
def postgres_url(postgres: PostgreSQL) -> str:
    """Return the URL of an empty database. All tests use the same one, emptied for each test."""
    return postgres.url(postgres.emptied())


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a new empty database, once for SQLite and once for PostgreSQL."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tokens.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
