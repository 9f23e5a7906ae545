"""Decisions about a grant, from its record, its profile and the time."""

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
from blink_oauth_keeper.flights import token_for_caller
from blink_oauth_keeper.policy import (
    JITTER,
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
    idle_until,
    is_behind,
    is_newer,
    is_usable,
    jitter,
    needs_attention,
    pause_after,
    pending_error,
    poll_delay,
    retry_after,
    seconds_to_last_attempt,
    should_replay,
    windows,
    with_refusal,
)
from blink_oauth_keeper.steps import Result
from blink_oauth_keeper.store.protocol import GrantKey, Record, State
from keeper.harness import CLIENT_ID, DAY, START, TARGET

DEFAULTS = TargetProfile()
HOLD = TargetProfile(after_uncertainty=AfterUncertainty.HOLD)
NEVER_ROTATES = TargetProfile(rotates=False)
TWO_ATTEMPTS = TargetProfile(last_attempt=False)
EARLY = Need(early=True)
FORCED = Need(forced=True)
KEY = GrantKey(CLIENT_ID, Grant(TARGET, "u-4711"))


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def record(lifetime: float | None = DAY, **facts: Any) -> Record:
    """Make a record of a token that was issued at `START`."""
    token = Token(
        access_token="fake-access-token",
        refresh_token="fake-refresh-token",
        expires_at=None if lifetime is None else at(lifetime),
    )
    values: dict[str, Any] = {
        "key": KEY,
        "generation": 3,
        "consent": 1,
        "state": State.ACTIVE,
        "token": token,
        "issued_at": START,
        "idle_until": at(30 * DAY),
        "updated_at": START,
    }
    return Record(**(values | facts))


def windows_of(known: Record, profile: TargetProfile = DEFAULTS) -> Windows:
    return windows(known, profile)


def error_of(decision: Decision) -> Exception:
    assert isinstance(decision, Refuse)
    return decision.error


# When a token is fresh


def test_the_default_windows_are_about_four_hours_and_one_minute() -> None:
    found = windows_of(record())
    early = (found.expires_at - found.advisory_at).total_seconds()
    assert found.expires_at == at(DAY)
    assert found.mandatory_at == at(DAY - 60)
    assert 4 * 3600 * (1 - JITTER) <= early <= 4 * 3600


@given(
    lifetime=st.floats(0, 10 * DAY),
    advisory=st.floats(0.1, 2 * DAY),
    mandatory=st.floats(0.1, 2 * DAY),
)
def test_windows_are_at_most_half_the_lifetime_and_ordered(
    lifetime: float, advisory: float, mandatory: float
) -> None:
    found = windows_of(record(lifetime), TargetProfile(advisory=advisory, mandatory=mandatory))
    assert found.advisory_at <= found.mandatory_at <= found.expires_at
    assert found.advisory_at - START >= (found.expires_at - START) / 2 - timedelta(microseconds=5)


@pytest.mark.parametrize("lifetime", [1, 30, 59, 60, 61])
def test_a_short_lived_token_is_served_for_half_its_lifetime(
    lifetime: float,
) -> None:
    known = record(lifetime)
    assert decide(known, Need(), DEFAULTS, at(lifetime * 0.49)) == Serve()
    assert decide(known, Need(), DEFAULTS, at(lifetime * 0.51)) == Attempt()


def test_a_token_that_was_issued_expired_has_empty_windows() -> None:
    found = windows_of(record(-5))
    assert found.advisory_at == found.mandatory_at == found.expires_at == at(-5)


def test_without_a_lifetime_the_default_of_the_profile_applies() -> None:
    profile = TargetProfile(default_lifetime=600)
    assert windows_of(record(None), profile).expires_at == at(600)
    assert decide(record(None), Need(), profile, at(601)) == Attempt()


@pytest.mark.parametrize("lifetime", [31 * DAY + 1, 1000 * DAY, 46_000 * 365 * DAY / 10])
def test_a_stored_lifetime_that_is_implausible_is_the_default_of_the_profile(
    lifetime: float,
) -> None:
    assert windows_of(record(lifetime), DEFAULTS) == windows_of(record(None), DEFAULTS)
    assert windows_of(record(31 * DAY), DEFAULTS).expires_at == at(31 * DAY)


