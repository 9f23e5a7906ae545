"""Flights and wake-ups, with protocols made up for the purpose."""

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
from blink_oauth_keeper.timers import Wakeups
from keeper.harness import TARGET, TIMEOUT, ManualClock, ManualTimers, wait_until

GRANT = Grant(TARGET, "u-4711")
OTHER = Grant(TARGET, "u-4712")
DONE = Result(shared_for=1.0)
EARLY = Result(shared_for=2.0)

Made = Generator[Step, Any, Result]


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def timers(clock: ManualClock) -> ManualTimers:
    return ManualTimers(clock)


@pytest.fixture
def flights(timers: ManualTimers) -> Iterator[Flights]:
    made = Flights(4, timers=lambda: timers)
    yield made
    close(made)


@pytest.fixture
def results() -> list[Result]:
    return []


Fly = Callable[..., Flight]


@pytest.fixture
def fly(results: list[Result]) -> Fly:
    """Make flights whose steps come to nothing, unless something is to be done."""

    def make(
        protocol: Made, do: Callable[[Step], Any] = lambda step: None, grant: Grant = GRANT
    ) -> Flight:
        return Flight(grant, protocol, do, results.append)

    return make


def straight(*steps: Step) -> Made:
    """Do some steps, and land."""
    for step in steps:  # noqa: UP028  what is sent in is nobody's business
        yield step
    return DONE


def result(future: Future[Result]) -> Result:
    return future.result(TIMEOUT)


def close(flights: Flights) -> None:
    """Close, and fail where a flight never comes to its end."""
    closing = threading.Thread(target=flights.close, daemon=True)
    closing.start()
    closing.join(TIMEOUT)
    assert not closing.is_alive()


def refuses(flights: Flights) -> bool:
    """Say whether nothing new begins any more."""
    try:
        flights.start(Flight(OTHER, straight(), lambda step: None, lambda _: None), joinable=False)
    except InvalidInputError:
        return True
    return False


def next_call(clock: ManualClock) -> Callable[[], None]:
    """Return the next call that waits for the time."""
    call = clock.move_to_next(1e9)
    assert call is not None
    return call


def test_a_flight_does_its_steps_in_a_thread_of_its_own(flights: Flights, fly: Fly) -> None:
    seen: list[tuple[Step, str]] = []

    def do(step: Step) -> str:
        seen.append((step, threading.current_thread().name))
        return "done"

    def protocol() -> Made:
        assert (yield Load()) == "done"
        assert (yield AcquirePermit()) == "done"
        return DONE

    assert result(flights.start(fly(protocol(), do), joinable=False)) == DONE
    assert [step for step, _ in seen] == [Load(), AcquirePermit()]
    assert all(name.startswith("blink-oauth-flight") for _, name in seen)


def test_the_result_is_known_before_those_who_wait_go_on(
    flights: Flights, fly: Fly, results: list[Result]
) -> None:
    future = flights.start(fly(straight()), joinable=False)
    known: list[Result] = []
    future.add_done_callback(lambda _: known.extend(results))
    assert result(future) == DONE
    wait_until(lambda: known == [DONE])


def test_an_error_of_a_step_is_thrown_into_the_protocol(flights: Flights, fly: Fly) -> None:
    def do(step: Step) -> None:
        raise StoreError("Away.")

    def protocol() -> Made:
        try:
            yield Load()
        except StoreError as error:
            return Result(None, error)
        return DONE

    error = result(flights.start(fly(protocol(), do), joinable=False)).error
    assert isinstance(error, StoreError)


def test_of_a_grant_one_flight_is_in_the_air_and_all_share_it(flights: Flights, fly: Fly) -> None:
    go = threading.Event()
    made: list[Flight] = []

    def make() -> Flight:
        made.append(fly(straight(Load()), lambda step: go.wait(TIMEOUT)))
        return made[-1]

    futures = [flights.share(GRANT, make) for _ in range(10)]
    elsewhere = flights.share(OTHER, lambda: fly(straight(), grant=OTHER))
    assert result(elsewhere) == DONE
    assert len(made) == 1
    assert len(set(futures)) == 1
    go.set()
    assert result(futures[0]) == DONE


