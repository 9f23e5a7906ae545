"""One sandbox for all tests of this folder, forgetful between them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from blink_oauth_testing.sandbox import Sandbox
from testing.caller import CLIENT_ID, Caller

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
def caller(sandbox: Sandbox) -> Iterator[Caller]:
    calling = Caller(sandbox)
    yield calling
    calling.close()


@pytest.fixture
def other_caller(sandbox: Sandbox) -> Iterator[Caller]:
    calling = Caller(sandbox, OTHER_CLIENT_ID)
    yield calling
    calling.close()
