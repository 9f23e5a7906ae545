"""What wakes up a flight that waits, so that it holds no thread meanwhile."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Protocol

from attrs import define, field

__all__ = ["ThreadTimers", "Timers"]


class Timers(Protocol):
    """What calls back after a while."""

    def start(self) -> None:
        """Start what it needs; called once, before the first call of `after`."""

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call back once after some seconds, or at once if it is closed."""

    def close(self) -> None:
        """Call back everybody who waits, at once, and all later ones too."""


@define(eq=False)
class ThreadTimers:
    """Call back after a while, from one thread of its own that keeps no process alive.

    The calls must be short: they hand work to somebody else.

    Args:
        monotonic: Tells the seconds, never backwards; they pass as the real ones do.
    """

    monotonic: Callable[[], float] = time.monotonic
    _heap: list[tuple[float, int, Callable[[], None]]] = field(init=False, factory=list)
    _order: itertools.count[int] = field(init=False, factory=itertools.count)
    _changed: threading.Condition = field(init=False, factory=threading.Condition)
    _thread: threading.Thread | None = field(init=False, default=None)
    _closed: bool = field(init=False, default=False)

    def start(self) -> None:
        """Start the thread. Later it may be too late: an interpreter that ends starts none."""
        thread = threading.Thread(target=self._run, name="blink-oauth-wakeups", daemon=True)
        thread.start()
        self._thread = thread

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call back after some seconds, or at once if everything is closing."""
        with self._changed:
            if not self._closed:
                heapq.heappush(self._heap, (self.monotonic() + seconds, next(self._order), call))
                self._changed.notify()
                return
        call()

    def close(self) -> None:
        """Call back everybody who waits, at once, and all later ones too."""
        with self._changed:
            self._closed = True
            waiting = [call for _, _, call in sorted(self._heap)]
            self._heap.clear()
            self._changed.notify()
        for call in waiting:
            call()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not self._due():
                    left = self._heap[0][0] - self.monotonic() if self._heap else None
                    self._changed.wait(left)
                if self._closed:
                    return
                _, _, call = heapq.heappop(self._heap)
            call()

    def _due(self) -> bool:
        return bool(self._heap) and self._heap[0][0] <= self.monotonic()
