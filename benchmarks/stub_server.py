"""A stub of the token endpoint on loopback: it only sends responses, over mutual TLS.

It runs in separate processes. The less it does, the clearer is a difference between clients.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import socket
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from attrs import frozen

from blink_oauth import ClientCertificate, Grant, Psu, Settings
from blink_oauth.context import request_headers
from blink_oauth.tls import ssl_context
from blink_oauth_testing.sandbox.certificates import CredentialFiles, shared_authority

__all__ = [
    "CLIENT_ID",
    "FORM",
    "GRANT",
    "HEADERS",
    "USER_AGENT",
    "StubServer",
    "running_stub_server",
]

GRANT = Grant(target_id="IIDX00001", username="u-4711")
USER_AGENT = "acme-books/3.2"
CLIENT_ID = "CIDX0000000002"
PATH = "/consent-flow/v2"
FORM = {
    "grant_type": "refresh_token",
    "client_id": CLIENT_ID,
    "username": GRANT.username,
    "refresh_token": "fake-refresh-token",
}
HEADERS = request_headers(GRANT, Psu.AUTO, user_agent=USER_AGENT, correlation_id="bench")
"""`FORM` and `HEADERS` are what `BlinkOAuth.refresh` sends; the bare clients send the same."""

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CORRELATION_ID = re.compile(rb"\r\nx-correlation-id: *([!-~]*)", re.IGNORECASE)
BODY = (
    b'{"access_token":"fake-access-token-%(id)b","token_type":"bearer",'
    b'"expires_in":86400,"refresh_token":"fake-refresh-token-%(id)b"}'
)
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json;charset=utf-8\r\n"
    b"Cache-Control: no-store\r\nPragma: no-cache\r\nX-CorAPI-Source: PROVIDER\r\n"
    b"X-Correlation-ID: %b\r\nContent-Length: %d\r\n\r\n"
)


@frozen
class StubServer:
    """The address of a running stub server, and the certificates of its clients.

    Attributes:
        port: The port on 127.0.0.1.
        folder: The folder of the certificates.
    """

    port: int
    folder: Path

    @property
    def base_url(self) -> str:
        """The URL of the consent-flow module."""
        return f"https://localhost:{self.port}{PATH}"

    @property
    def certificate(self) -> ClientCertificate:
        """The client certificate that the server accepts."""
        files = CredentialFiles.named(self.folder, "client")
        return ClientCertificate(
            files.chain, files.key, files.passphrase.read_text(), self.folder / "ca.pem"
        )

    @property
    def context(self) -> ssl.SSLContext:
        """A new TLS context with that certificate."""
        return ssl_context(self.certificate, now=datetime.now(UTC))

    @property
    def settings(self) -> Settings:
        """The settings of a client."""
        return Settings(
            base_url=self.base_url,
            client_id=CLIENT_ID,
            user_agent=USER_AGENT,
            certificate=self.certificate,
        )


class StubProtocol(asyncio.Protocol):
    """One connection: every token request gets a new pair after a delay.

    Args:
        delay: Seconds before each response.
        ids: Returns the unique part of a token.
    """

    def __init__(self, delay: float, ids: Callable[[], bytes]) -> None:
        self._delay = delay
        self._ids = ids
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        correlation_id = CORRELATION_ID.search(head)
        if not end:
            return
        if not (head.startswith(b"POST %b/oauth/token " % PATH.encode()) and length):
            self._transport.close()
        elif len(body) >= int(length[1]):
            self._received = body[int(length[1]) :]
            echoed = correlation_id[1] if correlation_id else b""
            if self._delay:
                asyncio.get_running_loop().call_later(self._delay, self._respond, echoed)
            else:
                self._respond(echoed)

    def _respond(self, correlation_id: bytes) -> None:
        if not self._transport.is_closing():
            body = BODY % {b"id": self._ids()}
            self._transport.write(HEAD % (correlation_id, len(body)) + body)


def serve(listening: socket.socket, folder: Path, name: int, delay: float) -> None:
    """Respond to token requests until the process is terminated."""
    files = CredentialFiles.named(folder, "server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(files.chain, files.key, files.passphrase.read_text())
    numbers = count()

    def new_id() -> bytes:
        return b"%d-%d" % (name, next(numbers))

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(
            lambda: StubProtocol(delay, new_id), sock=listening, ssl=context
        )
        await server.serve_forever()

    asyncio.run(run())


@contextmanager
def running_stub_server(delay: float, processes: int = 1) -> Iterator[StubServer]:
    """Run a stub server in separate processes.

    Args:
        delay: Seconds before each response.
        processes: The number of processes that accept connections.
    """
    authority = shared_authority()
    # A spawned process: a fork would copy the locks that threads of the benchmark hold.
    spawn = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as name,
        socket.create_server(("127.0.0.1", 0), backlog=512) as listening,
    ):
        folder = Path(name)
        (folder / "ca.pem").write_bytes(authority.root_pem)
        authority.issue_client(CLIENT_ID).save(folder, "client")
        authority.issue_server().save(folder, "server")
        servers = [
            spawn.Process(target=serve, args=(listening, folder, number, delay), daemon=True)
            for number in range(processes)
        ]
        try:
            for server in servers:
                server.start()
            yield StubServer(listening.getsockname()[1], folder)
        finally:
            ended = [server.exitcode for server in servers if not server.is_alive()]
            for server in servers:
                server.terminate()
                server.join()
            if ended:
                raise RuntimeError(f"the stub server ended early, with exit codes {ended}")
