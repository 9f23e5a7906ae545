"""The store comes first: before a token leaves, and before anybody gets a new one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from blink_oauth import BlinkError, Grant, InvalidGrantError, Outcome, Token
from blink_oauth_keeper import EventName, RefreshPendingError, StoreError
from blink_oauth_keeper.store.protocol import State
from keeper.harness import (
    DAY,
    PATIENCE,
    PSU,
    REDIRECT_URI,
    Gate,
    Harness,
    eventually,
    lost,
    says,
    storm,
    unreachable,
    with_members,
)

LATE = [EventName.UNSETTLED, EventName.SETTLED_LATE]


def refused(harness: Harness, grant: Grant) -> BlinkError:
    """Return the error that a caller gets."""
    with pytest.raises(BlinkError) as caught:
        harness.manager.get(grant)
    return caught.value


# Before anything leaves


@pytest.mark.parametrize("method", ["load", "claim"])
def test_a_store_that_is_away_before_the_claim_lets_no_post_reach_the_bank(
    harness: Harness, method: str
) -> None:
    grant = harness.expired()
    harness.shaky.go_down(method)
    error = refused(harness, grant)
    assert isinstance(error, StoreError)
    assert error.outcome is Outcome.NOT_EXECUTED
    assert harness.banks.presented() == []
    harness.shaky.come_back()
    harness.advance(0.6)
    assert harness.manager.get(grant)


def test_a_fresh_token_is_served_although_the_store_is_away(harness: Harness) -> None:
    grant = harness.authorize()
    token = harness.manager.get(grant)
    harness.shaky.go_down()
    harness.advance(600)
    for _ in range(5):
        assert harness.manager.get(grant) == token
        harness.calm()
    assert harness.banks.presented() == []


def test_a_store_that_is_away_is_not_asked_by_each_of_many(harness: Harness) -> None:
    grant = harness.expired()
    harness.shaky.go_down()
    harness.shaky.calls.clear()
    errors = storm(lambda: harness.manager.get(grant), 64)
    assert {type(error) for error in errors} == {StoreError}
    assert harness.shaky.calls.count("load") == 1
    harness.advance(0.6)
    refused(harness, grant)
    assert harness.shaky.calls.count("load") == 2


def test_a_code_is_not_spent_where_the_pair_could_not_be_stored(harness: Harness) -> None:
    grant = Grant("IIDX00001", "u-4711")
    code = harness.banks.issue_code(grant)
    harness.shaky.go_down()
    with pytest.raises(StoreError):
        harness.manager.authorize(grant, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    assert harness.banks.posts == []
    harness.shaky.come_back()
    assert harness.manager.authorize(grant, code=code, redirect_uri=REDIRECT_URI, psu=PSU)


def test_nothing_is_revoked_at_the_bank_before_it_is_in_the_store(harness: Harness) -> None:
    grant = harness.authorize()
    harness.shaky.go_down("revoke")
    with pytest.raises(StoreError):
        harness.manager.revoke(grant)
    assert harness.banks.presented("revoke") == []
    assert harness.manager.get(grant)


def test_a_claim_whose_answer_was_lost_is_given_back_and_nothing_is_sent(harness: Harness) -> None:
    grant = harness.expired()
    harness.shaky.deaf = {"claim"}
    assert isinstance(refused(harness, grant), StoreError)
    record = harness.record(grant)
    assert (record.state, record.attempts, record.lease_left) == (State.ACTIVE, 0, 0)
    assert harness.banks.presented() == []
    harness.advance(0.6)
    assert harness.manager.get(grant)
    assert EventName.REPLAYED not in harness.names()


def test_a_claim_on_a_doubtful_token_is_given_back_as_doubtful(harness: Harness) -> None:
    grant = harness.expired()
    harness.banks.answer(lost)
    refused(harness, grant)
    harness.banks.set_policy(replay_window=60.0)
    harness.shaky.deaf = {"claim"}
    harness.advance(25.0)
    eventually(lambda: harness.record(grant).state is State.UNCERTAIN)
    harness.advance(5.0)
    assert (harness.record(grant).state, harness.record(grant).attempts) == (State.UNCERTAIN, 1)
    assert harness.manager.get(grant)
    harness.replays = 1


def test_a_claim_that_cannot_be_given_back_ends_by_itself(harness: Harness) -> None:
    grant = harness.expired()
    harness.shaky.deaf = {"claim"}
    harness.shaky.go_down("release")
    assert isinstance(refused(harness, grant), StoreError)
    record = harness.record(grant)
    assert (record.state, record.attempts) == (State.REFRESHING, 1)
    assert record.lease_left == 25
    harness.shaky.come_back()
    harness.advance(26)
    assert harness.manager.get(grant)
    assert harness.banks.presented_twice() == []


# After the answer


def test_a_pair_that_cannot_be_stored_is_served_and_written_when_the_store_returns(
    harness: Harness,
) -> None:
    grant = harness.expired()
    gate = Gate()
    harness.banks.answer(gate)
    callers = harness.aside(lambda: storm(lambda: harness.manager.get(grant), 8))
    gate.wait()
    harness.shaky.go_down()
    gate.open()
    (token,) = {result for result in callers.result(PATIENCE) if isinstance(result, Token)}
    harness.advance(600)
    assert harness.manager.get(grant) == token
    assert harness.record(grant).generation == 1
    assert harness.names()[-1] is EventName.UNSETTLED
    harness.shaky.come_back()
    harness.advance(1.1)
    record = harness.record(grant)
    assert (record.generation, record.state) == (2, State.ACTIVE)
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert harness.names()[-3:] == [*LATE, EventName.REFRESHED]
    assert len(harness.banks.presented()) == 1


def test_while_a_pair_waits_for_the_store_nobody_presents_the_old_one(harness: Harness) -> None:
    grant = harness.expired()
    harness.shaky.go_down("settle")
    token = harness.manager.get(grant)
    # The lease runs out, and after some minutes a look at the store shows the old pair again.
    for _ in range(60):
        assert harness.manager.get(grant) == token
        harness.advance(10)
    assert harness.manager.invalidate(grant, token)
    caller = harness.aside(lambda: refused(harness, grant))
    eventually(lambda: harness.waiting() == 2)
    harness.advance(31)
    assert isinstance(caller.result(PATIENCE), RefreshPendingError)
    assert len(harness.banks.presented()) == 1
    harness.shaky.come_back()
    harness.advance(1.1)
    assert harness.record(grant).generation == 2
    assert harness.manager.get(grant) != token
    assert len(harness.banks.presented()) == 2


def test_a_store_is_asked_at_growing_distances_while_it_is_away(harness: Harness) -> None:
    grant = harness.expired()
    harness.shaky.go_down("settle")
    harness.manager.get(grant)
    tries = []
    for _ in range(4):
        harness.advance(1)
        tries.append(harness.shaky.calls.count("settle"))
    assert tries[0] > 3
    assert [after - before for before, after in pairwise(tries)] == [1, 1, 1]


def test_a_settle_whose_answer_was_lost_is_done_once(harness: Harness) -> None:
    grant = harness.expired()
    harness.shaky.deaf = {"settle"}
    token = harness.manager.get(grant)
    harness.advance(1)
    record = harness.record(grant)
    assert record.generation == 2
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert harness.memory.journal_entries(harness.key(grant)) == ()
    assert harness.names()[-3:] == [*LATE, EventName.REFRESHED]


@pytest.mark.parametrize("error", [RuntimeError, KeyError, ValueError])
def test_a_store_that_breaks_its_promise_loses_no_pair(
    harness: Harness, error: Callable[[], Exception]
) -> None:
    grant = harness.expired()
    harness.shaky.error = error
    harness.shaky.go_down("settle")
    token = harness.manager.get(grant)
    harness.shaky.come_back()
    harness.advance(1)
    record = harness.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert harness.names()[-3:] == [*LATE, EventName.REFRESHED]


def test_what_a_broken_store_raises_comes_out_as_a_store_error(harness: Harness) -> None:
    grant = harness.expired()
    harness.shaky.error = lambda: KeyError("column")
    harness.shaky.go_down("load")
    error = refused(harness, grant)
    assert isinstance(error, StoreError)
    assert "KeyError" in str(error)
    assert error.retryable


def test_a_pair_of_a_new_consent_that_cannot_be_stored_is_served_and_written_later(
    harness: Harness,
) -> None:
    harness.shaky.go_down("put")
    grant = harness.authorize()
    token = harness.manager.get(grant)
    assert harness.memory.load(harness.key(grant)) is None
    harness.shaky.come_back()
    harness.advance(1)
    record = harness.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert harness.names() == [*LATE, EventName.AUTHORIZED]


def test_a_consent_that_was_stored_unnoticed_does_not_overwrite_a_later_one(
    harness: Harness,
) -> None:
    harness.shaky.deaf = {"put"}
    grant = harness.authorize()
    first = harness.manager.get(grant)
    harness.authorize(manager=harness.make())
    later = harness.record(grant)
    harness.advance(1)
    assert harness.record(grant).token == later.token
    assert (later.generation, later.consent) == (2, 2)
    kept = {
        entry.token.access_token for entry in harness.memory.journal_entries(harness.key(grant))
    }
    assert kept == {first.access_token}


def test_a_consent_that_was_stored_unnoticed_does_not_undo_a_revocation(harness: Harness) -> None:
    harness.shaky.deaf = {"put"}
    grant = harness.authorize()
    harness.make().revoke(grant)
    harness.advance(1)
    assert harness.record(grant).state is State.REVOKED
    assert harness.record(grant).token is None


def test_a_failure_that_cannot_be_written_is_told_to_the_callers_at_once(harness: Harness) -> None:
    grant = harness.expired()
    harness.banks.answer(unreachable)
    harness.shaky.go_down("release")
    error = refused(harness, grant)
    assert error.outcome is Outcome.NOT_EXECUTED
    assert not isinstance(error, StoreError)
    assert harness.record(grant).lease_left > 0
    harness.shaky.come_back()
    harness.advance(0.1)
    assert harness.record(grant).lease_left == 0
    harness.replays = 1


def test_a_doubt_that_cannot_be_written_at_once_is_cleared_in_the_end(harness: Harness) -> None:
    harness.banks.set_policy(replay_window=120.0)
    grant = harness.expired()
    harness.banks.answer(lost)
    harness.shaky.go_down("release")
    assert refused(harness, grant).outcome is Outcome.UNCERTAIN
    harness.advance(10)
    harness.shaky.come_back()
    harness.advance(1)
    assert harness.record(grant).state is State.UNCERTAIN
    harness.advance(60)
    assert harness.manager.get(grant)
    assert len(harness.banks.presented()) == 2
    harness.replays = 1


def test_callers_do_not_wait_for_a_store_that_is_to_look_for_another_pair(harness: Harness) -> None:
    grant = harness.expired()
    harness.banks.answer(says(400, {"error": "invalid_grant"}))
    harness.shaky.go_down("salvage")
    caller = harness.aside(lambda: refused(harness, grant))
    error = caller.result(PATIENCE)
    assert isinstance(error, StoreError)
    harness.shaky.come_back()
    harness.advance(1)
    assert harness.record(grant).state is State.NEEDS_CONSENT
    assert refused(harness, grant).needs_consent


def test_callers_do_not_wait_for_a_store_that_is_to_keep_a_strange_pair(harness: Harness) -> None:
    grant = harness.expired()
    harness.banks.answer(with_members(status=400, error="invalid_request"))
    harness.shaky.go_down("journal")
    assert isinstance(refused(harness, grant), StoreError)
    harness.shaky.come_back()
    harness.advance(1)
    assert len(harness.memory.journal_entries(harness.key(grant))) == 1


def test_a_refused_grant_is_remembered_although_the_store_cannot_write_it(harness: Harness) -> None:
    grant = harness.expired()
    harness.banks.answer(says(400, {"error": "invalid_grant"}))
    harness.shaky.go_down("release")
    assert isinstance(refused(harness, grant), InvalidGrantError)
    assert isinstance(refused(harness, grant), InvalidGrantError)
    harness.shaky.come_back()
    harness.advance(1)
    assert harness.record(grant).state is State.NEEDS_CONSENT
    assert len(harness.banks.presented()) == 1


def test_an_outage_is_told_although_not_even_a_fingerprint_can_be_had(harness: Harness) -> None:
    grant = harness.expired()
    harness.shaky.go_down("settle", "fingerprint")
    token = harness.manager.get(grant)
    harness.shaky.come_back()
    harness.advance(DAY / 4)
    record = harness.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token
