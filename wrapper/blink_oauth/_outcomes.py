"""The errors of failed calls and their texts. Builds errors and never raises them.

Every text states what happened, whether anything was spent, and what to do next.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ._api import Call, Operation
from ._error_bodies import ServerError, read_errors
from ._redaction import Redactor
from ._reply import Body, ErrorMember, NoResponse, RawResponse
from .errors import (
    ADVICE_ON_REPLAY,
    REFUSED_GRANT,
    STATUS_PAGE,
    BlinkError,
    ForeignResponseError,
    InvalidClientError,
    InvalidGrantError,
    NoResponseError,
    OAuthError,
    Outcome,
    ProblemError,
    ResponseError,
    RevocationError,
    StatusError,
    UnreadableResponseError,
    is_about_form,
    normalized_code,
)
from .headers import CORRELATION_ID, ResponseMeta, Source, foreign_uuid
from .tokens import Token, TokenKind

__all__ = [
    "foreign_response_error",
    "no_response",
    "outcome_of",
    "probe_error",
    "response_error",
    "revocation_error",
]

REFUSED_BY_PLATFORM = frozenset({401, 403, 415, 429, 503})
UNCERTAIN_CLIENT_ERRORS = frozenset({406, 408, 416, 424, 460, 499})
"""The 4xx statuses that a server can send after it has executed a request.

406 and 416 are about the response, which exists only then (RFC 9110 sections 15.5.7 and 15.5.17).
408, 424, 460 and 499 report a timeout, a failed server behind this one, or a closed connection.
"""
REFUSALS_OF_GRANT = frozenset({400, 401, 403})
"""The statuses with which a server refuses a code or refresh token."""
REFUSALS_OF_CLIENT = frozenset({"INVALID_CLIENT", "UNAUTHORIZED_CLIENT"})
"""The codes for a refused client, which say that no other code beside them is about the token."""
REFUSALS_OF_RESPONSE = frozenset({"RESOURCE_TOO_LARGE", "NOT_ACCEPTABLE"})
"""The codes about the response, which exists only after the execution.

