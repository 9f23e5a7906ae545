"""An HTTP relay on loopback that records what passes, and can change it.

Prism speaks no mutual TLS: a relay behind it carries its requests to the sandbox with the client
certificate. A relay before it records what the client sends and receives.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from socketserver import ThreadingTCPServer
from typing import Any

import httpx
from attrs import define, evolve, field, frozen

# Each connection has its own; httpx has already decoded the body.
OF_ONE_CONNECTION = frozenset(
    {"connection", "content-encoding", "content-length", "date", "host", "keep-alive", "server"}
    | {"transfer-encoding"}
)


@frozen
class Message:
    """A request, whose status is 0, or a response. Its text may have secrets: it is not printed."""

    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    status: int = 0

    def header(self, name: str) -> str:
        """Return the first header with this name, ignoring case, or an empty text."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), "")

    def without(self, name: str) -> Message:
        """Return a copy without a header."""
        return evolve(self, headers=tuple(h for h in self.headers if h[0].lower() != name.lower()))

    def having(self, name: str, value: str) -> Message:
        """Return a copy with a header, which replaces each other one of its name."""
        return evolve(self, headers=(*self.without(name).headers, (name, value)))


@frozen
class Exchange:
    """A request as the relay received it, and the response as it sent it back."""

    path: str
    request: Message
    response: Message


Change = Callable[[Message], Message]


def unchanged(message: Message) -> Message:
    """Return the message itself."""
    return message


@define
class Relay:
    """Passes requests to a server. Calls are made one at a time.

    Attributes:
        upstream: The HTTP client that reaches the server.
        change_request: Changes each request.
        change_response: Changes each response.
        exchanges: What passed, oldest first.
    """

    upstream: httpx.Client
    change_request: Change = unchanged
    change_response: Change = unchanged
    exchanges: list[Exchange] = field(factory=list)

    def pass_on(self, method: str, path: str, received: Message) -> Message:
        """Send a request to the server, and return the response for the client."""
        sent = self.change_request(received)
        headers = list(sent.headers)
        request = self.upstream.build_request(method, path, headers=headers, content=sent.body)
        for name in ("Accept", "Accept-Encoding", "User-Agent"):
            if not sent.header(name):
                del request.headers[name]  # httpx would add its own
        reply = self.upstream.send(request)
        response = Message(tuple(reply.headers.multi_items()), reply.content, reply.status_code)
        response = self.change_response(response)
        self.exchanges.append(Exchange(path, received, response))
        return response


@contextmanager
def serving(relay: Relay) -> Iterator[str]:
    """Serve a relay on a free port of 127.0.0.1 until the block ends; its URL is the value."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # it would delay each response by 40 ms

        def do_POST(self) -> None:
            # One side may be gone, for example after Ctrl-C: then there is no response.
            with suppress(OSError, httpx.HTTPError):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = [h for h in self.headers.items() if h[0].lower() not in OF_ONE_CONNECTION]
                received = Message(tuple(headers), body)
                self._send(relay.pass_on(self.command, self.path, received))
                return
            self.close_connection = True

        def _send(self, response: Message) -> None:
            self.send_response_only(response.status)
            for name, value in response.headers:
                if name.lower() not in OF_ONE_CONNECTION:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(response.body)))
            self.end_headers()
            self.wfile.write(response.body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Log nothing."""

    # An HTTPServer would ask the name server for the name of its address.
    with ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()
