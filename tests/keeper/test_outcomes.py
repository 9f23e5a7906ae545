"""What becomes of a grant after each outcome of a refresh, at strict, lenient and odd banks."""

from __future__ import annotations

from typing import Any

import pytest
from attrs import evolve

from blink_oauth import (
    BlinkError,
    ConnectionLostError,
    Grant,
    InvalidGrantError,
    InvalidInputError,
    NotConnectedError,
    OAuthError,
    Oddity,
    Outcome,
    TimedOutError,
    Token,
)
from blink_oauth_keeper import (
    AfterUncertainty,
    ConsentNeededError,
    EventName,
    RefreshPausedError,
    RefreshPendingError,
    RefreshUncertainError,
    TargetProfile,
    TokenManager,
)
from blink_oauth_keeper.store.protocol import Origin, State
from keeper.harness import (
    CLIENT_ID,
    DAY,
    REDIRECT_URI,
    TIMEOUT,
    Gate,
    Harness,
    Responder,
    connection_refused,
    request_lost,
    response_lost,
    status_response,
    wait_until,
    with_members,
)

HOLD = TargetProfile(after_uncertainty=AfterUncertainty.HOLD)
ADVISED = DAY - 1800


def refused(harness: Harness, grant: Grant, *, manager: TokenManager | None = None) -> BlinkError:
    """Return the error that a caller gets."""
    with pytest.raises(BlinkError) as caught:
        (manager or harness.manager).get(grant)
    return caught.value


def begin_refresh(harness: Harness, grant: Grant) -> None:
    """Let time pass until a token is refreshed early, and start that."""
    harness.manager.get(grant)
    harness.advance(ADVISED)
    harness.manager.get(grant)
    harness.wait_until_idle()


# Nothing was executed


def test_what_was_not_executed_leaves_the_grant_as_it_was(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(connection_refused)
    error = refused(harness, grant)
    assert isinstance(error, NotConnectedError)
    record = harness.record(grant)
    assert (record.state, record.attempts, record.lease_left) == (State.ACTIVE, 0, 0)
    assert record.error == "NotConnectedError"
    assert record.pause_left > 0
    harness.advance(record.pause_left + 0.1)
    assert harness.manager.get(grant)
    assert harness.record(grant).error is None
    harness.allowed_replays = 1


def test_a_platform_that_refuses_the_client_has_asked_no_bank(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(status_response(403, source="PLATFORM"))
    assert refused(harness, grant).outcome is Outcome.NOT_EXECUTED
    assert harness.record(grant).attempts == 0
    assert harness.event_names()[-1] is EventName.FAILED


def test_a_call_that_could_outlast_the_lease_is_not_begun(harness: Harness) -> None:
    grant = harness.expired_grant()
    claim = harness.memory.claim

    def slowly(*args: Any, **options: Any) -> Any:
        harness.clock.elapse(20)
        return claim(*args, **options)

    harness.faulty.replacements["claim"] = slowly
    error = refused(harness, grant)
    assert isinstance(error, RefreshPendingError)
    assert harness.banks.presented() == []
    assert set(harness.event_names()[1:]) == {EventName.ABANDONED}
    record = harness.record(grant)
    assert (record.state, record.attempts, record.lease_left) == (State.ACTIVE, 0, 0)
    harness.faulty.replacements.clear()
    assert harness.manager.get(grant)


# The bank decided against it


def test_a_refused_refresh_token_needs_consent_and_is_never_presented_again(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))
    error = refused(harness, grant)
    assert isinstance(error, InvalidGrantError)
    assert error.needs_consent
    assert harness.record(grant).state is State.NEEDS_CONSENT
    for _ in range(3):
        harness.advance(120)
        assert isinstance(refused(harness, grant), ConsentNeededError)
    assert len(harness.banks.presented()) == 1
    assert harness.event_names()[-1] is EventName.CONSENT_NEEDED


def test_the_access_token_is_served_until_it_expires_although_consent_is_needed(
    harness: Harness,
) -> None:
    grant = harness.authorize()
    token = harness.manager.get(grant)
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))
    begin_refresh(harness, grant)
    assert harness.record(grant).state is State.NEEDS_CONSENT
    assert harness.record(grant).token == token
    assert harness.manager.get(grant) == token
    harness.advance(1700)
    assert harness.manager.get(grant) == token
    harness.advance(101)
    assert isinstance(refused(harness, grant), ConsentNeededError)