def test_after_a_result_the_next_one_starts_anew(flights: Flights, fly: Fly) -> None:
    first = flights.share(GRANT, lambda: fly(straight()))
    result(first)
    assert flights.share(GRANT, lambda: fly(straight())) is not first


def test_who_asks_joins_a_flight_that_may_be_joined(flights: Flights, fly: Fly) -> None:
    go = threading.Event()
    joinable = fly(straight(Load()), lambda step: go.wait(TIMEOUT))
    alone = fly(straight(Load()), lambda step: go.wait(TIMEOUT), OTHER)
    flights.start(joinable, joinable=True)
    flights.start(alone, joinable=False)
    assert flights.share(GRANT, lambda: fly(straight())) is joinable.future
    assert flights.share(OTHER, lambda: fly(straight(), grant=OTHER)) is not alone.future
    go.set()


def test_a_second_joinable_flight_does_not_take_the_place_of_the_first(
    flights: Flights, fly: Fly
) -> None:
    go = threading.Event()
    first, second = (fly(straight(Load()), lambda step: go.wait(TIMEOUT)) for _ in range(2))
    flights.start(first, joinable=True)
    flights.start(second, joinable=True)
    assert flights.share(GRANT, lambda: fly(straight())) is first.future
    go.set()
    assert result(second.future) == DONE


def test_nobody_who_waits_can_cancel_a_flight(flights: Flights, fly: Fly) -> None:
    go = threading.Event()
    future = flights.start(fly(straight(Load()), lambda step: go.wait(TIMEOUT)), joinable=False)
    assert not future.cancel()
    go.set()
    assert result(future) == DONE


def test_a_flight_that_waits_holds_no_thread(
    flights: Flights, fly: Fly, clock: ManualClock, timers: ManualTimers
) -> None:
    futures = [
        flights.start(fly(straight(Wait(5)), grant=Grant(TARGET, f"u-{number}")), joinable=False)
        for number in range(20)
    ]
    wait_until(lambda: len(timers.pending) == 20)
    assert result(flights.share(GRANT, lambda: fly(straight()))) == DONE
    for _ in futures:
        next_call(clock)()
    assert [result(future) for future in futures] == [DONE] * 20
    assert clock.seconds == 1_005


def test_those_who_wait_may_go_on_before_the_flight_is_over(
    flights: Flights, fly: Fly, clock: ManualClock, timers: ManualTimers, results: list[Result]
) -> None:
    def protocol() -> Made:
        yield Publish(EARLY)
        assert (yield Wait(5, has_unsaved_result=True)) is True
        return DONE

    assert result(flights.share(GRANT, lambda: fly(protocol()))) == EARLY
    wait_until(lambda: len(timers.pending) == 1)
    assert result(flights.share(GRANT, lambda: fly(straight()))) == DONE
    next_call(clock)()
    close(flights)
    assert results == [EARLY, DONE]


def test_what_is_to_be_remembered_lets_nobody_go(
    flights: Flights, fly: Fly, clock: ManualClock, timers: ManualTimers, results: list[Result]
) -> None:
    future = flights.start(fly(straight(Publish(EARLY, done=False), Wait(5))), joinable=False)
    wait_until(lambda: len(timers.pending) == 1)
    assert results == [EARLY]
    assert not future.done()
    next_call(clock)()
    assert result(future) == DONE
    assert results == [EARLY, DONE]


