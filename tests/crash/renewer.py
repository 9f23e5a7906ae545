"""One of several processes that keep many tokens fresh, whatever their database does."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.sharedctypes import Synchronized

from blink_oauth import BlinkError, Grant
from blink_oauth_keeper import Event, EventName, TokenManager
from storm.places import Place, ShiftedClock
from storm.processes import Pipe

__all__ = ["main"]

PACE = 0.05
"""Seconds between two questions of a thread."""


def main(pipe: Pipe, place: Place, grants: Sequence[Grant], unsettled: Synchronized[int]) -> None:
    """Ask for all tokens over and over, each in a thread, until the test says that it is enough.

    Args:
        pipe: To the test.
        place: Where everything is.
        grants: Whose tokens.
        unsettled: Counts the pairs that could not be stored at first, in all processes.
    """
    over = threading.Event()

    def listen(event: Event) -> None:
        if event.name is EventName.UNSETTLED:
            with unsettled.get_lock():
                unsettled.value += 1

    def renew(manager: TokenManager, grant: Grant) -> set[str]:
        failures: set[str] = set()
        while not over.wait(PACE):
            try:
                manager.get(grant)
            except BlinkError as error:
                failures.add(type(error).__name__)
        return failures

    with (
        place.managing(ShiftedClock(), on_event=listen) as manager,
        ThreadPoolExecutor(len(grants)) as pool,
    ):
        asking = [pool.submit(renew, manager, grant) for grant in grants]
        pipe.recv()
        over.set()
        failures = set().union(*(each.result() for each in asking))
    # Sent by a process whose manager is closed: all its flights have landed.
    pipe.send(failures)
