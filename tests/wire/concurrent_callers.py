"""Concurrent callers of one client of either flavour, started by a test."""

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
from wire.counting_server import GRANT, name_of, refresh_token_of
from wire.harness import wait_until

LOCK = type(threading.Lock())


class ConcurrentCallers(Protocol):
    """Many callers of one client."""

    def start(self, *names: str) -> Future[list[str]]:
        """Start a caller that makes calls one after the other, and returns the tokens' names."""

    def wait_until_waiting(self, callers: int) -> None:
        """Wait until so many callers wait for a connection; start no call meanwhile."""

    def close(self) -> None:
        """Close the client."""


class WaitingThreads:
    """A profile function that records which threads wait for another thread.

    Every wait of `threading` and `concurrent.futures` acquires a lock that is already held.
    """

    def __init__(self) -> None:
        self.idents: set[int] = set()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        """Record that a thread begins or ends to wait for a lock."""
        waits = event == "c_call" and arg.__name__ == "acquire" and isinstance(arg.__self__, LOCK)
        if waits and arg.__self__.locked():
            self.idents.add(threading.get_ident())
        elif event in {"c_return", "c_exception"}:
            self.idents.discard(threading.get_ident())


class Threads:
    """Threads that share one client."""

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
    """Tasks of one event loop that share one client. Cancelling a future cancels its task."""

    def __init__(self, client: AsyncBlinkOAuth, portal: BlockingPortal) -> None:
        self._client, self._portal = client, portal

    def start(self, *names: str) -> Future[list[str]]:
        return self._portal.start_task_soon(self._call, names)

    async def _call(self, names: tuple[str, ...]) -> list[str]:
        return [
            name_of(await self._client.refresh(GRANT, refresh_token_of(name))) for name in names
        ]

    def wait_until_waiting(self, callers: int) -> None:
        self._portal.call(let_other_tasks_run)

    def close(self) -> None:
        self._portal.call(self._client.close)


async def let_other_tasks_run() -> None:
    """Let every other task of the loop run until it waits for I/O or for a lock."""
    for _ in range(50):
        await asyncio.sleep(0)


@contextmanager
def callers_of(flavour: Flavour, settings: Settings, **options: Any) -> Iterator[ConcurrentCallers]:
    """Make one client for concurrent callers, and close it.

    Args:
        flavour: The flavour of the client.
        settings: The settings of the client.
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
