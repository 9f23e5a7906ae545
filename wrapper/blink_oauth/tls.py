"""The client certificate: its offline check, and the TLS context made from it."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, field, frozen
from attrs.converters import optional

from ._loading import contents, load_authorities, load_key, read_chain, read_passphrase
from ._pem import certificates_in
from ._unpacking import Unpacked, unpack_pem, unpack_pkcs12, written
from .arguments import require_time, type_of, wrong_argument
from .certificate import (
    Finding,
    Rule,
    algorithm_findings,
    chain_findings,
    issuer_usage_findings,
    issuing_path,
    successor_findings,
    usage_findings,
    validity_findings,
)
from .errors import CertificateError, InvalidInputError
from .expiry import MAX_AUTHORITIES, CertificateExpiry, expiries_of
from .tokens import Secret, hide, require_secret

if TYPE_CHECKING:
    from cryptography import x509

__all__ = [
    "Certificate",
    "CertificateReport",
    "ClientCertificate",
    "Finding",
    "PemCertificate",
    "Pkcs12Certificate",
    "Rule",
    "certificate_expiries",
    "check_certificate",
    "is_content",
    "load_certificate",
    "require_usable",
    "ssl_context",
    "trusting_context",
]


def _path(value: object) -> Path:
    if not isinstance(value, (str, os.PathLike)):
        raise InvalidInputError(
            f"A path of the client certificate must not be {type_of(value)}. Nothing was sent."
        )
    return Path(value)


def is_content(path: object) -> bool:
    """Return whether what should be a path is the content of a PEM file."""
    return isinstance(path, str) and "-----BEGIN " in path


@frozen(init=False)
class ClientCertificate:
    """The files of a client certificate, all PEM.

    Args:
        chain: The client certificate followed by its intermediate certificates.
        key: Its private key; None if the key is in the file of the chain.
        passphrase: The passphrase of the key; None if the key is not encrypted.
        ca: The authorities to trust for the server's certificate; None for those that the
            operating system trusts, whatever the environment names.
        passphrase_file: The file that holds the passphrase, in place of `passphrase`. It is read
            with the key, so a renewed key may have another passphrase.

    Raises:
        InvalidInputError: A path has another type, the passphrase is empty or not a text, or it is
            given twice.

    Source: bLink TLS certificates; RFC 8705 section 2.
    """

    chain: Path = field(converter=_path)
    key: Path | None = field(converter=optional(_path))
    passphrase: Secret | None
    ca: Path | None = field(converter=optional(_path))
    passphrase_file: Path | None = field(converter=optional(_path))

    def __init__(
        self,
        chain: str | os.PathLike[str],
        key: str | os.PathLike[str] | None = None,
        passphrase: str | Secret | None = None,
        ca: str | os.PathLike[str] | None = None,
        *,
        passphrase_file: str | os.PathLike[str] | None = None,
    ) -> None:
        secret = None if passphrase is None else hide(passphrase, "key passphrase")
        del passphrase
        secret = None if secret is None else require_secret(secret)
        if any(map(is_content, (chain, key, ca))):
            # No error and no traceback may show a key.
            chain = key = ca = ""
            raise InvalidInputError(
                "ClientCertificate takes the paths of PEM files, but it was given the content of "
                "one. Write it into a file. Nothing was sent."
            )
        _require_one(secret, passphrase_file, "ClientCertificate")
        self.__attrs_init__(chain, key, secret, ca, passphrase_file)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it names."""
        named = (self.chain, self.key, self.passphrase_file, self.ca)
        return tuple(path for path in named if path is not None)


