"""The clients of httpx for requests to the banks' APIs, one of each flavour for a manager.

Each has a transport of ours, which chooses the connection pool: one for each proxy, and for the
asynchronous client one for each event loop, since a connection belongs to the loop that opened it.
After a fork the child starts with new pools, because two processes that write to the same TLS
connection would break it. When the client certificate was renewed, new requests use new pools; a
pool from before is closed when its last response is.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, suppress
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from threading import Lock
from typing import Any, Generic, TypeVar

import httpx
from attrs import define, frozen

from blink_oauth.renewal import ContextSource
from blink_oauth.settings import Settings
from blink_oauth.tls import trusting_context
from blink_oauth.tokens import Secret

from .flights import require_open
from .processes import reset_after_fork

__all__ = ["ApiClients", "ApiTransport", "AsyncApiTransport", "Routes"]

Transport = TypeVar("Transport", httpx.HTTPTransport, httpx.AsyncHTTPTransport)

_pools_of_parent: list[object] = []
"""The parent's pools, in a child. They stay referenced, because the garbage collector would close
their connections, and would remove those of an event loop from the selector that both processes
share."""


@frozen
class Routes:
    """The certificate, limits and proxies of requests to the banks' APIs.

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

    def proxy_of(self, request: httpx.Request) -> Secret | None:
        """Return the URL of the proxy for a request, or None."""
        return self.settings.proxy_for(str(request.url))

    def pool_options(self, proxy: Secret | None, context: ssl.SSLContext) -> dict[str, Any]:
        """Return the arguments of a transport of httpx.

        Args:
            proxy: The URL of its proxy, or None.
            context: Its TLS context.
        """
        limit = self.settings.max_connections
        return {
            "verify": context,
            "trust_env": False,
            "limits": httpx.Limits(max_connections=limit, max_keepalive_connections=limit),
            "proxy": None if proxy is None else _proxy(proxy),
        }


def _proxy(url: Secret) -> httpx.Proxy:
    # httpcore's default context would write the session keys to the file that the environment
    # variable SSLKEYLOGFILE names.
    is_secure = url.reveal().lower().startswith("https:")
    context = trusting_context(None) if is_secure else None
    scheme = "" if "://" in url.reveal() else "http://"
    return httpx.Proxy(scheme + url.reveal(), ssl_context=context)


@define(eq=False)
class Pool(Generic[Transport]):
    """A connection pool, and the number of its responses that are not closed."""

    transport: Transport
    in_use: int = 0


class Pools(Generic[Transport]):
    """The pools of one TLS context, by proxy, and those from before that are still in use.

    Its methods do not wait. One thread at a time may call them.

    Args:
        routes: The certificate, limits and proxies.
        new: Makes a transport of httpx.
    """

    def __init__(self, routes: Routes, new: Callable[..., Transport]) -> None:
        self._routes = routes
        self._new: Callable[..., Transport] = new
        self._context: ssl.SSLContext | None = None
        self._by_proxy: dict[Secret | None, Pool[Transport]] = {}
        self._from_before: set[Pool[Transport]] = set()

    def take(self, proxy: Secret | None) -> tuple[Pool[Transport], list[Transport]]:
        """Return the pool for a request, and the transports that have to be closed."""
        unused: list[Transport] = []
        context = self._routes.context
        if context is not self._context:
            for pool in self._by_proxy.values():
                if pool.in_use:
                    self._from_before.add(pool)
                else:
                    unused.append(pool.transport)
            self._context, self._by_proxy = context, {}
        if proxy not in self._by_proxy:
            options = self._routes.pool_options(proxy, context)
            self._by_proxy[proxy] = Pool(self._new(**options))
        pool = self._by_proxy[proxy]
        pool.in_use += 1
        return pool, unused

    def put_back(self, pool: Pool[Transport]) -> list[Transport]:
        """End a request, and return the transports that have to be closed."""
        pool.in_use -= 1
        if pool.in_use or pool not in self._from_before:
            return []
        self._from_before.discard(pool)
        return [pool.transport]

    def all(self) -> list[Transport]:
        """Return all transports that are open."""
        current = [pool.transport for pool in self._by_proxy.values()]
        return current + [pool.transport for pool in self._from_before]


class _Stream(httpx.SyncByteStream):
    """The body of a response that reports when it is closed."""

    def __init__(self, stream: httpx.SyncByteStream, on_close: Callable[[], None]) -> None:
        self._stream, self._on_close = stream, on_close

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._stream)

    def close(self) -> None:
        try:
            self._stream.close()
        finally:
            self._on_close()


