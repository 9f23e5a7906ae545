"""The transports: connections, the total deadline, and a record of each response.

The generated code sends with a client of httpx. A transport here reads and records the complete
response before it is parsed. httpx gets the status and the decompressed body only, so there are no
cookies, redirects or encodings for it to process.

Each connection is a pool of httpcore for one connection, because a larger pool searches all its
connections for each request. The connection that was used last is used next, and the others are
closed when they have been idle for too long. A forked process opens its own connections: two
processes that write to the same TLS connection would break it. When the client certificate was
renewed, the idle connections are closed, and those in use after their call.

httpx limits each wait, but not their sum: a server that sends a byte now and then could hold a call
for ever. Here each wait is also limited by the remaining total time of the call. The exception is
the look-up of the host name, which the operating system does not let us limit. Bytes that arrived
in time are read although a timeout has passed: the process may have been frozen meanwhile.

A connection is used again only if nothing came behind the response to the call before, because a
later call would take those bytes for its own response.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from contextvars import ContextVar, Token
from functools import cache
from threading import Lock
from types import TracebackType
from typing import Any, Generic, Self, TypeVar
from weakref import WeakSet

import anyio
import anyio.to_thread
import httpcore
import httpx
from anyio.lowlevel import RunVar
from attrs import define, evolve, field

from ._proxy import parse_proxy
from ._received import (
    MAX_BODY,
    body_of_refused,
    is_one_response,
    is_whole,
    parse_malformed,
    response_of,
)
from ._reply import NoResponse, RawResponse, Reply, no_response_from
from .errors import InvalidInputError
from .renewal import ContextSource
from .settings import Settings
from .slots import AsyncSlots, Slots
from .tls import trusting_context

__all__ = [
    "AsyncHttpClient",
    "HttpClient",
    "RoundTrip",
    "client_options",
    "new_async_transport",
    "new_transport",
]

MAX_RECEIVED = MAX_BODY + (1 << 16)
"""Bytes of a response that are kept in raw form at most, header fields included."""
READ_SIZE = 1 << 16
KEEPALIVE_SECONDS = 1.0
"""A connection that was idle for longer is not used: the server may be about to close it, and the
outcome of a request that crosses the close is uncertain. The shortest idle timeout of a common
server is two seconds; no value here excludes one that is shorter, or a server that restarts."""
MAX_REUSABLE = 1 << 15
"""Bytes of a response after which its connection is used again at most. More than that may not fit
into one read, and then bytes behind it can be in a buffer that cannot be inspected."""
LATE_WAIT = 0.001
"""Seconds of a read after its timeout: enough to take what has arrived, also from an event loop."""
LATE_READS = 1000
"""Reads of a call after their timeout. So a call ends a second after its total time at most."""

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
    """One request and its response, as a context manager that sets the deadline for all its waits.

    At its end it catches the exceptions of the network and of the parser; `reply` has the result.

    Args:
        total: The seconds that it may take.
        monotonic: Returns seconds of a clock that never goes back.

    Attributes:
        sent: Whether a part of the request was written; None if no socket of ours was used.
        received: The raw bytes of the response, up to `MAX_RECEIVED`.
        reusable: Whether the connection can be used for another call.
        stream: The connection that the response is read from.
        response: The response before it is parsed.
        members: The members of its body, if the generated parser could read it.
        failure: The reason why there is no response.
    """

    total: float
    monotonic: Callable[[], float]
    sent: bool | None = None
    received: bytearray = field(factory=bytearray, repr=False)
    reusable: bool = False
    stream: _NetworkStream | _AsyncNetworkStream | None = None
    response: RawResponse | None = None
    members: Mapping[str, object] | None = field(default=None, repr=False)
    failure: NoResponse | None = None
    _ends_at: float = field(init=False, default=0.0)
    _late_reads: int = field(init=False, default=0)
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
        if self.response is not None and isinstance(error, Exception):
            # The parser could not read the body, or the connection could not be closed.
            return True
        if isinstance(error, httpx.TransportError):
            malformed = parse_malformed(bytes(self.received))
            self.failure = no_response_from(
                error, sent=self.sent, answered=bool(self.received), malformed=malformed
            )
            return True
        # The inner frames contain the secrets of the call in plain text, and an exception of the
        # HTTP library may quote the response; no traceback may.
        error.__cause__ = error.__context__ = None
        raise error.with_traceback(None)

    def reply(self) -> Reply:
        """Return the reply, once the context has ended."""
        if self.failure is not None:
            return self.failure
        assert self.response is not None
        return evolve(self.response, members=self.members)

    def stream_of_rest(self) -> _NetworkStream | _AsyncNetworkStream | None:
        """Return the connection, if it may have more of a response that the parser refused."""
        received = bytes(self.received)
        is_over = not received or len(received) >= MAX_RECEIVED or is_whole(received)
        return None if is_over else self.stream

    def remaining(self, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
        """Return the seconds that one wait may take; raise `late` if the total time is over."""
        remaining = self._ends_at - self.monotonic()
        if remaining <= 0:
            raise late("the total time of the call is over")
        return remaining if timeout is None else min(timeout, remaining)

    def late_read(self) -> float:
        """Return the seconds of a read after its timeout; raise `ReadTimeout` after too many."""
        self._late_reads += 1
        if self._late_reads > LATE_READS or len(self.received) >= MAX_RECEIVED:
            raise httpcore.ReadTimeout("too much to read after the timeout")
        return LATE_WAIT

    def on_connect(self) -> None:
        """Record that a connection is being made."""
        # `sent` stays True if an earlier connection of this round trip has written.
        self.sent = self.sent or False

    def on_write(self) -> None:
        """Record that bytes of the request are written."""
        self.sent = True

    def on_read(self, data: bytes) -> None:
        """Record bytes of the response that were read."""
        self.received += data[: MAX_RECEIVED - len(self.received)]

    def on_end(self, body: bytes | bytearray, headers: list[tuple[bytes, bytes]]) -> None:
        """Record that the body has been read, as the HTTP parser understood it."""
        chunked = any(name.lower() == b"transfer-encoding" for name, _ in headers)
        self.reusable = len(self.received) <= MAX_REUSABLE and is_one_response(
            self.received, body, chunked=chunked
        )


_current: ContextVar[RoundTrip] = ContextVar("blink_oauth_round_trip")


class ResponseRecorder:
    """Collects the body of a response, and records the response in the round trip."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._status, self._headers = status, headers
        self.body = bytearray()
        self._incomplete_because: str | None = None
        self._is_refused = False

    def add(self, chunk: bytes) -> bool:
        """Add a chunk, and return whether the body has reached its limit."""
        self.body += chunk
        if len(self.body) > MAX_BODY:
            self._incomplete_because = f"it is longer than {MAX_BODY} bytes"
        return self._incomplete_because is not None

    @contextmanager
    def network_errors_recorded(self) -> Iterator[None]:
        """Record a network error as the reason why the body is incomplete."""
        try:
            yield
        except NETWORK_ERRORS as exc:
            self._incomplete_because = "the connection failed before its end"
            self._is_refused = isinstance(exc, httpcore.RemoteProtocolError)

    def finish(self) -> httpx.Response:
        """Record the response, and return its status and body for the parser."""
        round_trip = _current.get()
        body = bytes(self.body)
        if self._is_refused:
            body = body_of_refused(bytes(round_trip.received))
        response = response_of(self._status, self._headers, body, self._incomplete_because)
        round_trip.response = response
        return httpx.Response(self._status, content=response.content)


