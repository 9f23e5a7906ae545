"""A server on loopback that is proxy and platform in one, for tests that need real sockets."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from attrs import Factory, define


@define
class Loopback:
    """What the server answers, and what it saw.

    Attributes:
        port: Where it listens.
        status: The status of its answers.
        body: Their body, written as JSON.
        authorizations: The `Proxy-Authorization` of each request.
        bodies: The body of each request.
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
            self.answer(loopback.status, json.dumps(loopback.body).encode())

        def do_CONNECT(self) -> None:
            self.answer(407, b"")

        def answer(self, status: int, body: bytes) -> None:
            loopback.authorizations.append(self.headers["Proxy-Authorization"])
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("X-CorAPI-Source", "PROVIDER")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        loopback = Loopback(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield loopback
        finally:
            server.shutdown()
            thread.join()
