"""Webhooks as an independent receiver sees them, on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import pickle
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import pytest
from standardwebhooks import Webhook as Receiver
from standardwebhooks.webhooks import WebhookVerificationError

from blink_oauth import Grant, InvalidInputError, Outcome, Secret
from blink_oauth_keeper import DeliveryError, Notice, NoticeKind, NoticeReport, Webhook
from blink_oauth_testing.sandbox.certificates import shared_authority
from keeper.harness import Harness, ManualClock
from wire.loopback import listening, server_that, url_of
from wrapper.leaks import found, texts_of, texts_of_error

GUIDE = Path(__file__).parents[2] / "docs" / "how-to" / "notices.md"
AT = datetime(2026, 3, 4, 5, 6, 7, 80_000, tzinfo=UTC)
SECRET = "whsec_" + "ZmFrZS1zZWNyZXQtb2YtYS13ZWJob29rLTEyMw=="
OTHER = "whsec_" + "YW5vdGhlci1mYWtlLXNlY3JldC0xMjM0NTY3OA"
THIRD = "whsec_" + "YS10aGlyZC1mYWtlLXNlY3JldC0xMjM0NTY3ODkw"
BODY = b"a-fake-body-that-no-error-repeats"
USERNAME = 'u-4711 \u2028 "Müller"'
NOTICE = Notice(
    id="3f2c1b0a-0000-4000-8000-000000000001",
    kind=NoticeKind.AT_RISK,
    client_id="CIDX0000000002",
    grant=Grant("IIDX00001", USERNAME),
    generation=7,
    reason="idle_end",
    ends_at=AT + timedelta(days=5),
    correlation_id="3f2c1b0a-0000-4000-8000-000000000002",
    at=AT,
)
OF_CERTIFICATE = Notice(
    id="3f2c1b0a-0000-4000-8000-000000000003",
    kind=NoticeKind.EXPIRING,
    client_id="CIDX0000000002",
    certificate="fake-fingerprint",
    generation=2,
    reason="client_urgent",
    ends_at=AT + timedelta(days=9),
    at=AT,
)


class Server(ThreadingHTTPServer):
    """A receiver that notes each request, and responds as a test says.

    Attributes:
        requests: Headers and body of each request.
        status: The status of the responses.
        headers: The headers of the responses.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.status = 200
        self.headers: dict[str, str] = {}


