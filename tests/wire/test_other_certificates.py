"""A client certificate in PKCS#12, in memory, or in the context that a function returns."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from blink_oauth import (
    CertificateError,
    InvalidInputError,
    PemCertificate,
    Pkcs12Certificate,
    Rule,
    Settings,
    check_certificate,
    ssl_context,
)
from blink_oauth.renewal import CertificateRenewal, ContextSource
from blink_oauth_testing.sandbox import Credentials, Sandbox
from blink_oauth_testing.sandbox.certificates import private_key
from wire import certificates
from wire.harness import NON_ROTATING, Connect, exchange
from wire.renewals import ManualClock, issue
from wrapper.leaks import found, texts_of_error

PASSPHRASE = "fake-passphrase-of-a-file"
NOW = datetime.now(UTC)
MINUTE = 60.0
"""Seconds after which a function is called again."""


def archive(credentials: Credentials, passphrase: str | None = PASSPHRASE) -> bytes:
    """Return credentials as PKCS#12."""
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    key: Any = credentials.key
    return pkcs12.serialize_key_and_certificates(
        b"client", key, credentials.certificate, credentials.issuers, encryption
    )


def key_text(credentials: Credentials, passphrase: str | None = None) -> str:
    """Return the key of credentials as PEM."""
    encryption = BestAvailableEncryption(passphrase.encode()) if passphrase else NoEncryption()
    pem = credentials.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return pem.decode()


@pytest.fixture
def ca(blink_sandbox: Sandbox, tmp_path: Path) -> Path:
    """Return the file of the sandbox's authority."""
    path = tmp_path / "ca.pem"
    path.write_bytes(blink_sandbox.authority.root_pem)
    return path


Make = Callable[[Credentials, Path, Path], Pkcs12Certificate | PemCertificate]


def in_an_archive(credentials: Credentials, folder: Path, ca: Path) -> Pkcs12Certificate:
    (folder / "client.p12").write_bytes(archive(credentials))
    return Pkcs12Certificate(folder / "client.p12", PASSPHRASE, ca)


def in_an_archive_with_a_passphrase_file(
    credentials: Credentials, folder: Path, ca: Path
) -> Pkcs12Certificate:
    (folder / "client.p12").write_bytes(archive(credentials))
    (folder / "passphrase").write_text(f"{PASSPHRASE}\n", "ascii")
    return Pkcs12Certificate(folder / "client.p12", ca=ca, passphrase_file=folder / "passphrase")


def in_memory(credentials: Credentials, folder: Path, ca: Path) -> PemCertificate:
    return PemCertificate(credentials.chain_pem.decode(), key_text(credentials), ca=ca)


def encrypted_in_memory(credentials: Credentials, folder: Path, ca: Path) -> PemCertificate:
    key = key_text(credentials, PASSPHRASE)
    return PemCertificate(credentials.chain_pem, key, PASSPHRASE, ca)


KINDS = (in_an_archive, in_an_archive_with_a_passphrase_file, in_memory, encrypted_in_memory)


