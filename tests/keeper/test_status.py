"""The status and the history of a grant, without secrets."""

from __future__ import annotations

from datetime import timedelta

import pytest

from blink_oauth import BlinkError, Grant, InvalidInputError
from blink_oauth_keeper import (
    EventName,
    RefreshUncertainError,
    StoreError,
    TargetProfile,
    UnknownGrantError,
)
from blink_oauth_keeper import status as status_module
from blink_oauth_keeper.store.protocol import State
from keeper.harness import (
    DAY,
    START,
    TIMEOUT,
    Gate,
    Harness,
    request_lost,
    response_lost,
    status_response,
    with_members,
)

INVALID_GRANT = status_response(400, {"error": "invalid_grant"})


def fail_refresh(harness: Harness, grant: Grant) -> None:
    """Make a refresh for which the test has prepared a failure."""
    with pytest.raises(BlinkError):
        harness.manager.get(grant)


def test_a_new_grant_is_usable_and_needs_no_consent(harness: Harness) -> None:
    grant = harness.authorize()
    status = harness.manager.status(grant)
    assert status.grant == grant
    assert (status.state, status.usable, status.needs_consent) == (State.ACTIVE, True, False)
    assert status.expires_at == START + timedelta(days=1)
    assert status.refresh_at is not None
    assert timedelta(hours=3) <= status.expires_at - status.refresh_at <= timedelta(hours=4)
    assert status.idle_until == START + timedelta(days=30)
    assert (status.generation, status.consent, status.attempts) == (1, 1, 0)
    assert (status.retry_in, status.error) == (0.0, None)
    assert status.correlation_id == harness.events[0].correlation_id
    assert status.updated_at == START


def test_an_expired_grant_is_not_usable_until_it_is_refreshed(harness: Harness) -> None:
    grant = harness.expired_grant()
    assert not harness.manager.status(grant).usable
    assert not harness.manager.status(grant).needs_consent
    harness.manager.get(grant)
    assert harness.manager.status(grant).usable
    assert harness.manager.status(grant).generation == 2


def test_during_a_refresh_retry_in_is_the_rest_of_the_lease(harness: Harness) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    status = harness.manager.status(grant)
    assert (status.state, status.attempts, status.retry_in) == (State.REFRESHING, 1, 25)
    assert not status.needs_consent
    gate.open()
    caller.result(TIMEOUT)


