"""The harness of the tests of the command: a folder, environment variables, a store."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from attrs import define, frozen

from blink_oauth import BlinkOAuth, Psu, Token
from blink_oauth_cli.main import run
from blink_oauth_cli.sandbox import environment
from blink_oauth_keeper import GrantKey, Record, SqlTokenStore, TargetProfile, TokenManager
from blink_oauth_testing.sandbox import Sandbox
from wrapper.leaks import found

CLIENT, OTHER_CLIENT = "CIDX0000000002", "CIDX0000000003"
TARGET, USERNAME = "IIDX00001", "u-4711"
GRANT = f"{TARGET}/{USERNAME}"
CODE = "fake-code-4711"
PASSPHRASE = "fake-passphrase-4711"
ESCAPE = "\x1b"


@frozen
class CommandResult:
    """The exit code of a command and the text of its two output streams."""

    code: int
    out: str
    errors: str

    @property
    def json(self) -> Any:
        """Standard output, parsed as JSON."""
        return json.loads(self.out)


@define(eq=False)
class Harness:
    """Runs the command in a folder of its own, and reads its store.

    Args:
        sandbox: The platform.
        folder: The working folder, which is also the home and the folder of the store.
        context: The TLS context of the client's certificate; loading a key is slow.
        monkeypatch: Sets environment variables until the test ends.
        capture: Captures the output.
    """

    sandbox: Sandbox
    folder: Path
    context: ssl.SSLContext
    monkeypatch: pytest.MonkeyPatch
    capture: pytest.CaptureFixture[str]

    @property
    def file(self) -> Path:
        """The store's file."""
        return self.folder / "tokens.db"

    @property
    def keys(self) -> Path:
        """The file of the store's keys."""
        return self.folder / "tokens.db.keys"

    def configure(self, **changes: str | None) -> None:
        """Set the sandbox's variables, with changes by the keys of the configuration file."""
        values: dict[str, str | None] = dict(environment(self.sandbox))
        values["BLINK_STORE"] = str(self.file)
        values |= {f"BLINK_{name.upper()}": value for name, value in changes.items()}
        for name, value in values.items():
            if value is None:
                self.monkeypatch.delenv(name, raising=False)
            else:
                self.monkeypatch.setenv(name, value)

    def clear(self) -> None:
        """Delete every variable of the command."""
        for name in [name for name in os.environ if name.startswith("BLINK_")]:
            self.monkeypatch.delenv(name)

    def run(self, *words: str) -> CommandResult:
        """Run a command in this process."""
        self.capture.readouterr()
        code = run(words)
        out, errors = self.capture.readouterr()
        return CommandResult(code, out, errors)

    def authorize(self, *usernames: str, **profile: Any) -> None:
        """Store a grant of each username, or of `USERNAME`, as a login would."""
        if not self.keys.exists():
            assert self.run("store", "init").code == 0
        with (
            BlinkOAuth(self.sandbox.settings(certificate=self.context)) as blink,
            self.open_store() as store,
            TokenManager(blink, store, profile=TargetProfile(**profile)) as manager,
        ):
            for username in usernames or (USERNAME,):
                grant = self.sandbox.grant(username=username)
                manager.authorize(
                    grant,
                    code=self.sandbox.issue_code(grant),
                    redirect_uri=self.sandbox.redirect_uri,
                    psu=Psu.AUTO,
                )

    @contextmanager
    def open_store(self) -> Iterator[SqlTokenStore]:
        """Open the store without the command."""
        keys = self.keys.read_text("ascii").split()
        store = SqlTokenStore(f"sqlite:///{self.file}", keys=keys)
        try:
            yield store
        finally:
            store.close()

    def record(self) -> Record:
        """Return the record of the grant."""
        with self.open_store() as store:
            record = store.load(GrantKey(CLIENT, self.sandbox.grant()))
        assert record is not None
        return record

    def pair(self) -> Token:
        """Return the stored pair."""
        token = self.record().token
        assert token is not None
        return token

    def rows(self) -> list[tuple[object, ...]]:
        """Return every row of every table of the store."""
        with closing(sqlite3.connect(self.file)) as connection:
            query = "SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name"
            tables = [name for (name,) in connection.execute(query)]
            return [
                (table, *row)
                for table in tables
                for row in connection.execute(f"SELECT * FROM {table}")
            ]

    def secrets(self) -> list[str]:
        """Return every secret of this harness: tokens, keys, the code and the passphrase."""
        pair = self.pair()
        known = [pair.access_token.reveal(), CODE, PASSPHRASE]
        known += [pair.refresh_token.reveal()] if pair.refresh_token else []
        return known + self.keys.read_text("ascii").split()


def require_two_lines(result: CommandResult, what: str = "", do: str = "") -> None:
    """Require the two lines of an error: what happened, and what to do."""
    lines = result.errors.splitlines()
    assert len(lines) == 2, result.errors
    assert lines[0].startswith("Error: ")
    assert lines[1].startswith("→ ")
    assert what in lines[0], lines[0]
    assert do in lines[1], lines[1]


def require_no_secret(result: CommandResult, secrets: list[str]) -> None:
    """Require that the output contains no secret; the failure does not show the secret."""
    assert found(secrets, [("result", result.out), ("errors", result.errors)]) == []


def plain(text: str) -> str:
    """Return a text without terminal escape sequences."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
