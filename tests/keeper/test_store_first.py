"""The store comes first: before a token leaves, and before anybody gets a new one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from blink_oauth import BlinkError, Grant, InvalidGrantError, Outcome, Token
from blink_oauth_keeper import EventName, RefreshPendingError, StoreError
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
    says,
    storm,
    unreachable,
    with_members,
)

LATE = [EventName.UNSETTLED, EventName.SETTLED_LATE]


def refused(stage: Stage, grant: Grant) -> BlinkError:
    """Return the error that a caller gets."""
    with pytest.raises(BlinkError) as caught:
        stage.manager.get(grant)
    return caught.value


# Before anything leaves


@pytest.mark.parametrize("method", ["load", "claim"])
def test_a_store_that_is_away_before_the_claim_lets_no_post_reach_the_bank(
    stage: Stage, method: str
) -> None:
    grant = stage.expired()
    stage.shaky.go_down(method)
    error = refused(stage, grant)
    assert isinstance(error, StoreError)
    assert error.outcome is Outcome.NOT_EXECUTED
    assert stage.banks.presented() == []
    stage.shaky.come_back()
    stage.advance(0.6)
    assert stage.manager.get(grant)


def test_a_fresh_token_is_served_although_the_store_is_away(stage: Stage) -> None:
    grant = stage.authorize()
    token = stage.manager.get(grant)
    stage.shaky.go_down()
    stage.advance(600)
    for _ in range(5):
        assert stage.manager.get(grant) == token
        stage.calm()
    assert stage.banks.presented() == []


def test_a_store_that_is_away_is_not_asked_by_each_of_many(stage: Stage) -> None:
    grant = stage.expired()
    stage.shaky.go_down()
    stage.shaky.calls.clear()
    errors = storm(lambda: stage.manager.get(grant), 64)
    assert {type(error) for error in errors} == {StoreError}
    assert stage.shaky.calls.count("load") == 1
    stage.advance(0.6)
    refused(stage, grant)
    assert stage.shaky.calls.count("load") == 2


def test_a_code_is_not_spent_where_the_pair_could_not_be_stored(stage: Stage) -> None:
    grant = Grant("IIDX00001", "u-4711")
    code = stage.banks.issue_code(grant)
    stage.shaky.go_down()
    with pytest.raises(StoreError):
        stage.manager.authorize(grant, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    assert stage.banks.posts == []
    stage.shaky.come_back()
    assert stage.manager.authorize(grant, code=code, redirect_uri=REDIRECT_URI, psu=PSU)


def test_nothing_is_revoked_at_the_bank_before_it_is_in_the_store(stage: Stage) -> None:
    grant = stage.authorize()
    stage.shaky.go_down("revoke")
    with pytest.raises(StoreError):
        stage.manager.revoke(grant)
    assert stage.banks.presented("revoke") == []
    assert stage.manager.get(grant)


def test_a_claim_whose_answer_was_lost_is_given_back_and_nothing_is_sent(stage: Stage) -> None:
    grant = stage.expired()
    stage.shaky.deaf = {"claim"}
    assert isinstance(refused(stage, grant), StoreError)
    record = stage.record(grant)
    assert (record.state, record.attempts, record.lease_left) == (State.ACTIVE, 0, 0)
    assert stage.banks.presented() == []
    stage.advance(0.6)
    assert stage.manager.get(grant)
    assert EventName.REPLAYED not in stage.names()


def test_a_claim_on_a_doubtful_token_is_given_back_as_doubtful(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(lost)
    refused(stage, grant)
    stage.banks.set_policy(replay_window=60.0)
    stage.shaky.deaf = {"claim"}
    stage.advance(25.0)
    eventually(lambda: stage.record(grant).state is State.UNCERTAIN)
    stage.advance(5.0)
    assert (stage.record(grant).state, stage.record(grant).attempts) == (State.UNCERTAIN, 1)
    assert stage.manager.get(grant)
    stage.replays = 1


def test_a_claim_that_cannot_be_given_back_ends_by_itself(stage: Stage) -> None:
    grant = stage.expired()
    stage.shaky.deaf = {"claim"}
    stage.shaky.go_down("release")
    assert isinstance(refused(stage, grant), StoreError)
    record = stage.record(grant)
    assert (record.state, record.attempts) == (State.REFRESHING, 1)
    assert record.lease_left == 25
    stage.shaky.come_back()
    stage.advance(26)
    assert stage.manager.get(grant)
    assert stage.banks.presented_twice() == []


# After the answer


def test_a_pair_that_cannot_be_stored_is_served_and_written_when_the_store_returns(
    stage: Stage,
) -> None:
    grant = stage.expired()
    gate = Gate()
    stage.banks.answer(gate)
    callers = stage.aside(lambda: storm(lambda: stage.manager.get(grant), 8))
    gate.wait()
    stage.shaky.go_down()
    gate.open()
    (token,) = {result for result in callers.result(PATIENCE) if isinstance(result, Token)}
    stage.advance(600)
    assert stage.manager.get(grant) == token
    assert stage.record(grant).generation == 1
    assert stage.names()[-1] is EventName.UNSETTLED
    stage.shaky.come_back()
    stage.advance(1.1)
    record = stage.record(grant)
    assert (record.generation, record.state) == (2, State.ACTIVE)
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert stage.names()[-3:] == [*LATE, EventName.REFRESHED]
    assert len(stage.banks.presented()) == 1


def test_while_a_pair_waits_for_the_store_nobody_presents_the_old_one(stage: Stage) -> None:
    grant = stage.expired()
    stage.shaky.go_down("settle")
    token = stage.manager.get(grant)
    # The lease runs out, and after some minutes a look at the store shows the old pair again.
    for _ in range(60):
        assert stage.manager.get(grant) == token
        stage.advance(10)
    assert stage.manager.invalidate(grant, token)
    caller = stage.aside(lambda: refused(stage, grant))
    eventually(lambda: stage.waiting() == 2)
    stage.advance(31)
    assert isinstance(caller.result(PATIENCE), RefreshPendingError)
    assert len(stage.banks.presented()) == 1
    stage.shaky.come_back()
    stage.advance(1.1)
    assert stage.record(grant).generation == 2
    assert stage.manager.get(grant) != token
    assert len(stage.banks.presented()) == 2


def test_a_store_is_asked_at_growing_distances_while_it_is_away(stage: Stage) -> None:
    grant = stage.expired()
    stage.shaky.go_down("settle")
    stage.manager.get(grant)
    tries = []
    for _ in range(4):
        stage.advance(1)
        tries.append(stage.shaky.calls.count("settle"))
    assert tries[0] > 3
    assert [after - before for before, after in pairwise(tries)] == [1, 1, 1]


def test_a_settle_whose_answer_was_lost_is_done_once(stage: Stage) -> None:
    grant = stage.expired()
    stage.shaky.deaf = {"settle"}
    token = stage.manager.get(grant)
    stage.advance(1)
    record = stage.record(grant)
    assert record.generation == 2
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert stage.memory.journal_entries(stage.key(grant)) == ()
    assert stage.names()[-3:] == [*LATE, EventName.REFRESHED]


@pytest.mark.parametrize("error", [RuntimeError, KeyError, ValueError])
def test_a_store_that_breaks_its_promise_loses_no_pair(
    stage: Stage, error: Callable[[], Exception]
) -> None:
    grant = stage.expired()
    stage.shaky.error = error
    stage.shaky.go_down("settle")
    token = stage.manager.get(grant)
    stage.shaky.come_back()
    stage.advance(1)
    record = stage.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert stage.names()[-3:] == [*LATE, EventName.REFRESHED]


def test_what_a_broken_store_raises_comes_out_as_a_store_error(stage: Stage) -> None:
    grant = stage.expired()
    stage.shaky.error = lambda: KeyError("column")
    stage.shaky.go_down("load")
    error = refused(stage, grant)
    assert isinstance(error, StoreError)
    assert "KeyError" in str(error)
    assert error.retryable


def test_a_pair_of_a_new_consent_that_cannot_be_stored_is_served_and_written_later(
    stage: Stage,
) -> None:
    stage.shaky.go_down("put")
    grant = stage.authorize()
    token = stage.manager.get(grant)
    assert stage.memory.load(stage.key(grant)) is None
    stage.shaky.come_back()
    stage.advance(1)
    record = stage.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert stage.names() == [*LATE, EventName.AUTHORIZED]


def test_a_consent_that_was_stored_unnoticed_does_not_overwrite_a_later_one(
    stage: Stage,
) -> None:
    stage.shaky.deaf = {"put"}
    grant = stage.authorize()
    first = stage.manager.get(grant)
    stage.authorize(manager=stage.make())
    later = stage.record(grant)
    stage.advance(1)
    assert stage.record(grant).token == later.token
    assert (later.generation, later.consent) == (2, 2)
    kept = {entry.token.access_token for entry in stage.memory.journal_entries(stage.key(grant))}
    assert kept == {first.access_token}


def test_a_consent_that_was_stored_unnoticed_does_not_undo_a_revocation(stage: Stage) -> None:
    stage.shaky.deaf = {"put"}
    grant = stage.authorize()
    stage.make().revoke(grant)
    stage.advance(1)
    assert stage.record(grant).state is State.REVOKED
    assert stage.record(grant).token is None


def test_a_failure_that_cannot_be_written_is_told_to_the_callers_at_once(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(unreachable)
    stage.shaky.go_down("release")
    error = refused(stage, grant)
    assert error.outcome is Outcome.NOT_EXECUTED
    assert not isinstance(error, StoreError)
    assert stage.record(grant).lease_left > 0
    stage.shaky.come_back()
    stage.advance(0.1)
    assert stage.record(grant).lease_left == 0
    stage.replays = 1


def test_a_doubt_that_cannot_be_written_at_once_is_cleared_in_the_end(stage: Stage) -> None:
    stage.banks.set_policy(replay_window=120.0)
    grant = stage.expired()
    stage.banks.answer(lost)
    stage.shaky.go_down("release")
    assert refused(stage, grant).outcome is Outcome.UNCERTAIN
    stage.advance(10)
    stage.shaky.come_back()
    stage.advance(1)
    assert stage.record(grant).state is State.UNCERTAIN
    stage.advance(60)
    assert stage.manager.get(grant)
    assert len(stage.banks.presented()) == 2
    stage.replays = 1


def test_callers_do_not_wait_for_a_store_that_is_to_look_for_another_pair(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(says(400, {"error": "invalid_grant"}))
    stage.shaky.go_down("salvage")
    caller = stage.aside(lambda: refused(stage, grant))
    error = caller.result(PATIENCE)
    assert isinstance(error, StoreError)
    stage.shaky.come_back()
    stage.advance(1)
    assert stage.record(grant).state is State.NEEDS_CONSENT
    assert refused(stage, grant).needs_consent


def test_callers_do_not_wait_for_a_store_that_is_to_keep_a_strange_pair(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(with_members(status=400, error="invalid_request"))
    stage.shaky.go_down("journal")
    assert isinstance(refused(stage, grant), StoreError)
    stage.shaky.come_back()
    stage.advance(1)
    assert len(stage.memory.journal_entries(stage.key(grant))) == 1


def test_a_refused_grant_is_remembered_although_the_store_cannot_write_it(stage: Stage) -> None:
    grant = stage.expired()
    stage.banks.answer(says(400, {"error": "invalid_grant"}))
    stage.shaky.go_down("release")
    assert isinstance(refused(stage, grant), InvalidGrantError)
    assert isinstance(refused(stage, grant), InvalidGrantError)
    stage.shaky.come_back()
    stage.advance(1)
    assert stage.record(grant).state is State.NEEDS_CONSENT
    assert len(stage.banks.presented()) == 1


def test_an_outage_is_told_although_not_even_a_fingerprint_can_be_had(stage: Stage) -> None:
    grant = stage.expired()
    stage.shaky.go_down("settle", "fingerprint")
    token = stage.manager.get(grant)
    stage.shaky.come_back()
    stage.advance(DAY / 4)
    record = stage.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token
