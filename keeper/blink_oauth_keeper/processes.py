"""The registry of what the keeper closes before a fork, resets after it, and closes at exit."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

from attrs import define, field

__all__ = [
    "ForkGate",
    "close_at_exit",
    "close_before_fork",
    "existing",
    "fork_gate",
    "reset_after_fork",
]

T = TypeVar("T")
V = TypeVar("V")

FORK_TIMEOUT = 30.0
"""Seconds that a fork waits for operations in progress: as long as SQLite waits for a lock."""


class Closeable(Protocol):
    """An object with work in progress."""

    def close(self) -> None:
        """Finish the work."""


@define(eq=False)
class ForkGate:
    """Lets no operation of the process run while it forks.

    Args:
        timeout: Seconds that a fork waits for the operations in progress.
    """

    timeout: float = FORK_TIMEOUT
    _changed: threading.Condition = field(init=False, factory=threading.Condition)
    _running: dict[int, int] = field(init=False, factory=dict)
    _forks: int = field(init=False, default=0)

    @contextmanager
    def operation(self) -> Iterator[None]:
        """Run an operation; it starts after any fork in progress."""
        thread = threading.get_ident()
        with self._changed:
            # An operation within another one of its thread must not wait for that one.
            self._changed.wait_for(lambda: not self._forks or thread in self._running)
            self._running[thread] = self._running.get(thread, 0) + 1
        try:
            yield
        finally:
            with self._changed:
                self._running[thread] -= 1
                if not self._running[thread]:
                    del self._running[thread]
                if self._forks:
                    self._changed.notify_all()

    def close(self) -> None:
        """Let no operation start, and wait for those of other threads."""
        thread = threading.get_ident()
        with self._changed:
            self._forks += 1
            self._changed.wait_for(lambda: not self._running.keys() - {thread}, self.timeout)

    def open(self) -> None:
        """Let operations start again, unless another thread forks."""
        with self._changed:
            self._forks -= 1
            self._changed.notify_all()

    def reset(self) -> None:
        """Forget the parent's other threads, in a child."""
        thread = threading.get_ident()
        self._changed = threading.Condition()
        self._running = {key: count for key, count in self._running.items() if key == thread}
        self._forks = 0


fork_gate = ForkGate()
"""The gate of all operations that must not run during a fork."""
_closes: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()
_resets: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()
_closed: weakref.WeakKeyDictionary[Closeable, None] = weakref.WeakKeyDictionary()


def close_before_fork(instance: T, close: Callable[[T], None]) -> None:
    """Close what a child must not inherit, before each fork, as long as the object exists.

    Args:
        instance: An object whose operations run within `fork_gate.operation()`.
        close: Closes the connections of the object that are idle; called in the parent.
    """
    _closes[instance] = close


def reset_after_fork(instance: T, reset: Callable[[T], None]) -> None:
    """Reset an object in each forked child, as long as the object exists.

    Args:
        instance: An object with threads, locks or connections that a child cannot use.
        reset: Resets the object; called in the child.
    """
    _resets[instance] = reset


def close_at_exit(instance: Closeable) -> None:
    """Close an object when the interpreter exits, if the object still exists."""
    _closed[instance] = None


def existing(registry: weakref.WeakKeyDictionary[T, V]) -> list[tuple[T, V]]:
    """Return the entries of the objects that exist; other threads may add some meanwhile."""
    # Before Python 3.14 a loop over the dictionary itself fails if a thread adds an entry.
    found = [reference() for reference in registry.keyrefs()]
    return [(instance, registry[instance]) for instance in found if instance is not None]


def _close_gate() -> None:
    fork_gate.close()
    for instance, close in existing(_closes):
        close(instance)


def _reset_all() -> None:
    fork_gate.reset()
    for instance, reset in existing(_resets):
        reset(instance)


def _close_all() -> None:
    for instance, _ in existing(_closed):
        instance.close()


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_close_gate, after_in_parent=fork_gate.open, after_in_child=_reset_all
    )
atexit.register(_close_all)
