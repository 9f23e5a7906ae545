"""Timers that resume waiting flights, so that a flight holds no thread while it waits."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol

from attrs import define, field

from . import clocks

__all__ = ["ThreadTimers", "Timers"]

logger = logging.getLogger("blink_oauth_keeper")
LONGEST_WAIT = 1.0
"""Seconds after which a waiting thread looks at the clock again: while the machine sleeps, the wait
of a thread stands still."""


class Timers(Protocol):
    """Calls functions after a delay."""

    def start(self) -> None:
        """Start; called once, before the first call of `after`."""

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function once after some seconds, or at once if the timers are closed.

        Args:
            seconds: Seconds to wait.
            call: The function; it returns quickly.
        """

    def close(self) -> None:
        """Make all waiting calls at once; from now on `after` calls at once too."""


@define(eq=False)
class ThreadTimers:
    """Calls functions after a delay, from one daemon thread.

    The functions must return quickly: the others wait for them.

    Args:
        monotonic: Returns seconds of a clock that never goes back and runs as real time does.
    """

    monotonic: Callable[[], float] = clocks.monotonic
    _heap: list[tuple[float, int, Callable[[], None]]] = field(init=False, factory=list)
    _order: itertools.count[int] = field(init=False, factory=itertools.count)
    _changed: threading.Condition = field(init=False, factory=threading.Condition)
    _thread: threading.Thread | None = field(init=False, default=None)
    _closed: bool = field(init=False, default=False)

    def start(self) -> None:
        """Start the thread now: an interpreter that is shutting down starts none."""
        thread = threading.Thread(target=self._run, name="blink-oauth-timers", daemon=True)
        thread.start()
        self._thread = thread

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call a function once after some seconds, or at once if the timers are closed."""
        with self._changed:
            if not self._closed:
                heapq.heappush(self._heap, (self.monotonic() + seconds, next(self._order), call))
                self._changed.notify()
                return
        call()

    def wake(self) -> None:
        """Look at the clock now: a test has advanced it."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """Make all waiting calls at once; from now on `after` calls at once too."""
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
                    self._changed.wait(None if left is None else min(left, LONGEST_WAIT))
                if self._closed:
                    return
                _, _, call = heapq.heappop(self._heap)
            try:
                call()
            except Exception:  # The other calls depend on this thread.
                with suppress(Exception):
                    logger.exception("A call after a delay failed.")

    def _due(self) -> bool:
        return bool(self._heap) and self._heap[0][0] <= self.monotonic()
