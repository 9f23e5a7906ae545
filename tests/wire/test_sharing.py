"""One client shared by many threads or tasks, some of which are cancelled."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
from attrs import evolve

from blink_oauth import (
    AsyncBlinkOAuth,
    BlinkOAuth,
    InvalidInputError,
    Outcome,
    Settings,
    StatusError,
    Timeouts,
    Token,
)
from blink_oauth_testing.sandbox import Delivery, Fault, Sandbox
from blink_oauth_testing.sandbox.messages import Response
from flavours import Caller
from wire.harness import CUSTOMER, Connect, exchange, wait_until
from wire.relay import Relay, running_relay

THREADS, TASKS = 64, 500
# The sandbox serves one request at a time, so the last of many callers waits for all others.
PATIENT = Timeouts(connect=120.0, read=120.0, pool=120.0, total=120.0)


@pytest.fixture
def relay(blink_sandbox: Sandbox) -> Iterator[Relay]:
    """Run a relay that counts the connections to the sandbox."""
    with running_relay(blink_sandbox.base_url) as relay:
        yield relay


def require_no_mix_up(sandbox: Sandbox, tokens: list[Token]) -> None:
    """Check that each caller got the response to its own request."""
    assert all(token.oddities == frozenset() for token in tokens)
    metas = [token.meta for token in tokens if token.meta is not None]
    assert all(meta.echoed for meta in metas)
    ids = {meta.correlation_id for meta in metas}
    assert len(ids) == len(tokens)
    assert ids == {seen.correlation_id for seen in sandbox.exchanges}
    assert len({token.access_token for token in tokens}) == len(tokens)
    assert len({token.refresh_token for token in tokens}) == len(tokens)


def test_64_threads_share_one_client_and_its_connections(
    blink_sandbox: Sandbox, settings: Settings, relay: Relay
) -> None:
    grant, barrier = blink_sandbox.grant(), threading.Barrier(THREADS)
    settings = evolve(settings, base_url=relay.base_url, timeouts=PATIENT, max_connections=8)
    with BlinkOAuth(settings) as client, ThreadPoolExecutor(THREADS) as pool:

        def work(code: str) -> Token:
            barrier.wait()
            return client.exchange_code(
                grant, code=code, redirect_uri=blink_sandbox.redirect_uri, psu=CUSTOMER
            )

        codes = [blink_sandbox.issue_code(grant) for _ in range(THREADS)]
        tokens = list(pool.map(work, codes))
    require_no_mix_up(blink_sandbox, tokens)
    assert relay.opened <= 8


@pytest.mark.anyio
async def test_500_tasks_share_one_client_and_its_connections(
    blink_sandbox: Sandbox, settings: Settings, relay: Relay
) -> None:
    grant = blink_sandbox.grant()
    settings = evolve(settings, base_url=relay.base_url, timeouts=PATIENT, max_connections=16)
    async with AsyncBlinkOAuth(settings) as client:

        def work() -> Awaitable[Token]:
            return client.exchange_code(
                grant,
                code=blink_sandbox.issue_code(grant),
                redirect_uri=blink_sandbox.redirect_uri,
                psu=CUSTOMER,
            )

        tokens = await asyncio.gather(*(work() for _ in range(TASKS)))
    require_no_mix_up(blink_sandbox, tokens)
    assert relay.opened <= 16


def test_the_calls_of_one_client_share_one_connection(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings, relay: Relay
) -> None:
    caller = connect(evolve(settings, base_url=relay.base_url))
    for _ in range(10):
        exchange(caller, blink_sandbox, blink_sandbox.grant())
    assert relay.opened == 1


def test_consecutive_event_loops_can_each_use_a_client(
    blink_sandbox: Sandbox, settings: Settings
) -> None:
    grant = blink_sandbox.grant("IIDX00002")

    async def exchange_refresh_and_revoke() -> None:
        async with AsyncBlinkOAuth(settings) as client:
            token = await client.exchange_code(
                grant,
                code=blink_sandbox.issue_code(grant),
                redirect_uri=blink_sandbox.redirect_uri,
                psu=CUSTOMER,
            )
            assert token.refresh_token is not None
            await client.refresh(grant, token.refresh_token)
            await client.revoke(grant, token)

    for _ in range(2):
        asyncio.run(exchange_refresh_and_revoke())
    assert len(blink_sandbox.exchanges) == 8


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("wire", "reached"),
    [
        (Delivery(head_interval=60.0), "send_request_body.complete"),
        (Delivery(body_interval=60.0), "receive_response_headers.complete"),
    ],
    ids=["before the headers", "in the body"],
)
async def test_cancelled_tasks_leave_the_client_usable_and_leak_no_connection(
    *,
    blink_sandbox: Sandbox,
    settings: Settings,
    relay: Relay,
    caplog: pytest.LogCaptureFixture,
    wire: Delivery,
    reached: str,
) -> None:
    grant = blink_sandbox.grant("IIDX00002")
    settings = evolve(settings, base_url=relay.base_url, max_connections=2)
    async with AsyncBlinkOAuth(settings) as client:

        def call() -> asyncio.Task[Token]:
            return asyncio.create_task(
                client.exchange_code(
                    grant,
                    code=blink_sandbox.issue_code(grant),
                    redirect_uri=blink_sandbox.redirect_uri,
                    psu=CUSTOMER,
                )
            )

        def in_progress(calls: int) -> bool:
            return len(blink_sandbox.exchanges) == calls and reached in caplog.text

        for calls in range(1, 21):
            caplog.clear()
            blink_sandbox.fail(Fault("stuck", executes=True, delivery=wire))
            with caplog.at_level(logging.DEBUG, "httpcore.http11"):
                task = call()
                await asyncio.to_thread(wait_until, partial(in_progress, calls))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        tokens = await asyncio.gather(*(call() for _ in range(6)))
        assert len({token.access_token for token in tokens}) == 6
        await asyncio.to_thread(wait_until, lambda: relay.open <= 2)


def test_a_closed_client_sends_nothing(caller: Caller, blink_sandbox: Sandbox) -> None:
    grant = blink_sandbox.grant()
    token = exchange(caller, blink_sandbox, grant)
    caller.close()
    for call in (
        lambda: exchange(caller, blink_sandbox, grant),
        lambda: caller.refresh(grant, "fake-refresh-token-1"),
        lambda: caller.revoke(grant, token),
    ):
        with pytest.raises(InvalidInputError, match="closed") as caught:
            call()
        assert caught.value.outcome is Outcome.NOT_EXECUTED
    assert len(blink_sandbox.exchanges) == 1
    caller.close()


def test_a_cookie_is_never_sent_back(caller: Caller, blink_sandbox: Sandbox) -> None:
    cookie = Fault(
        "cookie",
        executes=True,
        change=lambda reply: reply.with_header("Set-Cookie", "session=fake-session; Path=/"),
    )
    blink_sandbox.fail(cookie)
    for _ in range(2):
        exchange(caller, blink_sandbox, blink_sandbox.grant())
    for seen in blink_sandbox.exchanges:
        assert "cookie" not in {name.lower() for name, _ in seen.request_headers}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_even_to_the_platform_itself(
    caller: Caller, blink_sandbox: Sandbox, status: int
) -> None:
    target = f"{blink_sandbox.base_url}/oauth/token"
    reply = Response(status).with_header("Location", target)
    blink_sandbox.fail(Fault("redirect-to-itself", executes=False, change=lambda _: reply))
    with pytest.raises(StatusError) as caught:
        exchange(caller, blink_sandbox, blink_sandbox.grant())
    assert caught.value.status == status
    assert caught.value.outcome is Outcome.UNCERTAIN
    assert len(blink_sandbox.exchanges) == 1
