"""An HTTP proxy on loopback that supports CONNECT only (RFC 9110 section 9.3.6)."""

from __future__ import annotations

import contextlib
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator

ESTABLISHED = "200 Connection established"
STALL = "stall"
CLOSE = ""
"""What the proxy does with a CONNECT: open the tunnel, send nothing, or close the connection."""


class ConnectProxy(socketserver.ThreadingTCPServer):
    """Opens a tunnel for each CONNECT, or responds with an error.

    Attributes:
        heads: The head of each CONNECT request, oldest first.
    """

    daemon_threads = True

    def __init__(self, response: str, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.response = response
        self.context = context
        self.heads: list[bytes] = []
        self.sockets: list[socket.socket] = []

    def url(self, credentials: str = "") -> str:
        """Return the URL of the proxy; the credentials, if any, end with an `@`."""
        scheme = "http" if self.context is None else "https"
        return f"{scheme}://{credentials}127.0.0.1:{self.server_address[1]}"

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection; the handshake runs in its thread, at its first read."""
        connection, address = super().get_request()
        if self.context is not None:
            connection = self.context.wrap_socket(
                connection, server_side=True, do_handshake_on_connect=False
            )
        return connection, address

    def end_tunnels(self) -> None:
        """Shut down both connections of every tunnel."""
        while self.sockets:
            with contextlib.suppress(OSError):
                self.sockets.pop().shutdown(socket.SHUT_RDWR)


class _Tunnel(socketserver.StreamRequestHandler):
    server: ConnectProxy

    def handle(self) -> None:
        lines = list(iter(self.rfile.readline, b"\r\n"))
        self.server.heads.append(b"".join(lines))
        if self.server.response == STALL:
            self.server.sockets.append(self.connection)
            self.rfile.read()
            return
        if self.server.response:
            self.connection.sendall(f"HTTP/1.1 {self.server.response}\r\n\r\n".encode())
        if self.server.response != ESTABLISHED:
            return
        host, _, port = lines[0].split()[1].decode().partition(":")
        with socket.create_connection((host, int(port))) as upstream:
            self.server.sockets += [self.connection, upstream]
            if isinstance(self.connection, ssl.SSLSocket):
                forward_both_ways(self.connection, upstream)
                return
            back = threading.Thread(target=forward, args=(upstream, self.connection))
            back.start()
            forward(self.connection, upstream)
            back.join()


def forward(source: socket.socket, target: socket.socket) -> None:
    """Forward the bytes of one connection to another until it ends, then end the other one."""
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


def forward_both_ways(client: ssl.SSLSocket, server: socket.socket) -> None:
    """Forward the bytes of both connections in one thread, since a TLS object allows no more."""
    targets: dict[socket.socket, socket.socket] = {client: server, server: client}
    with contextlib.suppress(OSError):
        while True:
            for source in select.select(list(targets), [], [])[0]:
                data = source.recv(65_536)
                if not data:
                    return
                targets[source].sendall(data)


@contextlib.contextmanager
def running_proxy(
    response: str = ESTABLISHED, context: ssl.SSLContext | None = None
) -> Iterator[ConnectProxy]:
    """Run a proxy.

    Args:
        response: Status and reason of the response to each CONNECT, or `STALL` or `CLOSE`.
        context: The TLS context of an https proxy, or None for an http proxy.
    """
    with ConnectProxy(response, context) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.end_tunnels()
            proxy.shutdown()
            thread.join()
