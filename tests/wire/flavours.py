"""Both flavours of the client behind one face, so that each test is written once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeVar

from blink_oauth import (
    AsyncBlinkOAuth,
    BlinkOAuth,
    Grant,
    Psu,
    ResponseMeta,
    Secret,
    Settings,
    Token,
    TokenKind,
)
from blink_oauth.sandbox import Sandbox

Flavour = Literal["sync", "async"]
FLAVOURS: tuple[Flavour, ...] = ("sync", "async")

STRICT, LENIENT = "IIDX00001", "IIDX00002"
"""A bank that rotates refresh tokens and revokes on reuse, and one that does neither."""

PERSON = Psu(ip="203.0.113.7", user_agent="Mozilla/5.0 (X11; Linux x86_64)")

Result = TypeVar("Result")


class Caller(Protocol):
    """What the two flavours have in common, seen from a thread."""

    def exchange_code(
        self, grant: Grant, *, code: str | Secret, redirect_uri: str, psu: Psu
    ) -> Token: ...

    def refresh(self, grant: Grant, refresh_token: str | Secret, *, psu: Psu = ...) -> Token: ...

    def revoke(
        self, grant: Grant, token: Token, *, psu: Psu = ...
    ) -> dict[TokenKind, ResponseMeta]: ...

    def close(self) -> None: ...


Connect = Callable[[Settings], Caller]
"""Makes a client that is closed at the end of the test."""


class InItsOwnLoop:
    """An `AsyncBlinkOAuth`, driven by an event loop of its own."""

    def __init__(self, client: AsyncBlinkOAuth, runner: asyncio.Runner) -> None:
        self.client = client
        self._runner = runner

    def exchange_code(
        self, grant: Grant, *, code: str | Secret, redirect_uri: str, psu: Psu
    ) -> Token:
        return self._run(
            self.client.exchange_code(grant, code=code, redirect_uri=redirect_uri, psu=psu)
        )

    def refresh(self, grant: Grant, refresh_token: str | Secret, *, psu: Psu = Psu.AUTO) -> Token:
        return self._run(self.client.refresh(grant, refresh_token, psu=psu))

    def revoke(
        self, grant: Grant, token: Token, *, psu: Psu = Psu.AUTO
    ) -> dict[TokenKind, ResponseMeta]:
        return self._run(self.client.revoke(grant, token, psu=psu))

    def close(self) -> None:
        self._run(self.client.close())

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self._runner.run(work)


@contextmanager
def calling(flavour: Flavour, settings: Settings, **options: Any) -> Iterator[Caller]:
    """Make a client of a flavour, and close it.

    Args:
        flavour: Which one.
        settings: What it needs to know.
        **options: Further arguments of the client.
    """
    if flavour == "sync":
        with BlinkOAuth(settings, **options) as client:
            yield client
        return
    with asyncio.Runner() as runner:
        driven = InItsOwnLoop(AsyncBlinkOAuth(settings, **options), runner)
        try:
            yield driven
        finally:
            driven.close()


def exchange(caller: Caller, sandbox: Sandbox, grant: Grant) -> Token:
    """Exchange a fresh code of the sandbox."""
    code = sandbox.issue_code(grant)
    return caller.exchange_code(grant, code=code, redirect_uri=sandbox.redirect_uri, psu=PERSON)


def refresh_token(token: Token) -> str:
    """Return the refresh token in plain text."""
    assert token.refresh_token is not None
    return token.refresh_token.reveal()
