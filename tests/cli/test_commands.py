"""Each command when it succeeds, and its error when something is missing."""

from __future__ import annotations

import json
import os
import pwd
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from io import BytesIO, TextIOWrapper
from pathlib import Path

import click
import pytest

from blink_oauth import BlinkOAuth, Psu
from blink_oauth_cli.errors import ExitCode
from blink_oauth_cli.grants import refresh_sentence
from blink_oauth_cli.main import COMMANDS, run
from blink_oauth_cli.sandbox import environment
from blink_oauth_keeper import EventName, SqlTokenStore, TargetProfile, TokenManager
from blink_oauth_testing.sandbox import Sandbox

GRANT = "IIDX00001/u-4711"
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def running() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    running.reset()
    return running


@pytest.fixture
def command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Return a function that runs a command without configuration in an empty folder."""
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)

    def run_command(*words: str) -> tuple[int, str, str]:
        code = run(words)
        printed = capsys.readouterr()
        assert "\x1b" not in printed.out + printed.err
        return code, printed.out, printed.err

    return run_command


@pytest.fixture
def run_configured(
    command: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Run:
    """Return a function that runs a command in the environment of the sandbox."""
    for name, value in environment(sandbox).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BLINK_STORE", str(tmp_path / "tokens.db"))
    return command


@pytest.fixture
def run_with_grant(run_configured: Run, sandbox: Sandbox, tmp_path: Path) -> Run:
    """Return a function that runs a command with a stored grant."""
    assert run_configured("store", "init")[0] == 0
    key = (tmp_path / "tokens.db.keys").read_text("ascii").strip()
    store = SqlTokenStore(f"sqlite:///{tmp_path / 'tokens.db'}", keys=[key])
    # A shorter idle lifetime than `--within 30d`, so that the grant is due at once.
    short = TargetProfile(idle_lifetime=timedelta(days=29).total_seconds())
    with (
        BlinkOAuth(sandbox.settings()) as blink,
        TokenManager(blink, store, profile=short) as manager,
    ):
        manager.authorize(
            sandbox.grant(),
            code=sandbox.issue_code(sandbox.grant()),
            redirect_uri=sandbox.redirect_uri,
            psu=Psu.AUTO,
        )
    return run_configured


def require_two_lines(errors: str, what: str) -> None:
    """Require the two lines of an error: what happened, and what to do."""
    first, second = errors.splitlines()
    assert first.startswith("Error: ")
    assert second.startswith("→ ")
    assert what in errors


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_but_keys_names_the_program(command: Run, name: str) -> None:
    code, out, _ = command(name, "--help")
    assert code == 0
    assert "blink-oauth" in out or name == "keys"


@pytest.mark.parametrize(
    "words",
    [
        ("login", GRANT),
        ("token", GRANT),
        ("refresh", GRANT),
        ("adopt", GRANT),
        ("revoke", GRANT, "--yes"),
        ("forget", GRANT, "--yes"),
        ("status",),
        ("history", GRANT),
        ("keep-alive",),
        ("sandbox", "--env"),
        ("keys", "generate"),
        ("keys", "wrap", "tokens.keys", "--output", "wrapped.keys"),
        ("token",),
        ("token", "nonsense"),
        ("no-such-command",),
    ],
)
def test_without_configuration_a_command_fails_with_two_lines(
    command: Run, words: tuple[str, ...]
) -> None:
    code, out, errors = command(*words)
    assert (code, out) == (ExitCode.USAGE, "")
    require_two_lines(errors, "")


def test_doctor_reports_a_missing_configuration(command: Run) -> None:
    code, out, _ = command("doctor", "--json")
    assert code == ExitCode.FAILED
    (check,) = json.loads(out)
    assert (check["name"], check["level"]) == ("configuration", "fail")


def test_token_shows_the_expiry_and_not_the_token(run_with_grant: Run) -> None:
    code, out, _ = run_with_grant("token")
    assert code == 0
    assert "expires in 23 h 59 min" in out
    assert "fake-access-token" not in out
    assert json.loads(run_with_grant("token", "--json")[1])["has_refresh_token"] is True


def test_token_shows_the_token_with_reveal_or_header(run_with_grant: Run) -> None:
    token = run_with_grant("token", "--reveal")[1].strip()
    assert token
    assert run_with_grant("token", "--header")[1] == f"Authorization: Bearer {token}\n"
    assert run_with_grant("token", "--reveal", "--header")[0] == ExitCode.USAGE


def test_refresh_replaces_a_fresh_token(run_with_grant: Run, sandbox: Sandbox) -> None:
    before = run_with_grant("token", "--reveal")[1]
    assert run_with_grant("refresh")[0] == 0
    assert run_with_grant("token", "--reveal")[1] != before
    assert sandbox.banks["IIDX00001"].refreshes == 1


def test_refresh_says_what_it_did(run_with_grant: Run, sandbox: Sandbox) -> None:
    assert ": refreshed; the new pair is stored. The access token" in run_with_grant("refresh")[1]
    assert json.loads(run_with_grant("refresh", "--json")[1])["refreshed"] is True
    assert sandbox.banks["IIDX00001"].refreshes == 2


@pytest.mark.parametrize(
    ("events", "phrase"),
    [
        ({EventName.REFRESHED}, "refreshed; the new pair is stored"),
        ({EventName.REPLAYED, EventName.REFRESHED}, "that had been presented before"),
        ({EventName.FAILED, EventName.SALVAGED, EventName.REFRESHED}, "an earlier refresh token"),
        ({EventName.SUPERSEDED}, "another process refreshed it"),
        (set(), "another process refreshed it"),
    ],
)
def test_the_events_of_a_refresh_say_what_it_did(events: set[EventName], phrase: str) -> None:
    assert phrase in refresh_sentence(events)


def test_refresh_says_that_another_process_did_it(
    run_with_grant: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A result of another process comes without an event of this one.
    monkeypatch.setattr(TokenManager, "refresh", TokenManager.get)
    out = run_with_grant("refresh")[1]
    assert ": another process refreshed it at this moment; this is its result. The acc" in out
    assert json.loads(run_with_grant("refresh", "--json")[1])["refreshed"] is False


@pytest.fixture
def kept(run_configured: Run, sandbox: Sandbox) -> str:
    """Make an empty store, and return the refresh token that another program has kept."""
    assert run_configured("store", "init")[0] == 0
    with BlinkOAuth(sandbox.settings()) as blink:
        pair = blink.exchange_code(
            sandbox.grant(),
            code=sandbox.issue_code(sandbox.grant()),
            redirect_uri=sandbox.redirect_uri,
            psu=Psu.AUTO,
        )
    assert pair.refresh_token is not None
    return pair.refresh_token.reveal()


def adopt(
    monkeypatch: pytest.MonkeyPatch, run: Run, text: bytes, *words: str
) -> tuple[int, str, str]:
    """Run `adopt` with a text on standard input."""
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(text)))
    code, out, errors = run("adopt", GRANT, *words)
    assert text.strip() == b"" or text.strip().decode("latin-1") not in out + errors
    return code, out, errors


@pytest.mark.parametrize("coding", ["utf-8", "utf-8-sig", "utf-16"])
def test_adopt_stores_the_refresh_token_of_standard_input_and_presents_it_once(
    run_configured: Run, kept: str, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, coding: str
) -> None:
    text = f"{kept}\r\n".encode(coding)
    code, out, _ = adopt(monkeypatch, run_configured, text)
    assert code == 0
    assert out.startswith(f"{GRANT}: adopted; a new pair is stored. The access token expires in 23")
    _, again, _ = adopt(monkeypatch, run_configured, text)
    assert again.startswith(f"{GRANT}: the store has it already; nothing was sent. The access tok")
    content = json.loads(adopt(monkeypatch, run_configured, text, "--json")[1])
    assert (content["adopted"], content["has_refresh_token"]) == (False, True)
    assert sandbox.banks["IIDX00001"].refreshes == 1
    entries = json.loads(run_configured("history", GRANT, "--json")[1])
    assert [each["event"] for each in entries] == ["refresh.succeeded", "grant.adopted"]
    assert entries[1]["detail"].startswith("refresh token ")
    assert kept not in json.dumps(entries)


def test_adopt_says_that_it_refreshed_what_an_earlier_run_has_stored(
    run_with_grant: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The adoption of another run comes without its event.
    monkeypatch.setattr(TokenManager, "adopt", lambda manager, grant, **_: manager.refresh(grant))
    code, out, _ = adopt(monkeypatch, run_with_grant, b"fake-refresh-token")
    assert code == 0
    assert out.startswith(f"{GRANT}: refreshed; the new pair is stored. The access token")


def test_adopt_asks_a_terminal_without_an_echo(
    run_configured: Run, kept: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []

    def prompt(text: str, **options: object) -> str:
        asked.append((text, options))
        return kept

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "prompt", prompt)
    assert run_configured("adopt", GRANT)[0] == 0
    assert asked == [("Refresh token", {"hide_input": True, "err": True})]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "no refresh token"),
        (b"\n", "no refresh token"),
        (b"fake-a\nfake-b\n", "several lines"),
    ],
)
def test_adopt_refuses_what_is_not_one_line(
    run_configured: Run, kept: str, monkeypatch: pytest.MonkeyPatch, text: bytes, problem: str
) -> None:
    code, out, errors = adopt(monkeypatch, run_configured, text)
    assert (code, out) == (ExitCode.USAGE, "")
    require_two_lines(errors, problem)


def test_adopt_does_not_replace_a_stored_grant(
    run_with_grant: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, errors = adopt(monkeypatch, run_with_grant, b"fake-refresh-token-of-another")
    assert (code, out) == (ExitCode.USAGE, "")
    require_two_lines(errors, "neither stored nor presented")
    assert "blink-oauth login" in errors
    assert sandbox.banks["IIDX00001"].refreshes == 0


def test_status_and_history_show_a_stored_grant(run_with_grant: Run) -> None:
    code, out, _ = run_with_grant("status")
    assert code == 0
    heading, line = out.splitlines()
    assert heading.split()[:3] == ["Target", "Username", "State"]
    assert line.split()[:3] == ["IIDX00001", "u-4711", "active"]
    (grant,) = json.loads(run_with_grant("status", "--json")[1])
    assert grant["correlation_id"] in out
    assert grant["correlation_id"] in run_with_grant("history")[1]
    entry, before = json.loads(run_with_grant("history", "--json")[1])
    assert before["event"] == "grant.authorizing"
    assert entry["event"] == "grant.authorized"
    assert grant["oddities"] == []
    assert "no grant IIDX00001/nobody" in run_with_grant("history", "IIDX00001/nobody")[2]


def test_status_and_history_name_what_was_odd_in_the_last_response(
    sandbox: Sandbox, run_with_grant: Run
) -> None:
    assert "odd" not in run_with_grant("status")[2]
    for fault in ("cacheable", "missing-expires-in"):
        sandbox.fail(fault, operation="request_token")
        assert run_with_grant("refresh")[0] == 0
    code, out, errors = run_with_grant("status")
    assert (code, len(out.splitlines())) == (0, 2)
    assert errors == (
        "IIDX00001: odd responses to 1 grant: expires_in_missing. docs/operations.md says what to "
        "do about each.\n"
    )
    (grant,) = json.loads(run_with_grant("status", "--json")[1])
    assert grant["oddities"] == ["expires_in_missing"]
    lines = run_with_grant("history")[1].splitlines()[1:3]
    for line, oddity in zip(lines, ("expires_in_missing", "cacheable"), strict=True):
        assert f"refresh.succeeded  odd: {oddity}" in line


def test_revoke_requires_a_confirmation(run_with_grant: Run) -> None:
    code, _, errors = run_with_grant("revoke")
    assert code == ExitCode.USAGE
    require_two_lines(errors, "without a terminal, it cannot be confirmed")
    assert run_with_grant("revoke", "--yes")[0] == 0
    code, _, errors = run_with_grant("token")
    assert code == ExitCode.CONSENT_NEEDED
    require_two_lines(errors, "revoked")


def test_forget_requires_a_confirmation_and_leaves_nothing_to_list(run_with_grant: Run) -> None:
    code, _, errors = run_with_grant("forget")
    assert code == ExitCode.USAGE
    require_two_lines(errors, "is not forgotten: without a terminal, it cannot be confirmed")
    code, _, errors = run_with_grant("forget", "IIDX00001/nobody", "--yes")
    assert code == ExitCode.NOT_STORED
    require_two_lines(errors, "The store has no grant IIDX00001/nobody")
    assert len(run_with_grant("history")[1].splitlines()) > 1
    for _ in range(2):
        code, out, _ = run_with_grant("forget", "--yes")
        assert (code, out) == (
            0,
            f"{GRANT}: revoked and forgotten. The store does not name it.\n",
        )
    assert json.loads(run_with_grant("status", "--json")[1]) == []
    code, _, errors = run_with_grant("token")
    assert code == ExitCode.CONSENT_NEEDED
    require_two_lines(errors, "The grant was forgotten. Authorize it anew.")


def test_a_forgetting_that_fails_at_the_bank_is_finished_by_keep_alive(
    run_with_grant: Run, sandbox: Sandbox
) -> None:
    sandbox.fail("reset-after", operation="revoke_token", times=2)
    code, _, errors = run_with_grant("forget", "--yes")
    assert code != 0
    require_two_lines(errors, "The grant is not used any more.")
    (grant,) = json.loads(run_with_grant("status", "--json")[1])
    assert grant["state"] == "revoking"
    assert run_with_grant("keep-alive")[0] == 0
    assert json.loads(run_with_grant("status", "--json")[1]) == []


def test_keep_alive_prints_events_and_exits_with_3_when_a_customer_is_needed(
    run_with_grant: Run, sandbox: Sandbox
) -> None:
    code, out, _ = run_with_grant("keep-alive", "--dry-run", "--within", "30d")
    assert (code, json.loads(out)["due"]) == (0, 1)
    code, out, _ = run_with_grant("keep-alive", "--within", "30d")
    assert code == 0
    first, last = map(json.loads, out.splitlines())
    assert first["event"] == "refresh.succeeded"
    assert (last["event"], last["refreshed"]) == ("keep_alive.finished", 1)
    sandbox.banks["IIDX00001"].reset()
    assert run_with_grant("refresh")[0] == ExitCode.CONSENT_NEEDED
    assert run_with_grant("keep-alive")[0] == ExitCode.CONSENT_NEEDED
    assert run_with_grant("keep-alive", "--within", "soon")[0] == ExitCode.USAGE


def test_keys_are_generated_added_used_and_dropped(run_with_grant: Run, tmp_path: Path) -> None:
    file = tmp_path / "tokens.db.keys"
    (old,) = file.read_text("ascii").split()
    code, key_id, _ = run_with_grant("keys", "add")
    kept, new = file.read_text("ascii").split()
    assert (code, kept) == (0, old)
    code, out, _ = run_with_grant("keys", "seal", key_id.strip())
    assert (code, out) == (0, "Sealed anew: 1. Still under another key: 0.\n")
    assert file.read_text("ascii").split() == [new, old]
    assert run_with_grant("keys", "drop")[0] == 0
    assert file.read_text("ascii").split() == [new]
    assert new != old
    assert run_with_grant("token")[0] == 0
    fresh = tmp_path / "fresh.keys"
    assert run_with_grant("keys", "generate", "--output", str(fresh))[0] == 0
    assert (fresh.stat().st_mode & 0o777, file.stat().st_mode & 0o777) == (0o600, 0o600)
    assert run_with_grant("keys", "generate", "--output", str(fresh))[0] == ExitCode.USAGE
    assert len(run_with_grant("keys", "generate", "--reveal")[1].strip()) == 44


def test_a_wrong_or_missing_key_is_an_error_and_changes_nothing(
    run_with_grant: Run, tmp_path: Path
) -> None:
    file = tmp_path / "tokens.db.keys"
    right = file.read_text("ascii")
    file.write_text(run_with_grant("keys", "generate", "--reveal")[1], "ascii")
    code, _, errors = run_with_grant("token")
    assert code == ExitCode.FAILED
    require_two_lines(errors, "BLINK_STORE_KEYS_FILE")
    file.unlink()
    code, _, errors = run_with_grant("token")
    assert code == ExitCode.USAGE
    require_two_lines(errors, "Put the file back")
    file.write_text(right, "ascii")
    assert run_with_grant("token")[0] == 0


def test_an_unreachable_platform_spends_nothing(
    run_with_grant: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BLINK_BASE_URL", "https://localhost:1/consent-flow/v2")
    code, _, errors = run_with_grant("refresh")
    assert code == ExitCode.FAILED
    require_two_lines(errors, "Nothing is spent")
    assert run_with_grant("token")[0] == 0
    assert run_with_grant("status")[0] == 0


def test_login_exchanges_a_code_that_was_received_elsewhere(
    run_configured: Run, sandbox: Sandbox
) -> None:
    code = sandbox.issue_code(sandbox.grant())
    done, out, _ = run_configured("login", "--code", code, "--redirect-uri", sandbox.redirect_uri)
    assert done == 0
    assert "logged in and stored" in out
    assert code not in out
    assert run_configured("token")[0] == 0
    done, _, errors = run_configured(
        "login", "--code", code, "--redirect-uri", sandbox.redirect_uri
    )
    assert done == ExitCode.CONSENT_NEEDED
    require_two_lines(errors, "blink-oauth login")


def test_doctor_finds_no_fault_in_the_sandbox(run_with_grant: Run) -> None:
    code, out, _ = run_with_grant("doctor")
    assert code == 0, out
    *lines, last = out.splitlines()
    assert all(line.startswith("OK ") for line in lines)
    assert last == f"{len(lines)} checks: {len(lines)} OK, 0 warnings, 0 failed."


def test_the_last_line_of_doctor_counts_what_it_found(run_configured: Run) -> None:
    code, out, _ = run_configured("doctor", "--base-url", "https://localhost:1/consent-flow/v2")
    assert code == ExitCode.FAILED
    *lines, last = out.splitlines()
    counts = [sum(line.startswith(level) for line in lines) for level in ("OK ", "WARN", "FAIL")]
    assert min(counts) > 0
    ok, warned, failed = counts
    warnings = "1 warning" if warned == 1 else f"{warned} warnings"
    assert last == f"{sum(counts)} checks: {ok} OK, {warnings}, {failed} failed."


def test_a_configuration_that_is_missing_counts_as_one_check(command: Run) -> None:
    _, out, _ = command("doctor")
    assert out.splitlines()[-1] == "1 check: 0 OK, 0 warnings, 1 failed."


def test_an_id_of_the_other_environment_is_refused(
    run_configured: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for profile, client in (("production", "CIDX0000000002"), ("test", "CIDP0000000002")):
        monkeypatch.setenv("BLINK_PROFILE", profile)
        code, _, errors = run_configured("status", "--client-id", client)
        assert code == ExitCode.USAGE
        require_two_lines(errors, f"the profile {profile} is for {profile}")


def test_flags_override_the_file(command: Run, tmp_path: Path) -> None:
    (tmp_path / "blink-oauth.toml").write_text(
        '[profiles.test]\nclient_id = "CIDX0000000002"\nstore = "t.db"\n'
        "[profiles.test.targets.IIDX00001]\nrotates = false\nrate = 2.0\n",
        "utf-8",
    )
    assert command("store", "init")[0] == 0
    assert "CIDX0000000002" in command("status")[2]
    assert "CIDX0000000003" in command("status", "--client-id", "CIDX0000000003")[2]
    assert command("status", "--profile", "production")[0] == ExitCode.USAGE


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("[profiles.test", "cannot be used"),
        ('[profiles.test]\nkey_passphrase = "fake-passphrase"', "is a secret"),
        ('[profiles.test]\nclient = "CIDX0000000002"', "unknown key client"),
        ("[profiles.a]\n[profiles.b]", "more than one profile"),
        ("", "no [profiles.…] table"),
        ("[profiles.test.targets.IIDP00001]", "does not look like one of test"),
    ],
)
def test_an_unusable_file_is_an_error(command: Run, tmp_path: Path, text: str, phrase: str) -> None:
    (tmp_path / "blink-oauth.toml").write_text(text, "utf-8")
    code, _, errors = command("status")
    assert code == ExitCode.USAGE
    require_two_lines(errors, phrase)
    assert "fake-passphrase" not in errors


def test_a_command_that_sends_names_the_file_of_the_working_folder(
    run_with_grant: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file, user_file = (
        folder / "blink-oauth.toml" for folder in (tmp_path, tmp_path / "blink-oauth")
    )
    note = f"Configuration: profile test of {file}\n"
    file.write_text('[profiles.test]\nstore = "tokens.db"\n', "utf-8")
    assert run_with_grant("refresh")[2] == note
    assert run_with_grant("refresh", "--debug")[2] == note
    assert run_with_grant("status")[2] == ""
    assert run_with_grant("status", "--debug")[2] == note
    user_file.parent.mkdir()
    file.rename(user_file)
    monkeypatch.delenv("BLINK_STORE")
    user_file.write_text(f'[profiles.test]\nstore = "{tmp_path / "tokens.db"}"\n', "utf-8")
    assert run_with_grant("refresh")[2] == ""
    assert run_with_grant("refresh", "--debug")[2] == note.replace(str(file), str(user_file))


def test_a_file_of_the_working_folder_sends_no_stored_token_to_its_server(
    run_configured: Run, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # The server is that of the sandbox: it shows whether anything was sent.
    monkeypatch.delenv("BLINK_STORE")
    code = sandbox.issue_code(sandbox.grant())
    words = ("login", "--code", code, "--redirect-uri", sandbox.redirect_uri)
    assert run_configured(*words)[0] == 0
    count = len(sandbox.exchanges)
    monkeypatch.delenv("BLINK_BASE_URL")
    (tmp_path / "blink-oauth.toml").write_text(
        f'[profiles.test]\nbase_url = "{sandbox.base_url}"\n', "utf-8"
    )
    for command in ("refresh", "token", "revoke --yes", "keep-alive", "status"):
        done, _, errors = run_configured(*command.split())
        assert done == ExitCode.USAGE
        assert "was found in the working folder and names the server" in errors
    assert len(sandbox.exchanges) == count


def test_a_profile_sends_nothing_to_the_server_of_a_leftover_variable(
    run_with_grant: Run, sandbox: Sandbox, tmp_path: Path
) -> None:
    count = len(sandbox.exchanges)
    (tmp_path / "blink-oauth").mkdir()
    (tmp_path / "blink-oauth" / "blink-oauth.toml").write_text(
        '[profiles.test]\nbase_url = "https://test.invalid/v2"\n', "utf-8"
    )
    for command in ("refresh", "token", "revoke --yes", "keep-alive", "status"):
        done, _, errors = run_with_grant(*command.split(), "--profile", "test")
        assert done == ExitCode.USAGE
        require_two_lines(errors, "another value than BLINK_BASE_URL")
    done, out, _ = run_with_grant("doctor")
    assert (done, "another value than BLINK_BASE_URL" in out) == (1, True)
    assert len(sandbox.exchanges) == count


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_a_home_folder_is_asked_for_only_if_one_is_needed(
    run_configured: Run, monkeypatch: pytest.MonkeyPatch, home: str | None
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "HOME"):
        monkeypatch.delenv(name)
        if home is not None:
            monkeypatch.setenv(name, home)
    assert run_configured("store", "init")[0] == 0
    assert run_configured("status")[0] == 0
    monkeypatch.delenv("BLINK_STORE")
    for words in (["status"], ["refresh"], ["sandbox", "--env"]):
        done, _, errors = run_configured(*words)
        assert done == ExitCode.USAGE
        require_two_lines(errors, "no home folder")
    done, out, _ = run_configured("doctor")
    assert (done, "no home folder" in out) == (1, True)


def test_a_users_folder_that_cannot_be_searched_has_no_file(
    run_configured: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stat = os.stat

    def denied(path: str, **options: bool) -> os.stat_result:
        if str(path).startswith(str(tmp_path / "private")):
            raise PermissionError
        return stat(path, **options)

    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "private"))
    monkeypatch.setattr(os, "stat", denied)
    assert run_configured("store", "init")[0] == 0
    assert run_configured("status")[0] == 0


def test_a_working_folder_that_was_deleted_is_not_needed(
    run_configured: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run_configured("store", "init")[0] == 0
    assert run_configured("status")[0] == 0


def test_doctor_reports_a_proxy_that_cannot_be_used_and_repeats_no_part_of_it(
    run_configured: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("BLINK_TRUST_ENV", "1")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:fake@geheim#wort@proxy.invalid:3128")
    code, out, errors = run_configured("doctor")
    assert (code, errors) == (ExitCode.FAILED, "")
    assert "FAIL configuration: The proxy in HTTPS_PROXY cannot be used" in out
    for word in ("geheim", "wort", "fake"):
        assert word not in out
    code, _, errors = run_configured("refresh")
    assert code == ExitCode.USAGE
    require_two_lines(errors, "HTTPS_PROXY")
    assert "geheim" not in errors


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_each_shell(command: Run, shell: str) -> None:
    code, out, _ = command("completion", shell)
    assert (code, "_BLINK_OAUTH_COMPLETE" in out) == (0, True)
