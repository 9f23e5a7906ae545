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
from blink_oauth_keeper.breaker import PROBE, Targets
from blink_oauth_keeper.steps import Clearance
from lifecycle.stage import PATIENCE, Time

PLAIN = TargetProfile()
FREE = Clearance()
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
def time() -> Time:
    return Time()


@pytest.fixture
def targets(time: Time) -> Targets:
    return Targets(time.monotonic, lambda: 0.5)


def test_a_target_of_which_nothing_is_known_may_be_called(targets: Targets) -> None:
    assert targets.clearance(BANK, PLAIN) == FREE
    assert targets.failing() == frozenset()


def test_one_failure_is_an_accident(targets: Targets) -> None:
    targets.failed(BANK, DOWN)
    assert targets.clearance(BANK, PLAIN) == FREE
    assert targets.failing() == frozenset()


def test_a_failing_target_is_left_alone_for_growing_whiles(targets: Targets, time: Time) -> None:
    waits = []
    targets.failed(BANK, DOWN)
    for _ in range(4):
        targets.failed(BANK, DOWN)
        waits.append(targets.clearance(BANK, PLAIN).hold_off)
        time.pass_by(waits[-1])
    assert waits == pytest.approx([1.5, 3, 6, 12])


def test_another_target_does_not_suffer(targets: Targets) -> None:
    for _ in range(5):
        targets.failed(BANK, DOWN)
    assert targets.clearance(OTHER, PLAIN) == FREE
    assert targets.failing() == {BANK}


def test_one_grant_at_a_time_tries_a_failing_target_out(targets: Targets, time: Time) -> None:
    targets.failed(BANK, DOWN)
    targets.failed(BANK, DOWN)
    time.pass_by(1.5)
    assert targets.failing() == {BANK}
    assert targets.clearance(BANK, PLAIN) == FREE
    assert targets.clearance(BANK, PLAIN).hold_off == PROBE
    time.pass_by(PROBE)
    assert targets.clearance(BANK, PLAIN) == FREE


def test_an_answer_ends_the_outage(targets: Targets) -> None:
    targets.failed(BANK, DOWN)
    targets.failed(BANK, DOWN)
    targets.answered(BANK)
    assert targets.clearance(BANK, PLAIN) == FREE
    targets.failed(BANK, DOWN)
    assert targets.clearance(BANK, PLAIN) == FREE


def test_the_refusal_of_one_grant_is_an_answer(targets: Targets) -> None:
    targets.failed(BANK, DOWN)
    targets.failed(BANK, DOWN)
    targets.failed(BANK, InvalidGrantError("No.", status=400, outcome=Outcome.REJECTED))
    assert targets.clearance(BANK, PLAIN) == FREE


def test_what_never_left_this_process_says_nothing_of_the_target(targets: Targets) -> None:
    for _ in range(5):
        targets.failed(BANK, InvalidInputError("The redirect_uri must be a str."))
    assert targets.clearance(BANK, PLAIN) == FREE


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_is_kept_from_the_first_one_on(
    targets: Targets, time: Time, status: int
) -> None:
    targets.failed(BANK, asks_for_time(status, 40))
    assert targets.clearance(BANK, PLAIN).hold_off == 40
    assert targets.failing() == {BANK}
    time.pass_by(40)
    assert targets.clearance(BANK, PLAIN) == FREE
    assert targets.failing() == frozenset()


def test_a_retry_after_is_not_cut_short_by_calls_that_were_under_way(targets: Targets) -> None:
    targets.failed(BANK, asks_for_time(429, 40))
    targets.failed(BANK, ConnectionLostError("Gone."))
    assert targets.clearance(BANK, PLAIN).hold_off == 40
    targets.failed(BANK, asks_for_time(429, 10))
    assert targets.clearance(BANK, PLAIN).hold_off == 40
    targets.answered(BANK)
    assert targets.clearance(BANK, PLAIN).hold_off == 40


def test_a_rate_lets_one_call_through_per_turn(targets: Targets, time: Time) -> None:
    limited = TargetProfile(rate=4)
    assert targets.clearance(BANK, limited) == FREE
    assert targets.clearance(BANK, limited).queue == 0.25
    time.pass_by(0.1)
    assert targets.clearance(BANK, limited).queue == pytest.approx(0.15)
    time.pass_by(0.15)
    assert targets.clearance(BANK, limited) == FREE
    assert targets.clearance(OTHER, limited) == FREE


def test_who_is_held_off_takes_no_turn(targets: Targets, time: Time) -> None:
    limited = TargetProfile(rate=1)
    targets.failed(BANK, asks_for_time(429, 40))
    assert targets.clearance(BANK, limited) == Clearance(hold_off=40)
    time.pass_by(40)
    assert targets.clearance(BANK, limited) == FREE


def test_a_lock_that_a_parent_process_holds_does_not_stop_a_child() -> None:
    held, done = threading.Event(), threading.Event()

    def monotonic() -> float:
        if threading.current_thread() is not threading.main_thread():
            held.set()
            assert done.wait(PATIENCE)
        return 1_000.0

    targets = Targets(monotonic, lambda: 0.5)
    with ThreadPoolExecutor(1) as aside:
        holder = aside.submit(targets.clearance, OTHER, PLAIN)
        assert held.wait(PATIENCE)
        targets.renew()
        assert targets.clearance(BANK, PLAIN) == FREE
        assert not holder.done()
        done.set()
