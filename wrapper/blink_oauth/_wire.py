"""How a call travels: connections, the total deadline, and a transport that keeps every byte.

The generated code sends with a client of httpx. The transport here reads a whole response before
anybody parses it, and hands on the body alone: there is no cookie, no redirect target and no
encoding for httpx to act on.

Each connection is a pool of httpcore for one connection: a larger one looks at all its connections
for each request. The connection that was used last is used next; the others age below it and are
closed. A forked process leaves them to its parent: two that write to one TLS connection break it.

httpx limits each wait, so a server that sends a byte now and then holds a call for ever. Here every
wait is also limited by what is left of the call's total time. Looking up the host name is the one
wait that the operating system does not let us limit.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AsyncExitStack, ExitStack, contextmanager
from contextvars import ContextVar, Token
from datetime import datetime
from functools import cache
from threading import Lock
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakSet

import anyio
import httpcore
import httpx
from attrs import define, field

from ._reply import NoResponse, RawResponse, Reply, no_response_from
from .errors import InvalidInputError
from .headers import RESPONSE_HEADERS
from .settings import Settings
from .tls import ClientCertificate, require_verifying, ssl_context

__all__ = [
    "AsyncHttpClient",
    "HttpClient",
    "RoundTrip",
    "client_options",
    "new_async_transport",
    "new_transport",
]

MAX_BODY = 1 << 20
"""Bytes of a body that are read at most. A token response is a thousandth of that."""
MAX_RECEIVED = MAX_BODY + (1 << 16)
"""Bytes of a response that are kept as they arrive, header fields included."""
KEEPALIVE_SECONDS = 5.0
"""Shorter than the idle limit of most servers: if a server closes a connection while a request is
on its way, the outcome of that request is uncertain."""
KEPT_HEADERS = {
    name.lower().encode(): name
    for name in RESPONSE_HEADERS | {"Content-Type", "Date", "Retry-After"}
}
STATUS_LINE = re.compile(rb"HTTP/\d\.\d ([1-5]\d\d)")
ALL_BUSY = "all connections were busy for too long"

HTTPX_ERRORS: dict[type[Exception], type[httpx.TransportError]] = {
    httpcore.ConnectTimeout: httpx.ConnectTimeout,
    httpcore.ReadTimeout: httpx.ReadTimeout,
    httpcore.WriteTimeout: httpx.WriteTimeout,
    httpcore.PoolTimeout: httpx.PoolTimeout,
    httpcore.ConnectError: httpx.ConnectError,
    httpcore.ReadError: httpx.ReadError,
    httpcore.WriteError: httpx.WriteError,
    httpcore.ProxyError: httpx.ProxyError,
    httpcore.UnsupportedProtocol: httpx.UnsupportedProtocol,
    httpcore.LocalProtocolError: httpx.LocalProtocolError,
    httpcore.RemoteProtocolError: httpx.RemoteProtocolError,
}
NETWORK_ERRORS: tuple[type[Exception], ...] = (httpx.TransportError, *HTTPX_ERRORS)


@define(eq=False)
class RoundTrip:
    """One call in progress, as a context: what is sent in it is under its deadline.

    Its end decides what came of the call: an answer, even if nobody could parse it, or none.

    Args:
        total: Seconds that it may take.
        monotonic: A clock that never runs backwards, in seconds.
        secure: Whether the request travels through TLS.

    Attributes:
        sent: Whether any of the request was written; None if no socket of ours was asked.
        received: The bytes of the response as they arrived, up to `MAX_RECEIVED`.
        answer: The response, read but not parsed.
        members: The members of its body, if they could be parsed.
        failure: What happened instead of a response.
    """

    total: float
    monotonic: Callable[[], float]
    secure: bool
    sent: bool | None = None
    received: bytearray = field(factory=bytearray, repr=False)
    answer: RawResponse | None = None
    members: Mapping[str, object] | None = field(default=None, repr=False)
    failure: NoResponse | None = None
    _ends_at: float = field(init=False, default=0.0)
    _outer: Token[RoundTrip] | None = field(init=False, default=None)

    def __enter__(self) -> Self:
        self._ends_at = self.monotonic() + self.total
        self._outer = _current.set(self)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        assert self._outer is not None
        _current.reset(self._outer)
        if error is None:
            return False
        if self.answer is not None and isinstance(error, Exception):
            # The parser did not expect the body, or the connection could not be closed.
            return True
        if isinstance(error, httpx.TransportError):
            refused = _refused(bytes(self.received))
            self.failure = no_response_from(error, sent=self.sent, refused=refused)
            return True
        # The frames below hold the secrets of the call in plain text: none may stay in a traceback.
        raise error.with_traceback(None)

    def reply(self) -> Reply:
        """Return what came of the call, once the exchange has ended."""
        if self.failure is not None:
            return self.failure
        assert self.answer is not None
        answer = self.answer
        return RawResponse(answer.status, answer.headers, answer.content, answer.cut, self.members)

    def left(self, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
        """Return how many seconds a step may take, or raise that the call is too late for it."""
        left = self._ends_at - self.monotonic()
        if left <= 0:
            raise late("the total time of the call is over")
        return left if timeout is None else min(timeout, left)

    def connecting(self) -> None:
        """Note that a connection is made."""
        # A connection that broke while it was made is made again: nothing was sent on the first.
        self.sent = self.sent or False

    def writing(self, *, secure: bool) -> None:
        """Note that something is written. What goes to a proxy before TLS is not the request."""
        self.sent = self.sent or secure or not self.secure

    def receiving(self, data: bytes, *, secure: bool) -> bytes:
        """Keep what arrives."""
        if secure or not self.secure:
            self.received += data[: MAX_RECEIVED - len(self.received)]
        return data


_current: ContextVar[RoundTrip] = ContextVar("blink_oauth_exchange")


class Received:
    """What arrived of a response."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._status, self._headers = status, headers
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
        """Note why nothing more arrives, if the network fails."""
        try:
            yield
        except NETWORK_ERRORS as exc:
            self._cut = str(exc) or type(exc).__name__

    def note(self) -> httpx.Response:
        """Note the answer in the exchange, and return what the parser gets of it."""
        kept, encoding = _kept(self._headers)
        content = _decoded(bytes(self._bytes), encoding)
        _current.get().answer = RawResponse(self._status, kept, content, self._cut)
        return httpx.Response(self._status, content=content)