class RecordingTransport(httpx.BaseTransport):
    """Records the responses of another transport, also those that are incomplete."""

    def __init__(self, transport: httpx.BaseTransport) -> None:
        self._transport = transport

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the status and body of the response."""
        response = self._transport.handle_request(request)
        recorder = ResponseRecorder(response.status_code, response.headers.raw)
        try:
            with recorder.network_errors_recorded():
                assert isinstance(response.stream, httpx.SyncByteStream)
                for chunk in response.stream:
                    if recorder.add(chunk):
                        break
            return recorder.finish()
        finally:
            response.close()

    def close(self) -> None:
        """Close the other transport."""
        self._transport.close()


class AsyncRecordingTransport(httpx.AsyncBaseTransport):
    """Records the responses of another transport, also those that are incomplete."""

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the status and body of the response."""
        response = await self._transport.handle_async_request(request)
        recorder = ResponseRecorder(response.status_code, response.headers.raw)
        try:
            with recorder.network_errors_recorded():
                assert isinstance(response.stream, httpx.AsyncByteStream)
                async for chunk in response.stream:
                    if recorder.add(chunk):
                        break
            return recorder.finish()
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the other transport."""
        await self._transport.aclose()


Pool = TypeVar("Pool", httpcore.ConnectionPool, httpcore.AsyncConnectionPool)


class IdleConnections(Generic[Pool]):
    """A stack of the idle connections. The connection that was used last is used next.

    Args:
        context: The TLS context of all of them.
        monotonic: Returns seconds of a clock that never goes back.
    """

    def __init__(self, context: ssl.SSLContext | None, monotonic: Callable[[], float]) -> None:
        self.context = context
        # Each with the time since which it has been idle; the longest first.
        self._stack: deque[tuple[float, Pool]] = deque()
        self._monotonic = monotonic
        self._lock = Lock()
        self._closed = False

    def take(self) -> tuple[Pool | None, list[Pool]]:
        """Remove and return the connection that was used last, or None, and all expired ones."""
        oldest = self._monotonic() - KEEPALIVE_SECONDS
        expired = []
        with self._lock:
            while self._stack and self._stack[0][0] < oldest:
                expired.append(self._stack.popleft()[1])
            return self._stack.pop()[1] if self._stack else None, expired

    def put(self, pool: Pool) -> bool:
        """Add a connection, and return whether it was added; if not, it has to be closed."""
        # A tunnel that a proxy refused, or a cancelled call, makes its pool unusable.
        usable = all(connection.is_available() for connection in pool.connections)
        with self._lock:
            if usable and not self._closed:
                self._stack.append((self._monotonic(), pool))
            return usable and not self._closed

    def close(self) -> list[Pool]:
        """Remove and return all connections, and accept none from now on."""
        with self._lock:
            self._closed = True
            return self.take_all()

    def take_all(self) -> list[Pool]:
        """Remove and return all connections. No other thread may add or take one meanwhile."""
        pools = [pool for _, pool in self._stack]
        self._stack.clear()
        return pools


class Connections(httpx.BaseTransport):
    """The connections of a client that threads share. A call uses one connection exclusively.

    `close` closes the idle connections. A call in progress finishes, because its response may
    contain the only copy of a token. Its connection is closed afterwards.
    """

    def __init__(
        self,
        new_pool: Callable[[ssl.SSLContext | None], httpcore.ConnectionPool],
        source: ContextSource,
        limit: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._new_pool, self._source = new_pool, source
        self._limit, self._monotonic = limit, monotonic
        self._closed = False
        self._reset()
        _transports.add(self)

    def _reset(self) -> None:
        self._renewing = Lock()
        self._idle = self._no_connections()
        self._slots = Slots(self._limit)

    def _no_connections(self) -> IdleConnections[httpcore.ConnectionPool]:
        return IdleConnections(self._source.context, self._monotonic)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on a connection, and return the status and body of the response."""
        with _as_httpx_errors(), ExitStack() as cleanup:
            self._slots.acquire(request)
            cleanup.callback(self._slots.release)
            idle = self._current()
            pool = _take(idle) or self._new_pool(idle.context)
            cleanup.callback(_put_back, idle, pool)
            response = pool.handle_request(_for_httpcore(request, _read_rest))
            cleanup.callback(response.close)
            recorder = ResponseRecorder(response.status, response.headers)
            with recorder.network_errors_recorded():
                for chunk in response.iter_stream():
                    if recorder.add(chunk):
                        break
            _current.get().on_end(recorder.body, response.headers)
            return recorder.finish()

    def close(self) -> None:
        """Close the idle connections, and the others when their calls have finished."""
        with self._renewing:
            self._closed = True
            pools = self._idle.close()
        for pool in pools:
            pool.close()

    def after_fork(self) -> None:
        """Start without connections in a child process."""
        pools = self._idle.take_all()
        self._reset()
        # This closes the descriptors of the child without a TLS shutdown: the parent's stay open.
        for pool in pools:
            pool.close()

    def _current(self) -> IdleConnections[httpcore.ConnectionPool]:
        """Return the idle connections of the current context, and close those of the one before."""
        if self._source.is_due():
            self._source.look()
        if self._idle.context is self._source.context:
            return self._idle
        with self._renewing:
            before = self._idle
            if not self._closed and before.context is not self._source.context:
                self._idle = self._no_connections()
            current = self._idle
        if current is not before:
            for pool in before.close():
                pool.close()
        return current