@pytest.mark.parametrize("make", KINDS)
def test_the_server_accepts_it_and_no_file_is_left(
    make: Make,
    connect: Connect,
    blink_sandbox: Sandbox,
    ca: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temporary = ca.parent / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    credentials = issue(blink_sandbox, "first")
    settings = blink_sandbox.settings(certificate=make(credentials, ca.parent, ca))
    exchange(connect(settings), blink_sandbox, blink_sandbox.grant(NON_ROTATING))
    assert blink_sandbox.exchanges[-1].certificate == credentials.fingerprint
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("make", KINDS)
def test_the_rules_of_the_platform_are_checked(
    make: Make, blink_sandbox: Sandbox, ca: Path, tmp_path: Path
) -> None:
    good = make(issue(blink_sandbox, "first"), tmp_path, ca)
    assert check_certificate(good, now=NOW).findings == ()
    expiries = blink_sandbox.settings(certificate=good).certificate_expiries(now=NOW)
    assert [each.role for each in expiries] == ["client", "issuer", "authority"]
    assert expiries == check_certificate(good, now=NOW).expiries
    for broken, rule in {
        certificates.expired: Rule.VALID_NOW,
        certificates.for_servers_only: Rule.CLIENT_AUTHENTICATION,
        certificates.with_short_key: Rule.KEY_LENGTH,
    }.items():
        certificate = make(broken(blink_sandbox.authority), tmp_path, ca)
        with pytest.raises(CertificateError) as caught:
            ssl_context(certificate, now=NOW)
        assert caught.value.rules == (rule,)


def of_another_key(credentials: Credentials) -> Credentials:
    return evolve(credentials, key=private_key("second"))


UNUSABLE: dict[str, tuple[Callable[[Credentials, Path], Any], Rule, str]] = {
    "another passphrase": (
        lambda c, f: Pkcs12Certificate(written(f, archive(c)), "fake-other"),
        Rule.PASSPHRASE,
        "cannot be opened",
    ),
    "no passphrase": (
        lambda c, f: Pkcs12Certificate(written(f, archive(c))),
        Rule.PASSPHRASE,
        "cannot be opened",
    ),
    "no file": (
        lambda c, f: Pkcs12Certificate(f / "none.p12", PASSPHRASE),
        Rule.READABLE,
        "none.p12 cannot be read",
    ),
    "no passphrase file": (
        lambda c, f: Pkcs12Certificate(written(f, archive(c)), passphrase_file=f / "none"),
        Rule.PASSPHRASE,
        "passphrase cannot be read",
    ),
    "PEM in place of PKCS#12": (
        lambda c, f: Pkcs12Certificate(written(f, c.chain_pem), PASSPHRASE),
        Rule.READABLE,
        "is no PKCS#12 file",
    ),
    "an archive without a key": (
        lambda c, f: Pkcs12Certificate(
            written(
                f,
                pkcs12.serialize_java_truststore(
                    [pkcs12.PKCS12Certificate(c.certificate, b"x")],
                    BestAvailableEncryption(PASSPHRASE.encode()),
                ),
            ),
            PASSPHRASE,
        ),
        Rule.READABLE,
        "lacks the certificate or its private key",
    ),
    "a key of another certificate": (
        lambda c, f: PemCertificate(c.chain_pem, key_text(of_another_key(c))),
        Rule.KEY_MATCHES,
        "The key in the certificate in memory does not belong",
    ),
    "an encrypted key without passphrase": (
        lambda c, f: PemCertificate(c.chain_pem, key_text(c, PASSPHRASE)),
        Rule.PASSPHRASE,
        "is encrypted: give its passphrase",
    ),
    "a passphrase of a plain key": (
        lambda c, f: PemCertificate(c.chain_pem, key_text(c), PASSPHRASE),
        Rule.PASSPHRASE,
        "is not encrypted: give no passphrase",
    ),
    "no key": (
        lambda c, f: PemCertificate(c.chain_pem, "fake-key"),
        Rule.READABLE,
        "holds no private key that can be read",
    ),
    "no certificate": (
        lambda c, f: PemCertificate("fake", key_text(c)),
        Rule.READABLE,
        "the certificate in memory holds no PEM certificate",
    ),
}


def written(folder: Path, data: bytes) -> Path:
    """Write a file, and return its path."""
    path = folder / "client.p12"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("name", UNUSABLE)
def test_the_reason_why_it_cannot_be_used_is_told(
    name: str, blink_sandbox: Sandbox, ca: Path, tmp_path: Path
) -> None:
    make, rule, words = UNUSABLE[name]
    credentials = issue(blink_sandbox, "first")
    certificate = evolve(make(credentials, tmp_path), ca=ca)
    with pytest.raises(CertificateError, match=words) as caught:
        ssl_context(certificate, now=NOW)
    assert caught.value.rules == (rule,)
    secrets = [PASSPHRASE, key_text(credentials).splitlines()[2], "fake-other", "fake-key"]
    assert found(secrets, texts_of_error(caught.value)) == []


@pytest.mark.parametrize(
    "make",
    [
        lambda key: PemCertificate(f"{key}", key),
        lambda key: PemCertificate(7, key),  # type: ignore[arg-type]
        lambda key: PemCertificate("chain", key.encode()),
        lambda key: PemCertificate("chain", ""),
        lambda key: Pkcs12Certificate("a", key, passphrase_file="b"),
        lambda key: Pkcs12Certificate(7, key),  # type: ignore[arg-type]
    ],
)
def test_an_argument_of_another_kind_is_refused_and_not_shown(
    make: Callable[[str], object], blink_sandbox: Sandbox
) -> None:
    key = key_text(issue(blink_sandbox, "first"))
    with pytest.raises(InvalidInputError) as caught:
        make(key)
    assert found([key.splitlines()[2]], texts_of_error(caught.value)) == []


def test_no_repr_shows_a_key(blink_sandbox: Sandbox, tmp_path: Path, ca: Path) -> None:
    credentials = issue(blink_sandbox, "first")
    for make in KINDS:
        certificate = make(credentials, tmp_path, ca)
        text = repr(blink_sandbox.settings(certificate=certificate))
        assert found([PASSPHRASE, key_text(credentials).splitlines()[2]], [("repr", text)]) == []


@define(eq=False)
class Watched:
    """A source of contexts, and what it has reported."""

    settings: Settings
    clock: ManualClock = field(factory=ManualClock)
    told: list[CertificateRenewal] = field(factory=list)
    source: ContextSource = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.source = ContextSource(self.settings, lambda: NOW, self.clock)
        self.source.load()
        self.source.subscribe(self.hear)

    def hear(self, renewal: CertificateRenewal) -> None:
        """Record what the source reports."""
        self.told.append(renewal)

    def look(self, seconds: float) -> None:
        """Look as a request does."""
        self.clock.seconds += seconds
        if self.source.is_due():
            self.source.look()


def test_an_archive_is_renewed_and_a_damaged_one_is_refused(
    blink_sandbox: Sandbox, ca: Path, tmp_path: Path
) -> None:
    certificate = in_an_archive(issue(blink_sandbox, "first"), tmp_path, ca)
    watched = Watched(blink_sandbox.settings(certificate=certificate))
    context = watched.source.context
    new = archive(issue(blink_sandbox, "second"))
    certificate.path.write_bytes(new[:1000])
    watched.look(1.0)
    watched.look(1.0)
    assert watched.source.context is context
    certificate.path.write_bytes(new)
    watched.look(1.0)
    watched.look(1.0)
    assert watched.source.context is not context
    refused, renewed = watched.told
    assert [reason.rule for reason in refused.reasons] == [Rule.PASSPHRASE]
    assert renewed.reasons == ()


def strict() -> ssl.SSLContext:
    """Return a context that verifies the server."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def test_a_function_is_called_again_after_a_minute_and_another_context_is_used(
    blink_sandbox: Sandbox,
) -> None:
    contexts = [strict(), strict()]
    returned = [contexts[0], contexts[0], contexts[1]]
    watched = Watched(blink_sandbox.settings(certificate=lambda: returned.pop(0)))
    assert watched.source.context is contexts[0]
    watched.look(MINUTE - 1.0)
    assert len(returned) == 2
    watched.look(1.0)
    assert (watched.source.context, watched.told) == (contexts[0], [])
    watched.look(MINUTE)
    assert watched.source.context is contexts[1]
    (renewed,) = watched.told
    assert (renewed.reasons, renewed.expires_at) == ((), None)


def test_a_function_that_fails_is_reported_once_and_the_context_goes_on(
    blink_sandbox: Sandbox,
) -> None:
    first, second = strict(), strict()
    unsafe = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unsafe.check_hostname = False
    results: list[Any] = [first, OSError("fake-pin"), OSError("fake-pin"), unsafe, "no", second]

    def next_context() -> ssl.SSLContext:
        result = results.pop(0)
        if isinstance(result, OSError):
            raise result
        context: ssl.SSLContext = result
        return context

    watched = Watched(blink_sandbox.settings(certificate=next_context))
    for _ in range(4):
        watched.look(MINUTE)
        assert watched.source.context is first
    watched.look(MINUTE)
    assert watched.source.context is second
    texts = [" ".join(reason.text for reason in each.reasons) for each in watched.told]
    assert [text.rpartition(": ")[2] for text in texts] == ["OSError.", "InvalidInputError.", ""]
    assert "fake-pin" not in " ".join(texts)


def test_a_function_that_fails_at_first_makes_no_client(
    connect: Connect, blink_sandbox: Sandbox
) -> None:
    def no_module() -> ssl.SSLContext:
        raise RuntimeError("the module is locked")

    with pytest.raises(RuntimeError, match="locked"):
        connect(blink_sandbox.settings(certificate=no_module))
    with pytest.raises(InvalidInputError, match=r"must return an ssl\.SSLContext"):
        connect(blink_sandbox.settings(certificate=lambda: None))


def test_a_call_uses_the_context_that_a_function_returns_later(
    connect: Connect, blink_sandbox: Sandbox, ca: Path, tmp_path: Path
) -> None:
    clock, credentials = ManualClock(), [issue(blink_sandbox, name) for name in ("first", "second")]
    made = [ssl_context(in_memory(each, tmp_path, ca), now=NOW) for each in credentials]
    client = connect(blink_sandbox.settings(certificate=lambda: made[0]), monotonic=clock)
    exchange(client, blink_sandbox, blink_sandbox.grant(NON_ROTATING))
    assert blink_sandbox.exchanges[-1].certificate == credentials[0].fingerprint
    made.pop(0)
    clock.seconds += MINUTE
    exchange(client, blink_sandbox, blink_sandbox.grant(NON_ROTATING))
    assert blink_sandbox.exchanges[-1].certificate == credentials[1].fingerprint
