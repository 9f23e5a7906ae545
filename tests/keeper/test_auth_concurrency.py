"""`GrantAuth` holds no lock during a request, and a cancelled request stops no refresh."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from attrs import define, field

from blink_oauth import Grant, Psu
from blink_oauth_keeper import EventName
from blink_oauth_keeper.auth import GrantAuth
from keeper.bank_api import URL, BankApi, unauthorized
from keeper.harness import PSU, TARGET, TIMEOUT, Gate, Harness, wait_until

SLOW, FAST = f"{URL}?slow", URL


@define(eq=False)
class SlowApi(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Responds at once, but to slow requests only after `go_on` is set."""

    waiting: threading.Event = field(factory=threading.Event)
    go_on: threading.Event = field(factory=threading.Event)
    refusals: int = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if "slow" in str(request.url):
            self.waiting.set()
            assert self.go_on.wait(TIMEOUT), "the test did not set go_on"
        return self._respond()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "slow" in str(request.url):
            self.waiting.set()
            assert await asyncio.to_thread(self.go_on.wait, TIMEOUT), "the test did not set go_on"
        return self._respond()

    def _respond(self) -> httpx.Response:
        if self.refusals:
            self.refusals -= 1
            return unauthorized()
        return httpx.Response(200)


@pytest.fixture
def api() -> Iterator[SlowApi]:
    """Yield an API, then let its requests go on."""
    api = SlowApi()
    yield api
    api.go_on.set()


def assert_other_callers_are_served(harness: Harness, grant: Grant, auth: GrantAuth) -> None:
    """Check that this thread, another thread and another event loop get tokens and responses."""
    other = httpx.Client(auth=auth, transport=BankApi())
    assert other.get(FAST).status_code == 200
    assert harness.in_thread(lambda: harness.manager.get(grant)).result(TIMEOUT)

    async def in_a_loop() -> int:
        async with httpx.AsyncClient(auth=auth, transport=BankApi()) as client:
            await harness.manager.aget(grant)
            return (await client.get(FAST)).status_code

    assert harness.in_thread(lambda: asyncio.run(in_a_loop())).result(TIMEOUT) == 200


def test_a_request_in_progress_blocks_no_other_caller(harness: Harness, api: SlowApi) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    with httpx.Client(auth=auth, transport=api) as client:
        slow = harness.in_thread(lambda: client.get(SLOW))
        assert api.waiting.wait(TIMEOUT)
        assert client.get(FAST).status_code == 200
        assert_other_callers_are_served(harness, grant, auth)
        assert not slow.done()
        api.go_on.set()
        assert slow.result(TIMEOUT).status_code == 200


def test_a_second_request_can_refresh_the_token_while_the_first_is_in_progress(
    harness: Harness, api: SlowApi
) -> None:
    grant = harness.authorize()
    harness.advance(120)
    auth = harness.manager.auth(grant, psu=PSU)
    with httpx.Client(auth=auth, transport=api) as client:
        slow = harness.in_thread(lambda: client.get(SLOW))
        assert api.waiting.wait(TIMEOUT)
        api.refusals = 1
        assert client.get(FAST).status_code == 200
        assert harness.record(grant).generation == 2
        # The slow request had the old token. It uses the new one and starts no second refresh.
        api.refusals = 1
        api.go_on.set()
        assert slow.result(TIMEOUT).status_code == 200
    assert harness.record(grant).generation == 2


@pytest.mark.anyio
async def test_a_request_in_progress_does_not_block_its_event_loop(
    harness: Harness, api: SlowApi
) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    async with httpx.AsyncClient(auth=auth, transport=api) as client:
        slow = asyncio.create_task(client.get(SLOW))
        assert await asyncio.to_thread(api.waiting.wait, TIMEOUT)
        assert (await client.get(FAST)).status_code == 200
        assert await harness.manager.aget(grant)
        await asyncio.to_thread(assert_other_callers_are_served, harness, grant, auth)
        assert not slow.done()
        api.go_on.set()
        assert (await slow).status_code == 200


def endless() -> Iterator[bytes]:
    while True:
        yield b"more"


async def async_endless() -> AsyncIterator[bytes]:
    while True:
        yield b"more"


