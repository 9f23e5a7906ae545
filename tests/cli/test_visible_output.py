"""No character that steers a terminal, forges a line or shows nothing is printed as it is."""

from __future__ import annotations

import json
import logging
import signal
import sys
from datetime import UTC, datetime

import pytest

from blink_oauth import Grant, Token
from blink_oauth.tokens import Secret
from blink_oauth_cli.errors import ExitCode
from blink_oauth_cli.main import main
from blink_oauth_cli.output import Screen, visible
from blink_oauth_keeper import GrantKey, Note
from cli.cli_harness import CLIENT, TARGET, Harness, plain, require_two_lines

HIDDEN = (
    *("\0", "\x07", "\b", "\n", "\r", "\x0b", "\x1b", "\x7f", "\x85", "\x9b", "\x9d"),
    *("\xad", "\u061c", "\u200b", "\u200d", "\u200e", "\u2028", "\u202e", "\u2066", "\ufeff"),
    *("\u034f", "\u115f", "\u2800", "\u3164", "\ufe0f", "\ud800", "\udcff", "\U000e0041"),
)
NAME = "u\x1b[31m\u202e\x9b2J\u200b\nOK"
"""A username that is no longer than a username may be."""
SHOWN = r"u\x1b[31m\u202e\x9b2J\u200b\nOK"


def hidden_in(text: str) -> set[str]:
    """Return the characters of `HIDDEN` in a text, except line ends."""
    return set(text).intersection(HIDDEN) - {"\n"}


