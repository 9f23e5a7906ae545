"""Single flight: at most one refresh of a grant at a time in a process, whoever asks.

A flight is one run of a protocol, driven by threads of the manager. It belongs to the manager, not
to its callers: a caller may stop waiting, the flight goes on. A flight that waits holds no thread.
"""

from __future__ import annotations

import copy
import logging
import threading
from asyncio import wait_for, wrap_future
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any

from attrs import define, evolve, field

from blink_oauth.context import Grant, Psu
from blink_oauth.errors import BlinkError, InvalidInputError
from blink_oauth.tokens import Secret, Token

from . import consent
from .cache import Cache
from .errors import RefreshPendingError
from .executor import SETTLING, StepExecutor
from .policy import Need, is_usable
from .processes import close_at_exit, reset_after_fork
from .profile import TargetProfile
from .refresh import new_owner, refresh, refresh_claimed, release_unspent
from .steps import Job, Publish, Result, Step, Steps, Wait
from .store.protocol import GrantKey, Record
from .timers import ThreadTimers, Timers

__all__ = [
    "CLOSING_SECONDS",
    "Flight",
    "Flights",
    "SingleFlight",
    "remaining",
    "require_no_error",
    "thread_pool",
    "token_for_caller",
    "token_of",
]

CLOSING_SECONDS = 10.0
"""Seconds for which closing waits for a store that takes no results."""

logger = logging.getLogger("blink_oauth_keeper")


