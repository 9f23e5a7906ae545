"""The clocks of a machine, none of which shows by itself how much time has gone.

The wall clock steps when it is set. The monotonic clock of many systems stands still while the
machine sleeps. Linux has a clock that does neither; it begins anew with each boot.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path

from attrs import frozen

from blink_oauth.arguments import CLOCK, require_clock, require_function

__all__ = [
    "BootClock",
    "Moment",
    "aware",
    "boot_clock",
    "monotonic",
    "never_back",
    "read_boot_clock",
    "time_gone",
    "utc_now",
]

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
OFFSETS = Path("/proc/self/timens_offsets")


def utc_now() -> datetime:
    """Return the current time by the wall clock, aware UTC."""
    return datetime.now(UTC)


if sys.platform == "linux" and hasattr(time, "CLOCK_BOOTTIME"):

    def monotonic() -> float:
        """Return seconds of a clock that never goes back and counts the sleep of the machine."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

elif sys.platform == "darwin":

    def monotonic() -> float:
        """Return seconds of a clock that never goes back and counts the sleep of the machine."""
        return time.clock_gettime(time.CLOCK_MONOTONIC)

else:
    monotonic = time.monotonic


@frozen
class Moment:
    """A moment by two clocks.

    Attributes:
        now: The time by the wall clock, aware UTC.
        monotonic: Seconds of a clock that never goes back.
    """

    now: datetime
    monotonic: float


def time_gone(since: Moment, until: Moment) -> float:
    """Return the most seconds that may lie between two moments.

    If the machine slept, the wall clock may show it alone; if the wall clock was set back, only the
    other clock shows the time that has gone.
    """
    by_wall_clock = (until.now - since.now).total_seconds()
    return max(0.0, by_wall_clock, until.monotonic - since.monotonic)


def aware(clock: Callable[[], datetime]) -> Callable[[], datetime]:
    """Return a clock whose every time is required to have a timezone.

    It is not called before its first use, since a clock of a test may wait.

    Args:
        clock: The argument `clock`.

    Raises:
        InvalidInputError: It cannot be called, or only with `await`.
    """
    if clock is utc_now:
        return clock
    require_function("clock", clock, CLOCK, optional=False)
    return partial(require_clock, clock)


def never_back(clock: Callable[[], datetime]) -> Callable[[], float]:
    """Return seconds of a clock that runs as a wall clock does, but does not follow it back.

    Args:
        clock: Returns the current time, timezone-aware.
    """
    last, elapsed = clock(), 0.0

    def seconds() -> float:
        nonlocal last, elapsed
        now = clock()
        elapsed += max(0.0, (now - last).total_seconds())
        last = now
        return elapsed

    return seconds


@frozen
class BootClock:
    """The time since the machine booted, the same for all its processes.

    Attributes:
        boot: The identity of the boot; empty if the system has none.
        seconds: Returns the seconds since the boot, the sleep of the machine included.
    """

    boot: str
    seconds: Callable[[], float]


@cache
def boot_clock() -> BootClock:
    """Return the boot clock of this machine; it has no identity where the system has none."""
    return read_boot_clock(BOOT_ID, OFFSETS)


def read_boot_clock(boot_id: Path, offsets: Path) -> BootClock:
    """Return the boot clock whose identity is in a file.

    Args:
        boot_id: The file with the identity; it does not exist on most systems but Linux.
        offsets: The file with what a container adds to the clocks of its machine.
    """
    try:
        boot = boot_id.read_text().strip()
        lines = offsets.read_text().splitlines() if offsets.exists() else []
    except OSError:
        return BootClock("", monotonic)
    offset = 0.0
    for line in lines:
        match line.split():
            case ["boottime", seconds, nanoseconds]:
                offset = int(seconds) + int(nanoseconds) / 1e9
    return BootClock(boot, lambda: monotonic() - offset)
