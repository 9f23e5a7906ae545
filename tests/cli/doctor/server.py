"""A server on loopback that requests a client certificate but does not require one."""

from __future__ import annotations

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from attrs import field, frozen

from blink_oauth_testing.sandbox import CertificateAuthority

CORRELATION_ID = "X-Correlation-ID"


@frozen
class ServerBehaviour:
    """The responses of the server.

    Attributes:
        get_status: Returns the status of a GET, given whether there was a client certificate.
        status: The status of a POST.
        source: The `X-CorAPI-Source` header of the response to a POST; None to send neither it nor
            the other headers of the contract.
        body: The body of the response to a POST.
        content_type: The media type of that body.
        date: Whether the server sends a `Date` header.
    """

    get_status: Callable[[bool], int] = lambda certified: 405
    status: int = 200
    source: str | None = None
    body: bytes = b""
    content_type: str = "application/problem+json"
    date: bool = True


class _Server(ThreadingHTTPServer):
    behaviour: ServerBehaviour

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing if a client closed the connection."""


@frozen
class _Response:
    status: int
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        certified = isinstance(self.connection, ssl.SSLSocket) and self.connection.getpeercert()
        self._send(_Response(self.server.behaviour.get_status(bool(certified))))

    def do_POST(self) -> None:
        behaviour = self.server.behaviour
        self.rfile.read(int(self.headers["Content-Length"]))
        headers = {"Content-Type": behaviour.content_type}
        if behaviour.source is not None:
            headers["X-CorAPI-Source"] = behaviour.source
            headers[CORRELATION_ID] = self.headers[CORRELATION_ID]
            headers |= {"Cache-Control": "no-store", "Pragma": "no-cache"}
        self._send(_Response(behaviour.status, headers, behaviour.body))

    def _send(self, response: _Response) -> None:
        self.send_response_only(response.status)
        if self.server.behaviour.date:
            self.send_header("Date", self.date_time_string())
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(response.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(response.body)


@contextlib.contextmanager
def optional_mtls_server(
    authority: CertificateAuthority,
    folder: Path,
    behaviour: ServerBehaviour,
    *,
    secure: bool = True,
) -> Iterator[str]:
    """Run the server on loopback, and yield its URL.

    Args:
        authority: Issues the server's certificate, and verifies the client's.
        folder: The folder for the server's files.
        behaviour: The responses of the server.
        secure: Whether the server uses TLS.
    """
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.behaviour = behaviour
        if secure:
            context = _context(authority, folder)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http{'s' if secure else ''}://localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def _context(authority: CertificateAuthority, folder: Path) -> ssl.SSLContext:
    credentials = authority.issue_server()
    saved = credentials.save(folder, "lenient-server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(saved.chain, saved.key, credentials.passphrase)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.load_verify_locations(cadata=authority.root_pem.decode())
    return context
