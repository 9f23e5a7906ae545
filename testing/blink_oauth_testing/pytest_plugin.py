"""The pytest fixture `blink_sandbox`, for every project that has this package installed.

It imports the sandbox only when a test asks for it, so that the plugin costs other tests nothing.
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
    """Give a strict local bLink platform in a fresh state.

    The server runs for the whole session; tokens, faults, exchanges and the time advanced are
    forgotten before each test. A response that breaks the contract although no fault asked for it
    fails the test at its end.
    """
    _blink_sandbox_server.reset()
    yield _blink_sandbox_server
    _blink_sandbox_server.require_no_violations()
