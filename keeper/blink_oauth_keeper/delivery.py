"""Write the notices that no change of a grant has written, and call a handler with each notice.

Of a grant one notice is in progress at a time, so its notices arrive in their order. A notice is
claimed before its handler is called: until the claim ends, no other run gets it, and afterwards it
is delivered again, with the same id.
"""

from __future__ import annotations

import logging
from asyncio import to_thread
from collections import deque
from collections.abc import Callable, Coroutine, Iterable
from datetime import datetime, timedelta
from inspect import isawaitable, iscoroutinefunction

from attrs import define, evolve, field, frozen

from blink_oauth.arguments import wrong_argument
from blink_oauth.errors import BlinkError, InvalidInputError
from blink_oauth.expiry import CertificateExpiry

from .errors import DeliveryError
from .executor import StepExecutor
from .notices import due_notice, expiry_notice
from .profile import TargetProfile
from .status import record_pages
from .store.outbox import Notice
from .store.protocol import TokenStore

__all__ = [
    "HANDLER_EXAMPLE",
    "Delivery",
    "NoticeHandler",
    "NoticeReport",
    "adeliver",
    "deliver",
    "pause_after_failure",
    "require_handler",
]

FIRST_PAUSE = 10.0
LONGEST_PAUSE = 3_600.0
"""Seconds; so a receiver that was down for hours gets its notices within an hour."""
LIFETIME = timedelta(days=7)
"""The age from which a failed notice is dead: a receiver that fails before a long holiday is
repaired by then. Later, a notice of a consent at risk would come too late."""
FEWEST_TRIES = 5
"""Tries of a notice before it is dead, however old it is: no run may have tried it for days."""
CLAIM = 300.0
"""Seconds after which a claimed notice is delivered again, unless its handler has returned."""
HANDLER_TIME = 60.0
"""Seconds of its claim that must be left when a notice is passed to the handler."""
BATCH = 20
PATIENCE = 30.0
"""Seconds of failures in a row that end a run: if the receiver is down, each further try would take
its timeout. Not a number of failures: a handler that raises at once for some grants must not hold
up the notices of others."""
STOP_INTERVAL = 0.5
"""Seconds that a run sleeps at most before it asks again whether to stop."""
COUNT_LIMIT = 10_000
HANDLER_EXAMPLE = "lambda notice: queue.put(notice)"

logger = logging.getLogger("blink_oauth_keeper.notices")

NoticeHandler = Callable[[Notice], object]


@frozen(kw_only=True)
class NoticeReport:
    """The numbers of notices of a run.

    Attributes:
        written: Notices that this run wrote, since no change of a grant had written them.
        delivered: Notices whose handler returned.
        failed: Notices whose handler raised; a later run tries them again.
        dead: Notices whose handler raised, and that are not tried again.
        left: Notices of the client that a later run delivers, including the failed ones, counted up
            to 10,000.
    """

    written: int = 0
    delivered: int = 0
    failed: int = 0
    dead: int = 0
    left: int = 0


def pause_after_failure(
    tries: int, age: timedelta, spread: float, retry_after: float | None = None
) -> float | None:
    """Return the seconds until a failed notice is tried again, or None if it is dead.

    Args:
        tries: Number of deliveries that were begun.
        age: The time since the notice was written.
        spread: A random number from 0 to 1, so that retries do not coincide.
        retry_after: Seconds that the receiver asked to wait, or None; at most an hour counts.
    """
    if age >= LIFETIME and tries >= FEWEST_TRIES:
        return None
    longest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(tries - 1, 16))
    return max(longest * (0.5 + 0.5 * spread), min(retry_after or 0.0, LONGEST_PAUSE))


