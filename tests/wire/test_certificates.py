"""A defect of the client certificate is found when the client is made, before a connection."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attrs import evolve
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPrivateNumbers
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from blink_oauth import CertificateError, ClientCertificate, InvalidInputError, Outcome, Settings
from blink_oauth.tls import Rule, check_certificate, ssl_context, trusting_context
from blink_oauth_testing.sandbox import CertificateAuthority, Credentials
from blink_oauth_testing.sandbox.certificates import shared_authority
from flavours import Flavour, calling
from wire import certificates
from wire.certificates import NAME, files
from wire.loopback import listening, url_of

NOW = datetime.now(UTC)
PASSPHRASE = "fake-passphrase-that-opens-nothing"

BROKEN: dict[str, tuple[Callable[[CertificateAuthority], Credentials], tuple[Rule, ...], str]] = {
    "expired": (certificates.expired, (Rule.VALID_NOW,), "expired on"),
    "not yet valid": (certificates.not_yet_valid, (Rule.VALID_NOW,), "valid only from"),
    "weak key": (certificates.with_short_key, (Rule.KEY_LENGTH,), "2048 bits"),
    "no RSA key": (certificates.with_elliptic_curve_key, (Rule.RSA_KEY,), "not RSA"),
    "for servers only": (
        certificates.for_servers_only,
        (Rule.CLIENT_AUTHENTICATION,),
        "Client Authentication",
    ),
    "no extended usage": (
        certificates.without_extended_usage,
        (Rule.CLIENT_AUTHENTICATION,),
        "Client Authentication",
    ),
    "no digital signature": (
        certificates.without_digital_signature,
        (Rule.KEY_USAGE,),
        "Digital Signature",
    ),
    "no key usage": (certificates.without_key_usage, (Rule.KEY_USAGE,), "Digital Signature"),
    "signed with SHA-1": (certificates.signed_with_sha1, (Rule.SIGNATURE,), "SHA-2"),
    "version 1": (
        certificates.of_version_1,
        (Rule.X509_V3, Rule.KEY_USAGE, Rule.CLIENT_AUTHENTICATION),
        "version 3",
    ),
    "broken chain": (
        certificates.with_root_instead_of_intermediate,
        (Rule.CHAIN_COMPLETE,),
        "chain is broken",
    ),
}
"""The function that makes a certificate, the rules it breaks, and words of the error."""


def not_pem(path: Path) -> Path:
    """Write a file that is not PEM to the folder of a file."""
    target = path.with_name("not-pem.pem")
    target.write_text("-----BEGIN NOTHING-----\n")
    return target


def key_in_module(path: Path) -> Path:
    """Write the name of a key in a PKCS#11 module, for which no provider is loaded."""
    target = path.with_name("module.key")
    label = "PKCS#11 PROVIDER URI"
    target.write_text(f"-----BEGIN {label}-----\nZmFrZQ==\n-----END {label}-----\n")
    return target


def plain_key(certificate: ClientCertificate) -> Path:
    """Write a key without a passphrase to the folder of a certificate."""
    key = certificates.good(shared_authority()).key
    target = certificate.chain.with_name("plain.key")
    target.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return target


