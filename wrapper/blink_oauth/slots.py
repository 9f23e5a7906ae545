"""The limit of a client's connections: each request occupies a slot while it uses a connection."""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future
from threading import Lock

import anyio
import httpx

__all__ = ["AsyncSlots", "Slots"]


class Slots:
    """A semaphore for threads that serves the longest waiting thread first.

    With `threading.Semaphore` a thread that makes one call after the other could overtake the
    waiting threads each time.

    Args:
        limit: The number of slots.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiters: deque[Future[None]] = deque()
        self._lock = Lock()

    def acquire(self, request: httpx.Request) -> None:
        """Wait for a slot, at most for the pool timeout of the request.

        Raises:
            httpx.PoolTimeout: No slot became free in time.
        """
        with self._lock:
            if self._free:
                self._free -= 1
                return
            waiter: Future[None] = Future()
            self._waiters.append(waiter)
        try:
            waiter.result(_pool_timeout(request))
        except BaseException as exc:
            # A slot that was assigned at the last moment goes to the next waiter.
            if not waiter.cancel():
                self.release()
            if isinstance(exc, TimeoutError):
                raise httpx.PoolTimeout("no connection became free") from None
            raise

    def release(self) -> None:
        """Give a slot to the next waiter, or make it free."""
        with self._lock:
            while self._waiters:
                waiter = self._waiters.popleft()
                if waiter.set_running_or_notify_cancel():
                    waiter.set_result(None)
                    return
            self._free += 1


class AsyncSlots:
    """A semaphore for the tasks of one event loop that serves the longest waiting task first.

    Args:
        limit: The number of slots.
    """

    def __init__(self, limit: int) -> None:
        self._semaphore = anyio.Semaphore(limit)

    async def acquire(self, request: httpx.Request) -> None:
        """Wait for a slot, at most for the pool timeout of the request.

        Raises:
            httpx.PoolTimeout: No slot became free in time.
        """
        try:
            with anyio.fail_after(_pool_timeout(request)):
                await self._semaphore.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout("no connection became free") from None

    def release(self) -> None:
        """Give a slot to the next waiter, or make it free."""
        self._semaphore.release()


def _pool_timeout(request: httpx.Request) -> float | None:
    timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
    return timeouts.get("pool")
