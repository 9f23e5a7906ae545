"""Successful responses with an odd or broken body: the tokens in them are recovered.

A row is one response to a refresh. The tables of error responses are in test_error_responses.
"""

from __future__ import annotations

import gzip
import json
import zlib

import httpx
import pytest

from blink_oauth import (
    BlinkError,
    InvalidGrantError,
    Oddity,
    Outcome,
    ProblemError,
    Secret,
    UnreadableResponseError,
)
from wrapper.harness import (
    ACCESS_TOKEN,
    FIRST_ID,
    REFRESH_TOKEN,
    REFRESH_TOKEN_SENT,
    SECRETS,
    TOKEN_BODY,
    TOKEN_HEADERS,
    Chunks,
    Connect,
    Headers,
    Platform,
    exchange,
    refresh,
    reply,
    revoke_access,
)
from wrapper.leaks import found, texts_of_error

PAIR = json.dumps(TOKEN_BODY)
ACCESS_TOKEN_ONLY = json.dumps(
    {"access_token": ACCESS_TOKEN, "token_type": "bearer", "expires_in": 3600}
)
DEEP = "[" * 100_000
HTML = b"<html><body>502 Bad Gateway</body></html>"


def body(**members: object) -> bytes:
    """Return the usual body with other members; Ellipsis removes one."""
    merged = {name: value for name, value in (TOKEN_BODY | members).items() if value is not ...}
    return json.dumps(merged).encode()


def headers(**more: str) -> Headers:
    """Return the usual headers and more, whose names are given with underscores."""
    return TOKEN_HEADERS | {name.replace("_", "-"): value for name, value in more.items()}


def raw(name: bytes, value: bytes) -> Headers:
    """Return the usual headers and one of raw bytes."""
    usual = {name.encode(): text.encode() for name, text in TOKEN_HEADERS.items()}
    return list((usual | {name: value}).items())


O = Oddity  # noqa: E741
Row = tuple[httpx.Response, set[Oddity]]

