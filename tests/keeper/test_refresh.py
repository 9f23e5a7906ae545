"""Forced refreshes, made although the stored token is usable."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from blink_oauth import (
    BlinkError,
    Grant,
    InvalidGrantError,
    InvalidInputError,
    NotConnectedError,
    Outcome,
    Token,
)
from blink_oauth_keeper import (
    AfterUncertainty,
    ConsentNeededError,
    RefreshPausedError,
    RefreshPendingError,
    RefreshUncertainError,
    StoreError,
    TargetProfile,
    TokenManager,
    UnknownGrantError,
)
from blink_oauth_keeper.store.protocol import State
from keeper.harness import (
    DAY,
    PSU,
    TARGET,
    TIMEOUT,
    Execute,
    Gate,
    Harness,
    concurrently,
    connection_refused,
    request_lost,
    start_task,
    status_response,
    wait_until,
    with_members,
)

ADVISORY = DAY - 1800
MANY = 20
HOLD = TargetProfile(after_uncertainty=AfterUncertainty.HOLD)

Refresh = Callable[..., Token]


def in_a_thread(manager: TokenManager, grant: Grant, **options: Any) -> Token:
    return manager.refresh(grant, **options)


def in_a_coroutine(manager: TokenManager, grant: Grant, **options: Any) -> Token:
    return asyncio.run(manager.arefresh(grant, **options))


@pytest.fixture(params=[in_a_thread, in_a_coroutine])
def refresh(request: pytest.FixtureRequest) -> Refresh:
    """Return a function that refreshes, blocking or in a coroutine."""
    function: Refresh = request.param
    return function


def refresh_count(harness: Harness) -> int:
    """Return how many refresh requests reached the platform."""
    return len(harness.banks.presented())


# Success


def test_a_fresh_token_is_refreshed_with_one_request(harness: Harness, refresh: Refresh) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    renewed = refresh(harness.manager, grant)
    assert (harness.record(grant).generation, harness.record(grant).token) == (2, renewed)
    assert renewed != old
    assert harness.manager.get(grant) == renewed
    assert refresh_count(harness) == 1


def test_each_call_refreshes_once_more(harness: Harness, refresh: Refresh) -> None:
    grant = harness.authorize()
    assert len({refresh(harness.manager, grant) for _ in range(3)}) == 3
    assert (harness.record(grant).generation, refresh_count(harness)) == (4, 3)


def test_a_new_process_refreshes_the_stored_token(harness: Harness, refresh: Refresh) -> None:
    grant = harness.authorize()
    refresh(harness.make_manager(), grant)
    assert (harness.record(grant).generation, refresh_count(harness)) == (2, 1)


def test_an_expired_token_is_refreshed_once(harness: Harness, refresh: Refresh) -> None:
    grant = harness.expired_grant()
    assert refresh(harness.manager, grant) == harness.record(grant).token
    assert refresh_count(harness) == 1


def test_a_token_with_a_lifetime_of_zero_is_returned(harness: Harness, refresh: Refresh) -> None:
    grant = harness.authorize()
    harness.banks.respond_next(with_members(expires_in=0))
    assert refresh(harness.manager, grant) == harness.record(grant).token
    assert refresh_count(harness) == 1


def test_the_psu_of_the_caller_is_sent_and_kept_in_the_history(
    harness: Harness, refresh: Refresh
) -> None:
    grant = harness.authorize()
    refresh(harness.manager, grant, psu=PSU)
    assert harness.banks.requests[-1].psu_ip == PSU.ip
    assert harness.manager.history(grant)[0].note.actor == "psu"


# Shared refreshes


def test_threads_that_refresh_at_once_share_one_flight(harness: Harness) -> None:
    grant = harness.authorize()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.refresh(grant))
    gate.wait()
    errors = concurrently(lambda: harness.manager.refresh(grant, timeout=0), MANY)
    assert [type(each) for each in errors] == [RefreshPendingError] * MANY
    assert harness.in_progress() == 1
    gate.open()
    assert caller.result(TIMEOUT) == harness.record(grant).token
    assert (harness.record(grant).generation, refresh_count(harness)) == (2, 1)


def test_coroutines_that_refresh_at_once_share_one_flight(harness: Harness) -> None:
    grant = harness.authorize()
    gate = Gate()
    harness.banks.respond_next(gate)

    async def many() -> list[Token]:
        tasks = [asyncio.create_task(harness.manager.arefresh(grant)) for _ in range(MANY)]
        await gate.async_wait()
        assert harness.in_progress() == 1
        gate.open()
        return await asyncio.gather(*tasks)

    assert set(asyncio.run(many())) == {harness.record(grant).token}
    assert refresh_count(harness) == 1


def test_a_refresh_joins_one_in_the_background(harness: Harness) -> None:
    grant = harness.authorize()
    harness.advance(ADVISORY)
    gate = Gate()
    harness.banks.respond_next(gate)
    old = harness.manager.get(grant)
    gate.wait()

    async def join() -> Token:
        caller = await start_task(harness.manager.arefresh(grant))
        assert harness.in_progress() == 1
        gate.open()
        return await caller

    assert asyncio.run(join()) == harness.record(grant).token != old
    assert refresh_count(harness) == 1


def test_a_refresh_that_joined_a_flight_without_a_refresh_starts_another(harness: Harness) -> None:
    grant = harness.authorize()
    other = harness.make_manager()
    loading, proceed = harness.hold_loads()
    first_caller = harness.in_thread(lambda: other.get(grant))
    assert loading.wait(TIMEOUT)

    async def join() -> Token:
        caller = await start_task(other.arefresh(grant))
        assert harness.in_progress() == 1
        proceed.set()
        return await caller

    assert asyncio.run(join()) == harness.record(grant).token
    old = first_caller.result(TIMEOUT)
    assert old == harness.manager.get(grant) != harness.record(grant).token
    assert (harness.record(grant).generation, refresh_count(harness)) == (2, 1)


def test_a_refresh_waits_for_that_of_another_process(harness: Harness) -> None:
    grant = harness.authorize()
    other = harness.make_manager()
    gate = Gate()
    harness.banks.respond_next(gate)
    first = harness.in_thread(lambda: harness.manager.refresh(grant))
    gate.wait()
    second = harness.in_thread(lambda: other.refresh(grant))
    wait_until(lambda: harness.waiting() == 1)
    gate.open()
    renewed = first.result(TIMEOUT)
    harness.advance(1)
    assert second.result(TIMEOUT) == renewed == harness.record(grant).token
    assert refresh_count(harness) == 1


def test_a_consent_during_a_refresh_satisfies_it(harness: Harness) -> None:
    grant = harness.authorize()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.refresh(grant))
    gate.wait()
    harness.authorize(grant.username)
    gate.open()
    assert caller.result(TIMEOUT) == harness.record(grant).token
    assert (harness.record(grant).consent, refresh_count(harness)) == (2, 1)


def test_refreshes_of_several_processes_are_made_one_after_the_other(harness: Harness) -> None:
    managers = [harness.make_manager(real_waits=True) for _ in range(4)]
    grant = harness.authorize()
    old = harness.record(grant).token
    lock, overlaps = threading.Lock(), []

    def recording(execute: Execute) -> Any:
        alone = lock.acquire(blocking=False)
        overlaps.append(not alone)
        try:
            return execute()
        finally:
            if alone:
                lock.release()

    harness.banks.respond_always(recording)
    managers_in_turn = iter(managers * 4)
    results = concurrently(lambda: next(managers_in_turn).refresh(grant), 16)
    assert all(isinstance(each, Token) and each != old for each in results)
    assert not any(overlaps)
    assert harness.record(grant).generation == 1 + refresh_count(harness)
    assert 1 <= refresh_count(harness) <= 16


def test_get_serves_the_stored_token_during_a_forced_refresh(harness: Harness) -> None:
    grant = harness.authorize()
    gate = Gate(connection_refused)
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.refresh(grant))
    gate.wait()
    assert harness.manager.get(grant, timeout=0) == harness.record(grant).token
    gate.open()
    with pytest.raises(NotConnectedError):
        caller.result(TIMEOUT)


# Failures


def test_a_refresh_that_was_not_executed_raises_and_the_old_token_is_still_served(
    harness: Harness, refresh: Refresh
) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.banks.respond_next(connection_refused)
    with pytest.raises(NotConnectedError) as caught:
        refresh(harness.manager, grant)
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    assert harness.manager.get(grant) == old
    assert (harness.record(grant).state, harness.record(grant).attempts) == (State.ACTIVE, 0)


def test_a_failure_is_shared_for_a_short_time_and_then_the_refresh_is_repeated(
    harness: Harness, refresh: Refresh
) -> None:
    grant = harness.authorize()
    harness.banks.respond_next(connection_refused)
    for _ in range(3):
        with pytest.raises(NotConnectedError):
            refresh(harness.manager, grant)
    assert refresh_count(harness) == 1
    harness.advance(1)
    refresh(harness.manager, grant)
    assert (harness.record(grant).generation, refresh_count(harness)) == (2, 2)
    harness.allowed_replays = 1


def test_all_callers_of_a_flight_share_its_failure(harness: Harness) -> None:
    grant = harness.authorize()
    gate = Gate(connection_refused)
    harness.banks.respond_next(gate)

    async def share() -> list[Token | BaseException]:
        callers = [await start_task(harness.manager.arefresh(grant)) for _ in range(4)]
        assert harness.in_progress() == 1
        await gate.async_wait()
        gate.open()
        return await asyncio.gather(*callers, return_exceptions=True)

    errors = asyncio.run(share())
    assert [type(error) for error in errors] == [NotConnectedError] * 4
    assert refresh_count(harness) == 1


def test_a_pause_that_another_process_has_stored_is_observed(
    harness: Harness, refresh: Refresh
) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    other = harness.make_manager()
    harness.banks.respond_next(status_response(429, Retry_After="7"))
    with pytest.raises(BlinkError):
        harness.manager.refresh(grant)
    harness.clock.elapse(2)
    with pytest.raises(RefreshPausedError) as caught:
        refresh(other, grant)
    assert caught.value.retry_after == 5
    assert other.get(grant) == old
    assert refresh_count(harness) == 1


def test_nothing_is_sent_while_the_breaker_is_open(harness: Harness, refresh: Refresh) -> None:
    grant = harness.authorize()
    harness.open_breaker()
    with pytest.raises(RefreshPausedError, match="at the same target"):
        refresh(harness.manager, grant)
    assert refresh_count(harness) == 0


def test_an_uncertain_refresh_token_is_replayed_once_while_the_access_token_is_valid(
    harness: Harness, refresh: Refresh
) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.banks.respond_always(status_response(503))
    for _ in range(2):
        with pytest.raises(BlinkError) as caught:
            refresh(harness.manager, grant)
        assert caught.value.outcome is Outcome.UNCERTAIN
        harness.advance(120)
    with pytest.raises(RefreshUncertainError) as waiting:
        refresh(harness.manager, grant)
    assert not waiting.value.needs_consent
    assert harness.manager.get(grant) == old
    assert refresh_count(harness) == 2
    harness.advance(DAY)
    with pytest.raises(BlinkError):
        refresh(harness.manager, grant)
    for _ in range(3):
        harness.advance(2 * DAY)
        with pytest.raises(RefreshUncertainError) as final:
            refresh(harness.manager, grant)
        assert final.value.needs_consent
    assert refresh_count(harness) == 3
    harness.allowed_replays = 2


def test_with_the_policy_hold_no_replay_is_made_while_the_access_token_is_valid(
    harness: Harness, refresh: Refresh
) -> None:
    harness.make_manager(profile=HOLD)
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.banks.respond_next(request_lost)
    with pytest.raises(BlinkError):
        refresh(harness.manager, grant)
    harness.advance(120)
    with pytest.raises(RefreshUncertainError, match="held back"):
        refresh(harness.manager, grant)
    assert harness.manager.get(grant) == old
    assert refresh_count(harness) == 1
    harness.advance(DAY)
    assert refresh(harness.manager, grant) == harness.record(grant).token != old
    harness.allowed_replays = 1


def test_a_refused_refresh_token_needs_consent_and_is_not_presented_again(
    harness: Harness, refresh: Refresh
) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))
    with pytest.raises(InvalidGrantError):
        refresh(harness.manager, grant)
    harness.advance(120)
    with pytest.raises(ConsentNeededError, match="refused the refresh token"):
        refresh(harness.manager, grant)
    assert harness.manager.get(grant) == old
    assert refresh_count(harness) == 1


def test_without_a_refresh_token_a_refresh_raises_and_sends_nothing(
    harness: Harness, refresh: Refresh
) -> None:
    grant = harness.authorize(responder=with_members(refresh_token=None))
    with pytest.raises(ConsentNeededError, match="no refresh token"):
        refresh(harness.manager, grant)
    assert harness.manager.get(grant) == harness.record(grant).token
    assert refresh_count(harness) == 0


def test_a_revoked_grant_needs_consent(harness: Harness, refresh: Refresh) -> None:
    grant = harness.authorize()
    harness.manager.revoke(grant)
    with pytest.raises(ConsentNeededError, match="revoked"):
        refresh(harness.manager, grant)


def test_an_unknown_grant_raises_an_error(harness: Harness, refresh: Refresh) -> None:
    with pytest.raises(UnknownGrantError, match="Authorize it first"):
        refresh(harness.manager, Grant(TARGET, "u-unknown"))


def test_an_argument_that_is_no_grant_is_refused(harness: Harness, refresh: Refresh) -> None:
    wrong: Any = "u-4711"
    with pytest.raises(InvalidInputError, match="must be a Grant"):
        refresh(harness.manager, wrong)


def test_nothing_is_sent_while_the_store_is_unavailable(harness: Harness, refresh: Refresh) -> None:
    grant = harness.authorize()
    harness.faulty.fail()
    with pytest.raises(StoreError):
        refresh(harness.manager, grant)
    assert refresh_count(harness) == 0


def test_a_closed_manager_refreshes_nothing(harness: Harness, refresh: Refresh) -> None:
    grant = harness.authorize()
    harness.manager.close()
    with pytest.raises(InvalidInputError, match="closed"):
        refresh(harness.manager, grant)
    assert refresh_count(harness) == 0


def test_a_caller_that_times_out_gets_an_error_and_the_refresh_finishes(
    harness: Harness, refresh: Refresh
) -> None:
    grant = harness.authorize()
    gate = Gate()
    harness.banks.respond_next(gate)
    with pytest.raises(RefreshPendingError, match="It goes on"):
        refresh(harness.manager, grant, timeout=0)
    gate.wait()
    gate.open()
    harness.wait_until_idle()
    assert harness.record(grant).generation == 2
    assert harness.manager.get(grant) == harness.record(grant).token
    assert refresh_count(harness) == 1


def test_a_caller_that_waits_too_long_for_another_process_gets_an_error(harness: Harness) -> None:
    grant = harness.authorize()
    assert harness.memory.claim(harness.record(grant), owner="another owner", ttl=1_000)
    caller = harness.in_thread(partial(harness.manager.refresh, grant))
    wait_until(lambda: harness.waiting() == 1)
    harness.advance(60)
    with pytest.raises(RefreshPendingError, match="had to wait for a lease"):
        caller.result(TIMEOUT)
    assert refresh_count(harness) == 0


def test_refresh_and_arefresh_take_the_same_arguments() -> None:
    one, other = inspect.signature(TokenManager.refresh), inspect.signature(TokenManager.arefresh)
    assert one == other
    assert inspect.iscoroutinefunction(TokenManager.arefresh)
