"""What an application answers to an error: a status for a web application, a code for a job."""

from __future__ import annotations

import math
from collections.abc import Mapping

from attrs import frozen

from .arguments import require_type
from .errors import BlinkError, InvalidInputError, Outcome, ResponseError, TimedOutError

__all__ = ["Answer", "answer_to"]

INTERNAL_ERROR, BAD_GATEWAY, UNAVAILABLE, GATEWAY_TIMEOUT = 500, 502, 503, 504
FORBIDDEN = 403
FAILED, UNUSABLE, CONSENT_NEEDED, UNCERTAIN = 1, 2, 3, 4


@frozen(kw_only=True)
class Answer:
    """What a handler answers to an error of this library.

    Attributes:
        status: The HTTP status. 403: the customer must consent again. 503: try again later. 502 and
            504: the bank or the platform failed. 500: the application must be corrected.
        headers: The header `Retry-After` in whole seconds, if a time is known.
        exit_code: The exit code of a job, as of the command `blink-oauth`, which has one more: for
            a grant that is not stored. 1: failed, run it again. 2: correct the input or the
            settings. 3: the customer must consent again. 4: a code or a refresh token may be spent.
    """

    status: int
    headers: Mapping[str, str]
    exit_code: int


def answer_to(error: BlinkError) -> Answer:
    """Return what a web application or a job answers to an error.

    It has no text: the error's own may name a bank or a file, and belongs in the log.

    Args:
        error: The error.

    Raises:
        InvalidInputError: The error is none of this library.

    Source: RFC 9110 sections 15.5.4, 15.6 and 10.2.3.
    """
    require_type("error", error, BlinkError, "that of `except BlinkError as error`")
    status = _status(error)
    # Only with a status that says that a later request may succeed.
    seconds = error.retry_after if status == UNAVAILABLE else None
    headers = {} if seconds is None else {"Retry-After": str(math.ceil(seconds))}
    return Answer(status=status, headers=headers, exit_code=_exit_code(error))


def _status(error: BlinkError) -> int:
    if isinstance(error, InvalidInputError):
        return INTERNAL_ERROR
    if error.needs_consent:
        return FORBIDDEN
    if error.retryable or error.retry_after is not None:
        return UNAVAILABLE
    if isinstance(error, TimedOutError):
        return GATEWAY_TIMEOUT
    if isinstance(error, ResponseError) or error.outcome is Outcome.UNCERTAIN:
        return BAD_GATEWAY
    return INTERNAL_ERROR


def _exit_code(error: BlinkError) -> int:
    if isinstance(error, InvalidInputError):
        return UNUSABLE
    if error.needs_consent:
        return CONSENT_NEEDED
    return UNCERTAIN if error.outcome is Outcome.UNCERTAIN else FAILED
