"""Mistakes on the command line, one a row: each has two lines and an exit code of its own kind."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest
from attrs import field, frozen

from blink_oauth import Grant, Token
from blink_oauth_cli.configuration import misspelt
from blink_oauth_cli.errors import ExitCode
from blink_oauth_cli.main import run
from blink_oauth_keeper import GrantKey, Note
from cli.cli_harness import CLIENT, GRANT, TARGET, Harness, require_two_lines

DONE, USAGE, NOT_STORED = ExitCode.DONE, ExitCode.USAGE, ExitCode.NOT_STORED
UNKNOWN = f"{TARGET}/nobody"
FILES = {
    "": b"",
    "token.txt": b"fake-refresh-token\n",
    "two-tokens.txt": b"fake-refresh-token\nfake-other-token\n",
}
"""The contents of standard input."""


@frozen
class Mistake:
    """A command line, and its error.

    Args:
        words: The command line.
        code: The exit code.
        what: A phrase of the first line.
        do: A phrase of the second line.
        changes: The variables that differ, by the keys of the configuration file.
    """

    words: str
    code: ExitCode
    what: str
    do: str
    changes: dict[str, str | None] = field(factory=dict)


MISTAKES = [
    Mistake(
        "statsu",
        USAGE,
        "No such command 'statsu'. Did you mean 'status'?",
        "blink-oauth --help shows how.",
    ),
    Mistake(
        "keepalive",
        USAGE,
        "No such command 'keepalive'. Did you mean 'keep-alive'?",
        "blink-oauth --help shows how.",
    ),
    Mistake(
        "keys sael",
        USAGE,
        "No such command 'sael'. Did you mean 'seal'?",
        "blink-oauth keys --help shows how.",
    ),
    Mistake(
        "store innit",
        USAGE,
        "No such command 'innit'. Did you mean 'init'?",
        "blink-oauth store --help shows how.",
    ),
    Mistake("frobnicate", USAGE, "No such command 'frobnicate'.", "blink-oauth --help shows how."),
    Mistake(
        "status --jsn",
        USAGE,
        "--json",
        "blink-oauth status --help shows how.",
    ),
    Mistake("--profil test status", USAGE, "--profile", "blink-oauth --help shows how."),
    Mistake("--profile test", USAGE, "Missing command", "blink-oauth --help shows how."),
    Mistake(
        "--profile",
        USAGE,
        "requires an argument",
        "blink-oauth --help shows how.",
    ),
    Mistake(
        f"token {UNKNOWN}",
        NOT_STORED,
        f"The store has no grant {UNKNOWN} of {CLIENT}. Nothing was sent.",
        "Log in first: blink-oauth login. blink-oauth status lists the grants.",
    ),
    Mistake(
        f"refresh {UNKNOWN}",
        NOT_STORED,
        f"The store has no grant {UNKNOWN} of {CLIENT}. Nothing was sent.",
        "Log in first: blink-oauth login. blink-oauth status lists the grants.",
    ),
    Mistake(
        f"revoke {UNKNOWN} --yes",
        NOT_STORED,
        f"The store has no grant {UNKNOWN} of {CLIENT}. Nothing was sent.",
        "Log in first: blink-oauth login. blink-oauth status lists the grants.",
    ),
    Mistake(
        f"forget {UNKNOWN} --yes",
        NOT_STORED,
        f"The store has no grant {UNKNOWN} of {CLIENT}. Nothing was sent.",
        "Log in first: blink-oauth login. blink-oauth status lists the grants.",
    ),
    Mistake(
        f"history {UNKNOWN}",
        NOT_STORED,
        f"The store has no grant {UNKNOWN} of {CLIENT}. Nothing was sent.",
        "Log in first: blink-oauth login. blink-oauth status lists the grants.",
    ),
    Mistake(
        "token",
        NOT_STORED,
        f"The store has no grant {TARGET}/absent of {CLIENT}. Nothing was sent.",
        "Log in first: blink-oauth login. blink-oauth status lists the grants.",
        {"username": "absent"},
    ),
    Mistake(
        f"history {GRANT} --client-id CIDX0000000009",
        NOT_STORED,
        f"The store has no grant {GRANT} of CIDX0000000009. Nothing was sent.",
        "Log in first: blink-oauth login. blink-oauth status lists the grants.",
    ),
    Mistake(
        "token u-4711",
        USAGE,
        "“u-4711” names no grant.",
        "Write TARGET/USERNAME, such as IIDX99999/u-4711. blink-oauth status lists the grants.",
    ),
    Mistake(
        "token",
        USAGE,
        "No username given.",
        "Pass --username (BLINK_USERNAME), or TARGET/USERNAME.",
        {"username": None},
    ),
    Mistake(
        "token IIDP00001/u-4711",
        USAGE,
        "The target IIDP00001 looks like one of production, but the profile test is for test.",
        "Choose another profile with --profile, or correct the target.",
    ),
    Mistake(
        "status --store missing.db",
        USAGE,
        "There is no store",
        "Correct --store (BLINK_STORE).",
    ),
    Mistake(
        "--store missing.db status",
        USAGE,
        "There is no store",
        "Correct --store (BLINK_STORE).",
    ),
    Mistake(
        "status --config missing.toml",
        USAGE,
        "There is no file missing.toml.",
        "Correct --config (BLINK_CONFIG).",
    ),
    Mistake(
        "status --profile tset",
        USAGE,
        "There is no profile tset: no blink-oauth.toml was found.",
        "or name it with --config.",
    ),
    Mistake(
        "token --reveal --json",
        USAGE,
        "--reveal, --header and --json exclude each other.",
        "blink-oauth token --help shows how.",
    ),
    Mistake(
        "keep-alive --within soon",
        USAGE,
        "write a number and its unit: 90s, 15m, 24h or 10d",
        "blink-oauth keep-alive --help shows how.",
    ),
    Mistake(
        "keys generate",
        USAGE,
        "Say where the key goes: --output FILE, or --reveal to print it.",
        "blink-oauth keys generate --help shows how.",
    ),
    Mistake("keys seal 0123", USAGE, "has no key 0123. Nothing was changed.", "Its keys are"),
    Mistake(
        "revoke",
        USAGE,
        f"{GRANT} is not revoked: without a terminal, it cannot be confirmed.",
        "Add --yes to do it without a question.",
    ),
    Mistake(
        "forget",
        USAGE,
        f"{GRANT} is not forgotten: without a terminal, it cannot be confirmed.",
        "Add --yes to do it without a question.",
    ),
    Mistake(
        "adopt",
        USAGE,
        "Standard input has no refresh token. Nothing was sent.",
        "Write the refresh token to it, and nothing else: blink-oauth adopt … < file.",
    ),
    Mistake(
        "adopt < two-tokens.txt",
        USAGE,
        "Standard input has several lines. Nothing was sent.",
        "Write the refresh token to it, and nothing else: blink-oauth adopt … < file.",
    ),
    Mistake(
        "adopt < token.txt",
        USAGE,
        "The refresh token was neither stored nor presented.",
        "blink-oauth login",
    ),
    Mistake("login", USAGE, "a second consent ends the first", "--yes"),
    Mistake(
        "sandbox --env",
        USAGE,
        "No sandbox runs in another terminal.",
        "Start one there: blink-oauth sandbox.",
    ),
    Mistake(
        "sandbox --lifetime 0",
        USAGE,
        "--lifetime",
        "blink-oauth sandbox --help shows how.",
    ),
    Mistake(
        "sandbox --refuse-revocation-field token",
        USAGE,
        "token_type_hint",
        "blink-oauth sandbox --help shows how.",
    ),
    Mistake(
        "completion tcsh",
        USAGE,
        "'tcsh' is not one of",
        "blink-oauth completion --help shows how.",
    ),
]


@pytest.fixture(scope="module")
def store_files() -> dict[str, bytes]:
    """Return a cache for the files of a store with a grant."""
    return {}


@pytest.fixture
def with_grant(harness: Harness, store_files: dict[str, bytes]) -> Harness:
    """Return a harness with a stored grant."""
    if not store_files:
        harness.authorize()
        with harness.open_store() as store:
            # It makes the key of the store, which is not a part of a mistake.
            store.fingerprint("a text")
        store_files |= {path.name: path.read_bytes() for path in harness.folder.glob("tokens.db*")}
    for name, content in store_files.items():
        (harness.folder / name).write_bytes(content)
    return harness


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.words)
def test_a_mistake_is_named_in_two_lines_and_sends_nothing(
    with_grant: Harness, mistake: Mistake
) -> None:
    with_grant.configure(**mistake.changes)
    count = len(with_grant.sandbox.exchanges)
    before = with_grant.rows()
    words, _, file = mistake.words.partition(" < ")
    with_grant.monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(FILES[file])))
    result = with_grant.run(*words.split())
    assert (result.code, result.out) == (mistake.code, "")
    require_two_lines(result, mistake.what, mistake.do)
    assert with_grant.rows() == before
    assert len(with_grant.sandbox.exchanges) == count


def test_the_history_of_an_unknown_grant_is_an_empty_array_and_an_error(
    with_grant: Harness,
) -> None:
    result = with_grant.run("history", UNKNOWN, "--json")
    assert (result.code, result.json) == (NOT_STORED, [])
    require_two_lines(result, UNKNOWN)


def test_a_port_that_is_in_use_is_named(harness: Harness) -> None:
    port = harness.sandbox.control_url.rpartition(":")[2]
    result = harness.run("sandbox", "--http-port", port)
    assert (result.code, result.out) == (USAGE, "")
    require_two_lines(result, "Address already in use", "Leave --port and --http-port out")


@pytest.mark.parametrize("group", [(), ("keys",), ("store",)], ids=["", "keys", "store"])
def test_without_a_command_the_help_is_printed(harness: Harness, group: tuple[str, ...]) -> None:
    result = harness.run(*group)
    assert (result.code, result.errors) == (DONE, "")
    assert result.out == harness.run(*group, "--help").out
    assert "Commands:" in result.out
    assert "..." not in result.out.partition("Commands:")[2]


@pytest.mark.parametrize(
    ("words", "client"),
    [
        ("--client-id CIDX0000000008 status", "CIDX0000000008"),
        ("status --client-id CIDX0000000008", "CIDX0000000008"),
        ("--client-id CIDX0000000008 status --client-id CIDX0000000009", "CIDX0000000009"),
        ("--client-id= status", CLIENT),
        ("--client-id CIDX0000000008 status --client-id=", "CIDX0000000008"),
    ],
)
def test_a_flag_before_the_command_counts_like_one_after_it(
    harness: Harness, words: str, client: str
) -> None:
    assert harness.run("store", "init").code == DONE
    result = harness.run(*words.split())
    assert (result.code, result.out) == (DONE, "")
    assert f"No grant of {client} is stored yet." in result.errors


@pytest.mark.parametrize(
    "words",
    ["--store other.db store init", "store --store other.db init", "store init --store other.db"],
)
def test_a_flag_of_a_group_reaches_its_command(harness: Harness, words: str) -> None:
    assert harness.run(*words.split()).code == DONE
    assert (harness.folder / "other.db").exists()
    assert not harness.file.exists()


def test_a_flag_before_the_command_overrides_a_profile_as_one_after_it_does(
    harness: Harness,
) -> None:
    (harness.folder / "own.toml").write_text('[profiles.test]\nstore = "a.db"\n', "utf-8")
    harness.configure(config="own.toml", store=None)
    assert harness.run("--store", "b.db", "store", "init").code == DONE
    assert (harness.folder / "b.db").exists()


@pytest.mark.parametrize("words", [("--debug", "status"), ("status", "--debug")], ids=" ".join)
def test_a_switch_may_stand_before_or_after_the_command(
    harness: Harness, words: tuple[str, ...]
) -> None:
    result = harness.run(*words, "--store", "missing.db")
    assert result.code == USAGE
    assert result.errors.startswith("Traceback")


def test_colours_are_switched_off_before_the_command(with_grant: Harness) -> None:
    with_grant.monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with_grant.monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[32m" in with_grant.run("status").out
    assert "\x1b[32m" not in with_grant.run("--no-color", "status").out


@pytest.mark.parametrize(
    ("words", "shown", "hidden"),
    [
        ("keys generate", ["--reveal", "--debug"], ["--store", "--profile", "Configuration"]),
        ("completion", ["--debug"], ["--store", "--profile", "Configuration"]),
        ("sandbox", ["--lifetime"], ["--store", "--profile", "Configuration"]),
        ("status", ["--store", "--client-id", "--profile"], ["--certificate", "--base-url"]),
        ("history", ["--store", "--client-id", "--target"], ["--certificate", "--base-url"]),
        ("keys add", ["--store-keys-file"], ["--client-id", "--certificate"]),
        ("store copy", ["--store", "--to-keys-file"], ["--client-id", "--certificate"]),
        ("refresh", ["--store", "--client-id", "--certificate", "--base-url"], []),
    ],
)
def test_the_help_shows_the_flags_that_matter_to_the_command(
    harness: Harness, words: str, shown: list[str], hidden: list[str]
) -> None:
    result = harness.run(*words.split(), "--help")
    assert result.code == DONE
    options = result.out.partition("Options:")[2].partition("Examples:")[0]
    assert [flag for flag in shown if f"{flag} " not in options] == []
    assert [flag for flag in hidden if f"{flag} " in options] == []


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("BLINK_STOER", "BLINK_STORE"),
        ("BLINK_CLIENTID", "BLINK_CLIENT_ID"),
        ("BLINK_PASSPHRASE_FILE", "BLINK_KEY_PASSPHRASE_FILE"),
        ("BLINK_TIMEOUT_CONECT", "BLINK_TIMEOUT_CONNECT"),
        ("BLINK_COPY_TOO", "BLINK_COPY_TO"),
        ("BLINK_Store_Key", "BLINK_STORE_KEYS"),
    ],
)
def test_a_misspelt_variable_is_a_warning_that_names_the_known_one(
    with_grant: Harness, name: str, near: str
) -> None:
    with_grant.monkeypatch.setenv(name, "fake-secret-value")
    result = with_grant.run("status", "--json")
    assert (result.code, len(result.json)) == (DONE, 1)
    assert result.errors == f"Warning: {name} is not read. Did you mean {near}?\n"


def test_a_variable_of_the_sandbox_or_of_another_program_is_no_mistake(harness: Harness) -> None:
    assert "BLINK_ACCOUNTS_URL" in os.environ
    harness.monkeypatch.setenv("BLINK_182_MODE", "loud")
    harness.monkeypatch.setenv("BLINK_STOER", "")
    harness.monkeypatch.setenv("WINK_STORE", "x")
    assert misspelt(os.environ) == {}


def completed(harness: Harness, words: str, incomplete: str) -> tuple[list[str], str]:
    """Return the words that bash is offered, and what is on standard error."""
    harness.monkeypatch.setenv("_BLINK_OAUTH_COMPLETE", "bash_complete")
    harness.monkeypatch.setenv("COMP_WORDS", f"{words} {incomplete}")
    harness.monkeypatch.setenv("COMP_CWORD", str(len(words.split())))
    harness.capture.readouterr()
    with pytest.raises(SystemExit):
        run(())
    out, errors = harness.capture.readouterr()
    harness.monkeypatch.delenv("_BLINK_OAUTH_COMPLETE")
    return [line.partition(",")[2] for line in out.splitlines() if line], errors


@pytest.mark.parametrize("command", ["login", "token", "refresh", "revoke", "history"])
def test_a_stored_grant_is_completed_without_its_key(with_grant: Harness, command: str) -> None:
    with_grant.keys.unlink()
    before = with_grant.rows()
    for incomplete in ("", TARGET[:4], f"{TARGET}/u"):
        assert completed(with_grant, f"blink-oauth {command}", incomplete) == ([GRANT], "")
    for incomplete in (TARGET.lower(), "IIDX0000%", "IIDX0000_/", "IIDX00002"):
        assert completed(with_grant, f"blink-oauth {command}", incomplete) == ([], "")
    assert with_grant.rows() == before
    assert not with_grant.keys.exists()


def test_a_name_that_a_shell_would_not_take_literally_is_not_offered(
    with_grant: Harness,
) -> None:
    with with_grant.open_store() as store:
        for username in ("a b", "$(id)", "u\x1b[31m", "a@b.ch"):
            key = GrantKey(CLIENT, Grant(TARGET, username))
            now = datetime.now(UTC)
            store.put(
                key,
                Token(access_token="fake-access-token"),
                issued_at=now,
                idle_until=now,
                note=Note(event="a"),
            )
    offered = [f"{TARGET}/a@b.ch", GRANT]
    assert completed(with_grant, "blink-oauth token", "II") == (offered, "")


def test_the_completion_uses_the_configuration_of_the_command_line(with_grant: Harness) -> None:
    with_grant.configure(store=None)
    words = f"blink-oauth --store {with_grant.file} token"
    assert completed(with_grant, words, "II") == ([GRANT], "")
    other = f"{words} --client-id CIDX0000000009"
    assert completed(with_grant, other, "II") == ([], "")


@pytest.mark.parametrize(
    "changes",
    [
        {"store": "missing.db"},
        {"store": "nonsense://x"},
        {"client_id": None},
        {"config": "missing.toml"},
        {"store": "postgresql+psycopg://fake@127.0.0.1:1/x"},
    ],
    ids=str,
)
def test_a_completion_that_fails_offers_nothing_and_prints_nothing(
    with_grant: Harness, changes: dict[str, str | None]
) -> None:
    with_grant.configure(**changes)
    assert completed(with_grant, "blink-oauth token", "II") == ([], "")
    assert not Path("missing.db").exists()
