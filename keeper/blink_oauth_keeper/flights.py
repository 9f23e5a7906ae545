"""Single flight: all callers of a grant in a process share one refresh at a time.

A flight is one run of a protocol, driven by threads of the manager. It belongs to the manager, not
to its callers: if a caller stops waiting, the flight goes on. A flight that waits holds no thread.
"""

from __future__ import annotations

import copy
import threading
from asyncio import wait_for, wrap_future
from collections import Counter, deque
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from attrs import define, evolve, field

from blink_oauth.arguments import GRANT, PSU, require_type
from blink_oauth.context import Grant, Psu
from blink_oauth.errors import BlinkError, InvalidInputError
from blink_oauth.tokens import Secret, Token

from . import consent
from .cache import Cache
from .clocks import Moment
from .errors import RefreshPendingError, StoreError
from .executor import UNSTORED_POLL, StepExecutor, harmless
from .policy import Attempt, Need, decide, is_newer, is_usable
from .processes import close_at_exit, reset_after_fork
from .profile import TargetProfile
from .refresh import look, new_owner, refresh, refresh_claimed, release_unspent
from .steps import Job, Publish, Result, Step, Steps, Wait
from .store.protocol import GrantKey, Record
from .store.rules import is_pseudonym
from .timers import ThreadTimers, Timers

__all__ = [
    "CLOSING_SECONDS",
    "Flight",
    "Flights",
    "SingleFlight",
    "authorized_token",
    "remaining",
    "require_no_error",
    "require_open",
    "thread_pool",
    "token_for_caller",
]

CLOSING_SECONDS = 10.0
"""Seconds for which closing waits for results that the store does not take."""

TARGETS_AT_LEAST = 2
"""The number of targets whose flights can use all the threads that a target may use."""


def thread_pool(threads: int) -> Executor:
    """Return an executor with this number of threads."""
    return ThreadPoolExecutor(threads, thread_name_prefix="blink-oauth-flight")


REFRESH, LOOK = "refresh", "look"
"""The kinds of flights that are shared: `refresh` may call the bank, `look` reads the store."""


@define(eq=False)
class Flight:
    """One run of a protocol.

    Attributes:
        grant: The grant.
        steps: The protocol's generator.
        perform: Performs a step and returns its return value.
        on_result: Receives each published result before the callers do.
        future: The result for the callers.
        shared_as: The kind and grant under which later callers join it, or None.
    """

    grant: Grant
    steps: Steps
    perform: Callable[[Step], Any]
    on_result: Callable[[Result], None]
    future: Future[Result] = field(init=False, factory=Future)
    shared_as: tuple[str, Grant] | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        # From now on a caller that is cancelled cannot cancel the future.
        self.future.set_running_or_notify_cancel()


def completed(result: Result) -> Future[Result]:
    """Return a future that has a result."""
    future: Future[Result] = Future()
    future.set_result(result)
    return future


Run = tuple[Flight, list[Any]]
"""A flight, and a list with the return value of its last step, which the run removes."""


