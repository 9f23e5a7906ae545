"""An unavailable store: nothing is sent before a claim is stored, and no received pair is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from blink_oauth import BlinkError, Grant, InvalidGrantError, Outcome, Token
from blink_oauth_keeper import EventName, RefreshPendingError, SqlTokenStore, StoreError
from blink_oauth_keeper.store.protocol import State
from keeper.harness import (
    DAY,
    EVERY_METHOD,
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

STORED_LATE = [EventName.UNSETTLED, EventName.SETTLED_LATE]


def get_error(harness: Harness, grant: Grant) -> BlinkError:
    """Return the error that `get` raises."""
    with pytest.raises(BlinkError) as caught:
        harness.manager.get(grant)
    return caught.value


# Before a request is sent


@pytest.mark.parametrize("method", ["load", "claim"])
def test_nothing_is_sent_if_the_store_fails_before_or_at_the_claim(
    harness: Harness, method: str
) -> None:
    grant = harness.expired_grant()
    harness.faulty.fail(method)
    error = get_error(harness, grant)
    assert isinstance(error, StoreError)
    assert error.outcome is Outcome.NOT_EXECUTED
    assert harness.banks.presented() == []
    harness.faulty.recover()
    harness.advance(0.6)
    assert harness.manager.get(grant)


def test_a_fresh_token_is_served_although_the_store_is_unavailable(harness: Harness) -> None:
    grant = harness.authorize()
    token = harness.manager.get(grant)
    harness.faulty.fail()
    harness.advance(600)
    for _ in range(5):
        assert harness.manager.get(grant) == token
        harness.wait_until_idle()
    assert harness.banks.presented() == []


def test_concurrent_callers_share_one_failed_call_to_an_unavailable_store(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.fail()
    harness.faulty.calls.clear()
    errors = concurrently(lambda: harness.manager.get(grant), 64)
    assert {type(error) for error in errors} == {StoreError}
    assert harness.faulty.calls.count("load") == 1
    harness.advance(0.6)
    get_error(harness, grant)
    assert harness.faulty.calls.count("load") == 2


def test_a_code_is_not_sent_while_the_store_is_unavailable(harness: Harness) -> None:
    grant = Grant("IIDX00001", "u-4711")
    code = harness.banks.issue_code(grant)
    harness.faulty.fail()
    with pytest.raises(StoreError):
        harness.manager.authorize(grant, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    assert harness.banks.requests == []
    harness.faulty.recover()
    assert harness.manager.authorize(grant, code=code, redirect_uri=REDIRECT_URI, psu=PSU)


def test_a_code_is_not_sent_if_the_store_can_be_read_only(harness: Harness) -> None:
    grant = Grant("IIDX00001", "u-4711")
    code = harness.banks.issue_code(grant)
    harness.faulty.fail(*EVERY_METHOD - {"load", "close"})
    with pytest.raises(StoreError, match="The code was not sent and is not spent"):
        harness.manager.authorize(grant, code=code, redirect_uri=REDIRECT_URI, psu=PSU)
    assert harness.banks.requests == []
    harness.faulty.recover()
    assert harness.manager.authorize(grant, code=code, redirect_uri=REDIRECT_URI, psu=PSU)


def test_a_stale_token_is_served_and_an_event_tells_why_it_is_not_refreshed(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    grant = harness.authorize()
    harness.advance(DAY - 60 * 60)
    harness.faulty.fail(*EVERY_METHOD - {"load", "close"})
    harness.events.clear()
    assert harness.manager.get(grant) == harness.record(grant).token
    harness.wait_until_idle()
    [event] = harness.events
    assert (event.name, event.error, event.outcome) == (
        EventName.FAILED,
        "StoreError",
        Outcome.NOT_EXECUTED,
    )
    assert "The store is unavailable." in caplog.messages
    assert harness.banks.presented() == []


def test_nothing_is_revoked_at_the_bank_before_the_store_has_marked_the_grant(
    harness: Harness,
) -> None:
    grant = harness.authorize()
    harness.faulty.fail("mark_revoked")
    with pytest.raises(StoreError):
        harness.manager.revoke(grant)
    assert harness.banks.presented("revoke") == []
    assert harness.manager.get(grant)


def test_a_claim_whose_result_was_lost_is_released_and_nothing_is_sent(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.lost_results = {"claim"}
    assert isinstance(get_error(harness, grant), StoreError)
    record = harness.record(grant)
    assert (record.state, record.attempts, record.lease_left) == (State.ACTIVE, 0, 0)
    assert harness.banks.presented() == []
    harness.advance(0.6)
    assert harness.manager.get(grant)
    assert EventName.REPLAYED not in harness.event_names()


def test_a_claim_on_an_uncertain_grant_is_released_as_uncertain(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(response_lost)
    get_error(harness, grant)
    harness.banks.set_policy(replay_window=60.0)
    harness.faulty.lost_results = {"claim"}
    harness.advance(25.0)
    wait_until(lambda: harness.record(grant).state is State.UNCERTAIN)
    harness.advance(5.0)
    assert (harness.record(grant).state, harness.record(grant).attempts) == (State.UNCERTAIN, 1)
    assert harness.manager.get(grant)
    harness.allowed_replays = 1


def test_a_claim_that_cannot_be_released_ends_with_its_lease(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.lost_results = {"claim"}
    harness.faulty.fail("release")
    assert isinstance(get_error(harness, grant), StoreError)
    record = harness.record(grant)
    assert (record.state, record.attempts) == (State.REFRESHING, 1)
    assert record.lease_left == 25
    harness.faulty.recover()
    harness.advance(26)
    assert harness.manager.get(grant)
    assert harness.banks.presented_twice() == []


# After the response


def test_an_unstored_pair_is_served_and_stored_when_the_store_recovers(harness: Harness) -> None:
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
    assert harness.event_names()[-3:] == [*STORED_LATE, EventName.REFRESHED]
    assert len(harness.banks.presented()) == 1


def test_while_a_pair_is_unstored_the_old_refresh_token_is_not_presented(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.fail("settle")
    token = harness.manager.get(grant)
    # The lease ends, and after some minutes the keeper reads the old pair from the store again.
    for _ in range(60):
        assert harness.manager.get(grant) == token
        harness.advance(10)
    assert harness.manager.invalidate(grant, token)
    caller = harness.in_thread(lambda: get_error(harness, grant))
    wait_until(lambda: harness.waiting() == 2)
    harness.advance(31)
    assert isinstance(caller.result(TIMEOUT), RefreshPendingError)
    assert len(harness.banks.presented()) == 1
    harness.faulty.recover()
    harness.advance(1.1)
    assert harness.record(grant).generation == 2
    assert harness.manager.get(grant) != token
    assert len(harness.banks.presented()) == 2


def test_the_pauses_between_attempts_to_store_a_pair_grow(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.fail("settle")
    harness.manager.get(grant)
    counts = []
    for _ in range(4):
        harness.advance(1)
        counts.append(harness.faulty.calls.count("settle"))
    assert counts[0] > 3
    assert [after - before for before, after in pairwise(counts)] == [1, 1, 1]


def test_a_settle_whose_result_was_lost_takes_effect_once(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.lost_results = {"settle"}
    token = harness.manager.get(grant)
    harness.advance(1)
    record = harness.record(grant)
    assert record.generation == 2
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert harness.memory.journal_entries(harness.key(grant)) == ()
    assert harness.event_names()[-3:] == [*STORED_LATE, EventName.REFRESHED]


@pytest.mark.parametrize("error", [RuntimeError, KeyError, ValueError])
def test_a_store_that_raises_unexpected_errors_loses_no_pair(
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
    assert harness.event_names()[-3:] == [*STORED_LATE, EventName.REFRESHED]


def test_an_unexpected_error_of_the_store_is_raised_as_a_store_error(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.error = lambda: KeyError("column")
    harness.faulty.fail("load")
    error = get_error(harness, grant)
    assert isinstance(error, StoreError)
    assert "KeyError" in str(error)
    assert error.retryable


def test_an_unstored_pair_of_a_new_consent_is_served_and_stored_later(harness: Harness) -> None:
    harness.faulty.fail("put")
    grant = harness.authorize()
    token = harness.manager.get(grant)
    assert harness.memory.load(harness.key(grant)) is None
    harness.faulty.recover()
    harness.advance(1)
    record = harness.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert harness.event_names() == [*STORED_LATE, EventName.AUTHORIZED]


def test_retrying_to_store_a_consent_does_not_overwrite_a_later_one(harness: Harness) -> None:
    harness.faulty.lost_results = {"put"}
    grant = harness.authorize()
    first = harness.manager.get(grant)
    harness.authorize(manager=harness.make_manager())
    later = harness.record(grant)
    harness.advance(1)
    assert harness.record(grant).token == later.token
    assert (later.generation, later.consent) == (2, 2)
    journaled = {
        entry.token.access_token for entry in harness.memory.journal_entries(harness.key(grant))
    }
    assert journaled == {first.access_token}


def test_retrying_to_store_a_consent_does_not_undo_a_revocation(harness: Harness) -> None:
    harness.faulty.lost_results = {"put"}
    grant = harness.authorize()
    harness.make_manager().revoke(grant)
    harness.advance(1)
    assert harness.record(grant).state is State.REVOKED
    assert harness.record(grant).token is None


def test_a_failure_that_cannot_be_stored_is_raised_at_once(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(connection_refused)
    harness.faulty.fail("release")
    error = get_error(harness, grant)
    assert error.outcome is Outcome.NOT_EXECUTED
    assert not isinstance(error, StoreError)
    assert harness.record(grant).lease_left > 0
    harness.faulty.recover()
    harness.advance(0.1)
    assert harness.record(grant).lease_left == 0
    harness.allowed_replays = 1


def test_an_uncertain_outcome_that_is_stored_late_is_replayed(harness: Harness) -> None:
    harness.banks.set_policy(replay_window=120.0)
    grant = harness.expired_grant()
    harness.banks.respond_next(response_lost)
    harness.faulty.fail("release")
    assert get_error(harness, grant).outcome is Outcome.UNCERTAIN
    harness.advance(10)
    harness.faulty.recover()
    harness.advance(1)
    assert harness.record(grant).state is State.UNCERTAIN
    harness.advance(60)
    assert harness.manager.get(grant)
    assert len(harness.banks.presented()) == 2
    harness.allowed_replays = 1


def test_callers_do_not_wait_for_a_store_that_fails_to_salvage(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))
    harness.faulty.fail("salvage")
    caller = harness.in_thread(lambda: get_error(harness, grant))
    error = caller.result(TIMEOUT)
    assert isinstance(error, StoreError)
    harness.faulty.recover()
    harness.advance(1)
    assert harness.record(grant).state is State.NEEDS_CONSENT
    assert get_error(harness, grant).needs_consent


def test_callers_do_not_wait_for_a_store_that_fails_to_journal(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(status=400, error="invalid_request"))
    harness.faulty.fail("journal")
    assert isinstance(get_error(harness, grant), StoreError)
    harness.faulty.recover()
    harness.advance(1)
    assert len(harness.memory.journal_entries(harness.key(grant))) == 1


def test_a_refusal_is_cached_although_the_store_cannot_take_it(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))
    harness.faulty.fail("release")
    assert isinstance(get_error(harness, grant), InvalidGrantError)
    assert isinstance(get_error(harness, grant), InvalidGrantError)
    harness.faulty.recover()
    harness.advance(1)
    assert harness.record(grant).state is State.NEEDS_CONSENT
    assert len(harness.banks.presented()) == 1


def test_an_outage_that_affects_fingerprints_too_loses_no_pair(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.fail("settle", "fingerprint")
    token = harness.manager.get(grant)
    harness.faulty.recover()
    harness.advance(DAY / 4)
    record = harness.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token


# Results that are sealed anew, with a key that this process does not have, before they are read


@pytest.fixture
def newer(harness: Harness, tmp_path: Path) -> Iterator[SqlTokenStore]:
    """Return a store in a file with a new key; the managers use the file with the old key only."""
    url = f"sqlite:///{tmp_path / 'tokens.db'}"
    old, new = SqlTokenStore.new_key(), SqlTokenStore.new_key()
    harness.faulty.inner = SqlTokenStore(url, keys=[old], clock=harness.clock.now)
    store = SqlTokenStore(url, keys=[new, old], clock=harness.clock.now)
    yield store
    store.close()


def lose_and_seal_anew(harness: Harness, newer: SqlTokenStore, method: str) -> None:
    """Lose the result of the next call of a method, and seal all pairs anew after it."""
    execute = getattr(harness.faulty.inner, method)

    def lose(*args: object, **options: object) -> object:
        del harness.faulty.replacements[method]
        execute(*args, **options)
        newer.rotate_keys()
        raise StoreError("The result is lost.")

    harness.faulty.replacements[method] = lose


def test_a_refreshed_pair_that_is_sealed_anew_counts_as_stored(
    harness: Harness, newer: SqlTokenStore
) -> None:
    grant = harness.expired_grant()
    lose_and_seal_anew(harness, newer, "settle")
    token = harness.manager.get(grant)
    harness.advance(1.1)
    harness.manager.close()
    assert [name for name in harness.event_names() if name.startswith("store.")] == STORED_LATE
    record = newer.load(harness.key(grant))
    assert record is not None
    assert record.token is not None
    assert record.token.access_token == token.access_token


def test_the_pair_of_a_consent_that_is_sealed_anew_counts_as_stored(
    harness: Harness, newer: SqlTokenStore
) -> None:
    lose_and_seal_anew(harness, newer, "put")
    grant = harness.authorize()
    harness.advance(1.1)
    harness.manager.close()
    assert harness.event_names() == [*STORED_LATE, EventName.AUTHORIZED]
    record = newer.load(harness.key(grant))
    assert record is not None
    assert (record.consent, record.state) == (1, State.ACTIVE)


def test_a_pair_in_a_failed_response_that_is_sealed_anew_counts_as_stored(
    harness: Harness, newer: SqlTokenStore
) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(status=400, error="invalid_request"))
    lose_and_seal_anew(harness, newer, "journal")
    get_error(harness, grant)
    harness.advance(1.1)
    harness.manager.close()
    assert EventName.SETTLED_LATE in harness.event_names()
    assert EventName.LOST not in harness.event_names()
    entries = newer.journal_entries(harness.key(grant))
    assert len({entry.token.access_token.reveal() for entry in entries}) == 1
