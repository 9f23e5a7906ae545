"""A setup without faults of everything that `doctor` checks."""

from __future__ import annotations

import os
import sqlite3
import ssl
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

from attrs import evolve, field, frozen
from sqlalchemy import Engine, create_engine

from blink_oauth import ClientCertificate, Grant, Settings, Timeouts, Token
from blink_oauth.tokens import utc_now
from blink_oauth_cli.check import Check
from blink_oauth_cli.checks_network import call_checks
from blink_oauth_cli.doctor import run_checks
from blink_oauth_keeper import GrantKey, Note, SqlTokenStore
from blink_oauth_testing.sandbox import Credentials, Sandbox
from wire.certificates import files

CLIENT, TARGET = "CIDX0000000002", "IIDX00001"
KEY, OTHER_KEY = SqlTokenStore.new_key(), SqlTokenStore.new_key()
ACCESS, REFRESH = "fake-access-token-1", "fake-refresh-token-1"
SHORT_TIMEOUTS = Timeouts(connect=0.2, read=0.2, write=0.2, total=0.5)
"""For servers that do not respond."""


@frozen
class Harness:
    """A sandbox, a folder and a store with one token in it.

    Args:
        sandbox: The platform.
        folder: The test's temporary folder.
        context: The TLS context of the client's certificate; checking and loading a key is slow.
        stack: Closes the resources of a fault.
    """

    sandbox: Sandbox
    folder: Path
    context: ssl.SSLContext
    stack: ExitStack
    path: Path = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "path", self.folder / "tokens.db")

    def fill_store(self, *keys: Any, username: str = "u-4711") -> None:
        """Create the store, and put a token into it."""
        store = SqlTokenStore(f"sqlite:///{self.path}", keys=keys or [KEY])
        store.put(
            GrantKey(CLIENT, Grant(TARGET, username)),
            Token(access_token=ACCESS, refresh_token=REFRESH),
            issued_at=datetime.now(UTC),
            idle_until=None,
            note=Note(event="put"),
        )
        store.close()

    def open_store_with(self, *keys: Any) -> Callable[[], SqlTokenStore]:
        """Return a function that opens the store with these keys."""
        return lambda: SqlTokenStore(f"sqlite:///{self.path}", keys=keys)

    def engine(self, *, timeout: float = 0.0, read_only: bool = False) -> Engine:
        """Return an engine for the store's file; by default it does not wait for locks."""
        uri = f"file:{self.path}" + ("?mode=ro" if read_only else "")
        engine = create_engine(
            f"sqlite:///{self.path}",
            creator=lambda: sqlite3.connect(
                uri, uri=True, timeout=timeout, check_same_thread=False
            ),
        )
        self.stack.callback(engine.dispose)
        return engine

    def certificate(self, credentials: Credentials) -> ClientCertificate:
        """Write a client certificate to the folder, with the sandbox's authority."""
        return files(credentials, self.folder, self.sandbox.authority.root_pem)

    def settings(self, **changes: Any) -> Settings:
        """Return the settings of the sandbox's client, with changes."""
        return evolve(self.sandbox.settings(certificate=self.context), **changes)

    def checks(self, **changes: Any) -> dict[str, Check]:
        """Run the checks with changed arguments, and return them by their names."""
        arguments: dict[str, Any] = {
            "settings": None,
            "environment": "test",
            "target_id": TARGET,
            "username": "u-4711",
            "lease": 25.0,
            "open_store": self.open_store_with(KEY),
            "store_path": self.path,
            "free_bytes": lambda folder: 10**9,
        } | changes
        settings = arguments.pop("settings") or self.settings()
        return by_name(run_checks(settings, **arguments), settings)

    def checks_of_call(self, **changes: Any) -> dict[str, Check]:
        """Run the checks of the call alone, with changed settings, and return them by name."""
        settings = self.settings(**changes)
        found = call_checks(settings, TARGET, "u-4711", utc_now, token_hex, reached=True)
        return by_name(found, settings)


def by_name(checks: Iterable[Check], settings: Settings) -> dict[str, Check]:
    """Return checks by their names, which differ; no check shows a secret."""
    found = list(checks)
    assert len({check.name for check in found}) == len(found)
    assert_no_secret(found, settings)
    return {check.name: check for check in found}


def assert_no_secret(checks: list[Check], settings: Settings) -> None:
    """Require that no check shows a token, a key or a passphrase."""
    shown = repr(checks)
    secrets = [ACCESS, REFRESH, KEY.reveal(), OTHER_KEY.reveal(), "not-a-token"]
    certificate = settings.certificate
    if isinstance(certificate, ClientCertificate) and certificate.passphrase is not None:
        secrets.append(certificate.passphrase.reveal())
    assert not [secret for secret in secrets if secret in shown]


def make_world_readable(path: Path) -> Path:
    """Make a file readable for every user, and return its path."""
    os.chmod(path, 0o644)  # noqa: PTH101
    return path
