"""The HTTP server: sockets on loopback, TLS that alerts a refused client, and delivery."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from http import HTTPStatus
from typing import Any, cast
from weakref import WeakSet

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from attrs import evolve, frozen

from .certificates import CredentialFiles, certificate_fingerprint
from .messages import NORMAL_DELIVERY, Delivery, Request, Response

__all__ = []

logger = logging.getLogger("blink_oauth_testing.sandbox")


def _may_be_logged(record: logging.LogRecord) -> bool:
    """Return False for a record about a malformed request, which may quote a secret."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


http_logger = logger.getChild("http")
http_logger.addFilter(_may_be_logged)

# A refused client has this long to read the alert and disconnect. Among hundreds of simultaneous
# clients, a handshake may have to wait that long, too.
_HANDSHAKE_SECONDS = 30.0


class _AlertSendingSSLObject(ssl.SSLObject):
    """A TLS connection whose failed handshake sends its alert.

    asyncio closes the socket as soon as a handshake fails, before it sends the alert that OpenSSL
    has prepared: the client sees a broken connection instead of "certificate expired". This class
    asks for more data instead, so that asyncio sends the alert. The connection ends when the client
    disconnects or the handshake times out.
    """

    _refused = False

    def do_handshake(self) -> None:
        if self._refused:
            raise ssl.SSLWantReadError
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._refused = True
            logger.info("TLS handshake refused: %s", error.reason)
            raise ssl.SSLWantReadError from None


