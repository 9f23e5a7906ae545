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
    PSU,
    REDIRECT_URI,
    TIMEOUT,
    Gate,
    Harness,
    concurrently,
    connection_refused,
    response_lost,
    status_response,
    wait_until,
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
    grant = harness.expired_grant()
    harness.faulty.fail(method)
    error = refused(harness, grant)
    assert isinstance(error, StoreError)
    assert error.outcome is Outcome.NOT_EXECUTED
    assert harness.banks.presented() == []
    harness.faulty.recover()
    harness.advance(0.6)
    assert harness.manager.get(grant)


def test_a_fresh_token_is_served_although_the_store_is_away(harness: Harness) -> None:
    grant = harness.authorize()
    token = harness.manager.get(grant)
    harness.faulty.fail()
    harness.advance(600)
    for _ in range(5):
        assert harness.manager.get(grant) == token
        harness.wait_until_idle()
    assert harness.banks.presented() == []


def test_a_store_that_is_away_is_not_asked_by_each_of_many(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.fail()
    harness.faulty.calls.clear()
    errors = concurrently(lambda: harness.manager.get(grant), 64)
    assert {type(error) for error in errors} == {StoreError}
    assert harness.faulty.calls.count("load") == 1
    harness.advance(0.6)
    refused(harness, grant)
    assert harness.faulty.calls.count("load") == 2


def test_a_code_is_not_spent_where_the_pair_could_not_be_stored(harness: Harness) -> None:
    grant = Grant("IIDX00001", "u-4711")
    code = harness.banks.issue_code(grant)
    harness.faulty.fail()
    with pytest.raises(StoreError):
        harness.manager.authorize(grant, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    assert harness.banks.requests == []
    harness.faulty.recover()
    assert harness.manager.authorize(grant, code=code, redirect_uri=REDIRECT_URI, psu=PSU)


def test_nothing_is_revoked_at_the_bank_before_it_is_in_the_store(harness: Harness) -> None:
    grant = harness.authorize()
    harness.faulty.fail("revoke")
    with pytest.raises(StoreError):
        harness.manager.revoke(grant)
    assert harness.banks.presented("revoke") == []
    assert harness.manager.get(grant)


def test_a_claim_whose_answer_was_lost_is_given_back_and_nothing_is_sent(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.lost_results = {"claim"}
    assert isinstance(refused(harness, grant), StoreError)
    record = harness.record(grant)
    assert (record.state, record.attempts, record.lease_left) == (State.ACTIVE, 0, 0)
    assert harness.banks.presented() == []
    harness.advance(0.6)
    assert harness.manager.get(grant)
    assert EventName.REPLAYED not in harness.event_names()


def test_a_claim_on_a_doubtful_token_is_given_back_as_doubtful(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(response_lost)
    refused(harness, grant)
    harness.banks.set_policy(replay_window=60.0)
    harness.faulty.lost_results = {"claim"}
    harness.advance(25.0)
    wait_until(lambda: harness.record(grant).state is State.UNCERTAIN)
    harness.advance(5.0)
    assert (harness.record(grant).state, harness.record(grant).attempts) == (State.UNCERTAIN, 1)
    assert harness.manager.get(grant)
    harness.allowed_replays = 1


def test_a_claim_that_cannot_be_given_back_ends_by_itself(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.lost_results = {"claim"}
    harness.faulty.fail("release")
    assert isinstance(refused(harness, grant), StoreError)
    record = harness.record(grant)
    assert (record.state, record.attempts) == (State.REFRESHING, 1)
    assert record.lease_left == 25
    harness.faulty.recover()
    harness.advance(26)
    assert harness.manager.get(grant)
    assert harness.banks.presented_twice() == []


# After the answer


def test_a_pair_that_cannot_be_stored_is_served_and_written_when_the_store_returns(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    callers = harness.in_thread(lambda: concurrently(lambda: harness.manager.get(grant), 8))
    gate.wait()
    harness.faulty.fail()
    gate.open()
    (token,) = {result for result in callers.result(TIMEOUT) if isinstance(result, Token)}
    harness.advance(600)
    assert harness.manager.get(grant) == token
    assert harness.record(grant).generation == 1
    assert harness.event_names()[-1] is EventName.UNSETTLED
    harness.faulty.recover()
    harness.advance(1.1)
    record = harness.record(grant)
    assert (record.generation, record.state) == (2, State.ACTIVE)
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert harness.event_names()[-3:] == [*LATE, EventName.REFRESHED]
    assert len(harness.banks.presented()) == 1


def test_while_a_pair_waits_for_the_store_nobody_presents_the_old_one(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.fail("settle")
    token = harness.manager.get(grant)
    # The lease runs out, and after some minutes a look at the store shows the old pair again.
    for _ in range(60):
        assert harness.manager.get(grant) == token
        harness.advance(10)
    assert harness.manager.invalidate(grant, token)
    caller = harness.in_thread(lambda: refused(harness, grant))
    wait_until(lambda: harness.waiting() == 2)
    harness.advance(31)
    assert isinstance(caller.result(TIMEOUT), RefreshPendingError)
    assert len(harness.banks.presented()) == 1
    harness.faulty.recover()
    harness.advance(1.1)
    assert harness.record(grant).generation == 2
    assert harness.manager.get(grant) != token
    assert len(harness.banks.presented()) == 2


def test_a_store_is_asked_at_growing_distances_while_it_is_away(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.fail("settle")
    harness.manager.get(grant)
    tries = []
    for _ in range(4):
        harness.advance(1)
        tries.append(harness.faulty.calls.count("settle"))
    assert tries[0] > 3
    assert [after - before for before, after in pairwise(tries)] == [1, 1, 1]


def test_a_settle_whose_answer_was_lost_is_done_once(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.lost_results = {"settle"}
    token = harness.manager.get(grant)
    harness.advance(1)
    record = harness.record(grant)
    assert record.generation == 2
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert harness.memory.journal_entries(harness.key(grant)) == ()
    assert harness.event_names()[-3:] == [*LATE, EventName.REFRESHED]


@pytest.mark.parametrize("error", [RuntimeError, KeyError, ValueError])
def test_a_store_that_breaks_its_promise_loses_no_pair(
    harness: Harness, error: Callable[[], Exception]
) -> None:
    grant = harness.expired_grant()
    harness.faulty.error = error
    harness.faulty.fail("settle")
    token = harness.manager.get(grant)
    harness.faulty.recover()
    harness.advance(1)
    record = harness.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert harness.event_names()[-3:] == [*LATE, EventName.REFRESHED]


def test_what_a_broken_store_raises_comes_out_as_a_store_error(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.error = lambda: KeyError("column")
    harness.faulty.fail("load")
    error = refused(harness, grant)
    assert isinstance(error, StoreError)
    assert "KeyError" in str(error)
    assert error.retryable


def test_a_pair_of_a_new_consent_that_cannot_be_stored_is_served_and_written_later(
    harness: Harness,
) -> None:
    harness.faulty.fail("put")
    grant = harness.authorize()
    token = harness.manager.get(grant)
    assert harness.memory.load(harness.key(grant)) is None
    harness.faulty.recover()
    harness.advance(1)
    record = harness.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert harness.event_names() == [*LATE, EventName.AUTHORIZED]


def test_a_consent_that_was_stored_unnoticed_does_not_overwrite_a_later_one(
    harness: Harness,
) -> None:
    harness.faulty.lost_results = {"put"}
    grant = harness.authorize()
    first = harness.manager.get(grant)
    harness.authorize(manager=harness.make_manager())
    later = harness.record(grant)
    harness.advance(1)
    assert harness.record(grant).token == later.token
    assert (later.generation, later.consent) == (2, 2)
    kept = {
        entry.token.access_token for entry in harness.memory.journal_entries(harness.key(grant))
    }
    assert kept == {first.access_token}


def test_a_consent_that_was_stored_unnoticed_does_not_undo_a_revocation(harness: Harness) -> None:
    harness.faulty.lost_results = {"put"}
    grant = harness.authorize()
    harness.make_manager().revoke(grant)
    harness.advance(1)
    assert harness.record(grant).state is State.REVOKED
    assert harness.record(grant).token is None


def test_a_failure_that_cannot_be_written_is_told_to_the_callers_at_once(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(connection_refused)
    harness.faulty.fail("release")
    error = refused(harness, grant)
    assert error.outcome is Outcome.NOT_EXECUTED
    assert not isinstance(error, StoreError)
    assert harness.record(grant).lease_left > 0
    harness.faulty.recover()
    harness.advance(0.1)
    assert harness.record(grant).lease_left == 0
    harness.allowed_replays = 1


def test_a_doubt_that_cannot_be_written_at_once_is_cleared_in_the_end(harness: Harness) -> None:
    harness.banks.set_policy(replay_window=120.0)
    grant = harness.expired_grant()
    harness.banks.respond_next(response_lost)
    harness.faulty.fail("release")
    assert refused(harness, grant).outcome is Outcome.UNCERTAIN
    harness.advance(10)
    harness.faulty.recover()
    harness.advance(1)
    assert harness.record(grant).state is State.UNCERTAIN
    harness.advance(60)
    assert harness.manager.get(grant)
    assert len(harness.banks.presented()) == 2
    harness.allowed_replays = 1


def test_callers_do_not_wait_for_a_store_that_is_to_look_for_another_pair(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))
    harness.faulty.fail("salvage")
    caller = harness.in_thread(lambda: refused(harness, grant))
    error = caller.result(TIMEOUT)
    assert isinstance(error, StoreError)
    harness.faulty.recover()
    harness.advance(1)
    assert harness.record(grant).state is State.NEEDS_CONSENT
    assert refused(harness, grant).needs_consent


def test_callers_do_not_wait_for_a_store_that_is_to_keep_a_strange_pair(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(status=400, error="invalid_request"))
    harness.faulty.fail("journal")
    assert isinstance(refused(harness, grant), StoreError)
    harness.faulty.recover()
    harness.advance(1)
    assert len(harness.memory.journal_entries(harness.key(grant))) == 1


def test_a_refused_grant_is_remembered_although_the_store_cannot_write_it(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))
    harness.faulty.fail("release")
    assert isinstance(refused(harness, grant), InvalidGrantError)
    assert isinstance(refused(harness, grant), InvalidGrantError)
    harness.faulty.recover()
    harness.advance(1)
    assert harness.record(grant).state is State.NEEDS_CONSENT
    assert len(harness.banks.presented()) == 1


def test_an_outage_is_told_although_not_even_a_fingerprint_can_be_had(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.fail("settle", "fingerprint")
    token = harness.manager.get(grant)
    harness.faulty.recover()
    harness.advance(DAY / 4)
    record = harness.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token
