"""What the sockets of this machine carry, and how much of it a client makes use of.

The endpoint does nothing but answer after a while, over mutual TLS on loopback, in processes of its
own. Each client has the same number of requests under way at any time:

* raw sockets, from a process of their own: what the endpoint can answer at all
* threads that share one bare `httpx.Client`: as it is, it keeps 20 connections alive and makes the
  others anew again and again; with a setting it keeps all, which is the reference here
* threads that share one `BlinkOAuth`, tasks that share one `AsyncBlinkOAuth`: at least twice the
  reference

They take turns, so that a machine whose speed drifts does not matter.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import re
import socket
import ssl
import statistics
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from time import perf_counter

import httpx
from attrs import frozen

from blink_oauth import AsyncBlinkOAuth, BlinkOAuth, Grant, Psu, Settings
from blink_oauth.context import request_headers
from blink_oauth.tls import ClientCertificate, ssl_context
from blink_oauth_testing.sandbox.certificates import CredentialFiles, shared_authority

DELAY = 0.05
AT_ONCE, REQUESTS, ROUNDS = 64, 1280, 3
LIMIT = 2.0
KEPT_BY_HTTPX = 20

GRANT = Grant(target_id="IIDX00001", username="u-4711")
USER_AGENT = "acme-books/3.2"
CLIENT_ID = "CIDX0000000002"
PATH = "/consent-flow/v2"
FORM = {
    "grant_type": "refresh_token",
    "client_id": CLIENT_ID,
    "username": GRANT.username,
    "refresh_token": "fake-refresh-token",
}

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
CORRELATION_ID = re.compile(rb"\r\nx-correlation-id: *([!-~]*)", re.IGNORECASE)
BODY = (
    b'{"access_token":"fake-access-token-%(id)b","token_type":"bearer",'
    b'"expires_in":86400,"refresh_token":"fake-refresh-token-%(id)b"}'
)
HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json;charset=utf-8\r\n"
    b"Cache-Control: no-store\r\nPragma: no-cache\r\nX-CorAPI-Source: PROVIDER\r\n"
    b"X-Correlation-ID: %b\r\nContent-Length: %d\r\n\r\n"
)


@frozen
class Endpoint:
    """Where a bare token endpoint listens, and the files of who may talk to it.

    Attributes:
        port: The port on 127.0.0.1.
        folder: The folder of the certificates.
    """

    port: int
    folder: Path

    @property
    def base_url(self) -> str:
        """The URL of the consent-flow module."""
        return f"https://localhost:{self.port}{PATH}"

    @property
    def certificate(self) -> ClientCertificate:
        """The client certificate that is let in."""
        files = CredentialFiles.named(self.folder, "client")
        return ClientCertificate(
            files.chain, files.key, files.passphrase.read_text(), self.folder / "ca.pem"
        )

    @property
    def context(self) -> ssl.SSLContext:
        """The same, loaded anew."""
        return ssl_context(self.certificate, now=datetime.now(UTC))

    @property
    def settings(self) -> Settings:
        """The settings of a client."""
        return Settings(
            base_url=self.base_url,
            client_id=CLIENT_ID,
            user_agent=USER_AGENT,
            certificate=self.certificate,
        )


class Answering(asyncio.Protocol):
    """One connection: every request for tokens gets a fresh pair, after a while.

    Args:
        delay: Seconds before each answer.
        ids: Makes the part of a token that no other has.
    """

    def __init__(self, delay: float, ids: Callable[[], bytes]) -> None:
        self._delay = delay
        self._ids = ids
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        length = LENGTH.search(head)
        correlation_id = CORRELATION_ID.search(head)
        if not end:
            return
        if not (head.startswith(b"POST %b/oauth/token " % PATH.encode()) and length):
            self._transport.close()
        elif len(body) >= int(length[1]):
            self._received = body[int(length[1]) :]
            asyncio.get_running_loop().call_later(
                self._delay, self._answer, correlation_id[1] if correlation_id else b""
            )

    def _answer(self, correlation_id: bytes) -> None:
        if not self._transport.is_closing():
            body = BODY % {b"id": self._ids()}
            self._transport.write(HEAD % (correlation_id, len(body)) + body)


def serve(listening: socket.socket, folder: Path, name: int, delay: float) -> None:
    """Answer every request for tokens, until the process is ended."""
    files = CredentialFiles.named(folder, "server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(files.chain, files.key, files.passphrase.read_text())
    numbers = count()

    def new_id() -> bytes:
        return b"%d-%d" % (name, next(numbers))

    async def run() -> None:
        server = await asyncio.get_running_loop().create_server(
            lambda: Answering(delay, new_id), sock=listening, ssl=context
        )
        await server.serve_forever()

    asyncio.run(run())


@contextmanager
def endpoint(delay: float = DELAY, processes: int = 1) -> Iterator[Endpoint]:
    """Run a bare token endpoint in processes of its own.

    Args:
        delay: Seconds before each answer.
        processes: How many processes take the connections.
    """
    authority = shared_authority()
    # Started afresh: whoever measures may have threads, and a fork would copy their locks.
    fresh = multiprocessing.get_context("spawn")
    with (
        tempfile.TemporaryDirectory() as name,
        socket.create_server(("127.0.0.1", 0), backlog=512) as listening,
    ):
        folder = Path(name)
        (folder / "ca.pem").write_bytes(authority.root_pem)
        authority.issue_client(CLIENT_ID).save(folder, "client")
        authority.issue_server().save(folder, "server")
        servers = [
            fresh.Process(target=serve, args=(listening, folder, number, delay), daemon=True)
            for number in range(processes)
        ]
        try:
            for server in servers:
                server.start()
            yield Endpoint(listening.getsockname()[1], folder)
        finally:
            ended = [server.exitcode for server in servers if not server.is_alive()]
            for server in servers:
                server.terminate()
                server.join()
            if ended:
                raise RuntimeError(f"the endpoint ended before its time, with {ended}")


async def _raw(target: Endpoint, at_once: int, requests: int) -> float:
    headers = request_headers(GRANT, Psu.AUTO, user_agent=USER_AGENT, correlation_id="bench")
    built = httpx.Request("POST", f"{target.base_url}/oauth/token", data=FORM, headers=headers)
    fields = b"".join(b"%b: %b\r\n" % field for field in built.headers.raw)
    request = b"POST %b HTTP/1.1\r\n%b\r\n%b" % (built.url.raw_path, fields, built.content)
    context = target.context
    left = iter(range(requests))

    async def work(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in left:
            writer.write(request)
            await reader.readuntil(b"}")

    connections = [
        await asyncio.open_connection("localhost", target.port, ssl=context) for _ in range(at_once)
    ]
    start = perf_counter()
    await asyncio.gather(*(work(*connection) for connection in connections))
    elapsed = perf_counter() - start
    for _, writer in connections:
        writer.close()
    return requests / elapsed


def _raw_process(target: Endpoint, at_once: int, requests: int) -> float:
    return asyncio.run(_raw(target, at_once, requests))


def raw_capacity(target: Endpoint, at_once: int = AT_ONCE, requests: int = REQUESTS) -> float:
    """Measure how many requests per second an endpoint answers to raw sockets.

    Args:
        target: The endpoint.
        at_once: How many connections, each kept alive and used for one request at a time.
        requests: How many requests are sent.
    """
    fresh = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=fresh) as process:
        return process.submit(_raw_process, target, at_once, requests).result()


def throughput(call: Callable[[], object], at_once: int = AT_ONCE, times: int = REQUESTS) -> float:
    """Measure how often per second threads that share a client make a call.

    Args:
        call: The call.
        at_once: How many threads make it.
        times: How often it is made by all together; before, each thread makes it once unmeasured.
    """
    with ThreadPoolExecutor(at_once) as threads:
        list(threads.map(lambda _: call(), range(at_once)))
        start = perf_counter()
        list(threads.map(lambda _: call(), range(times)))
        return times / (perf_counter() - start)


async def async_throughput(
    call: Callable[[], Awaitable[object]], at_once: int, times: int
) -> float:
    """Measure how often per second tasks that share a client make a call; see `throughput`."""
    left = iter(range(times))

    async def work() -> None:
        for _ in left:
            await call()

    await asyncio.gather(*(call() for _ in range(at_once)))
    start = perf_counter()
    await asyncio.gather(*(work() for _ in range(at_once)))
    return times / (perf_counter() - start)


def bare_httpx(
    target: Endpoint, at_once: int = AT_ONCE, requests: int = REQUESTS, kept: int = KEPT_BY_HTTPX
) -> float:
    """Measure the requests per second of threads that share one `httpx.Client`, and store nothing.

    Args:
        target: The endpoint.
        at_once: How many threads.
        requests: How many requests are sent.
        kept: How many idle connections httpx keeps alive. With fewer than there are threads, its
            pool now and then closes a connection under a request. That request is told of, and
            counted as made.
    """
    lost: list[httpx.TransportError] = []
    headers = request_headers(GRANT, Psu.AUTO, user_agent=USER_AGENT, correlation_id="bench")
    with httpx.Client(
        verify=target.context,
        base_url=target.base_url,
        limits=httpx.Limits(max_connections=100, max_keepalive_connections=kept),
        timeout=60.0,
        trust_env=False,
    ) as client:

        def call() -> None:
            try:
                client.post("/oauth/token", data=FORM, headers=headers).json()
            except httpx.TransportError as error:
                lost.append(error)

        speed = throughput(call, at_once, requests)
    if lost:
        print(f"httpx.Client lost {len(lost)} of {requests} requests, the first with {lost[0]!r}")
    return speed


def blink(target: Endpoint, at_once: int = AT_ONCE, requests: int = REQUESTS) -> float:
    """Measure the refreshes per second of threads that share one `BlinkOAuth`, and store nothing.

    Args:
        target: The endpoint.
        at_once: How many threads.
        requests: How many requests are sent.
    """
    with BlinkOAuth(target.settings) as client:
        return throughput(lambda: client.refresh(GRANT, "fake-refresh-token"), at_once, requests)


def async_blink(target: Endpoint, at_once: int = AT_ONCE, requests: int = REQUESTS) -> float:
    """Measure the same of tasks that share one `AsyncBlinkOAuth`.

    Args:
        target: The endpoint.
        at_once: How many tasks.
        requests: How many requests are sent.
    """

    async def run() -> float:
        async with AsyncBlinkOAuth(target.settings) as client:
            return await async_throughput(
                lambda: client.refresh(GRANT, "fake-refresh-token"), at_once, requests
            )

    return asyncio.run(run())


def keeping_httpx(target: Endpoint) -> float:
    """Measure httpx with as many connections kept alive as there are threads."""
    return bare_httpx(target, kept=AT_ONCE)


MEASURED: dict[str, Callable[[Endpoint], float]] = {
    "raw sockets": raw_capacity,
    "httpx.Client": bare_httpx,
    "httpx.Client that keeps all": keeping_httpx,
    "BlinkOAuth": blink,
    "AsyncBlinkOAuth": async_blink,
}
REFERENCE, LIMITED = "httpx.Client that keeps all", ("BlinkOAuth", "AsyncBlinkOAuth")


def main() -> int:
    """Measure all and return 0 if the limit is kept."""
    with endpoint() as target:
        rounds = [{name: run(target) for name, run in MEASURED.items()} for _ in range(ROUNDS)]
    print(
        f"{AT_ONCE} at once, answered after {DELAY * 1000:.0f} ms, "
        f"medians of {ROUNDS} rounds of {REQUESTS}"
    )
    for name in MEASURED:
        speed = statistics.median(each[name] for each in rounds)
        share = statistics.median(each[name] / each["raw sockets"] for each in rounds)
        print(f"{name}: {speed:.0f}/s, {share:.0%} of the raw sockets")
    ratios = {
        name: statistics.median(each[name] / each[REFERENCE] for each in rounds) for name in LIMITED
    }
    for name, ratio in ratios.items():
        kept = "kept" if ratio >= LIMIT else "NOT KEPT"
        print(f"{name} / {REFERENCE}: {ratio:.2f}, limit {LIMIT}: {kept}")
    return 0 if min(ratios.values()) >= LIMIT else 1


if __name__ == "__main__":
    raise SystemExit(main())