class ApiTransport(httpx.BaseTransport):
    """Sends requests through one pool for each proxy.

    Args:
        routes: The certificate, limits and proxies.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._closed = False
        self._start()
        reset_after_fork(self, ApiTransport.reset)

    def _start(self) -> None:
        self._lock, self._pools = Lock(), Pools(self._routes, httpx.HTTPTransport)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the response."""
        if self._routes.source.is_due():
            self._routes.source.look()
        proxy = self._routes.proxy_of(request)
        with self._lock:
            require_open(closed=self._closed)
            pool, unused = self._pools.take(proxy)
        try:
            for each in unused:
                each.close()
            response = pool.transport.handle_request(request)
        except BaseException:
            self._put_back(pool)
            raise
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _Stream(response.stream, partial(self._put_back, pool))
        return response

    def _put_back(self, pool: Pool[httpx.HTTPTransport]) -> None:
        with self._lock:
            unused = self._pools.put_back(pool)
        for each in unused:
            each.close()

    def close(self) -> None:
        """Close the connections, and refuse further requests."""
        with self._lock:
            self._closed = True
            pools = self._pools.all()
        for pool in pools:
            pool.close()

    def reset(self) -> None:
        """Start without connections in a child process."""
        _pools_of_parent.append(self._pools)
        self._start()


AsyncPools = Pools[httpx.AsyncHTTPTransport]


class _AsyncStream(httpx.AsyncByteStream):
    """The body of a response that puts its pool back when it is closed."""

    def __init__(
        self,
        stream: httpx.AsyncByteStream,
        pools: AsyncPools,
        pool: Pool[httpx.AsyncHTTPTransport],
    ) -> None:
        self._stream, self._pools, self._pool = stream, pools, pool

    def __aiter__(self) -> AsyncIterator[bytes]:
        return aiter(self._stream)

    async def aclose(self) -> None:
        try:
            await self._stream.aclose()
        finally:
            await _put_back(self._pools, self._pool)


async def _put_back(pools: AsyncPools, pool: Pool[httpx.AsyncHTTPTransport]) -> None:
    await _aclose_all(pools.put_back(pool))


async def _aclose_all(transports: Iterable[httpx.AsyncHTTPTransport]) -> None:
    # It closes them all, even if the caller is cancelled meanwhile.
    async with AsyncExitStack() as stack:
        for transport in transports:
            stack.push_async_callback(transport.aclose)


class AsyncApiTransport(httpx.AsyncBaseTransport):
    """Sends requests through one pool for each proxy and event loop.

    The pools of a loop belong to an asynchronous generator: the loop ends its generators before it
    closes, and so the connections are closed while that is possible.

    Args:
        routes: The certificate, limits and proxies.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._closed = False
        self._loops: dict[
            asyncio.AbstractEventLoop, tuple[AsyncPools, AsyncGenerator[AsyncPools]]
        ] = {}
        self._closing: set[asyncio.Task[None]] = set()
        reset_after_fork(self, AsyncApiTransport.reset)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the response."""
        if self._routes.source.is_due():
            # Loading a key takes long enough to delay other tasks.
            await asyncio.to_thread(self._routes.source.look)
        proxy = self._routes.proxy_of(request)
        pools = await self._pools()
        pool, unused = pools.take(proxy)
        try:
            await _aclose_all(unused)
            response = await pool.transport.handle_async_request(request)
        except BaseException:
            await _put_back(pools, pool)
            raise
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _AsyncStream(response.stream, pools, pool)
        return response

    async def _pools(self) -> AsyncPools:
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
    ) -> AsyncGenerator[AsyncPools]:
        pools: AsyncPools = Pools(self._routes, httpx.AsyncHTTPTransport)
        try:
            yield pools
        finally:
            self._loops.pop(loop, None)
            await _aclose_all(pools.all())

    def close(self) -> None:
        """Refuse further requests, and let each event loop close its connections."""
        self._closed = True
        for loop, (_, owner) in list(self._loops.items()):
            # A loop that is closed has closed them, or cannot any more.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._close_in_its_loop, loop, owner)

    def _close_in_its_loop(
        self, loop: asyncio.AbstractEventLoop, owner: AsyncGenerator[AsyncPools]
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
        _pools_of_parent.append(self._loops)
        self._loops, self._closing = {}, set()


async def _aclose(owner: AsyncGenerator[AsyncPools]) -> None:
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