def _kept(headers: list[tuple[bytes, bytes]]) -> tuple[dict[str, str], str]:
    kept: dict[str, str] = {}
    encoding = ""
    for field_name, value in headers:
        # A server may send any byte in a header; none can fail to decode this way.
        lower, text = field_name.lower(), value.decode("latin-1")
        if lower == b"content-encoding":
            encoding = f"{encoding},{text}" if encoding else text
        elif lower in KEPT_HEADERS:
            name = KEPT_HEADERS[lower]
            kept[name] = f"{kept[name]}, {text}" if name in kept else text
    return kept, encoding


def _refused(received: bytes) -> RawResponse | None:
    """Read a response that the HTTP parser refused, if its head arrived as a whole."""
    head, blank, content = received.partition(b"\r\n\r\n")
    status = STATUS_LINE.match(head)
    if not blank or status is None:
        return None
    lines = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    kept, encoding = _kept([(name.strip(), value.strip()) for name, _, value in lines])
    return RawResponse(int(status[1]), kept, _decoded(content, encoding), "its head is malformed")


def _decoded(content: bytes, encoding: str) -> bytes:
    if encoding.strip().lower() not in {"gzip", "deflate"}:
        return content
    try:
        # Both formats, and never more than fits: a small body can be blown up a thousand times.
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(content, MAX_BODY)
    except zlib.error:
        return content


