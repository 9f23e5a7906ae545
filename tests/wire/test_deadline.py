"""Every call ends within its timeouts, and its outcome depends on when it ended.

Where a clock can be injected, it advances with each reading and not with time. Elsewhere the
timeouts are short, and the tests assert the error, never a duration.
"""

from __future__ import annotations

import asyncio
import threading

import pytest
from attrs import define, evolve

from blink_oauth import (
    AsyncBlinkOAuth,
    BlinkError,
    BlinkOAuth,
    NotConnectedError,
    Oddity,
    Outcome,
    Settings,
    TimedOutError,
    Timeouts,
    UnreadableResponseError,
)
from blink_oauth_testing.sandbox import Delivery, Fault, Sandbox
from flavours import Caller
from wire.harness import STRICT, Connect, exchange, refresh_token
from wire.loopback import full_backlog, listening, url_of

SHORT = 0.2
"""Seconds; enough for loopback, and short enough for a test to wait."""
BYTE_BY_BYTE = 100_000
"""Number of pieces; more than a response has bytes."""


@define
class ClockThatStartsWithARequest:
    """A clock that stands still until the sandbox has a request, then advances 1 s per reading."""

    sandbox: Sandbox
    now: float = 0.0

    def __call__(self) -> float:
        if self.sandbox.exchanges:
            self.now += 1.0
        return self.now


def error_of_exchange(caller: Caller, sandbox: Sandbox) -> BlinkError:
    """Return the error that an exchange raises."""
    with pytest.raises(BlinkError) as caught:
        exchange(caller, sandbox, sandbox.grant())
    return caught.value


def require_not_connected(error: BlinkError) -> None:
    assert type(error) is NotConnectedError
    assert error.outcome is Outcome.NOT_EXECUTED
    assert error.retryable
    assert error.status is None
    assert error.correlation_id is not None
    assert error.correlation_id in str(error)


def test_a_connection_that_is_not_accepted_times_out(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    with full_backlog() as server:
        settings = evolve(settings, base_url=url_of(server), timeouts=Timeouts(connect=SHORT))
        require_not_connected(error_of_exchange(connect(settings), blink_sandbox))


@pytest.mark.parametrize(
    "timeouts", [Timeouts(connect=SHORT), Timeouts(total=SHORT)], ids=["connect", "total"]
)
def test_a_handshake_without_a_response_times_out(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings, timeouts: Timeouts
) -> None:
    with listening() as server:
        settings = evolve(settings, base_url=url_of(server), timeouts=timeouts)
        require_not_connected(error_of_exchange(connect(settings), blink_sandbox))


def test_a_closed_port_raises_not_connected(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    with listening() as server:
        settings = evolve(settings, base_url=url_of(server))
    require_not_connected(error_of_exchange(connect(settings), blink_sandbox))


def test_a_response_that_never_arrives_is_uncertain(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    blink_sandbox.fail(Fault("silence", executes=True, delivery=Delivery(head_interval=60.0)))
    caller = connect(evolve(settings, timeouts=Timeouts(read=SHORT)))
    error = error_of_exchange(caller, blink_sandbox)
    assert type(error) is TimedOutError
    assert error.outcome is Outcome.UNCERTAIN
    assert not error.retryable
    assert error.correlation_id == blink_sandbox.exchanges[-1].correlation_id
    assert "start a new authorization" in str(error)


def test_headers_that_never_end_are_ended_by_the_total_timeout(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    caller = connect(settings, monotonic=ClockThatStartsWithARequest(blink_sandbox))
    drip = Delivery(head_interval=0.01, pieces=BYTE_BY_BYTE)
    blink_sandbox.fail(Fault("dripping-headers", executes=True, delivery=drip))
    error = error_of_exchange(caller, blink_sandbox)
    assert type(error) is TimedOutError
    assert error.outcome is Outcome.UNCERTAIN
    assert error.status is None


def test_a_body_that_never_ends_is_ended_by_the_total_timeout(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    caller = connect(settings, monotonic=ClockThatStartsWithARequest(blink_sandbox))
    drip = Delivery(body_interval=0.01, pieces=BYTE_BY_BYTE)
    blink_sandbox.fail(Fault("dripping-body", executes=True, delivery=drip))
    error = error_of_exchange(caller, blink_sandbox)
    assert type(error) is UnreadableResponseError
    assert error.outcome is Outcome.UNCERTAIN
    assert error.status == 200
    assert "cut short" in str(error)


def test_a_pair_received_before_the_total_timeout_is_returned(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    caller = connect(settings, monotonic=ClockThatStartsWithARequest(blink_sandbox))
    padded = Fault(
        "pair-then-drip",
        executes=True,
        change=lambda reply: reply.with_members({"padding": "x" * 100_000}),
        delivery=Delivery(body_interval=0.01, pieces=250),
    )
    blink_sandbox.fail(padded)
    token = exchange(caller, blink_sandbox, blink_sandbox.grant())
    assert token.oddities == {Oddity.BODY_BROKEN}
    assert blink_sandbox.banks[STRICT].accepts(refresh_token(token))


def one_connection(settings: Settings, base_url: str) -> Settings:
    """Return settings with one connection and a short pool timeout."""
    return evolve(
        settings, base_url=base_url, max_connections=1, timeouts=Timeouts(pool=SHORT, connect=30.0)
    )


def test_a_thread_that_gets_no_connection_has_sent_nothing(
    blink_sandbox: Sandbox, settings: Settings
) -> None:
    grant = blink_sandbox.grant()
    with listening() as server, BlinkOAuth(one_connection(settings, url_of(server))) as client:
        in_progress = threading.Thread(target=error_of_exchange, args=(client, blink_sandbox))
        in_progress.start()
        connection, _ = server.accept()
        with pytest.raises(NotConnectedError) as caught:
            client.refresh(grant, "fake-refresh-token-1")
        connection.close()
        in_progress.join()
    require_not_connected(caught.value)


@pytest.mark.anyio
async def test_a_task_that_gets_no_connection_has_sent_nothing(
    blink_sandbox: Sandbox, settings: Settings
) -> None:
    grant = blink_sandbox.grant()
    with listening() as server:
        async with AsyncBlinkOAuth(one_connection(settings, url_of(server))) as client:
            in_progress = asyncio.create_task(client.refresh(grant, "fake-refresh-token-1"))
            connection, _ = await asyncio.to_thread(server.accept)
            with pytest.raises(NotConnectedError) as caught:
                await client.refresh(grant, "fake-refresh-token-2")
            connection.close()
            with pytest.raises(NotConnectedError):
                await in_progress
    require_not_connected(caught.value)
