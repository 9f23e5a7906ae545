"""The job that keeps idle grants alive: its lines, its exit codes, and what a person sees."""

from __future__ import annotations

import json
import re
import sys

import pytest

from blink_oauth_cli.errors import ExitCode
from blink_oauth_cli.keep_alive import exit_code
from blink_oauth_cli.output import parse_duration
from blink_oauth_keeper import Report
from cli.cli_harness import TARGET, Desk, plain, require_no_secret, require_two_lines

SOON = 29 * 86_400.0
DUE = ("keep-alive", "--within", "30d")


def report(**counts: int) -> Report:
    """Return a report in which the rest is zero."""
    names = ("due", "refreshed", "failed", "uncertain", "consent_needed", "left")
    return Report(**(dict.fromkeys(names, 0) | counts))


@pytest.mark.parametrize(
    ("counts", "needy", "sealed", "expected"),
    [
        ({}, 0, 0, ExitCode.DONE),
        ({"due": 2, "refreshed": 2}, 0, 0, ExitCode.DONE),
        ({"failed": 1}, 0, 0, ExitCode.FAILED),
        ({"left": 1}, 0, 0, ExitCode.FAILED),
        ({}, 0, 1, ExitCode.FAILED),
        ({"uncertain": 1, "failed": 1}, 0, 1, ExitCode.UNCERTAIN),
        ({"uncertain": 1, "consent_needed": 1}, 1, 0, ExitCode.PERSON_NEEDED),
        ({}, 1, 0, ExitCode.PERSON_NEEDED),
    ],
)
def test_the_exit_code_says_what_is_needed(
    counts: dict[str, int], needy: int, sealed: int, expected: ExitCode
) -> None:
    assert exit_code(report(**counts), needy, sealed) is expected


def test_events_are_lines_of_json_without_secrets(desk: Desk) -> None:
    desk.authorize(idle_lifetime=SOON)
    secrets = desk.secrets()
    seen = desk.run(*DUE)
    first, last = map(json.loads, seen.out.splitlines())
    assert (seen.code, seen.errors) == (0, "")
    assert (first["event"], first["target_id"]) == ("refresh.succeeded", TARGET)
    assert first["correlation_id"] == desk.record().correlation_id
    assert (last["event"], last["refreshed"], last["customers_needed"]) == (
        "keep_alive.finished",
        1,
        0,
    )
    require_no_secret(seen, secrets + desk.secrets())


def test_a_dry_run_sends_and_changes_nothing(desk: Desk) -> None:
    desk.authorize(idle_lifetime=SOON)
    rows, calls = desk.rows(), len(desk.sandbox.exchanges)
    seen = desk.run(*DUE, "--dry-run")
    assert (seen.code, seen.json) == (0, {"event": "keep_alive.dry_run", "due": 1})
    assert (desk.rows(), len(desk.sandbox.exchanges)) == (rows, calls)


def test_what_is_not_due_is_left_alone(stored: Desk) -> None:
    calls = len(stored.sandbox.exchanges)
    assert stored.run("keep-alive").json["due"] == 0
    assert len(stored.sandbox.exchanges) == calls


@pytest.mark.parametrize(
    ("fault", "expected", "count"),
    [
        ("refused", ExitCode.PERSON_NEEDED, "consent_needed"),
        ("too-many-requests", ExitCode.FAILED, "failed"),
        ("reset-after", ExitCode.UNCERTAIN, "uncertain"),
    ],
)
def test_a_failed_refresh_is_counted_and_told(
    desk: Desk, fault: str, expected: ExitCode, count: str
) -> None:
    desk.authorize(idle_lifetime=SOON)
    if expected is ExitCode.PERSON_NEEDED:
        desk.sandbox.banks[TARGET].reset()
    else:
        desk.sandbox.fail(fault, operation="request_token", times=1)
    seen = desk.run(*DUE)
    last = json.loads(seen.out.splitlines()[-1])
    assert (seen.code, last[count]) == (expected, 1), seen.out


def test_a_person_sees_progress_and_a_sentence(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.authorize(idle_lifetime=SOON)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    seen = desk.run(*DUE)
    shown = plain(seen.out)
    assert seen.code == 0
    assert re.search(r"Keeping alive .*1/1", shown)
    assert "1 due, 1 refreshed, 0 failed" in shown
    assert "{" not in shown


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("15m", 900), ("24h", 86_400), (" 10d ", 864_000)]
)
def test_a_length_of_time_has_a_unit(text: str, seconds: int) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "soon", "10", "0d", "-1d", "1.5h", "1w", "99999d", "²d"])
def test_what_is_no_length_of_time_is_refused_before_anything_is_sent(
    desk: Desk, text: str
) -> None:
    seen = desk.run("keep-alive", f"--within={text}")
    assert (seen.code, seen.out) == (ExitCode.USAGE, "")
    require_two_lines(seen, "--within", "keep-alive --help")
