"""Revocations that stopped between the mark, the bank and the erasure."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from blink_oauth import BlinkError, Grant, RevocationError, Token
from blink_oauth_keeper import ConsentNeededError, EventName, Report, TargetProfile
from blink_oauth_keeper.store.protocol import Note, Origin, State
from keeper.harness import (
    DAY,
    TARGET,
    TIMEOUT,
    Gate,
    Harness,
    Responder,
    bank_response,
    connection_refused,
    request_lost,
    status_response,
)

OTHER = "IIDX00002"
MARK = Note(event=EventName.REVOKING)


def marked(harness: Harness, username: str = "u-4711", target_id: str = TARGET) -> Grant:
    """Authorize a grant, and mark it as revoked, as a process that is killed after the mark."""
    grant = harness.authorize(username, target_id)
    harness.memory.mark_revoked(harness.key(grant), note=MARK)
    return grant


def pair_of(harness: Harness, grant: Grant) -> Token:
    token = harness.record(grant).token
    assert token is not None
    return token


def is_valid(harness: Harness, grant: Grant, token: Token) -> bool:
    """Return whether the bank still accepts one of the two tokens."""
    bank = harness.banks.bank(grant.target_id)
    assert token.refresh_token is not None
    return any(bank.accepts(text.reveal()) for text in (token.access_token, token.refresh_token))


def require_finished(harness: Harness, grant: Grant, token: Token) -> None:
    record = harness.record(grant)
    assert (record.state, record.token) == (State.REVOKED, None)
    assert harness.memory.journal_entries(harness.key(grant)) == ()
    assert not is_valid(harness, grant, token)
    events = [entry.note.event for entry in harness.manager.history(grant)]
    assert (events[0], events.count(EventName.REVOKED)) == (EventName.REVOKED, 1)
    assert events[1] == EventName.REVOKING


def test_an_unfinished_revocation_is_a_state_of_its_own(harness: Harness) -> None:
    grant = marked(harness)
    status = harness.make_manager().status(grant)
    assert (status.state, status.usable, status.needs_consent) == (State.REVOKING, False, True)
    (listed,) = harness.manager.statuses()
    assert listed == status
    events = [entry.note.event for entry in harness.manager.history(grant)]
    assert events == [EventName.REVOKING, EventName.AUTHORIZED, EventName.AUTHORIZING]


def test_nothing_of_an_unfinished_revocation_is_served_or_presented(harness: Harness) -> None:
    grant = marked(harness)
    manager = harness.make_manager()
    for call in (manager.get, manager.refresh):
        with pytest.raises(ConsentNeededError):
            call(grant)
    harness.advance(29 * DAY)
    harness.banks.respond_always(connection_refused, kind="revoke")
    assert manager.refresh_due().due == 0
    assert harness.banks.presented() == []


def test_refresh_due_finishes_a_revocation_that_was_killed_before_the_bank(
    harness: Harness,
) -> None:
    grant = marked(harness)
    token = pair_of(harness, grant)
    assert harness.make_manager().refresh_due() == Report(revoked=1)
    require_finished(harness, grant, token)
    assert harness.event_names()[-1] is EventName.REVOKED
    assert harness.manager.refresh_due() == Report()


def test_refresh_due_finishes_a_revocation_that_was_killed_before_the_erasure(
    harness: Harness,
) -> None:
    grant = marked(harness)
    token = pair_of(harness, grant)
    assert token.refresh_token is not None
    harness.blink.revoke(grant, token)
    assert harness.record(grant).state is State.REVOKING
    assert harness.manager.refresh_due() == Report(revoked=1)
    require_finished(harness, grant, token)


def test_refresh_due_revokes_a_late_pair_whose_process_was_killed_after_the_journal(
    harness: Harness,
) -> None:
    harness.banks.set_policy(on_reuse="refuse")
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    harness.make_manager().revoke(grant)
    harness.banks.respond_next(connection_refused, connection_refused, kind="revoke")
    gate.open()
    with pytest.raises(ConsentNeededError):
        caller.result(TIMEOUT)
    harness.wait_until_idle()
    (entry,) = harness.memory.journal_entries(harness.key(grant))
    assert entry.origin is Origin.SUPERSEDED
    assert harness.manager.refresh_due() == Report(revoked=1)
    require_finished(harness, grant, entry.token)


def test_revoke_continues_an_unfinished_revocation(harness: Harness) -> None:
    grant = marked(harness)
    token = pair_of(harness, grant)
    harness.make_manager().revoke(grant)
    require_finished(harness, grant, token)


@pytest.mark.parametrize(
    "responder",
    [connection_refused, request_lost, status_response(503)],
    ids=["refused", "lost", "failed"],
)
def test_a_revocation_that_fails_is_tried_once_in_each_run(
    harness: Harness, responder: Responder
) -> None:
    grant = harness.authorize()
    token = pair_of(harness, grant)
    harness.banks.respond_always(responder, kind="revoke")
    with pytest.raises(RevocationError):
        harness.manager.revoke(grant)
    for _ in range(2):
        harness.advance(DAY)
        before = harness.event_names().count(EventName.REVOCATION_FAILED)
        assert harness.manager.refresh_due() == Report(failed=1)
        assert harness.event_names().count(EventName.REVOCATION_FAILED) == before + 1
        assert harness.record(grant).state is State.REVOKING
    harness.banks.respond_always(bank_response, kind="revoke")
    harness.advance(DAY)
    assert harness.manager.refresh_due() == Report(revoked=1)
    require_finished(harness, grant, token)


def test_every_unfinished_revocation_is_finished_beside_the_due_refreshes(
    harness: Harness,
) -> None:
    revoked = [
        marked(harness, f"u-r{number}", target) for number in range(5) for target in (TARGET, OTHER)
    ]
    due = [harness.authorize(f"u-d{number}") for number in range(3)]
    harness.advance(60)
    reports: list[Report] = []
    report = harness.manager.refresh_due(
        within=timedelta(days=30), concurrency=2, on_progress=reports.append
    )
    assert report == Report(due=3, refreshed=3, revoked=10) == reports[-1]
    assert len(reports) == 13
    assert {harness.record(grant).state for grant in revoked} == {State.REVOKED}
    assert {harness.record(grant).state for grant in due} == {State.ACTIVE}


def test_a_run_finishes_no_more_revocations_than_its_limit(harness: Harness) -> None:
    for number in range(5):
        marked(harness, f"u-{number}")
    assert harness.manager.refresh_due(limit=2) == Report(revoked=2)
    assert harness.manager.refresh_due() == Report(revoked=3)


def test_a_dry_run_revokes_nothing(harness: Harness) -> None:
    grant = marked(harness)
    assert harness.manager.refresh_due(dry_run=True) == Report()
    assert harness.record(grant).state is State.REVOKING


def test_a_run_that_is_stopped_begins_no_revocation(harness: Harness) -> None:
    grant = marked(harness)
    assert harness.manager.refresh_due(stop=lambda: True) == Report()
    assert harness.record(grant).state is State.REVOKING


def test_a_target_that_fails_is_not_asked_to_revoke(harness: Harness) -> None:
    grant, other = marked(harness), marked(harness, target_id=OTHER)
    harness.open_breaker()
    assert harness.manager.refresh_due() == Report(revoked=1)
    assert (harness.record(grant).state, harness.record(other).state) == (
        State.REVOKING,
        State.REVOKED,
    )
    harness.advance(120)
    assert harness.manager.refresh_due() == Report(revoked=1)


def test_failed_revocations_open_the_circuit_of_their_target(harness: Harness) -> None:
    for number in range(6):
        marked(harness, f"u-{number}")
    harness.banks.respond_always(connection_refused, kind="revoke")
    report = harness.manager.refresh_due(concurrency=1)
    assert report == Report(failed=2)


def test_revocations_keep_to_the_rate_of_their_target(harness: Harness) -> None:
    harness.make_manager(profiles={TARGET: TargetProfile(rate=0.5)})
    for number in range(4):
        marked(harness, f"u-{number}")
    began = harness.clock.monotonic()
    assert harness.manager.refresh_due() == Report(revoked=4)
    assert harness.clock.monotonic() - began >= 6


def test_a_stop_during_the_wait_for_a_rate_begins_no_other_revocation(harness: Harness) -> None:
    stopping: list[bool] = []

    def sleep(seconds: float) -> None:
        harness.clock.elapse(seconds)
        stopping.append(True)

    harness.make_manager(profiles={TARGET: TargetProfile(rate=0.01)}, sleep=sleep)
    for number in range(3):
        marked(harness, f"u-{number}")
    assert harness.manager.refresh_due(stop=lambda: bool(stopping)) == Report(revoked=1)


def test_a_new_consent_ends_an_unfinished_revocation(harness: Harness) -> None:
    grant = marked(harness)
    older = pair_of(harness, grant)
    harness.authorize()
    assert harness.record(grant).state is State.ACTIVE
    assert harness.manager.refresh_due() == Report()
    assert harness.banks.accepts(grant, harness.manager.get(grant))
    assert harness.banks.presented("revoke") == []
    # Its own revocation revokes the pairs of the older consent too.
    newer = pair_of(harness, grant)
    harness.manager.revoke(grant)
    require_finished(harness, grant, older)
    require_finished(harness, grant, newer)


def test_a_consent_during_a_run_is_not_revoked(harness: Harness) -> None:
    grant = marked(harness)
    revoking = harness.memory.revoking

    def revoking_then_consent(client_id: str, *, limit: int) -> object:
        found = revoking(client_id, limit=limit)
        harness.authorize()
        return found

    harness.faulty.replacements["revoking"] = revoking_then_consent
    assert harness.manager.refresh_due() == Report()
    assert harness.record(grant).state is State.ACTIVE
    assert harness.banks.accepts(grant, harness.manager.get(grant))
    assert harness.banks.presented("revoke") == []


def test_a_run_counts_a_failure_if_the_store_fails_during_a_revocation(harness: Harness) -> None:
    grant = marked(harness)
    harness.faulty.fail("journal_entries")
    assert harness.manager.refresh_due() == Report(failed=1)
    assert harness.record(grant).state is State.REVOKING
    assert harness.banks.presented("revoke") == []


@pytest.mark.parametrize("method", ["mark_revoked", "journal_entries", "erase"])
def test_a_store_that_fails_at_any_step_leaves_a_revocation_that_can_be_finished(
    harness: Harness, method: str
) -> None:
    grant = harness.authorize()
    token = pair_of(harness, grant)
    harness.faulty.lost_results.add(method)
    try:
        harness.manager.revoke(grant)
    except BlinkError:
        assert method != "erase"
    harness.advance(60)
    harness.wait_until_idle()
    harness.make_manager().refresh_due()
    require_finished(harness, grant, token)


def test_a_revocation_during_another_one_confirms_it_once(harness: Harness) -> None:
    grant = harness.authorize()
    token = pair_of(harness, grant)
    gate: Any = Gate(holds_request=True)
    harness.banks.respond_next(gate, kind="revoke")
    revoking = harness.in_thread(lambda: harness.manager.revoke(grant))
    gate.wait()
    assert harness.make_manager().refresh_due() == Report(revoked=1)
    gate.open()
    revoking.result(TIMEOUT)
    require_finished(harness, grant, token)