def test_after_an_uncertain_outcome_retry_in_is_the_time_until_the_replay(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(request_lost, request_lost)
    fail_refresh(harness, grant)
    status = harness.manager.status(grant)
    assert (status.state, status.attempts) == (State.UNCERTAIN, 1)
    assert (status.error, status.needs_consent) == ("TimedOutError", False)
    assert 25 <= status.retry_in <= 28
    harness.advance(40)
    status = harness.manager.status(grant)
    assert (status.attempts, status.needs_consent) == (2, False)
    assert 3500 <= status.retry_in <= 3600
    harness.advance(3600)
    assert harness.manager.status(grant).retry_in == 0
    harness.banks.respond_next(request_lost)
    fail_refresh(harness, grant)
    status = harness.manager.status(grant)
    assert (status.attempts, status.needs_consent) == (3, True)
    harness.allowed_replays = 2


def test_at_a_bank_that_never_rotates_two_uncertain_attempts_need_no_consent(
    harness: Harness,
) -> None:
    harness.banks.set_policy(rotates=False)
    harness.make_manager(profile=TargetProfile(rotates=False))
    grant = harness.expired_grant()
    harness.banks.respond_next(response_lost, response_lost)
    fail_refresh(harness, grant)
    harness.advance(30)
    status = harness.manager.status(grant)
    assert (status.attempts, status.needs_consent) == (2, False)
    harness.allowed_replays = 2


def test_a_replay_in_progress_needs_no_consent(harness: Harness) -> None:
    harness.banks.set_policy(replay_window=60.0)
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(response_lost, gate)
    fail_refresh(harness, grant)
    harness.advance(30)
    gate.wait()
    status = harness.manager.status(grant)
    assert (status.state, status.attempts, status.needs_consent) == (State.REFRESHING, 2, False)
    gate.open()
    harness.allowed_replays = 1


@pytest.mark.parametrize(
    ("profile", "claims", "needs_consent"),
    [
        (TargetProfile(), 1, False),
        (TargetProfile(), 2, False),
        (TargetProfile(), 3, True),
        (TargetProfile(last_attempt=False), 2, True),
        (TargetProfile(rotates=False), 3, False),
    ],
    ids=[
        "killed-in-the-first-attempt",
        "killed-in-the-replay",
        "killed-in-the-last-attempt",
        "killed-in-the-replay-without-a-last-attempt",
        "bank-that-never-rotates",
    ],
)
def test_after_a_killed_refresh_the_status_agrees_with_the_next_call(
    harness: Harness, profile: TargetProfile, claims: int, needs_consent: bool
) -> None:
    manager = harness.make_manager(profile=profile)
    grant = harness.expired_grant()
    for number in range(claims):
        assert harness.memory.claim(harness.record(grant), owner=f"killed {number}", ttl=25)
        assert not manager.status(grant).needs_consent
        harness.advance(26)
    status = manager.status(grant)
    assert (status.state, status.attempts) == (State.REFRESHING, claims)
    assert status.needs_consent is needs_consent
    harness.advance(3600)
    if needs_consent:
        with pytest.raises(RefreshUncertainError) as caught:
            manager.get(grant)
        assert caught.value.needs_consent
    else:
        assert manager.get(grant)


def test_a_refused_grant_with_a_valid_access_token_is_usable_and_needs_consent(
    harness: Harness,
) -> None:
    grant = harness.authorize()
    harness.manager.get(grant)
    harness.advance(DAY - 1800)
    harness.banks.respond_next(INVALID_GRANT)
    harness.manager.get(grant)
    harness.wait_until_idle()
    status = harness.manager.status(grant)
    assert (status.state, status.usable, status.needs_consent) == (
        State.NEEDS_CONSENT,
        True,
        True,
    )
    assert status.error == "InvalidGrantError"


def test_a_grant_without_a_refresh_token_needs_consent(harness: Harness) -> None:
    grant = harness.authorize(responder=with_members(refresh_token=None))
    status = harness.manager.status(grant)
    assert (status.usable, status.needs_consent, status.idle_until) == (True, True, None)


def test_a_revoked_grant_has_no_token(harness: Harness) -> None:
    grant = harness.authorize()
    harness.manager.revoke(grant)
    status = harness.manager.status(grant)
    assert (status.state, status.usable, status.needs_consent) == (State.REVOKED, False, True)
    assert (status.expires_at, status.refresh_at) == (None, None)


def test_the_status_of_an_unknown_grant_raises_an_error(harness: Harness) -> None:
    with pytest.raises(UnknownGrantError):
        harness.manager.status(Grant("IIDX00001", "u-unknown"))
    with pytest.raises(InvalidInputError):
        harness.manager.status("u-4711")  # type: ignore[arg-type]


def test_the_status_is_read_from_the_store(harness: Harness) -> None:
    grant = harness.authorize()
    harness.make_manager().revoke(grant)
    assert harness.manager.status(grant).state is State.REVOKED
    harness.faulty.fail()
    with pytest.raises(StoreError):
        harness.manager.status(grant)


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 100])
def test_statuses_returns_each_grant_once_whatever_the_page_size(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(status_module, "PAGE", size)
    for target, name in [("IIDX00002", "b"), ("IIDX00001", "c"), ("IIDX00001", "a")]:
        harness.authorize(name, target)
        harness.authorize(name + "-2", target)
    grants = [(each.grant.target_id, each.grant.username) for each in harness.manager.statuses()]
    assert grants == [
        ("IIDX00001", "a"),
        ("IIDX00001", "a-2"),
        ("IIDX00001", "c"),
        ("IIDX00001", "c-2"),
        ("IIDX00002", "b"),
        ("IIDX00002", "b-2"),
    ]


def test_each_status_is_computed_with_the_profile_of_its_target(harness: Harness) -> None:
    harness.make_manager(profiles={"IIDX00002": TargetProfile(default_lifetime=60)})
    for target in ("IIDX00001", "IIDX00002"):
        harness.authorize(target_id=target, responder=with_members(expires_in=None))
    lifetimes = [each.expires_at and each.expires_at - START for each in harness.manager.statuses()]
    assert lifetimes == [timedelta(hours=1), timedelta(seconds=60)]


def test_the_history_lists_events_and_outcomes_newest_first(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(response_lost)
    fail_refresh(harness, grant)
    harness.advance(30)
    harness.manager.revoke(grant)
    history = harness.manager.history(grant)
    assert [entry.note.event for entry in history] == [
        EventName.REVOKED,
        EventName.REVOKING,
        EventName.CONSENT_NEEDED,
        EventName.UNCERTAIN,
        EventName.AUTHORIZED,
        EventName.AUTHORIZING,
    ]
    outcomes = ["done", "done", "rejected", "uncertain", "done", "done"]
    assert [entry.note.outcome for entry in history] == outcomes
    assert len({entry.note.correlation_id for entry in history[2:5]}) == 3
    assert harness.manager.history(grant, limit=1) == history[:1]
    harness.allowed_replays = 1


def test_neither_status_nor_history_contains_a_secret(harness: Harness) -> None:
    grant = harness.expired_grant()
    token = harness.manager.get(grant)
    assert token.refresh_token is not None
    text = repr([*harness.manager.statuses(), *harness.manager.history(grant), *harness.events])
    assert "generation" in text
    for secret in (token.access_token, token.refresh_token):
        assert secret.reveal() not in text
