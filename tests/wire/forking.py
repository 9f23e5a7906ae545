"""A program that forks while its client is in use, and tells what both processes did.

It is started by a test of its own: a fork copies whatever the other threads of a process hold.

Each process prints one line of JSON: who it is, how often it connected since the program began, and
how many calls brought a token.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable

from attrs import evolve

from blink_oauth import AsyncBlinkOAuth, BlinkOAuth, Grant, Settings
from blink_oauth._connections import AsyncConnections, Connections
from blink_oauth._journey import AsyncJourneyBackend, JourneyBackend

GRANT = Grant(target_id="IIDX00002", username="u-4711")
SECONDS = 30


def count_connections() -> list[int]:
    """Collect the port of every connection that is opened."""
    opened: list[int] = []
    for backend in (JourneyBackend, AsyncJourneyBackend):
        original: Callable[..., object] = backend.connect_tcp

        def counting(
            self: object,
            host: str,
            port: int,
            *rest: object,
            _original: Callable[..., object] = original,
            **options: object,
        ) -> object:
            opened.append(port)
            return _original(self, host, port, *rest, **options)

        setattr(backend, "connect_tcp", counting)  # noqa: B010  # a type checker forbids the other
    return opened


def fork() -> int:
    """Fork, and end the child if it hangs."""
    with warnings.catch_warnings():
        # Newer versions of Python warn of what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        signal.alarm(SECONDS)
    return child


def hold(connections: Connections, held: threading.Event, done: threading.Event) -> None:
    """Be the thread that is in the middle of everything when the process is forked."""
    connections._turns.take(None)
    with connections._turns._lock, connections._idle._lock:
        held.set()
        done.wait(SECONDS)
    connections._turns.give()


def use_threads(settings: Settings, refresh_token: str, opened: list[int]) -> None:
    """Fork while another thread has the only turn and holds all locks."""
    with BlinkOAuth(settings) as client:
        connections = getattr(client._line.transport, "_pool", None)
        assert isinstance(connections, Connections)
        calls = [client.refresh(GRANT, refresh_token)]
        held, done = threading.Event(), threading.Event()
        thread = threading.Thread(target=hold, args=(connections, held, done))
        thread.start()
        held.wait(SECONDS)
        child = fork()
        if child:
            # The child is through with its calls before the parent uses its connection again.
            os.waitpid(child, 0)
            done.set()
            thread.join()
        calls += [client.refresh(GRANT, refresh_token) for _ in range(2)]
    tell(child, len(opened), len(calls))


def use_tasks(settings: Settings, refresh_token: str, opened: list[int]) -> None:
    """Fork between two runs of an event loop, while a task has the only turn."""
    with asyncio.Runner() as runner:
        client = AsyncBlinkOAuth(settings)
        connections = getattr(client._line.transport, "_pool", None)
        assert isinstance(connections, AsyncConnections)
        calls = [runner.run(client.refresh(GRANT, refresh_token))]
        runner.run(connections._turns.acquire())
        child = fork()

        async def go_on() -> None:
            calls.extend([await client.refresh(GRANT, refresh_token) for _ in range(2)])
            await client.close()

        if not child:
            asyncio.run(go_on())
            # What nobody holds any more is closed now, and not some time later.
            gc.collect()
            tell(child, len(opened), len(calls))
            # Anything else would close the inherited loop, whose selector is the parent's too.
            os._exit(0)
        os.waitpid(child, 0)
        connections._turns.release()
        runner.run(go_on())
    tell(child, len(opened), len(calls))


def tell(child: int, connected: int, calls: int) -> None:
    """Print what a process did."""
    who = "parent" if child else "child"
    told = {"who": who, "connected": connected, "calls": calls}
    print(json.dumps(told), flush=True)  # noqa: T201  # what the test reads


def main() -> None:
    """Fork as the first argument says, with the refresh token that is the second."""
    kind, refresh_token = sys.argv[1:]
    use = use_threads if kind == "sync" else use_tasks
    use(evolve(Settings.from_env(), max_connections=1), refresh_token, count_connections())


if __name__ == "__main__":
    main()
