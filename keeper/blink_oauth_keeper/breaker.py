"""The circuit breaker and the rate limit of each target, as far as this process has seen."""

from __future__ import annotations

import threading
from collections.abc import Callable

from attrs import define, field

from blink_oauth.errors import BlinkError, InvalidInputError, Outcome

from .policy import backoff, retry_after
from .processes import reset_after_fork
from .profile import TargetProfile
from .steps import Permit

__all__ = ["Breakers"]

PATIENCE = 2
"""Failures in a row from which a target counts as failing."""
PROBE_INTERVAL = 5.0
"""Seconds for which one grant tries out a failing target before the next one may."""


@define(eq=False)
class _Breaker:
    failures: int = 0
    leave_until: float = 0.0
    asked_until: float = 0.0
    next_turn: float = 0.0

    def hold_off(self, now: float) -> float:
        """Return the seconds to leave it alone."""
        return max(0.0, self.leave_until - now, self.asked_until - now)


@define(eq=False)
class Breakers:
    """A circuit breaker for each target, so that an outage does not cost every grant its attempt.

    It opens for a growing while once a target failed a few times in a row; then one grant tries
    the target out. A `Retry-After` is kept by all grants of the target.

    Args:
        monotonic: Tells the seconds, never backwards.
        random: Makes a number from 0 to below 1.
    """

    monotonic: Callable[[], float]
    random: Callable[[], float]
    _breakers: dict[str, _Breaker] = field(init=False, factory=dict)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        reset_after_fork(self, Breakers.reset)

    def reset(self) -> None:
        """Go on with a lock that no thread of a parent process holds."""
        self._lock = threading.Lock()

    def acquire(self, target_id: str, profile: TargetProfile) -> Permit:
        """Say whether a target may be called now; a clear answer takes the turn."""
        with self._lock:
            now = self.monotonic()
            breaker = self._breakers.setdefault(target_id, _Breaker())
            hold_off = breaker.hold_off(now)
            if hold_off > 0:
                return Permit(hold_off=hold_off)
            if profile.rate is not None:
                if now < breaker.next_turn:
                    return Permit(queue=breaker.next_turn - now)
                breaker.next_turn = now + 1 / profile.rate
            if breaker.failures >= PATIENCE:
                breaker.leave_until = now + PROBE_INTERVAL
            return Permit()

    def succeeded(self, target_id: str) -> None:
        """Note that a target works."""
        with self._lock:
            breaker = self._breakers.setdefault(target_id, _Breaker())
            breaker.failures, breaker.leave_until = 0, 0.0

    def failed(self, target_id: str, error: BlinkError) -> None:
        """Note what came of a call; a refusal of one grant is an answer."""
        if isinstance(error, InvalidInputError):
            return  # It never left this process.
        if error.outcome is Outcome.REJECTED and error.status != 429:
            self.succeeded(target_id)
            return
        with self._lock:
            now = self.monotonic()
            breaker = self._breakers.setdefault(target_id, _Breaker())
            breaker.failures += 1
            # Others were on their way when it asked for time; what became of them changes nothing.
            breaker.asked_until = max(breaker.asked_until, now + (retry_after(error) or 0.0))
            if breaker.failures >= PATIENCE:
                breaker.leave_until = now + backoff(breaker.failures, self.random())

    def failing(self) -> frozenset[str]:
        """Return the targets that are to be left alone now, or tried out by one grant at most."""
        with self._lock:
            now = self.monotonic()
            return frozenset(
                name
                for name, one in self._breakers.items()
                if one.failures >= PATIENCE or one.hold_off(now) > 0
            )