SEVEN_DAYS = 7 * DAY
LIFETIMES: dict[str, tuple[dict[str, object], float]] = {
    "not said": ({}, 30 * DAY),
    "a number": ({"refresh_token_expires_in": 604_800}, SEVEN_DAYS),
    "the other name": ({"refresh_expires_in": 604_800}, SEVEN_DAYS),
    "a fraction": ({"refresh_expires_in": 604_800.5}, SEVEN_DAYS + 0.5),
    "a numeric text": ({"refresh_token_expires_in": "604800"}, SEVEN_DAYS),
    "longer than the profile says": ({"refresh_expires_in": 90 * 86_400}, 90 * DAY),
    "both: the shorter": (
        {"refresh_token_expires_in": 604_800, "refresh_expires_in": 90 * 86_400},
        SEVEN_DAYS,
    ),
    "one is not usable": (
        {"refresh_token_expires_in": 0, "refresh_expires_in": 604_800},
        SEVEN_DAYS,
    ),
    "0: does not expire": ({"refresh_expires_in": 0}, 30 * DAY),
    "negative": ({"refresh_expires_in": -1}, 30 * DAY),
    "infinite": ({"refresh_expires_in": float("inf")}, 30 * DAY),
    "no number": ({"refresh_expires_in": float("nan")}, 30 * DAY),
    "absurd": ({"refresh_expires_in": 10**400}, 30 * DAY),
    "centuries": ({"refresh_expires_in": 10**11}, 30 * DAY),
    "a text": ({"refresh_expires_in": "a week"}, 30 * DAY),
    "a flag": ({"refresh_expires_in": True}, 30 * DAY),
    "a list": ({"refresh_expires_in": [604_800]}, 30 * DAY),
    "null": ({"refresh_expires_in": None}, 30 * DAY),
}


@pytest.mark.parametrize("name", LIFETIMES)
def test_the_lifetime_of_a_refresh_token_is_the_one_that_the_response_says(name: str) -> None:
    extra, seconds = LIFETIMES[name]
    token = Token(access_token="fake-access", refresh_token="fake-refresh", extra=extra)
    assert idle_until(token, START, TargetProfile()) == START + timedelta(seconds=seconds)


def test_without_a_refresh_token_there_is_no_time_at_which_it_expires() -> None:
    token = Token(access_token="fake-access", extra={"refresh_expires_in": 604_800})
    assert idle_until(token, START, TargetProfile()) is None


def test_no_lifetime_in_a_profile_is_too_long_for_a_date() -> None:
    token = Token(access_token="fake-access", refresh_token="fake-refresh")
    assert idle_until(token, START, TargetProfile(idle_lifetime=1e300)) is not None


def test_the_jitter_of_a_grant_is_the_same_on_every_machine() -> None:
    # A restart, another process or another release must not change this number.
    assert jitter(KEY) == pytest.approx(0.1179, abs=0.0001)


def test_the_jitter_differs_by_grant_and_client_and_is_spread_evenly() -> None:
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
    times = {
        windows_of(record(key=GrantKey(CLIENT_ID, Grant(TARGET, f"u-{number}")))).advisory_at
        for number in range(50)
    }
    assert len(times) == 50
    assert min(times) >= at(DAY - 4 * 3600)
    assert max(times) <= at(DAY - 4 * 3600 * (1 - JITTER))


@pytest.mark.parametrize(
    ("facts", "need", "moment", "usable"),
    [
        ({}, Need(), DAY - 0.1, True),
        ({}, Need(), DAY, False),
        ({}, Need(3600), DAY - 3601, True),
        ({}, Need(3600), DAY - 3600, False),
        ({}, Need(-5), DAY - 0.1, True),
        # More than half the lifetime counts as half: a new token would soon have less, too.
        ({}, Need(2 * DAY), DAY / 2 - 1, True),
        ({}, Need(2 * DAY), DAY / 2 + 1, False),
        ({}, Need(newer_than=record(generation=2)), 1, True),
        ({}, Need(newer_than=record(generation=3)), 1, False),
        ({"state": State.REVOKED}, Need(), 1, False),
        ({"state": State.NEEDS_CONSENT}, Need(), 1, True),
        ({"state": State.UNCERTAIN}, Need(), 1, True),
        ({"token": None}, Need(), 1, False),
    ],
)
def test_a_token_is_usable_as_the_table_says(
    facts: dict[str, Any], need: Need, moment: float, usable: bool
) -> None:
    assert is_usable(record(**facts), need, DEFAULTS, at(moment)) is usable


# Decisions


def test_a_grant_without_a_record_is_unknown() -> None:
    error = error_of(decide(None, Need(), DEFAULTS, START))
    assert isinstance(error, UnknownGrantError)
    assert error.needs_consent


@pytest.mark.parametrize("facts", [{"state": State.REVOKED}, {"token": None}])
def test_a_revoked_grant_needs_consent(facts: dict[str, Any]) -> None:
    assert isinstance(
        error_of(decide(record(**facts), Need(), DEFAULTS, at(1))), ConsentNeededError
    )


LEASED: dict[str, Any] = {"state": State.REFRESHING, "attempts": 1, "lease_left": 9.0}
CRASHED: dict[str, Any] = {"state": State.REFRESHING, "attempts": 1}
UNCERTAIN: dict[str, Any] = {"state": State.UNCERTAIN, "attempts": 1, "error": "TimedOutError"}
TWICE_UNCERTAIN: dict[str, Any] = UNCERTAIN | {"attempts": 2}
THREE_TIMES_UNCERTAIN: dict[str, Any] = UNCERTAIN | {"attempts": 3}
UNREADABLE: dict[str, Any] = {"state": State.UNCERTAIN, "attempts": 1}
PAUSED: dict[str, Any] = {"pause_left": 5.0, "error": "NotConnectedError"}
FRESH, ADVISORY, MANDATORY, EXPIRED = 10.0, DAY - 1800, DAY - 30, DAY + 1


