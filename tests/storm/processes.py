"""Processes that share only a pipe, a database and the bank with the test.

They are forked from a small server process that has imported the library: each one starts in a few
milliseconds and inherits no thread, lock or connection of the test.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias

from attrs import frozen

from storm.callers import TIMEOUT

__all__ = ["Worker", "running_process"]

P = ParamSpec("P")
if TYPE_CHECKING:
    Pipe: TypeAlias = Connection[Any, Any]
else:
    Pipe = Connection

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        # The package imports it at its first use only.
        "blink_oauth.client",
        "blink_oauth_keeper",
        "blink_oauth_keeper.store.sql",
        "concurrent.futures.thread",
        "psycopg",
        # Each child imports the main module of this process, which is pytest.
        "pytest",
        "sqlalchemy.dialects.postgresql.psycopg",
        "sqlalchemy.dialects.sqlite.pysqlite",
    ]
)


@frozen
class Worker:
    """A process and a pipe to it."""

    process: ForkServerProcess
    pipe: Pipe

    def send(self, message: object) -> None:
        """Send a message to the process."""
        self.pipe.send(message)

    def receive(self) -> Any:
        """Return the next message of the process."""
        assert self.pipe.poll(TIMEOUT), "the process sends nothing"
        return self.pipe.recv()

    def kill(self) -> None:
        """Kill the process with SIGKILL, and wait for its end."""
        self.process.kill()
        self.join()

    def join(self) -> int:
        """Wait for the end of the process, and return the exit code."""
        self.process.join(TIMEOUT)
        code = self.process.exitcode
        assert code is not None, "the process does not end"
        return code


@contextmanager
def running_process(
    program: Callable[Concatenate[Pipe, P], None], *args: P.args, **kwargs: P.kwargs
) -> Iterator[Worker]:
    """Run a program in a process of its own; a process that still runs at the end is killed."""
    our_end, child_end = CONTEXT.Pipe()
    process = CONTEXT.Process(target=program, args=(child_end, *args), kwargs=kwargs)
    process.start()
    child_end.close()
    try:
        yield Worker(process, our_end)
    finally:
        process.kill()
        process.join()
        our_end.close()
        process.close()
