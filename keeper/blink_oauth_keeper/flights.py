"""Flights: the protocol's generators, driven by threads of the manager.

A flight belongs to the manager, not to its callers: a caller may stop waiting, the flight goes on.
There is at most one refresh of a grant at a time in a process. A flight that waits holds no thread.
"""

from __future__ import annotations

import atexit
import heapq
import itertools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, Protocol

from attrs import define, field

from blink_oauth.context import Grant
from blink_oauth.errors import BlinkError, InvalidInputError

from .steps import Land, Landing, Step, Steps, Wait

__all__ = [
    "CLOSING_SECONDS",
    "Flight",
    "Flights",
    "Timers",
    "Wakeups",
    "renew_after_fork",
    "thread_pool",
]


class Renewable(Protocol):
    """Something with threads or locks that a forked child cannot go on with."""

    def renew(self) -> None:
        """Start anew, in the child."""


class Closeable(Protocol):
    """Something with work in progress."""

    def close(self) -> None:
        """Bring it to an end."""


_renewed: weakref.WeakSet[Renewable] = weakref.WeakSet()
_closed: weakref.WeakSet[Closeable] = weakref.WeakSet()


def renew_after_fork(thing: Renewable) -> None:
    """Renew a thing in each forked child, as long as it exists."""
    _renewed.add(thing)


def close_at_exit(thing: Closeable) -> None:
    """Close a thing before the process ends, if it exists then."""
    _closed.add(thing)


def _renew_all() -> None:
    for thing in list(_renewed):
        thing.renew()


def _close_all() -> None:
    for thing in list(_closed):
        thing.close()


os.register_at_fork(after_in_child=_renew_all)
atexit.register(_close_all)


class Timers(Protocol):
    """What calls back after a while."""

    def start(self) -> None:
        """Start what it needs; called once, before the first call of `after`."""

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call back once after some seconds, or at once if it is closed."""

    def close(self) -> None:
        """Call back everybody who waits, at once, and all later ones too."""


@define(eq=False)
class Wakeups:
    """Calls back after a while, from one thread of its own that keeps no process alive.

    The calls must be short: they hand work to somebody else.

    Args:
        monotonic: Tells the seconds, never backwards; they pass as the real ones do.
    """

    monotonic: Callable[[], float] = time.monotonic
    _heap: list[tuple[float, int, Callable[[], None]]] = field(init=False, factory=list)
    _order: itertools.count[int] = field(init=False, factory=itertools.count)
    _changed: threading.Condition = field(init=False, factory=threading.Condition)
    _thread: threading.Thread | None = field(init=False, default=None)
    _closed: bool = field(init=False, default=False)

    def start(self) -> None:
        """Start the thread. Later it may be too late: an interpreter that ends starts none."""
        thread = threading.Thread(target=self._run, name="blink-oauth-wakeups", daemon=True)
        thread.start()
        self._thread = thread

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call back after some seconds, or at once if everything is closing."""
        with self._changed:
            if not self._closed:
                heapq.heappush(self._heap, (self.monotonic() + seconds, next(self._order), call))
                self._changed.notify()
                return
        call()

    def close(self) -> None:
        """Call back everybody who waits, at once, and all later ones too."""
        with self._changed:
            self._closed = True
            waiting = [call for _, _, call in sorted(self._heap)]
            self._heap.clear()
            self._changed.notify()
        for call in waiting:
            call()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._closed and not self._due():
                    left = self._heap[0][0] - self.monotonic() if self._heap else None
                    self._changed.wait(left)
                if self._closed:
                    return
                _, _, call = heapq.heappop(self._heap)
            call()

    def _due(self) -> bool:
        return bool(self._heap) and self._heap[0][0] <= self.monotonic()


CLOSING_SECONDS = 10.0
"""Seconds for which closing waits for a store that does not take a result."""

logger = logging.getLogger("blink_oauth_keeper")


