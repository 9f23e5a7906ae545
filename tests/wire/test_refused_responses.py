"""A pair is read even from a response that the HTTP parser refuses."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from blink_oauth import BlinkError, ConnectionLostError, Grant, Oddity, Outcome, Settings
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
ODD_LINES = {
    "a blank in the name": b"X Proxy Note: 1",
    "no colon": b"served by edge-7",
    "a blank before the colon": b"X-Edge : 7",
    "a control character": b"X-Edge: \x00",
}


def settings_for(url: str) -> Settings:
    """Return the settings of a client that uses plain HTTP."""
    return Settings(
        base_url=f"{url}/consent-flow/v2",
        client_id="CIDX0000000002",
        user_agent="acme-books/3.2",
        allow_plain_http=True,
    )


def respond(
    connection: socket.socket, *lines: bytes, status: bytes = b"200 OK", body: bytes
) -> None:
    """Read a request, and send a response with the given header lines unchanged."""
    received = b""
    while b"refresh_token=" not in received:
        received += connection.recv(65536)
    head = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), b"X-CorAPI-Source: PROVIDER"]
    connection.sendall(b"\r\n".join([*head, *lines, b"", body]))


@pytest.mark.parametrize("line", ODD_LINES.values(), ids=ODD_LINES)
def test_a_pair_is_returned_despite_an_illegal_header_line(connect: Connect, line: bytes) -> None:
    body = json.dumps(PAIR).encode()
    with server_that(lambda connection: respond(connection, line, body=body)) as url:
        caller = connect(settings_for(url.replace("https:", "http:")))
        token = caller.refresh(GRANT, "fake-refresh-token-1")
    assert token.refresh_token is not None
    assert token.refresh_token.reveal() == PAIR["refresh_token"]
    assert token.access_token.reveal() == PAIR["access_token"]
    assert Oddity.BODY_BROKEN in token.oddities
    assert token.meta is not None
    assert token.meta.source == "PROVIDER"


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (b"200 OK", b'{"access_token": "fake-access-token-2"'),
        (b"200 OK", b"<html>maintenance</html>"),
        (b"500 Oops", json.dumps(PAIR).encode()),
    ],
    ids=["half a token", "no token", "an error status"],
)
def test_the_outcome_is_uncertain_without_a_success_status_and_a_token(
    connect: Connect, status: bytes, body: bytes
) -> None:
    line = ODD_LINES["no colon"]
    with server_that(lambda connection: respond(connection, line, status=status, body=body)) as url:
        caller = connect(settings_for(url.replace("https:", "http:")))
        with pytest.raises(ConnectionLostError) as caught:
            caller.refresh(GRANT, "fake-refresh-token-1")
    assert caught.value.outcome is Outcome.UNCERTAIN
    assert caught.value.token is None
    assert "fake-" not in str(caught.value)


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
        with pytest.raises(BlinkError) as caught:
            caller.refresh(GRANT, SENT)
    assert caught.value.outcome is Outcome.UNCERTAIN
    assert found([SECRET, SENT], texts_of_error(caught.value)) == []
    assert "access_token" not in str(caught.value)
    if isinstance(caught.value, ConnectionLostError):
        assert caught.value.reason == "the server's response is not valid HTTP"


def test_a_truncated_head_is_no_response(connect: Connect) -> None:
    def hang_up(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Le")

    with server_that(hang_up) as url:
        caller = connect(settings_for(url.replace("https:", "http:")))
        with pytest.raises(ConnectionLostError):
            caller.refresh(GRANT, "fake-refresh-token-1")
