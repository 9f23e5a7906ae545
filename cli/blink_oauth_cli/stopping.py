"""The end of a command that runs until SIGTERM or Ctrl-C."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue
from typing import Any

__all__ = ["StopRequest", "stop_on_signals"]


class StopRequest:
    """Set once, also by a signal handler; one thread at a time may wait for it.

    Python runs a signal handler in the main thread, between any two steps of it. If that thread
    waits for a `threading.Event`, it may hold the event's lock, and `Event.set` in the handler then
    waits for it forever. `SimpleQueue.put` may interrupt any other call of its queue.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._queue: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        """Request the end."""
        self._is_set = True
        self._queue.put(None)

    def is_set(self) -> bool:
        """Return whether the end was requested."""
        return self._is_set

    def wait(self, seconds: float) -> bool:
        """Wait some seconds at most, and return whether the end was requested."""
        if not self._is_set:
            with suppress(Empty):
                self._queue.get(timeout=seconds)
        return self._is_set


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Yield a request that the first SIGTERM or Ctrl-C sets; the second has its usual effect."""
    stop = StopRequest()
    previous: dict[int, Any] = {}

    def request_stop(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.getsignal(number)
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
