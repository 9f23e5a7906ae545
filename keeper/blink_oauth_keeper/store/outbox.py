"""Notices: messages to the application about grants and certificates, and their values."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum

from attrs import field, frozen

from blink_oauth.context import Grant

__all__ = [
    "LONGEST_NOTICE_PAUSE",
    "TROUBLES",
    "NewNotice",
    "Notice",
    "NoticeKind",
    "OutboxEntry",
    "next_notice",
]

LONGEST_NOTICE_PAUSE = 86_400.0
"""Seconds; no pause between two deliveries of a notice is longer."""


class NoticeKind(StrEnum):
    """What a notice is about."""

    LOST = "consent.lost"
    """The customer must consent again: the grant cannot be refreshed any more."""
    AT_RISK = "consent.at_risk"
    """The consent will or may end, unless something is done (`reason`, `ends_at`)."""
    RECOVERED = "consent.recovered"
    """The grant works again, after a notice that it was lost or at risk."""
    EXPIRING = "certificate.expiring"
    """A certificate ends soon."""
    TEST = "webhook.test"
    """A test of a receiver (`blink-oauth notices test`). No store has such a notice."""


TROUBLES = frozenset({NoticeKind.LOST, NoticeKind.AT_RISK})


@frozen(kw_only=True)
class NewNotice:
    """A notice to write; the store adds its id, its subject and the time.

    Attributes:
        kind: What it is about.
        reason: Why, as a keyword, or None.
        ends_at: When the consent, its access token or the certificate ends, aware UTC; None if that
            is unknown.
    """

    kind: NoticeKind
    reason: str | None = None
    ends_at: datetime | None = None


@frozen(kw_only=True)
class Notice:
    """A notice as it is delivered. It contains no secret.

    Attributes:
        id: A random id, the same at each delivery: a receiver recognizes a repetition by it.
        kind: What it is about.
        client_id: The client.
        grant: The grant; None if it is about a certificate. Its username is personal data: no
            `repr` shows it.
        generation: The generation of the grant's record; of a certificate the number of the stage.
        certificate: The SHA-256 hash of the certificate; None if it is about a grant.
        reason: Why, as a keyword, or None.
        ends_at: When the consent, its access token or the certificate ends, aware UTC; None if that
            is unknown.
        correlation_id: The correlation id of the call that changed the grant, or None.
        at: When it was written, by the store's clock, aware UTC.
        tries: Number of deliveries that were begun, including one in progress.
    """

    id: str
    kind: NoticeKind
    client_id: str
    grant: Grant | None = field(default=None, repr=False)
    generation: int
    certificate: str | None = None
    reason: str | None = None
    ends_at: datetime | None = None
    correlation_id: str | None = None
    at: datetime
    tries: int = 0


@frozen(kw_only=True)
class OutboxEntry:
    """A notice that is not delivered.

    Attributes:
        notice: The notice.
        is_dead: Whether it is not tried again, since all its deliveries failed.
        due_in: Seconds until the next delivery may begin, 0 for now.
    """

    notice: Notice
    is_dead: bool
    due_in: float


def next_notice(last: NoticeKind | None, new: NewNotice | None) -> NoticeKind | None:
    """Return the `notice` of a record after a change that may have a notice.

    That a grant has recovered counts only after a notice that its consent was lost or at risk.

    Args:
        last: The `notice` of the record before.
        new: The notice of the change, or None.
    """
    if new is None:
        return last
    if new.kind is NoticeKind.RECOVERED and last not in TROUBLES:
        return None
    return new.kind