class RecordingTransport(httpx.BaseTransport):
    """Reads a response of a transport as far as it comes, and hands on a whole one."""

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return what arrived."""
        response = self._transport.handle_request(request)
        received = Received(response.status_code, response.headers.raw)
        try:
            with received.keeping():
                assert isinstance(response.stream, httpx.SyncByteStream)
                for chunk in response.stream:
                    if received.add(chunk):
                        break
            return received.note()
        finally:
            response.close()

    def close(self) -> None:
        """Close the transport below."""
        self._transport.close()


class AsyncRecordingTransport(httpx.AsyncBaseTransport):
    """Reads a response of a transport as far as it comes, and hands on a whole one."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return what arrived."""
        response = await self._transport.handle_async_request(request)
        received = Received(response.status_code, response.headers.raw)
        try:
            with received.keeping():
                assert isinstance(response.stream, httpx.AsyncByteStream)
                async for chunk in response.stream:
                    if received.add(chunk):
                        break
            return received.note()
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the transport below."""
        await self._transport.aclose()


class FairSemaphore:
    """As many turns at once as there may be connections. The caller that waits longest is next.

    A `threading.Semaphore` lets a thread that ends one call and begins another overtake all those
    that wait, again and again.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._waiting: deque[Future[None]] = deque()
        self._lock = Lock()

    def acquire(self, timeout: float | None) -> None:
        """Wait for a turn, for some seconds at most; raise httpx.PoolTimeout if none came."""
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn: Future[None] = Future()
            self._waiting.append(turn)
        try:
            turn.result(timeout)
        except BaseException as exc:
            # If it came at the last moment, it goes to the next one.
            if not turn.cancel():
                self.release()
            if isinstance(exc, TimeoutError):
                raise httpx.PoolTimeout(ALL_BUSY) from None
            raise

    def release(self) -> None:
        """End a turn."""
        with self._lock:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    turn.set_result(None)
                    return
            self._free += 1


Pool = TypeVar("Pool", httpcore.ConnectionPool, httpcore.AsyncConnectionPool)


class IdleConnections(Generic[Pool]):
    """The connections that nobody uses. The one that was used last is used next."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        # Each with the moment since when; the oldest first.
        self._stack: deque[tuple[float, Pool]] = deque()
        self._monotonic = monotonic
        self._lock = Lock()
        self._ended = False

    def take(self) -> tuple[Pool | None, list[Pool]]:
        """Take the one that was used last, if there is one, and all that are too old to be used."""
        oldest = self._monotonic() - KEEPALIVE_SECONDS
        old = []
        with self._lock:
            while self._stack and self._stack[0][0] < oldest:
                old.append(self._stack.popleft()[1])
            return self._stack.pop()[1] if self._stack else None, old

    def put(self, pool: Pool) -> bool:
        """Keep one for the next call, and say whether there can be one."""
        # A tunnel that a proxy refused, or a call that was cancelled, blocks the pool it is in.
        usable = all(connection.is_available() for connection in pool.connections)
        with self._lock:
            if usable and not self._ended:
                self._stack.append((self._monotonic(), pool))
            return usable and not self._ended

    def end(self) -> list[Pool]:
        """Take all, and keep none from now on."""
        with self._lock:
            self._ended = True
        return self.inherited()

    def inherited(self) -> list[Pool]:
        """Take all, in a process where nobody else does."""
        pools = [pool for _, pool in self._stack]
        self._stack.clear()
        return pools


class Connections(httpx.BaseTransport):
    """The connections that threads share; each call has one of its own while it lasts.

    Closing closes the idle ones. A call in progress finishes: it may bring the only copy of a
    token. Its connection is closed afterwards.
    """

    def __init__(
        self,
        new_pool: Callable[[], httpcore.ConnectionPool],
        limit: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._new_pool, self._limit, self._monotonic = new_pool, limit, monotonic
        self._begin()
        _everywhere.add(self)

    def _begin(self) -> None:
        self._idle: IdleConnections[httpcore.ConnectionPool] = IdleConnections(self._monotonic)
        self._turns = FairSemaphore(self._limit)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on a connection of its own, and return what arrived."""
        with _as_httpx_errors(), ExitStack() as ending:
            self._turns.acquire(_pool_timeout(request))
            ending.callback(self._turns.release)
            pool = self._reusable() or self._new_pool()
            ending.callback(self._put_back, pool)
            response = pool.handle_request(_for_httpcore(request))
            ending.callback(response.close)
            received = Received(response.status, response.headers)
            with received.keeping():
                for chunk in response.iter_stream():
                    if received.add(chunk):
                        break
            return received.note()

    def close(self) -> None:
        """Close the idle connections, and the others as soon as they are idle."""
        for pool in self._idle.end():
            pool.close()

    def leave_to_parent(self) -> None:
        """Start anew in a process that was forked off."""
        inherited = self._idle.inherited()
        self._begin()
        # This closes our descriptors and tells the server nothing: the parent's stay as they are.
        for pool in inherited:
            pool.close()

    def _reusable(self) -> httpcore.ConnectionPool | None:
        pool, old = self._idle.take()
        for each in old:
            each.close()
        return pool

    def _put_back(self, pool: httpcore.ConnectionPool) -> None:
        if not self._idle.put(pool):
            pool.close()