def _take(
    idle: IdleConnections[httpcore.ConnectionPool],
) -> httpcore.ConnectionPool | None:
    pool, expired = idle.take()
    for each in expired:
        each.close()
    return pool


def _put_back(
    idle: IdleConnections[httpcore.ConnectionPool], pool: httpcore.ConnectionPool
) -> None:
    if not (_current.get().reusable and idle.put(pool)):
        pool.close()


class AsyncConnections(httpx.AsyncBaseTransport):
    """The connections of a client in one event loop. A call uses one connection exclusively.

    `aclose` closes the idle connections. A call in progress finishes, because its response may
    contain the only copy of a token. Its connection is closed afterwards.
    """

    def __init__(
        self,
        new_pool: Callable[[ssl.SSLContext | None], httpcore.AsyncConnectionPool],
        source: ContextSource,
        limit: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._new_pool, self._source = new_pool, source
        self._limit, self._monotonic = limit, monotonic
        self._closed = False
        self._reset()
        _transports.add(self)

    def _reset(self) -> None:
        self._loop: object = None
        self._choosing = Lock()
        self._idle = self._no_connections()
        self._slots = AsyncSlots(self._limit)

    def _no_connections(self) -> IdleConnections[httpcore.AsyncConnectionPool]:
        return IdleConnections(self._source.context, self._monotonic)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request on a connection, and return the status and body of the response."""
        self._require_own_loop()
        with _as_httpx_errors():
            async with AsyncExitStack() as cleanup:
                await self._slots.acquire(request)
                cleanup.callback(self._slots.release)
                idle = await self._current()
                pool = await _atake(idle) or self._new_pool(idle.context)
                cleanup.push_async_callback(_aput_back, idle, pool)
                response = await pool.handle_async_request(_for_httpcore(request, _aread_rest))
                cleanup.push_async_callback(response.aclose)
                recorder = ResponseRecorder(response.status, response.headers)
                with recorder.network_errors_recorded():
                    async for chunk in response.aiter_stream():
                        if recorder.add(chunk):
                            break
                _current.get().on_end(recorder.body, response.headers)
                return recorder.finish()

    async def aclose(self) -> None:
        """Close the idle connections, and the others when their calls have finished."""
        self._closed = True
        await _aclose_all(self._idle.close())

    def after_fork(self) -> None:
        """Start without connections in a child process."""
        # The connections are not closed: closing one would remove it from the selector of the
        # parent's event loop, which both processes share. They stay referenced, because the
        # garbage collector would close them.
        _pools_of_parent.extend(self._idle.take_all())
        self._reset()

    def _require_own_loop(self) -> None:
        """Require that all calls come from one event loop.

        Raises:
            InvalidInputError: This one does not. A connection of the other loop might fail only
                after the request was sent.
        """
        running = _running_loop.get(None) or object()
        _running_loop.set(running)
        with self._choosing:
            self._loop = self._loop or running
        if self._loop is not running:
            raise InvalidInputError(
                "The client belongs to the event loop of its first call, and this is another one: "
                "make one AsyncBlinkOAuth for each loop. Nothing was sent."
            )

    async def _current(self) -> IdleConnections[httpcore.AsyncConnectionPool]:
        """Return the idle connections of the current context, and close those of the one before."""
        if self._source.is_due():
            # Loading a key takes long enough to delay other tasks.
            await anyio.to_thread.run_sync(self._source.look)
        before = self._idle
        if not self._closed and before.context is not self._source.context:
            self._idle = self._no_connections()
            await _aclose_all(before.close())
        return self._idle


async def _atake(
    idle: IdleConnections[httpcore.AsyncConnectionPool],
) -> httpcore.AsyncConnectionPool | None:
    pool, expired = idle.take()
    for each in expired:
        await _aclose(each)
    return pool


async def _aput_back(
    idle: IdleConnections[httpcore.AsyncConnectionPool], pool: httpcore.AsyncConnectionPool
) -> None:
    if not (_current.get().reusable and idle.put(pool)):
        await _aclose(pool)


_running_loop: RunVar[object] = RunVar("blink_oauth_running_loop")
"""An object for each event loop, of asyncio or trio."""
_transports: WeakSet[Connections | AsyncConnections] = WeakSet()
_pools_of_parent: list[httpcore.AsyncConnectionPool] = []


def _reset_all_after_fork() -> None:
    for transport in list(_transports):
        transport.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_reset_all_after_fork)


async def _aclose_all(pools: Iterable[httpcore.AsyncConnectionPool]) -> None:
    # It closes them all, even if the caller is cancelled meanwhile.
    async with AsyncExitStack() as stack:
        for pool in pools:
            stack.push_async_callback(_aclose, pool)


async def _aclose(pool: httpcore.AsyncConnectionPool) -> None:
    # Shielded from cancellation. It does not wait for the server: no TLS close_notify is exchanged.
    with anyio.CancelScope(shield=True):
        await pool.aclose()


def _read_rest(_event: str, info: Mapping[str, Any]) -> None:
    """Read the rest of a response that the HTTP parser refuses: it may contain a token.

    httpcore reports the error here before it closes the connection.
    """
    if isinstance(info.get("exception"), httpcore.RemoteProtocolError):
        with suppress(*NETWORK_ERRORS):
            while isinstance(stream := _current.get().stream_of_rest(), _NetworkStream):
                if not stream.read(READ_SIZE):
                    return


async def _aread_rest(_event: str, info: Mapping[str, Any]) -> None:
    """Read the rest of a response that the HTTP parser refuses, as `_read_rest` does."""
    if isinstance(info.get("exception"), httpcore.RemoteProtocolError):
        with suppress(*NETWORK_ERRORS):
            while isinstance(stream := _current.get().stream_of_rest(), _AsyncNetworkStream):
                if not await stream.read(READ_SIZE):
                    return


def _for_httpcore(request: httpx.Request, trace: Callable[..., Any]) -> httpcore.Request:
    url = request.url
    address = httpcore.URL(
        scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
    )
    return httpcore.Request(
        request.method,
        address,
        headers=request.headers.raw,
        content=request.stream,
        extensions={**request.extensions, "trace": trace},
    )


@contextmanager
def _as_httpx_errors() -> Iterator[None]:
    try:
        yield
    except tuple(HTTPX_ERRORS) as exc:
        raise HTTPX_ERRORS[type(exc)](str(exc)) from exc


def _tls_in_memory(
    stream: httpcore.NetworkStream | httpcore.AsyncNetworkStream,
) -> list[ssl.SSLObject]:
    tls = stream.get_extra_info("ssl_object")
    return [tls] if isinstance(tls, ssl.SSLObject) else []


def _has_record(tls: ssl.SSLObject) -> bool:
    try:
        # At most one byte is lost, of a connection that is closed for it.
        tls.read(1)
    except ssl.SSLWantReadError:
        return False
    except ssl.SSLError:
        return True
    return True


class _NetworkStream(httpcore.NetworkStream):
    """Limits and observes a connection.

    Args:
        stream: The connection.
        handshakes: The number of TLS handshakes until it is the connection for the request: one
            with an https proxy, one with the server of an https URL.
        tls: The layers of TLS whose records wait in memory, where the socket does not show them.
    """

    def __init__(
        self, stream: httpcore.NetworkStream, handshakes: int, tls: Sequence[ssl.SSLObject] = ()
    ) -> None:
        self._stream, self._handshakes, self._tls = stream, handshakes, tls

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        round_trip = _current.get()
        round_trip.stream = self
        try:
            wait = round_trip.remaining(timeout, httpcore.ReadTimeout)
            data = self._stream.read(max_bytes, wait)
        except httpcore.ReadTimeout:
            if self._handshakes:
                raise
            data = self._stream.read(max_bytes, round_trip.late_read())
        if not self._handshakes:
            round_trip.on_read(data)
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            # The end of a request is an empty write. No timeout may stop the read that follows.
            return
        round_trip = _current.get()
        remaining = round_trip.remaining(timeout, httpcore.WriteTimeout)
        if not self._handshakes:
            round_trip.on_write()
        self._stream.write(buffer, remaining)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        remaining = _current.get().remaining(timeout, httpcore.ConnectTimeout)
        secured = self._stream.start_tls(ssl_context, server_hostname, remaining)
        tls = [*self._tls, *_tls_in_memory(secured)]
        return _NetworkStream(secured, self._handshakes - 1, tls)

    def get_extra_info(self, info: str) -> Any:
        # httpcore asks an idle connection for it, before it sends a request.
        if info == "is_readable" and any(map(_has_record, self._tls)):
            return True
        return self._stream.get_extra_info(info)


class _Backend(httpcore.SyncBackend):
    """Opens connections whose waits end at the deadline of the current round trip.

    Args:
        handshakes: The number of TLS handshakes of each connection.
    """

    def __init__(self, handshakes: int) -> None:
        self._handshakes = handshakes

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **options: Any
    ) -> httpcore.NetworkStream:
        round_trip = _current.get()
        round_trip.on_connect()
        # The standard library would apply the whole timeout to each address of the host in turn.
        failure: Exception = httpcore.ConnectError("the host name has no address")
        for address in _addresses(host, port):
            remaining = round_trip.remaining(timeout, httpcore.ConnectTimeout)
            try:
                stream = super().connect_tcp(address, port, remaining, *args, **options)
                return _NetworkStream(stream, self._handshakes)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as exc:
                failure = exc
        raise failure


def _addresses(host: str, port: int) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise httpcore.ConnectError("the host name cannot be resolved") from exc
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


class _AsyncNetworkStream(httpcore.AsyncNetworkStream):
    """Limits and observes a connection; for the arguments see `_NetworkStream`."""

    def __init__(
        self,
        stream: httpcore.AsyncNetworkStream,
        handshakes: int,
        tls: Sequence[ssl.SSLObject] = (),
    ) -> None:
        self._stream, self._handshakes, self._tls = stream, handshakes, tls

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        round_trip = _current.get()
        round_trip.stream = self
        # httpcore's asynchronous streams do not convert `ssl.SSLError`, the synchronous ones do.
        try:
            try:
                wait = round_trip.remaining(timeout, httpcore.ReadTimeout)
                data = await self._stream.read(max_bytes, wait)
            except httpcore.ReadTimeout:
                if self._handshakes:
                    raise
                data = await self._stream.read(max_bytes, round_trip.late_read())
        except ssl.SSLError as exc:
            raise httpcore.ReadError(exc) from exc
        if not self._handshakes:
            round_trip.on_read(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        if not buffer:
            return
        round_trip = _current.get()
        remaining = round_trip.remaining(timeout, httpcore.WriteTimeout)
        if not self._handshakes:
            round_trip.on_write()
        try:
            await self._stream.write(buffer, remaining)
        except ssl.SSLError as exc:  # pragma: no cover  # usually the read raises it first
            raise httpcore.WriteError(exc) from exc

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.AsyncNetworkStream:
        remaining = _current.get().remaining(timeout, httpcore.ConnectTimeout)
        secured = await self._stream.start_tls(ssl_context, server_hostname, remaining)
        tls = [*self._tls, *_tls_in_memory(secured)]
        return _AsyncNetworkStream(secured, self._handshakes - 1, tls)

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable" and any(map(_has_record, self._tls)):
            return True
        return self._stream.get_extra_info(info)


class _AsyncBackend(httpcore.AnyIOBackend):
    """Opens connections whose waits end at the deadline; for asyncio and trio.

    Args:
        handshakes: The number of TLS handshakes of each connection.
    """

    def __init__(self, handshakes: int) -> None:
        self._handshakes = handshakes

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **options: Any
    ) -> httpcore.AsyncNetworkStream:
        round_trip = _current.get()
        round_trip.on_connect()
        remaining = round_trip.remaining(timeout, httpcore.ConnectTimeout)
        stream = await super().connect_tcp(host, port, remaining, *args, **options)
        return _AsyncNetworkStream(stream, self._handshakes)


def new_transport(
    settings: Settings,
    source: ContextSource,
    monotonic: Callable[[], float],
    given: httpx.BaseTransport | None,
) -> httpx.BaseTransport:
    """Return the transport of a client: over the network, or a recording one around `given`.

    Raises:
        InvalidInputError: The certificate or the proxy cannot be used.
    """
    if given is not None:
        return RecordingTransport(given)
    _load_context(settings, source)
    proxy = _proxy_options(settings)
    kind = httpcore.HTTPProxy if proxy else httpcore.ConnectionPool
    backend = _Backend(_handshakes(settings, proxy))

    def new_pool(context: ssl.SSLContext | None) -> httpcore.ConnectionPool:
        return kind(ssl_context=context, max_connections=1, network_backend=backend, **proxy)

    return Connections(new_pool, source, settings.max_connections, monotonic)


def new_async_transport(
    settings: Settings,
    source: ContextSource,
    monotonic: Callable[[], float],
    given: httpx.AsyncBaseTransport | None,
) -> httpx.AsyncBaseTransport:
    """Return the transport of a client: over the network, or a recording one around `given`.

    Raises:
        InvalidInputError: The certificate or the proxy cannot be used.
    """
    if given is not None:
        return AsyncRecordingTransport(given)
    _load_context(settings, source)
    proxy = _proxy_options(settings)
    kind = httpcore.AsyncHTTPProxy if proxy else httpcore.AsyncConnectionPool
    backend = _AsyncBackend(_handshakes(settings, proxy))

    def new_pool(context: ssl.SSLContext | None) -> httpcore.AsyncConnectionPool:
        return kind(ssl_context=context, max_connections=1, network_backend=backend, **proxy)

    return AsyncConnections(new_pool, source, settings.max_connections, monotonic)


class HttpClient(httpx.Client):
    """A client of httpx that caches the joined URL of each path."""

    def build_request(self, method: str, url: httpx.URL | str, **options: Any) -> httpx.Request:
        """Build a request."""
        return super().build_request(method, _joined(self.base_url, url), **options)


class AsyncHttpClient(httpx.AsyncClient):
    """A client of httpx that caches the joined URL of each path."""

    def build_request(self, method: str, url: httpx.URL | str, **options: Any) -> httpx.Request:
        """Build a request."""
        return super().build_request(method, _joined(self.base_url, url), **options)


@cache
def _joined(base: httpx.URL, path: httpx.URL | str) -> httpx.URL:
    # `join` would take a base path that begins with two slashes for another host.
    return base.copy_with(raw_path=base.raw_path.rstrip(b"/") + str(path).encode())


def client_options(settings: Settings) -> dict[str, Any]:
    """Return the arguments of httpx's client, except for the transport.

    Raises:
        InvalidInputError: The base URL has an invalid host name.
    """
    limits = settings.timeouts
    return {
        "base_url": _base_url(settings),
        # Both media types of the contract: a strict server sends 406 in place of a body whose type
        # is missing here. Without compression a truncated body can still be read.
        "headers": {
            "Accept": "application/json, application/problem+json",
            "Accept-Encoding": "identity",
        },
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
        # A label of a host has 1 to 63 characters (RFC 1035); httpx does not check all of them.
        valid = all(0 < len(label) < 64 for label in url.host.removesuffix(".").split("."))
    except (httpx.InvalidURL, ValueError):
        valid = False
    if not valid:
        raise InvalidInputError("Settings.base_url has an invalid host name. Nothing was sent.")
    return url


def _proxy_options(settings: Settings) -> dict[str, Any]:
    # Settings have checked the environment, but it may have changed since.
    url = settings.proxy_for(settings.base_url)
    proxy = parse_proxy(url.reveal()) if url else None
    if proxy is None:
        return {}
    address = httpcore.URL(
        scheme=proxy.scheme.encode(), host=proxy.host.encode(), port=proxy.port, target=b"/"
    )
    # httpcore's default context would write the session keys to the file that the environment
    # variable SSLKEYLOGFILE names.
    context = trusting_context(None) if proxy.scheme == "https" else None
    return {
        "proxy_url": address,
        "proxy_auth": proxy.auth,
        "proxy_ssl_context": context,
    }


def _handshakes(settings: Settings, proxy: Mapping[str, Any]) -> int:
    return settings.base_url.startswith("https:") + (proxy.get("proxy_ssl_context") is not None)


def _load_context(settings: Settings, source: ContextSource) -> None:
    if settings.certificate is not None or not settings.base_url.startswith("http://"):
        source.load()
