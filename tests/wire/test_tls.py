"""Failed handshakes: each has its own error, and nothing was executed."""

from __future__ import annotations

import socket
import ssl
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from attrs import evolve

from blink_oauth import (
    BlinkError,
    NotConnectedError,
    Outcome,
    ProblemError,
    Settings,
    Source,
    TlsError,
    TlsFault,
)
from blink_oauth.tls import ssl_context
from blink_oauth_testing.sandbox import CertificateAuthority, Credentials, Sandbox
from blink_oauth_testing.sandbox.certificates import SERVER_AUTH, shared_authority
from wire import certificates
from wire.certificates import DAY
from wire.harness import Connect, exchange
from wire.loopback import server_that

NOW = datetime.now(UTC)
HASH_OF_ROOT = "0576c34d"
"""What `openssl x509 -hash` prints for the root of the sandbox; it depends on its name alone."""
TLS_1_2, TLS_1_3 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
BOTH_VERSIONS = pytest.mark.parametrize("version", [TLS_1_2, TLS_1_3], ids=["1.2", "1.3"])

Issue = Callable[[CertificateAuthority], Credentials]


@pytest.fixture(scope="session")
def unknown_authority() -> CertificateAuthority:
    """Return an authority that neither side trusts."""
    return CertificateAuthority.create("Unknown")


def context_of(
    version: ssl.TLSVersion, credentials: Credentials | None = None, folder: Path = Path()
) -> ssl.SSLContext:
    """Return a context made by an application, which checks nothing before it connects."""
    context = ssl.create_default_context(cadata=shared_authority().root_pem.decode())
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = version
    if credentials is not None:
        saved = credentials.save(folder, "own")
        context.load_cert_chain(saved.chain, saved.key, credentials.passphrase)
    return context


def refusal(connect: Connect, sandbox: Sandbox, settings: Settings) -> BlinkError:
    """Return the error of an exchange whose request never reached the sandbox."""
    with pytest.raises(BlinkError) as caught:
        exchange(connect(settings), sandbox, sandbox.grant())
    error = caught.value
    assert sandbox.exchanges == ()
    assert error.outcome is Outcome.NOT_EXECUTED
    assert not error.needs_consent
    assert error.status is None
    assert error.correlation_id is not None
    assert error.correlation_id in str(error)
    return error


REFUSED_BY_THE_SERVER: dict[str, Issue] = {
    "expired": certificates.expired,
    "not yet valid": certificates.not_yet_valid,
    "for servers only": certificates.for_servers_only,
    "no digital signature": certificates.without_digital_signature,
    "without its issuers": certificates.without_issuers,
    "with the root instead of the intermediate": certificates.with_root_instead_of_intermediate,
}


@BOTH_VERSIONS
@pytest.mark.parametrize("name", REFUSED_BY_THE_SERVER)
def test_a_client_certificate_that_the_server_refuses_has_its_own_fault(
    connect: Connect, blink_sandbox: Sandbox, tmp_path: Path, version: ssl.TLSVersion, name: str
) -> None:
    credentials = REFUSED_BY_THE_SERVER[name](blink_sandbox.authority)
    context = context_of(version, credentials, tmp_path)
    error = refusal(connect, blink_sandbox, blink_sandbox.settings(certificate=context))
    assert type(error) is TlsError
    assert error.fault is TlsFault.CLIENT_CERTIFICATE_REFUSED
    assert not error.retryable
    assert "refused the client certificate" in str(error)


@BOTH_VERSIONS
def test_a_client_certificate_of_an_unknown_authority_is_refused_by_the_server(
    connect: Connect,
    blink_sandbox: Sandbox,
    unknown_authority: CertificateAuthority,
    tmp_path: Path,
    version: ssl.TLSVersion,
) -> None:
    context = context_of(version, certificates.good(unknown_authority), tmp_path)
    error = refusal(connect, blink_sandbox, blink_sandbox.settings(certificate=context))
    assert type(error) is TlsError
    assert error.fault is TlsFault.CLIENT_CERTIFICATE_REFUSED


@pytest.mark.parametrize(
    ("version", "fault", "words"),
    [
        (TLS_1_3, TlsFault.CLIENT_CERTIFICATE_MISSING, "Set Settings.certificate"),
        # Versions before TLS 1.3 have no alert for a missing certificate (RFC 8446 section 6.2).
        (TLS_1_2, TlsFault.HANDSHAKE_FAILED, "accepts this client certificate"),
    ],
    ids=["1.3", "1.2"],
)
def test_a_client_without_a_certificate_is_refused_by_the_server(
    connect: Connect,
    blink_sandbox: Sandbox,
    version: ssl.TLSVersion,
    fault: TlsFault,
    words: str,
) -> None:
    context = context_of(version)
    error = refusal(connect, blink_sandbox, blink_sandbox.settings(certificate=context))
    assert type(error) is TlsError
    assert error.fault is fault
    assert words in str(error)


