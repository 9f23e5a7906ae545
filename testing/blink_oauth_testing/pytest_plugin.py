"""The pytest fixture `blink_sandbox`, for every project that has this package installed.

The plugin imports the sandbox only when a test uses the fixture, so other tests do not load it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .sandbox import Sandbox


@pytest.fixture(scope="session")
def _blink_sandbox_server() -> Iterator[Sandbox]:
    try:
        from .sandbox import Sandbox
    except ImportError as error:
        pytest.fail(
            f"The fixture blink_sandbox needs the extra blink-oauth[testing]: {error}",
            pytrace=False,
        )
    sandbox = Sandbox().start()
    yield sandbox
    sandbox.stop()


@pytest.fixture
def blink_sandbox(_blink_sandbox_server: Sandbox) -> Iterator[Sandbox]:
    """Provide a strict local bLink platform, reset before each test.

    The server runs for the whole session; the reset covers tokens, faults, exchanges and the clock.
    If a response breaks the contract although no fault applied, pytest reports an error at the
    teardown of the test.
    """
    _blink_sandbox_server.reset()
    yield _blink_sandbox_server
    _blink_sandbox_server.require_no_violations()
