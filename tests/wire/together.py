"""Calls that run at the same time on one client of either flavour, started from a test."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any, Protocol

from anyio.from_thread import BlockingPortal, start_blocking_portal

from blink_oauth import AsyncBlinkOAuth, BlinkOAuth, Settings
from flavours import Flavour
from wire.counting import GRANT, name_of, refresh_token_of
from wire.harness import wait_until

LOCK = type(threading.Lock())


class Together(Protocol):
    """Many callers of one client."""

    def start(self, *names: str) -> Future[list[str]]:
        """Let a caller make calls, one after the other, and give the names of their answers."""

    def wait_until_waiting(self, callers: int) -> None:
        """Wait until callers wait for a connection; nobody else may begin a call meanwhile."""

    def close(self) -> None:
        """Close the client."""


class WaitingThreads:
    """Tells which threads wait for another one; a profile function.

    Whatever `threading` and `concurrent.futures` wait with ends in the acquisition of a lock that
    somebody else has.
    """

    def __init__(self) -> None:
        self.idents: set[int] = set()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """Note what a thread begins to do, and that it is done."""
        waits = event == "c_call" and arg.__name__ == "acquire" and isinstance(arg.__self__, LOCK)
        if waits and arg.__self__.locked():
            self.idents.add(threading.get_ident())
        elif event in {"c_return", "c_exception"}:
            self.idents.discard(threading.get_ident())


class Threads:
    """Threads that share a client."""

    def __init__(
        self, client: BlinkOAuth, pool: ThreadPoolExecutor, waiting: WaitingThreads
    ) -> None:
        self._client, self._pool, self._waiting = client, pool, waiting

    def start(self, *names: str) -> Future[list[str]]:
        return self._pool.submit(self._call, names)

    def _call(self, names: tuple[str, ...]) -> list[str]:
        return [name_of(self._client.refresh(GRANT, refresh_token_of(name))) for name in names]

    def wait_until_waiting(self, callers: int) -> None:
        wait_until(lambda: len(self._waiting.idents) == callers)

    def close(self) -> None:
        self._client.close()


class Tasks:
    """Tasks of one event loop that share a client. To cancel a future cancels its task."""

    def __init__(self, client: AsyncBlinkOAuth, portal: BlockingPortal) -> None:
        self._client, self._portal = client, portal

    def start(self, *names: str) -> Future[list[str]]:
        return self._portal.start_task_soon(self._call, names)

    async def _call(self, names: tuple[str, ...]) -> list[str]:
        return [
            name_of(await self._client.refresh(GRANT, refresh_token_of(name))) for name in names
        ]

    def wait_until_waiting(self, callers: int) -> None:
        self._portal.call(everything_that_can_go_on)

    def close(self) -> None:
        self._portal.call(self._client.close)


async def everything_that_can_go_on() -> None:
    """Let every other task of the loop go on until it waits for something outside of it."""
    for _ in range(50):
        await asyncio.sleep(0)


@contextmanager
def together(flavour: Flavour, settings: Settings, **options: Any) -> Iterator[Together]:
    """Make a client of a flavour for many callers.

    Args:
        flavour: Which one.
        settings: What the client needs to know.
        **options: Further arguments of the client.
    """
    if flavour == "sync":
        waiting = WaitingThreads()
        with (
            BlinkOAuth(settings, **options) as client,
            ThreadPoolExecutor(64, initializer=sys.setprofile, initargs=(waiting,)) as pool,
        ):
            yield Threads(client, pool, waiting)
        return
    with start_blocking_portal() as portal:
        tasks = Tasks(portal.call(lambda: AsyncBlinkOAuth(settings, **options)), portal)
        try:
            yield tasks
        finally:
            tasks.close()