def test_a_second_consent_that_silently_ended_the_first_needs_consent(harness: Harness) -> None:
    harness.banks.set_policy(one_token_per_contract=True)
    grant = harness.expired_grant()
    code = harness.banks.issue_code(grant)
    harness.banks.bank().exchange_code(CLIENT_ID, code, REDIRECT_URI, grant.username)
    assert refused(harness, grant).needs_consent


def test_a_new_consent_ends_the_need_for_one(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))
    refused(harness, grant)
    harness.authorize()
    assert harness.manager.get(grant) == harness.record(grant).token
    assert harness.record(grant).state is State.ACTIVE


def test_a_refusal_for_another_reason_spends_nothing_and_is_tried_again_later(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(status_response(400, {"error": "invalid_scope"}))
    error = refused(harness, grant)
    assert isinstance(error, OAuthError)
    assert not error.needs_consent
    assert harness.record(grant).attempts == 0
    harness.advance(59)
    assert isinstance(refused(harness, grant), OAuthError)
    harness.advance(2)
    assert harness.manager.get(grant)
    harness.allowed_replays = 1


# Nobody knows


LOSSES: dict[str, tuple[Responder, type[BlinkError]]] = {
    "the answer": (response_lost, ConnectionLostError),
    "the request": (request_lost, TimedOutError),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_leaves_a_doubt_that_all_can_see(harness: Harness, loss: str) -> None:
    answer, kind = LOSSES[loss]
    grant = harness.expired_grant()
    harness.banks.respond_next(answer)
    error = refused(harness, grant)
    assert type(error) is kind
    assert error.outcome is Outcome.UNCERTAIN
    record = harness.record(grant)
    assert (record.state, record.attempts) == (State.UNCERTAIN, 1)
    assert record.pause_left >= 25
    assert harness.event_names()[-1] is EventName.UNCERTAIN


@pytest.mark.parametrize("loss", LOSSES)
def test_after_the_lease_a_wakeup_presents_the_token_once_more_and_heals_the_grant(
    harness: Harness, loss: str
) -> None:
    harness.banks.set_policy(replay_window=60.0)
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.banks.respond_next(LOSSES[loss][0])
    begin_refresh(harness, grant)
    assert len(harness.banks.presented()) == 1
    assert harness.manager.get(grant) == old
    harness.advance(24.9)
    assert len(harness.banks.presented()) == 1
    harness.advance(5)
    assert len(harness.banks.presented()) == 2
    record = harness.record(grant)
    assert (record.state, record.attempts, record.generation) == (State.ACTIVE, 0, 2)
    assert harness.manager.get(grant) != old
    assert harness.banks.accepts(grant, harness.manager.get(grant))
    assert harness.event_names()[-2:] == [EventName.REPLAYED, EventName.REFRESHED]
    harness.allowed_replays = 1


def test_at_a_strict_bank_the_replay_of_a_lost_answer_needs_consent(harness: Harness) -> None:
    grant = harness.authorize()
    harness.banks.respond_next(response_lost)
    begin_refresh(harness, grant)
    harness.advance(30)
    assert harness.record(grant).state is State.NEEDS_CONSENT
    assert harness.banks.bank().reuses == 1
    harness.advance(DAY)
    assert isinstance(refused(harness, grant), ConsentNeededError)
    assert len(harness.banks.presented()) == 2
    harness.allowed_replays = 1


def test_after_a_second_doubt_the_token_is_never_presented_a_third_time(harness: Harness) -> None:
    grant = harness.authorize()
    harness.banks.respond_next(request_lost, request_lost)
    begin_refresh(harness, grant)
    harness.advance(60)
    record = harness.record(grant)
    assert (record.state, record.attempts) == (State.UNCERTAIN, 2)
    harness.advance(DAY)
    for _ in range(3):
        error = refused(harness, grant)
        assert isinstance(error, RefreshUncertainError)
        assert error.needs_consent
        assert error.outcome is Outcome.UNCERTAIN
        harness.advance(3600)
    other = harness.make_manager()
    assert isinstance(refused(harness, grant, manager=other), RefreshUncertainError)
    assert len(harness.banks.presented()) == 2
    harness.allowed_replays = 1


def test_callers_are_held_off_until_the_replay(harness: Harness) -> None:
    harness.banks.set_policy(replay_window=60.0)
    grant = harness.expired_grant()
    harness.banks.respond_next(response_lost)
    assert isinstance(refused(harness, grant), ConnectionLostError)
    harness.advance(5)
    # In this process the failure is remembered, in another one it is read.
    assert isinstance(refused(harness, grant), ConnectionLostError)
    error = refused(harness, grant, manager=harness.make_manager())
    assert isinstance(error, RefreshPausedError)
    assert error.retry_after is not None
    assert 15 < error.retry_after < 30
    harness.advance(25)
    assert harness.manager.get(grant)
    harness.allowed_replays = 1


def test_a_server_that_is_unavailable_gets_no_prompt_replay(harness: Harness) -> None:
    grant = harness.authorize()
    harness.banks.respond_next(status_response(503))
    begin_refresh(harness, grant)
    harness.advance(300)
    assert len(harness.banks.presented()) == 1
    harness.manager.get(grant)
    harness.wait_until_idle()
    assert harness.record(grant).generation == 2
    harness.allowed_replays = 1


def test_holding_back_waits_until_the_access_token_is_about_to_expire(harness: Harness) -> None:
    harness.make_manager(profile=HOLD)
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.banks.respond_next(request_lost)
    begin_refresh(harness, grant)
    for _ in range(5):
        harness.advance(300)
        assert harness.manager.get(grant) == old
        harness.wait_until_idle()
    assert len(harness.banks.presented()) == 1
    harness.advance(260)
    assert harness.manager.get(grant) != old
    assert len(harness.banks.presented()) == 2
    harness.allowed_replays = 1


def test_a_bank_that_never_rotates_is_asked_as_often_as_pauses_allow(harness: Harness) -> None:
    harness.banks.set_policy(rotates=False)
    harness.make_manager(profile=TargetProfile(rotates=False))
    grant = harness.expired_grant()
    harness.banks.respond_next(*[response_lost] * 4)
    assert isinstance(refused(harness, grant), ConnectionLostError)
    harness.advance(300)
    record = harness.record(grant)
    assert (record.state, record.generation) == (State.ACTIVE, 2)
    assert record.token is not None
    assert len(harness.banks.presented()) == 5
    assert harness.manager.get(grant) == record.token
    harness.allowed_replays = 4


def test_a_holder_that_vanished_is_replaced_after_its_lease(harness: Harness) -> None:
    harness.banks.set_policy(replay_window=60.0)
    grant = harness.expired_grant()
    assert harness.memory.claim(harness.record(grant), owner="gone", ttl=25)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    wait_until(lambda: harness.waiting() == 1)
    harness.advance(24)
    assert not caller.done()
    assert harness.banks.presented() == []
    harness.advance(2)
    assert caller.result(TIMEOUT)
    assert len(harness.banks.presented()) == 1
    assert EventName.REPLAYED in harness.event_names()


def test_who_waits_for_somebody_else_gives_up_in_time_and_sends_nothing(harness: Harness) -> None:
    grant = harness.expired_grant()
    held = evolve(harness.record(grant), state=State.REFRESHING, attempts=1, lease_left=20.0)
    harness.faulty.replacements["load"] = lambda key: held
    caller = harness.in_thread(lambda: refused(harness, grant))
    wait_until(lambda: harness.waiting() == 1)
    harness.advance(29.5)
    assert not caller.done()
    harness.advance(1)
    error = caller.result(TIMEOUT)
    assert isinstance(error, RefreshPendingError)
    assert (error.retry_after, error.retryable) == (20.0, True)
    assert harness.banks.presented() == []


# Odd answers


def test_a_pair_in_an_answer_that_says_it_failed_is_kept_if_the_outcome_is_open(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(status=500))
    token = harness.manager.get(grant)
    assert harness.banks.accepts(grant, token)
    record = harness.record(grant)
    assert (record.state, record.generation) == (State.ACTIVE, 2)
    assert harness.event_names()[-1] is EventName.REFRESHED


def test_a_pair_in_a_clear_refusal_goes_to_the_journal(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(status=400, error="invalid_request"))
    error = refused(harness, grant)
    assert error.token is not None
    (entry,) = harness.memory.journal_entries(harness.key(grant))
    assert entry.origin is Origin.ERROR
    assert entry.token.refresh_token == error.token.refresh_token
    assert harness.record(grant).generation == 1


def test_a_pair_in_a_refusal_of_the_refresh_token_is_tried_at_once(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(status=400, error="invalid_grant"))
    token = harness.manager.get(grant)
    assert harness.banks.accepts(grant, token)
    assert len(harness.banks.presented()) == 2
    assert harness.record(grant).generation == 3
    assert EventName.SALVAGED in harness.event_names()


def test_an_access_token_alone_in_an_error_takes_the_place_of_nothing(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(status=500, refresh_token=None))
    error = refused(harness, grant)
    assert error.outcome is Outcome.UNCERTAIN
    assert harness.record(grant).state is State.UNCERTAIN
    assert harness.memory.journal_entries(harness.key(grant)) == ()


def test_a_new_refresh_token_that_cannot_be_read_leaves_the_old_one_in_doubt(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    before = harness.record(grant).token
    assert before is not None
    harness.banks.respond_next(with_members(refresh_token=["fake"]))
    token = harness.manager.get(grant)
    assert Oddity.REFRESH_TOKEN_UNUSABLE in token.oddities
    record = harness.record(grant)
    assert (record.state, record.attempts, record.generation) == (State.UNCERTAIN, 1, 2)
    assert token.refresh_token == before.refresh_token
    # The access token is good; the doubtful refresh token is presented when that one ends.
    harness.advance(60)
    assert harness.manager.get(grant) == token
    harness.advance(DAY)
    assert refused(harness, grant).needs_consent
    assert len(harness.banks.presented()) == 2
    harness.allowed_replays = 1


def test_a_lifetime_that_cannot_be_read_loses_no_pair(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(expires_in="soon"))
    token = harness.manager.get(grant)
    assert token.expires_at is None
    assert harness.record(grant).token == token


# A pair that comes home too late


def superseded(harness: Harness) -> tuple[Grant, Token]:
    """Let a refresh outlast its lease, and another holder store a pair meanwhile.

    The bank's last answer is the one that came late: it alone is alive.
    """
    harness.banks.set_policy(replay_window=60.0)
    grant = harness.expired_grant()
    late = Gate(holds_request=True)
    harness.banks.respond_next(late)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    late.wait()
    harness.clock.elapse(26)
    stored = harness.make_manager().get(grant)
    late.open()
    assert caller.result(TIMEOUT).access_token == stored.access_token
    harness.wait_until_idle()
    harness.allowed_replays = 1
    return grant, stored


def test_a_pair_that_comes_too_late_is_kept_and_the_stored_one_served(harness: Harness) -> None:
    grant, stored = superseded(harness)
    (entry,) = harness.memory.journal_entries(harness.key(grant))
    assert entry.origin is Origin.SUPERSEDED
    assert entry.token.access_token != stored.access_token
    assert harness.record(grant).token == harness.manager.get(grant)
    assert EventName.SUPERSEDED in harness.event_names()


def test_a_superseded_pair_is_tried_once_where_the_stored_one_is_refused(harness: Harness) -> None:
    grant, stored = superseded(harness)
    assert stored.refresh_token is not None
    # The bank counts the last answer as the living one.
    assert harness.banks.bank().expire(stored.refresh_token.reveal())
    harness.advance(DAY + 1)
    token = harness.manager.get(grant)
    assert harness.banks.accepts(grant, token)
    record = harness.record(grant)
    assert (record.state, record.token) == (State.ACTIVE, token)
    assert EventName.SALVAGED in harness.event_names()
    origins = [entry.origin for entry in harness.memory.journal_entries(harness.key(grant))]
    assert origins == [Origin.REFUSED]


def test_where_no_pair_is_left_to_try_consent_is_needed(harness: Harness) -> None:
    grant, _ = superseded(harness)
    harness.banks.bank().withdraw(CLIENT_ID, grant.username)
    harness.advance(DAY + 1)
    assert refused(harness, grant).needs_consent
    assert harness.record(grant).state is State.NEEDS_CONSENT
    presented = harness.banks.presented()
    assert len(presented) == len(set(presented)) + 1


def test_a_refresh_token_that_cannot_be_sent_is_told_and_not_spent(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.blink.close()
    error = refused(harness, grant)
    assert isinstance(error, InvalidInputError)
    record = harness.record(grant)
    assert (record.state, record.attempts) == (State.ACTIVE, 0)
