"""A program that forks while its client is in use, and uses the client in both processes.

`test_fork` starts it as a separate process, because a fork copies the locks that other threads
hold. The test runs the server, which records the connection of each request. In the state "busy",
the test writes a line when the first request has arrived, and responds to that request when the
program writes a line.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from threading import Semaphore
from types import FrameType
from typing import Any

from attrs import evolve

import blink_oauth
from blink_oauth import AsyncBlinkOAuth, BlinkOAuth, Settings
from wire.concurrent_callers import WaitingThreads
from wire.counting_server import GRANT, refresh_token_of
from wire.harness import wait_until

SECONDS = 30
PACKAGE = str(Path(blink_oauth.__file__).parent)


def run_in_child(work: Callable[[], object], when: str) -> None:
    """Run a function in a forked child, and exit with status 1 if the child fails or hangs."""
    with warnings.catch_warnings():
        # Newer versions of Python warn of a fork in a process with threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if status:
            print(f"the child that was forked {when} ended with {status}", file=sys.stderr)  # noqa: T201
            os._exit(1)
        return
    signal.alarm(SECONDS)
    failed = True
    try:
        work()
        failed = False
    except BaseException:  # noqa: BLE001  # the child ends here, whatever happens
        traceback.print_exc()
    finally:
        # A normal exit would close the inherited loop, whose selector the parent still uses.
        os._exit(failed)


def ask_for_response() -> None:
    """Ask the test to respond to the first request: the child has ended."""
    print("respond", flush=True)  # noqa: T201  # the test waits for this line


def clock() -> float:
    """Return the same time always: forking takes longer than an idle connection is used."""
    return 0.0


class ParentWithThreads:
    """A client shared by threads."""

    def __init__(self, settings: Settings) -> None:
        self.client = BlinkOAuth(settings, monotonic=clock)

    def idle(self) -> None:
        """Fork while the connection is idle."""
        self._call("parent-1")
        run_in_child(self._child, "while the connection was idle")
        self._call("parent-2")

    def busy(self) -> None:
        """Fork while one thread is in a call and a second thread waits for its connection."""
        waiting = WaitingThreads()
        threading.setprofile(waiting)
        threads = [threading.Thread(target=self._call, args=(f"parent-{n}",)) for n in (1, 2)]
        threads[0].start()
        sys.stdin.readline()
        threads[1].start()
        wait_until(lambda: waiting.idents == {threads[1].ident})
        run_in_child(self._child, "while the connection was in use")
        ask_for_response()
        for thread in threads:
            thread.join()
        self._call("parent-3")

    def at_every_line(self) -> None:
        """Fork once for each line of the package that a second thread runs in a call.

        The child must work whichever locks that thread holds on the line.
        """
        self._call("parent-1")
        reached, go_on, lines = Semaphore(0), Semaphore(0), [""]

        def trace(frame: FrameType, event: str, arg: object) -> Callable[..., Any] | None:
            if not frame.f_code.co_filename.startswith(PACKAGE):
                return None
            line = f"{frame.f_code.co_filename}:{frame.f_lineno}"
            if event == "line" and line not in lines:
                lines.append(line)
                reached.release()
                go_on.acquire()
            return trace

        def work() -> None:
            sys.settrace(trace)
            self._call("parent-2")
            sys.settrace(None)
            lines.append("")
            reached.release()

        thread = threading.Thread(target=work)
        thread.start()
        while reached.acquire() and lines[-1]:
            name = f"child-{len(lines)}"
            run_in_child(lambda name=name: self._call(name), f"at {lines[-1]}")  # type: ignore[misc]
            go_on.release()
        thread.join()

    def close(self) -> None:
        """Close the client."""
        self.client.close()

    def _call(self, name: str) -> None:
        self.client.refresh(GRANT, refresh_token_of(name))

    def _child(self) -> None:
        for name in ("child-1", "child-2"):
            self._call(name)
        self.client.close()


class ParentWithTasks:
    """A client shared by the tasks of an event loop; the fork is between two runs of the loop."""

    def __init__(self, settings: Settings) -> None:
        self.client, self.runner = AsyncBlinkOAuth(settings, monotonic=clock), asyncio.Runner()

    def idle(self) -> None:
        """Fork while the connection is idle."""
        self.runner.run(self._call("parent-1"))
        run_in_child(self._child, "while the connection was idle")
        self.runner.run(self._call("parent-2"))

    def busy(self) -> None:
        """Fork while one task is in a call and a second task waits for its connection."""

        async def begin() -> list[asyncio.Task[None]]:
            tasks = [asyncio.create_task(self._call(f"parent-{n}")) for n in (1, 2)]
            await asyncio.to_thread(sys.stdin.readline)
            return tasks

        async def go_on() -> None:
            ask_for_response()
            for task in tasks:
                await task
            await self._call("parent-3")

        tasks = self.runner.run(begin())
        run_in_child(self._child, "while the connection was in use")
        self.runner.run(go_on())

    def close(self) -> None:
        """Close the client."""
        self.runner.run(self.client.close())
        self.runner.close()

    async def _call(self, name: str) -> None:
        await self.client.refresh(GRANT, refresh_token_of(name))

    def _child(self) -> None:
        async def go_on() -> None:
            for name in ("child-1", "child-2"):
                await self._call(name)
            await self.client.close()

        asyncio.run(go_on())
        # Close unreferenced connections now, while the test can still see it.
        gc.collect()


def main() -> None:
    """Fork in a state; arguments: the flavour, the URL of the server, the state."""
    flavour, base_url, state = sys.argv[1:]
    settings = evolve(
        Settings.from_env(), base_url=base_url, allow_plain_http=True, max_connections=1
    )
    parent = ParentWithThreads(settings) if flavour == "sync" else ParentWithTasks(settings)
    getattr(parent, state)()
    parent.close()


if __name__ == "__main__":
    main()
