"""A pair is read even from a response that the HTTP parser refuses."""

from __future__ import annotations

import gzip
import json
import socket
from typing import Any

import pytest

from blink_oauth import (
    BlinkError,
    ConnectionLostError,
    ForeignResponseError,
    Grant,
    InvalidGrantError,
    Oddity,
    Outcome,
    Secret,
    Settings,
    StatusError,
    UnreadableResponseError,
)
from wire.harness import Connect
from wire.loopback import server_that
from wrapper.leaks import found, texts_of_error

GRANT = Grant("IIDX00001", "fake-user")
PAIR: dict[str, Any] = {
    "access_token": "fake-access-token-2",
    "refresh_token": "fake-refresh-token-2",
    "token_type": "bearer",
    "expires_in": 3600,
}
BODY = json.dumps(PAIR).encode()
OTHER = BODY.replace(b"token-2", b"token-of-another-customer")
BROKEN = Oddity.BODY_BROKEN
MALFORMED = Oddity.HEAD_MALFORMED


def response(
    *lines: bytes, start: bytes = b"HTTP/1.1 200 OK", body: bytes = BODY, length: bool = True
) -> bytes:
    """Return the bytes of a response with further header lines."""
    head = [start, b"Content-Type: application/json", b"X-CorAPI-Source: PROVIDER"]
    head += [b"Cache-Control: no-store", b"Pragma: no-cache", *lines]
    if length:
        head.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join([*head, b"", body])


def chunk(data: bytes, size: bytes | None = None) -> bytes:
    """Return a chunk; its size line is correct unless it is given."""
    return (b"%x" % len(data) if size is None else size) + b"\r\n" + data + b"\r\n"


def chunked(*chunks: bytes, line: bytes = b"X-Odd: 1", last: bytes = b"0\r\n\r\n") -> bytes:
    """Return the bytes of a response in chunks."""
    body = b"".join(chunks) + last
    return response(b"Transfer-Encoding: chunked", line, body=body, length=False)


