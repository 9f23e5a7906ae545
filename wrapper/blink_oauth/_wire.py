"""How a call travels: one set of connections per client certificate.

`send` turns a call into an `Answer` or a `NoAnswer`. It does not raise for what the network does,
so that no traceback of ours reaches into a frame that holds a secret in plain text.
"""

from __future__ import annotations

import os
import socket
import ssl
import time
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future
from contextlib import AsyncExitStack, ExitStack, contextmanager
from contextvars import ContextVar
from datetime import datetime
from threading import Lock
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakSet

import anyio
import httpcore
import httpx
from attrs import define, field, frozen

from ._api import Call
from ._reply import Answer, Reply, no_answer
from .errors import InvalidInputError
from .headers import RESPONSE_HEADERS
from .settings import Settings
from .tls import ClientCertificate, require_verifying, ssl_context

__all__ = ["AsyncLine", "Line", "travelling"]

# Shorter than the idle limit of any common server: a connection that the server closes while a
# request is on its way leaves the outcome of that request uncertain.
KEEPALIVE_SECONDS = 5.0

Connection = TypeVar("Connection")


class Idle(Generic[Connection]):
    """The connections that nobody uses. The one that was used last is used next.

    Args:
        monotonic: A clock that never runs backwards, in seconds.
    """

    def __init__(self, monotonic: Callable[[], float]) -> None:
        # Each with the moment since when; the oldest first.
        self._stack: deque[tuple[float, Connection]] = deque()
        self._monotonic = monotonic
        self._lock = Lock()
        self._ended = False

    def __len__(self) -> int:
        return len(self._stack)

    def take(self) -> tuple[Connection | None, list[Connection]]:
        """Take the one that was used last, if there is one, and all that are too old to be used."""
        oldest = self._monotonic() - KEEPALIVE_SECONDS
        old = []
        with self._lock:
            while self._stack and self._stack[0][0] < oldest:
                old.append(self._stack.popleft()[1])
            return self._stack.pop()[1] if self._stack else None, old

    def put(self, connection: Connection) -> bool:
        """Keep a connection for the next call, and say whether there can be one."""
        with self._lock:
            if not self._ended:
                self._stack.append((self._monotonic(), connection))
            return not self._ended

    def end(self) -> list[Connection]:
        """Take all, and keep none from now on."""
        with self._lock:
            self._ended = True
            return self._taken()

    def disinherit(self) -> list[Connection]:
        """Take all in a process that was forked off, and forget who held the lock."""
        self._lock = Lock()
        return self._taken()

    def _taken(self) -> list[Connection]:
        connections = [connection for _, connection in self._stack]
        self._stack.clear()
        return connections


class Turns:
    """As many turns at once as there may be connections. Who waits longest is next.

    A `threading.Semaphore` lets a thread that ends one call and begins another overtake all those
    that wait, again and again.

    Args:
        limit: How many.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[Future[None]] = deque()
        self._lock = Lock()

    def take(self, timeout: float | None) -> None:
        """Wait for a turn.

        Args:
            timeout: Seconds to wait at most, or None.

        Raises:
            TimeoutError: None became free.
        """
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn: Future[None] = Future()
            self._waiting.append(turn)
        try:
            turn.result(timeout)
        except BaseException:
            # If it came at the last moment, it goes to the next one.
            if not turn.cancel():
                self.give()
            raise

    def give(self) -> None:
        """End a turn."""
        with self._lock:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(None)
                    return
            self._free += 1


ALL_BUSY = "all connections were busy for too long"


class Connections:
    """The connections that threads share.

    Closing closes the idle ones. A call that is under way ends in peace: what it brings home may
    be the only copy of a token. Its connection is closed behind it.

    Args:
        create: Makes a connection; it connects when it is first used.
        limit: How many there may be at once.
        monotonic: A clock that never runs backwards, in seconds, for the age of the idle ones.
    """

    def __init__(
        self,
        create: Callable[[httpcore.Origin], httpcore.ConnectionInterface],
        limit: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._create = create
        self._limit = limit
        self._idle: Idle[httpcore.ConnectionInterface] = Idle(monotonic)
        self._turns = Turns(limit)
        _everywhere.add(self)

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request on a connection that is its own until the response is closed.

        Raises:
            httpcore.PoolTimeout: All connections were busy for as long as the request can wait.
        """
        with ExitStack() as ending:
            try:
                self._turns.take(_patience(request))
            except TimeoutError:
                raise httpcore.PoolTimeout(ALL_BUSY) from None
            ending.callback(self._turns.give)
            connection = self._reusable() or self._create(request.url.origin)
            ending.callback(self._put_back, connection)
            response = connection.handle_request(request)
            ending.callback(response.close)
            return _with_body(response, _Body(response, ending.pop_all()))

    def close(self) -> None:
        """Close the idle connections, and the others as soon as they are."""
        for connection in self._idle.end():
            connection.close()

    def leave_to_parent(self) -> None:
        """Start anew in a process that was forked off."""
        self._turns = Turns(self._limit)
        # This closes our descriptors and tells the server nothing: the parent's stay as they are.
        for connection in self._idle.disinherit():
            connection.close()

    def _reusable(self) -> httpcore.ConnectionInterface | None:
        while True:
            connection, old = self._idle.take()
            for each in old:
                each.close()
            if connection is None or not connection.has_expired():
                return connection
            connection.close()

    def _put_back(self, connection: httpcore.ConnectionInterface) -> None:
        if not (connection.is_available() and self._idle.put(connection)):
            connection.close()


