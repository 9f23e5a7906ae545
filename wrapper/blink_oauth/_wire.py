"""How a call travels: one line of connections per client certificate.

`send` turns a call into an `Answer` or a `NoAnswer`. It does not raise for what the network does,
so that no traceback of ours reaches into a frame that holds a secret in plain text. httpx builds
the requests and its transport carries them; its client does not send them, so there is nothing
that could follow a redirect, keep a cookie or authenticate by itself.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import httpcore
import httpx

from ._api import Call
from ._connections import AsyncConnections, Connections
from ._journey import AsyncJourneyBackend, JourneyBackend, travelling
from ._receiving import areceive, receive
from ._reply import Reply, no_answer
from .errors import InvalidInputError
from .settings import Settings
from .tls import ClientCertificate, require_verifying, ssl_context

__all__ = ["AsyncLine", "Line"]


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
