"""An empty SQLite or PostgreSQL database."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from postgresql import running_server

__all__ = ["database", "empty_database"]


@contextmanager
def empty_database(kind: str, folder: Path) -> Iterator[str]:
    """Yield the URL of an empty database, and drop it afterwards.

    Args:
        kind: `sqlite` or `postgresql`.
        folder: Folder of the SQLite file.
    """
    if kind == "sqlite":
        yield f"sqlite:///{folder / 'tokens.db'}"
        return
    server = running_server()
    name = server.create()
    yield server.url(name)
    server.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of an empty database of each kind in turn."""
    with empty_database(request.param, tmp_path) as url:
        yield url
