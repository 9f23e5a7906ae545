"""How a call travels: connections, the total deadline, and a transport that keeps every byte.

`http_client` and `async_http_client` make the httpx client that the generated code sends with. Its
transport reads a whole response before anybody parses it, and hands on only the headers that are
read: there is no cookie, no redirect target and no encoding for httpx to act on.

Each connection is a pool of httpcore for one connection. httpcore's own pools look at all their
connections for each request, and ask the operating system about the idle ones; here the connection
that was used last is used next, the others age below it and are closed. A forked process leaves the
connections to its parent: two processes that write to one TLS connection break it for both.

httpx limits each wait, so a server that sends a byte now and then holds a call for ever. Here every
wait is also limited by what is left of the call's total time. Looking up the host name is the one
wait that the operating system does not let us limit.
"""

from __future__ import annotations

import os
import socket
import ssl
import zlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import AsyncExitStack, ExitStack, contextmanager
from contextvars import ContextVar, Token
from datetime import datetime
from threading import Lock
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass
from weakref import WeakSet

import anyio
import httpcore
import httpx
from attrs import define, evolve, field

from ._reply import Answer, NoAnswer, Reply, no_answer
from .errors import InvalidInputError
from .headers import RESPONSE_HEADERS
from .settings import Settings
from .tls import ClientCertificate, require_verifying, ssl_context

__all__ = ["Exchange", "async_http_client", "http_client"]

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
PARSER_ERRORS = (ValueError, KeyError, TypeError, AttributeError, RecursionError)
"""What a parser may raise about a body that it does not expect."""


# ---- one call


