"""Flights and wake-ups, with protocols written for these tests."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from blink_oauth import BlinkError, Grant, InvalidInputError
from blink_oauth_keeper import StoreError
from blink_oauth_keeper.flights import Flight, Flights, thread_pool
from blink_oauth_keeper.steps import AcquirePermit, Load, Publish, Result, Step, Wait
from blink_oauth_keeper.timers import ThreadTimers
from keeper.harness import TARGET, TIMEOUT, ManualClock, ManualTimers, wait_until

GRANT = Grant(TARGET, "u-4711")
OTHER = Grant(TARGET, "u-4712")
DONE = Result(shared_for=1.0)
PUBLISHED = Result(shared_for=2.0)

Protocol = Generator[Step, Any, Result]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def timers(clock: ManualClock) -> ManualTimers:
    return ManualTimers(clock)


@pytest.fixture
def flights(timers: ManualTimers) -> Iterator[Flights]:
    made = Flights(4, new_timers=lambda: timers)
    yield made
    close(made)


@pytest.fixture
def results() -> list[Result]:
    return []


MakeFlight = Callable[..., Flight]


@pytest.fixture
def make_flight(results: list[Result]) -> MakeFlight:
    """Return a function that makes flights; `do` performs their steps."""

    def make(
        protocol: Protocol, do: Callable[[Step], Any] = lambda step: None, grant: Grant = GRANT
    ) -> Flight:
        return Flight(grant, protocol, do, results.append)

    return make


def steps_only(*steps: Step) -> Protocol:
    """Yield some steps, then return `DONE`."""
    for step in steps:  # noqa: UP028  the iterator of a tuple takes no sent values
        yield step
    return DONE


def result(future: Future[Result]) -> Result:
    return future.result(TIMEOUT)


def close(flights: Flights) -> None:
    """Close, or fail if a flight does not end in time."""
    closing = threading.Thread(target=flights.close, daemon=True)
    closing.start()
    closing.join(TIMEOUT)
    assert not closing.is_alive()


def is_closed(flights: Flights) -> bool:
    """Return whether flights refuse to start."""
    try:
        flights.start(
            Flight(OTHER, steps_only(), lambda step: None, lambda _: None), joinable=False
        )
    except InvalidInputError:
        return True
    return False


def next_call(clock: ManualClock) -> Callable[[], None]:
    """Move the clock to the next scheduled call, and return it."""
    call = clock.move_to_next(1e9)
    assert call is not None
    return call


def test_a_flight_performs_its_steps_in_a_thread_of_the_pool(
    flights: Flights, make_flight: MakeFlight
) -> None:
    seen: list[tuple[Step, str]] = []

    def do(step: Step) -> str:
        seen.append((step, threading.current_thread().name))
        return "done"

    def protocol() -> Protocol:
        assert (yield Load()) == "done"
        assert (yield AcquirePermit()) == "done"
        return DONE

    assert result(flights.start(make_flight(protocol(), do), joinable=False)) == DONE
    assert [step for step, _ in seen] == [Load(), AcquirePermit()]
    assert all(name.startswith("blink-oauth-flight") for _, name in seen)


def test_on_result_is_called_before_the_callers_get_the_result(
    flights: Flights, make_flight: MakeFlight, results: list[Result]
) -> None:
    future = flights.start(make_flight(steps_only()), joinable=False)
    known: list[Result] = []
    future.add_done_callback(lambda _: known.extend(results))
    assert result(future) == DONE
    wait_until(lambda: known == [DONE])


def test_an_error_of_a_step_is_thrown_into_the_protocol(
    flights: Flights, make_flight: MakeFlight
) -> None:
    def do(step: Step) -> None:
        raise StoreError("Unavailable.")

    def protocol() -> Protocol:
        try:
            yield Load()
        except StoreError as error:
            return Result(None, error)
        return DONE

    error = result(flights.start(make_flight(protocol(), do), joinable=False)).error
    assert isinstance(error, StoreError)


def test_all_callers_of_a_grant_share_one_flight(flights: Flights, make_flight: MakeFlight) -> None:
    proceed = threading.Event()
    made: list[Flight] = []

    def make() -> Flight:
        made.append(make_flight(steps_only(Load()), lambda step: proceed.wait(TIMEOUT)))
        return made[-1]

    futures = [flights.join_or_start(GRANT, make) for _ in range(10)]
    other = flights.join_or_start(OTHER, lambda: make_flight(steps_only(), grant=OTHER))
    assert result(other) == DONE
    assert len(made) == 1
    assert len(set(futures)) == 1
    proceed.set()
    assert result(futures[0]) == DONE


def test_after_a_flight_has_ended_the_next_call_starts_another(
    flights: Flights, make_flight: MakeFlight
) -> None:
    first = flights.join_or_start(GRANT, lambda: make_flight(steps_only()))
    result(first)
    assert flights.join_or_start(GRANT, lambda: make_flight(steps_only())) is not first


def test_a_caller_joins_a_joinable_flight_only(flights: Flights, make_flight: MakeFlight) -> None:
    proceed = threading.Event()
    joinable = make_flight(steps_only(Load()), lambda step: proceed.wait(TIMEOUT))
    alone = make_flight(steps_only(Load()), lambda step: proceed.wait(TIMEOUT), OTHER)
    flights.start(joinable, joinable=True)
    flights.start(alone, joinable=False)
    assert flights.join_or_start(GRANT, lambda: make_flight(steps_only())) is joinable.future
    assert (
        flights.join_or_start(OTHER, lambda: make_flight(steps_only(), grant=OTHER))
        is not alone.future
    )
    proceed.set()


def test_a_second_joinable_flight_does_not_replace_the_first(
    flights: Flights, make_flight: MakeFlight
) -> None:
    proceed = threading.Event()
    first, second = (
        make_flight(steps_only(Load()), lambda step: proceed.wait(TIMEOUT)) for _ in range(2)
    )
    flights.start(first, joinable=True)
    flights.start(second, joinable=True)
    assert flights.join_or_start(GRANT, lambda: make_flight(steps_only())) is first.future
    proceed.set()
    assert result(second.future) == DONE


def test_a_caller_cannot_cancel_a_flight(flights: Flights, make_flight: MakeFlight) -> None:
    proceed = threading.Event()
    future = flights.start(
        make_flight(steps_only(Load()), lambda step: proceed.wait(TIMEOUT)), joinable=False
    )
    assert not future.cancel()
    proceed.set()
    assert result(future) == DONE


def test_a_waiting_flight_occupies_no_thread(
    flights: Flights, make_flight: MakeFlight, clock: ManualClock, timers: ManualTimers
) -> None:
    futures = [
        flights.start(
            make_flight(steps_only(Wait(5)), grant=Grant(TARGET, f"u-{number}")), joinable=False
        )
        for number in range(20)
    ]
    wait_until(lambda: len(timers.pending) == 20)
    assert result(flights.join_or_start(GRANT, lambda: make_flight(steps_only()))) == DONE
    for _ in futures:
        next_call(clock)()
    assert [result(future) for future in futures] == [DONE] * 20
    assert clock.seconds == 1_005


def test_publish_gives_the_callers_a_result_before_the_flight_has_ended(
    flights: Flights,
    make_flight: MakeFlight,
    clock: ManualClock,
    timers: ManualTimers,
    results: list[Result],
) -> None:
    def protocol() -> Protocol:
        yield Publish(PUBLISHED)
        assert (yield Wait(5, has_unstored_result=True)) is True
        return DONE

    assert result(flights.join_or_start(GRANT, lambda: make_flight(protocol()))) == PUBLISHED
    wait_until(lambda: len(timers.pending) == 1)
    assert result(flights.join_or_start(GRANT, lambda: make_flight(steps_only()))) == DONE
    next_call(clock)()
    close(flights)
    assert results == [PUBLISHED, DONE]


def test_an_early_result_not_for_callers_calls_on_result_only(
    flights: Flights,
    make_flight: MakeFlight,
    clock: ManualClock,
    timers: ManualTimers,
    results: list[Result],
) -> None:
    future = flights.start(
        make_flight(steps_only(Publish(PUBLISHED, to_callers=False), Wait(5))), joinable=False
    )
    wait_until(lambda: len(timers.pending) == 1)
    assert results == [PUBLISHED]
    assert not future.done()
    next_call(clock)()
    assert result(future) == DONE
    assert results == [PUBLISHED, DONE]


@pytest.mark.parametrize("error", [RuntimeError("defect"), SystemExit(1)])
def test_an_unexpected_error_in_a_flight_is_raised_by_its_callers(
    flights: Flights,
    make_flight: MakeFlight,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    def do(step: Step) -> None:
        raise error

    future = flights.join_or_start(GRANT, lambda: make_flight(steps_only(Load()), do))
    assert future.exception(TIMEOUT) is error
    assert "A flight broke" in caplog.text
    assert result(flights.join_or_start(GRANT, lambda: make_flight(steps_only()))) == DONE
    close(flights)


def test_an_unexpected_error_after_the_result_ends_the_flight_too(
    flights: Flights, make_flight: MakeFlight, caplog: pytest.LogCaptureFixture
) -> None:
    def do(step: Step) -> None:
        raise RuntimeError("defect")

    future = flights.join_or_start(
        GRANT, lambda: make_flight(steps_only(Publish(PUBLISHED), Load()), do)
    )
    assert result(future) == PUBLISHED
    close(flights)
    assert "A flight broke" in caplog.text


def test_an_error_in_on_result_is_raised_by_the_callers(
    flights: Flights, caplog: pytest.LogCaptureFixture
) -> None:
    def on_result(result: Result) -> None:
        raise RuntimeError("defect")

    flight = Flight(GRANT, steps_only(), lambda step: None, on_result)
    future = flights.join_or_start(GRANT, lambda: flight)
    assert isinstance(future.exception(TIMEOUT), RuntimeError)
    close(flights)


def test_an_unexpected_error_is_not_thrown_into_the_protocol(
    flights: Flights, make_flight: MakeFlight
) -> None:
    def do(step: Step) -> None:
        raise ValueError("defect")

    def protocol() -> Protocol:
        try:
            yield Load()
        except BlinkError:
            return DONE
        return PUBLISHED

    future = flights.start(make_flight(protocol(), do), joinable=False)
    assert isinstance(future.exception(TIMEOUT), ValueError)


# Bulkhead


def test_the_flights_of_a_target_use_half_of_the_threads(
    flights: Flights, make_flight: MakeFlight
) -> None:
    proceed = threading.Event()
    started: list[Grant] = []

    def held(grant: Grant) -> Flight:
        def do(step: Step) -> None:
            started.append(grant)
            assert proceed.wait(TIMEOUT)

        return make_flight(steps_only(Load()), do, grant)

    grants = [Grant(TARGET, f"u-{number}") for number in range(9)]
    futures = [flights.start(held(grant), joinable=True) for grant in grants]
    free = make_flight(steps_only(Load()), grant=Grant("IIDX00002", "u-4711"))
    assert result(flights.start(free, joinable=False)) == DONE
    wait_until(lambda: len(started) == 4)
    futures.append(flights.start(held(GRANT), joinable=False))
    proceed.set()
    assert [result(future) for future in futures] == [DONE] * 10
    # The one that callers cannot join has overtaken the queued flights.
    assert set(started[:4]) == set(grants[:4])
    assert GRANT in started[4:8]
    assert set(started) == {*grants, GRANT}


def test_an_unstored_result_does_not_wait_for_a_thread_of_its_target(
    flights: Flights, make_flight: MakeFlight, clock: ManualClock, timers: ManualTimers
) -> None:
    proceed = threading.Event()
    stored = threading.Event()

    def do(step: Step) -> None:
        stored.set()

    unstored = make_flight(steps_only(Wait(5, has_unstored_result=True), Load()), do, OTHER)
    future = flights.start(unstored, joinable=False)
    wait_until(lambda: len(timers.pending) == 1)
    held = [
        flights.start(
            make_flight(steps_only(Load()), lambda step: proceed.wait(TIMEOUT)), joinable=False
        )
        for _ in range(6)
    ]
    next_call(clock)()
    assert stored.wait(TIMEOUT)
    assert result(future) == DONE
    proceed.set()
    assert [result(each) for each in held] == [DONE] * 6


# No more threads, or the end of the interpreter


class NoMoreThreads(ThreadPoolExecutor):
    """Queues the work and raises, as `ThreadPoolExecutor` does when it can start no thread."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.queued: list[Callable[[], None]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.queued.append(lambda: fn(*args, **kwargs))
        raise RuntimeError("can't start new thread")


