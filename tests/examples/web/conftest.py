"""The applications of the examples, each on the sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blink_oauth_cli.sandbox import environment
from blink_oauth_keeper import SqlTokenStore
from blink_oauth_testing import Sandbox
from examples.web.harness import APPLICATIONS, Application


@pytest.fixture(params=APPLICATIONS, ids=lambda each: each.__name__)
def application(
    request: pytest.FixtureRequest,
    blink_sandbox: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Application]:
    """Run an application in this process, on the clock of the sandbox."""
    (tmp_path / "tokens.db.keys").write_text(SqlTokenStore.new_key().reveal())
    variables = environment(blink_sandbox) | {
        "BLINK_STORE": str(tmp_path / "tokens.db"),
        "APP_SECRET": "fake-secret-of-the-application",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with request.param(blink_sandbox, monkeypatch) as send:
        yield Application(send, blink_sandbox, tmp_path / "tokens.db")
