"""A token endpoint on loopback that counts its connections and can delay its responses.

The refresh token of a request ends with the name of the request. The server responds at once,
unless a test holds the request of that name.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import parse_qs

from blink_oauth import Grant, Secret, Settings, Token
from wire.harness import wait_until

GRANT = Grant(target_id="IIDX00002", username="u-4711")
REFRESH_TOKEN, ACCESS_TOKEN = "fake-refresh-token-", "fake-access-token-"


def refresh_token_of(name: str) -> Secret:
    """Return the refresh token that names a request."""
    return Secret(REFRESH_TOKEN + name)


def name_of(token: Token) -> str:
    """Return the name of the request that returned a token."""
    return token.access_token.reveal().removeprefix(ACCESS_TOKEN)


class CountingServer(socketserver.ThreadingTCPServer):
    """Issues a different token for every request.

    Args:
        context: The TLS context, or None for plain HTTP.

    Attributes:
        opened: The number of connections that clients opened; they are numbered from 0.
        ended: The numbers of the connections that the client closed.
        requests: The name and the connection of each request, in the order of arrival.
        pieces: What is sent for requests of these names, each piece as a record of its own.
        ending: The names of the requests after which the server ends the connection.
        responded: The names of the requests whose response was sent.
    """

    request_queue_size = 64

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.context = context
        self.opened = 0
        self.ended: set[int] = set()
        self.requests: list[tuple[str, int]] = []
        self.held: dict[str, threading.Event] = {}
        self.pieces: dict[str, Sequence[bytes]] = {}
        self.ending: set[str] = set()
        self.responded: set[str] = set()
        self._sockets: list[socket.socket] = []

    def get_request(self) -> tuple[socket.socket, int]:
        """Accept a connection, and return its number in place of its address."""
        connection, _ = super().get_request()
        if self.context is not None:
            # The handshake runs in the thread of the connection, at its first read.
            connection = self.context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        self._sockets.append(connection)
        self.opened += 1
        return connection, self.opened - 1

    @property
    def base_url(self) -> str:
        """The URL for a client."""
        scheme = "http" if self.context is None else "https"
        return f"{scheme}://127.0.0.1:{self.server_address[1]}"

    @property
    def open(self) -> int:
        """The number of open connections."""
        return self.opened - len(self.ended)

    def settings(self, **changes: Any) -> Settings:
        """Return the settings of a client."""
        return Settings(
            base_url=self.base_url,
            client_id="CIDX0000000002",
            user_agent="acme-books/3.2",
            allow_plain_http=self.context is None,
            **changes,
        )

    def hold(self, *names: str) -> None:
        """Send no response to these requests until `respond` is called."""
        self.held |= {name: threading.Event() for name in names}

    def respond(self, *names: str) -> None:
        """Respond to requests that are held."""
        for name in names:
            self.held[name].set()

    def wait_for(self, *names: str) -> None:
        """Wait until these requests have arrived."""
        wait_until(lambda: set(names) <= {name for name, _ in self.requests})

    def connections_of(self, *names: str) -> list[int]:
        """Return the connection of each of these requests."""
        return [dict(self.requests)[name] for name in names]

    def end_connections(self) -> None:
        """Respond to every request, and shut down every connection."""
        self.respond(*self.held)
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Connection(socketserver.StreamRequestHandler):
    server: CountingServer
    disable_nagle_algorithm = True

    def handle(self) -> None:
        number: int = self.client_address
        with contextlib.suppress(OSError):
            while (name := self._read_request()) is not None:
                self.server.requests.append((name, number))
                if name in self.server.held:
                    self.server.held[name].wait()
                self._respond(name)
        self.server.ended.add(number)

    def _read_request(self) -> str | None:
        length = 0
        while line := self.rfile.readline().strip():
            field, _, value = line.partition(b":")
            if field.lower() == b"content-length":
                length = int(value)
        body = self.rfile.read(length)
        if not body or len(body) < length:
            return None
        return parse_qs(body.decode())["refresh_token"][0].removeprefix(REFRESH_TOKEN)

    def _respond(self, name: str) -> None:
        with one_segment(self.connection):
            for piece in self.server.pieces.get(name, [response_of(name)]):
                self.wfile.write(piece)
        if name in self.server.ending:
            self.connection.shutdown(socket.SHUT_RDWR)
        self.server.responded.add(name)


@contextlib.contextmanager
def one_segment(connection: socket.socket) -> Iterator[None]:
    """Send what is written in one segment, if the system can, so that it arrives at once."""
    cork = getattr(socket, "TCP_CORK", None)
    if cork is not None:
        connection.setsockopt(socket.IPPROTO_TCP, cork, 1)
    yield
    if cork is not None:
        connection.setsockopt(socket.IPPROTO_TCP, cork, 0)


def body_of(name: str, **members: object) -> bytes:
    """Return the body of the response to a request."""
    pair = {
        "access_token": ACCESS_TOKEN + name,
        "refresh_token": refresh_token_of(name).reveal(),
        "token_type": "bearer",
        "expires_in": 60,
    }
    return json.dumps(pair | members).encode()


FIELDS = ("Content-Type: application/json", "Cache-Control: no-store", "Pragma: no-cache")


def head_of(length: int, *lines: str) -> bytes:
    """Return the head of a response."""
    fields = [*FIELDS, f"Content-Length: {length}", *lines]
    return "\r\n".join(["HTTP/1.1 200 OK", *fields, "", ""]).encode()


def response_of(name: str, **members: object) -> bytes:
    """Return the complete response to a request."""
    body = body_of(name, **members)
    return head_of(len(body)) + body


@contextlib.contextmanager
def counting_server(context: ssl.SSLContext | None = None) -> Iterator[CountingServer]:
    """Run a server.

    Args:
        context: The TLS context, or None for plain HTTP.
    """
    with CountingServer(context) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
            server.end_connections()
