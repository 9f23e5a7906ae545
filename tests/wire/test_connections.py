"""Which connection a call gets, how long it waits for one, and when a connection is closed."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial

import anyio
import anyio.lowlevel
import httpcore
import pytest
from attrs import define, evolve

from blink_oauth import (
    AsyncBlinkOAuth,
    BlinkOAuth,
    Grant,
    InvalidInputError,
    Settings,
    Timeouts,
    TlsError,
    TlsFault,
    Token,
)
from blink_oauth import _sharing as sharing
from blink_oauth._connections import AsyncConnections, Connections
from blink_oauth._sharing import KEEPALIVE_SECONDS, Idle, Turns
from blink_oauth.sandbox import Sandbox
from flavours import Caller, InItsOwnLoop
from wire.connect_proxy import proxying
from wire.loopback import listening, url_of
from wire.stage import Connect, exchange, wait_until

PATIENCE = 30.0
GRANT = Grant(target_id="IIDX00001", username="u-4711")
BODY = b'{"access_token":"fake-access-token-1","token_type":"bearer","expires_in":60}'
ANSWER = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
) + BODY


@define
class Clock:
    """Moves when it is told to."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def idle(clock: Clock) -> Idle[str]:
    return Idle(clock)


def test_the_connection_that_was_used_last_is_used_next(idle: Idle[str]) -> None:
    for name in ("first", "second", "third"):
        assert idle.put(name)
    assert [idle.take() for _ in range(4)] == [
        ("third", []),
        ("second", []),
        ("first", []),
        (None, []),
    ]


def test_connections_that_are_passed_over_grow_too_old(idle: Idle[str], clock: Clock) -> None:
    idle.put("first")
    clock.now += 1.0
    idle.put("second")
    idle.put("third")
    clock.now += KEEPALIVE_SECONDS
    assert idle.take() == ("third", ["first"])
    idle.put("third")
    clock.now += 0.5
    assert idle.take() == ("third", ["second"])


def test_after_a_pause_no_connection_is_used_again(idle: Idle[str], clock: Clock) -> None:
    idle.put("first")
    idle.put("second")
    clock.now += KEEPALIVE_SECONDS + 0.1
    assert idle.take() == (None, ["first", "second"])


def test_once_it_has_ended_no_connection_is_kept(idle: Idle[str]) -> None:
    idle.put("first")
    idle.put("second")
    assert idle.end() == ["first", "second"]
    assert not idle.put("third")
    assert idle.take() == (None, [])


def waiting(turns: Turns, threads: int) -> bool:
    return len(turns._waiting) == threads


def test_the_one_who_waits_longest_is_next_and_nobody_overtakes() -> None:
    turns = Turns(1)
    order: list[str] = []

    def call(name: str) -> None:
        turns.take(PATIENCE)
        order.append(name)
        turns.give()

    turns.take(0.0)
    with ThreadPoolExecutor() as threads:
        for number, name in enumerate(["first", "second", "third"], start=1):
            threads.submit(call, name)
            wait_until(partial(waiting, turns, number))
        turns.give()
        # Whoever ends a turn and takes another one stands behind those that waited.
        call("again")
    assert order == ["first", "second", "third", "again"]


def test_one_who_gave_up_waiting_is_passed_over() -> None:
    turns = Turns(1)
    turns.take(0.0)
    with pytest.raises(TimeoutError):
        turns.take(0.0)
    turns.give()
    turns.take(0.0)


@pytest.mark.parametrize("interruption", [TimeoutError, KeyboardInterrupt])
def test_a_turn_that_comes_at_the_last_moment_is_not_lost(
    monkeypatch: pytest.MonkeyPatch, interruption: type[BaseException]
) -> None:
    turns = Turns(1)

    class TooLate(Future[None]):
        def result(self, timeout: float | None = None) -> None:
            turns.give()
            raise interruption

    turns.take(0.0)
    monkeypatch.setattr(sharing, "Future", TooLate)
    with pytest.raises(interruption):
        turns.take(PATIENCE)
    turns.take(0.0)


def connections_of(caller: Caller) -> Connections | AsyncConnections:
    """Return the connections of a client of either flavour."""
    client = caller.client if isinstance(caller, InItsOwnLoop) else caller
    assert isinstance(client, (BlinkOAuth, AsyncBlinkOAuth))
    connections = getattr(client._line.transport, "_pool", None)
    assert isinstance(connections, (Connections, AsyncConnections))
    return connections


def idle_ones(
    connections: Connections | AsyncConnections,
) -> list[httpcore.ConnectionInterface | httpcore.AsyncConnectionInterface]:
    return [connection for _, connection in connections._idle._stack]