@pytest.mark.parametrize("error", [RuntimeError("defect"), SystemExit(1)])
def test_a_flight_that_breaks_lets_nobody_wait_for_ever(
    flights: Flights, fly: Fly, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    def do(step: Step) -> None:
        raise error

    future = flights.share(GRANT, lambda: fly(straight(Load()), do))
    assert future.exception(TIMEOUT) is error
    assert "A flight broke" in caplog.text
    assert result(flights.share(GRANT, lambda: fly(straight()))) == DONE
    close(flights)


def test_a_flight_that_breaks_after_its_result_is_over_too(
    flights: Flights, fly: Fly, caplog: pytest.LogCaptureFixture
) -> None:
    def do(step: Step) -> None:
        raise RuntimeError("defect")

    future = flights.share(GRANT, lambda: fly(straight(Publish(EARLY), Load()), do))
    assert result(future) == EARLY
    close(flights)
    assert "A flight broke" in caplog.text


def test_what_breaks_when_the_result_is_told_lets_nobody_wait_for_ever(
    flights: Flights, caplog: pytest.LogCaptureFixture
) -> None:
    def finished(result: Result) -> None:
        raise RuntimeError("defect")

    flight = Flight(GRANT, straight(), lambda step: None, finished)
    future = flights.share(GRANT, lambda: flight)
    assert isinstance(future.exception(TIMEOUT), RuntimeError)
    close(flights)


def test_an_unknown_error_is_not_thrown_into_the_protocol(flights: Flights, fly: Fly) -> None:
    def do(step: Step) -> None:
        raise ValueError("defect")

    def protocol() -> Made:
        try:
            yield Load()
        except BlinkError:
            return DONE
        return EARLY

    future = flights.start(fly(protocol(), do), joinable=False)
    assert isinstance(future.exception(TIMEOUT), ValueError)


# Threads may run out, and interpreters end


class NoMoreThreads(ThreadPoolExecutor):
    """Keeps the work and fails, as the real one does where no more threads can be started."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self.kept: list[Callable[[], None]] = []

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        self.kept.append(lambda: fn(*args, **kwargs))
        raise RuntimeError("can't start new thread")


def test_a_step_is_done_once_where_no_more_threads_can_be_started(
    fly: Fly, timers: ManualTimers
) -> None:
    pool = NoMoreThreads(2)
    flights = Flights(2, lambda threads: pool, lambda: timers)
    seen: list[Step] = []

    def do(step: Step) -> str:
        seen.append(step)
        # A thread that is free comes to the same work.
        for work in pool.kept:
            work()
        return "done"

    def protocol() -> Made:
        assert (yield Load()) == "done"
        assert (yield AcquirePermit()) == "done"
        return DONE

    assert result(flights.share(GRANT, lambda: fly(protocol(), do))) == DONE
    assert seen == [Load(), AcquirePermit()]
    assert len(pool.kept) == 1
    close(flights)


def test_a_flight_lands_in_the_thread_that_asks_once_the_pool_takes_no_work(
    fly: Fly, clock: ManualClock, timers: ManualTimers
) -> None:
    pool = thread_pool(2)
    flights = Flights(2, lambda threads: pool, lambda: timers)
    pool.shutdown()
    names: list[str] = []

    def do(step: Step) -> None:
        names.append(threading.current_thread().name)

    future = flights.share(GRANT, lambda: fly(straight(Load(), Wait(1), AcquirePermit()), do))
    assert not future.done()
    next_call(clock)()
    assert future.done()
    assert names == [threading.current_thread().name] * 2
    close(flights)


# Closing


def test_closing_wakes_those_who_wait_in_vain(
    flights: Flights, fly: Fly, timers: ManualTimers
) -> None:
    def protocol() -> Made:
        assert (yield Wait(1000)) is False
        return DONE

    future = flights.share(GRANT, lambda: fly(protocol()))
    wait_until(lambda: len(timers.pending) == 1)
    close(flights)
    assert future.done()


def test_who_begins_to_wait_while_all_is_closing_does_not_wait(
    flights: Flights, fly: Fly, clock: ManualClock, timers: ManualTimers
) -> None:
    go, asked = threading.Event(), threading.Event()

    def do(step: Step) -> None:
        asked.set()
        assert go.wait(TIMEOUT)

    def protocol() -> Made:
        yield Load()
        assert (yield Wait(1000)) is False
        return DONE

    future = flights.share(GRANT, lambda: fly(protocol(), do))
    assert asked.wait(TIMEOUT)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(flights.close)
        wait_until(lambda: refuses(flights))
        go.set()
        wait_until(lambda: len(timers.pending) == 1)
        next_call(clock)()
        closing.result(TIMEOUT)
    assert result(future) == DONE
    assert clock.seconds == 1_000


def test_closing_waits_for_what_is_unsaved_but_not_for_ever(
    flights: Flights, fly: Fly, timers: ManualTimers
) -> None:
    answers: list[bool] = []

    def protocol() -> Made:
        answers.append((yield Wait(1, has_unsaved_result=True)))
        return DONE

    flights.share(GRANT, lambda: fly(protocol()))
    wait_until(lambda: len(timers.pending) == 1)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(flights.close, 0.05)
        closing.result(TIMEOUT)
    assert answers == [False]


def test_what_is_unsaved_goes_on_while_all_is_closing(
    flights: Flights, fly: Fly, clock: ManualClock, timers: ManualTimers
) -> None:
    answers: list[bool] = []

    def protocol() -> Made:
        answers.append((yield Wait(1, has_unsaved_result=True)))
        answers.append((yield Wait(1, has_unsaved_result=True)))
        return DONE

    flights.share(GRANT, lambda: fly(protocol()))
    wait_until(lambda: len(timers.pending) == 1)
    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(flights.close)
        wait_until(lambda: refuses(flights))
        for count in (1, 2):
            wait_until(lambda: len(timers.pending) == 1)
            next_call(clock)()
            wait_until(lambda count=count: len(answers) == count)  # type: ignore[misc]
        closing.result(TIMEOUT)
    assert answers == [True, True]


def test_after_closing_nothing_starts_and_nothing_is_called_later(
    flights: Flights, fly: Fly
) -> None:
    flights.close()
    flights.close()
    called: list[bool] = []
    flights.later(0, lambda: called.append(True))
    assert called == []
    with pytest.raises(InvalidInputError, match="closed"):
        flights.share(GRANT, lambda: fly(straight()))
    with pytest.raises(InvalidInputError, match="closed"):
        flights.start(fly(straight()), joinable=True)


def test_a_wakeup_that_comes_after_the_flight_has_been_woken_does_nothing(
    flights: Flights, fly: Fly, clock: ManualClock, timers: ManualTimers
) -> None:
    future = flights.share(GRANT, lambda: fly(straight(Wait(1))))
    wait_until(lambda: len(timers.pending) == 1)
    call = next_call(clock)
    call()
    assert result(future) == DONE
    call()


# Wake-ups by the real clock


@pytest.fixture
def wakeups() -> Iterator[Wakeups]:
    made = Wakeups()
    made.start()
    yield made
    made.close()


def test_calls_come_in_the_order_of_their_time(wakeups: Wakeups) -> None:
    seen: list[str] = []
    wakeups.after(0.06, lambda: seen.append("late"))
    wakeups.after(0.03, lambda: seen.append("early"))
    wakeups.after(0.0, lambda: seen.append("at once"))
    wakeups.after(0.0, lambda: seen.append("at once, but second"))
    wait_until(lambda: len(seen) == 4)
    assert seen == ["at once", "at once, but second", "early", "late"]


def test_closing_calls_all_who_wait_and_later_ones_at_once(wakeups: Wakeups) -> None:
    seen: list[str] = []
    wakeups.after(1000, lambda: seen.append("late"))
    wakeups.after(500, lambda: seen.append("early"))
    wakeups.close()
    assert seen == ["early", "late"]
    wakeups.after(1000, lambda: seen.append("after the end"))
    assert seen == ["early", "late", "after the end"]
    wakeups.close()


def test_wakeups_that_were_never_started_can_be_closed() -> None:
    Wakeups().close()


def test_the_thread_of_the_wakeups_keeps_no_process_alive() -> None:
    program = (
        "from blink_oauth_keeper.timers import Wakeups\n"
        "wakeups = Wakeups()\n"
        "wakeups.start()\n"
        "wakeups.after(1000, lambda: print('late'))\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