def test_a_streaming_response_blocks_no_other_caller(harness: Harness) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    api = BankApi([lambda _: httpx.Response(200, content=endless())])
    with (
        httpx.Client(auth=auth, transport=api) as client,
        client.stream("GET", URL) as response,
    ):
        assert next(response.iter_raw()) == b"more"
        assert client.get(FAST).status_code == 200
        assert_other_callers_are_served(harness, grant, auth)


@pytest.mark.anyio
async def test_an_asynchronous_streaming_response_blocks_no_other_caller(harness: Harness) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    api = BankApi([lambda _: httpx.Response(200, content=async_endless())])
    async with (
        httpx.AsyncClient(auth=auth, transport=api) as client,
        client.stream("GET", URL) as response,
    ):
        chunks = response.aiter_raw()
        assert await anext(chunks) == b"more"
        assert (await client.get(FAST)).status_code == 200
        await asyncio.to_thread(assert_other_callers_are_served, harness, grant, auth)
        await chunks.aclose()  # type: ignore[attr-defined]


async def cancel(task: asyncio.Task[httpx.Response]) -> None:
    """Cancel a task, and check that it ends with `CancelledError`."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.anyio
async def test_a_cancelled_request_blocks_no_other_caller(harness: Harness, api: SlowApi) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    async with httpx.AsyncClient(auth=auth, transport=api) as client:
        slow = asyncio.create_task(client.get(SLOW))
        assert await asyncio.to_thread(api.waiting.wait, TIMEOUT)
        await cancel(slow)
        assert not api.go_on.is_set()
        assert (await client.get(FAST)).status_code == 200
    await asyncio.to_thread(assert_other_callers_are_served, harness, grant, auth)
    assert harness.banks.presented() == []
    api.go_on.set()


@pytest.mark.anyio
@pytest.mark.parametrize("refused", [False, True])
async def test_a_refresh_finishes_although_the_request_that_started_it_is_cancelled(
    refused: bool, harness: Harness
) -> None:
    grant = harness.authorize() if refused else harness.expired_grant()
    if refused:
        harness.advance(120)
    gate, api = Gate(), BankApi([unauthorized()] if refused else [])
    harness.banks.respond_next(gate)
    auth = harness.manager.auth(grant, psu=PSU)
    async with httpx.AsyncClient(auth=auth, transport=api) as client:
        request = asyncio.create_task(client.get(URL))
        await asyncio.to_thread(gate.wait)
        await cancel(request)
        assert len(api.requests) == refused
        gate.open()
        await asyncio.to_thread(wait_until, lambda: EventName.REFRESHED in harness.event_names())
        assert (await client.get(URL)).status_code == 200
    harness.wait_until_idle()
    assert harness.record(grant).generation == 2
    assert len(harness.banks.presented()) == 1


def test_concurrent_requests_of_two_grants_never_mix_their_headers(harness: Harness) -> None:
    psus = {
        name: Psu(f"203.0.113.{number}", f"browser of {name}")
        for number, name in enumerate(("u-1", "u-2"))
    }
    grants = {name: harness.authorize(name, f"{TARGET}{name}") for name in psus}
    auths = {name: harness.manager.auth(grants[name], psu=psu) for name, psu in psus.items()}
    ready = threading.Barrier(64)
    ids: list[str] = []
    wrong: list[str] = []

    def check(request: httpx.Request) -> httpx.Response:
        name, headers = str(request.url.params["name"]), request.headers
        ids.append(headers["X-Correlation-ID"])
        actual = (
            headers["Authorization"],
            headers["X-CorAPI-Target-ID"],
            headers["X-PSU-IP-Address"],
            headers["X-PSU-User-Agent"],
        )
        if actual != expected[name]:
            wrong.append(name)
        return httpx.Response(200)

    expected = {
        name: (
            f"Bearer {harness.manager.get(grant).access_token.reveal()}",
            grant.target_id,
            psus[name].ip,
            psus[name].user_agent,
        )
        for name, grant in grants.items()
    }

    def send_requests(name: str) -> None:
        ready.wait(TIMEOUT)
        for _ in range(5):
            client.get(URL, params={"name": name}, auth=auths[name])

    with httpx.Client(transport=httpx.MockTransport(check)) as client:
        threads = [
            threading.Thread(target=send_requests, args=(name,)) for _ in range(32) for name in psus
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len(ids) == len(set(ids)) == 64 * 5
