"""The result of a call for each fault of the sandbox; `test_faults` checks every row.

A row has the result of a token request, and of a revocation if the fault applies to one.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve, frozen

from blink_oauth import (
    ConnectionLostError,
    ForeignResponseError,
    NoResponseError,
    Oddity,
    Outcome,
    ProblemError,
    ResponseError,
    Source,
    StatusError,
    UnreadableResponseError,
)
from wire.calls import Operation


@frozen
class Success:
    """The call returns a token, or the revocation succeeds.

    Attributes:
        oddities: The oddities of the token.
        echoed: `ResponseMeta.echoed`.
        source: `ResponseMeta.source`.
        caching_forbidden: `ResponseMeta.caching_forbidden`.
    """

    oddities: frozenset[Oddity] = frozenset()
    echoed: bool | None = True
    source: Source = Source.PROVIDER
    caching_forbidden: bool = True


@frozen
class Failure:
    """The call raises an error.

    Attributes:
        error: The exact class of the error.
        outcome: The outcome.
        status: The HTTP status, or None without a response.
        source: `ResponseMeta.source`, or None without a response.
        retryable: Whether the same call may be sent again.
        retry_after: Seconds to wait before the retry, or None.
        has_token: Whether the error has the token of the response.
    """

    error: type[ResponseError | NoResponseError]
    outcome: Outcome
    status: int | None = None
    source: Source | None = None
    retryable: bool = False
    retry_after: float | None = None
    has_token: bool = False


Expectation = Success | Failure


@frozen
class Row:
    """The expected results of one fault.

    Attributes:
        token: The result of an exchange or a refresh.
        revocation: The result of a revocation, or None if the fault does not apply to one.
    """

    token: Expectation
    revocation: Expectation | None = None


def failing(expectation: Failure) -> Row:
    """Return the row of a fault that fails every call; an uncertain revocation is retryable."""
    uncertain = expectation.outcome is Outcome.UNCERTAIN
    revocation = evolve(expectation, retryable=expectation.retryable or uncertain)
    return Row(expectation, revocation)


def platform(status: int) -> Row:
    """Return the row of a technical problem of the platform."""
    return failing(Failure(ProblemError, Outcome.UNCERTAIN, status, Source.PLATFORM))


def proxy(status: int, outcome: Outcome = Outcome.UNCERTAIN) -> Row:
    """Return the row of a proxy error, which is neither an OAuth error nor problem details."""
    return failing(Failure(StatusError, outcome, status, Source.UNKNOWN))


def odd(*oddities: Oddity) -> Row:
    """Return the row of an odd token response; it does not apply to a revocation."""
    return Row(Success(frozenset(oddities)))


def odd_headers(success: Success) -> Row:
    """Return the row of a response with odd headers, also in a revocation."""
    return Row(success, evolve(success, oddities=frozenset()))


LOST = failing(Failure(ConnectionLostError, Outcome.UNCERTAIN))
UNAFFECTED = Row(Success(), Success())
FOREIGN = Failure(ForeignResponseError, Outcome.UNCERTAIN, 200, Source.PROVIDER)
UNREADABLE = Failure(UnreadableResponseError, Outcome.UNCERTAIN, 200, Source.PROVIDER)


def not_forwarded(status: int) -> Row:
    """Return the row of a problem that the platform reports without asking the bank."""
    kind = Failure(ProblemError, Outcome.NOT_EXECUTED, status, Source.PLATFORM)
    return failing(evolve(kind, retryable=True, retry_after=2.0))


TABLE: Mapping[str, Row] = {
    "bad-gateway-html": proxy(502),
    "gateway-timeout-before": platform(504),
    "gateway-timeout-after": platform(504),
    "not-acceptable-after": platform(406),
    "not-acceptable-after-by-bank": failing(
        Failure(ProblemError, Outcome.UNCERTAIN, 406, Source.PROVIDER)
    ),
    "internal-server-error": platform(500),
    "service-unavailable": not_forwarded(503),
    "too-many-requests": not_forwarded(429),
    "reset-before": LOST,
    "reset-after": LOST,
    "slow-body": UNAFFECTED,
    "slow-headers": UNAFFECTED,
    # The response to a revocation has no body to truncate.
    "truncated-body": Row(UNREADABLE, Success()),
    "missing-access-token": Row(UNREADABLE),
    "missing-expires-in": odd(Oddity.EXPIRES_IN_MISSING),
    "null-expires-in": odd(Oddity.EXPIRES_IN_MISSING),
    "string-expires-in": odd(Oddity.EXPIRES_IN_NOT_AN_INTEGER),
    "float-expires-in": odd(Oddity.EXPIRES_IN_NOT_AN_INTEGER),
    "negative-expires-in": odd(Oddity.EXPIRES_IN_UNUSABLE),
    "missing-refresh-token": odd(Oddity.REFRESH_TOKEN_MISSING),
    "odd-token-type": odd(Oddity.TOKEN_TYPE_NOT_BEARER),
    "unknown-members": odd(),
    "wrong-content-type": odd_headers(Success(frozenset({Oddity.CONTENT_TYPE}))),
    "wrong-correlation-id": Row(evolve(FOREIGN, has_token=True), evolve(FOREIGN, retryable=True)),
    "missing-correlation-id": odd_headers(Success(echoed=None)),
    "missing-source": odd_headers(Success(source=Source.UNKNOWN)),
    "cacheable": odd_headers(Success(frozenset({Oddity.CACHEABLE}), caching_forbidden=False)),
    "status-201": odd(Oddity.STATUS_UNDOCUMENTED),
    "status-299": odd(Oddity.STATUS_UNDOCUMENTED),
    "status-499": proxy(499, Outcome.UNCERTAIN),
    "status-520": proxy(520),
    "status-599": proxy(599),
    "redirect": proxy(307),
    "empty-body": Row(UNREADABLE),
    "not-json": Row(UNREADABLE),
    "json-list": odd(Oddity.BODY_BROKEN),
}


def expectation(fault: str, operation: Operation, *, rotates: bool) -> Expectation:
    """Return the expected result of a call.

    Args:
        fault: The name of the fault.
        operation: The operation of the call.
        rotates: Whether the bank rotates its refresh tokens.
    """
    row = TABLE[fault]
    if operation == "revoke":
        assert row.revocation is not None
        return row.revocation
    if operation == "exchange_code" or rotates or isinstance(row.token, Failure):
        return row.token
    if fault == "json-list":
        # A bank that does not rotate sends an access token only. In a broken body that is not
        # enough: a refresh token may be in the part that cannot be read.
        return UNREADABLE
    return evolve(row.token, oddities=row.token.oddities | {Oddity.REFRESH_TOKEN_MISSING})
