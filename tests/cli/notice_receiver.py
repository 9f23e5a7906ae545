"""A receiver of notices on loopback, for tests: it checks the signature of each request."""

from __future__ import annotations

import base64
import hmac
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from attrs import define, field, frozen

SECRET = f"whsec_{base64.b64encode(b'fake-webhook-secret-no-1').decode()}"
OTHER_SECRET = f"whsec_{base64.b64encode(b'fake-webhook-secret-no-2').decode()}"


@frozen
class Received:
    """A request that the receiver got.

    Attributes:
        id: The id of the notice.
        content: The body, parsed as JSON.
        signed_by: The known secrets whose signature the request has.
    """

    id: str
    content: Any
    signed_by: tuple[str, ...]

    @property
    def kind(self) -> str:
        """The kind of the notice."""
        return str(self.content["type"])


@define
class NoticeReceiver:
    """A receiver, and what it got.

    Attributes:
        url: Its URL.
        status: The status of its responses.
        requests: The requests so far.
        react: Called for each request, before the response.
    """

    url: str = ""
    status: int = 204
    requests: list[Received] = field(factory=list)
    react: Callable[[], None] = lambda: None

    def receive(self, headers: Any, body: bytes) -> None:
        """Note a request."""
        name, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
        signed = f"{name}.{timestamp}.".encode() + body
        given = headers["webhook-signature"].split(" ")
        signed_by = tuple(
            secret
            for secret in (SECRET, OTHER_SECRET)
            if f"v1,{_signature(secret, signed)}" in given
        )
        assert len(signed_by) == len(given)
        self.requests.append(Received(name, json.loads(body), signed_by))


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix("whsec_"))
    return base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


@contextmanager
def notice_receiver(context: ssl.SSLContext | None = None) -> Iterator[NoticeReceiver]:
    """Run a receiver, with TLS if it has a context."""
    receiver = NoticeReceiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            receiver.receive(self.headers, body)
            receiver.react()
            self.send_response(receiver.status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        if context is not None:
            server.socket = context.wrap_socket(
                server.socket, server_side=True, do_handshake_on_connect=False
            )
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        scheme = "http" if context is None else "https"
        receiver.url = f"{scheme}://127.0.0.1:{server.server_port}/fake-path-4711"
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
