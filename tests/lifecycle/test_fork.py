"""A process that is forked off goes on with what is at hand, and leaves its parent alone."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

from blink_oauth.lifecycle import lifespans
from blink_oauth.lifecycle.flights import Flights

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
        "who": "child",
        "fresh": "token",
        # A store in memory is the parent's: both would spend the same refresh token.
        "expired": "StoreError",
        "posts": 1,
        "own store": "token",
    }
    assert parent == {"who": "parent", "token": True, "expired": "token", "posts": 2}


def test_what_is_to_be_renewed_or_closed_is_not_kept_alive_by_that() -> None:
    flights = Flights(1)
    assert flights in lifespans._renewed
    assert flights in lifespans._closed
    gone = weakref.ref(flights)
    del flights
    gc.collect()
    assert gone() is None


def test_a_renewed_registry_is_empty_and_open() -> None:
    flights = Flights(1)
    flights.close()
    flights._lock.acquire()
    lifespans._renew_all()
    assert not flights._closing
    assert not flights._lock.locked()
    assert not flights._aloft
    assert flights._pool is None
