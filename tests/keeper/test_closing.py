"""Closing a manager, and what happens to one that is never closed."""

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
from keeper.stage import (
    DAY,
    PATIENCE,
    PSU,
    REDIRECT_URI,
    Gate,
    Stage,
    eventually,
    lost,
)

PROGRAM = Path(__file__).with_name("ending.py")


def test_closing_waits_for_the_flight_that_is_in_the_air(stage: Stage) -> None:
    grant = stage.expired()
    gate = Gate()
    stage.banks.answer(gate)
    caller = stage.aside(lambda: stage.manager.get(grant))
    gate.wait()
    closing = stage.aside(stage.manager.close)
    eventually(stage.refuses)
    assert not closing.done()
    gate.open()
    closing.result(PATIENCE)
    assert caller.result(PATIENCE)
    assert stage.record(grant).generation == 2
    assert stage.shaky.calls[-1] == "close"


def test_closing_lets_those_go_who_wait_for_another_process(stage: Stage) -> None:
    grant = stage.expired()
    stage.memory.claim(stage.record(grant), owner="another", ttl=25)
    caller = stage.aside(lambda: stage.manager.get(grant))
    eventually(lambda: stage.waiting() > 0)
    stage.manager.close()
    with pytest.raises(RefreshPendingError):
        caller.result(PATIENCE)
    assert stage.banks.presented() == []


def test_a_closed_manager_refuses_clearly_and_nothing_is_sent(stage: Stage) -> None:
    expired, unknown = stage.expired(), stage.authorize("u-2")
    manager = stage.manager
    manager.close()
    code = stage.banks.issue_code(expired)
    posts = len(stage.banks.posts)
    with pytest.raises(InvalidInputError, match="The manager is closed"):
        manager.get(expired)
    with pytest.raises(InvalidInputError, match="The manager is closed"):
        manager.authorize(expired, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    with pytest.raises(InvalidInputError, match="The manager is closed"):
        manager.revoke(unknown)
    assert len(stage.banks.posts) == posts


@pytest.mark.anyio
async def test_a_closed_manager_refuses_coroutines_too(stage: Stage) -> None:
    grant = stage.expired()
    stage.manager.close()
    with pytest.raises(InvalidInputError, match="The manager is closed"):
        await stage.manager.aget(grant)
    with pytest.raises(InvalidInputError, match="The manager is closed"):
        await stage.manager.arevoke(grant)


def test_a_token_that_is_at_hand_is_served_although_nothing_new_can_begin(stage: Stage) -> None:
    grant = stage.authorize()
    token = stage.manager.get(grant)
    stage.manager.close()
    stage.advance(DAY - 1800)
    assert stage.manager.get(grant) == token
    assert stage.banks.presented() == []


def test_closing_twice_does_no_harm(stage: Stage) -> None:
    stage.manager.get(stage.expired())
    stage.manager.close()
    stage.manager.close()


def test_a_manager_that_was_never_used_can_be_closed(stage: Stage) -> None:
    stage.make().close()
    assert stage.shaky.calls == ["close"]


def test_a_block_closes_its_manager(stage: Stage) -> None:
    with stage.make() as manager:
        manager.get(stage.expired())
    with pytest.raises(InvalidInputError, match="closed"):
        manager.get(stage.authorize("u-2", manager=stage.make()), min_validity=1)


def test_the_client_stays_the_callers_to_close(stage: Stage) -> None:
    grant = stage.expired()
    token = stage.manager.get(grant)
    stage.manager.close()
    assert stage.blink.refresh(grant, token.refresh_token)


def test_a_replay_that_is_planned_is_left_to_other_processes(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(lost)
    with pytest.raises(BlinkError):
        stage.manager.get(grant)
    stage.manager.close()
    stage.advance(300)
    assert len(stage.banks.presented()) == 1
    assert stage.record(grant).state is State.UNCERTAIN


def test_closing_gives_a_store_that_is_away_some_time_and_then_says_what_is_lost(
    stage: Stage,
) -> None:
    grant = stage.expired()
    stage.shaky.go_down("settle")
    stage.manager.get(grant)
    eventually(lambda: stage.waiting() > 0)
    stage.manager.close(timeout=0.05)
    assert stage.names()[-2:] == [EventName.UNSETTLED, EventName.LOST]
    # What stands in the store says that the refresh token may be spent.
    assert stage.record(grant).state is State.REFRESHING


def test_a_new_consent_that_cannot_be_stored_before_the_end_is_told_too(stage: Stage) -> None:
    stage.shaky.go_down("put")
    stage.authorize()
    eventually(lambda: stage.waiting() > 0)
    stage.manager.close(timeout=0.05)
    assert stage.names() == [EventName.UNSETTLED, EventName.LOST]


def test_a_doubt_that_cannot_be_stored_before_the_end_is_told_too(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(lost)
    stage.shaky.go_down("release")
    with pytest.raises(BlinkError):
        stage.manager.get(grant)
    eventually(lambda: stage.waiting() > 0)
    stage.manager.close(timeout=0.05)
    assert EventName.LOST in stage.names()
    assert stage.record(grant).state is State.REFRESHING


def test_a_store_that_returns_while_all_is_closing_takes_what_is_unsaved(stage: Stage) -> None:
    grant = stage.expired()
    stage.shaky.go_down("settle")
    token = stage.manager.get(grant)
    eventually(lambda: stage.waiting() > 0)
    closing = stage.aside(stage.manager.close)
    eventually(stage.refuses)
    stage.shaky.come_back()
    stage.advance(1.1)
    closing.result(PATIENCE)
    record = stage.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token


def test_a_program_that_ends_without_closing_brings_its_flights_home() -> None:
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
        "u-1": "left",
        "u-2": "left",
        "late": True,
        "generations": [2, 2, 2],
        "posts": 3,
        "events": [
            EventName.AUTHORIZED,
            EventName.REFRESHED,
            EventName.SETTLED_LATE,
            EventName.UNSETTLED,
        ],
    }