def test_a_step_is_performed_once_although_no_more_threads_can_be_started(
    make_flight: MakeFlight, timers: ManualTimers
) -> None:
    pool = NoMoreThreads(2)
    flights = Flights(2, lambda threads: pool, lambda: timers)
    seen: list[Step] = []

    def do(step: Step) -> str:
        seen.append(step)
        # An idle thread takes the same work from the queue.
        for work in pool.queued:
            work()
        return "done"

    def protocol() -> Protocol:
        assert (yield Load()) == "done"
        assert (yield AcquirePermit()) == "done"
        return DONE

    assert result(flights.join_or_start(GRANT, lambda: make_flight(protocol(), do))) == DONE
    assert seen == [Load(), AcquirePermit()]
    assert len(pool.queued) == 1
    close(flights)


def test_after_the_pool_has_shut_down_a_flight_runs_in_the_calling_thread(
    make_flight: MakeFlight, clock: ManualClock, timers: ManualTimers
) -> None:
    pool = thread_pool(2)
    flights = Flights(2, lambda threads: pool, lambda: timers)
    pool.shutdown()
    names: list[str] = []

    def do(step: Step) -> None:
        names.append(threading.current_thread().name)

    future = flights.join_or_start(
        GRANT, lambda: make_flight(steps_only(Load(), Wait(1), AcquirePermit()), do)
    )
    assert not future.done()
    next_call(clock)()
    assert future.done()
    assert names == [threading.current_thread().name] * 2
    close(flights)


