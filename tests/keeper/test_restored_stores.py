"""A store that went backwards: restored from a backup, or after a failover that lost a commit."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from blink_oauth import BlinkError, Grant, InvalidGrantError, Outcome
from blink_oauth_keeper import (
    ConsentNeededError,
    EventName,
    RefreshUncertainError,
    Report,
    StoreError,
    TargetProfile,
    TokenManager,
)
from blink_oauth_keeper.store.protocol import Note, Origin, State
from blink_oauth_keeper.store.rules import without_metadata
from keeper.harness import (
    DAY,
    PSU,
    REDIRECT_URI,
    TARGET,
    TIMEOUT,
    Gate,
    Harness,
    concurrently,
    connection_refused,
    request_lost,
    status_response,
)

REFUSED = status_response(400, {"error": "invalid_grant"})


def refreshed_after_backup(harness: Harness) -> Grant:
    """Authorize a grant, back the store up, refresh twice, and restore the backup."""
    grant = harness.authorize()
    restore = harness.back_up()
    for _ in range(2):
        harness.advance(60)
        harness.manager.refresh(grant)
    restore()
    assert harness.record(grant).generation == 1
    return grant


def count_of(harness: Harness, name: EventName) -> int:
    """Return how many events of this name there were."""
    return harness.event_names().count(name)


def get_error(manager: TokenManager, grant: Grant) -> BlinkError:
    """Return the error that `get` raises."""
    with pytest.raises(BlinkError) as caught:
        manager.get(grant)
    return caught.value


def require_intact(harness: Harness, grant: Grant, generation: int) -> None:
    """Assert that the stored pair has this generation, and that the bank accepts it."""
    record = harness.record(grant)
    assert (record.generation, record.state) == (generation, State.ACTIVE)
    assert record.token is not None
    assert harness.banks.accepts(grant, record.token)


# The pair in memory is newer than the stored one


def test_a_forced_refresh_presents_the_newer_pair_in_memory(harness: Harness) -> None:
    grant = refreshed_after_backup(harness)
    token = harness.manager.refresh(grant)
    assert harness.banks.accepts(grant, token)
    require_intact(harness, grant, 4)
    assert harness.banks.presented_twice() == []


def test_an_early_refresh_presents_the_newer_pair_in_memory(harness: Harness) -> None:
    grant = refreshed_after_backup(harness)
    harness.advance(DAY - 3 * 3600)
    harness.manager.get(grant)
    harness.wait_until_idle()
    require_intact(harness, grant, 4)


def test_after_the_expiry_the_newer_pair_in_memory_is_refreshed(harness: Harness) -> None:
    grant = refreshed_after_backup(harness)
    harness.advance(DAY + 1)
    assert harness.banks.accepts(grant, harness.manager.get(grant))
    require_intact(harness, grant, 4)


def test_the_check_after_five_minutes_writes_the_newer_pair_back(harness: Harness) -> None:
    grant = refreshed_after_backup(harness)
    older = harness.record(grant).token
    harness.advance(600)
    token = harness.manager.get(grant)
    harness.wait_until_idle()
    require_intact(harness, grant, 3)
    assert harness.record(grant).token == without_metadata(token)
    assert len(harness.banks.presented()) == 2
    (entry,) = harness.memory.journal_entries(harness.key(grant))
    assert (entry.origin, entry.token) == (Origin.REPLACED, older)
    event = harness.events[-1]
    assert (event.name, event.generation) == (EventName.STORE_BEHIND, 3)
    assert harness.manager.history(grant)[0].note.event == EventName.STORE_BEHIND


def test_a_grant_that_the_store_has_lost_is_written_back(harness: Harness) -> None:
    restore = harness.back_up()
    grant = harness.authorize()
    restore()
    harness.manager.refresh(grant)
    require_intact(harness, grant, 2)
    assert count_of(harness, EventName.STORE_BEHIND) == 1


def test_a_failover_that_lost_the_last_commit_is_mended(harness: Harness) -> None:
    grant = harness.expired_grant()
    restore = harness.back_up()
    harness.manager.get(grant)
    restore()
    harness.advance(DAY + 1)
    harness.manager.get(grant)
    require_intact(harness, grant, 3)


def test_a_refused_token_in_memory_is_written_back_too(harness: Harness) -> None:
    grant = refreshed_after_backup(harness)
    harness.advance(3600)
    assert harness.manager.invalidate(grant, harness.manager.get(grant))
    token = harness.manager.get(grant)
    assert harness.banks.accepts(grant, token)
    require_intact(harness, grant, 4)


def test_many_callers_after_a_restore_write_back_once(harness: Harness) -> None:
    grant = refreshed_after_backup(harness)
    harness.advance(DAY + 1)
    tokens = concurrently(lambda: harness.manager.get(grant), 32)
    assert len({repr(type(token)) for token in tokens}) == 1
    require_intact(harness, grant, 4)
    assert count_of(harness, EventName.STORE_BEHIND) == 1


def test_a_second_process_uses_what_the_first_has_written_back(harness: Harness) -> None:
    grant = refreshed_after_backup(harness)
    harness.advance(600)
    harness.manager.get(grant)
    harness.wait_until_idle()
    other = harness.make_manager()
    harness.advance(DAY)
    assert harness.banks.accepts(grant, other.get(grant))
    require_intact(harness, grant, 4)


def test_of_two_processes_the_one_with_the_newest_pair_wins(harness: Harness) -> None:
    grant = harness.authorize()
    other = harness.make_manager()
    restore = harness.back_up()
    harness.manager.refresh(grant)
    other.get(grant)
    harness.manager.refresh(grant)
    restore()
    harness.advance(600)
    for manager in (other, harness.manager, other):
        manager.get(grant)
        harness.wait_until_idle()
    require_intact(harness, grant, 3)
    assert count_of(harness, EventName.STORE_BEHIND) == 2
    assert harness.banks.accepts(grant, other.refresh(grant))


def test_if_the_store_cannot_be_written_nothing_is_sent(harness: Harness) -> None:
    grant = refreshed_after_backup(harness)
    harness.faulty.fail("write_back")
    with pytest.raises(StoreError) as caught:
        harness.manager.refresh(grant)
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    assert len(harness.banks.presented()) == 2
    assert harness.events[-1].name is EventName.STORE_BEHIND
    assert harness.events[-1].error == "StoreError"
    harness.faulty.recover()
    harness.advance(1)
    harness.manager.refresh(grant)
    require_intact(harness, grant, 4)


def test_a_write_back_whose_result_is_lost_is_not_repeated(harness: Harness) -> None:
    grant = refreshed_after_backup(harness)
    harness.faulty.lost_results.add("write_back")
    with pytest.raises(StoreError):
        harness.manager.refresh(grant)
    harness.advance(1)
    harness.manager.refresh(grant)
    require_intact(harness, grant, 4)
    assert harness.faulty.calls.count("write_back") == 1


def test_a_write_back_that_loses_to_another_process_reads_the_store_again(
    harness: Harness,
) -> None:
    grant = refreshed_after_backup(harness)
    write_back = harness.memory.write_back

    def late(known: Any, **options: Any) -> object:
        del harness.faulty.replacements["write_back"]
        assert write_back(known, **options) is not None
        return write_back(known, **options)

    harness.faulty.replacements["write_back"] = late
    harness.manager.refresh(grant)
    require_intact(harness, grant, 4)


def test_keep_alive_writes_back_what_it_has_claimed(harness: Harness) -> None:
    grant = refreshed_after_backup(harness)
    report = harness.manager.refresh_due(within=timedelta(days=30))
    assert report == Report(due=1, left=1)
    assert len(harness.banks.presented()) == 2
    require_intact(harness, grant, 3)
    harness.advance(60)
    assert harness.manager.refresh_due(within=timedelta(days=30)).refreshed == 1
    require_intact(harness, grant, 4)


def test_keep_alive_counts_a_failure_if_it_cannot_write_back(harness: Harness) -> None:
    grant = refreshed_after_backup(harness)
    harness.faulty.fail("write_back")
    report = harness.manager.refresh_due(within=timedelta(days=30))
    assert report == Report(due=1, failed=1)
    assert len(harness.banks.presented()) == 2
    harness.faulty.recover()
    harness.advance(60)
    harness.manager.refresh(grant)
    require_intact(harness, grant, 4)


# During a refresh


@pytest.mark.parametrize("everything", [False, True], ids=["an older pair", "no record"])
def test_a_pair_that_arrives_after_a_restore_is_stored(harness: Harness, everything: bool) -> None:
    before = harness.back_up()
    grant = harness.authorize()
    restore = before if everything else harness.back_up()
    harness.manager.refresh(grant)
    harness.advance(DAY + 1)
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    restore()
    gate.open()
    assert harness.banks.accepts(grant, caller.result(TIMEOUT))
    harness.wait_until_idle()
    require_intact(harness, grant, 3)
    assert harness.banks.presented("revoke") == []


def test_a_pair_that_arrives_while_the_store_is_being_restored_is_stored(harness: Harness) -> None:
    grant = harness.authorize()
    restore = harness.back_up()
    harness.manager.refresh(grant)
    harness.advance(DAY + 1)
    harness.faulty.fail("settle")
    token = harness.manager.get(grant)
    restore()
    harness.faulty.recover()
    harness.advance(2)
    harness.wait_until_idle()
    require_intact(harness, grant, 3)
    assert harness.manager.get(grant) == token


def test_an_uncertain_attempt_stays_counted_after_a_restore_during_it(harness: Harness) -> None:
    grant = harness.authorize()
    restore = harness.back_up()
    harness.manager.refresh(grant)
    harness.advance(DAY + 1)
    gate = Gate(request_lost)
    harness.banks.respond_next(gate, request_lost)
    caller = harness.in_thread(lambda: get_error(harness.manager, grant))
    gate.wait()
    restore()
    gate.open()
    caller.result(TIMEOUT)
    harness.allowed_replays = 1
    for _ in range(5):
        harness.advance(60)
        get_error(harness.manager, grant)
    assert isinstance(get_error(harness.manager, grant), RefreshUncertainError)
    assert (harness.record(grant).generation, harness.record(grant).attempts) == (2, 2)


def test_a_lease_that_runs_on_the_older_record_is_awaited(harness: Harness) -> None:
    grant = refreshed_after_backup(harness)
    harness.advance(DAY + 1)
    claim = harness.memory.claim(harness.record(grant), owner="fake-owner", ttl=20)
    assert claim is not None
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    harness.advance(10)
    assert "write_back" not in harness.faulty.calls
    assert not caller.done()
    harness.advance(11)
    assert harness.banks.accepts(grant, caller.result(TIMEOUT))
    require_intact(harness, grant, 4)


# What is known besides a usable pair


def test_a_refused_refresh_token_is_not_presented_again_after_a_restore(harness: Harness) -> None:
    grant = harness.expired_grant()
    restore = harness.back_up()
    harness.banks.respond_next(REFUSED)
    assert isinstance(get_error(harness.manager, grant), InvalidGrantError)
    restore()
    harness.advance(120)
    assert isinstance(get_error(harness.manager, grant), ConsentNeededError)
    assert harness.record(grant).state is State.NEEDS_CONSENT
    assert len(harness.banks.presented()) == 1


def test_uncertain_attempts_are_still_counted_after_a_restore(harness: Harness) -> None:
    grant = harness.expired_grant()
    restore = harness.back_up()
    harness.allowed_replays = 1
    harness.banks.respond_next(request_lost, request_lost)
    get_error(harness.manager, grant)
    harness.advance(120)
    assert harness.record(grant).attempts == 2
    restore()
    assert isinstance(get_error(harness.manager, grant), RefreshUncertainError)
    assert (harness.record(grant).state, harness.record(grant).attempts) == (State.UNCERTAIN, 2)
    assert len(harness.banks.presented()) == 2


def test_a_revoked_grant_stays_revoked_after_a_restore(harness: Harness) -> None:
    grant = harness.authorize()
    restore = harness.back_up()
    harness.manager.revoke(grant)
    restore()
    harness.advance(600)
    assert isinstance(get_error(harness.manager, grant), ConsentNeededError)
    assert harness.record(grant).state is State.REVOKING
    assert harness.manager.refresh_due().revoked == 1
    assert (harness.record(grant).state, harness.record(grant).token) == (State.REVOKED, None)
    assert harness.banks.presented() == []


def test_a_revoked_grant_that_the_store_has_lost_stays_unknown(harness: Harness) -> None:
    restore = harness.back_up()
    grant = harness.authorize()
    harness.manager.revoke(grant)
    restore()
    harness.advance(600)
    get_error(harness.manager, grant)
    assert harness.memory.load(harness.key(grant)) is None


def test_after_a_restore_a_revocation_revokes_the_newer_pair_too(harness: Harness) -> None:
    grant = refreshed_after_backup(harness)
    older, newer = harness.record(grant).token, harness.manager.get(grant)
    harness.manager.revoke(grant)
    revoked = set(harness.banks.presented("revoke"))
    assert older is not None
    for token in (older, newer):
        assert token.refresh_token is not None
        assert {token.access_token.reveal(), token.refresh_token.reveal()} <= revoked
    assert (harness.record(grant).state, harness.record(grant).token) == (State.REVOKED, None)


def test_after_a_restore_a_new_consent_replaces_every_older_pair(harness: Harness) -> None:
    grant = refreshed_after_backup(harness)
    newest = harness.manager.get(grant)
    harness.authorize(grant.username)
    require_intact(harness, grant, 4)
    replaced = [entry.token for entry in harness.memory.journal_entries(harness.key(grant))]
    assert without_metadata(newest) in replaced
    assert harness.manager.get(grant).access_token != newest.access_token


# Stores that moved on with lower numbers


def consent_elsewhere(harness: Harness, grant: Grant) -> TokenManager:
    """Let a process that knows no newer pair store a new consent; return its manager."""
    other = harness.make_manager()
    other.authorize(grant, code=harness.banks.issue_code(grant), redirect_uri=REDIRECT_URI, psu=PSU)
    return other


@pytest.mark.parametrize("refreshes", [1, 3], ids=["the same number", "a lower number"])
def test_a_later_consent_of_another_process_is_served_although_its_number_is_lower(
    harness: Harness, refreshes: int
) -> None:
    grant = harness.authorize()
    restore = harness.back_up()
    for _ in range(refreshes):
        harness.authorize(grant.username)
        harness.advance(60)
    restore()
    consent_elsewhere(harness, grant)
    harness.advance(600)
    harness.manager.get(grant)
    harness.wait_until_idle()
    assert harness.manager.get(grant) == harness.record(grant).token
    require_intact(harness, grant, 2)
    assert count_of(harness, EventName.STORE_BEHIND) == 0
    harness.manager.refresh(grant)
    require_intact(harness, grant, 3)


@pytest.mark.parametrize("ended", ["revoked", "refused", "invalidated"])
def test_a_later_consent_is_served_after_the_end_of_one_with_higher_numbers(
    harness: Harness, ended: str
) -> None:
    grant = harness.authorize()
    restore = harness.back_up()
    harness.manager.refresh(grant)
    harness.manager.refresh(grant)
    harness.advance(3600)
    if ended == "revoked":
        harness.manager.revoke(grant)
    elif ended == "refused":
        harness.banks.respond_next(REFUSED)
        with pytest.raises(InvalidGrantError):
            harness.manager.refresh(grant)
    else:
        assert harness.manager.invalidate(grant, harness.manager.get(grant))
    harness.wait_until_idle()
    restore()
    harness.advance(60)
    consent_elsewhere(harness, grant)
    harness.advance(600)
    token = harness.manager.get(grant)
    harness.wait_until_idle()
    assert harness.manager.get(grant) == harness.record(grant).token
    assert harness.banks.accepts(grant, harness.manager.get(grant))
    if ended != "refused":
        assert token == harness.record(grant).token
    require_intact(harness, grant, 2)


# Stores that did not go backwards


def test_a_released_attempt_is_no_step_backwards(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(connection_refused)
    harness.allowed_replays = 1
    get_error(harness.manager, grant)
    harness.advance(120)
    harness.manager.get(grant)
    require_intact(harness, grant, 2)
    assert "write_back" not in harness.faulty.calls


def test_an_unstored_result_is_no_step_backwards(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.fail("settle")
    harness.manager.get(grant)
    caller = harness.in_thread(lambda: harness.manager.refresh(grant))
    harness.advance(27)
    assert "write_back" not in harness.faulty.calls
    harness.faulty.recover()
    harness.advance(5)
    caller.result(TIMEOUT)
    assert count_of(harness, EventName.STORE_BEHIND) == 0


def test_a_refresh_by_a_process_without_newer_memory_counts_if_the_bank_accepts_it(
    harness: Harness,
) -> None:
    harness.banks.set_policy(rotates=False)
    harness.make_manager(profiles={TARGET: TargetProfile(rotates=False)})
    harness.allowed_replays = 5
    grant = refreshed_after_backup(harness)
    harness.advance(60)
    other = harness.make_manager(profiles={TARGET: TargetProfile(rotates=False)})
    token = other.refresh(grant)
    harness.advance(600)
    harness.manager.get(grant)
    harness.wait_until_idle()
    assert harness.manager.get(grant).access_token == token.access_token
    assert count_of(harness, EventName.STORE_BEHIND) == 0


def test_a_revocation_in_progress_is_no_step_backwards_from_a_confirmed_one(
    harness: Harness,
) -> None:
    grant = harness.authorize()
    harness.memory.mark_revoked(harness.key(grant), note=Note(event=EventName.REVOKING))
    restore = harness.back_up()
    harness.manager.revoke(grant)
    restore()
    harness.advance(600)
    get_error(harness.manager, grant)
    assert "write_back" not in harness.faulty.calls
    assert harness.manager.refresh_due().revoked == 1