@define(eq=False)
class Delivery:
    """One run of `TokenManager.deliver_notices`, without the calls of the handler.

    Args:
        store: The store.
        client_id: The client.
        expiries: Returns the ends of the certificates that the client uses.
        profile_of: Returns the profile of a target.
        step_executor: Emits the events.
        now: Returns the current time, timezone-aware.
        monotonic: Returns seconds of a clock that never goes back.
        random: Returns a number from 0 to below 1.
        sleep: Sleeps some seconds.
        stop: Returns whether to end the run; not called again once it returned True.
        limit: Number of notices to try at most.
    """

    store: TokenStore
    client_id: str
    expiries: Callable[[], Iterable[CertificateExpiry]]
    profile_of: Callable[[str], TargetProfile]
    step_executor: StepExecutor
    now: Callable[[], datetime]
    monotonic: Callable[[], float]
    random: Callable[[], float]
    sleep: Callable[[float], None]
    stop: Callable[[], bool]
    limit: int
    _report: NoticeReport = field(init=False, factory=NoticeReport)
    _stopped: bool = field(init=False, default=False)
    _tried: int = field(init=False, default=0)
    _claimed: deque[Notice] = field(init=False, factory=deque)
    _claimed_until: float = field(init=False, default=0.0)
    _began: float = field(init=False, default=0.0)
    _failing_since: float | None = field(init=False, default=None)
    _not_before: float = field(init=False, default=0.0)

    def write_due(self) -> None:
        """Write the notices that have come due without a change of a grant."""
        for expiry in self.expiries():
            found = expiry_notice(expiry)
            if found is not None:
                self._count_written(
                    self.store.add_certificate_notice(self.client_id, expiry.fingerprint, *found)
                )
        for page in record_pages(self.store, self.client_id):
            if self._stopping():
                return
            for record in page:
                profile = self.profile_of(record.key.grant.target_id)
                notice = due_notice(record, profile, self.now())
                if notice is not None:
                    self._count_written(self.store.add_notice(record, notice))

    def next(self) -> Notice | None:
        """Claim and return the next notice, or None at the end of the run.

        It waits if the receiver asked for a short pause.
        """
        if self._tried < self.limit and self._may_send() and not self._stopping():
            if not self._claimed or self.monotonic() > self._claimed_until - HANDLER_TIME:
                self._claim()
            if self._claimed:
                self._tried += 1
                self._began = self.monotonic()
                return self._claimed.popleft()
        self._give_back()
        return None

    def delivered(self, notice: Notice) -> None:
        """Note that the handler returned."""
        self._failing_since = None
        self.store.notice_delivered(notice)
        self._report = evolve(self._report, delivered=self._report.delivered + 1)

    def failed(self, notice: Notice, error: Exception) -> None:
        """Note that the handler raised: the notice is tried again later, or dead."""
        if self._failing_since is None:
            self._failing_since = self._began
        retry_after = error.retry_after if isinstance(error, DeliveryError) else None
        if retry_after is not None:
            self._not_before = self.monotonic() + min(retry_after, LONGEST_PAUSE)
        age = self.now() - notice.at
        pause = pause_after_failure(notice.tries, age, self.random(), retry_after)
        self.store.notice_failed(notice, pause=pause)
        # Without the text of a foreign exception, which may name a customer.
        is_ours = isinstance(error, BlinkError)
        text = f"{type(error).__name__}: {error}" if is_ours else type(error).__name__
        plan = "It is not tried again." if pause is None else f"The next try is in {pause:.0f} s."
        logger.warning(
            "Notice %s (%s) failed at try %d (%s). %s",
            *(notice.id, notice.kind.value, notice.tries, text, plan),
        )
        if pause is None:
            self._report = evolve(self._report, dead=self._report.dead + 1)
            self.step_executor.report_dead_notice(notice, type(error).__name__)
        else:
            self._report = evolve(self._report, failed=self._report.failed + 1)

    def report(self) -> NoticeReport:
        """Return the numbers of the run, and count the notices that are left."""
        undelivered = self.store.notices(self.client_id, limit=COUNT_LIMIT)
        return evolve(self._report, left=sum(not entry.is_dead for entry in undelivered))

    def _count_written(self, is_written: bool) -> None:
        self._report = evolve(self._report, written=self._report.written + is_written)

    def _may_send(self) -> bool:
        """Wait until the receiver may be called; return whether that is within the patience."""
        wait = max(0.0, self._not_before - self.monotonic())
        since = self._failing_since
        if since is not None and self.monotonic() + wait - since >= PATIENCE:
            return False
        while wait > 0 and not self._stopping():
            self.sleep(min(wait, STOP_INTERVAL))
            wait -= STOP_INTERVAL
        return True

    def _claim(self) -> None:
        self._give_back()
        self._claimed_until = self.monotonic() + CLAIM
        limit = min(BATCH, self.limit - self._tried)
        self._claimed.extend(self.store.claim_notices(self.client_id, limit=limit, ttl=CLAIM))

    def _give_back(self) -> None:
        # Otherwise no run gets them before the claim ends.
        while self._claimed:
            self.store.notice_failed(self._claimed.popleft(), pause=0.0, counts=False)

    def _stopping(self) -> bool:
        self._stopped = self._stopped or self.stop()
        return self._stopped


def require_handler(handler: object) -> None:
    """Require a handler that is a function or a coroutine function.

    Raises:
        InvalidInputError: It cannot be called.
    """
    if not callable(handler) or isinstance(handler, type):
        raise wrong_argument("handler", handler, "a function of a Notice", HANDLER_EXAMPLE)


def deliver(run: Delivery, handler: NoticeHandler) -> NoticeReport:
    """Call a handler with each notice until none is due.

    Args:
        run: The run.
        handler: The handler.

    Raises:
        InvalidInputError: The handler returned an awaitable, which nothing awaits.
    """
    while (notice := run.next()) is not None:
        try:
            outcome = handler(notice)
        except Exception as error:  # noqa: BLE001  whatever a handler raises
            run.failed(notice, error)
            continue
        _require_no_awaitable(outcome)
        run.delivered(notice)
    return run.report()


async def adeliver(run: Delivery, handler: NoticeHandler) -> NoticeReport:
    """Call a handler with each notice until none is due; threads use the store.

    Args:
        run: The run.
        handler: A coroutine function, or a function, which is called in a thread.
    """
    call = handler if _is_async(handler) else lambda notice: to_thread(handler, notice)
    while (notice := await to_thread(run.next)) is not None:
        try:
            outcome = call(notice)
            while isawaitable(outcome):
                outcome = await outcome
        except Exception as error:  # noqa: BLE001  whatever a handler raises
            await to_thread(run.failed, notice, error)
        else:
            await to_thread(run.delivered, notice)
    return await to_thread(run.report)


def _is_async(handler: NoticeHandler) -> bool:
    return iscoroutinefunction(handler) or iscoroutinefunction(getattr(handler, "__call__", None))  # noqa: B004


def _require_no_awaitable(outcome: object) -> None:
    if not isawaitable(outcome):
        return
    if isinstance(outcome, Coroutine):
        outcome.close()
    raise InvalidInputError(
        "The handler returned an awaitable, which deliver_notices does not await, so the notice "
        "is not delivered. Call adeliver_notices."
    )
