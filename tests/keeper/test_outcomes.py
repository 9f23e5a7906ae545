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
from keeper.stage import (
    CLIENT_ID,
    DAY,
    PATIENCE,
    REDIRECT_URI,
    Answer,
    Gate,
    Stage,
    eventually,
    lost,
    never_arrived,
    says,
    unreachable,
    with_members,
)

HOLD = TargetProfile(after_uncertainty=AfterUncertainty.HOLD)
ADVISED = DAY - 1800


def refused(stage: Stage, grant: Grant, *, manager: TokenManager | None = None) -> BlinkError:
    """Return the error that a caller gets."""
    with pytest.raises(BlinkError) as caught:
        (manager or stage.manager).get(grant)
    return caught.value


def begin_refresh(stage: Stage, grant: Grant) -> None:
    """Let time pass until a token is refreshed early, and start that."""
    stage.manager.get(grant)
    stage.advance(ADVISED)
    stage.manager.get(grant)
    stage.calm()


# Nothing was executed


def test_what_was_not_executed_leaves_the_grant_as_it_was(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(unreachable)
    error = refused(stage, grant)
    assert isinstance(error, NotConnectedError)
    record = stage.record(grant)
    assert (record.state, record.attempts, record.lease_left) == (State.ACTIVE, 0, 0)
    assert record.error == "NotConnectedError"
    assert record.pause_left > 0
    stage.advance(record.pause_left + 0.1)
    assert stage.manager.get(grant)
    assert stage.record(grant).error is None
    stage.replays = 1


def test_a_platform_that_refuses_the_client_has_asked_no_bank(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(says(403, source="PLATFORM"))
    assert refused(stage, grant).outcome is Outcome.NOT_EXECUTED
    assert stage.record(grant).attempts == 0
    assert stage.names()[-1] is EventName.FAILED


def test_a_call_that_could_outlast_the_lease_is_not_begun(stage: Stage) -> None:
    grant = stage.expired()
    claim = stage.memory.claim

    def slowly(*args: Any, **options: Any) -> Any:
        stage.time.pass_by(20)
        return claim(*args, **options)

    stage.shaky.instead["claim"] = slowly
    error = refused(stage, grant)
    assert isinstance(error, RefreshPendingError)
    assert stage.banks.presented() == []
    assert set(stage.names()[1:]) == {EventName.ABANDONED}
    record = stage.record(grant)
    assert (record.state, record.attempts, record.lease_left) == (State.ACTIVE, 0, 0)
    stage.shaky.instead.clear()
    assert stage.manager.get(grant)


# The bank decided against it


def test_a_refused_refresh_token_needs_consent_and_is_never_presented_again(
    stage: Stage,
) -> None:
    grant = stage.expired()
    stage.banks.answer(says(400, {"error": "invalid_grant"}))
    error = refused(stage, grant)
    assert isinstance(error, InvalidGrantError)
    assert error.needs_consent
    assert stage.record(grant).state is State.NEEDS_CONSENT
    for _ in range(3):
        stage.advance(120)
        assert isinstance(refused(stage, grant), ConsentNeededError)
    assert len(stage.banks.presented()) == 1
    assert stage.names()[-1] is EventName.CONSENT_NEEDED


def test_the_access_token_is_served_until_it_expires_although_consent_is_needed(
    stage: Stage,
) -> None:
    grant = stage.authorize()
    token = stage.manager.get(grant)
    stage.banks.answer(says(400, {"error": "invalid_grant"}))
    begin_refresh(stage, grant)
    assert stage.record(grant).state is State.NEEDS_CONSENT
    assert stage.record(grant).token == token
    assert stage.manager.get(grant) == token
    stage.advance(1700)
    assert stage.manager.get(grant) == token
    stage.advance(101)
    assert isinstance(refused(stage, grant), ConsentNeededError)


def test_a_second_consent_that_silently_ended_the_first_needs_consent(stage: Stage) -> None:
    stage.banks.set_policy(one_token_per_contract=True)
    grant = stage.expired()
    code = stage.banks.issue_code(grant)
    stage.banks.of().exchange_code(CLIENT_ID, code, REDIRECT_URI, grant.username)
    assert refused(stage, grant).needs_consent


def test_a_new_consent_ends_the_need_for_one(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(says(400, {"error": "invalid_grant"}))
    refused(stage, grant)
    stage.authorize()
    assert stage.manager.get(grant) == stage.record(grant).token
    assert stage.record(grant).state is State.ACTIVE


def test_a_refusal_for_another_reason_spends_nothing_and_is_tried_again_later(
    stage: Stage,
) -> None:
    grant = stage.expired()
    stage.banks.answer(says(400, {"error": "invalid_scope"}))
    error = refused(stage, grant)
    assert isinstance(error, OAuthError)
    assert not error.needs_consent
    assert stage.record(grant).attempts == 0
    stage.advance(59)
    assert isinstance(refused(stage, grant), OAuthError)
    stage.advance(2)
    assert stage.manager.get(grant)
    stage.replays = 1


# Nobody knows


LOSSES: dict[str, tuple[Answer, type[BlinkError]]] = {
    "the answer": (lost, ConnectionLostError),
    "the request": (never_arrived, TimedOutError),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_leaves_a_doubt_that_all_can_see(stage: Stage, loss: str) -> None:
    answer, kind = LOSSES[loss]
    grant = stage.expired()
    stage.banks.answer(answer)
    error = refused(stage, grant)
    assert type(error) is kind
    assert error.outcome is Outcome.UNCERTAIN
    record = stage.record(grant)
    assert (record.state, record.attempts) == (State.UNCERTAIN, 1)
    assert record.pause_left >= 25
    assert stage.names()[-1] is EventName.UNCERTAIN


@pytest.mark.parametrize("loss", LOSSES)
def test_after_the_lease_a_wakeup_presents_the_token_once_more_and_heals_the_grant(
    stage: Stage, loss: str
) -> None:
    stage.banks.set_policy(replay_window=60.0)
    grant = stage.authorize()
    old = stage.manager.get(grant)
    stage.banks.answer(LOSSES[loss][0])
    begin_refresh(stage, grant)
    assert len(stage.banks.presented()) == 1
    assert stage.manager.get(grant) == old
    stage.advance(24.9)
    assert len(stage.banks.presented()) == 1
    stage.advance(5)
    assert len(stage.banks.presented()) == 2
    record = stage.record(grant)
    assert (record.state, record.attempts, record.generation) == (State.ACTIVE, 0, 2)
    assert stage.manager.get(grant) != old
    assert stage.banks.is_alive(grant, stage.manager.get(grant))
    assert stage.names()[-2:] == [EventName.REPLAYED, EventName.REFRESHED]
    stage.replays = 1


def test_at_a_strict_bank_the_replay_of_a_lost_answer_needs_consent(stage: Stage) -> None:
    grant = stage.authorize()
    stage.banks.answer(lost)
    begin_refresh(stage, grant)
    stage.advance(30)
    assert stage.record(grant).state is State.NEEDS_CONSENT
    assert stage.banks.of().reuses == 1
    stage.advance(DAY)
    assert isinstance(refused(stage, grant), ConsentNeededError)
    assert len(stage.banks.presented()) == 2
    stage.replays = 1


def test_after_a_second_doubt_the_token_is_never_presented_a_third_time(stage: Stage) -> None:
    grant = stage.authorize()
    stage.banks.answer(never_arrived, never_arrived)
    begin_refresh(stage, grant)
    stage.advance(60)
    record = stage.record(grant)
    assert (record.state, record.attempts) == (State.UNCERTAIN, 2)
    stage.advance(DAY)
    for _ in range(3):
        error = refused(stage, grant)
        assert isinstance(error, RefreshUncertainError)
        assert error.needs_consent
        assert error.outcome is Outcome.UNCERTAIN
        stage.advance(3600)
    other = stage.make()
    assert isinstance(refused(stage, grant, manager=other), RefreshUncertainError)
    assert len(stage.banks.presented()) == 2
    stage.replays = 1


def test_callers_are_held_off_until_the_replay(stage: Stage) -> None:
    stage.banks.set_policy(replay_window=60.0)
    grant = stage.expired()
    stage.banks.answer(lost)
    assert isinstance(refused(stage, grant), ConnectionLostError)
    stage.advance(5)
    # In this process the failure is remembered, in another one it is read.
    assert isinstance(refused(stage, grant), ConnectionLostError)
    error = refused(stage, grant, manager=stage.make())
    assert isinstance(error, RefreshPausedError)
    assert error.retry_after is not None
    assert 15 < error.retry_after < 30
    stage.advance(25)
    assert stage.manager.get(grant)
    stage.replays = 1


def test_a_server_that_is_unavailable_gets_no_prompt_replay(stage: Stage) -> None:
    grant = stage.authorize()
    stage.banks.answer(says(503))
    begin_refresh(stage, grant)
    stage.advance(300)
    assert len(stage.banks.presented()) == 1
    stage.manager.get(grant)
    stage.calm()
    assert stage.record(grant).generation == 2
    stage.replays = 1


def test_holding_back_waits_until_the_access_token_is_about_to_expire(stage: Stage) -> None:
    stage.make(profile=HOLD)
    grant = stage.authorize()
    old = stage.manager.get(grant)
    stage.banks.answer(never_arrived)
    begin_refresh(stage, grant)
    for _ in range(5):
        stage.advance(300)
        assert stage.manager.get(grant) == old
        stage.calm()
    assert len(stage.banks.presented()) == 1
    stage.advance(260)
    assert stage.manager.get(grant) != old
    assert len(stage.banks.presented()) == 2
    stage.replays = 1


def test_a_bank_that_never_rotates_is_asked_as_often_as_pauses_allow(stage: Stage) -> None:
    stage.banks.set_policy(rotates=False)
    stage.make(profile=TargetProfile(rotates=False))
    grant = stage.expired()
    stage.banks.answer(*[lost] * 4)
    assert isinstance(refused(stage, grant), ConnectionLostError)
    stage.advance(300)
    record = stage.record(grant)
    assert (record.state, record.generation) == (State.ACTIVE, 2)
    assert record.token is not None
    assert len(stage.banks.presented()) == 5
    assert stage.manager.get(grant) == record.token
    stage.replays = 4


def test_a_holder_that_vanished_is_replaced_after_its_lease(stage: Stage) -> None:
    stage.banks.set_policy(replay_window=60.0)
    grant = stage.expired()
    assert stage.memory.claim(stage.record(grant), owner="gone", ttl=25)
    caller = stage.aside(lambda: stage.manager.get(grant))
    eventually(lambda: stage.waiting() == 1)
    stage.advance(24)
    assert not caller.done()
    assert stage.banks.presented() == []
    stage.advance(2)
    assert caller.result(PATIENCE)
    assert len(stage.banks.presented()) == 1
    assert EventName.REPLAYED in stage.names()


def test_who_waits_for_somebody_else_gives_up_in_time_and_sends_nothing(stage: Stage) -> None:
    grant = stage.expired()
    held = evolve(stage.record(grant), state=State.REFRESHING, attempts=1, lease_left=20.0)
    stage.shaky.instead["load"] = lambda key: held
    caller = stage.aside(lambda: refused(stage, grant))
    eventually(lambda: stage.waiting() == 1)
    stage.advance(29.5)
    assert not caller.done()
    stage.advance(1)
    error = caller.result(PATIENCE)
    assert isinstance(error, RefreshPendingError)
    assert (error.retry_after, error.retryable) == (20.0, True)
    assert stage.banks.presented() == []


# Odd answers


def test_a_pair_in_an_answer_that_says_it_failed_is_kept_if_the_outcome_is_open(
    stage: Stage,
) -> None:
    grant = stage.expired()
    stage.banks.answer(with_members(status=500))
    token = stage.manager.get(grant)
    assert stage.banks.is_alive(grant, token)
    record = stage.record(grant)
    assert (record.state, record.generation) == (State.ACTIVE, 2)
    assert stage.names()[-1] is EventName.REFRESHED


def test_a_pair_in_a_clear_refusal_goes_to_the_journal(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(with_members(status=400, error="invalid_request"))
    error = refused(stage, grant)
    assert error.token is not None
    (entry,) = stage.memory.journal_entries(stage.key(grant))
    assert entry.origin is Origin.ERROR
    assert entry.token.refresh_token == error.token.refresh_token
    assert stage.record(grant).generation == 1


def test_a_pair_in_a_refusal_of_the_refresh_token_is_tried_at_once(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(with_members(status=400, error="invalid_grant"))
    token = stage.manager.get(grant)
    assert stage.banks.is_alive(grant, token)
    assert len(stage.banks.presented()) == 2
    assert stage.record(grant).generation == 3
    assert EventName.SALVAGED in stage.names()


def test_an_access_token_alone_in_an_error_takes_the_place_of_nothing(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(with_members(status=500, refresh_token=None))
    error = refused(stage, grant)
    assert error.outcome is Outcome.UNCERTAIN
    assert stage.record(grant).state is State.UNCERTAIN
    assert stage.memory.journal_entries(stage.key(grant)) == ()


def test_a_new_refresh_token_that_cannot_be_read_leaves_the_old_one_in_doubt(
    stage: Stage,
) -> None:
    grant = stage.expired()
    before = stage.record(grant).token
    assert before is not None
    stage.banks.answer(with_members(refresh_token=["fake"]))
    token = stage.manager.get(grant)
    assert Oddity.REFRESH_TOKEN_UNUSABLE in token.oddities
    record = stage.record(grant)
    assert (record.state, record.attempts, record.generation) == (State.UNCERTAIN, 1, 2)
    assert token.refresh_token == before.refresh_token
    # The access token is good; the doubtful refresh token is presented when that one ends.
    stage.advance(60)
    assert stage.manager.get(grant) == token
    stage.advance(DAY)
    assert refused(stage, grant).needs_consent
    assert len(stage.banks.presented()) == 2
    stage.replays = 1


def test_a_lifetime_that_cannot_be_read_loses_no_pair(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(with_members(expires_in="soon"))
    token = stage.manager.get(grant)
    assert token.expires_at is None
    assert stage.record(grant).token == token


# A pair that comes home too late


def superseded(stage: Stage) -> tuple[Grant, Token]:
    """Let a refresh outlast its lease, and another holder store a pair meanwhile.

    The bank's last answer is the one that came late: it alone is alive.
    """
    stage.banks.set_policy(replay_window=60.0)
    grant = stage.expired()
    late = Gate(first=True)
    stage.banks.answer(late)
    caller = stage.aside(lambda: stage.manager.get(grant))
    late.wait()
    stage.time.pass_by(26)
    stored = stage.make().get(grant)
    late.open()
    assert caller.result(PATIENCE).access_token == stored.access_token
    stage.calm()
    stage.replays = 1
    return grant, stored


def test_a_pair_that_comes_too_late_is_kept_and_the_stored_one_served(stage: Stage) -> None:
    grant, stored = superseded(stage)
    (entry,) = stage.memory.journal_entries(stage.key(grant))
    assert entry.origin is Origin.SUPERSEDED
    assert entry.token.access_token != stored.access_token
    assert stage.record(grant).token == stage.manager.get(grant)
    assert EventName.SUPERSEDED in stage.names()


def test_a_superseded_pair_is_tried_once_where_the_stored_one_is_refused(stage: Stage) -> None:
    grant, stored = superseded(stage)
    assert stored.refresh_token is not None
    # The bank counts the last answer as the living one.
    assert stage.banks.of().expire(stored.refresh_token.reveal())
    stage.advance(DAY + 1)
    token = stage.manager.get(grant)
    assert stage.banks.is_alive(grant, token)
    record = stage.record(grant)
    assert (record.state, record.token) == (State.ACTIVE, token)
    assert EventName.SALVAGED in stage.names()
    origins = [entry.origin for entry in stage.memory.journal_entries(stage.key(grant))]
    assert origins == [Origin.REFUSED]


def test_where_no_pair_is_left_to_try_consent_is_needed(stage: Stage) -> None:
    grant, _ = superseded(stage)
    stage.banks.of().withdraw(CLIENT_ID, grant.username)
    stage.advance(DAY + 1)
    assert refused(stage, grant).needs_consent
    assert stage.record(grant).state is State.NEEDS_CONSENT
    presented = stage.banks.presented()
    assert len(presented) == len(set(presented)) + 1


def test_a_refresh_token_that_cannot_be_sent_is_told_and_not_spent(stage: Stage) -> None:
    grant = stage.expired()
    stage.blink.close()
    error = refused(stage, grant)
    assert isinstance(error, InvalidInputError)
    record = stage.record(grant)
    assert (record.state, record.attempts) == (State.ACTIVE, 0)
