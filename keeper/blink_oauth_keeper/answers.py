"""What somebody who waited for a flight gets from its landing. Pure."""

from __future__ import annotations

import copy
from collections.abc import Callable
from datetime import datetime

from blink_oauth.tokens import Token

from .errors import RefreshPendingError
from .freshness import Need, still_good
from .profile import TargetProfile
from .steps import Landing

__all__ = ["answer", "overdue", "remaining", "require_no_error", "token_of"]


def answer(landing: Landing, need: Need, profile: TargetProfile, now: datetime) -> Token | None:
    """Return the token that a landing has for somebody, or None if they had better ask again.

    A token that is still good is served whatever went wrong. One that the flight itself has
    brought is served however short it lives: another would not live longer. Who forced a refresh
    gets only what came while the flight was in the air.

    Raises:
        BlinkError: What went wrong, as an exception of this caller's own.
    """
    record = landing.record
    if record is not None:
        brought = landing.fresh and record.generation > need.beyond
        enough = landing.newer or not need.forced
        if brought or (enough and still_good(record, need, profile, now)):
            return record.token
    # Many callers share the error; each raises a copy, since raising changes it.
    require_no_error(landing)
    return None


def token_of(landing: Landing) -> Token:
    """Return the token that an authorization brought.

    Raises:
        BlinkError: It brought none.
    """
    require_no_error(landing)
    assert landing.record is not None
    assert landing.record.token is not None
    return landing.record.token


def require_no_error(landing: Landing) -> None:
    """Raise what went wrong, if anything did."""
    if landing.error is not None:
        raise copy.copy(landing.error)


def remaining(timeout: float | None, monotonic: Callable[[], float]) -> Callable[[], float | None]:
    """Start a caller's time, and return what tells how many seconds of it are left."""
    if timeout is None:
        return lambda: None
    end = monotonic() + timeout
    return lambda: max(0.0, end - monotonic())


def overdue() -> RefreshPendingError:
    """Build the error for a caller whose own time is over."""
    return RefreshPendingError(
        "The refresh took longer than you wanted to wait. It goes on, and its result will be "
        "stored: ask again."
    )