@pytest.mark.parametrize("char", HIDDEN, ids=ascii)
def test_a_hidden_character_is_escaped_and_keeps_its_value_in_json(
    char: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text, screen = f"a{char}b", Screen()
    assert visible(text).encode() == b"a" + char.encode("unicode_escape") + b"b"
    screen.line(text, label="OK   ")
    screen.note(text)
    screen.table([text], [[text]])
    screen.json({text: text})
    screen.json_array([text])
    out, errors = capsys.readouterr()
    assert hidden_in(out + errors) == set()
    line, heading, row, value, array = out.splitlines()
    assert (line, errors) == (f"OK   {visible(text)}", f"{visible(text)}\n")
    assert row == visible(text)
    assert heading
    assert json.loads(value) == {text: text}
    assert json.loads(array) == [text]


@pytest.mark.parametrize(
    "text", ["", "u-4711", "Zürich → 10 000, 日本語 é", "a\xa0b\u202fc", "x\\n"]
)
def test_other_text_is_printed_unchanged(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert visible(text) == text
    Screen().json(text)
    assert capsys.readouterr().out == json.dumps(text, ensure_ascii=False) + "\n"


def store_pair(harness: Harness, username: str, access_token: str) -> None:
    """Store a pair for a customer."""
    now = datetime.now(UTC)
    pair = Token(access_token=Secret(access_token), refresh_token=Secret("fake-refresh-token"))
    with harness.open_store() as store:
        key = GrantKey(CLIENT, Grant(TARGET, username))
        store.put(
            key, pair, issued_at=now, idle_until=now, note=Note(event="a\x1b]0;b", detail="\x9b")
        )


@pytest.mark.parametrize("terminal", [False, True], ids=["pipe", "terminal"])
def test_a_username_with_such_characters_is_usable_and_shown_escaped(
    harness: Harness, terminal: bool
) -> None:
    assert harness.run("store", "init").code == 0
    store_pair(harness, NAME, "fake-access-token")
    if terminal:
        harness.monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        harness.monkeypatch.setenv("COLUMNS", "200")
    grant = f"{TARGET}/{NAME}"
    for words in (("status",), ("token", grant), ("token", "--username", NAME)):
        result = harness.run(*words)
        assert result.code == 0
        assert SHOWN in result.out
        assert hidden_in(plain(result.out) + result.errors) == set()
    history = harness.run("history", grant)
    assert r"a\x1b]0;b" in history.out
    assert hidden_in(plain(history.out)) == set()
    status, entry = harness.run("status", "--json"), harness.run("history", grant, "--json")
    assert status.json[0]["username"] == NAME
    assert entry.json[0]["detail"] == "\x9b"
    assert hidden_in(status.out + entry.out) == set()
    unconfirmed = harness.run("revoke", grant)
    assert unconfirmed.code == ExitCode.USAGE
    require_two_lines(unconfirmed, f"{TARGET}/{SHOWN} is not revoked")


def test_a_confirmation_shows_the_name_escaped(stored: Harness) -> None:
    stored.monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    asked: list[str] = []
    stored.monkeypatch.setattr("click.confirm", lambda text, **_: asked.append(text))
    assert stored.run("revoke", f"{TARGET}/{NAME}").code == ExitCode.USAGE
    assert asked == [f"Revoke {TARGET}/{SHOWN} for good?"]


@pytest.mark.parametrize(
    "words",
    [
        ("no\x1b[31m",),
        ("token", f"{TARGET}\x9b\u202e"),
        ("token", "--username", "u\udcff\x1b", "a", "b\x1b]0;x"),
        ("keep-alive", "--within", "\x9b1d\nError: forged"),
        ("status", "--store", "/missing/\x1b[2J\ndb"),
        ("status", "--profile", "\u202etset"),
    ],
    ids=ascii,
)
def test_an_error_shows_an_argument_escaped(harness: Harness, words: tuple[str, ...]) -> None:
    result = harness.run(*words)
    assert result.code == ExitCode.USAGE
    require_two_lines(result)
    assert hidden_in(result.errors) == set()
    assert "\\" in result.errors


def test_a_traceback_is_escaped(stored: Harness) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("fake\x1b]0;title\x07\u202e")

    stored.monkeypatch.setattr("blink_oauth_cli.app.open_store", fail)
    result = stored.run("status", "--debug")
    assert r"RuntimeError: fake\x1b]0;title\x07\u202e" in result.errors
    assert hidden_in(result.errors) == set()


def test_a_log_record_is_escaped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(logging, "lastResort", handler)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["blink-oauth", "completion", "bash"])
    with pytest.raises(SystemExit):
        main()
    try:
        raise ValueError("\x9b")
    except ValueError as error:
        info = (ValueError, error, error.__traceback__)
    handler.handle(logging.LogRecord("l", logging.ERROR, "p", 1, "%s", ("a\x1b\nb",), info))
    errors = capsys.readouterr().err
    assert errors.startswith("a\\x1b\\nb\nTraceback")
    assert errors.endswith("ValueError: \\x9b\n")


@pytest.mark.parametrize(
    ("words", "logger", "is_printed"),
    [
        ("completion bash", "blink_oauth_keeper.events", False),
        ("completion bash", "blink_oauth", False),
        ("completion bash", "blink_oauth_testing.sandbox", True),
        ("completion bash", "asyncio", True),
        ("completion bash --debug", "blink_oauth_keeper.events", True),
        ("--debug completion bash", "blink_oauth", True),
        ("keep-alive --help", "blink_oauth_keeper.events", True),
    ],
)
def test_the_log_of_the_library_is_printed_by_a_daemon_and_to_debug(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    logger: str,
    is_printed: bool,
) -> None:
    handler = logging.StreamHandler(sys.stderr)
    monkeypatch.setattr(logging, "lastResort", handler)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["blink-oauth", *words.split()])
    with pytest.raises(SystemExit):
        main()
    capsys.readouterr()
    handler.handle(logging.LogRecord(logger, logging.WARNING, "p", 1, "a warning", (), None))
    assert capsys.readouterr().err == "a warning\n" * is_printed


@pytest.mark.parametrize(
    "token", ["fake\r\nX-Forged: 1", "fake token", "fake\x1b[31m", "fäke", "fake\0"]
)
def test_a_token_that_no_header_can_carry_is_not_printed_as_one(
    harness: Harness, token: str
) -> None:
    assert harness.run("store", "init").code == 0
    store_pair(harness, "u-4711", token)
    result = harness.run("token", "--header")
    assert (result.code, result.out) == (ExitCode.FAILED, "")
    require_two_lines(result, "no header can carry", "blink-oauth refresh")
    assert "fake" not in result.errors
    revealed = harness.run("token", "--reveal")
    exact = (0, f"{token}\n") if visible(token) == token else (ExitCode.FAILED, "")
    assert (revealed.code, revealed.out) == exact
    assert harness.run("token").code == 0


def test_each_text_is_one_write(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stream:
        def __init__(self) -> None:
            self.written: list[str] = []

        def isatty(self) -> bool:
            return False

        def write(self, text: str) -> None:
            self.written.append(text)

        def flush(self) -> None:
            pass

    stream = Stream()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    screen = Screen()
    screen.line("a", "b")
    screen.note("c", "d")
    screen.json([1])
    assert stream.written == ["a\nb\n", "c\nd\n", "[1]\n"]
