"""Error bodies of banks and gateways: their codes are kept, quoted, and acted on if they refuse."""

from __future__ import annotations

import json

import pytest

from blink_oauth import BlinkError, OAuthError, Outcome, ProblemError, ResponseError, StatusError
from wrapper.harness import GRANT, REFRESH_TOKEN_SENT, Platform, connected, reply


def error_of(status: int, body: object, source: str = "PROVIDER") -> ResponseError:
    """Return the error of a refresh to which the server responds with a body."""
    # The texts are read by the same functions in both flavours.
    platform = Platform(reply(status, body, {"X-CorAPI-Source": source}))
    with connected("sync", platform) as blink, pytest.raises(BlinkError) as caught:
        blink.refresh(GRANT, REFRESH_TOKEN_SENT)
    assert isinstance(caught.value, ResponseError)
    return caught.value


def berlin_group(code: str, **more: str) -> dict[str, object]:
    return {"tppMessages": [{"category": "ERROR", "code": code, "text": "Words.", **more}]}


def open_banking(*codes: str) -> dict[str, object]:
    errors = [{"ErrorCode": code, "Message": "Words.", "Path": "/x"} for code in codes]
    return {"Code": "400 Bad Request", "Id": "i-1", "Message": "Failed.", "Errors": errors}


Row = tuple[int, object, type[ResponseError], tuple[str, ...]]
NEEDS_CONSENT: dict[str, Row] = {
    **{
        f"Berlin Group {code} with {status}": (status, berlin_group(code), StatusError, (code,))
        for code, status in [
            ("CONSENT_EXPIRED", 401),
            ("CONSENT_INVALID", 401),
            ("CONSENT_UNKNOWN", 403),
            ("CONSENT_UNKNOWN", 400),
            ("TOKEN_EXPIRED", 401),
            ("TOKEN_INVALID", 401),
            ("TOKEN_UNKNOWN", 401),
        ]
    },
    "Berlin Group, one message without a list": (
        401,
        {"tppMessages": {"category": "ERROR", "code": "CONSENT_EXPIRED"}},
        StatusError,
        ("CONSENT_EXPIRED",),
    ),
    "Berlin Group, the second message": (
        401,
        {"tppMessages": [{"code": "FORMAT_ERROR"}, {"code": "CONSENT_EXPIRED"}]},
        StatusError,
        ("FORMAT_ERROR", "CONSENT_EXPIRED"),
    ),
    "Berlin Group within another error": (
        401,
        {"error": berlin_group("CONSENT_EXPIRED")},
        StatusError,
        ("CONSENT_EXPIRED",),
    ),
    "Berlin Group in problem details": (
        401,
        {"type": "about:blank", "title": "No", "code": "CONSENT_EXPIRED"},
        ProblemError,
        ("about:blank", "CONSENT_EXPIRED"),
    ),
    "Berlin Group with additional errors": (
        400,
        {"title": "No", "code": "FORMAT_ERROR", "additionalErrors": [{"code": "TOKEN_EXPIRED"}]},
        ProblemError,
        ("FORMAT_ERROR", "TOKEN_EXPIRED"),
    ),
    "Berlin Group beside an OAuth error": (
        400,
        {"error": "invalid_request", **berlin_group("CONSENT_EXPIRED")},
        OAuthError,
        ("invalid_request", "CONSENT_EXPIRED"),
    ),
    "Open Banking": (
        403,
        open_banking("UK.OBIE.Field.Invalid", "UK.OBIE.Reauthenticate"),
        StatusError,
        ("400 Bad Request", "UK.OBIE.Field.Invalid", "UK.OBIE.Reauthenticate"),
    ),
    "Open Banking, status of the consent": (
        400,
        open_banking("UK.OBIE.Resource.InvalidConsentStatus"),
        StatusError,
        ("400 Bad Request", "UK.OBIE.Resource.InvalidConsentStatus"),
    ),
    "code of a nested error": (
        400,
        {"error": {"code": "invalid_grant", "message": "Words."}},
        StatusError,
        ("invalid_grant",),
    ),
    "OAuth error in an error": (
        400,
        {"error": {"error": "invalid_grant", "error_description": "Words."}},
        StatusError,
        ("invalid_grant",),
    ),
    "list of errors": (
        400,
        {"errors": [{"code": "invalid_grant", "detail": "Words."}]},
        StatusError,
        ("invalid_grant",),
    ),
    "list of errors in an error": (
        400,
        {"error": {"code": 400, "errors": [{"code": "CONSENT_REQUIRED"}]}},
        StatusError,
        ("400", "CONSENT_REQUIRED"),
    ),
    "fault of a gateway": (
        401,
        {"fault": {"faultstring": "Words.", "detail": {"errorcode": "invalid_grant"}}},
        StatusError,
        ("invalid_grant",),
    ),
    "errors in capitals within each other": (
        400,
        {"Errors": {"Error": [{"ReasonCode": "INVALID_GRANT", "Description": "Words."}]}},
        StatusError,
        ("INVALID_GRANT",),
    ),
    "code of the body": (400, {"errorCode": "invalidGrant"}, StatusError, ("invalidGrant",)),
    "code beside the error of Spring Boot": (
        401,
        {"status": 401, "error": "Unauthorized", "code": "TOKEN_EXPIRED", "path": "/token"},
        OAuthError,
        ("Unauthorized", "TOKEN_EXPIRED"),
    ),
    "problem with its type as a URN": (
        400,
        {"type": "urn:bank:problems:consent-expired", "title": "No"},
        ProblemError,
        ("urn:bank:problems:consent-expired",),
    ),
    "problem with its type as a fragment": (
        400,
        {"type": "https://bank.example/errors#invalid-grant", "title": "No"},
        ProblemError,
        ("https://bank.example/errors#invalid-grant",),
    ),
}


