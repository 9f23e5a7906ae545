"""A generated certificate authority and the credentials that it issues, in memory and on disk.

The chain meets the platform's rules for its participants (bLink TLS certificates): root,
intermediate, leaf; RSA with 3072 bits; SHA-256; digital signature; client authentication.
Arguments override these properties, so that a test can issue a certificate that must be refused.
"""

from __future__ import annotations

import functools
import hashlib
import ipaddress
import secrets
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import astuple, field, frozen
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.types import (
    CertificateIssuerPrivateKeyTypes as PrivateKey,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

__all__ = []


@functools.cache
def private_key(name: str, size: int = 3072) -> rsa.RSAPrivateKey:
    """Return an RSA key, generated once per process for each name and size.

    Generating a key takes a fraction of a second, so all sandboxes of a process share the keys.

    Args:
        name: The purpose of the key; each name has its own key.
        size: Modulus length in bits.
    """
    return rsa.generate_private_key(public_exponent=65537, key_size=size)


@frozen
class CredentialFiles:
    """The files of credentials, as a client or server loads them."""

    chain: Path
    key: Path
    passphrase: Path

    @classmethod
    def named(cls, folder: Path, stem: str) -> CredentialFiles:
        """Return the files that start with `stem` in a folder."""
        return cls(*(folder / f"{stem}.{ending}" for ending in ("pem", "key", "passphrase")))


@frozen
class Credentials:
    """A certificate, its intermediates, and its private key.

    Attributes:
        certificate: The certificate.
        issuers: Its intermediates, the issuer first.
        key: The private key.
        passphrase: The passphrase with which `save` encrypts the key.
    """

    certificate: x509.Certificate
    issuers: tuple[x509.Certificate, ...]
    key: PrivateKey = field(repr=False)
    passphrase: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """Return the SHA-256 hash of the certificate, in hexadecimal."""
        return certificate_fingerprint(self.certificate.public_bytes(serialization.Encoding.DER))

    @property
    def chain_pem(self) -> bytes:
        """Return the certificate and its intermediates in PEM form, leaf first."""
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
    """Make a random secret that is visibly fake.

    Args:
        kind: The kind of secret, for example `access-token`.
    """
    return f"fake-{kind}-{secrets.token_urlsafe(24)}"


def certificate_fingerprint(der: bytes) -> str:
    """Return the SHA-256 hash of a certificate in DER form, in hexadecimal."""
    return hashlib.sha256(der).hexdigest()


def pem(certificate: x509.Certificate) -> bytes:
    """Return a certificate in PEM form."""
    return certificate.public_bytes(serialization.Encoding.PEM)


CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
SERVER_AUTH = ExtendedKeyUsageOID.SERVER_AUTH

# Validity starts in the past, so that a clock that is minutes slow accepts the certificate.
_BACKDATED = timedelta(days=1)
_VALID_FOR = timedelta(days=365)


@frozen
class CertificateAuthority:
    """A root certificate, and an intermediate that issues the leaf certificates.

    Attributes:
        root: The certificate of the root.
        intermediate: The certificate of the intermediate.
        intermediate_key: The private key of the intermediate.
    """

    root: x509.Certificate
    intermediate: x509.Certificate
    intermediate_key: PrivateKey = field(repr=False)

    @classmethod
    def create(cls, name: str) -> CertificateAuthority:
        """Make a new authority.

        Args:
            name: Common name of the root; each name has its own keys.
        """
        root_key, key = private_key(f"{name} root"), private_key(f"{name} intermediate")
        root_name, intermediate_name = _name(name), _name(f"{name} Intermediate")
        root = _CertificateRequest(root_name, root_key, authority=True).signed_by(
            root_name, root_key
        )
        intermediate = _CertificateRequest(intermediate_name, key, authority=True).signed_by(
            root_name, root_key
        )
        return cls(root, intermediate, key)

    @property
    def root_pem(self) -> bytes:
        """Return the root certificate, which a peer must trust, in PEM form."""
        return pem(self.root)

    def issue_server(
        self,
        hosts: Sequence[str] = ("localhost", "127.0.0.1"),
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> Credentials:
        """Issue a server certificate.

        Args:
            hosts: Host names and IP addresses of the server.
            not_before: Start of validity; by default a day ago.
            not_after: End of validity; by default in a year.
        """
        return self._issue(
            _CertificateRequest(
                _name(hosts[0]),
                private_key("server"),
                usages=(SERVER_AUTH,),
                hosts=tuple(hosts),
                not_before=not_before,
                not_after=not_after,
            )
        )

    def issue_client(
        self,
        common_name: str,
        *,
        key: PrivateKey | None = None,
        usages: Iterable[ObjectIdentifier] = (CLIENT_AUTH,),
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        digest: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 | None = None,
    ) -> Credentials:
        """Issue a client certificate.

        Args:
            common_name: The name of the participant.
            key: The private key; by default an RSA key of 3072 bits for this name.
            usages: Extended key usages; if empty, the extension is left out.
            not_before: Start of validity; by default a day ago.
            not_after: End of validity; by default in a year.
            digest: Hash of the signature; by default SHA-256.
        """
        return self._issue(
            _CertificateRequest(
                _name(common_name),
                key or private_key(common_name),
                usages=tuple(usages),
                not_before=not_before,
                not_after=not_after,
                digest=digest or hashes.SHA256(),
            )
        )

    def _issue(self, leaf: _CertificateRequest) -> Credentials:
        certificate = leaf.signed_by(self.intermediate.subject, self.intermediate_key)
        return Credentials(certificate, (self.intermediate,), leaf.key, secrets.token_urlsafe(18))


@functools.cache
def shared_authority() -> CertificateAuthority:
    """Return the authority that the sandboxes of this process share by default."""
    return CertificateAuthority.create("bLink Sandbox")


@frozen
class _CertificateRequest:
    """The content of a certificate before it is signed."""

    subject: x509.Name
    key: PrivateKey
    authority: bool = False
    usages: tuple[ObjectIdentifier, ...] = ()
    hosts: tuple[str, ...] = ()
    not_before: datetime | None = None
    not_after: datetime | None = None
    digest: hashes.SHA256 | hashes.SHA384 | hashes.SHA512 = field(factory=hashes.SHA256)

    def signed_by(self, issuer: x509.Name, issuer_key: PrivateKey) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(self.subject)
            .issuer_name(issuer)
            .public_key(self.key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(self.not_before or now - _BACKDATED)
            .not_valid_after(self.not_after or now + _VALID_FOR)
        )
        for extension, critical in self._extensions(issuer_key):
            builder = builder.add_extension(extension, critical)
        return builder.sign(issuer_key, self.digest)

    def _extensions(self, issuer_key: PrivateKey) -> Iterable[tuple[x509.ExtensionType, bool]]:
        # RFC 5280 section 4.2. Newer Python versions check strictly and require both identifiers.
        yield x509.BasicConstraints(ca=self.authority, path_length=None), True
        yield _key_usage(self.authority), True
        yield x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False
        identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key())
        yield identifier, False
        if self.usages:
            yield x509.ExtendedKeyUsage(self.usages), False
        if self.hosts:
            yield x509.SubjectAlternativeName(map(_general_name, self.hosts)), False


def _key_usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not authority,
        key_cert_sign=authority,
        crl_sign=authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
