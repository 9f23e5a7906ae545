"""The check warns if Client Authentication ends: by an issuer's limit, or by a public authority."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID, ObjectIdentifier

from blink_oauth import Finding, Rule, Settings, check_certificate
from blink_oauth.renewal import CertificateRenewal, ContextSource
from blink_oauth_testing.sandbox import Credentials
from blink_oauth_testing.sandbox.certificates import private_key, shared_authority
from wire.certificates import NAME, files
from wire.renewals import ManualClock

AUTHORITY = shared_authority()
START = datetime(2026, 11, 1, tzinfo=UTC)
NOW = START + timedelta(days=1)
DV, OV, EV = "2.23.140.1.2.1", "2.23.140.1.2.2", "2.23.140.1.1"
OWN_POLICY = "1.3.6.1.4.1.32473.1"


def certificate(
    subject: str,
    issuer: str,
    end: datetime,
    *extensions: x509.ExtensionType,
    is_authority: bool = False,
) -> x509.Certificate:
    """Return a certificate with these names and extensions; all authorities share a key."""
    authority_key = private_key("an authority")
    own_key = authority_key if is_authority else private_key(subject)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(own_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(authority_key, hashes.SHA256())


def name(text: str) -> x509.Name:
    """Return a distinguished name with an organization."""
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, text)])


def client(
    *,
    issuer: str = "Example CA",
    end: datetime = datetime(2027, 5, 1, tzinfo=UTC),
    policies: Sequence[str] = (),
    issuer_usages: Sequence[ObjectIdentifier] = (),
) -> Credentials:
    """Return a client certificate with its issuer, which is limited to some usages or not."""
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    extensions: list[x509.ExtensionType] = [usage, x509.ExtendedKeyUsage([Usage.CLIENT_AUTH])]
    if policies:
        named = [x509.PolicyInformation(ObjectIdentifier(each), None) for each in policies]
        extensions.append(x509.CertificatePolicies(named))
    limits = [x509.ExtendedKeyUsage(issuer_usages)] if issuer_usages else []
    late = datetime(2035, 1, 1, tzinfo=UTC)
    return Credentials(
        certificate(NAME, issuer, end, *extensions),
        (certificate(issuer, "Example Root", late, *limits, is_authority=True),),
        private_key(NAME),
        "fake-passphrase-1",
    )


def findings(credentials: Credentials, folder: Path) -> tuple[Finding, ...]:
    """Check a client certificate on its second day."""
    return check_certificate(files(credentials, folder, AUTHORITY.root_pem), now=NOW).findings


@pytest.mark.parametrize(
    ("usages", "is_warned"),
    [
        ((), False),
        ((Usage.CLIENT_AUTH, Usage.SERVER_AUTH), False),
        ((Usage.ANY_EXTENDED_KEY_USAGE,), False),
        ((Usage.SERVER_AUTH,), True),
        ((Usage.SERVER_AUTH, Usage.OCSP_SIGNING), True),
    ],
)
def test_an_issuer_that_is_limited_to_other_usages_is_a_warning(
    usages: Sequence[ObjectIdentifier], is_warned: bool, tmp_path: Path
) -> None:
    found = findings(client(issuer_usages=usages), tmp_path)
    assert [(each.rule, each.fatal) for each in found] == (
        [(Rule.CLIENT_AUTHENTICATION, False)] if is_warned else []
    )
    assert all("O=Example CA is limited" in each.text for each in found)
    assert all("hierarchy for client authentication" in each.text for each in found)


MARCH_15 = datetime(2027, 3, 15, tzinfo=UTC)
SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("issuer", "policies", "end", "day"),
    [
        ("Example CA", (DV,), MARCH_15, "2027-03-15"),
        ("SwissSign AG", (OWN_POLICY, OV), MARCH_15, "2027-03-15"),
        ("Example CA", (EV,), datetime(2027, 9, 1, tzinfo=UTC), "2027-03-15"),
        ("Example CA", (OV,), MARCH_15 - SECOND, None),
        ("DigiCert Inc", (OV,), datetime(2027, 3, 1, tzinfo=UTC), "2027-03-01"),
        ("DigiCert Inc", (OV,), datetime(2027, 3, 1, tzinfo=UTC) - SECOND, None),
        ("Sectigo Limited", (OV,), datetime(2027, 2, 10, tzinfo=UTC), "2027-02-10"),
        # Of a private authority nothing is known, whatever its name is.
        ("Example CA", (), datetime(2028, 1, 1, tzinfo=UTC), None),
        ("DigiCert Inc", (OWN_POLICY,), datetime(2028, 1, 1, tzinfo=UTC), None),
    ],
)
def test_a_public_certificate_that_expires_after_the_last_day_of_its_authority_is_a_warning(
    issuer: str, policies: Sequence[str], end: datetime, day: str | None, tmp_path: Path
) -> None:
    found = findings(client(issuer=issuer, policies=policies, end=end), tmp_path)
    assert [(each.rule, each.fatal) for each in found] == (
        [(Rule.CLIENT_AUTHENTICATION_ENDS, False)] if day else []
    )
    assert all(f"from {day} on" in each.text for each in found)
    assert all("hierarchy for client authentication" in each.text for each in found)


class Renewals:
    """What a source of contexts reports."""

    def __init__(self) -> None:
        self.reasons: list[list[Rule]] = []

    def add(self, renewal: CertificateRenewal) -> None:
        """Record a renewal or a refusal."""
        self.reasons.append([each.rule for each in renewal.reasons])


@pytest.mark.parametrize(
    ("new", "reasons"),
    [
        ({"policies": (OV,)}, []),
        ({"issuer_usages": (Usage.SERVER_AUTH,)}, [Rule.CLIENT_AUTHENTICATION]),
    ],
)
def test_a_renewal_is_refused_for_the_limit_of_an_issuer_and_not_for_the_last_day(
    new: dict[str, Any], reasons: list[Rule], tmp_path: Path
) -> None:
    used, clock, renewals = files(client(), tmp_path, AUTHORITY.root_pem), ManualClock(), Renewals()
    settings = Settings(
        base_url="https://blink.example", client_id=NAME, user_agent="a/1", certificate=used
    )
    source = ContextSource(settings, lambda: NOW, clock)
    source.load()
    source.subscribe(renewals.add)
    files(client(**new), tmp_path, AUTHORITY.root_pem)
    for _ in range(2):
        clock.seconds += 1
        source.look()
    assert renewals.reasons == [reasons]
