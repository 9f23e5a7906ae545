"""The sandbox's own clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from attrs import define, field

# Beyond any date that a calendar knows; it keeps a slip of the pen from stopping the clock.
_FARTHEST = 1e11


@define
class Clock:
    """Tells the time, and can be put forward. Threads may share it.

    Args:
        source: Returns the seconds since the epoch that everything starts from.
        ahead: Seconds that it is ahead of its source.
    """

    source: Callable[[], float] = time.time
    ahead: float = 0.0
    _lock: threading.Lock = field(init=False, factory=threading.Lock, repr=False, eq=False)

    def __call__(self) -> float:
        """Return the seconds since the epoch."""
        return self.source() + self.ahead

    def advance(self, *, seconds: float) -> None:
        """Let time pass for codes and tokens.

        Args:
            seconds: How much; not below zero.

        Raises:
            ValueError: Time would run backwards, or out of every calendar.
        """
        if not 0 <= seconds <= _FARTHEST:
            raise ValueError("Time cannot run backwards, nor for ever.")
        with self._lock:
            self.ahead += seconds
