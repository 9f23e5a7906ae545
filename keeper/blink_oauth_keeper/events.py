"""What the keeper tells of itself: events with stable names and fields, and no secret."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from enum import StrEnum

from attrs import frozen

__all__ = ["LEVELS", "Event", "EventName", "Listener"]


class EventName(StrEnum):
    """The names of the events. They do not change; new ones may come."""

    AUTHORIZED = "grant.authorized"
    """A code was exchanged and the pair is stored."""
    AUTHORIZATION_FAILED = "grant.authorization_failed"
    """A code was not exchanged."""
    REFRESHED = "refresh.succeeded"
    """A new pair is stored."""
    FAILED = "refresh.failed"
    """A refresh failed, and the refresh token is not spent."""
    UNCERTAIN = "refresh.uncertain"
    """A refresh token was presented, and may be spent."""
    REPLAYED = "refresh.replayed"
    """A doubtful refresh token is presented once more."""
    ABANDONED = "refresh.abandoned"
    """A lease was given back unused, because its time had become too short."""
    SUPERSEDED = "refresh.superseded"
    """A pair came too late to be stored, and is in the journal."""
    SALVAGED = "refresh.salvaged"
    """A pair from the journal takes the place of one that the bank refused."""
    CONSENT_NEEDED = "grant.consent_needed"
    """The bank refused the refresh token: the customer is needed."""
    REVOKED = "grant.revoked"
    """The bank confirmed the revocation."""
    REVOCATION_FAILED = "grant.revocation_failed"
    """The grant is not used any more, but a token of it may still be alive at the bank."""
    UNSETTLED = "store.unsettled"
    """A result could not be written: it lives in memory only, and is tried again."""
    SETTLED_LATE = "store.settled_late"
    """A result that could not be written at first is written."""
    LOST = "store.lost"
    """A result could not be written before everything closed."""


LEVELS: dict[EventName, int] = {
    EventName.AUTHORIZED: logging.INFO,
    EventName.AUTHORIZATION_FAILED: logging.WARNING,
    EventName.REFRESHED: logging.INFO,
    EventName.FAILED: logging.WARNING,
    EventName.UNCERTAIN: logging.ERROR,
    EventName.REPLAYED: logging.WARNING,
    EventName.ABANDONED: logging.WARNING,
    EventName.SUPERSEDED: logging.WARNING,
    EventName.SALVAGED: logging.WARNING,
    EventName.CONSENT_NEEDED: logging.ERROR,
    EventName.REVOKED: logging.INFO,
    EventName.REVOCATION_FAILED: logging.ERROR,
    EventName.UNSETTLED: logging.CRITICAL,
    EventName.SETTLED_LATE: logging.WARNING,
    EventName.LOST: logging.CRITICAL,
}
"""The logging level of each event."""


@frozen(kw_only=True)
class Event:
    """Something that happened to a grant.

    Attributes:
        name: What happened.
        at: When, aware UTC.
        grant: The keyed fingerprint of client, target and username.
        target_id: The target.
        generation: The generation of the stored pair, or None if nothing is stored.
        state: The state of the record, or None.
        correlation_id: The call it belongs to, or None.
        outcome: `done`, or the outcome of the error.
        error: The class of the error, or None.
        status: The HTTP status of the error, or None.
        seconds: How long the call to the bank took, or None if there was none.
    """

    name: EventName
    at: datetime
    grant: str
    target_id: str
    generation: int | None = None
    state: str | None = None
    correlation_id: str | None = None
    outcome: str = "done"
    error: str | None = None
    status: int | None = None
    seconds: float | None = None


Listener = Callable[[Event], None]
