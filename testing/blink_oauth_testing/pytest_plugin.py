"""The pytest fixtures `blink_sandbox` and `blink_manager`, for every project with this package.

The plugin imports the sandbox only when a test uses a fixture, so other tests do not load it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from blink_oauth_keeper import TokenManager

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


@pytest.fixture
def blink_manager(blink_sandbox: Sandbox) -> Iterator[TokenManager]:
    """Provide a token manager on the sandbox, with an empty store in memory.

    Client, manager and store run on `blink_sandbox.clock`. Use `get` in a test, or `await aget` in
    a coroutine: one manager serves both.
    """
    from blink_oauth import BlinkOAuth
    from blink_oauth_keeper import MemoryTokenStore, TokenManager

    clock = blink_sandbox.clock
    with (
        BlinkOAuth(blink_sandbox.settings(), clock=clock.now) as blink,
        TokenManager(
            blink, MemoryTokenStore(clock=clock.now), **clock.manager_options()
        ) as manager,
    ):
        yield manager