WITH_PAIR: dict[str, Row] = {
    "correct": (reply(), set()),
    "expires_in as text": (reply(body=body(expires_in="3600")), {O.EXPIRES_IN_NOT_AN_INTEGER}),
    "expires_in as float": (reply(body=body(expires_in=3600.0)), {O.EXPIRES_IN_NOT_AN_INTEGER}),
    "expires_in missing": (reply(body=body(expires_in=...)), {O.EXPIRES_IN_MISSING}),
    "expires_in null": (reply(body=body(expires_in=None)), {O.EXPIRES_IN_MISSING}),
    "expires_in NaN": (reply(body=body(expires_in=float("nan"))), {O.EXPIRES_IN_UNUSABLE}),
    "expires_in infinite": (reply(body=body(expires_in=float("inf"))), {O.EXPIRES_IN_UNUSABLE}),
    "expires_in negative": (reply(body=body(expires_in=-1)), {O.EXPIRES_IN_UNUSABLE}),
    "expires_in true": (reply(body=body(expires_in=True)), {O.EXPIRES_IN_UNUSABLE}),
    "expires_in a list": (reply(body=body(expires_in=[3600])), {O.EXPIRES_IN_UNUSABLE}),
    "expires_in in words": (reply(body=body(expires_in="one hour")), {O.EXPIRES_IN_UNUSABLE}),
    "expires_in after the last date": (
        reply(body=body(expires_in=10**18)),
        {O.EXPIRES_IN_UNUSABLE},
    ),
    "expires_in beyond float": (reply(body=body(expires_in=10**400)), {O.EXPIRES_IN_UNUSABLE}),
    "expires_in of 5000 digits": (
        reply(body=PAIR.replace("3600", "9" * 5000).encode()),
        {O.EXPIRES_IN_UNUSABLE},
    ),
    "token_type in capitals": (reply(body=body(token_type="BEARER")), set()),
    "token_type missing": (reply(body=body(token_type=...)), {O.TOKEN_TYPE_MISSING}),
    "token_type null": (reply(body=body(token_type=None)), {O.TOKEN_TYPE_MISSING}),
    "token_type mac": (reply(body=body(token_type="mac")), {O.TOKEN_TYPE_NOT_BEARER}),
    "scope missing": (reply(body=body(scope=...)), set()),
    "scope a list": (reply(body=body(scope=["accounts"])), {O.SCOPE_UNUSABLE}),
    "scope a number": (reply(body=body(scope=7)), {O.SCOPE_UNUSABLE}),
    "unknown members": (reply(body=body(id_token="fake", consent={"id": 7})), set()),
    "an error member with the pair": (reply(body=body(error="invalid_grant")), set()),
    "201": (reply(201), {O.STATUS_UNDOCUMENTED}),
    "299": (reply(299), {O.STATUS_UNDOCUMENTED}),
    "text/plain": (reply(headers=headers(Content_Type="text/plain")), {O.CONTENT_TYPE}),
    "text/html": (reply(headers=headers(Content_Type="text/html")), {O.CONTENT_TYPE}),
    "capital content type": (
        reply(headers=headers(Content_Type="Application/JSON ; charset=x")),
        set(),
    ),
    "no content type": (reply(headers={"X-CorAPI-Source": "PROVIDER"}), {O.CONTENT_TYPE}),
    "no headers": (reply(headers={}), {O.CONTENT_TYPE}),
    "header not ASCII": (reply(headers=raw(b"Content-Language", b"\xfc")), set()),
    "echo in UTF-8": (reply(headers=raw(b"X-Correlation-ID", "ü".encode())), set()),
    "content type not ASCII": (
        reply(headers=raw(b"Content-Type", b"\xff")),
        {O.CONTENT_TYPE},
    ),
    "encoding not ASCII": (reply(headers=raw(b"Content-Encoding", b"\xff")), set()),
    "byte order mark": (reply(body=PAIR.encode("utf-8-sig")), set()),
    "UTF-16": (reply(body=PAIR.encode("utf-16")), set()),
    "UTF-32 without mark": (reply(body=PAIR.encode("utf-32-be")), set()),
    "UTF-16 truncated within a character": (
        reply(body=PAIR.encode("utf-16-le") + b"x"),
        {O.BODY_BROKEN},
    ),
    "Latin-1": (reply(body=body(name=...).replace(b"bearer", b"b\xe9")), {O.TOKEN_TYPE_NOT_BEARER}),
    "invalid UTF-8": (reply(body=body(x="?").replace(b"?", b"\xff\xc0")), set()),
    "zero byte at the start": (reply(body=b"{\0" + PAIR[1:].encode()), {O.BODY_BROKEN}),
    "byte order mark of UTF-16 before UTF-8": (
        reply(body=b"\xff\xfe" + PAIR.encode()),
        {O.BODY_BROKEN},
    ),
    "gzip": (
        reply(body=gzip.compress(PAIR.encode()), headers=headers(Content_Encoding="gzip")),
        set(),
    ),
    "gzip declared, body not compressed": (reply(headers=headers(Content_Encoding="gzip")), set()),
    "deflate": (
        reply(body=zlib.compress(PAIR.encode()), headers=headers(Content_Encoding="deflate")),
        set(),
    ),
    "deflate declared, body not compressed": (
        reply(headers=headers(Content_Encoding="deflate")),
        set(),
    ),
    "unknown encoding": (reply(headers=headers(Content_Encoding="compress, x-odd")), set()),
    "truncated after the pair": (
        reply(body=PAIR[: PAIR.index('"scope"')].encode()),
        {O.BODY_BROKEN},
    ),
    "in a page of HTML": (reply(body=b"<pre>" + PAIR.encode() + b"</pre>"), {O.BODY_BROKEN}),
    "in a list": (reply(body=[TOKEN_BODY]), {O.BODY_BROKEN}),
    "in a nested object": (reply(body={"data": TOKEN_BODY}), {O.BODY_BROKEN}),
    "twice in a row": (reply(body=PAIR.encode() * 2), {O.BODY_BROKEN}),
    "trailing comma": (reply(body=PAIR[:-1].encode() + b",}"), {O.BODY_BROKEN}),
    "deep nesting after the pair": (
        reply(body=f'{PAIR[:-1]},"x":{DEEP}'.encode()),
        {O.BODY_BROKEN},
    ),
    "duplicate members": (reply(body=b'{"access_token":"fake-old",' + PAIR[1:].encode()), set()),
    "null in a duplicate member": (
        reply(body=PAIR[:-1].encode() + b',"access_token":null}'),
        {O.BODY_BROKEN},
    ),
    "connection reset after the body": (
        reply(cut=httpx.ReadError("reset")),
        {O.BODY_BROKEN},
    ),
    "connection closed before the end of the body": (
        reply(body=PAIR[:-1].encode(), cut=httpx.RemoteProtocolError("incomplete body")),
        {O.BODY_BROKEN},
    ),
    "gzip truncated": (
        reply(
            body=gzip.compress(body(x="y" * 99, z=list(range(9999))), 1)[:-40],
            headers=headers(Content_Encoding="gzip"),
            cut=httpx.ReadTimeout("slow"),
        ),
        {O.BODY_BROKEN},
    ),
    "more than a mebibyte after the pair": (
        reply(body=f'{PAIR[:-1]},"x":"{"y" * (1 << 20)}"}}'.encode()),
        {O.BODY_BROKEN},
    ),
}


