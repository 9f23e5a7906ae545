"""The clients of httpx for requests to the banks' APIs, one of each flavour for a manager.

Each has a transport of ours, which chooses the connection pool: one for each proxy, and for the
asynchronous client one for each event loop, since a connection belongs to the loop that opened it.
After a fork the child starts with new pools, because two processes that write to the same TLS
connection would break it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from datetime import datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from threading import Lock
from typing import Any

import httpx
from attrs import frozen

from blink_oauth.errors import InvalidInputError
from blink_oauth.settings import Settings
from blink_oauth.tls import trusting_context
from blink_oauth.tokens import Secret

from .processes import reset_after_fork

__all__ = ["ApiClients", "ApiTransport", "AsyncApiTransport", "Routes"]

Pools = dict[Secret | None, httpx.HTTPTransport]
AsyncPools = dict[Secret | None, httpx.AsyncHTTPTransport]

_pools_of_parent: list[object] = []
"""The parent's pools, in a child. They stay referenced, because the garbage collector would close
their connections, and would remove those of an event loop from the selector that both processes
share."""


@frozen
class Routes:
    """The certificate, limits and proxies of requests to the banks' APIs.

    Args:
        settings: The settings of the client.
        context: The TLS context with the client certificate.
    """

    settings: Settings
    context: ssl.SSLContext

    def proxy_of(self, request: httpx.Request) -> Secret | None:
        """Return the URL of the proxy for a request, or None."""
        return self.settings.proxy_for(str(request.url))

    def pool_options(self, proxy: Secret | None) -> dict[str, Any]:
        """Return the arguments of a transport of httpx.

        Args:
            proxy: The URL of its proxy, or None.
        """
        limit = self.settings.max_connections
        return {
            "verify": self.context,
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


class ApiTransport(httpx.BaseTransport):
    """Sends requests through one pool for each proxy.

    Args:
        routes: The certificate, limits and proxies.
    """

    def __init__(self, routes: Routes) -> None:
        self._routes = routes
        self._lock, self._closed = Lock(), False
        self._pools: Pools = {}
        reset_after_fork(self, ApiTransport.reset)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request, and return the response."""
        return self._pool(self._routes.proxy_of(request)).handle_request(request)

    def _pool(self, proxy: Secret | None) -> httpx.HTTPTransport:
        with self._lock:
            _require_open(closed=self._closed)
            if proxy not in self._pools:
                self._pools[proxy] = httpx.HTTPTransport(**self._routes.pool_options(proxy))
            return self._pools[proxy]

    def close(self) -> None:
        """Close the connections, and refuse further requests."""
        with self._lock:
            self._closed = True
        for pool in self._pools.values():
            pool.close()

    def reset(self) -> None:
        """Start without connections in a child process."""
        _pools_of_parent.append(self._pools)
        self._lock, self._pools = Lock(), {}


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
        pools, proxy = await self._pools(), self._routes.proxy_of(request)
        if proxy not in pools:
            pools[proxy] = httpx.AsyncHTTPTransport(**self._routes.pool_options(proxy))
        return await pools[proxy].handle_async_request(request)

    async def _pools(self) -> AsyncPools:
        _require_open(closed=self._closed)
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
        pools: AsyncPools = {}
        try:
            yield pools
        finally:
            self._loops.pop(loop, None)
            for pool in pools.values():
                await pool.aclose()

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


def _require_open(*, closed: bool) -> None:
    if closed:
        raise InvalidInputError("The manager is closed. Nothing was sent.")


class ApiClients:
    """Makes the clients of a manager when they are needed.

    Args:
        settings: The settings of the client.
        now: Returns the current time, aware UTC.
    """

    def __init__(self, settings: Settings, now: Callable[[], datetime]) -> None:
        self._settings, self._now = settings, now
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
        _require_open(closed=self._closed)
        return Routes(self._settings, self._settings.ssl_context(now=self._now()))

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