That is inferred. The first is one of bLink's error codes, for other modules.
"""

FAILURES_BEHIND_A_GATEWAY = frozenset({502, 504})
"""The statuses of a gateway whose server fails or is late (RFC 9110 sections 15.6.3 and 15.6.5)."""

MAX_TEXTS = 600
"""Characters of all texts of the server together."""

PROBLEM_MEMBERS: tuple[ErrorMember, ...] = ("type", "title", "detail", "instance")

OAUTH_ERRORS: dict[str, type[OAuthError]] = {
    "invalid_grant": InvalidGrantError,
    "invalid_client": InvalidClientError,
    "unauthorized_client": InvalidClientError,
}

ACTIONS = {
    Operation.EXCHANGE_CODE: "Exchanging the authorization code",
    Operation.REFRESH: "Refreshing the token",
    Operation.REVOKE: "Revoking the {kind}",
}

EFFECTS = {
    Outcome.NOT_EXECUTED: "Nothing was executed: the {secret} is not spent.",
    Outcome.REJECTED: "The server rejected the request: no token was issued.",
    Outcome.UNCERTAIN: "The request may have been executed: the {secret} may be spent.",
}

EFFECTS_OF_REVOCATION = {
    Outcome.NOT_EXECUTED: "Nothing was executed: the token was not revoked.",
    Outcome.REJECTED: "The server rejected the request: it did not revoke the token.",
    Outcome.UNCERTAIN: "The request may have been executed: the token may be revoked or not.",
}

TOKEN_IN_FAILURE = (
    "The response reports a failure and contains a token: store it; it is in the attribute `token`."
)

FOREIGN_TOKEN = (
    "The response contains a token, which may be another customer's: neither use nor present it; "
    "it is in the attribute `token`."
)

OUTAGES = f"Outages of banks: <{STATUS_PAGE}>."

ADVICE_IF_FORM_REFUSED = (
    "The server may not know a field of the form. Settings.revocation_fields "
    "(BLINK_REVOCATION_FIELDS) says which are sent, and `blink-oauth doctor --target …` tries "
    "without a real token which are accepted."
)

ADVICE_IF_UNCERTAIN = {
    Operation.EXCHANGE_CODE: "Never send the code again: start a new authorization.",
    Operation.REFRESH: ADVICE_ON_REPLAY,
}


def outcome_of(status: int, source: Source) -> Outcome:
    """Decide from the status and the source whether the call was executed.

    If the platform refuses the client, its rights or the format of the request, limits the rate or
    is unavailable itself, it has not forwarded the call to the bank. Any other 4xx rejects the
    call, except `UNCERTAIN_CLIENT_ERRORS`: these and all other statuses may come from a call that
    was executed. No page of the platform says this.

    Source: inferred; spec/README.md, "What an error status proves", has the reasons.
    """
    if source is Source.PLATFORM and status in REFUSED_BY_PLATFORM:
        return Outcome.NOT_EXECUTED
    if 400 <= status < 500 and status not in UNCERTAIN_CLIENT_ERRORS:
        return Outcome.REJECTED
    return Outcome.UNCERTAIN


def no_response(call: Call, reply: NoResponse, token: Token | None = None) -> NoResponseError:
    """Build the error for a call without a response; a token may have been received even so."""
    what, facts = _describe(reply)
    outcome, advice = reply.error.outcome, ""
    if reply.fault is None:
        # Repeating a revocation is harmless (RFC 7009 section 2.2).
        facts["retryable"] = reply.error.retryable or call.operation is Operation.REVOKE
        advice = _advice(call, outcome, retryable=facts["retryable"])
    if token is not None:
        what, outcome = "a response without a readable status", Outcome.UNCERTAIN
        facts |= {"token": token, "outcome": outcome, "retryable": False}
    facts["correlation_id"] = call.correlation_id
    return reply.error(_message(call, what, outcome, advice, token), **facts)


def probe_error(reply: NoResponse) -> NoResponseError:
    """Build the error for a probe without a response."""
    what, facts = _describe(reply)
    # A probe contains no code or token that could be spent.
    facts |= {"outcome": Outcome.NOT_EXECUTED, "retryable": reply.fault is None}
    return reply.error(f"The probe failed: {what}. Nothing was spent.", **facts)


def _describe(reply: NoResponse) -> tuple[str, dict[str, Any]]:
    facts: dict[str, Any] = {"network_fault": reply.network_fault, "reason": reply.reason}
    if reply.fault is None:
        return reply.reason, facts
    what = f"{reply.fault.finding}. {reply.fault.remedy} ({reply.reason})"
    return what, facts | {"fault": reply.fault}


def response_error(
    call: Call, response: RawResponse, body: Body, meta: ResponseMeta, token: Token | None
) -> ResponseError:
    """Build the error for a response that is no success, or contains no usable token."""
    status = response.status
    outcome = outcome_of(status, meta.source)
    is_contradicted = token is not None and outcome is Outcome.NOT_EXECUTED
    if is_contradicted or response.is_malformed:
        # Only an executed call issues a token, and a malformed head proves nothing.
        outcome = Outcome.UNCERTAIN
    redact = _redactor(call, body)
    error, facts = _error_class(response, body, redact)
    others = read_errors(body.members)
    codes = _codes(body, others)
    normalized = {normalized_code(code) for code in codes}
    if normalized & REFUSALS_OF_RESPONSE:
        outcome = Outcome.UNCERTAIN
    needs_consent = (
        call.operation is not Operation.REVOKE
        and outcome is Outcome.REJECTED
        and status in REFUSALS_OF_GRANT
        and bool(normalized & REFUSED_GRANT)
        and not normalized & REFUSALS_OF_CLIENT
    )
    spends_nothing = outcome is not Outcome.UNCERTAIN and token is None
    retryable = (
        (status == 429 and spends_nothing)
        or (status == 503 and outcome is Outcome.NOT_EXECUTED)
        or (call.operation is Operation.REVOKE and outcome is Outcome.UNCERTAIN)
    )
    what = ", ".join([_status(status, meta.source), *_server_texts(facts, others, body, redact)])
    advice = _advice(call, outcome, retryable, needs_consent, meta.retry_after)
    text = _message(call, what, outcome, advice, token)
    # The error of a revocation, which may be two calls, names the page once.
    if call.operation is not Operation.REVOKE and _may_be_an_outage(meta):
        text = f"{text} {OUTAGES}"
    return error(
        text,
        outcome=outcome,
        retryable=retryable,
        needs_consent=needs_consent,
        retry_after=meta.retry_after,
        status=status,
        meta=meta,
        correlation_id=call.correlation_id,
        token=token,
        codes=tuple(redact(code) for code in codes),
        **facts,
    )


def foreign_response_error(
    call: Call, response: RawResponse, body: Body, meta: ResponseMeta, token: Token | None
) -> ForeignResponseError:
    """Build the error for a response with the correlation id of another request.

    Nothing of the response is repeated but the status and, if it is a UUID, the other id.
    """
    outcome = Outcome.UNCERTAIN
    other = foreign_uuid(response.headers[CORRELATION_ID], call.correlation_id)
    secrets = (*(secret.reveal() for secret in call.secrets), *body.secrets())
    if other and any(other in secret.lower() or secret.lower() in other for secret in secrets):
        other = None  # Some banks issue UUIDs as tokens.
    # Repeating a revocation is harmless (RFC 7009 section 2.2).
    retryable = call.operation is Operation.REVOKE
    what = f"the response has the correlation id of another request{f', {other}' if other else ''}"
    advice = [
        *([FOREIGN_TOKEN] if token else []),
        _advice(call, outcome, retryable),
        "A proxy or the platform mixes up responses: report both ids to the bLink support.",
    ]
    return ForeignResponseError(
        _message(call, what, outcome, " ".join(advice)),
        retryable=retryable,
        status=response.status,
        meta=meta,
        correlation_id=call.correlation_id,
        token=token,
        foreign_correlation_id=other,
    )


def revocation_error(
    revoked: frozenset[TokenKind], errors: Mapping[TokenKind, BlinkError]
) -> RevocationError:
    """Build the error for a revocation of which at least one call failed."""
    unknown = frozenset(k for k, e in errors.items() if e.outcome is Outcome.UNCERTAIN)
    not_revoked = frozenset(errors) - unknown
    states = [
        (revoked, "is revoked"),
        (not_revoked, "was not revoked"),
        (unknown, "may be revoked or not"),
    ]
    own_responses = [
        error.meta
        for error in errors.values()
        if error.meta and not isinstance(error, ForeignResponseError)
    ]
    texts = [f"The {kind.label} {state}." for kinds, state in states for kind in sorted(kinds)]
    advice = [
        *([ADVICE_IF_FORM_REFUSED] if any(map(_refuses_form, errors.values())) else []),
        *([OUTAGES] if any(map(_may_be_an_outage, own_responses)) else []),
    ]
    # The facts of the whole are those of the worst failure: an uncertain one comes first.
    worst = next(
        (error for error in errors.values() if error.outcome is Outcome.UNCERTAIN),
        next(iter(errors.values())),
    )
    return RevocationError(
        " ".join([*texts, *(str(error) for error in errors.values()), *advice]),
        revoked=revoked,
        not_revoked=not_revoked,
        unknown=unknown,
        errors=errors,
        outcome=worst.outcome,
        retryable=all(error.retryable for error in errors.values()),
        retry_after=max(
            (error.retry_after for error in errors.values() if error.retry_after is not None),
            default=None,
        ),
        status=worst.status,
        meta=worst.meta,
        correlation_id=worst.correlation_id,
    )


def _refuses_form(error: BlinkError) -> bool:
    return error.outcome is Outcome.REJECTED and is_about_form(error)


def _error_class(
    response: RawResponse, body: Body, redact: Redactor
) -> tuple[type[ResponseError], dict[str, str | None]]:
    def redact_if_any(text: str | None) -> str | None:
        return text and redact(text)

    code = body.text("error")
    if code is not None:
        return OAUTH_ERRORS.get(code.lower(), OAuthError), {
            "error": redact(code),
            "description": redact_if_any(body.text("error_description")),
            "uri": redact_if_any(body.text("error_uri")),
        }
    problem = {name: body.text(name) for name in PROBLEM_MEMBERS}
    if problem["type"] or problem["title"]:
        return ProblemError, {name: redact_if_any(text) for name, text in problem.items()}
    return (UnreadableResponseError if response.succeeded else StatusError), {}


def _redactor(call: Call, body: Body) -> Redactor:
    return Redactor([*(secret.reveal() for secret in call.secrets), *body.secrets()])


def _status(status: int, source: Source) -> str:
    return f"{status}" if source is Source.UNKNOWN else f"{status} from the {source.lower()}"


def _codes(body: Body, others: Sequence[ServerError]) -> list[str]:
    """Return the codes of a body: that of its RFC first, then those of other formats."""
    code = body.text("error") or body.text("type")
    return [*filter(None, [code]), *(code for other in others for code in other.codes)]


def _server_texts(
    facts: Mapping[str, str | None], others: Sequence[ServerError], body: Body, redact: Redactor
) -> list[str]:
    names = ("error", "description", "type", "title", "detail")
    texts = [text for name in names if (text := facts.get(name))]
    texts += [redact(text) for other in others for text in other.codes + other.texts]
    unique = dict.fromkeys(text.rstrip(".") for text in texts)
    # Each text is redacted for itself: one that is left out must not take a code with it.
    return [", ".join(unique)[:MAX_TEXTS] or body.description]


def _may_be_an_outage(meta: ResponseMeta) -> bool:
    """Decide whether the bank may be unavailable, which the platform's status page reports."""
    is_failure_of_bank = meta.source is Source.PROVIDER and 500 <= meta.status < 600
    return is_failure_of_bank or meta.status in FAILURES_BEHIND_A_GATEWAY


def _advice(
    call: Call,
    outcome: Outcome,
    retryable: bool,
    needs_consent: bool = False,
    retry_after: float | None = None,
) -> str:
    if needs_consent:
        return "Only the customer can help: start a new authorization at the bank."
    if retryable:
        wait = "" if retry_after is None else f" after {math.ceil(retry_after)} s"
        return f"The same call may be sent again{wait}."
    if outcome is Outcome.UNCERTAIN:
        return ADVICE_IF_UNCERTAIN[call.operation]
    return "Correct the cause first: the same call would be refused again."


def _message(
    call: Call, what: str, outcome: Outcome, advice: str, token: Token | None = None
) -> str:
    effects = EFFECTS_OF_REVOCATION if call.operation is Operation.REVOKE else EFFECTS
    effect = effects[outcome].format(secret=call.operation.value)
    if token is not None:
        effect, advice = TOKEN_IN_FAILURE, ""
    parts = (
        f"{_action(call)} at {call.target_id} failed: {what}.",
        effect,
        advice,
        f"Correlation id {call.correlation_id}.",
    )
    return " ".join(part for part in parts if part)


def _action(call: Call) -> str:
    return ACTIONS[call.operation].format(kind=call.kind.label if call.kind else "")