def thread_pool(threads: int) -> Executor:
    """Make an executor with so many threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="blink-oauth-flight")


@define(eq=False)
class Flight:
    """One run of the protocol.

    Attributes:
        grant: Whose token it is about.
        steps: The generator.
        do: Does a step and returns its result.
        landed: Called with the landing, before those who wait are let go.
        future: What those who wait wait for.
    """

    grant: Grant
    steps: Steps
    do: Callable[[Step], Any]
    landed: Callable[[Landing], None]
    future: Future[Landing] = field(init=False, factory=Future)

    def __attrs_post_init__(self) -> None:
        # From now on nobody who waits can cancel it.
        self.future.set_running_or_notify_cancel()


@define(eq=False)
class Flights:
    """All flights of a manager.

    Args:
        threads: How many steps may be done at the same time.
        executor: Makes what does the steps, given `threads`; a forked child makes another one.
        timers: Makes what calls back those who wait; a forked child makes another one.
    """

    threads: int
    executor: Callable[[int], Executor] = thread_pool
    timers: Callable[[], Timers] = Wakeups
    _lock: threading.Lock = field(init=False)
    _all_down: threading.Condition = field(init=False)
    _wakeups: Timers = field(init=False)
    _shared: dict[Grant, Flight] = field(init=False)
    _aloft: set[Flight] = field(init=False)
    _waiting: dict[Flight, bool] = field(init=False)
    _unsettled: set[Flight] = field(init=False)
    _pool: Executor | None = field(init=False)
    _closing: bool = field(init=False)
    _out_of_time: bool = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.renew()
        renew_after_fork(self)
        close_at_exit(self)

    def renew(self) -> None:
        """Begin with nothing in the air; what a parent process has there is the parent's."""
        self._lock = threading.Lock()
        self._all_down = threading.Condition(self._lock)
        self._wakeups = self.timers()
        self._shared, self._aloft, self._waiting, self._unsettled = {}, set(), {}, set()
        self._pool = None
        self._closing = self._out_of_time = False

    def share(self, grant: Grant, make: Callable[[], Flight]) -> Future[Landing]:
        """Return the flight of a grant that is in the air, or start one.

        Raises:
            InvalidInputError: Everything is closed.
        """
        with self._lock:
            flight = self._shared.get(grant)
            if flight is not None:
                return flight.future
            flight = make()
            self._announce(flight)
            self._shared[grant] = flight
        # Not under the lock: at the end of the interpreter it flies in this very thread.
        self._submit(flight, None)
        return flight.future

    def start(self, flight: Flight, *, joinable: bool) -> Future[Landing]:
        """Start a flight.

        Args:
            flight: The flight.
            joinable: Whether others who ask for its grant are to wait for it.

        Raises:
            InvalidInputError: Everything is closed.
        """
        with self._lock:
            self._announce(flight)
            if joinable:
                self._shared.setdefault(flight.grant, flight)
        self._submit(flight, None)
        return flight.future

    def unsettled(self, grant: Grant) -> bool:
        """Say whether a flight of a grant has something to write that others know already."""
        with self._lock:
            return any(flight.grant == grant for flight in self._unsettled)

    def later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call back after some seconds, if nothing is closing by then."""
        if not self._closing:
            self._wakeups.after(seconds, call)

    def close(self, timeout: float = CLOSING_SECONDS) -> None:
        """Let what is in the air land, then end the threads.

        Args:
            timeout: Seconds to wait for results that the store does not take.
        """
        with self._lock:
            self._closing = True
            idle = [flight for flight, laden in self._waiting.items() if not laden]
        for flight in idle:
            self._wake(flight)
        with self._all_down:
            self._all_down.wait_for(lambda: not self._aloft, timeout)
            self._out_of_time = True
            rest = list(self._waiting)
        for flight in rest:
            self._wake(flight)
        with self._all_down:
            self._all_down.wait_for(lambda: not self._aloft)
        self._wakeups.close()
        if self._pool is not None:
            self._pool.shutdown()

    def _announce(self, flight: Flight) -> None:
        if self._closing:
            raise InvalidInputError("The manager is closed. Nothing was sent.")
        if self._pool is None:
            self._wakeups.start()
            self._pool = self.executor(self.threads)
        self._aloft.add(flight)

    def _submit(self, flight: Flight, result: object) -> None:
        assert self._pool is not None
        turn = [result]
        try:
            self._pool.submit(self._fly, flight, turn)
        except RuntimeError:
            # The interpreter is about to end, or there are no more threads: what is laden lands
            # here. The pool may have kept the turn; whoever takes it first has it.
            self._fly(flight, turn)

    def _fly(self, flight: Flight, turn: list[Any]) -> None:
        try:
            result = turn.pop()
        except IndexError:
            return
        try:
            try:
                step = flight.steps.send(result)
                while not isinstance(step, Wait):
                    step = self._next(flight, step)
            except StopIteration as stop:
                self._land(flight, stop.value)
            else:
                self._pause(flight, step)
                return
        except BaseException as error:
            # Whatever it is, nobody must wait for ever; the lease in the store will run out.
            logger.exception("A flight broke.")
            self._fail(flight, error)
        self._down(flight)

    def _next(self, flight: Flight, step: Step) -> Step:
        if isinstance(step, Land):
            if step.done:
                with self._lock:
                    self._unsettled.add(flight)
                self._land(flight, step.landing)
            else:
                flight.landed(step.landing)
            return flight.steps.send(None)
        try:
            result = flight.do(step)
        except BlinkError as error:
            return flight.steps.throw(error)
        return flight.steps.send(result)

    def _pause(self, flight: Flight, step: Wait) -> None:
        with self._lock:
            over = self._out_of_time or (self._closing and not step.laden)
            self._waiting[flight] = step.laden
        self._wakeups.after(0.0 if over else step.seconds, lambda: self._wake(flight))

    def _wake(self, flight: Flight) -> None:
        with self._lock:
            laden = self._waiting.pop(flight, None)
            if laden is None:
                return
            going_on = not (self._out_of_time or (self._closing and not laden))
        self._submit(flight, going_on)

    def _land(self, flight: Flight, landing: Landing) -> None:
        if flight.future.done():
            return
        flight.landed(landing)
        self._leave(flight)
        flight.future.set_result(landing)

    def _fail(self, flight: Flight, error: BaseException) -> None:
        self._leave(flight)
        if not flight.future.done():
            flight.future.set_exception(error)

    def _leave(self, flight: Flight) -> None:
        with self._lock:
            if self._shared.get(flight.grant) is flight:
                del self._shared[flight.grant]

    def _down(self, flight: Flight) -> None:
        with self._all_down:
            self._aloft.discard(flight)
            self._unsettled.discard(flight)
            self._all_down.notify_all()
