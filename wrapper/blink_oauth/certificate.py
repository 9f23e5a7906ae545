"""The platform's published rules for a client certificate, one function per group of rules.

Source: bLink TLS certificates. The functions import cryptography themselves: it is slow to load,
and needed only where a client is made or a certificate is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from attrs import frozen

from .expiry import ExpiryStage, stage_of

if TYPE_CHECKING:
    from cryptography.x509 import Certificate, Name, ObjectIdentifier

__all__ = [
    "Finding",
    "Rule",
    "algorithm_findings",
    "chain_findings",
    "issuer_usage_findings",
    "issuing_path",
    "successor_findings",
    "usage_findings",
    "validity_findings",
]

MIN_RSA_BITS = 3072
PUBLIC_POLICIES: set[str] = {
    "2.23.140.1.1",
    "2.23.140.1.2.1",
    "2.23.140.1.2.2",
    "2.23.140.1.2.3",
}
"""The policies of public TLS certificates (Baseline Requirements of the CA/Browser Forum)."""
LAST_PUBLIC: datetime = datetime(2027, 3, 15, tzinfo=UTC)
"""From then on public TLS certificates may not be for client authentication (Chrome Root Program
1.8, as SwissSign reports)."""
LAST_OF_AUTHORITY: dict[str, datetime] = {
    "sectigo": datetime(2027, 2, 10, tzinfo=UTC),
    "digicert": datetime(2027, 3, 1, tzinfo=UTC),
}
"""The days on which authorities stop before (reported by resellers), by a part of their name."""
ASK = (
    "Ask the authority for a certificate from a hierarchy for client authentication, and SIX "
    "whether the platform accepts that hierarchy."
)


class Rule(StrEnum):
    """A requirement on a client certificate or its files."""

    READABLE = "readable"
    PASSPHRASE = "passphrase"
    KEY_MATCHES = "key_matches"
    X509_V3 = "x509_v3"
    RSA_KEY = "rsa_key"
    KEY_LENGTH = "key_length"
    SIGNATURE = "signature"
    KEY_USAGE = "key_usage"
    CLIENT_AUTHENTICATION = "client_authentication"
    CLIENT_AUTHENTICATION_ENDS = "client_authentication_ends"
    VALID_NOW = "valid_now"
    DAYS_LEFT = "days_left"
    CHAIN_COMPLETE = "chain_complete"
    AUTHORITIES = "authorities"


@frozen
class Finding:
    """One broken rule.

    Attributes:
        rule: The rule.
        text: A sentence about the problem and what to do.
        fatal: Whether the platform refuses such a certificate; otherwise it is a warning.
    """

    rule: Rule
    text: str
    fatal: bool = True


def algorithm_findings(leaf: Certificate) -> Iterator[Finding]:
    """Find what is wrong with version, key and signature."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.x509.oid import SignatureAlgorithmOID as Oid

    if leaf.version is not x509.Version.v3:
        yield Finding(Rule.X509_V3, "The certificate is not X.509 version 3: order a new one.")
    key = leaf.public_key()
    if not isinstance(key, RSAPublicKey):
        yield Finding(Rule.RSA_KEY, "The key is not RSA, the only kind the platform accepts.")
    elif key.key_size < MIN_RSA_BITS:
        yield Finding(
            Rule.KEY_LENGTH,
            f"The RSA key has {key.key_size} bits, the platform requires {MIN_RSA_BITS} or more.",
        )
    if leaf.signature_algorithm_oid not in {
        Oid.RSA_WITH_SHA224,
        Oid.RSA_WITH_SHA256,
        Oid.RSA_WITH_SHA384,
        Oid.RSA_WITH_SHA512,
    }:
        yield Finding(
            Rule.SIGNATURE, "The certificate is not signed with SHA-2 and RSA: order a new one."
        )


def usage_findings(leaf: Certificate) -> Iterator[Finding]:
    """Find the usages that are missing."""
    from cryptography import x509
    from cryptography.x509.oid import ExtendedKeyUsageOID

    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    except x509.ExtensionNotFound:
        usage = False
    if not usage:
        yield Finding(Rule.KEY_USAGE, "The certificate lacks the key usage Digital Signature.")
    if ExtendedKeyUsageOID.CLIENT_AUTH not in _extended_usages(leaf):
        yield Finding(
            Rule.CLIENT_AUTHENTICATION,
            "The certificate lacks the extended key usage Client Authentication: order one that "
            "has it; many authorities have stopped adding it.",
        )


def _extended_usages(certificate: Certificate) -> list[ObjectIdentifier]:
    from cryptography import x509

    try:
        return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        return []


