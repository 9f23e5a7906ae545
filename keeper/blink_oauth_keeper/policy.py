"""Every decision about a grant, from its record, its profile and the time. Pure.

`decide` decides what to do; then come the windows of freshness, and the pauses after failures.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from attrs import frozen

from blink_oauth.errors import BlinkError, Outcome
from blink_oauth.tokens import Token

from .errors import (
    ConsentNeededError,
    NoTokenError,
    RefreshPausedError,
    RefreshPendingError,
    RefreshUncertainError,
    UnknownGrantError,
)
from .profile import AfterUncertainty, TargetProfile
from .store.protocol import GrantKey, Record, State

__all__ = [
    "Attempt",
    "AwaitLease",
    "Decision",
    "Need",
    "Refuse",
    "Serve",
    "Windows",
    "backoff",
    "decide",
    "is_usable",
    "jitter",
    "pause_after",
    "pending_error",
    "poll_delay",
    "retry_after",
    "should_replay",
    "windows",
]

JITTER = 0.25
"""Share of the advisory window over which the grants of a fleet spread their refreshes."""


@frozen
class Need:
    """What somebody wants of a token.

    Attributes:
        validity: Seconds that it must still live.
        newer_than: A generation that was refused at a bank's API: only a newer one will do.
        early: Refresh it early if it is time, although it can still be served.
        forced: Only a newer one than the store has now will do, however good that is.
    """

    validity: float = 0.0
    newer_than: int = 0
    early: bool = False
    forced: bool = False


@frozen
class Windows:
    """When an access token is refreshed in the background, is waited for, and is over."""

    advisory_at: datetime
    mandatory_at: datetime
    expires_at: datetime


def jitter(key: GrantKey) -> float:
    """Return a number from 0 to below 1 that is the same for a grant on every machine."""
    grant = key.grant
    text = f"{key.client_id}\0{grant.target_id}\0{grant.username}"
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def windows(record: Record, token: Token, profile: TargetProfile) -> Windows:
    """Return the windows of a stored access token.

    Both are at most half the lifetime: a token that lives shorter than the windows would otherwise
    be refreshed on every look at it.
    """
    issued_at = record.issued_at
    expires_at = token.expires_at or issued_at + timedelta(seconds=profile.default_lifetime)
    half = max(0.0, (expires_at - issued_at).total_seconds() / 2)
    mandatory_at = expires_at - timedelta(seconds=min(profile.mandatory, half))
    early = min(profile.advisory, half) * (1 - JITTER * jitter(record.key))
    return Windows(
        min(expires_at - timedelta(seconds=early), mandatory_at), mandatory_at, expires_at
    )


def is_usable(record: Record, need: Need, profile: TargetProfile, now: datetime) -> bool:
    """Say whether the stored access token can be served at all.

    `need.validity` counts as at most half the lifetime, as the windows do.
    """
    token = record.token
    if token is None or record.state is State.REVOKED or record.generation <= need.newer_than:
        return False
    expires_at = windows(record, token, profile).expires_at
    half = (expires_at - record.issued_at) / 2
    return expires_at - now > max(timedelta(0), min(timedelta(seconds=need.validity), half))


@frozen
class Serve:
    """The stored token will do."""


@frozen
class Attempt:
    """It is time to present the refresh token, and it is allowed."""


@frozen
class AwaitLease:
    """Somebody else is refreshing."""


@frozen
class Refuse:
    """There is no usable token, and none can be had now."""

    error: NoTokenError


Decision = Serve | Attempt | AwaitLease | Refuse


def decide(
    record: Record | None, need: Need, profile: TargetProfile, now: datetime, hold_off: float = 0.0
) -> Decision:
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
    good = is_usable(record, need, profile, now)
    span = windows(record, record.token, profile)
    due = not good or now >= span.mandatory_at
    early = need.early and (now >= span.advisory_at or _in_doubt(record))
    if not due and not early and not need.forced:
        return Serve()
    if record.state is State.REFRESHING and record.lease_left > 0:
        return AwaitLease() if due or need.forced else Serve()
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


def pending_error(record: Record) -> RefreshPendingError:
    """Build the error for somebody who waited long enough for somebody else's refresh."""
    return RefreshPendingError(
        "Somebody else is refreshing this grant, and the wait is over. Try again. Nothing was "
        "sent by us.",
        retry_after=record.lease_left or None,
        correlation_id=record.correlation_id,
    )


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


def should_replay(error: BlinkError, profile: TargetProfile) -> bool:
    """Say whether to present a doubtful refresh token again as soon as the pause is over.

    If the bank rotated and its answer was lost, only a prompt replay can help. A server that says
    it is unavailable, or asks for time, most likely executed nothing: there a late one is better.
    """
    unavailable = error.status == 503 or retry_after(error) is not None
    hold = profile.rotates and profile.after_uncertainty is AfterUncertainty.HOLD
    return error.outcome is Outcome.UNCERTAIN and not unavailable and not hold


def poll_delay(look: int, spread: float) -> float:
    """Return the seconds until the next look at a record that somebody else is refreshing."""
    first, longest = POLL
    return float(min(longest, first * 2 ** min(look, 8)) * (0.75 + 0.5 * spread))
