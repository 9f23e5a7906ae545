"""The client certificate: its offline check, and the TLS context made from it."""

from __future__ import annotations

import os
import ssl
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import field, frozen
from attrs.converters import optional

from .certificate import (
    Finding,
    Rule,
    algorithm_findings,
    chain_findings,
    key_findings,
    usage_findings,
    validity_findings,
)
from .errors import CertificateError, InvalidInputError
from .tokens import Secret, hide, require_secret

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

__all__ = [
    "CertificateReport",
    "ClientCertificate",
    "Finding",
    "Rule",
    "check_certificate",
    "ssl_context",
]


def _path(value: object) -> Path:
    if not isinstance(value, (str, os.PathLike)):
        kind = type(value).__name__
        raise InvalidInputError(f"A path of the client certificate must not be a {kind}.")
    return Path(value)


@frozen(init=False)
class ClientCertificate:
    """The files of a client certificate, all PEM.

    Args:
        chain: The client certificate followed by its intermediate certificates.
        key: Its private key; None if the key is in the file of the chain.
        passphrase: The passphrase of the key; None if the key is not encrypted.
        ca: The authorities to trust for the server's certificate; None for those that the
            operating system trusts.

    Raises:
        InvalidInputError: A path has another type, or the passphrase is empty or not a text.

    Source: bLink TLS certificates; RFC 8705 section 2.
    """

    chain: Path = field(converter=_path)
    key: Path | None = field(converter=optional(_path))
    passphrase: Secret | None
    ca: Path | None = field(converter=optional(_path))

    def __init__(
        self,
        chain: str | os.PathLike[str],
        key: str | os.PathLike[str] | None = None,
        passphrase: str | Secret | None = None,
        ca: str | os.PathLike[str] | None = None,
    ) -> None:
        secret = None if passphrase is None else hide(passphrase, "key passphrase")
        del passphrase
        secret = None if secret is None else require_secret(secret)
        self.__attrs_init__(chain, key, secret, ca)


@frozen(kw_only=True)
class CertificateReport:
    """The result of the offline check.

    Attributes:
        subject: The distinguished name of the subject (RFC 4514), or None if unreadable.
        expires_at: The end of the validity, timezone-aware UTC, or None if unreadable.
        days_left: Whole days until `expires_at`, negative once it has passed, or None.
        findings: The broken rules.
    """

    subject: str | None = None
    expires_at: datetime | None = None
    days_left: int | None = None
    findings: tuple[Finding, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether no broken rule is fatal."""
        return not any(finding.fatal for finding in self.findings)

    def __str__(self) -> str:
        if self.days_left is None:
            heading = "The client certificate cannot be read."
        else:
            heading = f"{self.subject}: {self.days_left} days left."
        found = [f"- {finding.text}" for finding in self.findings]
        return "\n".join([heading, *(found or ["No rule of the platform is broken."])])


def check_certificate(certificate: ClientCertificate, *, now: datetime) -> CertificateReport:
    """Check a client certificate offline against the platform's published rules.

    Args:
        certificate: The files to check. Nothing is sent.
        now: The current time, timezone-aware.

    Source: bLink TLS certificates.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509 import DuplicateExtension, InvalidVersion, load_pem_x509_certificates

    try:
        return _report(certificate, load_pem_x509_certificates(certificate.chain.read_bytes()), now)
    except OSError as exc:
        return _unreadable(f"{certificate.chain} cannot be read: {exc.strerror}.")
    except (ValueError, UnsupportedAlgorithm, DuplicateExtension, InvalidVersion):
        return _unreadable(f"{certificate.chain} holds no PEM certificate that can be read.")


def _report(
    certificate: ClientCertificate, chain: list[Certificate], now: datetime
) -> CertificateReport:
    leaf = chain[0]
    expires_at = leaf.not_valid_after_utc
    return CertificateReport(
        subject=leaf.subject.rfc4514_string(),
        expires_at=expires_at,
        days_left=(expires_at - now).days,
        findings=(
            *key_findings(certificate.key or certificate.chain, certificate.passphrase, leaf),
            *algorithm_findings(leaf),
            *usage_findings(leaf),
            *validity_findings(leaf, now),
            *chain_findings(chain),
        ),
    )


def _unreadable(text: str) -> CertificateReport:
    return CertificateReport(findings=(Finding(Rule.READABLE, text),))


def ssl_context(certificate: ClientCertificate, *, now: datetime) -> ssl.SSLContext:
    """Return the context for mutual TLS.

    Args:
        certificate: The files; first checked against the rules of the platform.
        now: The current time, timezone-aware.

    Raises:
        CertificateError: A file cannot be used, or the certificate breaks a rule of the platform.
    """
    report = check_certificate(certificate, now=now)
    if not report.usable:
        broken = [finding for finding in report.findings if finding.fatal]
        raise CertificateError(
            " ".join(["Nothing was sent.", *(finding.text for finding in broken)]),
            rules=tuple(finding.rule for finding in broken),
        )
    # `create_default_context` would write the session keys to the file that the environment
    # variable SSLKEYLOGFILE names.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if certificate.ca is None:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
        else:
            context.load_verify_locations(certificate.ca)
    except (OSError, ssl.SSLError):
        problem = f"The authorities in {certificate.ca} cannot be read: expected PEM certificates."
    else:
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        secret = certificate.passphrase
        try:
            context.load_cert_chain(
                certificate.chain, certificate.key, password=secret.reveal if secret else ""
            )
            return context
        except (OSError, ssl.SSLError) as exc:
            problem = f"OpenSSL cannot use the client certificate: {getattr(exc, 'reason', exc)}."
    raise CertificateError(f"Nothing was sent. {problem}", rules=(Rule.READABLE,))


def require_verifying(context: ssl.SSLContext) -> None:
    """Require a given context to verify the server.

    Raises:
        InvalidInputError: It does not verify the server's certificate and name, or it allows a
            version below TLS 1.2 (RFC 9700 section 2.6, bLink TLS certificates).
    """
    if context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname:
        raise InvalidInputError(
            "The ssl.SSLContext must verify the server: set check_hostname and CERT_REQUIRED."
        )
    if context.minimum_version < ssl.TLSVersion.TLSv1_2:
        raise InvalidInputError(
            "The ssl.SSLContext must not allow less than TLS 1.2: set minimum_version."
        )
