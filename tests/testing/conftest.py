"""One sandbox for all tests of this folder, reset for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from blink_oauth_testing.sandbox import Sandbox
from testing.raw_client import CLIENT_ID, RawClient

OTHER_CLIENT_ID = "CIDX0000000003"


@pytest.fixture(scope="session")
def server() -> Iterator[Sandbox]:
    with Sandbox(clients=(CLIENT_ID, OTHER_CLIENT_ID)) as running:
        yield running


@pytest.fixture
def sandbox(server: Sandbox) -> Iterator[Sandbox]:
    server.reset()
    yield server
    server.require_no_violations()
    server.reset()


@pytest.fixture
def client(sandbox: Sandbox) -> Iterator[RawClient]:
    client = RawClient(sandbox)
    yield client
    client.close()


@pytest.fixture
def other_client(sandbox: Sandbox) -> Iterator[RawClient]:
    client = RawClient(sandbox, OTHER_CLIENT_ID)
    yield client
    client.close()
