"""One deadline for a whole call, kept by the sockets themselves.

httpx limits each wait, so a server that sends a byte now and then holds a call for ever. Here every
wait is also limited by what is left of the call's total time: connecting, each read, each write.
Looking up the host name is the one wait that the operating system does not let us limit.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import httpcore
from attrs import frozen

__all__ = ["AsyncDeadlineBackend", "DeadlineBackend", "running"]


@frozen(eq=False)
class _Deadline:
    at: float
    monotonic: Callable[[], float]


_current: ContextVar[_Deadline] = ContextVar("blink_oauth_deadline")


@contextmanager
def running(total: float, monotonic: Callable[[], float]) -> Iterator[None]:
    """Limit everything that is done in the block to a total time.

    Args:
        total: Seconds.
        monotonic: A clock that never runs backwards, in seconds.
    """
    token = _current.set(_Deadline(monotonic() + total, monotonic))
    try:
        yield
    finally:
        _current.reset(token)


def _left(timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
    deadline = _current.get()
    left = deadline.at - deadline.monotonic()
    if left <= 0:
        raise late("the total time of the call is over")
    return left if timeout is None else min(timeout, left)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class DeadlineBackend(httpcore.SyncBackend):
    """Opens connections whose every wait ends with the call."""

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **options: Any
    ) -> httpcore.NetworkStream:
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
    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    # httpcore's asynchronous streams let an alert of TLS through as it is, the others do not.
    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        left = _left(timeout, httpcore.ReadTimeout)
        try:
            return await self._stream.read(max_bytes, left)
        except ssl.SSLError as exc:
            raise httpcore.ReadError(exc) from exc

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        left = _left(timeout, httpcore.WriteTimeout)
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
        return _AsyncStream(await self._stream.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)


class AsyncDeadlineBackend(httpcore.AnyIOBackend):
    """Opens connections whose every wait ends with the call; asyncio and trio alike."""

    async def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, *args: Any, **options: Any
    ) -> httpcore.AsyncNetworkStream:
        left = _left(timeout, httpcore.ConnectTimeout)
        return _AsyncStream(await super().connect_tcp(host, port, left, *args, **options))