@define(eq=False)
class Flights:
    """Drives the flights of a manager, and shares each joinable one between the callers.

    The flights of one target use at most half of the threads (a bulkhead): if a bank does not
    respond, the flights of the other targets still find a thread.

    Args:
        threads: Number of flights of one target that may perform a step at the same time.
        new_thread_pool: Makes an executor with this number of threads; again in a forked child.
        new_timers: Makes the timers for flights that wait; again in a forked child.
    """

    threads: int
    new_thread_pool: Callable[[int], Executor] = thread_pool
    new_timers: Callable[[], Timers] = ThreadTimers
    _lock: threading.Lock = field(init=False)
    _ended: threading.Condition = field(init=False)
    _timers: Timers = field(init=False)
    _shared: dict[tuple[str, Grant], Flight] = field(init=False)
    _in_progress: set[Flight] = field(init=False)
    _waiting: dict[Flight, bool] = field(init=False)
    _unstored: set[Flight] = field(init=False)
    _busy: Counter[str] = field(init=False)
    _queued: dict[str, deque[Run]] = field(init=False)
    _pool: Executor | None = field(init=False)
    _closing: bool = field(init=False)
    _timed_out: bool = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.reset()
        reset_after_fork(self, Flights.reset)
        close_at_exit(self)

    def reset(self) -> None:
        """Start anew without flights; those of a parent process go on in the parent."""
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._timers = self.new_timers()
        self._shared, self._in_progress, self._waiting, self._unstored = {}, set(), {}, set()
        self._busy, self._queued = Counter(), {}
        self._pool = None
        self._closing = self._timed_out = False

    def join_or_start(
        self,
        grant: Grant,
        make: Callable[[], Flight],
        *,
        kind: str = REFRESH,
        ended: Callable[[], Result | None] = lambda: None,
    ) -> Future[Result]:
        """Join the flight of a grant that is in progress, or start one.

        Args:
            grant: The grant.
            make: Makes the flight.
            kind: Only flights of the same kind are joined.
            ended: Returns the result of a flight that has ended, to be taken instead of another
                flight, or None.

        Raises:
            InvalidInputError: The manager is closed.
        """
        with self._lock:
            flight = self._shared.get((kind, grant))
            if flight is not None:
                return flight.future
            # A flight that the caller would have joined may have ended a moment ago.
            if (result := ended()) is not None:
                return completed(result)
            flight = make()
            self._register(flight)
            self._share(flight, kind)
        # Not under the lock: at the end of the interpreter the flight runs in this thread.
        self._submit(flight, [None])
        return flight.future

    def start(self, flight: Flight, *, joinable: bool) -> Future[Result]:
        """Start a flight.

        Args:
            flight: The flight.
            joinable: Whether later callers of its grant may join it. One that is not joinable
                overtakes the queued flights of its target: an authorization code is valid for 30 s.

        Raises:
            InvalidInputError: The manager is closed.
        """
        with self._lock:
            self._register(flight)
            if joinable and (REFRESH, flight.grant) not in self._shared:
                self._share(flight, REFRESH)
        self._submit(flight, [None], first=not joinable)
        return flight.future

    def has_unstored_result(self, grant: Grant) -> bool:
        """Return whether a flight of a grant has published a result that is unstored."""
        with self._lock:
            return any(flight.grant == grant for flight in self._unstored)

    def call_later(self, seconds: float, call: Callable[[], None]) -> None:
        """Call back after some seconds, unless the manager is closing already."""
        if not self._closing:
            self._timers.after(seconds, call)

    def close(self, timeout: float = CLOSING_SECONDS) -> None:
        """Let the flights in progress end, then stop the threads.

        Args:
            timeout: Seconds after which a flight stops trying to store a result.
        """
        with self._lock:
            self._closing = True
            waiting = [flight for flight, unstored in self._waiting.items() if not unstored]
        for flight in waiting:
            self._wake(flight)
        with self._ended:
            self._ended.wait_for(lambda: not self._in_progress, timeout)
            self._timed_out = True
            waiting = list(self._waiting)
        for flight in waiting:
            self._wake(flight)
        with self._ended:
            self._ended.wait_for(lambda: not self._in_progress)
        self._timers.close()
        if self._pool is not None:
            self._pool.shutdown()

    def _share(self, flight: Flight, kind: str) -> None:
        flight.shared_as = (kind, flight.grant)
        self._shared[flight.shared_as] = flight

    def require_open(self) -> None:
        """Require that closing has not begun.

        Raises:
            InvalidInputError: The manager is closed.
        """
        require_open(closed=self._closing)

    def _register(self, flight: Flight) -> None:
        self.require_open()
        if self._pool is None:
            self._timers.start()
            self._pool = self.new_thread_pool(TARGETS_AT_LEAST * self.threads)
        self._in_progress.add(flight)

    def _submit(self, flight: Flight, once: list[Any], *, first: bool = False) -> None:
        """Run a flight in a thread, now or when a flight of its target has left one."""
        target_id = flight.grant.target_id
        if flight.shared_as == (LOOK, flight.grant):
            # It never calls the bank, so it does not wait for flights that do.
            self._execute(self._run, flight, once)
            return
        with self._lock:
            if self._busy[target_id] >= self.threads:
                queue = self._queued.setdefault(target_id, deque())
                (queue.appendleft if first else queue.append)((flight, once))
                return
            self._busy[target_id] += 1
        self._execute(self._run_in_turn, flight, once)

    def _execute(self, run: Callable[[Flight, list[Any]], object], *work: Any) -> None:
        assert self._pool is not None
        try:
            self._pool.submit(run, *work)
        except RuntimeError:
            # The interpreter is ending, or no thread can be started: the flight runs here. If the
            # pool has queued the work too, the first run takes the value and the second finds none.
            run(*work)

    def _run_in_turn(self, flight: Flight, once: list[Any]) -> None:
        """Run a flight, then the queued flights of its target."""
        target_id = flight.grant.target_id
        work: Run | None = (flight, once)
        while work is not None and self._run(*work):
            with self._lock:
                queue = self._queued.get(target_id)
                work = queue.popleft() if queue else None
                if work is None:
                    self._busy[target_id] -= 1

    def _run(self, flight: Flight, once: list[Any]) -> bool:
        """Run a flight until it waits or ends; return False if another thread has run it."""
        try:
            returned = once.pop()
        except IndexError:
            return False
        try:
            last = self._drive(flight, returned)
            if isinstance(last, Wait):
                self._pause(flight, last)
                return True
            self._publish(flight, last)
        except BaseException as error:
            # No caller must wait for ever, whatever the error; a lease in the store ends by itself.
            with harmless("A flight broke off with an unexpected error."):
                raise
            self._stop_sharing(flight)
            if not flight.future.done():
                flight.future.set_exception(error)
        with self._ended:
            self._in_progress.discard(flight)
            self._unstored.discard(flight)
            self._ended.notify_all()
        return True

    def _drive(self, flight: Flight, returned: Any) -> Wait | Result:
        """Perform steps until the protocol waits or ends; return its wait or its result."""
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
            must_end = self._timed_out or (self._closing and not step.has_unstored_result)
            self._waiting[flight] = step.has_unstored_result
        self._timers.after(0.0 if must_end else step.seconds, lambda: self._wake(flight))

    def _wake(self, flight: Flight) -> None:
        with self._lock:
            unstored = self._waiting.pop(flight, None)
            if unstored is None:
                return
            time_left = not (self._timed_out or (self._closing and not unstored))
        if unstored:
            # It has a pair to store, which must not wait for a bank.
            self._execute(self._run, flight, [time_left])
        else:
            self._submit(flight, [time_left], first=True)

    def _publish_early(self, flight: Flight, step: Publish) -> None:
        # A received pair must still be stored, whatever fails here.
        with harmless("The result of a flight could not be published early."):
            if not step.to_callers:
                flight.on_result(step.result)
                return
            with self._lock:
                self._unstored.add(flight)
            self._publish(flight, step.result)

    def _publish(self, flight: Flight, result: Result) -> None:
        if flight.future.done():
            return
        if result.error is not None:
            result.error.grant = flight.grant
        flight.on_result(result)
        self._stop_sharing(flight)
        flight.future.set_result(result)

    def _stop_sharing(self, flight: Flight) -> None:
        with self._lock:
            if flight.shared_as is not None:
                self._shared.pop(flight.shared_as, None)
                flight.shared_as = None


