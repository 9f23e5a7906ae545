"""How long to wait after a failure, and between two looks. Pure."""

from __future__ import annotations

from blink_oauth.errors import BlinkError, Outcome

from .profile import AfterUncertainty, TargetProfile

__all__ = ["backoff", "pause_after", "poll", "replay_soon", "retry_after"]

FIRST_PAUSE = 1.0
LONGEST_PAUSE = 60.0
LONGEST_RETRY_AFTER = 3_600.0
POLL = (0.05, 0.25)
"""Seconds between two looks at what somebody else is refreshing: the first, and the longest."""


def backoff(failures: int, spread: float) -> float:
    """Return the pause after some failures in a row.

    Args:
        failures: How many, from 1.
        spread: A random number from 0 to 1, so that many do not come back at once.

    Returns:
        Seconds: half of it fixed, half of it spread.
    """
    most = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(failures - 1, 16))
    return float(most * (0.5 + 0.5 * spread))


def pause_after(error: BlinkError, *, failures: int, spread: float, lease_left: float) -> float:
    """Return the pause after a failed refresh.

    A server's `Retry-After` is kept. After an uncertain outcome the pause lasts to the end of the
    lease at least: until then the request may still be on its way. A server that says it is
    unavailable gets a minute.

    Args:
        error: The failure.
        failures: How many in a row, this one included.
        spread: A random number from 0 to 1.
        lease_left: Seconds that the lease still runs.
    """
    asked = retry_after(error) or 0.0
    pause = max(backoff(failures, spread), asked)
    if error.outcome is Outcome.UNCERTAIN:
        pause = max(pause, lease_left * (1 + 0.1 * spread))
    if error.status == 503 or (error.outcome is Outcome.REJECTED and not error.retryable):
        pause = max(pause, LONGEST_PAUSE)
    return pause


def retry_after(error: BlinkError) -> float | None:
    """Return the seconds that a server asked us to wait, within reason, or None."""
    asked = error.meta.retry_after if error.meta else None
    return None if asked is None else min(asked, LONGEST_RETRY_AFTER)


def replay_soon(error: BlinkError, profile: TargetProfile) -> bool:
    """Say whether to present a doubtful refresh token again as soon as the pause is over.

    If the bank rotated and its answer was lost, only a prompt replay can help. A server that says
    it is unavailable, or asks for time, most likely executed nothing: there a late one is better.
    """
    unavailable = error.status == 503 or retry_after(error) is not None
    hold = profile.rotates and profile.after_uncertainty is AfterUncertainty.HOLD
    return error.outcome is Outcome.UNCERTAIN and not unavailable and not hold


def poll(look: int, spread: float) -> float:
    """Return the seconds until the next look at a record that somebody else is refreshing."""
    first, longest = POLL
    return float(min(longest, first * 2 ** min(look, 8)) * (0.75 + 0.5 * spread))
