"""Mutual TLS: which clients are accepted, and the alert that tells a refused client the reason."""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from blink_oauth_testing.sandbox import CertificateAuthority, Credentials, Sandbox
from blink_oauth_testing.sandbox.certificates import private_key
from testing.raw_client import HEADERS, RawClient, tls_context

FORM = {"grant_type": "refresh_token"}
PAST = {
    "not_before": datetime(2020, 1, 1, tzinfo=UTC),
    "not_after": datetime(2020, 2, 1, tzinfo=UTC),
}
VERSIONS = pytest.mark.parametrize(
    "version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"]
)


def errors_of(sandbox: Sandbox, context: ssl.SSLContext) -> list[BaseException]:
    """Send a request over a new connection, and return its error and the causes of that."""
    with (
        httpx.Client(verify=context, trust_env=False) as http,
        pytest.raises(httpx.TransportError) as caught,
    ):
        http.post(f"{sandbox.base_url}/oauth/token", data=FORM, headers=HEADERS)
    chain: list[BaseException] = []
    error: BaseException | None = caught.value
    while error is not None:
        chain.append(error)
        error = error.__cause__ or error.__context__
    return chain


def alert_of(sandbox: Sandbox, credentials: Credentials | None, version: ssl.TLSVersion) -> str:
    """Return the reason in the alert with which the server refuses these credentials."""
    certificate = sandbox.client_certificate(credentials=credentials)
    context = tls_context(
        str(certificate.ca), certificate if credentials is not None else None, version
    )
    alerts = [e for e in errors_of(sandbox, context) if isinstance(e, ssl.SSLError)]
    assert alerts, "the connection broke without an alert"
    return alerts[0].reason


@VERSIONS
def test_no_certificate_is_refused_by_an_alert(sandbox: Sandbox, version: ssl.TLSVersion) -> None:
    expected = {
        ssl.TLSVersion.TLSv1_2: "SSLV3_ALERT_HANDSHAKE_FAILURE",
        ssl.TLSVersion.TLSv1_3: "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    }
    assert alert_of(sandbox, None, version) == expected[version]


@VERSIONS
def test_an_unknown_authority_is_refused_by_an_alert(
    sandbox: Sandbox, version: ssl.TLSVersion
) -> None:
    foreign = CertificateAuthority.create("Foreign").issue_client("CIDX0000000002")
    assert alert_of(sandbox, foreign, version) == "TLSV1_ALERT_UNKNOWN_CA"


@VERSIONS
def test_an_expired_certificate_is_refused_by_an_alert(
    sandbox: Sandbox, version: ssl.TLSVersion
) -> None:
    expired = sandbox.authority.issue_client(
        "CIDX0000000002", not_before=PAST["not_before"], not_after=PAST["not_after"]
    )
    assert alert_of(sandbox, expired, version) == "SSLV3_ALERT_CERTIFICATE_EXPIRED"


@VERSIONS
def test_a_certificate_for_servers_is_refused_by_an_alert(
    sandbox: Sandbox, version: ssl.TLSVersion
) -> None:
    wrong = sandbox.authority.issue_client(
        "CIDX0000000002", usages=[ExtendedKeyUsageOID.SERVER_AUTH]
    )
    assert alert_of(sandbox, wrong, version) == "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE"


def test_a_client_is_served_after_a_refused_one(sandbox: Sandbox, client: RawClient) -> None:
    alert_of(sandbox, None, ssl.TLSVersion.TLSv1_3)
    assert client.tokens()["access_token"]


def test_tls_below_1_2_is_refused(sandbox: Sandbox) -> None:
    certificate = sandbox.client_certificate()
    context = tls_context(str(certificate.ca), certificate)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version = ssl.TLSVersion.TLSv1
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.maximum_version = ssl.TLSVersion.TLSv1_1
    assert isinstance(errors_of(sandbox, context)[0], httpx.ConnectError)


@VERSIONS
def test_each_client_is_identified_by_its_certificate(
    sandbox: Sandbox, other_client: RawClient, version: ssl.TLSVersion
) -> None:
    certificate = sandbox.client_certificate(other_client.client_id)
    context = tls_context(str(certificate.ca), certificate, version)
    with httpx.Client(verify=context, trust_env=False) as http:
        http.post(f"{sandbox.base_url}/oauth/token", data=FORM, headers=HEADERS)
    assert sandbox.exchanges[-1].client_id == other_client.client_id


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hosts": ("elsewhere.invalid",)}, "Hostname mismatch"),
        (PAST, "certificate has expired"),
    ],
    ids=["wrong host", "expired"],
)
def test_the_server_can_use_a_certificate_that_clients_refuse(
    changes: dict[str, Any], words: str, sandbox: Sandbox
) -> None:
    credentials = sandbox.authority.issue_server(**changes)
    with Sandbox(server_credentials=credentials) as other:
        certificate = other.client_certificate()
        chain = errors_of(other, tls_context(str(certificate.ca), certificate))
    assert any(words in str(error) for error in chain)


def test_the_server_can_use_a_certificate_of_a_foreign_authority() -> None:
    credentials = CertificateAuthority.create("Foreign").issue_server()
    with Sandbox(server_credentials=credentials) as other:
        certificate = other.client_certificate()
        chain = errors_of(other, tls_context(str(certificate.ca), certificate))
    assert any(isinstance(error, ssl.SSLCertVerificationError) for error in chain)


def test_a_client_certificate_meets_the_rules_of_the_platform(sandbox: Sandbox) -> None:
    credentials = sandbox.authority.issue_client("CIDX0000000002")
    certificate = credentials.certificate
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 3072
    assert certificate.signature_hash_algorithm is not None
    assert certificate.signature_hash_algorithm.name == "sha256"
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.digital_signature
    purposes = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(purposes) == [ExtendedKeyUsageOID.CLIENT_AUTH]
    assert [issuer.subject for issuer in credentials.issuers] == [certificate.issuer]
    certificate.verify_directly_issued_by(credentials.issuers[0])
    credentials.issuers[0].verify_directly_issued_by(sandbox.authority.root)


def test_a_certificate_can_be_weak_or_without_extended_key_usage(sandbox: Sandbox) -> None:
    weak = sandbox.authority.issue_client("weak", key=private_key("weak", 2048), usages=())
    key = weak.certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey)
    assert key.key_size == 2048
    with pytest.raises(x509.ExtensionNotFound):
        weak.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage)


def test_key_files_are_encrypted_and_readable_by_the_owner_alone(sandbox: Sandbox) -> None:
    certificate = sandbox.client_certificate()
    assert certificate.key is not None
    assert certificate.key.read_text("ascii").startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert certificate.key.stat().st_mode & 0o077 == 0
    credentials = sandbox.authority.issue_client("CIDX0000000002")
    assert credentials.passphrase not in repr(credentials)


def test_stop_does_not_wait_for_a_client_that_sends_nothing() -> None:
    sandbox = Sandbox().start()
    port = httpx.URL(sandbox.base_url).port
    assert port is not None
    with contextlib.closing(socket.create_connection(("127.0.0.1", port))) as silent:
        started = time.monotonic()
        sandbox.stop()
        assert time.monotonic() - started < 5.0
        silent.settimeout(5.0)
        with contextlib.suppress(ConnectionResetError):
            assert silent.recv(1) == b""
