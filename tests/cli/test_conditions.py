"""Every command in every condition: its output and exit code, and that nothing is lost."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from typing import Any

import pytest

from blink_oauth import BlinkOAuth, Token
from blink_oauth_cli.errors import ExitCode
from blink_oauth_keeper import TokenManager
from blink_oauth_keeper.store import sql_engine as engines
from cli.cli_harness import (
    CODE,
    ESCAPE,
    OTHER_CLIENT,
    PASSPHRASE,
    CommandResult,
    Harness,
    require_no_secret,
    require_two_lines,
)

DONE, FAILED, USAGE = ExitCode.DONE, ExitCode.FAILED, ExitCode.USAGE
CONSENT, UNCERTAIN = ExitCode.CONSENT_NEEDED, ExitCode.UNCERTAIN

COMMANDS = {
    "login": ("login", "--yes", "--no-browser", "--timeout", "1"),
    "login --code": ("login", "--code", CODE, "--redirect-uri", "http://127.0.0.1/callback"),
    "token": ("token",),
    "refresh": ("refresh",),
    "revoke": ("revoke", "--yes"),
    "status": ("status",),
    "history": ("history",),
    "keep-alive": ("keep-alive", "--within", "30d"),
    "notices list": ("notices", "list"),
    "notices retry": ("notices", "retry"),
    "doctor": ("doctor", "--json"),
    "keys generate": ("keys", "generate", "--reveal"),
    "keys add": ("keys", "add"),
    "keys seal": ("keys", "seal"),
    "keys drop": ("keys", "drop"),
    "store copy": ("store", "copy", "other.db", "--dry-run"),
    "store upgrade": ("store", "upgrade", "--yes"),
    "sandbox": ("sandbox", "--env"),
    "completion": ("completion", "bash"),
}
IDLE_LIFETIME = 29 * 86_400.0
"""An idle lifetime in seconds that is due for `keep-alive --within 30d`."""


def nothing_configured(harness: Harness) -> None:
    harness.clear()


def certificate_of_other_client(harness: Harness) -> None:
    variables = harness.sandbox.environment(OTHER_CLIENT)
    harness.configure(
        **{
            name: variables[f"BLINK_{name.upper()}"]
            for name in ("certificate", "key", "key_passphrase_file")
        }
    )


def certificate_missing(harness: Harness) -> None:
    harness.configure(certificate=str(harness.folder / "missing.pem"))


def passphrase_wrong(harness: Harness) -> None:
    file = harness.folder / "passphrase"
    file.write_text(PASSPHRASE, "utf-8")
    harness.configure(key_passphrase_file=str(file))


def platform_unavailable(harness: Harness) -> None:
    harness.configure(base_url="https://localhost:1/consent-flow/v2")


@contextmanager
def store_locked(harness: Harness) -> Iterator[None]:
    harness.monkeypatch.setattr(engines, "BUSY_TIMEOUT", 0.2)
    with closing(
        sqlite3.connect(harness.file, isolation_level=None, check_same_thread=False)
    ) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield


def schema_newer(harness: Harness) -> None:
    with closing(sqlite3.connect(harness.file)) as connection, connection:
        connection.execute("UPDATE blink_oauth_schema SET version = version + 1")


def key_wrong(harness: Harness) -> None:
    harness.keys.write_text(harness.run("keys", "generate", "--reveal").out, "ascii")


Condition = Callable[[Harness], AbstractContextManager[None] | None]
Case = tuple[ExitCode, str, str]
"""An exit code and a phrase of each line of the error; empty phrases mean no error."""

SUCCESS: Case = (DONE, "", "")
NO_GRANT: Case = (USAGE, "No grant given.", "TARGET/USERNAME")
NO_SANDBOX: Case = (USAGE, "No sandbox runs", "blink-oauth sandbox")
NO_ANSWER: Case = (FAILED, "did not come in time", "--timeout SECONDS")
NOT_REGISTERED: Case = (FAILED, "is not the one the certificate", "client id and its certificate")
STILL_VALID: Case = (FAILED, "refresh token was not revoked", "Run blink-oauth revoke again")
NO_FILE: Case = (USAGE, "missing.pem cannot be read", "blink-oauth doctor")
NOT_OPENED: Case = (USAGE, "passphrase does not open the key", "blink-oauth doctor")
REFUSED: Case = (FAILED, "no connection was made", "Nothing is spent. Check network")
BUSY: Case = (FAILED, "SQLITE_BUSY", "store is there and writable")
NEWER: Case = (FAILED, "this library supports versions up to", "Upgrade blink-oauth")
NO_KEY: Case = (FAILED, "is sealed with the key", "BLINK_STORE_KEYS_FILE")
REPORTED_IN_RESULT: Case = (FAILED, "", "")
"""`doctor`, `keep-alive` and `store copy` report the fault in their output."""

KEYS = ("keys add", "keys seal", "keys drop")
STORE = ("store copy", "store upgrade")
NOTICES = ("notices list", "notices retry")
OFFLINE = dict.fromkeys(
    ("status", "history", *NOTICES, "keys generate", *KEYS, *STORE, "completion"), SUCCESS
)
ONLINE = ("login", "login --code", "token", "refresh", "revoke", "keep-alive")
COMMON: dict[str, Case] = {"sandbox": NO_SANDBOX, "doctor": REPORTED_IN_RESULT, **OFFLINE}

TABLE: dict[Condition, dict[str, Case]] = {
    nothing_configured: COMMON
    | dict.fromkeys((*ONLINE, "history"), NO_GRANT)
    | {
        **dict.fromkeys(("status", *NOTICES), (USAGE, "client id is not known", "BLINK_CLIENT_ID")),
        "keep-alive": (USAGE, "BLINK_BASE_URL is not set", "nothing was sent"),
        **dict.fromkeys((*KEYS, *STORE), (USAGE, "There is no store", "--store (BLINK_STORE)")),
    },
    certificate_of_other_client: COMMON
    | {
        "login": NO_ANSWER,
        "login --code": NOT_REGISTERED,
        "token": SUCCESS,
        "refresh": NOT_REGISTERED,
        "revoke": STILL_VALID,
        "keep-alive": REPORTED_IN_RESULT,
    },
    certificate_missing: COMMON | dict.fromkeys(ONLINE, NO_FILE),
    passphrase_wrong: COMMON | dict.fromkeys(ONLINE, NOT_OPENED),
    platform_unavailable: COMMON
    | {
        "login": NO_ANSWER,
        "login --code": REFUSED,
        "token": SUCCESS,
        "refresh": REFUSED,
        "revoke": STILL_VALID,
        "keep-alive": REPORTED_IN_RESULT,
    },
    store_locked: COMMON
    | dict.fromkeys(("login --code", "refresh", "revoke", "keep-alive", "notices retry"), BUSY)
    | {"login": NO_ANSWER, "token": SUCCESS},
    schema_newer: COMMON
    | dict.fromkeys(
        (*ONLINE, *STORE, *NOTICES, "status", "history", "keys seal", "keys drop"), NEWER
    ),
    key_wrong: COMMON
    | dict.fromkeys(ONLINE, NO_KEY)
    | {
        "keep-alive": REPORTED_IN_RESULT,
        "store copy": REPORTED_IN_RESULT,
        "keys seal": (FAILED, "a key that is not given", "key back"),
        "keys drop": (FAILED, "sealed with another key than the first", "keys seal"),
    },
}
CASES = [
    pytest.param(condition, command, case, id=f"{command} with {condition.__name__}")
    for condition, row in TABLE.items()
    for command, case in row.items()
]


@pytest.fixture(scope="module")
def store_files() -> dict[str, bytes]:
    """Return a cache for the files of a store with a grant; a login for every case is slow."""
    return {}


@pytest.fixture
def due(harness: Harness, store_files: dict[str, bytes]) -> Harness:
    """Return a harness with a grant that is due; only the first test has it in the sandbox too."""
    if not store_files:
        harness.authorize(idle_lifetime=IDLE_LIFETIME)
        assert harness.run("store", "init", "--store", "other.db").code == 0
        store_files |= {path.name: path.read_bytes() for path in harness.folder.glob("*.db*")}
    for name, content in store_files.items():
        (harness.folder / name).write_bytes(content)
    return harness


def test_the_table_has_every_command_in_every_condition() -> None:
    assert [row.keys() - COMMANDS.keys() for row in TABLE.values()] == [set()] * len(TABLE)
    assert [COMMANDS.keys() - row.keys() for row in TABLE.values()] == [set()] * len(TABLE)


@pytest.mark.parametrize(("condition", "command", "case"), CASES)
def test_a_command_reports_the_fault_and_loses_nothing(
    due: Harness, condition: Condition, command: str, case: Case
) -> None:
    pair, secrets = due.pair(), due.secrets()
    right_keys = due.keys.read_text("ascii")
    with condition(due) or nullcontext():
        before = due.rows()
        secrets += due.keys.read_text("ascii").split()
        result = due.run(*COMMANDS[command])
    code, what, do = case
    assert result.code == code, (result.out, result.errors)
    if what or do:
        without_notes = without_login_notes if command == "login" else without_key_notes
        require_two_lines(without_notes(result), what, do)
        assert result.out == ""
    require_no_secret(result, secrets)
    require_plain(result)
    sends = condition in {certificate_of_other_client, platform_unavailable}
    if not (sends and command in RECORDING_FAILURES):
        assert due.rows() == before
    if condition is schema_newer:
        return
    if condition is key_wrong:
        due.keys.write_text(right_keys, "ascii")
    record = due.record()
    assert record.token == pair
    assert record.attempts == 0


RECORDING_FAILURES = {"login --code", "refresh", "revoke", "keep-alive"}
"""The commands that record a failed call in the store."""


def without_key_notes(result: CommandResult) -> CommandResult:
    """Return the result without the note about a new key."""
    lines = [line for line in result.errors.splitlines() if not line.startswith("A new key")]
    return CommandResult(result.code, result.out, "\n".join(lines))


def without_login_notes(result: CommandResult) -> CommandResult:
    """Return the result with the last two lines of standard error."""
    return CommandResult(result.code, result.out, "\n".join(result.errors.splitlines()[-2:]))


def require_plain(result: CommandResult) -> None:
    """Require output without escape sequences and tracebacks."""
    assert ESCAPE not in result.out + result.errors
    assert "Traceback" not in result.out + result.errors


@pytest.mark.parametrize(
    ("condition", "command"),
    [
        (nothing_configured, "login"),
        (certificate_of_other_client, "login --code"),
        (certificate_of_other_client, "revoke"),
        (passphrase_wrong, "token"),
        (platform_unavailable, "refresh"),
        (platform_unavailable, "doctor"),
        (schema_newer, "history"),
        (key_wrong, "token"),
    ],
)
def test_debug_prints_a_traceback_and_no_secret(
    due: Harness, condition: Condition, command: str
) -> None:
    secrets = due.secrets()
    assert condition(due) is None
    result = due.run(*COMMANDS[command], "--debug")
    code, what, _ = TABLE[condition][command]
    assert ("Traceback" in result.errors) == bool(what), code
    require_no_secret(result, secrets + due.keys.read_text("ascii").split())


def test_a_login_whose_pair_cannot_be_stored_is_an_error(harness: Harness) -> None:
    harness.authorize()
    pair = harness.pair()
    grant = harness.sandbox.grant()
    code = harness.sandbox.issue_code(grant)
    harness.monkeypatch.setattr(TokenManager.close, "__defaults__", (0.3,))
    with ExitStack() as stack:
        exchange_code = BlinkOAuth.exchange_code

        def lock_first(*args: Any, **options: Any) -> Token:
            stack.enter_context(store_locked(harness))
            return exchange_code(*args, **options)

        harness.monkeypatch.setattr(BlinkOAuth, "exchange_code", lock_first)
        harness.monkeypatch.setattr(engines, "BUSY_TIMEOUT", 0.2)
        result = harness.run(
            "login", "--code", code, "--redirect-uri", harness.sandbox.redirect_uri
        )
    assert result.code == UNCERTAIN
    assert result.out == ""
    require_two_lines(
        result, "could not be written to the store, and is lost", "blink-oauth doctor"
    )
    assert harness.pair() == pair
    require_no_secret(result, [code, *harness.secrets()])


def test_a_login_whose_store_cannot_be_opened_asks_for_no_consent(stored: Harness) -> None:
    key_wrong(stored)
    result = stored.run("login", "--no-browser", "--timeout", "1")
    assert result.code == FAILED
    require_two_lines(result, "is sealed with the key", "BLINK_STORE_KEYS_FILE")


def test_a_missing_key_does_not_count_as_a_needed_consent(stored: Harness) -> None:
    key_wrong(stored)
    result = stored.run("keep-alive")
    assert result.code == FAILED
    (last,) = [json.loads(line) for line in result.out.splitlines()]
    assert (last["customers_needed"], last["keys_missing"]) == (0, 1)
    assert "unreadable" in stored.run("status").out


def test_a_due_grant_that_no_key_opens_is_reported(due: Harness) -> None:
    key_wrong(due)
    result = due.run(*COMMANDS["keep-alive"])
    event, last = map(json.loads, result.out.splitlines())
    assert (event["event"], event["count"]) == ("store.unreadable", 1)
    assert (last["due"], last["unreadable"], last["keys_missing"]) == (0, 1, 1)
    assert (result.code, last["customers_needed"]) == (FAILED, 0)
    (status,) = due.run("status", "--json").json
    assert (status["state"], status["needs_consent"]) == ("unreadable", False)