def issuer_usage_findings(path: list[Certificate]) -> Iterator[Finding]:
    """Find the issuers whose usages exclude Client Authentication.

    Args:
        path: The client certificate, then its issuers as far as the chain contains them.
    """
    from cryptography.x509.oid import ExtendedKeyUsageOID

    allowing = {ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    for issuer in path[1:]:
        limit = _extended_usages(issuer)
        if limit and not allowing & {*limit}:
            # A warning only: RFC 5280 defines no such limit, but OpenSSL and others apply it.
            yield Finding(
                Rule.CLIENT_AUTHENTICATION,
                f"In the chain, {issuer.subject.rfc4514_string()} is limited to usages without "
                f"Client Authentication: servers that apply the limit refuse yours. {ASK}",
                fatal=False,
            )


def successor_findings(leaf: Certificate) -> Iterator[Finding]:
    """Find whether the successor will lack Client Authentication, if the authority is public.

    Args:
        leaf: The client certificate.
    """
    last = _last_with_client_authentication(leaf)
    if _is_public(leaf) and leaf.not_valid_after_utc >= last:
        yield Finding(
            Rule.CLIENT_AUTHENTICATION_ENDS,
            "The certificate is of a public authority, which is reported to issue none with Client "
            f"Authentication from {last:%Y-%m-%d} on. It expires later, so its successor will "
            f"presumably lack that usage. {ASK}",
            fatal=False,
        )


def _is_public(certificate: Certificate) -> bool:
    from cryptography import x509

    try:
        policies = certificate.extensions.get_extension_for_class(x509.CertificatePolicies).value
    except x509.ExtensionNotFound:
        return False
    return any(each.policy_identifier.dotted_string in PUBLIC_POLICIES for each in policies)


def _last_with_client_authentication(leaf: Certificate) -> datetime:
    issuer = leaf.issuer.rfc4514_string().casefold()
    return min([LAST_PUBLIC, *(day for name, day in LAST_OF_AUTHORITY.items() if name in issuer)])


def validity_findings(leaf: Certificate, now: datetime) -> Iterator[Finding]:
    """Find what is wrong with the dates."""
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    if now < start:
        yield Finding(Rule.VALID_NOW, f"The certificate is valid only from {start:%Y-%m-%d %H:%M}.")
    elif now > end:
        yield Finding(
            Rule.VALID_NOW,
            f"The certificate expired on {end:%Y-%m-%d}, {(now - end).days} days ago.",
        )
    elif stage_of(start, end, now) is not ExpiryStage.VALID:
        yield Finding(
            Rule.DAYS_LEFT,
            f"The certificate expires in {(end - now).days} days: order and register its "
            "successor now.",
            fatal=False,
        )


def chain_findings(chain: list[Certificate], now: datetime) -> Iterator[Finding]:
    """Find what is wrong with the issuers.

    Servers build the path themselves: they sort the certificates and ignore those that they do not
    need (RFC 8446 section 4.4.2), and may have an issuer that is not sent.
    """
    path = issuing_path(chain, now)
    leaf, *issuers = path
    if not issuers and leaf.issuer != leaf.subject:
        yield _no_issuer(leaf, alone=all(certificate == leaf for certificate in chain))
        return
    if len(chain) > len(path):
        yield _chain_warning(
            "The chain contains certificates twice or without need, which servers ignore: remove "
            "them."
        )
    if [certificate for certificate in dict.fromkeys(chain) if certificate in path] != path:
        yield _chain_warning(
            "The issuers are not in order, which servers accept: put each one after the "
            "certificate that it issued."
        )
    if _is_valid(leaf, now):
        for issuer in issuers:
            yield from _issuer_validity(issuer, now)


def issuing_path(chain: list[Certificate], now: datetime) -> list[Certificate]:
    """Return the path from the certificate to the last issuer that the chain contains.

    Args:
        chain: The client certificate, then the others of its file in any order.
        now: The current time, timezone-aware.
    """
    path = chain[:1]
    while path[-1].issuer != path[-1].subject:
        issuers = [c for c in chain if c not in path and _is_issuer(c, path[-1])]
        if not issuers:
            break
        # An authority may have renewed its certificate, and both are in the chain.
        path.append(max(issuers, key=lambda issuer: _is_valid(issuer, now)))
    return path


def _is_issuer(issuer: Certificate, certificate: Certificate) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    if _comparable(certificate.issuer) != _comparable(issuer.subject):
        return False
    try:
        certificate.verify_directly_issued_by(issuer)
    except InvalidSignature:
        return False
    except (TypeError, ValueError, UnsupportedAlgorithm):
        # The algorithm is unknown here, or the names differ in their encoding: the server decides.
        return True
    return True


def _comparable(name: Name) -> str:
    """Return a name as RFC 5280 section 7.1 compares it, about."""
    return " ".join(name.rfc4514_string().casefold().split())


def _is_valid(certificate: Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def _no_issuer(leaf: Certificate, *, alone: bool) -> Finding:
    if alone:
        # A warning only: the issuer may be a root certificate, which the server has already.
        return _chain_warning(
            "The chain contains the certificate alone: append the intermediate certificates."
        )
    return Finding(
        Rule.CHAIN_COMPLETE,
        f"The chain is broken: {leaf.subject.rfc4514_string()} is not issued by any certificate "
        "that follows it. Put the client certificate first, then each issuer.",
    )


def _issuer_validity(issuer: Certificate, now: datetime) -> Iterator[Finding]:
    # Warnings only: the server may have a certificate of the issuer that is valid.
    subject = issuer.subject.rfc4514_string()
    for finding in validity_findings(issuer, now):
        yield Finding(
            finding.rule,
            f"In the chain, {subject}: {finding.text} A server that has no other certificate of "
            "this issuer refuses yours: get the issuer's present one from the authority.",
            fatal=False,
        )


def _chain_warning(text: str) -> Finding:
    return Finding(Rule.CHAIN_COMPLETE, text, fatal=False)
