"""The image that the nox session has built."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that the nox session passes."""
    parser.addoption("--image", help="the image that was built from the Containerfile")


@pytest.fixture(scope="session")
def image(request: pytest.FixtureRequest) -> str:
    """Return the name of the image."""
    name = request.config.getoption("--image")
    assert isinstance(name, str), "--image is missing: nox -s deployment passes it"
    return name
