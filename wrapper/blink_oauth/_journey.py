"""What the sockets know of the call they serve: when it must end, and whether its request left.

httpx limits each wait, so a server that sends a byte now and then holds a call for ever. Here every
wait is also limited by what is left of the call's total time: connecting, each read, each write.
Looking up the host name is the one wait that the operating system does not let us limit.

A request to an https URL leaves when something is written through TLS. What is written before, to
a proxy, is no part of it.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpcore
from attrs import define

__all__ = ["AsyncJourneyBackend", "Journey", "JourneyBackend", "travelling"]


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
