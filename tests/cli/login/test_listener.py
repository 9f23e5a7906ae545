"""The listener, over real sockets on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit

import pytest

from blink_oauth.errors import InvalidInputError
from blink_oauth_cli.login_authorization import LoginRefusedError
from blink_oauth_cli.login_callback import Callback, Listener, already_used_page
from cli.login.browser import PATIENCE, ask

QUERY = "code=fake-code-1&state=fake-state-1"


@pytest.fixture
def listener() -> Iterator[Listener]:
    with Listener("http://127.0.0.1/callback") as listening:
        yield listening


@pytest.fixture
def crowd() -> Iterator[ThreadPoolExecutor]:
    """Browsers that wait for their pages."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


def received(listener: Listener) -> Callback:
    callback = listener.wait(PATIENCE)
    assert callback is not None
    return callback


def raw(listener: Listener, request: bytes) -> bytes:
    """Send bytes, and return all that comes back."""
    parts = urlsplit(listener.redirect_uri)
    with socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := connection.recv(65_536):
            answer += piece
    return answer


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ("http://127.0.0.1/callback", "/callback"),
        ("http://127.0.0.1:0/a/b", "/a/b"),
        ("http://127.0.0.1", "/"),
        ("http://[::1]/callback", "/callback"),
    ],
)
def test_the_page_is_held_back_until_the_result_is_known(
    given: str, path: str, crowd: ThreadPoolExecutor
) -> None:
    with Listener(given) as listener:
        assert urlsplit(listener.redirect_uri).port
        browser = crowd.submit(ask, listener.redirect_uri, QUERY, path=path)
        callback = received(listener)
        assert callback.query == QUERY
        assert "fake-code-1" not in repr(callback)
        assert not browser.done()
        callback.respond(b"<p>what happened</p>", 200)
        status, page, headers = browser.result(PATIENCE)
    assert (status, page) == (200, "<p>what happened</p>")
    assert headers["Server"] == "blink-oauth"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "uri",
    [
        "https://127.0.0.1/callback",
        "http://localhost/callback",
        "http://app.example/callback",
        "http://127.0.0.1.app.example/callback",
        "http://127.0.0.1@app.example/callback",
        "http://app.example@127.0.0.1/callback",
        "http://127.1/callback",
        "http://0.0.0.0/callback",
        "http://[::]/callback",
        "http://[::1/callback",
        "http://127.0.0.1:99999/callback",
        "http://127.0.0.1:/callback",
        "http://127.0.0.1/callback#x",
        "http://127.0.0.1/call back",
        "/callback",
        "",
    ],
)
def test_a_redirect_uri_that_is_not_on_loopback_is_not_listened_on(uri: str) -> None:
    with pytest.raises(InvalidInputError, match=r"http://127\.0\.0\.1 or http://\[::1\]"):
        Listener(uri)


def test_a_port_that_is_taken_is_said(listener: Listener) -> None:
    with pytest.raises(LoginRefusedError, match="Nothing was sent") as caught:
        Listener(listener.redirect_uri)
    assert str(urlsplit(listener.redirect_uri).port) in caught.value.what
    assert "another one" in caught.value.do


@pytest.mark.parametrize(
    ("request_of", "status"),
    [
        ({"path": "/favicon.ico"}, 404),
        ({"path": "/"}, 404),
        ({"path": "/callback/"}, 404),
        ({"path": "/%63allback"}, 404),
        ({"path": "/" + "a" * 9_000}, 414),
        ({"path": "/" + "a" * 70_000}, 414),
        ({"method": "POST"}, 405),
        ({"method": "HEAD"}, 405),
        ({"method": "OPTIONS"}, 405),
        ({"host": "app.example"}, 400),
        ({"host": "127.0.0.1"}, 400),
        ({"host": "localhost:{port}"}, 400),
        ({"host": "127.0.0.1.app.example:{port}"}, 400),
    ],
)
def test_a_request_that_is_not_the_callback_is_refused_and_the_login_waits_on(
    listener: Listener, crowd: ThreadPoolExecutor, request_of: dict[str, str], status: int
) -> None:
    port = str(urlsplit(listener.redirect_uri).port)
    filled = {name: value.replace("{port}", port) for name, value in request_of.items()}
    got, page, headers = ask(listener.redirect_uri, QUERY, **filled)
    assert got == status
    assert ("goes on waiting" in page) is (request_of.get("method") != "HEAD")
    assert "fake-" not in page
    assert headers["Allow"] == ("GET" if status == 405 else None)
    crowd.submit(ask, listener.redirect_uri, "second")
    callback = received(listener)
    assert callback.query == "second"
    callback.respond(b"")


