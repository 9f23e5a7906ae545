"""The callback server, over real sockets on loopback."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from blink_oauth.errors import InvalidInputError
from blink_oauth_cli.login_callback import (
    Callback,
    CallbackServer,
    already_used_page,
    is_of_another_user,
    socket_owner,
)
from blink_oauth_cli.login_messages import LoginFailedError
from cli.login.browser import TIMEOUT, send_request

QUERY = "code=fake-code-1&state=fake-state-1"


@pytest.fixture
def server() -> Iterator[CallbackServer]:
    with CallbackServer("http://127.0.0.1/callback") as running:
        yield running


@pytest.fixture
def browsers() -> Iterator[ThreadPoolExecutor]:
    """Yield an executor for requests that wait for their responses."""
    with ThreadPoolExecutor(4) as pool:
        yield pool


def received(server: CallbackServer) -> Callback:
    callback = server.wait(TIMEOUT)
    assert callback is not None
    return callback


def send_raw(server: CallbackServer, request: bytes) -> bytes:
    """Send bytes, and return the whole response."""
    parts = urlsplit(server.redirect_uri)
    with socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        response = b""
        while piece := connection.recv(65_536):
            response += piece
    return response


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("http://127.0.0.1/callback", "/callback"),
        ("http://127.0.0.1:0/a/b", "/a/b"),
        ("http://127.0.0.1", "/"),
        ("http://[::1]/callback", "/callback"),
    ],
)
def test_a_callback_waits_for_its_page_until_respond(
    uri: str, path: str, browsers: ThreadPoolExecutor
) -> None:
    with CallbackServer(uri) as server:
        assert urlsplit(server.redirect_uri).port
        browser = browsers.submit(send_request, server.redirect_uri, QUERY, path=path)
        callback = received(server)
        assert callback.query == QUERY
        assert "fake-code-1" not in repr(callback)
        assert not browser.done()
        callback.respond(b"<p>what happened</p>", 200)
        status, page, headers = browser.result(TIMEOUT)
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
def test_a_redirect_uri_that_is_not_on_loopback_is_refused(uri: str) -> None:
    with pytest.raises(InvalidInputError, match=r"http://127\.0\.0\.1 or http://\[::1\]"):
        CallbackServer(uri)


def test_a_port_in_use_is_an_error(server: CallbackServer) -> None:
    with pytest.raises(LoginFailedError, match="Nothing was sent") as caught:
        CallbackServer(server.redirect_uri)
    assert str(urlsplit(server.redirect_uri).port) in caught.value.what
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
def test_a_request_that_is_no_callback_is_refused_and_the_login_continues(
    server: CallbackServer, browsers: ThreadPoolExecutor, request_of: dict[str, str], status: int
) -> None:
    port = str(urlsplit(server.redirect_uri).port)
    filled = {name: value.replace("{port}", port) for name, value in request_of.items()}
    received_status, page, headers = send_request(server.redirect_uri, QUERY, **filled)
    assert received_status == status
    assert ("goes on waiting" in page) is (request_of.get("method") != "HEAD")
    assert "fake-" not in page
    assert headers["Allow"] == ("GET" if status == 405 else None)
    browsers.submit(send_request, server.redirect_uri, "second")
    callback = received(server)
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
def test_a_malformed_request_is_no_callback_and_is_not_quoted(
    server: CallbackServer, capfd: pytest.CaptureFixture[str], request_line: bytes
) -> None:
    host = urlsplit(server.redirect_uri).netloc.encode()
    response = send_raw(server, request_line.replace(b"{host}", host))
    assert b"goes on waiting" in response
    assert b"fake-code-1" not in response
    assert server.wait(0.001) is None
    assert "".join(capfd.readouterr()) == ""


def test_a_silent_connection_does_not_block_other_requests(
    server: CallbackServer, browsers: ThreadPoolExecutor
) -> None:
    parts = urlsplit(server.redirect_uri)
    with socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT):
        browser = browsers.submit(send_request, server.redirect_uri, QUERY)
        received(server).respond(b"done")
        assert browser.result(TIMEOUT)[1] == "done"


def test_a_second_callback_gets_its_page_before_and_after_the_first(
    server: CallbackServer, browsers: ThreadPoolExecutor
) -> None:
    first = browsers.submit(send_request, server.redirect_uri, QUERY)
    callback = received(server)
    early = browsers.submit(send_request, server.redirect_uri, QUERY)
    server.stop_accepting(already_used_page(), 409)
    assert_already_used(early)
    assert_already_used(browsers.submit(send_request, server.redirect_uri, QUERY))
    assert not first.done()
    callback.respond(b"done")
    callback.respond(b"changed")
    assert first.result(TIMEOUT)[1] == "done"
    assert_already_used(browsers.submit(send_request, server.redirect_uri, QUERY))
    assert server.wait(0.001) is None


def assert_already_used(browser: Future[Any]) -> None:
    status, page, _ = browser.result(TIMEOUT)
    assert status == 409
    assert "Already used" in page
    assert "not sent a second time" in page


BANK = "https://bank.example/authorize?state=fake-state-1"


def add_start_page(server: CallbackServer, *, is_open: bool = True) -> str:
    return server.add_start_page(BANK, max_age=300, is_open=lambda: is_open)


def get(server: CallbackServer, uri: str, cookie: str = "") -> tuple[int, str, bytes]:
    """Send a GET request; return status, `Set-Cookie` header and the whole response."""
    parts = urlsplit(uri)
    lines = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{cookie}\r\n"
    response = send_raw(server, lines.encode())
    head = response.partition(b"\r\n\r\n")[0].decode()
    cookies = [line[12:] for line in head.split("\r\n") if line.startswith("Set-Cookie: ")]
    return int(head.split()[1]), "".join(cookies), response


def test_the_start_page_sets_a_cookie_and_leads_to_the_bank(server: CallbackServer) -> None:
    uri = add_start_page(server)
    start, callback = urlsplit(uri), urlsplit(server.redirect_uri)
    assert start.netloc == callback.netloc
    assert len(start.path) > 40
    status, page, headers = send_request(uri)
    assert (status, page, headers["Location"]) == (303, "", BANK)
    assert (headers["Cache-Control"], headers["Referrer-Policy"]) == ("no-store", "no-referrer")
    pair, *attributes = headers["Set-Cookie"].split("; ")
    assert attributes == ["Path=/", "Max-Age=300", "HttpOnly", "SameSite=Lax"]
    name, _, value = pair.partition("=")
    # Cookies ignore ports; another login on this machine has another port.
    assert name.endswith(f"-{callback.port}")
    assert len(value) >= 43
    assert value not in uri


@pytest.mark.parametrize(
    ("cookie", "status"),
    [
        ("Cookie: {}\r\n", 303),
        ("Cookie: a=b; {}; c\r\n", 303),
        ('Cookie: "odd";{}\r\n', 303),
        ("Cookie: a=b\r\nCookie: {}\r\n", 303),
        ("", 403),
        ("Cookie: \r\n", 403),
        ("Cookie: x{}\r\n", 403),
        ("Cookie: {}x\r\n", 403),
        ("Cookie: {name}=\r\n", 403),
        ("X-Cookie: {}\r\n", 403),
    ],
)
def test_the_start_page_serves_the_first_browser_only(
    server: CallbackServer, browsers: ThreadPoolExecutor, cookie: str, status: int
) -> None:
    uri = add_start_page(server)
    pair = get(server, uri)[1].partition(";")[0]
    line = cookie.format(pair, name=pair.partition("=")[0])
    second, set_cookie, response = get(server, uri, line)
    assert second == status
    assert set_cookie == ""
    assert (BANK.encode() in response) is (status == 303)
    assert server.start_page_was_taken is (status == 403)
    browser = browsers.submit(get, server, server.redirect_uri, line)
    callback = received(server)
    assert callback.has_cookie is (status == 303)
    callback.respond(b"")
    assert browser.result(TIMEOUT)[0] == 200


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"method": "HEAD"}, 405),
        ({"method": "POST"}, 405),
        ({"host": "app.example"}, 400),
        ({"path": "/start/"}, 404),
        ({"path": "/start/guess"}, 404),
    ],
)
def test_a_request_that_is_not_for_the_start_page_leaves_it_to_the_browser(
    server: CallbackServer, change: dict[str, str], status: int
) -> None:
    uri = add_start_page(server)
    assert send_request(uri, **change)[0] == status
    assert send_request(uri)[0] == 303
    assert not server.start_page_was_taken


def test_another_user_does_not_get_the_start_page(
    server: CallbackServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = add_start_page(server)
    with monkeypatch.context() as patch:
        patch.setattr("blink_oauth_cli.login_callback.is_of_another_user", lambda connection: True)
        status, page, headers = send_request(uri)
    assert (status, headers["Location"], headers["Set-Cookie"]) == (403, None, None)
    assert "another user of this machine" in page
    assert send_request(uri)[0] == 303
    assert not server.start_page_was_taken


def test_the_user_of_a_connection_is_read_from_the_tables_of_linux(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as connection,
    ):
        assert not is_of_another_user(connection)
        ends = [f"0100007F:{end.getsockname()[1]:04X}" for end in (client, connection)]
        for prefix in ("", "0000000000000000FFFF0000"):
            for owner, is_another in ((os.getuid(), False), (0, False), (os.getuid() + 1, True)):
                rows = [(ends[::-1], os.getuid() + 2), (ends, owner)]
                text = "heading\n"
                for (local, remote), uid in rows:
                    text += f"0: {prefix}{local} {prefix}{remote} 01 0:0 00:0 0 {uid} 0 1\n"
                (tmp_path / "table").write_text(text, "ascii")
                tables = (str(tmp_path / "missing"), str(tmp_path / "table"))
                monkeypatch.setattr("blink_oauth_cli.login_callback.TABLES", tables)
                monkeypatch.setattr("sys.byteorder", "little")
                assert is_of_another_user(connection) is is_another


def test_the_user_of_a_connection_over_ipv6_is_found() -> None:
    local, remote = ("::1", 0x1F90, 0, 0), ("::1", 0xC001, 0, 0)
    host = "00000000000000000000000001000000"
    table = f"heading\n0: {host}:1F90 {host}:C001 01 0:0 00:0 0 4711 0 1\n"
    assert socket_owner(table, local, remote) == 4711
    assert socket_owner(table, remote, local) is None


def test_after_the_login_the_start_page_leads_nowhere(server: CallbackServer) -> None:
    uri = add_start_page(server)
    server.stop_accepting(already_used_page(), 409)
    status, page, headers = send_request(uri)
    assert (status, headers["Location"]) == (409, None)
    assert "Already used" in page
    assert not server.start_page_was_taken


def test_a_start_page_that_is_opened_too_late_leads_nowhere(server: CallbackServer) -> None:
    status, page, headers = send_request(add_start_page(server, is_open=False))
    assert (status, headers["Location"], headers["Set-Cookie"]) == (410, None, None)
    assert "goes on waiting" in page
    assert not server.start_page_was_taken


def test_the_port_is_closed_after_the_login() -> None:
    with CallbackServer("http://127.0.0.1/callback") as server:
        uri = server.redirect_uri
    with pytest.raises(ConnectionRefusedError):
        send_request(uri, QUERY)
    with CallbackServer(uri) as again:
        assert again.redirect_uri == uri


def test_a_browser_that_closes_its_connection_is_no_error(
    server: CallbackServer, capfd: pytest.CaptureFixture[str]
) -> None:
    parts = urlsplit(server.redirect_uri)
    head = f"GET /callback?{QUERY} HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n"
    with socket.create_connection((parts.hostname, parts.port), timeout=TIMEOUT) as connection:
        connection.sendall(head.encode())
        callback = received(server)
    callback.respond(b"x" * 1_000_000)
    assert "".join(capfd.readouterr()) == ""
