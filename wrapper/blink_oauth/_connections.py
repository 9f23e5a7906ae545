"""The connections of a client: each is taken for one call, and put back after it.

httpcore's own pools look at all their connections for each request, and ask the operating system
about the idle ones: the more there are, the slower they get. Here nothing is searched. The
connection that was used last is used next; the others grow old below it, and are closed there.

A process that is forked off leaves the connections to its parent: two processes that write to one
TLS connection break it for both. It starts with none, and with locks that nobody holds.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack
from weakref import WeakSet

import anyio
import httpcore
from attrs import field, frozen

from ._sharing import Idle, Turns

__all__ = ["AsyncConnections", "Connections"]

ALL_BUSY = "all connections were busy for too long"


class Connections:
    """The connections that threads share.

    Closing closes the idle ones. A call that is under way ends in peace: what it brings home may
    be the only copy of a token. Its connection is closed behind it.

    Args:
        create: Makes a connection; it connects when it is first used.
        limit: How many there may be at once.
        monotonic: A clock that never runs backwards, in seconds, for the age of the idle ones.
    """

    def __init__(
        self,
        create: Callable[[httpcore.Origin], httpcore.ConnectionInterface],
        limit: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._create = create
        self._limit = limit
        self._idle: Idle[httpcore.ConnectionInterface] = Idle(monotonic)
        self._turns = Turns(limit)
        _everywhere.add(self)

    def handle_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request on a connection that is its own until the response is closed.

        Raises:
            httpcore.PoolTimeout: All connections were busy for as long as the request can wait.
        """
        with ExitStack() as ending:
            try:
                self._turns.take(_patience(request))
            except TimeoutError:
                raise httpcore.PoolTimeout(ALL_BUSY) from None
            ending.callback(self._turns.give)
            connection = self._reusable() or self._create(request.url.origin)
            ending.callback(self._put_back, connection)
            response = connection.handle_request(request)
            ending.callback(response.close)
            return _with_body(response, _Body(response, ending.pop_all()))

    def close(self) -> None:
        """Close the idle connections, and the others as soon as they are."""
        for connection in self._idle.end():
            connection.close()

    def leave_to_parent(self) -> None:
        """Start anew in a process that was forked off."""
        self._turns = Turns(self._limit)
        # This closes our descriptors and tells the server nothing: the parent's stay as they are.
        for connection in self._idle.disinherit():
            connection.close()

    def _reusable(self) -> httpcore.ConnectionInterface | None:
        while True:
            connection, old = self._idle.take()
            for each in old:
                each.close()
            if connection is None or not connection.has_expired():
                return connection
            connection.close()

    def _put_back(self, connection: httpcore.ConnectionInterface) -> None:
        if not (connection.is_available() and self._idle.put(connection)):
            connection.close()


class AsyncConnections:
    """The connections that the tasks of one event loop share.

    Closing closes the idle ones. A call that is under way ends in peace: what it brings home may
    be the only copy of a token. Its connection is closed behind it.

    Args:
        create: Makes a connection; it connects when it is first used.
        limit: How many there may be at once.
        monotonic: A clock that never runs backwards, in seconds, for the age of the idle ones.
    """

    def __init__(
        self,
        create: Callable[[httpcore.Origin], httpcore.AsyncConnectionInterface],
        limit: int,
        monotonic: Callable[[], float],
    ) -> None:
        self._create = create
        self._limit = limit
        self._idle: Idle[httpcore.AsyncConnectionInterface] = Idle(monotonic)
        self._turns = anyio.Semaphore(limit)
        _everywhere.add(self)

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send a request on a connection that is its own until the response is closed.

        Raises:
            httpcore.PoolTimeout: All connections were busy for as long as the request can wait.
        """
        async with AsyncExitStack() as ending:
            try:
                with anyio.fail_after(_patience(request)):
                    await self._turns.acquire()
            except TimeoutError:
                raise httpcore.PoolTimeout(ALL_BUSY) from None
            ending.callback(self._turns.release)
            connection = await self._reusable() or self._create(request.url.origin)
            ending.push_async_callback(self._put_back, connection)
            response = await connection.handle_async_request(request)
            ending.push_async_callback(response.aclose)
            return _with_body(response, _AsyncBody(response, ending.pop_all()))

    async def aclose(self) -> None:
        """Close the idle connections, and the others as soon as they are."""
        for connection in self._idle.end():
            await _aclose(connection)

    def leave_to_parent(self) -> None:
        """Start anew in a process that was forked off."""
        self._turns = anyio.Semaphore(self._limit)
        # Not closed: they are registered with the parent's event loop, and closing one here would
        # take it off the selector that both processes share. Kept, because the collector would
        # close what nobody has any more, whenever it comes by.
        _inherited.extend(self._idle.disinherit())

    async def _reusable(self) -> httpcore.AsyncConnectionInterface | None:
        while True:
            connection, old = self._idle.take()
            for each in old:
                await _aclose(each)
            if connection is None or not connection.has_expired():
                return connection
            await _aclose(connection)

    async def _put_back(self, connection: httpcore.AsyncConnectionInterface) -> None:
        if not (connection.is_available() and self._idle.put(connection)):
            await _aclose(connection)


_everywhere: WeakSet[Connections | AsyncConnections] = WeakSet()
_inherited: list[httpcore.AsyncConnectionInterface] = []


def _leave_all_to_parent() -> None:
    for connections in list(_everywhere):
        connections.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)


@frozen(eq=False)
class _Body:
    """The body of a response; to close it ends the use of its connection."""

    _response: httpcore.Response
    _ending: ExitStack = field(repr=False)

    def __iter__(self) -> Iterator[bytes]:
        return self._response.iter_stream()

    def close(self) -> None:
        self._ending.close()


@frozen(eq=False)
class _AsyncBody:
    """The body of a response; to close it ends the use of its connection."""

    _response: httpcore.Response
    _ending: AsyncExitStack = field(repr=False)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._response.aiter_stream()

    async def aclose(self) -> None:
        with anyio.CancelScope(shield=True):
            await self._ending.aclose()


def _with_body(response: httpcore.Response, body: _Body | _AsyncBody) -> httpcore.Response:
    return httpcore.Response(
        response.status,
        headers=response.headers,
        content=body,
        extensions=response.extensions,
    )


async def _aclose(connection: httpcore.AsyncConnectionInterface) -> None:
    # Whoever is cancelled waits for it, but not for long: no farewell is exchanged.
    with anyio.CancelScope(shield=True):
        await connection.aclose()


def _patience(request: httpcore.Request) -> float | None:
    timeouts: dict[str, float | None] = request.extensions.get("timeout", {})
    return timeouts.get("pool")
