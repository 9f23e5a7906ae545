"""Settings of every test: only loopback is contacted, and generated examples are deterministic.

No SQLite file stays open after a test: Python 3.13 and newer would complain of it in another test,
when the garbage collector finds the connection.
"""

from __future__ import annotations

import ipaddress
import socket
import sys
from collections.abc import Generator

import hypothesis
import pytest
from sqlalchemy import Connection, event
from sqlalchemy.engine import Engine
from sqlalchemy.pool import Pool

hypothesis.settings.register_profile("deterministic", derandomize=True, deadline=None)
hypothesis.settings.load_profile("deterministic")


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Run asynchronous tests under asyncio alone."""
    return "asyncio"


def is_loopback(host: object) -> bool:
    """Return whether a host is on this machine; the empty host of a listening socket is."""
    text = host.decode("ascii") if isinstance(host, bytes) else str(host or "localhost")
    try:
        return ipaddress.ip_address(text).is_loopback
    except ValueError:
        return text == "localhost"


def refuse_the_network(event: str, arguments: tuple[object, ...]) -> None:
    """Fail each look-up of and connection to another machine, as if the host did not exist."""
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    else:
        return
    if not is_loopback(host):
        raise socket.gaierror(socket.EAI_NONAME, f"tests contact loopback only, not {host!r}")


# An audit hook covers every socket, also in threads and libraries. It cannot be removed.
sys.addaudithook(refuse_the_network)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let `-k "not postgres"` leave out each test that uses a PostgreSQL, whatever its name is."""
    for item in items:
        if isinstance(item, pytest.Function) and "postgres" in item.fixturenames:
            item.extra_keyword_matches.add("postgres")


pools: set[Pool] = set()


@event.listens_for(Engine, "engine_connect")
def remember_the_pool(connection: Connection) -> None:
    """Remember the pool of each SQLite connection that a test uses."""
    if connection.dialect.name == "sqlite":
        pools.add(connection.engine.pool)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None, object, object]:
    """Close the connections of stores that a test has left open."""
    try:
        return (yield)
    finally:
        while pools:
            pools.pop().dispose()
