"""One clock for sandbox, token manager and store, which a test advances."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import ParamSpec, TypedDict, TypeVar

from attrs import define, field

from blink_oauth.arguments import wrong_argument
from blink_oauth_keeper.flights import thread_pool
from blink_oauth_keeper.timers import ThreadTimers, Timers

__all__ = ["Clock", "ManagerOptions"]

P = ParamSpec("P")
R = TypeVar("R")

# About 3,000 years. After a much longer, mistyped jump, a float could no longer count seconds.
_MAX_ADVANCE_SECONDS = 1e11
_LATE = 0.001
"""Seconds that an advance goes beyond a planned call, so that no rounding leaves it before."""
_MOST_STOPS = 1_000
"""Planned calls at which one advance stops; a store that stays unavailable is tried each second."""


class ManagerOptions(TypedDict):
    """The arguments by which a `TokenManager` runs on a clock.

    Attributes:
        clock: Returns the current time, aware UTC.
        monotonic: Returns seconds that never go back.
        sleep: Advances the clock instead of waiting.
        new_timers: Makes timers that run when the clock is advanced.
        new_thread_pool: Makes executors whose calls an advance waits for.
    """

    clock: Callable[[], datetime]
    monotonic: Callable[[], float]
    sleep: Callable[[float], None]
    new_timers: Callable[[], Timers]
    new_thread_pool: Callable[[int], Executor]


@define(eq=False)
class _Work:
    """What the managers of a clock are doing, and when they will go on.

    Attributes:
        changed: Notified when work ends.
        unfinished: Number of calls that run or wait for a thread.
        planned: The planned calls: what wakes the timers of each, and when it is due by the
            monotonic clock.
    """

    changed: threading.Condition = field(init=False, factory=threading.Condition)
    unfinished: int = field(init=False, default=0)
    planned: dict[object, tuple[Callable[[], None], float]] = field(init=False, factory=dict)
    _local: threading.local = field(init=False, factory=threading.local)

    def add(self, number: int) -> None:
        """Change the number of unfinished calls."""
        with self.changed:
            self.unfinished += number
            self.changed.notify_all()

    def plan(self, call: object, wake: Callable[[], None], due: float) -> None:
        """Add a planned call."""
        with self.changed:
            self.planned[call] = wake, due

    def postpone(self, call: object, due: float) -> None:
        """Set anew when a planned call is due, unless it was made."""
        with self.changed:
            if call in self.planned:
                self.planned[call] = self.planned[call][0], due

    def drop(self, call: object) -> None:
        """Remove a planned call that was made."""
        with self.changed:
            self.planned.pop(call, None)
            self.changed.notify_all()

    def next_due(self) -> float:
        """Return when the next planned call is due, infinite without one."""
        return min((due for _, due in self.planned.values()), default=math.inf)

    @contextmanager
    def here(self) -> Iterator[None]:
        """Mark this thread as one that works."""
        self._local.works = True
        try:
            yield
        finally:
            self._local.works = False

    def is_here(self) -> bool:
        """Return whether this thread works."""
        return getattr(self._local, "works", False)


@define(eq=False)
class _CountedPool(Executor):
    """The keeper's thread pool, with its calls counted."""

    work: _Work
    pool: Executor

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        self.work.add(1)
        try:
            future = self.pool.submit(self._run, partial(fn, *args, **kwargs))
        except RuntimeError:
            self.work.add(-1)
            raise
        future.add_done_callback(lambda _: self.work.add(-1))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self.pool.shutdown(wait, cancel_futures=cancel_futures)

    def _run(self, call: Callable[[], R]) -> R:
        with self.work.here():
            return call()


@define(eq=False)
class _PlannedCalls:
    """The keeper's timers, with their calls noted."""

    work: _Work
    timers: ThreadTimers

    def start(self) -> None:
        self.timers.start()

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        planned = object()

        def run() -> None:
            try:
                with self.work.here():
                    call()
            finally:
                self.work.drop(planned)

        self.work.plan(planned, self.timers.wake, math.inf)
        self.timers.after(seconds, run)
        # Read after the timers have read the clock: a call that is due here is due there too.
        self.work.postpone(planned, self.timers.monotonic() + seconds)

    def close(self) -> None:
        self.timers.close()