@pytest.mark.parametrize(("response", "oddities"), WITH_PAIR.values(), ids=WITH_PAIR.keys())
def test_a_complete_pair_is_recovered_and_the_oddities_are_listed(
    connect: Connect, response: httpx.Response, oddities: set[Oddity]
) -> None:
    blink = connect(Platform(response))
    for call in (refresh, exchange):
        token = call(blink)
        assert token.refresh_token is not None
        assert (token.access_token.reveal(), token.refresh_token.reveal()) == (
            ACCESS_TOKEN,
            REFRESH_TOKEN,
        )
        assert token.oddities == oddities
        assert token.meta is not None
        assert token.meta.status == response.status_code


WITHOUT_REFRESH: dict[str, Row] = {
    "missing": (reply(body=body(refresh_token=...)), {O.REFRESH_TOKEN_MISSING}),
    "null": (reply(body=body(refresh_token=None)), {O.REFRESH_TOKEN_MISSING}),
    "empty": (reply(body=body(refresh_token="")), {O.REFRESH_TOKEN_MISSING}),
    "a list": (reply(body=body(refresh_token=["fake"])), {O.REFRESH_TOKEN_UNUSABLE}),
    "a surrogate": (reply(body=body(refresh_token="\ud800")), {O.REFRESH_TOKEN_UNUSABLE}),
    "missing, with a number of 5000 digits": (
        reply(body=ACCESS_TOKEN_ONLY.replace("3600", "9" * 5000).encode()),
        {O.REFRESH_TOKEN_MISSING, O.EXPIRES_IN_UNUSABLE},
    ),
}


@pytest.mark.parametrize(("response", "oddities"), WITHOUT_REFRESH.values(), ids=WITHOUT_REFRESH)
def test_an_access_token_in_a_complete_object_is_enough(
    connect: Connect, response: httpx.Response, oddities: set[Oddity]
) -> None:
    token = exchange(connect(Platform(response)))
    assert token.access_token.reveal() == ACCESS_TOKEN
    assert token.refresh_token is None
    assert token.oddities == oddities


@pytest.mark.parametrize(("response", "oddities"), WITHOUT_REFRESH.values(), ids=WITHOUT_REFRESH)
def test_the_presented_refresh_token_stays_valid_if_the_response_contains_none(
    connect: Connect, response: httpx.Response, oddities: set[Oddity]
) -> None:
    token = refresh(connect(Platform(response)))
    expected = None if O.REFRESH_TOKEN_UNUSABLE in oddities else Secret(REFRESH_TOKEN_SENT)
    assert token.access_token.reveal() == ACCESS_TOKEN
    assert token.refresh_token == expected
    assert token.oddities == oddities


