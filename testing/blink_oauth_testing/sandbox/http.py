"""Sockets on loopback, a TLS server that tells a refused client why, and aiohttp's messages."""

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
from .messages import AS_USUAL, Call, Delivery, Response

__all__ = []

logger = logging.getLogger("blink_oauth_testing.sandbox")


def _is_news(record: logging.LogRecord) -> bool:
    """Drop what a client wrote wrongly: it is answered with 400, and may quote a secret."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


http_logger = logger.getChild("http")
http_logger.addFilter(_is_news)

# A refused client gets this long to read the alert and hang up; and a client that comes with
# hundreds of others has to wait for its turn.
_HANDSHAKE_SECONDS = 30.0


class _AlertingObject(ssl.SSLObject):
    """A TLS connection whose failed handshake sends its alert.

    asyncio closes the socket as soon as a handshake fails, and the alert that OpenSSL has prepared
    is never sent: the client sees a broken connection instead of "certificate expired". Asking for
    more data instead makes asyncio send what is waiting. The connection ends when the client hangs
    up, or with the time limit for the handshake.
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
    """Make the context of a server that demands a client certificate.

    Args:
        files: Certificate chain and key of the server.
        passphrase: What opens the key.
        trusted: The authority of the clients, in PEM form.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _AlertingObject
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=trusted)
    context.load_cert_chain(files.chain, files.key, password=passphrase)
    return context


def bind(port: int) -> socket.socket:
    """Open a listening socket on 127.0.0.1.

    Args:
        port: The port, or 0 for any that is free.
    """
    listening = socket.create_server(("127.0.0.1", port), backlog=512)
    listening.setblocking(False)
    return listening


@frozen
class Site:
    """One listening socket and what answers there.

    Attributes:
        listening: From `bind`.
        application: What answers.
        context: For TLS, or None.
    """

    listening: socket.socket
    application: web.Application
    context: ssl.SSLContext | None = None


class ServerThread:
    """Serves some sites from an event loop of its own, in a thread of its own."""

    def __init__(self, sites: Sequence[Site]) -> None:
        self._sites = sites
        self._ready: Future[Callable[[], object]] = Future()
        self._thread = threading.Thread(target=self._run, name="blink-sandbox", daemon=True)

    def start(self) -> None:
        """Start serving; returns as soon as connections are accepted."""
        self._thread.start()
        self._ready.result()

    def stop(self) -> None:
        """End every connection and wait for the thread."""
        self._ready.result()()
        self._thread.join()

    def _run(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:
            if self._ready.done():  # pragma: no cover  # a defect of the loop itself
                raise
            self._ready.set_exception(error)

    async def _main(self) -> None:
        loop, stopping = asyncio.get_running_loop(), asyncio.Event()
        async with contextlib.AsyncExitStack() as stack:
            for site in self._sites:
                await stack.enter_async_context(serving(site))
            self._ready.set_result(lambda: loop.call_soon_threadsafe(stopping.set))
            await stopping.wait()


@contextlib.asynccontextmanager
async def serving(site: Site) -> AsyncIterator[None]:
    """Serve a site in the event loop that runs, until the block ends."""
    runner = web.AppRunner(
        site.application,
        access_log=None,
        logger=http_logger,
        handle_signals=False,
        # A client that goes away ends what is done for it: its answer may be far off, or never be.
        handler_cancellation=True,
        shutdown_timeout=0.1,
    )
    await runner.setup()
    assert runner.server is not None
    open_transports: WeakSet[asyncio.BaseTransport] = WeakSet()
    accepting = asyncio.create_task(_accept(site, runner.server, open_transports))
    try:
        yield
    finally:
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        await runner.cleanup()
        # A polite end of TLS waits for the peer; nobody is to wait for a sandbox that stops.
        for transport in list(open_transports):
            cast("asyncio.Transport", transport).abort()
        await asyncio.sleep(0)


async def _accept(
    site: Site,
    protocol: Callable[[], asyncio.BaseProtocol],
    open_transports: WeakSet[asyncio.BaseTransport],
) -> None:
    """Accept connections until cancelled.

    Each handshake is a task of its own, so that ending the server ends those that hang, too.
    """
    loop = asyncio.get_running_loop()
    options: dict[str, Any] = {}
    if site.context is not None:
        options = {"ssl": site.context, "ssl_handshake_timeout": _HANDSHAKE_SECONDS}

    async def connect(connection: socket.socket) -> None:
        # A client that hangs up, or is refused, is no fault of the server's.
        with contextlib.suppress(OSError):
            transport, _ = await loop.connect_accepted_socket(protocol, connection, **options)
            open_transports.add(transport)

    async with asyncio.TaskGroup() as handshakes:
        while True:
            try:
                connection, _ = await loop.sock_accept(site.listening)
            except OSError:  # pragma: no cover
                # Out of file descriptors, most likely: others have to be closed first.
                await asyncio.sleep(0.05)
            else:
                handshakes.create_task(connect(connection))


def reception(answer: Callable[[Call], tuple[Response, Delivery]]) -> web.Application:
    """Make the web application that takes every request over mutual TLS.

    Args:
        answer: Decides on a call.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        reply, delivery = answer(await _receive(request))
        return await deliver(request, reply, delivery)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handle)
    return application


async def _receive(request: web.Request) -> Call:
    body = await request.read()
    assert request.transport is not None
    peer = request.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
    headers = tuple(request.headers.items())
    return Call(request.method, request.path, headers, body, certificate_fingerprint(peer))


async def deliver(
    request: web.Request, reply: Response, delivery: Delivery = AS_USUAL
) -> web.StreamResponse:
    """Send a reply.

    Args:
        request: The request that it answers.
        reply: What is to be sent.
        delivery: How it is to be sent.
    """
    response = web.Response(status=reply.status, reason=_reason(reply.status), body=reply.body)
    response.headers.extend(reply.headers)
    if delivery.silent:
        # aiohttp cancels this as soon as the client goes away or the server stops.
        await asyncio.get_running_loop().create_future()
    if delivery.after:
        await asyncio.sleep(delivery.after)
    transport = request.transport
    if evolve(delivery, after=0.0) == AS_USUAL or transport is None:
        return response
    if delivery.reset:
        _reset(transport)
        return response
    head, body = _head(reply), reply.body[: int(len(reply.body) * delivery.body_fraction)]
    await _drip(transport, head, delivery.head_interval, delivery.pieces)
    await _drip(transport, body, delivery.body_interval, delivery.pieces)
    # aiohttp wants a response from every handler, and drops it as the connection is closing.
    transport.close()
    return response


def _reset(transport: asyncio.Transport) -> None:
    """End the connection with a TCP reset: what lingers is thrown away."""
    connection = transport.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


async def _drip(transport: asyncio.Transport, data: bytes, interval: float, pieces: int) -> None:
    """Write at once, or in so many pieces; a sandbox that stops cancels the pause."""
    size = -(-len(data) // pieces) if interval else len(data)
    for start in range(0, len(data), size or 1):
        transport.write(data[start : start + size])
        await asyncio.sleep(interval)
        if transport.is_closing():
            return


def _head(reply: Response) -> bytes:
    lines = [f"HTTP/1.1 {reply.status} {_reason(reply.status)}"]
    lines += [f"{name}: {value}" for name, value in reply.headers]
    lines += [f"Content-Length: {len(reply.body)}", "Connection: close", "", ""]
    return "\r\n".join(lines).encode("latin-1")


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unassigned"
