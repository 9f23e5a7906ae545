"""The cache of one process: tokens, refused generations and failures."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from attrs import evolve

from blink_oauth import Grant, NotConnectedError, Token
from blink_oauth_keeper import TargetProfile
from blink_oauth_keeper.cache import BACKGROUND_GAP, RECHECK, TOO_NEW, Cache, CachedToken, Deadline
from blink_oauth_keeper.policy import Need
from blink_oauth_keeper.steps import Result
from blink_oauth_keeper.store.protocol import GrantKey, Record, State
from keeper.harness import CLIENT_ID, DAY, START, TARGET, ManualClock

GRANT = Grant(TARGET, "u-4711")
FAILURE = NotConnectedError("Not connected.")
PROFILE = TargetProfile()


def pair(number: int = 1, lifetime: float = DAY) -> Token:
    return Token(
        access_token=f"fake-access-token-{number}",
        refresh_token=f"fake-refresh-token-{number}",
        expires_at=START + timedelta(seconds=lifetime),
    )


def record(generation: int = 1, **facts: Any) -> Record:
    values: dict[str, Any] = {
        "key": GrantKey(CLIENT_ID, GRANT),
        "generation": generation,
        "consent": 1,
        "state": State.ACTIVE,
        "token": pair(generation),
        "issued_at": START,
        "idle_until": None,
        "updated_at": START,
    }
    return Record(**(values | facts))


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> Cache:
    return Cache(clock.now, clock.monotonic)


def cached(cache: Cache) -> CachedToken:
    return cache.tokens[GRANT]


def deadline(clock: ManualClock, left: timedelta) -> Deadline:
    seconds = left.total_seconds()
    return Deadline(clock.now().timestamp() + seconds, clock.monotonic() + seconds)


def test_the_token_of_a_result_is_cached(cache: Cache) -> None:
    assert cache.get(GRANT, Need(), PROFILE) is None
    cache.update(GRANT, Result(record(), obtained=True), PROFILE)
    found = cache.get(GRANT, Need(), PROFILE)
    assert found is not None
    assert found.token == pair()


def test_a_cached_token_is_fresh_for_five_minutes_at_most(cache: Cache, clock: ManualClock) -> None:
    cache.update(GRANT, Result(record()), PROFILE)
    assert cached(cache).fresh_until == deadline(clock, RECHECK)


def test_in_the_advisory_window_a_token_counts_as_fresh_for_some_seconds(
    cache: Cache, clock: ManualClock
) -> None:
    clock.elapse(DAY - 1800)
    cache.update(GRANT, Result(record()), PROFILE)
    assert cached(cache).fresh_until == deadline(clock, BACKGROUND_GAP)


def test_a_token_is_never_fresh_in_the_mandatory_window(cache: Cache, clock: ManualClock) -> None:
    clock.elapse(DAY - 62)
    cache.update(GRANT, Result(record()), PROFILE)
    assert cached(cache).fresh_until == deadline(clock, timedelta(seconds=2))
    assert cache.get(GRANT, Need(), PROFILE) is not None
    clock.elapse(2)
    assert cache.get(GRANT, Need(), PROFILE) is None


def test_a_token_with_too_little_validity_left_is_not_served(
    cache: Cache, clock: ManualClock
) -> None:
    cache.update(GRANT, Result(record()), PROFILE)
    clock.elapse(DAY - 3600)
    assert cache.get(GRANT, Need(3599), PROFILE) is not None
    assert cache.get(GRANT, Need(3600), PROFILE) is None


def test_an_older_generation_never_replaces_a_newer_one(cache: Cache) -> None:
    cache.update(GRANT, Result(record(2)), PROFILE)
    cache.update(GRANT, Result(record(1)), PROFILE)
    assert cached(cache).token == pair(2)


def test_a_newer_state_of_the_same_generation_replaces_the_record(cache: Cache) -> None:
    cache.update(GRANT, Result(record()), PROFILE)
    cache.update(GRANT, Result(record(state=State.UNCERTAIN)), PROFILE)
    assert cached(cache).record.state is State.UNCERTAIN


@pytest.mark.parametrize("facts", [{"state": State.REVOKED}, {"token": None}])
def test_a_revoked_generation_is_removed_and_never_cached_again(
    cache: Cache, facts: dict[str, Any]
) -> None:
    cache.update(GRANT, Result(record(1)), PROFILE)
    cache.update(GRANT, Result(record(2, **facts)), PROFILE)
    assert cache.tokens == {}
    cache.update(GRANT, Result(record(1)), PROFILE)
    assert cache.tokens == {}
    cache.update(GRANT, Result(record(3)), PROFILE)
    assert cached(cache).token == pair(3)


@pytest.mark.parametrize("state", [State.REVOKED, State.FORGOTTEN])
def test_of_a_revoked_grant_only_its_newest_record_is_kept(cache: Cache, state: State) -> None:
    cache.update(GRANT, Result(record()), PROFILE)
    assert cache.invalidate(GRANT, pair()) is False
    cache.update_looked(GRANT, Result(record()), PROFILE, cache.doubt(GRANT))
    cache.update(GRANT, Result(record(), FAILURE, shared_for=9), PROFILE)
    entries = (cache.tokens, cache.doubts, cache.looked, cache.failures)
    assert all(GRANT in each for each in entries)
    revoked = record(2, state=state, token=None)
    cache.update(GRANT, Result(revoked), PROFILE)
    assert not any(GRANT in each for each in entries)
    assert cache.failure(GRANT) is None
    assert cache.known(GRANT) == revoked


def test_a_late_revocation_does_not_remove_the_token_of_a_newer_consent(cache: Cache) -> None:
    cache.update(GRANT, Result(record(3)), PROFILE)
    cache.update(GRANT, Result(record(2, state=State.REVOKED)), PROFILE)
    assert cached(cache).token == pair(3)


def test_a_failure_is_cached_for_its_shared_for(cache: Cache, clock: ManualClock) -> None:
    result = Result(None, FAILURE, shared_for=2.0)
    assert cache.failure(GRANT) is None
    cache.update(GRANT, result, PROFILE)
    clock.elapse(1.9)
    assert cache.failure(GRANT) is result
    clock.elapse(0.1)
    assert cache.failure(GRANT) is None


def test_setting_the_wall_clock_does_not_change_how_long_a_failure_is_cached(
    cache: Cache, clock: ManualClock
) -> None:
    cache.update(GRANT, Result(None, FAILURE, shared_for=2.0), PROFILE)
    clock.shift_wall_clock(3600)
    assert cache.failure(GRANT) is not None
    clock.shift_wall_clock(-7200)
    clock.elapse(2)
    assert cache.failure(GRANT) is None


def test_failures_are_counted_until_a_refresh_succeeds(cache: Cache) -> None:
    for _ in range(3):
        cache.update(GRANT, Result(record(), FAILURE, shared_for=5.0), PROFILE)
    assert cache.failures.get(GRANT, 0) == 3
    cache.update(GRANT, Result(record()), PROFILE)
    assert (cache.failures.get(GRANT, 0), cache.failure(GRANT)) == (3, None)
    cache.update(GRANT, Result(record(2), obtained=True), PROFILE)
    assert cache.failures.get(GRANT, 0) == 0


def test_the_record_of_a_failed_result_is_cached(cache: Cache) -> None:
    cache.update(GRANT, Result(record(), FAILURE, shared_for=5.0), PROFILE)
    assert cached(cache).token == pair()


def test_an_invalidated_token_is_removed_and_not_cached_again(
    cache: Cache, clock: ManualClock
) -> None:
    cache.update(GRANT, Result(record(4)), PROFILE)
    clock.elapse(3600)
    assert cache.invalidate(GRANT, pair(4))
    assert cache.tokens == {}
    assert cache.refused[GRANT].generation == 4
    cache.update(GRANT, Result(record(4)), PROFILE)
    assert cache.tokens == {}


def test_invalidating_a_replaced_token_changes_nothing(cache: Cache, clock: ManualClock) -> None:
    cache.update(GRANT, Result(record(4)), PROFILE)
    clock.elapse(3600)
    assert cache.invalidate(GRANT, pair(3))
    assert cached(cache).token == pair(4)
    assert GRANT not in cache.refused


def test_tokens_are_invalidated_by_the_value_of_the_access_token(
    cache: Cache, clock: ManualClock
) -> None:
    cache.update(GRANT, Result(record(4)), PROFILE)
    clock.elapse(3600)
    assert cache.invalidate(GRANT, evolve(pair(4), expires_at=None))
    assert cache.tokens == {}


def test_invalidating_a_token_that_is_not_cached_changes_nothing(cache: Cache) -> None:
    assert cache.invalidate(GRANT, pair())
    assert GRANT not in cache.refused


def test_invalidating_a_token_that_was_just_issued_changes_nothing(
    cache: Cache, clock: ManualClock
) -> None:
    cache.update(GRANT, Result(record()), PROFILE)
    clock.elapse(TOO_NEW.total_seconds() - 1)
    assert not cache.invalidate(GRANT, pair())
    assert cached(cache).token == pair()
    clock.elapse(1)
    assert cache.invalidate(GRANT, pair())


def test_an_older_refused_generation_does_not_replace_a_newer_one(
    cache: Cache, clock: ManualClock
) -> None:
    cache.update(GRANT, Result(record(7)), PROFILE)
    clock.elapse(3600)
    cache.invalidate(GRANT, pair(7))
    cache.update(GRANT, Result(record(2, state=State.REVOKED)), PROFILE)
    assert cache.refused[GRANT].generation == 7


def test_a_consent_that_was_issued_later_replaces_one_with_higher_numbers(cache: Cache) -> None:
    cache.update(GRANT, Result(record(7)), PROFILE)
    later = record(2, token=pair(8), issued_at=START + timedelta(seconds=1))
    cache.update(GRANT, Result(later), PROFILE)
    assert cached(cache).token == pair(8)


@pytest.mark.parametrize("generation", [2, 7])
def test_a_consent_that_was_issued_later_is_cached_after_a_revocation(
    cache: Cache, generation: int
) -> None:
    cache.update(GRANT, Result(record(7, state=State.REVOKED, token=None)), PROFILE)
    later = record(generation, issued_at=START + timedelta(seconds=1))
    cache.update(GRANT, Result(later), PROFILE)
    assert cached(cache).token == pair(generation)


@pytest.mark.parametrize(
    "facts", [{"state": State.NEEDS_CONSENT}, {"state": State.UNCERTAIN, "attempts": 1}]
)
def test_an_older_state_of_the_same_generation_never_replaces_a_newer_one(
    cache: Cache, facts: dict[str, Any]
) -> None:
    cache.update(GRANT, Result(record(**facts)), PROFILE)
    cache.update(GRANT, Result(record()), PROFILE)
    assert cached(cache).record == record(**facts)


def test_the_newest_known_record_is_the_cached_or_the_refused_one(
    cache: Cache, clock: ManualClock
) -> None:
    assert cache.known(GRANT) is None
    cache.update(GRANT, Result(record(4)), PROFILE)
    assert cache.known(GRANT) == record(4)
    clock.elapse(3600)
    cache.invalidate(GRANT, pair(4))
    assert cache.known(GRANT) == record(4)
    uncertain = record(4, state=State.UNCERTAIN, attempts=1)
    cache.update(GRANT, Result(uncertain), PROFILE)
    assert (cache.known(GRANT), cache.tokens) == (uncertain, {})
    cache.update(GRANT, Result(record(5)), PROFILE)
    assert cache.known(GRANT) == record(5)
    cache.update(GRANT, Result(record(6, state=State.REVOKING)), PROFILE)
    assert cache.known(GRANT) == record(6, state=State.REVOKING)
