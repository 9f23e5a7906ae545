"""Closing a manager, and the end of a program that does not close its manager."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import httpx
import pytest

from blink_oauth import BlinkError, Grant, InvalidInputError, NotConnectedError, Token
from blink_oauth_keeper import EventName, RefreshPendingError, StoreError, TokenManager
from blink_oauth_keeper.store.protocol import State
from keeper.harness import (
    DAY,
    PSU,
    REDIRECT_URI,
    TIMEOUT,
    Gate,
    Harness,
    connection_refused,
    response_lost,
    wait_until,
)

PROGRAM = Path(__file__).with_name("exit_without_closing.py")
CLOSED = r"^The manager is closed\. Nothing was sent\.$"
CODE, REFRESH_TOKEN = "a-fake-code", "a-fake-refresh-token"


def test_closing_waits_for_the_flight_in_progress(harness: Harness) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    closing = harness.in_thread(harness.manager.close)
    wait_until(harness.is_closed)
    assert not closing.done()
    gate.open()
    closing.result(TIMEOUT)
    assert caller.result(TIMEOUT)
    assert harness.record(grant).generation == 2
    assert harness.faulty.calls[-1] == "close"


def test_closing_ends_the_wait_for_the_lease_of_another_process(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.memory.claim(harness.record(grant), owner="another owner", ttl=25)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    wait_until(lambda: harness.waiting() > 0)
    harness.manager.close()
    with pytest.raises(RefreshPendingError):
        caller.result(TIMEOUT)
    assert harness.banks.presented() == []


CALLS: dict[str, Callable[[TokenManager, Grant, Token], object]] = {
    "get": lambda manager, grant, _: manager.get(grant),
    "get, valid for a minute": lambda manager, grant, _: manager.get(grant, min_validity=60),
    "refresh": lambda manager, grant, _: manager.refresh(grant),
    "authorize": lambda manager, grant, _: manager.authorize(
        grant, code=CODE, redirect_uri=REDIRECT_URI, psu=PSU
    ),
    "adopt": lambda manager, grant, _: manager.adopt(grant, refresh_token=REFRESH_TOKEN),
    "revoke": lambda manager, grant, _: manager.revoke(grant),
    "forget": lambda manager, grant, _: manager.forget(grant),
    "invalidate": lambda manager, grant, token: manager.invalidate(grant, token),
    "auth": lambda manager, grant, _: manager.auth(grant, psu=PSU),
    "client": lambda manager, *_: manager.client(),
    "async_client": lambda manager, *_: manager.async_client(),
    "headers": lambda manager, grant, _: manager.headers(grant, psu=PSU),
    "refresh_due": lambda manager, *_: manager.refresh_due(),
    "refresh_due, dry": lambda manager, *_: manager.refresh_due(dry_run=True),
    "deliver_notices": lambda manager, *_: manager.deliver_notices(print),
    "notices": lambda manager, *_: manager.notices(),
    "retry_notices": lambda manager, *_: manager.retry_notices(),
    "status": lambda manager, grant, _: manager.status(grant),
    "statuses": lambda manager, *_: manager.statuses(),
    "history": lambda manager, grant, _: manager.history(grant),
}
ASYNC_CALLS: dict[str, Callable[[TokenManager, Grant], Awaitable[object]]] = {
    "aget": lambda manager, grant: manager.aget(grant),
    "arefresh": lambda manager, grant: manager.arefresh(grant),
    "aauthorize": lambda manager, grant: manager.aauthorize(
        grant, code=CODE, redirect_uri=REDIRECT_URI, psu=PSU
    ),
    "aadopt": lambda manager, grant: manager.aadopt(grant, refresh_token=REFRESH_TOKEN),
    "arevoke": lambda manager, grant: manager.arevoke(grant),
    "aforget": lambda manager, grant: manager.aforget(grant),
    "aheaders": lambda manager, grant: manager.aheaders(grant, psu=PSU),
    "arefresh_due": lambda manager, _: manager.arefresh_due(),
    "adeliver_notices": lambda manager, _: manager.adeliver_notices(print),
    "anotices": lambda manager, _: manager.anotices(),
    "aretry_notices": lambda manager, _: manager.aretry_notices(),
    "astatus": lambda manager, grant: manager.astatus(grant),
    "astatuses": lambda manager, _: anext(aiter(manager.astatuses())),
    "ahistory": lambda manager, grant: manager.ahistory(grant),
}
"""Every public method that does something but close, sync and async."""


@pytest.mark.parametrize("name", CALLS)
def test_each_method_of_a_closed_manager_raises_and_sends_nothing(
    harness: Harness, name: str
) -> None:
    grant = harness.authorize()
    token = harness.manager.get(grant)
    harness.manager.close()
    requests, calls = len(harness.banks.requests), len(harness.faulty.calls)
    with pytest.raises(InvalidInputError, match=CLOSED):
        CALLS[name](harness.manager, grant, token)
    assert (len(harness.banks.requests), len(harness.faulty.calls)) == (requests, calls)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ASYNC_CALLS)
async def test_each_coroutine_of_a_closed_manager_raises_and_sends_nothing(
    harness: Harness, name: str
) -> None:
    grant = harness.authorize()
    harness.manager.close()
    requests, calls = len(harness.banks.requests), len(harness.faulty.calls)
    with pytest.raises(InvalidInputError, match=CLOSED):
        await ASYNC_CALLS[name](harness.manager, grant)
    assert (len(harness.banks.requests), len(harness.faulty.calls)) == (requests, calls)


def test_no_public_method_is_left_out() -> None:
    methods = {name for name, _ in inspect.getmembers(TokenManager, inspect.isfunction)}
    tested = {name.partition(",")[0] for name in {*CALLS, *ASYNC_CALLS}}
    untested = {"close", "aclose", "fingerprint"}
    assert {name for name in methods if name[0] != "_"} == tested | untested


def test_a_closed_manager_still_names_a_grant_in_logs(harness: Harness) -> None:
    grant = harness.authorize()
    fingerprint = harness.manager.fingerprint(grant)
    harness.manager.close()
    assert harness.manager.fingerprint(grant) == fingerprint


def test_the_failure_that_callers_share_ends_with_the_manager(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(connection_refused)
    with pytest.raises(NotConnectedError):
        harness.manager.get(grant)
    harness.manager.close()
    with pytest.raises(InvalidInputError, match=CLOSED):
        harness.manager.get(grant)


def test_a_manager_that_closes_serves_a_cached_token_until_its_flights_have_ended(
    harness: Harness,
) -> None:
    cached, expired = harness.authorize(), harness.authorize("u-2")
    token = harness.manager.get(cached)
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.refresh(expired))
    gate.wait()
    closing = harness.in_thread(harness.manager.close)
    wait_until(harness.is_closed)
    harness.clock.elapse(DAY - 1800)
    assert harness.manager.get(cached) == token
    gate.open()
    closing.result(TIMEOUT)
    assert caller.result(TIMEOUT)
    with pytest.raises(InvalidInputError, match=CLOSED):
        harness.manager.get(cached)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        (401, pytest.raises(InvalidInputError, match="refused the last request with 401")),
        (403, nullcontext()),
    ],
)
def test_a_refusal_by_a_banks_api_is_shown_although_the_manager_closes_meanwhile(
    harness: Harness, status: int, expected: AbstractContextManager[object]
) -> None:
    grant = harness.authorize()

    def refuse(_: httpx.Request) -> httpx.Response:
        harness.manager.close()
        return httpx.Response(status)

    auth = harness.manager.auth(grant, psu=PSU)
    with httpx.Client(transport=httpx.MockTransport(refuse)) as api, expected:
        assert api.get("https://bank.example/accounts", auth=auth).status_code == 403


def test_the_connections_close_even_if_the_store_cannot_be_closed(harness: Harness) -> None:
    def fail() -> None:
        raise StoreError("The test's store cannot be closed.")

    harness.faulty.replacements["close"] = fail
    with pytest.raises(StoreError):
        harness.manager.close()
    with pytest.raises(InvalidInputError, match=CLOSED):
        harness.manager.client()
    harness.faulty.replacements.clear()


def test_a_manager_can_be_closed_twice(harness: Harness) -> None:
    harness.manager.get(harness.expired_grant())
    harness.manager.close()
    harness.manager.close()


def test_an_unused_manager_can_be_closed(harness: Harness) -> None:
    harness.make_manager().close()
    assert harness.faulty.calls == ["close"]


def test_a_with_block_closes_its_manager(harness: Harness) -> None:
    with harness.make_manager() as manager:
        manager.get(harness.expired_grant())
    with pytest.raises(InvalidInputError, match="closed"):
        manager.get(harness.authorize("u-2", manager=harness.make_manager()), min_validity=1)


def test_closing_a_manager_does_not_close_its_client(harness: Harness) -> None:
    grant = harness.expired_grant()
    token = harness.manager.get(grant)
    harness.manager.close()
    assert harness.blink.refresh(grant, token.refresh_token)


def test_a_scheduled_replay_is_not_made_after_closing(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(response_lost)
    with pytest.raises(BlinkError):
        harness.manager.get(grant)
    harness.manager.close()
    harness.advance(300)
    assert len(harness.banks.presented()) == 1
    assert harness.record(grant).state is State.UNCERTAIN


def test_closing_waits_for_an_unavailable_store_and_then_emits_that_the_pair_is_lost(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    harness.faulty.fail("settle")
    harness.manager.get(grant)
    wait_until(lambda: harness.waiting() > 0)
    harness.manager.close(timeout=0.05)
    assert harness.event_names()[-2:] == [EventName.UNSETTLED, EventName.LOST]
    # The record still shows that the refresh token may be spent.
    assert harness.record(grant).state is State.REFRESHING


def test_closing_emits_that_the_pair_of_an_unstored_consent_is_lost(harness: Harness) -> None:
    harness.faulty.fail("put")
    harness.authorize()
    wait_until(lambda: harness.waiting() > 0)
    harness.manager.close(timeout=0.05)
    assert harness.event_names() == [EventName.UNSETTLED, EventName.LOST]


def test_closing_emits_that_an_unstored_uncertain_outcome_is_lost(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(response_lost)
    harness.faulty.fail("release")
    with pytest.raises(BlinkError):
        harness.manager.get(grant)
    wait_until(lambda: harness.waiting() > 0)
    harness.manager.close(timeout=0.05)
    assert EventName.LOST in harness.event_names()
    assert harness.record(grant).state is State.REFRESHING


def test_a_store_that_recovers_during_closing_receives_the_unstored_pair(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.fail("settle")
    token = harness.manager.get(grant)
    wait_until(lambda: harness.waiting() > 0)
    closing = harness.in_thread(harness.manager.close)
    wait_until(harness.is_closed)
    harness.faulty.recover()
    harness.advance(1.1)
    closing.result(TIMEOUT)
    record = harness.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token


def test_the_flights_of_a_program_that_ends_without_closing_finish() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == {
        "u-1": "pending",
        "u-2": "pending",
        "late": True,
        "generations": [2, 2, 2],
        "requests": 3,
        "events": [
            EventName.AUTHORIZED,
            EventName.REFRESHED,
            EventName.SETTLED_LATE,
            EventName.UNSETTLED,
        ],
    }
