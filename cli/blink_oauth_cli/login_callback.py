"""A server on loopback that receives the bank's redirect from the browser (RFC 8252 section 7.3).

Its pages contain no code and no state; only the start page, which leads to the bank, has a state in
its `Location` header.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import ipaddress
import os
import queue
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from html import escape
from pathlib import Path
from socketserver import ThreadingTCPServer
from typing import Self
from urllib.parse import SplitResult, urlsplit, urlunsplit

from attrs import define, field, frozen

from blink_oauth.authorization import printable
from blink_oauth.context import Grant
from blink_oauth.errors import BlinkError, InvalidInputError, Outcome
from blink_oauth.headers import is_visible_ascii

from .http_handler import SOCKET_TIMEOUT, RequestHandler
from .login_messages import START_AGAIN, START_PAGE_TAKEN, LoginFailedError, Message

__all__ = ["Callback", "CallbackServer", "StartPage"]

NOT_LOGGED_IN = "Not logged in"
CLOSE = "You can close this window."

_SPENT: Mapping[Outcome, str] = {
    Outcome.NOT_EXECUTED: "The code is not spent, but it is valid for only 30 seconds.",
    Outcome.REJECTED: "The code was refused and is of no more use. No token was issued.",
    Outcome.UNCERTAIN: (
        "It is uncertain whether the code is spent: the bank may have issued a token that did not "
        "arrive. The code is not sent again."
    ),
}
_NOT_CALLBACK: Mapping[int, str] = {
    400: "The request does not name this address as its host, or cannot be read.",
    403: "This is the login of another user of this machine.",
    404: "This is not the address that the bank sends the browser back to.",
    405: "The bank's answer must come as a GET request.",
    414: "The request is too long.",
}


def succeeded_page(grant: Grant) -> bytes:
    """Return the page of a login that succeeded."""
    customer = f"User {grant.username} at {grant.target_id}"
    return _page("Logged in", f"{customer}: the token is stored.", CLOSE)


def failed_callback_page(message: Message) -> bytes:
    """Return the page of a request that ended the login without a code."""
    return _page(NOT_LOGGED_IN, message.what, message.do)


def unmatched_page(message: Message) -> bytes:
    """Return the page of a callback that does not belong to this login."""
    return _page("Not the answer to this login", message.what, message.do)


def expired_start_page() -> bytes:
    """Return the page of a browser that opened the start page too late."""
    what = "This address was valid for a moment only, and the login goes on waiting."
    return _page("Too late", what, "Open the page that the terminal shows.")


def failed_exchange_page(error: BlinkError) -> bytes:
    """Return the page that says why the exchange failed, and whether the code is spent."""
    lines = [printable(str(error), 500), _SPENT[error.outcome], START_AGAIN]
    if error.correlation_id:
        lines.append(f"Correlation id: {error.correlation_id}")
    return _page(NOT_LOGGED_IN, *lines)


def ended_page(what: str) -> bytes:
    """Return the page of a login that ended before its result was known."""
    return _page(NOT_LOGGED_IN, what, "Look at the terminal, then start the login again.")


def already_used_page() -> bytes:
    """Return the page of a second callback, which has no effect."""
    return _page(
        "Already used",
        "This login has had its answer already. The code was not sent a second time.",
        "The first page and the terminal show the result.",
    )


def not_the_callback_page(status: int) -> bytes:
    """Return the page of a request that is not the callback; the login goes on."""
    what = _NOT_CALLBACK.get(status, _NOT_CALLBACK[400])
    return _page("Not the bank's answer", what, "The login goes on waiting.")


# The browser's own colours are legible in light and in dark mode.
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
    # The URL of a page contains the code, or is that of the start page.
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def _page(title: str, *lines: str) -> bytes:
    content = "\n".join(f"<p>{escape(line)}</p>" for line in lines)
    return _PAGE.format(title=escape(title), style=_STYLE, content=content).encode()


"""Seconds to wait for data of a connection, and for a page to be sent."""


@define(eq=False)
class Callback:
    """A request to the redirect URI; its response waits for `respond`.

    Attributes:
        query: The query as it was received. It may contain a code.
        user_agent: The `User-Agent` header; empty without one.
        has_cookie: Whether the browser sent the cookie of the start page.
        response: The status and the page.
        sent: Set when the page has been sent, or cannot be.
    """

    query: str = field(repr=False)
    user_agent: str
    has_cookie: bool = False
    response: Future[tuple[int, bytes]] = field(init=False, factory=Future, repr=False)
    sent: threading.Event = field(init=False, factory=threading.Event, repr=False)

    def respond(self, page: bytes, status: int = 200) -> None:
        """Send a page to the browser and wait until it is sent; further calls have no effect."""
        self.set_response(page, status)
        self.sent.wait(SOCKET_TIMEOUT)

    def set_response(self, page: bytes, status: int) -> None:
        """Set the response without waiting until it is sent."""
        with contextlib.suppress(InvalidStateError):
            self.response.set_result((status, page))


@define(eq=False)
class StartPage:
    """The page that the command opens in the browser: it sets a cookie and leads on to the bank.

    Its address is on the browser's command line, where every user of the machine can read it. So it
    serves one browser only, and only for a while. No other program learns the state that the
    bank's URL contains, or has the cookie that the callback needs.

    Attributes:
        path: The path; it cannot be guessed.
        cookie: Name and value of the cookie.
        location: The URL of the bank's page.
        max_age: How long the browser keeps the cookie, in seconds.
        is_open: Returns whether a browser may still open the page for the first time.
        was_visited: Whether a browser has opened the page.
        was_taken: Whether a second browser asked for the page.
    """

    path: str = field(repr=False)
    cookie: str = field(repr=False)
    location: str = field(repr=False)
    max_age: int
    is_open: Callable[[], bool]
    was_visited: bool = field(init=False, default=False)
    was_taken: bool = field(init=False, default=False)

    def visit(self, cookies: Sequence[str]) -> Response:
        """Return the response to a browser.

        Args:
            cookies: The values of the browser's `Cookie` headers.
        """
        onward = {"Location": self.location}
        if self.was_visited and self.has_cookie(cookies):
            return Response(303, b"", onward)
        if self.was_visited:
            self.was_taken = True
            return Response(403, failed_callback_page(START_PAGE_TAKEN))
        if not self.is_open():
            return Response(410, expired_start_page())
        self.was_visited = True
        attributes = f"Path=/; Max-Age={self.max_age}; HttpOnly; SameSite=Lax"
        return Response(303, b"", onward | {"Set-Cookie": f"{self.cookie}; {attributes}"})

    def has_cookie(self, cookies: Sequence[str]) -> bool:
        """Return whether the values of `Cookie` headers contain the cookie."""
        own = self.cookie.encode()
        pairs = [pair.strip().encode() for header in cookies for pair in header.split(";")]
        return any(hmac.compare_digest(pair, own) for pair in pairs)


@frozen
class Response:
    """A response to the browser.

    Attributes:
        status: The status.
        page: The page.
        headers: Further headers. They may contain the state.
    """

    status: int
    page: bytes
    headers: Mapping[str, str] = field(factory=dict, repr=False)


Address = tuple[str, int] | tuple[str, int, int, int]
"""The address of one end of a connection, as `socket` has it."""
TABLES = ("/proc/net/tcp", "/proc/net/tcp6")


def is_of_another_user(connection: socket.socket) -> bool:
    """Return whether a process of another user, who is not root, has the other end.

    Only Linux tells it, of connections on the same machine.

    Args:
        connection: This end of the connection.
    """
    client, server = connection.getpeername(), connection.getsockname()
    for table in TABLES:
        with contextlib.suppress(OSError):
            if owner := socket_owner(Path(table).read_text("ascii"), client, server):
                return owner != os.getuid()
    return False


def socket_owner(table: str, local: Address, remote: Address) -> int | None:
    """Return the id of the user of a socket in a table of Linux, or None.

    Args:
        table: The text of `/proc/net/tcp` or `/proc/net/tcp6`.
        local: The address of the socket's own end.
        remote: The address of the other end.
    """
    wanted = [list(each) for each in zip(_in_table(local), _in_table(remote), strict=True)]
    for row in map(str.split, table.splitlines()[1:]):
        if row[1:3] in wanted:
            return int(row[7])
    return None


def _in_table(address: Address) -> Sequence[str]:
    """Return how the tables write an address; that of IPv4 also as mapped to IPv6."""
    given = ipaddress.ip_address(address[0])
    hosts = (given, ipaddress.ip_address(f"::ffff:{given}")) if given.version == 4 else (given,)
    words = [
        [
            int.from_bytes(host.packed[at : at + 4], sys.byteorder)
            for at in range(0, len(host.packed), 4)
        ]
        for host in hosts
    ]
    return ["".join(f"{word:08X}" for word in each) + f":{address[1]:04X}" for each in words]


class CallbackServer(ThreadingTCPServer):
    """A context manager that serves a loopback redirect URI in a thread of its own.

    A request with another path, method or `Host` header is not a callback: it is refused
    immediately and changes nothing. The `Host` check defeats DNS rebinding. This class is not an
    `HTTPServer`, which would look up its own name in the DNS.

    Args:
        redirect_uri: The URI to listen on. Without a port, or with port 0, any free one is used.

    Attributes:
        redirect_uri: The redirect URI with the actual port.

    Raises:
        InvalidInputError: The URI is not `http` on 127.0.0.1 or [::1].
        LoginFailedError: The port cannot be used.

    Source: RFC 8252 sections 7.3 and 8.3.
    """

    daemon_threads = True
    # On Windows, the option would let another process use the same port.
    allow_reuse_address = os.name == "posix"

    def __init__(self, redirect_uri: str) -> None:
        parts = _split_loopback_uri(redirect_uri)
        address = str(parts.hostname)
        self.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
        try:
            super().__init__((address, parts.port or 0), _Handler)
        except OSError as error:
            raise LoginFailedError(
                f"Port {parts.port or 0} of {address} cannot be listened on: "
                f"{error.strerror}. Nothing was sent.",
                "End what uses the port, or give a redirect URI with another one.",
            ) from None
        literal = f"[{address}]" if ":" in address else address
        port = self.server_address[1]
        self.hosts = {f"{literal}:{port}"} | ({literal} if port == 80 else set[str]())
        self.path = parts.path or "/"
        self.redirect_uri = urlunsplit(parts._replace(netloc=f"{literal}:{port}"))
        self._start_page: StartPage | None = None
        self._lock = threading.Lock()
        self._final_response: tuple[bytes, int] | None = None
        self._callbacks: queue.SimpleQueue[Callback] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self.serve_forever, args=(0.02,), name="blink-oauth-login", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._final_response is None:
            self.stop_accepting(ended_page("The login has ended."), 410)
        self.shutdown()
        self._thread.join()
        self.server_close()

    def add_start_page(
        self,
        location: str,
        *,
        max_age: int,
        is_open: Callable[[], bool],
        random: Callable[[int], bytes] = os.urandom,
    ) -> str:
        """Serve a start page, and return its URL.

        It has the host of the redirect URI, so that the browser sends the cookie back. Cookies
        ignore ports; so the cookie's name has the port, for several logins at once.

        Args:
            location: The URL of the bank's page.
            max_age: How long the browser keeps the cookie, in seconds.
            is_open: Returns whether a browser may still open the page for the first time.
            random: Returns the given number of random bytes.
        """
        path, value = (base64.urlsafe_b64encode(random(33)).decode() for _ in range(2))
        cookie = f"blink-oauth-{self.server_address[1]}={value}"
        self._start_page = StartPage(f"/start/{path}", cookie, location, max_age, is_open)
        parts = urlsplit(self.redirect_uri)
        return urlunsplit(parts._replace(path=self._start_page.path, query=""))

    @property
    def start_page_was_taken(self) -> bool:
        """Whether a second browser asked for the start page."""
        return self._start_page is not None and self._start_page.was_taken

    def visit_start_page(
        self, path: str, cookies: Sequence[str], connection: socket.socket
    ) -> Response | None:
        """Return the response to a request for the start page, or None if the path is another."""
        start = self._start_page
        if start is None or not hmac.compare_digest(path.encode(), start.path.encode()):
            return None
        if is_of_another_user(connection):
            return Response(403, not_the_callback_page(403))
        with self._lock:
            if self._final_response is not None:
                page, status = self._final_response
                return Response(status, page)
            return start.visit(cookies)

    def has_cookie(self, cookies: Sequence[str]) -> bool:
        """Return whether the values of `Cookie` headers contain the cookie of the start page."""
        return self._start_page is not None and self._start_page.has_cookie(cookies)

    def wait(self, timeout: float) -> Callback | None:
        """Return the next callback, or None if none was received in time.

        Args:
            timeout: Seconds to wait.
        """
        try:
            return self._callbacks.get(timeout=timeout)
        except queue.Empty:
            return None

    def stop_accepting(self, page: bytes, status: int) -> None:
        """Respond to every callback that is queued or received from now on with this page."""
        with self._lock:
            self._final_response = (page, status)
            while not self._callbacks.empty():
                self._callbacks.get().set_response(page, status)

    def accept(self, callback: Callback) -> None:
        """Queue a callback for `wait`, or respond immediately after `stop_accepting`."""
        with self._lock:
            if self._final_response is None:
                self._callbacks.put(callback)
            else:
                callback.set_response(*self._final_response)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a closed connection is no error, and a traceback may contain a code."""


