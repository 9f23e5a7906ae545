"""The state of a grant after each outcome of a refresh, at strict, lenient and odd banks."""

from __future__ import annotations

import contextlib
from datetime import timedelta
from typing import Any

import httpx
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
    TARGET,
    TIMEOUT,
    Execute,
    Gate,
    Harness,
    Responder,
    bank_response,
    connection_refused,
    request_lost,
    response_lost,
    status_response,
    wait_until,
    with_members,
)

HOLD = TargetProfile(after_uncertainty=AfterUncertainty.HOLD)
ADVISORY = DAY - 1800


def get_error(harness: Harness, grant: Grant, *, manager: TokenManager | None = None) -> BlinkError:
    """Return the error that `get` raises."""
    with pytest.raises(BlinkError) as caught:
        (manager or harness.manager).get(grant)
    return caught.value


def start_background_refresh(harness: Harness, grant: Grant) -> None:
    """Advance to the advisory window, and start a refresh in the background."""
    harness.manager.get(grant)
    harness.advance(ADVISORY)
    harness.manager.get(grant)
    harness.wait_until_idle()


# Not executed


def test_a_request_that_was_not_executed_leaves_the_grant_unchanged(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(connection_refused)
    error = get_error(harness, grant)
    assert isinstance(error, NotConnectedError)
    record = harness.record(grant)
    assert (record.state, record.attempts, record.lease_left) == (State.ACTIVE, 0, 0)
    assert record.error == "NotConnectedError"
    assert record.pause_left > 0
    harness.advance(record.pause_left + 0.1)
    assert harness.manager.get(grant)
    assert harness.record(grant).error is None
    harness.allowed_replays = 1


def test_a_refusal_by_the_platform_counts_as_not_executed(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(status_response(403, source="PLATFORM"))
    assert get_error(harness, grant).outcome is Outcome.NOT_EXECUTED
    assert harness.record(grant).attempts == 0
    assert harness.event_names()[-1] is EventName.FAILED


def test_a_request_that_could_outlast_the_lease_is_not_sent(harness: Harness) -> None:
    grant = harness.expired_grant()
    claim = harness.memory.claim

    def slow_claim(*args: Any, **options: Any) -> Any:
        harness.clock.elapse(20)
        return claim(*args, **options)

    harness.faulty.replacements["claim"] = slow_claim
    error = get_error(harness, grant)
    assert isinstance(error, RefreshPendingError)
    assert harness.banks.presented() == []
    assert set(harness.event_names()[1:]) == {EventName.ABANDONED}
    record = harness.record(grant)
    assert (record.state, record.attempts, record.lease_left) == (State.ACTIVE, 0, 0)
    harness.faulty.replacements.clear()
    assert harness.manager.get(grant)


# Rejected


def test_a_refused_refresh_token_needs_consent_and_is_never_presented_again(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))
    error = get_error(harness, grant)
    assert isinstance(error, InvalidGrantError)
    assert error.needs_consent
    assert harness.record(grant).state is State.NEEDS_CONSENT
    for _ in range(3):
        harness.advance(120)
        assert isinstance(get_error(harness, grant), ConsentNeededError)
    assert len(harness.banks.presented()) == 1
    assert harness.event_names()[-1] is EventName.CONSENT_NEEDED


def test_the_access_token_is_served_until_it_expires_although_consent_is_needed(
    harness: Harness,
) -> None:
    grant = harness.authorize()
    token = harness.manager.get(grant)
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))
    start_background_refresh(harness, grant)
    assert harness.record(grant).state is State.NEEDS_CONSENT
    assert harness.record(grant).token == token
    assert harness.manager.get(grant) == token
    harness.advance(1700)
    assert harness.manager.get(grant) == token
    harness.advance(101)
    assert isinstance(get_error(harness, grant), ConsentNeededError)


