"""The client certificate and its files, looked at without asking anybody."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime

from blink_oauth.settings import Settings
from blink_oauth.tls import CertificateReport, ClientCertificate, Finding, Rule, check_certificate

from .authorities import authorities_check
from .check import Check, Level, doubtful, failed, passed
from .files import private_file_check

__all__ = ["certificate_checks"]

ORDER = "Order a certificate that keeps the rule, and register it with the platform."
REMEDIES = {
    Rule.READABLE: "Name PEM files that the user of this process may read.",
    Rule.PASSPHRASE: "Give the passphrase that this key was encrypted with, and only if it is.",
    Rule.KEY_MATCHES: "Name the key that the certificate was ordered with.",
    Rule.CHAIN_COMPLETE: "Write the certificate first, then each intermediate, into one file.",
    Rule.VALID_NOW: "Check the clock of this machine; if it is right, order and register a new "
    "certificate.",
    Rule.DAYS_LEFT: "Order its successor now, and register it with the platform.",
}
GROUPS: dict[str, tuple[Rule, ...]] = {
    "certificate": (
        Rule.X509_V3,
        Rule.RSA_KEY,
        Rule.KEY_LENGTH,
        Rule.SIGNATURE,
        Rule.KEY_USAGE,
        Rule.CLIENT_AUTHENTICATION,
    ),
    "certificate_key": (Rule.READABLE, Rule.PASSPHRASE, Rule.KEY_MATCHES),
    "certificate_chain": (Rule.CHAIN_COMPLETE,),
    "certificate_validity": (Rule.VALID_NOW, Rule.DAYS_LEFT),
}


def certificate_checks(settings: Settings, *, now: datetime) -> Iterator[Check]:
    """Check the client certificate offline: its rules, key, chain, dates and files.

    Args:
        settings: What the client would use.
        now: The present moment, aware.

    Source: bLink TLS certificates.
    """
    certificate = settings.certificate
    if isinstance(certificate, ClientCertificate):
        yield from _report_checks(check_certificate(certificate, now=now))
        yield from private_file_check("key_file", certificate.key or certificate.chain)
        yield authorities_check(certificate.ca)
    elif certificate is not None:
        yield passed("certificate", "It is in a ready ssl.SSLContext, which cannot be looked into.")
    elif settings.base_url.startswith("https://"):
        yield failed(
            "certificate",
            "No client certificate is set, but bLink demands mutual TLS.",
            "Set the certificate and its key, for example in BLINK_CERTIFICATE and BLINK_KEY.",
        )
    else:
        yield doubtful(
            "certificate",
            "base_url is plain http, where no certificate is asked for: that is for tests alone.",
            "Set the https:// URL of the platform.",
        )


def _report_checks(report: CertificateReport) -> Iterator[Check]:
    if report.subject is None:
        yield _found("certificate", report.findings)
        return
    right = {
        "certificate": f"{report.subject} keeps the platform's rules.",
        "certificate_key": "The key opens and belongs to the certificate.",
        "certificate_chain": "The chain holds the certificate and what issued it.",
        "certificate_validity": f"{report.days_left} days left, until {report.expires_at:%Y-%m-%d}."
        if report.expires_at
        else "",
    }
    for name, rules in GROUPS.items():
        broken = [finding for finding in report.findings if finding.rule in rules]
        yield _found(name, broken) if broken else passed(name, right[name])


def _found(name: str, findings: Sequence[Finding]) -> Check:
    fatal = any(finding.fatal for finding in findings)
    return Check(
        name,
        Level.FAIL if fatal else Level.WARN,
        " ".join(finding.text for finding in findings),
        " ".join(dict.fromkeys(REMEDIES.get(finding.rule, ORDER) for finding in findings)),
    )
