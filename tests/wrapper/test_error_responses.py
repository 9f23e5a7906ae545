"""Error responses: the error that each one raises, its outcome and its advice."""

from __future__ import annotations

from urllib.parse import quote_plus

import httpx
import pytest

from blink_oauth import (
    BlinkError,
    InvalidClientError,
    InvalidGrantError,
    OAuthError,
    Outcome,
    ProblemError,
    ResponseError,
    RevocationError,
    Source,
    StatusError,
    TokenKind,
)
from blink_oauth.errors import STATUS_PAGE
from wrapper.harness import (
    ACCESS_TOKEN,
    CODE,
    FIRST_ID,
    REFRESH_TOKEN,
    REFRESH_TOKEN_SENT,
    SECRETS,
    TOKEN_BODY,
    Call,
    Connect,
    Headers,
    Platform,
    exchange,
    refresh,
    reply,
    revoke_access,
)
from wrapper.leaks import found, texts_of_error

PLATFORM = "PLATFORM"
PROVIDER = "PROVIDER"
HTML = b"<html><body><h1>502 Bad Gateway</h1></body></html>"
NOT_EXECUTED, REJECTED, UNCERTAIN = Outcome.NOT_EXECUTED, Outcome.REJECTED, Outcome.UNCERTAIN
MAY_BE_SPENT = (UNCERTAIN, False, False)
REFUSED = (REJECTED, False, False)


def failure(status: int, body: object, source: str | None = None, **more: str) -> httpx.Response:
    """Return an error response; names of further headers are given with underscores."""
    headers: dict[str, str] = {"Content-Language": "en", "X-Correlation-ID": FIRST_ID}
    headers |= {} if source is None else {"X-CorAPI-Source": source}
    headers |= {name.replace("_", "-"): value for name, value in more.items()}
    return reply(status, body, headers)


def oauth(error: str) -> dict[str, object]:
    """Return the body of an OAuth error."""
    return {"error": error, "error_description": "No.", "error_uri": "https://bank.example/e"}


def problem(name: str) -> dict[str, object]:
    """Return the body of a problem."""
    return {"type": f"/problems/{name}", "title": "No", "detail": "Never.", "instance": "/i/1"}