# Closing


def test_closing_ends_the_wait_of_a_flight(
    flights: Flights, make_flight: MakeFlight, timers: ManualTimers
) -> None:
    def protocol() -> Protocol:
        assert (yield Wait(1000)) is False
        return DONE

    future = flights.join_or_start(GRANT, lambda: make_flight(protocol()))
    wait_until(lambda: len(timers.pending) == 1)
    close(flights)
    assert future.done()


def test_a_flight_that_starts_to_wait_during_closing_does_not_wait(
    flights: Flights, make_flight: MakeFlight, clock: ManualClock, timers: ManualTimers
) -> None:
    proceed, performing_step = threading.Event(), threading.Event()

    def do(step: Step) -> None:
        performing_step.set()
        assert proceed.wait(TIMEOUT)

    def protocol() -> Protocol:
        yield Load()
        assert (yield Wait(1000)) is False
        return DONE

    future = flights.join_or_start(GRANT, lambda: make_flight(protocol(), do))
    assert performing_step.wait(TIMEOUT)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(flights.close)
        wait_until(lambda: is_closed(flights))
        proceed.set()
        wait_until(lambda: len(timers.pending) == 1)
        next_call(clock)()
        closing.result(TIMEOUT)
    assert result(future) == DONE
    assert clock.seconds == 1_000


