"""What is decided about a grant, from its record, its profile and the time alone."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from attrs import evolve
from hypothesis import given
from hypothesis import strategies as st

from blink_oauth import (
    ConnectionLostError,
    Grant,
    InvalidGrantError,
    InvalidInputError,
    NotConnectedError,
    OAuthError,
    Outcome,
    ResponseMeta,
    Source,
    StatusError,
    Token,
)
from blink_oauth_keeper import (
    AfterUncertainty,
    ConsentNeededError,
    RefreshPausedError,
    RefreshUncertainError,
    TargetProfile,
    UnknownGrantError,
)
from blink_oauth_keeper.flights import answer
from blink_oauth_keeper.policy import (
    JITTER,
    LONGEST_PAUSE,
    LONGEST_RETRY_AFTER,
    POLL,
    Attempt,
    AwaitLease,
    Decision,
    Need,
    Refuse,
    Serve,
    Windows,
    backoff,
    decide,
    is_usable,
    jitter,
    pause_after,
    pending_error,
    poll_delay,
    retry_after,
    should_replay,
    windows,
)
from blink_oauth_keeper.steps import Result
from blink_oauth_keeper.store.protocol import GrantKey, Record, State
from keeper.harness import CLIENT_ID, DAY, START, TARGET

PLAIN = TargetProfile()
HOLD = TargetProfile(after_uncertainty=AfterUncertainty.HOLD)
KEEPS = TargetProfile(rotates=False)
EAGER = Need(early=True)
FORCED = Need(forced=True)
KEY = GrantKey(CLIENT_ID, Grant(TARGET, "u-4711"))


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def record(lifetime: float | None = DAY, **facts: Any) -> Record:
    """Make a record of a token that was issued at the start."""
    token = Token(
        access_token="fake-access-token",
        refresh_token="fake-refresh-token",
        expires_at=None if lifetime is None else after(lifetime),
    )
    values: dict[str, Any] = {
        "key": KEY,
        "generation": 3,
        "consent": 1,
        "state": State.ACTIVE,
        "token": token,
        "issued_at": START,
        "idle_until": after(30 * DAY),
        "updated_at": START,
    }
    return Record(**(values | facts))


def spans(known: Record, profile: TargetProfile = PLAIN) -> Windows:
    assert known.token is not None
    return windows(known, known.token, profile)


def refusal(verdict: Decision) -> Exception:
    assert isinstance(verdict, Refuse)
    return verdict.error


# When a token is fresh


def test_a_day_has_an_advisory_window_of_hours_and_a_mandatory_one_of_a_minute() -> None:
    span = spans(record())
    early = (span.expires_at - span.advisory_at).total_seconds()
    assert span.expires_at == after(DAY)
    assert span.mandatory_at == after(DAY - 60)
    assert 4 * 3600 * (1 - JITTER) <= early <= 4 * 3600


@given(
    lifetime=st.floats(0, 10 * DAY),
    advisory=st.floats(0.1, 2 * DAY),
    mandatory=st.floats(0.1, 2 * DAY),
)
def test_windows_are_at_most_half_the_lifetime_and_in_order(
    lifetime: float, advisory: float, mandatory: float
) -> None:
    span = spans(record(lifetime), TargetProfile(advisory=advisory, mandatory=mandatory))
    assert span.advisory_at <= span.mandatory_at <= span.expires_at
    assert span.advisory_at - START >= (span.expires_at - START) / 2 - timedelta(microseconds=5)


@pytest.mark.parametrize("lifetime", [1, 30, 59, 60, 61])
def test_a_token_that_lives_shorter_than_the_window_is_fresh_for_half_its_life(
    lifetime: float,
) -> None:
    known = record(lifetime)
    assert decide(known, Need(), PLAIN, after(lifetime * 0.49)) == Serve()
    assert decide(known, Need(), PLAIN, after(lifetime * 0.51)) == Attempt()


def test_a_token_that_expired_before_it_came_has_no_negative_window() -> None:
    span = spans(record(-5))
    assert span.advisory_at == span.mandatory_at == span.expires_at == after(-5)


def test_a_missing_lifetime_counts_as_the_default_of_the_profile() -> None:
    profile = TargetProfile(default_lifetime=600)
    assert spans(record(None), profile).expires_at == after(600)
    assert decide(record(None), Need(), profile, after(601)) == Attempt()


def test_the_jitter_of_a_grant_is_the_same_on_every_machine() -> None:
    # Calculated once: a restart, another process or another release must not change it.
    assert jitter(KEY) == pytest.approx(0.3103, abs=0.0001)


def test_the_jitter_tells_apart_what_differs_and_spreads_a_fleet_evenly() -> None:
    keys = [GrantKey(CLIENT_ID, Grant(TARGET, f"u-{number}")) for number in range(1000)]
    numbers = sorted(jitter(key) for key in keys)
    assert numbers[0] >= 0
    assert numbers[-1] < 1
    for tenth in range(10):
        share = sum(tenth / 10 <= number < (tenth + 1) / 10 for number in numbers)
        assert 60 < share < 140
    assert jitter(GrantKey("CIDX0000000003", KEY.grant)) != jitter(KEY)
    assert jitter(GrantKey(CLIENT_ID, Grant("IIDX00002", "u-4711"))) != jitter(KEY)


def test_the_jitter_only_shortens_the_advisory_window() -> None:
    moments = {
        spans(record(key=GrantKey(CLIENT_ID, Grant(TARGET, f"u-{number}")))).advisory_at
        for number in range(50)
    }
    assert len(moments) == 50
    assert min(moments) >= after(DAY - 4 * 3600)
    assert max(moments) <= after(DAY - 4 * 3600 * (1 - JITTER))


@pytest.mark.parametrize(
    ("facts", "need", "moment", "good"),
    [
        ({}, Need(), DAY - 0.1, True),
        ({}, Need(), DAY, False),
        ({}, Need(3600), DAY - 3601, True),
        ({}, Need(3600), DAY - 3600, False),
        ({}, Need(-5), DAY - 0.1, True),
        # More than half the lifetime cannot be wanted: a new token would not have it for long.
        ({}, Need(2 * DAY), DAY / 2 - 1, True),
        ({}, Need(2 * DAY), DAY / 2 + 1, False),
        ({}, Need(newer_than=2), 1, True),
        ({}, Need(newer_than=3), 1, False),
        ({"state": State.REVOKED}, Need(), 1, False),
        ({"state": State.NEEDS_CONSENT}, Need(), 1, True),
        ({"state": State.UNCERTAIN}, Need(), 1, True),
        ({"token": None}, Need(), 1, False),
    ],
)
def test_a_token_can_be_served_or_not(
    facts: dict[str, Any], need: Need, moment: float, good: bool
) -> None:
    assert is_usable(record(**facts), need, PLAIN, after(moment)) is good


# What to do about a grant


def test_nobody_knows_a_grant_without_a_record() -> None:
    error = refusal(decide(None, Need(), PLAIN, START))
    assert isinstance(error, UnknownGrantError)
    assert error.needs_consent


@pytest.mark.parametrize("facts", [{"state": State.REVOKED}, {"token": None}])
def test_a_revoked_grant_is_over(facts: dict[str, Any]) -> None:
    assert isinstance(refusal(decide(record(**facts), Need(), PLAIN, after(1))), ConsentNeededError)


LEASED: dict[str, Any] = {"state": State.REFRESHING, "attempts": 1, "lease_left": 9.0}
CRASHED: dict[str, Any] = {"state": State.REFRESHING, "attempts": 1}
DOUBTFUL: dict[str, Any] = {"state": State.UNCERTAIN, "attempts": 1, "error": "TimedOutError"}
SPENT: dict[str, Any] = DOUBTFUL | {"attempts": 2}
UNREADABLE: dict[str, Any] = {"state": State.UNCERTAIN, "attempts": 1}
PAUSED: dict[str, Any] = {"pause_left": 5.0, "error": "NotConnectedError"}
YOUNG, ADVISED, DUE, OVER = 10.0, DAY - 1800, DAY - 30, DAY + 1


@pytest.mark.parametrize(
    ("facts", "need", "profile", "moment", "verdict"),
    [
        ({}, Need(), PLAIN, YOUNG, Serve),
        ({}, EAGER, PLAIN, YOUNG, Serve),
        ({}, Need(), PLAIN, ADVISED, Serve),
        ({}, EAGER, PLAIN, ADVISED, Attempt),
        ({}, Need(), PLAIN, DUE, Attempt),
        ({}, Need(), PLAIN, OVER, Attempt),
        ({}, Need(7200), PLAIN, ADVISED, Attempt),
        # Somebody else holds the lease.
        (LEASED, EAGER, PLAIN, YOUNG, Serve),
        (LEASED, EAGER, PLAIN, ADVISED, Serve),
        (LEASED, Need(), PLAIN, DUE, AwaitLease),
        (LEASED, Need(), PLAIN, OVER, AwaitLease),
        # The lease has run out: its holder is gone.
        (CRASHED, Need(), PLAIN, YOUNG, Serve),
        (CRASHED, EAGER, PLAIN, YOUNG, Attempt),
        (CRASHED, Need(), PLAIN, OVER, Attempt),
        (DOUBTFUL, Need(), PLAIN, YOUNG, Serve),
        (DOUBTFUL, EAGER, PLAIN, YOUNG, Attempt),
        (DOUBTFUL, Need(), PLAIN, OVER, Attempt),
        # A doubt that no attempt can clear: the new refresh token could not be read.
        (UNREADABLE, EAGER, PLAIN, YOUNG, Serve),
        # CachedToken back until the access token is about to expire, then presented once more.
        (DOUBTFUL, EAGER, HOLD, YOUNG, Serve),
        (DOUBTFUL, EAGER, HOLD, ADVISED, Serve),
        (DOUBTFUL, Need(), HOLD, DUE, Attempt),
        (DOUBTFUL, Need(), HOLD, OVER, Attempt),
        # Never a third time, whatever the policy.
        (SPENT, EAGER, PLAIN, YOUNG, Serve),
        (SPENT, Need(), PLAIN, DUE, Serve),
        (SPENT, Need(), PLAIN, OVER, Refuse),
        (SPENT, Need(), HOLD, OVER, Refuse),
        # A bank that never rotates may be asked as often as its pauses allow.
        (SPENT, EAGER, KEEPS, YOUNG, Attempt),
        (SPENT | {"attempts": 9}, Need(), KEEPS, OVER, Attempt),
        (PAUSED, EAGER, PLAIN, ADVISED, Serve),
        (PAUSED, Need(), PLAIN, DUE, Serve),
        (PAUSED, Need(), PLAIN, OVER, Refuse),
        ({"state": State.NEEDS_CONSENT}, EAGER, PLAIN, ADVISED, Serve),
        ({"state": State.NEEDS_CONSENT}, Need(), PLAIN, DUE, Serve),
        ({"state": State.NEEDS_CONSENT}, Need(), PLAIN, OVER, Refuse),
        # However good the token is: what stands in the way of a refresh is said.
        ({}, FORCED, PLAIN, YOUNG, Attempt),
        (LEASED, FORCED, PLAIN, YOUNG, AwaitLease),
        (CRASHED, FORCED, PLAIN, YOUNG, Attempt),
        (DOUBTFUL, FORCED, PLAIN, YOUNG, Attempt),
        (DOUBTFUL, FORCED, HOLD, YOUNG, Refuse),
        (DOUBTFUL, FORCED, HOLD, DUE, Attempt),
        (SPENT, FORCED, PLAIN, YOUNG, Refuse),
        (SPENT, FORCED, KEEPS, YOUNG, Attempt),
        (PAUSED, FORCED, PLAIN, YOUNG, Refuse),
        ({"state": State.NEEDS_CONSENT}, FORCED, PLAIN, YOUNG, Refuse),
        ({"state": State.REVOKED}, FORCED, PLAIN, YOUNG, Refuse),
    ],
)
def test_a_grant_is_judged(
    facts: dict[str, Any],
    need: Need,
    profile: TargetProfile,
    moment: float,
    verdict: type[Decision],
) -> None:
    assert type(decide(record(**facts), need, profile, after(moment))) is verdict


def test_a_failing_target_is_left_alone_and_the_valid_token_served() -> None:
    assert decide(record(), EAGER, PLAIN, after(ADVISED), hold_off=3) == Serve()
    error = refusal(decide(record(), Need(), PLAIN, after(OVER), hold_off=3))
    assert isinstance(error, RefreshPausedError)
    assert error.retry_after == 3
    assert error.retryable
    assert "at the same target" in str(error)


def test_the_longer_of_two_pauses_counts() -> None:
    error = refusal(decide(record(**PAUSED), Need(), PLAIN, after(OVER), hold_off=3))
    assert isinstance(error, RefreshPausedError)
    assert error.retry_after == 5
    assert "NotConnectedError" in str(error)


def test_without_a_refresh_token_only_the_customer_can_help() -> None:
    known = record()
    assert known.token is not None
    lone = evolve(known, token=evolve(known.token, refresh_token=None))
    assert decide(lone, Need(), PLAIN, after(DUE)) == Serve()
    assert isinstance(refusal(decide(lone, Need(), PLAIN, after(OVER))), ConsentNeededError)


def test_a_refusal_says_why_and_names_the_call() -> None:
    facts: dict[str, Any] = {
        "state": State.NEEDS_CONSENT,
        "error": "InvalidGrantError",
        "correlation_id": "c-9",
    }
    error = refusal(decide(record(**facts), Need(), PLAIN, after(OVER)))
    assert isinstance(error, ConsentNeededError)
    assert "InvalidGrantError" in str(error)
    assert error.correlation_id == "c-9"


def test_doubt_that_is_final_says_so() -> None:
    error = refusal(decide(record(**SPENT), Need(), PLAIN, after(OVER)))
    assert isinstance(error, RefreshUncertainError)
    assert (error.needs_consent, error.outcome) == (True, Outcome.UNCERTAIN)


def test_a_token_that_was_refused_elsewhere_ends_the_holding_back() -> None:
    assert decide(record(**DOUBTFUL), Need(newer_than=3), HOLD, after(YOUNG)) == Attempt()


def test_whoever_waited_long_enough_is_told_when_to_come_back() -> None:
    error = pending_error(record(**LEASED))
    assert (error.retry_after, error.retryable) == (9.0, True)
    assert pending_error(record()).retry_after is None


# What those get who waited


def test_what_a_flight_brought_is_served_however_short_it_lives() -> None:
    brought = Result(record(lifetime=0), obtained=True)
    assert answer(brought, Need(), PLAIN, after(5)) == record(lifetime=0).token
    found = Result(record(lifetime=0))
    assert answer(found, Need(), PLAIN, after(5)) is None


def test_what_a_flight_brought_is_not_served_if_it_was_refused_meanwhile() -> None:
    brought = Result(record(), obtained=True)
    assert answer(brought, Need(newer_than=2), PLAIN, after(5)) is not None
    assert answer(brought, Need(newer_than=3), PLAIN, after(5)) is None


def test_a_token_that_is_still_good_is_served_whatever_went_wrong() -> None:
    failed = Result(record(), NotConnectedError("Down."))
    assert answer(failed, Need(), PLAIN, after(DUE)) is not None
    with pytest.raises(NotConnectedError):
        answer(failed, Need(), PLAIN, after(OVER))


def test_who_forced_a_refresh_gets_only_what_came_meanwhile() -> None:
    assert answer(Result(record()), FORCED, PLAIN, after(5)) is None
    assert answer(Result(record(), newer=True), FORCED, PLAIN, after(5)) is not None
    assert answer(Result(record(), obtained=True), FORCED, PLAIN, after(5)) is not None
    with pytest.raises(NotConnectedError):
        answer(Result(record(), NotConnectedError("Down.")), FORCED, PLAIN, after(5))


# How long to wait


def test_pauses_double_up_to_a_minute_and_half_of_each_is_spread() -> None:
    assert [backoff(failures, 1) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [backoff(failures, 0) for failures in (1, 2, 10_000)] == [0.5, 1, 30]


def test_looks_at_what_others_do_become_rarer_but_never_rare() -> None:
    assert [poll_delay(look, 0.5) for look in range(5)] == [0.05, 0.1, 0.2, 0.25, 0.25]
    assert poll_delay(0, 0) == pytest.approx(0.0375)
    assert poll_delay(10_000, 1) == pytest.approx(POLL[1] * 1.25)


def meta(status: int, wait: float | None = None) -> ResponseMeta:
    return ResponseMeta(
        status=status,
        correlation_id="c-1",
        echoed=True,
        source=Source.PROVIDER,
        language=None,
        cache_rules_held=True,
        retry_after=wait,
    )


def status(code: int, outcome: Outcome, wait: float | None = None, **facts: Any) -> StatusError:
    return StatusError("Failed.", status=code, outcome=outcome, meta=meta(code, wait), **facts)


def pause(error: Any, *, failures: int = 1, lease_left: float = 20.0) -> float:
    return pause_after(error, failures=failures, spread=0.5, lease_left=lease_left)


def test_what_was_not_executed_pauses_by_backoff_alone() -> None:
    assert pause(NotConnectedError("Down.")) == 0.75
    assert pause(NotConnectedError("Down."), failures=4) == 6


def test_an_uncertain_outcome_pauses_until_the_lease_is_over() -> None:
    assert pause(ConnectionLostError("Gone.")) == pytest.approx(21)
    assert pause(ConnectionLostError("Gone."), lease_left=0) == 0.75


def test_a_server_that_asks_for_time_gets_it_within_reason() -> None:
    assert pause(status(429, Outcome.REJECTED, 90, retryable=True)) == 90
    assert pause(status(503, Outcome.UNCERTAIN, 300)) == 300
    assert pause(status(503, Outcome.UNCERTAIN, 1e9)) == LONGEST_RETRY_AFTER
    assert retry_after(NotConnectedError("Down.")) is None


def test_an_unavailable_server_and_a_flat_refusal_get_a_minute() -> None:
    assert pause(status(503, Outcome.UNCERTAIN)) == LONGEST_PAUSE
    assert pause(OAuthError("No.", status=400, outcome=Outcome.REJECTED)) == LONGEST_PAUSE
    assert pause(status(502, Outcome.UNCERTAIN)) < LONGEST_PAUSE


@pytest.mark.parametrize(
    ("error", "profile", "soon"),
    [
        (ConnectionLostError("Gone."), PLAIN, True),
        (ConnectionLostError("Gone."), KEEPS, True),
        (ConnectionLostError("Gone."), HOLD, False),
        (status(502, Outcome.UNCERTAIN), PLAIN, True),
        (status(503, Outcome.UNCERTAIN), PLAIN, False),
        (status(502, Outcome.UNCERTAIN, 30), PLAIN, False),
        (NotConnectedError("Down."), PLAIN, False),
        (InvalidGrantError("No.", outcome=Outcome.REJECTED), PLAIN, False),
    ],
)
def test_only_a_lost_answer_is_worth_a_prompt_replay(
    error: Any, profile: TargetProfile, soon: bool
) -> None:
    assert should_replay(error, profile) is soon


def test_holding_back_means_nothing_at_a_bank_that_never_rotates() -> None:
    profile = TargetProfile(rotates=False, after_uncertainty=AfterUncertainty.HOLD)
    assert should_replay(ConnectionLostError("Gone."), profile)
    assert decide(record(**DOUBTFUL), EAGER, profile, after(YOUNG)) == Attempt()


# The profile


def test_a_profile_is_sensible_without_any_configuration() -> None:
    profile = TargetProfile()
    assert profile.rotates
    assert profile.after_uncertainty is AfterUncertainty.REPLAY_ONCE
    assert profile.default_lifetime < DAY
    assert profile.idle_lifetime == 30 * DAY
    assert profile.rate is None


def test_a_policy_can_be_given_as_a_word() -> None:
    words: list[Any] = ["hold", "perhaps"]
    assert TargetProfile(after_uncertainty=words[0]).after_uncertainty is AfterUncertainty.HOLD
    with pytest.raises(ValueError, match="perhaps"):
        TargetProfile(after_uncertainty=words[1])


@pytest.mark.parametrize("name", ["advisory", "mandatory", "default_lifetime", "idle_lifetime"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), "60", True, None])
def test_seconds_that_are_none_are_refused(name: str, value: Any) -> None:
    facts: dict[str, Any] = {name: value}
    with pytest.raises(InvalidInputError, match=name):
        TargetProfile(**facts)


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), "1", True])
def test_a_rate_is_a_number_above_zero_or_none(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="rate"):
        TargetProfile(rate=value)
