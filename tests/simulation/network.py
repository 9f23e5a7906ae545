"""The faults of a request to the bank, and the result that the worker receives."""

from __future__ import annotations

from datetime import timedelta
from enum import Enum

from blink_oauth.errors import (
    BlinkError,
    ConnectionLostError,
    ForeignResponseError,
    InvalidGrantError,
    NotConnectedError,
    OAuthError,
    Outcome,
    StatusError,
    TimedOutError,
)
from blink_oauth.headers import ResponseMeta, Source
from blink_oauth.tokens import Token
from blink_oauth_testing.sandbox.banks import IssuedTokens, Refusal

from .harness import moment

__all__ = [
    "OF_ANOTHER_GRANT",
    "UNREACHED",
    "RequestFault",
    "certainly_unspent",
    "certainty",
    "foreign_response",
    "received_result",
    "timed_out_error",
    "unreached_error",
]


class RequestFault(Enum):
    """A fault of a request, or none."""

    NONE = "no fault"
    RESPONSE_LOST = "response lost"
    REQUEST_LOST = "request lost"
    NOT_CONNECTED = "not connected"
    REJECTED = "400"
    BUSY = "429"
    UNAVAILABLE = "503"
    LATE = "late"
    ERROR_WITH_PAIR = "500 with a pair"
    REJECTED_WITH_PAIR = "400 with a pair"
    UNREADABLE = "unreadable refresh token"
    NOT_FORWARDED = "503 of the platform"
    FOREIGN = "response to another request"


UNREACHED = frozenset(
    {
        RequestFault.REQUEST_LOST,
        RequestFault.NOT_CONNECTED,
        RequestFault.REJECTED,
        RequestFault.BUSY,
        RequestFault.UNAVAILABLE,
        RequestFault.NOT_FORWARDED,
    }
)
"""The request never reaches the bank; the worker may be unable to know that."""

FAKE_ID = "fake-correlation-id"


def _meta(
    status: int, retry_after: float | None = None, source: Source = Source.UNKNOWN
) -> ResponseMeta:
    return ResponseMeta(
        status=status,
        correlation_id=FAKE_ID,
        echoed=True,
        source=source,
        language=None,
        caching_forbidden=True,
        retry_after=retry_after,
    )


BUSY = _meta(429, 7.0)
UNAVAILABLE = _meta(503)
NOT_FORWARDED = _meta(503, 60.0, Source.PLATFORM)


OF_ANOTHER_GRANT = "-of-another-grant"
"""The end of a token that was issued for another grant."""


def foreign_response(own: IssuedTokens | Refusal) -> ForeignResponseError:
    """Return the error of a response that was swapped with that to a call for another grant.

    Args:
        own: The response that the other call got.
    """
    if isinstance(own, Refusal):
        return ForeignResponseError("Swapped.", status=400, correlation_id=FAKE_ID)
    refresh = own.refresh_token
    token = Token(
        access_token=own.access_token + OF_ANOTHER_GRANT,
        refresh_token=None if refresh is None else refresh + OF_ANOTHER_GRANT,
    )
    return ForeignResponseError("Swapped.", status=200, correlation_id=FAKE_ID, token=token)


def timed_out_error() -> BlinkError:
    """Return the error of a request that has timed out."""
    return TimedOutError("The response did not come in time.", correlation_id=FAKE_ID)


def unreached_error(fault: RequestFault) -> BlinkError:
    """Return the error of a request that never reached the bank."""
    if fault is RequestFault.NOT_CONNECTED:
        return NotConnectedError("No connection.", correlation_id=FAKE_ID)
    if fault is RequestFault.REQUEST_LOST:
        return ConnectionLostError("The connection broke.", correlation_id=FAKE_ID)
    if fault is RequestFault.REJECTED:
        return OAuthError("Refused.", status=400, outcome=Outcome.REJECTED, error="invalid_request")
    if fault is RequestFault.BUSY:
        return StatusError(
            "Too many.", status=429, outcome=Outcome.REJECTED, retryable=True, meta=BUSY
        )
    if fault is RequestFault.NOT_FORWARDED:
        return StatusError(
            "Not forwarded.",
            status=503,
            outcome=Outcome.NOT_EXECUTED,
            retryable=True,
            meta=NOT_FORWARDED,
        )
    return StatusError("Unavailable.", status=503, meta=UNAVAILABLE)


def received_result(
    fault: RequestFault, response: IssuedTokens | Refusal, started_at: float
) -> Token | BlinkError:
    """Return the result that the worker receives for the bank's response.

    Args:
        fault: The fault that changes the response on its way.
        response: The bank's response.
        started_at: Seconds that the worker's clock showed at the start of the request.
    """
    if fault is RequestFault.RESPONSE_LOST:
        return ConnectionLostError("The connection broke.", correlation_id=FAKE_ID)
    if fault is RequestFault.FOREIGN:
        return foreign_response(response)
    if isinstance(response, Refusal):
        return InvalidGrantError(
            "Refused.",
            status=400,
            outcome=Outcome.REJECTED,
            needs_consent=True,
            error=response.error,
            correlation_id=FAKE_ID,
        )
    unreadable = fault is RequestFault.UNREADABLE
    token = Token(
        access_token=response.access_token,
        refresh_token=None if unreadable else response.refresh_token,
        expires_at=moment(started_at) + timedelta(seconds=response.expires_in),
    )
    if fault is RequestFault.ERROR_WITH_PAIR:
        return StatusError("Broken.", status=500, token=token)
    if fault is RequestFault.REJECTED_WITH_PAIR:
        return StatusError("Refused.", status=400, outcome=Outcome.REJECTED, token=token)
    return token


def certainty(result: Token | BlinkError) -> str:
    """Return whether a result determines the refresh token's state: `known` or `unknown`."""
    if isinstance(result, Token):
        return "unknown" if result.refresh_token is None else "known"
    if isinstance(result, ForeignResponseError):
        return "unknown"
    if result.token is not None and result.token.refresh_token is not None:
        # A rejection that contains a pair contradicts itself.
        return "known" if result.outcome is Outcome.UNCERTAIN else "unknown"
    return "unknown" if result.outcome is Outcome.UNCERTAIN else "known"


def certainly_unspent(result: Token | BlinkError) -> bool:
    """Return whether a result proves that the refresh token is not spent."""
    if isinstance(result, Token) or result.token is not None or result.needs_consent:
        return False
    return result.outcome is not Outcome.UNCERTAIN