@pytest.mark.parametrize(
    ("facts", "need", "profile", "moment", "decision"),
    [
        ({}, Need(), DEFAULTS, FRESH, Serve),
        ({}, EARLY, DEFAULTS, FRESH, Serve),
        ({}, Need(), DEFAULTS, ADVISORY, Serve),
        ({}, EARLY, DEFAULTS, ADVISORY, Attempt),
        ({}, Need(), DEFAULTS, MANDATORY, Attempt),
        ({}, Need(), DEFAULTS, EXPIRED, Attempt),
        ({}, Need(7200), DEFAULTS, ADVISORY, Attempt),
        # Another owner holds the lease.
        (LEASED, EARLY, DEFAULTS, FRESH, Serve),
        (LEASED, EARLY, DEFAULTS, ADVISORY, Serve),
        (LEASED, Need(), DEFAULTS, MANDATORY, AwaitLease),
        (LEASED, Need(), DEFAULTS, EXPIRED, AwaitLease),
        # The lease has ended without a result.
        (CRASHED, Need(), DEFAULTS, FRESH, Serve),
        (CRASHED, EARLY, DEFAULTS, FRESH, Attempt),
        (CRASHED, Need(), DEFAULTS, EXPIRED, Attempt),
        (UNCERTAIN, Need(), DEFAULTS, FRESH, Serve),
        (UNCERTAIN, EARLY, DEFAULTS, FRESH, Attempt),
        (UNCERTAIN, Need(), DEFAULTS, EXPIRED, Attempt),
        # The new refresh token could not be read; an early replay would not help.
        (UNREADABLE, EARLY, DEFAULTS, FRESH, Serve),
        # Held back until the access token is about to expire, then presented once more.
        (UNCERTAIN, EARLY, HOLD, FRESH, Serve),
        (UNCERTAIN, EARLY, HOLD, ADVISORY, Serve),
        (UNCERTAIN, Need(), HOLD, MANDATORY, Attempt),
        (UNCERTAIN, Need(), HOLD, EXPIRED, Attempt),
        # A third time only when the access token has expired, and only if the profile allows it.
        (TWICE_UNCERTAIN, EARLY, DEFAULTS, FRESH, Serve),
        (TWICE_UNCERTAIN, Need(), DEFAULTS, MANDATORY, Serve),
        (TWICE_UNCERTAIN, Need(), DEFAULTS, EXPIRED, Attempt),
        (TWICE_UNCERTAIN, Need(), TWO_ATTEMPTS, EXPIRED, Refuse),
        (TWICE_UNCERTAIN, Need(), HOLD, EXPIRED, Refuse),
        # Never a fourth time.
        (THREE_TIMES_UNCERTAIN, Need(), DEFAULTS, MANDATORY, Serve),
        (THREE_TIMES_UNCERTAIN, Need(), DEFAULTS, EXPIRED, Refuse),
        # At a bank that never rotates the attempts are limited by pauses only.
        (TWICE_UNCERTAIN, EARLY, NEVER_ROTATES, FRESH, Attempt),
        (TWICE_UNCERTAIN | {"attempts": 9}, Need(), NEVER_ROTATES, EXPIRED, Attempt),
        (PAUSED, EARLY, DEFAULTS, ADVISORY, Serve),
        (PAUSED, Need(), DEFAULTS, MANDATORY, Serve),
        (PAUSED, Need(), DEFAULTS, EXPIRED, Refuse),
        ({"state": State.NEEDS_CONSENT}, EARLY, DEFAULTS, ADVISORY, Serve),
        ({"state": State.NEEDS_CONSENT}, Need(), DEFAULTS, MANDATORY, Serve),
        ({"state": State.NEEDS_CONSENT}, Need(), DEFAULTS, EXPIRED, Refuse),
        # A forced refresh does not serve the stored token, however usable it is.
        ({}, FORCED, DEFAULTS, FRESH, Attempt),
        (LEASED, FORCED, DEFAULTS, FRESH, AwaitLease),
        (CRASHED, FORCED, DEFAULTS, FRESH, Attempt),
        (UNCERTAIN, FORCED, DEFAULTS, FRESH, Attempt),
        (UNCERTAIN, FORCED, HOLD, FRESH, Refuse),
        (UNCERTAIN, FORCED, HOLD, MANDATORY, Attempt),
        (TWICE_UNCERTAIN, FORCED, DEFAULTS, FRESH, Refuse),
        (TWICE_UNCERTAIN, FORCED, NEVER_ROTATES, FRESH, Attempt),
        (PAUSED, FORCED, DEFAULTS, FRESH, Refuse),
        ({"state": State.NEEDS_CONSENT}, FORCED, DEFAULTS, FRESH, Refuse),
        ({"state": State.REVOKED}, FORCED, DEFAULTS, FRESH, Refuse),
    ],
)
def test_the_decision_is_as_the_table_says(
    facts: dict[str, Any],
    need: Need,
    profile: TargetProfile,
    moment: float,
    decision: type[Decision],
) -> None:
    assert type(decide(record(**facts), need, profile, at(moment))) is decision


