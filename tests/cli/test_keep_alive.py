"""`keep-alive`: its JSON lines, its exit codes, and its output on a terminal."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime, timedelta

import pytest
from attrs import evolve

from blink_oauth_cli.errors import ExitCode
from blink_oauth_cli.keep_alive import exit_code
from blink_oauth_cli.output import parse_duration
from blink_oauth_keeper import EventName, Note, Report, State
from blink_oauth_testing.sandbox import Fault
from blink_oauth_testing.sandbox.certificates import pem
from blink_oauth_testing.sandbox.messages import oauth_error
from cli.cli_harness import (
    CLIENT,
    TARGET,
    USERNAME,
    Harness,
    plain,
    require_no_secret,
    require_two_lines,
)
from wire import certificates
from wire.certificates import DAY

IDLE_LIFETIME = 29 * 86_400.0
KEEP_ALIVE = ("keep-alive", "--within", "30d")


def report(**counts: int) -> Report:
    """Return a report in which all other counts are zero."""
    names = [
        "due",
        "refreshed",
        "failed",
        "uncertain",
        "consent_needed",
        "left",
        "unreadable",
        "revoked",
    ]
    return Report(**(dict.fromkeys(names, 0) | counts))


@pytest.mark.parametrize(
    ("counts", "customers_needed", "keys_missing", "expected"),
    [
        ({}, 0, 0, ExitCode.DONE),
        ({"due": 2, "refreshed": 2}, 0, 0, ExitCode.DONE),
        ({"failed": 1}, 0, 0, ExitCode.FAILED),
        ({"left": 1}, 0, 0, ExitCode.FAILED),
        ({"unreadable": 1}, 0, 0, ExitCode.FAILED),
        ({"unreadable": 1, "consent_needed": 1}, 1, 1, ExitCode.CONSENT_NEEDED),
        ({"revoked": 1}, 0, 0, ExitCode.DONE),
        ({}, 0, 1, ExitCode.FAILED),
        ({"uncertain": 1, "failed": 1}, 0, 1, ExitCode.UNCERTAIN),
        ({"uncertain": 1, "consent_needed": 1}, 1, 0, ExitCode.CONSENT_NEEDED),
        ({}, 1, 0, ExitCode.CONSENT_NEEDED),
        ({"attention_needed": 1}, 0, 0, ExitCode.FAILED),
    ],
)
def test_the_exit_code_depends_on_the_counts(
    counts: dict[str, int], customers_needed: int, keys_missing: int, expected: ExitCode
) -> None:
    assert exit_code(report(**counts), customers_needed, keys_missing) is expected


def test_a_grant_of_the_store_that_needs_attention_fails_the_run() -> None:
    assert exit_code(report(), 0, needing_attention=1) is ExitCode.FAILED
    assert exit_code(report(), 1, needing_attention=1) is ExitCode.CONSENT_NEEDED


def refuse_for_days(harness: Harness) -> None:
    """Store that the bank has refused the grant five times."""
    with harness.open_store() as store:
        claim = store.claim(harness.record(), owner="refused owner", ttl=25)
        assert claim is not None
        store.release(
            evolve(claim, refusals=5, refused_since=claim.issued_at),
            state=State.ACTIVE,
            attempts=0,
            pause=0,
            error="StatusError",
            note=Note(event="refresh.failed"),
        )


def test_the_report_and_the_status_show_a_grant_that_needs_attention(harness: Harness) -> None:
    harness.authorize()
    refuse_for_days(harness)
    result = harness.run("keep-alive")
    assert (result.code, json.loads(result.out)["grants_refused"]) == (ExitCode.FAILED, 1)
    assert harness.run("status", "--json").json[0]["state"] == "needs_attention"
    assert "StatusError" in harness.run("status", "--json").out


def test_a_refused_grant_that_is_due_is_counted_by_its_refusal(harness: Harness) -> None:
    harness.authorize(idle_lifetime=IDLE_LIFETIME)
    refuse_for_days(harness)
    refusal = oauth_error("invalid_request", "No.")
    harness.sandbox.fail(Fault("refused", executes=False, change=lambda _: refusal))
    last = json.loads(harness.run(*KEEP_ALIVE).out.splitlines()[-1])
    assert (last["due"], last["failed"], last["attention_needed"]) == (1, 0, 1)


def test_events_are_json_lines_without_secrets(harness: Harness) -> None:
    harness.authorize(idle_lifetime=IDLE_LIFETIME)
    secrets = harness.secrets()
    result = harness.run(*KEEP_ALIVE)
    first, last = map(json.loads, result.out.splitlines())
    assert (result.code, result.errors) == (0, "")
    assert (first["event"], first["target_id"]) == ("refresh.succeeded", TARGET)
    assert first["correlation_id"] == harness.record().correlation_id
    # In JSON as in the log, since both end in files: the fingerprint, and no username.
    assert re.fullmatch("[0-9a-f]{16}", first["grant"])
    assert USERNAME not in result.out
    assert (last["event"], last["refreshed"], last["customers_needed"]) == (
        "keep_alive.finished",
        1,
        0,
    )
    require_no_secret(result, secrets + harness.secrets())


def test_a_dry_run_sends_and_changes_nothing(harness: Harness) -> None:
    harness.authorize(idle_lifetime=IDLE_LIFETIME)
    rows, calls = harness.rows(), len(harness.sandbox.exchanges)
    result = harness.run(*KEEP_ALIVE, "--dry-run")
    assert (result.code, result.json) == (0, {"event": "keep_alive.dry_run", "due": 1})
    assert (harness.rows(), len(harness.sandbox.exchanges)) == (rows, calls)


def test_a_grant_that_is_not_due_is_not_refreshed(stored: Harness) -> None:
    calls = len(stored.sandbox.exchanges)
    assert stored.run("keep-alive").json["due"] == 0
    assert len(stored.sandbox.exchanges) == calls


@pytest.mark.parametrize(
    ("fault", "expected", "count"),
    [
        ("refused", ExitCode.CONSENT_NEEDED, "consent_needed"),
        ("too-many-requests", ExitCode.FAILED, "failed"),
        ("reset-after", ExitCode.UNCERTAIN, "uncertain"),
    ],
)
def test_a_failed_refresh_is_counted_and_sets_the_exit_code(
    harness: Harness, fault: str, expected: ExitCode, count: str
) -> None:
    harness.authorize(idle_lifetime=IDLE_LIFETIME)
    if expected is ExitCode.CONSENT_NEEDED:
        harness.sandbox.banks[TARGET].reset()
    else:
        harness.sandbox.fail(fault, operation="request_token", times=1)
    result = harness.run(*KEEP_ALIVE)
    last = json.loads(result.out.splitlines()[-1])
    assert (result.code, last[count]) == (expected, 1), result.out


def test_an_unfinished_revocation_is_shown_and_finished(stored: Harness) -> None:
    with stored.open_store() as store:
        store.mark_revoked(stored.record().key, note=Note(event=EventName.REVOKING))
    (shown,) = stored.run("status", "--json").json
    assert (shown["state"], shown["needs_consent"], shown["usable"]) == ("revoking", True, False)
    result = stored.run("keep-alive")
    last = json.loads(result.out.splitlines()[-1])
    assert (result.code, last["revoked"], last["customers_needed"]) == (0, 1, 0), result.out
    assert stored.run("status", "--json").json[0]["state"] == "revoked"


def test_a_revocation_that_fails_again_sets_the_exit_code(stored: Harness) -> None:
    with stored.open_store() as store:
        store.mark_revoked(stored.record().key, note=Note(event=EventName.REVOKING))
    stored.sandbox.fail("reset-after", operation="revoke_token", times=2)
    result = stored.run("keep-alive")
    last = json.loads(result.out.splitlines()[-1])
    assert (result.code, last["revoked"], last["failed"]) == (ExitCode.FAILED, 0, 1), result.out
    assert stored.record().state == "revoking"


def test_a_terminal_gets_a_progress_bar_and_a_sentence(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    harness.authorize(idle_lifetime=IDLE_LIFETIME)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    result = harness.run(*KEEP_ALIVE)
    shown = plain(result.out)
    assert result.code == 0
    assert re.search(r"Keeping alive .*1/1", shown)
    assert "1 due, 1 refreshed, 0 failed" in shown
    assert "{" not in shown


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("24h", 86_400), (" 10d ", 864_000)]
)
def test_a_duration_has_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "soon", "10", "0d", "-1d", "1.5h", "1w", "99999d", "²d"])
def test_an_invalid_duration_is_a_usage_error(harness: Harness, text: str) -> None:
    result = harness.run("keep-alive", f"--within={text}")
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    require_two_lines(result, "--within", "keep-alive --help")


@pytest.mark.parametrize(
    ("lifetime", "left", "expected", "stage"),
    [
        (timedelta(days=47), timedelta(days=16), ExitCode.DONE, None),
        (timedelta(days=47), timedelta(days=15), ExitCode.DONE, "renewal_due"),
        (timedelta(days=47), timedelta(days=5), ExitCode.FAILED, "urgent"),
    ],
)
def test_a_certificate_that_is_urgent_fails_the_run(
    stored: Harness,
    lifetime: timedelta,
    left: timedelta,
    expected: ExitCode,
    stage: str | None,
) -> None:
    end = datetime.now(UTC) + left
    issued = stored.sandbox.authority.issue_client(CLIENT, not_before=end - lifetime, not_after=end)
    files = issued.save(stored.folder, "new")
    stored.configure(
        certificate=str(files.chain),
        key=str(files.key),
        key_passphrase_file=str(files.passphrase),
    )
    result = stored.run("keep-alive")
    *events, last = map(json.loads, result.out.splitlines())
    assert [(each["event"], each["stage"], each["role"]) for each in events] == (
        [("certificate.expiring", stage, "client")] if stage else []
    )
    assert (result.code, last["certificates_urgent"]) == (expected, int(expected))


def test_an_authority_that_has_expired_fails_the_run(stored: Harness) -> None:
    now = datetime.now(UTC)
    expired = certificates.intermediate(
        stored.sandbox.authority, not_before=now - 400 * DAY, not_after=now - DAY
    )
    (stored.folder / "ca.pem").write_bytes(pem(expired))
    stored.configure(ca="ca.pem")
    result = stored.run("keep-alive")
    event, last = map(json.loads, result.out.splitlines())
    assert (event["stage"], event["role"]) == ("expired", "authority")
    assert (result.code, last["certificates_urgent"]) == (ExitCode.FAILED, 1)


def test_a_client_certificate_that_has_expired_before_the_start_is_refused(stored: Harness) -> None:
    files = certificates.expired(stored.sandbox.authority).save(stored.folder, "new")
    stored.configure(
        certificate=str(files.chain),
        key=str(files.key),
        key_passphrase_file=str(files.passphrase),
    )
    result = stored.run("keep-alive")
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    assert "expired" in result.errors


def test_an_urgent_certificate_counts_less_than_an_uncertain_refresh() -> None:
    assert exit_code(report(), 0, urgent_certificates=1) is ExitCode.FAILED
    assert exit_code(report(uncertain=1), 0, urgent_certificates=1) is ExitCode.UNCERTAIN
    assert exit_code(report(), 1, urgent_certificates=1) is ExitCode.CONSENT_NEEDED