Row = tuple[httpx.Response, type[ResponseError], tuple[Outcome, bool, bool]]
# The response, the class of the error, and its outcome, retryable and needs_consent.
ROWS: dict[str, Row] = {
    # RFC 6749 section 5.2
    "invalid_grant": (
        failure(400, oauth("invalid_grant"), PROVIDER),
        InvalidGrantError,
        (REJECTED, False, True),
    ),
    "INVALID_GRANT": (
        failure(400, oauth("INVALID_GRANT")),
        InvalidGrantError,
        (REJECTED, False, True),
    ),
    "invalid_grant with 502": (
        failure(502, oauth("invalid_grant")),
        InvalidGrantError,
        MAY_BE_SPENT,
    ),
    "invalid_grant from the platform with 401": (
        failure(401, oauth("invalid_grant"), PLATFORM),
        InvalidGrantError,
        (NOT_EXECUTED, False, False),
    ),
    "invalid_client": (failure(401, oauth("invalid_client")), InvalidClientError, REFUSED),
    "unauthorized_client": (
        failure(400, oauth("unauthorized_client")),
        InvalidClientError,
        REFUSED,
    ),
    "unknown code": (failure(400, oauth("BANK_IS_CLOSED")), OAuthError, REFUSED),
    "invalid_request": (failure(400, oauth("invalid_request"), PROVIDER), OAuthError, REFUSED),
    # a form instead of JSON
    "a form with invalid_grant": (
        failure(400, b"error=invalid_grant&error_description=No+such+token"),
        InvalidGrantError,
        (REJECTED, False, True),
    ),
    "a form with escapes": (
        failure(400, b"error=invalid%5Fgrant", PROVIDER, Content_Type="text/plain"),
        InvalidGrantError,
        (REJECTED, False, True),
    ),
    "a form with invalid_client": (
        failure(401, b"error_uri=&error=invalid_client\n", PLATFORM),
        InvalidClientError,
        (NOT_EXECUTED, False, False),
    ),
    "a form with an error and 502": (
        failure(502, b"error=invalid_grant"),
        InvalidGrantError,
        MAY_BE_SPENT,
    ),
    "a form without an error": (failure(400, b"message=invalid_grant"), StatusError, REFUSED),
    "a page that mentions a form": (
        failure(400, b"<p>error=invalid_grant&error_description=x"),
        StatusError,
        REFUSED,
    ),
    "a sentence that mentions a form": (
        failure(400, b"the error=invalid_grant&error_description=x"),
        StatusError,
        REFUSED,
    ),
    # problems
    "problem": (failure(400, problem("INVALID_PAYLOAD"), PLATFORM), ProblemError, REFUSED),
    "problem with 401": (
        failure(401, problem("INVALID_CLIENT"), PLATFORM, Content_Type="application/problem+json"),
        ProblemError,
        (NOT_EXECUTED, False, False),
    ),
    "problem with 502": (
        failure(502, problem("BAD_GATEWAY"), PLATFORM),
        ProblemError,
        MAY_BE_SPENT,
    ),
    "expired token": (
        failure(401, problem("EXPIRED_TOKEN"), PROVIDER),
        ProblemError,
        (REJECTED, False, True),
    ),
    "invalid token, in lower case": (
        failure(400, problem("invalid_token")),
        ProblemError,
        (REJECTED, False, True),
    ),
    **{
        f"{code} with {status}": (
            failure(status, oauth(code), PROVIDER),
            OAuthError,
            (REJECTED, False, True),
        )
        for code, status in [
            ("consent_required", 400),
            ("interaction_required", 403),
            ("login_required", 401),
            ("invalid_token", 401),
            ("expired_token", 400),
            ("CONSENT_REQUIRED", 400),
        ]
    },
    **{
        f"problem {name} with {status}": (
            failure(status, problem(name), PROVIDER),
            ProblemError,
            (REJECTED, False, True),
        )
        for name, status in [
            ("CONSENT_REQUIRED", 403),
            ("login_required", 401),
            ("INVALID_GRANT", 400),
        ]
    },
    "consent_required with 502": (
        failure(502, oauth("consent_required")),
        OAuthError,
        MAY_BE_SPENT,
    ),
    "login_required from the platform with 401": (
        failure(401, oauth("login_required"), PLATFORM),
        OAuthError,
        (NOT_EXECUTED, False, False),
    ),
    "login_required with 404": (failure(404, oauth("login_required")), OAuthError, REFUSED),
    "invalid_grant with 429": (
        failure(429, oauth("invalid_grant"), PROVIDER),
        InvalidGrantError,
        (REJECTED, True, False),
    ),
    "a word of a refused token in the description only": (
        failure(400, {"error": "invalid_request", "error_description": "consent_required"}),
        OAuthError,
        REFUSED,
    ),
    "problem with a title only": (failure(400, {"title": "No"}), ProblemError, REFUSED),
    # statuses
    "401 of the provider": (failure(401, {}, PROVIDER), StatusError, REFUSED),
    "401 without a source": (failure(401, {}), StatusError, REFUSED),
    **{
        f"{status} of the platform": (
            failure(status, {}, PLATFORM),
            StatusError,
            (NOT_EXECUTED, False, False),
        )
        for status in (401, 403, 415)
    },
    **{
        f"{status}": (failure(status, {}, PLATFORM), StatusError, REFUSED)
        for status in (400, 404, 405, 409, 413)
    },
    # A status about the response, or of a server that gave up, can be sent after the execution.
    **{
        f"{status} from {source}": (failure(status, {}, source), StatusError, MAY_BE_SPENT)
        for status in (406, 408, 416, 424, 460, 499)
        for source in (PLATFORM, PROVIDER, None)
    },
    "406 with a refused grant": (
        failure(406, oauth("invalid_grant"), PROVIDER),
        InvalidGrantError,
        MAY_BE_SPENT,
    ),
    # The status in the body is advisory (RFC 9457 section 3.1.2): that of the response decides.
    "problem with another status": (
        failure(403, problem("INSUFFICIENT_PRIVILEGES") | {"status": 500}, PLATFORM),
        ProblemError,
        (NOT_EXECUTED, False, False),
    ),
    # A status that the platform sends without asking the bank proves that nothing is spent.
    "429 of the platform": (
        failure(429, b"", PLATFORM, Retry_After="7"),
        StatusError,
        (NOT_EXECUTED, True, False),
    ),
    "503 of the platform": (
        failure(503, problem("SERVICE_UNAVAILABLE"), PLATFORM, Retry_After="600"),
        ProblemError,
        (NOT_EXECUTED, True, False),
    ),
    "503 of the platform with HTML": (
        failure(503, HTML, PLATFORM),
        StatusError,
        (NOT_EXECUTED, True, False),
    ),
    "429 of the provider": (failure(429, b"", PROVIDER), StatusError, (REJECTED, True, False)),
    "429 with a code about the response": (
        failure(429, problem("RESOURCE_TOO_LARGE"), PROVIDER),
        ProblemError,
        MAY_BE_SPENT,
    ),
    "429 without a source": (failure(429, b""), StatusError, (REJECTED, True, False)),
    "503 of the provider": (failure(503, b"", PROVIDER), StatusError, MAY_BE_SPENT),
    "503 of another source": (
        failure(503, b"", "GATEWAY"),
        StatusError,
        MAY_BE_SPENT,
    ),
    **{
        f"{status}": (failure(status, HTML, PLATFORM), StatusError, MAY_BE_SPENT)
        for status in (101, 300, 304, 307, 408, 499, 500, 501, 502, 504, 520, 599, 600, 999)
    },
    "302": (failure(302, b"", Location="https://evil.example/"), StatusError, MAY_BE_SPENT),
    "302 without Location": (failure(302, b""), StatusError, MAY_BE_SPENT),
    "302 with an invalid Location": (
        failure(302, b"", Location="https://["),
        StatusError,
        MAY_BE_SPENT,
    ),
    "503 with Retry-After": (failure(503, b"", Retry_After="120"), StatusError, MAY_BE_SPENT),
    # bodies
    "empty": (failure(502, b""), StatusError, MAY_BE_SPENT),
    "truncated": (failure(502, b'{"error":"invalid_gr'), StatusError, MAY_BE_SPENT),
    "list": (failure(400, ["invalid_grant"]), StatusError, REFUSED),
    "error as a list": (failure(400, {"error": ["invalid_grant"]}), StatusError, REFUSED),
    "error empty": (failure(400, {"error": ""}), StatusError, REFUSED),
    "error a surrogate": (failure(400, {"error": "\ud800"}), StatusError, REFUSED),
    "Latin-1": (failure(400, '{"error":"ungültig"}'.encode("latin-1")), OAuthError, REFUSED),
    "UTF-16": (failure(400, '{"error":"x"}'.encode("utf-16")), OAuthError, REFUSED),
    "deep nesting": (failure(500, b"[" * 100_000), StatusError, MAY_BE_SPENT),
    "connection reset after the body": (
        reply(502, b'{"error":"x"}', {}, cut=httpx.ReadError("reset")),
        OAuthError,
        MAY_BE_SPENT,
    ),
}
BY_NAME = pytest.mark.parametrize(("response", "kind", "facts"), ROWS.values(), ids=ROWS.keys())


