"""Sockets on loopback that misbehave, or that stand in the way."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def listening(backlog: int = 16) -> Iterator[socket.socket]:
    """Open a port where connections are taken and nobody ever speaks."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as server:
        yield server


@contextlib.contextmanager
def full_queue() -> Iterator[socket.socket]:
    """Open a port whose queue of connections is full: a further one waits for ever."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(listening(backlog=0))
        # More than the queue holds: those that are left over fill whatever the kernel adds.
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        yield server


def url_of(server: socket.socket, scheme: str = "https") -> str:
    """Return the URL of a listening socket."""
    return f"{scheme}://127.0.0.1:{server.getsockname()[1]}"


@contextlib.contextmanager
def server_that(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve one connection in a way of its own, and give the URL."""
    with listening() as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                behave(connection)

        # A daemon: if the test fails before it connects, nobody waits for the connection.
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield url_of(server)
        thread.join()
