"""The requests of the client, and the input that it refuses before it sends anything."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from attrs import evolve

from blink_oauth import AsyncBlinkOAuth, BlinkOAuth, Grant, InvalidInputError, Psu, Secret, Token
from blink_oauth.settings import RevocationField
from flavours import FLAVOURS, Flavour
from wrapper.harness import (
    ACCESS_TOKEN,
    BASE_URL,
    CODE,
    GRANT,
    PSU,
    REDIRECT_URI,
    REFRESH_TOKEN,
    REFRESH_TOKEN_SENT,
    SETTINGS,
    Call,
    Connect,
    Platform,
    connected,
    exchange,
    form,
    refresh,
    reply,
    revoke_access,
    revoke_pair,
)

CLIENT_AND_USER = {"client_id": "CIDX0000000002", "username": "u-4711"}
CALLS = pytest.mark.parametrize("call", [exchange, refresh, revoke_access])


def test_an_exchange_sends_the_form_of_rfc_6749_section_4_1_3(connect: Connect) -> None:
    platform = Platform()
    exchange(connect(platform))
    assert platform.forms == [
        {
            "grant_type": "authorization_code",
            "code": CODE,
            "redirect_uri": REDIRECT_URI,
            **CLIENT_AND_USER,
        }
    ]
    assert str(platform.requests[0].url) == f"{BASE_URL}/oauth/token"


def test_a_refresh_sends_the_form_of_rfc_6749_section_6(connect: Connect) -> None:
    platform = Platform()
    refresh(connect(platform))
    assert platform.forms == [
        {"grant_type": "refresh_token", "refresh_token": REFRESH_TOKEN_SENT, **CLIENT_AND_USER}
    ]
    assert str(platform.requests[0].url) == f"{BASE_URL}/oauth/token"


def test_a_revocation_sends_the_form_of_rfc_7009_section_2_1_once_for_each_token(
    connect: Connect,
) -> None:
    platform = Platform()
    revoke_pair(connect(platform))
    assert platform.forms == [
        {"token": REFRESH_TOKEN, "token_type_hint": "refresh_token", **CLIENT_AND_USER},
        {"token": ACCESS_TOKEN, "token_type_hint": "access_token", **CLIENT_AND_USER},
    ]
    assert {str(request.url) for request in platform.requests} == {f"{BASE_URL}/oauth/revoke"}


FORMS: dict[tuple[RevocationField, ...], dict[str, str]] = {
    ("client_id", "token_type_hint"): {
        "client_id": "CIDX0000000002",
        "token_type_hint": "access_token",
    },
    ("client_id", "username"): CLIENT_AND_USER,
    ("token_type_hint",): {"token_type_hint": "access_token"},
    (): {},
}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("fields", FORMS)
def test_a_revocation_sends_the_token_and_the_fields_of_the_settings(
    flavour: Flavour, fields: tuple[RevocationField, ...]
) -> None:
    platform = Platform()
    settings = evolve(SETTINGS, revocation_fields=fields)
    with connected(flavour, platform, settings) as blink:
        revoke_access(blink)
        refresh(blink)
        exchange(blink)
    assert platform.forms[0] == {"token": ACCESS_TOKEN, **FORMS[fields]}
    # The token request has all its fields: the platform states them.
    assert all(form.items() >= CLIENT_AND_USER.items() for form in platform.forms[1:])


@pytest.mark.parametrize(
    ("call", "ip", "user_agent"),
    [
        (exchange, PSU.ip, PSU.user_agent),
        (refresh, "AUTO", "AUTO"),
        (revoke_access, "AUTO", "AUTO"),
    ],
)
def test_a_request_has_these_headers_and_no_others(
    connect: Connect, call: Call, ip: str, user_agent: str
) -> None:
    platform = Platform()
    call(connect(platform))
    (request,) = platform.requests
    assert request.method == "POST"
    assert dict(request.headers) == {
        "host": "blink.invalid",
        "content-type": "application/x-www-form-urlencoded",
        "content-length": str(len(request.content)),
        "accept": "application/json, application/problem+json",
        "accept-encoding": "identity",
        "connection": "keep-alive",
        "user-agent": "acme-books/3.2",
        "x-correlation-id": "corr-1",
        "x-corapi-target-id": "IIDX99999",
        "x-psu-ip-address": ip,
        "x-psu-user-agent": user_agent,
    }
    assert len(request.headers.raw) == len(request.headers)


def test_a_refresh_or_revocation_for_a_waiting_customer_sends_the_address(connect: Connect) -> None:
    platform = Platform()
    blink = connect(platform)
    blink.refresh(GRANT, Secret(REFRESH_TOKEN_SENT), psu=PSU)
    blink.revoke(GRANT, Token(access_token=ACCESS_TOKEN), psu=PSU)
    assert [request.headers["X-PSU-IP-Address"] for request in platform.requests] == [PSU.ip] * 2


def test_every_call_has_a_correlation_id_of_its_own(connect: Connect) -> None:
    platform = Platform()
    blink = connect(platform)
    exchange(blink)
    refresh(blink)
    revoke_pair(blink)
    ids = [request.headers["X-Correlation-ID"] for request in platform.requests]
    assert ids == ["corr-1", "corr-2", "corr-3", "corr-4"]


def test_by_default_correlation_ids_are_fresh_uuids_of_at_most_64_characters() -> None:
    platform = Platform()
    with BlinkOAuth(SETTINGS, transport=httpx.MockTransport(platform)) as blink:
        for _ in range(20):
            refresh(blink)
    ids = {request.headers["X-Correlation-ID"] for request in platform.requests}
    assert len(ids) == 20
    assert all(len(each) == 36 for each in ids)


@pytest.mark.parametrize(
    ("base_url", "url"),
    [
        ("https://blink.invalid", "https://blink.invalid/oauth/token"),
        ("https://blink.invalid/", "https://blink.invalid/oauth/token"),
        ("https://blink.invalid/a/v2", "https://blink.invalid/a/v2/oauth/token"),
        ("https://blink.invalid/a/v2/", "https://blink.invalid/a/v2/oauth/token"),
        ("https://blink.invalid:8443/a%20b", "https://blink.invalid:8443/a%20b/oauth/token"),
        # Escapes and double slashes are kept as they are.
        ("https://h.invalid/a%2Fb/v2", "https://h.invalid/a%2Fb/v2/oauth/token"),
        ("https://h.invalid//other.invalid/v2", "https://h.invalid//other.invalid/v2/oauth/token"),
    ],
)
@pytest.mark.parametrize("flavour", ["sync", "async"])
def test_the_path_is_joined_to_the_base_url(flavour: Flavour, base_url: str, url: str) -> None:
    platform = Platform()
    settings = SETTINGS.__class__(base_url=base_url, client_id="C", user_agent="a/1")
    with connected(flavour, platform, settings) as blink:
        refresh(blink)
    assert str(platform.requests[0].url) == url


@pytest.mark.parametrize("text", ["a+b%2Fc d&e=f#g", "ümläut", "名前", "'\"<>\\", "%", "+"])
def test_codes_tokens_and_usernames_are_sent_unchanged(connect: Connect, text: str) -> None:
    platform = Platform()
    blink = connect(platform)
    grant = Grant("IIDX1", text)
    blink.exchange_code(grant, code=text, redirect_uri=REDIRECT_URI, psu=PSU)
    blink.refresh(grant, text)
    blink.revoke(grant, Token(access_token=text))
    sent = [
        (fields["username"], fields.get("code") or fields.get("refresh_token") or fields["token"])
        for fields in platform.forms
    ]
    assert sent == [(text, text)] * 3


@CALLS
def test_nothing_is_resent_after_a_failure(connect: Connect, call: Call) -> None:
    platform = Platform(httpx.ReadError("reset"))
    with pytest.raises(Exception, match="the connection broke"):
        call(connect(platform))
    assert len(platform.requests) == 1


@CALLS
def test_a_cookie_of_a_response_is_not_sent_with_the_next_request(
    connect: Connect, call: Call
) -> None:
    platform = Platform(reply(headers={"Set-Cookie": "session=fake; Path=/"}))
    blink = connect(platform)
    call(blink)
    call(blink)
    assert ["cookie" in request.headers for request in platform.requests] == [False, False]


@pytest.mark.parametrize(
    "uri", ["https://books.example/cb", "http://127.0.0.1:8000/cb", "com.acme.books:/cb", "acme:cb"]
)
def test_any_absolute_uri_is_a_redirect_uri(connect: Connect, uri: str) -> None:
    platform = Platform()
    connect(platform).exchange_code(GRANT, code=CODE, redirect_uri=uri, psu=PSU)
    assert form(platform.requests[0])["redirect_uri"] == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "/cb",
        "//books.example/cb",
        "books.example/cb",
        "https:",
        "https://books.example/#top",
        "https://bücher.example/cb",
        "https://books.example/\r\nX: 1",
        " https://books.example/",
        "https://[books.example/cb",
        None,
        b"https://books.example/cb",
    ],
)
def test_any_other_redirect_uri_is_refused_before_the_code_is_sent(
    connect: Connect, uri: Any
) -> None:
    platform = Platform()
    with pytest.raises(InvalidInputError, match="redirect_uri"):
        connect(platform).exchange_code(GRANT, code=CODE, redirect_uri=uri, psu=PSU)
    assert platform.requests == []


def exchange_text(blink: Any, code: str) -> Any:
    """Exchange a code."""
    return blink.exchange_code(GRANT, code=code, redirect_uri=REDIRECT_URI, psu=PSU)


BAD: dict[str, Call] = {
    "empty code": lambda b: b.exchange_code(GRANT, code="", redirect_uri=REDIRECT_URI, psu=PSU),
    "a code with the state": lambda b: exchange_text(b, f"{CODE}&state=fake"),
    "a code with its name": lambda b: exchange_text(b, f"code={CODE}"),
    "a URL in place of a code": lambda b: exchange_text(b, f"{REDIRECT_URI}?code={CODE}"),
    "a code with a line end": lambda b: exchange_text(b, f"{CODE}\n"),
    "a printed secret in place of a code": lambda b: exchange_text(b, str(Secret(CODE))),
    "a printed secret in place of a refresh token": lambda b: b.refresh(GRANT, str(Secret("fake"))),
    "no psu": lambda b: b.exchange_code(
        GRANT,
        code=CODE,
        redirect_uri=REDIRECT_URI,
        psu=None,  # type: ignore[arg-type]
    ),
    "empty refresh token": lambda b: b.refresh(GRANT, ""),
    "no refresh token": lambda b: b.refresh(GRANT, None),  # type: ignore[arg-type]
    "a Token in place of a refresh token": lambda b: b.refresh(
        GRANT,
        Token(access_token=ACCESS_TOKEN),  # type: ignore[arg-type]
    ),
    "a tuple in place of a grant": lambda b: b.refresh(("IIDX1", "u"), "fake"),  # type: ignore[arg-type]
    "an address in place of a psu": lambda b: b.refresh(GRANT, "fake", psu="AUTO"),  # type: ignore[arg-type]
    "a text in place of a token": lambda b: b.revoke(GRANT, ACCESS_TOKEN),  # type: ignore[arg-type]
    "no token": lambda b: b.revoke(GRANT, None),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("call", BAD.values(), ids=BAD.keys())
def test_bad_input_is_refused_before_anything_is_sent(connect: Connect, call: Call) -> None:
    platform = Platform()
    with pytest.raises(InvalidInputError):
        call(connect(platform))
    assert platform.requests == []


@pytest.mark.parametrize("new_id", ["", "x" * 65, "a\nb", "ä", None])
def test_a_correlation_id_that_cannot_be_sent_is_refused(new_id: Any) -> None:
    platform = Platform()
    transport = httpx.MockTransport(platform)
    with (
        BlinkOAuth(SETTINGS, new_correlation_id=lambda: new_id, transport=transport) as blink,
        pytest.raises(InvalidInputError, match="correlation id"),
    ):
        blink.refresh(GRANT, REFRESH_TOKEN_SENT)
    assert platform.requests == []


def test_a_closed_client_sends_nothing() -> None:
    platform = Platform()
    blink = BlinkOAuth(SETTINGS, transport=httpx.MockTransport(platform))
    blink.close()
    with pytest.raises(InvalidInputError, match="closed"):
        blink.refresh(GRANT, REFRESH_TOKEN_SENT)
    assert platform.requests == []


@pytest.mark.anyio
async def test_a_closed_asynchronous_client_sends_nothing() -> None:
    platform = Platform()
    async with AsyncBlinkOAuth(SETTINGS, transport=httpx.MockTransport(platform)) as blink:
        await blink.refresh(GRANT, REFRESH_TOKEN_SENT, psu=Psu.AUTO)
    with pytest.raises(InvalidInputError, match="closed"):
        await blink.refresh(GRANT, REFRESH_TOKEN_SENT)
    assert len(platform.requests) == 1