def token_for_caller(
    result: Result, need: Need, profile: TargetProfile, now: datetime
) -> Token | None:
    """Return the token that a caller gets from a result, or None if another flight is needed.

    A usable token is served even if the flight failed. One that the flight got from the bank is
    served however short its lifetime: another would not last longer. A caller that forced a refresh
    gets only a token that was received or stored during the flight.

    Raises:
        BlinkError: The flight failed; the exception is a copy for this caller.
    """
    record = result.record
    if record is not None:
        obtained = result.obtained and is_newer(record, need.newer_than)
        new_enough = result.stored_meanwhile or not need.forced
        if obtained or (new_enough and is_usable(record, need, profile, now)):
            return record.token
    require_no_error(result)
    return None


def authorized_token(result: Result) -> Token:
    """Return the token of a successful authorization.

    Raises:
        BlinkError: The authorization failed.
    """
    require_no_error(result)
    assert result.record is not None
    assert result.record.token is not None
    return result.record.token


def require_no_error(result: Result) -> None:
    """Raise the error of a result, if it has one."""
    if result.error is not None:
        # Many callers share the error; each raises a copy, since raising changes it.
        raise copy.copy(result.error)


def remaining(timeout: float | None, monotonic: Callable[[], float]) -> Callable[[], float | None]:
    """Start the timeout of a caller; return a function that returns the seconds left."""
    if timeout is None:
        return lambda: None
    end = monotonic() + timeout
    return lambda: max(0.0, end - monotonic())