@frozen(init=False)
class Pkcs12Certificate:
    """A client certificate in a PKCS#12 file, with its key and its intermediate certificates.

    Args:
        path: The file.
        passphrase: The passphrase of the file.
        ca: As for `ClientCertificate`.
        passphrase_file: The file that holds the passphrase, in place of `passphrase`. It is read
            with the file.

    Raises:
        InvalidInputError: A path has another type, the passphrase is empty or not a text, or it is
            given twice.

    Source: RFC 7292.
    """

    path: Path = field(converter=_path)
    passphrase: Secret | None
    ca: Path | None = field(converter=optional(_path))
    passphrase_file: Path | None = field(converter=optional(_path))

    def __init__(
        self,
        path: str | os.PathLike[str],
        passphrase: str | Secret | None = None,
        ca: str | os.PathLike[str] | None = None,
        *,
        passphrase_file: str | os.PathLike[str] | None = None,
    ) -> None:
        secret = None if passphrase is None else hide(passphrase, "passphrase of the file")
        del passphrase
        secret = None if secret is None else require_secret(secret)
        _require_one(secret, passphrase_file, "Pkcs12Certificate")
        self.__attrs_init__(path, secret, ca, passphrase_file)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it names."""
        named = (self.path, self.passphrase_file, self.ca)
        return tuple(path for path in named if path is not None)


@frozen(init=False)
class PemCertificate:
    """A client certificate in memory, in PEM form, such as from a secret manager.

    Args:
        chain: The client certificate followed by its intermediate certificates.
        key: Its private key.
        passphrase: The passphrase of the key; None if the key is not encrypted.
        ca: As for `ClientCertificate`.

    Raises:
        InvalidInputError: An argument has another type, or `chain` contains a private key.
    """

    chain: bytes = field(repr=False)
    key: Secret
    passphrase: Secret | None
    ca: Path | None = field(converter=optional(_path))

    def __init__(
        self,
        chain: str | bytes,
        key: str | Secret,
        passphrase: str | Secret | None = None,
        ca: str | os.PathLike[str] | None = None,
    ) -> None:
        hidden = hide(key, "private key")
        secret = None if passphrase is None else hide(passphrase, "key passphrase")
        certificates = chain.encode(errors="replace") if isinstance(chain, str) else chain
        del key, passphrase, chain
        if not isinstance(certificates, bytes) or b"PRIVATE KEY" in certificates:
            del certificates
            raise InvalidInputError(
                "PemCertificate takes the PEM text of the certificates as chain, and that of the "
                "private key as key. Nothing was sent."
            )
        secret = None if secret is None else require_secret(secret)
        self.__attrs_init__(certificates, require_secret(hidden), secret, ca)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that it names."""
        return () if self.ca is None else (self.ca,)


Certificate = ClientCertificate | Pkcs12Certificate | PemCertificate
"""A client certificate that can be checked."""


def _require_one(passphrase: Secret | None, file: object, name: str) -> None:
    if passphrase is not None and file is not None:
        raise InvalidInputError(
            f"{name} takes passphrase or passphrase_file, not both. Nothing was sent."
        )


@frozen(kw_only=True)
class CertificateReport:
    """The result of the offline check.

    Attributes:
        subject: The distinguished name of the subject (RFC 4514), or None if unreadable.
        expires_at: The end of the validity, timezone-aware UTC, or None if unreadable.
        days_left: Whole days until `expires_at`, negative once it has passed, or None.
        findings: The broken rules.
        expiries: The certificates whose end stops the client's calls: its own, its issuers as far
            as the chain contains them, then the authorities of the file `ca`, unless it is a bundle
            of more than ten.
    """

    subject: str | None = None
    expires_at: datetime | None = None
    days_left: int | None = None
    findings: tuple[Finding, ...] = ()
    expiries: tuple[CertificateExpiry, ...] = ()

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


def check_certificate(certificate: Certificate, *, now: datetime) -> CertificateReport:
    """Check a client certificate offline: load it, and apply the platform's published rules.

    Args:
        certificate: The certificate to check. Nothing is sent.
        now: The current time, timezone-aware.

    Raises:
        InvalidInputError: An argument has another type.

    Source: bLink TLS certificates.
    """
    return load_certificate(certificate, now)[0]


def ssl_context(certificate: Certificate, *, now: datetime) -> ssl.SSLContext:
    """Return the context for mutual TLS.

    Args:
        certificate: The certificate; checked as `check_certificate` does.
        now: The current time, timezone-aware.

    Raises:
        CertificateError: A file cannot be used, or the certificate breaks a rule of the platform.
    """
    report, context = load_certificate(certificate, now)
    require_usable(report.findings)
    return context


