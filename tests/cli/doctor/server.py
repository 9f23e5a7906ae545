"""A server on loopback that asks for a client certificate, and does not insist on one."""

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
class Manners:
    """How the server answers.

    Attributes:
        looked_at: The status of a GET, by whether there was a client certificate.
        status: The status of a POST.
        source: Who is said to have answered a POST; None for nobody.
        body: The body of the answer to a POST.
        content_type: Its media type.
        date: Whether the server tells its time.
    """

    looked_at: Callable[[bool], int] = lambda certified: 405
    status: int = 200
    source: str | None = None
    body: bytes = b""
    content_type: str = "application/problem+json"
    date: bool = True


class _Server(ThreadingHTTPServer):
    manners: Manners

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that hung up."""


@frozen
class _Answer:
    status: int
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes = b""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        certified = isinstance(self.connection, ssl.SSLSocket) and self.connection.getpeercert()
        self._send(_Answer(self.server.manners.looked_at(bool(certified))))

    def do_POST(self) -> None:
        manners = self.server.manners
        self.rfile.read(int(self.headers["Content-Length"]))
        headers = {"Content-Type": manners.content_type}
        if manners.source is not None:
            headers["X-CorAPI-Source"] = manners.source
            headers[CORRELATION_ID] = self.headers[CORRELATION_ID]
        self._send(_Answer(manners.status, headers, manners.body))

    def _send(self, answer: _Answer) -> None:
        self.send_response_only(answer.status)
        if self.server.manners.date:
            self.send_header("Date", self.date_time_string())
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(answer.body)


@contextlib.contextmanager
def lenient_server(
    authority: CertificateAuthority, folder: Path, manners: Manners, *, secure: bool = True
) -> Iterator[str]:
    """Serve on loopback, and give the URL.

    Args:
        authority: Who issues the certificates of both sides.
        folder: Where the server's files are written.
        manners: How it answers.
        secure: Whether it speaks TLS.
    """
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.manners = manners
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
