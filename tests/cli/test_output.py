"""The output on pipes and on terminals of 80 columns, colours, and shell completion."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from blink_oauth import Token
from blink_oauth_cli.errors import ExitCode, to_command_error
from blink_oauth_cli.main import run
from blink_oauth_cli.output import Screen
from blink_oauth_keeper.errors import UnknownGrantError
from cli.cli_harness import ESCAPE, GRANT, Harness, plain, require_no_secret

COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|9[0-7]|4[0-8]|10[0-7])(?:;\d+)*m")
SHELLS = [shell for shell in ("bash", "zsh", "fish") if shutil.which(shell)]
PRINTING = [
    ("token",),
    ("token", "--json"),
    ("status",),
    ("status", "--json"),
    ("history",),
    ("history", "--json"),
    ("keep-alive",),
    ("doctor",),
    ("doctor", "--json"),
]


def pretend_terminal(harness: Harness, columns: int = 80) -> None:
    """Make standard output look like a terminal."""
    harness.monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    harness.monkeypatch.setenv("TERM", "xterm-256color")
    harness.monkeypatch.setenv("COLUMNS", str(columns))


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_a_pipe_gets_unbroken_lines_and_no_escapes(stored: Harness, words: tuple[str, ...]) -> None:
    stored.monkeypatch.setenv("COLUMNS", "80")
    result = stored.run(*words)
    assert result.code == 0
    assert ESCAPE not in result.out + result.errors
    require_no_secret(result, stored.secrets())
    if "--json" in words:
        assert result.json
    elif words in {("status",), ("history",)}:
        heading, line, *older = result.out.splitlines()
        assert heading.split()[-2:] == ["Correlation", "id"]
        assert len(older) == (words == ("history",))
        assert line.split()[-1] == stored.record().correlation_id


@pytest.mark.parametrize("command", ["status", "history"])
def test_a_table_fits_80_columns_and_cuts_nothing(stored: Harness, command: str) -> None:
    pretend_terminal(stored)
    heading, *lines = plain(stored.run(command).out).splitlines()
    assert max(map(len, [heading, *lines])) <= 80
    last = heading.index("Correlation")
    correlation_id = stored.record().correlation_id
    assert correlation_id is not None
    assert correlation_id in "".join(line[last:].strip() for line in lines)
    assert "…" not in "".join(lines)


@pytest.mark.parametrize("switched_off_by", ["variable", "flag", None])
def test_colours_can_be_switched_off(stored: Harness, switched_off_by: str | None) -> None:
    pretend_terminal(stored)
    if switched_off_by == "variable":
        stored.monkeypatch.setenv("NO_COLOR", "1")
    flags = ["--no-color"] if switched_off_by == "flag" else []
    for command in ("status", "doctor"):
        result = stored.run(command, *flags)
        assert result.code == 0
        assert bool(COLOUR.search(result.out)) is (switched_off_by is None)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_parses_its_completion_script(harness: Harness, shell: str) -> None:
    script = harness.run("completion", shell)
    assert script.code == 0
    done = subprocess.run(
        [shell, "-n"], input=script.out, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_bash_is_installed() -> None:
    assert "bash" in SHELLS


@pytest.mark.parametrize(
    ("words", "index", "expected"),
    [
        ("blink-oauth sta", "1", ["status"]),
        ("blink-oauth ke", "1", ["keep-alive", "keys"]),
        ("blink-oauth keys ", "2", ["add", "drop", "generate", "seal", "wrap"]),
        ("blink-oauth token --rev", "2", ["--reveal"]),
    ],
)
def test_words_are_completed(harness: Harness, words: str, index: str, expected: list[str]) -> None:
    harness.monkeypatch.setenv("_BLINK_OAUTH_COMPLETE", "bash_complete")
    harness.monkeypatch.setenv("COMP_WORDS", words)
    harness.monkeypatch.setenv("COMP_CWORD", index)
    with pytest.raises(SystemExit):
        run(())
    offered = [line.partition(",")[2] for line in harness.capture.readouterr().out.splitlines()]
    assert offered == expected


def test_no_log_line_precedes_the_two_lines_of_an_error(stored: Harness) -> None:
    stored.configure(base_url="https://localhost:1/consent-flow/v2")
    done = subprocess.run(
        [sys.executable, "-m", "blink_oauth_cli", "refresh"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.FAILED
    what, do = done.stderr.splitlines()
    assert (what[:7], do[:2]) == ("Error: ", "→ ")


def test_ascii_output_does_not_fail_the_command(harness: Harness) -> None:
    harness.clear()
    done = subprocess.run(
        [sys.executable, "-m", "blink_oauth_cli", "doctor"],
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == ExitCode.FAILED
    assert "FAIL configuration:" in done.stdout
    assert done.stderr == ""


def test_the_remedy_for_an_unknown_grant_is_a_login() -> None:
    error = to_command_error(UnknownGrantError("Nothing is stored."))
    assert error.code is ExitCode.NOT_STORED
    assert error.do.startswith("Log in first")


def token_that_has_expired(harness: Harness) -> None:
    two_days_later = datetime.now(UTC) + timedelta(days=2)
    harness.monkeypatch.setattr("blink_oauth.tokens.utc_now", lambda: two_days_later)


def token_without_expiry(harness: Harness) -> None:
    harness.sandbox.fail("missing-expires-in")


@pytest.mark.parametrize("command", ["login", "refresh"])
@pytest.mark.parametrize(
    ("prepare", "phrase"),
    [
        (lambda _: None, "the access token expires in 23 h 59 min."),
        (token_that_has_expired, "the access token has expired."),
        (token_without_expiry, "the access token has no known expiry."),
    ],
)
def test_a_sentence_says_when_the_token_expires(
    harness: Harness, command: str, prepare: Callable[[Harness], None], phrase: str
) -> None:
    words = ["refresh"]
    if command == "login":
        code = harness.sandbox.issue_code(harness.sandbox.grant())
        words = ["login", "--code", code, "--redirect-uri", harness.sandbox.redirect_uri]
    else:
        harness.authorize()
    prepare(harness)
    result = harness.run(*words)
    assert result.code == 0, result.errors
    (line,) = result.out.splitlines()
    assert line.lower().endswith(phrase)


def test_a_note_is_written_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that print at the same time do not run their lines together."""
    writes: list[str] = []
    monkeypatch.setattr(sys.stderr, "write", writes.append)
    Screen().note("fake-note", "https://bank.example/")
    assert writes == ["fake-note\nhttps://bank.example/\n"]


