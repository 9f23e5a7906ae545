"""A listener on loopback that takes the bank's answer from the browser (RFC 8252 section 7.3).

The pages that it shows never hold a code or a state.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import queue
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import Future, InvalidStateError
from html import escape
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Self
from urllib.parse import SplitResult, urlsplit, urlunsplit

from attrs import define, field

from blink_oauth.context import Grant
from blink_oauth.errors import BlinkError, InvalidInputError, Outcome
from blink_oauth.headers import is_visible_ascii

from .login_authorization import START_AGAIN, LoginRefusedError, Refusal, printable

__all__ = ["Callback", "Listener"]

NOT_LOGGED_IN = "Not logged in"
CLOSE = "You can close this window."

_SPENT: Mapping[Outcome, str] = {
    Outcome.NOT_EXECUTED: "The code is not spent, but it lives only 30 seconds.",
    Outcome.REJECTED: "The code was refused and is of no more use. No token was issued.",
    Outcome.UNCERTAIN: (
        "It is uncertain whether the code is spent: the bank may have issued a token that did not "
        "arrive. The code is not sent again."
    ),
}
_NOT_CALLBACK: Mapping[int, str] = {
    400: "The request was not made to this address by name, or cannot be read.",
    404: "There is nothing here but the address that the bank sends the browser back to.",
    405: "The bank's answer must come as a GET request.",
    414: "The request is too long.",
}


def succeeded_page(grant: Grant) -> bytes:
    """Say that the token is stored."""
    who = f"User {grant.username} at {grant.target_id}"
    return _page("Logged in", f"{who}: the token is stored.", CLOSE)


def refused_page(refusal: Refusal) -> bytes:
    """Say why the bank's answer ended the login."""
    return _page(NOT_LOGGED_IN, refusal.what, refusal.do)


def foreign_page(refusal: Refusal) -> bytes:
    """Say that an answer does not belong to the login that waits."""
    return _page("Not the answer to this login", refusal.what, refusal.do)


def failed_page(error: BlinkError) -> bytes:
    """Say why the code could not be exchanged, and whether it is spent."""
    lines = [printable(str(error), 500), _SPENT[error.outcome], START_AGAIN]
    if error.correlation_id:
        lines.append(f"Correlation id: {error.correlation_id}")
    return _page(NOT_LOGGED_IN, *lines)


def ended_page(what: str) -> bytes:
    """Say that the command ended before it could tell the result."""
    return _page(NOT_LOGGED_IN, what, "Look at the terminal, then start the login again.")


def already_used_page() -> bytes:
    """Say that a second answer changes nothing."""
    return _page(
        "Already used",
        "This login has had its answer already. The code was not sent a second time.",
        "The first page and the terminal tell the result.",
    )


def not_the_callback_page(status: int) -> bytes:
    """Say that a request is not the bank's answer, and that the login goes on."""
    what = _NOT_CALLBACK.get(status, _NOT_CALLBACK[400])
    return _page("Not the bank's answer", what, "The login goes on waiting.")


