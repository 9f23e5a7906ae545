"""Crowds that ask for one token at the same time: threads, or coroutines of several event loops."""

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

__all__ = ["PATIENCE", "Answer", "Coroutines", "Crowd", "Gathering", "Threads", "wait_until"]

PATIENCE = 30.0
"""Seconds after which a test gives up on what should have happened long ago."""
TICK = 0.002
"""Seconds between two signs of life of an event loop."""

Answer = Token | BlinkError
"""What one caller got."""
Found = TypeVar("Found")


def wait_until(condition: Callable[[], Found | None], pause: float = 0.001) -> Found:
    """Wait for something that another thread or process brings about, and return it.

    Args:
        condition: Returns what is waited for, once there is any.
        pause: Seconds between two looks; longer where a look costs something.
    """
    give_up = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < give_up, "it did not happen"
        time.sleep(pause)
    return found


@define(eq=False)
class Gathering:
    """Counts who has come, so that nothing is answered before all are there."""

    _awaited: int = field(init=False, default=0)
    _come: int = field(init=False, default=0)
    _changed: threading.Condition = field(init=False, factory=threading.Condition)

    def begin(self, size: int) -> None:
        """Wait for so many from now on."""
        with self._changed:
            self._awaited, self._come = size, 0

    def come(self) -> None:
        """Be there."""
        with self._changed:
            self._come += 1
            if self._come == self._awaited:
                self._changed.notify_all()

    def complete(self) -> None:
        """Return once all are there."""
        with self._changed:
            there = self._changed.wait_for(lambda: self._come >= self._awaited, PATIENCE)
            assert there, f"{self._come} of {self._awaited} came"


class Crowd(Protocol):
    """Many that ask at once."""

    size: int

    def storm(self, manager: TokenManager, grant: Grant, gathering: Gathering) -> list[Answer]:
        """Let all ask at once, and return what each one got."""

    def signs_of_life(self, many: int) -> Callable[[], bool]:
        """Return what tells whether the crowd has moved so many times since now."""


@define(eq=False)
class Threads:
    """Threads of one process."""

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

    def storm(self, manager: TokenManager, grant: Grant, gathering: Gathering) -> list[Answer]:
        together = threading.Barrier(self.size)

        def ask(_: int) -> Answer:
            together.wait(PATIENCE)
            gathering.come()
            try:
                return manager.get(grant)
            except BlinkError as error:
                return error

        gathering.begin(self.size)
        return list(self._pool.map(ask, range(self.size)))

    def signs_of_life(self, many: int) -> Callable[[], bool]:
        # A thread that waits keeps nobody else waiting.
        return lambda: True


@define(eq=False)
class _Loop:
    """An event loop in a thread of its own, with a task that shows whether it is responsive."""

    ticks: int = 0
    loop: asyncio.AbstractEventLoop = field(init=False, factory=asyncio.new_event_loop)
    _over: asyncio.Event = field(init=False, factory=asyncio.Event)
    _thread: threading.Thread = field(init=False)

    def start(self) -> None:
        self._thread = threading.Thread(target=self.loop.run_until_complete, args=(self._tick(),))
        self._thread.start()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join()
        self.loop.close()

    async def _tick(self) -> None:
        while not self._over.is_set():
            self.ticks += 1
            await asyncio.sleep(TICK)


@define(eq=False)
class Coroutines:
    """Coroutines of several event loops, each loop in a thread of its own."""

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

    def storm(self, manager: TokenManager, grant: Grant, gathering: Gathering) -> list[Answer]:
        async def ask() -> Answer:
            gathering.come()
            try:
                return await manager.aget(grant)
            except BlinkError as error:
                return error

        async def ask_all(many: int) -> list[Answer]:
            return await asyncio.gather(*(ask() for _ in range(many)))

        gathering.begin(self.size)
        parts = len(self._loops)
        asked = [
            asyncio.run_coroutine_threadsafe(
                ask_all(len(range(place, self.size, parts))), each.loop
            )
            for place, each in enumerate(self._loops)
        ]
        return [answer for part in asked for answer in part.result(PATIENCE)]

    def signs_of_life(self, many: int) -> Callable[[], bool]:
        before = [each.ticks for each in self._loops]
        return lambda: all(
            each.ticks >= ticks + many for each, ticks in zip(self._loops, before, strict=True)
        )
