"""The desk at which each test of the command works."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blink_oauth.tls import ssl_context
from blink_oauth_testing.sandbox import Sandbox
from cli.cli_harness import CLIENT, OTHER_CLIENT, Desk


@pytest.fixture(scope="module")
def platform_of_module() -> Iterator[Sandbox]:
    """Run one platform for all tests of a module."""
    with Sandbox(clients=(CLIENT, OTHER_CLIENT)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def loaded_certificate(platform_of_module: Sandbox) -> ssl.SSLContext:
    """Load the client's certificate once."""
    return ssl_context(platform_of_module.client_certificate(), now=datetime.now(UTC))


@pytest.fixture
def desk(
    platform_of_module: Sandbox,
    loaded_certificate: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Desk:
    """Give a test a desk of its own, with nothing on it but the sandbox's environment."""
    platform_of_module.reset()
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    desk = Desk(platform_of_module, tmp_path, loaded_certificate, monkeypatch, capsys)
    desk.clear()
    desk.configure()
    return desk


@pytest.fixture
def stored(desk: Desk) -> Desk:
    """Give the same with a stored grant."""
    desk.authorize()
    return desk
