"""The connections of the shared clients: how many there are, and which request gets one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from typing import Any

import httpx
import pytest

from blink_oauth import BlinkOAuth, InvalidInputError, Settings, Timeouts
from blink_oauth_keeper import MemoryTokenStore, TokenManager
from blink_oauth_testing.sandbox import Sandbox
from keeper.harness import PSU
from wire.connect_proxy import running_proxy
from wire.counting_server import CountingServer, counting_server, refresh_token_of
from wire.harness import wait_until

PATIENCE = 30.0
PATIENT = Timeouts(pool=PATIENCE, read=PATIENCE)
SHORT = Timeouts(pool=0.05, read=PATIENCE)
Open = Callable[..., TokenManager]


@pytest.fixture
def open_manager(blink_sandbox: Sandbox) -> Iterator[Open]:
    """Return a function that makes a manager with changed settings."""
    with ExitStack() as stack:

        def make(settings: Settings | None = None, **changes: Any) -> TokenManager:
            blink = stack.enter_context(BlinkOAuth(settings or blink_sandbox.settings(**changes)))
            return stack.enter_context(TokenManager(blink, MemoryTokenStore()))

        yield make


@pytest.fixture
def server() -> Iterator[CountingServer]:
    """Yield a server that counts its connections."""
    with counting_server() as server:
        yield server


@pytest.fixture
def other() -> Iterator[CountingServer]:
    """Yield a server at another port."""
    with counting_server() as server:
        yield server


@pytest.fixture
def switching_often() -> Iterator[None]:
    """Let the interpreter switch between threads after each microsecond."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def form(name: str) -> dict[str, str]:
    """Return the form of a request, by which the server knows its name."""
    return {"refresh_token": refresh_token_of(name).reveal()}


@pytest.mark.usefixtures("switching_often")
def test_more_threads_than_connections_disturb_no_request(
    open_manager: Open, server: CountingServer, other: CountingServer
) -> None:
    client = open_manager(max_connections=4, timeouts=PATIENT).client()
    servers = [server, other]

    def post(number: int) -> bool:
        response = client.post(servers[number % 2].base_url, data=form(f"{number}"))
        return str(response.json()["access_token"]).endswith(f"-{number}")

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(post, range(1000)))
    assert server.open + other.open <= 4


def test_more_tasks_than_connections_disturb_no_request_though_some_are_cancelled(
    open_manager: Open, server: CountingServer, other: CountingServer
) -> None:
    manager = open_manager(max_connections=2, timeouts=PATIENT)
    urls, numbers = [server.base_url, other.base_url], count()

    async def post() -> int:
        number = next(numbers)
        data = form(f"{number}")
        return (await manager.async_client().post(urls[number % 2], data=data)).status_code

    async def cancelled(suspensions: int) -> None:
        task = asyncio.create_task(post())
        for _ in range(suspensions):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    async def run() -> list[int]:
        for round_ in range(10):
            await asyncio.gather(*(cancelled(number + round_) for number in range(8)))
        return await asyncio.gather(*(post() for _ in range(8)))

    assert asyncio.run(run()) == [200] * 8


def test_a_response_occupies_its_connection_until_it_is_closed(
    open_manager: Open, server: CountingServer
) -> None:
    client = open_manager(max_connections=1, timeouts=SHORT).client()
    streamed = client.stream("POST", server.base_url, data=form("streamed"))
    with streamed, pytest.raises(httpx.PoolTimeout):
        client.post(server.base_url, data=form("too soon"))
    with pytest.raises(KeyError), client.stream("POST", server.base_url, data=form("failed")):
        raise KeyError
    with pytest.raises(httpx.ConnectError):
        client.post("http://127.0.0.1:1/")
    assert client.post(server.base_url, data=form("after")).status_code == 200
    assert [name for name, _ in server.requests] == ["streamed", "failed", "after"]


def test_an_asynchronous_response_occupies_its_connection_until_it_is_closed(
    open_manager: Open, server: CountingServer
) -> None:
    manager = open_manager(max_connections=1, timeouts=SHORT)

    async def run() -> None:
        client = manager.async_client()
        async with client.stream("POST", server.base_url, data=form("streamed")):
            with pytest.raises(httpx.PoolTimeout):
                await client.post(server.base_url, data=form("too soon"))
        with pytest.raises(KeyError):
            async with client.stream("POST", server.base_url, data=form("failed")):
                raise KeyError
        with pytest.raises(httpx.ConnectError):
            await client.post("http://127.0.0.1:1/")
        assert (await client.post(server.base_url, data=form("after"))).status_code == 200

    asyncio.run(run())
    assert [name for name, _ in server.requests] == ["streamed", "failed", "after"]


def test_all_origins_share_the_limit(
    open_manager: Open, server: CountingServer, other: CountingServer
) -> None:
    client = open_manager(max_connections=2, timeouts=PATIENT).client()
    with client.stream("POST", server.base_url, data=form("1")) as first:
        client.post(server.base_url, data=form("2")).raise_for_status()
        first.read()
    client.post(other.base_url, data=form("3")).raise_for_status()
    # The connection that was idle for the longest time was closed.
    wait_until(lambda: server.ended == {1})
    client.post(server.base_url, data=form("4")).raise_for_status()
    client.post(other.base_url, data=form("5")).raise_for_status()
    assert server.connections_of("1", "2", "4") == [0, 1, 0]
    assert other.connections_of("3", "5") == [0, 0]


def test_connections_that_are_idle_for_too_long_are_closed(
    open_manager: Open, server: CountingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_manager(timeouts=PATIENT).client()
    with client.stream("POST", server.base_url, data=form("1")) as first:
        client.post(server.base_url, data=form("2")).raise_for_status()
        first.read()
    monkeypatch.setattr("blink_oauth_keeper.api_clients.KEEPALIVE_SECONDS", -1.0)
    client.post(server.base_url, data=form("3")).raise_for_status()
    wait_until(lambda: server.ended == {0, 1})
    assert server.connections_of("3") == [2]


def test_a_thread_that_waits_when_the_manager_is_closed_sends_nothing(
    open_manager: Open, server: CountingServer
) -> None:
    manager = open_manager(max_connections=1, timeouts=PATIENT)
    client = manager.client()
    with ThreadPoolExecutor(1) as threads:
        with client.stream("POST", server.base_url, data=form("streamed")):
            waiting = threads.submit(client.post, server.base_url, data=form("waiting"))
            manager.close()
        with pytest.raises(InvalidInputError, match="The manager is closed"):
            waiting.result(PATIENCE)
    assert [name for name, _ in server.requests] == ["streamed"]
    wait_until(lambda: server.open == 0)


def test_more_threads_than_connections_share_the_tunnels_of_a_proxy(
    open_manager: Open, blink_sandbox: Sandbox
) -> None:
    grant = blink_sandbox.grant()
    with running_proxy() as proxy:
        manager = open_manager(proxy=proxy.url(), max_connections=2, timeouts=PATIENT)
        code = blink_sandbox.issue_code(grant)
        manager.authorize(grant, code=code, redirect_uri=blink_sandbox.redirect_uri, psu=PSU)
        proxy.heads.clear()
        client, auth = manager.client(), manager.auth(grant, psu=PSU)

        def get(_: int) -> int:
            return client.get(blink_sandbox.accounts_url, auth=auth).status_code

        with ThreadPoolExecutor(6) as threads:
            assert list(threads.map(get, range(30))) == [200] * 30
        assert len(proxy.heads) <= 2
        manager.close()
