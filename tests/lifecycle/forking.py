"""A program that forks while its manager is in use, and tells what both processes did.

It is started by a test of its own: a fork copies whatever the other threads of a process hold. Each
process prints one line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import warnings
from contextlib import ExitStack

from blink_oauth import BlinkError, Grant
from lifecycle.stage import DAY, PATIENCE, Gate, Stage

SECONDS = 30


def fork() -> int:
    """Fork, and end the child if it hangs."""
    with warnings.catch_warnings():
        # Newer versions of Python warn of what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        signal.alarm(SECONDS)
    return child


def hold(stage: Stage, held: threading.Event, done: threading.Event) -> None:
    """Be the thread that is in the middle of everything when the process is forked."""
    manager = stage.manager
    with ExitStack() as locks:
        for lock in (manager._flights._lock, manager._targets._lock, stage.memory._lock):
            locks.enter_context(lock)
        locks.enter_context(manager._flights._wakeups._changed)
        held.set()
        done.wait(SECONDS)


def outcome(stage: Stage, grant: Grant) -> str:
    """Ask for a token, and return what came of it in a word."""
    try:
        stage.manager.get(grant, timeout=PATIENCE)
    except BlinkError as error:
        return type(error).__name__
    return "token"


def in_the_child(stage: Stage, fresh: Grant, expired: Grant) -> dict[str, object]:
    """Use the manager in the child: first on the parent's store, then on one of its own."""
    told: dict[str, object] = {
        "who": "child",
        "fresh": outcome(stage, fresh),
        "expired": outcome(stage, expired),
        "posts": len(stage.banks.presented()),
    }
    # What a store for many processes is: usable here too.
    stage.memory._process, stage.memory._lock = os.getpid(), threading.Lock()
    stage.time.pass_by(1)
    told["own store"] = outcome(stage, expired)
    return told


def main() -> None:
    """Fork while one grant is being refreshed and every lock is held."""
    stage = Stage()
    stage.make(real_waits=True, monotonic=stage.time.monotonic)
    flying, expired = stage.authorize("u-1"), stage.authorize("u-2")
    stage.advance(DAY + 1)
    fresh = stage.authorize("u-3")
    gate = Gate()
    stage.banks.answer(gate)
    caller = stage.aside(lambda: stage.manager.get(flying))
    gate.wait()
    held, done = threading.Event(), threading.Event()
    thread = threading.Thread(target=hold, args=(stage, held, done))
    thread.start()
    held.wait(SECONDS)
    if child := fork():
        os.waitpid(child, 0)
        done.set()
        thread.join()
        gate.open()
        told = {
            "who": "parent",
            "token": caller.result(PATIENCE) == stage.record(flying).token,
            "expired": outcome(stage, expired),
            "posts": len(stage.banks.presented()),
        }
    else:
        told = in_the_child(stage, fresh, expired)
    stage.manager.close()
    print(json.dumps(told), flush=True)  # noqa: T201  what the test reads
    if not child:
        # The parent's other threads are not here to be waited for.
        os._exit(0)
    stage.__exit__(None, None, None)


if __name__ == "__main__":
    main()
