"""No call waits for ever, and what is known of its execution depends on when the wait ended.

Where a clock can be injected it counts looks at it, not time. Elsewhere the limits are short, and
only that the error came is asserted.
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
from wire.loopback import full_queue, listening, url_of

SHORT = 0.2
"""Seconds; long enough for loopback, short enough to wait for."""
BYTE_BY_BYTE = 100_000
"""Pieces; more than a reply has bytes."""


@define
class ClockThatRunsOnceSeen:
    """Stands still until the sandbox has seen a request, then moves a second at each look."""

    sandbox: Sandbox
    now: float = 0.0

    def __call__(self) -> float:
        if self.sandbox.exchanges:
            self.now += 1.0
        return self.now


def refused(caller: Caller, sandbox: Sandbox) -> BlinkError:
    """Return the error of an exchange."""
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


def test_a_port_that_takes_no_connection_is_given_up(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    with full_queue() as server:
        settings = evolve(settings, base_url=url_of(server), timeouts=Timeouts(connect=SHORT))
        require_not_connected(refused(connect(settings), blink_sandbox))


@pytest.mark.parametrize(
    "timeouts", [Timeouts(connect=SHORT), Timeouts(total=SHORT)], ids=["connect", "total"]
)
def test_a_server_that_never_speaks_in_the_handshake_is_given_up(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings, timeouts: Timeouts
) -> None:
    with listening() as server:
        settings = evolve(settings, base_url=url_of(server), timeouts=timeouts)
        require_not_connected(refused(connect(settings), blink_sandbox))


def test_a_port_where_nobody_listens_is_not_connected(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    with listening() as server:
        settings = evolve(settings, base_url=url_of(server))
    require_not_connected(refused(connect(settings), blink_sandbox))


def test_an_answer_that_never_comes_is_uncertain(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    blink_sandbox.fail(Fault("silence", executes=True, delivery=Delivery(head_interval=60.0)))
    caller = connect(evolve(settings, timeouts=Timeouts(read=SHORT)))
    error = refused(caller, blink_sandbox)
    assert type(error) is TimedOutError
    assert error.outcome is Outcome.UNCERTAIN
    assert not error.retryable
    assert error.correlation_id == blink_sandbox.exchanges[-1].correlation_id
    assert "start a new authorization" in str(error)


def test_headers_that_drip_for_ever_end_with_the_total_time(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    caller = connect(settings, monotonic=ClockThatRunsOnceSeen(blink_sandbox))
    drip = Delivery(head_interval=0.01, pieces=BYTE_BY_BYTE)
    blink_sandbox.fail(Fault("dripping-headers", executes=True, delivery=drip))
    error = refused(caller, blink_sandbox)
    assert type(error) is TimedOutError
    assert error.outcome is Outcome.UNCERTAIN
    assert error.status is None


def test_a_body_that_drips_for_ever_ends_with_the_total_time(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    caller = connect(settings, monotonic=ClockThatRunsOnceSeen(blink_sandbox))
    drip = Delivery(body_interval=0.01, pieces=BYTE_BY_BYTE)
    blink_sandbox.fail(Fault("dripping-body", executes=True, delivery=drip))
    error = refused(caller, blink_sandbox)
    assert type(error) is UnreadableResponseError
    assert error.outcome is Outcome.UNCERTAIN
    assert error.status == 200
    assert "cut short" in str(error)


def test_a_pair_that_came_before_the_time_was_over_comes_home(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    caller = connect(settings, monotonic=ClockThatRunsOnceSeen(blink_sandbox))
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


def narrow(settings: Settings, base_url: str) -> Settings:
    """Return settings with one connection and little patience for it."""
    return evolve(
        settings, base_url=base_url, max_connections=1, timeouts=Timeouts(pool=SHORT, connect=30.0)
    )


def test_threads_that_find_no_free_connection_have_sent_nothing(
    blink_sandbox: Sandbox, settings: Settings
) -> None:
    grant = blink_sandbox.grant()
    with listening() as server, BlinkOAuth(narrow(settings, url_of(server))) as client:
        held = threading.Thread(target=refused, args=(client, blink_sandbox))
        held.start()
        connection, _ = server.accept()
        with pytest.raises(NotConnectedError) as caught:
            client.refresh(grant, "fake-refresh-token-1")
        connection.close()
        held.join()
    require_not_connected(caught.value)


@pytest.mark.anyio
async def test_tasks_that_find_no_free_connection_have_sent_nothing(
    blink_sandbox: Sandbox, settings: Settings
) -> None:
    grant = blink_sandbox.grant()
    with listening() as server:
        async with AsyncBlinkOAuth(narrow(settings, url_of(server))) as client:
            held = asyncio.create_task(client.refresh(grant, "fake-refresh-token-1"))
            connection, _ = await asyncio.to_thread(server.accept)
            with pytest.raises(NotConnectedError) as caught:
                await client.refresh(grant, "fake-refresh-token-2")
            connection.close()
            with pytest.raises(NotConnectedError):
                await held
    require_not_connected(caught.value)
