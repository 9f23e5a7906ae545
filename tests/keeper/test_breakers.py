"""How each target fares, as far as one process has seen."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from blink_oauth import (
    BlinkError,
    ConnectionLostError,
    InvalidGrantError,
    InvalidInputError,
    NotConnectedError,
    Outcome,
    ResponseMeta,
    Source,
    StatusError,
)
from blink_oauth_keeper import TargetProfile
from blink_oauth_keeper.breaker import PROBE, Breakers
from blink_oauth_keeper.steps import Permit
from keeper.harness import TIMEOUT, ManualClock

PLAIN = TargetProfile()
FREE = Permit()
OTHER = "IIDX00002"
BANK = "IIDX00001"
DOWN = NotConnectedError("Down.")


def asks_for_time(status: int, seconds: float) -> BlinkError:
    """Make the error of a server that says when to come back."""
    meta = ResponseMeta(
        status=status,
        correlation_id="c-1",
        echoed=True,
        source=Source.PLATFORM,
        language=None,
        cache_rules_held=True,
        retry_after=seconds,
    )
    outcome = Outcome.REJECTED if status == 429 else Outcome.UNCERTAIN
    return StatusError("Later.", status=status, outcome=outcome, meta=meta)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def breakers(clock: ManualClock) -> Breakers:
    return Breakers(clock.monotonic, lambda: 0.5)


def test_a_target_of_which_nothing_is_known_may_be_called(breakers: Breakers) -> None:
    assert breakers.acquire(BANK, PLAIN) == FREE
    assert breakers.failing() == frozenset()


def test_one_failure_is_an_accident(breakers: Breakers) -> None:
    breakers.failed(BANK, DOWN)
    assert breakers.acquire(BANK, PLAIN) == FREE
    assert breakers.failing() == frozenset()


def test_a_failing_target_is_left_alone_for_growing_whiles(
    breakers: Breakers, clock: ManualClock
) -> None:
    waits = []
    breakers.failed(BANK, DOWN)
    for _ in range(4):
        breakers.failed(BANK, DOWN)
        waits.append(breakers.acquire(BANK, PLAIN).hold_off)
        clock.elapse(waits[-1])
    assert waits == pytest.approx([1.5, 3, 6, 12])


def test_another_target_does_not_suffer(breakers: Breakers) -> None:
    for _ in range(5):
        breakers.failed(BANK, DOWN)
    assert breakers.acquire(OTHER, PLAIN) == FREE
    assert breakers.failing() == {BANK}


def test_one_grant_at_a_time_tries_a_failing_target_out(
    breakers: Breakers, clock: ManualClock
) -> None:
    breakers.failed(BANK, DOWN)
    breakers.failed(BANK, DOWN)
    clock.elapse(1.5)
    assert breakers.failing() == {BANK}
    assert breakers.acquire(BANK, PLAIN) == FREE
    assert breakers.acquire(BANK, PLAIN).hold_off == PROBE
    clock.elapse(PROBE)
    assert breakers.acquire(BANK, PLAIN) == FREE


def test_an_answer_ends_the_outage(breakers: Breakers) -> None:
    breakers.failed(BANK, DOWN)
    breakers.failed(BANK, DOWN)
    breakers.answered(BANK)
    assert breakers.acquire(BANK, PLAIN) == FREE
    breakers.failed(BANK, DOWN)
    assert breakers.acquire(BANK, PLAIN) == FREE


def test_the_refusal_of_one_grant_is_an_answer(breakers: Breakers) -> None:
    breakers.failed(BANK, DOWN)
    breakers.failed(BANK, DOWN)
    breakers.failed(BANK, InvalidGrantError("No.", status=400, outcome=Outcome.REJECTED))
    assert breakers.acquire(BANK, PLAIN) == FREE


def test_what_never_left_this_process_says_nothing_of_the_target(breakers: Breakers) -> None:
    for _ in range(5):
        breakers.failed(BANK, InvalidInputError("The redirect_uri must be a str."))
    assert breakers.acquire(BANK, PLAIN) == FREE


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_is_kept_from_the_first_one_on(
    breakers: Breakers, clock: ManualClock, status: int
) -> None:
    breakers.failed(BANK, asks_for_time(status, 40))
    assert breakers.acquire(BANK, PLAIN).hold_off == 40
    assert breakers.failing() == {BANK}
    clock.elapse(40)
    assert breakers.acquire(BANK, PLAIN) == FREE
    assert breakers.failing() == frozenset()


def test_a_retry_after_is_not_cut_short_by_calls_that_were_under_way(breakers: Breakers) -> None:
    breakers.failed(BANK, asks_for_time(429, 40))
    breakers.failed(BANK, ConnectionLostError("Gone."))
    assert breakers.acquire(BANK, PLAIN).hold_off == 40
    breakers.failed(BANK, asks_for_time(429, 10))
    assert breakers.acquire(BANK, PLAIN).hold_off == 40
    breakers.answered(BANK)
    assert breakers.acquire(BANK, PLAIN).hold_off == 40


def test_a_rate_lets_one_call_through_per_turn(breakers: Breakers, clock: ManualClock) -> None:
    limited = TargetProfile(rate=4)
    assert breakers.acquire(BANK, limited) == FREE
    assert breakers.acquire(BANK, limited).queue == 0.25
    clock.elapse(0.1)
    assert breakers.acquire(BANK, limited).queue == pytest.approx(0.15)
    clock.elapse(0.15)
    assert breakers.acquire(BANK, limited) == FREE
    assert breakers.acquire(OTHER, limited) == FREE


def test_who_is_held_off_takes_no_turn(breakers: Breakers, clock: ManualClock) -> None:
    limited = TargetProfile(rate=1)
    breakers.failed(BANK, asks_for_time(429, 40))
    assert breakers.acquire(BANK, limited) == Permit(hold_off=40)
    clock.elapse(40)
    assert breakers.acquire(BANK, limited) == FREE


def test_a_lock_that_a_parent_process_holds_does_not_stop_a_child() -> None:
    held, done = threading.Event(), threading.Event()

    def monotonic() -> float:
        if threading.current_thread() is not threading.main_thread():
            held.set()
            assert done.wait(TIMEOUT)
        return 1_000.0

    breakers = Breakers(monotonic, lambda: 0.5)
    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(breakers.acquire, OTHER, PLAIN)
        assert held.wait(TIMEOUT)
        breakers.reset()
        assert breakers.acquire(BANK, PLAIN) == FREE
        assert not holder.done()
        done.set()