SENT = "fake-refresh-token-1"
NO_COLON = b"served by edge-7"
A, B = BODY[:40], BODY[40:]
MALFORMED_HEADS: dict[str, bytes] = {
    "a blank in a name": response(b"X Proxy Note: 1"),
    "no colon": response(NO_COLON),
    "a blank before the colon": response(b"X-Edge : 7"),
    "a name that is empty": response(b": 7"),
    "a NUL": response(b"X-Edge: \x00"),
    "a name that is not ASCII": response("X-Ä: 7".encode()),
    "a carriage return in a value": response(b"X-Edge: a\rContent-Length: 3"),
    "a fold after the status line": response(start=b"HTTP/1.1 200 OK\r\n folded: 7"),
    "a fold after an odd line": response(NO_COLON, b"\tfolded"),
    "line feeds only": response(NO_COLON).replace(b"\r\n", b"\n"),
    "carriage returns only": response().replace(b"\r\n", b"\r"),
    "HTTP/2": response(start=b"HTTP/2 200"),
    "ICY": response(start=b"ICY 200 OK"),
    "no version": response(start=b"HTTP 200 OK"),
    "a version in lower case": response(start=b"http/1.1 200 OK"),
    "two blanks before the status": response(start=b"HTTP/1.1  200 OK"),
    "a control character in the reason": response(start=b"HTTP/1.1 200 O\x00K"),
    "a blank line at the start": b"\r\n" + response(),
    "two lengths": response(b"Content-Length: 7"),
    "two lengths in one line": response(b"Content-Length: 7, %d" % len(BODY), length=False),
    "a length with a sign": response(b"Content-Length: +%d" % len(BODY), length=False),
    "a length in quotes": response(b'Content-Length: "%d"' % len(BODY), length=False),
    "an empty length": response(b"Content-Length: ", length=False),
    "a length in words": response(b"Content-Length: all", length=False),
    "a negative length": response(b"Content-Length: -7", length=False),
    "a huge length": response(b"Content-Length: " + b"9" * 5000, length=False),
    "an unknown transfer coding": response(b"Transfer-Encoding: x-odd"),
    "a transfer coding of identity": response(b"Transfer-Encoding: identity"),
    "a transfer coding of gzip": response(
        b"Transfer-Encoding: gzip, chunked", body=chunk(gzip.compress(BODY)) + b"0\r\n\r\n"
    ),
    "chunked twice": chunked(chunk(A), chunk(B), line=b"Transfer-Encoding: chunked"),
    "chunked and a length": chunked(chunk(A), chunk(B), line=b"Content-Length: 7\r\n" + NO_COLON),
    "chunks behind an odd line": chunked(chunk(A), chunk(B), line=NO_COLON),
    "chunks with an extension": chunked(chunk(BODY, b"%x ;a=b" % len(BODY)), line=NO_COLON),
    "gzip behind an odd line": response(
        NO_COLON, b"Content-Encoding: gzip", body=gzip.compress(BODY)
    ),
    "an interim response before": b"HTTP/1.1 100 Continue\r\n\r\n" + response(NO_COLON),
    "a malformed interim response": b"HTTP/1.1 103 Hints\r\nLink\r\n\r\n" + response(),
    "a header longer than the parser's limit": response(b"X-Edge: " + b"7" * 200_000),
    "thousands of headers": response(*[b"X-Edge-%d: 7" % n for n in range(9_000)]),
    "a second response behind": response(NO_COLON) + response(body=OTHER),
    "a second response behind chunks": chunked(chunk(BODY), line=NO_COLON) + response(body=OTHER),
    "a second response behind an unknown length": response(NO_COLON, length=False)
    + response(body=OTHER),
    "a second response behind two lengths": response(b"Content-Length: 999") + response(body=OTHER),
}
BROKEN_CHUNKS: dict[str, bytes] = {
    "no number": chunked(chunk(A), chunk(B, b"odd")),
    "no number, with an extension": chunked(chunk(A), chunk(B, b"odd;a=b")),
    "an empty size": chunked(chunk(A), chunk(B, b"")),
    "a size in the style of C": chunked(chunk(A), chunk(B, b"0x%x" % len(B))),
    "a negative size": chunked(chunk(A), chunk(B, b"-1")),
    "a size that is too small": chunked(chunk(A, b"3"), chunk(B)),
    "a size that is too large": chunked(chunk(A, b"fff"), chunk(B)),
    "a line feed in the first size": chunked(chunk(A, b"1\n2"), chunk(B)),
    "a size of sixteen digits": chunked(chunk(A), chunk(B, b"f" * 16 + b"0")),
    "no last chunk": chunked(chunk(A), chunk(B), last=b""),
    "garbage for the last chunk": chunked(chunk(A), chunk(B), last=b"end\r\n"),
    "no line end after the chunk": chunked(b"%x\r\n" % len(BODY) + BODY),
    "no chunks at all": chunked(BODY, last=b""),
    "a second response behind a wrong size": chunked(chunk(A), chunk(B, b"odd"), last=b"")
    + response(body=OTHER),
}
MORE_THAN_ONE_READ = json.dumps({"padding": "x" * 300_000, **PAIR}).encode()
IN_PARTS: dict[str, bytes] = {
    "a body that comes later": response(NO_COLON, body=MORE_THAN_ONE_READ),
    "chunks that come later": chunked(
        chunk(A, b"odd"), chunk(MORE_THAN_ONE_READ[1:]), line=b"X: 1"
    ).replace(A, b"{"),
}


def settings_for(url: str) -> Settings:
    """Return the settings of a client that uses plain HTTP."""
    return Settings(
        base_url=f"{url.replace('https:', 'http:')}/consent-flow/v2",
        client_id="CIDX0000000002",
        user_agent="acme-books/3.2",
        allow_plain_http=True,
    )


def respond(connection: socket.socket, raw: bytes, *, keep_open: bool = False) -> None:
    """Read a request, send a response, and wait until the client closes the connection."""
    received = b""
    while b"refresh_token=" not in received:
        received += connection.recv(65536)
    try:
        connection.sendall(raw)
        if not keep_open:
            connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    except OSError:
        pass  # The client closes a connection whose response it cannot read to the end.


def refreshed(connect: Connect, raw: bytes, *, keep_open: bool = False) -> object:
    """Return the token or the error of a refresh that a response is sent to."""
    with server_that(lambda connection: respond(connection, raw, keep_open=keep_open)) as url:
        caller = connect(settings_for(url))
        try:
            return caller.refresh(GRANT, SENT)
        except BlinkError as error:
            return error
        finally:
            caller.close()