def test_while_a_target_is_held_off_a_valid_token_is_served() -> None:
    assert decide(record(), EARLY, DEFAULTS, at(ADVISORY), hold_off=3) == Serve()
    error = error_of(decide(record(), Need(), DEFAULTS, at(EXPIRED), hold_off=3))
    assert isinstance(error, RefreshPausedError)
    assert error.retry_after == 3
    assert error.retryable
    assert "at the same target" in str(error)


def test_the_longer_of_two_pauses_counts() -> None:
    error = error_of(decide(record(**PAUSED), Need(), DEFAULTS, at(EXPIRED), hold_off=3))
    assert isinstance(error, RefreshPausedError)
    assert error.retry_after == 5
    assert "NotConnectedError" in str(error)


@pytest.mark.parametrize(
    ("facts", "hold_off", "cause"),
    [
        ({"error": "OldError"}, 3, "at the same target"),
        ({"error": "OldError", "pause_left": 2.0}, 3, "at the same target"),
        ({"error": "OldError", "pause_left": 4.0}, 3, "OldError"),
        ({"error": "OldError", "pause_left": 4.0}, 0, "OldError"),
        ({"pause_left": 4.0}, 0, "is paused"),
    ],
    ids=["other-grant", "other-grant-longer", "own-longer", "own-only", "no-failure"],
)
def test_a_pause_names_its_own_cause(facts: dict[str, Any], hold_off: float, cause: str) -> None:
    known = record(**facts)
    error = error_of(decide(known, Need(), DEFAULTS, at(EXPIRED), hold_off=hold_off))
    assert isinstance(error, RefreshPausedError)
    causes = ("at the same target", "OldError", "is paused")
    assert [each for each in causes if each in str(error)] == [cause]


def test_without_a_refresh_token_consent_is_needed_once_the_token_has_expired() -> None:
    known = record()
    assert known.token is not None
    without_refresh_token = evolve(known, token=evolve(known.token, refresh_token=None))
    assert decide(without_refresh_token, Need(), DEFAULTS, at(MANDATORY)) == Serve()
    assert isinstance(
        error_of(decide(without_refresh_token, Need(), DEFAULTS, at(EXPIRED))), ConsentNeededError
    )


def test_a_refusal_names_the_reason_and_the_correlation_id() -> None:
    facts: dict[str, Any] = {
        "state": State.NEEDS_CONSENT,
        "error": "InvalidGrantError",
        "correlation_id": "c-9",
    }
    error = error_of(decide(record(**facts), Need(), DEFAULTS, at(EXPIRED)))
    assert isinstance(error, ConsentNeededError)
    assert "InvalidGrantError" in str(error)
    assert error.correlation_id == "c-9"


@pytest.mark.parametrize(
    ("facts", "profile"),
    [(THREE_TIMES_UNCERTAIN, DEFAULTS), (TWICE_UNCERTAIN, TWO_ATTEMPTS), (TWICE_UNCERTAIN, HOLD)],
    ids=["third-attempt", "profile-without-a-last-attempt", "hold"],
)
def test_after_the_last_uncertain_attempt_the_error_says_that_consent_is_needed(
    facts: dict[str, Any], profile: TargetProfile
) -> None:
    error = error_of(decide(record(**facts), Need(), profile, at(EXPIRED)))
    assert isinstance(error, RefreshUncertainError)
    assert (error.needs_consent, error.outcome) == (True, Outcome.UNCERTAIN)
    assert error.retry_after is None


NEVER = float("inf")


