"""Many callers find one expired token: one request is sent, and all callers get its result."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from attrs import define, evolve, field, frozen

from blink_oauth import BlinkError, BlinkOAuth, Grant, TimedOutError, Timeouts, Token
from blink_oauth_keeper import MemoryTokenStore, TokenManager
from blink_oauth_keeper.store.protocol import Record
from blink_oauth_testing.sandbox import Fault, Sandbox
from blink_oauth_testing.sandbox.faults import SILENT_FAULTS, unavailable
from storm.callers import (
    TICK_INTERVAL,
    ArrivalCounter,
    Callers,
    CoroutineCallers,
    Result,
    ThreadCallers,
    wait_until,
)
from storm.shared_config import TWO_DAYS, authorize

ROUNDS = 200
TOTAL, LEASE = 20.0, 25.0
SILENCE = 1.0
"""Timeout in seconds for an endpoint that does not respond."""


@define(eq=False)
class Clocks:
    """A wall clock and a monotonic clock that only the test advances."""

    wall: datetime = field(factory=lambda: datetime.now(UTC).replace(microsecond=0))
    seconds: float = 0.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.seconds += seconds


@define(eq=False, repr=False, kw_only=True)
class DelayedStore(MemoryTokenStore):
    """A store that calls a function before each claim."""

    before_claim: Callable[[], None] = field(default=lambda: None)

    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        self.before_claim()
        return super().claim(seen, owner=owner, ttl=ttl)


@define(eq=False)
class Harness:
    """Callers of one manager with a token of the strict bank."""

    sandbox: Sandbox
    callers: Callers
    clocks: Clocks
    store: DelayedStore
    manager: TokenManager
    grant: Grant
    arrivals: ArrivalCounter = field(init=False, factory=ArrivalCounter)

    def authorize(self) -> None:
        """Get the first pair, and delay every refresh until all callers have asked."""
        authorize(self.manager, self.sandbox, self.grant)
        self.store.before_claim = self._wait_for_callers

    def call_all(self) -> list[Result]:
        """Let all callers ask at once, and return the result of each."""
        return self.callers.call_all(self.manager, self.grant, self.arrivals)

    def requests(self) -> int:
        """Return the number of refresh requests that the sandbox has received."""
        forms = [seen.form for seen in self.sandbox.exchanges]
        return sum(("grant_type", "refresh_token") in form for form in forms)

    def _wait_for_callers(self) -> None:
        self.arrivals.wait_for_all()
        # While a flight is in progress, no event loop is blocked.
        wait_until(self.callers.progress_check(2))


@pytest.fixture(params=[ThreadCallers, CoroutineCallers], ids=["threads", "coroutines"])
def callers(request: pytest.FixtureRequest) -> Iterator[Callers]:
    """Yield callers of each kind in turn."""
    with request.param() as callers:
        yield callers


@pytest.fixture
def total() -> float:
    """Return the timeout of a call, in seconds."""
    return TOTAL


@pytest.fixture
def harness(callers: Callers, total: float, blink_sandbox: Sandbox) -> Iterator[Harness]:
    """Yield a manager with one grant, and clocks that the test advances."""
    clocks = Clocks()
    settings = blink_sandbox.settings(timeouts=Timeouts(total=total))
    store = DelayedStore(clock=clocks.now)
    with (
        BlinkOAuth(settings, clock=clocks.now) as blink,
        TokenManager(
            blink,
            store,
            lease=LEASE,
            clock=clocks.now,
            monotonic=clocks.monotonic,
            random=lambda: 0.0,
        ) as manager,
    ):
        harness = Harness(blink_sandbox, callers, clocks, store, manager, blink_sandbox.grant())
        harness.authorize()
        yield harness


def test_an_expired_token_is_refreshed_once_for_all_callers(harness: Harness) -> None:
    bank = harness.sandbox.banks[harness.grant.target_id]
    for generation in range(1, ROUNDS + 1):
        harness.clocks.advance(TWO_DAYS)
        results = harness.call_all()
        assert len(results) == harness.callers.size
        assert len(set(map(id, results))) == 1
        assert isinstance(results[0], Token)
        assert bank.accepts(results[0].access_token.reveal())
        assert (harness.requests(), bank.refreshes, bank.reuses) == (generation, generation, 0)


@frozen
class Failure:
    """How the endpoint fails.

    Attributes:
        name: Id of the test.
        fault: Returns the fault for the current time.
        quiet: Seconds without another request.
        rounds: Number of repetitions.
        total: Timeout of a call, in seconds.
    """

    name: str
    fault: Callable[[datetime], Fault]
    quiet: float
    rounds: int = 5
    total: float = TOTAL


def unavailable_bank(_: datetime) -> Fault:
    """Return the fault of a bank that responds 503; the platform did not make that response."""
    fault = unavailable(None)
    return evolve(
        fault,
        change=lambda response: fault.change(response).with_header("X-CorAPI-Source", "PROVIDER"),
    )


FAILURES = (
    # The bank may still execute the request until the lease ends.
    Failure("503-of-the-bank", unavailable_bank, LEASE),
    Failure("503-for-seconds", lambda _: unavailable(120), 120.0),
    Failure("503-until-date", lambda now: unavailable(now + timedelta(seconds=150)), 150.0),
    # Until the lease ends, the request may still be in transit.
    Failure("silence", lambda _: SILENT_FAULTS["silence-before"], LEASE, rounds=2, total=SILENCE),
)


@pytest.mark.parametrize(
    ("failure", "total"),
    [pytest.param(failure, failure.total, id=failure.name) for failure in FAILURES],
)
def test_a_failing_endpoint_gets_one_request_and_all_callers_share_the_failure(
    failure: Failure, harness: Harness
) -> None:
    for round_ in range(failure.rounds):
        harness.clocks.advance(TWO_DAYS)
        harness.sandbox.fail(failure.fault(harness.clocks.now()))
        failed = harness.call_all()
        assert harness.requests() == 2 * round_ + 1
        (shared,) = {(type(error), str(error)) for error in failed}
        assert issubclass(shared[0], BlinkError)
        assert len(set(map(id, failed))) == harness.callers.size, "each caller gets its own object"

        harness.clocks.advance(failure.quiet - 1)
        rejected = harness.call_all()
        assert harness.requests() == 2 * round_ + 1, "no caller sends a request of its own"
        assert all(isinstance(result, BlinkError) for result in rejected)

        harness.clocks.advance(2)
        assert len(set(map(id, harness.call_all()))) == 1
        assert harness.requests() == 2 * round_ + 2
    bank = harness.sandbox.banks[harness.grant.target_id]
    assert (bank.refreshes, bank.reuses) == (failure.rounds, 0)


@pytest.mark.parametrize("callers", [CoroutineCallers], indirect=True)
@pytest.mark.parametrize("total", [SILENCE])
def test_event_loops_stay_responsive_while_an_endpoint_is_silent(harness: Harness) -> None:
    harness.clocks.advance(TWO_DAYS)
    harness.sandbox.fail("silence-before")
    # A tenth of the possible ticks; a blocked loop makes almost none.
    is_responsive = harness.callers.progress_check(round(SILENCE / TICK_INTERVAL / 10))
    assert all(isinstance(result, TimedOutError) for result in harness.call_all())
    assert is_responsive()
