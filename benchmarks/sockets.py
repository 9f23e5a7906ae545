"""The throughput of one shared client, as ratios within one run.

64 requests are in progress at any time, to a stub server that responds after 50 ms, over mutual TLS
on loopback. The requests per second are compared:

* threads that share one `BlinkOAuth`, with threads that share one `httpx.Client` with its default
  limits, which keep 20 idle connections, so that it opens the others again and again
* the same, with an `httpx.Client` that keeps all connections
* tasks that share one `AsyncBlinkOAuth`, with both kinds of `httpx.AsyncClient`
* all of them, with raw sockets in a separate process: the capacity of the stub server

Left out: the first handshakes (all clients are warmed up); several processes; the network to the
bank, which the 50 ms stand for; the keeper and its store (see `keeper`). A request that httpx's
pool loses is counted as made.
"""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from time import perf_counter

import httpx
from benchmarks.rounds import Figure, Limit, in_rounds, medians_in_turn, ratio, report
from benchmarks.stub_server import FORM, GRANT, HEADERS, StubServer, running_stub_server

from blink_oauth import AsyncBlinkOAuth, BlinkOAuth

DELAY = 0.05
AT_ONCE, REQUESTS = 64, 640
LIMIT = Limit(2.0, at_least=True)
REFRESH_TOKEN = FORM["refresh_token"]
DEFAULT = httpx.Limits(max_connections=100, max_keepalive_connections=20)
"""The default limits of httpx."""
KEEP_ALL = httpx.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)


def raw_request(server: StubServer) -> bytes:
    """Return the bytes of the request that every client sends."""
    built = httpx.Request("POST", f"{server.base_url}/oauth/token", data=FORM, headers=HEADERS)
    fields = b"".join(b"%b: %b\r\n" % field for field in built.headers.raw)
    return b"POST %b HTTP/1.1\r\n%b\r\n%b" % (built.url.raw_path, fields, built.content)


async def _raw(server: StubServer, at_once: int, requests: int) -> float:
    request, context = raw_request(server), server.context
    left = iter(range(requests))

    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in left:
            writer.write(request)
            await reader.readuntil(b"}")

    connections = [
        await asyncio.open_connection("localhost", server.port, ssl=context) for _ in range(at_once)
    ]
    start = perf_counter()
    await asyncio.gather(*(work(*connection) for connection in connections))
    elapsed = perf_counter() - start
    for _, writer in connections:
        writer.close()
    return requests / elapsed


def _raw_process(server: StubServer, at_once: int, requests: int) -> float:
    return asyncio.run(_raw(server, at_once, requests))


def raw_capacity(server: StubServer, at_once: int = AT_ONCE, requests: int = REQUESTS) -> float:
    """Return the requests per second of raw sockets.

    Args:
        server: The stub server.
        at_once: The number of connections, each reused for one request at a time.
        requests: The number of requests.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        return process.submit(_raw_process, server, at_once, requests).result()


def throughput(call: Callable[[], object], at_once: int = AT_ONCE, times: int = REQUESTS) -> float:
    """Return the calls per second of threads that share a client.

    Args:
        call: The call.
        at_once: The number of threads; as many calls are made first, which are not measured.
        times: The number of measured calls, of all threads together.
    """
    with ThreadPoolExecutor(at_once) as threads:
        list(threads.map(lambda _: call(), range(at_once)))
        start = perf_counter()
        list(threads.map(lambda _: call(), range(times)))
        return times / (perf_counter() - start)


async def async_throughput(
    call: Callable[[], Awaitable[object]], at_once: int = AT_ONCE, times: int = REQUESTS
) -> float:
    """Return the calls per second of tasks that share a client; see `throughput`."""
    left = iter(range(times))

    async def work() -> None:
        for _ in left:
            await call()

    await asyncio.gather(*(call() for _ in range(at_once)))
    start = perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return times / (perf_counter() - start)


def bare_httpx(
    server: StubServer, limits: httpx.Limits, at_once: int = AT_ONCE, requests: int = REQUESTS
) -> float:
    """Return the requests per second of threads that share one `httpx.Client`.

    Args:
        server: The stub server.
        limits: The limits of the pool. If it keeps fewer idle connections than there are threads,
            it sometimes closes a connection during a request. Such requests are printed, and
            counted as made.
        at_once: The number of threads.
        requests: The number of requests.
    """
    lost: list[httpx.TransportError] = []
    with httpx.Client(
        verify=server.context,
        base_url=server.base_url,
        limits=limits,
        timeout=60.0,
        trust_env=False,
    ) as client:

        def call() -> None:
            try:
                client.post("/oauth/token", data=FORM, headers=HEADERS).json()
            except httpx.TransportError as error:
                lost.append(error)

        speed = throughput(call, at_once, requests)
    if lost:
        print(f"httpx.Client lost {len(lost)} of {requests} requests, the first with {lost[0]!r}")
    return speed


def async_bare_httpx(server: StubServer, limits: httpx.Limits) -> float:
    """Return the requests per second of tasks that share one `httpx.AsyncClient`."""

    async def run() -> float:
        async with httpx.AsyncClient(
            verify=server.context,
            base_url=server.base_url,
            limits=limits,
            timeout=60.0,
            trust_env=False,
        ) as client:

            async def call() -> object:
                return (await client.post("/oauth/token", data=FORM, headers=HEADERS)).json()

            return await async_throughput(call)

    return asyncio.run(run())


def blink(server: StubServer) -> float:
    """Return the refreshes per second of threads that share one `BlinkOAuth`."""
    with BlinkOAuth(server.settings) as client:
        return throughput(lambda: client.refresh(GRANT, REFRESH_TOKEN))


def async_blink(server: StubServer) -> float:
    """Return the refreshes per second of tasks that share one `AsyncBlinkOAuth`."""

    async def run() -> float:
        async with AsyncBlinkOAuth(server.settings) as client:
            return await async_throughput(lambda: client.refresh(GRANT, REFRESH_TOKEN))

    return asyncio.run(run())


def figures() -> Iterator[Figure]:
    """Yield all figures."""
    with running_stub_server(DELAY) as server:
        subjects = {
            "raw sockets": lambda: raw_capacity(server),
            "httpx.Client by default": lambda: bare_httpx(server, DEFAULT),
            "httpx.Client that keeps all": lambda: bare_httpx(server, KEEP_ALL),
            "BlinkOAuth": lambda: blink(server),
            "httpx.AsyncClient by default": lambda: async_bare_httpx(server, DEFAULT),
            "httpx.AsyncClient that keeps all": lambda: async_bare_httpx(server, KEEP_ALL),
            "AsyncBlinkOAuth": lambda: async_blink(server),
        }
        rounds = in_rounds(lambda: medians_in_turn(subjects))
    yield ratio(rounds, "BlinkOAuth", "httpx.Client by default", LIMIT)
    yield ratio(rounds, "BlinkOAuth", "httpx.Client that keeps all")
    yield ratio(rounds, "AsyncBlinkOAuth", "httpx.AsyncClient by default")
    yield ratio(rounds, "AsyncBlinkOAuth", "httpx.AsyncClient that keeps all")
    for name in subjects:
        if name != "raw sockets":
            yield ratio(rounds, name, "raw sockets")


if __name__ == "__main__":
    raise SystemExit(report(__doc__, figures()))