def trusting_context(authorities: Path | bytes | None) -> ssl.SSLContext:
    """Return a context that verifies a server, and has no client certificate.

    Args:
        authorities: The authorities to trust: their PEM file, or the certificates themselves in
            DER; None for those of the operating system.

    Raises:
        CertificateError: The authorities cannot be loaded.
    """
    context = _new_context()
    if isinstance(authorities, bytes):
        context.load_verify_locations(cadata=authorities)
    else:
        problem = load_authorities(context, authorities)
        require_usable([problem] if problem else [])
    return context


def require_usable(findings: Iterable[Finding]) -> None:
    """Require that no broken rule is fatal.

    Raises:
        CertificateError: One is.
    """
    broken = [finding for finding in findings if finding.fatal]
    if broken:
        raise CertificateError(
            " ".join(["Nothing was sent.", *(finding.text for finding in broken)]),
            rules=tuple(finding.rule for finding in broken),
        )


def _new_context() -> ssl.SSLContext:
    # `create_default_context` would write the session keys to the file that the environment
    # variable SSLKEYLOGFILE names, and verifies more strictly from Python 3.13 on. The verify flags
    # are those of OpenSSL in every version: VERIFY_X509_STRICT refuses the authorities of many
    # firms for missing extensions, and without VERIFY_X509_PARTIAL_CHAIN only a root is trusted.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # A host name is a subject alternative name and nothing else (RFC 9525 section 2).
    context.hostname_checks_common_name = False
    return context


def load_certificate(
    certificate: Certificate, now: datetime
) -> tuple[CertificateReport, ssl.SSLContext]:
    """Return the report, and the context, which is usable if the report is.

    Args:
        certificate: The certificate.
        now: The current time, timezone-aware.
    """
    require_time("now", now)
    if isinstance(certificate, ClientCertificate):
        return _load_files(certificate, now)
    if not isinstance(certificate, (Pkcs12Certificate, PemCertificate)):
        raise wrong_argument(
            "certificate", certificate, "a ClientCertificate", 'ClientCertificate("client.pem")'
        )
    unpacked = _unpack(certificate)
    if isinstance(unpacked, Finding):
        return CertificateReport(findings=(unpacked,)), _new_context()
    with written(unpacked) as (chain, key, passphrase):
        files = ClientCertificate(chain, key, passphrase, certificate.ca)
        report, context = _load_files(files, now)
    texts = {str(chain): unpacked.label, str(key): unpacked.label}
    findings = tuple(_renamed(finding, texts) for finding in report.findings)
    return evolve(report, findings=findings), context


def _unpack(certificate: Pkcs12Certificate | PemCertificate) -> Unpacked | Finding:
    if isinstance(certificate, PemCertificate):
        label = "the certificate in memory"
        return unpack_pem(certificate.chain, certificate.key, certificate.passphrase, label)
    data, passphrase = contents(certificate.path), _passphrase_of(certificate)
    for problem in (data, passphrase):
        if isinstance(problem, Finding):
            return problem
    assert isinstance(data, bytes)
    assert not isinstance(passphrase, Finding)
    return unpack_pkcs12(data, passphrase, str(certificate.path))


def _renamed(finding: Finding, names: Mapping[str, str]) -> Finding:
    text = finding.text
    for path, name in names.items():
        text = text.replace(path, name)
    return evolve(finding, text=text)


