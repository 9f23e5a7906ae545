"""The harness of each test of the command."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blink_oauth.tls import ssl_context
from blink_oauth_testing.sandbox import Sandbox
from cli.cli_harness import CLIENT, OTHER_CLIENT, Harness


@pytest.fixture(scope="module")
def platform_of_module() -> Iterator[Sandbox]:
    """Run one sandbox for all tests of a module."""
    with Sandbox(clients=(CLIENT, OTHER_CLIENT)) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def loaded_certificate(platform_of_module: Sandbox) -> ssl.SSLContext:
    """Load the client's certificate once per module."""
    return ssl_context(platform_of_module.client_certificate(), now=datetime.now(UTC))


@pytest.fixture
def harness(
    platform_of_module: Sandbox,
    loaded_certificate: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Harness:
    """Return a harness with the sandbox's environment and an empty folder."""
    platform_of_module.reset()
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    harness = Harness(platform_of_module, tmp_path, loaded_certificate, monkeypatch, capsys)
    harness.clear()
    harness.configure()
    return harness


@pytest.fixture
def stored(harness: Harness) -> Harness:
    """Return a harness with a stored grant."""
    harness.authorize()
    return harness