def thread_pool(threads: int) -> Executor:
    """Make an executor with so many threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="blink-oauth-flight")


@define(eq=False)
class Flight:
    """One run of a protocol.

    Attributes:
        grant: Whose token it is about.
        steps: The protocol's generator.
        perform: Performs a step and returns what it returns.
        finished: Is called with the result, before those who wait get it.
        future: What those who wait wait for.
    """

    grant: Grant
    steps: Steps
    perform: Callable[[Step], Any]
    finished: Callable[[Result], None]
    future: Future[Result] = field(init=False, factory=Future)

    def __attrs_post_init__(self) -> None:
        # From now on nobody who waits can cancel it.
        self.future.set_running_or_notify_cancel()


@define(eq=False)
class Flights:
    """Drives the flights of a manager, and shares those that may be shared.

    Args:
        threads: How many steps may be performed at the same time.
        executor: Makes the threads, given their number; a forked child makes others.
        timers: Makes what wakes up the flights that wait; a forked child makes another one.
    """

    threads: int
    executor: Callable[[int], Executor] = thread_pool
    timers: Callable[[], Timers] = ThreadTimers
    _lock: threading.Lock = field(init=False)
    _all_over: threading.Condition = field(init=False)
    _timers: Timers = field(init=False)
    _shared: dict[Grant, Flight] = field(init=False)
    _in_progress: set[Flight] = field(init=False)
    _waiting: dict[Flight, bool] = field(init=False)
    _unsettled: set[Flight] = field(init=False)
    _pool: Executor | None = field(init=False)
    _closing: bool = field(init=False)
    _out_of_time: bool = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.reset()
        reset_after_fork(self, Flights.reset)
        close_at_exit(self)

    def reset(self) -> None:
        """Begin with nothing in progress; what a parent process has is the parent's."""
        self._lock = threading.Lock()
        self._all_over = threading.Condition(self._lock)
        self._timers = self.timers()
        self._shared, self._in_progress, self._waiting, self._unsettled = {}, set(), {}, set()
        self._pool = None
        self._closing = self._out_of_time = False

    def join_or_start(self, grant: Grant, make: Callable[[], Flight]) -> Future[Result]:
        """Join the flight of a grant that is in progress, or start one.

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
        # Not under the lock: at the end of the interpreter it runs in this very thread.
        self._submit(flight, None)
        return flight.future

    def start(self, flight: Flight, *, joinable: bool) -> Future[Result]:
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
        """Say whether a flight of a grant has published a result that is not stored yet."""
        with self._lock:
            return any(flight.grant == grant for flight in self._unsettled)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call back after some seconds, if nothing is closing by then."""
        if not self._closing:
            self._timers.after(seconds, call)

    def close(self, timeout: float = CLOSING_SECONDS) -> None:
        """Let the flights in progress finish, then end the threads.

        Args:
            timeout: Seconds to wait for results that the store does not take.
        """
        with self._lock:
            self._closing = True
            idle = [flight for flight, unsaved in self._waiting.items() if not unsaved]
        for flight in idle:
            self._wake(flight)
        with self._all_over:
            self._all_over.wait_for(lambda: not self._in_progress, timeout)
            self._out_of_time = True
            rest = list(self._waiting)
        for flight in rest:
            self._wake(flight)
        with self._all_over:
            self._all_over.wait_for(lambda: not self._in_progress)
        self._timers.close()
        if self._pool is not None:
            self._pool.shutdown()

    def _announce(self, flight: Flight) -> None:
        if self._closing:
            raise InvalidInputError("The manager is closed. Nothing was sent.")
        if self._pool is None:
            self._timers.start()
            self._pool = self.executor(self.threads)
        self._in_progress.add(flight)

    def _submit(self, flight: Flight, returned: object) -> None:
        assert self._pool is not None
        once = [returned]
        try:
            self._pool.submit(self._run, flight, once)
        except RuntimeError:
            # The interpreter is about to end, or there are no more threads: then the flight runs
            # here. The pool may have kept the work all the same; the first to take it does it.
            self._run(flight, once)

    def _run(self, flight: Flight, once: list[Any]) -> None:
        try:
            returned = once.pop()
        except IndexError:
            return
        try:
            end = self._drive(flight, returned)
            if isinstance(end, Wait):
                self._pause(flight, end)
                return
            self._publish(flight, end)
        except BaseException as error:
            # Whatever it is, nobody must wait for ever; the lease in the store will run out.
            logger.exception("A flight broke.")
            self._leave(flight)
            if not flight.future.done():
                flight.future.set_exception(error)
        with self._all_over:
            self._in_progress.discard(flight)
            self._unsettled.discard(flight)
            self._all_over.notify_all()

    def _drive(self, flight: Flight, returned: Any) -> Wait | Result:
        """Perform one step after the other, until the protocol wants to wait or is over."""
        try:
            step = flight.steps.send(returned)
            while not isinstance(step, Wait):
                if isinstance(step, Publish):
                    self._publish_early(flight, step)
                    step = flight.steps.send(None)
                    continue
                try:
                    returned = flight.perform(step)
                except BlinkError as error:
                    step = flight.steps.throw(error)
                else:
                    step = flight.steps.send(returned)
        except StopIteration as stop:
            result: Result = stop.value
            return result
        return step

    def _pause(self, flight: Flight, step: Wait) -> None:
        with self._lock:
            over = self._out_of_time or (self._closing and not step.has_unsaved_result)
            self._waiting[flight] = step.has_unsaved_result
        self._timers.after(0.0 if over else step.seconds, lambda: self._wake(flight))

    def _wake(self, flight: Flight) -> None:
        with self._lock:
            unsaved = self._waiting.pop(flight, None)
            if unsaved is None:
                return
            going_on = not (self._out_of_time or (self._closing and not unsaved))
        self._submit(flight, going_on)

    def _publish_early(self, flight: Flight, step: Publish) -> None:
        if not step.done:
            flight.finished(step.result)
            return
        with self._lock:
            self._unsettled.add(flight)
        self._publish(flight, step.result)

    def _publish(self, flight: Flight, result: Result) -> None:
        if flight.future.done():
            return
        flight.finished(result)
        self._leave(flight)
        flight.future.set_result(result)

    def _leave(self, flight: Flight) -> None:
        with self._lock:
            if self._shared.get(flight.grant) is flight:
                del self._shared[flight.grant]


