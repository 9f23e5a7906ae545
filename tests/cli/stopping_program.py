"""Wait for a signal again and again, and send it at the next step of the wait each time.

It writes the number of steps. A step is a call or a return, of Python or of C.
"""

from __future__ import annotations

import signal
import sys
import time
from types import FrameType

from blink_oauth_cli.stopping import stop_on_signals

NUMBERS = (signal.SIGTERM, signal.SIGINT)
PAUSE = 0.001
"""Seconds of a wait."""


def stopped_at(step: int, number: signal.Signals) -> bool:
    """Send a signal at one step of a wait, and return whether the wait has so many."""
    left = step

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            sys.setprofile(None)
            signal.raise_signal(number)

    with stop_on_signals() as stop:
        sys.setprofile(count)
        stop.wait(PAUSE)
        sys.setprofile(None)
        if left > 0:
            return False
        assert stop.is_set()
        started = time.monotonic()
        assert stop.wait(60.0)
        assert time.monotonic() - started < 30.0
    return True


def main() -> None:
    """Send each signal at each step."""
    steps = 1
    while all(stopped_at(steps, number) for number in NUMBERS):
        steps += 1
    sys.stdout.write(f"{steps}\n")


main()