def server_context(files: CredentialFiles, passphrase: str, trusted: str) -> ssl.SSLContext:
    """Make the TLS context of a server that requires a client certificate.

    Args:
        files: Certificate chain and key of the server.
        passphrase: The passphrase of the key.
        trusted: The root certificate of the clients, in PEM form.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _AlertSendingSSLObject
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=trusted)
    context.load_cert_chain(files.chain, files.key, password=passphrase)
    return context


def bind(port: int) -> socket.socket:
    """Open a listening socket on 127.0.0.1.

    Args:
        port: The port, or 0 for any free port.
    """
    listening = socket.create_server(("127.0.0.1", port), backlog=512)
    listening.setblocking(False)
    return listening


@frozen
class ServedApplication:
    """A web application and the listening socket that serves it.

    Attributes:
        listening: The socket, from `bind`.
        application: The application.
        context: The TLS context, or None for plain http.
    """

    listening: socket.socket
    application: web.Application
    context: ssl.SSLContext | None = None


class ServerThread:
    """A thread with an event loop that serves web applications."""

    def __init__(self, applications: Sequence[ServedApplication]) -> None:
        self._applications = applications
        self._ready: Future[Callable[[], object]] = Future()
        self._thread = threading.Thread(target=self._run, name="blink-sandbox", daemon=True)

    def start(self) -> None:
        """Start the thread, and return as soon as it accepts connections."""
        self._thread.start()
        self._ready.result()

    def stop(self) -> None:
        """End every connection and wait for the thread to end."""
        self._ready.result()()
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            if self._ready.done():  # pragma: no cover  # a defect of the event loop
                raise
            self._ready.set_exception(error)

    async def _main(self) -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            for served in self._applications:
                await stack.enter_async_context(serving(served))
            self._ready.set_result(lambda: loop.call_soon_threadsafe(stopping.set))
            await stopping.wait()


@contextlib.asynccontextmanager
async def serving(served: ServedApplication) -> AsyncIterator[None]:
    """Serve an application in the running event loop until the block ends."""
    runner = web.AppRunner(
        served.application,
        access_log=None,
        logger=http_logger,
        handle_signals=False,
        # A delayed or silent delivery must end when its client disconnects.
        handler_cancellation=True,
        shutdown_timeout=0.1,
    )
    await runner.setup()
    assert runner.server is not None
    open_transports: WeakSet[asyncio.BaseTransport] = WeakSet()
    accepting = asyncio.create_task(_accept(served, runner.server, open_transports))
    try:
        yield
    finally:
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        await runner.cleanup()
        # A TLS shutdown waits for the peer, which would delay the stop.
        for transport in list(open_transports):
            cast("asyncio.Transport", transport).abort()
        await asyncio.sleep(0)


async def _accept(
    served: ServedApplication,
    protocol: Callable[[], asyncio.BaseProtocol],
    open_transports: WeakSet[asyncio.BaseTransport],
) -> None:
    """Accept connections until cancelled.

    Each handshake is a separate task, so that the end of the server cancels unfinished ones.
    """
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {}
    if served.context is not None:
        options = {"ssl": served.context, "ssl_handshake_timeout": _HANDSHAKE_SECONDS}

    async def connect(connection: socket.socket) -> None:
        # The client disconnected or was refused, which is no error of the server.
        with contextlib.suppress(OSError):
            transport, _ = await loop.connect_accepted_socket(protocol, connection, **options)
            open_transports.add(transport)

    async with asyncio.TaskGroup() as handshakes:
        while True:
            try:
                connection, _ = await loop.sock_accept(served.listening)
            except OSError:  # pragma: no cover
                # Probably out of file descriptors: wait until another connection closes.
                await asyncio.sleep(0.05)
            else:
                handshakes.create_task(connect(connection))


def mutual_tls_application(
    handle: Callable[[Request], tuple[Response, Delivery]],
) -> web.Application:
    """Make the web application of the mutual TLS port.

    Args:
        handle: Returns the response to a request, and how to send it.
    """

    async def handle_any(request: web.Request) -> web.StreamResponse:
        response, delivery = handle(await _received(request))
        return await send_response(request, response, delivery)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle_any)
    return application


async def _received(request: web.Request) -> Request:
    body = await request.read()
    assert request.transport is not None
    peer = request.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    headers = tuple(request.headers.items())
    return Request(request.method, request.path, headers, body, certificate_fingerprint(peer))


async def send_response(
    request: web.Request, response: Response, delivery: Delivery = NORMAL_DELIVERY
) -> web.StreamResponse:
    """Send a response, or return it for aiohttp to send.

    Args:
        request: The request that it answers.
        response: The response.
        delivery: How the response is sent.
    """
    reason = _reason(response.status)
    returned = web.Response(status=response.status, reason=reason, body=response.body)
    returned.headers.extend(response.headers)
    if delivery.silent:
        # aiohttp cancels this when the client disconnects or the server stops.
        await asyncio.get_running_loop().create_future()
    if delivery.delay:
        await asyncio.sleep(delivery.delay)
    transport = request.transport
    if evolve(delivery, delay=0.0) == NORMAL_DELIVERY or transport is None:
        return returned
    if delivery.reset:
        _reset(transport)
        return returned
    head = _head(response)
    body = response.body[: int(len(response.body) * delivery.body_fraction)]
    await _write_in_pieces(transport, head, delivery.head_interval, delivery.pieces)
    await _write_in_pieces(transport, body, delivery.body_interval, delivery.pieces)
    # aiohttp needs a response from every handler; it drops this one because the connection closes.
    transport.close()
    return returned


def _reset(transport: asyncio.Transport) -> None:
    """End the connection with a TCP reset, which discards unsent data."""
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _write_in_pieces(
    transport: asyncio.Transport, data: bytes, interval: float, pieces: int
) -> None:
    """Write data in pieces with a pause after each, or in one piece if the interval is 0."""
    size = -(-len(data) // pieces) if interval else len(data)
    for start in range(0, len(data), size or 1):
        transport.write(data[start : start + size])
        await asyncio.sleep(interval)
        if transport.is_closing():
            return


def _head(response: Response) -> bytes:
    lines = [f"HTTP/1.1 {response.status} {_reason(response.status)}"]
    lines += [f"{name}: {value}" for name, value in response.headers]
    lines += [f"Content-Length: {len(response.body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unassigned"