@pytest.mark.parametrize(
    ("outcome_at", "responded_ago", "moment", "seconds"),
    [
        # The access token has expired at DAY; the last outcome was at `outcome_at`.
        (FRESH, NEVER, FRESH + 1, DAY - FRESH - 1),
        (FRESH, 0, FRESH + 1, DAY - FRESH - 1),
        (FRESH, NEVER, DAY, 0),
        (DAY, NEVER, DAY + 1, 3599),
        (DAY, NEVER, DAY + 3600, 0),
        (DAY - 1800, NEVER, DAY + 1, 1799),
        # The bank has responded since the outcome, or only before.
        (DAY, 5, DAY + 10, 0),
        (DAY, 10, DAY + 10, 3590),
        (DAY, 3000, DAY + 10, 3590),
        # The store's clock is ahead.
        (DAY + 60, NEVER, DAY + 1, 3659),
        (DAY + 60, 0, DAY + 1, 3659),
    ],
)
def test_the_last_attempt_is_made_when_the_table_says(
    outcome_at: float, responded_ago: float, moment: float, seconds: float
) -> None:
    known = record(**TWICE_UNCERTAIN, updated_at=at(outcome_at))
    found = seconds_to_last_attempt(known, DEFAULTS, at(moment), responded_ago)
    assert found == pytest.approx(seconds)
    decision = decide(known, FORCED, DEFAULTS, at(moment), responded_ago=responded_ago)
    if seconds == 0:
        assert decision == Attempt()
    else:
        error = error_of(decision)
        assert isinstance(error, RefreshUncertainError)
        assert not error.needs_consent
        assert error.retry_after == pytest.approx(seconds)
        assert "presented once more" in str(error)
        assert "Nothing was sent" in str(error)


@pytest.mark.parametrize(
    ("facts", "profile"),
    [
        (UNCERTAIN, DEFAULTS),
        (THREE_TIMES_UNCERTAIN, DEFAULTS),
        (TWICE_UNCERTAIN, TWO_ATTEMPTS),
        (TWICE_UNCERTAIN, HOLD),
        (TWICE_UNCERTAIN, NEVER_ROTATES),
        (TWICE_UNCERTAIN | {"token": None}, DEFAULTS),
    ],
)
def test_no_other_record_waits_for_a_last_attempt(
    facts: dict[str, Any], profile: TargetProfile
) -> None:
    assert seconds_to_last_attempt(record(**facts), profile, at(FRESH)) == 0


def test_the_last_attempt_waits_for_its_pause_too() -> None:
    known = record(**TWICE_UNCERTAIN, updated_at=at(DAY), pause_left=9000.0)
    error = error_of(decide(known, Need(), DEFAULTS, at(DAY + 1)))
    assert isinstance(error, RefreshUncertainError)
    assert error.retry_after == 9000
    assert isinstance(
        error_of(decide(known, Need(), DEFAULTS, at(DAY + 2), responded_ago=1)), RefreshPausedError
    )


def test_an_invalidated_access_token_ends_the_hold() -> None:
    assert (
        decide(record(**UNCERTAIN), Need(newer_than=record(generation=3)), HOLD, at(FRESH))
        == Attempt()
    )


def test_a_pending_error_names_the_rest_of_the_lease() -> None:
    error = pending_error(record(**LEASED))
    assert (error.retry_after, error.retryable) == (9.0, True)
    assert pending_error(record()).retry_after is None


# Results for callers


def test_a_token_that_the_flight_obtained_is_served_although_it_has_expired() -> None:
    obtained = Result(record(lifetime=0), obtained=True)
    assert token_for_caller(obtained, Need(), DEFAULTS, at(5)) == record(lifetime=0).token
    found = Result(record(lifetime=0))
    assert token_for_caller(found, Need(), DEFAULTS, at(5)) is None


def test_a_token_that_the_flight_obtained_is_not_served_if_it_was_invalidated() -> None:
    obtained = Result(record(), obtained=True)
    assert (
        token_for_caller(obtained, Need(newer_than=record(generation=2)), DEFAULTS, at(5))
        is not None
    )
    assert (
        token_for_caller(obtained, Need(newer_than=record(generation=3)), DEFAULTS, at(5)) is None
    )


def test_a_usable_token_is_served_although_the_flight_failed() -> None:
    failed = Result(record(), NotConnectedError("Not connected."))
    assert token_for_caller(failed, Need(), DEFAULTS, at(MANDATORY)) is not None
    with pytest.raises(NotConnectedError):
        token_for_caller(failed, Need(), DEFAULTS, at(EXPIRED))


def test_a_forced_refresh_returns_only_a_token_stored_during_the_flight() -> None:
    assert token_for_caller(Result(record()), FORCED, DEFAULTS, at(5)) is None
    assert (
        token_for_caller(Result(record(), stored_meanwhile=True), FORCED, DEFAULTS, at(5))
        is not None
    )
    assert token_for_caller(Result(record(), obtained=True), FORCED, DEFAULTS, at(5)) is not None
    with pytest.raises(NotConnectedError):
        token_for_caller(
            Result(record(), NotConnectedError("Not connected.")), FORCED, DEFAULTS, at(5)
        )


# Pauses


def test_pauses_double_up_to_a_minute_and_half_of_each_is_random() -> None:
    assert [backoff(failures, 1) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert [backoff(failures, 0) for failures in (1, 2, 10_000)] == [0.5, 1, 30]


def test_the_poll_delay_doubles_up_to_its_maximum() -> None:
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
        caching_forbidden=True,
        retry_after=wait,
    )


