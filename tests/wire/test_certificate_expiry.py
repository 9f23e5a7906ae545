"""The stages of a certificate follow its lifetime, and each certificate in use has one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import evolve
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given
from hypothesis import strategies as st

from blink_oauth import CertificateRole, ExpiryStage, check_certificate
from blink_oauth.expiry import renewal_due_at, stage_of, urgent_at
from blink_oauth_testing.sandbox import Credentials, Sandbox
from blink_oauth_testing.sandbox.certificates import (
    certificate_fingerprint,
    pem,
    private_key,
    shared_authority,
)
from wire import certificates
from wire.certificates import DAY, NAME, files

START = datetime(2027, 4, 1, tzinfo=UTC)
NOW = datetime.now(UTC).replace(microsecond=0)
SECOND = timedelta(seconds=1)
STAGES = list(ExpiryStage)
VALID, RENEWAL_DUE, URGENT, EXPIRED = STAGES
AUTHORITY = shared_authority()


@pytest.mark.parametrize(
    ("lifetime", "due", "urgent"),
    [
        (timedelta(hours=9), timedelta(hours=3), timedelta(hours=1)),
        (9 * DAY, 3 * DAY, DAY),
        (45 * DAY, 15 * DAY, 5 * DAY),
        (47 * DAY, 47 * DAY / 3, 47 * DAY / 9),
        (90 * DAY, 30 * DAY, 10 * DAY),
        (100 * DAY, 30 * DAY, 10 * DAY),
        (200 * DAY, 30 * DAY, 10 * DAY),
        (398 * DAY, 30 * DAY, 10 * DAY),
        (825 * DAY, 30 * DAY, 10 * DAY),
        (3650 * DAY, 30 * DAY, 10 * DAY),
    ],
)
def test_a_certificate_warns_for_a_third_of_its_lifetime_and_for_thirty_days_at_most(
    lifetime: timedelta, due: timedelta, urgent: timedelta
) -> None:
    end = START + lifetime
    assert (end - renewal_due_at(START, end), end - urgent_at(START, end)) == (due, urgent)
    moments = {
        START: VALID,
        end - due: VALID,
        end - due + SECOND: RENEWAL_DUE,
        end - urgent: RENEWAL_DUE,
        end - urgent + SECOND: URGENT,
        end: URGENT,
        end + SECOND: EXPIRED,
    }
    assert [stage_of(START, end, now) for now in moments] == list(moments.values())


@given(
    st.timedeltas(timedelta(0), timedelta(days=36_500)),
    st.lists(st.timedeltas(timedelta(days=-9), timedelta(days=36_600)), min_size=2),
)
def test_no_stage_follows_a_later_one(lifetime: timedelta, ages: list[timedelta]) -> None:
    stages = [stage_of(START, START + lifetime, START + age) for age in sorted(ages)]
    assert stages == sorted(stages, key=STAGES.index)


@given(
    st.timedeltas(timedelta(0), timedelta(days=36_500)),
    st.timedeltas(timedelta(days=-9), timedelta(days=36_600)),
)
def test_a_longer_lifetime_from_the_same_start_is_never_nearer_its_end(
    lifetime: timedelta, age: timedelta
) -> None:
    shorter, longer = (
        stage_of(START, START + each, START + age) for each in (lifetime, lifetime + DAY)
    )
    assert STAGES.index(longer) <= STAGES.index(shorter)


def issued(lifetime: timedelta, left: timedelta) -> Credentials:
    """Issue a client certificate with this time left."""
    return AUTHORITY.issue_client(NAME, not_before=NOW + left - lifetime, not_after=NOW + left)


@pytest.mark.parametrize(
    ("lifetime", "left", "words"),
    [
        (47 * DAY, 30 * DAY, ""),
        (47 * DAY, 16 * DAY, ""),
        (47 * DAY, 15 * DAY, "expires in 15 days"),
        (47 * DAY, 2 * DAY, "expires in 2 days"),
        (398 * DAY, 29 * DAY, "expires in 29 days"),
    ],
)
def test_the_warning_of_the_report_is_that_of_the_stage(
    lifetime: timedelta, left: timedelta, words: str, tmp_path: Path
) -> None:
    found = check_certificate(files(issued(lifetime, left), tmp_path, AUTHORITY.root_pem), now=NOW)
    assert found.usable
    assert [words in finding.text for finding in found.findings] == ([True] if words else [])
    assert (found.expiries[0].stage is VALID) is not bool(words)


def test_each_certificate_of_the_chain_and_of_the_authority_file_has_its_stage(
    tmp_path: Path,
) -> None:
    middle = certificates.intermediate(
        AUTHORITY, not_before=NOW - 400 * DAY, not_after=NOW + 9 * DAY
    )
    client = evolve(issued(47 * DAY, 15 * DAY), issuers=(middle,))
    found = check_certificate(files(client, tmp_path, AUTHORITY.root_pem), now=NOW).expiries
    used = (client.certificate, middle, AUTHORITY.root)
    assert [(each.role, each.stage) for each in found] == [
        (CertificateRole.CLIENT, RENEWAL_DUE),
        (CertificateRole.ISSUER, URGENT),
        (CertificateRole.AUTHORITY, VALID),
    ]
    assert [each.subject for each in found] == [
        f"CN={NAME}",
        "CN=bLink Sandbox Intermediate",
        "CN=bLink Sandbox",
    ]
    assert [each.fingerprint for each in found] == [
        certificate_fingerprint(each.public_bytes(Encoding.DER)) for each in used
    ]
    assert [(each.not_before, each.not_after) for each in found] == [
        (each.not_valid_before_utc, each.not_valid_after_utc) for each in used
    ]
    assert found[0].not_after - found[0].renewal_due_at == 47 * DAY / 3
    assert found[0].not_after - found[0].urgent_at == 47 * DAY / 9


def test_a_root_in_both_files_is_there_once_and_an_issuer_that_was_replaced_is_not(
    tmp_path: Path,
) -> None:
    old = certificates.intermediate(AUTHORITY, not_before=NOW - 400 * DAY, not_after=NOW - DAY)
    client = evolve(
        issued(90 * DAY, 80 * DAY), issuers=(old, AUTHORITY.intermediate, AUTHORITY.root)
    )
    found = check_certificate(files(client, tmp_path, AUTHORITY.root_pem), now=NOW).expiries
    assert [(each.role, each.subject) for each in found] == [
        (CertificateRole.CLIENT, f"CN={NAME}"),
        (CertificateRole.ISSUER, "CN=bLink Sandbox Intermediate"),
        (CertificateRole.ISSUER, "CN=bLink Sandbox"),
    ]


def root(*names: str, left: timedelta) -> x509.Certificate:
    """Return a self-signed authority of five years with this time left."""
    key = private_key("an authority")
    common = x509.NameOID.COMMON_NAME
    subject = x509.Name([x509.NameAttribute(common, name) for name in names])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW + left - 1825 * DAY)
        .not_valid_after(NOW + left)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    return builder.sign(key, hashes.SHA256())


def authorities(folder: Path, *roots: x509.Certificate) -> list[tuple[str, ExpiryStage]]:
    """Return subject and stage of each authority that is reported of a file."""
    certificate = files(issued(90 * DAY, 80 * DAY), folder, b"".join(map(pem, roots)))
    found = check_certificate(certificate, now=NOW).expiries
    return [(each.subject, each.stage) for each in found if each.role == "authority"]


def test_an_authority_that_has_expired_counts_only_if_it_is_the_only_one(tmp_path: Path) -> None:
    old, soon = root("old", left=-DAY), root("soon", left=20 * DAY)
    new = root("new", left=900 * DAY)
    assert authorities(tmp_path, old) == [("CN=old", EXPIRED)]
    assert authorities(tmp_path, old, soon, new, soon) == [
        ("CN=soon", RENEWAL_DUE),
        ("CN=new", VALID),
    ]


def test_a_general_bundle_is_not_reported(tmp_path: Path) -> None:
    ending = root("soon", left=DAY)
    assert authorities(tmp_path, *[ending] * 10) == [("CN=soon", URGENT)]
    assert authorities(tmp_path, *[ending] * 11) == []


def test_a_subject_shows_no_control_characters_and_has_an_end(tmp_path: Path) -> None:
    odd = root(*["x" * 64] * 3, "a\x1b[31m\u202e\nb", left=DAY)
    ((subject, _),) = authorities(tmp_path, odd)
    assert subject.startswith("CN=a?[31m??b,CN=xxx")
    assert subject.isprintable()
    assert len(subject) == 200


def test_the_ends_of_the_authorities_are_known_without_a_readable_chain(tmp_path: Path) -> None:
    certificate = files(issued(90 * DAY, 80 * DAY), tmp_path, AUTHORITY.root_pem)
    certificate.chain.write_bytes(b"fake")
    found = check_certificate(certificate, now=NOW).expiries
    assert [each.role for each in found] == [CertificateRole.AUTHORITY]


def test_the_settings_have_the_ends_of_files_and_none_of_a_context(
    blink_sandbox: Sandbox, tmp_path: Path
) -> None:
    certificate = files(issued(90 * DAY, 80 * DAY), tmp_path, AUTHORITY.root_pem)
    settings = blink_sandbox.settings(certificate=certificate)
    assert (
        settings.certificate_expiries(now=NOW) == check_certificate(certificate, now=NOW).expiries
    )
    assert [each.stage for each in settings.certificate_expiries()] == [VALID] * 3
    context = settings.ssl_context()
    assert blink_sandbox.settings(certificate=context).certificate_expiries(now=NOW) == ()
