"""Performs the steps of a protocol with the store, the client, the breakers and the listener."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from blink_oauth.context import Grant
from blink_oauth.errors import BlinkError, CertificateError, Outcome
from blink_oauth.expiry import ExpiryStage
from blink_oauth.renewal import CertificateRenewal
from blink_oauth.tokens import Token

from . import steps
from .breaker import Breakers
from .errors import SealError, StoreError
from .events import LEVELS, Event, EventName, Listener
from .store.outbox import Notice
from .store.protocol import GrantKey, TokenStore

if TYPE_CHECKING:
    from blink_oauth import BlinkOAuth

__all__ = ["Reported", "StepExecutor", "harmless", "log_event"]

HISTORY_LIMIT = 10_000
"""Entries of a history that are searched for an adoption."""
UNSTORED_POLL = 0.5
"""Seconds to wait before a grant with an unstored result in this process is tried again."""

logger = logging.getLogger("blink_oauth_keeper")
store_logger = logging.getLogger("blink_oauth_keeper.store")


@contextmanager
def harmless(message: str, *args: object) -> Iterator[None]:
    """Log an exception instead of raising it, for work that must not cost a received pair.

    Args:
        message: The message to log.
        args: Its arguments.
    """
    try:
        yield
    except BaseException:
        # The exception may come from a log handler.
        with suppress(BaseException):
            logger.exception(message, *args)


@define(eq=False)
class Reported:
    """What the manager has reported, so that it does not report it again."""

    _first: dict[Hashable, object] = field(init=False, factory=dict)

    # No lock, which another thread may hold during a fork: one operation of the dictionary decides.

    def is_new(self, what: Hashable) -> bool:
        """Return whether this was not reported yet; of all callers one gets True."""
        mine = object()
        return self._first.setdefault(what, mine) is mine


@frozen
class StepExecutor:
    """Performs steps.

    Args:
        blink: The client.
        store: The store.
        breakers: The circuit breakers of the targets.
        has_unstored_result: Returns whether this process has an unstored result of a grant.
        lease: Seconds that a lease lasts.
        now: Returns the current time, aware UTC.
        listener: Receives every event, or None.
        reported: The oddities of targets, and the stages of certificates, that were reported.
    """

    blink: BlinkOAuth
    store: TokenStore
    breakers: Breakers
    has_unstored_result: Callable[[Grant], bool]
    lease: float
    now: Callable[[], datetime]
    listener: Listener | None
    reported: Reported = field(factory=Reported)

    def perform(self, job: steps.Job, step: steps.Step) -> Any:  # noqa: C901, PLR0911, PLR0912  one case for each step
        """Perform a step and return its return value.

        Raises:
            BlinkError: The step failed. Any other exception of a store becomes a `StoreError`, so
                that a result is not lost but tried again.
        """
        store, key = self.store, job.key
        try:
            match step:
                case steps.Load():
                    return store.load(key)
                case steps.AcquirePermit():
                    return self._permit(job)
                case steps.Claim():
                    return store.claim(step.seen, owner=step.owner, ttl=self.lease)
                case steps.Send() | steps.ExchangeCode():
                    return self._call(job, step)
                case steps.AddNote():
                    return store.add_note(key, note=step.note)
                case steps.Fingerprint():
                    return store.fingerprint(f"adopted {step.refresh_token.reveal()}")
                case steps.History():
                    return store.history(key, limit=HISTORY_LIMIT)
                case steps.Settle():
                    return store.settle(
                        step.claim,
                        step.token,
                        issued_at=step.issued_at,
                        idle_until=step.idle_until,
                        note=step.note,
                        state=step.state,
                    )
                case steps.Put():
                    return store.put(
                        key,
                        step.token,
                        issued_at=step.issued_at,
                        idle_until=step.idle_until,
                        note=step.note,
                    )
                case steps.Release():
                    return store.release(
                        step.claim,
                        state=step.state,
                        attempts=step.attempts,
                        pause=step.pause,
                        error=step.error,
                        note=step.note,
                    )
                case steps.Journal():
                    return store.journal(step.claim, step.token, origin=step.origin)
                case steps.JournalEntries():
                    return store.journal_entries(key)
                case steps.Salvage():
                    return store.salvage(step.claim, note=step.note)
                case steps.MarkRevoked():
                    return store.mark_revoked(key, note=step.note, forget=step.forget)
                case steps.Revoke():
                    return self.blink.revoke(key.grant, step.token, psu=job.psu)
                case steps.Erase():
                    return store.erase(step.record, journaled=step.journaled, note=step.note)
                case steps.WriteBack():
                    return store.write_back(step.known, seen=step.seen, note=step.note)
                case steps.Emit():
                    return self._emit(key, step)
        except BlinkError:
            raise
        except Exception as error:
            if isinstance(step, BANK_STEPS):
                raise
            raise StoreError(f"The store failed with a {type(error).__name__}.") from error
        raise AssertionError(
            f"{type(step).__name__} is a step of the flights, not of the executor."
        )

    def fingerprint(self, key: GrantKey) -> str:
        """Return the keyed fingerprint that names a grant in logs."""
        return self.store.fingerprint(f"{key.client_id} {key.grant.target_id} {key.grant.username}")

    def _permit(self, job: steps.Job) -> steps.Permit:
        if self.has_unstored_result(job.key.grant):
            # This process has still to store a result of this grant: the record is out of date.
            return steps.Permit(wait=UNSTORED_POLL)
        return self.breakers.acquire(job.key.grant.target_id, job.profile)

    def _call(self, job: steps.Job, step: steps.Send | steps.ExchangeCode) -> Token:
        grant = job.key.grant
        try:
            if isinstance(step, steps.Send):
                token = self.blink.refresh(grant, step.refresh_token, psu=job.psu)
            else:
                assert job.code is not None
                token = self.blink.exchange_code(
                    grant, code=job.code, redirect_uri=job.redirect_uri, psu=job.psu
                )
        except BlinkError as error:
            with harmless("A failed call could not be counted."):
                self.breakers.failed(grant.target_id, error)
            raise
        with harmless("A call could not be counted."):
            self.breakers.succeeded(grant.target_id)
        return token

    def _emit(self, key: GrantKey, step: steps.Emit) -> None:
        """Build the event of a step, log it, and pass it to the listener."""
        grant, record, error, name = key.grant, step.record, step.error, step.name
        if step.oddities:
            # A bank that sends one in each response would otherwise warn at each refresh.
            new = [each for each in step.oddities if self.reported.is_new((grant.target_id, each))]
            name = EventName.ODD_RESPONSE if new else EventName.ODD_RESPONSE_AGAIN

        def event() -> Event:
            if isinstance(error, StoreError):
                store_logger.log(LEVELS[name], "%s", error)
            return Event(
                name=name,
                at=self.now(),
                grant=grant,
                fingerprint=self.fingerprint(key),
                target_id=grant.target_id,
                generation=record.generation if record else None,
                state=record.state if record else None,
                correlation_id=error.correlation_id if error else step.correlation_id,
                foreign_correlation_id=getattr(error, "foreign_correlation_id", None),
                outcome=error.outcome if error else "done",
                error=type(error).__name__ if error else None,
                status=error.status if error else None,
                seconds=step.seconds,
                oddities=tuple(sorted(step.oddities)),
            )

        self._deliver(name, event)

    def report_unreadable(self, count: int) -> None:
        """Emit the event that no key opens this number of due grants."""
        self._emit_without_grant(
            EventName.UNREADABLE,
            self.now(),
            outcome=SealError.outcome,
            error=SealError.__name__,
            count=count,
        )

    def report_dead_notice(self, notice: Notice, error: str) -> None:
        """Emit the event that a notice is not tried again.

        Args:
            notice: The notice.
            error: The class of the error of its last delivery.
        """
        grant, name = notice.grant, EventName.NOTICE_DEAD
        self._deliver(
            name,
            lambda: Event(
                name=name,
                at=self.now(),
                grant=grant,
                fingerprint=self.fingerprint(GrantKey(notice.client_id, grant)) if grant else "",
                target_id=grant.target_id if grant else "",
                generation=notice.generation if grant else None,
                correlation_id=notice.correlation_id,
                outcome=Outcome.UNCERTAIN,
                error=error,
                expires_at=None if grant else notice.ends_at,
                certificate=notice.certificate,
            ),
        )

    def report_renewal(self, renewal: CertificateRenewal) -> None:
        """Emit the event that changed files of the client certificate are used or refused."""
        refused = bool(renewal.reasons)
        self._emit_without_grant(
            EventName.CERTIFICATE_REFUSED if refused else EventName.CERTIFICATE_RENEWED,
            renewal.at,
            outcome=CertificateError.outcome if refused else "done",
            error=CertificateError.__name__ if refused else None,
            rules=tuple(sorted({finding.rule.value for finding in renewal.reasons})),
            expires_at=renewal.expires_at,
        )

    def report_expiries(self) -> None:
        """Emit an event for each certificate whose stage is new: its renewal is due, or urgent."""
        with harmless("The certificates could not be looked at."):
            for expiry in self.blink.settings.certificate_expiries(now=self.now()):
                stage = (expiry.fingerprint, expiry.stage)
                if expiry.stage is not ExpiryStage.VALID and self.reported.is_new(stage):
                    self._emit_without_grant(
                        EventName.CERTIFICATE_EXPIRING,
                        self.now(),
                        expires_at=expiry.not_after,
                        certificate=expiry.fingerprint,
                        role=expiry.role,
                        stage=expiry.stage,
                    )

    def _emit_without_grant(self, name: EventName, at: datetime, **fields: Any) -> None:
        event = Event(name=name, at=at, grant=None, fingerprint="", target_id="", **fields)
        self._deliver(name, lambda: event, event.level)

    def _deliver(
        self, name: EventName, make: Callable[[], Event], level: int | None = None
    ) -> None:
        failure = "The event %s could not be logged or delivered."
        with harmless(failure, name):
            if self.listener is None and not logger.isEnabledFor(level or LEVELS[name]):
                return
            event = make()
            with harmless(failure, name):
                log_event(event)
            if self.listener is not None:
                self.listener(event)


BANK_STEPS = (steps.Send, steps.ExchangeCode, steps.Revoke)


def log_event(event: Event) -> None:
    """Log an event with the logger `blink_oauth_keeper`; its fields are in `extra` too."""
    fields = {f"blink_{name}": value for name, value in event.log_fields().items()}
    logger.log(
        event.level,
        "%s grant=%s target=%s generation=%s correlation_id=%s outcome=%s error=%s%s%s%s%s%s%s",
        event.name,
        event.fingerprint,
        event.target_id,
        event.generation,
        event.correlation_id,
        event.outcome,
        event.error,
        "" if event.count is None else f" count={event.count}",
        f" foreign_correlation_id={foreign}" if (foreign := event.foreign_correlation_id) else "",
        f" oddities={','.join(event.oddities)}" if event.oddities else "",
        f" rules={','.join(event.rules)}" if event.rules else "",
        f" expires_at={event.expires_at.isoformat()}" if event.expires_at else "",
        f" certificate={event.certificate} role={event.role} stage={event.stage}"
        if event.certificate
        else "",
        extra=fields,
    )
