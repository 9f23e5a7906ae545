"""What can be said of a grant without showing a secret."""

from __future__ import annotations

from datetime import timedelta

import pytest

from blink_oauth import BlinkError, Grant, InvalidInputError
from blink_oauth_keeper import EventName, StoreError, TargetProfile, UnknownGrantError
from blink_oauth_keeper import status as status_module
from blink_oauth_keeper.store.protocol import State
from keeper.stage import (
    DAY,
    PATIENCE,
    START,
    Gate,
    Stage,
    lost,
    never_arrived,
    says,
    with_members,
)

REFUSES = says(400, {"error": "invalid_grant"})


def fail(stage: Stage, grant: Grant) -> None:
    """Let a refresh fail as it is prepared."""
    with pytest.raises(BlinkError):
        stage.manager.get(grant)


def test_a_fresh_grant_is_usable_and_needs_nobody(stage: Stage) -> None:
    grant = stage.authorize()
    status = stage.manager.status(grant)
    assert status.grant == grant
    assert (status.state, status.usable, status.needs_consent) == (State.ACTIVE, True, False)
    assert status.expires_at == START + timedelta(days=1)
    assert status.refresh_at is not None
    assert timedelta(hours=3) <= status.expires_at - status.refresh_at <= timedelta(hours=4)
    assert status.idle_until == START + timedelta(days=30)
    assert (status.generation, status.consent, status.attempts) == (1, 1, 0)
    assert (status.retry_in, status.error) == (0.0, None)
    assert status.correlation_id == stage.events[0].correlation_id
    assert status.updated_at == START


def test_an_expired_grant_is_not_usable_until_it_is_refreshed(stage: Stage) -> None:
    grant = stage.expired()
    assert not stage.manager.status(grant).usable
    assert not stage.manager.status(grant).needs_consent
    stage.manager.get(grant)
    assert stage.manager.status(grant).usable
    assert stage.manager.status(grant).generation == 2


def test_a_grant_that_is_being_refreshed_says_how_long_at_most(stage: Stage) -> None:
    grant = stage.expired()
    gate = Gate()
    stage.banks.answer(gate)
    caller = stage.aside(lambda: stage.manager.get(grant))
    gate.wait()
    status = stage.manager.status(grant)
    assert (status.state, status.attempts, status.retry_in) == (State.REFRESHING, 1, 25)
    assert not status.needs_consent
    gate.open()
    caller.result(PATIENCE)


