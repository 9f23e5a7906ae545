"""The cost of a refresh with the wrapper, as ratios within one run.

* `BlinkOAuth.refresh`, compared with the same form sent with a bare `httpx.Client`, whose response
  is parsed with `.json()`
* `AsyncBlinkOAuth.refresh`, compared with the same on a bare `httpx.AsyncClient`

One call at a time, over mutual TLS on loopback, to a stub server.

Left out: the network and the bank, whose time would hide the difference; handshakes, because each
client reuses its one connection; concurrent calls (see `sockets`); the keeper and its store (see
`auth` and `keeper`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from time import perf_counter

import httpx
from benchmarks.rounds import Figure, Limit, Round, in_rounds, medians_in_turn, ratio, report
from benchmarks.stub_server import FORM, GRANT, HEADERS, StubServer, running_stub_server

from blink_oauth import AsyncBlinkOAuth, BlinkOAuth

CALLS, TURNS, WARM_UP = 10, 60, 30
LIMIT = Limit(1.15)
ASYNC_LIMIT = Limit(1.25, proposed=True)
REFRESH_TOKEN = FORM["refresh_token"]


def seconds(call: Callable[[], object], times: int = CALLS) -> float:
    """Return the seconds of a number of calls."""
    start = perf_counter()
    for _ in range(times):
        call()
    return perf_counter() - start


async def async_seconds(call: Callable[[], Awaitable[object]], times: int = CALLS) -> float:
    """Return the seconds of a number of consecutive calls."""
    start = perf_counter()
    for _ in range(times):
        await call()
    return perf_counter() - start


def sync_round(server: StubServer) -> Round:
    """Return the seconds of each synchronous client."""
    with (
        BlinkOAuth(server.settings) as blink,
        httpx.Client(verify=server.context, base_url=server.base_url, trust_env=False) as bare,
    ):

        def wrapped() -> object:
            return blink.refresh(GRANT, REFRESH_TOKEN)

        def plain() -> object:
            return bare.post("/oauth/token", data=FORM, headers=HEADERS).json()

        seconds(wrapped, WARM_UP), seconds(plain, WARM_UP)
        subjects = {
            "BlinkOAuth.refresh": lambda: seconds(wrapped),
            "httpx.Client.post": lambda: seconds(plain),
        }
        return medians_in_turn(subjects, TURNS)


def async_round(server: StubServer) -> Round:
    """Return the seconds of each asynchronous client."""
    with asyncio.Runner() as runner:
        blink = AsyncBlinkOAuth(server.settings)
        bare = httpx.AsyncClient(verify=server.context, base_url=server.base_url, trust_env=False)

        async def wrapped() -> object:
            return await blink.refresh(GRANT, REFRESH_TOKEN)

        async def plain() -> object:
            return (await bare.post("/oauth/token", data=FORM, headers=HEADERS)).json()

        runner.run(async_seconds(wrapped, WARM_UP))
        runner.run(async_seconds(plain, WARM_UP))
        subjects = {
            "AsyncBlinkOAuth.refresh": lambda: runner.run(async_seconds(wrapped)),
            "httpx.AsyncClient.post": lambda: runner.run(async_seconds(plain)),
        }
        measured = medians_in_turn(subjects, TURNS)
        runner.run(blink.close())
        runner.run(bare.aclose())
        return measured


def figures() -> Iterator[Figure]:
    """Yield the figures of both flavours."""
    with running_stub_server(delay=0) as server:
        rounds = in_rounds(lambda: sync_round(server))
        yield ratio(rounds, "BlinkOAuth.refresh", "httpx.Client.post", LIMIT)
        rounds = in_rounds(lambda: async_round(server))
        yield ratio(rounds, "AsyncBlinkOAuth.refresh", "httpx.AsyncClient.post", ASYNC_LIMIT)


if __name__ == "__main__":
    raise SystemExit(report(__doc__, figures()))
