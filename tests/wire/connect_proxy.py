"""An HTTP proxy on loopback that does nothing but CONNECT (RFC 9110 section 9.3.6)."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
from collections.abc import Iterator

ESTABLISHED = "200 Connection established"
SILENCE = "says nothing"
GONE = ""


class ConnectProxy(socketserver.ThreadingTCPServer):
    """Opens tunnels, or refuses to.

    Attributes:
        heads: The head of each request, oldest first: one for each tunnel.
    """

    daemon_threads = True

    def __init__(self, answer: str) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.answer = answer
        self.heads: list[bytes] = []
        self.ends: list[socket.socket] = []

    def url(self, user: str = "") -> str:
        """Return the URL of the proxy, with credentials if there are any."""
        return f"http://{user}127.0.0.1:{self.server_address[1]}"

    def drop(self) -> None:
        """End every tunnel."""
        while self.ends:
            with contextlib.suppress(OSError):
                self.ends.pop().shutdown(socket.SHUT_RDWR)


class _Tunnel(socketserver.StreamRequestHandler):
    server: ConnectProxy

    def handle(self) -> None:
        lines = list(iter(self.rfile.readline, b"\r\n"))
        self.server.heads.append(b"".join(lines))
        if self.server.answer == SILENCE:
            self.server.ends.append(self.connection)
            self.rfile.read()
            return
        if self.server.answer:
            self.connection.sendall(f"HTTP/1.1 {self.server.answer}\r\n\r\n".encode())
        if self.server.answer != ESTABLISHED:
            return
        host, _, port = lines[0].split()[1].decode().partition(":")
        with socket.create_connection((host, int(port))) as upstream:
            self.server.ends += [self.connection, upstream]
            back = threading.Thread(target=pipe, args=(upstream, self.connection))
            back.start()
            pipe(self.connection, upstream)
            back.join()


def pipe(source: socket.socket, target: socket.socket) -> None:
    """Pass on what one side sends until it ends, and then end the other one's waiting."""
    with contextlib.suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def proxying(answer: str = ESTABLISHED) -> Iterator[ConnectProxy]:
    """Run a proxy.

    Args:
        answer: Status and reason with which it answers each CONNECT; it can also stay silent, or
            hang up.
    """
    with ConnectProxy(answer) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            proxy.drop()
            proxy.shutdown()
            thread.join()
