"""The offline check reports the defects of a certificate and the days until it expires."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import evolve

from blink_oauth.tls import CertificateReport, Finding, Rule, check_certificate, ssl_context
from blink_oauth_testing.sandbox import Credentials
from blink_oauth_testing.sandbox.certificates import private_key, shared_authority
from wire import certificates
from wire.certificates import DAY, NAME, files

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
    assert good == CertificateReport(
        subject=f"CN={NAME}", expires_at=NOW + 90 * DAY, days_left=90, findings=()
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


def test_a_chain_in_the_wrong_order_is_broken(tmp_path: Path) -> None:
    good = AUTHORITY.issue_client(NAME)
    whole = report(evolve(good, issuers=(AUTHORITY.intermediate, AUTHORITY.root)), tmp_path)
    assert whole.findings == ()
    mixed = report(evolve(good, issuers=(AUTHORITY.root, AUTHORITY.intermediate)), tmp_path)
    assert [(finding.rule, finding.fatal) for finding in mixed.findings] == [
        (Rule.CHAIN_COMPLETE, True)
    ]


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
