"""The harness of each test in this folder."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keeper.harness import Harness


@pytest.fixture
def harness() -> Iterator[Harness]:
    """Yield a harness, then check that no refresh token was presented more often than allowed."""
    with Harness() as harness:
        yield harness
