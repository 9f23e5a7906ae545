"""What can become of a request to the bank, and what the worker is told of it."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum

from blink_oauth.errors import (
    BlinkError,
    ConnectionLostError,
    InvalidGrantError,
    NotConnectedError,
    OAuthError,
    Outcome,
    StatusError,
    TimedOutError,
)
from blink_oauth.headers import ResponseMeta, Source
from blink_oauth.tokens import Token
from blink_oauth_testing.sandbox.banks import Issued, Refusal

from .harness import moment

__all__ = ["UNREACHED", "Fate", "certainly_unspent", "reply", "timed_out", "told", "unreached"]


class Fate(Enum):
    """What becomes of a request."""

    ANSWERED = "answered"
    REPLY_LOST = "reply lost"
    REQUEST_LOST = "request lost"
    NOT_CONNECTED = "not connected"
    REJECTED = "400"
    BUSY = "429"
    UNAVAILABLE = "503"
    LATE = "late"
    ERROR_WITH_PAIR = "500 with a pair"
    REJECTED_WITH_PAIR = "400 with a pair"
    UNREADABLE = "unreadable refresh token"


UNREACHED = frozenset(
    {Fate.REQUEST_LOST, Fate.NOT_CONNECTED, Fate.REJECTED, Fate.BUSY, Fate.UNAVAILABLE}
)
"""The request never comes to the bank, whatever the worker can know of that."""

FAKE_ID = "fake-correlation-id"


def _meta(status: int, retry_after: float | None = None) -> ResponseMeta:
    return ResponseMeta(
        status=status,
        correlation_id=FAKE_ID,
        echoed=True,
        source=Source.UNKNOWN,
        language=None,
        cache_rules_held=True,
        retry_after=retry_after,
    )


BUSY = _meta(429, 7.0)
UNAVAILABLE = _meta(503)


def timed_out() -> BlinkError:
    """Build the error of a call whose time is over."""
    return TimedOutError("The response did not come in time.", correlation_id=FAKE_ID)


def unreached(fate: Fate) -> BlinkError:
    """Build the error for a request that never came to the bank."""
    if fate is Fate.NOT_CONNECTED:
        return NotConnectedError("No connection.", correlation_id=FAKE_ID)
    if fate is Fate.REQUEST_LOST:
        return ConnectionLostError("The connection broke.", correlation_id=FAKE_ID)
    if fate is Fate.REJECTED:
        return OAuthError("Refused.", status=400, outcome=Outcome.REJECTED, error="invalid_request")
    if fate is Fate.BUSY:
        return StatusError(
            "Too many.", status=429, outcome=Outcome.REJECTED, retryable=True, meta=BUSY
        )
    return StatusError("Unavailable.", status=503, meta=UNAVAILABLE)


def reply(fate: Fate, answer: Issued | Refusal, started_at: float) -> Token | BlinkError:
    """Return what the worker is told of what the bank has answered.

    Args:
        fate: What becomes of the answer on its way.
        answer: The answer.
        started_at: When the worker's clock showed the start of the call.
    """
    if fate is Fate.REPLY_LOST:
        return ConnectionLostError("The connection broke.", correlation_id=FAKE_ID)
    if isinstance(answer, Refusal):
        return InvalidGrantError(
            "Refused.",
            status=400,
            outcome=Outcome.REJECTED,
            needs_consent=True,
            error=answer.error,
            correlation_id=FAKE_ID,
        )
    unreadable = fate is Fate.UNREADABLE
    token = Token(
        access_token=answer.access_token,
        refresh_token=None if unreadable else answer.refresh_token,
        expires_at=moment(started_at) + timedelta(seconds=answer.expires_in),
    )
    if fate is Fate.ERROR_WITH_PAIR:
        return StatusError("Broken.", status=500, token=token)
    if fate is Fate.REJECTED_WITH_PAIR:
        return StatusError("Refused.", status=400, outcome=Outcome.REJECTED, token=token)
    return token


def told(result: Token | BlinkError) -> str:
    """Say whether a result tells what became of the refresh token: `known` or `unknown`."""
    if isinstance(result, Token):
        return "unknown" if result.refresh_token is None else "known"
    if result.token is not None and result.token.refresh_token is not None:
        # A pair in a refusal: the answer contradicts itself.
        return "known" if result.outcome is Outcome.UNCERTAIN else "unknown"
    return "unknown" if result.outcome is Outcome.UNCERTAIN else "known"


def certainly_unspent(result: Token | BlinkError) -> bool:
    """Say whether a result proves that the refresh token was not used."""
    if isinstance(result, Token) or result.token is not None or result.needs_consent:
        return False
    return result.outcome is not Outcome.UNCERTAIN
