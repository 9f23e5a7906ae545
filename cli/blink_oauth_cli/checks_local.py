"""The checks of `doctor` that need no network: certificate, files, authorities, ids and lease."""

from __future__ import annotations

import os
import re
import ssl
import stat
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path

from attrs import evolve

from blink_oauth.errors import CertificateError
from blink_oauth.expiry import CertificateExpiry, CertificateRole, ExpiryStage
from blink_oauth.settings import Settings, Timeouts
from blink_oauth.tls import (
    Certificate,
    CertificateReport,
    ClientCertificate,
    Finding,
    Pkcs12Certificate,
    Rule,
    check_certificate,
    trusting_context,
)
from blink_oauth_keeper.store.protocol import LONGEST_LEASE

from .check import Check, Level, failed, passed, warning
from .configuration import Configuration, Environment, environment_of, environment_of_url
from .errors import CommandError
from .receiver import receiver_of, secrets_file

__all__ = [
    "certificate_checks",
    "file_check",
    "identity_checks",
    "lease_check",
    "private_file_check",
    "receiver_checks",
    "settings_without_certificate",
]


def settings_without_certificate(settings: Settings) -> Settings | None:
    """Return the same settings without a client certificate.

    They trust the same authorities; None if these cannot be loaded.
    """
    certificate = settings.certificate
    trusted: Path | bytes | None = None
    if isinstance(certificate, Certificate):
        trusted = certificate.ca
    elif certificate is not None:
        given = certificate if isinstance(certificate, ssl.SSLContext) else certificate()
        trusted = b"".join(given.get_ca_certs(binary_form=True)) or None
    try:
        context = trusting_context(trusted)
    except CertificateError:
        return None
    return evolve(settings, certificate=context)


STORE_FILE = "store_file"
MIN_FREE_BYTES = 50_000_000
ACCESS_BY_OTHERS = stat.S_IRWXG | stat.S_IRWXO
WRITE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
SQLITE_SUFFIXES = ("", "-wal", "-shm")
"""The suffixes of the files that SQLite writes tokens to."""


def private_file_check(name: str, path: Path) -> Iterator[Check]:
    """Check the permissions of a key file; another check reports a missing file.

    A file of root may be readable for its group: so systemd and Kubernetes pass a secret to a
    process that is not root.

    Args:
        name: The name of the check.
        path: The file.
    """
    if os.name != "posix" or not path.is_file():
        return
    if _is_given_by_root(path):
        yield passed(name, f"{path} is root's, and only its group may read it.")
    elif _has_any_mode_bit(path, ACCESS_BY_OTHERS):
        finding = f"Users other than its owner may read or write the key in {path}."
        yield warning(name, finding, f"chmod 600 {path}")
    else:
        yield passed(name, f"{path} is its owner's alone.")


