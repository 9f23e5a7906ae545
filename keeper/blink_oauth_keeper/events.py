"""The events of the keeper: they have stable names and fields, and contain no secret."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum
from typing import Any

from attrs import asdict, field, frozen

from blink_oauth.context import Grant
from blink_oauth.expiry import CertificateRole, ExpiryStage

__all__ = ["LEVELS", "Event", "EventName", "Listener"]


class EventName(StrEnum):
    """The names of the events. They do not change; new ones may be added."""

    AUTHORIZING = "grant.authorizing"
    """A code is about to be exchanged. Only in the history: its entry proves that the store takes
    changes."""
    AUTHORIZED = "grant.authorized"
    """A code was exchanged and the pair is stored."""
    AUTHORIZATION_FAILED = "grant.authorization_failed"
    """The exchange of a code failed."""
    ADOPTED = "grant.adopted"
    """A refresh token of an existing consent was stored by `TokenManager.adopt`. It has not been
    presented yet. The `detail` in the history is its keyed fingerprint."""
    REFRESHED = "refresh.succeeded"
    """A new pair is stored."""
    FAILED = "refresh.failed"
    """A refresh failed. The refresh token is not spent, unless the response contained a token."""
    UNCERTAIN = "refresh.uncertain"
    """A refresh token was presented, and may be spent."""
    REPLAYED = "refresh.replayed"
    """A refresh token that may be spent is presented again."""
    ABANDONED = "refresh.abandoned"
    """A lease was released, and nothing was sent under it."""
    SUPERSEDED = "refresh.superseded"
    """A pair was received too late to become the record's."""
    SALVAGED = "refresh.salvaged"
    """A pair from the journal replaces one that the bank refused."""
    CONSENT_NEEDED = "grant.consent_needed"
    """The bank refused the refresh token: a new consent of the customer is needed."""
    ATTENTION_NEEDED = "grant.attention_needed"
    """The bank has refused every refresh for more than a day, for a reason other than the token.

    Emitted once, when it becomes so. A person must look.
    """
    REVOKING = "grant.revoking"
    """The grant was marked as revoked; the bank has not confirmed it yet."""
    REVOKED = "grant.revoked"
    """The bank confirmed the revocation, and the pairs were deleted."""
    FORGOTTEN = "grant.forgotten"
    """The grant was revoked, and everything that names the customer was deleted. It takes the place
    of `grant.revoked`, and is in no history."""
    REVOCATION_FAILED = "grant.revocation_failed"
    """A revocation failed at the bank: a token of the revoked grant may still be valid there."""
    MOVED = "grant.moved"
    """The grant was moved from one store to another. Only in the history of both."""
    FOREIGN_RESPONSE = "response.foreign"
    """The response to a call had the correlation id of another request. It was not believed; a pair
    in it is in the journal, and is neither served nor presented."""
    ODD_RESPONSE = "response.odd"
    """A pair came in a response that departs from the contract, in a way that this manager has not
    reported of its target before."""
    ODD_RESPONSE_AGAIN = "response.odd_again"
    """A pair came in a response that departs from the contract, in ways that this manager has
    reported of its target before."""
    UNSETTLED = "store.unsettled"
    """A result could not be stored: it is in memory only, and is tried again."""
    SETTLED_LATE = "store.settled_late"
    """A result was stored after at least one failed try."""
    LOST = "store.lost"
    """A result could not be stored before the manager closed."""
    CERTIFICATE_RENEWED = "certificate.renewed"
    """The files of the client certificate have changed, and new connections use them. Emitted once
    by each manager."""
    CERTIFICATE_REFUSED = "certificate.refused"
    """The files of the client certificate have changed to what breaks a rule (`rules`): the
    certificate from before stays in use. Emitted once by each manager for each change."""
    CERTIFICATE_EXPIRING = "certificate.expiring"
    """The renewal of a certificate that the client uses is due or urgent, or it has expired. A run
    of `TokenManager.refresh_due` emits it, once by each manager for each certificate and stage. Its
    level is error from the stage urgent on."""
    NOTICE_DEAD = "notice.dead"
    """All deliveries of a notice failed for a week: it is not tried again."""
    UNREADABLE = "store.unreadable"
    """No key opens the pairs of due grants, which are not refreshed: once for each run."""
    STORE_BEHIND = "store.behind"
    """The store went backwards, as after a restore: the newer record in memory is written back.

    With an error: it could not be written back, and nothing was sent.
    """