def require_open(*, closed: bool) -> None:
    """Require that the manager is not closed.

    Args:
        closed: Whether it is.

    Raises:
        InvalidInputError: It is.
    """
    if closed:
        raise InvalidInputError("The manager is closed. Nothing was sent.")


def timeout_error(grant: Grant) -> RefreshPendingError:
    """Return the error for a caller whose timeout has passed."""
    return RefreshPendingError(
        "The refresh took longer than your timeout. It goes on, and its result will be stored: "
        "try again.",
        grant=grant,
    )


def shorter(timeout: float | None, longest: float | None) -> float | None:
    """Return the shorter of two timeouts, of which each may be None for no limit."""
    return min((each for each in (timeout, longest) if each is not None), default=None)


LONGEST_LOOK = 5.0
"""Seconds for which a caller with a valid token waits for the store to be read."""
LEASE_MARGIN = 5.0
"""Seconds that a flight waits for a refresh elsewhere, beyond the duration of a lease."""


T = TypeVar("T")
Search = Generator[tuple[Future[Result], float | None], Result | None, T]
"""Yields a flight and the seconds to wait for it at most; is sent its result, None if too late."""


@define(eq=False)
class SingleFlight:
    """Gives callers a cached token, or the result of the one flight of their grant.

    Args:
        flights: Drives the flights.
        step_executor: Performs their steps.
        cache: The cache of the process.
        profiles: Profiles of single targets, by target id.
        profile: The profile of all other targets.
        client_id: The client that the grants belong to.
        lease: Seconds that a lease lasts.
        call_timeout: Seconds that one call to the bank takes at most.
        now: Returns the current time, aware UTC.
        monotonic: Returns seconds of a clock that never goes back.
        random: Returns a number from 0 to below 1.
    """

    flights: Flights
    step_executor: StepExecutor
    cache: Cache
    profiles: Mapping[str, TargetProfile]
    profile: TargetProfile
    client_id: str
    lease: float
    call_timeout: float
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    random: Callable[[], float]

    def key(self, grant: Grant) -> GrantKey:
        """Return the identity of a grant in the store.

        Raises:
            InvalidInputError: It is not a `Grant`, or its username could be that of a tombstone.
        """
        require_type("grant", grant, Grant, GRANT)
        if is_pseudonym(grant.username):
            # A reader of the database must not reach the forgotten grant by its pseudonym.
            raise InvalidInputError(
                "The username has the form of the names under which forgotten grants are stored. "
                "Nothing was sent."
            )
        return GrantKey(self.client_id, grant)

    def profile_of(self, target_id: str) -> TargetProfile:
        """Return the profile of a target."""
        return self.profiles.get(target_id, self.profile)

    def get(self, grant: Grant, wanted: Need, psu: Psu, timeout: float | None) -> Token:
        """Return a token that meets a need; the thread waits for it.

        Args:
            grant: The grant.
            wanted: What the token must fulfil.
            psu: The customer's device, or `Psu.AUTO`.
            timeout: Seconds to wait at most.

        Raises:
            BlinkError: There is no such token, or not in time.
        """
        return self._wait(self._search(grant, wanted, psu), timeout)

    async def aget(self, grant: Grant, wanted: Need, psu: Psu, timeout: float | None) -> Token:
        """Do what `get` does; the coroutine waits for it."""
        return await self._await(self._search(grant, wanted, psu), timeout)

    def adopt(self, grant: Grant, pair: Token, psu: Psu, timeout: float | None) -> Token:
        """Store a pair of an existing consent, and return a usable token; the thread waits for it.

        Args:
            grant: The grant.
            pair: The pair.
            psu: The customer's device, or `Psu.AUTO`.
            timeout: Seconds to wait at most.

        Raises:
            BlinkError: The pair cannot be adopted or refreshed, or not in time.
        """
        return self._wait(self._adopt(grant, pair, psu), timeout)

    async def aadopt(self, grant: Grant, pair: Token, psu: Psu, timeout: float | None) -> Token:
        """Do what `adopt` does; the coroutine waits for it."""
        return await self._await(self._adopt(grant, pair, psu), timeout)

    def _wait(self, search: Search[Token], timeout: float | None) -> Token:
        left = remaining(timeout, self.monotonic)
        result: Result | None = None
        try:
            while True:
                flight, longest = search.send(result)
                try:
                    result = flight.result(shorter(left(), longest))
                except TimeoutError:
                    result = None
        except StopIteration as found:
            token: Token = found.value
            return token

    async def _await(self, search: Search[Token], timeout: float | None) -> Token:
        left = remaining(timeout, self.monotonic)
        result: Result | None = None
        try:
            while True:
                flight, longest = search.send(result)
                try:
                    result = await wait_for(wrap_future(flight), shorter(left(), longest))
                except TimeoutError:
                    result = None
        except StopIteration as found:
            token: Token = found.value
            return token

    def start_exchange(
        self, grant: Grant, code: Secret, redirect_uri: str, psu: Psu
    ) -> Future[Result]:
        """Start the exchange of a code."""
        job = evolve(self._job(grant, psu), code=code, redirect_uri=redirect_uri)
        return self.flights.start(self._flight(job, consent.authorize(job)), joinable=False)

    def start_revocation(self, grant: Grant, psu: Psu, *, forget: bool = False) -> Future[Result]:
        """Start a revocation, after which the grant is perhaps forgotten."""
        job = self._job(grant, psu)
        steps = consent.revoke(job, forget=forget)
        return self.flights.start(self._flight(job, steps), joinable=False)

    def moment(self) -> Moment:
        """Return the current moment by both clocks."""
        return Moment(self.now(), self.monotonic())

    def start_rest_of_revocation(self, grant: Grant) -> Future[Result]:
        """Start to finish a revocation that failed or was killed."""
        job = self._job(grant, Psu.AUTO)
        flight = self._flight(job, consent.finish_revocation(job))
        return self.flights.start(flight, joinable=False)

    def start_claimed_refresh(self, claim: Record, claimed_at: Moment) -> Future[Result]:
        """Start the refresh of a record that `claim_due` has claimed."""
        if self.flights.has_unstored_result(claim.key.grant):
            self.release(claim, pause=UNSTORED_POLL)
            return completed(Result(claim))
        job = self._job(claim.key.grant, Psu.AUTO)
        flight = self._flight(job, refresh_claimed(job, claim, claimed_at))
        return self.flights.start(flight, joinable=True)

    def release(self, claim: Record, *, pause: float = 0.0) -> None:
        """Release a lease under which nothing was sent."""
        job = self._job(claim.key.grant, Psu.AUTO)
        self.step_executor.perform(job, evolve(release_unspent(job, claim), pause=pause))

    def _search(self, grant: Grant, wanted: Need, psu: Psu) -> Search[Token]:
        """Yield the flights that a caller waits for, and return its token."""
        self.key(grant)
        token = yield from self._cached_token(grant, wanted, psu)
        if token is not None:
            return token
        job = self._job(grant, psu, wanted)
        failure = partial(self.cache.failure, grant)
        result = failure() or (yield self._share(job, failure), None)
        while True:
            if result is None:
                raise timeout_error(grant)
            # A new job: a generation may have been refused since the caller's first.
            job = self._job(grant, psu, wanted)
            token = self._token_of(result, job)
            if token is not None:
                return token
            result = yield self._share(job), None

    def _adopt(self, grant: Grant, pair: Token, psu: Psu) -> Search[Token]:
        """Yield the flight that stores a pair, then those of a caller of `get`."""
        job = evolve(self._job(grant, psu), adopted=pair)
        if self.flights.has_unstored_result(grant):
            # The store does not show that this process has a pair of the grant.
            raise RefreshPendingError(
                "A pair of this grant is still to be stored by this process. The refresh token was "
                "neither stored nor presented: try again.",
                grant=grant,
            )
        flight = self._flight(job, consent.adopt(job))
        result = yield self.flights.start(flight, joinable=False), None
        if result is None:
            raise timeout_error(grant)
        require_no_error(result)
        return (yield from self._search(grant, Need(), psu))

    def _cached_token(self, grant: Grant, wanted: Need, psu: Psu) -> Search[Token | None]:
        """Return the cached token, or None; unless it is fresh, the store is read before."""
        refusal, looked = self.cache.doubt(grant), False
        while True:
            job = self._job(grant, psu, wanted)
            cached = self.cache.get(grant, job.need, job.profile)
            if cached is None:
                return None
            # A read of the store that began before the token was refused does not count.
            doubted = self.cache.doubted(grant, refusal) is not None
            if looked and not doubted:
                self._refresh_if_due(cached.record, job.profile)
                return cached.token
            if not doubted and self.cache.is_fresh(cached):
                return cached.token
            try:
                flight = self._look(job)
            except InvalidInputError:  # A manager that is closing starts no flight.
                return cached.token
            result = yield flight, None if doubted else LONGEST_LOOK
            if result is None:
                return cached.token
            looked = True

    def _token_of(self, result: Result, job: Job) -> Token | None:
        now = self.now()
        try:
            return token_for_caller(result, job.need, job.profile, now)
        except StoreError:
            # An outage of the store does not stop calls that need only an access token.
            cached = self.cache.tokens.get(job.key.grant)
            if cached is None or job.need.forced:
                raise
            if not is_usable(cached.record, job.need, job.profile, now):
                raise
            return cached.token

    def _look(self, job: Job) -> Future[Result]:
        grant = job.key.grant

        def make() -> Flight:
            number = self.cache.doubt(grant)
            looking = evolve(job, need=Need(doubted=self.cache.doubted(grant, number)))
            perform = partial(self.step_executor.perform, looking)
            return Flight(grant, look(looking), perform, partial(self._on_look, looking, number))

        return self.flights.join_or_start(grant, make, kind=LOOK)

    def _on_look(self, job: Job, number: int, result: Result) -> None:
        self.cache.update_looked(job.key.grant, result, job.profile, number)

    def _refresh_if_due(self, record: Record, profile: TargetProfile) -> None:
        decision = decide(record, Need(early=True), profile, self.now())
        if isinstance(decision, Attempt) and self.cache.failure(record.key.grant) is None:
            self._refresh_in_background(record.key.grant)

    def _refresh_in_background(self, grant: Grant) -> None:
        # A manager that is closing starts no flight.
        with suppress(InvalidInputError):
            self._share(self._job(grant, Psu.AUTO, Need(early=True)))

    def _share(self, job: Job, ended: Callable[[], Result | None] = lambda: None) -> Future[Result]:
        def make() -> Flight:
            return self._flight(job, refresh(job))

        return self.flights.join_or_start(job.key.grant, make, ended=ended)

    def _job(self, grant: Grant, psu: Psu, wanted: Need | None = None) -> Job:
        key = self.key(grant)
        require_type("psu", psu, Psu, PSU)
        return Job(
            key=key,
            profile=self.profile_of(grant.target_id),
            need=evolve(wanted or Need(), newer_than=self.cache.refused.get(grant)),
            psu=psu,
            actor="auto" if psu == Psu.AUTO else "psu",
            lease=self.lease,
            call_timeout=self.call_timeout,
            max_wait=self.lease + LEASE_MARGIN,
            failures=self.cache.failures.get(grant, 0),
            now=self.now,
            monotonic=self.monotonic,
            random=self.random,
            new_owner=new_owner,
            responded_ago=partial(self.step_executor.breakers.responded_ago, grant.target_id),
            known=partial(self._known, grant),
        )

    def _known(self, grant: Grant) -> Record | None:
        # An unstored result is newer than the store, and its own flight stores it.
        return None if self.flights.has_unstored_result(grant) else self.cache.known(grant)

    def _flight(self, job: Job, steps: Steps) -> Flight:
        perform = partial(self.step_executor.perform, job)
        return Flight(job.key.grant, steps, perform, partial(self._on_result, job))

    def _on_result(self, job: Job, result: Result) -> None:
        grant = job.key.grant
        self.cache.update(grant, result, job.profile)
        if result.refresh_in is not None:
            self.flights.call_later(result.refresh_in, partial(self._refresh_in_background, grant))
