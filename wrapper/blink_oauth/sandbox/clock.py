"""The sandbox's own clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from attrs import define


@define
class Clock:
    """Tells the time, and can be put forward.

    Args:
        source: Returns the seconds since the epoch that everything starts from.
    """

    source: Callable[[], float] = time.time
    ahead: float = 0.0

    def __call__(self) -> float:
        """Return the seconds since the epoch."""
        return self.source() + self.ahead

    def advance(self, *, seconds: float) -> None:
        """Let time pass for codes and tokens.

        Args:
            seconds: How much; not below zero.

        Raises:
            ValueError: Time would run backwards.
        """
        if seconds < 0:
            raise ValueError("Time cannot run backwards.")
        self.ahead += seconds
