"""A program that forks while both clients of its manager have an idle connection.

`test_api_clients` starts it, because a fork copies the locks that other threads hold. Each process
prints one line of JSON: the status and the local address of its requests.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import httpx

from blink_oauth import BlinkOAuth, Grant, Psu, Settings
from blink_oauth_keeper import MemoryTokenStore, TokenManager

SECONDS = 30
PSU = Psu(ip="203.0.113.7", user_agent="Mozilla/5.0 (X11; Linux x86_64)")


def main(url: str, target_id: str, code: str, redirect_uri: str) -> None:
    """Request the accounts before the fork, and then in both processes."""
    halt = HaltingClock()
    with (
        BlinkOAuth(Settings.from_env()) as blink,
        TokenManager(blink, MemoryTokenStore()) as made,
        # With a transport of its own, the client has not loaded its certificate yet.
        BlinkOAuth(blink.settings, clock=halt, transport=httpx.MockTransport(refuse)) as unused,
        TokenManager(unused, MemoryTokenStore()) as first_use,
    ):
        halt.over.clear()
        grant = Grant(target_id, "u-4711")
        made.authorize(grant, code=code, redirect_uri=redirect_uri, psu=PSU)
        auth = made.auth(grant, psu=PSU)
        client, async_client = made.client(), made.async_client()

        def both(runner: asyncio.Runner) -> dict[str, Any]:
            responses = {
                "sync": client.get(url, auth=auth),
                "async": runner.run(async_client.get(url, auth=auth)),
            }
            return {name: [each.status_code, address(each)] for name, each in responses.items()}

        with asyncio.Runner() as runner, ThreadPoolExecutor(1) as pool:
            before = both(runner)
            # A thread has the locks of this manager's clients and certificate at the fork.
            halted = pool.submit(first_use.client)
            assert halt.reached.wait(SECONDS)
            with warnings.catch_warnings():
                # Newer versions of Python warn of a fork in a process with threads.
                warnings.simplefilter("ignore", DeprecationWarning)
                child = os.fork()
            if not child:
                signal.alarm(SECONDS)
                halt.over.set()
                first_use.client()
                responses = both(asyncio.Runner())
                touched: list[object] = []
                inherited: Any = runner.get_loop()
                inherited.call_soon_threadsafe = lambda *call: touched.append(call)
                made.close()
                assert not touched
                print(json.dumps(responses), flush=True)  # noqa: T201  the test reads it
                # A normal exit would close the inherited loop, whose selector the parent uses.
                os._exit(0)
            os.waitpid(child, 0)
            halt.over.set()
            assert halted.result(SECONDS) is first_use.client()
            print(json.dumps({"before": before, "after": both(runner)}))  # noqa: T201


def refuse(request: httpx.Request) -> httpx.Response:
    """Refuse a request: none is expected."""
    raise httpx.ConnectError("no request is expected")


class HaltingClock:
    """A clock that halts each thread that reads it, while `over` is not set."""

    def __init__(self) -> None:
        self.reached, self.over = threading.Event(), threading.Event()
        self.over.set()

    def __call__(self) -> datetime:
        """Return the time, once no thread is to be halted."""
        if not self.over.is_set():
            self.reached.set()
        self.over.wait(SECONDS)
        return datetime.now(UTC)


def address(response: httpx.Response) -> list[Any]:
    """Return the local address of the connection of a response."""
    return list(response.extensions["network_stream"].get_extra_info("client_addr"))


if __name__ == "__main__":
    main(*sys.argv[1:])
