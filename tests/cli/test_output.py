"""What is printed where: pipes, terminals of 80 columns, no colours, shells that complete."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys

import pytest

from blink_oauth_cli.errors import ExitCode, trouble_with
from blink_oauth_cli.main import run
from blink_oauth_keeper.errors import UnknownGrantError
from cli.cli_harness import ESCAPE, GRANT, Desk, plain, require_no_secret

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


def on_a_terminal(desk: Desk, columns: int = 80) -> None:
    """Let the command believe that it prints to a terminal."""
    desk.monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    desk.monkeypatch.setenv("TERM", "xterm-256color")
    desk.monkeypatch.setenv("COLUMNS", str(columns))


@pytest.mark.parametrize("words", PRINTING, ids=" ".join)
def test_a_pipe_gets_whole_lines_and_no_escapes(stored: Desk, words: tuple[str, ...]) -> None:
    stored.monkeypatch.setenv("COLUMNS", "80")
    seen = stored.run(*words)
    assert seen.code == 0
    assert ESCAPE not in seen.out + seen.errors
    require_no_secret(seen, stored.secrets())
    if "--json" in words:
        assert seen.json
    elif words in {("status",), ("history",)}:
        heading, line = seen.out.splitlines()
        assert heading.split()[-2:] == ["Correlation", "id"]
        assert line.split()[-1] == stored.record().correlation_id


@pytest.mark.parametrize("command", ["status", "history"])
def test_eighty_columns_cut_nothing(stored: Desk, command: str) -> None:
    on_a_terminal(stored)
    heading, *lines = plain(stored.run(command).out).splitlines()
    assert max(map(len, [heading, *lines])) <= 80
    last = heading.index("Correlation")
    correlation_id = stored.record().correlation_id
    assert correlation_id is not None
    assert correlation_id in "".join(line[last:].strip() for line in lines)
    assert "…" not in "".join(lines)


@pytest.mark.parametrize("without", ["variable", "flag", None])
def test_colours_can_be_switched_off(stored: Desk, without: str | None) -> None:
    on_a_terminal(stored)
    if without == "variable":
        stored.monkeypatch.setenv("NO_COLOR", "1")
    flags = ["--no-color"] if without == "flag" else []
    for command in ("status", "doctor"):
        seen = stored.run(command, *flags)
        assert seen.code == 0
        assert bool(COLOUR.search(seen.out)) is (without is None)


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_takes_its_completion(desk: Desk, shell: str) -> None:
    script = desk.run("completion", shell)
    assert script.code == 0
    done = subprocess.run(
        [shell, "-n"], input=script.out, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_bash_is_among_the_shells() -> None:
    assert "bash" in SHELLS


@pytest.mark.parametrize(
    ("words", "index", "expected"),
    [
        ("blink-oauth sta", "1", ["status"]),
        ("blink-oauth ke", "1", ["keep-alive", "keys"]),
        ("blink-oauth keys ", "2", ["generate", "rotate"]),
        ("blink-oauth token --rev", "2", ["--reveal"]),
    ],
)
def test_words_are_completed(desk: Desk, words: str, index: str, expected: list[str]) -> None:
    desk.monkeypatch.setenv("_BLINK_OAUTH_COMPLETE", "bash_complete")
    desk.monkeypatch.setenv("COMP_WORDS", words)
    desk.monkeypatch.setenv("COMP_CWORD", index)
    with pytest.raises(SystemExit):
        run(())
    offered = [line.partition(",")[2] for line in desk.capture.readouterr().out.splitlines()]
    assert offered == expected


def test_an_encoding_without_arrows_ends_no_command(desk: Desk) -> None:
    desk.clear()
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


def test_an_unknown_grant_is_answered_with_a_login() -> None:
    trouble = trouble_with(UnknownGrantError("Nothing is stored."))
    assert trouble.code is ExitCode.PERSON_NEEDED
    assert trouble.do.startswith("Log in first")


def test_an_unexpected_error_names_its_kind_and_not_its_text(
    stored: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("fake-secret-in-a-message")

    monkeypatch.setattr("blink_oauth_cli.app.open_store", fail)
    seen = stored.run("history", GRANT)
    assert seen.code == ExitCode.FAILED
    assert seen.errors.splitlines()[0] == "Error: Something unexpected: RuntimeError."
    assert "fake-secret" not in seen.errors