def status(code: int, outcome: Outcome, wait: float | None = None, **facts: Any) -> StatusError:
    return StatusError("Failed.", status=code, outcome=outcome, meta=meta(code, wait), **facts)


def pause(error: Any, *, failures: int = 1, lease_left: float = 20.0) -> float:
    return pause_after(error, failures=failures, spread=0.5, lease_left=lease_left)


def test_after_a_request_that_was_not_executed_the_pause_is_the_backoff() -> None:
    assert pause(NotConnectedError("Not connected.")) == 0.75
    assert pause(NotConnectedError("Not connected."), failures=4) == 6


def test_after_an_uncertain_outcome_the_pause_lasts_until_the_lease_ends() -> None:
    assert pause(ConnectionLostError("Connection lost.")) == pytest.approx(21)
    assert pause(ConnectionLostError("Connection lost."), lease_left=0) == 0.75


def test_a_retry_after_is_the_pause_up_to_a_maximum() -> None:
    assert pause(status(429, Outcome.REJECTED, 90, retryable=True)) == 90
    assert pause(status(503, Outcome.UNCERTAIN, 300)) == 300
    assert pause(status(503, Outcome.UNCERTAIN, 1e9)) == LONGEST_RETRY_AFTER
    assert retry_after(NotConnectedError("Not connected.")) is None


GONE = ConnectionLostError("Connection lost.")
NOT_EXECUTED, REJECTED, UNKNOWN = Outcome.NOT_EXECUTED, Outcome.REJECTED, Outcome.UNCERTAIN
BACKOFF, LEASE_END = 0.75, 21.0


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        # Certainly over: the backoff, or longer if the server says so.
        (NotConnectedError("Not connected."), BACKOFF),
        (status(503, NOT_EXECUTED), BACKOFF),
        (status(503, NOT_EXECUTED, 1), 1),
        (status(503, NOT_EXECUTED, 600), 600),
        (status(403, NOT_EXECUTED), BACKOFF),
        (status(429, REJECTED, retryable=True), BACKOFF),
        (status(429, REJECTED, 0, retryable=True), BACKOFF),
        (OAuthError("No.", status=400, outcome=REJECTED), BACKOFF),
        (OAuthError("No.", status=400, outcome=REJECTED, meta=meta(400, 30)), 30),
        # A response from behind the gateway ends the request, whatever the outcome.
        (status(500, UNKNOWN), BACKOFF),
        (status(200, UNKNOWN), BACKOFF),
        (status(520, UNKNOWN), BACKOFF),
        (status(500, UNKNOWN, 40), 40),
        (status(503, UNKNOWN, 1), 1),
        (status(503, UNKNOWN, 0), BACKOFF),
        # Perhaps still in progress: not before the lease ends.
        (GONE, LEASE_END),
        (status(502, UNKNOWN), LEASE_END),
        (status(503, UNKNOWN), LEASE_END),
        (status(504, UNKNOWN), LEASE_END),
        (status(408, UNKNOWN), LEASE_END),
        (status(499, UNKNOWN), LEASE_END),
        (status(504, UNKNOWN, 1), LEASE_END),
        (status(502, UNKNOWN, 90), 90),
        # The bank has decided: the customer is needed.
        (InvalidGrantError("No.", status=400, outcome=REJECTED, needs_consent=True), 60),
    ],
)
def test_the_first_pause_is_as_the_table_says(error: Any, seconds: float) -> None:
    assert pause(error) == pytest.approx(seconds)


def test_the_pause_of_a_refusal_grows_with_the_failures_to_a_minute() -> None:
    refused = OAuthError("No.", status=400, outcome=REJECTED)
    assert [pause(refused, failures=count) for count in (1, 2, 3, 7, 100)] == [
        0.75,
        1.5,
        3,
        45,
        45,
    ]


@pytest.mark.parametrize(
    ("error", "profile", "replay"),
    [
        (ConnectionLostError("Connection lost."), DEFAULTS, True),
        (ConnectionLostError("Connection lost."), NEVER_ROTATES, True),
        (ConnectionLostError("Connection lost."), HOLD, False),
        (status(502, Outcome.UNCERTAIN), DEFAULTS, True),
        (status(503, Outcome.UNCERTAIN), DEFAULTS, False),
        (status(502, Outcome.UNCERTAIN, 30), DEFAULTS, False),
        (NotConnectedError("Not connected."), DEFAULTS, False),
        (InvalidGrantError("No.", outcome=Outcome.REJECTED), DEFAULTS, False),
    ],
)
def test_a_prompt_replay_is_made_as_the_table_says(
    error: Any, profile: TargetProfile, replay: bool
) -> None:
    assert should_replay(error, profile) is replay


def test_the_policy_hold_has_no_effect_at_a_bank_that_never_rotates() -> None:
    profile = TargetProfile(rotates=False, after_uncertainty=AfterUncertainty.HOLD)
    assert should_replay(ConnectionLostError("Connection lost."), profile)
    assert decide(record(**UNCERTAIN), EARLY, profile, at(FRESH)) == Attempt()


