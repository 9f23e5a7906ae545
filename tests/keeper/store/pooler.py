"""A transaction-pooling proxy for PostgreSQL, as unkind as one may be.

Each transaction goes to another server connection than the one before, whoever the client is, and
nothing is cleaned up in between: what a client leaves in a session is lost to itself, and found by
others.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from queue import SimpleQueue

from attrs import define, field

__all__ = ["Pooler", "pooling"]

PROTOCOL = 196_608
TERMINATE, READY = b"X", b"Z"
ENDS_A_BATCH = {b"Q", b"S"}
IDLE = b"I"


@define(eq=False)
class Wire:
    """One connection, and the messages on it."""

    socket: socket.socket
    _received: bytes = b""

    def send(self, message: bytes) -> None:
        """Send a message."""
        self.socket.sendall(message)

    def message(self) -> tuple[bytes, bytes]:
        """Return the type of the next message, and all of it."""
        kind, length = self._read(1), self._read(4)
        return kind, kind + length + self._read(struct.unpack("!I", length)[0] - 4)

    def until_ready(self) -> bytes:
        """Return the messages up to the one that says that the server is ready."""
        all_of_them = b""
        while True:
            kind, message = self.message()
            all_of_them += message
            if kind == READY:
                return all_of_them

    def skip_greeting(self) -> None:
        """Read what a client says first, and refuse encryption."""
        while True:
            length = struct.unpack("!I", self._read(4))[0]
            said = self._read(length - 4)
            if struct.unpack("!I", said[:4])[0] == PROTOCOL:
                return
            self.send(b"N")

    def _read(self, length: int) -> bytes:
        while len(self._received) < length:
            chunk = self.socket.recv(65_536)
            if not chunk:
                raise EOFError
            self._received += chunk
        taken, self._received = self._received[:length], self._received[length:]
        return taken


@define(eq=False)
class Pooler:
    """The proxy.

    Args:
        server: The socket of the server.
        database: The database.
        listener: Where clients come in.
    """

    server: Path
    database: str
    listener: socket.socket
    switches: int = 0
    """How often a client's transaction went to another connection than its last one."""
    _welcome: bytes = b""
    _idle: SimpleQueue[Wire] = field(factory=SimpleQueue)

    def connect(self) -> None:
        """Open a connection to the server."""
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(self.server))
        names = f"user\0postgres\0database\0{self.database}\0\0".encode()
        wire = Wire(connection)
        wire.send(struct.pack("!II", len(names) + 8, PROTOCOL) + names)
        self._welcome = wire.until_ready()
        self._idle.put(wire)

    def accept(self) -> None:
        """Serve all who come, until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(client,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        """Serve one client until it leaves."""
        client, last = Wire(connection), None
        with connection, suppress(EOFError, OSError):
            client.skip_greeting()
            client.send(self._welcome)
            while (first := client.message())[0] != TERMINATE:
                server = self._idle.get()
                self.switches += last not in (None, server)
                last = server
                relay(client, server, first)
                self._idle.put(server)

    def close(self) -> None:
        """Let go of everybody."""
        self.listener.close()
        while not self._idle.empty():
            self._idle.get().socket.close()


def relay(client: Wire, server: Wire, first: tuple[bytes, bytes]) -> None:
    """Bring one transaction of a client to the server."""
    kind, message = first
    while True:
        server.send(message)
        if kind in ENDS_A_BATCH:
            answer = server.until_ready()
            client.send(answer)
            if answer[-1:] == IDLE:
                return
        kind, message = client.message()


@contextmanager
def pooling(server: Path, database: str, folder: Path, connections: int = 2) -> Iterator[Pooler]:
    """Run a proxy.

    Args:
        server: The socket of the server.
        database: The database.
        folder: Where the socket of the proxy is to be.
        connections: How many connections to the server.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / server.name))
    listener.listen()
    pooler = Pooler(server, database, listener)
    for _ in range(connections):
        pooler.connect()
    accepting = threading.Thread(target=pooler.accept)
    accepting.start()
    try:
        yield pooler
    finally:
        # A close alone would not wake who waits there.
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
        pooler.close()
