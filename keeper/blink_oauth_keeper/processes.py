"""What the keeper does when its process forks or ends: the one registry for both."""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

__all__ = ["close_at_exit", "renew_after_fork"]

T = TypeVar("T")


class Closeable(Protocol):
    """Something with work in progress."""

    def close(self) -> None:
        """Bring it to an end."""


_renewed: weakref.WeakKeyDictionary[Any, Callable[[Any], None]] = weakref.WeakKeyDictionary()
_closed: weakref.WeakSet[Closeable] = weakref.WeakSet()


def renew_after_fork(thing: T, renew: Callable[[T], None]) -> None:
    """Renew a thing in each forked child, as long as it exists.

    Args:
        thing: What has threads, locks or connections that a child cannot go on with.
        renew: Is called with the thing, in the child.
    """
    _renewed[thing] = renew


def close_at_exit(thing: Closeable) -> None:
    """Close a thing before the process ends, if it exists then."""
    _closed.add(thing)


def _renew_all() -> None:
    for thing, renew in list(_renewed.items()):
        renew(thing)


def _close_all() -> None:
    for thing in list(_closed):
        thing.close()


# Windows has no fork.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
atexit.register(_close_all)
