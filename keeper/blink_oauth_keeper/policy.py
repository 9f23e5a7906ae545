"""What to do about a grant, decided from its record, its profile and the time. Pure."""

from __future__ import annotations

from datetime import datetime

from attrs import frozen

from .errors import (
    ConsentNeededError,
    NoTokenError,
    RefreshPausedError,
    RefreshPendingError,
    RefreshUncertainError,
    UnknownGrantError,
)
from .freshness import Need, still_good, windows
from .profile import AfterUncertainty, TargetProfile
from .store.records import Record, State

__all__ = ["Attempt", "Refuse", "Serve", "Verdict", "Wait", "judge", "pending"]


@frozen
class Serve:
    """The stored token will do."""


@frozen
class Attempt:
    """It is time to present the refresh token, and it is allowed."""


@frozen
class Wait:
    """Somebody else is refreshing."""


@frozen
class Refuse:
    """There is no usable token, and none can be had now."""

    error: NoTokenError


Verdict = Serve | Attempt | Wait | Refuse


def judge(
    record: Record | None, need: Need, profile: TargetProfile, now: datetime, hold_off: float = 0.0
) -> Verdict:
    """Decide what to do about a grant.

    Args:
        record: The record as it was just read, or None if there is none.
        need: What is wanted.
        profile: What is known of the target.
        now: The present moment, aware.
        hold_off: Seconds to leave the target alone.
    """
    if record is None:
        return Refuse(UnknownGrantError("No token is stored for this grant. Authorize it first."))
    if record.state is State.REVOKED or record.token is None:
        return Refuse(ConsentNeededError("The grant was revoked. Authorize it anew."))
    good = still_good(record, need, profile, now)
    span = windows(record, record.token, profile)
    due = not good or now >= span.mandatory_at
    early = need.eager and (now >= span.advisory_at or _in_doubt(record))
    if not due and not early and not need.forced:
        return Serve()
    if record.state is State.REFRESHING and record.lease_left > 0:
        return Wait() if due or need.forced else Serve()
    error = _obstacle(record, profile, hold_off, due=due)
    if error is None:
        return Attempt()
    return Serve() if good and not need.forced else Refuse(error)


def _in_doubt(record: Record) -> bool:
    # Without an error, an attempt was a success whose new refresh token could not be read.
    return record.state is State.REFRESHING or (record.attempts > 0 and record.error is not None)


def _obstacle(
    record: Record, profile: TargetProfile, hold_off: float, *, due: bool
) -> NoTokenError | None:
    facts = {"correlation_id": record.correlation_id}
    if record.state is State.NEEDS_CONSENT:
        return ConsentNeededError(
            f"The bank refused the refresh token ({record.error}). Only the customer can help: "
            "start a new authorization. Nothing was sent.",
            **facts,
        )
    if record.token is None or record.token.refresh_token is None:
        return ConsentNeededError(
            "There is no refresh token to get another access token with. Start a new "
            "authorization. Nothing was sent.",
            **facts,
        )
    doubtful = record.attempts if profile.rotates else 0
    if doubtful > 1:
        return RefreshUncertainError(
            "The refresh token was presented twice and nobody knows whether it is spent. It is "
            "not presented again: start a new authorization.",
            needs_consent=True,
            **facts,
        )
    if doubtful == 1 and profile.after_uncertainty is AfterUncertainty.HOLD and not due:
        return RefreshUncertainError(
            "The refresh token was presented and may be spent. It is held back until the access "
            "token is about to expire.",
            **facts,
        )
    pause = max(record.pause_left, hold_off)
    if pause > 0:
        return RefreshPausedError(
            f"A refresh failed before ({record.error or 'at the same target'}). The next attempt "
            f"is possible in {pause:.0f} s. Nothing was sent.",
            retry_after=pause,
            **facts,
        )
    return None


def pending(record: Record) -> RefreshPendingError:
    """Build the error for somebody who waited long enough for somebody else's refresh."""
    return RefreshPendingError(
        "Somebody else is refreshing this grant, and the wait is over. Try again. Nothing was "
        "sent by us.",
        retry_after=record.lease_left or None,
        correlation_id=record.correlation_id,
    )