class _Request(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = cast("Server", self.server)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.requests.append((dict(self.headers), body))
        self.send_response(server.status)
        for name, value in server.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Print nothing."""


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    # Often asked whether to stop, since each test waits for it.
    thread = threading.Thread(target=server.serve_forever, args=(0.005,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as server:
        yield server


def server_context(folder: Path) -> ssl.SSLContext:
    issued = shared_authority().issue_server()
    files = issued.save(folder, "server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.chain, files.key, issued.passphrase)
    return context


def hook(server: Server, *secrets: str, **options: Any) -> Webhook:
    return Webhook(url_of(server.socket, "http") + "/notices", *(secrets or [SECRET]), **options)


def refused(webhook: Webhook, notice: Notice = NOTICE) -> DeliveryError:
    """Send a notice that is not accepted, and return the error."""
    with pytest.raises(DeliveryError) as caught:
        webhook(notice)
    return caught.value


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_independent_receiver_verifies_a_notice(tmp_path: Path, scheme: str) -> None:
    server = Server()
    context = None
    if scheme == "https":
        server.socket = server_context(tmp_path).wrap_socket(server.socket, server_side=True)
        context = ssl.create_default_context(cadata=shared_authority().root_pem.decode())
    with serving(server):
        webhook = Webhook(f"{url_of(server.socket, scheme)}/n?a=b", SECRET, ssl_context=context)
        webhook(NOTICE)
        webhook(OF_CERTIFICATE)
    (headers, body), (other_headers, other_body) = server.requests
    assert Receiver(SECRET).verify(body, headers) == {
        "type": "consent.at_risk",
        "timestamp": "2026-03-04T05:06:07.080000Z",
        "data": {
            "client_id": "CIDX0000000002",
            "target_id": "IIDX00001",
            "username": USERNAME,
            "generation": 7,
            "correlation_id": "3f2c1b0a-0000-4000-8000-000000000002",
            "reason": "idle_end",
            "ends_at": "2026-03-09T05:06:07.080000Z",
        },
    }
    assert headers["webhook-id"] == NOTICE.id
    assert headers["Content-Type"] == "application/json"
    assert Receiver(SECRET).verify(other_body, other_headers) == {
        "type": "certificate.expiring",
        "timestamp": "2026-03-04T05:06:07.080000Z",
        "data": {
            "client_id": "CIDX0000000002",
            "certificate": "fake-fingerprint",
            "stage": 2,
            "reason": "client_urgent",
            "ends_at": "2026-03-13T05:06:07.080000Z",
        },
    }


def test_the_body_is_that_of_the_guide(server: Server) -> None:
    (text,) = re.findall(
        r"^```json\n(.*?)^```$", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    shown = json.loads(text)
    data = shown["data"]
    notice = Notice(
        id="3f2c1b0a-0000-4000-8000-000000000004",
        kind=NoticeKind(shown["type"]),
        client_id=data["client_id"],
        grant=Grant(data["target_id"], data["username"]),
        generation=data["generation"],
        reason=data["reason"],
        ends_at=datetime.fromisoformat(data["ends_at"]),
        correlation_id=data["correlation_id"],
        at=datetime.fromisoformat(shown["timestamp"]),
    )
    hook(server)(notice)
    ((_, body),) = server.requests
    assert body == json.dumps(shown, separators=(",", ":")).encode()


def test_each_secret_signs_and_no_other_verifies(server: Server) -> None:
    hook(server, SECRET, OTHER)(NOTICE)
    ((headers, body),) = server.requests
    assert headers["webhook-signature"].count("v1,") == 2
    for secret in (SECRET, OTHER):
        assert Receiver(secret).verify(body, headers)["type"] == "consent.at_risk"
    for changed in (body + b" ", body.replace(b"4711", b"4712")):
        with pytest.raises(WebhookVerificationError):
            Receiver(SECRET).verify(changed, headers)
    with pytest.raises(WebhookVerificationError):
        Receiver(THIRD).verify(body, headers)


def test_a_new_secret_signs_and_is_new_each_time(server: Server) -> None:
    secret = Webhook.new_secret()
    assert secret != Webhook.new_secret()
    Webhook(url_of(server.socket, "http"), secret)(NOTICE)
    ((headers, body),) = server.requests
    assert Receiver(secret.reveal()).verify(body, headers)
    assert repr(secret) == "Secret(***)"


def test_the_timestamp_is_that_of_the_try_and_the_id_that_of_the_notice(server: Server) -> None:
    clock = ManualClock()
    webhook = hook(server, clock=clock.now)
    webhook(NOTICE)
    clock.elapse(60)
    webhook(NOTICE)
    first, second = (headers for headers, _ in server.requests)
    assert int(second["webhook-timestamp"]) == int(first["webhook-timestamp"]) + 60
    assert int(first["webhook-timestamp"]) == int(clock.now().timestamp()) - 60
    assert first["webhook-id"] == second["webhook-id"]


@pytest.mark.parametrize("status", [200, 202, 204, 299])
def test_a_status_of_2xx_accepts_a_notice(server: Server, status: int) -> None:
    server.status = status
    hook(server)(NOTICE)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "retry_after"),
    [
        (301, None),
        (307, None),
        (400, None),
        (404, None),
        (410, 3600.0),
        (429, 10.0),
        (500, None),
        (502, 10.0),
        (503, 10.0),
        (504, 10.0),
    ],
)
def test_any_other_status_is_a_failure_and_a_redirect_is_not_followed(
    server: Server, status: int, retry_after: float | None
) -> None:
    server.status = status
    with serving(Server()) as elsewhere:
        server.headers = {"Location": url_of(elsewhere.socket, "http")}
        error = refused(hook(server))
        assert elsewhere.requests == []
    assert (error.status, error.retry_after) == (status, retry_after)
    assert str(error) == f"The receiver responded with status {status}."
    assert error.outcome is Outcome.UNCERTAIN
    assert found([BODY.decode()], texts_of_error(error)) == []


@pytest.mark.parametrize(
    ("value", "retry_after", "pause"),
    [
        ("120", 120.0, 120.0),
        ("Wed, 04 Mar 2026 05:07:07 GMT", 60.0, 60.0),
        ("86400", 86_400.0, 3_600.0),
        ("0", 0.0, 0.0),
        ("soon", None, 0.0),
    ],
)
def test_nothing_is_sent_until_the_pause_is_over_that_the_receiver_asked_for(
    server: Server, value: str, retry_after: float | None, pause: float
) -> None:
    clock = ManualClock()
    webhook = hook(server, clock=clock.now, monotonic=clock.monotonic)
    server.status, server.headers = 500, {"Retry-After": value}
    assert refused(webhook).retry_after == retry_after
    server.status = 200
    if pause:
        clock.elapse(pause - 1)
        error = refused(webhook)
        assert (error.retry_after, error.status, error.outcome) == (1, None, Outcome.NOT_EXECUTED)
        assert len(server.requests) == 1
        clock.elapse(1)
    webhook(NOTICE)
    assert len(server.requests) == 2


def test_a_cookie_and_the_proxy_of_the_environment_are_not_used(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    server.headers = {"Set-Cookie": "a=b"}
    webhook = hook(server)
    webhook(NOTICE)
    webhook(NOTICE)
    assert [headers.get("Cookie") for headers, _ in server.requests] == [None, None]


def test_a_receiver_that_cannot_be_reached() -> None:
    with listening() as closed:
        url = url_of(closed, "http")
    error = refused(Webhook(url, SECRET))
    assert str(error) == "The receiver was not reached (ConnectError)."
    assert error.outcome is Outcome.NOT_EXECUTED


def test_a_receiver_with_an_untrusted_certificate_gets_no_notice(tmp_path: Path) -> None:
    tls = server_context(tmp_path)
    received: list[bytes] = []

    def behave(connection: Any) -> None:
        with contextlib.suppress(OSError), tls.wrap_socket(connection, server_side=True) as wrapped:
            received.append(wrapped.recv(1))

    with server_that(behave) as url:
        error = refused(Webhook(url, SECRET))
    assert "not reached (its certificate was refused: " in str(error)
    assert received in ([], [b""])


def never_ending(pieces: bytes, receiving: threading.Event) -> Callable[[Any], None]:
    """Return a server that sends a piece again and again until the client closes."""

    def behave(connection: Any) -> None:
        connection.recv(65_536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(pieces)
                receiving.wait(0.01)

    return behave


def test_the_time_limit_is_one_in_total() -> None:
    with server_that(never_ending(b"X", threading.Event())) as url:
        error = refused(Webhook(url.replace("https", "http"), SECRET, timeout=0.15))
    assert str(error) == "The receiver sent no complete response in time (TimeoutError)."
    assert error.outcome is Outcome.UNCERTAIN


def test_the_search_for_an_address_does_not_exceed_the_time_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ended = threading.Event()
    in_time: list[bool] = []

    def getaddrinfo(*_: object, **__: object) -> list[object]:
        in_time.append(ended.wait(5))
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    context = ssl.create_default_context()
    error = refused(Webhook(URL, SECRET, timeout=0.1, ssl_context=context))
    assert in_time == []
    ended.set()
    assert str(error) == "The receiver sent no complete response in time (TimeoutError)."


def test_an_endless_body_is_not_read() -> None:
    with server_that(never_ending(b"\r\n" + 1_000 * b"X", threading.Event())) as url:
        Webhook(url.replace("https", "http"), SECRET)(NOTICE)


def test_a_receiver_that_closes_without_a_response() -> None:
    def behave(connection: Any) -> None:
        connection.recv(65_536)

    with server_that(behave) as url:
        error = refused(Webhook(url.replace("https", "http"), SECRET))
    assert str(error).startswith("The receiver sent no complete response in time (Re")


@pytest.mark.anyio
async def test_it_is_a_handler_for_threads_and_for_coroutines(
    harness: Harness, server: Server
) -> None:
    grants = [await asyncio.to_thread(harness.authorize, f"u-{number}") for number in range(2)]
    harness.clock.elapse(31 * 86_400)
    webhook = hook(server)
    report = await harness.manager.adeliver_notices(webhook, limit=1)
    assert report == NoticeReport(written=2, delivered=1, left=1)
    # In the thread of a running event loop.
    assert harness.manager.deliver_notices(webhook) == NoticeReport(delivered=1)
    sent = [json.loads(body)["data"]["username"] for _, body in server.requests]
    assert sent == [grant.username for grant in grants]


def test_neither_secret_nor_notice_is_shown(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.status = 500
    url = url_of(server.socket, "http")
    webhook = Webhook(f"{url}/a-fake-path?key=a-fake-key", SECRET)
    secrets = [SECRET, SECRET[6:], "a-fake-path", "a-fake-key"]
    assert repr(webhook) == f"Webhook('{url}/…')"
    assert found(secrets, texts_of(webhook)) == []
    assert found([*secrets, "4711"], texts_of_error(refused(webhook))) == []
    assert found(secrets, [(record.name, record.getMessage()) for record in caplog.records]) == []
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(webhook)


URL = "https://app.example/notices"
SHORT = "whsec_" + "ZmFrZS1zaG9ydC1zZWNyZXQ="
LONG = "whsec_" + "ZmFr" * 22
WRONG: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "plain http": ("webhook url must start with https://", ("http://app.example/", SECRET), {}),
    "no host": ("webhook url must be an https URL", ("https:///notices", SECRET), {}),
    "other scheme": ("webhook url must be an https URL", ("ftp://app.example/", SECRET), {}),
    "password": (
        "webhook url must be an https URL",
        ("https://a:fake-secret@app.example/", SECRET),
        {},
    ),
    "fragment": ("webhook url must be an https URL", (f"{URL}#fake-secret", SECRET), {}),
    "encoded host": ("webhook url must be an https URL", ("https://xn--/", SECRET), {}),
    "too long": ("webhook url must be an https URL", (URL + 70_000 * "a", SECRET), {}),
    "line end": ("webhook url must be an https URL", (f"{URL}\n", SECRET), {}),
    "space": ("webhook url must be an https URL", (f"{URL} ", SECRET), {}),
    "no text": ("webhook url must be a str", (b"https://app.example/", SECRET), {}),
    "no secret": ("secrets must be one secret", (URL,), {}),
    "list": ("secret must be a str or Secret", (URL, [SECRET]), {}),
    "empty": ("webhook secret must not be empty", (URL, ""), {}),
    "prefix": ("must be whsec_ and 24 to 64 bytes", (URL, SECRET[6:]), {}),
    "short": ("must be whsec_ and 24 to 64 bytes", (URL, SHORT), {}),
    "long": ("must be whsec_ and 24 to 64 bytes", (URL, LONG), {}),
    "alphabet": ("must be whsec_ and 24 to 64 bytes", (URL, f"{SECRET[:-2]}_-"), {}),
    "length": ("must be whsec_ and 24 to 64 bytes", (URL, f"{SECRET[:-3]}"), {}),
    "second": ("must be whsec_ and 24 to 64 bytes", (URL, SECRET, SHORT), {}),
    "timeout": ("timeout must be above 0 and at most 60", (URL, SECRET), {"timeout": 61}),
    "no time": ("timeout must be above 0 and at most 60", (URL, SECRET), {"timeout": 0}),
    "context": ("ssl_context must be", (URL, SECRET), {"ssl_context": True}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_refused_without_repeating_it(name: str) -> None:
    text, arguments, options = WRONG[name]
    with pytest.raises(InvalidInputError, match=re.escape(text)) as caught:
        Webhook(*arguments, **options)
    shown = [SECRET, SECRET[6:], SHORT[6:], LONG[6:], "fake-secret"]
    assert found(shown, texts_of_error(caught.value)) == []


def test_what_is_no_notice_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="notice must be a Notice"):
        Webhook(URL, Secret(SECRET))(cast("Any", {"id": "a"}))