def test_a_grant_that_the_bank_ended_by_a_second_consent_needs_consent(harness: Harness) -> None:
    harness.banks.set_policy(one_token_per_contract=True)
    grant = harness.expired_grant()
    code = harness.banks.issue_code(grant)
    harness.banks.bank().exchange_code(CLIENT_ID, code, REDIRECT_URI, grant.username)
    assert get_error(harness, grant).needs_consent


def test_after_a_new_consent_the_grant_is_active_again(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))
    get_error(harness, grant)
    harness.authorize()
    assert harness.manager.get(grant) == harness.record(grant).token
    assert harness.record(grant).state is State.ACTIVE


def test_a_refusal_for_another_reason_spends_nothing_and_a_later_refresh_succeeds(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(status_response(400, {"error": "invalid_scope"}))
    error = get_error(harness, grant)
    assert isinstance(error, OAuthError)
    assert not error.needs_consent
    assert harness.record(grant).attempts == 0
    harness.advance(0.7)
    assert isinstance(get_error(harness, grant), OAuthError)
    harness.advance(0.3)
    assert harness.manager.get(grant)
    harness.allowed_replays = 1


DEAD_WORDS = [
    "consent_required",
    "interaction_required",
    "login_required",
    "invalid_token",
    "expired_token",
]


@pytest.mark.parametrize(
    "responder",
    [
        *[status_response(400, {"error": word}) for word in DEAD_WORDS],
        status_response(401, {"error": "LOGIN_REQUIRED"}),
        status_response(403, {"type": "/problems/CONSENT_REQUIRED", "title": "No"}),
        status_response(401, {"tppMessages": [{"category": "ERROR", "code": "CONSENT_EXPIRED"}]}),
        status_response(403, {"Errors": [{"ErrorCode": "UK.OBIE.Reauthenticate"}]}),
        status_response(400, {"error": {"code": "invalid_grant"}}),
    ],
    ids=[*DEAD_WORDS, "upper-case", "problem", "Berlin-Group", "Open-Banking", "nested"],
)
def test_a_grant_that_is_refused_in_other_words_needs_consent(
    harness: Harness, responder: Responder
) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_always(responder)
    assert get_error(harness, grant).needs_consent
    harness.advance(120)
    assert isinstance(get_error(harness, grant), ConsentNeededError)
    assert harness.record(grant).state is State.NEEDS_CONSENT
    assert EventName.CONSENT_NEEDED in harness.event_names()
    assert len(harness.banks.presented()) == 1


def test_a_pair_of_the_journal_is_salvaged_after_a_refusal_in_other_words(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(status=400, error="login_required"))
    token = harness.manager.get(grant)
    assert harness.banks.accepts(grant, token)
    assert EventName.SALVAGED in harness.event_names()


# Refused for more than a day

BARE_REFUSAL = status_response(400)


def refused_for_days(
    harness: Harness, days: float = 3.0, responder: Responder = BARE_REFUSAL
) -> Grant:
    """Let the bank refuse an expired grant for days, while a caller asks every ten minutes."""
    grant = harness.expired_grant()
    harness.banks.respond_always(responder)
    end = harness.clock.seconds + days * DAY
    while harness.clock.seconds < end:
        assert not get_error(harness, grant).needs_consent
        harness.advance(600)
    harness.allowed_replays = 10_000
    return grant


@pytest.mark.parametrize(
    "responder",
    [
        BARE_REFUSAL,
        status_response(404, b"<html>"),
        status_response(401, {"error": "invalid_client"}),
        status_response(400, {"type": "/problems/INVALID_PAYLOAD", "title": "No"}),
    ],
    ids=["bare-400", "404-with-html", "invalid-client", "problem"],
)
def test_a_grant_that_is_refused_for_more_than_a_day_needs_attention(
    harness: Harness, responder: Responder
) -> None:
    grant = refused_for_days(harness, responder=responder)
    assert harness.manager.status(grant).state is State.NEEDS_ATTENTION
    assert harness.record(grant).state is State.ACTIVE
    names = harness.event_names()
    assert names.count(EventName.ATTENTION_NEEDED) == 1
    harness.advance(harness.record(grant).pause_left)
    get_error(harness, grant)
    harness.advance(61)
    error = get_error(harness, grant)
    assert isinstance(error, RefreshPausedError)
    assert "A person must find the cause" in str(error)
    # The pauses have grown from a second to hours.
    assert error.retry_after is not None
    assert error.retry_after > 2 * 3600


def test_while_a_grant_needs_attention_its_refresh_token_is_presented_a_few_times_a_day(
    harness: Harness,
) -> None:
    refused_for_days(harness, 2)
    before = len(harness.banks.presented())
    harness.banks.respond_always(BARE_REFUSAL)
    for _ in range(10 * 24):
        with contextlib.suppress(BlinkError):
            harness.manager.get(Grant(TARGET, "u-4711"))
        harness.advance(3600)
    assert len(harness.banks.presented()) - before <= 10 * 6


def test_refusals_of_one_day_need_no_attention(harness: Harness) -> None:
    grant = refused_for_days(harness, 0.9)
    assert harness.manager.status(grant).state is State.ACTIVE
    assert EventName.ATTENTION_NEEDED not in harness.event_names()


@pytest.mark.parametrize("how", ["refresh", "consent"])
def test_a_new_pair_ends_the_attention(harness: Harness, how: str) -> None:
    grant = refused_for_days(harness)
    harness.banks.respond_always(bank_response)
    if how == "consent":
        harness.authorize()
    else:
        harness.advance(6 * 3600 + 61)
        harness.manager.get(grant)
    assert harness.manager.status(grant).state is State.ACTIVE
    assert (harness.record(grant).refusals, harness.record(grant).refused_since) == (0, None)
    # The count begins anew, with short pauses and, in the end, another event.
    harness.advance(DAY + 1)
    harness.banks.respond_next(BARE_REFUSAL)
    get_error(harness, grant)
    assert harness.record(grant).refusals == 1
    assert harness.record(grant).pause_left < 2


@pytest.mark.parametrize(
    "responder",
    [connection_refused, status_response(503, source="PLATFORM"), status_response(429)],
    ids=["no-connection", "platform-unavailable", "rate-limited"],
)
def test_failures_in_front_of_the_bank_neither_count_nor_reset_the_refusals(
    harness: Harness, responder: Responder
) -> None:
    grant = refused_for_days(harness, 0.5)
    before = (harness.record(grant).refusals, harness.record(grant).refused_since)
    harness.banks.respond_always(responder)
    for _ in range(300):
        get_error(harness, grant)
        harness.advance(600)
    assert (harness.record(grant).refusals, harness.record(grant).refused_since) == before
    assert harness.manager.status(grant).state is State.ACTIVE
    harness.banks.respond_always(BARE_REFUSAL)
    harness.advance(61)
    get_error(harness, grant)
    assert harness.manager.status(grant).state is State.NEEDS_ATTENTION


def test_while_a_grant_needs_attention_a_valid_access_token_is_served(harness: Harness) -> None:
    harness.banks.set_policy(access_token_lifetime=10 * DAY)
    harness.make_manager(profile=TargetProfile(advisory=9 * DAY))
    grant = harness.authorize()
    token = harness.manager.get(grant)
    harness.banks.respond_always(BARE_REFUSAL)
    for _ in range(9 * 24):
        harness.advance(3600)
        assert harness.manager.get(grant) == token
    assert harness.manager.status(grant).state is State.NEEDS_ATTENTION
    assert harness.manager.status(grant).usable
    harness.allowed_replays = 10_000


def test_refresh_due_counts_a_grant_that_needs_attention(harness: Harness) -> None:
    grant = refused_for_days(harness)
    harness.advance(6 * 3600 + 61)
    report = harness.manager.refresh_due(within=timedelta(days=30))
    assert (report.due, report.attention_needed, report.failed) == (1, 1, 0)
    assert next(iter(harness.manager.statuses())).state is State.NEEDS_ATTENTION
    assert not harness.manager.status(grant).needs_consent


# Uncertain


LOSSES: dict[str, tuple[Responder, type[BlinkError]]] = {
    "the response": (response_lost, ConnectionLostError),
    "the request": (request_lost, TimedOutError),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_a_lost_request_or_response_is_stored_as_uncertain(harness: Harness, loss: str) -> None:
    responder, kind = LOSSES[loss]
    grant = harness.expired_grant()
    harness.banks.respond_next(responder)
    error = get_error(harness, grant)
    assert type(error) is kind
    assert error.outcome is Outcome.UNCERTAIN
    record = harness.record(grant)
    assert (record.state, record.attempts) == (State.UNCERTAIN, 1)
    assert record.pause_left >= 25
    assert harness.event_names()[-1] is EventName.UNCERTAIN


@pytest.mark.parametrize("loss", LOSSES)
def test_after_the_lease_a_replay_makes_the_grant_active_again(harness: Harness, loss: str) -> None:
    harness.banks.set_policy(replay_window=60.0)
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.banks.respond_next(LOSSES[loss][0])
    start_background_refresh(harness, grant)
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


@pytest.mark.parametrize("source", ["PLATFORM", "PROVIDER"])
def test_a_406_after_the_execution_is_uncertain_and_its_replay_returns_the_pair(
    harness: Harness, source: str
) -> None:
    def not_acceptable(execute: Execute) -> httpx.Response:
        execute()
        return status_response(406, source=source)(execute)

    harness.banks.set_policy(replay_window=60.0)
    grant = harness.expired_grant()
    harness.banks.respond_next(not_acceptable)
    assert get_error(harness, grant).outcome is Outcome.UNCERTAIN
    record = harness.record(grant)
    assert (record.state, record.attempts) == (State.UNCERTAIN, 1)
    harness.advance(record.pause_left + 0.1)
    assert harness.banks.accepts(grant, harness.manager.get(grant))
    assert len(harness.banks.presented()) == 2
    harness.allowed_replays = 1


def test_at_a_strict_bank_consent_is_needed_after_a_replay(harness: Harness) -> None:
    grant = harness.authorize()
    harness.banks.respond_next(response_lost)
    start_background_refresh(harness, grant)
    harness.advance(30)
    assert harness.record(grant).state is State.NEEDS_CONSENT
    assert harness.banks.bank().reuses == 1
    harness.advance(DAY)
    assert isinstance(get_error(harness, grant), ConsentNeededError)
    assert len(harness.banks.presented()) == 2
    harness.allowed_replays = 1


def test_after_a_third_uncertain_outcome_the_refresh_token_is_not_presented_again(
    harness: Harness,
) -> None:
    grant = harness.authorize()
    harness.banks.respond_next(request_lost, request_lost, request_lost)
    start_background_refresh(harness, grant)
    harness.advance(60)
    record = harness.record(grant)
    assert (record.state, record.attempts) == (State.UNCERTAIN, 2)
    # While the access token is valid, the refresh token is not presented again.
    harness.manager.get(grant)
    harness.wait_until_idle()
    assert len(harness.banks.presented()) == 2
    harness.advance(DAY)
    assert isinstance(get_error(harness, grant), TimedOutError)
    harness.advance(60)
    for _ in range(3):
        error = get_error(harness, grant)
        assert isinstance(error, RefreshUncertainError)
        assert error.needs_consent
        assert error.outcome is Outcome.UNCERTAIN
        harness.advance(3600)
    other = harness.make_manager()
    assert isinstance(get_error(harness, grant, manager=other), RefreshUncertainError)
    assert len(harness.banks.presented()) == 3
    harness.allowed_replays = 2


def twice_uncertain(harness: Harness) -> Grant:
    """Lose two requests of a grant whose access token has expired."""
    grant = harness.expired_grant()
    harness.banks.respond_next(request_lost, request_lost)
    get_error(harness, grant)
    harness.advance(30)
    assert harness.record(grant).attempts == 2
    harness.allowed_replays = 2
    return grant


def test_after_two_uncertain_outcomes_callers_are_told_when_the_last_attempt_is_made(
    harness: Harness,
) -> None:
    grant = twice_uncertain(harness)
    harness.advance(60)
    error = get_error(harness, grant)
    assert isinstance(error, RefreshUncertainError)
    assert not error.needs_consent
    assert error.retry_after is not None
    assert 3500 < error.retry_after < 3600
    harness.advance(error.retry_after - 1)
    assert isinstance(get_error(harness, grant), RefreshUncertainError)
    harness.advance(61)
    assert harness.manager.get(grant)
    assert harness.event_names()[-2:] == [EventName.REPLAYED, EventName.REFRESHED]


def answer_other(harness: Harness, responder: Responder) -> None:
    """Let the bank respond to a code exchange of another grant."""
    with contextlib.suppress(BlinkError):
        harness.authorize("u-other", responder=responder)


@pytest.mark.parametrize(
    ("responder", "attempt"),
    [
        (bank_response, True),
        (status_response(400, {"error": "invalid_request"}), True),
        (status_response(400, source="PLATFORM"), False),
        (status_response(503, source="PLATFORM"), False),
        (status_response(429), False),
        (status_response(500), False),
        (connection_refused, False),
    ],
    ids=[
        "success",
        "rejected-by-the-bank",
        "rejected-by-the-platform",
        "platform-unavailable",
        "rate-limited",
        "uncertain",
        "no-connection",
    ],
)
def test_once_the_bank_responds_to_another_grant_the_last_attempt_is_made(
    harness: Harness, responder: Responder, attempt: bool
) -> None:
    grant = twice_uncertain(harness)
    harness.advance(70)
    answer_other(harness, responder)
    presented = len(harness.banks.presented())
    if attempt:
        assert harness.manager.get(grant)
        assert harness.record(grant).state is State.ACTIVE
    else:
        assert isinstance(get_error(harness, grant), RefreshUncertainError)
    assert len(harness.banks.presented()) - presented == attempt


def test_a_bank_that_responded_only_before_the_second_outcome_is_not_asked(
    harness: Harness,
) -> None:
    harness.authorize("u-other")
    grant = twice_uncertain(harness)
    harness.advance(61)
    assert isinstance(get_error(harness, grant), RefreshUncertainError)


def test_the_last_attempt_of_a_spent_refresh_token_ends_with_a_consent(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(response_lost, request_lost)
    get_error(harness, grant)
    harness.advance(3700)
    error = get_error(harness, grant)
    assert isinstance(error, InvalidGrantError)
    assert harness.record(grant).state is State.NEEDS_CONSENT
    harness.allowed_replays = 2


@pytest.mark.parametrize(
    "profile", [TargetProfile(last_attempt=False), HOLD], ids=["no-last-attempt", "hold"]
)
def test_a_profile_can_forbid_the_last_attempt(harness: Harness, profile: TargetProfile) -> None:
    manager = harness.make_manager(profile=profile)
    grant = harness.expired_grant()
    harness.banks.respond_next(request_lost, request_lost)
    get_error(harness, grant)
    harness.advance(120)
    with contextlib.suppress(BlinkError):
        manager.get(grant)
    harness.advance(2 * DAY)
    error = get_error(harness, grant)
    assert isinstance(error, RefreshUncertainError)
    assert error.needs_consent
    assert manager.refresh_due(within=timedelta(days=30)).due == 0
    assert len(harness.banks.presented()) == 2
    harness.allowed_replays = 1


def test_an_outage_of_the_platform_costs_no_consent(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_always(status_response(503, source="PLATFORM", Retry_After="600"))
    for _ in range(6):
        error = get_error(harness, grant)
        assert not error.needs_consent
        assert error.outcome is Outcome.NOT_EXECUTED
        harness.advance(600)
    assert (harness.record(grant).state, harness.record(grant).attempts) == (State.ACTIVE, 0)
    harness.banks.respond_always(bank_response)
    assert harness.manager.get(grant)
    harness.allowed_replays = 9


@pytest.mark.parametrize("status", [502, 503, 504])
def test_an_outage_of_the_bank_of_some_hours_costs_no_consent(
    harness: Harness, status: int
) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_always(status_response(status))
    get_error(harness, grant)
    harness.advance(60)
    for _ in range(2):
        error = get_error(harness, grant)
        assert not error.needs_consent
        harness.advance(60)
    harness.banks.respond_always(bank_response)
    harness.advance(4 * 3600)
    assert harness.manager.get(grant)
    harness.allowed_replays = 2


def test_refresh_due_makes_the_last_attempt_of_a_grant_that_nobody_asks_for(
    harness: Harness,
) -> None:
    grant = twice_uncertain(harness)
    month = timedelta(days=30)
    writes = harness.record(grant).updated_at
    for _ in range(3):
        assert harness.manager.refresh_due(within=month, dry_run=True).due == 0
        assert harness.manager.refresh_due(within=month).due == 0
    assert harness.record(grant).updated_at == writes
    harness.advance(3600)
    assert harness.manager.refresh_due(within=month, dry_run=True).due == 1
    report = harness.manager.refresh_due(within=month)
    assert (report.due, report.refreshed) == (1, 1)
    assert harness.record(grant).state is State.ACTIVE


def test_refresh_due_makes_many_last_attempts_each_once(harness: Harness) -> None:
    month = timedelta(days=30)
    grants = [harness.authorize(f"u-{number}") for number in range(5)]
    harness.advance(DAY + 1)
    for grant in grants:
        for number in range(2):
            claim = harness.memory.claim(harness.record(grant), owner=f"killed {number}", ttl=25)
            assert claim is not None
            harness.clock.elapse(26)
    harness.advance(3600)
    assert harness.manager.refresh_due(within=month, limit=2, concurrency=1).due == 2
    harness.banks.respond_next(request_lost)
    report = harness.manager.refresh_due(within=month, concurrency=2)
    assert (report.due, report.refreshed, report.uncertain) == (3, 2, 1)
    assert harness.manager.refresh_due(within=month).due == 0
    assert len(harness.banks.presented()) == 5


def test_refresh_due_makes_last_attempts_at_the_rate_of_the_target(harness: Harness) -> None:
    manager = harness.make_manager(profiles={TARGET: TargetProfile(rate=0.5)})
    grants = [harness.authorize(f"u-{number}") for number in range(3)]
    harness.advance(DAY + 1)
    for grant in grants:
        for number in range(2):
            assert harness.memory.claim(harness.record(grant), owner=f"killed {number}", ttl=25)
            harness.clock.elapse(26)
    harness.advance(3600)
    began = harness.clock.monotonic()
    assert manager.refresh_due(within=timedelta(days=30)).refreshed == 3
    assert harness.clock.monotonic() - began >= 4


def test_refresh_due_makes_no_last_attempt_at_a_bank_that_fails(harness: Harness) -> None:
    twice_uncertain(harness)
    harness.advance(3600)
    harness.open_breaker()
    assert harness.manager.refresh_due(within=timedelta(days=30)).due == 0
    harness.advance(60)
    assert harness.manager.refresh_due(within=timedelta(days=30)).refreshed == 1


def test_before_the_replay_callers_get_an_error(harness: Harness) -> None:
    harness.banks.set_policy(replay_window=60.0)
    grant = harness.expired_grant()
    harness.banks.respond_next(response_lost)
    assert isinstance(get_error(harness, grant), ConnectionLostError)
    harness.advance(5)
    # This process has the failure in its cache; the other one reads it from the store.
    assert isinstance(get_error(harness, grant), ConnectionLostError)
    error = get_error(harness, grant, manager=harness.make_manager())
    assert isinstance(error, RefreshPausedError)
    assert error.retry_after is not None
    assert 15 < error.retry_after < 30
    harness.advance(25)
    assert harness.manager.get(grant)
    harness.allowed_replays = 1


def test_after_a_503_no_replay_is_scheduled(harness: Harness) -> None:
    grant = harness.authorize()
    harness.banks.respond_next(status_response(503))
    start_background_refresh(harness, grant)
    harness.advance(300)
    assert len(harness.banks.presented()) == 1
    harness.manager.get(grant)
    harness.wait_until_idle()
    assert harness.record(grant).generation == 2
    harness.allowed_replays = 1


def test_the_policy_hold_replays_when_the_access_token_is_about_to_expire(harness: Harness) -> None:
    harness.make_manager(profile=HOLD)
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.banks.respond_next(request_lost)
    start_background_refresh(harness, grant)
    for _ in range(5):
        harness.advance(300)
        assert harness.manager.get(grant) == old
        harness.wait_until_idle()
    assert len(harness.banks.presented()) == 1
    harness.advance(260)
    assert harness.manager.get(grant) != old
    assert len(harness.banks.presented()) == 2
    harness.allowed_replays = 1


def test_at_a_bank_that_never_rotates_the_replays_are_limited_by_pauses_only(
    harness: Harness,
) -> None:
    harness.banks.set_policy(rotates=False)
    harness.make_manager(profile=TargetProfile(rotates=False))
    grant = harness.expired_grant()
    harness.banks.respond_next(*[response_lost] * 4)
    assert isinstance(get_error(harness, grant), ConnectionLostError)
    harness.advance(300)
    record = harness.record(grant)
    assert (record.state, record.generation) == (State.ACTIVE, 2)
    assert record.token is not None
    assert len(harness.banks.presented()) == 5
    assert harness.manager.get(grant) == record.token
    harness.allowed_replays = 4


def test_after_its_lease_the_attempt_of_a_crashed_owner_is_replayed(harness: Harness) -> None:
    harness.banks.set_policy(replay_window=60.0)
    grant = harness.expired_grant()
    assert harness.memory.claim(harness.record(grant), owner="crashed owner", ttl=25)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    wait_until(lambda: harness.waiting() == 1)
    harness.advance(24)
    assert not caller.done()
    assert harness.banks.presented() == []
    harness.advance(2)
    assert caller.result(TIMEOUT)
    assert len(harness.banks.presented()) == 1
    assert EventName.REPLAYED in harness.event_names()


def test_a_caller_that_waits_for_the_lease_of_another_owner_times_out_and_sends_nothing(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    held = evolve(harness.record(grant), state=State.REFRESHING, attempts=1, lease_left=20.0)
    harness.faulty.replacements["load"] = lambda key: held
    caller = harness.in_thread(lambda: get_error(harness, grant))
    wait_until(lambda: harness.waiting() == 1)
    harness.advance(29.5)
    assert not caller.done()
    harness.advance(1)
    error = caller.result(TIMEOUT)
    assert isinstance(error, RefreshPendingError)
    assert (error.retry_after, error.retryable) == (20.0, True)
    assert harness.banks.presented() == []


# Odd responses


def test_a_pair_in_an_error_response_is_settled_if_the_outcome_is_uncertain(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(status=500))
    token = harness.manager.get(grant)
    assert harness.banks.accepts(grant, token)
    record = harness.record(grant)
    assert (record.state, record.generation) == (State.ACTIVE, 2)
    assert harness.event_names()[-1] is EventName.REFRESHED


def test_a_pair_in_a_clear_refusal_is_journaled(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(status=400, error="invalid_request"))
    error = get_error(harness, grant)
    assert error.token is not None
    (entry,) = harness.memory.journal_entries(harness.key(grant))
    assert entry.origin is Origin.ERROR
    assert entry.token.refresh_token == error.token.refresh_token
    assert harness.record(grant).generation == 1


def test_a_pair_in_a_refusal_of_the_refresh_token_is_salvaged_at_once(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(status=400, error="invalid_grant"))
    token = harness.manager.get(grant)
    assert harness.banks.accepts(grant, token)
    assert len(harness.banks.presented()) == 2
    assert harness.record(grant).generation == 3
    assert EventName.SALVAGED in harness.event_names()


def test_an_access_token_without_a_refresh_token_in_an_error_response_is_dropped(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(status=500, refresh_token=None))
    error = get_error(harness, grant)
    assert error.outcome is Outcome.UNCERTAIN
    assert harness.record(grant).state is State.UNCERTAIN
    assert harness.memory.journal_entries(harness.key(grant)) == ()
    # The replay is made a second later.
    harness.allowed_replays = 1


def test_an_unreadable_new_refresh_token_makes_the_old_one_uncertain(harness: Harness) -> None:
    grant = harness.expired_grant()
    before = harness.record(grant).token
    assert before is not None
    harness.banks.respond_next(with_members(refresh_token=["fake"]))
    token = harness.manager.get(grant)
    assert Oddity.REFRESH_TOKEN_UNUSABLE in token.oddities
    record = harness.record(grant)
    assert (record.state, record.attempts, record.generation) == (State.UNCERTAIN, 1, 2)
    assert token.refresh_token == before.refresh_token
    # The refresh token, which may be spent, is presented only when the access token expires.
    harness.advance(60)
    assert harness.manager.get(grant) == token
    harness.advance(DAY)
    assert get_error(harness, grant).needs_consent
    assert len(harness.banks.presented()) == 2
    harness.allowed_replays = 1


def test_a_pair_with_an_invalid_lifetime_is_stored(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(expires_in="soon"))
    token = harness.manager.get(grant)
    assert token.expires_at is None
    assert harness.record(grant).token == token


# Late pairs


def superseded(harness: Harness) -> tuple[Grant, Token]:
    """Let a refresh outlast its lease while another owner stores a pair.

    The bank executes the late request last.
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


def test_a_late_pair_is_journaled_and_the_stored_one_served(harness: Harness) -> None:
    grant, stored = superseded(harness)
    (entry,) = harness.memory.journal_entries(harness.key(grant))
    assert entry.origin is Origin.SUPERSEDED
    assert entry.token.access_token != stored.access_token
    assert harness.record(grant).token == harness.manager.get(grant)
    assert EventName.SUPERSEDED in harness.event_names()


def test_a_superseded_pair_is_salvaged_when_the_stored_one_is_refused(harness: Harness) -> None:
    grant, stored = superseded(harness)
    assert stored.refresh_token is not None
    # Make the bank refuse the stored refresh token, so that only the late pair is usable.
    assert harness.banks.bank().expire(stored.refresh_token.reveal())
    harness.advance(DAY + 1)
    token = harness.manager.get(grant)
    assert harness.banks.accepts(grant, token)
    record = harness.record(grant)
    assert (record.state, record.token) == (State.ACTIVE, token)
    assert EventName.SALVAGED in harness.event_names()
    origins = [entry.origin for entry in harness.memory.journal_entries(harness.key(grant))]
    assert origins == [Origin.REFUSED]


def test_after_every_pair_is_refused_consent_is_needed(harness: Harness) -> None:
    grant, _ = superseded(harness)
    harness.banks.bank().withdraw(CLIENT_ID, grant.username)
    harness.advance(DAY + 1)
    assert get_error(harness, grant).needs_consent
    assert harness.record(grant).state is State.NEEDS_CONSENT
    presented = harness.banks.presented()
    assert len(presented) == len(set(presented)) + 1


def test_a_refresh_with_a_closed_client_raises_and_spends_nothing(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.blink.close()
    error = get_error(harness, grant)
    assert isinstance(error, InvalidInputError)
    record = harness.record(grant)
    assert (record.state, record.attempts) == (State.ACTIVE, 0)
