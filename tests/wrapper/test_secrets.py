"""No text of a value or an error contains a secret; the tests put one of each kind into them."""

from __future__ import annotations

import traceback

import httpx
import pytest
from attrs import evolve

from blink_oauth import (
    AsyncBlinkOAuth,
    BlinkError,
    BlinkOAuth,
    ClientCertificate,
    ForeignResponseError,
    InvalidInputError,
    OAuthError,
    ProblemError,
    ResponseMeta,
    RevocationError,
    Secret,
    Settings,
    Source,
    StatusError,
    Token,
    TokenKind,
    UnreadableResponseError,
)
from blink_oauth.headers import RESPONSE_HEADERS
from blink_oauth_keeper import GrantKey, Record, State
from flavours import FLAVOURS, Flavour
from wrapper.harness import (
    ACCESS_TOKEN,
    CODE,
    GRANT,
    NOW,
    PSU,
    REFRESH_TOKEN,
    REFRESH_TOKEN_SENT,
    SECRETS,
    TOKEN_BODY,
    Call,
    Connect,
    Platform,
    connected,
    exchange,
    refresh,
    reply,
    revoke_access,
)
from wrapper.leaks import SPELLINGS, found, serializations_of, texts_of, texts_of_error

PASSPHRASE = "fake-passphrase/of+the%key"
PROXY_PASSWORD = "fake-proxy-password"
EXTRA = "fake-id-token/extra"
ALL = (*SECRETS, PASSPHRASE, PROXY_PASSWORD, EXTRA)
PROXY = f"http://user:{PROXY_PASSWORD}@proxy.invalid:3128"
SETTINGS = Settings(
    base_url="http://127.0.0.1:9/consent-flow/v2",
    client_id="CIDX0000000002",
    user_agent="acme-books/3.2",
    certificate=ClientCertificate(chain="c.pem", key="c.key", passphrase=PASSPHRASE),
    proxy=PROXY,
    allow_plain_http=True,
)
META = ResponseMeta(
    status=502,
    correlation_id="corr-1",
    echoed=None,
    source=Source.UNKNOWN,
    language=None,
    caching_forbidden=False,
    retry_after=None,
)
TOKEN = Token(
    access_token=ACCESS_TOKEN, refresh_token=REFRESH_TOKEN, extra={"id": EXTRA}, meta=META
)
STATUS_ERROR = StatusError("Odd.", token=TOKEN, meta=META, status=502)
VALUES: dict[str, object] = {
    "Secret": Secret(CODE),
    "ClientCertificate": SETTINGS.certificate,
    "Settings": SETTINGS,
    "Token": TOKEN,
    "ResponseMeta": META,
    "Grant": GRANT,
    "Psu": PSU,
    "error": STATUS_ERROR,
    "RevocationError": RevocationError("Odd.", errors={TokenKind.ACCESS_TOKEN: STATUS_ERROR}),
    "list": [SETTINGS, TOKEN, STATUS_ERROR],
    "Record": Record(
        key=GrantKey("CIDX0000000002", GRANT),
        generation=1,
        consent=1,
        state=State.ACTIVE,
        token=TOKEN,
        issued_at=NOW,
        idle_until=NOW,
        updated_at=NOW,
    ),
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_no_public_value_shows_a_secret(value: object) -> None:
    assert found(ALL, texts_of(value)) == []


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_no_serializer_finds_a_secret_in_a_public_value(value: object) -> None:
    assert found(ALL, serializations_of(value)) == []


@pytest.mark.parametrize("cls", [BlinkOAuth, AsyncBlinkOAuth])
def test_no_client_shows_a_secret(cls: type[BlinkOAuth | AsyncBlinkOAuth]) -> None:
    client = cls(evolve(SETTINGS, certificate=None))
    assert found(ALL, [("repr", repr(client)), ("vars", repr(vars(client)))]) == []


# Error bodies that repeat secrets of the request and of the response.
ECHOED = {
    spelling: {
        "error": "invalid_grant",
        "error_description": " and ".join(map(spell, SECRETS)),
        "error_uri": "https://bank.example/?t=" + spell(REFRESH_TOKEN_SENT),
        "access_token": ACCESS_TOKEN,
        "refresh_token": REFRESH_TOKEN,
    }
    for spelling, spell in SPELLINGS.items()
} | {
    f"{spelling}, problem": {
        "type": "/problems/" + spell(REFRESH_TOKEN_SENT),
        "title": spell(CODE),
        "detail": " and ".join(map(spell, SECRETS)),
        "instance": spell(ACCESS_TOKEN),
        "access_token": ACCESS_TOKEN,
        "refresh_token": REFRESH_TOKEN,
    }
    for spelling, spell in SPELLINGS.items()
}
SECRETS_OF_CALL: dict[Call, set[str]] = {
    exchange: {CODE, ACCESS_TOKEN, REFRESH_TOKEN},
    refresh: {REFRESH_TOKEN_SENT, ACCESS_TOKEN, REFRESH_TOKEN},
    revoke_access: {ACCESS_TOKEN, REFRESH_TOKEN},
}


@pytest.mark.parametrize("body", ECHOED.values(), ids=ECHOED.keys())
@pytest.mark.parametrize(("call", "secrets"), SECRETS_OF_CALL.items())
def test_a_secret_that_the_server_repeats_is_redacted(
    connect: Connect, call: Call, secrets: set[str], body: dict[str, str]
) -> None:
    with pytest.raises(BlinkError, match=r"\*\*\*") as caught:
        call(connect(Platform(reply(400, body))))
    assert found(secrets, texts_of_error(caught.value)) == []


def test_a_secret_that_begins_with_another_one_is_redacted_completely(connect: Connect) -> None:
    body = {"error": "x", "error_description": "fake-abc fake-ab", "access_token": "fake-abc"}
    with pytest.raises(OAuthError) as caught:
        connect(Platform(reply(400, body))).refresh(GRANT, "fake-ab")
    assert caught.value.description == "*** ***"


def test_only_the_secret_is_redacted(connect: Connect) -> None:
    body = {"title": f"token {REFRESH_TOKEN_SENT} is old", "detail": "Ask again."}
    with pytest.raises(ProblemError) as caught:
        refresh(connect(Platform(reply(400, body))))
    assert (caught.value.title, caught.value.detail) == ("token *** is old", "Ask again.")


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("accepted", [True, False])
@pytest.mark.parametrize("status", [200, 400, 502])
def test_a_secret_in_a_response_header_is_in_no_text(
    flavour: Flavour, status: int, accepted: bool
) -> None:
    names = [*RESPONSE_HEADERS, "Content-Type", "Retry-After", "Set-Cookie", "Location", "Server"]
    response = reply(status, TOKEN_BODY, dict.fromkeys(names, f"x={REFRESH_TOKEN_SENT}"))
    settings = evolve(SETTINGS, accept_foreign_correlation_id=accepted)
    with connected(flavour, Platform(response), settings) as blink:
        if status == 200 and accepted:
            assert found(ALL, texts_of(refresh(blink))) == []
        else:
            with pytest.raises(StatusError if accepted else ForeignResponseError) as caught:
                refresh(blink)
            assert found(ALL, texts_of_error(caught.value)) == []


REFUSED: dict[str, Call] = {
    "bad redirect URI": lambda b: b.exchange_code(GRANT, code=CODE, redirect_uri="/", psu=PSU),
    "bad psu": lambda b: b.refresh(GRANT, REFRESH_TOKEN, psu=None),  # type: ignore[arg-type]
    "bad grant": lambda b: b.refresh(None, REFRESH_TOKEN),  # type: ignore[arg-type]
    "bad token": lambda b: b.revoke(None, TOKEN),  # type: ignore[arg-type]
    "bad settings": lambda _: evolve(SETTINGS, base_url="ftp://x", proxy=Secret(PROXY)),
    "bad proxy": lambda _: evolve(SETTINGS, proxy=Secret(f"ftp://u:{PROXY_PASSWORD}@x")),
    "no certificate": lambda _: BlinkOAuth(SETTINGS),
    # A plain secret that has the wrong type, or is given together with an invalid argument.
    "refresh token as bytes": lambda b: b.refresh(GRANT, REFRESH_TOKEN.encode()),  # type: ignore[arg-type]
    "code as a list": lambda b: b.exchange_code(
        GRANT,
        code=[CODE],  # type: ignore[arg-type]
        redirect_uri="https://x",
        psu=PSU,
    ),
    "plain token with an empty one": lambda _: Token(access_token=ACCESS_TOKEN, refresh_token=""),
    "access token as bytes": lambda _: Token(access_token=ACCESS_TOKEN.encode()),  # type: ignore[arg-type]
    "plain passphrase without a path": lambda _: ClientCertificate(None, passphrase=PASSPHRASE),  # type: ignore[arg-type]
    "passphrase as bytes": lambda _: ClientCertificate("c", passphrase=PASSPHRASE.encode()),  # type: ignore[arg-type]
    "plain proxy with bad settings": lambda _: Settings(
        base_url="ftp://x", client_id="C", user_agent="a", proxy=PROXY
    ),
}


@pytest.mark.parametrize("call", REFUSED.values(), ids=REFUSED.keys())
def test_the_refusal_of_invalid_input_contains_no_secret(connect: Connect, call: Call) -> None:
    with pytest.raises(InvalidInputError) as caught:
        call(connect(Platform()))
    assert found(ALL, texts_of_error(caught.value)) == []


def test_the_refusal_of_a_closed_client_contains_no_secret() -> None:
    with connected("sync", Platform()) as blink:
        pass
    with pytest.raises(InvalidInputError, match="closed") as caught:
        exchange(blink)
    assert found(ALL, texts_of_error(caught.value)) == []


@pytest.mark.parametrize("call", [exchange, refresh, revoke_access])
@pytest.mark.parametrize("kind", [RuntimeError, MemoryError, RecursionError, ValueError])
def test_the_traceback_of_an_unexpected_exception_has_no_frame_with_a_secret(
    connect: Connect, call: Call, kind: type[Exception]
) -> None:
    def fail(request: httpx.Request) -> httpx.Response:
        raise kind("not an error of httpx")

    with pytest.raises(kind) as caught:
        call(connect(fail))
    assert found(ALL, texts_of_error(caught.value)) == []
    names = {
        frame.f_globals["__name__"] for frame, _ in traceback.walk_tb(caught.value.__traceback__)
    }
    assert {name for name in names if name.startswith(("blink_oauth_api", "httpx"))} == set()


PAIRS = b'[["access_token", "fake-access-token"], ["token_type", "bearer"]]'


@pytest.mark.parametrize(
    "body", [PAIRS, b'{"access_token": ', b"[]", b'"text"', b"null", b'{"a": ' + b"1" * 5000]
)
def test_an_exception_of_the_parser_is_neither_cause_nor_context_of_the_error(
    connect: Connect, body: bytes
) -> None:
    with pytest.raises(UnreadableResponseError) as caught:
        refresh(connect(lambda request: reply(200, body)))
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
