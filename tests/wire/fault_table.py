"""What each fault of the sandbox amounts to: the one table that `test_faults` runs over.

A row says what becomes of a token request, and of a revocation where the fault fits one.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import evolve, frozen

from blink_oauth import (
    ConnectionLostError,
    NoResponseError,
    Oddity,
    Outcome,
    ProblemError,
    ResponseError,
    Source,
    StatusError,
    UnreadableResponseError,
)
from wire.attempts import Operation


@frozen
class Success:
    """The call succeeds: the token comes home, the revocation counts.

    Attributes:
        oddities: What is odd about the token.
        echoed: What the meta data say of the correlation id.
        source: Whom they name.
        cache_rules_held: What they say of caches.
    """

    oddities: frozenset[Oddity] = frozenset()
    echoed: bool | None = True
    source: Source = Source.PROVIDER
    cache_rules_held: bool = True


@frozen
class Failure:
    """The call fails.

    Attributes:
        error: The class, exactly.
        outcome: What is known of the execution.
        status: The status, or None without a response.
        source: Whom the meta data name, or None without a response.
        retryable: Whether the same call may be sent again.
        retry_after: Seconds to wait before that.
    """

    error: type[ResponseError | NoResponseError]
    outcome: Outcome
    status: int | None = None
    source: Source | None = None
    retryable: bool = False
    retry_after: float | None = None


Expectation = Success | Failure


@frozen
class Row:
    """What a fault amounts to.

    Attributes:
        token: For an exchange or a refresh.
        revocation: For a revocation, or None if the fault fits none.
    """

    token: Expectation
    revocation: Expectation | None = None


def failing(expectation: Failure) -> Row:
    """Make a row for a fault that fails every call; an uncertain revocation may be repeated."""
    uncertain = expectation.outcome is Outcome.UNCERTAIN
    again = evolve(expectation, retryable=expectation.retryable or uncertain)
    return Row(expectation, again)


def platform(status: int, retry_after: float | None = None) -> Row:
    """Make a row for a technical problem of the platform."""
    problem = Failure(ProblemError, Outcome.UNCERTAIN, status, Source.PLATFORM)
    return failing(evolve(problem, retry_after=retry_after))


def proxy(status: int, outcome: Outcome = Outcome.UNCERTAIN) -> Row:
    """Make a row for something on the way that speaks neither OAuth nor problem details."""
    return failing(Failure(StatusError, outcome, status, Source.UNKNOWN))


def odd(*oddities: Oddity) -> Row:
    """Make a row for an odd token response; it fits no revocation."""
    return Row(Success(frozenset(oddities)))


def odd_headers(success: Success) -> Row:
    """Make a row for a response with odd headers; those of a revocation are as odd."""
    return Row(success, evolve(success, oddities=frozenset()))


LOST = failing(Failure(ConnectionLostError, Outcome.UNCERTAIN))
UNHARMED = Row(Success(), Success())
UNREADABLE = Failure(UnreadableResponseError, Outcome.UNCERTAIN, 200, Source.PROVIDER)
TOO_MANY = Failure(
    ProblemError, Outcome.REJECTED, 429, Source.PLATFORM, retryable=True, retry_after=2.0
)

TABLE: Mapping[str, Row] = {
    "bad-gateway-html": proxy(502),
    "gateway-timeout-before": platform(504),
    "gateway-timeout-after": platform(504),
    "internal-server-error": platform(500),
    "service-unavailable": platform(503, retry_after=2.0),
    "too-many-requests": failing(TOO_MANY),
    "reset-before": LOST,
    "reset-after": LOST,
    "slow-body": UNHARMED,
    "slow-headers": UNHARMED,
    # A revocation has no body that could be cut.
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
    "wrong-correlation-id": odd_headers(Success(echoed=False)),
    "missing-correlation-id": odd_headers(Success(echoed=None)),
    "missing-source": odd_headers(Success(source=Source.UNKNOWN)),
    "cacheable": odd_headers(Success(cache_rules_held=False)),
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
    """Return what is expected of a call.

    Args:
        fault: The name of the fault.
        operation: What the call does.
        rotates: Whether the bank rotates its refresh tokens.
    """
    row = TABLE[fault]
    if operation == "revoke":
        assert row.revocation is not None
        return row.revocation
    if operation == "exchange_code" or rotates or isinstance(row.token, Failure):
        return row.token
    if fault == "json-list":
        # A bank that does not rotate sends an access token alone, and one alone in a broken body
        # proves nothing: its refresh token may be in the part that cannot be read.
        return UNREADABLE
    return evolve(row.token, oddities=row.token.oddities | {Oddity.REFRESH_TOKEN_MISSING})
