"""A program that forks while its client is in use, and goes on in both processes.

It is started by a test of its own: a fork copies whatever the other threads of a process hold. The
test has the server, which sees who calls on which connection. In the state "busy" the test writes a
line when the first call has arrived, and answers that call when the program writes one.
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
from wire.counting import GRANT, refresh_token_of
from wire.harness import wait_until
from wire.together import WaitingThreads

SECONDS = 30
PACKAGE = str(Path(blink_oauth.__file__).parent)


def in_a_child(work: Callable[[], object], when: str) -> None:
    """Do something in a child, and end as it did if it fails or hangs."""
    with warnings.catch_warnings():
        # Newer versions of Python warn of what is tested here.
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
        # Anything else would close an inherited loop, whose selector is the parent's too.
        os._exit(failed)


def ask_for_the_answer() -> None:
    """Tell the test that the child is through."""
    print("answer", flush=True)  # noqa: T201  # what the test reads


class Threads:
    """A client that threads share."""

    def __init__(self, settings: Settings) -> None:
        self.client = BlinkOAuth(settings)

    def idle(self) -> None:
        """Fork while the connection is idle."""
        self._call("parent-1")
        in_a_child(self._child, "while the connection was idle")
        self._call("parent-2")

    def busy(self) -> None:
        """Fork while a thread is in a call, and another one waits for its connection."""
        waiting = WaitingThreads()
        threading.setprofile(waiting)
        threads = [threading.Thread(target=self._call, args=(f"parent-{n}",)) for n in (1, 2)]
        threads[0].start()
        sys.stdin.readline()
        threads[1].start()
        wait_until(lambda: waiting.idents == {threads[1].ident})
        in_a_child(self._child, "while the connection was in use")
        ask_for_the_answer()
        for thread in threads:
            thread.join()
        self._call("parent-3")

    def anywhere(self) -> None:
        """Fork once for each line of the package that another thread runs in a call.

        Whatever the thread holds on that line, the child goes on without it.
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
            in_a_child(lambda name=name: self._call(name), f"at {lines[-1]}")  # type: ignore[misc]
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


class Tasks:
    """A client that the tasks of an event loop share; the fork is between two runs of the loop."""

    def __init__(self, settings: Settings) -> None:
        self.client, self.runner = AsyncBlinkOAuth(settings), asyncio.Runner()

    def idle(self) -> None:
        """Fork while the connection is idle."""
        self.runner.run(self._call("parent-1"))
        in_a_child(self._child, "while the connection was idle")
        self.runner.run(self._call("parent-2"))

    def busy(self) -> None:
        """Fork while a task is in a call, and another one waits for its connection."""

        async def begin() -> list[asyncio.Task[None]]:
            tasks = [asyncio.create_task(self._call(f"parent-{n}")) for n in (1, 2)]
            await asyncio.to_thread(sys.stdin.readline)
            return tasks

        async def go_on() -> None:
            ask_for_the_answer()
            for task in tasks:
                await task
            await self._call("parent-3")

        tasks = self.runner.run(begin())
        in_a_child(self._child, "while the connection was in use")
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
        # What nobody holds any more is closed now, and not some time later.
        gc.collect()


def main() -> None:
    """Take the flavour of a client, the URL of its server, and the state in which to fork."""
    flavour, base_url, state = sys.argv[1:]
    settings = evolve(
        Settings.from_env(), base_url=base_url, allow_plain_http=True, max_connections=1
    )
    parent = Threads(settings) if flavour == "sync" else Tasks(settings)
    getattr(parent, state)()
    parent.close()


if __name__ == "__main__":
    main()
