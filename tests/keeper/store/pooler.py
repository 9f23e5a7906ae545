"""A transaction-pooling proxy for PostgreSQL that shows every use of session state.

Each transaction goes to the server connection that has been idle longest, whichever the client is,
and the proxy resets no session: the state that a client leaves in a session is found by other
clients, and not by its own next transaction.
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
class MessageStream:
    """A connection that sends and receives messages of the PostgreSQL protocol."""

    socket: socket.socket
    _received: bytes = b""

    def send(self, message: bytes) -> None:
        """Send a message."""
        self.socket.sendall(message)

    def message(self) -> tuple[bytes, bytes]:
        """Return the type of the next message, and the whole message."""
        kind, length = self._read(1), self._read(4)
        return kind, kind + length + self._read(struct.unpack("!I", length)[0] - 4)

    def until_ready(self) -> bytes:
        """Return the messages up to and including ReadyForQuery."""
        messages = b""
        while True:
            kind, message = self.message()
            messages += message
            if kind == READY:
                return messages

    def skip_startup(self) -> None:
        """Read the startup message of a client, and refuse encryption."""
        while True:
            length = struct.unpack("!I", self._read(4))[0]
            content = self._read(length - 4)
            if struct.unpack("!I", content[:4])[0] == PROTOCOL:
                return
            self.send(b"N")

    def _read(self, length: int) -> bytes:
        while len(self._received) < length:
            chunk = self.socket.recv(65_536)
            if not chunk:
                raise EOFError
            self._received += chunk
        data, self._received = self._received[:length], self._received[length:]
        return data


@define(eq=False)
class Pooler:
    """The proxy.

    Args:
        server: The socket of the server.
        database: The database.
        listener: The socket that accepts clients.
    """

    server: Path
    database: str
    listener: socket.socket
    switches: int = 0
    """How often a client's transaction used another connection than the client's previous one."""
    _startup_response: bytes = b""
    _idle: SimpleQueue[MessageStream] = field(factory=SimpleQueue)
    _connections: list[socket.socket] = field(factory=list)
    _threads: list[threading.Thread] = field(factory=list)

    def connect(self) -> None:
        """Open a connection to the server."""
        connection = socket.socket(socket.AF_UNIX)
        self._connections.append(connection)
        connection.connect(str(self.server))
        names = f"user\0postgres\0database\0{self.database}\0\0".encode()
        stream = MessageStream(connection)
        stream.send(struct.pack("!II", len(names) + 8, PROTOCOL) + names)
        self._startup_response = stream.until_ready()
        self._idle.put(stream)

    def accept(self) -> None:
        """Accept and serve clients until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                self._connections.append(client)
                thread = threading.Thread(target=self.serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def serve(self, connection: socket.socket) -> None:
        """Serve one client until it disconnects."""
        client, last = MessageStream(connection), None
        with connection, suppress(EOFError, OSError):
            client.skip_startup()
            client.send(self._startup_response)
            while (first := client.message())[0] != TERMINATE:
                server = self._idle.get()
                self.switches += last not in (None, server)
                last = server
                try:
                    relay(client, server, first)
                finally:
                    self._idle.put(server)

    def close(self) -> None:
        """Close the listener and all connections, and wait until no client is served."""
        self.listener.close()
        for connection in self._connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for connection in self._connections:
            connection.close()


def relay(client: MessageStream, server: MessageStream, first: tuple[bytes, bytes]) -> None:
    """Relay one transaction of a client to the server."""
    kind, message = first
    while True:
        server.send(message)
        if kind in ENDS_A_BATCH:
            response = server.until_ready()
            client.send(response)
            if response[-1:] == IDLE:
                return
        kind, message = client.message()


@contextmanager
def pooling(server: Path, database: str, folder: Path, connections: int = 2) -> Iterator[Pooler]:
    """Run a proxy.

    Args:
        server: The socket of the server.
        database: The database.
        folder: The folder for the socket of the proxy.
        connections: The number of connections to the server.
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
        # Closing the socket does not end an `accept` that waits.
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
        pooler.close()
