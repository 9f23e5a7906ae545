"""A revocation makes both calls, the refresh token's first, and says which token still lives."""

from __future__ import annotations

import httpx
import pytest

from blink_oauth import (
    BlinkError,
    NotConnectedError,
    Outcome,
    RevocationError,
    StatusError,
    TimedOutError,
    Token,
    TokenKind,
)
from wrapper.harness import ACCESS_TOKEN, GRANT, Connect, Platform, reply, revoke_pair

ACCESS, REFRESH = TokenKind.ACCESS_TOKEN, TokenKind.REFRESH_TOKEN
DONE = "revoked"
ALIVE = "alive"
UNKNOWN = "unknown"

# What the platform does with one call, what becomes of the token, and whether to try again.
Deed = tuple[httpx.Response | Exception, str, bool]
DEEDS: dict[str, Deed] = {
    "done": (reply(200, b"", {}), DONE, True),
    "refused": (reply(400, {"error": "unsupported_token_type"}, {}), ALIVE, False),
    "forbidden by the platform": (
        reply(403, b"", {"X-CorAPI-Source": "PLATFORM"}),
        ALIVE,
        False,
    ),
    "busy": (reply(429, b"", {}), ALIVE, True),
    "not connected": (httpx.ConnectError("refused"), ALIVE, True),
    "gateway timeout": (reply(504, b"<html>", {}), UNKNOWN, True),
    "timed out": (httpx.ReadTimeout("slow"), UNKNOWN, True),
}


@pytest.mark.parametrize("second", DEEDS)
@pytest.mark.parametrize("first", DEEDS)
def test_each_token_is_in_the_state_that_its_own_call_left_it_in(
    connect: Connect, first: str, second: str
) -> None:
    deeds = {REFRESH: DEEDS[first], ACCESS: DEEDS[second]}
    platform = Platform(*(deed[0] for deed in deeds.values()))
    states = {kind: deed[1] for kind, deed in deeds.items()}
    blink = connect(platform)
    if set(states.values()) == {DONE}:
        assert list(revoke_pair(blink)) == [REFRESH, ACCESS]
    else:
        with pytest.raises(RevocationError) as caught:
            revoke_pair(blink)
        error = caught.value
        told = dict.fromkeys(error.revoked, DONE)
        told |= dict.fromkeys(error.alive, ALIVE)
        told |= dict.fromkeys(error.unknown, UNKNOWN)
        assert told == states
        assert error.errors.keys() == error.alive | error.unknown
        assert error.retryable is all(deed[2] for deed in deeds.values())
        uncertain = UNKNOWN in states.values()
        assert (error.outcome is Outcome.UNCERTAIN) is uncertain
        assert not error.needs_consent
    assert [form["token_type_hint"] for form in platform.forms] == ["refresh_token", "access_token"]


def test_each_call_of_a_revocation_is_told_apart_by_its_correlation_id(connect: Connect) -> None:
    with pytest.raises(RevocationError) as caught:
        revoke_pair(connect(Platform(httpx.ConnectError("refused"))))
    ids = {kind: error.correlation_id for kind, error in caught.value.errors.items()}
    assert ids == {REFRESH: "corr-1", ACCESS: "corr-2"}


def test_the_worst_failure_speaks_for_both(connect: Connect) -> None:
    platform = Platform(httpx.ConnectError("refused"), reply(504, b"", {}))
    with pytest.raises(RevocationError) as caught:
        revoke_pair(connect(platform))
    error = caught.value
    assert isinstance(error.errors[REFRESH], NotConnectedError)
    assert isinstance(error.errors[ACCESS], StatusError)
    assert (error.outcome, error.status) == (Outcome.UNCERTAIN, 504)
    assert error.correlation_id == "corr-2"
    assert error.meta is not None


def test_of_two_uncertain_failures_the_first_speaks(connect: Connect) -> None:
    with pytest.raises(RevocationError) as caught:
        revoke_pair(connect(Platform(httpx.ReadTimeout("slow"), reply(504, b"", {}))))
    assert (caught.value.correlation_id, caught.value.status) == ("corr-1", None)
    assert isinstance(caught.value.errors[REFRESH], TimedOutError)


def test_the_text_says_of_each_token_what_became_of_it(connect: Connect) -> None:
    platform = Platform(reply(200, b"", {}), httpx.ReadTimeout("slow"))
    with pytest.raises(RevocationError) as caught:
        revoke_pair(connect(platform))
    text = str(caught.value)
    assert text.startswith("The refresh token is revoked. The access token may be revoked or still")
    assert "The same call may be sent again." in text
    assert "Revoking the access token at IIDX99999 failed" in text


def test_a_token_that_is_alive_is_said_to_be_alive(connect: Connect) -> None:
    with pytest.raises(RevocationError, match="The access token is still valid") as caught:
        revoke_pair(connect(Platform(reply(200, b"", {}), httpx.ConnectError("refused"))))
    nested: BlinkError = caught.value.errors[ACCESS]
    assert "the token is still valid" in str(nested)


def test_a_token_without_a_refresh_token_needs_one_call(connect: Connect) -> None:
    platform = Platform(reply(200, b"", {"X-Correlation-ID": "corr-1"}))
    metas = connect(platform).revoke(GRANT, Token(access_token=ACCESS_TOKEN))
    assert list(metas) == [ACCESS]
    assert metas[ACCESS].echoed is True
    assert [form["token"] for form in platform.forms] == [ACCESS_TOKEN]


def test_revoking_twice_is_no_error(connect: Connect) -> None:
    blink = connect(Platform())
    assert revoke_pair(blink).keys() == revoke_pair(blink).keys() == {REFRESH, ACCESS}
