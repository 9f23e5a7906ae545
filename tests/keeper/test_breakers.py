"""The circuit breaker and the rate limit of each target in one process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from attrs import evolve

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
from blink_oauth_keeper.breaker import TRIAL_INTERVAL, Breakers
from blink_oauth_keeper.steps import Permit
from keeper.harness import TIMEOUT, ManualClock

DEFAULTS = TargetProfile()
ALLOWED = Permit()
OTHER = "IIDX00002"
BANK = "IIDX00001"
FAILURE = NotConnectedError("Not connected.")


def retry_after_error(status: int, seconds: float) -> BlinkError:
    """Make the error of a response with a `Retry-After`."""
    meta = ResponseMeta(
        status=status,
        correlation_id="c-1",
        echoed=True,
        source=Source.PLATFORM,
        language=None,
        caching_forbidden=True,
        retry_after=seconds,
    )
    outcome = Outcome.REJECTED if status == 429 else Outcome.UNCERTAIN
    return StatusError("Try again later.", status=status, outcome=outcome, meta=meta)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def breakers(clock: ManualClock) -> Breakers:
    return Breakers(clock.monotonic, lambda: 0.5)


def test_a_target_without_a_history_may_be_called(breakers: Breakers) -> None:
    assert breakers.acquire(BANK, DEFAULTS) == ALLOWED
    assert breakers.failing() == frozenset()


def test_one_failure_does_not_open_the_breaker(breakers: Breakers) -> None:
    breakers.failed(BANK, FAILURE)
    assert breakers.acquire(BANK, DEFAULTS) == ALLOWED
    assert breakers.failing() == frozenset()


def test_each_further_failure_doubles_the_hold_off(breakers: Breakers, clock: ManualClock) -> None:
    hold_offs = []
    breakers.failed(BANK, FAILURE)
    for _ in range(4):
        breakers.failed(BANK, FAILURE)
        hold_offs.append(breakers.acquire(BANK, DEFAULTS).hold_off)
        clock.elapse(hold_offs[-1])
    assert hold_offs == pytest.approx([1.5, 3, 6, 12])


def test_the_breaker_of_one_target_does_not_affect_another(breakers: Breakers) -> None:
    for _ in range(5):
        breakers.failed(BANK, FAILURE)
    assert breakers.acquire(OTHER, DEFAULTS) == ALLOWED
    assert breakers.failing() == {BANK}


def test_after_the_hold_off_one_trial_call_is_allowed(
    breakers: Breakers, clock: ManualClock
) -> None:
    breakers.failed(BANK, FAILURE)
    breakers.failed(BANK, FAILURE)
    clock.elapse(1.5)
    assert breakers.failing() == {BANK}
    assert breakers.acquire(BANK, DEFAULTS) == ALLOWED
    assert breakers.acquire(BANK, DEFAULTS).hold_off == TRIAL_INTERVAL
    clock.elapse(TRIAL_INTERVAL)
    assert breakers.acquire(BANK, DEFAULTS) == ALLOWED


def test_a_response_closes_the_breaker(breakers: Breakers) -> None:
    breakers.failed(BANK, FAILURE)
    breakers.failed(BANK, FAILURE)
    breakers.succeeded(BANK)
    assert breakers.acquire(BANK, DEFAULTS) == ALLOWED
    breakers.failed(BANK, FAILURE)
    assert breakers.acquire(BANK, DEFAULTS) == ALLOWED


def test_a_refused_grant_closes_the_breaker(breakers: Breakers) -> None:
    breakers.failed(BANK, FAILURE)
    breakers.failed(BANK, FAILURE)
    breakers.failed(BANK, InvalidGrantError("No.", status=400, outcome=Outcome.REJECTED))
    assert breakers.acquire(BANK, DEFAULTS) == ALLOWED


def test_errors_before_sending_do_not_count_as_failures(breakers: Breakers) -> None:
    for _ in range(5):
        breakers.failed(BANK, InvalidInputError("The redirect_uri must be a str."))
    assert breakers.acquire(BANK, DEFAULTS) == ALLOWED


@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_holds_the_target_off_after_a_single_failure(
    breakers: Breakers, clock: ManualClock, status: int
) -> None:
    breakers.failed(BANK, retry_after_error(status, 40))
    assert breakers.acquire(BANK, DEFAULTS).hold_off == 40
    assert breakers.failing() == {BANK}
    clock.elapse(40)
    assert breakers.acquire(BANK, DEFAULTS) == ALLOWED
    assert breakers.failing() == frozenset()


def test_calls_in_progress_do_not_shorten_a_retry_after(breakers: Breakers) -> None:
    breakers.failed(BANK, retry_after_error(429, 40))
    breakers.failed(BANK, ConnectionLostError("Connection lost."))
    assert breakers.acquire(BANK, DEFAULTS).hold_off == 40
    breakers.failed(BANK, retry_after_error(429, 10))
    assert breakers.acquire(BANK, DEFAULTS).hold_off == 40
    breakers.succeeded(BANK)
    assert breakers.acquire(BANK, DEFAULTS).hold_off == 40


def test_a_rate_spaces_the_permits_of_its_target(breakers: Breakers, clock: ManualClock) -> None:
    limited = TargetProfile(rate=4)
    assert breakers.acquire(BANK, limited) == ALLOWED
    assert breakers.acquire(BANK, limited).wait == 0.25
    clock.elapse(0.1)
    assert breakers.acquire(BANK, limited).wait == pytest.approx(0.15)
    clock.elapse(0.15)
    assert breakers.acquire(BANK, limited) == ALLOWED
    assert breakers.acquire(OTHER, limited) == ALLOWED


def test_a_held_off_caller_uses_up_no_rate(breakers: Breakers, clock: ManualClock) -> None:
    limited = TargetProfile(rate=1)
    breakers.failed(BANK, retry_after_error(429, 40))
    assert breakers.acquire(BANK, limited) == Permit(hold_off=40)
    clock.elapse(40)
    assert breakers.acquire(BANK, limited) == ALLOWED


def test_a_lock_that_the_parent_process_holds_does_not_block_a_forked_child() -> None:
    lock_held, release = threading.Event(), threading.Event()

    def monotonic() -> float:
        if threading.current_thread() is not threading.main_thread():
            lock_held.set()
            assert release.wait(TIMEOUT)
        return 1_000.0

    breakers = Breakers(monotonic, lambda: 0.5)
    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(breakers.acquire, OTHER, DEFAULTS)
        assert lock_held.wait(TIMEOUT)
        breakers.reset()
        assert breakers.acquire(BANK, DEFAULTS) == ALLOWED
        assert not holder.done()
        release.set()


def refused(source: Source) -> BlinkError:
    """Make the error of a rejection."""
    error = retry_after_error(400, 0)
    assert error.meta is not None
    meta = evolve(error.meta, source=source)
    return StatusError("No.", status=400, outcome=Outcome.REJECTED, meta=meta)


def test_a_bank_has_responded_when_it_accepts_or_rejects_a_call(
    breakers: Breakers, clock: ManualClock
) -> None:
    assert breakers.responded_ago(BANK) == float("inf")
    breakers.succeeded(BANK)
    clock.elapse(5)
    assert breakers.responded_ago(BANK) == 5
    assert breakers.responded_ago(OTHER) == float("inf")
    breakers.failed(BANK, refused(Source.PROVIDER))
    assert breakers.responded_ago(BANK) == 0


def test_a_rejection_by_the_platform_does_not_show_that_the_bank_responds(
    breakers: Breakers, clock: ManualClock
) -> None:
    breakers.failed(BANK, refused(Source.PLATFORM))
    assert breakers.responded_ago(BANK) == float("inf")
    breakers.succeeded(BANK)
    clock.elapse(7)
    breakers.failed(BANK, refused(Source.PLATFORM))
    assert breakers.responded_ago(BANK) == 7


def test_a_bank_whose_last_call_failed_is_not_known_to_respond(breakers: Breakers) -> None:
    breakers.succeeded(BANK)
    breakers.failed(BANK, FAILURE)
    assert breakers.responded_ago(BANK) == float("inf")
    breakers.succeeded(BANK)
    assert breakers.responded_ago(BANK) == 0
