"""Both flavours of the client with the same interface, so that one test covers both."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeVar

from blink_oauth import (
    AsyncBlinkOAuth,
    BlinkOAuth,
    Grant,
    Probe,
    Psu,
    ResponseMeta,
    Secret,
    Settings,
    Token,
    TokenKind,
)

Flavour = Literal["sync", "async"]
FLAVOURS: tuple[Flavour, ...] = ("sync", "async")

Result = TypeVar("Result")


class Caller(Protocol):
    """The methods that both flavours have, as synchronous ones."""

    def exchange_code(
        self, grant: Grant, *, code: str | Secret, redirect_uri: str, psu: Psu
    ) -> Token: ...

    def refresh(self, grant: Grant, refresh_token: str | Secret, *, psu: Psu = ...) -> Token: ...

    def revoke(
        self, grant: Grant, token: Token, *, psu: Psu = ...
    ) -> dict[TokenKind, ResponseMeta]: ...

    def probe(self) -> Probe: ...

    def close(self) -> None: ...


class SyncAdapter:
    """Runs the methods of an `AsyncBlinkOAuth` in an event loop of its own."""

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

    def probe(self) -> Probe:
        return self._run(self.client.probe())

    def close(self) -> None:
        self._run(self.client.close())

    def _run(self, call: Coroutine[Any, Any, Result]) -> Result:
        return self._runner.run(call)


@contextmanager
def calling(flavour: Flavour, settings: Settings, **options: Any) -> Iterator[Caller]:
    """Open a client of one flavour, and close it at the end of the block.

    Args:
        flavour: The flavour of the client.
        settings: Its settings.
        **options: Further arguments of the client.
    """
    if flavour == "sync":
        with BlinkOAuth(settings, **options) as client:
            yield client
        return
    with asyncio.Runner() as runner:
        adapter = SyncAdapter(AsyncBlinkOAuth(settings, **options), runner)
        try:
            yield adapter
        finally:
            adapter.close()
