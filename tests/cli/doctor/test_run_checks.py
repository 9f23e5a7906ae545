"""The checks change and spend nothing, and report which of them could not be made."""

from __future__ import annotations

import os
import shutil
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path, PosixPath
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import NoEncryption, pkcs12

from blink_oauth import Pkcs12Certificate
from blink_oauth.headers import Probe
from blink_oauth_cli import checks_store as storage
from blink_oauth_cli.check import Check, Level, failed, passed, warning
from blink_oauth_cli.checks_local import (
    certificate_checks,
    private_file_check,
    settings_without_certificate,
)
from blink_oauth_cli.checks_network import clock_check
from blink_oauth_cli.doctor import run_checks
from blink_oauth_keeper import MemoryTokenStore
from blink_oauth_keeper.errors import StoreError
from blink_oauth_keeper.store.outbox import NewNotice, NoticeKind
from cli.doctor.harness import CLIENT, KEY, OTHER_KEY, SHORT_TIMEOUTS, Harness
from cli.doctor.server import ServerBehaviour, optional_mtls_server
from wire.loopback import server_that

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def not_ok(checks: dict[str, Check]) -> set[str]:
    """Return the names of the checks that are not OK."""
    return {check.name for check in checks.values() if check.level is not Level.OK}


def test_a_check_has_a_remedy_unless_it_is_ok() -> None:
    assert passed("a", "b") == Check("a", Level.OK, "b", None)
    assert warning("a", "b", "c") == Check("a", Level.WARN, "b", "c")
    assert failed("a", "b", "c") == Check("a", Level.FAIL, "b", "c")
    for level, remedy in [(Level.OK, "c"), (Level.WARN, None), (Level.FAIL, None)]:
        with pytest.raises(ValueError, match="every level needs a remedy, except OK"):
            Check("a", level, "b", remedy)


def test_the_platform_receives_one_probe_and_one_made_up_token(harness: Harness) -> None:
    checks = harness.checks()
    probe, call = harness.sandbox.exchanges
    assert (probe.method, probe.status, probe.executed) == ("GET", 405, False)
    assert (call.operation, call.status) == ("revoke_token", 200)
    assert "nothing can be spent" in checks["call"].finding


def test_without_a_target_no_call_is_made(harness: Harness) -> None:
    checks = harness.checks(target_id=None)
    assert len(harness.sandbox.exchanges) == 1
    assert "headers" not in checks


def test_the_store_is_not_changed(harness: Harness) -> None:
    def rows() -> list[object]:
        with harness.engine().connect() as connection:
            names = ("grants", "history", "journal", "schema")
            return [
                tuple(connection.exec_driver_sql(f"SELECT * FROM blink_oauth_{name}").all())
                for name in names
            ]

    before = rows()
    harness.checks()
    assert rows() == before


def test_a_missing_store_is_not_created(harness: Harness) -> None:
    path = harness.folder / "later" / "tokens.db"

    def open_store() -> MemoryTokenStore:
        raise AssertionError("the store was opened")

    checks = harness.checks(store_path=path, open_store=open_store)
    assert not path.parent.exists()
    assert not_ok(checks) == {"store"}
    assert checks["store"].level is Level.WARN
    assert "the first login creates" in checks["store"].finding
    path.parent.mkdir()
    path.touch(mode=0o600)
    assert harness.checks(store_path=path, open_store=open_store)["store"] == checks["store"]
    assert path.stat().st_size == 0


def test_a_store_that_is_not_a_file_has_no_file_check(harness: Harness) -> None:
    checks = harness.checks(store_path=None, open_store=MemoryTokenStore)
    assert not_ok(checks) == set()
    assert "store_file" not in checks
    assert "all 0 records" in checks["store_keys"].finding