LEVELS: dict[EventName, int] = {
    EventName.AUTHORIZING: logging.INFO,
    EventName.AUTHORIZED: logging.INFO,
    EventName.AUTHORIZATION_FAILED: logging.WARNING,
    EventName.ADOPTED: logging.INFO,
    EventName.REFRESHED: logging.INFO,
    EventName.FAILED: logging.WARNING,
    EventName.UNCERTAIN: logging.ERROR,
    EventName.REPLAYED: logging.WARNING,
    EventName.ABANDONED: logging.WARNING,
    EventName.SUPERSEDED: logging.WARNING,
    EventName.SALVAGED: logging.WARNING,
    EventName.CONSENT_NEEDED: logging.ERROR,
    EventName.ATTENTION_NEEDED: logging.ERROR,
    EventName.REVOKING: logging.INFO,
    EventName.REVOKED: logging.INFO,
    EventName.FORGOTTEN: logging.INFO,
    EventName.REVOCATION_FAILED: logging.ERROR,
    EventName.MOVED: logging.INFO,
    EventName.FOREIGN_RESPONSE: logging.CRITICAL,
    EventName.ODD_RESPONSE: logging.WARNING,
    EventName.ODD_RESPONSE_AGAIN: logging.DEBUG,
    EventName.UNSETTLED: logging.CRITICAL,
    EventName.SETTLED_LATE: logging.WARNING,
    EventName.LOST: logging.CRITICAL,
    EventName.CERTIFICATE_RENEWED: logging.INFO,
    EventName.CERTIFICATE_REFUSED: logging.ERROR,
    EventName.CERTIFICATE_EXPIRING: logging.WARNING,
    EventName.NOTICE_DEAD: logging.ERROR,
    EventName.UNREADABLE: logging.CRITICAL,
    EventName.STORE_BEHIND: logging.CRITICAL,
}
"""The logging level of each event, unless `Event.level` has another."""


@frozen(kw_only=True)
class Event:
    """Something that happened to a grant, to several grants, or to the client certificate.

    Attributes:
        name: The name of the event.
        at: The time of the event, aware UTC.
        grant: The grant, or None if the event is not about one grant. Its username is personal
            data: no `repr` of an event shows it, and no log record has it.
        fingerprint: The keyed fingerprint of client, target and username, which names the grant in
            logs. Empty without `grant`.
        target_id: The target. Empty without `grant`.
        generation: The generation of the record, or None if the event has no record.
        state: The state of the record, or None.
        correlation_id: The correlation id of the call, or None.
        foreign_correlation_id: The correlation id of a foreign response, if it is a UUID.
        outcome: `done`, or the outcome of the error.
        error: The class of the error, or None.
        status: The HTTP status of the error, or None.
        seconds: Seconds that the call to the bank took, or None.
        count: The number of grants, if the event is about several; otherwise None.
        oddities: The names of what is odd in the response with a pair (`Oddity`), sorted.
        rules: The rules that a refused certificate breaks (`Rule`), sorted.
        expires_at: The end of the certificate that the event is about, aware UTC: of the one that
            new connections use, of the one that expires, or of the one of a dead notice.
        certificate: The SHA-256 hash of the certificate that expires or that a dead notice is
            about, in hexadecimal, or None.
        role: What the certificate that expires is for, or None.
        stage: How near its end is, or None.
    """

    name: EventName
    at: datetime
    grant: Grant | None = field(repr=False)
    fingerprint: str
    target_id: str
    generation: int | None = None
    state: str | None = None
    correlation_id: str | None = None
    foreign_correlation_id: str | None = None
    outcome: str = "done"
    error: str | None = None
    status: int | None = None
    seconds: float | None = None
    count: int | None = None
    oddities: tuple[str, ...] = ()
    rules: tuple[str, ...] = ()
    expires_at: datetime | None = None
    certificate: str | None = None
    role: CertificateRole | None = None
    stage: ExpiryStage | None = None

    @property
    def level(self) -> int:
        """The logging level: that of the name, but error if a certificate is urgent or expired."""
        is_urgent = self.stage is not None and self.stage.is_urgent
        return logging.ERROR if is_urgent else LEVELS[self.name]

    def log_fields(self) -> dict[str, Any]:
        """Return the fields by name for a log, where `grant` is the fingerprint."""
        fields = asdict(self, recurse=False)
        fields["grant"] = fields.pop("fingerprint")
        return fields


Listener = Callable[[Event], None]
