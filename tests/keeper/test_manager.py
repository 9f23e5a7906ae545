"""The manager: which token each caller gets, and how many refreshes that takes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import timedelta
from email.utils import format_datetime
from functools import partial
from itertools import pairwise
from typing import Any

import httpx
import pytest
from attrs import evolve

from blink_oauth import (
    AsyncBlinkOAuth,
    BlinkError,
    BlinkOAuth,
    Grant,
    InvalidInputError,
    Psu,
    StatusError,
    Token,
)
from blink_oauth_keeper import (
    EventName,
    MemoryTokenStore,
    RefreshPausedError,
    RefreshPendingError,
    TargetProfile,
    TokenManager,
    UnknownGrantError,
)
from blink_oauth_keeper.flights import remaining
from keeper.harness import (
    DAY,
    PSU,
    SETTINGS,
    TARGET,
    TIMEOUT,
    Gate,
    Harness,
    concurrently,
    connection_refused,
    start_task,
    status_response,
    wait_until,
    with_members,
)

LOOPBACK = evolve(SETTINGS, base_url="http://localhost:9", allow_plain_http=True)
ADVISORY = DAY - 1800
MANDATORY = DAY - 30
EXPIRIES = 20


def tokens_of(results: list[Any]) -> set[Token]:
    """Return the distinct tokens of some results, none of which may be an error."""
    failed = [each for each in results if not isinstance(each, Token)]
    assert failed == []
    return set(results)


# Making a manager


def test_a_manager_requires_a_blocking_client(harness: Harness) -> None:
    client: Any = AsyncBlinkOAuth(LOOPBACK)
    with pytest.raises(InvalidInputError, match="must be a BlinkOAuth, but it is an Async"):
        TokenManager(client, harness.store)
    asyncio.run(client.close())


@pytest.mark.parametrize("lease", [10.0, 5.0, 30.1])
def test_a_lease_outside_the_allowed_range_is_refused(harness: Harness, lease: float) -> None:
    with pytest.raises(InvalidInputError, match=r"total timeout \(10 s\) and at most 30 s"):
        harness.make_manager(lease=lease)


@pytest.mark.parametrize("lease", [10.1, 30.0])
def test_a_lease_within_the_allowed_range_is_accepted(harness: Harness, lease: float) -> None:
    assert harness.make_manager(lease=lease)


def test_a_manager_works_without_clock_arguments() -> None:
    with (
        BlinkOAuth(LOOPBACK) as blink,
        TokenManager(blink, MemoryTokenStore()) as manager,
        pytest.raises(UnknownGrantError),
    ):
        manager.get(Grant("IIDX00001", "u-unknown"), timeout=TIMEOUT)


def test_the_repr_of_a_manager_contains_no_secret(harness: Harness) -> None:
    grant = harness.expired_grant()
    token = harness.manager.get(grant)
    text = repr(harness.manager)
    assert text.startswith("TokenManager(BlinkOAuth(")
    assert token.access_token.reveal() not in text


# Serving


def test_a_fresh_token_is_served_from_memory(harness: Harness) -> None:
    grant = harness.authorize()
    harness.faulty.calls.clear()
    tokens = {harness.manager.get(grant) for _ in range(50)}
    assert tokens == {harness.record(grant).token}
    assert harness.faulty.calls == []
    assert harness.banks.presented() == []


def test_an_unknown_grant_raises_an_error(harness: Harness) -> None:
    with pytest.raises(UnknownGrantError, match="Authorize it first"):
        harness.manager.get(Grant("IIDX00001", "u-unknown"))


@pytest.mark.parametrize("grant", ["u-4711", None, ("IIDX00001", "u-4711")])
def test_an_argument_that_is_no_grant_is_refused(harness: Harness, grant: Any) -> None:
    with pytest.raises(InvalidInputError, match="must be a Grant"):
        harness.manager.get(grant)


def test_an_expired_token_is_refreshed_once_and_the_new_one_stored(harness: Harness) -> None:
    grant = harness.expired_grant()
    token = harness.manager.get(grant)
    record = harness.record(grant)
    assert (record.generation, record.token) == (2, token)
    assert harness.banks.accepts(grant, token)
    assert len(harness.banks.presented()) == 1


def test_the_psu_of_a_caller_is_sent_and_kept_in_the_history(harness: Harness) -> None:
    harness.manager.get(harness.expired_grant("u-1"), psu=PSU)
    harness.manager.get(harness.expired_grant("u-2"))
    refreshes = [request for request in harness.banks.requests if request.kind == "refresh_token"]
    assert [request.psu_ip for request in refreshes] == [PSU.ip, "AUTO"]
    actors = [
        harness.manager.history(Grant("IIDX00001", name))[0].note.actor for name in ("u-1", "u-2")
    ]
    assert actors == ["psu", "auto"]


def test_in_the_advisory_window_the_old_token_is_served_during_one_refresh(
    harness: Harness,
) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.advance(ADVISORY)
    gate = Gate()
    harness.banks.respond_next(gate)
    assert tokens_of(concurrently(lambda: harness.manager.get(grant), 32)) == {old}
    gate.wait()
    assert harness.manager.get(grant) == old
    gate.open()
    harness.wait_until_idle()
    assert harness.manager.get(grant) != old
    assert len(harness.banks.presented()) == 1


def test_a_refresh_in_the_background_has_no_psu(harness: Harness) -> None:
    grant = harness.authorize()
    harness.advance(ADVISORY)
    harness.manager.get(grant, psu=PSU)
    harness.wait_until_idle()
    assert [request.psu_ip for request in harness.banks.requests[1:]] == ["AUTO"]


def test_a_token_that_another_process_stored_is_served_without_a_refresh(harness: Harness) -> None:
    grant = harness.authorize()
    harness.manager.get(grant)
    other = harness.make_manager()
    harness.advance(ADVISORY)
    other.get(grant)
    harness.advance(6)
    other.get(grant)
    harness.wait_until_idle()
    renewed = harness.record(grant).token
    assert len(harness.banks.presented()) == 1
    harness.manager.get(grant)
    harness.wait_until_idle()
    assert harness.manager.get(grant) == renewed
    assert len(harness.banks.presented()) == 1


def test_in_the_mandatory_window_callers_wait_for_the_new_token(harness: Harness) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.advance(MANDATORY)
    assert harness.manager.get(grant) != old


def test_a_token_with_too_little_validity_left_is_refreshed(harness: Harness) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.advance(DAY / 2)
    assert harness.manager.get(grant, min_validity=DAY / 2 - 1) == old
    harness.advance(3600)
    renewed = harness.manager.get(grant, min_validity=DAY / 2 - 1)
    assert renewed != old
    assert harness.manager.get(grant, min_validity=DAY / 2 - 1) == renewed


def test_a_caller_whose_need_the_joined_flight_does_not_meet_starts_another(
    harness: Harness,
) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.advance(DAY / 2 + 3600)
    other = harness.make_manager()
    loading, proceed = harness.hold_loads()
    first_caller = harness.in_thread(lambda: other.get(grant))
    assert loading.wait(TIMEOUT)

    async def join() -> Token:
        second_caller = await start_task(other.aget(grant, min_validity=DAY / 2))
        assert harness.in_progress() == 1
        proceed.set()
        return await second_caller

    assert asyncio.run(join()) == harness.record(grant).token != old
    assert first_caller.result(TIMEOUT) == old
    assert len(harness.banks.presented()) == 1


def test_requiring_more_validity_than_a_new_token_has_causes_no_refresh_loop(
    harness: Harness,
) -> None:
    grant = harness.authorize()
    tokens = {harness.manager.get(grant, min_validity=7 * DAY) for _ in range(10)}
    assert len(tokens) == 1
    assert harness.banks.presented() == []


def test_a_token_without_a_lifetime_has_the_default_of_the_profile(harness: Harness) -> None:
    harness.make_manager(profile=TargetProfile(default_lifetime=1200, mandatory=60))
    grant = harness.authorize(responder=with_members(expires_in=None))
    old = harness.manager.get(grant)
    assert old.expires_at is None
    harness.advance(1100)
    assert harness.manager.get(grant) == old
    harness.wait_until_idle()
    harness.banks.respond_next(with_members(expires_in=None))
    harness.advance(1201)
    assert harness.manager.get(grant) != old


def test_a_token_with_a_lifetime_of_zero_is_served_to_the_callers_that_waited(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    gate = Gate(with_members(expires_in=0))
    harness.banks.respond_next(gate)
    callers = [harness.in_thread(lambda: harness.manager.get(grant)) for _ in range(8)]
    gate.wait()
    gate.open()
    tokens = {caller.result(TIMEOUT) for caller in callers}
    assert len(tokens) == len(harness.banks.presented())
    assert harness.record(grant).token in tokens


@pytest.mark.parametrize(
    "expires_in", [0, 0.9, -1, 86_400_000, 1_772_600_767, "3600000"], ids=lambda value: f"{value}"
)
def test_an_implausible_lifetime_causes_no_refresh_at_each_get_and_ends(
    harness: Harness, expires_in: object
) -> None:
    harness.banks.respond_always(with_members(expires_in=expires_in))
    grant = harness.authorize(responder=with_members(expires_in=expires_in))
    for _ in range(9):
        harness.manager.get(grant)
        harness.advance(60)
        harness.wait_until_idle()
    assert harness.banks.presented() == []
    old = harness.manager.get(grant)
    harness.advance(3_600)
    assert harness.manager.get(grant) != old
    assert len(harness.banks.presented()) == 1


# A failed refresh


def test_after_a_failed_early_refresh_the_valid_token_is_served(harness: Harness) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.advance(ADVISORY)
    harness.banks.respond_always(status_response(503))
    for _ in range(10):
        assert harness.manager.get(grant) == old
        harness.wait_until_idle()
    assert len(harness.banks.presented()) == 1


def test_while_a_failure_is_cached_the_store_is_not_read(harness: Harness) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.advance(ADVISORY)
    harness.banks.respond_next(status_response(503, Retry_After="60"))
    harness.manager.get(grant)
    harness.wait_until_idle()
    harness.faulty.calls.clear()
    for _ in range(9):
        harness.advance(6)
        assert harness.manager.get(grant) == old
        harness.wait_until_idle()
    assert harness.faulty.calls == []
    harness.advance(7)
    harness.manager.get(grant)
    harness.wait_until_idle()
    assert harness.record(grant).generation == 2
    harness.allowed_replays = 1


def test_after_a_failed_refresh_in_the_mandatory_window_the_valid_token_is_served(
    harness: Harness,
) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.advance(MANDATORY)
    harness.banks.respond_always(connection_refused)
    assert harness.manager.get(grant) == old
    assert harness.manager.get(grant) == old
    assert len(harness.banks.presented()) == 1
    harness.advance(31)
    with pytest.raises(BlinkError):
        harness.manager.get(grant)
    harness.banks.respond_always(with_members())
    harness.advance(60)
    assert harness.manager.get(grant) != old
    harness.allowed_replays = len(harness.banks.presented())


def test_the_time_between_failed_refreshes_grows(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_always(connection_refused)
    times: list[float] = []
    for _ in range(400):
        before = len(harness.banks.presented())
        with pytest.raises(BlinkError):
            harness.manager.get(grant)
        if len(harness.banks.presented()) > before:
            times.append(harness.clock.seconds)
        harness.advance(0.25)
    waits = [after - before for before, after in pairwise(times)]
    assert waits == sorted(waits)
    assert waits[0] < 1
    assert waits[-1] > 20
    harness.allowed_replays = len(harness.banks.presented())


def test_each_caller_gets_its_own_exception_object(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_always(connection_refused)
    errors = concurrently(lambda: harness.manager.get(grant), 8)
    assert all(isinstance(error, BlinkError) for error in errors)
    assert len({id(error) for error in errors}) == 8


@pytest.mark.parametrize("as_date", [False, True])
def test_a_retry_after_applies_to_all_grants_of_the_target(harness: Harness, as_date: bool) -> None:
    first, second = harness.authorize("u-1"), harness.authorize("u-2")
    other_target = harness.authorize("u-3", "IIDX00002")
    harness.advance(DAY + 1)
    date = format_datetime(harness.clock.now() + timedelta(seconds=40), usegmt=True)
    harness.banks.respond_next(status_response(429, Retry_After=date if as_date else "40"))
    with pytest.raises(StatusError):
        harness.manager.get(first)
    harness.advance(15)
    with pytest.raises(RefreshPausedError) as paused:
        harness.manager.get(second)
    assert paused.value.retry_after == 25
    assert harness.manager.get(other_target)
    assert len(harness.banks.presented()) == 2
    harness.advance(26)
    assert harness.manager.get(second)
    assert harness.manager.get(first)
    harness.allowed_replays = 1


# Concurrent callers


def test_concurrent_threads_cause_one_refresh_per_expiry(harness: Harness) -> None:
    grant = harness.authorize()
    for number in range(1, EXPIRIES + 1):
        harness.advance(DAY + 1)
        assert len(tokens_of(concurrently(lambda: harness.manager.get(grant), 64))) == 1
        assert len(harness.banks.presented()) == number
    assert harness.banks.bank().reuses == 0


def in_loops(call: Callable[[], Coroutine[Any, Any, Any]], count: int, loops: int) -> list[Any]:
    """Make calls in coroutines of several event loops at the same moment."""
    ready = threading.Barrier(loops)

    async def many(share: int) -> list[Any]:
        ready.wait(TIMEOUT)
        return await asyncio.gather(*(call() for _ in range(share)), return_exceptions=True)

    shares = [count // loops + (number < count % loops) for number in range(loops)]
    with ThreadPoolExecutor(loops) as pool:
        runs = [pool.submit(asyncio.run, many(share)) for share in shares]
        return [result for run in runs for result in run.result()]


def test_concurrent_coroutines_on_three_loops_cause_one_refresh_per_expiry(
    harness: Harness,
) -> None:
    grant = harness.authorize()
    for number in range(1, EXPIRIES + 1):
        harness.advance(DAY + 1)
        results = in_loops(lambda: harness.manager.aget(grant), 500, 3)
        assert len(results) == 500
        assert len(tokens_of(results)) == 1
        assert len(harness.banks.presented()) == number


def test_threads_and_loops_share_one_flight(harness: Harness) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    threads = [harness.in_thread(lambda: harness.manager.get(grant)) for _ in range(4)]
    loops = harness.in_thread(lambda: in_loops(lambda: harness.manager.aget(grant), 30, 3))
    gate.wait()
    gate.open()
    results = [thread.result(TIMEOUT) for thread in threads] + loops.result(TIMEOUT)
    assert len(tokens_of(results)) == 1
    assert len(harness.banks.presented()) == 1


def test_two_managers_on_one_store_refresh_once_per_expiry(harness: Harness) -> None:
    first, second = harness.make_manager(real_waits=True), harness.make_manager(real_waits=True)
    grant = harness.authorize()
    for number in range(1, 6):
        harness.advance(DAY + 1)
        gate = Gate()
        harness.banks.respond_next(gate)
        calls_of_first = harness.in_thread(lambda: concurrently(lambda: first.get(grant), 16))
        calls_of_second = harness.in_thread(lambda: concurrently(lambda: second.get(grant), 16))
        gate.wait()
        gate.open()
        results = calls_of_first.result(TIMEOUT) + calls_of_second.result(TIMEOUT)
        assert len({token.access_token for token in tokens_of(results)}) == 1
        assert len(harness.banks.presented()) == number


def test_concurrent_callers_at_a_failing_endpoint_send_one_request_and_share_its_failure(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    gate = Gate(status_response(503, Retry_After="120"), holds_request=True)
    harness.banks.respond_next(gate)
    callers = harness.in_thread(lambda: concurrently(lambda: harness.manager.get(grant), 64))
    gate.wait()
    gate.open()
    errors = callers.result(TIMEOUT)
    assert {type(error) for error in errors} == {StatusError}
    assert len(harness.banks.presented()) == 1
    # Until the Retry-After has passed, later callers send nothing either.
    harness.advance(119)
    assert all(
        isinstance(each, BlinkError)
        for each in concurrently(lambda: harness.manager.get(grant), 64)
    )
    assert len(harness.banks.presented()) == 1
    harness.advance(2)
    assert len(tokens_of(concurrently(lambda: harness.manager.get(grant), 64))) == 1
    harness.allowed_replays = 1


@pytest.mark.anyio
async def test_an_event_loop_is_not_blocked_while_500_coroutines_wait(harness: Harness) -> None:
    grant = harness.expired_grant()
    gate = Gate(status_response(503), holds_request=True)
    harness.banks.respond_next(gate)
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticker = asyncio.create_task(tick())
    waiting = [asyncio.create_task(harness.manager.aget(grant)) for _ in range(500)]
    await gate.async_wait()
    seen = ticks
    for _ in range(100):
        await asyncio.sleep(0)
    assert ticks - seen >= 99
    # The response is still held, so the loop ran while all coroutines waited.
    assert not any(task.done() for task in waiting)
    gate.open()
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    ticker.cancel()
    assert {type(error) for error in errors} == {StatusError}
    assert len(harness.banks.presented()) == 1


# Callers that stop waiting


def test_a_caller_that_times_out_gets_an_error_and_the_flight_finishes(harness: Harness) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    with pytest.raises(RefreshPendingError, match="It goes on") as caught:
        harness.manager.get(grant, timeout=0)
    assert caught.value.retryable
    gate.wait()
    gate.open()
    harness.wait_until_idle()
    assert harness.record(grant).generation == 2
    assert harness.manager.get(grant, timeout=0) == harness.record(grant).token
    assert len(harness.banks.presented()) == 1


@pytest.mark.anyio
async def test_a_coroutine_that_times_out_gets_an_error_and_the_flight_finishes(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    with pytest.raises(RefreshPendingError):
        await harness.manager.aget(grant, timeout=0)
    gate.wait()
    gate.open()
    assert (await harness.manager.aget(grant)).access_token
    assert len(harness.banks.presented()) == 1


def test_remaining_counts_down_by_the_monotonic_clock(harness: Harness) -> None:
    left = remaining(5.0, harness.clock.monotonic)
    harness.clock.elapse(3)
    assert left() == 2
    harness.clock.shift_wall_clock(3600)
    assert left() == 2
    harness.clock.elapse(3)
    assert left() == 0
    assert remaining(None, harness.clock.monotonic)() is None


@pytest.mark.anyio
async def test_after_the_first_caller_is_cancelled_the_others_get_the_token(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    first = asyncio.create_task(harness.manager.aget(grant))
    await gate.async_wait()
    others = [asyncio.create_task(harness.manager.aget(grant)) for _ in range(3)]
    await asyncio.sleep(0)
    first.cancel()
    others[0].cancel()
    gate.open()
    results = await asyncio.gather(first, *others, return_exceptions=True)
    assert [type(result) for result in results[:2]] == [asyncio.CancelledError] * 2
    assert len(tokens_of(results[2:])) == 1
    assert len(harness.banks.presented()) == 1


@pytest.mark.anyio
async def test_a_flight_finishes_although_all_its_callers_are_cancelled(harness: Harness) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    tasks = [asyncio.create_task(harness.manager.aget(grant)) for _ in range(3)]
    await gate.async_wait()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    gate.open()
    harness.wait_until_idle()
    assert harness.record(grant).generation == 2
    assert harness.event_names()[-1] is EventName.REFRESHED


def test_a_flight_finishes_although_the_event_loop_of_its_caller_is_closed(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)

    async def start_and_cancel() -> None:
        task = asyncio.create_task(harness.manager.aget(grant))
        await gate.async_wait()
        task.cancel()

    asyncio.run(start_and_cancel())
    gate.open()
    assert asyncio.run(harness.manager.aget(grant)) == harness.record(grant).token


# Wall clocks that are set


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_setting_the_wall_clock_causes_at_most_one_refresh_and_no_error(
    harness: Harness, seconds: float
) -> None:
    grant = harness.authorize()
    harness.advance(DAY - 7200)
    harness.wait_until_idle()
    for _ in range(20):
        harness.manager.get(grant)
        harness.wait_until_idle()
    before = len(harness.banks.presented())
    harness.clock.shift_wall_clock(seconds)
    assert len(tokens_of(concurrently(lambda: harness.manager.get(grant), 16))) == 1
    harness.wait_until_idle()
    assert len(harness.banks.presented()) - before <= 1
    assert harness.banks.accepts(grant, harness.manager.get(grant))


@pytest.mark.parametrize("seconds", [3600.0, -3600.0])
def test_setting_the_wall_clock_during_a_flight_changes_nothing(
    harness: Harness, seconds: float
) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    callers = [harness.in_thread(lambda: harness.manager.get(grant)) for _ in range(4)]
    gate.wait()
    harness.clock.shift_wall_clock(seconds)
    gate.open()
    assert len({caller.result(TIMEOUT) for caller in callers}) == 1
    assert len(harness.banks.presented()) == 1
    assert harness.event_names().count(EventName.REFRESHED) == 1


# Profiles


def test_a_rate_spaces_the_refreshes_of_a_target(harness: Harness) -> None:
    harness.make_manager(profiles={"IIDX00001": TargetProfile(rate=2)})
    grants = [harness.authorize(f"u-{number}") for number in range(3)]
    other_target = harness.authorize("u-9", "IIDX00002")
    harness.advance(DAY + 1)
    callers = [harness.in_thread(partial(harness.manager.get, grant)) for grant in grants]
    wait_until(lambda: harness.waiting() == 2)
    assert harness.manager.get(other_target)
    # The flight with the permit may still be on its way to the bank.
    harness.wait_until_idle()
    assert len(harness.banks.presented()) == 2
    harness.advance(0.5)
    assert len(harness.banks.presented()) == 3
    harness.advance(0.5)
    assert len({caller.result(TIMEOUT) for caller in callers}) == 3


def test_a_profile_applies_to_its_target_only(harness: Harness) -> None:
    harness.make_manager(profiles={"IIDX00002": TargetProfile(mandatory=DAY / 4)})
    usual, special = harness.authorize(), harness.authorize("u-2", "IIDX00002")
    old = harness.manager.get(usual), harness.manager.get(special)
    harness.advance(DAY - 10_000)
    assert harness.manager.get(special) != old[1]
    assert harness.manager.get(usual) == old[0]


def test_threads_limits_the_steps_that_are_performed_at_once(harness: Harness) -> None:
    harness.make_manager(threads=2)
    grants = [harness.expired_grant(f"u-{number}") for number in range(4)]
    gate = Gate()
    harness.banks.respond_always(gate)

    async def many() -> list[Token]:
        callers = [await start_task(harness.manager.aget(grant)) for grant in grants]
        gate.wait(2)
        assert harness.busy() == 2
        names = [thread.name for thread in threading.enumerate()]
        assert len([name for name in names if name.startswith("blink-oauth-flight")]) == 2
        assert len(harness.banks.presented()) == 2
        gate.open()
        return await asyncio.gather(*callers)

    assert len(set(asyncio.run(many()))) == 4


SILENT, HEALTHY = TARGET, "IIDX00002"


def hold_bank(harness: Harness, callers: int = 20) -> tuple[Gate, list[Future[Token]]]:
    """Let callers wait for a bank that does not respond; half of the threads are used up."""
    gate = Gate()
    harness.banks.respond_always(gate, target_id=SILENT)
    grants = [harness.authorize(f"u-{number}", SILENT) for number in range(callers)]
    harness.advance(DAY + 1)
    waiting = [harness.in_thread(partial(harness.manager.get, grant)) for grant in grants]
    gate.wait(4)
    return gate, waiting


@pytest.mark.parametrize("ask", ["get", "aget", "refresh", "authorize", "revoke"])
def test_callers_of_other_banks_do_not_wait_for_a_silent_bank(harness: Harness, ask: str) -> None:
    harness.make_manager(threads=4)
    healthy = harness.authorize("u-healthy", HEALTHY)
    gate, waiting = hold_bank(harness)
    match ask:
        case "get":
            assert harness.manager.get(healthy)
        case "aget":
            assert asyncio.run(harness.manager.aget(healthy))
        case "refresh":
            assert harness.manager.refresh(healthy)
        case "authorize":
            assert harness.authorize("u-new", HEALTHY)
        case "revoke":
            harness.manager.revoke(healthy)
    assert gate.held == 4
    gate.open()
    assert len(tokens_of([each.result(TIMEOUT) for each in waiting])) == 20


def test_a_bank_gets_at_most_half_of_the_connections(harness: Harness) -> None:
    settings = evolve(SETTINGS, max_connections=8)
    blink = BlinkOAuth(
        settings, clock=harness.clock.now, transport=httpx.MockTransport(harness.banks)
    )
    with blink:
        harness.blink = blink
        harness.make_manager(threads=100)
        gate, waiting = hold_bank(harness)
        harness.wait_until_idle()
        assert gate.held == 4
        gate.open()
        assert len([each.result(TIMEOUT) for each in waiting]) == 20


# A refused access token


def test_the_call_after_invalidate_gets_a_new_token(harness: Harness) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.advance(3600)
    assert harness.manager.invalidate(grant, old)
    tokens = tokens_of(concurrently(lambda: harness.manager.get(grant), 16))
    assert tokens == {harness.record(grant).token}
    assert old not in tokens
    assert len(harness.banks.presented()) == 1


def test_many_callers_that_invalidate_the_same_token_cause_one_refresh(harness: Harness) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.advance(3600)

    def refused() -> Token:
        harness.manager.invalidate(grant, old)
        return harness.manager.get(grant)

    assert old not in tokens_of(concurrently(refused, 32))
    assert len(harness.banks.presented()) == 1


def test_a_token_that_was_just_issued_is_not_replaced(harness: Harness) -> None:
    grant = harness.authorize()
    token = harness.manager.get(grant)
    assert not harness.manager.invalidate(grant, token)
    assert harness.manager.get(grant) == token


def test_an_invalidated_token_is_not_served_although_the_refresh_fails(harness: Harness) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.advance(3600)
    harness.manager.invalidate(grant, old)
    harness.banks.respond_always(connection_refused)
    with pytest.raises(BlinkError):
        harness.manager.get(grant)
    with pytest.raises(BlinkError):
        harness.manager.get(grant, psu=Psu.AUTO)


# Events


def test_a_listener_is_optional(harness: Harness) -> None:
    harness.make_manager(on_event=None)
    assert harness.manager.get(harness.expired_grant())
    assert harness.events == []
