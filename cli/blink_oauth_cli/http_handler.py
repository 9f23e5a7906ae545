"""What the two small HTTP servers of the command share: how they read a request and respond."""

from __future__ import annotations

from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler

__all__ = ["SOCKET_TIMEOUT", "RequestHandler"]

SOCKET_TIMEOUT = 5.0
"""Seconds to wait for data of a connection, and for a page to be sent."""


class RequestHandler(BaseHTTPRequestHandler):
    """Handles one request of a connection, and logs nothing of it.

    Attributes:
        max_request_line: The most bytes of the first line of a request.
        methods: The methods that are allowed, for the header `Allow`.
    """

    timeout = SOCKET_TIMEOUT
    raw_requestline: bytes
    max_request_line: int
    methods: str

    def parse_request(self) -> bool:
        """Read the request, and refuse one that is too long or names no host."""
        if len(self.raw_requestline) > self.max_request_line:
            self.requestline, self.request_version, self.command = "", "HTTP/1.0", ""
            self.send_error(414)
            return False
        if not super().parse_request():
            return False
        if self.request_version == self.default_request_version:
            # A request of HTTP/0.9 has no headers, so it names no host.
            self.send_error(400)
            return False
        return True

    def respond(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send a response, whose body a HEAD request does not get.

        Args:
            status: Its status.
            body: Its body.
            headers: Its headers, without those about the connection.
        """
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status == 405:
            self.send_header("Allow", self.methods)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        self.wfile.flush()

    def version_string(self) -> str:
        """Return the header `Server`."""
        return "blink-oauth"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - named by the base class
        """Log nothing: a callback contains the code, and a probe asks every few seconds."""
