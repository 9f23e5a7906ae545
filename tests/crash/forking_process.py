"""A process that forks while its store is in use: as a server, by multiprocessing, as a daemon.

The parent's threads write at the same time. Each child refreshes a token of its own, and reports
the generation that it has stored.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum

from blink_oauth import Grant
from blink_oauth_keeper import SqlTokenStore, TokenManager
from blink_oauth_keeper.store.protocol import GrantKey
from blink_oauth_testing.store_contract.harness import ISSUED, grant_key, note, pair
from storm.callers import TIMEOUT
from storm.processes import Pipe
from storm.shared_config import TWO_DAYS, SharedConfig, ShiftedClock

__all__ = ["Way", "main", "writer_key"]

WRITERS = 2
PAUSE = 0.002
"""Seconds between two writes of a thread."""


class Way(StrEnum):
    """How a process forks."""

    PREFORK = "prefork"
    MULTIPROCESSING = "multiprocessing"
    DAEMON = "daemon"
    """Twice; the process in between has used the store, and exits at once."""


def writer_key(number: int) -> GrantKey:
    """Return the key of the grant that a thread of the parent writes."""
    return grant_key(f"writer {number}")


@contextmanager
def writers(store: SqlTokenStore) -> Iterator[list[int]]:
    """Let threads write all the time; yield how many times each has written."""
    ended, counts = threading.Event(), [0] * WRITERS

    def write(number: int) -> None:
        while not ended.wait(PAUSE):
            store.put(
                writer_key(number),
                pair(f"{counts[number]}"),
                issued_at=ISSUED,
                idle_until=ISSUED,
                note=note(),
            )
            counts[number] += 1

    threads = [threading.Thread(target=write, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    try:
        yield counts
    finally:
        ended.set()
        for thread in threads:
            thread.join()


def fork(way: Way, work: Callable[[], None], store: SqlTokenStore) -> Callable[[], None]:
    """Run work in a forked process; return what waits for the process that was forked first."""
    if way is Way.MULTIPROCESSING:
        process = multiprocessing.get_context("fork").Process(target=work)
        process.start()
        return lambda: process.join(TIMEOUT)
    child = os.fork()
    if child:
        return lambda: os.waitpid(child, 0) and None
    # No child may outlive its test.
    signal.alarm(int(TIMEOUT))
    if way is Way.DAEMON:
        os.setsid()
        store.load(writer_key(0))
        if os.fork():
            os._exit(0)
        signal.alarm(int(TIMEOUT))
    work()
    os._exit(0)


def main(pipe: Pipe, config: SharedConfig, grants: Sequence[Grant], way: Way) -> None:
    """Fork once for each grant; send which generation each child stored and every process sees.

    Args:
        pipe: The pipe to the test.
        config: The shared configuration.
        grants: One grant for each child; the stored token has expired.
        way: How to fork.
    """
    warnings.simplefilter("ignore", DeprecationWarning)
    store = config.store()
    clock = ShiftedClock(TWO_DAYS)
    with config.manager(clock, store=store) as manager, writers(store) as counts:
        manager.get(grants[0])
        for grant in grants[1:]:
            pipe.send(run_child(way, config, store, manager, grant))
    records = [store.load(writer_key(number)) for number in range(WRITERS)]
    pipe.send(([record.generation for record in records if record], counts))
    store.close()


def run_child(
    way: Way, config: SharedConfig, store: SqlTokenStore, manager: TokenManager, grant: Grant
) -> tuple[str, int | None]:
    """Refresh a grant in a child; return the child's report, and the generation seen here."""
    reading, writing = os.pipe()

    def work() -> None:
        try:
            manager.refresh(grant)
            record = store.load(GrantKey(config.client_id, grant))
            report = f"{record and record.generation}"
        except BaseException as error:  # noqa: BLE001 - the test shows it
            report = f"{type(error).__name__}: {error}"
        os.write(writing, report.encode())

    wait = fork(way, work, store)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        # Read until the child has ended.
        report = pipe.read()
    wait()
    record = store.load(GrantKey(config.client_id, grant))
    return report, record.generation if record else None