@BY_NAME
@pytest.mark.parametrize("call", [refresh, exchange])
def test_an_error_response_to_a_token_call_raises_this_error_with_this_outcome(
    connect: Connect,
    call: Call,
    response: httpx.Response,
    kind: type[ResponseError],
    facts: tuple[Outcome, bool, bool],
) -> None:
    with pytest.raises(BlinkError) as caught:
        call(connect(Platform(response)))
    error = caught.value
    assert type(error) is kind
    assert (error.outcome, error.retryable, error.needs_consent) == facts
    assert (error.status, error.correlation_id) == (response.status_code, FIRST_ID)
    assert error.meta is not None
    assert error.source is error.meta.source
    assert error.token is None
    assert f"{response.status_code}" in str(error)
    assert FIRST_ID in str(error)
    assert found(SECRETS, texts_of_error(error)) == []


@pytest.mark.parametrize("status", [401, 403, 429, 503])
@pytest.mark.parametrize("call", [refresh, exchange])
def test_a_response_of_the_platform_with_a_token_proves_that_the_call_was_executed(
    connect: Connect, call: Call, status: int
) -> None:
    pair = {"access_token": "fake-access", "refresh_token": "fake-refresh", "token_type": "bearer"}
    with pytest.raises(BlinkError) as caught:
        call(connect(Platform(failure(status, pair, PLATFORM))))
    assert caught.value.outcome is UNCERTAIN
    assert not caught.value.retryable
    assert caught.value.token is not None


