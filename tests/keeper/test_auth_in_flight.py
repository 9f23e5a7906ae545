"""While a request is in flight the auth holds nothing, and whoever leaves spoils nothing."""

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
from keeper.harness import PSU, TARGET, Gate, Harness, wait_until

TIMEOUT = 10.0
"""Real seconds after which a test gives up on what should have happened at once."""
SLOW, QUICK = f"{URL}?slow", URL


@define(eq=False)
class SlowApi(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Answers at once, but to what is slow only when it may."""

    waiting: threading.Event = field(factory=threading.Event)
    go_on: threading.Event = field(factory=threading.Event)
    refusals: int = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if "slow" in str(request.url):
            self.waiting.set()
            assert self.go_on.wait(TIMEOUT), "nobody let it go on"
        return self._answer()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if "slow" in str(request.url):
            self.waiting.set()
            assert await asyncio.to_thread(self.go_on.wait, TIMEOUT), "nobody let it go on"
        return self._answer()

    def _answer(self) -> httpx.Response:
        if self.refusals:
            self.refusals -= 1
            return unauthorized()
        return httpx.Response(200)


@pytest.fixture
def api() -> Iterator[SlowApi]:
    """Return an API that lets everything go on in the end."""
    api = SlowApi()
    yield api
    api.go_on.set()


def everybody_else_goes_on(harness: Harness, grant: Grant, auth: GrantAuth) -> None:
    """See that in this thread, another and another event loop all is as if nothing happened."""
    other = httpx.Client(auth=auth, transport=BankApi())
    assert other.get(QUICK).status_code == 200
    assert harness.in_thread(lambda: harness.manager.get(grant)).result(TIMEOUT)

    async def in_a_loop() -> int:
        async with httpx.AsyncClient(auth=auth, transport=BankApi()) as client:
            await harness.manager.aget(grant)
            return (await client.get(QUICK)).status_code

    assert harness.in_thread(lambda: asyncio.run(in_a_loop())).result(TIMEOUT) == 200


def test_a_request_in_flight_holds_nothing(harness: Harness, api: SlowApi) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    with httpx.Client(auth=auth, transport=api) as client:
        slow = harness.in_thread(lambda: client.get(SLOW))
        assert api.waiting.wait(TIMEOUT)
        assert client.get(QUICK).status_code == 200
        everybody_else_goes_on(harness, grant, auth)
        assert not slow.done()
        api.go_on.set()
        assert slow.result(TIMEOUT).status_code == 200


def test_while_a_request_is_in_flight_another_can_have_the_token_refreshed(
    harness: Harness, api: SlowApi
) -> None:
    grant = harness.authorize()
    harness.advance(120)
    auth = harness.manager.auth(grant, psu=PSU)
    with httpx.Client(auth=auth, transport=api) as client:
        slow = harness.in_thread(lambda: client.get(SLOW))
        assert api.waiting.wait(TIMEOUT)
        api.refusals = 1
        assert client.get(QUICK).status_code == 200
        assert harness.record(grant).generation == 2
        # The slow one bore the old token. It takes the new one, and brings no third.
        api.refusals = 1
        api.go_on.set()
        assert slow.result(TIMEOUT).status_code == 200
    assert harness.record(grant).generation == 2


@pytest.mark.anyio
async def test_a_request_in_flight_holds_nothing_of_its_loop(
    harness: Harness, api: SlowApi
) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    async with httpx.AsyncClient(auth=auth, transport=api) as client:
        slow = asyncio.create_task(client.get(SLOW))
        assert await asyncio.to_thread(api.waiting.wait, TIMEOUT)
        assert (await client.get(QUICK)).status_code == 200
        assert await harness.manager.aget(grant)
        await asyncio.to_thread(everybody_else_goes_on, harness, grant, auth)
        assert not slow.done()
        api.go_on.set()
        assert (await slow).status_code == 200


def endless() -> Iterator[bytes]:
    while True:
        yield b"more"


async def async_endless() -> AsyncIterator[bytes]:
    while True:
        yield b"more"


def test_a_streaming_response_holds_nothing(harness: Harness) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    api = BankApi([lambda _: httpx.Response(200, content=endless())])
    with (
        httpx.Client(auth=auth, transport=api) as client,
        client.stream("GET", URL) as response,
    ):
        assert next(response.iter_raw()) == b"more"
        assert client.get(QUICK).status_code == 200
        everybody_else_goes_on(harness, grant, auth)


@pytest.mark.anyio
async def test_an_asynchronous_streaming_response_holds_nothing(harness: Harness) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    api = BankApi([lambda _: httpx.Response(200, content=async_endless())])
    async with (
        httpx.AsyncClient(auth=auth, transport=api) as client,
        client.stream("GET", URL) as response,
    ):
        pieces = response.aiter_raw()
        assert await anext(pieces) == b"more"
        assert (await client.get(QUICK)).status_code == 200
        await asyncio.to_thread(everybody_else_goes_on, harness, grant, auth)
        await pieces.aclose()  # type: ignore[attr-defined]


async def cancel(task: asyncio.Task[httpx.Response]) -> None:
    """Cancel a task and see that it ends so."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.anyio
async def test_a_request_that_is_cancelled_in_flight_leaves_nothing_behind(
    harness: Harness, api: SlowApi
) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    async with httpx.AsyncClient(auth=auth, transport=api) as client:
        slow = asyncio.create_task(client.get(SLOW))
        assert await asyncio.to_thread(api.waiting.wait, TIMEOUT)
        await cancel(slow)
        assert not api.go_on.is_set()
        assert (await client.get(QUICK)).status_code == 200
    await asyncio.to_thread(everybody_else_goes_on, harness, grant, auth)
    assert harness.banks.presented() == []
    api.go_on.set()


@pytest.mark.anyio
@pytest.mark.parametrize("refused", [False, True])
async def test_a_refresh_lands_although_the_request_that_asked_for_it_is_cancelled(
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


def test_the_headers_of_two_grants_never_mix(harness: Harness) -> None:
    people = {
        name: Psu(f"203.0.113.{number}", f"browser of {name}")
        for number, name in enumerate(("u-1", "u-2"))
    }
    grants = {name: harness.authorize(name, f"{TARGET}{name}") for name in people}
    auths = {name: harness.manager.auth(grants[name], psu=psu) for name, psu in people.items()}
    ready = threading.Barrier(64)
    ids: list[str] = []
    wrong: list[str] = []

    def check(request: httpx.Request) -> httpx.Response:
        name, headers = str(request.url.params["name"]), request.headers
        ids.append(headers["X-Correlation-ID"])
        bore = (
            headers["Authorization"],
            headers["X-CorAPI-Target-ID"],
            headers["X-PSU-IP-Address"],
            headers["X-PSU-User-Agent"],
        )
        if bore != expected[name]:
            wrong.append(name)
        return httpx.Response(200)

    expected = {
        name: (
            f"Bearer {harness.manager.get(grant).access_token.reveal()}",
            grant.target_id,
            people[name].ip,
            people[name].user_agent,
        )
        for name, grant in grants.items()
    }

    def calls(name: str) -> None:
        ready.wait(TIMEOUT)
        for _ in range(5):
            client.get(URL, params={"name": name}, auth=auths[name])

    with httpx.Client(transport=httpx.MockTransport(check)) as client:
        threads = [
            threading.Thread(target=calls, args=(name,)) for _ in range(32) for name in people
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert len(ids) == len(set(ids)) == 64 * 5
