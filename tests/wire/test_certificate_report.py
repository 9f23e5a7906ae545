"""The offline check reports the defects of a certificate and the days until it expires."""

from __future__ import annotations

from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from cryptography.hazmat.primitives.serialization import Encoding

from blink_oauth import CertificateError, ClientCertificate
from blink_oauth.tls import CertificateReport, Finding, Rule, check_certificate, ssl_context
from blink_oauth_testing.sandbox import CertificateAuthority, Credentials
from blink_oauth_testing.sandbox.certificates import pem, private_key, shared_authority
from wire import certificates
from wire.certificates import DAY, NAME, files
from wire.key_files import KEY_FILES, PASSPHRASE, block
from wrapper.leaks import found

AUTHORITY = shared_authority()
NOW = datetime.now(UTC).replace(microsecond=0)


def report(credentials: Credentials, folder: Path, now: datetime = NOW) -> CertificateReport:
    """Check credentials offline."""
    return check_certificate(files(credentials, folder, AUTHORITY.root_pem), now=now)


def expiring_in(time_left: timedelta) -> Credentials:
    """Issue a certificate that expires after the given time."""
    return AUTHORITY.issue_client(NAME, not_before=NOW - 400 * DAY, not_after=NOW + time_left)


def test_a_good_certificate_has_no_findings(tmp_path: Path) -> None:
    good = report(expiring_in(90 * DAY), tmp_path)
    assert [each.not_after for each in good.expiries] == [
        NOW + 90 * DAY,
        *(each.not_valid_after_utc for each in (AUTHORITY.intermediate, AUTHORITY.root)),
    ]
    assert evolve(good, expiries=()) == CertificateReport(
        subject=f"CN={NAME}",
        expires_at=NOW + 90 * DAY,
        days_left=90,
        findings=(),
    )
    assert good.usable
    assert str(good).startswith(f"CN={NAME}: 90 days left.")
    assert "\n- " not in str(good)


def test_a_certificate_that_expires_soon_is_usable_with_a_warning(tmp_path: Path) -> None:
    soon = report(expiring_in(30 * DAY - timedelta(seconds=1)), tmp_path)
    assert soon.usable
    assert soon.days_left == 29
    assert soon.findings == (
        Finding(
            Rule.DAYS_LEFT,
            "The certificate expires in 29 days: order and register its successor now.",
            fatal=False,
        ),
    )
    assert str(soon).splitlines() == [f"CN={NAME}: 29 days left.", f"- {soon.findings[0].text}"]


def test_thirty_days_left_give_no_warning(tmp_path: Path) -> None:
    assert report(expiring_in(30 * DAY), tmp_path).findings == ()


def test_validity_is_checked_at_the_time_that_the_caller_passes(tmp_path: Path) -> None:
    certificate = expiring_in(90 * DAY)
    late = report(certificate, tmp_path, NOW + 91 * DAY)
    assert not late.usable
    assert late.days_left == -1
    assert [finding.rule for finding in late.findings] == [Rule.VALID_NOW]
    early = report(certificate, tmp_path, NOW - 401 * DAY)
    assert [finding.rule for finding in early.findings] == [Rule.VALID_NOW]
    assert not early.usable


def test_a_certificate_without_issuers_is_usable_with_a_warning(tmp_path: Path) -> None:
    alone = report(certificates.without_issuers(AUTHORITY), tmp_path)
    assert alone.usable
    assert [(finding.rule, finding.fatal) for finding in alone.findings] == [
        (Rule.CHAIN_COMPLETE, False)
    ]
    assert "alone" in str(alone)
    ssl_context(
        files(certificates.without_issuers(AUTHORITY), tmp_path, AUTHORITY.root_pem), now=NOW
    )


def client_certificate(
    folder: Path, chain: bytes, key: bytes, passphrase: str | None = None
) -> ClientCertificate:
    """Write a client certificate to files."""
    for name, content in {"c.pem": chain, "c.key": key, "ca.pem": AUTHORITY.root_pem}.items():
        (folder / name).write_bytes(content)
    return ClientCertificate(folder / "c.pem", folder / "c.key", passphrase, folder / "ca.pem")


