"""A look changes nothing and spends nothing, and says so where it could not be taken."""

from __future__ import annotations

import shutil
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from blink_oauth.headers import Probe
from blink_oauth_cli import checks_store as storage
from blink_oauth_cli.check import Check, Level, doubtful, failed, passed
from blink_oauth_cli.checks_network import clock_check
from blink_oauth_cli.doctor import examine
from blink_oauth_keeper import MemoryTokenStore
from blink_oauth_keeper.errors import StoreError
from cli.doctor.harness import HURRY, KEY, OTHER_KEY, Harness
from cli.doctor.server import Manners, lenient_server
from wire.loopback import server_that

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def not_ok(checks: dict[str, Check]) -> set[str]:
    """Return the names of the checks that are not OK."""
    return {check.name for check in checks.values() if check.level is not Level.OK}


def test_what_is_wrong_has_a_remedy_and_what_is_right_has_none() -> None:
    assert passed("a", "b") == Check("a", Level.OK, "b", None)
    assert doubtful("a", "b", "c") == Check("a", Level.WARN, "b", "c")
    assert failed("a", "b", "c") == Check("a", Level.FAIL, "b", "c")
    for level, remedy in [(Level.OK, "c"), (Level.WARN, None), (Level.FAIL, None)]:
        with pytest.raises(ValueError, match="a remedy belongs to"):
            Check("a", level, "b", remedy)


def test_the_platform_sees_one_look_and_one_made_up_token(harness: Harness) -> None:
    checks = harness.checks()
    look, call = harness.sandbox.exchanges
    assert (look.method, look.status, look.executed) == ("GET", 405, False)
    assert (call.operation, call.status) == ("revoke_token", 200)
    assert "nothing can be spent" in checks["call"].finding


def test_without_a_target_no_call_is_made(harness: Harness) -> None:
    checks = harness.checks(target_id=None)
    assert len(harness.sandbox.exchanges) == 1
    assert "headers" not in checks


def test_the_store_is_left_as_it_was(harness: Harness) -> None:
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


def test_a_store_that_is_not_there_yet_is_not_made(harness: Harness) -> None:
    path = harness.folder / "later" / "tokens.db"

    def open_store() -> MemoryTokenStore:
        raise AssertionError("it was opened")

    checks = harness.checks(store_path=path, open_store=open_store)
    assert not path.parent.exists()
    assert not_ok(checks) == set()
    assert "the first login creates" in checks["store"].finding
    path.parent.mkdir()
    path.touch(mode=0o600)
    assert harness.checks(store_path=path, open_store=open_store)["store"] == checks["store"]
    assert path.stat().st_size == 0


def test_a_store_that_is_no_file_has_no_line_for_one(harness: Harness) -> None:
    checks = harness.checks(store_path=None, open_store=MemoryTokenStore)
    assert not_ok(checks) == set()
    assert "store_file" not in checks
    assert "all 0 tokens" in checks["store_keys"].finding