class AsyncConnections:
    """The connections that the tasks of one event loop share.

    Closing closes the idle ones. A call that is under way ends in peace: what it brings home may
    be the only copy of a token. Its connection is closed behind it.

    Args:
        create: Makes a connection; it connects when it is first used.
        limit: How many there may be at once.
        monotonic: A clock that never runs backwards, in seconds, for the age of the idle ones.
    """

    def __init__(
        self,
        create: Callable[[httpcore.Origin], httpcore.AsyncConnectionInterface],
        limit: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._create = create
        self._limit = limit
        self._idle: Idle[httpcore.AsyncConnectionInterface] = Idle(monotonic)
        self._turns = anyio.Semaphore(limit)
        _everywhere.add(self)

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request on a connection that is its own until the response is closed.

        Raises:
            httpcore.PoolTimeout: All connections were busy for as long as the request can wait.
        """
        async with AsyncExitStack() as ending:
            try:
                with anyio.fail_after(_patience(request)):
                    await self._turns.acquire()
            except TimeoutError:
                raise httpcore.PoolTimeout(ALL_BUSY) from None
            ending.callback(self._turns.release)
            connection = await self._reusable() or self._create(request.url.origin)
            ending.push_async_callback(self._put_back, connection)
            response = await connection.handle_async_request(request)
            ending.push_async_callback(response.aclose)
            return _with_body(response, _AsyncBody(response, ending.pop_all()))

    async def aclose(self) -> None:
        """Close the idle connections, and the others as soon as they are."""
        for connection in self._idle.end():
            await _aclose(connection)

    def leave_to_parent(self) -> None:
        """Start anew in a process that was forked off."""
        self._turns = anyio.Semaphore(self._limit)
        # Not closed: they are registered with the parent's event loop, and closing one here would
        # take it off the selector that both processes share. Kept, because the collector would
        # close what nobody has any more, whenever it comes by.
        _inherited.extend(self._idle.disinherit())

    async def _reusable(self) -> httpcore.AsyncConnectionInterface | None:
        while True:
            connection, old = self._idle.take()
            for each in old:
                await _aclose(each)
            if connection is None or not connection.has_expired():
                return connection
            await _aclose(connection)

    async def _put_back(self, connection: httpcore.AsyncConnectionInterface) -> None:
        if not (connection.is_available() and self._idle.put(connection)):
            await _aclose(connection)


_everywhere: WeakSet[Connections | AsyncConnections] = WeakSet()
_inherited: list[httpcore.AsyncConnectionInterface] = []


def _leave_all_to_parent() -> None:
    for connections in list(_everywhere):
        connections.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)


@frozen(eq=False)
class _Body:
    """The body of a response; to close it ends the use of its connection."""

    _response: httpcore.Response
    _ending: ExitStack = field(repr=False)

    def __iter__(self) -> Iterator[bytes]:
        return self._response.iter_stream()

    def close(self) -> None:
        self._ending.close()


@frozen(eq=False)
class _AsyncBody:
    """The body of a response; to close it ends the use of its connection."""

    _response: httpcore.Response
    _ending: AsyncExitStack = field(repr=False)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._response.aiter_stream()

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._ending.aclose()


def _with_body(response: httpcore.Response, body: _Body | _AsyncBody) -> httpcore.Response:
    return httpcore.Response(
        response.status,
        headers=response.headers,
        content=body,
        extensions=response.extensions,
    )


async def _aclose(connection: httpcore.AsyncConnectionInterface) -> None:
    # Whoever is cancelled waits for it, but not for long: no farewell is exchanged.
    with anyio.CancelScope(shield=True):
        await connection.aclose()


def _patience(request: httpcore.Request) -> float | None:
    timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
    return timeouts.get("pool")


@define(eq=False)
class Journey:
    """One call on its way.

    Attributes:
        ends_at: When it must end, on the monotonic clock, in seconds.
        monotonic: That clock.
        secure: Whether the request travels through TLS.
        sent: Whether any of the request was written; None if no socket of ours was asked.
    """

    ends_at: float
    monotonic: Callable[[], float]
    secure: bool
    sent: bool | None = None


_current: ContextVar[Journey] = ContextVar("blink_oauth_journey")


@contextmanager
def travelling(total: float, monotonic: Callable[[], float], *, secure: bool) -> Iterator[Journey]:
    """Make a journey of everything that is done in the block.

    Args:
        total: Seconds that it may take.
        monotonic: A clock that never runs backwards, in seconds.
        secure: Whether the request travels through TLS.
    """
    journey = Journey(monotonic() + total, monotonic, secure)
    token = _current.set(journey)
    try:
        yield journey
    finally:
        _current.reset(token)


def _connecting() -> None:
    journey = _current.get()
    # A connection that broke while it was made is made again: nothing was sent on the first one.
    journey.sent = journey.sent or False


def _writing(secure: bool) -> None:
    journey = _current.get()
    journey.sent = journey.sent or secure or not journey.secure


def _left(timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
    journey = _current.get()
    left = journey.ends_at - journey.monotonic()
    if left <= 0:
        raise late("the total time of the call is over")
    return left if timeout is None else min(timeout, left)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, *, secure: bool = False) -> None:
        self._stream = stream
        self._secure = secure

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        left = _left(timeout, httpcore.WriteTimeout)
        _writing(self._secure)
        self._stream.write(buffer, left)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        secured = self._stream.start_tls(ssl_context, server_hostname, left)
        return _Stream(secured, secure=True)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class JourneyBackend(httpcore.SyncBackend):
    """Opens connections that know the call they serve."""

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **options: Any
    ) -> httpcore.NetworkStream:
        _connecting()
        # The standard library would grant the whole timeout to each address of the host in turn.
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in _addresses(host, port):
            left = _left(timeout, httpcore.ConnectTimeout)
            try:
                return _Stream(super().connect_tcp(address, port, left, *args, **options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
        raise failure


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise httpcore.ConnectError(f"the host name {host} cannot be resolved") from exc
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _AsyncStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream, *, secure: bool = False) -> None:
        self._stream = stream
        self._secure = secure

    # httpcore's asynchronous streams let an alert of TLS through as it is, the others do not.
    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = _left(timeout, httpcore.ReadTimeout)
        try:
            return await self._stream.read(max_bytes, left)
        except ssl.SSLError as exc:
            raise httpcore.ReadError(exc) from exc

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        left = _left(timeout, httpcore.WriteTimeout)
        _writing(self._secure)
        try:
            await self._stream.write(buffer, left)
        except ssl.SSLError as exc:  # pragma: no cover  # most often the read meets it first
            raise httpcore.WriteError(exc) from exc

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        secured = await self._stream.start_tls(ssl_context, server_hostname, left)
        return _AsyncStream(secured, secure=True)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class AsyncJourneyBackend(httpcore.AnyIOBackend):
    """Opens connections that know the call they serve; for asyncio and trio alike."""

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **options: Any
    ) -> httpcore.AsyncNetworkStream:
        _connecting()
        left = _left(timeout, httpcore.ConnectTimeout)
        return _AsyncStream(await super().connect_tcp(host, port, left, *args, **options))


MAX_BODY = 1 << 20
"""Bytes of a body that are read at most. A token response is a thousandth of that."""

KEPT_HEADERS = {
    name.lower().encode(): name for name in RESPONSE_HEADERS | {"Content-Type", "Retry-After"}
}


def receive(response: httpx.Response) -> Answer:
    """Read a response from its transport, as far as it comes."""
    body = _Received()
    try:
        with body.keeping():
            assert isinstance(response.stream, httpx.SyncByteStream)
            for chunk in response.stream:
                if body.add(chunk):
                    break
    finally:
        response.close()
    return body.answer(response)


async def areceive(response: httpx.Response) -> Answer:
    """Read a response from its transport, as far as it comes."""
    body = _Received()
    try:
        with body.keeping():
            assert isinstance(response.stream, httpx.AsyncByteStream)
            async for chunk in response.stream:
                if body.add(chunk):
                    break
    finally:
        await response.aclose()
    return body.answer(response)


class _Received:
    """What arrived of a body."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._cut: str | None = None

    def add(self, chunk: bytes) -> bool:
        """Keep a chunk, and say whether that is enough."""
        self._bytes += chunk
        if len(self._bytes) > MAX_BODY:
            self._cut = f"it is longer than {MAX_BODY} bytes"
        return self._cut is not None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as exc:
            self._cut = str(exc) or type(exc).__name__

    def answer(self, response: httpx.Response) -> Answer:
        headers = _kept(response.headers.raw)
        encoding = response.headers.get("Content-Encoding", "")
        content = _decoded(bytes(self._bytes), encoding) if encoding else bytes(self._bytes)
        return Answer(response.status_code, headers, content, self._cut)


def _kept(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    kept: dict[str, str] = {}
    for raw_name, value in raw:
        name = KEPT_HEADERS.get(raw_name.lower())
        if name is not None:
            # A server may send any byte in a header; none can fail to decode this way.
            text = value.decode("latin-1")
            kept[name] = f"{kept[name]}, {text}" if name in kept else text
    return kept


def _decoded(content: bytes, encoding: str) -> bytes:
    if encoding.strip().lower() not in {"gzip", "deflate"}:
        return content
    try:
        # Both formats, and never more than fits: a small body can be blown up a thousand times.
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(content, MAX_BODY)
    except zlib.error:
        return content


class Line:
    """The connections of one client certificate.

    Args:
        settings: Where to, and how long at most.
        now: The present moment, aware, to check the certificate.
        monotonic: A clock that never runs backwards, in seconds, for the deadlines and for the age
            of idle connections.
        transport: A transport to use instead of the network.

    Raises:
        InvalidInputError: The certificate, the host or the proxy cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        now: datetime,
        monotonic: Callable[[], float] = time.monotonic,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.transport = transport or _Pool(settings, now, monotonic)
        self._http = httpx.Client(transport=self.transport, **_client_options(settings))
        self._secure = self._http.base_url.scheme == "https"
        self._total = settings.timeouts.total
        self._monotonic = monotonic

    def send(self, call: Call) -> Reply:
        """Send a call once and return what came of it.

        Raises:
            InvalidInputError: The line is closed.
        """
        _require_open(self._http.is_closed)
        with travelling(self._total, self._monotonic, secure=self._secure) as journey:
            try:
                request = self._http.build_request(**call.request())
                return receive(self.transport.handle_request(request))
            except httpx.TransportError as exc:
                return no_answer(exc, sent=journey.sent)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()


class AsyncLine:
    """The connections of one client certificate, for one event loop.

    Args:
        settings: Where to, and how long at most.
        now: The present moment, aware, to check the certificate.
        monotonic: A clock that never runs backwards, in seconds, for the deadlines and for the age
            of idle connections.
        transport: A transport to use instead of the network.

    Raises:
        InvalidInputError: The certificate, the host or the proxy cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        now: datetime,
        monotonic: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.transport = transport or _AsyncPool(settings, now, monotonic)
        self._http = httpx.AsyncClient(transport=self.transport, **_client_options(settings))
        self._secure = self._http.base_url.scheme == "https"
        self._total = settings.timeouts.total
        self._monotonic = monotonic

    async def send(self, call: Call) -> Reply:
        """Send a call once and return what came of it.

        Raises:
            InvalidInputError: The line is closed.
        """
        _require_open(self._http.is_closed)
        with travelling(self._total, self._monotonic, secure=self._secure) as journey:
            try:
                request = self._http.build_request(**call.request())
                return await areceive(await self.transport.handle_async_request(request))
            except httpx.TransportError as exc:
                return no_answer(exc, sent=journey.sent)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def _require_open(closed: bool) -> None:
    if closed:
        raise InvalidInputError("The client is closed: make a new one. Nothing was sent.")


def _client_options(settings: Settings) -> dict[str, Any]:
    limits = settings.timeouts
    return {
        "base_url": _base_url(settings),
        # Without compression a body that is cut short can still be read as far as it came.
        "headers": {"Accept": "application/json", "Accept-Encoding": "identity"},
        "timeout": httpx.Timeout(
            connect=limits.connect,
            read=limits.read,
            write=limits.write,
            pool=min(limits.pool, limits.total),
        ),
        "trust_env": False,
    }


def _base_url(settings: Settings) -> httpx.URL:
    try:
        url = httpx.URL(settings.base_url)
        # Any label of a host has 1 to 63 characters (RFC 1035), which httpx looks at in part only.
        possible = all(0 < len(label) < 64 for label in url.host.removesuffix(".").split("."))
    except (httpx.InvalidURL, ValueError):
        possible = False
    if not possible:
        raise InvalidInputError("Settings.base_url names no possible host. Nothing was sent.")
    return url


class _Pool(httpx.HTTPTransport):
    """httpx's transport over connections of our own: httpx has no setting for the sockets."""

    def __init__(self, settings: Settings, now: datetime, monotonic: Callable[[], float]) -> None:
        options, proxy = _connection_options(settings, now)
        kind = httpcore.ConnectionPool if proxy is None else httpcore.HTTPProxy
        maker = kind(network_backend=JourneyBackend(), **options, **(proxy or {}))
        self._pool = Connections(  # type: ignore[assignment]  # it is asked for nothing more
            maker.create_connection, settings.max_connections, monotonic
        )


class _AsyncPool(httpx.AsyncHTTPTransport):
    """httpx's transport over connections of our own: httpx has no setting for the sockets."""

    def __init__(self, settings: Settings, now: datetime, monotonic: Callable[[], float]) -> None:
        options, proxy = _connection_options(settings, now)
        kind = httpcore.AsyncConnectionPool if proxy is None else httpcore.AsyncHTTPProxy
        maker = kind(network_backend=AsyncJourneyBackend(), **options, **(proxy or {}))
        self._pool = AsyncConnections(  # type: ignore[assignment]  # it is asked for nothing more
            maker.create_connection, settings.max_connections, monotonic
        )


def _connection_options(
    settings: Settings, now: datetime
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    options = {"ssl_context": _context(settings, now), "retries": 0}
    url = _proxy_url(settings)
    if url is None:
        return options, None
    proxy = httpx.Proxy(url)
    address = httpcore.URL(
        scheme=proxy.url.raw_scheme, host=proxy.url.raw_host, port=proxy.url.port, target=b"/"
    )
    return options, {"proxy_url": address, "proxy_auth": proxy.raw_auth}


def _context(settings: Settings, now: datetime) -> ssl.SSLContext | None:
    certificate = settings.certificate
    if isinstance(certificate, ClientCertificate):
        return ssl_context(certificate, now=now)
    if certificate is not None:
        require_verifying(certificate)
    elif settings.base_url.startswith("https://"):
        raise InvalidInputError(
            "Settings.certificate is not set, but bLink demands mutual TLS. Nothing was sent."
        )
    return certificate


def _proxy_url(settings: Settings) -> str | None:
    if settings.proxy is not None:
        return settings.proxy.reveal()
    if not settings.trust_env:
        return None
    target = urlsplit(settings.base_url)
    proxy = getproxies().get(target.scheme)
    return None if proxy is None or proxy_bypass(target.hostname or "") else proxy
