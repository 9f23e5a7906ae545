"""Processes that share nothing with the test but a pipe, a database and the bank.

They are forked off a small server process that has imported the library already: each one starts
in a few milliseconds, and inherits no thread, lock or connection of the test.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeAlias

from attrs import frozen

from storm.crowd import PATIENCE

__all__ = ["Worker", "working"]

P = ParamSpec("P")
if TYPE_CHECKING:
    Pipe: TypeAlias = Connection[Any, Any]
else:
    Pipe = Connection

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "blink_oauth_keeper",
        "blink_oauth_keeper.store.sql",
        "concurrent.futures.thread",
        "psycopg",
        # Each child imports the main module of this process, which is this.
        "pytest",
        "sqlalchemy.dialects.postgresql.psycopg",
        "sqlalchemy.dialects.sqlite.pysqlite",
    ]
)


@frozen
class Worker:
    """A process and the pipe to it."""

    process: ForkServerProcess
    pipe: Pipe

    def tell(self, message: object) -> None:
        """Send it something."""
        self.pipe.send(message)

    def hear(self) -> Any:
        """Return what it sends next."""
        assert self.pipe.poll(PATIENCE), "the process says nothing"
        return self.pipe.recv()

    def kill(self) -> None:
        """Send SIGKILL, and wait for its end."""
        self.process.kill()
        self.end()

    def end(self) -> int:
        """Wait for its end, and return the exit code."""
        self.process.join(PATIENCE)
        code = self.process.exitcode
        assert code is not None, "the process does not end"
        return code


@contextmanager
def working(
    program: Callable[Concatenate[Pipe, P], None], *args: P.args, **kwargs: P.kwargs
) -> Iterator[Worker]:
    """Run a program in a process of its own; what is left of it at the end is killed."""
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=program, args=(theirs, *args), kwargs=kwargs)
    process.start()
    theirs.close()
    try:
        yield Worker(process, ours)
    finally:
        process.kill()
        process.join()
        ours.close()
        process.close()