@define(eq=False)
class Exchange:
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
    answer: Answer | None = None
    members: Mapping[str, object] | None = field(default=None, repr=False)
    failure: NoAnswer | None = None
    _ends_at: float = field(init=False, default=0.0)
    _outer: Token[Exchange] | None = field(init=False, default=None)

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
        if isinstance(error, httpx.TransportError):
            self.failure = no_answer(error, sent=self.sent)
            return True
        if self.answer is not None and isinstance(error, PARSER_ERRORS):
            return True
        # The frames below hold the secrets of the call in plain text: none may stay in a traceback.
        raise error.with_traceback(None)

    def reply(self) -> Reply:
        """Return what came of the call, once the exchange has ended."""
        if self.failure is not None:
            return self.failure
        assert self.answer is not None
        return evolve(self.answer, members=self.members)

    def left(self, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
        """Return how many seconds a step may take.

        Raises:
            httpcore.TimeoutException: The total time is over, as the given class.
        """
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


_current: ContextVar[Exchange] = ContextVar("blink_oauth_exchange")


# ---- reading a response


class KeepingTransport(httpx.BaseTransport):
    """Reads a response as far as it comes, notes it in the exchange, and hands on a whole one."""

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return what arrived."""
        response = self._transport.handle_request(request)
        body = _Received()
        try:
            with body.keeping():
                assert isinstance(response.stream, httpx.SyncByteStream)
                for chunk in response.stream:
                    if body.add(chunk):
                        break
        finally:
            response.close()
        return body.note(response)

    def close(self) -> None:
        """Close the transport below."""
        self._transport.close()


class AsyncKeepingTransport(httpx.AsyncBaseTransport):
    """Reads a response as far as it comes, notes it in the exchange, and hands on a whole one."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return what arrived."""
        response = await self._transport.handle_async_request(request)
        body = _Received()
        try:
            with body.keeping():
                assert isinstance(response.stream, httpx.AsyncByteStream)
                async for chunk in response.stream:
                    if body.add(chunk):
                        break
        finally:
            await response.aclose()
        return body.note(response)

    async def aclose(self) -> None:
        """Close the transport below."""
        await self._transport.aclose()


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

    def note(self, response: httpx.Response) -> httpx.Response:
        headers = _kept(response.headers.raw)
        encoding = response.headers.get("Content-Encoding", "")
        content = _decoded(bytes(self._bytes), encoding) if encoding else bytes(self._bytes)
        _current.get().answer = Answer(response.status_code, headers, content, self._cut)
        return httpx.Response(response.status_code, content=content)


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


# ---- sharing connections

Pool = TypeVar("Pool")


class Idle(Generic[Pool]):
    """The connections that nobody uses. The one that was used last is used next.

    Args:
        monotonic: A clock that never runs backwards, in seconds.
    """

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
        with self._lock:
            if not self._ended:
                self._stack.append((self._monotonic(), pool))
            return not self._ended

    def end(self) -> list[Pool]:
        """Take all, and keep none from now on."""
        with self._lock:
            self._ended = True
            return self._taken()

    def disinherit(self) -> list[Pool]:
        """Take all in a process that was forked off, and forget who held the lock."""
        self._lock = Lock()
        return self._taken()

    def _taken(self) -> list[Pool]:
        pools = [pool for _, pool in self._stack]
        self._stack.clear()
        return pools


class Turns:
    """As many turns at once as there may be connections. The caller that waits longest is next.

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


class Connections(httpx.BaseTransport):
    """The connections that threads share; each call has one of its own while it lasts.

    Closing closes the idle ones. A call in progress finishes: it may bring the only copy of a
    token. Its connection is closed afterwards.

    Args:
        new_pool: Makes a pool for one connection; it connects when it is first used.
        limit: How many connections there may be at once.
        monotonic: A clock that never runs backwards, in seconds, for the age of the idle ones.
    """

    def __init__(
        self,
        new_pool: Callable[[], httpcore.ConnectionPool],
        limit: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._new_pool = new_pool
        self._limit = limit
        self._idle: Idle[httpcore.ConnectionPool] = Idle(monotonic)
        self._turns = Turns(limit)
        _everywhere.add(self)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on a connection that is its own until the response is closed."""
        with ExitStack() as ending, _as_httpx_errors():
            try:
                self._turns.take(_patience(request))
            except TimeoutError:
                raise _all_busy() from None
            ending.callback(self._turns.give)
            pool = self._reusable() or self._new_pool()
            ending.callback(self._put_back, pool)
            response = pool.handle_request(_for_httpcore(request))
            ending.callback(response.close)
            return _for_httpx(response, _Stream(response, ending.pop_all()))

    def close(self) -> None:
        """Close the idle connections, and the others as soon as they are idle."""
        for pool in self._idle.end():
            pool.close()

    def leave_to_parent(self) -> None:
        """Start anew in a process that was forked off."""
        self._turns = Turns(self._limit)
        # This closes our descriptors and tells the server nothing: the parent's stay as they are.
        for pool in self._idle.disinherit():
            pool.close()

    def _reusable(self) -> httpcore.ConnectionPool | None:
        pool, old = self._idle.take()
        for each in old:
            each.close()
        return pool

    def _put_back(self, pool: httpcore.ConnectionPool) -> None:
        if not (_is_usable(pool) and self._idle.put(pool)):
            pool.close()


class AsyncConnections(httpx.AsyncBaseTransport):
    """The connections that the tasks of one event loop share; each call has one of its own.

    Closing closes the idle ones. A call in progress finishes: it may bring the only copy of a
    token. Its connection is closed afterwards.

    Args:
        new_pool: Makes a pool for one connection; it connects when it is first used.
        limit: How many connections there may be at once.
        monotonic: A clock that never runs backwards, in seconds, for the age of the idle ones.
    """

    def __init__(
        self,
        new_pool: Callable[[], httpcore.AsyncConnectionPool],
        limit: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._new_pool = new_pool
        self._limit = limit
        self._idle: Idle[httpcore.AsyncConnectionPool] = Idle(monotonic)
        self._turns = anyio.Semaphore(limit)
        _everywhere.add(self)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on a connection that is its own until the response is closed."""
        async with AsyncExitStack() as ending:
            with _as_httpx_errors():
                try:
                    with anyio.fail_after(_patience(request)):
                        await self._turns.acquire()
                except TimeoutError:
                    raise _all_busy() from None
                ending.callback(self._turns.release)
                pool = await self._reusable() or self._new_pool()
                ending.push_async_callback(self._put_back, pool)
                response = await pool.handle_async_request(_for_httpcore(request))
                ending.push_async_callback(response.aclose)
                return _for_httpx(response, _AsyncStream(response, ending.pop_all()))

    async def aclose(self) -> None:
        """Close the idle connections, and the others as soon as they are idle."""
        for pool in self._idle.end():
            await _aclose(pool)

    def leave_to_parent(self) -> None:
        """Start anew in a process that was forked off."""
        self._turns = anyio.Semaphore(self._limit)
        # Not closed: they are registered with the parent's event loop, and closing one here would
        # take it off the selector that both processes share. Kept, because the collector would
        # close what nobody has any more, whenever it comes by.
        _inherited.extend(self._idle.disinherit())

    async def _reusable(self) -> httpcore.AsyncConnectionPool | None:
        pool, old = self._idle.take()
        for each in old:
            await _aclose(each)
        return pool

    async def _put_back(self, pool: httpcore.AsyncConnectionPool) -> None:
        if not (_is_usable(pool) and self._idle.put(pool)):
            await _aclose(pool)


_everywhere: WeakSet[Connections | AsyncConnections] = WeakSet()
_inherited: list[httpcore.AsyncConnectionPool] = []


def _leave_all_to_parent() -> None:
    for connections in list(_everywhere):
        connections.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)


class _Stream(httpx.SyncByteStream):
    """The body of a response; to close it ends the use of its connection."""

    def __init__(self, response: httpcore.Response, ending: ExitStack) -> None:
        self._response, self._ending = response, ending

    def __iter__(self) -> Iterator[bytes]:
        with _as_httpx_errors():
            yield from self._response.iter_stream()

    def close(self) -> None:
        self._ending.close()


class _AsyncStream(httpx.AsyncByteStream):
    """The body of a response; to close it ends the use of its connection."""

    def __init__(self, response: httpcore.Response, ending: AsyncExitStack) -> None:
        self._response, self._ending = response, ending

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx_errors():
            async for chunk in self._response.aiter_stream():
                yield chunk

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._ending.aclose()


def _is_usable(pool: httpcore.ConnectionPool | httpcore.AsyncConnectionPool) -> bool:
    # A tunnel that a proxy refused, or a call that was cancelled, blocks the pool it is in.
    return all(connection.is_available() for connection in pool.connections)


async def _aclose(pool: httpcore.AsyncConnectionPool) -> None:
    # Whoever is cancelled waits for it, but not for long: no farewell is exchanged.
    with anyio.CancelScope(shield=True):
        await pool.aclose()


def _patience(request: httpx.Request) -> float | None:
    timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
    return timeouts.get("pool")


def _all_busy() -> httpx.PoolTimeout:
    return httpx.PoolTimeout("all connections were busy for too long")


def _for_httpcore(request: httpx.Request) -> httpcore.Request:
    url = request.url
    return httpcore.Request(
        method=request.method,
        url=httpcore.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        ),
        headers=request.headers.raw,
        content=request.stream,
        extensions=request.extensions,
    )


def _for_httpx(response: httpcore.Response, stream: _Stream | _AsyncStream) -> httpx.Response:
    return httpx.Response(
        response.status, headers=response.headers, stream=stream, extensions=response.extensions
    )


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


@contextmanager
def _as_httpx_errors() -> Iterator[None]:
    try:
        yield
    except tuple(HTTPX_ERRORS) as exc:
        raise HTTPX_ERRORS[type(exc)](str(exc)) from exc


# ---- sockets under a deadline


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


# ---- the clients


def http_client(
    settings: Settings,
    *,
    now: datetime,
    monotonic: Callable[[], float],
    transport: httpx.BaseTransport | None,
) -> httpx.Client:
    """Make the client that the generated code sends with.

    Args:
        settings: Where to, and how long at most.
        now: The present moment, aware, to check the certificate.
        monotonic: A clock that never runs backwards, in seconds, for the age of idle connections.
        transport: A transport to use instead of the network.

    Raises:
        InvalidInputError: The certificate, the host or the proxy cannot be used.
    """
    if transport is None:
        options, proxy = _pool_options(settings, now)
        kind = httpcore.HTTPProxy if proxy else httpcore.ConnectionPool
        backend = _Backend()
        transport = Connections(
            lambda: kind(network_backend=backend, **options, **proxy),
            settings.max_connections,
            monotonic,
        )
    return httpx.Client(transport=KeepingTransport(transport), **_client_options(settings))


def async_http_client(
    settings: Settings,
    *,
    now: datetime,
    monotonic: Callable[[], float],
    transport: httpx.AsyncBaseTransport | None,
) -> httpx.AsyncClient:
    """Make the client that the generated code sends with.

    Args:
        settings: Where to, and how long at most.
        now: The present moment, aware, to check the certificate.
        monotonic: A clock that never runs backwards, in seconds, for the age of idle connections.
        transport: A transport to use instead of the network.

    Raises:
        InvalidInputError: The certificate, the host or the proxy cannot be used.
    """
    if transport is None:
        options, proxy = _pool_options(settings, now)
        kind = httpcore.AsyncHTTPProxy if proxy else httpcore.AsyncConnectionPool
        backend = _AsyncBackend()
        transport = AsyncConnections(
            lambda: kind(network_backend=backend, **options, **proxy),
            settings.max_connections,
            monotonic,
        )
    return httpx.AsyncClient(
        transport=AsyncKeepingTransport(transport), **_client_options(settings)
    )


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