def test_closing_waits_for_an_unstored_result_until_its_timeout(
    flights: Flights, make_flight: MakeFlight, timers: ManualTimers
) -> None:
    returned: list[bool] = []

    def protocol() -> Protocol:
        returned.append((yield Wait(1, has_unstored_result=True)))
        return DONE

    flights.join_or_start(GRANT, lambda: make_flight(protocol()))
    wait_until(lambda: len(timers.pending) == 1)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(flights.close, 0.05)
        closing.result(TIMEOUT)
    assert returned == [False]


def test_a_flight_with_an_unstored_result_goes_on_during_closing(
    flights: Flights, make_flight: MakeFlight, clock: ManualClock, timers: ManualTimers
) -> None:
    returned: list[bool] = []

    def protocol() -> Protocol:
        returned.append((yield Wait(1, has_unstored_result=True)))
        returned.append((yield Wait(1, has_unstored_result=True)))
        return DONE

    flights.join_or_start(GRANT, lambda: make_flight(protocol()))
    wait_until(lambda: len(timers.pending) == 1)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(flights.close)
        wait_until(lambda: is_closed(flights))
        for count in (1, 2):
            wait_until(lambda: len(timers.pending) == 1)
            next_call(clock)()
            wait_until(lambda count=count: len(returned) == count)  # type: ignore[misc]
        closing.result(TIMEOUT)
    assert returned == [True, True]