@define(eq=False)
class Clock:
    """A clock that runs as real time does, and can be advanced. Threads may share it.

    ```python
    clock = sandbox.clock
    blink = BlinkOAuth(sandbox.settings(), clock=clock.now)
    store = MemoryTokenStore(clock=clock.now)
    manager = TokenManager(blink, store, **clock.manager_options())
    ```

    Attributes:
        source: Returns the unadvanced time, in seconds since the epoch.
        ahead: Seconds added to the time of the source.
        patience: Real seconds that an advance waits for the refreshes begun, longer than any call
            of a client takes.
    """

    source: Callable[[], float] = time.time
    ahead: float = 0.0
    patience: float = 60.0
    _elapsed: float = field(init=False, default=0.0)
    _read: float = field(init=False)
    _work: _Work = field(init=False, factory=_Work)
    _reading: threading.Lock = field(init=False, factory=threading.Lock)
    _advancing: threading.Lock = field(init=False, factory=threading.Lock)

    @_read.default
    def _first_reading(self) -> float:
        return self()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(ahead={self.ahead})"

    def __call__(self) -> float:
        """Return the time in seconds since the epoch."""
        return self.source() + self.ahead

    def now(self) -> datetime:
        """Return the time, aware UTC: the `clock` of a client, a manager or a store."""
        return datetime.fromtimestamp(self(), UTC)

    def monotonic(self) -> float:
        """Return seconds that advance with the clock, and do not go back when it is reset."""
        with self._reading:
            now = self()
            self._elapsed += max(0.0, now - self._read)
            self._read = now
            return self._elapsed

    def manager_options(self) -> ManagerOptions:
        """Return the arguments by which a `TokenManager` runs on this clock.

        Its waits end when the clock is advanced beyond them, and where it sleeps, between refreshes
        at a target with a limited rate, it advances the clock. The `timeout` of a caller and the
        timeouts of the client stay in real time.
        """
        return ManagerOptions(
            clock=self.now,
            monotonic=self.monotonic,
            sleep=lambda seconds: self.advance(seconds=seconds),
            new_timers=lambda: _PlannedCalls(self._work, ThreadTimers(self.monotonic)),
            new_thread_pool=lambda threads: _CountedPool(self._work, thread_pool(threads)),
        )

    def advance(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> None:
        """Advance the time, and with it the age of codes and tokens.

        The refreshes that a manager on this clock has begun end before. What a manager plans to do
        in the time between, such as a replay, it does at its time (the first 1,000 such calls), and
        all of it is done when this returns. An advance by 0 only waits for the refreshes begun.
        From a listener of events it moves the clock at once.

        Args:
            days: Days to add.
            hours: Hours to add.
            minutes: Minutes to add.
            seconds: Seconds to add; the sum is from 0 to 1e11 seconds.

        Raises:
            ValueError: The sum is out of range, or an argument is no number.
            RuntimeError: A refresh has not ended in time. The clock may be advanced in part.
        """
        parts = {"days": days, "hours": hours, "minutes": minutes, "seconds": seconds}
        for name, value in parts.items():
            if not isinstance(value, (int, float)):
                raise wrong_argument(name, value, "a number", "1.5")
        left = days * 86_400 + hours * 3_600 + minutes * 60 + seconds
        if not 0 <= left <= _MAX_ADVANCE_SECONDS:
            raise ValueError("The clock cannot go backwards, or forward by more than 1e11 seconds.")
        if self._work.is_here():
            # The refresh that calls the listener cannot end before the listener returns.
            self._move(left)
            return
        with self._advancing:
            for stops_left in reversed(range(_MOST_STOPS)):
                left -= self._move_when_idle(left, may_stop=stops_left > 0)
                if left <= 0:
                    break
            with self._work.changed:
                self._wait_until_idle()

    def _move_when_idle(self, longest: float, *, may_stop: bool) -> float:
        """Advance at once, at most to the next planned call, and return by how many seconds."""
        with self._work.changed:
            self._wait_until_idle()
            next_call = self._work.next_due() - self.monotonic() + _LATE
            seconds = min(longest, next_call) if may_stop else longest
            self._move(seconds)
            wakes = [wake for wake, _ in self._work.planned.values()]
        for wake in wakes:
            wake()
        return seconds

    def _move(self, seconds: float) -> None:
        with self._work.changed:
            self.ahead += seconds

    def _wait_until_idle(self) -> None:
        if not self._work.changed.wait_for(self._is_idle, self.patience):
            raise RuntimeError(
                f"A refresh has not ended within {self.patience:g} s: the clock stays at this time."
            )

    def _is_idle(self) -> bool:
        return not self._work.unfinished and self._work.next_due() > self.monotonic()
