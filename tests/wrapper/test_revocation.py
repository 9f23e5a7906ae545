"""A revocation makes two calls, the first for the refresh token, and reports both states."""

from __future__ import annotations

import httpx
import pytest

from blink_oauth import (
    BlinkError,
    NotConnectedError,
    OAuthError,
    Outcome,
    RevocationError,
    StatusError,
    TimedOutError,
    Token,
    TokenKind,
)
from blink_oauth.errors import STATUS_PAGE
from blink_oauth.tokens import NO_ACCESS_TOKEN
from wrapper.harness import (
    ACCESS_TOKEN,
    GRANT,
    Call,
    Connect,
    Platform,
    exchange,
    refresh,
    reply,
    revoke_pair,
)

ACCESS, REFRESH = TokenKind.ACCESS_TOKEN, TokenKind.REFRESH_TOKEN
REVOKED = "revoked"
VALID = "valid"
UNKNOWN = "unknown"

# The result of one call, the state of its token, and whether the call may be repeated.
Result = tuple[httpx.Response | Exception, str, bool]
RESULTS: dict[str, Result] = {
    "revoked": (reply(200, b"", {}), REVOKED, True),
    "refused": (reply(400, {"error": "unsupported_token_type"}, {}), VALID, False),
    "forbidden by the platform": (
        reply(403, b"", {"X-CorAPI-Source": "PLATFORM"}),
        VALID,
        False,
    ),
    "busy": (reply(429, b"", {}), VALID, True),
    "not connected": (httpx.ConnectError("refused"), VALID, True),
    "gateway timeout": (reply(504, b"<html>", {}), UNKNOWN, True),
    "timed out": (httpx.ReadTimeout("slow"), UNKNOWN, True),
}


@pytest.mark.parametrize("second", RESULTS)
@pytest.mark.parametrize("first", RESULTS)
def test_the_state_of_each_token_follows_from_its_own_call(
    connect: Connect, first: str, second: str
) -> None:
    results = {REFRESH: RESULTS[first], ACCESS: RESULTS[second]}
    platform = Platform(*(result[0] for result in results.values()))
    states = {kind: result[1] for kind, result in results.items()}
    blink = connect(platform)
    if set(states.values()) == {REVOKED}:
        assert list(revoke_pair(blink)) == [REFRESH, ACCESS]
    else:
        with pytest.raises(RevocationError) as caught:
            revoke_pair(blink)
        error = caught.value
        reported = dict.fromkeys(error.revoked, REVOKED)
        reported |= dict.fromkeys(error.not_revoked, VALID)
        reported |= dict.fromkeys(error.unknown, UNKNOWN)
        assert reported == states
        assert error.errors.keys() == error.not_revoked | error.unknown
        assert error.retryable is all(result[2] for result in results.values())
        uncertain = UNKNOWN in states.values()
        assert (error.outcome is Outcome.UNCERTAIN) is uncertain
        assert not error.needs_consent
    assert [form["token_type_hint"] for form in platform.forms] == ["refresh_token", "access_token"]


def test_a_pair_without_an_access_token_is_revoked_by_its_refresh_token(connect: Connect) -> None:
    platform = Platform(reply(200, b"", {}))
    pair = Token(access_token=NO_ACCESS_TOKEN, refresh_token="fake-refresh")
    assert list(connect(platform).revoke(GRANT, pair)) == [REFRESH]
    assert [form["token"] for form in platform.forms] == ["fake-refresh"]


def test_each_call_of_a_revocation_has_its_own_correlation_id(connect: Connect) -> None:
    with pytest.raises(RevocationError) as caught:
        revoke_pair(connect(Platform(httpx.ConnectError("refused"))))
    ids = {kind: error.correlation_id for kind, error in caught.value.errors.items()}
    assert ids == {REFRESH: "corr-1", ACCESS: "corr-2"}


def test_the_error_has_the_facts_of_the_uncertain_failure(connect: Connect) -> None:
    platform = Platform(httpx.ConnectError("refused"), reply(504, b"", {}))
    with pytest.raises(RevocationError) as caught:
        revoke_pair(connect(platform))
    error = caught.value
    assert isinstance(error.errors[REFRESH], NotConnectedError)
    assert isinstance(error.errors[ACCESS], StatusError)
    assert (error.outcome, error.status) == (Outcome.UNCERTAIN, 504)
    assert error.correlation_id == "corr-2"
    assert error.meta is not None


def test_the_error_has_the_facts_of_the_first_of_two_uncertain_failures(connect: Connect) -> None:
    with pytest.raises(RevocationError) as caught:
        revoke_pair(connect(Platform(httpx.ReadTimeout("slow"), reply(504, b"", {}))))
    assert (caught.value.correlation_id, caught.value.status) == ("corr-1", None)
    assert isinstance(caught.value.errors[REFRESH], TimedOutError)


def test_the_text_of_the_error_gives_the_state_of_each_token(connect: Connect) -> None:
    platform = Platform(reply(200, b"", {}), httpx.ReadTimeout("slow"))
    with pytest.raises(RevocationError) as caught:
        revoke_pair(connect(platform))
    text = str(caught.value)
    assert text.startswith("The refresh token is revoked. The access token may be revoked or not.")
    assert "The same call may be sent again." in text
    assert "Revoking the access token at IIDX99999 failed" in text


