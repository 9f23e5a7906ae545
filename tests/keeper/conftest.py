"""A stage for each test of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keeper.stage import Stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    """Set up banks, a store and a client; afterwards nothing may have been spent twice."""
    with Stage() as set_up:
        yield set_up
