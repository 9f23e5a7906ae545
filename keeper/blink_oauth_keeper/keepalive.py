"""Refresh idle grants before their refresh tokens expire.

It can run on every node at once: each run claims small batches, and each record is claimed once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from concurrent.futures import Future
from contextlib import suppress
from datetime import datetime, timedelta
from queue import Empty, SimpleQueue

from attrs import define, evolve, field, frozen

from blink_oauth.errors import InvalidInputError, Outcome

from .breaker import Breakers
from .clocks import Moment
from .flights import TARGETS_AT_LEAST, SingleFlight
from .policy import LAST_ATTEMPT, UNLIMITED, Attempt, Need, attempt_limit, decide, needs_attention
from .profile import AfterUncertainty, TargetProfile
from .refresh import new_owner
from .steps import Result
from .store.protocol import DueQuery, Record, TokenStore, is_revoked

__all__ = ["KeepAlive", "Progress", "Report"]

IDLE_MARGIN = timedelta(seconds=1)
STOP_INTERVAL = 0.5
"""Seconds that a run sleeps at most before it asks again whether to stop."""
TARGETS_PAGE = 100
"""Due records to read at once in search of targets that are not in the profiles."""
LAST_ATTEMPTS_PAGE = 1_000
"""Due records to read at once in search of refresh tokens that wait for their last attempt."""


@frozen(kw_only=True)
class Report:
    """The numbers of grants that a run has refreshed or not; a dry run only counts `due`.

    Attributes:
        due: Grants that this run claimed; in a dry run, grants that are due.
        refreshed: Grants with a new pair.
        failed: Grants whose refresh failed, with nothing known to be spent, or whose revocation
            failed; a later run tries again.
        uncertain: Grants whose refresh token may be spent.
        consent_needed: Grants that need a new consent of the customer.
        attention_needed: Grants that the bank has refused to refresh for more than a day, for a
            reason other than the refresh token: a person must look.
        left: Grants without a new pair from this run and without an error: the lease was released
            unused, or the record had changed.
        unreadable: Grants that are due and not claimed, because no key of the store opens them.
        revoked: Grants whose unfinished revocation the bank has now confirmed.
    """

    due: int = 0
    refreshed: int = 0
    failed: int = 0
    uncertain: int = 0
    consent_needed: int = 0
    attention_needed: int = 0
    left: int = 0
    unreadable: int = 0
    revoked: int = 0


Progress = Callable[[Report], None]


def counted(report: Report, flight: Future[Result]) -> Report:
    """Return the report with the result of a flight counted."""
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
    attention = result.record is not None and needs_attention(result.record)
    return evolve(
        report,
        failed=report.failed + (not attention),
        attention_needed=report.attention_needed + attention,
    )


Count = Callable[[Report, Future[Result]], Report]


@define(eq=False)
class KeepAlive:
    """One run of `TokenManager.refresh_due`.

    Args:
        store: The store.
        breakers: The circuit breakers of the targets.
        single_flight: Refreshes the claimed grants.
        now: The time at which the run starts, timezone-aware.
        within: A refresh token is due if it would expire unused within this time.
        concurrency: Number of refreshes at one target that may be in progress.
        stop: Returns whether to start no more refreshes; not called again once it returned True.
        sleep: Sleeps some seconds.
    """

    store: TokenStore
    breakers: Breakers
    single_flight: SingleFlight
    now: datetime
    within: timedelta
    concurrency: int
    stop: Callable[[], bool]
    sleep: Callable[[float], None]
    stopped: bool = field(init=False, default=False)
    _keys_asked_for: bool = field(init=False, default=False)
    _report: Report = field(init=False, factory=Report)
    _in_progress: dict[Future[Result], str] = field(init=False, factory=dict)
    _ended: SimpleQueue[Future[Result]] = field(init=False, factory=SimpleQueue)
    _only_due: frozenset[str] | None = field(init=False, default=None)

    def dry_run(self, limit: int) -> Report:
        """Count the due grants, and change nothing."""
        unreadable = self._unreadable()
        due = sum(len(self.store.due(query, limit=limit)) for _, query in self._queries())
        due = min(due + len(self._last_attempts()), limit)
        return Report(due=due, unreadable=unreadable)

    def run(self, limit: int, on_progress: Progress | None) -> Report:
        """Refresh the due grants, then finish revocations, each once.

        Args:
            limit: Number of grants at most, and of revocations.
            on_progress: Receives the report after each grant.
        """
        self._refresh(limit, on_progress)
        if not self._stopping():
            self._finish_revocations(limit, on_progress)
        return self._report if self.stopped else self._with_unreadable()

    def _refresh(self, limit: int, on_progress: Progress | None) -> None:
        while True:
            free = TARGETS_AT_LEAST * self.concurrency - len(self._in_progress)
            free = min(free, limit - self._report.due)
            due = self._report.due
            next_permit_in = self._claim(free) if self._is_batch(free) else None
            if self._report.due > due:
                continue
            if self._in_progress:
                self._collect(on_progress, next_permit_in)
            elif next_permit_in is not None and self._report.due < limit:
                self._sleep(next_permit_in)
            elif not self._start_last_attempts(limit - self._report.due):
                return

    def _with_unreadable(self) -> Report:
        # After the claims: they show which pairs do not open although their key is known.
        count = self._unreadable()
        if count:
            self.single_flight.step_executor.report_unreadable(count)
        return evolve(self._report, unreadable=count)

    def _unreadable(self) -> int:
        return self.store.unreadable(
            DueQuery(
                client_id=self.single_flight.client_id,
                before=self.now + self.within,
                max_attempts=UNLIMITED,
            )
        )

    def _finish_revocations(self, limit: int, on_progress: Progress | None) -> None:
        for record in self.store.revoking(self.single_flight.client_id, limit=limit):
            target_id = record.key.grant.target_id
            profile = self.single_flight.profile_of(target_id)
            while len(self._in_progress) >= self.concurrency:
                self._collect(on_progress, count=self._counted_revocation)
            while (permit := self.breakers.acquire(target_id, profile)).wait > 0:
                self._sleep(permit.wait)
                if self.stopped:
                    break
            if self._stopping():
                break
            if permit.hold_off == 0:
                flight = self.single_flight.start_rest_of_revocation(record.key.grant)
                self._add(flight, target_id)
        while self._in_progress:
            self._collect(on_progress, count=self._counted_revocation)

    def _counted_revocation(self, report: Report, flight: Future[Result]) -> Report:
        result = Result() if flight.exception() else flight.result()
        if result.record is not None:
            target_id = result.record.key.grant.target_id
            if not is_revoked(result.record):
                return report
            if result.error is None:
                self.breakers.succeeded(target_id)
                return evolve(report, revoked=report.revoked + 1)
            self.breakers.failed(target_id, result.error)
        return evolve(report, failed=report.failed + 1)

    def _is_batch(self, claims: int) -> bool:
        # A batch costs one transaction, so it should not be too small.
        return claims > 0 and (not self._in_progress or claims >= self.concurrency // 4)

    def _claim(self, free: int) -> float | None:
        """Claim and start due grants; return the seconds until a limited target may be called."""
        next_permit_in: float | None = None
        if self._stopping():
            return next_permit_in
        if not self._keys_asked_for:
            # Before the first claim: the store asks for keys that it does not know yet.
            self._keys_asked_for = True
            self._unreadable()
        failing = self.breakers.failing()
        alone = self._targets_claimed_alone(failing)
        in_progress = Counter(self._in_progress.values())
        for target_id in alone:
            profile = self.single_flight.profile_of(target_id)
            query = self._query(profile, targets=(target_id,))
            room = self.concurrency - in_progress[target_id]
            allowed = min(free, room) if not in_progress[target_id] or self._is_batch(room) else 0
            if profile.rate is not None or target_id in failing:
                # A permit is acquired only if there is a due grant to use it.
                if free == 0 or not self.store.due(query, limit=1):
                    continue
                permit = self.breakers.acquire(target_id, profile)
                if permit.hold_off > 0:
                    continue
                if profile.rate is not None:
                    seconds = permit.wait or 1 / profile.rate
                    next_permit_in = min(seconds, next_permit_in or seconds)
                allowed = 0 if permit.wait > 0 else 1
            free -= self._start(query, allowed)
        self._claim_elsewhere(free, alone, in_progress)
        return next_permit_in

    def _claim_elsewhere(self, free: int, alone: list[str], in_progress: Counter[str]) -> None:
        """Claim grants of all other targets, but leave out those with no room for a batch."""
        room = {name: self.concurrency - count for name, count in in_progress.items()}
        full = frozenset(name for name in room if not self._is_batch(room[name])) - {*alone}
        if self._only_due is not None and full >= self._only_due:
            return
        least_room = min(
            [self.concurrency, *(room[name] for name in room.keys() - {*alone, *full})]
        )
        allowed = min(free, least_room)
        claimed = self._start(self._query_elsewhere([*alone, *full]), allowed)
        # Where only full targets had due grants, a claim for each grant that ends would be in vain.
        if full and claimed < allowed:
            self._only_due = full

    def _targets_claimed_alone(self, failing: Collection[str]) -> list[str]:
        """Return the targets that need claims of their own: profiled, failing or rate-limited."""
        profiled = self.single_flight.profiles
        names = [*profiled, *sorted(set(failing) - profiled.keys())]
        if self.single_flight.profile.rate is not None:
            while found := self.store.due(self._query_elsewhere(names), limit=TARGETS_PAGE):
                names += {record.key.grant.target_id for record in found}
        return names

    def _start(self, query: DueQuery, allowed: int) -> int:
        if allowed == 0 or self._stopping():
            return 0
        claimed_at = self.single_flight.moment()
        lease = self.single_flight.lease
        claims = self.store.claim_due(query, owner=new_owner(), ttl=lease, limit=allowed)
        self._start_claimed(claims, claimed_at)
        return len(claims)

    def _start_claimed(self, claims: list[Record], claimed_at: Moment) -> None:
        self._report = evolve(self._report, due=self._report.due + len(claims))
        for number, claim in enumerate(claims):
            try:
                flight = self.single_flight.start_claimed_refresh(claim, claimed_at)
                self._add(flight, claim.key.grant.target_id)
            except InvalidInputError:
                for unused in claims[number:]:
                    self.single_flight.release(unused)
                raise

    def _start_last_attempts(self, left: int) -> bool:
        """Claim and start last attempts with refresh tokens; return whether any was started."""
        started = 0
        if left == 0 or self._stopping():
            return False
        for record in self._last_attempts():
            if started >= min(left, self.concurrency) or self._stopping():
                break
            target_id = record.key.grant.target_id
            profile = self.single_flight.profile_of(target_id)
            permit = self.breakers.acquire(target_id, profile)
            if permit.wait > 0:
                self._sleep(permit.wait)
                permit = self.breakers.acquire(target_id, profile)
            if permit.hold_off > 0 or permit.wait > 0:
                continue
            claimed_at = self.single_flight.moment()
            claim = self.store.claim(record, owner=new_owner(), ttl=self.single_flight.lease)
            if claim is not None:
                self._start_claimed([claim], claimed_at)
                started += 1
        return started > 0

    def _last_attempts(self) -> list[Record]:
        """Return the due records whose refresh token may be presented for the last time now.

        They are read and not claimed: a claim would change the time of the last outcome.
        """
        found = []
        for profile, query in self._queries():
            if attempt_limit(profile) != LAST_ATTEMPT:
                continue
            records = self.store.due(
                evolve(query, max_attempts=LAST_ATTEMPT - 1), limit=LAST_ATTEMPTS_PAGE
            )
            found += [
                record
                for record in records
                if record.attempts == LAST_ATTEMPT - 1 and self._may_attempt(record, profile)
            ]
        return found

    def _may_attempt(self, record: Record, profile: TargetProfile) -> bool:
        ago = self.breakers.responded_ago(record.key.grant.target_id)
        now = self.single_flight.now()
        return decide(record, Need(), profile, now, responded_ago=ago) == Attempt()

    def _add(self, flight: Future[Result], target_id: str) -> None:
        self._in_progress[flight] = target_id
        flight.add_done_callback(self._ended.put)

    def _collect(
        self,
        on_progress: Progress | None,
        next_permit_in: float | None = None,
        count: Count = counted,
    ) -> None:
        """Count the flights that have ended; wait for one, or until the next permit."""
        # Not `concurrent.futures.wait`, which takes the lock of every future at each call.
        with suppress(Empty):
            future = self._ended.get(timeout=next_permit_in)
            while True:
                del self._in_progress[future]
                self._report = count(self._report, future)
                if on_progress is not None:
                    on_progress(self._report)
                future = self._ended.get_nowait()

    def _sleep(self, seconds: float) -> None:
        while seconds > 0 and not self._stopping():
            self.sleep(min(seconds, STOP_INTERVAL))
            seconds -= STOP_INTERVAL

    def _stopping(self) -> bool:
        self.stopped = self.stopped or self.stop()
        return self.stopped

    def _queries(self) -> list[tuple[TargetProfile, DueQuery]]:
        """Return the query of each profile."""
        flights = self.single_flight
        queries = [
            (profile, self._query(profile, targets=(target_id,)))
            for target_id, profile in flights.profiles.items()
        ]
        return [*queries, (flights.profile, self._query_elsewhere(flights.profiles))]

    def _query_elsewhere(self, except_targets: Collection[str]) -> DueQuery:
        return self._query(self.single_flight.profile, except_targets=frozenset(except_targets))

    def _query(
        self,
        profile: TargetProfile,
        *,
        targets: tuple[str, ...] | None = None,
        except_targets: frozenset[str] = frozenset(),
    ) -> DueQuery:
        # A grant that this run has refreshed is not due again, however long `within` is and however
        # short the lifetime that the bank said.
        idle = timedelta(seconds=profile.idle_lifetime) - IDLE_MARGIN
        attempts = 0 if profile.after_uncertainty is AfterUncertainty.HOLD else 1
        return DueQuery(
            client_id=self.single_flight.client_id,
            before=self.now + min(self.within, idle),
            issued_before=self.now,
            max_attempts=attempts if profile.rotates else UNLIMITED,
            targets=targets,
            except_targets=except_targets,
        )