def check_pair(token: object, oddities: set[Oddity]) -> None:
    """Check that a token is the whole pair."""
    assert not isinstance(token, BlinkError), str(token)
    values = (token.access_token.reveal(), token.refresh_token.reveal())  # type: ignore[attr-defined]
    assert values == (PAIR["access_token"], PAIR["refresh_token"])
    assert token.oddities == oddities  # type: ignore[attr-defined]
    assert token.meta.source == "PROVIDER"  # type: ignore[attr-defined]


@pytest.mark.parametrize("raw", MALFORMED_HEADS.values(), ids=MALFORMED_HEADS)
def test_a_pair_is_returned_despite_a_malformed_head(connect: Connect, raw: bytes) -> None:
    check_pair(refreshed(connect, raw), {MALFORMED})


@pytest.mark.parametrize("raw", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
def test_a_pair_is_returned_despite_broken_chunks(connect: Connect, raw: bytes) -> None:
    check_pair(refreshed(connect, raw), {BROKEN})
    check_pair(refreshed(connect, with_malformed_head(raw)), {MALFORMED, BROKEN})


def with_malformed_head(raw: bytes) -> bytes:
    """Return a response in chunks with a blank in the name of a header."""
    return raw.replace(b"X-Odd: 1", b"X Odd: 1")


def test_a_pair_is_returned_despite_a_malformed_trailer(connect: Connect) -> None:
    raw = chunked(chunk(A), chunk(B), last=b"0\r\nodd trailer\r\n\r\n")
    check_pair(refreshed(connect, raw), {BROKEN})
    check_pair(refreshed(connect, with_malformed_head(raw)), {MALFORMED})


@pytest.mark.parametrize("raw", IN_PARTS.values(), ids=IN_PARTS)
def test_the_rest_of_a_refused_response_is_read(connect: Connect, raw: bytes) -> None:
    token = refreshed(connect, raw)
    check_pair(token, token.oddities)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["no colon", "chunks behind an odd line", "two lengths"])
def test_the_end_of_a_refused_response_does_not_have_to_be_the_end_of_the_connection(
    connect: Connect, name: str
) -> None:
    check_pair(refreshed(connect, MALFORMED_HEADS[name], keep_open=True), {MALFORMED})


NO_SUCCESS: dict[str, tuple[bytes, type[BlinkError]]] = {
    "half a token": (
        response(NO_COLON, body=b'{"access_token": "fake-access-token-2"'),
        UnreadableResponseError,
    ),
    "no token": (response(NO_COLON, body=b"<html>maintenance</html>"), UnreadableResponseError),
    "a refused grant": (
        response(NO_COLON, start=b"HTTP/1.1 400 No", body=b'{"error": "invalid_grant"}'),
        InvalidGrantError,
    ),
    "a rate limit of the platform": (
        response(NO_COLON, start=b"HTTP/1.1 429 No").replace(b"PROVIDER", b"PLATFORM"),
        StatusError,
    ),
    "a refusal of the platform": (
        response(NO_COLON, start=b"HTTP/1.1 401 No", body=b"").replace(b"PROVIDER", b"PLATFORM"),
        StatusError,
    ),
    "an error status with a pair": (response(NO_COLON, start=b"HTTP/1.1 500 Oops"), StatusError),
    "no status": (b"{}\r\n\r\n" + BODY, ConnectionLostError),
    "a status in words": (response(start=b"HTTP/1.1 OK"), ConnectionLostError),
    "no end of the head": (response(NO_COLON).replace(b"\r\n\r\n", b"\r\n"), ConnectionLostError),
}


@pytest.mark.parametrize(("raw", "kind"), NO_SUCCESS.values(), ids=NO_SUCCESS)
def test_the_outcome_is_uncertain_without_a_success_status_and_a_token(
    connect: Connect, raw: bytes, kind: type[BlinkError]
) -> None:
    error = refreshed(connect, raw)
    assert isinstance(error, kind)
    assert error.outcome is Outcome.UNCERTAIN
    assert (error.retryable, error.needs_consent) == (False, False)
    assert "fake-" not in str(error)
    if BODY in raw:
        assert error.token is not None
        assert error.token.refresh_token == Secret(PAIR["refresh_token"])
    else:
        assert error.token is None


