"""After a fork the child can use its managers, and the parent's flights are not affected."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from blink_oauth import Grant
from blink_oauth_keeper.flights import Flight, Flights
from blink_oauth_keeper.steps import Load, Result, Steps
from keeper.harness import TARGET, TIMEOUT

GRANT = Grant(TARGET, "u-4711")
PROGRAM = Path(__file__).with_name("fork_program.py")


def test_after_a_fork_parent_and_child_both_get_tokens() -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    child, parent = (json.loads(line) for line in run.stdout.splitlines())
    assert child == {
        "process": "child",
        "fresh": "token",
        # Two processes with one store in memory would both spend the same refresh token.
        "expired": "StoreError",
        "requests": 1,
        "expired, with a store of the child": "token",
        "first use of a manager": "token",
        "closed manager": "token",
    }
    assert parent == {"process": "parent", "refreshed": True, "expired": "token", "requests": 2}


def test_the_keeper_can_be_imported_where_os_has_no_fork() -> None:
    program = (
        "import os\n"
        "del os.fork, os.register_at_fork\n"
        "from blink_oauth_keeper import SqlTokenStore, TokenManager\n"
        "print(TokenManager.__name__, SqlTokenStore.__name__)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "TokenManager SqlTokenStore\n", "")


def test_the_fork_and_exit_handlers_do_not_keep_flights_in_memory() -> None:
    flights = Flights(1)
    reference = weakref.ref(flights)
    del flights
    gc.collect()
    assert reference() is None


def test_reset_reopens_flights_and_replaces_a_held_lock() -> None:
    lock_held, release = threading.Event(), threading.Event()
    flights = Flights(1)
    flights.close()
    flights.reset()

    def make() -> Flight:
        # `join_or_start` calls this while it holds the lock.
        lock_held.set()
        assert release.wait(TIMEOUT)
        raise InterruptedError

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(flights.join_or_start, GRANT, make)
        assert lock_held.wait(TIMEOUT)
        flights.reset()
        flight = Flight(GRANT, one_step(), lambda step: None, lambda _: None)
        assert flights.join_or_start(GRANT, lambda: flight) is flight.future
        assert flight.future.result(TIMEOUT) == Result()
        assert not holder.done()
        release.set()
    flights.close()


def one_step() -> Steps:
    """Yield one step, and return."""
    yield Load()
    return Result()