def test_all_pages_of_the_store_are_read(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.fill_store(OTHER_KEY, KEY, username="u-4712")
    monkeypatch.setattr(storage, "PAGE", 1)
    checks = harness.checks()
    assert checks["store_keys"].finding.startswith("1 of 2 records cannot be opened")
    repaired = harness.checks(open_store=harness.open_store_with(KEY, OTHER_KEY))
    assert repaired["store_keys"].level is Level.WARN
    assert repaired["store_keys"].finding.startswith("1 stored tokens")


def test_a_store_error_during_the_keys_check_is_reported(harness: Harness) -> None:
    class Failing(MemoryTokenStore):
        def count_older_seals(self) -> int:
            raise StoreError("It failed (OperationalError, SQLITE_FULL).")

    checks = harness.checks(open_store=Failing)
    assert not_ok(checks) == {"store_keys"}
    assert checks["store_keys"].remedy == "Make room on the disk."


@pytest.mark.parametrize(("hours", "late"), [(0.9, 0), (1.1, 2)])
def test_notices_that_nothing_delivers_for_an_hour_are_reported(hours: float, late: int) -> None:
    store = MemoryTokenStore(clock=lambda: NOW)
    for name in ("a", "b"):
        notice = NewNotice(kind=NoticeKind.EXPIRING)
        store.add_certificate_notice(CLIENT, name, 1, notice)
    checks = storage.storage_checks(
        CLIENT,
        lambda: store,
        path=None,
        keys_file=None,
        new_name=lambda: "fake-name",
        free_bytes=lambda _: 0,
        now=NOW + timedelta(hours=hours),
    )
    found = [check.finding for check in checks if check.name == "store_notices"]
    shown = f"Notices that are not delivered: {late} are older than an hour, 0 are dead."
    assert found == ([shown] if late else [])


def test_a_private_keys_file_is_ok(harness: Harness) -> None:
    path = harness.folder / "tokens.db.keys"
    assert "store_keys_file" not in harness.checks(keys_file=path)
    path.touch(mode=0o600)
    assert harness.checks(keys_file=path)["store_keys_file"].level is Level.OK


@pytest.mark.parametrize(("free", "level"), [(40_000_000, Level.WARN), (10**9, Level.OK)])
def test_the_free_space_is_that_of_the_stores_disk(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, free: int, level: Level
) -> None:
    usage = shutil.disk_usage(harness.folder)
    folders: list[Path] = []

    def disk_usage(folder: Path) -> object:
        folders.append(folder)
        return usage._replace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    checks = run_checks(
        harness.settings(),
        environment="test",
        target_id=None,
        username=None,
        lease=25.0,
        open_store=MemoryTokenStore,
        store_path=harness.path,
    )
    assert {check.name: check.level for check in checks}["store_file"] is level
    assert folders == [harness.folder]


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
def test_the_permissions_of_sqlites_other_files_are_checked(harness: Harness, suffix: str) -> None:
    other_file = harness.path.with_name(f"tokens.db{suffix}")
    other_file.touch()
    other_file.chmod(0o640)
    remedy = harness.checks(open_store=MemoryTokenStore)["store_file"].remedy
    assert remedy == f"chmod 600 {other_file}"


def test_a_world_writable_folder_is_reported(harness: Harness) -> None:
    harness.folder.chmod(0o755)
    assert not_ok(harness.checks()) == set()
    harness.folder.chmod(0o777)
    assert harness.checks()["store_file"].remedy == f"chmod go-w {harness.folder}"


def test_plain_http_is_reported(harness: Harness) -> None:
    behaviour = ServerBehaviour(source="PLATFORM")
    with optional_mtls_server(
        harness.sandbox.authority, harness.folder, behaviour, secure=False
    ) as url:
        settings = harness.settings(base_url=url, allow_plain_http=True, certificate=None)
        checks = harness.checks(settings=settings)
    assert not_ok(checks) == {"certificate", "without_certificate"}
    assert {check.level for check in checks.values()} == {Level.OK, Level.WARN}


def test_a_refusal_by_the_bank_proves_that_the_bank_is_reached(harness: Harness) -> None:
    behaviour = ServerBehaviour(
        source="PROVIDER", status=400, body=b'{"error": "unsupported_token_type"}'
    )
    with optional_mtls_server(harness.sandbox.authority, harness.folder, behaviour) as url:
        checks = harness.checks(settings=harness.settings(base_url=url))
    assert not_ok(checks) == {"without_certificate"}
    assert "400, unsupported_token_type" in checks["call"].finding


def test_a_server_that_refuses_a_request_without_a_certificate_is_ok(harness: Harness) -> None:
    behaviour = ServerBehaviour(lambda certified: 405 if certified else 400, source="PLATFORM")
    with optional_mtls_server(harness.sandbox.authority, harness.folder, behaviour) as url:
        checks = harness.checks(settings=harness.settings(base_url=url))
    assert not_ok(checks) == set()
    assert "the server answers 400" in checks["without_certificate"].finding


def test_a_server_that_closes_the_connection_is_reported(harness: Harness) -> None:
    with server_that(lambda connection: None) as url:
        checks = harness.checks(settings=harness.settings(base_url=url, timeouts=SHORT_TIMEOUTS))
    assert "closed the connection without a response" in checks["reachable"].finding
    assert checks["reachable"].level is Level.FAIL


def test_a_context_that_verifies_nothing_is_refused(harness: Harness) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    checks = harness.checks(settings=harness.settings(certificate=context))
    assert "must verify the server" in checks["reachable"].finding
    assert checks["reachable"].level is Level.FAIL


@pytest.mark.parametrize(
    ("seconds", "level"),
    [(0, "ok"), (4.9, "ok"), (5, "warn"), (59.9, "warn"), (60, "fail"), (7200, "fail")],
)
@pytest.mark.parametrize("direction", [-1, 1])
def test_the_level_depends_on_the_clock_difference(
    seconds: float, level: str, direction: int
) -> None:
    duration, precision = timedelta(seconds=15), timedelta(seconds=1)
    difference = timedelta(seconds=seconds)
    before = NOW + precision + difference if direction > 0 else NOW - duration - difference
    check = clock_check(Probe(status=405, date=NOW, before=before, after=before + duration))
    assert check.level == level
    if level != "ok":
        assert ("ahead of" if direction > 0 else "behind") in check.finding


def test_a_pkcs12_file_is_checked_as_pem_files_are(harness: Harness, tmp_path: Path) -> None:
    credentials, ca = harness.sandbox.authority.issue_client("c"), tmp_path / "ca.pem"
    ca.write_bytes(harness.sandbox.authority.root_pem)
    path = tmp_path / "client.p12"
    key: Any = credentials.key
    path.write_bytes(
        pkcs12.serialize_key_and_certificates(
            None, key, credentials.certificate, credentials.issuers, NoEncryption()
        )
    )
    path.chmod(0o644)
    settings = harness.settings(certificate=Pkcs12Certificate(path, ca=ca))
    checks = {check.name: check for check in certificate_checks(settings, now=datetime.now(UTC))}
    assert not_ok(checks) == {"key_file"}
    assert settings_without_certificate(settings) is not None


class FileOfRoot(PosixPath):
    """A file that looks as if root owned it."""

    def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
        """Return the status with root as the owner."""
        status = list(super().stat(follow_symlinks=follow_symlinks))
        status[4] = 0
        return os.stat_result(status)


@pytest.mark.parametrize(
    ("mode", "user", "level"),
    [
        (0o400, 10_001, Level.OK),
        # A credential of systemd; a file of a Secret under `fsGroup`.
        (0o440, 10_001, Level.OK),
        (0o640, 10_001, Level.OK),
        (0o660, 10_001, Level.WARN),
        (0o444, 10_001, Level.WARN),
        # It is this process's own file, so others are in the group.
        (0o440, 0, Level.WARN),
    ],
)
def test_a_key_of_root_may_be_readable_for_the_group_of_a_process_that_is_not_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, user: int, level: Level
) -> None:
    path = FileOfRoot(tmp_path / "client.key")
    path.write_text("fake")
    path.chmod(mode)
    monkeypatch.setattr(os, "geteuid", lambda: user)
    (check,) = private_file_check("key_file", path)
    assert check.level is level


def test_the_authorities_of_a_function_s_context_are_trusted(harness: Harness) -> None:
    context = harness.settings().ssl_context()
    settings = harness.settings(certificate=lambda: context)
    (check,) = certificate_checks(settings, now=NOW)
    assert "cannot be looked into" in check.finding
    without = settings_without_certificate(settings)
    assert without is not None
    assert without.ssl_context().get_ca_certs() == context.get_ca_certs() != []


def test_a_slow_response_is_no_clock_difference() -> None:
    long = timedelta(minutes=5)
    probe = Probe(status=405, date=NOW, before=NOW - long, after=NOW + long)
    assert clock_check(probe) == passed("clock", "It agrees with the server's to 0 s.")


def test_the_harness_fails_if_a_check_shows_the_passphrase(
    harness: Harness, tmp_path: Path
) -> None:
    certificate = harness.sandbox.client_certificate()
    assert certificate.passphrase is not None
    path = tmp_path / certificate.passphrase.reveal()
    with pytest.raises(AssertionError):
        harness.checks(settings=harness.sandbox.settings(), store_path=path)
