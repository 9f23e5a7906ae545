"""Refreshing now, however good the stored token is."""

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
from keeper.stage import (
    DAY,
    PATIENCE,
    PSU,
    TARGET,
    Execute,
    Gate,
    Stage,
    begun,
    eventually,
    never_arrived,
    says,
    storm,
    unreachable,
    with_members,
)

ADVISED = DAY - 1800
MANY = 20
HOLD = TargetProfile(after_uncertainty=AfterUncertainty.HOLD)

Refresh = Callable[..., Token]


def in_a_thread(manager: TokenManager, grant: Grant, **options: Any) -> Token:
    return manager.refresh(grant, **options)


def in_a_coroutine(manager: TokenManager, grant: Grant, **options: Any) -> Token:
    return asyncio.run(manager.arefresh(grant, **options))


@pytest.fixture(params=[in_a_thread, in_a_coroutine])
def refresh(request: pytest.FixtureRequest) -> Refresh:
    """Return how a caller refreshes."""
    way: Refresh = request.param
    return way


def posts(stage: Stage) -> int:
    """Return how many refreshes reached the platform."""
    return len(stage.banks.presented())


# What it brings


def test_a_fresh_token_is_refreshed_with_one_request(stage: Stage, refresh: Refresh) -> None:
    grant = stage.authorize()
    old = stage.manager.get(grant)
    renewed = refresh(stage.manager, grant)
    assert (stage.record(grant).generation, stage.record(grant).token) == (2, renewed)
    assert renewed != old
    assert stage.manager.get(grant) == renewed
    assert posts(stage) == 1


def test_each_call_refreshes_once_more(stage: Stage, refresh: Refresh) -> None:
    grant = stage.authorize()
    assert len({refresh(stage.manager, grant) for _ in range(3)}) == 3
    assert (stage.record(grant).generation, posts(stage)) == (4, 3)


def test_a_process_that_knows_nothing_yet_refreshes_what_the_store_has(
    stage: Stage, refresh: Refresh
) -> None:
    grant = stage.authorize()
    refresh(stage.make(), grant)
    assert (stage.record(grant).generation, posts(stage)) == (2, 1)


def test_an_expired_token_is_refreshed_once(stage: Stage, refresh: Refresh) -> None:
    grant = stage.expired()
    assert refresh(stage.manager, grant) == stage.record(grant).token
    assert posts(stage) == 1


def test_a_token_that_lives_for_no_time_is_brought_all_the_same(
    stage: Stage, refresh: Refresh
) -> None:
    grant = stage.authorize()
    stage.banks.answer(with_members(expires_in=0))
    assert refresh(stage.manager, grant) == stage.record(grant).token
    assert posts(stage) == 1


def test_the_person_who_asked_stands_in_the_call(stage: Stage, refresh: Refresh) -> None:
    grant = stage.authorize()
    refresh(stage.manager, grant, psu=PSU)
    assert stage.banks.posts[-1].psu_ip == PSU.ip
    assert stage.manager.history(grant)[0].note.actor == "psu"


# Who shares it


def test_threads_that_refresh_at_once_share_one_flight(stage: Stage) -> None:
    grant = stage.authorize()
    gate = Gate()
    stage.banks.answer(gate)
    caller = stage.aside(lambda: stage.manager.refresh(grant))
    gate.wait()
    told = storm(lambda: stage.manager.refresh(grant, timeout=0), MANY)
    assert [type(each) for each in told] == [RefreshPendingError] * MANY
    assert stage.in_progress() == 1
    gate.open()
    assert caller.result(PATIENCE) == stage.record(grant).token
    assert (stage.record(grant).generation, posts(stage)) == (2, 1)


def test_coroutines_that_refresh_at_once_share_one_flight(stage: Stage) -> None:
    grant = stage.authorize()
    gate = Gate()
    stage.banks.answer(gate)

    async def many() -> list[Token]:
        tasks = [asyncio.create_task(stage.manager.arefresh(grant)) for _ in range(MANY)]
        await gate.held_up()
        assert stage.in_progress() == 1
        gate.open()
        return await asyncio.gather(*tasks)

    assert set(asyncio.run(many())) == {stage.record(grant).token}
    assert posts(stage) == 1


def test_a_refresh_joins_one_that_is_in_the_air_in_the_background(stage: Stage) -> None:
    grant = stage.authorize()
    stage.advance(ADVISED)
    gate = Gate()
    stage.banks.answer(gate)
    old = stage.manager.get(grant)
    gate.wait()

    async def join() -> Token:
        caller = await begun(stage.manager.arefresh(grant))
        assert stage.in_progress() == 1
        gate.open()
        return await caller

    assert asyncio.run(join()) == stage.record(grant).token != old
    assert posts(stage) == 1


