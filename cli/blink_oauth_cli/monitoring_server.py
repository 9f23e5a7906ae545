"""A small HTTP server for programs that watch a job: a few pages, by GET and HEAD only.

It has neither a password nor TLS, so it listens on loopback unless told otherwise.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
import threading
from collections.abc import Callable, Collection, Mapping
from socketserver import ThreadingTCPServer
from typing import Self

from attrs import frozen

from .errors import CommandError, ExitCode
from .http_handler import RequestHandler

__all__ = ["Address", "MonitoringServer", "Page"]

TEXT = "text/plain; charset=utf-8"
ADDRESS = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9a-zA-Z.-]+)):([0-9]{1,5})", re.ASCII)
HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9a-zA-Z._-]+))(?::[0-9]{1,5})?", re.ASCII)
MAX_CONNECTIONS = 8
"""Connections at once. A scrape takes milliseconds, so the oldest of more is one that hangs."""
PAGE_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
POLL_INTERVAL = 0.1
"""Seconds after which the thread of the server looks whether to end."""


@frozen
class Address:
    """An address of this machine to listen on.

    Attributes:
        host: An IP address.
        port: The port; 0 for any free one.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse an address such as `127.0.0.1:9464`, `localhost:9464` or `[::1]:9464`.

        Raises:
            ValueError: The text is no address.
        """
        match = ADDRESS.fullmatch(text.strip())
        host = "" if match is None else match[1] or match[2]
        try:
            ip = ipaddress.ip_address("127.0.0.1" if host.lower() == "localhost" else host)
        except ValueError:
            ip = None
        if match is None or ip is None or int(match[3]) > 65_535:
            raise ValueError("write an IP address and a port: 127.0.0.1:9464 or [::1]:9464")
        return cls(str(ip), int(match[3]))

    @property
    def is_loopback(self) -> bool:
        """Whether no other machine reaches it."""
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@frozen
class Page:
    """A response.

    Attributes:
        body: The body.
        status: The HTTP status.
        content_type: The media type.
    """

    body: bytes
    status: int = 200
    content_type: str = TEXT


class MonitoringServer(ThreadingTCPServer):
    """A context manager that serves pages in threads of its own.

    A request must name this server as its `Host`, or it is refused: a web site whose name leads to
    this address (DNS rebinding) must not read the pages from a browser. An IP address is no such
    name; on loopback it must be one of loopback. This class is not an `HTTPServer`, which would
    look up its own name in the DNS.

    Args:
        address: The address to listen on.
        pages: What makes the page of each path; called by several threads.
        names: Further host names that a request may have, in lower case.

    Attributes:
        address: The address with the actual port.

    Raises:
        CommandError: The address cannot be listened on.
    """

    daemon_threads = True
    # On Windows, the option would let another process use the same port.
    allow_reuse_address = os.name == "posix"
    request_queue_size = MAX_CONNECTIONS

    def __init__(
        self,
        address: Address,
        pages: Mapping[str, Callable[[], Page]],
        names: Collection[str] = (),
    ) -> None:
        self.address_family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        try:
            super().__init__((address.host, address.port), _Handler)
        except OSError as error:
            raise CommandError(
                f"{address} cannot be listened on: {error.strerror}. Nothing was sent.",
                "End what uses the port, or give another one with --listen.",
                ExitCode.USAGE,
            ) from None
        self.address = Address(address.host, self.server_address[1])
        self.pages = pages
        self._names = {"localhost", *names}
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, None] = {}
        self._thread = threading.Thread(
            target=self.serve_forever, args=(POLL_INTERVAL,), name="blink-oauth-http", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def accepts(self, host: str) -> bool:
        """Return whether a request with this `Host` is meant for this server."""
        match = HOST.fullmatch(host)
        if match is None:
            return False
        name = (match[1] or match[2]).lower()
        try:
            ip = ipaddress.ip_address(name)
        except ValueError:
            return name in self._names
        return ip.is_loopback or not self.address.is_loopback

    def process_request(self, request: object, client_address: object) -> None:
        """Serve a connection in a thread; if there are too many, the oldest one ends."""
        assert isinstance(request, socket.socket)
        with self._lock:
            oldest = next(iter(self._connections), None)
            if oldest is not None and len(self._connections) >= MAX_CONNECTIONS:
                del self._connections[oldest]
                # Its thread then finds the end of the request, and closes it.
                with contextlib.suppress(OSError):
                    oldest.shutdown(socket.SHUT_RDWR)
            self._connections[request] = None
        super().process_request(request, client_address)

    def shutdown_request(self, request: object) -> None:
        """Close a connection, and forget it."""
        assert isinstance(request, socket.socket)
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing: a closed connection is no error of this job."""


class _Handler(RequestHandler):
    server: MonitoringServer
    max_request_line = 2_048
    methods = "GET, HEAD"

    def do_GET(self) -> None:  # noqa: N802 - named by the base class
        hosts = self.headers.get_all("Host") or []
        make = self.server.pages.get(self.path.partition("?")[0])
        if len(hosts) != 1 or not self.server.accepts(hosts[0]):
            self.send_error(400)
        elif make is None:
            self.send_error(404)
        else:
            self._send(make())

    def do_HEAD(self) -> None:  # noqa: N802 - named by the base class
        self.do_GET()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Refuse a request; the base class would quote it."""
        status = 405 if code == 501 else code
        self._send(Page(f"{status}\n".encode(), status))

    def _send(self, page: Page) -> None:
        headers = {"Content-Type": page.content_type, **PAGE_HEADERS}
        self.respond(page.status, page.body, headers)
