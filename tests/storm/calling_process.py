"""One of many processes that share a grant: its threads ask at each message of the test."""

from __future__ import annotations

import hashlib
from multiprocessing.synchronize import Barrier
from typing import Any

from blink_oauth import Grant, Token
from blink_oauth_keeper import SqlTokenStore
from blink_oauth_keeper.store.protocol import Record
from storm.callers import TIMEOUT, ArrivalCounter, Result, ThreadCallers
from storm.processes import Pipe
from storm.shared_config import SharedConfig, ShiftedClock

__all__ = ["main"]


class CountingStore(SqlTokenStore):
    """Counts the claims that this process has tried."""

    claims = 0

    def claim(self, seen: Record, **options: Any) -> Record | None:
        self.claims += 1
        return super().claim(seen, **options)


def main(pipe: Pipe, config: SharedConfig, grant: Grant, threads: int, barrier: Barrier) -> None:
    """Let all threads ask each time that the test advances the clock.

    Args:
        pipe: The pipe to the test.
        config: The shared configuration.
        grant: The grant of the token.
        threads: Number of threads.
        barrier: Lets all processes ask at the same time.
    """
    clock = ShiftedClock()
    store = CountingStore(config.database, keys=[config.key])
    with config.manager(clock, store=store) as manager, ThreadCallers(threads) as callers:
        pipe.send("ready")
        while (ahead := pipe.recv()) is not None:
            clock.ahead = ahead
            barrier.wait(TIMEOUT)
            results = callers.call_all(manager, grant, ArrivalCounter())
            pipe.send([fingerprint(result) for result in results])
        pipe.send(store.claims)


def fingerprint(result: Result) -> str:
    """Return the hash of a token, or the error as text."""
    if not isinstance(result, Token):
        return repr(result)
    return hashlib.sha256(result.access_token.reveal().encode()).hexdigest()
