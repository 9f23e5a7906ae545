"""The registry of what the keeper resets after a fork and closes at exit."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

__all__ = ["close_at_exit", "reset_after_fork"]

T = TypeVar("T")


class Closeable(Protocol):
    """An object with work in progress."""

    def close(self) -> None:
        """Finish the work."""


_resets: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()
_closed: weakref.WeakSet[Closeable] = weakref.WeakSet()


def reset_after_fork(instance: T, reset: Callable[[T], None]) -> None:
    """Reset an object in each forked child, as long as the object exists.

    Args:
        instance: An object with threads, locks or connections that a child cannot use.
        reset: Resets the object; called in the child.
    """
    _resets[instance] = reset


def close_at_exit(instance: Closeable) -> None:
    """Close an object when the interpreter exits, if the object still exists."""
    _closed.add(instance)


def _reset_all() -> None:
    for instance, reset in list(_resets.items()):
        reset(instance)


def _close_all() -> None:
    for instance in list(_closed):
        instance.close()


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
atexit.register(_close_all)
