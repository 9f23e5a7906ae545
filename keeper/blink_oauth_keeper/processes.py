"""What the keeper does when its process forks or ends: the one registry for both."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

__all__ = ["close_at_exit", "reset_after_fork"]

T = TypeVar("T")


class Closeable(Protocol):
    """Something with work in progress."""

    def close(self) -> None:
        """Bring it to an end."""


_resets: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()
_closed: weakref.WeakSet[Closeable] = weakref.WeakSet()


def reset_after_fork(thing: T, reset: Callable[[T], None]) -> None:
    """Renew a thing in each forked child, as long as it exists.

    Args:
        thing: What has threads, locks or connections that a child cannot go on with.
        reset: Is called with the thing, in the child.
    """
    _resets[thing] = reset


def close_at_exit(thing: Closeable) -> None:
    """Close a thing before the process ends, if it exists then."""
    _closed.add(thing)


def _reset_all() -> None:
    for thing, reset in list(_resets.items()):
        reset(thing)


def _close_all() -> None:
    for thing in list(_closed):
        thing.close()


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all)
atexit.register(_close_all)