@BY_NAME
def test_a_failed_revocation_is_retryable_if_its_outcome_is_uncertain(
    connect: Connect,
    response: httpx.Response,
    kind: type[ResponseError],
    facts: tuple[Outcome, bool, bool],
) -> None:
    with pytest.raises(RevocationError) as caught:
        revoke_access(connect(Platform(response)))
    error = caught.value.errors[TokenKind.ACCESS_TOKEN]
    outcome, retryable, _ = facts
    assert type(error) is kind
    assert error.outcome is caught.value.outcome is outcome
    assert error.retryable is caught.value.retryable is (retryable or outcome is UNCERTAIN)
    assert not error.needs_consent
    assert caught.value.status == response.status_code


def test_an_oauth_error_has_the_texts_of_the_response(connect: Connect) -> None:
    response = failure(400, oauth("BANK_IS_CLOSED"), PROVIDER)
    with pytest.raises(OAuthError, match="BANK_IS_CLOSED, No") as caught:
        refresh(connect(Platform(response)))
    error = caught.value
    assert (error.error, error.code) == ("BANK_IS_CLOSED", "bank_is_closed")
    assert (error.description, error.uri) == ("No.", "https://bank.example/e")
    assert error.source is Source.PROVIDER


def test_an_oauth_error_in_a_form_has_the_texts_of_the_response(connect: Connect) -> None:
    echoed = quote_plus(quote_plus(REFRESH_TOKEN_SENT))
    text = f"error=invalid_grant&error_description=token+{echoed}+is+not+good"
    with pytest.raises(InvalidGrantError) as caught:
        refresh(connect(Platform(failure(400, text.encode()))))
    assert (caught.value.error, caught.value.description) == (
        "invalid_grant",
        "token *** is not good",
    )


def test_a_problem_has_the_texts_of_the_response(connect: Connect) -> None:
    response = failure(403, problem("Insufficient_Privileges"), PLATFORM)
    with pytest.raises(ProblemError, match="from the platform") as caught:
        refresh(connect(Platform(response)))
    error = caught.value
    assert (error.type, error.code) == (
        "/problems/Insufficient_Privileges",
        "INSUFFICIENT_PRIVILEGES",
    )
    assert (error.title, error.detail, error.instance) == ("No", "Never.", "/i/1")


