"""Refresh idle grants before their refresh tokens expire.

Safe to run on every node at once: each claims small batches of its own, and no two get the same.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import FIRST_COMPLETED, Future, wait
from datetime import datetime, timedelta

from attrs import define, evolve, field, frozen

from blink_oauth.errors import InvalidInputError, Outcome

from .breaker import Breakers
from .flights import SingleFlight
from .profile import AfterUncertainty, TargetProfile
from .refresh import new_owner
from .steps import Result
from .store.protocol import Due, TokenStore

__all__ = ["KeepAlive", "Progress", "Report"]

ANY_NUMBER = 2**31 - 1
MOMENT = timedelta(seconds=1)
SLICE = 0.5
"""Seconds to sleep at most before a run looks again whether it is to stop."""
PEEK = 100
"""Records to look at when the targets are not known beforehand."""


@frozen(kw_only=True)
class Report:
    """What a run has done, or in a dry run would do.

    Attributes:
        due: Grants that were found due.
        refreshed: Grants with a new pair.
        failed: Grants whose refresh failed without spending anything; a later run tries again.
        uncertain: Grants whose refresh token may be spent.
        consent_needed: Grants that only the customer can help.
        left: Grants that were left to a later run, for want of time.
    """

    due: int = 0
    refreshed: int = 0
    failed: int = 0
    uncertain: int = 0
    consent_needed: int = 0
    left: int = 0


Progress = Callable[[Report], None]


def tallied(report: Report, flight: Future[Result]) -> Report:
    """Count how a flight has ended."""
    if flight.exception() is not None:
        return evolve(report, failed=report.failed + 1)
    result = flight.result()
    error = result.error
    if result.obtained:
        return evolve(report, refreshed=report.refreshed + 1)
    if error is None:
        return evolve(report, left=report.left + 1)
    if error.needs_consent:
        return evolve(report, consent_needed=report.consent_needed + 1)
    if error.outcome is Outcome.UNCERTAIN:
        return evolve(report, uncertain=report.uncertain + 1)
    return evolve(report, failed=report.failed + 1)


@define(eq=False)
class KeepAlive:
    """One run.

    Args:
        store: The store.
        breakers: Say whether a target may be called.
        flights: Refreshes what is claimed.
        now: When the run begins, aware.
        within: Grants are due whose refresh token lives no longer than this from now.
        concurrency: How many refreshes may be in progress.
        stop: Says whether nothing new is to be begun; not asked again once it has said so.
        sleep: Waits some seconds.
    """

    store: TokenStore
    breakers: Breakers
    flights: SingleFlight
    now: datetime
    within: timedelta
    concurrency: int
    stop: Callable[[], bool]
    sleep: Callable[[float], None]
    stopped: bool = field(init=False, default=False)
    _report: Report = field(init=False, factory=Report)
    _in_progress: set[Future[Result]] = field(init=False, factory=set)

    def dry_run(self, limit: int) -> Report:
        """Count what is due, and change nothing."""
        kinds = [
            self._due(profile, targets=(target_id,))
            for target_id, profile in self.flights.profiles.items()
        ]
        kinds.append(self._rest(self.flights.profiles))
        due = sum(len(self.store.due(each, limit=limit)) for each in kinds)
        return Report(due=min(due, limit))

    def run(self, limit: int, on_progress: Progress | None) -> Report:
        """Refresh what is due.

        Args:
            limit: How many grants at most.
            on_progress: Is told the report after each grant.
        """
        while True:
            free = min(self.concurrency - len(self._in_progress), limit - self._report.due)
            # A batch costs one transaction, so it should be worth it.
            worth_it = free > 0 and (not self._in_progress or free >= self.concurrency // 4)
            queue = self._claim(free) if worth_it else None
            if self._in_progress:
                self._gather(on_progress, queue)
            elif queue is not None and self._report.due < limit:
                self._sleep(queue)
            else:
                return self._report

    def _claim(self, free: int) -> float | None:
        """Claim and start what is due; return the seconds until a limited target has a turn."""
        queue: float | None = None
        if self._stopping():
            return queue
        failing = self.breakers.failing()
        singled_out = self._singled_out(failing)
        for target_id in singled_out:
            profile = self.flights.profile_of(target_id)
            due = self._due(profile, targets=(target_id,))
            allowed = free
            if profile.rate is not None or target_id in failing:
                # A turn is taken only if there is somebody to use it.
                if free == 0 or not self.store.due(due, limit=1):
                    continue
                permit = self.breakers.acquire(target_id, profile)
                if permit.hold_off > 0:
                    continue
                if profile.rate is not None:
                    turn = permit.queue or 1 / profile.rate
                    queue = min(turn, queue or turn)
                allowed = 0 if permit.queue > 0 else 1
            free -= self._start(due, allowed)
        self._start(self._rest(singled_out), free)
        return queue

    def _singled_out(self, failing: Collection[str]) -> list[str]:
        """Return the targets that are looked at one by one; the others are claimed together."""
        names = [*self.flights.profiles, *sorted(set(failing) - self.flights.profiles.keys())]
        if self.flights.profile.rate is not None:
            while found := self.store.due(self._rest(names), limit=PEEK):
                names += {record.key.grant.target_id for record in found}
        return names

    def _start(self, due: Due, allowed: int) -> int:
        if allowed == 0 or self._stopping():
            return 0
        claimed_at = self.flights.monotonic()
        claims = self.store.claim_due(due, owner=new_owner(), ttl=self.flights.lease, limit=allowed)
        self._report = evolve(self._report, due=self._report.due + len(claims))
        for number, claim in enumerate(claims):
            try:
                self._in_progress.add(self.flights.start_claimed_refresh(claim, claimed_at))
            except InvalidInputError:
                for rest in claims[number:]:
                    self.flights.release(rest)
                raise
        return len(claims)

    def _gather(self, on_progress: Progress | None, queue: float | None) -> None:
        over, self._in_progress = wait(self._in_progress, queue, FIRST_COMPLETED)
        for future in over:
            self._report = tallied(self._report, future)
            if on_progress is not None:
                on_progress(self._report)

    def _sleep(self, seconds: float) -> None:
        while seconds > 0 and not self._stopping():
            self.sleep(min(seconds, SLICE))
            seconds -= SLICE

    def _stopping(self) -> bool:
        self.stopped = self.stopped or self.stop()
        return self.stopped

    def _rest(self, singled_out: Collection[str]) -> Due:
        return self._due(self.flights.profile, except_targets=frozenset(singled_out))

    def _due(
        self,
        profile: TargetProfile,
        *,
        targets: tuple[str, ...] | None = None,
        except_targets: frozenset[str] = frozenset(),
    ) -> Due:
        # What this very run has refreshed is not due again, however long `within` is.
        idle = timedelta(seconds=profile.idle_lifetime) - MOMENT
        attempts = 0 if profile.after_uncertainty is AfterUncertainty.HOLD else 1
        return Due(
            client_id=self.flights.client_id,
            before=self.now + min(self.within, idle),
            max_attempts=attempts if profile.rotates else ANY_NUMBER,
            targets=targets,
            except_targets=except_targets,
        )
