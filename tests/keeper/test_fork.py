"""A process that is forked off goes on with what is at hand, and leaves its parent alone."""

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
PROGRAM = Path(__file__).with_name("forking.py")


def test_a_child_gets_tokens_and_its_parent_is_not_disturbed() -> None:
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


def test_where_there_is_no_fork_the_keeper_works_without_it() -> None:
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


def test_what_is_to_be_renewed_or_closed_is_not_kept_alive_by_that() -> None:
    flights = Flights(1)
    gone = weakref.ref(flights)
    del flights
    gc.collect()
    assert gone() is None


def test_after_a_fork_nothing_is_in_the_air_and_all_is_open() -> None:
    held, done = threading.Event(), threading.Event()
    flights = Flights(1)
    flights.close()
    flights.reset()

    def make() -> Flight:
        # Whoever makes a flight holds the lock.
        held.set()
        assert done.wait(TIMEOUT)
        raise InterruptedError

    with ThreadPoolExecutor(1) as pool:
        holder = pool.submit(flights.share, GRANT, make)
        assert held.wait(TIMEOUT)
        flights.reset()
        flight = Flight(GRANT, land(), lambda step: None, lambda _: None)
        assert flights.share(GRANT, lambda: flight) is flight.future
        assert flight.future.result(TIMEOUT) == Result()
        assert not holder.done()
        done.set()
    flights.close()


def land() -> Steps:
    """Land at once."""
    yield Load()
    return Result()