def _load_files(
    certificate: ClientCertificate, now: datetime
) -> tuple[CertificateReport, ssl.SSLContext]:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509 import DuplicateExtension

    context = _new_context()
    problem = load_authorities(context, certificate.ca)
    authorities = () if problem is None else (problem,)
    chain = read_chain(certificate.chain)
    if isinstance(chain, Finding):
        expiries = _expiries([], certificate.ca, now)
        return CertificateReport(findings=(chain, *authorities), expiries=expiries), context
    try:
        path = issuing_path(chain, now)
        rules = [
            *algorithm_findings(chain[0]),
            *usage_findings(chain[0]),
            *issuer_usage_findings(path),
            *successor_findings(chain[0]),
            *validity_findings(chain[0], now),
            *chain_findings(chain, now),
        ]
    except (ValueError, UnsupportedAlgorithm, DuplicateExtension) as exc:
        text = (
            f"{certificate.chain} holds no PEM certificate that can be read: its content is "
            f"invalid ({type(exc).__name__})."
        )
        findings = (Finding(Rule.READABLE, text), *authorities)
        expiries = _expiries([], certificate.ca, now)
        return CertificateReport(findings=findings, expiries=expiries), context
    # What OpenSSL refuses because it breaks a rule is reported once.
    broken = {finding.rule for finding in rules if finding.fatal}
    key = [
        finding for finding in _load_key(context, certificate, chain) if finding.rule not in broken
    ]
    expires_at = chain[0].not_valid_after_utc
    report = CertificateReport(
        subject=chain[0].subject.rfc4514_string(),
        expires_at=expires_at,
        days_left=(expires_at - now).days,
        findings=(*key, *rules, *authorities),
        expiries=_expiries(chain, certificate.ca, now),
    )
    return report, context


def certificate_expiries(certificate: Certificate, now: datetime) -> tuple[CertificateExpiry, ...]:
    """Return the ends of the certificates that a client uses; none of a file that cannot be read.

    Args:
        certificate: The client certificate. Its key is not loaded.
        now: The current time, timezone-aware.
    """
    return _expiries(_chain_of(certificate), certificate.ca, now)


def _chain_of(certificate: Certificate) -> list[x509.Certificate]:
    if isinstance(certificate, ClientCertificate):
        chain = read_chain(certificate.chain)
        return [] if isinstance(chain, Finding) else chain
    if isinstance(certificate, PemCertificate):
        return _certificates_in(certificate.chain)
    unpacked = _unpack(certificate)
    return [] if isinstance(unpacked, Finding) else _certificates_in(unpacked.chain)


def _expiries(
    chain: list[x509.Certificate], ca: Path | None, now: datetime
) -> tuple[CertificateExpiry, ...]:
    try:
        path = issuing_path(chain, now) if chain else []
    except ValueError:
        path = chain[:1]
    data = b"" if ca is None else contents(ca)
    if isinstance(data, Finding) or data.count(b"-----BEGIN ") > MAX_AUTHORITIES:
        data = b""
    return expiries_of(path, _certificates_in(data), now)


def _certificates_in(data: bytes) -> list[x509.Certificate]:
    return [each for each in certificates_in(data) if each is not None]


def _passphrase_of(
    certificate: ClientCertificate | Pkcs12Certificate,
) -> Secret | Finding | None:
    file = certificate.passphrase_file
    return certificate.passphrase if file is None else read_passphrase(file)


def _load_key(
    context: ssl.SSLContext, certificate: ClientCertificate, chain: list[x509.Certificate]
) -> Iterable[Finding]:
    passphrase = _passphrase_of(certificate)
    if isinstance(passphrase, Finding):
        return [passphrase]
    return load_key(context, certificate.chain, certificate.key, passphrase, chain)


def require_verifying(context: ssl.SSLContext) -> None:
    """Require a given context to verify the server.

    Raises:
        InvalidInputError: It does not verify the server's certificate and name, allows a version
            below TLS 1.2 (RFC 9700 section 2.6, bLink TLS certificates), or logs the session keys.
    """
    if context.verify_mode is not ssl.CERT_REQUIRED or not context.check_hostname:
        raise InvalidInputError(
            "The ssl.SSLContext must verify the server: set check_hostname and CERT_REQUIRED."
        )
    if context.minimum_version < ssl.TLSVersion.TLSv1_2:
        raise InvalidInputError(
            "The ssl.SSLContext must not allow less than TLS 1.2: set minimum_version."
        )
    if context.keylog_filename is not None:
        # `create_default_context` sets it from the environment variable SSLKEYLOGFILE.
        raise InvalidInputError(
            "The ssl.SSLContext must not write the session keys to a file: set keylog_filename to "
            "None."
        )