def test_a_flight_that_was_content_with_the_stored_token_is_followed_by_another(
    stage: Stage,
) -> None:
    grant = stage.authorize()
    other = stage.make()
    looking, go = threading.Event(), threading.Event()
    load = stage.memory.load

    def slowly(key: Any) -> object:
        looking.set()
        assert go.wait(PATIENCE)
        return load(key)

    stage.shaky.instead["load"] = slowly
    modest = stage.aside(lambda: other.get(grant))
    assert looking.wait(PATIENCE)

    async def join() -> Token:
        caller = await begun(other.arefresh(grant))
        assert stage.in_progress() == 1
        go.set()
        return await caller

    assert asyncio.run(join()) == stage.record(grant).token
    old = modest.result(PATIENCE)
    assert old == stage.manager.get(grant) != stage.record(grant).token
    assert (stage.record(grant).generation, posts(stage)) == (2, 1)


def test_what_another_process_is_refreshing_is_waited_for(stage: Stage) -> None:
    grant = stage.authorize()
    other = stage.make()
    gate = Gate()
    stage.banks.answer(gate)
    first = stage.aside(lambda: stage.manager.refresh(grant))
    gate.wait()
    second = stage.aside(lambda: other.refresh(grant))
    eventually(lambda: stage.waiting() == 1)
    gate.open()
    renewed = first.result(PATIENCE)
    stage.advance(1)
    assert second.result(PATIENCE) == renewed == stage.record(grant).token
    assert posts(stage) == 1


def test_a_consent_that_comes_meanwhile_is_newer_too(stage: Stage) -> None:
    grant = stage.authorize()
    gate = Gate()
    stage.banks.answer(gate)
    caller = stage.aside(lambda: stage.manager.refresh(grant))
    gate.wait()
    stage.authorize(grant.username)
    gate.open()
    assert caller.result(PATIENCE) == stage.record(grant).token
    assert (stage.record(grant).consent, posts(stage)) == (2, 1)


def test_refreshes_of_many_processes_come_one_after_another(stage: Stage) -> None:
    managers = [stage.make(real_waits=True) for _ in range(4)]
    grant = stage.authorize()
    old = stage.record(grant).token
    lock, both = threading.Lock(), []

    def noted(execute: Execute) -> Any:
        alone = lock.acquire(blocking=False)
        both.append(not alone)
        try:
            return execute()
        finally:
            if alone:
                lock.release()

    stage.banks.always(noted)
    shares = iter(managers * 4)
    results = storm(lambda: next(shares).refresh(grant), 16)
    assert all(isinstance(each, Token) and each != old for each in results)
    assert not any(both)
    assert stage.record(grant).generation == 1 + posts(stage)
    assert 1 <= posts(stage) <= 16


def test_who_only_wants_a_token_is_served_although_a_refresh_is_forced(stage: Stage) -> None:
    grant = stage.authorize()
    gate = Gate(unreachable)
    stage.banks.answer(gate)
    caller = stage.aside(lambda: stage.manager.refresh(grant))
    gate.wait()
    assert stage.manager.get(grant, timeout=0) == stage.record(grant).token
    gate.open()
    with pytest.raises(NotConnectedError):
        caller.result(PATIENCE)


# When it fails


def test_a_refresh_that_was_not_executed_raises_and_the_old_token_is_still_served(
    stage: Stage, refresh: Refresh
) -> None:
    grant = stage.authorize()
    old = stage.manager.get(grant)
    stage.banks.answer(unreachable)
    with pytest.raises(NotConnectedError) as caught:
        refresh(stage.manager, grant)
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    assert stage.manager.get(grant) == old
    assert (stage.record(grant).state, stage.record(grant).attempts) == (State.ACTIVE, 0)


def test_a_failure_is_shared_for_a_moment_and_then_tried_again(
    stage: Stage, refresh: Refresh
) -> None:
    grant = stage.authorize()
    stage.banks.answer(unreachable)
    for _ in range(3):
        with pytest.raises(NotConnectedError):
            refresh(stage.manager, grant)
    assert posts(stage) == 1
    stage.advance(1)
    refresh(stage.manager, grant)
    assert (stage.record(grant).generation, posts(stage)) == (2, 2)
    stage.replays = 1


def test_all_who_share_a_flight_share_its_failure(stage: Stage) -> None:
    grant = stage.authorize()
    gate = Gate(unreachable)
    stage.banks.answer(gate)

    async def share() -> list[Token | BaseException]:
        callers = [await begun(stage.manager.arefresh(grant)) for _ in range(4)]
        assert stage.in_progress() == 1
        await gate.held_up()
        gate.open()
        return await asyncio.gather(*callers, return_exceptions=True)

    errors = asyncio.run(share())
    assert [type(error) for error in errors] == [NotConnectedError] * 4
    assert posts(stage) == 1


def test_a_pause_that_another_process_has_written_down_is_kept(
    stage: Stage, refresh: Refresh
) -> None:
    grant = stage.authorize()
    old = stage.manager.get(grant)
    other = stage.make()
    stage.banks.answer(says(429, Retry_After="7"))
    with pytest.raises(BlinkError):
        stage.manager.refresh(grant)
    stage.time.pass_by(2)
    with pytest.raises(RefreshPausedError) as caught:
        refresh(other, grant)
    assert caught.value.retry_after == 5
    assert other.get(grant) == old
    assert posts(stage) == 1