def test_every_page_of_the_store_is_read(harness: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    harness.fill_store(OTHER_KEY, KEY, username="u-4712")
    monkeypatch.setattr(storage, "PAGE", 1)
    checks = harness.checks()
    assert checks["store_keys"].finding.startswith("1 of 2 tokens cannot be opened")
    healed = harness.checks(open_store=harness.opening(KEY, OTHER_KEY))
    assert healed["store_keys"].level is Level.WARN
    assert healed["store_keys"].finding.startswith("1 stored tokens")


def test_a_store_that_fails_while_its_keys_are_counted_is_told(harness: Harness) -> None:
    class Failing(MemoryTokenStore):
        def count_older_seals(self) -> int:
            raise StoreError("It failed (OperationalError, SQLITE_FULL).")

    checks = harness.checks(open_store=Failing)
    assert not_ok(checks) == {"store_keys"}
    assert checks["store_keys"].remedy == "Make room on the disk."


def test_a_file_of_keys_that_is_its_owners_alone_is_ok(harness: Harness) -> None:
    path = harness.folder / "tokens.db.keys"
    assert "store_keys_file" not in harness.checks(keys_file=path)
    path.touch(mode=0o600)
    assert harness.checks(keys_file=path)["store_keys_file"].level is Level.OK


@pytest.mark.parametrize(("free", "level"), [(40_000_000, Level.WARN), (10**9, Level.OK)])
def test_the_room_on_the_disk_is_that_of_the_disk(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, free: int, level: Level
) -> None:
    usage = shutil.disk_usage(harness.folder)
    asked: list[Path] = []

    def disk_usage(folder: Path) -> object:
        asked.append(folder)
        return usage._replace(free=free)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    checks = examine(
        harness.settings(),
        environment="test",
        target_id=None,
        username=None,
        lease=25.0,
        open_store=MemoryTokenStore,
        store_path=harness.path,
    )
    assert {check.name: check.level for check in checks}["store_file"] is level
    assert asked == [harness.folder]


@pytest.mark.parametrize("ending", ["-wal", "-shm"])
def test_what_lies_beside_the_store_is_looked_at_too(harness: Harness, ending: str) -> None:
    beside = harness.path.with_name(f"tokens.db{ending}")
    beside.touch()
    beside.chmod(0o640)
    remedy = harness.checks(open_store=MemoryTokenStore)["store_file"].remedy
    assert remedy == f"chmod 600 {beside}"


def test_a_folder_that_others_may_write_to_is_told(harness: Harness) -> None:
    harness.folder.chmod(0o755)
    assert not_ok(harness.checks()) == set()
    harness.folder.chmod(0o777)
    assert harness.checks()["store_file"].remedy == f"chmod go-w {harness.folder}"


def test_plain_http_is_told(harness: Harness) -> None:
    manners = Manners(source="PLATFORM")
    with lenient_server(harness.sandbox.authority, harness.folder, manners, secure=False) as url:
        settings = harness.settings(base_url=url, allow_plain_http=True, certificate=None)
        checks = harness.checks(settings=settings)
    assert not_ok(checks) == {"certificate", "without_certificate"}
    assert {check.level for check in checks.values()} == {Level.OK, Level.WARN}


def test_a_refusal_by_the_bank_proves_the_way_to_it(harness: Harness) -> None:
    manners = Manners(source="PROVIDER", status=400, body=b'{"error": "unsupported_token_type"}')
    with lenient_server(harness.sandbox.authority, harness.folder, manners) as url:
        checks = harness.checks(settings=harness.settings(base_url=url))
    assert not_ok(checks) == {"without_certificate"}
    assert "400, unsupported_token_type" in checks["call"].finding


def test_the_refusal_of_a_server_without_a_certificate_is_ok(harness: Harness) -> None:
    manners = Manners(lambda certified: 405 if certified else 400, source="PLATFORM")
    with lenient_server(harness.sandbox.authority, harness.folder, manners) as url:
        checks = harness.checks(settings=harness.settings(base_url=url))
    assert not_ok(checks) == set()
    assert "the server answers 400" in checks["without_certificate"].finding


def test_a_server_that_hangs_up_is_told(harness: Harness) -> None:
    with server_that(lambda connection: None) as url:
        checks = harness.checks(settings=harness.settings(base_url=url, timeouts=HURRY))
    assert "hung up" in checks["reachable"].finding
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
def test_the_clocks_may_differ_by_a_little(seconds: float, level: str, direction: int) -> None:
    took, counted = timedelta(seconds=15), timedelta(seconds=1)
    off = timedelta(seconds=seconds)
    before = NOW + counted + off if direction > 0 else NOW - took - off
    check = clock_check(Probe(status=405, date=NOW, before=before, after=before + took))
    assert check.level == level
    if level != "ok":
        assert ("ahead of" if direction > 0 else "behind") in check.finding


def test_a_slow_answer_is_no_wrong_clock() -> None:
    long = timedelta(minutes=5)
    answer = Probe(status=405, date=NOW, before=NOW - long, after=NOW + long)
    assert clock_check(answer) == passed("clock", "It agrees with the server's to 0 s.")


def test_no_passphrase_is_shown_by_a_harness_that_watches_for_it(
    harness: Harness, tmp_path: Path
) -> None:
    certificate = harness.sandbox.client_certificate()
    assert certificate.passphrase is not None
    path = tmp_path / certificate.passphrase.reveal()
    with pytest.raises(AssertionError):
        harness.checks(settings=harness.sandbox.settings(), store_path=path)