def _split_loopback_uri(redirect_uri: str) -> SplitResult:
    """Return the parts of a loopback redirect URI.

    Raises:
        InvalidInputError: The URI is not `http` on 127.0.0.1 or [::1].
    """
    try:
        parts = urlsplit(redirect_uri)
        port = parts.port
    except ValueError:
        port, parts = None, urlsplit("")
    address = {"127.0.0.1": "127.0.0.1", "::1": "[::1]"}.get(parts.hostname or "", "")
    is_plain = parts.netloc in {address, f"{address}:{port}"} and "#" not in redirect_uri
    if not (address and is_plain and parts.scheme == "http" and is_visible_ascii(redirect_uri)):
        raise InvalidInputError(
            "The redirect URI to listen on must be http://127.0.0.1 or http://[::1], with any port "
            "and path and without a fragment: nothing else is sure to reach this machine alone. "
            "For another one give the code with --code. Nothing was sent."
        )
    return parts


class _Handler(RequestHandler):
    server: CallbackServer
    max_request_line = 8_192
    methods = "GET"

    def do_GET(self) -> None:  # noqa: N802 - named by the base class
        path, _, query = self.path.partition("?")
        hosts = self.headers.get_all("Host") or []
        cookies = self.headers.get_all("Cookie") or []
        if len(hosts) != 1 or hosts[0].lower() not in self.server.hosts:
            self.send_error(400)
        elif response := self.server.visit_start_page(path, cookies, self.connection):
            self._send(response.status, response.page, response.headers)
        elif path != self.server.path:
            self.send_error(404)
        else:
            user_agent = self.headers.get("User-Agent") or ""
            callback = Callback(query, user_agent, self.server.has_cookie(cookies))
            self.server.accept(callback)
            try:
                self._send(*callback.response.result())
            finally:
                callback.sent.set()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Respond to a request that is no callback; the base class would quote the request."""
        status = 405 if code == 501 else code
        self._send(status, not_the_callback_page(status))

    def _send(self, status: int, page: bytes, headers: Mapping[str, str] | None = None) -> None:
        self.respond(status, page, {**PAGE_HEADERS, **(headers or {})})

    def finish(self) -> None:
        super().finish()
        # Closing a socket with unread data resets the connection, and the browser loses the page.
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            self.connection.settimeout(1.0)
            for _ in range(16):
                if not self.connection.recv(65_536):
                    break
