"""A harness for each test of this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keeper.harness import Harness


@pytest.fixture
def harness() -> Iterator[Harness]:
    """Set up banks, a store and a client; afterwards nothing may have been spent twice."""
    with Harness() as set_up:
        yield set_up