def token_for_caller(
    result: Result, need: Need, profile: TargetProfile, now: datetime
) -> Token | None:
    """Return the token that a result has for a caller, or None if another flight is needed.

    A token that is still good is served whatever went wrong. One that the flight itself got from
    the bank is served however short it lives: another would not live longer. A caller who forced a
    refresh gets only what came while the flight was in progress.

    Raises:
        BlinkError: What went wrong, as an exception of this caller's own.
    """
    record = result.record
    if record is not None:
        brought = result.obtained and record.generation > need.newer_than
        enough = result.newer or not need.forced
        if brought or (enough and is_usable(record, need, profile, now)):
            return record.token
    # Many callers share the error; each raises a copy, since raising changes it.
    require_no_error(result)
    return None


def token_of(result: Result) -> Token:
    """Return the token that an authorization brought.

    Raises:
        BlinkError: It brought none.
    """
    require_no_error(result)
    assert result.record is not None
    assert result.record.token is not None
    return result.record.token


def require_no_error(result: Result) -> None:
    """Raise what went wrong, if anything did."""
    if result.error is not None:
        raise copy.copy(result.error)


def remaining(timeout: float | None, monotonic: Callable[[], float]) -> Callable[[], float | None]:
    """Start a caller's time, and return what tells how many seconds of it are left."""
    if timeout is None:
        return lambda: None
    end = monotonic() + timeout
    return lambda: max(0.0, end - monotonic())


def overdue() -> RefreshPendingError:
    """Build the error for a caller whose own time is over."""
    return RefreshPendingError(
        "The refresh took longer than you wanted to wait. It goes on, and its result will be "
        "stored: ask again."
    )


MARGIN = 5.0
"""Seconds to wait on for somebody else's refresh once its lease has ended."""