NO_TOKEN: dict[str, httpx.Response] = {
    "access_token missing": reply(body=body(access_token=...)),
    "access_token null": reply(body=body(access_token=None)),
    "access_token empty": reply(body=body(access_token="")),
    "access_token a number": reply(body=body(access_token=7)),
    "access_token a list": reply(body=body(access_token=[ACCESS_TOKEN])),
    "access_token a surrogate": reply(body=body(access_token="\ud800")),
    "list": reply(body=[]),
    "text": reply(body="fake"),
    "null": reply(body=None),
    "number of 5000 digits": reply(body=b"9" * 5000),
    "NaN": reply(body=b"NaN"),
    "empty object": reply(body={}),
    "empty": reply(body=b""),
    "blank": reply(body=b" \r\n"),
    "204": reply(204, b"", {}),
    "HTML": reply(body=HTML, headers=headers(Content_Type="text/html")),
    "truncated between the tokens": reply(body=ACCESS_TOKEN_ONLY[:-1].encode()),
    "truncated within the refresh token": reply(
        body=PAIR[: PAIR.index(REFRESH_TOKEN) + 20].encode()
    ),
    "connection reset before the first byte": reply(body=b"", cut=httpx.ReadError("reset")),
    "random bytes": reply(body=bytes(range(256))),
    "deep nesting": reply(body=DEEP.encode()),
}


@pytest.mark.parametrize("response", NO_TOKEN.values(), ids=NO_TOKEN.keys())
def test_a_success_without_a_token_is_an_error_of_uncertain_outcome(
    connect: Connect, response: httpx.Response
) -> None:
    blink = connect(Platform(response))
    for number, call in enumerate((refresh, exchange), 1):
        with pytest.raises(BlinkError) as caught:
            call(blink)
        error = caught.value
        assert error.outcome is Outcome.UNCERTAIN
        assert (error.retryable, error.needs_consent, error.token) == (False, False, None)
        assert (error.status, error.correlation_id) == (response.status_code, f"corr-{number}")
        assert type(error) is UnreadableResponseError
        assert found(SECRETS, texts_of_error(error)) == []


@pytest.mark.parametrize(
    ("body", "kind"),
    [({"error": "invalid_grant"}, InvalidGrantError), ({"type": "/problems/X"}, ProblemError)],
)
def test_an_error_body_with_a_success_status_is_that_error_with_an_uncertain_outcome(
    connect: Connect, body: object, kind: type[BlinkError]
) -> None:
    with pytest.raises(kind) as caught:
        refresh(connect(Platform(reply(body=body))))
    assert caught.value.outcome is Outcome.UNCERTAIN
    assert not caught.value.needs_consent


@pytest.mark.parametrize("response", NO_TOKEN.values(), ids=NO_TOKEN.keys())
def test_a_revocation_with_a_success_status_ignores_the_body(
    connect: Connect, response: httpx.Response
) -> None:
    (meta,) = revoke_access(connect(Platform(response))).values()
    assert (meta.status, meta.correlation_id) == (response.status_code, FIRST_ID)


def test_a_compressed_body_expands_up_to_a_limit_only(connect: Connect) -> None:
    bomb = reply(body=gzip.compress(b"x" * (32 << 20)), headers=headers(Content_Encoding="gzip"))
    with pytest.raises(UnreadableResponseError, match=f"of {1 << 20} bytes"):
        refresh(connect(Platform(bomb)))


def test_no_more_than_a_mebibyte_of_a_body_is_read(connect: Connect) -> None:
    endless = Chunks(*[b"x" * (1 << 16)] * 1000)
    response = httpx.Response(200, stream=endless)
    with pytest.raises(UnreadableResponseError, match="cut short"):
        refresh(connect(Platform(response)))
    assert endless.read_count == 17


class FailingClose(Chunks):
    """A complete body, on a connection whose close fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__(json.dumps(TOKEN_BODY).encode())
        self._error = error

    def close(self) -> None:
        """Fail."""
        raise self._error

    async def aclose(self) -> None:
        """Fail."""
        raise self._error


@pytest.mark.parametrize(
    "error", [httpx.CloseError("reset"), httpx.ReadError("reset"), OSError("gone"), ValueError("?")]
)
def test_a_connection_that_cannot_be_closed_loses_no_token(
    connect: Connect, error: Exception
) -> None:
    blink = connect(lambda request: httpx.Response(200, stream=FailingClose(error)))
    token = refresh(blink)
    assert token.access_token.reveal() == ACCESS_TOKEN
    assert token.refresh_token is not None
    assert token.refresh_token.reveal() == REFRESH_TOKEN
