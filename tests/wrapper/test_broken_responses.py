"""Successful responses with an odd or broken body: the tokens in them are recovered.

A row is one response to a refresh. The tables of error responses are in test_error_responses.
"""

from __future__ import annotations

import gzip
import json
import zlib
from urllib.parse import unquote_plus, urlencode

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


FORM = "application/x-www-form-urlencoded"


def escaped(text: str) -> str:
    """Return a form with each letter of its values escaped."""
    fields = (part.partition("=") for part in text.split("&"))
    return "&".join(
        f"{name}=" + "".join(f"%{byte:02x}" for byte in unquote_plus(value).encode())
        for name, _, value in fields
    )


def headers(**more: str) -> Headers:
    """Return the usual headers and more, whose names are given with underscores."""
    return TOKEN_HEADERS | {name.replace("_", "-"): value for name, value in more.items()}


def without(name: str) -> Headers:
    """Return the usual headers without one of them."""
    return {key: value for key, value in TOKEN_HEADERS.items() if key != name}


def raw(name: bytes, value: bytes) -> Headers:
    """Return the usual headers and one of raw bytes."""
    usual = {name.encode(): text.encode() for name, text in TOKEN_HEADERS.items()}
    return list((usual | {name: value}).items())


O = Oddity  # noqa: E741
Row = tuple[httpx.Response, set[Oddity]]


def coded(content: bytes, *codings: str) -> httpx.Response:
    """Return a response with a header line for each content coding."""
    lines = [(b"Content-Encoding", coding.encode()) for coding in codings]
    usual = [(name.encode(), text.encode()) for name, text in TOKEN_HEADERS.items()]
    return reply(body=content, headers=usual + lines)


def raw_deflate(content: bytes) -> bytes:
    """Return deflated content without the header of zlib, as some servers send it."""
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(content) + compressor.flush()


def flipped(content: bytes, position: int) -> bytes:
    """Return content with one byte changed."""
    changed = bytearray(content)
    changed[position] ^= 0xFF
    return bytes(changed)


ZIPPED = gzip.compress(PAIR.encode(), mtime=0)
DEFLATED = zlib.compress(PAIR.encode())
# Its end can be damaged without damage to the pair.
LONG = body(x=[f"{n * n:x}" for n in range(500)])
COMPRESSED: dict[str, Row] = {
    "x-gzip": (coded(ZIPPED, "x-gzip"), set()),
    "GZip": (coded(ZIPPED, " GZip "), set()),
    "gzip declared as deflate": (coded(ZIPPED, "deflate"), set()),
    "deflate declared as gzip": (coded(DEFLATED, "gzip"), set()),
    "gzip that is not declared": (coded(ZIPPED), set()),
    "gzip twice that is not declared": (coded(gzip.compress(ZIPPED)), set()),
    "deflate that is not declared": (coded(DEFLATED), set()),
    "gzip declared as identity": (coded(ZIPPED, "identity"), set()),
    "gzip declared as a character set": (coded(ZIPPED, "UTF-8"), set()),
    "gzip declared twice, applied once": (coded(ZIPPED, "gzip", "gzip"), set()),
    "gzip twice": (coded(gzip.compress(ZIPPED), "gzip, x-gzip"), set()),
    "gzip three times in three lines": (
        coded(gzip.compress(gzip.compress(ZIPPED)), "gzip", "gzip", "gzip"),
        set(),
    ),
    "deflate, gzip": (coded(gzip.compress(DEFLATED), "deflate, gzip"), set()),
    "gzip, deflate": (coded(zlib.compress(ZIPPED), "deflate", "gzip"), set()),
    "deflate without a header": (coded(raw_deflate(PAIR.encode()), "deflate"), set()),
    "deflate without a header in gzip": (
        coded(gzip.compress(raw_deflate(PAIR.encode())), "deflate, gzip"),
        set(),
    ),
    "identity": (coded(PAIR.encode(), "identity"), set()),
    "an empty coding": (coded(PAIR.encode(), ""), set()),
    "gzip declared, a byte that is no text before the body": (
        coded(b"2\x01" + PAIR.encode(), "gzip"),
        {O.BODY_BROKEN},
    ),
    "gzip declared, two bytes like a header of zlib before the body": (
        coded(b"x\x9c" + PAIR.encode(), "gzip"),
        {O.BODY_BROKEN},
    ),
    "gzip declared, UTF-16 without its first byte": (
        coded(PAIR.encode("utf-16")[1:], "gzip"),
        {O.BODY_BROKEN},
    ),
    "deflate that stores and does not compress": (
        coded(zlib.compress(PAIR.encode(), 0), "deflate"),
        set(),
    ),
    "br declared, body not compressed": (coded(PAIR.encode(), "br"), set()),
    "gzip of UTF-16": (coded(gzip.compress(PAIR.encode("utf-16")), "gzip"), set()),
    "gzip in two streams": (
        coded(gzip.compress(PAIR[:50].encode()) + gzip.compress(PAIR[50:].encode()), "gzip"),
        set(),
    ),
    "gzip with a file name": (
        coded(ZIPPED[:3] + b"\x08" + ZIPPED[4:10] + b"t.json\0" + ZIPPED[10:], "gzip"),
        set(),
    ),
    "gzip with zeros behind": (coded(ZIPPED + bytes(512), "gzip"), set()),
    "gzip with garbage behind": (coded(ZIPPED + b"garbage", "gzip"), {O.BODY_BROKEN}),
    "gzip with a wrong checksum": (coded(flipped(ZIPPED, -8), "gzip"), {O.BODY_BROKEN}),
    "gzip with a wrong length": (coded(flipped(ZIPPED, -4), "gzip"), {O.BODY_BROKEN}),
    "gzip without its end": (coded(ZIPPED[:-8], "gzip"), {O.BODY_BROKEN}),
    "gzip with a damaged byte": (coded(flipped(gzip.compress(LONG), 600), "gzip"), {O.BODY_BROKEN}),
    "gzip with a damaged header": (coded(flipped(ZIPPED, 2), "gzip"), {O.BODY_BROKEN}),
    "gzip with a wrong checksum in gzip": (
        coded(gzip.compress(flipped(ZIPPED, -8)), "gzip, gzip"),
        {O.BODY_BROKEN},
    ),
    "deflate with a wrong checksum": (coded(flipped(DEFLATED, -1), "deflate"), {O.BODY_BROKEN}),
    "deflate without its checksum": (coded(DEFLATED[:-4], "deflate"), {O.BODY_BROKEN}),
    "deflate with a damaged header": (coded(flipped(DEFLATED, 1), "deflate"), {O.BODY_BROKEN}),
    "deflate with a damaged byte": (
        coded(flipped(zlib.compress(LONG), 600), "deflate"),
        {O.BODY_BROKEN},
    ),
    "deflate without a header, with garbage behind": (
        coded(raw_deflate(PAIR.encode()) + b"garbage", "deflate"),
        {O.BODY_BROKEN},
    ),
}