def test_a_doubtful_grant_says_when_it_is_tried_again(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(never_arrived, never_arrived)
    fail(stage, grant)
    status = stage.manager.status(grant)
    assert (status.state, status.attempts) == (State.UNCERTAIN, 1)
    assert (status.error, status.needs_consent) == ("TimedOutError", False)
    assert 25 <= status.retry_in <= 28
    stage.advance(40)
    status = stage.manager.status(grant)
    assert (status.attempts, status.needs_consent) == (2, True)
    stage.replays = 1


def test_at_a_bank_that_never_rotates_no_doubt_is_final(stage: Stage) -> None:
    stage.banks.set_policy(rotates=False)
    stage.make(profile=TargetProfile(rotates=False))
    grant = stage.expired()
    stage.banks.answer(lost, lost)
    fail(stage, grant)
    stage.advance(30)
    status = stage.manager.status(grant)
    assert (status.attempts, status.needs_consent) == (2, False)
    stage.replays = 2


def test_a_second_attempt_under_way_is_not_a_second_failure(stage: Stage) -> None:
    stage.banks.set_policy(replay_window=60.0)
    grant = stage.expired()
    gate = Gate()
    stage.banks.answer(lost, gate)
    fail(stage, grant)
    stage.advance(30)
    gate.wait()
    status = stage.manager.status(grant)
    assert (status.state, status.attempts, status.needs_consent) == (State.REFRESHING, 2, False)
    gate.open()
    stage.replays = 1


def test_a_refused_grant_needs_the_customer_and_may_still_be_usable(stage: Stage) -> None:
    grant = stage.authorize()
    stage.manager.get(grant)
    stage.advance(DAY - 1800)
    stage.banks.answer(REFUSES)
    stage.manager.get(grant)
    stage.calm()
    status = stage.manager.status(grant)
    assert (status.state, status.usable, status.needs_consent) == (
        State.NEEDS_CONSENT,
        True,
        True,
    )
    assert status.error == "InvalidGrantError"


def test_a_grant_without_a_refresh_token_will_need_the_customer(stage: Stage) -> None:
    grant = stage.authorize(answer=with_members(refresh_token=None))
    status = stage.manager.status(grant)
    assert (status.usable, status.needs_consent, status.idle_until) == (True, True, None)


def test_a_revoked_grant_has_no_token(stage: Stage) -> None:
    grant = stage.authorize()
    stage.manager.revoke(grant)
    status = stage.manager.status(grant)
    assert (status.state, status.usable, status.needs_consent) == (State.REVOKED, False, True)
    assert (status.expires_at, status.refresh_at) == (None, None)


def test_nothing_can_be_said_of_a_grant_that_nobody_knows(stage: Stage) -> None:
    with pytest.raises(UnknownGrantError):
        stage.manager.status(Grant("IIDX00001", "nobody"))
    with pytest.raises(InvalidInputError):
        stage.manager.status("u-4711")  # type: ignore[arg-type]


def test_the_status_is_what_the_store_knows_now(stage: Stage) -> None:
    grant = stage.authorize()
    stage.make().revoke(grant)
    assert stage.manager.status(grant).state is State.REVOKED
    stage.shaky.go_down()
    with pytest.raises(StoreError):
        stage.manager.status(grant)


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 100])
def test_all_grants_are_told_page_by_page_each_once(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(status_module, "PAGE", size)
    for target, name in [("IIDX00002", "b"), ("IIDX00001", "c"), ("IIDX00001", "a")]:
        stage.authorize(name, target)
        stage.authorize(name + "-2", target)
    told = [(each.grant.target_id, each.grant.username) for each in stage.manager.statuses()]
    assert told == [
        ("IIDX00001", "a"),
        ("IIDX00001", "a-2"),
        ("IIDX00001", "c"),
        ("IIDX00001", "c-2"),
        ("IIDX00002", "b"),
        ("IIDX00002", "b-2"),
    ]


def test_each_grant_is_told_by_the_profile_of_its_target(stage: Stage) -> None:
    stage.make(profiles={"IIDX00002": TargetProfile(default_lifetime=60)})
    for target in ("IIDX00001", "IIDX00002"):
        stage.authorize(target_id=target, answer=with_members(expires_in=None))
    lifetimes = [each.expires_at and each.expires_at - START for each in stage.manager.statuses()]
    assert lifetimes == [timedelta(hours=1), timedelta(seconds=60)]


def test_the_history_tells_who_did_what_the_newest_first(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(lost)
    fail(stage, grant)
    stage.advance(30)
    stage.manager.revoke(grant)
    history = stage.manager.history(grant)
    assert [entry.note.event for entry in history] == [
        EventName.REVOKED,
        EventName.CONSENT_NEEDED,
        EventName.UNCERTAIN,
        EventName.AUTHORIZED,
    ]
    assert [entry.note.outcome for entry in history] == ["done", "rejected", "uncertain", "done"]
    assert len({entry.note.correlation_id for entry in history[1:]}) == 3
    assert stage.manager.history(grant, limit=1) == history[:1]
    stage.replays = 1


def test_neither_status_nor_history_holds_a_secret(stage: Stage) -> None:
    grant = stage.expired()
    token = stage.manager.get(grant)
    assert token.refresh_token is not None
    shown = repr([*stage.manager.statuses(), *stage.manager.history(grant), *stage.events])
    assert "generation" in shown
    for secret in (token.access_token, token.refresh_token):
        assert secret.reveal() not in shown
