"""Servers on loopback that misbehave."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def listening(backlog: int = 16) -> Iterator[socket.socket]:
    """Open a port that accepts connections and never sends a byte."""
    with socket.create_server(("127.0.0.1", 0), backlog=backlog) as server:
        yield server


@contextlib.contextmanager
def full_backlog() -> Iterator[socket.socket]:
    """Open a port whose backlog is full: a new connection waits for ever."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(listening(backlog=0))
        # More connections than the backlog: the kernel accepts a few beyond it.
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
    """Serve one connection with a function, and return the URL."""
    with listening() as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                behave(connection)

        # A daemon: if the test fails before it connects, the thread must not block the exit.
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield url_of(server)
        thread.join()