@define(eq=False)
class SingleFlight:
    """What callers ask: gives them a token at hand, or lets them wait for one flight.

    Args:
        flights: Drives the flights.
        executor: Performs their steps.
        cache: What is at hand.
        profiles: What is known of single targets, by their ids.
        profile: What is assumed of all others.
        client_id: Whose grants.
        lease: Seconds that a lease lasts.
        deadline: Seconds that one call to the bank takes at most.
        now: Tells the time, aware UTC.
        monotonic: Tells the seconds, never backwards.
        random: Makes a number from 0 to below 1.
    """

    flights: Flights
    executor: StepExecutor
    cache: Cache
    profiles: Mapping[str, TargetProfile]
    profile: TargetProfile
    client_id: str
    lease: float
    deadline: float
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    random: Callable[[], float]

    def key(self, grant: Grant) -> GrantKey:
        """Return the identity of a grant in the store.

        Raises:
            InvalidInputError: It is no grant.
        """
        if not isinstance(grant, Grant):
            raise InvalidInputError(
                f"The grant must be a Grant, but it is a {type(grant).__name__}. Nothing was sent."
            )
        return GrantKey(self.client_id, grant)

    def profile_of(self, target_id: str) -> TargetProfile:
        """Return what is known of a target."""
        return self.profiles.get(target_id, self.profile)

    def get(self, grant: Grant, wanted: Need, psu: Psu, timeout: float | None) -> Token:
        """Return a token that does, or raise why there is none; the thread waits for it.

        Args:
            grant: Whose token.
            wanted: What it must be good for.
            psu: The person who waits for it, if one does.
            timeout: Seconds to wait at most.

        Raises:
            BlinkError: There is none, or not in time.
        """
        left = remaining(timeout, self.monotonic)
        asked = self._ask(grant, wanted, psu)
        while isinstance(asked, Future):
            try:
                result = asked.result(left())
            except TimeoutError:
                raise overdue() from None
            asked = self._consider(grant, result, wanted, psu)
        return asked

    async def aget(self, grant: Grant, wanted: Need, psu: Psu, timeout: float | None) -> Token:
        """Do what `get` does; the coroutine waits for it."""
        left = remaining(timeout, self.monotonic)
        asked = self._ask(grant, wanted, psu)
        while isinstance(asked, Future):
            try:
                result = await wait_for(wrap_future(asked), left())
            except TimeoutError:
                raise overdue() from None
            asked = self._consider(grant, result, wanted, psu)
        return asked

    def exchange(self, grant: Grant, code: Secret, redirect_uri: str, psu: Psu) -> Future[Result]:
        """Start the exchange of a code."""
        job = evolve(self._job(grant, psu), code=code, redirect_uri=redirect_uri)
        return self.flights.start(self._flight(job, consent.authorize(job)), joinable=False)

    def revocation(self, grant: Grant, psu: Psu) -> Future[Result]:
        """Start a revocation."""
        job = self._job(grant, psu)
        return self.flights.start(self._flight(job, consent.revoke(job)), joinable=False)

    def refresh_claimed(self, claim: Record, claimed_at: float) -> Future[Result]:
        """Start the refresh of a record whose lease is taken."""
        if self.cache.has_newer(claim):
            self.release(claim, pause=SETTLING)
            over: Future[Result] = Future()
            over.set_result(Result(claim))
            return over
        job = self._job(claim.key.grant, Psu.AUTO)
        flight = self._flight(job, refresh_claimed(job, claim, claimed_at))
        return self.flights.start(flight, joinable=True)

    def release(self, claim: Record, *, pause: float = 0.0) -> None:
        """Give a lease back under which nothing was begun."""
        job = self._job(claim.key.grant, Psu.AUTO)
        self.executor.perform(job, evolve(release_unspent(job, claim), pause=pause))

    def _ask(self, grant: Grant, wanted: Need, psu: Psu) -> Token | Future[Result]:
        job = self._job(grant, psu, wanted)
        held = self.cache.get(grant, job.need, job.profile)
        failed = self.cache.failure(grant)
        if held is not None:
            if failed is None and self.now() >= held.fresh_until:
                self._refresh_in_background(grant)
            return held.token
        if failed is not None:
            return self._consider(grant, failed, wanted, psu)
        return self._share(job)

    def _consider(
        self, grant: Grant, result: Result, wanted: Need, psu: Psu
    ) -> Token | Future[Result]:
        """Return the token that a result has for a caller, or another flight to wait for."""
        # Made anew: a generation may have been refused since the caller asked.
        job = self._job(grant, psu, wanted)
        token = token_for_caller(result, job.need, job.profile, self.now())
        return self._share(job) if token is None else token

    def _refresh_in_background(self, grant: Grant) -> None:
        # Not if everything is closing.
        with suppress(InvalidInputError):
            self._share(self._job(grant, Psu.AUTO, Need(early=True)))

    def _share(self, job: Job) -> Future[Result]:
        return self.flights.join_or_start(job.key.grant, lambda: self._flight(job, refresh(job)))

    def _job(self, grant: Grant, psu: Psu, wanted: Need | None = None) -> Job:
        key = self.key(grant)
        return Job(
            key=key,
            profile=self.profile_of(grant.target_id),
            need=evolve(wanted or Need(), newer_than=self.cache.refused.get(grant, 0)),
            psu=psu,
            actor="auto" if psu == Psu.AUTO else "psu",
            lease=self.lease,
            deadline=self.deadline,
            max_wait=self.lease + MARGIN,
            failures=self.cache.failures.get(grant, 0),
            now=self.now,
            monotonic=self.monotonic,
            random=self.random,
            new_owner=new_owner,
        )

    def _flight(self, job: Job, steps: Steps) -> Flight:
        perform, finished = partial(self.executor.perform, job), partial(self._finished, job)
        return Flight(job.key.grant, steps, perform, finished)

    def _finished(self, job: Job, result: Result) -> None:
        grant = job.key.grant
        self.cache.update(grant, result, job.profile)
        if result.refresh_in is not None:
            self.flights.call_later(result.refresh_in, partial(self._refresh_in_background, grant))
