"""The fixture of the client tests, which run with both flavours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from flavours import FLAVOURS, Caller
from wrapper.harness import App, Connect, connected


@pytest.fixture(params=FLAVOURS)
def connect(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """Return a function that opens a client with an app as its server; all close after the test."""
    with ExitStack() as stack:

        def connect_to(app: App) -> Caller:
            return stack.enter_context(connected(request.param, app))

        yield connect_to
