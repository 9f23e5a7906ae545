"""Refreshing idle grants before their refresh tokens expire."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import timedelta
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest

from blink_oauth import Grant, InvalidInputError, Outcome, Secret
from blink_oauth_keeper import (
    AfterUncertainty,
    Event,
    EventName,
    Report,
    SqlTokenStore,
    StoreError,
    TargetProfile,
    TokenManager,
)
from blink_oauth_keeper.store.protocol import State
from keeper.harness import (
    DAY,
    START,
    TARGET,
    TIMEOUT,
    Gate,
    Harness,
    bank_response,
    connection_refused,
    request_lost,
    status_response,
    wait_until,
    with_members,
)

OTHER = "IIDX00002"
OLD, NEW = SqlTokenStore.new_key(), SqlTokenStore.new_key()
MONTH = timedelta(days=30)
HOLD = TargetProfile(after_uncertainty=AfterUncertainty.HOLD)


def authorize(harness: Harness, count: int, target_id: str = TARGET, first: int = 0) -> list[Grant]:
    """Authorize some grants, one per second."""
    grants = []
    for number in range(first, first + count):
        grants.append(harness.authorize(f"u-{number:03}", target_id))
        harness.clock.elapse(1)
    return grants


def refresh_all(harness: Harness, *, manager: TokenManager | None = None, **options: Any) -> Report:
    """Refresh all grants: each is due within 30 days."""
    return (manager or harness.manager).refresh_due(within=MONTH, **options)


def generations(harness: Harness, grants: list[Grant]) -> list[int]:
    return [harness.record(grant).generation for grant in grants]


# Due grants


def test_nothing_is_due_for_weeks_after_a_consent(harness: Harness) -> None:
    authorize(harness, 3)
    assert harness.manager.refresh_due() == Report()
    assert harness.banks.presented() == []


def test_an_idle_grant_is_refreshed_ten_days_before_its_refresh_token_expires(
    harness: Harness,
) -> None:
    (grant,) = authorize(harness, 1)
    harness.advance(20 * DAY - 2)
    assert harness.manager.refresh_due().due == 0
    harness.advance(3)
    assert harness.manager.refresh_due() == Report(due=1, refreshed=1)
    assert harness.manager.refresh_due().due == 0
    assert harness.record(grant).idle_until == harness.clock.now() + MONTH
    assert harness.manager.get(grant) == harness.record(grant).token


def test_an_idle_grant_stays_usable_for_a_year(harness: Harness) -> None:
    (grant,) = authorize(harness, 1)
    for _ in range(365):
        harness.advance(DAY)
        harness.manager.refresh_due()
    assert 12 <= len(harness.banks.presented()) <= 20
    assert harness.banks.accepts(grant, harness.manager.get(grant))


def test_the_grants_that_expire_first_are_refreshed_first(harness: Harness) -> None:
    grants = authorize(harness, 6)
    assert refresh_all(harness, limit=2) == Report(due=2, refreshed=2)
    assert generations(harness, grants) == [2, 2, 1, 1, 1, 1]


def test_a_run_refreshes_a_grant_once_however_long_within_is(harness: Harness) -> None:
    grants = authorize(harness, 3)
    report = harness.manager.refresh_due(within=timedelta(days=365))
    assert report == Report(due=3, refreshed=3)
    assert generations(harness, grants) == [2] * 3


def test_a_refresh_by_keep_alive_has_no_psu(harness: Harness) -> None:
    authorize(harness, 1)
    refresh_all(harness)
    assert harness.banks.requests[-1].psu_ip == "AUTO"
    assert harness.manager.history(Grant(TARGET, "u-000"))[0].note.actor == "auto"


def test_a_dry_run_counts_and_changes_nothing(harness: Harness) -> None:
    harness.make_manager(profiles={OTHER: TargetProfile(rate=1)})
    grants = authorize(harness, 3) + authorize(harness, 2, OTHER)
    before = [harness.record(grant) for grant in grants]
    assert refresh_all(harness, dry_run=True) == Report(due=5)
    assert refresh_all(harness, dry_run=True, limit=4) == Report(due=4)
    assert [harness.record(grant) for grant in grants] == before
    assert harness.banks.presented() == []
    assert "purge" not in harness.faulty.calls


def test_revoked_and_refused_grants_are_not_due(harness: Harness) -> None:
    first, second, _ = authorize(harness, 3)
    harness.manager.revoke(first)
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))
    assert refresh_all(harness, limit=1) == Report(due=1, consent_needed=1)
    assert harness.record(second).state is State.NEEDS_CONSENT
    assert refresh_all(harness) == Report(due=1, refreshed=1)


def test_a_run_deletes_old_journal_entries(harness: Harness) -> None:
    (grant,) = authorize(harness, 1)
    harness.authorize(grant.username)
    assert len(harness.memory.journal_entries(harness.key(grant))) == 1
    harness.advance(8 * DAY)
    harness.manager.refresh_due()
    assert harness.memory.journal_entries(harness.key(grant)) == ()


# The course of a run


def test_the_report_counts_the_outcomes_and_on_progress_is_called_after_each_grant(
    harness: Harness,
) -> None:
    authorize(harness, 6)
    harness.banks.respond_next(
        connection_refused,
        bank_response,
        request_lost,
        bank_response,
        status_response(400, {"error": "invalid_grant"}),
        bank_response,
    )
    reports: list[Report] = []
    report = refresh_all(harness, concurrency=1, on_progress=reports.append)
    assert report == Report(due=6, refreshed=3, failed=1, uncertain=1, consent_needed=1)
    assert reports[-1] == report
    sums = [each.refreshed + each.failed + each.uncertain + each.consent_needed for each in reports]
    assert sums == [1, 2, 3, 4, 5, 6]
    assert all(each.due >= number for each, number in zip(reports, sums, strict=True))


def test_concurrency_limits_the_refreshes_in_progress(harness: Harness) -> None:
    authorize(harness, 12)
    gate = Gate()
    harness.banks.respond_always(gate)
    run = harness.in_thread(lambda: refresh_all(harness, concurrency=4))
    gate.wait(4)
    harness.wait_until_idle()
    assert len(harness.banks.presented()) == 4
    gate.open()
    assert run.result(TIMEOUT) == Report(due=12, refreshed=12)


def test_no_more_grants_are_claimed_than_there_are_threads(harness: Harness) -> None:
    harness.make_manager(threads=2)
    grants = authorize(harness, 6)
    gate = Gate()
    harness.banks.respond_always(gate)
    run = harness.in_thread(lambda: refresh_all(harness))
    gate.wait(2)
    assert [harness.record(grant).state for grant in grants].count(State.REFRESHING) == 2
    gate.open()
    assert run.result(TIMEOUT).refreshed == 6


def test_a_batch_is_claimed_only_when_a_quarter_of_the_concurrency_is_free(
    harness: Harness,
) -> None:
    authorize(harness, 10)
    gates = [Gate() for _ in range(8)]
    harness.banks.respond_next(*gates)
    claim, limits = harness.memory.claim_due, []

    def recording(*args: Any, **options: Any) -> object:
        claims = claim(*args, **options)
        if claims:
            limits.append(options["limit"])
        return claims

    harness.faulty.replacements["claim_due"] = recording
    reports: list[Report] = []
    run = harness.in_thread(lambda: refresh_all(harness, concurrency=8, on_progress=reports.append))
    wait_until(lambda: all(gate.held for gate in gates))
    # One free place is less than a quarter of the concurrency, two are enough.
    for number, gate in enumerate(gates, 1):
        gate.open()
        wait_until(lambda number=number: len(reports) >= number)  # type: ignore[misc]
    assert run.result(TIMEOUT) == Report(due=10, refreshed=10)
    assert limits[:2] == [8, 2]


def test_a_bank_that_does_not_respond_leaves_room_for_the_others(harness: Harness) -> None:
    silent = authorize(harness, 40)
    healthy = authorize(harness, 12, OTHER)
    gate = Gate()
    harness.banks.respond_always(gate, target_id=TARGET)
    run = harness.in_thread(lambda: refresh_all(harness, concurrency=4))
    wait_until(lambda: generations(harness, healthy) == [2] * 12)
    assert gate.held == 4
    gate.open()
    assert run.result(TIMEOUT) == Report(due=52, refreshed=52)
    assert generations(harness, silent) == [2] * 40


def test_a_silent_bank_with_a_profile_leaves_room_for_the_others(harness: Harness) -> None:
    harness.make_manager(profiles={TARGET: TargetProfile(), "IIDX00003": TargetProfile()})
    for target_id in (TARGET, "IIDX00003"):
        authorize(harness, 20, target_id)
    healthy = authorize(harness, 12, OTHER)
    gates = {name: Gate() for name in (TARGET, "IIDX00003")}
    for name, gate in gates.items():
        harness.banks.respond_always(gate, target_id=name)
    run = harness.in_thread(lambda: refresh_all(harness, concurrency=4, limit=44))
    wait_until(lambda: sum(gate.held for gate in gates.values()) == 8)
    gates[TARGET].open()
    wait_until(lambda: generations(harness, healthy) == [2] * 12)
    gates["IIDX00003"].open()
    assert run.result(TIMEOUT).refreshed == 44


def test_the_only_due_target_is_not_searched_for_others_after_each_grant(harness: Harness) -> None:
    authorize(harness, 40)
    claim, counts = harness.memory.claim_due, []

    def recording(*args: Any, **options: Any) -> object:
        claims = claim(*args, **options)
        counts.append(len(claims))
        return claims

    harness.faulty.replacements["claim_due"] = recording
    assert refresh_all(harness, concurrency=8) == Report(due=40, refreshed=40)
    # One search when the target became full, then none until all its grants are claimed.
    last = list(accumulate(counts)).index(40)
    assert counts[1] == 0
    assert 0 not in counts[2:last]


def test_a_caller_during_a_run_joins_the_flight(harness: Harness) -> None:
    (grant,) = authorize(harness, 1)
    harness.advance(DAY + 1)
    gate = Gate()
    harness.banks.respond_next(gate)
    run = harness.in_thread(lambda: refresh_all(harness))
    gate.wait()
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.open()
    assert run.result(TIMEOUT).refreshed == 1
    assert caller.result(TIMEOUT) == harness.record(grant).token
    assert len(harness.banks.presented()) == 1


def test_a_grant_that_is_already_being_refreshed_is_skipped(harness: Harness) -> None:
    (grant,) = authorize(harness, 1)
    harness.advance(DAY + 1)
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    assert refresh_all(harness) == Report()
    gate.open()
    caller.result(TIMEOUT)


def test_two_concurrent_runs_refresh_each_grant_once(harness: Harness) -> None:
    first, second = harness.make_manager(real_waits=True), harness.make_manager(real_waits=True)
    grants = authorize(harness, 60)
    runs = [
        harness.in_thread(partial(refresh_all, harness, manager=each, concurrency=4))
        for each in (first, second)
    ]
    reports = [run.result(TIMEOUT) for run in runs]
    assert sum(report.refreshed for report in reports) == 60
    assert sum(report.due for report in reports) == 60
    assert generations(harness, grants) == [2] * 60


def test_a_consent_during_a_run_wins_and_the_grant_counts_as_left(harness: Harness) -> None:
    (grant,) = authorize(harness, 1)
    gate = Gate()
    harness.banks.respond_next(gate)
    run = harness.in_thread(lambda: refresh_all(harness))
    gate.wait()
    harness.authorize(grant.username)
    gate.open()
    assert run.result(TIMEOUT) == Report(due=1, left=1)
    assert harness.record(grant).consent == 2


def test_a_lease_that_has_become_too_short_is_released(harness: Harness) -> None:
    (grant,) = authorize(harness, 1)
    claim = harness.memory.claim_due

    def slow_claim(*args: Any, **options: Any) -> Any:
        claims = claim(*args, **options)
        harness.clock.elapse(16)
        return claims

    harness.faulty.replacements["claim_due"] = slow_claim
    assert refresh_all(harness, limit=1) == Report(due=1, left=1)
    record = harness.record(grant)
    assert (record.state, record.attempts, record.lease_left) == (State.ACTIVE, 0, 0)
    assert harness.banks.presented() == []
    assert harness.event_names()[-1] is EventName.ABANDONED


# Pairs that no key opens


def use_key(harness: Harness, tmp_path: Path, key: Secret) -> None:
    """Let the managers use a store in a file, with this key."""
    url = f"sqlite:///{tmp_path / 'tokens.db'}"
    harness.faulty.inner = SqlTokenStore(url, keys=[key], clock=harness.clock.now)


def test_grants_that_no_key_opens_are_counted_and_reported_once(
    harness: Harness, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    use_key(harness, tmp_path, OLD)
    authorize(harness, 3)
    harness.faulty.inner.close()
    use_key(harness, tmp_path, NEW)
    authorize(harness, 1, OTHER)
    harness.events.clear()
    assert refresh_all(harness, dry_run=True) == Report(due=1, unreadable=3)
    assert harness.events == []
    assert refresh_all(harness) == Report(due=1, refreshed=1, unreadable=3)
    refreshed, event = harness.events
    assert refreshed.name is EventName.REFRESHED
    assert (event.name, event.count, event.error) == (EventName.UNREADABLE, 3, "SealError")
    assert event.outcome is Outcome.NOT_EXECUTED
    logged = [each.getMessage() for each in caplog.records if each.levelname == "CRITICAL"]
    assert len(logged) == 1
    assert logged[0].startswith("store.unreadable grant= target= ")
    assert logged[0].endswith(" outcome=not_executed error=SealError count=3")


def test_a_grant_that_no_key_opens_needs_no_consent(harness: Harness, tmp_path: Path) -> None:
    use_key(harness, tmp_path, OLD)
    grant = harness.authorize()
    expected = harness.manager.status(grant)
    harness.faulty.inner.close()
    use_key(harness, tmp_path, NEW)
    (status,) = harness.manager.statuses()
    assert (status.state, status.error) == (State.UNREADABLE, "SealError")
    assert (status.needs_consent, status.usable, status.expires_at) == (False, False, None)
    assert (status.idle_until, status.generation) == (expected.idle_until, 1)
    harness.faulty.inner.close()
    use_key(harness, tmp_path, OLD)
    assert list(harness.manager.statuses()) == [expected]


def test_a_revoked_grant_that_no_key_opens_is_not_due_and_not_reported(
    harness: Harness, tmp_path: Path
) -> None:
    use_key(harness, tmp_path, OLD)
    harness.manager.revoke(harness.authorize())
    harness.faulty.inner.close()
    use_key(harness, tmp_path, NEW)
    assert refresh_all(harness) == Report()
    assert EventName.UNREADABLE not in harness.event_names()


def test_a_listener_that_fails_does_not_end_the_run(harness: Harness) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError

    manager = harness.make_manager(on_event=fail)
    harness.faulty.replacements["unreadable"] = lambda query: 2
    assert refresh_all(harness, manager=manager) == Report(unreadable=2)


# Failures


def test_an_uncertain_refresh_token_is_replayed_at_most_once(harness: Harness) -> None:
    harness.banks.respond_always(status_response(503))
    (grant,) = authorize(harness, 1)
    assert refresh_all(harness) == Report(due=1, uncertain=1)
    assert refresh_all(harness) == Report()
    harness.advance(120)
    assert refresh_all(harness) == Report(due=1, uncertain=1)
    harness.advance(7200)
    assert refresh_all(harness) == Report()
    assert harness.record(grant).attempts == 2
    assert len(harness.banks.presented()) == 2
    harness.allowed_replays = 1


def test_with_the_policy_hold_a_run_makes_no_replay(harness: Harness) -> None:
    harness.make_manager(profile=HOLD)
    authorize(harness, 1)
    harness.banks.respond_always(request_lost)
    assert refresh_all(harness) == Report(due=1, uncertain=1)
    harness.advance(7200)
    assert refresh_all(harness) == Report()


def test_at_a_bank_that_never_rotates_the_replays_are_limited_by_pauses_only(
    harness: Harness,
) -> None:
    harness.make_manager(profile=TargetProfile(rotates=False))
    authorize(harness, 1)
    harness.banks.respond_always(status_response(503))
    for _ in range(4):
        assert refresh_all(harness) == Report(due=1, uncertain=1)
        harness.advance(7200)
    harness.allowed_replays = 3


def test_a_failing_target_is_probed_with_one_grant(harness: Harness) -> None:
    grants = authorize(harness, 20)
    harness.banks.respond_always(connection_refused)
    report = refresh_all(harness, concurrency=2)
    assert report.failed <= 4
    presented = len(harness.banks.presented())
    assert refresh_all(harness, concurrency=8) == Report()
    # The target still fails: of all due grants, one probes it.
    harness.advance(61)
    assert refresh_all(harness, concurrency=8) == Report(due=1, failed=1)
    assert len(harness.banks.presented()) == presented + 1
    harness.banks.respond_always(bank_response)
    harness.advance(61)
    assert refresh_all(harness, concurrency=8) == Report(due=20, refreshed=20)
    assert generations(harness, grants) == [2] * 20
    harness.allowed_replays = 3


def test_a_failing_target_does_not_stop_the_refreshes_at_other_targets(harness: Harness) -> None:
    skipped = authorize(harness, 2, OTHER, 20)
    authorize(harness, 20)
    harness.open_breaker(OTHER)
    assert refresh_all(harness, concurrency=4) == Report(due=20, refreshed=20)
    assert generations(harness, skipped) == [1, 1]


def test_a_run_without_due_grants_does_not_use_up_the_probe_of_a_failing_target(
    harness: Harness,
) -> None:
    (grant,) = authorize(harness, 1, OTHER)
    harness.open_breaker(OTHER)
    harness.advance(60)
    assert harness.manager.refresh_due() == Report()
    # If the run had used up the probe, this refresh would be held off.
    assert harness.manager.refresh(grant)


def test_an_unavailable_store_ends_the_run_and_the_refreshes_in_progress_finish(
    harness: Harness,
) -> None:
    grants = authorize(harness, 8)
    gate = Gate()
    harness.banks.respond_always(gate)
    run = harness.in_thread(lambda: refresh_all(harness, concurrency=4))
    gate.wait(4)
    harness.faulty.fail("claim_due")
    gate.open()
    with pytest.raises(StoreError):
        run.result(TIMEOUT)
    harness.wait_until_idle()
    assert sorted(generations(harness, grants)) == [1] * 4 + [2] * 4


def test_an_unexpected_error_counts_as_failed_and_the_run_goes_on(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    authorize(harness, 3)

    def broken(execute: object) -> Any:
        raise MemoryError

    harness.banks.respond_next(bank_response, broken, bank_response)
    assert refresh_all(harness, concurrency=1) == Report(due=3, refreshed=2, failed=1)
    assert "A flight broke" in caplog.text


def test_a_closed_manager_refreshes_nothing_and_leaves_no_lease(harness: Harness) -> None:
    grants = authorize(harness, 3)
    harness.manager.close()
    with pytest.raises(InvalidInputError, match="closed"):
        refresh_all(harness)
    for grant in grants:
        record = harness.record(grant)
        assert (record.state, record.attempts, record.lease_left) == (State.ACTIVE, 0, 0)
    assert harness.banks.presented() == []


def test_while_a_new_pair_is_unstored_the_old_refresh_token_is_not_presented(
    harness: Harness,
) -> None:
    (grant,) = authorize(harness, 1)
    harness.advance(DAY + 1)
    harness.faulty.fail("settle")
    token = harness.manager.get(grant)
    # The lease ends while the store takes everything but pairs.
    harness.advance(30)
    assert refresh_all(harness) == Report(due=1, left=1)
    assert harness.record(grant).pause_left > 0
    harness.faulty.recover()
    harness.advance(1.1)
    record = harness.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert len(harness.banks.presented()) == 1


# Rates


def test_a_rate_spaces_the_refreshes_of_its_target_only(harness: Harness) -> None:
    harness.make_manager(profiles={TARGET: TargetProfile(rate=2)})
    authorize(harness, 5)
    authorize(harness, 10, OTHER, 5)
    began, times = harness.clock.seconds, []

    def recording(execute: Any) -> Any:
        times.append(harness.clock.seconds - began)
        return execute()

    harness.banks.respond_always(recording)
    report = refresh_all(harness, concurrency=8)
    assert report == Report(due=15, refreshed=15)
    assert times.count(0) == 11
    assert sorted(times)[11:] == [0.5, 1, 1.5, 2]


def test_a_rate_in_the_default_profile_applies_to_each_target_separately(harness: Harness) -> None:
    harness.make_manager(profile=TargetProfile(rate=1))
    authorize(harness, 3)
    authorize(harness, 3, OTHER, 3)
    began, times = harness.clock.seconds, Counter[float]()

    def recording(execute: Any) -> Any:
        times[harness.clock.seconds - began] += 1
        return execute()

    harness.banks.respond_always(recording)
    assert refresh_all(harness, concurrency=8) == Report(due=6, refreshed=6)
    assert times == {0: 2, 1: 2, 2: 2}


def test_a_limit_ends_a_run_that_waits_for_a_rate(harness: Harness) -> None:
    harness.make_manager(profiles={TARGET: TargetProfile(rate=1)})
    authorize(harness, 5)
    began = harness.clock.seconds
    assert refresh_all(harness, concurrency=8, limit=2) == Report(due=2, refreshed=2)
    assert harness.clock.seconds - began == 1


def test_a_retry_after_stops_the_refreshes_at_a_rate_limited_target(harness: Harness) -> None:
    harness.make_manager(profiles={TARGET: TargetProfile(rate=10)})
    authorize(harness, 5)
    harness.banks.respond_next(status_response(429, Retry_After="600"))
    assert refresh_all(harness, concurrency=8) == Report(due=1, failed=1)
    assert len(harness.banks.presented()) == 1


def test_a_target_with_a_profile_but_no_rate_is_claimed_in_batches(harness: Harness) -> None:
    harness.make_manager(profiles={TARGET: HOLD})
    authorize(harness, 12)
    harness.faulty.calls.clear()
    assert refresh_all(harness, concurrency=12) == Report(due=12, refreshed=12)
    # One look for last attempts in the whole run.
    assert harness.faulty.calls.count("due") == 1


def test_a_run_with_refreshes_in_progress_starts_the_next_one_at_its_rate(harness: Harness) -> None:
    harness.make_manager(profiles={TARGET: TargetProfile(rate=50)})
    authorize(harness, 2)
    authorize(harness, 1, OTHER, 2)
    gate = Gate()
    harness.banks.respond_always(gate)
    run = harness.in_thread(lambda: refresh_all(harness, concurrency=4))
    gate.wait(2)
    harness.clock.elapse(0.1)
    gate.wait(3)
    gate.open()
    assert run.result(TIMEOUT) == Report(due=3, refreshed=3)
    harness.wait_until_idle()


# Stopping a run


def test_a_stopped_run_starts_no_refresh_and_leaves_no_lease(harness: Harness) -> None:
    grants = authorize(harness, 4)
    reports: list[Report] = []
    harness.faulty.calls.clear()
    report = refresh_all(
        harness, concurrency=1, on_progress=reports.append, stop=lambda: bool(reports)
    )
    assert report == Report(due=1, refreshed=1)
    assert generations(harness, grants) == [2, 1, 1, 1]
    records = [harness.record(grant) for grant in grants]
    assert {(each.state, each.attempts, each.lease_left) for each in records} == {
        (State.ACTIVE, 0, 0)
    }
    # The second one left out the target, which had no room.
    assert harness.faulty.calls.count("claim_due") == 2
    assert "purge" not in harness.faulty.calls
    assert refresh_all(harness) == Report(due=3, refreshed=3)


def test_the_refreshes_in_progress_of_a_stopped_run_finish_and_are_counted(
    harness: Harness,
) -> None:
    grants = authorize(harness, 12)
    gate, stop, reports = Gate(), threading.Event(), list[Report]()
    harness.banks.respond_next(
        Gate(connection_refused), status_response(400, {"error": "invalid_grant"})
    )
    harness.banks.respond_always(gate)
    run = harness.in_thread(
        lambda: refresh_all(harness, concurrency=8, on_progress=reports.append, stop=stop.is_set)
    )
    gate.wait(6)
    stop.set()
    for each in harness.banks.gates:
        each.open()
    assert run.result(TIMEOUT) == Report(due=8, refreshed=6, failed=1, consent_needed=1)
    assert len(reports) == 8
    assert State.REFRESHING not in {harness.record(grant).state for grant in grants}
    assert len(harness.banks.presented()) == 8


def test_a_run_that_is_stopped_before_it_begins_makes_no_store_call(harness: Harness) -> None:
    authorize(harness, 3)
    harness.faulty.calls.clear()
    assert refresh_all(harness, stop=lambda: True) == Report()
    assert harness.faulty.calls == []
    assert harness.banks.presented() == []


def test_a_run_can_be_stopped_between_two_claims(harness: Harness) -> None:
    harness.make_manager(profiles={TARGET: HOLD, OTHER: HOLD})
    first, second = authorize(harness, 2), authorize(harness, 2, OTHER, 2)
    report = refresh_all(harness, stop=lambda: "claim_due" in harness.faulty.calls)
    assert report == Report(due=2, refreshed=2)
    assert generations(harness, first + second) == [2, 2, 1, 1]


def test_stop_is_not_called_again_after_it_returned_true(harness: Harness) -> None:
    grants = authorize(harness, 4)
    gate, reports, returned = Gate(), list[Report](), list[bool]()
    harness.banks.respond_next(bank_response, gate)

    def stop() -> bool:
        returned.append(bool(reports))
        if reports:
            gate.open()
        return returned.count(True) == 1

    report = refresh_all(harness, concurrency=2, on_progress=reports.append, stop=stop)
    assert report == Report(due=2, refreshed=2)
    assert returned.count(True) == 1
    assert generations(harness, grants) == [2, 2, 1, 1]


def test_a_run_that_waits_for_a_rate_stops_within_a_second(harness: Harness) -> None:
    harness.make_manager(profiles={TARGET: TargetProfile(rate=0.01)})
    grants = authorize(harness, 3)
    began = harness.clock.seconds
    report = refresh_all(harness, concurrency=8, stop=lambda: harness.clock.seconds - began >= 20.2)
    assert report == Report(due=1, refreshed=1)
    assert 20.2 <= harness.clock.seconds - began < 21.2
    assert generations(harness, grants) == [2, 1, 1]


def test_a_run_waits_exactly_as_long_as_its_rate_requires(harness: Harness) -> None:
    harness.make_manager(profiles={TARGET: TargetProfile(rate=0.3)})
    authorize(harness, 3)
    began = harness.clock.seconds
    assert refresh_all(harness, concurrency=8) == Report(due=3, refreshed=3)
    assert harness.clock.seconds - began == pytest.approx(2 / 0.3)


# The lifetime of a refresh token as the bank says it


def test_a_grant_is_refreshed_before_the_end_that_the_bank_said(harness: Harness) -> None:
    grant = harness.authorize(responder=with_members(refresh_token_expires_in=7 * DAY))
    assert harness.manager.status(grant).idle_until == START + timedelta(days=7)
    harness.advance(2 * DAY)
    assert harness.manager.refresh_due().refreshed == 1


def test_a_lifetime_that_a_refresh_says_counts_from_then_on(harness: Harness) -> None:
    grant = harness.authorize()
    harness.banks.respond_next(with_members(refresh_expires_in="86400", id_token="fake-id-token"))
    harness.manager.refresh(grant)
    record = harness.record(grant)
    assert record.idle_until == START + timedelta(days=1)
    assert record.token is not None
    assert record.token.extra == {"refresh_expires_in": "86400", "id_token": "fake-id-token"}
    harness.manager.refresh(grant)
    assert harness.record(grant).idle_until == START + timedelta(days=30)


def test_a_run_refreshes_a_grant_once_however_short_the_lifetime_that_the_bank_says(
    harness: Harness,
) -> None:
    harness.authorize(responder=with_members(refresh_token_expires_in=60))
    harness.advance(30)
    harness.banks.respond_always(with_members(refresh_token_expires_in=60))
    assert harness.manager.refresh_due(limit=5).refreshed == 1
    assert len(harness.banks.presented()) == 1
