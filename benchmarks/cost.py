"""What the wrapper costs, as ratios within one run.

* a refresh with `BlinkOAuth` against the same form sent with a bare `httpx.Client`: at most 1.15
* the import of values and errors against `import httpx`: at most 1.6

Both are measured in pairs, one right after the other, so that a machine whose speed drifts does not
matter. The server runs in a process of its own and does nothing but answer, over mutual TLS on
loopback: the less it does, the more the difference shows.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from multiprocessing.connection import Connection
from pathlib import Path
from ssl import SSLContext
from time import perf_counter

import httpx

from blink_oauth import BlinkOAuth, Grant, Psu, Settings
from blink_oauth.context import request_headers
from blink_oauth.tls import ClientCertificate, ssl_context
from blink_oauth_testing.sandbox.certificates import shared_authority
from blink_oauth_testing.sandbox.http import server_context

ROUNDS, PROCESSES = 150, 31
CALL_LIMIT, IMPORT_LIMIT = 1.15, 1.6
IMPORT = "from blink_oauth import BlinkError, Grant, Settings, Token"

GRANT = Grant(target_id="IIDX00001", username="u-4711")
USER_AGENT = "acme-books/3.2"
CLIENT_ID = "CIDX0000000002"
FORM = {
    "grant_type": "refresh_token",
    "client_id": CLIENT_ID,
    "username": GRANT.username,
    "refresh_token": "fake-refresh-token",
}
BODY = (
    b'{"access_token":"fake-access-token","token_type":"bearer",'
    b'"expires_in":86400,"refresh_token":"fake-refresh-token"}'
)
RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json;charset=utf-8\r\n"
    b"Cache-Control: no-store\r\nPragma: no-cache\r\nX-CorAPI-Source: PROVIDER\r\n"
    b"X-Correlation-ID: bench\r\n"
    b"Content-Length: %d\r\n\r\n" % len(BODY)
) + BODY


def serve(context: SSLContext, port: Connection) -> None:
    """Answer every request with the same token, until the process is ended."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            length = next(
                int(line.split(b":")[1])
                for line in head.lower().split(b"\r\n")
                if line.startswith(b"content-length")
            )
            await reader.readexactly(length)
            writer.write(RESPONSE)

    async def run() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
        port.send(server.sockets[0].getsockname()[1])
        await server.serve_forever()

    asyncio.run(run())


def seconds(call: Callable[[], object], times: int) -> float:
    """Return how long a number of calls takes."""
    start = perf_counter()
    for _ in range(times):
        call()
    return perf_counter() - start


def call_ratios(port: int, certificate: ClientCertificate) -> list[float]:
    """Measure refreshes with the wrapper against the same posts with bare httpx."""
    base_url = f"https://localhost:{port}/consent-flow/v2"
    settings = Settings(
        base_url=base_url, client_id=CLIENT_ID, user_agent=USER_AGENT, certificate=certificate
    )
    headers = request_headers(GRANT, Psu.AUTO, user_agent=USER_AGENT, correlation_id="bench")
    context = ssl_context(certificate, now=datetime.now(UTC))
    with (
        BlinkOAuth(settings) as blink,
        httpx.Client(verify=context, base_url=base_url, trust_env=False) as bare,
    ):

        def wrapped() -> object:
            return blink.refresh(GRANT, "fake-refresh-token")

        def plain() -> object:
            return bare.post("/oauth/token", data=FORM, headers=headers).json()

        seconds(wrapped, 20), seconds(plain, 20)
        return [seconds(wrapped, 10) / seconds(plain, 10) for _ in range(ROUNDS)]


def import_ratios() -> list[float]:
    """Measure the two imports, each in a fresh process."""

    def once(statement: str) -> float:
        code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
        command = [sys.executable, "-c", code]
        return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout)

    once(IMPORT), once("import httpx")
    return [once(IMPORT) / once("import httpx") for _ in range(PROCESSES)]


def report(what: str, ratios: list[float], limit: float) -> bool:
    """Print the ratios and say whether their median keeps the limit."""
    median = statistics.median(ratios)
    low, *_, high = statistics.quantiles(ratios, n=10)
    kept = median <= limit
    print(
        f"{what}: median {median:.2f}, 10 % to 90 % {low:.2f} to {high:.2f}, {len(ratios)} pairs,"
        f" limit {limit}: {'kept' if kept else 'NOT KEPT'}"
    )
    return kept


def main() -> int:
    """Measure both and return 0 if both limits are kept."""
    authority = shared_authority()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "ca.pem").write_bytes(authority.root_pem)
        client = authority.issue_client(CLIENT_ID)
        client.save(path, "client")
        server = authority.issue_server()
        context = server_context(
            server.save(path, "server"), server.passphrase, authority.root_pem.decode()
        )
        here, there = multiprocessing.Pipe()
        process = multiprocessing.get_context("fork").Process(
            target=serve, args=(context, there), daemon=True
        )
        process.start()
        certificate = ClientCertificate(
            path / "client.pem", path / "client.key", client.passphrase, path / "ca.pem"
        )
        try:
            calls = call_ratios(here.recv(), certificate)
        finally:
            process.terminate()
            process.join()
    kept = [
        report("blink.refresh / httpx.Client.post", calls, CALL_LIMIT),
        report(f"{IMPORT} / import httpx", import_ratios(), IMPORT_LIMIT),
    ]
    return 0 if all(kept) else 1


if __name__ == "__main__":
    raise SystemExit(main())
