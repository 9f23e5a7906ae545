"""A server on loopback that is a proxy and the platform, for tests with real sockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from attrs import Factory, define


@define
class Loopback:
    """The response that the server sends, and the requests that it received.

    Attributes:
        port: Its port.
        status: The status of each response.
        body: The body of each response, encoded as JSON.
        authorizations: The `Proxy-Authorization` of each request.
        bodies: The body of each POST request.
    """

    port: int
    status: int = 200
    body: object = None
    authorizations: list[str | None] = Factory(list)
    bodies: list[str] = Factory(list)


@contextmanager
def listening() -> Iterator[Loopback]:
    """Serve on a free port until the end of the block."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers["Content-Length"])
            loopback.bodies.append(self.rfile.read(length).decode("ascii"))
            self.respond(loopback.status, json.dumps(loopback.body).encode())

        def do_CONNECT(self) -> None:
            self.respond(407, b"")

        def respond(self, status: int, body: bytes) -> None:
            loopback.authorizations.append(self.headers["Proxy-Authorization"])
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("X-CorAPI-Source", "PROVIDER")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Log nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        loopback = Loopback(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield loopback
        finally:
            server.shutdown()
            thread.join()
