"""The setup without faults that each test of `doctor` starts from."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blink_oauth.tls import ssl_context
from blink_oauth_testing.sandbox import Sandbox
from cli.doctor.harness import Harness


@pytest.fixture(scope="session")
def contexts() -> dict[str, ssl.SSLContext]:
    """Return a cache for the TLS context of each sandbox; loading a key is slow."""
    return {}


@pytest.fixture
def harness_without_store(
    blink_sandbox: Sandbox, tmp_path: Path, contexts: dict[str, ssl.SSLContext]
) -> Iterator[Harness]:
    """Yield a setup without faults, for checks that do not read the store."""
    url = blink_sandbox.base_url
    if url not in contexts:
        contexts[url] = ssl_context(blink_sandbox.client_certificate(), now=datetime.now(UTC))
    with ExitStack() as stack:
        yield Harness(blink_sandbox, tmp_path, contexts[url], stack)


@pytest.fixture
def harness(harness_without_store: Harness) -> Harness:
    """Return a setup without faults, with a token in its store."""
    harness_without_store.fill_store()
    return harness_without_store