# The colours are the browser's own, so that text stands out in light and in dark.
_STYLE = """
:root { color-scheme: light dark; }
body { max-width: 34rem; margin: 8vh auto; padding: 0 1rem; overflow-wrap: anywhere;
  font: 1.0625rem/1.55 system-ui, sans-serif; background: Canvas; color: CanvasText; }
"""
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{content}
</main>
</body>
</html>
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
PAGE_HEADERS: Mapping[str, str] = {
    "Content-Type": "text/html; charset=utf-8",
    "Content-Security-Policy": (
        f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; img-src data:; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cache-Control": "no-store",
    # The address of the page holds the code.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def _page(title: str, *lines: str) -> bytes:
    content = "\n".join(f"<p>{escape(line)}</p>" for line in lines)
    return _PAGE.format(title=escape(title), style=_STYLE, content=content).encode()


MAX_REQUEST_LINE = 8_192
SILENCE = 5.0
"""Seconds that a connection may be silent, and that a page may take to the browser."""


@define(eq=False)
class Callback:
    """A request to the redirect URI, whose answer is held back until `respond`.

    Attributes:
        query: The query as it was received. It may hold a code.
        user_agent: What the browser calls itself, or nothing.
        answer: The status and the page, once they are decided on.
        sent: Set when the page has left, or never will.
    """

    query: str = field(repr=False)
    user_agent: str
    answer: Future[tuple[int, bytes]] = field(init=False, factory=Future, repr=False)
    sent: threading.Event = field(init=False, factory=threading.Event, repr=False)

    def respond(self, page: bytes, status: int = 200) -> None:
        """Send a page to the browser and return once it is on its way; later ones are ignored."""
        self.settle(page, status)
        self.sent.wait(SILENCE)

    def settle(self, page: bytes, status: int) -> None:
        """Decide on the page without waiting for it to leave."""
        with contextlib.suppress(InvalidStateError):
            self.answer.set_result((status, page))


class Listener(ThreadingTCPServer):
    """Listen on a loopback redirect URI, in a thread of its own, for as long as it is entered.

    What is not the callback is answered at once and changes nothing: another path, another method,
    another host in the `Host` header (a page that had its own name resolved to loopback). It is no
    `HTTPServer`, as that looks its own name up in the DNS.

    Args:
        redirect_uri: Where to listen. Without a port, or with port 0, any free one is taken.

    Attributes:
        redirect_uri: The redirect URI with the port that is listened on.

    Raises:
        InvalidInputError: It is not `http` on 127.0.0.1 or [::1].
        LoginRefusedError: The port cannot be listened on.

    Source: RFC 8252 sections 7.3 and 8.3.
    """

    daemon_threads = True
    # Elsewhere it would let another process take the port over.
    allow_reuse_address = os.name == "posix"

    def __init__(self, redirect_uri: str) -> None:
        parts = _on_loopback(redirect_uri)
        address = str(parts.hostname)
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            super().__init__((address, parts.port or 0), _Handler)
        except OSError as error:
            raise LoginRefusedError(
                f"Port {parts.port or 0} of {address} cannot be listened on: "
                f"{error.strerror}. Nothing was sent.",
                "End what uses the port, or give a redirect URI with another one.",
            ) from None
        literal = f"[{address}]" if ":" in address else address
        port = self.server_address[1]
        self.hosts = {f"{literal}:{port}"} | ({literal} if port == 80 else set[str]())
        self.path = parts.path or "/"
        self.redirect_uri = urlunsplit(parts._replace(netloc=f"{literal}:{port}"))
        self._lock = threading.Lock()
        self._late: tuple[bytes, int] | None = None
        self._waiting: queue.SimpleQueue[Callback] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.02,), name="blink-oauth-login", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._late is None:
            self.close_to_others(ended_page("The login has ended."), 410)
        self.shutdown()
        self._thread.join()
        self.server_close()

    def wait(self, timeout: float) -> Callback | None:
        """Return the next callback, or None if none came.

        Args:
            timeout: Seconds to wait.
        """
        try:
            return self._waiting.get(timeout=timeout)
        except queue.Empty:
            return None

    def close_to_others(self, page: bytes, status: int) -> None:
        """Answer every other callback at once, from now on, with the same page."""
        with self._lock:
            self._late = (page, status)
            while not self._waiting.empty():
                self._waiting.get().settle(page, status)

    def take(self, callback: Callback) -> None:
        """Keep a callback for `wait`, or answer it at once where that is over."""
        with self._lock:
            if self._late is None:
                self._waiting.put(callback)
            else:
                callback.settle(*self._late)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a browser that hangs up is no news, and a traceback may hold a code."""


def _on_loopback(redirect_uri: str) -> SplitResult:
    """Split a redirect URI that can be listened on.

    Raises:
        InvalidInputError: It cannot.
    """
    try:
        parts = urlsplit(redirect_uri)
        port = parts.port
    except ValueError:
        port, parts = None, urlsplit("")
    address = {"127.0.0.1": "127.0.0.1", "::1": "[::1]"}.get(parts.hostname or "", "")
    plain = parts.netloc in {address, f"{address}:{port}"} and "#" not in redirect_uri
    if not (address and plain and parts.scheme == "http" and is_visible_ascii(redirect_uri)):
        raise InvalidInputError(
            "The redirect URI to listen on must be http://127.0.0.1 or http://[::1], with any port "
            "and path and without a fragment: nothing else is sure to reach this machine alone. "
            "For another one give the code with --code. Nothing was sent."
        )
    return parts


class _Handler(BaseHTTPRequestHandler):
    timeout = SILENCE
    server: Listener
    raw_requestline: bytes

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        hosts = self.headers.get_all("Host") or []
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:
            self.send_error(400)
        elif path != self.server.path:
            self.send_error(404)
        else:
            callback = Callback(query, self.headers.get("User-Agent") or "")
            self.server.take(callback)
            try:
                self._send(*callback.answer.result())
            finally:
                callback.sent.set()

    def parse_request(self) -> bool:
        if len(self.raw_requestline) > MAX_REQUEST_LINE:
            self.requestline, self.request_version, self.command = "", "HTTP/1.0", ""
            self.send_error(414)
            return False
        return super().parse_request()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what is not the callback; the messages of the base class quote the request."""
        status = 405 if code == 501 else code
        self._send(status, not_the_callback_page(status))

    def _send(self, status: int, page: bytes) -> None:
        self.send_response(status)
        for name, value in PAGE_HEADERS.items():
            self.send_header(name, value)
        if status == 405:
            self.send_header("Allow", "GET")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(page)
        self.wfile.flush()

    def finish(self) -> None:
        super().finish()
        # Hanging up on what was not read would take the page back from the browser.
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1.0)
            for _ in range(16):
                if not self.connection.recv(65_536):
                    break

    def version_string(self) -> str:
        return "blink-oauth"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name above
        """Log nothing: the request line holds the code."""
