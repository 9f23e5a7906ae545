"""A program that forks while its managers are in use, and prints the outcomes in both processes.

`test_fork` starts it in a process of its own, since a fork copies the locks that other threads
hold. Each process prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from attrs import define, field

from blink_oauth import BlinkError, Grant
from blink_oauth_keeper import MemoryTokenStore, TokenManager
from blink_oauth_keeper.store.protocol import Note, Record
from blink_oauth_keeper.timers import ThreadTimers
from keeper.harness import DAY, TIMEOUT, CountingExecutor, Gate, Harness

SECONDS = 30

Result = TypeVar("Result")


def fork() -> int:
    """Fork, and end the child if it hangs."""
    with warnings.catch_warnings():
        # Newer versions of Python warn of a fork in a process with threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        signal.alarm(SECONDS)
    return child


@define(eq=False)
class Halts:
    """Halts threads inside callbacks, while the calling code holds a lock.

    Attributes:
        left: How many threads are still to be halted, by the name of the callback.
    """

    left: dict[str, int] = field(factory=dict)
    _halted: threading.Semaphore = field(init=False, factory=lambda: threading.Semaphore(0))
    _over: threading.Event = field(init=False, factory=threading.Event)

    def callback(self, name: str, call: Callable[..., Result]) -> Callable[..., Result]:
        """Return a callback that halts one thread after each `halt_next` with its name."""

        def halting(*args: object) -> Result:
            if self.left.pop(name, 0):
                self._halted.release()
                self._over.wait(SECONDS)
            return call(*args)

        return halting

    def halt_next(self, name: str, harness: Harness, work: Callable[[], object]) -> None:
        """Start some work in another thread, and return once a callback has halted it."""
        self.left[name] = 1
        harness.in_thread(work)
        assert self._halted.acquire(timeout=TIMEOUT), name

    def end(self) -> None:
        """Let the halted threads go on."""
        self._over.set()


def outcome(manager: TokenManager, grant: Grant) -> str:
    """Get a token, and return `token` or the name of the error."""
    try:
        manager.get(grant, timeout=TIMEOUT)
    except BlinkError as error:
        return type(error).__name__
    return "token"


def store_with(record: Record, harness: Harness) -> MemoryTokenStore:
    """Make a store for the child that holds the pair of a record."""
    store = MemoryTokenStore(clock=harness.clock.now)
    assert record.token is not None
    store.put(
        record.key,
        record.token,
        issued_at=record.issued_at,
        idle_until=record.idle_until,
        note=Note(event="grant.authorized"),
    )
    return store


def main() -> None:
    """Fork while one grant is being refreshed and every lock is held."""
    halts, harness = Halts(), Harness()
    harness.memory = MemoryTokenStore(clock=halts.callback("store", harness.clock.now))
    harness.faulty.inner = harness.memory
    manager = harness.make_manager(
        real_waits=True,
        # Both threads are busy when the process forks.
        threads=2,
        monotonic=halts.callback("breakers", harness.clock.monotonic),
        new_timers=partial(ThreadTimers, halts.callback("timers", time.monotonic)),
    )
    first_use = harness.make_manager(
        real_waits=True, new_thread_pool=halts.callback("flights", CountingExecutor)
    )
    closed = harness.make_manager(real_waits=True)
    closed.close()
    refreshing, expired, leased = (harness.authorize(f"u-{number}") for number in range(1, 4))
    harness.advance(DAY + 1)
    fresh, record = harness.authorize("u-4"), harness.record(expired)
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: manager.get(refreshing))
    gate.wait()
    assert harness.memory.claim(harness.record(leased), owner="another owner", ttl=25)
    halts.halt_next("timers", harness, lambda: manager.get(leased))
    halts.halt_next("breakers", harness, manager.refresh_due)
    halts.halt_next("flights", harness, lambda: first_use.get(expired))
    halts.halt_next("store", harness, lambda: harness.memory.load(record.key))
    if child := fork():
        os.waitpid(child, 0)
        halts.end()
        gate.open()
        report: dict[str, object] = {
            "process": "parent",
            "refreshed": caller.result(TIMEOUT) == harness.record(refreshing).token,
            "expired": outcome(manager, expired),
            "requests": len(harness.banks.presented()),
        }
    else:
        # The store in memory belongs to the parent; the child gets a store of its own.
        report = {
            "process": "child",
            "fresh": outcome(manager, fresh),
            "expired": outcome(manager, expired),
            "requests": len(harness.banks.presented()),
        }
        harness.faulty.inner = store_with(record, harness)
        harness.clock.elapse(1)
        report["expired, with a store of the child"] = outcome(manager, expired)
        report["first use of a manager"] = outcome(first_use, expired)
        report["closed manager"] = outcome(closed, expired)
    manager.close()
    print(json.dumps(report), flush=True)  # noqa: T201  the test reads it
    if not child:
        # The parent's other threads do not exist here, so nothing can wait for them.
        os._exit(0)
    harness.__exit__(None, None, None)


if __name__ == "__main__":
    main()