def test_a_connection_that_is_too_old_is_closed_and_replaced(
    caller: Caller, blink_sandbox: Sandbox, clock: Clock
) -> None:
    connections = connections_of(caller)
    connections._idle._monotonic = clock
    exchange(caller, blink_sandbox, blink_sandbox.grant())
    (old,) = idle_ones(connections)
    clock.now += KEEPALIVE_SECONDS + 0.1
    exchange(caller, blink_sandbox, blink_sandbox.grant())
    (new,) = idle_ones(connections)
    assert old is not new
    assert (old.is_closed(), new.is_closed()) == (True, False)


def test_a_closed_client_holds_no_connection(caller: Caller, blink_sandbox: Sandbox) -> None:
    connections = connections_of(caller)
    exchange(caller, blink_sandbox, blink_sandbox.grant())
    (idle,) = idle_ones(connections)
    caller.close()
    assert idle.is_closed()
    assert idle_ones(connections) == []


def test_a_tunnel_that_fails_takes_up_no_room(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    stranger = ssl.create_default_context()
    timeouts = Timeouts(pool=0.2)
    settings = evolve(settings, certificate=stranger, max_connections=1, timeouts=timeouts)
    with proxying() as proxy:
        caller = connect(evolve(settings, proxy=proxy.url()))
        for _ in range(3):
            with pytest.raises(TlsError) as caught:
                exchange(caller, blink_sandbox, blink_sandbox.grant())
            assert caught.value.fault is TlsFault.SERVER_AUTHORITY_UNKNOWN


class SlowToClose(httpcore.AsyncConnectionInterface):
    """A connection whose closing, like that of its responses, takes a moment."""

    def __init__(self, scope: anyio.CancelScope) -> None:
        self.scope = scope
        self.answering = True
        self.closed = self.read = False

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        if not self.answering:
            self.scope.cancel()
            await anyio.sleep_forever()
        return httpcore.Response(200, content=self)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b""

    def is_available(self) -> bool:
        return self.read

    async def aclose(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.closed = True


@pytest.mark.anyio
async def test_a_cancelled_scope_leaves_no_connection_open() -> None:
    with anyio.CancelScope() as scope:
        connection = SlowToClose(scope)
        connection.answering = False
        connections = AsyncConnections(lambda _: connection, 1)
        await connections.handle_async_request(httpcore.Request("POST", "https://localhost/"))
    assert scope.cancelled_caught
    assert connection.closed
    assert connections._turns.value == 1


@pytest.mark.anyio
async def test_a_response_that_was_read_can_be_put_away_in_a_cancelled_scope() -> None:
    put_away = False
    with anyio.CancelScope() as scope:
        connection = SlowToClose(scope)
        connections = AsyncConnections(lambda _: connection, 1)
        response = await connections.handle_async_request(
            httpcore.Request("POST", "https://localhost/")
        )
        assert connections._turns.value == 0
        connection.read = True
        scope.cancel()
        for _ in range(2):
            await response.aclose()
        put_away = True
    assert put_away
    assert connections._turns.value == 1
    assert idle_ones(connections) == [connection]


def plain(settings: Settings, server: socket.socket) -> Settings:
    """Return settings for a server without TLS, with one connection."""
    return evolve(
        settings,
        base_url=url_of(server, "http"),
        certificate=None,
        allow_plain_http=True,
        max_connections=1,
    )


def asked(server: socket.socket) -> socket.socket:
    """Take a connection and wait for a request on it."""
    connection, _ = server.accept()
    received = b""
    while b"refresh_token=" not in received:
        received += connection.recv(65_536)
    return connection


def require_answered_and_closed(connection: socket.socket, answer: Callable[[], Token]) -> None:
    """Check that a call brings its token home, and that its connection is closed behind it."""
    with connection:
        connection.sendall(ANSWER)
        assert answer().access_token.reveal() == "fake-access-token-1"
        connection.settimeout(PATIENCE)
        assert connection.recv(1) == b""


def test_closing_a_client_lets_a_thread_bring_its_token_home(settings: Settings) -> None:
    with listening() as server, ThreadPoolExecutor() as threads:
        client = BlinkOAuth(plain(settings, server))
        call = threads.submit(client.refresh, GRANT, "fake-refresh-token-1")
        connection = asked(server)
        client.close()
        with pytest.raises(InvalidInputError, match="closed"):
            client.refresh(GRANT, "fake-refresh-token-2")
        require_answered_and_closed(connection, call.result)


@pytest.mark.anyio
async def test_closing_a_client_lets_a_task_bring_its_token_home(settings: Settings) -> None:
    with listening() as server:
        client = AsyncBlinkOAuth(plain(settings, server))
        call = asyncio.create_task(client.refresh(GRANT, "fake-refresh-token-1"))
        connection = await asyncio.to_thread(asked, server)
        await client.close()
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(
            require_answered_and_closed,
            connection,
            lambda: asyncio.run_coroutine_threadsafe(awaited(call), loop).result(PATIENCE),
        )


async def awaited(task: asyncio.Task[Token]) -> Token:
    return await task
