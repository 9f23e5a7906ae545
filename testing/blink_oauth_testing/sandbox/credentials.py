"""Certificates with their keys, in memory and on disk."""

from __future__ import annotations

import functools
import hashlib
import secrets
from pathlib import Path

from attrs import astuple, field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes as PrivateKey,
)


@functools.cache
def private_key(name: str, size: int = 3072) -> rsa.RSAPrivateKey:
    """Make an RSA key, once per process for each name and size.

    Making a key costs a fraction of a second; two sandboxes in one process share theirs.

    Args:
        name: What the key is for; another name is another key.
        size: Modulus length in bits.
    """
    return rsa.generate_private_key(public_exponent=65537, key_size=size)


@frozen
class CredentialFiles:
    """Credentials on disk, as a client or server loads them."""

    chain: Path
    key: Path
    passphrase: Path

    @classmethod
    def named(cls, folder: Path, stem: str) -> CredentialFiles:
        """Return the files that start with `stem` in a folder."""
        return cls(*(folder / f"{stem}.{ending}" for ending in ("pem", "key", "passphrase")))


@frozen
class Credentials:
    """A certificate, what vouches for it, and its private key."""

    certificate: x509.Certificate
    issuers: tuple[x509.Certificate, ...]
    key: PrivateKey = field(repr=False)
    passphrase: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 of the certificate in hexadecimal."""
        return certificate_fingerprint(self.certificate.public_bytes(serialization.Encoding.DER))

    @property
    def chain_pem(self) -> bytes:
        """Return the leaf and its intermediates, leaf first."""
        return b"".join(map(pem, (self.certificate, *self.issuers)))

    def save(self, folder: Path, stem: str) -> CredentialFiles:
        """Write chain, encrypted key and passphrase, readable by the owner alone.

        Args:
            folder: An existing folder.
            stem: Start of the file names, for example `client`.
        """
        files = CredentialFiles.named(folder, stem)
        encryption = serialization.BestAvailableEncryption(self.passphrase.encode())
        key_pem = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
        )
        contents = (self.chain_pem, key_pem, self.passphrase.encode())
        for path, content in zip(astuple(files), contents, strict=True):
            path.touch(mode=0o600)
            path.write_bytes(content)
        return files


def fake_secret(kind: str) -> str:
    """Make a secret that nobody can guess and everybody can see is none.

    Args:
        kind: What it is, for example `access-token`.
    """
    return f"fake-{kind}-{secrets.token_urlsafe(24)}"


def certificate_fingerprint(der: bytes) -> str:
    """Return the SHA-256 of a certificate in DER form, in hexadecimal."""
    return hashlib.sha256(der).hexdigest()


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate in PEM form."""
    return certificate.public_bytes(serialization.Encoding.PEM)
