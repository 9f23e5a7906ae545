"""A response with the correlation id of another request: it proves nothing about this call."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
from attrs import evolve, frozen

from blink_oauth import (
    BlinkError,
    ForeignResponseError,
    InvalidGrantError,
    Oddity,
    Outcome,
    RevocationError,
    Source,
    TokenKind,
)
from flavours import FLAVOURS, Flavour
from wrapper.harness import (
    ACCESS_TOKEN,
    CODE,
    FIRST_ID,
    GRANT,
    REFRESH_TOKEN,
    REFRESH_TOKEN_SENT,
    SECRETS,
    SETTINGS,
    TOKEN_BODY,
    Call,
    Connect,
    Platform,
    connected,
    exchange,
    refresh,
    reply,
    revoke_access,
    revoke_pair,
)
from wrapper.leaks import found, texts_of_error

OTHER_ID = "5f0c2f6e-7a01-4f3b-9f6e-0d1a2b3c4d5e"
OTHERS_TEXT = "fake-text-for-another-customer"
ERROR = {"error": "invalid_grant", "error_description": OTHERS_TEXT}
PROBLEM = {"type": "/problems/TECHNICAL_ERROR", "title": "No", "detail": OTHERS_TEXT}


@frozen
class Case:
    """A response to another request.

    Attributes:
        status: The HTTP status.
        body: The body.
        source: The value of `X-CorAPI-Source`.
        has_pair: Whether the body has a pair.
    """

    status: int
    body: object
    source: str
    has_pair: bool = False


RESPONSES = {
    "a pair": Case(200, TOKEN_BODY, "PROVIDER", has_pair=True),
    "a success without a body": Case(200, b"", "PROVIDER"),
    "invalid_grant": Case(400, ERROR, "PROVIDER"),
    "a refusal by the platform": Case(401, PROBLEM, "PLATFORM"),
    "the platform is unavailable": Case(503, PROBLEM, "PLATFORM"),
    "too many requests": Case(429, b"", "PLATFORM"),
    "not found": Case(404, b"<p>" + OTHERS_TEXT.encode(), "UNKNOWN"),
    "an error with a pair": Case(500, TOKEN_BODY, "PROVIDER", has_pair=True),
    "a rejection with a pair": Case(400, TOKEN_BODY | ERROR, "PROVIDER", has_pair=True),
    "a timeout": Case(504, b"", "PLATFORM"),
}
BY_NAME = pytest.mark.parametrize("case", RESPONSES.values(), ids=RESPONSES)


def foreign(
    status: int = 200, body: object = TOKEN_BODY, source: str = "PROVIDER", echo: str = OTHER_ID
) -> Platform:
    """Return a platform that responds with another correlation id."""
    headers = {
        "Content-Type": "application/json",
        "Content-Language": "de",
        "X-Correlation-ID": echo,
        "X-CorAPI-Source": source,
        "Cache-Control": "no-store",
        "Pragma": "no-cache",
        "Retry-After": "7",
    }
    return Platform(reply(status, body, headers))


def error_of(call: Call, connect: Connect, platform: Platform) -> ForeignResponseError:
    """Return the error that a call raises."""
    with pytest.raises(ForeignResponseError) as caught:
        call(connect(platform))
    return caught.value


def check(error: ForeignResponseError, case: Case) -> None:
    """Check what holds for every foreign response."""
    assert error.outcome is Outcome.UNCERTAIN
    assert error.retry_after is None
    assert not error.needs_consent
    assert (error.status, error.correlation_id) == (case.status, FIRST_ID)
    assert error.foreign_correlation_id == OTHER_ID
    assert error.meta is not None
    assert error.meta.echoed is False
    texts = list(texts_of_error(error))
    assert found((*SECRETS, OTHERS_TEXT), texts) == []
    assert FIRST_ID in str(error)
    assert OTHER_ID in str(error)
    assert (error.token is not None) is case.has_pair
    if error.token is not None:
        assert error.token.access_token.reveal() == ACCESS_TOKEN
        assert error.token.refresh_token is not None
        assert error.token.refresh_token.reveal() == REFRESH_TOKEN
        assert Oddity.FOREIGN_CORRELATION_ID in error.token.oddities
        assert "neither use nor present it" in str(error)


@BY_NAME
@pytest.mark.parametrize("call", [refresh, exchange])
def test_a_foreign_response_to_a_token_call_is_uncertain_whatever_it_says(
    connect: Connect, call: Call, case: Case
) -> None:
    error = error_of(call, connect, foreign(case.status, case.body, case.source))
    check(error, case)
    assert not error.retryable
    assert error.source is Source(case.source)


@BY_NAME
def test_a_foreign_response_to_a_revocation_confirms_nothing(connect: Connect, case: Case) -> None:
    with pytest.raises(RevocationError) as caught:
        revoke_access(connect(foreign(case.status, case.body, case.source)))
    assert caught.value.unknown == {TokenKind.ACCESS_TOKEN}
    assert caught.value.outcome is Outcome.UNCERTAIN
    # Repeating a revocation does no harm.
    assert caught.value.retryable
    assert OTHERS_TEXT not in str(caught.value)
    error = caught.value.errors[TokenKind.ACCESS_TOKEN]
    assert isinstance(error, ForeignResponseError)
    check(error, case)


def test_a_foreign_response_to_one_call_of_a_revocation_leaves_the_other_confirmed(
    connect: Connect,
) -> None:
    own = reply(200, b"")
    with pytest.raises(RevocationError) as caught:
        revoke_pair(connect(Platform(own, reply(200, b"", {"X-Correlation-ID": OTHER_ID}))))
    assert caught.value.revoked == {TokenKind.REFRESH_TOKEN}
    assert caught.value.unknown == {TokenKind.ACCESS_TOKEN}


def test_a_foreign_response_without_a_refresh_token_gets_no_presented_one(connect: Connect) -> None:
    body = {"access_token": ACCESS_TOKEN, "token_type": "bearer"}
    error = error_of(refresh, connect, foreign(body=body))
    assert error.token is not None
    assert error.token.refresh_token is None


def test_a_foreign_response_in_which_our_token_is_quoted_shows_none_of_it(connect: Connect) -> None:
    body = {"error": "invalid_request", "error_description": f"got {REFRESH_TOKEN_SENT}, {CODE}"}
    error = error_of(refresh, connect, foreign(400, body))
    assert found(SECRETS, texts_of_error(error)) == []


@pytest.mark.parametrize(
    "echo",
    ["corr-9", "of-another-request", f"x={REFRESH_TOKEN_SENT}", "ü", "\x1b[31m", "5f0c2f6e", "-"],
)
def test_a_foreign_id_that_is_no_uuid_is_not_repeated(connect: Connect, echo: str) -> None:
    headers = [(b"X-Correlation-ID", echo.encode())]
    with pytest.raises(ForeignResponseError) as caught:
        refresh(connect(Platform(reply(headers=headers))))
    assert caught.value.foreign_correlation_id is None
    assert found([echo] if len(echo) > 1 else [], texts_of_error(caught.value)) == []


@pytest.mark.parametrize("spell", [str.lower, str.upper])
@pytest.mark.parametrize("place", ["received", "sent"])
def test_a_token_in_the_place_of_the_correlation_id_is_not_repeated(
    connect: Connect, place: str, spell: Callable[[str], str]
) -> None:
    """Some banks issue UUIDs as tokens."""
    token = spell(OTHER_ID)
    body = TOKEN_BODY | ({"access_token": token} if place == "received" else {})
    blink = connect(foreign(body=body, echo=token))
    with pytest.raises(ForeignResponseError) as caught:
        exchange(blink) if place == "received" else blink.refresh(GRANT, token)
    assert caught.value.foreign_correlation_id is None
    assert OTHER_ID not in str(caught.value).lower()


SENT = "0a1b2c3d-4e5f-4a6b-8c7d-9e8f7a6b5c4d"
ECHOES: dict[str, tuple[str, bool]] = {
    # the header, whether the response is believed
    "the same": (SENT, True),
    "in capital letters": (SENT.upper(), True),
    "with blanks": (f" \t{SENT} ", True),
    "twice, of proxy and platform": (f"{SENT}, {SENT}", True),
    "twice without a blank": (f"{SENT},{SENT.upper()}", True),
    "empty": ("", True),
    "a comma": (" , ", True),
    "another": (OTHER_ID, False),
    "the own one and another": (f"{SENT}, {OTHER_ID}", False),
    "another and the own one": (f"{OTHER_ID},{SENT}", False),
    "the own one with more": (f"{SENT}-1", False),
    "a part of the own one": (SENT[:-1], False),
    "in quotes": (f'"{SENT}"', False),
}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize(("echo", "believed"), ECHOES.values(), ids=ECHOES)
def test_a_response_is_believed_if_it_has_the_own_id_and_no_other(
    flavour: Flavour, echo: str, believed: bool
) -> None:
    platform = foreign(echo=echo)
    with connected(flavour, platform, new_correlation_id=lambda: SENT) as blink:
        if believed:
            assert Oddity.FOREIGN_CORRELATION_ID not in refresh(blink).oddities
            return
        with pytest.raises(ForeignResponseError) as caught:
            refresh(blink)
    shown = caught.value.foreign_correlation_id
    assert shown == (OTHER_ID if OTHER_ID in echo else None)


@pytest.mark.parametrize(
    ("sent", "echo"), [("corr-a", "corr-A"), ("Corr-a", "corr-a"), ("00z", "00Z")]
)
def test_an_id_that_is_no_uuid_is_compared_exactly(sent: str, echo: str) -> None:
    with (
        connected("sync", foreign(echo=echo), new_correlation_id=lambda: sent) as blink,
        pytest.raises(ForeignResponseError),
    ):
        refresh(blink)


def test_an_own_id_with_a_comma_is_recognized() -> None:
    with connected("sync", foreign(echo="a,b"), new_correlation_id=lambda: "a,b") as blink:
        assert refresh(blink)


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_setting_believes_every_response_and_says_so(flavour: Flavour) -> None:
    settings = evolve(SETTINGS, accept_foreign_correlation_id=True)
    with connected(flavour, foreign(), settings) as blink:
        token = refresh(blink)
        assert token.oddities == {Oddity.FOREIGN_CORRELATION_ID}
        assert token.meta is not None
        assert token.meta.echoed is False
        assert revoke_access(blink)
    with (
        connected(flavour, foreign(400, ERROR), settings) as blink,
        pytest.raises(InvalidGrantError) as caught,
    ):
        refresh(blink)
    assert caught.value.needs_consent


@pytest.mark.parametrize("call", [refresh, exchange])
def test_a_response_without_the_id_is_not_foreign(connect: Connect, call: Call) -> None:
    token = call(connect(Platform(reply(headers={"Content-Type": "application/json"}))))
    assert token.meta.echoed is None  # type: ignore[attr-defined]


def test_the_error_is_copied_and_pickled_without_its_pair(connect: Connect) -> None:
    error: BlinkError = error_of(refresh, connect, foreign())
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is ForeignResponseError
        assert other.foreign_correlation_id == OTHER_ID
    assert pickle.loads(pickle.dumps(error)).token is None