@pytest.mark.parametrize(
    "request_line",
    [
        b"GET /callback?code=fake-code-1\r\n\r\n",
        b"GET /callback?code=fake-code-1 HTTP/1.1\r\n\r\n",
        b"GET /callback?code=fake-code-1 HTTP/1.1\r\nHost: {host}\r\nHost: app.example\r\n\r\n",
        b"GET http://{host}/callback?code=fake-code-1 HTTP/1.1\r\nHost: {host}\r\n\r\n",
        b"GET /callback?code=fake-code-1 fake-code-1 HTTP/x\r\n\r\n",
        b"GET /callback?code=fake-code-1 HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n",
        b"\x16\x03\x01fake-code-1\r\n\r\n",
    ],
)
def test_a_malformed_request_is_no_callback_and_not_quoted(
    listener: Listener, capfd: pytest.CaptureFixture[str], request_line: bytes
) -> None:
    host = urlsplit(listener.redirect_uri).netloc.encode()
    answer = raw(listener, request_line.replace(b"{host}", host))
    assert b"goes on waiting" in answer
    assert b"fake-code-1" not in answer
    assert listener.wait(0.001) is None
    assert "".join(capfd.readouterr()) == ""


def test_a_silent_connection_keeps_nobody_waiting(
    listener: Listener, crowd: ThreadPoolExecutor
) -> None:
    parts = urlsplit(listener.redirect_uri)
    with socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE):
        browser = crowd.submit(ask, listener.redirect_uri, QUERY)
        received(listener).respond(b"done")
        assert browser.result(PATIENCE)[1] == "done"


def test_a_second_callback_is_answered_while_the_first_is_held_and_after(
    listener: Listener, crowd: ThreadPoolExecutor
) -> None:
    first = crowd.submit(ask, listener.redirect_uri, QUERY)
    callback = received(listener)
    early = crowd.submit(ask, listener.redirect_uri, QUERY)
    listener.close_to_others(already_used_page(), 409)
    assert_already_used(early)
    assert_already_used(crowd.submit(ask, listener.redirect_uri, QUERY))
    assert not first.done()
    callback.respond(b"done")
    callback.respond(b"changed")
    assert first.result(PATIENCE)[1] == "done"
    assert_already_used(crowd.submit(ask, listener.redirect_uri, QUERY))
    assert listener.wait(0.001) is None


def assert_already_used(browser: Future[Any]) -> None:
    status, page, _ = browser.result(PATIENCE)
    assert status == 409
    assert "Already used" in page
    assert "not sent a second time" in page


def test_nobody_listens_afterwards() -> None:
    with Listener("http://127.0.0.1/callback") as listener:
        uri = listener.redirect_uri
    with pytest.raises(ConnectionRefusedError):
        ask(uri, QUERY)
    with Listener(uri) as again:
        assert again.redirect_uri == uri


def test_a_browser_that_hangs_up_is_no_trouble(
    listener: Listener, capfd: pytest.CaptureFixture[str]
) -> None:
    parts = urlsplit(listener.redirect_uri)
    head = f"GET /callback?{QUERY} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=PATIENCE) as connection:
        connection.sendall(head.encode())
        callback = received(listener)
    callback.respond(b"x" * 1_000_000)
    assert "".join(capfd.readouterr()) == ""
