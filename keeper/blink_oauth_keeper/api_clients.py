"""The clients of httpx for requests to the banks' APIs, one of each flavour for a manager.

Each has a transport of ours, which chooses the connection: a transport of httpx that one request
uses at a time. A larger pool of httpcore may close a connection that it has already assigned to
another request (encode/httpcore#1110). Each event loop has connections of its own, since one
belongs to the loop that opened it. After a fork the child opens new ones, because two processes
that write to the same TLS connection would break it. When the client certificate was renewed, new
requests use new connections, and one from before is closed when its response is.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, suppress
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from threading import Lock
from typing import Any, Generic, TypeVar

import httpx
from attrs import define, frozen

from blink_oauth.renewal import ContextSource
from blink_oauth.settings import Settings
from blink_oauth.slots import AsyncSlots, Slots
from blink_oauth.tls import trusting_context
from blink_oauth.tokens import Secret

from .clocks import monotonic
from .flights import require_open
from .processes import reset_after_fork

__all__ = ["ApiClients", "ApiTransport", "AsyncApiTransport", "Routes"]

Transport = TypeVar("Transport", httpx.HTTPTransport, httpx.AsyncHTTPTransport)

_connections_of_parent: list[object] = []
"""The parent's connections, in a child. They stay referenced, because the garbage collector would
close them, and would remove those of an event loop from the selector that both processes share."""
KEEPALIVE_SECONDS = 5.0
"""A connection that was idle for longer is closed, as in a pool of httpx."""
ONE_CONNECTION = httpx.Limits(
    max_connections=1, max_keepalive_connections=1, keepalive_expiry=KEEPALIVE_SECONDS
)

Route = tuple[Secret | None, str, str, int | None]
"""The proxy, and the scheme, host and port of the origin."""


@frozen
class Routes:
    """The certificate, limit and proxies of requests to the banks' APIs.

    Args:
        settings: The settings of the client.
        source: The TLS context with the client certificate.
    """

    settings: Settings
    source: ContextSource

    @property
    def context(self) -> ssl.SSLContext:
        """The TLS context for new connections."""
        context = self.source.context
        return self.source.load() if context is None else context

    @property
    def limit(self) -> int:
        """The number of connections that may be open at once."""
        return self.settings.max_connections

    def route_of(self, request: httpx.Request) -> Route:
        """Return the proxy and the origin of a request."""
        url = request.url
        return self.settings.proxy_for(str(url)), url.scheme, url.host, url.port


def _proxy(url: Secret) -> httpx.Proxy:
    # httpcore's default context would write the session keys to the file that the environment
    # variable SSLKEYLOGFILE names.
    is_secure = url.reveal().lower().startswith("https:")
    context = trusting_context(None) if is_secure else None
    scheme = "" if "://" in url.reveal() else "http://"
    return httpx.Proxy(scheme + url.reveal(), ssl_context=context)


@define(eq=False)
class Connection(Generic[Transport]):
    """A transport of httpx for one connection.

    Attributes:
        transport: The transport.
        context: Its TLS context.
        route: The proxy and the origin of its requests.
        idle_since: When its last response was closed, in seconds of the monotonic clock.
    """

    transport: Transport
    context: ssl.SSLContext
    route: Route
    idle_since: float = 0.0


class Connections(Generic[Transport]):
    """The connections of a client, in use and idle. The one that was used last is used next.

    Args:
        routes: The certificate, limit and proxies.
        new: Makes a transport of httpx.

    Attributes:
        closed: Whether to refuse requests.
    """

    def __init__(self, routes: Routes, new: Callable[..., Transport]) -> None:
        self.closed = False
        self._routes = routes
        self._new: Callable[..., Transport] = new
        self._context: ssl.SSLContext | None = None
        self._proxies: dict[Secret, httpx.Proxy] = {}
        self._in_use: set[Connection[Transport]] = set()
        # The one that has been idle for the longest time is the first.
        self._idle: list[Connection[Transport]] = []
        self._lock = Lock()

    def take(self, route: Route) -> tuple[Connection[Transport], list[Transport]]:
        """Return a connection for a request, and the transports that have to be closed.

        Raises:
            InvalidInputError: The connections are closed.
        """
        context, unused = self._routes.context, list[Transport]()
        with self._lock:
            require_open(closed=self.closed)
            if context is not self._context:
                unused += [each.transport for each in self._idle]
                self._context, self._proxies, self._idle = context, {}, []
            oldest = monotonic() - KEEPALIVE_SECONDS
            while self._idle and self._idle[0].idle_since < oldest:
                unused.append(self._idle.pop(0).transport)
            connection = next((each for each in reversed(self._idle) if each.route == route), None)
            if connection is not None:
                self._idle.remove(connection)
            else:
                if self._idle and len(self._idle) + len(self._in_use) >= self._routes.limit:
                    unused.append(self._idle.pop(0).transport)
                connection = Connection(self._transport(route[0], context), context, route)
            self._in_use.add(connection)
        return connection, unused

    def put_back(self, connection: Connection[Transport], *, usable: bool) -> list[Transport]:
        """End a request, and return the transports that have to be closed."""
        with self._lock:
            self._in_use.discard(connection)
            if self.closed or not usable or connection.context is not self._context:
                return [connection.transport]
            connection.idle_since = monotonic()
            self._idle.append(connection)
            return []

    def close(self) -> list[Transport]:
        """Refuse further requests, and return the transports that have to be closed."""
        with self._lock:
            self.closed = True
            idle, self._idle = self._idle, []
            return [each.transport for each in idle] + [each.transport for each in self._in_use]

    def _transport(self, proxy: Secret | None, context: ssl.SSLContext) -> Transport:
        if proxy is not None and proxy not in self._proxies:
            self._proxies[proxy] = _proxy(proxy)
        return self._new(
            verify=context,
            trust_env=False,
            limits=ONE_CONNECTION,
            proxy=None if proxy is None else self._proxies[proxy],
        )


class SyncConnections(Connections[httpx.HTTPTransport]):
    """The connections of a client that threads share."""

    def __init__(self, routes: Routes) -> None:
        super().__init__(routes, httpx.HTTPTransport)
        self.slots = Slots(routes.limit)


class _Stream(httpx.SyncByteStream):
    """The body of a response that frees its connection when it is closed."""

    def __init__(self, stream: httpx.SyncByteStream, cleanup: ExitStack) -> None:
        self._stream, self._cleanup = stream, cleanup

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        with self._cleanup:
            self._stream.close()


class ApiTransport(httpx.BaseTransport):
    """Sends each request on a connection that no other request uses meanwhile.

    Args:
        routes: The certificate, limit and proxies.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._connections = SyncConnections(routes)
        reset_after_fork(self, ApiTransport.reset)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the response."""
        route = self._routes.route_of(request)
        connections = self._connections
        with ExitStack() as cleanup:
            connections.slots.acquire(request)
            cleanup.callback(connections.slots.release)
            if self._routes.source.is_due():
                self._routes.source.look()
            connection, unused = connections.take(route)
            cleanup.push(partial(_put_back, connections, connection))
            _close_all(unused)
            response = connection.transport.handle_request(request)
            assert isinstance(response.stream, httpx.SyncByteStream)
            response.stream = _Stream(response.stream, cleanup.pop_all())
            return response

    def close(self) -> None:
        """Close the connections, and refuse further requests."""
        _close_all(self._connections.close())

    def reset(self) -> None:
        """Start without connections in a child process."""
        before, self._connections = self._connections, SyncConnections(self._routes)
        self._connections.closed = before.closed
        _connections_of_parent.append(before)


def _put_back(
    connections: SyncConnections,
    connection: Connection[httpx.HTTPTransport],
    error: type[BaseException] | None,
    *_: object,
) -> None:
    _close_all(connections.put_back(connection, usable=error is None))


def _close_all(transports: Iterable[httpx.HTTPTransport]) -> None:
    with ExitStack() as stack:
        for transport in transports:
            stack.callback(transport.close)


class AsyncConnections(Connections[httpx.AsyncHTTPTransport]):
    """The connections of a client in one event loop."""

    def __init__(self, routes: Routes) -> None:
        super().__init__(routes, httpx.AsyncHTTPTransport)
        self.slots = AsyncSlots(routes.limit)


class _AsyncStream(httpx.AsyncByteStream):
    """The body of a response that frees its connection when it is closed."""

    def __init__(self, stream: httpx.AsyncByteStream, cleanup: AsyncExitStack) -> None:
        self._stream, self._cleanup = stream, cleanup

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)

    async def aclose(self) -> None:
        async with self._cleanup:
            await self._stream.aclose()


async def _aput_back(
    connections: AsyncConnections,
    connection: Connection[httpx.AsyncHTTPTransport],
    error: type[BaseException] | None,
    *_: object,
) -> None:
    await _aclose_all(connections.put_back(connection, usable=error is None))


async def _aclose_all(transports: Iterable[httpx.AsyncHTTPTransport]) -> None:
    # It closes them all, even if the caller is cancelled meanwhile.
    async with AsyncExitStack() as stack:
        for transport in transports:
            stack.push_async_callback(transport.aclose)


class AsyncApiTransport(httpx.AsyncBaseTransport):
    """Sends each request on a connection of its event loop that no other request uses meanwhile.

    The connections of a loop belong to an asynchronous generator: the loop ends its generators
    before it closes, and so the connections are closed while that is possible.

    Args:
        routes: The certificate, limit and proxies.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._closed = False
        self._loops: dict[
            asyncio.AbstractEventLoop, tuple[AsyncConnections, AsyncGenerator[AsyncConnections]]
        ] = {}
        self._closing: set[asyncio.Task[None]] = set()
        reset_after_fork(self, AsyncApiTransport.reset)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the response."""
        route = self._routes.route_of(request)
        connections = await self._connections()
        async with AsyncExitStack() as cleanup:
            await connections.slots.acquire(request)
            cleanup.callback(connections.slots.release)
            if self._routes.source.is_due():
                # Loading a key takes long enough to delay other tasks.
                await asyncio.to_thread(self._routes.source.look)
            connection, unused = connections.take(route)
            cleanup.push_async_exit(partial(_aput_back, connections, connection))
            await _aclose_all(unused)
            response = await connection.transport.handle_async_request(request)
            assert isinstance(response.stream, httpx.AsyncByteStream)
            response.stream = _AsyncStream(response.stream, cleanup.pop_all())
            return response

    async def _connections(self) -> AsyncConnections:
        require_open(closed=self._closed)
        loop = asyncio.get_running_loop()
        if loop not in self._loops:
            for ended in [each for each in list(self._loops) if each.is_closed()]:
                self._loops.pop(ended, None)
            owner = self._until_the_loop_ends(loop)
            # It does not wait, so no other task of the loop runs in between.
            self._loops[loop] = await anext(owner), owner
        return self._loops[loop][0]

    async def _until_the_loop_ends(
        self, loop: asyncio.AbstractEventLoop
    ) -> AsyncGenerator[AsyncConnections]:
        connections = AsyncConnections(self._routes)
        try:
            yield connections
        finally:
            self._loops.pop(loop, None)
            await _aclose_all(connections.close())

    def close(self) -> None:
        """Refuse further requests, and let each event loop close its connections."""
        self._closed = True
        for loop, (_, owner) in list(self._loops.items()):
            # A loop that is closed has closed them, or cannot any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._close_in_its_loop, loop, owner)

    def _close_in_its_loop(
        self, loop: asyncio.AbstractEventLoop, owner: AsyncGenerator[AsyncConnections]
    ) -> None:
        task = loop.create_task(_aclose(owner))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def aclose(self) -> None:
        """Close the connections of this event loop, and let the other loops close theirs."""
        own = self._loops.pop(asyncio.get_running_loop(), None)
        self.close()
        if own is not None:
            await own[1].aclose()

    async def wait_closed(self) -> None:
        """Wait until the connections of this event loop are closed, after `close`."""
        loop = asyncio.get_running_loop()
        if own := [task for task in self._closing if task.get_loop() is loop]:
            await asyncio.wait(own)

    def reset(self) -> None:
        """Start without connections in a child process."""
        _connections_of_parent.append(self._loops)
        self._loops, self._closing = {}, set()


async def _aclose(owner: AsyncGenerator[AsyncConnections]) -> None:
    await owner.aclose()


class ApiClients:
    """Makes the clients of a manager when they are needed.

    Args:
        settings: The settings of the client.
        source: The TLS context with the client certificate.
    """

    def __init__(self, settings: Settings, source: ContextSource) -> None:
        self._settings, self._source = settings, source
        self._client: tuple[httpx.Client, ApiTransport] | None = None
        self._async_client: tuple[httpx.AsyncClient, AsyncApiTransport] | None = None
        self._closing: AsyncApiTransport | None = None
        self._lock, self._closed = Lock(), False
        reset_after_fork(self, ApiClients.reset)

    def client(self) -> httpx.Client:
        """Return the client for threads.

        Raises:
            InvalidInputError: The manager is closed, or the settings have no certificate.
            CertificateError: The client certificate cannot be used.
        """
        with self._lock:
            if self._client is None or self._client[0].is_closed:
                transport = ApiTransport(self._routes())
                options = client_options(self._settings)
                self._client = httpx.Client(transport=transport, **options), transport
            return self._client[0]

    def async_client(self) -> httpx.AsyncClient:
        """Return the client for coroutines.

        Raises:
            InvalidInputError: The manager is closed, or the settings have no certificate.
            CertificateError: The client certificate cannot be used.
        """
        with self._lock:
            if self._async_client is None or self._async_client[0].is_closed:
                transport = AsyncApiTransport(self._routes())
                options = client_options(self._settings)
                self._async_client = httpx.AsyncClient(transport=transport, **options), transport
            return self._async_client[0]

    def _routes(self) -> Routes:
        require_open(closed=self._closed)
        # An error is raised here, and not by the first request.
        self._source.load()
        return Routes(self._settings, self._source)

    def close(self) -> None:
        """Close the connections of both clients, and make no client any more."""
        with self._lock:
            self._closed = True
            opened = [each[1] for each in (self._client, self._async_client) if each is not None]
            if self._async_client is not None:
                self._closing = self._async_client[1]
            self._client = self._async_client = None
        for transport in opened:
            transport.close()

    async def wait_closed(self) -> None:
        """Wait until the connections of this event loop are closed, after `close`."""
        if self._closing is not None:
            await self._closing.wait_closed()

    def reset(self) -> None:
        """Replace the lock in a child process, which may use a manager that its parent closed."""
        self._lock, self._closed = Lock(), False


def client_options(settings: Settings) -> dict[str, Any]:
    """Return the arguments of a client of httpx, except for the transport."""
    limits = settings.timeouts
    return {
        "timeout": httpx.Timeout(
            connect=limits.connect, read=limits.read, write=limits.write, pool=limits.pool
        ),
        "trust_env": False,
        # Customers share the client: a cookie of one must not be sent for another.
        "cookies": CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    }
