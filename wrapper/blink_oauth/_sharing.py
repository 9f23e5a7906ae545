"""How calls share connections: whose turn it is, and which one is used next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from threading import Lock
from typing import Generic, TypeVar

__all__ = ["KEEPALIVE_SECONDS", "Idle", "Turns"]

# Shorter than the idle limit of any common server: a connection that the server closes while a
# request is on its way leaves the outcome of that request uncertain.
KEEPALIVE_SECONDS = 5.0

Connection = TypeVar("Connection")


class Idle(Generic[Connection]):
    """The connections that nobody uses. The one that was used last is used next.

    Args:
        monotonic: A clock that never runs backwards, in seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        # Each with the moment since when; the oldest first.
        self._stack: deque[tuple[float, Connection]] = deque()
        self._monotonic = monotonic
        self._lock = Lock()
        self._ended = False

    def __len__(self) -> int:
        return len(self._stack)

    def take(self) -> tuple[Connection | None, list[Connection]]:
        """Take the one that was used last, if there is one, and all that are too old to be used."""
        oldest = self._monotonic() - KEEPALIVE_SECONDS
        old = []
        with self._lock:
            while self._stack and self._stack[0][0] < oldest:
                old.append(self._stack.popleft()[1])
            return self._stack.pop()[1] if self._stack else None, old

    def put(self, connection: Connection) -> bool:
        """Keep a connection for the next call, and say whether there can be one."""
        with self._lock:
            if not self._ended:
                self._stack.append((self._monotonic(), connection))
            return not self._ended

    def end(self) -> list[Connection]:
        """Take all, and keep none from now on."""
        with self._lock:
            self._ended = True
            return self._taken()

    def disinherit(self) -> list[Connection]:
        """Take all in a process that was forked off, and forget who held the lock."""
        self._lock = Lock()
        return self._taken()

    def _taken(self) -> list[Connection]:
        connections = [connection for _, connection in self._stack]
        self._stack.clear()
        return connections


class Turns:
    """As many turns at once as there may be connections. Who waits longest is next.

    A `threading.Semaphore` lets a thread that ends one call and begins another overtake all those
    that wait, again and again.

    Args:
        limit: How many.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[Future[None]] = deque()
        self._lock = Lock()

    def take(self, timeout: float | None) -> None:
        """Wait for a turn.

        Args:
            timeout: Seconds to wait at most, or None.

        Raises:
            TimeoutError: None became free.
        """
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn: Future[None] = Future()
            self._waiting.append(turn)
        try:
            turn.result(timeout)
        except BaseException:
            # If it came at the last moment, it goes to the next one.
            if not turn.cancel():
                self.give()
            raise

    def give(self) -> None:
        """End a turn."""
        with self._lock:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(None)
                    return
            self._free += 1
