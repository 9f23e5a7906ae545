"""One of many processes that share a grant: its threads ask whenever it is told to."""

from __future__ import annotations

import hashlib
from multiprocessing.synchronize import Barrier
from typing import Any

from blink_oauth import Grant, Token
from blink_oauth_keeper import SqlTokenStore
from blink_oauth_keeper.store.protocol import Record
from storm.crowd import PATIENCE, Answer, Gathering, Threads
from storm.places import Place, ShiftedClock
from storm.processes import Pipe

__all__ = ["main"]


class ContestedStore(SqlTokenStore):
    """Counts how often this process has tried to take the lease."""

    tries = 0

    def claim(self, seen: Record, **options: Any) -> Record | None:
        self.tries += 1
        return super().claim(seen, **options)


def main(pipe: Pipe, place: Place, grant: Grant, threads: int, together: Barrier) -> None:
    """Let all threads ask, each time that the test puts the clock forward."""
    clock = ShiftedClock()
    store = ContestedStore(place.database, keys=[place.key])
    with place.managing(clock, store=store) as manager, Threads(threads) as crowd:
        pipe.send("ready")
        while (ahead := pipe.recv()) is not None:
            clock.ahead = ahead
            together.wait(PATIENCE)
            pipe.send([told(answer) for answer in crowd.storm(manager, grant, Gathering())])
        pipe.send(store.tries)


def told(answer: Answer) -> str:
    """Return what stands for an answer: which token it is, or which error."""
    if not isinstance(answer, Token):
        return repr(answer)
    return hashlib.sha256(answer.access_token.reveal().encode()).hexdigest()
