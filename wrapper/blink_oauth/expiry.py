"""When a certificate has to be renewed. Only this module decides it.

The renewal is due when less than a third of the lifetime is left, and less than 30 days: for a
certificate of a year in its last month, for one of 47 days in its last 15 days. It is urgent when
less than a ninth is left, and less than 10 days: two thirds of the time for it have passed then.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from attrs import frozen

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = [
    "MAX_AUTHORITIES",
    "CertificateExpiry",
    "CertificateRole",
    "ExpiryStage",
    "expiries_of",
    "renewal_due_at",
    "stage_of",
    "urgent_at",
]

LONGEST_RENEWAL: Final[timedelta] = timedelta(days=30)
LONGEST_URGENCY: Final[timedelta] = timedelta(days=10)
MAX_AUTHORITIES: Final = 10
"""A file with more of them is a general bundle: which of them the server needs is unknown."""
LONGEST_SUBJECT: Final = 200


class ExpiryStage(StrEnum):
    """How near the end of a certificate is. The stages follow each other in this order."""

    VALID = "valid"
    """Nothing is to be done yet."""
    RENEWAL_DUE = "renewal_due"
    """Less than a third of the lifetime is left, and less than 30 days: order the successor."""
    URGENT = "urgent"
    """Less than a ninth of the lifetime is left, and less than 10 days."""
    EXPIRED = "expired"
    """The end has passed."""

    @property
    def is_urgent(self) -> bool:
        """Whether the successor is needed at once: the certificate is urgent or has expired."""
        return self in {ExpiryStage.URGENT, ExpiryStage.EXPIRED}


class CertificateRole(StrEnum):
    """What a certificate is for."""

    CLIENT = "client"
    """The client certificate."""
    ISSUER = "issuer"
    """A certificate of its chain."""
    AUTHORITY = "authority"
    """An authority of the file `ca`, which verifies the server."""


@frozen(kw_only=True)
class CertificateExpiry:
    """The end of one certificate that the client uses.

    Attributes:
        role: What it is for.
        subject: The distinguished name of its subject (RFC 4514), shortened, without characters
            that cannot be printed.
        fingerprint: The SHA-256 hash of the certificate, in hexadecimal.
        not_before: The start of its validity, aware UTC.
        not_after: The end of its validity, aware UTC.
        stage: How near its end was at the time of the check.
    """

    role: CertificateRole
    subject: str
    fingerprint: str
    not_before: datetime
    not_after: datetime
    stage: ExpiryStage

    @property
    def renewal_due_at(self) -> datetime:
        """The time after which the renewal is due."""
        return renewal_due_at(self.not_before, self.not_after)

    @property
    def urgent_at(self) -> datetime:
        """The time after which the renewal is urgent."""
        return urgent_at(self.not_before, self.not_after)


def renewal_due_at(not_before: datetime, not_after: datetime) -> datetime:
    """Return the time after which the renewal of a certificate is due."""
    return not_after - min((not_after - not_before) / 3, LONGEST_RENEWAL)


def urgent_at(not_before: datetime, not_after: datetime) -> datetime:
    """Return the time after which the renewal of a certificate is urgent."""
    return not_after - min((not_after - not_before) / 9, LONGEST_URGENCY)


def stage_of(not_before: datetime, not_after: datetime, now: datetime) -> ExpiryStage:
    """Return how near the end of a certificate is.

    Args:
        not_before: The start of its validity, timezone-aware.
        not_after: The end of its validity, timezone-aware.
        now: The current time, timezone-aware.
    """
    if now > not_after:
        return ExpiryStage.EXPIRED
    if now > urgent_at(not_before, not_after):
        return ExpiryStage.URGENT
    if now > renewal_due_at(not_before, not_after):
        return ExpiryStage.RENEWAL_DUE
    return ExpiryStage.VALID


def expiries_of(
    path: Iterable[Certificate], authorities: Iterable[Certificate], now: datetime
) -> tuple[CertificateExpiry, ...]:
    """Return the ends of the certificates that a client uses, each once.

    An authority that has expired is left out beside one that is valid: a server that needs it is
    refused already. A certificate with an invalid date or name is left out.

    Args:
        path: The client certificate, then its issuers as far as the chain contains them.
        authorities: The authorities that verify the server.
        now: The current time, timezone-aware.
    """
    chain = [*path]
    used = [
        *_expiries(chain[:1], CertificateRole.CLIENT, now),
        *_expiries(chain[1:], CertificateRole.ISSUER, now),
    ]
    trusted = [*_expiries(authorities, CertificateRole.AUTHORITY, now)]
    valid = [each for each in trusted if each.stage is not ExpiryStage.EXPIRED]
    found: dict[str, CertificateExpiry] = {}
    for each in (*used, *(valid or trusted)):
        # The root may be in both files.
        found.setdefault(each.fingerprint, each)
    return tuple(found.values())


def _expiries(
    certificates: Iterable[Certificate], role: CertificateRole, now: datetime
) -> Iterator[CertificateExpiry]:
    from cryptography.hazmat.primitives.hashes import SHA256

    for certificate in certificates:
        with suppress(ValueError):
            start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            subject = certificate.subject.rfc4514_string()[:LONGEST_SUBJECT]
            yield CertificateExpiry(
                role=role,
                subject="".join(each if each.isprintable() else "?" for each in subject),
                fingerprint=certificate.fingerprint(SHA256()).hex(),
                not_before=start,
                not_after=end,
                stage=stage_of(start, end, now),
            )
