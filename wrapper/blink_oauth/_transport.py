"""How a call travels: one pool of connections per client certificate.

`send` and `asend` turn a call into an `Answer` or a `NoAnswer`. Neither raises for what the network
does, so that no traceback of ours reaches into a frame that holds a secret in plain text.
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

from ._deadline import AsyncDeadlineBackend, DeadlineBackend
from ._gateway import Call
from ._guard import AsyncGuard, Guard
from ._reply import Answer, Reply, no_answer
from .errors import InvalidInputError
from .settings import Settings
from .tls import ClientCertificate, require_verifying, ssl_context

__all__ = ["asend", "new_async_http", "new_http", "send"]

# Shorter than the idle limit of any common server: a connection that the server closes while a
# request is on its way leaves the outcome of that request uncertain.
KEEPALIVE_SECONDS = 5.0


def send(http: httpx.Client, call: Call) -> Reply:
    """Send a call and return what came of it."""
    _require_open(http.is_closed)
    try:
        response = http.request(**call.request())
    except httpx.TransportError as exc:
        return no_answer(exc)
    return _answer(response)


async def asend(http: httpx.AsyncClient, call: Call) -> Reply:
    """Send a call and return what came of it."""
    _require_open(http.is_closed)
    try:
        response = await http.request(**call.request())
    except httpx.TransportError as exc:
        return no_answer(exc)
    return _answer(response)


def _answer(response: httpx.Response) -> Answer:
    answer = response.extensions["answer"]
    assert isinstance(answer, Answer)
    return answer


def _require_open(closed: bool) -> None:
    if closed:
        raise InvalidInputError("The client is closed: make a new one. Nothing was sent.")


def new_http(
    settings: Settings,
    *,
    now: datetime,
    monotonic: Callable[[], float] = time.monotonic,
    transport: httpx.BaseTransport | None = None,
) -> httpx.Client:
    """Make the HTTP client of one client certificate.

    Raises:
        InvalidInputError: The certificate or the proxy cannot be used.
    """
    inner = transport or _Pool(settings, now)
    return httpx.Client(
        transport=Guard(inner, settings.timeouts.total, monotonic), **_client_options(settings)
    )


def new_async_http(
    settings: Settings,
    *,
    now: datetime,
    monotonic: Callable[[], float] = time.monotonic,
    transport: httpx.AsyncBaseTransport | None = None,
) -> httpx.AsyncClient:
    """Make the asynchronous HTTP client of one client certificate, for one event loop.

    Raises:
        InvalidInputError: The certificate or the proxy cannot be used.
    """
    inner = transport or _AsyncPool(settings, now)
    return httpx.AsyncClient(
        transport=AsyncGuard(inner, settings.timeouts.total, monotonic),
        **_client_options(settings),
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
        "follow_redirects": False,
        "trust_env": False,
    }


def _base_url(settings: Settings) -> httpx.URL:
    try:
        return httpx.URL(settings.base_url)
    except (httpx.InvalidURL, ValueError):
        problem = "Settings.base_url names no possible host. Nothing was sent."
    raise InvalidInputError(problem)


class _Pool(httpx.HTTPTransport):
    """httpx's transport over a pool of our own making: httpx has no setting for the sockets."""

    def __init__(self, settings: Settings, now: datetime) -> None:
        options, proxy = _pool_options(settings, now)
        backend = DeadlineBackend()
        if proxy is None:
            self._pool = httpcore.ConnectionPool(network_backend=backend, **options)
        else:
            self._pool = httpcore.HTTPProxy(network_backend=backend, **proxy, **options)


class _AsyncPool(httpx.AsyncHTTPTransport):
    """httpx's transport over a pool of our own making: httpx has no setting for the sockets."""

    def __init__(self, settings: Settings, now: datetime) -> None:
        options, proxy = _pool_options(settings, now)
        backend = AsyncDeadlineBackend()
        if proxy is None:
            self._pool = httpcore.AsyncConnectionPool(network_backend=backend, **options)
        else:
            self._pool = httpcore.AsyncHTTPProxy(network_backend=backend, **proxy, **options)


def _pool_options(
    settings: Settings, now: datetime
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    options = {
        "ssl_context": _context(settings, now),
        "max_connections": settings.max_connections,
        "max_keepalive_connections": settings.max_connections,
        "keepalive_expiry": KEEPALIVE_SECONDS,
        "retries": 0,
    }
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