@pytest.mark.parametrize(
    ("status", "body", "kind", "codes"), NEEDS_CONSENT.values(), ids=NEEDS_CONSENT.keys()
)
def test_a_refused_consent_in_the_format_of_a_bank_needs_consent(
    status: int, body: object, kind: type[ResponseError], codes: tuple[str, ...]
) -> None:
    error = error_of(status, body)
    assert type(error) is kind
    assert (error.outcome, error.needs_consent) == (Outcome.REJECTED, True)
    assert error.codes == codes
    for code in codes:
        assert code in str(error)
    assert ("Words" in str(error)) is ("Words" in json.dumps(body))
    assert "new authorization" in str(error)
    uncertain = error_of(500, body)
    assert (uncertain.outcome, uncertain.needs_consent) == (Outcome.UNCERTAIN, False)
    assert uncertain.codes == codes
    assert not error_of(404, body).needs_consent


ELSEWHERE: dict[str, object] = {
    "another code": berlin_group("SERVICE_BLOCKED"),
    "the payment does not match its consent": open_banking("UK.OBIE.Resource.ConsentMismatch"),
    "a code in a text": berlin_group("FORMAT_ERROR", text="CONSENT_EXPIRED"),
    "a code in a path": berlin_group("FORMAT_ERROR", path="/CONSENT_EXPIRED"),
    "a warning": berlin_group("CONSENT_EXPIRED", category="WARNING"),
    "a code in the data": {"message": "No.", "data": {"code": "CONSENT_EXPIRED"}},
    "a code in the request": {"request": {"error": {"code": "invalid_grant"}}},
    "a code in details of a message": {"tppMessages": [{"_links": {"code": "TOKEN_INVALID"}}]},
    "a code in a list of texts": {"errors": ["invalid_grant"]},
    "a code deep inside": {"error": {"error": {"error": {"error": {"code": "invalid_grant"}}}}},
    "a code that begins with another one": berlin_group("CONSENT_EXPIRED_SOON"),
    "a refused client": {"error": "invalid_client", **berlin_group("TOKEN_INVALID")},
    "a refused client, nested": {"errors": [{"code": "INVALID_CLIENT"}, {"code": "TOKEN_INVALID"}]},
    "a code that is no text": {"code": ["invalid_grant"], "errors": [None, 7, True, [["x"]]]},
    "a code with a surrogate": {"code": "invalid_grant\ud800"},
    "a name of a code": {"invalid_grant": True, "errors": {"CONSENT_EXPIRED": "code"}},
}


@pytest.mark.parametrize("body", ELSEWHERE.values(), ids=ELSEWHERE.keys())
def test_a_code_about_something_else_needs_no_consent(body: object) -> None:
    for status in (400, 401, 403):
        error = error_of(status, body)
        assert (error.outcome, error.needs_consent) == (Outcome.REJECTED, False)


def test_the_platform_refuses_no_consent_before_it_has_asked_the_bank() -> None:
    error = error_of(401, berlin_group("CONSENT_EXPIRED"), "PLATFORM")
    assert (error.outcome, error.needs_consent) == (Outcome.NOT_EXECUTED, False)
    assert error.codes == ("CONSENT_EXPIRED",)


@pytest.mark.parametrize("code", ["RESOURCE_TOO_LARGE", "not-acceptable"])
@pytest.mark.parametrize("source", ["PLATFORM", "PROVIDER"])
def test_a_code_about_the_response_leaves_the_outcome_uncertain(code: str, source: str) -> None:
    for body in ({"type": f"/problems/{code}", "title": "No"}, berlin_group(code)):
        for status in (400, 403):
            assert error_of(status, body, source).outcome is Outcome.UNCERTAIN


def test_the_message_of_spring_boot_is_repeated() -> None:
    error = error_of(400, {"error": "Bad Request", "message": "Refresh token is old", "path": "/"})
    assert "Bad Request, Refresh token is old. " in str(error)


def test_many_long_texts_are_shortened() -> None:
    errors = [{"code": f"E{number}", "message": f"{number} " * 500} for number in range(500)]
    error = error_of(400, {"errors": errors, "error": {"code": "x" * 500_000}})
    assert len(str(error)) < 1_000
    assert error.codes == tuple(f"E{number}" for number in range(8))


def test_bodies_within_each_other_without_end_are_read() -> None:
    body = '{"error":' * 400 + "{}" + "}" * 400
    lists = '{"errors":' + "[" * 400 + "]" * 400 + "}"
    for text in (body, lists):
        assert error_of(400, text.encode()).codes == ()


@pytest.mark.parametrize("place", ["code", "text"])
def test_a_secret_in_a_message_is_redacted_and_does_not_hide_the_code(place: str) -> None:
    message = {"code": "CONSENT_EXPIRED", place: "\0".join(REFRESH_TOKEN_SENT)}
    error = error_of(401, {"tppMessages": [{"code": "CONSENT_EXPIRED"}, message]})
    assert "left out: it resembles a secret" in str(error)
    assert "CONSENT_EXPIRED" in str(error)
    assert REFRESH_TOKEN_SENT[:8] not in repr(vars(error)).replace("\\x00", "").replace(" ", "")
