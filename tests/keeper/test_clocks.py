"""Clocks that step and machines that sleep: what the keeper makes of the time."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import define

from blink_oauth import TimedOutError, Token
from blink_oauth_keeper import (
    EventName,
    MemoryTokenStore,
    State,
    TokenManager,
)
from blink_oauth_keeper.clocks import Moment, monotonic, never_back, read_boot_clock, time_gone
from blink_oauth_keeper.timers import ThreadTimers
from blink_oauth_testing.store_contract.harness import ISSUED, KEY, note, pair
from keeper.harness import START, TIMEOUT, Harness, request_lost, wait_until

HOUR = 3_600.0
LEASE = 25.0

Shift = Callable[[Harness], None]


def sleep_shown_by_the_wall_clock(harness: Harness) -> None:
    harness.clock.shift_wall_clock(HOUR)


def sleep_shown_by_the_monotonic_clock(harness: Harness) -> None:
    harness.clock.elapse(HOUR)
    harness.clock.shift_wall_clock(-HOUR)


def sleep_while_the_wall_clock_is_set_back(harness: Harness) -> None:
    harness.clock.elapse(HOUR)
    harness.clock.shift_wall_clock(-2 * HOUR)


SLEEPS = [
    sleep_shown_by_the_wall_clock,
    sleep_shown_by_the_monotonic_clock,
    sleep_while_the_wall_clock_is_set_back,
]


# The time gone


@pytest.mark.parametrize(
    ("wall", "seconds", "gone"),
    [
        (10.0, 10.0, 10.0),
        (HOUR, 0.5, HOUR),
        (0.5, HOUR, HOUR),
        (-HOUR, 10.0, 10.0),
        (-HOUR, 0.0, 0.0),
        (-HOUR, -1.0, 0.0),
    ],
)
def test_the_time_gone_is_the_larger_of_two_and_never_negative(
    wall: float, seconds: float, gone: float
) -> None:
    since = Moment(START, 1_000.0)
    until = Moment(START + timedelta(seconds=wall), 1_000.0 + seconds)
    assert time_gone(since, until) == gone


def test_the_monotonic_clock_counts_the_sleep_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clocks = {time.CLOCK_BOOTTIME: HOUR + 10.0, time.CLOCK_MONOTONIC: 10.0}
    monkeypatch.setattr(time, "clock_gettime", clocks.__getitem__)
    assert monotonic() == HOUR + 10.0


def test_a_manager_uses_the_clock_that_counts_sleep() -> None:
    assert inspect.signature(TokenManager).parameters["monotonic"].default is monotonic


def test_a_clock_that_follows_no_step_back_counts_each_second_once() -> None:
    wall = [START]
    clock = never_back(lambda: wall[0])
    seen = []
    for step in (0, 10, -HOUR, 0, 5, -1, 1):
        wall[0] += timedelta(seconds=step)
        seen.append(clock())
    assert seen == [0, 10, 10, 10, 15, 15, 16]


@pytest.mark.parametrize(
    ("offsets", "ahead"),
    [
        ("monotonic           0         0\nboottime            0         0\n", 0.0),
        ("monotonic  7 0\nboottime  100 500000000\n", 100.5),
        ("monotonic  7 0\nboottime  -100 0\n", -100.0),
        ("", 0.0),
        (None, 0.0),
    ],
)
def test_the_boot_clock_of_a_container_is_that_of_its_machine(
    tmp_path: Path, offsets: str | None, ahead: float
) -> None:
    boot_id, offset_file = tmp_path / "boot_id", tmp_path / "timens_offsets"
    boot_id.write_text("fake-boot-id\n")
    if offsets is not None:
        offset_file.write_text(offsets)
    clock = read_boot_clock(boot_id, offset_file)
    assert clock.boot == "fake-boot-id"
    assert abs(monotonic() - clock.seconds() - ahead) < 0.5 * TIMEOUT


def test_a_system_without_the_identity_of_a_boot_has_none(tmp_path: Path) -> None:
    assert read_boot_clock(tmp_path / "missing", tmp_path / "missing").boot == ""


# A refresh


@pytest.mark.parametrize("sleep", SLEEPS)
def test_a_machine_that_slept_after_its_claim_sends_nothing_under_it(
    harness: Harness, sleep: Shift
) -> None:
    grant = harness.expired_grant()
    presented: list[int] = []
    claim = harness.memory.claim

    def claim_and_sleep(*args: Any, **options: Any) -> Any:
        claimed = claim(*args, **options)
        presented.append(len(harness.banks.presented()))
        if len(presented) == 1:
            sleep(harness)
        return claimed

    harness.faulty.replacements["claim"] = claim_and_sleep
    assert harness.manager.refresh(grant) == harness.record(grant).token
    # Nothing was sent before the second claim, and the first attempt is not counted.
    assert presented == [0, 0]
    assert len(harness.banks.presented()) == 1
    assert EventName.ABANDONED in harness.event_names()
    assert EventName.REPLAYED not in harness.event_names()
    assert (harness.record(grant).generation, harness.record(grant).attempts) == (2, 0)


@pytest.mark.parametrize("sleep", SLEEPS)
def test_a_run_of_refresh_due_that_slept_after_its_claims_sends_nothing_under_them(
    harness: Harness, sleep: Shift
) -> None:
    grants = [harness.authorize(f"u-{number}") for number in range(3)]
    harness.advance(25 * 86_400.0)
    claim_due = harness.memory.claim_due

    def claim_and_sleep(*args: Any, **options: Any) -> Any:
        claims = claim_due(*args, **options)
        if claims:
            sleep(harness)
        return claims

    harness.faulty.replacements["claim_due"] = claim_and_sleep
    report = harness.manager.refresh_due(limit=3)
    assert (report.due, report.left, report.refreshed) == (3, 3, 0)
    assert harness.banks.presented() == []
    for grant in grants:
        record = harness.record(grant)
        assert (record.state, record.attempts, record.generation) == (State.ACTIVE, 0, 1)


@pytest.mark.parametrize("step", [HOUR, -HOUR])
def test_a_step_of_the_clock_during_a_call_keeps_the_pause_until_its_lease_has_ended(
    harness: Harness, step: float
) -> None:
    grant = harness.expired_grant()

    def lose_request(execute: Any) -> Any:
        harness.clock.shift_wall_clock(step)
        return request_lost(execute)

    harness.banks.respond_next(lose_request)
    with pytest.raises(TimedOutError):
        harness.manager.refresh(grant)
    assert LEASE <= harness.record(grant).pause_left <= 1.1 * LEASE


def test_a_caller_whose_machine_sleeps_during_a_wait_gets_a_token(harness: Harness) -> None:
    grant = harness.expired_grant()
    assert harness.memory.claim(harness.record(grant), owner="killed", ttl=25)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    wait_until(lambda: harness.waiting() == 1)
    harness.clock.elapse(HOUR)
    harness.allowed_replays = 1
    harness.advance(1)
    assert caller.result(TIMEOUT) == harness.record(grant).token
    assert len(harness.banks.presented()) == 1


def test_a_failure_before_a_sleep_is_not_shared_after_it(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.banks.respond_next(request_lost)
    with pytest.raises(TimedOutError):
        harness.manager.get(grant)
    harness.clock.elapse(HOUR)
    harness.allowed_replays = 1
    assert isinstance(harness.manager.get(grant), Token)


# Timers


@define(eq=False)
class Sleeper:
    """A clock that jumps ahead, as it does while a machine sleeps."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


