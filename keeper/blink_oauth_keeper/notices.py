"""Which notice of a grant or a certificate is due: pure functions, without store or clock."""

from __future__ import annotations

from datetime import datetime, timedelta
from enum import StrEnum

from blink_oauth.expiry import CertificateExpiry, ExpiryStage

from .policy import needs_attention
from .profile import TargetProfile
from .status import GrantStatus, status_of
from .store.moving import is_moved
from .store.outbox import TROUBLES, NewNotice, NoticeKind
from .store.protocol import Record, State, is_revoked

__all__ = ["RECOVERED", "NoticeReason", "due_notice", "expiry_notice"]

IDLE_WARNING = timedelta(days=5)
"""Time before a refresh token expires unused: a daily run has then failed five times or more."""
IDLE_SHARE = 1 / 6
"""The warning comes at most in the last sixth of an idle lifetime, which is short in some tests."""
CLOCK_MARGIN = timedelta(hours=1)
"""The clock of another process may be ahead: its notice is not taken back while it comes true."""


class NoticeReason(StrEnum):
    """Why a consent is lost or at risk."""

    REFUSED = "refused"
    """The bank refused the refresh token."""
    UNCERTAIN = "uncertain"
    """It is unknown whether the refresh token is spent."""
    ATTENTION = "attention"
    """The bank has refused to refresh for more than a day, for a reason other than the token."""
    IDLE_END = "idle_end"
    """The refresh token expires soon, since it is not used."""
    ACCESS_END = "access_end"
    """There is no refresh token, and the access token expires soon or has expired."""


RECOVERED = NewNotice(kind=NoticeKind.RECOVERED)
"""The notice that goes with each new pair; the store writes it only after one of `TROUBLES`."""
STAGES = [*ExpiryStage]


def expiry_notice(expiry: CertificateExpiry) -> tuple[int, NewNotice] | None:
    """Return the number of a certificate's stage and its notice, or None if no notice is due.

    Args:
        expiry: The end of the certificate.
    """
    if expiry.stage is ExpiryStage.VALID:
        return None
    reason = f"{expiry.role.value}_{expiry.stage.value}"
    notice = NewNotice(kind=NoticeKind.EXPIRING, reason=reason, ends_at=expiry.not_after)
    return STAGES.index(expiry.stage), notice


def due_notice(record: Record, profile: TargetProfile, now: datetime) -> NewNotice | None:
    """Return the notice of a grant that is due and was not written yet, or None.

    Args:
        record: The record of the grant. Its `notice` is the kind that was written last.
        profile: The profile of the target.
        now: The current time, timezone-aware.
    """
    if is_revoked(record) or is_moved(record):
        return None
    trouble = _trouble(record, profile, now)
    if record.notice not in TROUBLES:
        return trouble
    soon = _trouble(record, profile, now + CLOCK_MARGIN)
    if record.notice in {each.kind for each in (trouble, soon) if each}:
        return None
    if trouble is not None:
        return trouble
    is_well = record.state is status_of(record, profile, now).state is State.ACTIVE
    return RECOVERED if is_well else None


def _trouble(record: Record, profile: TargetProfile, now: datetime) -> NewNotice | None:
    status = status_of(record, profile, now)
    return _loss(record, status) or _risk(record, status, profile, now)


def _loss(record: Record, status: GrantStatus) -> NewNotice | None:
    if record.state is State.NEEDS_CONSENT:
        reason = NoticeReason.REFUSED
    elif record.idle_until is None and not status.usable and status.state != State.UNREADABLE:
        reason = NoticeReason.ACCESS_END
    elif record.idle_until is not None and status.needs_consent:
        reason = NoticeReason.UNCERTAIN
    else:
        return None
    return NewNotice(kind=NoticeKind.LOST, reason=reason, ends_at=status.expires_at)


def _risk(
    record: Record, status: GrantStatus, profile: TargetProfile, now: datetime
) -> NewNotice | None:
    ends_at = status.expires_at
    was_killed = record.state is State.REFRESHING and record.lease_left <= 0
    if record.state is State.UNCERTAIN or was_killed:
        reason = NoticeReason.UNCERTAIN
    elif needs_attention(record):
        reason = NoticeReason.ATTENTION
    elif record.idle_until is None:
        if status.refresh_at is None or now < status.refresh_at:
            return None
        reason = NoticeReason.ACCESS_END
    else:
        idle_lifetime = timedelta(seconds=profile.idle_lifetime)
        ends_at = record.idle_until
        if now < ends_at - min(IDLE_WARNING, IDLE_SHARE * idle_lifetime):
            return None
        reason = NoticeReason.IDLE_END
    return NewNotice(kind=NoticeKind.AT_RISK, reason=reason, ends_at=ends_at)
