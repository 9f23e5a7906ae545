"""A program that forks while its managers are in use, and tells what both processes did.

It is started by a test of its own: a fork copies whatever the other threads of a process hold. Each
process prints one line of JSON.
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
from blink_oauth_keeper.timers import Wakeups
from keeper.harness import DAY, PATIENCE, Gate, Harness, Workers

SECONDS = 30

Result = TypeVar("Result")


def fork() -> int:
    """Fork, and end the child if it hangs."""
    with warnings.catch_warnings():
        # Newer versions of Python warn of what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        signal.alarm(SECONDS)
    return child


@define(eq=False)
class Halts:
    """Halts threads inside a callback, where whoever called it holds a lock.

    Attributes:
        left: How many threads are still to be halted, by the name of the callback.
    """

    left: dict[str, int] = field(factory=dict)
    _halted: threading.Semaphore = field(init=False, factory=lambda: threading.Semaphore(0))
    _over: threading.Event = field(init=False, factory=threading.Event)

    def callback(self, name: str, call: Callable[..., Result]) -> Callable[..., Result]:
        """Return a callback that halts the next thread if `halt_next` was asked for it."""

        def halting(*args: object) -> Result:
            if self.left.pop(name, 0):
                self._halted.release()
                self._over.wait(SECONDS)
            return call(*args)

        return halting

    def halt_next(self, name: str, harness: Harness, work: Callable[[], object]) -> None:
        """Do some work in another thread, and return once it is halted in a callback."""
        self.left[name] = 1
        harness.aside(work)
        assert self._halted.acquire(timeout=PATIENCE), name

    def end(self) -> None:
        """Let all go on."""
        self._over.set()


def outcome(manager: TokenManager, grant: Grant) -> str:
    """Ask for a token, and return what came of it in a word."""
    try:
        manager.get(grant, timeout=PATIENCE)
    except BlinkError as error:
        return type(error).__name__
    return "token"


def store_with(record: Record, harness: Harness) -> MemoryTokenStore:
    """Make a store of the process's own that holds a pair."""
    store = MemoryTokenStore(clock=harness.time.now)
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
    harness.memory = MemoryTokenStore(clock=halts.callback("store", harness.time.now))
    harness.shaky.inner = harness.memory
    manager = harness.make(
        real_waits=True,
        # Both are at work when the process is forked.
        threads=2,
        monotonic=halts.callback("targets", harness.time.monotonic),
        timers=partial(Wakeups, halts.callback("timers", time.monotonic)),
    )
    beginner = harness.make(real_waits=True, executor=halts.callback("flights", Workers))
    closed = harness.make(real_waits=True)
    closed.close()
    flying, expired, waiting = (harness.authorize(f"u-{number}") for number in range(1, 4))
    harness.advance(DAY + 1)
    fresh, record = harness.authorize("u-4"), harness.record(expired)
    gate = Gate()
    harness.banks.answer(gate)
    caller = harness.aside(lambda: manager.get(flying))
    gate.wait()
    assert harness.memory.claim(harness.record(waiting), owner="another", ttl=25)
    halts.halt_next("timers", harness, lambda: manager.get(waiting))
    halts.halt_next("targets", harness, manager.refresh_due)
    halts.halt_next("flights", harness, lambda: beginner.get(expired))
    halts.halt_next("store", harness, lambda: harness.memory.load(record.key))
    if child := fork():
        os.waitpid(child, 0)
        halts.end()
        gate.open()
        told: dict[str, object] = {
            "who": "parent",
            "token": caller.result(PATIENCE) == harness.record(flying).token,
            "expired": outcome(manager, expired),
            "posts": len(harness.banks.presented()),
        }
    else:
        # A store in memory is the parent's; the child gets another one in its place.
        told = {
            "who": "child",
            "fresh": outcome(manager, fresh),
            "expired": outcome(manager, expired),
            "posts": len(harness.banks.presented()),
        }
        harness.shaky.inner = store_with(record, harness)
        harness.time.pass_by(1)
        told["own store"] = outcome(manager, expired)
        told["the one that just began"] = outcome(beginner, expired)
        told["the closed one"] = outcome(closed, expired)
    manager.close()
    print(json.dumps(told), flush=True)  # noqa: T201  what the test reads
    if not child:
        # The parent's other threads are not here to be waited for.
        os._exit(0)
    harness.__exit__(None, None, None)


if __name__ == "__main__":
    main()
