"""An empty database of either kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from postgresql import running_server

__all__ = ["database", "empty_database"]


@contextmanager
def empty_database(kind: str, folder: Path) -> Iterator[str]:
    """Lend the URL of an empty database, which is dropped in the end.

    Args:
        kind: `sqlite` or `postgresql`.
        folder: Where the file goes, if it is one.
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
    """Give the URL of an empty database of each kind in turn."""
    with empty_database(request.param, tmp_path) as url:
        yield url