@pytest.mark.parametrize(
    ("start", "directive", "cacheable"),
    [
        (b"HTTP/1.1 500 Oops", b"private", True),
        # Without a status no cache keeps it.
        (b"HTTP/1.1 Oops", b"private", False),
        # Only blanks and tabs may surround a value (RFC 9110 section 5.6.3).
        (b"HTTP/1.1 500 Oops", b"\tno-store ", False),
        (b"HTTP/1.1 500 Oops", b"no-store\x0c", True),
    ],
)
def test_a_malformed_response_with_a_status_counts_as_cacheable_unless_it_forbids_it(
    connect: Connect, start: bytes, directive: bytes, cacheable: bool
) -> None:
    raw = response(NO_COLON, start=start).replace(b"no-store", directive)
    error = refreshed(connect, raw)
    assert isinstance(error, BlinkError)
    assert error.token is not None
    assert MALFORMED in error.token.oddities
    assert (Oddity.CACHEABLE in error.token.oddities) is cacheable


SECRET, SENT = PAIR["access_token"], "fake-refresh-token-1"
QUOTABLE = f'{{"access_token":"{SECRET}","sent":"{SENT}"}}'.encode()
OK = b"HTTP/1.1 200 OK\r\n"
NOT_HTTP = {
    "a body alone": QUOTABLE + b"\r\n\r\n",
    "a status line": b"HTTP/1.1 2OO " + QUOTABLE + b"\r\n\r\n",
    "a version": b"HTTP/9.9 200 " + QUOTABLE + b"\r\n\r\n",
    "a reason phrase": b"HTTP/1.1 200 \x00" + QUOTABLE + b"\r\n\r\n",
    "a header line": OK + QUOTABLE.replace(b":", b" ") + b"\r\n\r\n",
    "a header value": OK + b"X-Edge: \x00" + QUOTABLE + b"\r\n\r\n",
    "a Content-Length": OK + b"Content-Length: " + QUOTABLE + b"\r\n\r\n",
    "a Transfer-Encoding": OK + b"Transfer-Encoding: " + QUOTABLE + b"\r\n\r\n",
    "a chunk size": OK + b"Transfer-Encoding: chunked\r\n\r\n" + QUOTABLE + b"\r\n",
    "a chunk": OK + b"Transfer-Encoding: chunked\r\n\r\n1\r\n" + QUOTABLE + b"\r\n",
    "a trailer": OK + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + QUOTABLE + b"\r\n\r\n",
    "a head that is too long": OK + b"X-Edge: " + QUOTABLE * 2000 + b"\r\n\r\n",
    "a greeting of another protocol": b"220 " + QUOTABLE + b" ESMTP\r\n\r\n",
}
COMPLETE_BODIES = {NOT_HTTP["a chunk size"], NOT_HTTP["a chunk"]}
"""The body has a complete JSON object, so its token is kept."""


@pytest.mark.parametrize("response", NOT_HTTP.values(), ids=NOT_HTTP)
def test_an_error_quotes_no_byte_of_a_response_that_is_not_http(
    connect: Connect, response: bytes
) -> None:
    def behave(connection: socket.socket) -> None:
        received = b""
        while b"refresh_token=" not in received:
            received += connection.recv(65536)
        connection.sendall(response)

    with server_that(behave) as url:
        caller = connect(settings_for(url.replace("https:", "http:")))
        if response in COMPLETE_BODIES:
            assert caller.refresh(GRANT, SENT).access_token == Secret(SECRET)
            return
        with pytest.raises(BlinkError) as caught:
            caller.refresh(GRANT, SENT)
    assert caught.value.outcome is Outcome.UNCERTAIN
    assert found([SECRET, SENT], texts_of_error(caught.value)) == []
    assert "access_token" not in str(caught.value)
    if isinstance(caught.value, ConnectionLostError):
        assert caught.value.reason == "the server's response is not valid HTTP"


@pytest.mark.parametrize("start", [b"HTTP/1.1 200 OK", b"HTTP/1.1 500 Oops"])
def test_a_malformed_response_to_another_request_is_not_believed(
    connect: Connect, start: bytes
) -> None:
    error = refreshed(connect, response(NO_COLON, b"X-Correlation-ID: 7", start=start))
    assert isinstance(error, ForeignResponseError)
    assert error.outcome is Outcome.UNCERTAIN
    assert error.token is not None
    assert "fake-" not in str(error)


def test_a_truncated_head_is_no_response(connect: Connect) -> None:
    error = refreshed(connect, b"HTTP/1.1 200 OK\r\nContent-Le")
    assert isinstance(error, ConnectionLostError)
    assert error.outcome is Outcome.UNCERTAIN
    assert error.token is None