@BOTH_VERSIONS
def test_the_platform_refuses_a_valid_certificate_that_is_not_registered(
    connect: Connect, blink_sandbox: Sandbox, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    credentials = blink_sandbox.authority.issue_client("CIDX0000000009")
    context = context_of(version, credentials, tmp_path)
    caller = connect(blink_sandbox.settings(certificate=context))
    with pytest.raises(ProblemError) as caught:
        exchange(caller, blink_sandbox, blink_sandbox.grant())
    assert (caught.value.status, caught.value.source) == (401, Source.PLATFORM)
    assert caught.value.outcome is Outcome.NOT_EXECUTED


@BOTH_VERSIONS
def test_a_context_made_by_the_application_works(
    connect: Connect, blink_sandbox: Sandbox, version: ssl.TLSVersion
) -> None:
    context = ssl_context(blink_sandbox.client_certificate(), now=NOW)
    context.maximum_version = version
    caller = connect(blink_sandbox.settings(certificate=context))
    assert exchange(caller, blink_sandbox, blink_sandbox.grant()).oddities == frozenset()


BAD_SERVERS: dict[str, tuple[Issue, TlsFault, str]] = {
    "expired": (
        lambda authority: authority.issue_server(not_before=NOW - 9 * DAY, not_after=NOW - DAY),
        TlsFault.SERVER_CERTIFICATE_EXPIRED,
        "has expired",
    ),
    "not yet valid": (
        lambda authority: authority.issue_server(not_before=NOW + DAY),
        TlsFault.SERVER_CERTIFICATE_NOT_YET_VALID,
        "not valid yet",
    ),
    "for another host": (
        lambda authority: authority.issue_server(("elsewhere.example", "192.0.2.1")),
        TlsFault.SERVER_NAME_MISMATCH,
        "for another host name",
    ),
    "not for a server": (
        lambda authority: authority.issue_client("localhost"),
        TlsFault.SERVER_CERTIFICATE_INVALID,
        "was refused",
    ),
    "with a common name alone": (
        lambda authority: authority.issue_client("localhost", usages=(SERVER_AUTH,)),
        TlsFault.SERVER_NAME_MISMATCH,
        "for another host name",
    ),
    "of an unknown authority": (
        lambda _: CertificateAuthority.create("Unknown").issue_server(),
        TlsFault.SERVER_AUTHORITY_UNKNOWN,
        "not trusted here",
    ),
}


@pytest.mark.parametrize("name", BAD_SERVERS)
def test_a_server_with_an_invalid_certificate_receives_no_request(
    connect: Connect, name: str
) -> None:
    issue, fault, words = BAD_SERVERS[name]
    with Sandbox(server_credentials=issue(shared_authority())) as sandbox:
        error = refusal(connect, sandbox, sandbox.settings())
        assert type(error) is TlsError
        assert error.fault is fault
        assert not error.retryable
        assert words in str(error)


def test_the_host_of_the_url_is_checked_whether_name_or_address(connect: Connect) -> None:
    server = shared_authority().issue_server(("localhost",))
    with Sandbox(server_credentials=server) as sandbox:
        address = sandbox.base_url.replace("localhost", "127.0.0.1")
        error = refusal(connect, sandbox, sandbox.settings(base_url=address))
        assert isinstance(error, TlsError)
        assert error.fault is TlsFault.SERVER_NAME_MISMATCH
        exchange(connect(sandbox.settings()), sandbox, sandbox.grant())


def offer_tls_1_1(connection: socket.socket) -> None:
    """Begin a handshake that allows TLS 1.1 only."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        context.wrap_socket(connection, server_side=True)


def send_plain_http(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize("behave", [offer_tls_1_1, send_plain_http])
def test_a_server_without_tls_1_2_or_newer_receives_no_request(
    connect: Connect, blink_sandbox: Sandbox, behave: Callable[[socket.socket], None]
) -> None:
    with server_that(behave) as url:
        error = refusal(connect, blink_sandbox, blink_sandbox.settings(base_url=url))
    assert type(error) is TlsError
    assert error.fault is TlsFault.HANDSHAKE_FAILED
    assert "TLS 1.2 or newer" in str(error)


def test_a_server_that_closes_the_connection_in_the_handshake_is_not_connected(
    connect: Connect, blink_sandbox: Sandbox
) -> None:
    with server_that(lambda connection: None) as url:
        error = refusal(connect, blink_sandbox, blink_sandbox.settings(base_url=url))
    assert isinstance(error, NotConnectedError)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_without_a_ca_file_only_the_authorities_of_the_system_are_trusted(
    connect: Connect,
    blink_sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
) -> None:
    certificate = blink_sandbox.client_certificate()
    assert certificate.ca is not None
    # OpenSSL finds an authority in a folder by the hash of its name.
    (tmp_path / f"{HASH_OF_ROOT}.0").write_bytes(certificate.ca.read_bytes())
    named = {"SSL_CERT_FILE": certificate.ca, "SSL_CERT_DIR": tmp_path}[variable]
    monkeypatch.setenv(variable, str(named))
    settings = blink_sandbox.settings(certificate=evolve(certificate, ca=None))
    error = refusal(connect, blink_sandbox, settings)
    assert isinstance(error, TlsError)
    assert error.fault is TlsFault.SERVER_AUTHORITY_UNKNOWN