class AsyncConnections(httpx.AsyncBaseTransport):
    """The connections that the tasks of one event loop share; each call has one of its own.

    Closing closes the idle ones. A call in progress finishes: it may bring the only copy of a
    token. Its connection is closed afterwards.
    """

    def __init__(
        self,
        new_pool: Callable[[], httpcore.AsyncConnectionPool],
        limit: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._new_pool, self._limit, self._monotonic = new_pool, limit, monotonic
        self._begin()
        _everywhere.add(self)

    def _begin(self) -> None:
        self._idle: IdleConnections[httpcore.AsyncConnectionPool] = IdleConnections(self._monotonic)
        self._turns = anyio.Semaphore(self._limit)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on a connection of its own, and return what arrived."""
        with _as_httpx_errors():
            async with AsyncExitStack() as ending:
                await self._turn(_pool_timeout(request))
                ending.callback(self._turns.release)
                pool = await self._reusable() or self._new_pool()
                ending.push_async_callback(self._put_back, pool)
                response = await pool.handle_async_request(_for_httpcore(request))
                ending.push_async_callback(response.aclose)
                received = Received(response.status, response.headers)
                with received.keeping():
                    async for chunk in response.aiter_stream():
                        if received.add(chunk):
                            break
                return received.note()

    async def aclose(self) -> None:
        """Close the idle connections, and the others as soon as they are idle."""
        for pool in self._idle.end():
            await _aclose(pool)

    def leave_to_parent(self) -> None:
        """Start anew in a process that was forked off."""
        # Not closed: they are registered with the parent's event loop, and closing one here would
        # take it off the selector that both processes share. Kept, because the collector would
        # close what nobody has any more, whenever it comes by.
        _inherited.extend(self._idle.inherited())
        self._begin()

    async def _turn(self, timeout: float | None) -> None:
        try:
            with anyio.fail_after(timeout):
                await self._turns.acquire()
        except TimeoutError:
            raise httpx.PoolTimeout(ALL_BUSY) from None

    async def _reusable(self) -> httpcore.AsyncConnectionPool | None:
        pool, old = self._idle.take()
        for each in old:
            await _aclose(each)
        return pool

    async def _put_back(self, pool: httpcore.AsyncConnectionPool) -> None:
        if not self._idle.put(pool):
            await _aclose(pool)


_everywhere: WeakSet[Connections | AsyncConnections] = WeakSet()
_inherited: list[httpcore.AsyncConnectionPool] = []


def _leave_all_to_parent() -> None:
    for connections in list(_everywhere):
        connections.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)


async def _aclose(pool: httpcore.AsyncConnectionPool) -> None:
    # A cancelled caller waits for it, but not for long: no close_notify of TLS is exchanged.
    with anyio.CancelScope(shield=True):
        await pool.aclose()


def _pool_timeout(request: httpx.Request) -> float | None:
    timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
    return timeouts.get("pool")


def _for_httpcore(request: httpx.Request) -> httpcore.Request:
    url = request.url
    address = httpcore.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
    )
    return httpcore.Request(
        request.method,
        address,
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


@contextmanager
def _as_httpx_errors() -> Iterator[None]:
    try:
        yield
    except tuple(HTTPX_ERRORS) as exc:
        raise HTTPX_ERRORS[type(exc)](str(exc)) from exc


class _NetworkStream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream, *, secure: bool = False) -> None:
        self._stream = stream
        self._secure = secure

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        exchange = _current.get()
        data = self._stream.read(max_bytes, exchange.left(timeout, httpcore.ReadTimeout))
        return exchange.receiving(data, secure=self._secure)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        exchange = _current.get()
        left = exchange.left(timeout, httpcore.WriteTimeout)
        exchange.writing(secure=self._secure)
        self._stream.write(buffer, left)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = _current.get().left(timeout, httpcore.ConnectTimeout)
        secured = self._stream.start_tls(ssl_context, server_hostname, left)
        return _NetworkStream(secured, secure=True)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    """Opens connections that know the exchange they serve."""

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **options: Any
    ) -> httpcore.NetworkStream:
        exchange = _current.get()
        exchange.connecting()
        # The standard library would grant the whole timeout to each address of the host in turn.
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in _addresses(host, port):
            left = exchange.left(timeout, httpcore.ConnectTimeout)
            try:
                return _NetworkStream(super().connect_tcp(address, port, left, *args, **options))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
        raise failure


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise httpcore.ConnectError(f"the host name {host} cannot be resolved") from exc
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _AsyncNetworkStream(httpcore.AsyncNetworkStream):
    def __init__(self, stream: httpcore.AsyncNetworkStream, *, secure: bool = False) -> None:
        self._stream = stream
        self._secure = secure

    # httpcore's asynchronous streams let an alert of TLS through as it is, the others do not.
    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        exchange = _current.get()
        left = exchange.left(timeout, httpcore.ReadTimeout)
        try:
            data = await self._stream.read(max_bytes, left)
        except ssl.SSLError as exc:
            raise httpcore.ReadError(exc) from exc
        return exchange.receiving(data, secure=self._secure)

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        exchange = _current.get()
        left = exchange.left(timeout, httpcore.WriteTimeout)
        exchange.writing(secure=self._secure)
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
        left = _current.get().left(timeout, httpcore.ConnectTimeout)
        secured = await self._stream.start_tls(ssl_context, server_hostname, left)
        return _AsyncNetworkStream(secured, secure=True)

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class _AsyncBackend(httpcore.AnyIOBackend):
    """Opens connections that know the exchange they serve; for asyncio and trio alike."""

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **options: Any
    ) -> httpcore.AsyncNetworkStream:
        exchange = _current.get()
        exchange.connecting()
        left = exchange.left(timeout, httpcore.ConnectTimeout)
        stream = await super().connect_tcp(host, port, left, *args, **options)
        return _AsyncNetworkStream(stream)


def new_transport(
    settings: Settings,
    now: datetime,
    monotonic: Callable[[], float],
    given: httpx.BaseTransport | None,
) -> httpx.BaseTransport:
    """Make the transport of a client, over the network or over what is given instead.

    Raises:
        InvalidInputError: The certificate or the proxy cannot be used.
    """
    if given is not None:
        return RecordingTransport(given)
    pool, proxy = _pool_options(settings, now)
    kind = httpcore.HTTPProxy if proxy else httpcore.ConnectionPool
    backend = _Backend()
    return Connections(
        lambda: kind(network_backend=backend, **pool, **proxy), settings.max_connections, monotonic
    )


def new_async_transport(
    settings: Settings,
    now: datetime,
    monotonic: Callable[[], float],
    given: httpx.AsyncBaseTransport | None,
) -> httpx.AsyncBaseTransport:
    """Make the transport of a client, over the network or over what is given instead.

    Raises:
        InvalidInputError: The certificate or the proxy cannot be used.
    """
    if given is not None:
        return AsyncRecordingTransport(given)
    pool, proxy = _pool_options(settings, now)
    kind = httpcore.AsyncHTTPProxy if proxy else httpcore.AsyncConnectionPool
    backend = _AsyncBackend()
    return AsyncConnections(
        lambda: kind(network_backend=backend, **pool, **proxy), settings.max_connections, monotonic
    )


class HttpClient(httpx.Client):
    """httpx's client, which joins each path to the base URL once, and not for each request."""

    def build_request(self, method: str, url: httpx.URL | str, **options: Any) -> httpx.Request:
        """Build a request."""
        return super().build_request(method, _joined(self.base_url, url), **options)


class AsyncHttpClient(httpx.AsyncClient):
    """httpx's client, which joins each path to the base URL once, and not for each request."""

    def build_request(self, method: str, url: httpx.URL | str, **options: Any) -> httpx.Request:
        """Build a request."""
        return super().build_request(method, _joined(self.base_url, url), **options)


@cache
def _joined(base: httpx.URL, path: httpx.URL | str) -> httpx.URL:
    # Not `join`: it reads a base path that begins with two slashes as another host.
    return base.copy_with(raw_path=base.raw_path.rstrip(b"/") + str(path).encode())


def client_options(settings: Settings) -> dict[str, Any]:
    """Return how httpx's client is made, whatever its transport.

    Raises:
        InvalidInputError: The host is impossible.
    """
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


def _pool_options(settings: Settings, now: datetime) -> tuple[dict[str, Any], dict[str, Any]]:
    options = {"ssl_context": _context(settings, now), "max_connections": 1, "retries": 0}
    url = _proxy_url(settings)
    if url is None:
        return options, {}
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