def test_the_text_of_the_error_says_which_token_was_not_revoked(connect: Connect) -> None:
    with pytest.raises(RevocationError, match="The access token was not revoked") as caught:
        revoke_pair(connect(Platform(reply(200, b"", {}), httpx.ConnectError("refused"))))
    nested: BlinkError = caught.value.errors[ACCESS]
    assert "the token was not revoked" in str(nested)


ADVICE = "BLINK_REVOCATION_FIELDS"
REFUSED_FORMS: dict[str, tuple[httpx.Response, bool]] = {
    "OAuth error": (reply(400, {"error": "invalid_request"}, {}), True),
    "OAuth error in another spelling": (reply(400, {"error": "Invalid_Request"}, {}), True),
    "problem of the platform": (reply(400, {"type": "/problems/INVALID_PAYLOAD"}, {}), True),
    "problem of a parser": (reply(400, {"type": "/problems/MALFORMED_PAYLOAD"}, {}), True),
    "unprocessable": (reply(422, {"error": "invalid_request"}, {}), True),
    "refused token": (reply(400, {"error": "unsupported_token_type"}, {}), False),
    "refused client": (reply(401, {"error": "invalid_client"}, {}), False),
    "no code": (reply(400, b"", {}), False),
    "failure with that code": (reply(500, {"error": "invalid_request"}, {}), False),
}


@pytest.mark.parametrize("name", REFUSED_FORMS)
def test_the_text_of_a_refused_form_names_the_setting_and_the_doctor_once(
    connect: Connect, name: str
) -> None:
    response, is_about_the_form = REFUSED_FORMS[name]
    with pytest.raises(RevocationError) as caught:
        revoke_pair(connect(Platform(response)))
    text = str(caught.value)
    assert text.count(ADVICE) == text.count("doctor") == is_about_the_form


def test_the_text_names_the_status_page_once_if_both_calls_failed(connect: Connect) -> None:
    failure, foreign = reply(502, b"", {}), reply(502, b"", {"X-Correlation-ID": "another"})
    for answers, count in [((failure, failure), 1), ((foreign, failure), 1), ((foreign,), 0)]:
        with pytest.raises(RevocationError) as caught:
            revoke_pair(connect(Platform(*answers)))
        assert str(caught.value).count(STATUS_PAGE) == count


@pytest.mark.parametrize("refused", [REFRESH, ACCESS])
def test_the_state_of_each_token_is_told_if_only_one_form_is_refused(
    connect: Connect, refused: TokenKind
) -> None:
    form_refused, revoked = reply(400, {"error": "invalid_request"}, {}), reply(200, b"", {})
    answers = [form_refused, revoked] if refused is REFRESH else [revoked, form_refused]
    with pytest.raises(RevocationError) as caught:
        revoke_pair(connect(Platform(*answers)))
    error = caught.value
    assert error.not_revoked == {refused}
    assert error.unknown == frozenset()
    assert error.revoked == {REFRESH, ACCESS} - {refused}
    assert ADVICE in str(error)


@pytest.mark.parametrize("call", [exchange, refresh])
def test_a_refused_form_of_a_token_request_does_not_name_the_setting(
    connect: Connect, call: Call
) -> None:
    with pytest.raises(OAuthError) as caught:
        call(connect(Platform(reply(400, {"error": "invalid_request"}, {}))))
    assert ADVICE not in str(caught.value)


def test_the_revocation_of_an_access_token_alone_makes_one_call(connect: Connect) -> None:
    platform = Platform(reply(200, b"", {"X-Correlation-ID": "corr-1"}))
    metas = connect(platform).revoke(GRANT, Token(access_token=ACCESS_TOKEN))
    assert list(metas) == [ACCESS]
    assert metas[ACCESS].echoed is True
    assert [form["token"] for form in platform.forms] == [ACCESS_TOKEN]


def test_a_repeated_revocation_succeeds(connect: Connect) -> None:
    blink = connect(Platform())
    assert revoke_pair(blink).keys() == revoke_pair(blink).keys() == {REFRESH, ACCESS}


def test_the_error_has_the_longest_time_to_wait(connect: Connect) -> None:
    busy = [reply(429, b"", {"Retry-After": seconds}) for seconds in ("7", "3")]
    with pytest.raises(RevocationError) as caught:
        revoke_pair(connect(Platform(*busy)))
    assert caught.value.retry_after == 7
    assert sorted(error.retry_after or 0 for error in caught.value.errors.values()) == [3, 7]


@pytest.mark.parametrize(("headers", "seconds"), [({"Retry-After": "7.2"}, 7.2), ({}, None)])
def test_the_error_of_a_response_has_its_time_to_wait(
    connect: Connect, headers: dict[str, str], seconds: float | None
) -> None:
    with pytest.raises(StatusError) as caught:
        refresh(connect(Platform(reply(503, b"", headers))))
    assert caught.value.retry_after == seconds
