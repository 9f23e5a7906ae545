"""Where the freshly installed command is, and whether the documentation is to be written anew."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the session of nox says."""
    parser.addoption("--fresh", type=Path, help="the folder of the freshly installed commands")
    parser.addoption("--write", action="store_true", help="write the transcript into docs/cli.md")


@pytest.fixture(scope="session")
def fresh(request: pytest.FixtureRequest) -> Path:
    """Return the folder in which the freshly installed `blink-oauth` is."""
    folder = request.config.getoption("--fresh")
    assert isinstance(folder, Path), "nox -s terminal says where"
    assert (folder / "blink-oauth").exists()
    return folder.absolute()
