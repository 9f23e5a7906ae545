"""Closing a manager, and the end of a program that does not close its manager."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from blink_oauth import BlinkError, InvalidInputError
from blink_oauth_keeper import EventName, RefreshPendingError
from blink_oauth_keeper.store.protocol import State
from keeper.harness import (
    DAY,
    PSU,
    REDIRECT_URI,
    TIMEOUT,
    Gate,
    Harness,
    response_lost,
    wait_until,
)

PROGRAM = Path(__file__).with_name("exit_without_closing.py")


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


def test_a_closed_manager_raises_and_sends_nothing(harness: Harness) -> None:
    expired, other = harness.expired_grant(), harness.authorize("u-2")
    manager = harness.manager
    manager.close()
    code = harness.banks.issue_code(expired)
    before = len(harness.banks.requests)
    with pytest.raises(InvalidInputError, match="The manager is closed"):
        manager.get(expired)
    with pytest.raises(InvalidInputError, match="The manager is closed"):
        manager.authorize(expired, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    with pytest.raises(InvalidInputError, match="The manager is closed"):
        manager.revoke(other)
    assert len(harness.banks.requests) == before


@pytest.mark.anyio
async def test_a_closed_manager_raises_in_coroutines_too(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.manager.close()
    with pytest.raises(InvalidInputError, match="The manager is closed"):
        await harness.manager.aget(grant)
    with pytest.raises(InvalidInputError, match="The manager is closed"):
        await harness.manager.arevoke(grant)


def test_a_closed_manager_still_serves_a_cached_token(harness: Harness) -> None:
    grant = harness.authorize()
    token = harness.manager.get(grant)
    harness.manager.close()
    harness.advance(DAY - 1800)
    assert harness.manager.get(grant) == token
    assert harness.banks.presented() == []


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
