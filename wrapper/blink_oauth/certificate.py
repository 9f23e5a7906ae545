"""The platform's published rules for a client certificate, one function per group of rules.

Source: bLink TLS certificates. The functions import cryptography themselves: it is slow to load,
and needed only where a client is made or a certificate is checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from .tokens import Secret

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
    from cryptography.x509 import Certificate

__all__ = [
    "Finding",
    "Rule",
    "algorithm_findings",
    "chain_findings",
    "key_findings",
    "usage_findings",
    "validity_findings",
]

MIN_RSA_BITS = 3072
WARN_DAYS = 30


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
    VALID_NOW = "valid_now"
    DAYS_LEFT = "days_left"
    CHAIN_COMPLETE = "chain_complete"


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


def key_findings(path: Path, passphrase: Secret | None, leaf: Certificate) -> Iterator[Finding]:
    """Find what is wrong with the key file."""
    key = _load_key(path, passphrase)
    if isinstance(key, Finding):
        yield key
    elif key.public_key() != leaf.public_key():
        yield Finding(
            Rule.KEY_MATCHES,
            f"The key in {path} does not belong to the certificate: give the key it was made with.",
        )


def _load_key(path: Path, passphrase: Secret | None) -> PrivateKeyTypes | Finding:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        data = path.read_bytes()
        # Testing the primes would take 90 ms, most of the start-up time. One test signature takes
        # 2 ms and shows that the key works; `SSLContext.load_cert_chain` compares key and
        # certificate again.
        key = load_pem_private_key(
            data,
            passphrase.reveal().encode() if passphrase else None,
            unsafe_skip_rsa_key_validation=True,
        )
        if isinstance(key, RSAPrivateKey):
            _test_signature(key)
        return key
    except OSError as exc:
        return Finding(Rule.READABLE, f"{path} cannot be read: {exc.strerror}.")
    except TypeError:
        # A passphrase for an unencrypted key usually means that the wrong file was given.
        state = "encrypted: give its" if passphrase is None else "not encrypted: give no"
        return Finding(Rule.PASSPHRASE, f"The key in {path} is {state} passphrase.")
    except (UnsupportedAlgorithm, InvalidSignature, ValueError):
        if passphrase is not None and b"ENCRYPTED" in data:
            return Finding(Rule.PASSPHRASE, f"The passphrase does not open the key in {path}.")
        return Finding(Rule.READABLE, f"{path} holds no PEM private key that can be read.")


def _test_signature(key: RSAPrivateKey) -> None:
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    signature = key.sign(b"", PKCS1v15(), SHA256())
    key.public_key().verify(signature, b"", PKCS1v15(), SHA256())


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
    try:
        extended = list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        extended = []
    if ExtendedKeyUsageOID.CLIENT_AUTH not in extended:
        yield Finding(
            Rule.CLIENT_AUTHENTICATION,
            "The certificate lacks the extended key usage Client Authentication: order one that "
            "has it; many authorities have stopped adding it.",
        )


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
    elif (days := (end - now).days) < WARN_DAYS:
        yield Finding(
            Rule.DAYS_LEFT,
            f"The certificate expires in {days} days: order and register its successor now.",
            fatal=False,
        )


def chain_findings(chain: list[Certificate]) -> Iterator[Finding]:
    """Find a gap in the chain."""
    from cryptography.exceptions import InvalidSignature

    for certificate, issuer in pairwise(chain):
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, TypeError, ValueError):
            yield Finding(
                Rule.CHAIN_COMPLETE,
                f"The chain is broken: {certificate.subject.rfc4514_string()} is not issued by the "
                "certificate that follows it. Put the client certificate first, then each issuer.",
            )
            return
    if len(chain) == 1 and chain[0].issuer != chain[0].subject:
        # A warning only: the issuer may be a root certificate, which the server has already.
        yield Finding(
            Rule.CHAIN_COMPLETE,
            "The chain contains the certificate alone: append the intermediate certificates.",
            fatal=False,
        )
