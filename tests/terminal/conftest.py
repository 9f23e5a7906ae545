"""Options: the folder of the installed command, and whether to rewrite the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options that the nox session passes."""
    parser.addoption("--fresh", type=Path, help="the folder of the freshly installed commands")
    parser.addoption("--write", action="store_true", help="write the transcript into docs/cli.md")


@pytest.fixture(scope="session")
def fresh(request: pytest.FixtureRequest) -> Path:
    """Return the folder of the freshly installed `blink-oauth`."""
    folder = request.config.getoption("--fresh")
    assert isinstance(folder, Path), "--fresh is missing: nox -s terminal passes it"
    assert (folder / "blink-oauth").exists()
    return folder.absolute()