def agreed_report(certificate: ClientCertificate) -> CertificateReport:
    """Check a certificate, after it is certain that making the context comes to the same result."""
    checked = check_certificate(certificate, now=NOW)
    fatal = tuple(finding.rule for finding in checked.findings if finding.fatal)
    expectation: Any = pytest.raises(CertificateError) if fatal else nullcontext()
    with expectation as caught:
        ssl_context(certificate, now=NOW)
    assert caught is None or caught.value.rules == fatal
    return checked


@pytest.mark.parametrize("name", KEY_FILES)
def test_the_check_and_the_client_agree_on_a_key_file_and_name_the_cause(
    tmp_path: Path, name: str
) -> None:
    file = KEY_FILES[name]
    chain = AUTHORITY.issue_client(NAME).chain_pem
    checked = agreed_report(
        client_certificate(tmp_path, chain, file.make(), passphrase=file.passphrase)
    )
    assert [finding.rule for finding in checked.findings] == ([file.rule] if file.rule else [])
    assert file.words in str(checked)
    assert not found([PASSPHRASE, "fakeé", "fake-Zürich", "f" * 1000], [("", str(checked))])


LEAF = AUTHORITY.issue_client(NAME)
LEAF_PEM, MIDDLE, ROOT = pem(LEAF.certificate), pem(AUTHORITY.intermediate), AUTHORITY.root_pem
STRANGER = CertificateAuthority.create("Unknown")
HALF = MIDDLE[: len(MIDDLE) // 2]
WARNING = (Rule.CHAIN_COMPLETE, False)
UNREADABLE = (Rule.READABLE, True)


def trusted() -> bytes:
    """Return the certificate as `openssl x509 -trustout` writes it: settings follow it."""
    settings = bytes.fromhex("300c300a06082b06010505070302")
    return block("TRUSTED CERTIFICATE", LEAF.certificate.public_bytes(Encoding.DER) + settings)


CHAIN_FILES: dict[str, tuple[bytes, tuple[tuple[Rule, bool], ...], str]] = {
    "to the root": (LEAF_PEM + MIDDLE + ROOT, (), ""),
    "text between": (b"subject=x\n" + LEAF_PEM + b"issuer=y\n" + MIDDLE, (), ""),
    "CRLF": ((LEAF_PEM + MIDDLE).replace(b"\n", b"\r\n"), (), ""),
    "byte order mark": (b"\xef\xbb\xbf" + LEAF_PEM + MIDDLE, (), ""),
    "trusted certificate": (trusted() + MIDDLE, (), ""),
    "leaf twice": (LEAF_PEM + LEAF_PEM + MIDDLE, (WARNING,), "servers ignore"),
    "leaf twice alone": (LEAF_PEM + LEAF_PEM, (WARNING,), "alone"),
    "unrelated root at the end": (LEAF_PEM + MIDDLE + STRANGER.root_pem, (WARNING,), "ignore"),
    "unrelated between": (LEAF_PEM + STRANGER.root_pem + MIDDLE, (WARNING,), "ignore"),
    "wrong order": (LEAF_PEM + ROOT + MIDDLE, (WARNING,), "not in order"),
    "no issuer, others": (LEAF_PEM + ROOT, ((Rule.CHAIN_COMPLETE, True),), "chain is broken"),
    "second cut off": (LEAF_PEM + HALF, (UNREADABLE, WARNING), "last certificate of the file"),
    "second damaged": (
        LEAF_PEM + block("CERTIFICATE", b"0000"),
        (UNREADABLE, WARNING),
        "certificate 2 of the file is damaged",
    ),
    "no line break": (
        LEAF_PEM.rstrip() + MIDDLE,
        (UNREADABLE, WARNING),
        "line break is missing",
    ),
    "cut off": (LEAF_PEM[:500], (UNREADABLE,), "is cut off"),
    "DER": (LEAF.certificate.public_bytes(Encoding.DER), (UNREADABLE,), "x509 -inform DER"),
    "PKCS#12": (KEY_FILES["PKCS#12"].make(), (UNREADABLE,), "openssl pkcs12"),
    "key": (KEY_FILES["PKCS#1"].make(), (UNREADABLE,), "only RSA PRIVATE KEY"),
}


@pytest.mark.parametrize("name", CHAIN_FILES)
def test_the_check_and_the_client_agree_on_a_chain_and_are_as_strict_as_servers(
    tmp_path: Path, name: str
) -> None:
    chain, expected, words = CHAIN_FILES[name]
    key = KEY_FILES["PKCS#1"].make()
    checked = agreed_report(client_certificate(tmp_path, chain, key))
    assert {(finding.rule, finding.fatal) for finding in checked.findings} == set(expected)
    assert words in str(checked)


def test_a_certificate_that_does_not_come_first_is_found_by_its_key(tmp_path: Path) -> None:
    key = KEY_FILES["PKCS#1"].make()
    checked = agreed_report(client_certificate(tmp_path, MIDDLE + LEAF_PEM, key))
    assert checked.findings[0].rule is Rule.KEY_MATCHES
    assert "belongs to certificate 2 of the file" in checked.findings[0].text


@pytest.mark.parametrize(
    ("changes", "rule", "words"),
    [
        ({"not_after": NOW - DAY}, Rule.VALID_NOW, "expired on"),
        ({"not_before": NOW + DAY}, Rule.VALID_NOW, "valid only from"),
        ({"not_after": NOW + 9 * DAY}, Rule.DAYS_LEFT, "in 9 days"),
    ],
)
def test_the_dates_of_the_issuers_are_checked(
    tmp_path: Path, changes: dict[str, datetime], rule: Rule, words: str
) -> None:
    start = {"not_before": NOW - 400 * DAY}
    odd = certificates.intermediate(AUTHORITY, **(start | changes))
    late = report(evolve(LEAF, issuers=(odd,)), tmp_path)
    # A server may have the present certificate of the issuer, as it may have one that is not sent.
    assert [(finding.rule, finding.fatal) for finding in late.findings] == [(rule, False)]
    assert words in str(late)
    assert "Intermediate" in late.findings[0].text


def test_an_expired_issuer_does_not_matter_if_its_renewal_follows(tmp_path: Path) -> None:
    old = certificates.intermediate(AUTHORITY, not_before=NOW - 400 * DAY, not_after=NOW - DAY)
    both = report(evolve(LEAF, issuers=(old, AUTHORITY.intermediate)), tmp_path)
    assert [(finding.rule, finding.fatal) for finding in both.findings] == [WARNING]


def test_every_defect_is_reported(tmp_path: Path) -> None:
    many = AUTHORITY.issue_client(
        NAME,
        key=private_key(NAME, 2048),
        usages=(),
        not_before=NOW - 9 * DAY,
        not_after=NOW - 2 * DAY,
    )
    broken = report(many, tmp_path)
    assert {finding.rule for finding in broken.findings} == {
        Rule.KEY_LENGTH,
        Rule.CLIENT_AUTHENTICATION,
        Rule.VALID_NOW,
    }
    assert len(str(broken).splitlines()) == 4


def test_a_report_on_an_unreadable_file_has_no_days_left(tmp_path: Path) -> None:
    certificate = files(certificates.good(AUTHORITY), tmp_path, AUTHORITY.root_pem)
    unreadable = check_certificate(evolve(certificate, chain=tmp_path / "no.pem"), now=NOW)
    assert (unreadable.subject, unreadable.expires_at, unreadable.days_left) == (None, None, None)
    assert not unreadable.usable
    assert str(unreadable).startswith("The client certificate cannot be read.\n- ")


@pytest.mark.parametrize("minutes", [1, 60 * 23])
def test_a_certificate_is_usable_on_its_last_day(tmp_path: Path, minutes: int) -> None:
    last = report(expiring_in(timedelta(minutes=minutes)), tmp_path)
    assert last.usable
    assert last.days_left == 0
