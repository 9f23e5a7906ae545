"""A server on loopback that forwards every byte and counts the connections."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit

from wire.connect_proxy import forward


class Relay(socketserver.ThreadingTCPServer):
    """Forwards the connections of a client to the server of a URL on this machine.

    Attributes:
        opened: The number of connections that the client opened.
        open: The number of connections that the client has not closed yet.
    """

    request_queue_size = 64

    def __init__(self, url: str) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.url = url
        self.opened = 0
        self.ended: list[socket.socket] = []
        self._sockets: list[socket.socket] = []

    @property
    def open(self) -> int:
        return self.opened - len(self.ended)

    @property
    def base_url(self) -> str:
        """The URL for a client."""
        parts = urlsplit(self.url)
        return parts._replace(netloc=f"{parts.hostname}:{self.server_address[1]}").geturl()

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection and count it."""
        connection, address = super().get_request()
        self.opened += 1
        self._sockets.append(connection)
        return connection, address

    def end_connections(self) -> None:
        """Shut down every connection."""
        for connection in self._sockets:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Connection(socketserver.BaseRequestHandler):
    server: Relay

    def handle(self) -> None:
        with socket.create_connection(("127.0.0.1", urlsplit(self.server.url).port)) as upstream:
            back = threading.Thread(target=forward, args=(upstream, self.request))
            back.start()
            forward(self.request, upstream)
            self.server.ended.append(self.request)
            back.join()


@contextlib.contextmanager
def running_relay(url: str) -> Iterator[Relay]:
    """Run a relay to a URL."""
    with Relay(url) as relay:
        thread = threading.Thread(target=relay.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield relay
        finally:
            relay.shutdown()
            thread.join()
            relay.end_connections()