NOT_PUBLIC = "This machine has no public address, so the bank is told AUTO"


@pytest.mark.parametrize(
    ("own", "given", "sent", "noted"),
    [
        ("AUTO", None, "AUTO", True),
        ("8.8.8.8", None, "8.8.8.8", False),
        ("AUTO", "AUTO", "AUTO", False),
        ("8.8.8.8", "192.168.1.5", "192.168.1.5", False),
    ],
)
def test_a_login_says_if_it_sends_no_address_of_the_customer(
    harness: Harness, own: str, given: str | None, sent: str, noted: bool
) -> None:
    addresses = []

    def log_in(*_: object, psu_ip: str, **__: object) -> Token:
        addresses.append(psu_ip)
        return Token(access_token="fake-access-token")

    harness.monkeypatch.setattr("blink_oauth_cli.login_flow.own_address", lambda base_url: own)
    harness.monkeypatch.setattr("blink_oauth_cli.login_flow.log_in", log_in)
    result = harness.run("login", *(["--psu-ip", given] if given else []))
    assert (result.code, addresses) == (0, [sent])
    assert (NOT_PUBLIC in result.errors) is noted
    assert ("--psu-ip" in result.errors) is noted


def test_an_unexpected_error_shows_its_class_and_not_its_text(
    stored: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("fake-secret-in-a-message")

    monkeypatch.setattr("blink_oauth_cli.app.open_store", fail)
    result = stored.run("history", GRANT)
    assert result.code == ExitCode.FAILED
    assert result.errors.splitlines()[0] == "Error: Something unexpected: RuntimeError."
    assert "fake-secret" not in result.errors