def test_a_failing_target_is_left_alone(stage: Stage, refresh: Refresh) -> None:
    grant = stage.authorize()
    stage.let_fail()
    with pytest.raises(RefreshPausedError, match="at the same target"):
        refresh(stage.manager, grant)
    assert posts(stage) == 0


def test_a_doubtful_refresh_token_is_replayed_once_and_no_more(
    stage: Stage, refresh: Refresh
) -> None:
    grant = stage.authorize()
    old = stage.manager.get(grant)
    stage.banks.always(says(503))
    for _ in range(2):
        with pytest.raises(BlinkError) as caught:
            refresh(stage.manager, grant)
        assert caught.value.outcome is Outcome.UNCERTAIN
        stage.advance(120)
    with pytest.raises(RefreshUncertainError) as final:
        refresh(stage.manager, grant)
    assert final.value.needs_consent
    assert stage.manager.get(grant) == old
    assert posts(stage) == 2
    stage.replays = 1


def test_a_doubtful_refresh_token_is_held_back_while_the_access_token_lives(
    stage: Stage, refresh: Refresh
) -> None:
    stage.make(profile=HOLD)
    grant = stage.authorize()
    old = stage.manager.get(grant)
    stage.banks.answer(never_arrived)
    with pytest.raises(BlinkError):
        refresh(stage.manager, grant)
    stage.advance(120)
    with pytest.raises(RefreshUncertainError, match="held back"):
        refresh(stage.manager, grant)
    assert stage.manager.get(grant) == old
    assert posts(stage) == 1
    stage.advance(DAY)
    assert refresh(stage.manager, grant) == stage.record(grant).token != old
    stage.replays = 1


def test_a_refused_refresh_token_needs_the_customer_and_is_not_sent_again(
    stage: Stage, refresh: Refresh
) -> None:
    grant = stage.authorize()
    old = stage.manager.get(grant)
    stage.banks.answer(says(400, {"error": "invalid_grant"}))
    with pytest.raises(InvalidGrantError):
        refresh(stage.manager, grant)
    stage.advance(120)
    with pytest.raises(ConsentNeededError, match="refused the refresh token"):
        refresh(stage.manager, grant)
    assert stage.manager.get(grant) == old
    assert posts(stage) == 1


def test_without_a_refresh_token_there_is_nothing_to_refresh_with(
    stage: Stage, refresh: Refresh
) -> None:
    grant = stage.authorize(answer=with_members(refresh_token=None))
    with pytest.raises(ConsentNeededError, match="no refresh token"):
        refresh(stage.manager, grant)
    assert stage.manager.get(grant) == stage.record(grant).token
    assert posts(stage) == 0


def test_a_revoked_grant_needs_the_customer(stage: Stage, refresh: Refresh) -> None:
    grant = stage.authorize()
    stage.manager.revoke(grant)
    with pytest.raises(ConsentNeededError, match="revoked"):
        refresh(stage.manager, grant)


def test_a_grant_that_nobody_knows_is_refused(stage: Stage, refresh: Refresh) -> None:
    with pytest.raises(UnknownGrantError, match="Authorize it first"):
        refresh(stage.manager, Grant(TARGET, "nobody"))


def test_what_is_no_grant_is_refused(stage: Stage, refresh: Refresh) -> None:
    wrong: Any = "u-4711"
    with pytest.raises(InvalidInputError, match="must be a Grant"):
        refresh(stage.manager, wrong)


def test_nothing_is_sent_while_the_store_is_away(stage: Stage, refresh: Refresh) -> None:
    grant = stage.authorize()
    stage.shaky.go_down()
    with pytest.raises(StoreError):
        refresh(stage.manager, grant)
    assert posts(stage) == 0


def test_a_closed_manager_refreshes_nothing(stage: Stage, refresh: Refresh) -> None:
    grant = stage.authorize()
    stage.manager.close()
    with pytest.raises(InvalidInputError, match="closed"):
        refresh(stage.manager, grant)
    assert posts(stage) == 0


def test_who_runs_out_of_time_leaves_and_the_refresh_lands(stage: Stage, refresh: Refresh) -> None:
    grant = stage.authorize()
    gate = Gate()
    stage.banks.answer(gate)
    with pytest.raises(RefreshPendingError, match="It goes on"):
        refresh(stage.manager, grant, timeout=0)
    gate.wait()
    gate.open()
    stage.calm()
    assert stage.record(grant).generation == 2
    assert stage.manager.get(grant) == stage.record(grant).token
    assert posts(stage) == 1


def test_who_waits_too_long_for_another_process_is_told_so(stage: Stage) -> None:
    grant = stage.authorize()
    assert stage.memory.claim(stage.record(grant), owner="somebody else", ttl=1_000)
    caller = stage.aside(partial(stage.manager.refresh, grant))
    eventually(lambda: stage.waiting() == 1)
    stage.advance(60)
    with pytest.raises(RefreshPendingError, match="Somebody else is refreshing"):
        caller.result(PATIENCE)
    assert posts(stage) == 0


def test_both_ways_take_the_same_arguments() -> None:
    one, other = inspect.signature(TokenManager.refresh), inspect.signature(TokenManager.arefresh)
    assert one == other
    assert inspect.iscoroutinefunction(TokenManager.arefresh)