# Refusals

REFUSED = OAuthError("No.", status=400, outcome=Outcome.REJECTED)
HOUR = 3_600.0


def after_refusals(*moments: float, error: Any = REFUSED, first: Record | None = None) -> Record:
    """Return a record after refusals at these times."""
    known = first or record()
    for moment in moments:
        known = with_refusal(known, error, at(moment))
    return known


@pytest.mark.parametrize(
    ("moments", "refusals", "attention"),
    [
        ([], 0, False),
        ([1], 1, False),
        ([1, 2, 3, 4], 4, False),
        # Many, but all on one day.
        ([1, 2, 3, 4, 5, 6, 7, HOUR, DAY], 4, False),
        ([1, 2, 3, 4, 5, 6, DAY + 1], 4, False),
        # Over more than a day, but few.
        ([1, DAY + 2, 2 * DAY], 3, False),
        ([1, DAY, 2 * DAY, 3 * DAY], 4, False),
        # A handful over more than a day.
        ([1, DAY, 2 * DAY, 3 * DAY, 4 * DAY], 5, True),
        ([1, 2, 3, 4, 5, 6, DAY + 2], 5, True),
        ([*range(1, 86_000, 60), DAY + 2, DAY + 3], 6, True),
    ],
)
def test_a_person_is_needed_after_a_handful_of_refusals_over_more_than_a_day(
    moments: list[float], refusals: int, attention: bool
) -> None:
    known = after_refusals(*moments)
    assert (known.refusals, needs_attention(known)) == (refusals, attention)
    assert known.refused_since == (at(1) if moments else None)


@pytest.mark.parametrize(
    "error",
    [
        NotConnectedError("Not connected."),
        ConnectionLostError("Connection lost."),
        status(503, Outcome.NOT_EXECUTED),
        status(500, Outcome.UNCERTAIN),
        status(429, Outcome.REJECTED, retryable=True),
        InvalidGrantError("No.", status=400, outcome=Outcome.REJECTED, needs_consent=True),
        StatusError(
            "No.", status=400, outcome=Outcome.REJECTED, token=Token(access_token="fake-access")
        ),
    ],
    ids=["not-connected", "lost", "503-platform", "500", "429", "invalid-grant", "with-a-token"],
)
def test_no_other_failure_counts_as_a_refusal(error: Any) -> None:
    known = after_refusals(1, 2, 3)
    assert with_refusal(known, error, at(2 * DAY)) is known


def test_refusals_of_an_older_pair_do_not_count() -> None:
    # A process of an earlier version has stored a new pair, and has left these columns.
    known = after_refusals(1, DAY, 2 * DAY, 3 * DAY, 4 * DAY)
    assert needs_attention(known)
    renewed = evolve(known, issued_at=at(5 * DAY))
    assert not needs_attention(renewed)
    again = with_refusal(renewed, REFUSED, at(6 * DAY))
    assert (again.refusals, again.refused_since) == (1, at(6 * DAY))


def test_a_machine_whose_clock_is_behind_does_not_end_the_attention() -> None:
    known = after_refusals(1, DAY, 2 * DAY, 3 * DAY, 4 * DAY, DAY)
    assert (known.refusals, needs_attention(known)) == (5, True)


def test_a_clock_that_was_set_back_starts_the_count_again() -> None:
    known = after_refusals(5 * DAY, 4 * DAY)
    assert (known.refusals, known.refused_since) == (1, at(4 * DAY))


@pytest.mark.parametrize(
    ("refusals", "seconds"),
    [
        (0, 0.75),
        (4, 0.75),
        (5, 45),
        (6, 90),
        (9, 720),
        (13, 11_520),
        (14, 0.75 * 6 * HOUR),
        (10_000, 0.75 * 6 * HOUR),
    ],
)
def test_the_pauses_grow_to_hours_while_a_person_is_needed(refusals: int, seconds: float) -> None:
    found = pause_after(REFUSED, failures=1, spread=0.5, lease_left=20.0, refusals=refusals)
    assert found == seconds


def test_the_error_of_a_pause_says_that_a_person_is_needed() -> None:
    known = after_refusals(1, DAY, 2 * DAY, 3 * DAY, 4 * DAY)
    paused = evolve(known, pause_left=600.0, error="OAuthError", correlation_id="c-9")
    error = error_of(decide(paused, Need(), DEFAULTS, at(4 * DAY)))
    assert isinstance(error, RefreshPausedError)
    assert "A person must find the cause" in str(error)
    assert "since 2026-03-04 05:06 UTC (OAuthError)" in str(error)
    assert (error.retry_after, error.correlation_id) == (600, "c-9")


# The profile