def test_after_closing_no_flight_starts_and_later_makes_no_call(
    flights: Flights, make_flight: MakeFlight
) -> None:
    flights.close()
    flights.close()
    called: list[bool] = []
    flights.call_later(0, lambda: called.append(True))
    assert called == []
    with pytest.raises(InvalidInputError, match="closed"):
        flights.join_or_start(GRANT, lambda: make_flight(steps_only()))
    with pytest.raises(InvalidInputError, match="closed"):
        flights.start(make_flight(steps_only()), joinable=True)


def test_a_timer_that_fires_twice_resumes_its_flight_once(
    flights: Flights, make_flight: MakeFlight, clock: ManualClock, timers: ManualTimers
) -> None:
    future = flights.join_or_start(GRANT, lambda: make_flight(steps_only(Wait(1))))
    wait_until(lambda: len(timers.pending) == 1)
    call = next_call(clock)
    call()
    assert result(future) == DONE
    call()


# Timers by the real clock


@pytest.fixture
def thread_timers() -> Iterator[ThreadTimers]:
    made = ThreadTimers()
    made.start()
    yield made
    made.close()


def test_calls_are_made_in_the_order_of_their_time(thread_timers: ThreadTimers) -> None:
    seen: list[str] = []
    thread_timers.after(0.06, lambda: seen.append("late"))
    thread_timers.after(0.03, lambda: seen.append("early"))
    thread_timers.after(0.0, lambda: seen.append("at once"))
    thread_timers.after(0.0, lambda: seen.append("at once, second"))
    wait_until(lambda: len(seen) == 4)
    assert seen == ["at once", "at once, second", "early", "late"]


def test_closing_makes_all_scheduled_calls_and_later_ones_are_made_at_once(
    thread_timers: ThreadTimers,
) -> None:
    seen: list[str] = []
    thread_timers.after(1000, lambda: seen.append("late"))
    thread_timers.after(500, lambda: seen.append("early"))
    thread_timers.close()
    assert seen == ["early", "late"]
    thread_timers.after(1000, lambda: seen.append("after closing"))
    assert seen == ["early", "late", "after closing"]
    thread_timers.close()


def test_timers_that_were_never_started_can_be_closed() -> None:
    ThreadTimers().close()


def test_the_thread_of_the_timers_does_not_stop_a_process_from_ending() -> None:
    program = (
        "from blink_oauth_keeper.timers import ThreadTimers\n"
        "thread_timers = ThreadTimers()\n"
        "thread_timers.start()\n"
        "thread_timers.after(1000, lambda: print('late'))\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