def test_a_text_of_the_server_is_shortened_and_made_printable(connect: Connect) -> None:
    body = {"error": "x", "error_description": "a\r\nb\x1b[31m\u202e" + "c" * 9999}
    with pytest.raises(OAuthError) as caught:
        refresh(connect(Platform(failure(400, body))))
    assert caught.value.description is not None
    assert caught.value.description.startswith("a  b [31m c")
    assert len(caught.value.description) <= 300
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("call", "advice"),
    [(refresh, "at most once more"), (exchange, "start a new authorization")],
)
def test_the_text_of_an_uncertain_outcome_says_what_may_be_spent_and_what_to_do(
    connect: Connect, call: Call, advice: str
) -> None:
    with pytest.raises(StatusError, match=advice) as caught:
        call(connect(Platform(failure(504, HTML, PLATFORM))))
    assert "may be spent" in str(caught.value)
    assert "HTML" in str(caught.value)


def test_the_text_of_429_says_when_to_try_again(connect: Connect) -> None:
    response = failure(429, b"", Retry_After="7")
    with pytest.raises(StatusError, match="sent again after 7 s") as caught:
        refresh(connect(Platform(response)))
    assert caught.value.meta is not None
    assert caught.value.meta.retry_after == 7.0


SENT: dict[Call, str] = {
    refresh: REFRESH_TOKEN_SENT,
    exchange: CODE,
    revoke_access: ACCESS_TOKEN,
}
"""The calls, and the secret that each sends."""


@pytest.mark.parametrize(
    ("status", "source", "is_named"),
    [
        (500, PROVIDER, True),
        (503, PROVIDER, True),
        (599, PROVIDER, True),
        *((status, source, True) for status in (502, 504) for source in (PLATFORM, PROVIDER, None)),
        # A refusal, an odd status, or a failure of the platform before it asked the bank
        (400, PROVIDER, False),
        (429, PROVIDER, False),
        (600, PROVIDER, False),
        (500, PLATFORM, False),
        (503, PLATFORM, False),
        (500, None, False),
    ],
)
@pytest.mark.parametrize("call", SENT)
def test_the_text_names_the_status_page_if_the_bank_may_be_unavailable(
    connect: Connect, call: Call, status: int, source: str | None, is_named: bool
) -> None:
    # A secret in the text of the bank is struck out, the page is not.
    body = {"error": "server_error", "error_description": f"{SENT[call]} failed"}
    with pytest.raises(BlinkError) as caught:
        call(connect(Platform(failure(status, body, source))))
    assert str(caught.value).endswith(f". Outages of banks: <{STATUS_PAGE}>.") is is_named
    assert str(caught.value).count(STATUS_PAGE) == is_named
    assert found(SECRETS, texts_of_error(caught.value)) == []


def test_the_text_of_a_refused_grant_does_not_name_the_status_page(connect: Connect) -> None:
    with pytest.raises(InvalidGrantError) as caught:
        refresh(connect(Platform(failure(400, oauth("invalid_grant"), PROVIDER))))
    assert STATUS_PAGE not in str(caught.value)


HEADERS: Headers = {"Content-Type": "application/json"}


@pytest.mark.parametrize("status", [101, 302, 400, 401, 429, 500, 502, 504, 999])
@pytest.mark.parametrize("call", [refresh, exchange])
def test_a_pair_with_an_error_status_is_an_attribute_of_the_error(
    connect: Connect, call: Call, status: int
) -> None:
    with pytest.raises(ResponseError, match="attribute `token`") as caught:
        call(connect(Platform(reply(status, TOKEN_BODY, HEADERS))))
    for contradiction in ("no token", "not spent", "same call", "Never", "Nothing was executed"):
        assert contradiction not in str(caught.value)
    assert not caught.value.retryable
    token = caught.value.token
    assert token is not None
    assert token.refresh_token is not None
    assert token.access_token.reveal() == ACCESS_TOKEN
    assert token.refresh_token.reveal() == REFRESH_TOKEN
    assert found(SECRETS, texts_of_error(caught.value)) == []
