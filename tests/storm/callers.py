"""Callers that ask for one token at the same time: threads, or coroutines of event loops."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Protocol, Self, TypeVar

from attrs import define, field

from blink_oauth import BlinkError, Grant, Token
from blink_oauth_keeper import TokenManager

__all__ = [
    "TIMEOUT",
    "ArrivalCounter",
    "Callers",
    "CoroutineCallers",
    "Result",
    "ThreadCallers",
    "wait_until",
]

TIMEOUT = 30.0
"""Seconds after which a wait fails."""
TICK_INTERVAL = 0.002
"""Seconds between two ticks of an event loop."""

Result = Token | BlinkError
"""What one caller gets."""
Found = TypeVar("Found")


def wait_until(condition: Callable[[], Found | None], pause: float = 0.001) -> Found:
    """Wait for a change by another thread or process, and return the condition's value.

    Args:
        condition: Returns a true value once the change is made.
        pause: Seconds between two checks; longer for an expensive check.
    """
    deadline = time.monotonic() + TIMEOUT
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not true within {TIMEOUT:.0f} s"
        time.sleep(pause)
    return found


@define(eq=False)
class ArrivalCounter:
    """Counts callers, so that a refresh begins only after all of them have asked."""

    _expected: int = field(init=False, default=0)
    _arrived: int = field(init=False, default=0)
    _changed: threading.Condition = field(init=False, factory=threading.Condition)

    def expect(self, size: int) -> None:
        """Start to count `size` callers."""
        with self._changed:
            self._expected, self._arrived = size, 0

    def arrive(self) -> None:
        """Count a caller."""
        with self._changed:
            self._arrived += 1
            if self._arrived == self._expected:
                self._changed.notify_all()

    def wait_for_all(self) -> None:
        """Return once all callers have arrived."""
        with self._changed:
            complete = self._changed.wait_for(lambda: self._arrived >= self._expected, TIMEOUT)
            assert complete, f"{self._arrived} of {self._expected} callers arrived"


class Callers(Protocol):
    """Callers that ask at the same time."""

    size: int

    def call_all(
        self, manager: TokenManager, grant: Grant, arrivals: ArrivalCounter
    ) -> list[Result]:
        """Let all callers ask at the same time, and return the result of each."""

    def progress_check(self, ticks: int) -> Callable[[], bool]:
        """Return a check whether each event loop has made `ticks` ticks since this call."""


@define(eq=False)
class ThreadCallers:
    """Callers that are threads of one process."""

    size: int = 64
    _pool: ThreadPoolExecutor = field(init=False)

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(self.size)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._pool.shutdown()

    def call_all(
        self, manager: TokenManager, grant: Grant, arrivals: ArrivalCounter
    ) -> list[Result]:
        barrier = threading.Barrier(self.size)

        def ask(_: int) -> Result:
            barrier.wait(TIMEOUT)
            arrivals.arrive()
            try:
                return manager.get(grant)
            except BlinkError as error:
                return error

        arrivals.expect(self.size)
        return list(self._pool.map(ask, range(self.size)))

    def progress_check(self, ticks: int) -> Callable[[], bool]:
        # A waiting thread does not block the other threads.
        return lambda: True


@define(eq=False)
class _Loop:
    """An event loop in a thread of its own, with a task that counts its ticks."""

    ticks: int = 0
    loop: asyncio.AbstractEventLoop = field(init=False, factory=asyncio.new_event_loop)
    _stopped: asyncio.Event = field(init=False, factory=asyncio.Event)
    _thread: threading.Thread = field(init=False)

    def start(self) -> None:
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._tick(),))
        self._thread.start()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()
        self.loop.close()

    async def _tick(self) -> None:
        while not self._stopped.is_set():
            self.ticks += 1
            await asyncio.sleep(TICK_INTERVAL)


@define(eq=False)
class CoroutineCallers:
    """Callers that are coroutines of three event loops, each in a thread of its own."""

    size: int = 500
    _loops: list[_Loop] = field(init=False)

    def __enter__(self) -> Self:
        self._loops = [_Loop() for _ in range(3)]
        for loop in self._loops:
            loop.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for loop in self._loops:
            loop.stop()

    def call_all(
        self, manager: TokenManager, grant: Grant, arrivals: ArrivalCounter
    ) -> list[Result]:
        async def ask() -> Result:
            arrivals.arrive()
            try:
                return await manager.aget(grant)
            except BlinkError as error:
                return error

        async def ask_all(count: int) -> list[Result]:
            return await asyncio.gather(*(ask() for _ in range(count)))

        arrivals.expect(self.size)
        parts = len(self._loops)
        futures = [
            asyncio.run_coroutine_threadsafe(
                ask_all(len(range(number, self.size, parts))), each.loop
            )
            for number, each in enumerate(self._loops)
        ]
        return [result for future in futures for result in future.result(TIMEOUT)]

    def progress_check(self, ticks: int) -> Callable[[], bool]:
        before = [loop.ticks for loop in self._loops]
        return lambda: all(
            loop.ticks >= start + ticks for loop, start in zip(self._loops, before, strict=True)
        )