def form(text: str, content_type: str | None = FORM) -> httpx.Response:
    """Return a response with a form."""
    usual = {name: value for name, value in TOKEN_HEADERS.items() if name != "Content-Type"}
    typed = {} if content_type is None else {"Content-Type": content_type}
    return reply(body=text.encode(), headers=usual | typed)


FORM_PAIR = urlencode(TOKEN_BODY)
AS_FORM = {O.FORM_ENCODED, O.CONTENT_TYPE, O.EXPIRES_IN_NOT_AN_INTEGER}
FORMS: dict[str, Row] = {
    "a form": (form(FORM_PAIR), AS_FORM),
    "a form with a character set": (form(FORM_PAIR, f"{FORM};charset=UTF-8"), AS_FORM),
    "a form without a content type": (form(FORM_PAIR, None), AS_FORM),
    "a form declared as a page": (form(FORM_PAIR, "text/html"), AS_FORM),
    "a form declared as JSON": (
        form(FORM_PAIR, "application/json"),
        AS_FORM - {O.CONTENT_TYPE},
    ),
    "a form with escapes of everything": (form(escaped(FORM_PAIR)), AS_FORM),
    "a form with a plus that is not escaped": (form(FORM_PAIR.replace("%2B", "+", 1)), AS_FORM),
    "a form without escapes": (
        form("&".join(f"{name}={value}" for name, value in TOKEN_BODY.items()).replace("%", "%25")),
        AS_FORM,
    ),
    "a form with blanks around it": (form(f"\r\n{FORM_PAIR} \r\n"), AS_FORM),
    "a form with a byte order mark": (form(f"\ufeff{FORM_PAIR}"), AS_FORM),
    "a form with empty fields": (form(f"&{FORM_PAIR}&&state=&flag&"), AS_FORM),
    "a form in another order": (form("&".join(reversed(FORM_PAIR.split("&")))), AS_FORM),
    "a form with a token twice": (form(f"access_token=fake-old&{FORM_PAIR}"), AS_FORM),
    "a form with an empty token behind": (form(f"{FORM_PAIR}&access_token="), AS_FORM),
    "a form with escapes in Latin-1": (form(f"{FORM_PAIR}&name=Z%FCrich"), AS_FORM),
    "a form in gzip": (
        coded(gzip.compress(FORM_PAIR.encode()), "gzip"),
        AS_FORM - {O.CONTENT_TYPE},
    ),
    "a form that was cut short after the pair": (
        reply(body=FORM_PAIR[:-3].encode(), cut=httpx.ReadError("reset")),
        AS_FORM - {O.CONTENT_TYPE} | {O.BODY_BROKEN},
    ),
}

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
    "expires_in of 31 days": (reply(body=body(expires_in=31 * 86_400)), set()),
    "expires_in of more than 31 days": (
        reply(body=body(expires_in=31 * 86_400 + 1)),
        {O.EXPIRES_IN_IMPLAUSIBLE},
    ),
    "expires_in in milliseconds": (
        reply(body=body(expires_in=86_400_000)),
        {O.EXPIRES_IN_IMPLAUSIBLE},
    ),
    "expires_in since 1970": (
        reply(body=body(expires_in=1_772_600_767)),
        {O.EXPIRES_IN_IMPLAUSIBLE},
    ),
    "expires_in since 1970 as text": (
        reply(body=body(expires_in="1772600767")),
        {O.EXPIRES_IN_IMPLAUSIBLE, O.EXPIRES_IN_NOT_AN_INTEGER},
    ),
    "expires_in zero": (reply(body=body(expires_in=0)), {O.EXPIRES_IN_IMPLAUSIBLE}),
    "expires_in below one second": (
        reply(body=body(expires_in=0.5)),
        {O.EXPIRES_IN_IMPLAUSIBLE, O.EXPIRES_IN_NOT_AN_INTEGER},
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
    "no content type": (reply(headers=without("Content-Type")), {O.CONTENT_TYPE}),
    "no headers": (reply(headers={}), {O.CONTENT_TYPE, O.CACHEABLE}),
    "no Cache-Control": (reply(headers=without("Cache-Control")), {O.CACHEABLE}),
    "no Pragma": (reply(headers=without("Pragma")), {O.CACHEABLE}),
    "Cache-Control without no-store": (
        reply(headers=headers(Cache_Control="no-cache, private")),
        {O.CACHEABLE},
    ),
    "no-store in an argument": (
        reply(headers=headers(Cache_Control='private="a, no-store"')),
        {O.CACHEABLE},
    ),
    "Pragma without no-cache": (reply(headers=headers(Pragma="no-store")), {O.CACHEABLE}),
    "further directives": (
        reply(headers=headers(Cache_Control="Private, NO-STORE", Pragma="no-cache, x=1")),
        set(),
    ),
    "header not ASCII": (reply(headers=raw(b"Content-Language", b"\xfc")), set()),
    "echo empty": (reply(headers=raw(b"X-Correlation-ID", b"")), set()),
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
    **COMPRESSED,
    **FORMS,
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
    "br": coded(bytes(range(128, 256)), "br"),
    "gzip with nothing behind its header": coded(ZIPPED[:10], "gzip"),
    "a form without the access token": form(f"refresh_token={REFRESH_TOKEN_SENT}"),
    "a form that was cut within the refresh token": reply(
        body=f"access_token=fake&refresh_token={REFRESH_TOKEN}".encode(),
        cut=httpx.ReadError("reset"),
    ),
    "a page with a form in a link": reply(
        body=f'<a href="?access_token=fake&refresh_token={REFRESH_TOKEN}&">'.encode()
    ),
    "a text with a form": reply(
        body=f"see\naccess_token=fake&refresh_token={REFRESH_TOKEN}".encode()
    ),
    "a JSON text with a form": reply(body=f"access_token=fake&refresh_token={REFRESH_TOKEN}"),
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


@pytest.mark.parametrize("layers", [2, 4, 9])
def test_a_body_that_is_compressed_again_and_again_expands_up_to_a_limit_only(
    connect: Connect, layers: int
) -> None:
    bomb = b"x" * (4 << 20)
    for _ in range(layers):
        bomb = gzip.compress(bomb)
    response = coded(bomb, *["gzip"] * layers)
    with pytest.raises(UnreadableResponseError, match="that is no JSON object") as caught:
        refresh(connect(Platform(response)))
    size = int(str(caught.value).partition("a body of ")[2].split()[0])
    assert size <= 1 << 20


def test_a_content_coding_that_cannot_be_undone_is_named(connect: Connect) -> None:
    for coding in ("br", "zstd", "compress"):
        response = coded(bytes(range(128, 256)), coding)
        with pytest.raises(UnreadableResponseError, match=f"content coding {coding}, which"):
            refresh(connect(Platform(response)))


def test_the_lifetime_of_a_token_is_none_if_it_is_implausible(connect: Connect) -> None:
    for seconds in (0, 86_400_000):
        token = refresh(connect(Platform(reply(body=body(expires_in=seconds)))))
        assert token.expires_at is None


def test_a_form_with_an_access_token_only_is_a_token(connect: Connect) -> None:
    fields = {"access_token": ACCESS_TOKEN, "scope": "a b"}
    token = exchange(connect(Platform(form(urlencode(fields)))))
    assert (token.access_token.reveal(), token.refresh_token) == (ACCESS_TOKEN, None)
    assert token.scope == frozenset({"a", "b"})


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