def test_by_default_a_profile_rotates_replays_once_makes_a_last_attempt_and_has_no_rate() -> None:
    profile = TargetProfile()
    assert profile.rotates
    assert profile.after_uncertainty is AfterUncertainty.REPLAY_ONCE
    assert profile.default_lifetime < DAY
    assert profile.last_attempt
    assert profile.idle_lifetime == 30 * DAY
    assert profile.rate is None


def test_after_uncertainty_can_be_given_as_a_string() -> None:
    values: list[Any] = ["hold", "perhaps"]
    assert TargetProfile(after_uncertainty=values[0]).after_uncertainty is AfterUncertainty.HOLD
    with pytest.raises(ValueError, match="perhaps"):
        TargetProfile(after_uncertainty=values[1])


@pytest.mark.parametrize("name", ["advisory", "mandatory", "default_lifetime", "idle_lifetime"])
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), "60", True, None])
def test_seconds_that_are_not_positive_and_finite_are_refused(name: str, value: Any) -> None:
    facts: dict[str, Any] = {name: value}
    with pytest.raises(InvalidInputError, match=name):
        TargetProfile(**facts)


@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan"), "1", True])
def test_a_rate_that_is_not_positive_and_finite_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError, match="rate"):
        TargetProfile(rate=value)


# Stores that went backwards


KNOWN: dict[str, Any] = {"generation": 5, "consent": 2, "issued_at": at(100)}
LATER = {"issued_at": at(200)}


@pytest.mark.parametrize(
    ("stored", "known", "expected"),
    [
        # Numbers.
        ({}, {}, False),
        ({"generation": 6}, {}, False),
        ({"generation": 4}, {}, True),
        ({"generation": 9, "consent": 1}, {}, True),
        ({"generation": 1, "consent": 3}, {}, False),
        ({"generation": 4, "issued_at": at(50)}, {}, True),
        ({"generation": 6, "issued_at": at(50)}, {}, False),
        # A store that moved on with lower numbers.
        ({"generation": 4} | LATER, {}, False),
        ({"generation": 2, "consent": 1} | LATER, {}, False),
        (LATER, {"state": State.NEEDS_CONSENT}, False),
        (LATER, {"state": State.UNCERTAIN, "attempts": 2}, False),
        # Attempts.
        ({}, {"state": State.UNCERTAIN, "attempts": 1}, True),
        (
            {"attempts": 1, "state": State.UNCERTAIN},
            {"state": State.UNCERTAIN, "attempts": 2},
            True,
        ),
        (
            {"attempts": 2, "state": State.REFRESHING},
            {"state": State.UNCERTAIN, "attempts": 1},
            False,
        ),
        (
            {"attempts": 1, "state": State.UNCERTAIN},
            {"state": State.REFRESHING, "attempts": 2},
            False,
        ),
        ({}, {"state": State.REFRESHING, "attempts": 1}, False),
        # States.
        ({}, {"state": State.NEEDS_CONSENT}, True),
        ({"state": State.UNCERTAIN, "attempts": 1}, {"state": State.NEEDS_CONSENT}, True),
        ({"state": State.NEEDS_CONSENT}, {"state": State.NEEDS_CONSENT}, False),
        ({"state": State.NEEDS_CONSENT}, {}, False),
        ({"state": State.REVOKING}, {"state": State.NEEDS_CONSENT}, False),
        ({"state": State.REVOKING}, {"state": State.UNCERTAIN, "attempts": 1}, False),
        # Another pair has this generation.
        (
            {"token": Token(access_token="fake-other")},
            {"state": State.UNCERTAIN, "attempts": 1},
            False,
        ),
        ({"token": Token(access_token="fake-other")}, {"state": State.NEEDS_CONSENT}, False),
        ({}, {"state": State.REVOKED}, True),
        ({}, {"state": State.REVOKING}, True),
        ({"state": State.REVOKING}, {"state": State.REVOKED, "token": None}, False),
        ({"state": State.REVOKED, "token": None}, {"state": State.REVOKING}, False),
    ],
)
def test_a_store_is_behind_if_it_has_an_older_record(
    stored: dict[str, Any], known: dict[str, Any], expected: bool
) -> None:
    assert is_behind(record(**(KNOWN | stored)), record(**(KNOWN | known))) is expected


def test_a_store_that_has_lost_a_record_is_behind_unless_it_was_erased() -> None:
    assert is_behind(None, record())
    assert is_behind(None, record(state=State.REVOKING))
    assert not is_behind(None, record(state=State.REVOKED, token=None))


def test_a_pair_is_newer_by_its_numbers_or_by_the_time_of_its_issue() -> None:
    known = record(**KNOWN)
    assert is_newer(known, None)
    assert not is_newer(known, known)
    assert is_newer(record(**(KNOWN | {"generation": 6, "issued_at": at(50)})), known)
    assert is_newer(record(**(KNOWN | {"generation": 1} | LATER)), known)
    assert not is_newer(record(**(KNOWN | {"generation": 4})), known)
