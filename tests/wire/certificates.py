"""Client certificates, each with one defect."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from attrs import evolve
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from blink_oauth import ClientCertificate
from blink_oauth_testing.sandbox import CertificateAuthority, Credentials
from blink_oauth_testing.sandbox.certificates import private_key

NAME = "CIDX0000000002"
DAY = timedelta(days=1)

SHA256_WITH_RSA = bytes.fromhex("300d06092a864886f70d01010b0500")
SHA1_WITH_RSA = bytes.fromhex("300d06092a864886f70d0101050500")
VERSION_3 = bytes.fromhex("a003020102")


def files(credentials: Credentials, folder: Path, ca: bytes) -> ClientCertificate:
    """Write credentials to files, and return the certificate that uses them.

    Args:
        credentials: The client's certificate chain, key and passphrase.
        folder: The folder for the files of one client.
        ca: The authority of the server, PEM.
    """
    saved = credentials.save(folder, "client")
    (folder / "ca.pem").write_bytes(ca)
    return ClientCertificate(
        chain=saved.chain,
        key=saved.key,
        passphrase=credentials.passphrase,
        ca=folder / "ca.pem",
    )


def good(authority: CertificateAuthority) -> Credentials:
    return authority.issue_client(NAME)


def expired(authority: CertificateAuthority) -> Credentials:
    now = datetime.now(UTC)
    return authority.issue_client(NAME, not_before=now - 9 * DAY, not_after=now - 2 * DAY)


def not_yet_valid(authority: CertificateAuthority) -> Credentials:
    return authority.issue_client(NAME, not_before=datetime.now(UTC) + 2 * DAY)


def with_short_key(authority: CertificateAuthority) -> Credentials:
    return authority.issue_client(NAME, key=private_key(NAME, 2048))


def with_elliptic_curve_key(authority: CertificateAuthority) -> Credentials:
    return authority.issue_client(NAME, key=ec.generate_private_key(ec.SECP384R1()))


def for_servers_only(authority: CertificateAuthority) -> Credentials:
    return authority.issue_client(NAME, usages=(ExtendedKeyUsageOID.SERVER_AUTH,))


def without_extended_usage(authority: CertificateAuthority) -> Credentials:
    return authority.issue_client(NAME, usages=())


def without_issuers(authority: CertificateAuthority) -> Credentials:
    return evolve(authority.issue_client(NAME), issuers=())


def with_root_instead_of_intermediate(authority: CertificateAuthority) -> Credentials:
    return evolve(authority.issue_client(NAME), issuers=(authority.root,))


def intermediate(
    authority: CertificateAuthority, *, not_before: datetime, not_after: datetime | None = None
) -> x509.Certificate:
    """Issue another certificate of the intermediate authority, for the key it has."""
    present = authority.intermediate
    builder = (
        x509.CertificateBuilder()
        .subject_name(present.subject)
        .issuer_name(present.issuer)
        .public_key(present.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after or present.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return builder.sign(private_key("bLink Sandbox root"), hashes.SHA256())


def with_extensions(authority: CertificateAuthority, *usages: x509.ExtensionType) -> Credentials:
    """Issue a certificate that has the given extensions only."""
    now, key = datetime.now(UTC), private_key(NAME)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)]))
        .issuer_name(authority.intermediate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - DAY)
        .not_valid_after(now + 90 * DAY)
    )
    for usage in usages:
        builder = builder.add_extension(usage, critical=False)
    certificate = builder.sign(authority.intermediate_key, hashes.SHA256())
    return Credentials(certificate, (authority.intermediate,), key, "fake-passphrase-1")


def without_digital_signature(authority: CertificateAuthority) -> Credentials:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=True,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    return with_extensions(
        authority, usage, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    )


def without_key_usage(authority: CertificateAuthority) -> Credentials:
    return with_extensions(authority, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]))


def signed_with_sha1(authority: CertificateAuthority) -> Credentials:
    credentials = authority.issue_client(NAME)
    tbs = credentials.certificate.tbs_certificate_bytes.replace(SHA256_WITH_RSA, SHA1_WITH_RSA)
    certificate = sign(authority, tbs, SHA1_WITH_RSA, hashes.SHA1())
    # No issuers: the check of the chain refuses SHA-1 too, and would add a finding.
    return evolve(credentials, certificate=certificate, issuers=())


def of_version_1(authority: CertificateAuthority) -> Credentials:
    credentials = with_extensions(authority)
    content = credentials.certificate.tbs_certificate_bytes.partition(VERSION_3)[2]
    certificate = sign(authority, der_sequence(content), SHA256_WITH_RSA, hashes.SHA256())
    return evolve(credentials, certificate=certificate)


def sign(
    authority: CertificateAuthority,
    tbs: bytes,
    algorithm: bytes,
    digest: hashes.HashAlgorithm,
) -> x509.Certificate:
    """Sign a certificate by hand (RFC 5280 section 4.1): the library makes only valid ones."""
    key = authority.intermediate_key
    assert isinstance(key, RSAPrivateKey)
    signature = key.sign(tbs, padding.PKCS1v15(), digest)
    bits = der_value(0x03, b"\0" + signature)
    return x509.load_der_x509_certificate(der_sequence(tbs, algorithm, bits))


def der_sequence(*parts: bytes) -> bytes:
    """Encode a SEQUENCE in DER."""
    return der_value(0x30, b"".join(parts))


def der_value(tag: int, content: bytes) -> bytes:
    """Encode a value of 256 to 65535 bytes in DER."""
    return bytes([tag, 0x82]) + len(content).to_bytes(2, "big") + content
