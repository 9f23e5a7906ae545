"""One of several processes that refresh many tokens while their database restarts."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.sharedctypes import Synchronized

from blink_oauth import BlinkError, Grant
from blink_oauth_keeper import Event, EventName, TokenManager
from storm.processes import Pipe
from storm.shared_config import SharedConfig, ShiftedClock

__all__ = ["main"]

PAUSE = 0.05
"""Seconds between two calls of a thread."""


def main(
    pipe: Pipe, config: SharedConfig, grants: Sequence[Grant], unstored: Synchronized[int]
) -> None:
    """Ask for each token repeatedly, in a thread of its own, until the test sends a message.

    Args:
        pipe: The pipe to the test.
        config: The shared configuration.
        grants: The grants of the tokens.
        unstored: Counts, for all processes, the pairs that could not be stored at once.
    """
    stopped = threading.Event()

    def listen(event: Event) -> None:
        if event.name is EventName.UNSETTLED:
            with unstored.get_lock():
                unstored.value += 1

    def refresh(manager: TokenManager, grant: Grant) -> set[str]:
        failures: set[str] = set()
        while not stopped.wait(PAUSE):
            try:
                manager.get(grant)
            except BlinkError as error:
                failures.add(type(error).__name__)
        return failures

    with (
        config.manager(ShiftedClock(), on_event=listen) as manager,
        ThreadPoolExecutor(len(grants)) as pool,
    ):
        futures = [pool.submit(refresh, manager, grant) for grant in grants]
        pipe.recv()
        stopped.set()
        failures = set().union(*(future.result() for future in futures))
    # Sent after the manager is closed: all its flights have finished.
    pipe.send(failures)