def damaged_key(certificate: ClientCertificate) -> ClientCertificate:
    """Replace the key by one with two altered numbers, whose signatures are invalid."""
    credentials = certificates.good(shared_authority())
    saved = credentials.save(certificate.chain.parent, "damaged")
    assert isinstance(credentials.key, RSAPrivateKey)
    good = credentials.key.private_numbers()
    bad = RSAPrivateNumbers(
        p=good.p,
        q=good.q,
        d=good.d + 2,
        dmp1=good.dmp1 + 2,
        dmq1=good.dmq1,
        iqmp=good.iqmp,
        public_numbers=good.public_numbers,
    ).private_key(unsafe_skip_rsa_key_validation=True)
    saved.key.write_bytes(bad.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return evolve(certificate, chain=saved.chain, key=saved.key, passphrase=None)


def key_of_another_client(certificate: ClientCertificate) -> ClientCertificate:
    """Replace the key by the key of another client."""
    other = shared_authority().issue_client("CIDX0000000003")
    saved = other.save(certificate.chain.parent, "another")
    return evolve(certificate, key=saved.key, passphrase=other.passphrase)


UNUSABLE: dict[str, tuple[Callable[[ClientCertificate], ClientCertificate], Rule, str]] = {
    "wrong passphrase": (
        lambda c: evolve(c, passphrase=PASSPHRASE),
        Rule.PASSPHRASE,
        "does not open",
    ),
    "missing passphrase": (
        lambda c: evolve(c, passphrase=None),
        Rule.PASSPHRASE,
        "encrypted: give its passphrase",
    ),
    "unneeded passphrase": (
        lambda c: evolve(c, key=plain_key(c)),
        Rule.PASSPHRASE,
        "not encrypted",
    ),
    "key of another client": (key_of_another_client, Rule.KEY_MATCHES, "does not belong"),
    "no chain file": (
        lambda c: evolve(c, chain=c.chain.with_name("no.pem")),
        Rule.READABLE,
        "no.pem cannot be read: No such file",
    ),
    "no key file": (
        lambda c: evolve(c, key=c.chain.with_name("no.key")),
        Rule.READABLE,
        "no.key cannot be read: No such file",
    ),
    "no authority file": (
        lambda c: evolve(c, ca=c.chain.with_name("no-ca.pem")),
        Rule.AUTHORITIES,
        "no-ca.pem cannot be read",
    ),
    "chain is not PEM": (
        lambda c: evolve(c, chain=not_pem(c.chain)),
        Rule.READABLE,
        "holds no PEM certificate",
    ),
    "key is not PEM": (
        lambda c: evolve(c, key=not_pem(c.chain)),
        Rule.READABLE,
        "holds no PEM private key",
    ),
    "key is in a module": (
        lambda c: evolve(c, key=key_in_module(c.chain)),
        Rule.READABLE,
        "module.key names: check that OPENSSL_CONF loads its provider",
    ),
    "key is damaged": (damaged_key, Rule.READABLE, "holds no PEM private key"),
    "authority is not PEM": (
        lambda c: evolve(c, ca=not_pem(c.chain)),
        Rule.AUTHORITIES,
        "not-pem.pem cannot be read: expected PEM",
    ),
    "chain is a folder": (
        lambda c: evolve(c, chain=c.chain.parent),
        Rule.READABLE,
        "Is a directory",
    ),
}


@pytest.fixture
def port() -> Iterator[socket.socket]:
    """Open a port, and fail the test if a client connected to it."""
    with listening() as server:
        yield server
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()


def settings_for(port: socket.socket, certificate: ClientCertificate | None) -> Settings:
    """Return settings that would connect to a port."""
    return Settings(
        base_url=url_of(port), client_id=NAME, user_agent="acme-books/3.2", certificate=certificate
    )


def refusal(flavour: Flavour, settings: Settings) -> CertificateError:
    """Return the error of making a client."""
    with pytest.raises(CertificateError) as caught, calling(flavour, settings):
        pass
    error = caught.value
    assert error.outcome is Outcome.NOT_EXECUTED
    assert not error.retryable
    assert error.correlation_id is None
    assert "Nothing was sent" in str(error)
    return error


@pytest.mark.parametrize("name", BROKEN)
def test_a_certificate_that_the_platform_would_refuse_makes_no_client(
    flavour: Flavour, port: socket.socket, tmp_path: Path, name: str
) -> None:
    make, rules, words = BROKEN[name]
    authority = shared_authority()
    certificate = files(make(authority), tmp_path, authority.root_pem)
    error = refusal(flavour, settings_for(port, certificate))
    assert error.rules == rules
    assert words in str(error)


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_file_that_cannot_be_used_is_named(
    flavour: Flavour, port: socket.socket, tmp_path: Path, name: str
) -> None:
    change, rule, words = UNUSABLE[name]
    authority = shared_authority()
    certificate = files(certificates.good(authority), tmp_path, authority.root_pem)
    secret = certificate.passphrase
    error = refusal(flavour, settings_for(port, change(certificate)))
    assert error.rules == (rule,)
    assert words in str(error)
    assert secret is not None
    assert secret.reveal() not in str(error)
    assert PASSPHRASE not in str(error)


def test_settings_without_a_certificate_make_no_client(
    flavour: Flavour, port: socket.socket
) -> None:
    with (
        pytest.raises(InvalidInputError, match="demands mutual TLS"),
        calling(flavour, settings_for(port, None)),
    ):
        pass


@pytest.mark.parametrize(
    ("reason", "rule", "words"),
    [
        (None, Rule.READABLE, "OpenSSL cannot use the client certificate: .*fake text of OpenSSL"),
        ("EE_KEY_TOO_SMALL", Rule.KEY_LENGTH, "one of its issuers: ee key too small"),
        ("CA_MD_TOO_WEAK", Rule.SIGNATURE, "one of its issuers: ca md too weak"),
    ],
)
def test_an_error_of_openssl_becomes_a_certificate_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str | None, rule: Rule, words: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        error = ssl.SSLError(1, "fake text of OpenSSL")
        error.reason = reason  # type: ignore[assignment]
        raise error

    monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", refuse)
    authority = shared_authority()
    certificate = files(certificates.good(authority), tmp_path, authority.root_pem)
    assert [finding.rule for finding in check_certificate(certificate, now=NOW).findings] == [rule]
    with pytest.raises(CertificateError, match=words) as caught:
        ssl_context(certificate, now=NOW)
    assert caught.value.outcome is Outcome.NOT_EXECUTED


class SystemAuthorities:
    """Stands in for the system's folders of authorities, and for the store of Windows."""

    def __init__(self, patch: pytest.MonkeyPatch, file: Path, folder: Path) -> None:
        self._patch = patch
        paths = ssl.get_default_verify_paths()
        own = paths._replace(openssl_cafile=str(file), openssl_capath=str(folder))
        patch.setattr(ssl, "get_default_verify_paths", lambda: own)

    def enumerate(self, *entries: tuple[bytes, str, bool | set[str]]) -> None:
        """Answer as `ssl.enum_certificates` does on Windows for the store of the roots."""
        self._patch.setattr(
            ssl,
            "enum_certificates",
            lambda name: list(entries) if name == "ROOT" else [],
            raising=False,
        )


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SystemAuthorities:
    """Return a system that has no authorities in its two places."""
    return SystemAuthorities(monkeypatch, tmp_path / "cert.pem", tmp_path / "certs")


def test_a_system_without_authorities_is_named_though_the_environment_names_some(
    system: SystemAuthorities, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "root.pem").write_bytes(shared_authority().root_pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "root.pem"))
    with pytest.raises(CertificateError, match="has no authorities to trust") as caught:
        trusting_context(None)
    assert caught.value.rules == (Rule.AUTHORITIES,)
    assert str(tmp_path / "cert.pem") in str(caught.value)
    authority = shared_authority()
    certificate = evolve(files(certificates.good(authority), tmp_path, b""), ca=None)
    assert not check_certificate(certificate, now=NOW).usable


def test_the_authorities_of_the_system_are_those_of_its_file_its_folder_and_of_windows(
    system: SystemAuthorities, tmp_path: Path
) -> None:
    root = shared_authority().root
    (tmp_path / "cert.pem").write_bytes(shared_authority().root_pem)
    assert trusting_context(None).cert_store_stats()["x509_ca"] == 1
    (tmp_path / "cert.pem").write_bytes(b"fake")
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "00000000.0").write_bytes(shared_authority().root_pem)
    trusting_context(None)
    (tmp_path / "certs" / "00000000.0").unlink()
    der = root.public_bytes(Encoding.DER)
    system.enumerate((der, "x509_asn", {"1.3.6.1.5.5.7.3.4"}), (der, "pkcs_7_asn", True))
    with pytest.raises(CertificateError, match="has no authorities"):
        trusting_context(None)
    system.enumerate((b"fake", "x509_asn", True), (der, "x509_asn", {"1.3.6.1.5.5.7.3.1"}))
    assert trusting_context(None).cert_store_stats()["x509_ca"] == 1