def file_check(path: Path, free_bytes: Callable[[Path], int]) -> Check:
    """Check the permissions of the store's file and folder, and the free space.

    Other users may list the folder. They must not write to it, because they could then replace the
    file.

    Args:
        path: The file; it need not exist yet.
        free_bytes: Returns the free bytes of the disk of a folder.
    """
    folder = next(folder for folder in path.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        return failed(
            STORE_FILE,
            f"{path} cannot be written: {folder} is no folder that this user may write to.",
            f"Give this user a folder of its own for the store, or give it {folder}.",
        )
    chmod_modes = _chmod_modes(path, folder) if os.name == "posix" else {}
    if chmod_modes:
        modes = " && ".join(f"chmod {mode} {each}" for each, mode in chmod_modes.items())
        return warning(
            STORE_FILE,
            f"Users other than its owner may open {', '.join(map(str, chmod_modes))}.",
            modes,
        )
    free = free_bytes(folder)
    if free < MIN_FREE_BYTES:
        return warning(
            STORE_FILE,
            f"The disk of {path} has {free // 1_000_000} MB left. A token that cannot be stored is "
            "lost.",
            "Make room on the disk.",
        )
    return passed(STORE_FILE, f"{path} is its owner's alone, and there is room.")


def _chmod_modes(path: Path, folder: Path) -> dict[Path, str]:
    files = (path.with_name(path.name + suffix) for suffix in SQLITE_SUFFIXES)
    chmod_modes = {file: "600" for file in files if _has_any_mode_bit(file, ACCESS_BY_OTHERS)}
    # If the store's own folder does not exist yet, an existing parent is not ours to change.
    if path.absolute().parent == folder and _has_any_mode_bit(folder, WRITE_BY_OTHERS):
        chmod_modes[folder] = "go-w"
    return chmod_modes


def _is_given_by_root(path: Path) -> bool:
    """Return whether this process may read a file of root, as only the file's group may."""
    try:
        status = path.stat()
    except OSError:
        return False
    is_of_another = status.st_uid == 0 != os.geteuid()
    return is_of_another and status.st_mode & ACCESS_BY_OTHERS == stat.S_IRGRP


def _has_any_mode_bit(path: Path, mode_bits: int) -> bool:
    try:
        return bool(path.stat().st_mode & mode_bits)
    except OSError:
        return False


AUTHORITIES = "server_authorities"
REORDER = "Order a certificate that keeps the rule, and register it with the platform."
REMEDIES = {
    Rule.READABLE: "Name PEM files that are complete, and that the user of this process may read.",
    Rule.PASSPHRASE: "Give the passphrase of this key; give none if the key is not encrypted.",
    Rule.KEY_MATCHES: "Name the key that the certificate was ordered with.",
    Rule.CHAIN_COMPLETE: "Write the certificate first, then each intermediate, into one file.",
    Rule.VALID_NOW: "Check the clock of this machine; if it is right, order and register a new "
    "certificate.",
    Rule.DAYS_LEFT: "Order its successor now, and register it with the platform.",
    Rule.CLIENT_AUTHENTICATION_ENDS: "Do so before the end of this certificate comes near: another "
    "hierarchy has to be registered with the platform.",
    Rule.AUTHORITIES: "Name a file with the PEM certificates of the server's authorities that the "
    "user of this process may read, or none to trust those of the operating system.",
}
OF_AUTHORITY = {
    CertificateRole.ISSUER: "Get the issuer's present certificate from the authority, and write it "
    "into the chain.",
    CertificateRole.AUTHORITY: "Ask SIX which authority comes next for its servers, and add that "
    "to the file of the authorities.",
}
GROUPS: dict[str, tuple[Rule, ...]] = {
    "certificate": (
        Rule.X509_V3,
        Rule.RSA_KEY,
        Rule.KEY_LENGTH,
        Rule.SIGNATURE,
        Rule.KEY_USAGE,
        Rule.CLIENT_AUTHENTICATION,
        Rule.CLIENT_AUTHENTICATION_ENDS,
    ),
    "certificate_key": (Rule.READABLE, Rule.PASSPHRASE, Rule.KEY_MATCHES),
    "certificate_chain": (Rule.CHAIN_COMPLETE,),
}


def certificate_checks(settings: Settings, *, now: datetime) -> Iterator[Check]:
    """Check the client certificate offline: its rules, key, chain, dates and files.

    Args:
        settings: The client's settings.
        now: The current time, timezone-aware.

    Source: bLink TLS certificates.
    """
    certificate = settings.certificate
    if isinstance(certificate, Certificate):
        report = check_certificate(certificate, now=now)
        yield from _report_checks(report)
        for role in CertificateRole:
            found = [_validity_check(each, now) for each in report.expiries if each.role is role]
            yield from [_together(found)] if found else []
        if isinstance(certificate, ClientCertificate):
            yield from private_file_check("key_file", certificate.key or certificate.chain)
        if isinstance(certificate, Pkcs12Certificate):
            yield from private_file_check("key_file", certificate.path)
        yield _authorities_check(report, certificate.ca)
    elif certificate is not None:
        yield passed("certificate", "It is in a ready ssl.SSLContext, which cannot be looked into.")
    elif settings.base_url.startswith("https://"):
        yield failed(
            "certificate",
            "No client certificate is set, but bLink demands mutual TLS.",
            "Set the certificate and its key, for example in BLINK_CERTIFICATE and BLINK_KEY.",
        )
    else:
        yield warning(
            "certificate",
            "base_url is plain http, where no certificate is asked for: that is for tests alone.",
            "Set the https:// URL of the platform.",
        )


def _report_checks(report: CertificateReport) -> Iterator[Check]:
    if report.subject is None:
        yield _findings_check(
            "certificate", [f for f in report.findings if f.rule is not Rule.AUTHORITIES]
        )
        return
    ok_findings = {
        "certificate": f"{report.subject} keeps the platform's rules.",
        "certificate_key": "The key opens and belongs to the certificate.",
        "certificate_chain": "The chain holds the certificate and what issued it.",
    }
    for name, rules in GROUPS.items():
        broken = [finding for finding in report.findings if finding.rule in rules]
        yield _findings_check(name, broken) if broken else passed(name, ok_findings[name])


VALIDITY = {
    CertificateRole.CLIENT: "certificate_validity",
    CertificateRole.ISSUER: "issuer_validity",
    CertificateRole.AUTHORITY: "authority_validity",
}
LEVELS = {
    ExpiryStage.VALID: Level.OK,
    ExpiryStage.RENEWAL_DUE: Level.WARN,
    ExpiryStage.URGENT: Level.FAIL,
    ExpiryStage.EXPIRED: Level.FAIL,
}


def _validity_check(expiry: CertificateExpiry, now: datetime) -> Check:
    """Return the check of the dates of one certificate."""
    days, start, end = (expiry.not_after - now).days, expiry.not_before, expiry.not_after
    level, remedy = LEVELS[expiry.stage], Rule.DAYS_LEFT
    finding = f"{days} days left, until {end:%Y-%m-%d}."
    is_own = expiry.role is CertificateRole.CLIENT
    if now < start:
        # An issuer or authority may be there for the time after the present one.
        level, remedy = Level.FAIL if is_own else Level.WARN, Rule.VALID_NOW
        finding = f"Valid only from {start:%Y-%m-%d}."
    elif expiry.stage is ExpiryStage.EXPIRED:
        finding, remedy = f"Expired on {end:%Y-%m-%d}, {-days} days ago.", Rule.VALID_NOW
    return Check(
        VALIDITY[expiry.role],
        level,
        finding if is_own else f"{expiry.subject}: {finding}",
        None if level is Level.OK else REMEDIES[remedy] if is_own else OF_AUTHORITY[expiry.role],
    )


def _together(checks: Sequence[Check]) -> Check:
    """Return checks of one name as one check, with the worst of their levels."""
    remedies = [check.remedy for check in checks if check.remedy is not None]
    return Check(
        checks[0].name,
        max((check.level for check in checks), key=list(Level).index),
        " ".join(check.finding for check in checks),
        " ".join(dict.fromkeys(remedies)) or None,
    )


def _authorities_check(report: CertificateReport, ca: Path | None) -> Check:
    broken = [finding for finding in report.findings if finding.rule is Rule.AUTHORITIES]
    if broken:
        return _findings_check(AUTHORITIES, broken)
    return passed(
        AUTHORITIES, f"The authorities in {ca} are trusted." if ca else "The system's own."
    )


def _findings_check(name: str, findings: Sequence[Finding]) -> Check:
    fatal = any(finding.fatal for finding in findings)
    return Check(
        name,
        Level.FAIL if fatal else Level.WARN,
        " ".join(finding.text for finding in findings),
        " ".join(dict.fromkeys(REMEDIES.get(finding.rule, REORDER) for finding in findings)),
    )


CLIENT_ID = re.compile(r"CID[XP]\d{10}")
TARGET_ID = re.compile(r"IID[XP]\d+")
NAME_AND_VERSION = re.compile(r"[^\s/]+/v?\d")


def identity_checks(
    settings: Settings, environment: Environment | None, target_id: str | None
) -> Iterator[Check]:
    """Check the client id, the target's id if one is given, and the user agent.

    Args:
        settings: The client's settings.
        environment: The environment of the settings, or None if it is not known.
        target_id: The id of a bank, or None.

    Source: bLink custom headers.
    """
    if environment not in {None, environment_of_url(settings.base_url) or environment}:
        yield failed(
            "base_url",
            f"{settings.base_url} looks like a URL of test, and these settings are for "
            f"{environment}.",
            f"Use the URL that bLink gave for {environment}, or the profile for test.",
        )
    yield _id_check("client_id", settings.client_id, CLIENT_ID, "CIDX0000000002", environment)
    if target_id is not None:
        yield _id_check("target_id", target_id, TARGET_ID, "IIDX99999", environment)
    yield _user_agent_check(settings.user_agent)


def _id_check(
    name: str, value: str, shape: re.Pattern[str], example: str, environment: Environment | None
) -> Check:
    if shape.fullmatch(value) is None:
        return warning(
            name,
            f"{value} does not look like such an id of bLink's directory, as {example} does.",
            "Copy the id from bLink's directory, without blanks.",
        )
    apparent = environment_of(value)
    if environment not in {None, apparent}:
        return failed(
            name,
            f"{value} looks like an id of {apparent}, and these settings are for {environment}.",
            f"Use the id that bLink gave for {environment}, or the profile for {apparent}.",
        )
    return passed(name, f"{value} looks like an id of {apparent}.")


def _user_agent_check(user_agent: str) -> Check:
    if NAME_AND_VERSION.match(user_agent) is None:
        return warning(
            "user_agent",
            f"The user agent {user_agent} does not name a version, which the platform asks for.",
            "Name software and version, as in acme-books/3.2.",
        )
    return passed("user_agent", f"{user_agent} names software and version.")


def lease_check(lease: float, timeouts: Timeouts) -> Check:
    """Check the lease against the timeouts.

    Args:
        lease: The lease of a refresh, in seconds.
        timeouts: The timeouts of a call, in seconds.
    """
    total = timeouts.total
    if not lease > total:
        return failed(
            "lease",
            f"The lease of {lease:g} s is not longer than the total timeout of {total:g} s: two "
            "processes could present the same refresh token.",
            f"Set a lease above the total timeout and at most {LONGEST_LEASE:g} s, or shorten the "
            "total timeout.",
        )
    if lease > LONGEST_LEASE:
        return failed(
            "lease",
            f"The lease of {lease:g} s is longer than {LONGEST_LEASE:g} s, the time for which "
            "banks that allow a replay are assumed to allow it.",
            f"Set a lease of at most {LONGEST_LEASE:g} s, and a total timeout below it.",
        )
    longer = [name for name in ("connect", "read", "write") if getattr(timeouts, name) > total]
    if longer:
        return warning(
            "lease",
            f"The timeout for {' and '.join(longer)} is longer than the total timeout of "
            f"{total:g} s, which ends the call before.",
            "Shorten it, or give the call more time in total and the lease with it.",
        )
    return passed("lease", f"The lease of {lease:g} s is above the total timeout of {total:g} s.")


def receiver_checks(configuration: Configuration) -> Iterator[Check]:
    """Check the receiver of notices, without a call; without a receiver there is nothing to check.

    Args:
        configuration: The configuration of the command.
    """
    try:
        receiver = receiver_of(configuration)
        if receiver is None:
            return
        receiver.webhook()
    except CommandError as error:
        yield failed("webhook", error.what, error.do)
        return
    yield passed(
        "webhook",
        f"{receiver.origin} receives notices; secrets that sign them: {len(receiver.secrets)}.",
    )
    file = secrets_file(configuration)
    if file is not None:
        yield from private_file_check("webhook_secrets_file", file)
