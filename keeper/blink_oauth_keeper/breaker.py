"""The circuit breaker and the rate limit of each target, for one process."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

from attrs import define, field

from blink_oauth.errors import BlinkError, InvalidInputError, Outcome
from blink_oauth.headers import Source

from .policy import backoff, retry_after
from .processes import reset_after_fork
from .profile import TargetProfile
from .steps import Permit

__all__ = ["Breakers"]

FAILURES_TO_OPEN = 2
"""Failures in a row after which the circuit of a target opens."""
TRIAL_INTERVAL = 5.0
"""Seconds between two trial calls to a failing target."""


@define(eq=False)
class _Breaker:
    failures: int = 0
    open_until: float = 0.0
    retry_after_until: float = 0.0
    next_permit_at: float = 0.0
    responded_at: float = -math.inf

    def hold_off(self, now: float) -> float:
        """Return the seconds for which the target must not be called."""
        return max(0.0, self.open_until - now, self.retry_after_until - now)


@define(eq=False)
class Breakers:
    """A circuit breaker for each target: an outage must not cost every grant an attempt.

    After `FAILURES_TO_OPEN` failures in a row the circuit opens, for growing periods; after each,
    one grant makes a trial call. A `Retry-After` holds for all grants of the target.

    Args:
        monotonic: Returns seconds of a clock that never goes back.
        random: Returns a number from 0 to below 1.
    """

    monotonic: Callable[[], float]
    random: Callable[[], float]
    _breakers: dict[str, _Breaker] = field(init=False, factory=dict)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        reset_after_fork(self, Breakers.reset)

    def reset(self) -> None:
        """Replace the lock: in a forked child a thread of the parent may have held it."""
        self._lock = threading.Lock()

    def acquire(self, target_id: str, profile: TargetProfile) -> Permit:
        """Return the permit for a target; one that allows a call now counts as used."""
        with self._lock:
            now = self.monotonic()
            breaker = self._breakers.setdefault(target_id, _Breaker())
            hold_off = breaker.hold_off(now)
            if hold_off > 0:
                return Permit(hold_off=hold_off)
            if profile.rate is not None:
                if now < breaker.next_permit_at:
                    return Permit(wait=breaker.next_permit_at - now)
                breaker.next_permit_at = now + 1 / profile.rate
            if breaker.failures >= FAILURES_TO_OPEN:
                breaker.open_until = now + TRIAL_INTERVAL
            return Permit()

    def succeeded(self, target_id: str) -> None:
        """Count a call to which the target responded: the circuit closes."""
        self._close(target_id, responded=True)

    def _close(self, target_id: str, *, responded: bool) -> None:
        with self._lock:
            breaker = self._breakers.setdefault(target_id, _Breaker())
            breaker.failures, breaker.open_until = 0, 0.0
            if responded:
                breaker.responded_at = self.monotonic()

    def responded_ago(self, target_id: str) -> float:
        """Return the seconds since the bank last responded; infinite if its last call failed."""
        with self._lock:
            breaker = self._breakers.get(target_id)
            if breaker is None or breaker.failures:
                return math.inf
            return self.monotonic() - breaker.responded_at

    def failed(self, target_id: str, error: BlinkError) -> None:
        """Count a call that raised; a rejection other than 429 counts as a response."""
        if isinstance(error, InvalidInputError):
            return  # Nothing was sent.
        if error.outcome is Outcome.REJECTED and error.status != 429:
            # The platform's own rejection does not show that the bank responds.
            self._close(target_id, responded=error.source is not Source.PLATFORM)
            return
        with self._lock:
            now = self.monotonic()
            breaker = self._breakers.setdefault(target_id, _Breaker())
            breaker.failures += 1
            # The result of a call that was sent before a `Retry-After` does not shorten it.
            until = now + (retry_after(error) or 0.0)
            breaker.retry_after_until = max(breaker.retry_after_until, until)
            if breaker.failures >= FAILURES_TO_OPEN:
                breaker.open_until = now + backoff(breaker.failures, self.random())

    def failing(self) -> frozenset[str]:
        """Return the targets that must not be called now, or only by one trial call at a time."""
        with self._lock:
            now = self.monotonic()
            return frozenset(
                name
                for name, one in self._breakers.items()
                if one.failures >= FAILURES_TO_OPEN or one.hold_off(now) > 0
            )
