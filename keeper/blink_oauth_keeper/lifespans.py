"""What happens to threads and locks when the process forks or ends."""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol

__all__ = ["Closeable", "Renewable", "close_at_exit", "renew_after_fork"]


class Renewable(Protocol):
    """Something with threads or locks that a forked child cannot go on with."""

    def renew(self) -> None:
        """Start anew, in the child."""


class Closeable(Protocol):
    """Something with work in progress."""

    def close(self) -> None:
        """Bring it to an end."""


_renewed: weakref.WeakSet[Renewable] = weakref.WeakSet()
_closed: weakref.WeakSet[Closeable] = weakref.WeakSet()


def renew_after_fork(thing: Renewable) -> None:
    """Renew a thing in each forked child, as long as it exists."""
    _renewed.add(thing)


def close_at_exit(thing: Closeable) -> None:
    """Close a thing before the process ends, if it exists then."""
    _closed.add(thing)


def _renew_all() -> None:
    for thing in list(_renewed):
        thing.renew()


def _close_all() -> None:
    for thing in list(_closed):
        thing.close()


os.register_at_fork(after_in_child=_renew_all)
atexit.register(_close_all)
