"""Every command in every condition: what it says, what it leaves, and that nothing is lost."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext

import pytest

from blink_oauth_cli.errors import ExitCode
from blink_oauth_keeper import TokenManager
from blink_oauth_keeper.store import sql_engine as engines
from cli.cli_harness import (
    CODE,
    ESCAPE,
    OTHER_CLIENT,
    PASSPHRASE,
    Desk,
    Seen,
    require_no_secret,
    require_two_lines,
)

DONE, FAILED, USAGE = ExitCode.DONE, ExitCode.FAILED, ExitCode.USAGE
PERSON, UNCERTAIN = ExitCode.PERSON_NEEDED, ExitCode.UNCERTAIN

COMMANDS = {
    "login": ("login", "--no-browser", "--timeout", "1"),
    "login --code": ("login", "--code", CODE, "--redirect-uri", "http://127.0.0.1/callback"),
    "token": ("token",),
    "refresh": ("refresh",),
    "revoke": ("revoke", "--yes"),
    "status": ("status",),
    "history": ("history",),
    "keep-alive": ("keep-alive", "--within", "30d"),
    "doctor": ("doctor", "--json"),
    "keys generate": ("keys", "generate", "--reveal"),
    "keys rotate": ("keys", "rotate"),
    "sandbox": ("sandbox", "--env"),
    "completion": ("completion", "bash"),
}
SOON = 29 * 86_400.0
"""Seconds of idle life that are due for `keep-alive --within 30d`."""


def nothing_configured(desk: Desk) -> None:
    desk.clear()


def certificate_of_another(desk: Desk) -> None:
    variables = desk.sandbox.environment(OTHER_CLIENT)
    desk.configure(
        **{
            name: variables[f"BLINK_{name.upper()}"]
            for name in ("certificate", "key", "key_passphrase_file")
        }
    )


def certificate_missing(desk: Desk) -> None:
    desk.configure(certificate=str(desk.folder / "missing.pem"))


def passphrase_wrong(desk: Desk) -> None:
    file = desk.folder / "passphrase"
    file.write_text(PASSPHRASE, "utf-8")
    desk.configure(key_passphrase_file=str(file))


def platform_down(desk: Desk) -> None:
    desk.configure(base_url="https://localhost:1/consent-flow/v2")


@contextmanager
def store_locked(desk: Desk) -> Iterator[None]:
    desk.monkeypatch.setattr(engines, "BUSY_TIMEOUT", 0.2)
    with closing(sqlite3.connect(desk.file, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        yield


def schema_newer(desk: Desk) -> None:
    with closing(sqlite3.connect(desk.file)) as connection, connection:
        connection.execute("UPDATE blink_oauth_schema SET version = version + 1")


def key_wrong(desk: Desk) -> None:
    desk.keys.write_text(desk.run("keys", "generate", "--reveal").out, "ascii")


Condition = Callable[[Desk], AbstractContextManager[None] | None]
Case = tuple[ExitCode, str, str]
"""An exit code, a phrase of what happened, and a phrase of what to do; no error without phrases."""

FINE: Case = (DONE, "", "")
NO_GRANT: Case = (USAGE, "not said which grant", "TARGET/USERNAME")
NO_SANDBOX: Case = (USAGE, "No sandbox runs", "blink-oauth sandbox")
NO_ANSWER: Case = (FAILED, "did not come in time", "--timeout SECONDS")
NOT_REGISTERED: Case = (FAILED, "is not the one the certificate", "client id and its certificate")
STILL_ALIVE: Case = (FAILED, "refresh token is still alive", "Run blink-oauth revoke again")
NO_FILE: Case = (USAGE, "missing.pem cannot be read", "blink-oauth doctor")
NOT_OPENED: Case = (USAGE, "passphrase does not open the key", "blink-oauth doctor")
REFUSED: Case = (FAILED, "no response", "Nothing is spent. Check network")
BUSY: Case = (FAILED, "SQLITE_BUSY", "Nothing was sent.")
NEWER: Case = (FAILED, "this library knows no more than version", "Upgrade blink-oauth")
NO_KEY: Case = (FAILED, "is sealed with the key", "BLINK_STORE_KEYS_FILE")
FOUND: Case = (FAILED, "", "")
"""Doctor and keep-alive say it in their result."""

OFFLINE = dict.fromkeys(("status", "history", "keys generate", "keys rotate", "completion"), FINE)
ONLINE = ("login", "login --code", "token", "refresh", "revoke", "keep-alive")
COMMON: dict[str, Case] = {"sandbox": NO_SANDBOX, "doctor": FOUND, **OFFLINE}

TABLE: dict[Condition, dict[str, Case]] = {
    nothing_configured: COMMON
    | dict.fromkeys((*ONLINE, "history"), NO_GRANT)
    | {
        "status": (USAGE, "client id is not known", "BLINK_CLIENT_ID"),
        "keep-alive": (USAGE, "BLINK_BASE_URL is not set", "nothing was sent"),
    },
    certificate_of_another: COMMON
    | {
        "login": NO_ANSWER,
        "login --code": NOT_REGISTERED,
        "token": FINE,
        "refresh": NOT_REGISTERED,
        "revoke": STILL_ALIVE,
        "keep-alive": FOUND,
    },
    certificate_missing: COMMON | dict.fromkeys(ONLINE, NO_FILE),
    passphrase_wrong: COMMON | dict.fromkeys(ONLINE, NOT_OPENED),
    platform_down: COMMON
    | {
        "login": NO_ANSWER,
        "login --code": REFUSED,
        "token": FINE,
        "refresh": REFUSED,
        "revoke": STILL_ALIVE,
        "keep-alive": FOUND,
    },
    store_locked: COMMON
    | dict.fromkeys(("refresh", "revoke", "keep-alive", "keys rotate"), BUSY)
    | {
        "login": NO_ANSWER,
        "login --code": (PERSON, "", "blink-oauth login"),
        "token": FINE,
    },
    schema_newer: COMMON | dict.fromkeys((*ONLINE, "status", "history", "keys rotate"), NEWER),
    key_wrong: COMMON
    | dict.fromkeys(ONLINE, NO_KEY)
    | {"keep-alive": FOUND, "keys rotate": (FAILED, "a key that is not given", "key back")},
}
CASES = [
    pytest.param(condition, command, case, id=f"{command} with {condition.__name__}")
    for condition, row in TABLE.items()
    for command, case in row.items()
]


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    """Keep the files of a store with a grant: to log in for every case would take long."""
    return {}


@pytest.fixture
def idle(desk: Desk, files: dict[str, bytes]) -> Desk:
    """Give a desk with a grant that is due to be kept alive; the platform has forgotten it."""
    if not files:
        desk.authorize(idle_lifetime=SOON)
        files |= {path.name: path.read_bytes() for path in (desk.file, desk.keys)}
    for name, content in files.items():
        (desk.folder / name).write_bytes(content)
    return desk


def test_every_command_is_tried_in_every_condition() -> None:
    assert [row.keys() - COMMANDS.keys() for row in TABLE.values()] == [set()] * len(TABLE)
    assert [COMMANDS.keys() - row.keys() for row in TABLE.values()] == [set()] * len(TABLE)


@pytest.mark.parametrize(("condition", "command", "case"), CASES)
def test_a_command_says_what_is_wrong_and_loses_nothing(
    idle: Desk, condition: Condition, command: str, case: Case
) -> None:
    pair, secrets = idle.pair(), idle.secrets()
    right_keys = idle.keys.read_text("ascii")
    with condition(idle) or nullcontext():
        before = idle.rows()
        secrets += idle.keys.read_text("ascii").split()
        seen = idle.run(*COMMANDS[command])
    code, what, do = case
    assert seen.code == code, (seen.out, seen.errors)
    if what or do:
        require_two_lines(last_two(seen) if command == "login" else told(seen), what, do)
        assert seen.out == ""
    require_no_secret(seen, secrets)
    require_plain(seen)
    if command == "keys rotate" and code == DONE:
        assert idle.pair() == pair
        return
    if condition not in {certificate_of_another, platform_down} or command not in SENDING:
        assert idle.rows() == before
    if condition is schema_newer:
        return
    if condition is key_wrong:
        idle.keys.write_text(right_keys, "ascii")
    kept = idle.record()
    assert kept.token == pair
    assert kept.attempts == 0


SENDING = {"login --code", "refresh", "revoke", "keep-alive"}
"""What writes down that a call failed."""


def told(seen: Seen) -> Seen:
    """Return what was seen without the notes that a key was made."""
    lines = [line for line in seen.errors.splitlines() if not line.startswith("A new key")]
    return Seen(seen.code, seen.out, "\n".join(lines))


def last_two(seen: Seen) -> Seen:
    """Return what was seen without what a login tells before it waits."""
    return Seen(seen.code, seen.out, "\n".join(seen.errors.splitlines()[-2:]))


def require_plain(seen: Seen) -> None:
    """Fail on colours and tracebacks where no terminal is."""
    assert ESCAPE not in seen.out + seen.errors
    assert "Traceback" not in seen.out + seen.errors


@pytest.mark.parametrize(
    ("condition", "command"),
    [
        (nothing_configured, "login"),
        (certificate_of_another, "login --code"),
        (certificate_of_another, "revoke"),
        (passphrase_wrong, "token"),
        (platform_down, "refresh"),
        (platform_down, "doctor"),
        (schema_newer, "history"),
        (key_wrong, "token"),
    ],
)
def test_debug_shows_where_it_arose_and_no_secret(
    idle: Desk, condition: Condition, command: str
) -> None:
    pair = idle.secrets()
    assert condition(idle) is None
    seen = idle.run(*COMMANDS[command], "--debug")
    code, what, _ = TABLE[condition][command]
    assert ("Traceback" in seen.errors) == bool(what), code
    require_no_secret(seen, pair + idle.keys.read_text("ascii").split())


def test_a_pair_that_the_store_never_took_is_not_called_stored(desk: Desk) -> None:
    desk.authorize()
    pair = desk.pair()
    grant = desk.sandbox.grant()
    code = desk.sandbox.issue_code(grant)
    desk.monkeypatch.setattr(TokenManager.close, "__defaults__", (0.3,))
    with store_locked(desk):
        seen = desk.run("login", "--code", code, "--redirect-uri", desk.sandbox.redirect_uri)
    assert seen.code == UNCERTAIN
    assert seen.out == ""
    require_two_lines(seen, "could not be written to the store, and is lost", "blink-oauth doctor")
    assert desk.pair() == pair
    require_no_secret(seen, [code, *desk.secrets()])


def test_nobody_is_asked_for_a_consent_that_cannot_be_stored(stored: Desk) -> None:
    key_wrong(stored)
    seen = stored.run("login", "--no-browser", "--timeout", "1")
    assert seen.code == FAILED
    require_two_lines(seen, "is sealed with the key", "BLINK_STORE_KEYS_FILE")


def test_a_missing_key_is_no_reason_to_trouble_a_customer(stored: Desk) -> None:
    key_wrong(stored)
    seen = stored.run("keep-alive")
    assert seen.code == FAILED
    (last,) = [json.loads(line) for line in seen.out.splitlines()]
    assert (last["customers_needed"], last["keys_missing"]) == (0, 1)
    assert "active, key missing" in stored.run("status").out
