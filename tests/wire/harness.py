"""Helpers of the tests over real sockets, for a client of either flavour."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from blink_oauth import Grant, Psu, Settings, Token
from blink_oauth_testing.sandbox import Sandbox
from flavours import Caller

STRICT, NON_ROTATING = "IIDX00001", "IIDX00002"
"""A bank that rotates refresh tokens and revokes on reuse, and one that does neither."""

CUSTOMER = Psu(ip="203.0.113.7", user_agent="Mozilla/5.0 (X11; Linux x86_64)")


class Connect(Protocol):
    """Makes clients, and closes them at the end of the test."""

    def __call__(self, settings: Settings, **options: Any) -> Caller:
        """Make a client; the options are further arguments of the client."""


def exchange(caller: Caller, sandbox: Sandbox, grant: Grant) -> Token:
    """Exchange a new code of the sandbox."""
    code = sandbox.issue_code(grant)
    return caller.exchange_code(grant, code=code, redirect_uri=sandbox.redirect_uri, psu=CUSTOMER)


def refresh_token(token: Token) -> str:
    """Return the refresh token in plain text."""
    assert token.refresh_token is not None
    return token.refresh_token.reveal()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition is true, at most 30 seconds."""
    give_up = time.monotonic() + 30.0
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.001)
