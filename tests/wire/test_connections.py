"""The connection pool: which connection a call gets, how long it waits, and when one is closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import signal
import socket
import ssl
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Generator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any, cast

import anyio
import pytest
from attrs import define, evolve

from blink_oauth import (
    AsyncBlinkOAuth,
    BlinkOAuth,
    InvalidInputError,
    NotConnectedError,
    Outcome,
    Settings,
    Timeouts,
    TlsError,
    TlsFault,
    Token,
)
from blink_oauth_testing.sandbox import Sandbox
from flavours import Flavour
from wire.concurrent_callers import WaitingThreads, callers_of
from wire.connect_proxy import running_proxy
from wire.counting_server import GRANT, counting_server, name_of, refresh_token_of
from wire.harness import Connect, exchange, wait_until
from wire.loopback import listening, url_of

PATIENCE = 30.0
PATIENT = Timeouts(pool=PATIENCE, read=PATIENCE, total=PATIENCE)
SHORT = 0.2
"""Seconds that a call waits for a connection before it gives up."""
KEEP_ALIVE = 1.0
"""Seconds after which an idle connection is not used."""
BODY = b'{"access_token":"fake-access-token-1","token_type":"bearer","expires_in":60}'
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(BODY)
) + BODY


@define
class ManualClock:
    """A clock that a test sets."""

    now: float = 1000.0

    def __call__(self) -> float:
        return self.now


def test_the_connection_that_was_used_last_is_used_next(flavour: Flavour) -> None:
    names = [f"{batch}-{number}" for batch in ("one", "two") for number in range(3)]
    with (
        counting_server() as server,
        callers_of(flavour, server.settings(timeouts=PATIENT)) as callers,
    ):
        server.hold(*names)
        for batch in (names[:3], names[3:]):
            calls = []
            for name in batch:
                calls.append(callers.start(name))
                server.wait_for(name)
            for name, call in zip(batch, calls, strict=True):
                server.respond(name)
                assert call.result(PATIENCE) == [name]
        callers.start("last").result(PATIENCE)
        assert server.connections_of(*names, "last") == [0, 1, 2, 2, 1, 0, 0]
        assert server.opened == 3


def test_a_connection_that_stays_idle_too_long_is_closed(flavour: Flavour) -> None:
    clock = ManualClock()
    with (
        counting_server() as server,
        callers_of(flavour, server.settings(timeouts=PATIENT), monotonic=clock) as callers,
    ):
        names = ["first", "second", "third"]
        server.hold(*names)
        calls = []
        for name in names:
            calls.append(callers.start(name))
            server.wait_for(name)
        for name, call in zip(names, calls, strict=True):
            server.respond(name)
            call.result(PATIENCE)
            clock.now += 0.2
        clock.now += KEEP_ALIVE - 0.5  # the first was put back 1.1 seconds ago, the second 0.9
        callers.start("after 1.1 s").result(PATIENCE)
        wait_until(lambda: server.ended == {0})
        clock.now += 0.2
        callers.start("after 1.3 s").result(PATIENCE)
        wait_until(lambda: server.ended == {0, 1})
        assert server.connections_of("after 1.1 s", "after 1.3 s") == [2, 2]


@pytest.mark.parametrize(("pause", "reused"), [(KEEP_ALIVE - 0.1, True), (KEEP_ALIVE + 0.1, False)])
def test_all_connections_are_reused_after_a_short_pause_only(
    flavour: Flavour, pause: float, *, reused: bool
) -> None:
    clock = ManualClock()
    with (
        counting_server() as server,
        callers_of(flavour, server.settings(timeouts=PATIENT), monotonic=clock) as callers,
    ):
        server.hold("first")
        calls = [callers.start("first")]
        server.wait_for("first")
        calls.append(callers.start("second"))
        server.wait_for("second")
        server.respond("first")
        for call in calls:
            call.result(PATIENCE)
        clock.now += pause
        callers.start("after").result(PATIENCE)
        if reused:
            assert (server.opened, server.open) == (2, 2)
        else:
            wait_until(lambda: server.ended == {0, 1})
            assert server.connections_of("after") == [2]


def test_callers_get_a_connection_in_the_order_in_which_they_began_to_wait(
    flavour: Flavour,
) -> None:
    settings = {"timeouts": PATIENT, "max_connections": 1}
    with counting_server() as server, callers_of(flavour, server.settings(**settings)) as callers:
        server.hold("busy")
        # A caller that begins its next call queues behind the callers that already wait.
        calls = [callers.start("busy", "again")]
        server.wait_for("busy")
        for number, name in enumerate(["first", "second", "third"], start=1):
            calls.append(callers.start(name))
            callers.wait_until_waiting(number)
        server.respond("busy")
        results = [call.result(PATIENCE) for call in calls]
    assert results == [["busy", "again"], ["first"], ["second"], ["third"]]
    names = ["busy", "first", "second", "third", "again"]
    assert server.requests == [(name, 0) for name in names]


def test_there_are_at_most_max_connections(flavour: Flavour) -> None:
    settings = {"timeouts": PATIENT, "max_connections": 2}
    with counting_server() as server, callers_of(flavour, server.settings(**settings)) as callers:
        server.hold("first", "second")
        calls = [callers.start("first"), callers.start("second")]
        server.wait_for("first", "second")
        calls += [callers.start("third"), callers.start("fourth")]
        callers.wait_until_waiting(2)
        assert len(server.requests) == 2
        server.respond("first", "second")
        for call in calls:
            call.result(PATIENCE)
        assert len(server.requests) == 4
        assert server.opened == 2


def test_a_caller_that_timed_out_gets_no_connection_later(flavour: Flavour) -> None:
    settings = {"timeouts": evolve(PATIENT, pool=SHORT), "max_connections": 1}
    with counting_server() as server, callers_of(flavour, server.settings(**settings)) as callers:
        server.hold("busy")
        busy = callers.start("busy")
        server.wait_for("busy")
        for _ in range(2):
            with pytest.raises(NotConnectedError) as caught:
                callers.start("gives up").result(PATIENCE)
            assert caught.value.outcome is Outcome.NOT_EXECUTED
        server.respond("busy")
        busy.result(PATIENCE)
        callers.start("after").result(PATIENCE)
    assert server.requests == [("busy", 0), ("after", 0)]


def test_a_task_that_was_cancelled_while_it_waited_gets_no_connection_later() -> None:
    settings = {"timeouts": PATIENT, "max_connections": 1}
    with counting_server() as server, callers_of("async", server.settings(**settings)) as callers:
        server.hold("busy")
        busy = callers.start("busy")
        server.wait_for("busy")
        waiting = callers.start("gives up")
        callers.wait_until_waiting(1)
        assert waiting.cancel()
        after = callers.start("after")
        callers.wait_until_waiting(1)
        server.respond("busy")
        assert [call.result(PATIENCE) for call in (busy, after)] == [["busy"], ["after"]]
        with pytest.raises(CancelledError):
            waiting.result(PATIENCE)
    assert server.requests == [("busy", 0), ("after", 0)]


@pytest.mark.parametrize("interrupted", [True, False], ids=["interrupted", "too late"])
def test_a_connection_given_to_a_thread_at_the_last_moment_is_not_lost(
    *, interrupted: bool
) -> None:
    """A signal handler frees the connection while the main thread waits, and ends the wait."""
    waiting = WaitingThreads()
    pool = SHORT if not interrupted else PATIENCE
    settings = {"timeouts": evolve(PATIENT, pool=pool), "max_connections": 1}
    with counting_server() as server, BlinkOAuth(server.settings(**settings)) as client:

        def call(name: str) -> str:
            return name_of(client.refresh(GRANT, refresh_token_of(name)))

        def free_the_connection(number: int, frame: FrameType | None) -> None:
            sys.setprofile(None)
            server.respond("busy")
            busy.result(PATIENCE)
            if interrupted:
                raise KeyboardInterrupt
            wait_until(lambda: time.monotonic() > started + 2 * SHORT)

        def signal_once_it_waits() -> None:
            wait_until(lambda: len(waiting.idents) == 1)
            signal.pthread_kill(main, signal.SIGUSR1)

        server.hold("busy")
        main, before = threading.get_ident(), signal.signal(signal.SIGUSR1, free_the_connection)
        try:
            with ThreadPoolExecutor() as threads:
                busy = threads.submit(call, "busy")
                server.wait_for("busy")
                signalling = threads.submit(signal_once_it_waits)
                started = time.monotonic()
                sys.setprofile(waiting)
                try:
                    # The call may succeed or time out; it must not raise anything else.
                    assert call("at the last moment") == "at the last moment"
                except NotConnectedError:
                    assert not interrupted
                except KeyboardInterrupt:
                    assert interrupted
                signalling.result(PATIENCE)
        finally:
            sys.setprofile(None)
            signal.signal(signal.SIGUSR1, before)
        assert call("after") == "after"
    assert server.opened == 1


@pytest.mark.anyio
async def test_a_connection_given_to_a_task_at_the_last_moment_is_not_lost() -> None:
    settings = {"timeouts": evolve(PATIENT, pool=SHORT), "max_connections": 1}
    with counting_server() as server:
        async with AsyncBlinkOAuth(server.settings(**settings)) as client:

            def start(name: str) -> asyncio.Task[Token]:
                return asyncio.create_task(client.refresh(GRANT, refresh_token_of(name)))

            server.hold("busy")
            busy = start("busy")
            await asyncio.to_thread(server.wait_for, "busy")
            waiting = start("at the last moment")
            # By then the task has been given the connection, and has not run yet.
            busy.add_done_callback(lambda _: waiting.cancel())
            server.respond("busy")
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert name_of(await start("after")) == "after"
    assert [name for name, _ in server.requests] == ["busy", "after"]


def test_a_closed_client_keeps_no_connection(flavour: Flavour) -> None:
    with counting_server() as server, callers_of(flavour, server.settings()) as callers:
        callers.start("before").result(PATIENCE)
        assert server.open == 1
        callers.close()
        wait_until(lambda: server.open == 0)
        with pytest.raises(InvalidInputError, match="closed"):
            callers.start("after").result(PATIENCE)
    assert server.requests == [("before", 0)]


@pytest.mark.anyio
async def test_closing_that_is_cancelled_leaves_no_connection_open() -> None:
    with counting_server() as server:
        client = AsyncBlinkOAuth(server.settings(timeouts=PATIENT))
        names = ["one", "two", "three"]
        for name in names:
            server.hold(name)
        calls = [
            asyncio.create_task(client.refresh(GRANT, refresh_token_of(name))) for name in names
        ]
        for name in names:
            await asyncio.to_thread(server.wait_for, name)
            server.respond(name)
        await asyncio.gather(*calls)
        closing = asyncio.create_task(client.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        await asyncio.to_thread(wait_until, lambda: server.open == 0)
    # A connection that is left to the garbage collector warns there.
    gc.collect()


def test_a_tunnel_that_fails_uses_up_no_connection(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    untrusting = ssl.create_default_context()
    untrusting.minimum_version = ssl.TLSVersion.TLSv1_2
    timeouts = Timeouts(pool=0.2)
    settings = evolve(settings, certificate=untrusting, max_connections=1, timeouts=timeouts)
    with running_proxy() as proxy:
        caller = connect(evolve(settings, proxy=proxy.url()))
        for _ in range(3):
            with pytest.raises(TlsError) as caught:
                exchange(caller, blink_sandbox, blink_sandbox.grant())
            assert caught.value.fault is TlsFault.SERVER_AUTHORITY_UNKNOWN


@define
class SuspensionHook:
    """Awaits a coroutine, and calls a function at its n-th suspension.

    Attributes:
        work: The coroutine.
        suspensions: The number n.
        act: The function to call.
        acted: Whether the function was called.
    """

    work: Coroutine[Any, Any, Token]
    suspensions: int
    act: Callable[[], object]
    acted: bool = False

    def __await__(self) -> Generator[Any, Any, Token]:
        steps = self.work.__await__()
        go_on: Callable[[], Any] = partial(next, steps)
        for number in itertools.count(1):
            try:
                waits_for = go_on()
            except StopIteration as done:
                return cast("Token", done.value)
            if number == self.suspensions:
                self.acted = True
                self.act()
            try:
                yield waits_for
            except BaseException as exc:  # noqa: BLE001  # thrown into the coroutine below
                go_on = partial(steps.throw, exc)
            else:
                go_on = partial(next, steps)
        raise AssertionError


async def cancelled(work: Coroutine[Any, Any, Token], suspensions: int, *, scope: bool) -> bool:
    """Cancel a call at its n-th suspension, and return whether it came that far."""
    with anyio.CancelScope() as around:
        hook = SuspensionHook(work, suspensions, around.cancel)
        if scope:
            await hook
            return hook.acted

        async def run() -> None:
            await hook

        task = asyncio.create_task(run())
        hook.act = task.cancel
        with contextlib.suppress(asyncio.CancelledError):
            await task
    return hook.acted


@pytest.mark.anyio
@pytest.mark.parametrize("scope", [False, True], ids=["task", "scope"])
@pytest.mark.parametrize("reused", [False, True], ids=["connecting", "on a connection"])
async def test_a_call_that_is_cancelled_at_any_suspension_frees_its_connection(
    *, reused: bool, scope: bool
) -> None:
    with counting_server() as server:
        settings = server.settings(timeouts=evolve(PATIENT, pool=SHORT), max_connections=1)
        for suspensions in itertools.count(1):
            async with AsyncBlinkOAuth(settings) as client:

                def call(name: str, client: AsyncBlinkOAuth = client) -> Coroutine[Any, Any, Token]:
                    return client.refresh(GRANT, refresh_token_of(name))

                if reused:
                    await call("before")
                over = not await cancelled(call("cancelled"), suspensions, scope=scope)
                assert name_of(await call("after")) == "after"
                # The server sees the end of a connection a little later.
                await asyncio.to_thread(wait_until, lambda: server.open == 1)
            await asyncio.to_thread(wait_until, lambda: server.open == 0)
            if over:
                break
    assert suspensions > 2


@define(eq=False)
class LogHook(logging.Handler):
    """Calls a function when httpcore logs a message.

    Args:
        prefix: The beginning of the message.
        act: The function to call.
    """

    prefix: str
    act: Callable[[], object]

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        """Call the function if the message has the prefix."""
        if record.getMessage().startswith(self.prefix):
            self.act()


@pytest.mark.anyio
async def test_a_token_that_was_read_is_returned_although_the_scope_is_cancelled(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "httpcore.http11")
    token = None
    with counting_server() as server:
        settings = server.settings(timeouts=evolve(PATIENT, pool=SHORT), max_connections=1)
        async with AsyncBlinkOAuth(settings) as client:
            with anyio.CancelScope() as scope:
                handler = LogHook("receive_response_body.complete", scope.cancel)
                logging.getLogger("httpcore.http11").addHandler(handler)
                try:
                    token = await client.refresh(GRANT, refresh_token_of("cancelled"))
                finally:
                    logging.getLogger("httpcore.http11").removeHandler(handler)
            assert scope.cancel_called
            assert token is not None
            assert name_of(token) == "cancelled"
            assert name_of(await client.refresh(GRANT, refresh_token_of("after"))) == "after"
        assert server.opened == 1


def plain_http(settings: Settings, server: socket.socket) -> Settings:
    """Return settings for one connection to a server without TLS."""
    return evolve(
        settings,
        base_url=url_of(server, "http"),
        certificate=None,
        allow_plain_http=True,
        max_connections=1,
    )


def accept_request(server: socket.socket) -> socket.socket:
    """Accept a connection, and read a request from it."""
    connection, _ = server.accept()
    received = b""
    while b"refresh_token=" not in received:
        received += connection.recv(65_536)
    return connection


def require_token_and_closed_connection(
    connection: socket.socket, result: Callable[[], Token]
) -> None:
    """Check that a call returns its token, and that its connection is closed afterwards."""
    with connection:
        connection.sendall(RESPONSE)
        assert result().access_token.reveal() == "fake-access-token-1"
        connection.settimeout(PATIENCE)
        assert connection.recv(1) == b""


def test_a_call_of_a_thread_finishes_after_its_client_was_closed(settings: Settings) -> None:
    with listening() as server, ThreadPoolExecutor() as threads:
        client = BlinkOAuth(plain_http(settings, server))
        call = threads.submit(client.refresh, GRANT, "fake-refresh-token-1")
        connection = accept_request(server)
        client.close()
        with pytest.raises(InvalidInputError, match="closed"):
            client.refresh(GRANT, "fake-refresh-token-2")
        require_token_and_closed_connection(connection, call.result)


@pytest.mark.anyio
async def test_a_call_of_a_task_finishes_after_its_client_was_closed(settings: Settings) -> None:
    with listening() as server:
        client = AsyncBlinkOAuth(plain_http(settings, server))
        call = asyncio.create_task(client.refresh(GRANT, "fake-refresh-token-1"))
        connection = await asyncio.to_thread(accept_request, server)
        await client.close()
        loop = asyncio.get_running_loop()
        await asyncio.to_thread(
            require_token_and_closed_connection,
            connection,
            lambda: asyncio.run_coroutine_threadsafe(awaited(call), loop).result(PATIENCE),
        )


async def awaited(task: asyncio.Task[Token]) -> Token:
    return await task