@pytest.fixture
def sleeper() -> Sleeper:
    return Sleeper()


@pytest.fixture
def timers(sleeper: Sleeper) -> Iterator[ThreadTimers]:
    made = ThreadTimers(sleeper)
    made.start()
    yield made
    made.close()


def test_a_timer_that_became_due_while_the_machine_slept_fires_soon_afterwards(
    sleeper: Sleeper, timers: ThreadTimers
) -> None:
    fired = threading.Event()
    timers.after(HOUR, fired.set)
    sleeper.ahead = HOUR
    assert fired.wait(TIMEOUT)


# The store in memory


@define(eq=False)
class Clocks:
    wall: datetime = ISSUED
    seconds: float = 0.0

    def now(self) -> datetime:
        return self.wall.astimezone(UTC)


@pytest.mark.parametrize("step", [HOUR, -HOUR, 2.0, -2.0])
def test_no_step_of_the_wall_clock_moves_a_lease_or_a_pause_in_memory(step: float) -> None:
    clocks = Clocks()
    store = MemoryTokenStore(clock=clocks.now, monotonic=lambda: clocks.seconds)
    seen = store.put(KEY, pair("a"), issued_at=ISSUED, idle_until=None, note=note())
    claim = store.claim(seen, owner="owner", ttl=LEASE)
    assert claim is not None
    clocks.wall += timedelta(seconds=step)
    leased = store.load(KEY)
    assert leased is not None
    assert leased.lease_left == LEASE
    assert store.claim(leased, owner="other", ttl=LEASE) is None
    clocks.seconds += LEASE
    assert store.release(claim, state=State.ACTIVE, attempts=0, pause=60, error=None, note=note())
    clocks.wall += timedelta(seconds=step)
    paused = store.load(KEY)
    assert paused is not None
    assert paused.pause_left == 60
    assert abs((paused.updated_at - ISSUED).total_seconds() - step) <= 1
    clocks.seconds += 60
    assert store.claim(paused, owner="other", ttl=LEASE) is not None


def test_a_lease_by_a_clock_that_is_set_back_lasts_no_longer() -> None:
    clocks = Clocks()
    store = MemoryTokenStore(clock=clocks.now)
    seen = store.put(KEY, pair("a"), issued_at=ISSUED, idle_until=None, note=note())
    claim = store.claim(seen, owner="owner", ttl=LEASE)
    assert claim is not None
    clocks.wall -= timedelta(hours=1)
    leased = store.load(KEY)
    assert leased is not None
    assert leased.lease_left == LEASE
    clocks.wall += timedelta(seconds=LEASE)
    assert store.claim(leased, owner="other", ttl=LEASE) is not None
