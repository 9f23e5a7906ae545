"""Doing the protocol's steps with a store and a client."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

from attrs import frozen

from blink_oauth.context import Grant, Psu
from blink_oauth.errors import BlinkError
from blink_oauth.tokens import Secret, Token

from . import steps
from .breaker import Targets
from .errors import StoreError
from .events import Event, Listener, log_event
from .profile import TargetProfile
from .store.protocol import GrantKey, TokenStore

if TYPE_CHECKING:
    from blink_oauth import BlinkOAuth

__all__ = ["Errand", "Performer"]

logger = logging.getLogger("blink_oauth_keeper")


@frozen
class Errand:
    """What one flight is about.

    Attributes:
        key: Whose token.
        profile: What is known of the target.
        psu: The person behind it.
        code: The authorization code to exchange, if that is the errand.
        redirect_uri: The redirect URI of the code.
    """

    key: GrantKey
    profile: TargetProfile
    psu: Psu = Psu.AUTO
    code: Secret | None = None
    redirect_uri: str = ""


@frozen
class Performer:
    """Does steps.

    Args:
        blink: The client.
        store: The store.
        targets: How the targets fare.
        lease: Seconds that a lease lasts.
        now: Tells the time, aware UTC.
        listener: Is told every event.
    """

    blink: BlinkOAuth
    store: TokenStore
    targets: Targets
    lease: float
    now: Callable[[], datetime]
    listener: Listener | None

    @property
    def deadline(self) -> float:
        """Seconds that a call to the bank takes at most."""
        return self.blink.settings.timeouts.total

    def do(self, errand: Errand, step: steps.Step) -> Any:
        """Do a step and return its result.

        Raises:
            BlinkError: It failed. A store that breaks its promise counts as one that is away, so
                that what it was to take is kept and offered again.
        """
        try:
            return _WAYS[type(step)](self, errand, step)
        except BlinkError:
            raise
        except Exception as error:
            if isinstance(step, AT_THE_BANK):
                raise
            raise StoreError(f"The store failed with a {type(error).__name__}.") from error

    def send(self, errand: Errand, refresh_token: Secret) -> Token:
        """Present the refresh token."""
        grant = errand.key.grant
        return self._call(grant, lambda: self.blink.refresh(grant, refresh_token, psu=errand.psu))

    def exchange(self, errand: Errand) -> Token:
        """Exchange the code of the errand."""
        grant, code = errand.key.grant, errand.code
        assert code is not None
        return self._call(
            grant,
            lambda: self.blink.exchange_code(
                grant, code=code, redirect_uri=errand.redirect_uri, psu=errand.psu
            ),
        )

    def _call(self, grant: Grant, call: Callable[[], Token]) -> Token:
        try:
            token = call()
        except BlinkError as error:
            self.targets.failed(grant.target_id, error)
            raise
        self.targets.answered(grant.target_id)
        return token

    def tell(self, key: GrantKey, told: steps.Tell) -> None:
        """Make an event of what happened, log it, and tell the listener."""
        try:
            event = self._event(key, told)
            log_event(event)
            if self.listener is not None:
                self.listener(event)
        except BaseException:
            # A token must not be lost because somebody who listens stumbles.
            logger.exception("The event %s could not be told to everybody.", told.name)

    def _event(self, key: GrantKey, told: steps.Tell) -> Event:
        grant, record, error = key.grant, told.record, told.error
        return Event(
            name=told.name,
            at=self.now(),
            grant=self.store.fingerprint(f"{key.client_id} {grant.target_id} {grant.username}"),
            target_id=grant.target_id,
            generation=record.generation if record else None,
            state=record.state if record else None,
            correlation_id=error.correlation_id if error else told.correlation_id,
            outcome=error.outcome if error else "done",
            error=type(error).__name__ if error else None,
            status=error.status if error else None,
            seconds=told.seconds,
        )


AT_THE_BANK = (steps.Send, steps.Exchange, steps.Revoke)

_WAYS: dict[type[steps.Step], Callable[[Performer, Errand, Any], Any]] = {
    steps.Load: lambda by, on, _: by.store.load(on.key),
    steps.Turn: lambda by, on, _: by.targets.clearance(on.key.grant.target_id, on.profile),
    steps.Claim: lambda by, _, step: by.store.claim(step.seen, owner=step.owner, ttl=by.lease),
    steps.Send: lambda by, on, step: by.send(on, step.refresh_token),
    steps.Exchange: lambda by, on, _: by.exchange(on),
    steps.Settle: lambda by, _, step: by.store.settle(
        step.claim,
        step.token,
        issued_at=step.issued_at,
        idle_until=step.idle_until,
        note=step.note,
        state=step.state,
    ),
    steps.Put: lambda by, on, step: by.store.put(
        on.key,
        step.token,
        issued_at=step.issued_at,
        idle_until=step.idle_until,
        note=step.note,
    ),
    steps.Release: lambda by, _, step: by.store.release(
        step.claim,
        state=step.state,
        attempts=step.attempts,
        pause=step.pause,
        error=step.error,
        note=step.note,
    ),
    steps.Journal: lambda by, _, step: by.store.journal(step.claim, step.token, origin=step.origin),
    steps.JournalEntries: lambda by, on, _: by.store.journal_entries(on.key),
    steps.Salvage: lambda by, _, step: by.store.salvage(step.claim, note=step.note),
    steps.MarkRevoked: lambda by, on, step: by.store.revoke(on.key, note=step.note),
    steps.Revoke: lambda by, on, step: by.blink.revoke(on.key.grant, step.token, psu=on.psu),
    steps.Erase: lambda by, _, step: by.store.erase(step.record),
    steps.Tell: lambda by, on, step: by.tell(on.key, step),
}
