"""A program that ends without closing its manager, while refreshes are in progress.

`test_closing` starts it, and reads the line of JSON that it prints last.
"""

from __future__ import annotations

import atexit
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

LAST_CALLS: list[Callable[[], None]] = []
# Exit handlers run in reverse order: this one runs after the keeper's own.
atexit.register(lambda: [call() for call in LAST_CALLS])

from blink_oauth import Grant  # noqa: E402
from blink_oauth_keeper import RefreshPendingError  # noqa: E402
from keeper.harness import DAY, TIMEOUT, Execute, Harness, Responder, wait_until  # noqa: E402

REPORT: dict[str, object] = {}


def respond_after(ending: threading.Event) -> Responder:
    """Respond only once the interpreter ends."""

    def respond(execute: Execute) -> httpx.Response:
        ending.wait(TIMEOUT)
        return execute()

    return respond


def start_refresh(harness: Harness, grant: Grant) -> None:
    """Start a refresh without waiting for it."""
    try:
        harness.manager.get(grant, timeout=0)
    except RefreshPendingError:
        REPORT[grant.username] = "pending"


def fail_to_store_twice(harness: Harness, username: str) -> None:
    """Let the store fail twice to store the new pair of a customer."""
    settle, failures = harness.memory.settle, [None, None]

    def failing(claim: Any, *args: Any, **options: Any) -> object:
        if claim.key.grant.username == username and failures:
            failures.pop()
            raise harness.faulty.error()
        return settle(claim, *args, **options)

    harness.faulty.replacements["settle"] = failing


def is_shut_down(pool: ThreadPoolExecutor) -> bool:
    """Return whether a pool refuses work because the interpreter ends."""
    try:
        pool.submit(int)
    except RuntimeError:
        return True
    return False


def get_while_ending(harness: Harness, grant: Grant, ending: threading.Event) -> None:
    """Get a token after the interpreter has shut the thread pools down."""
    pool = ThreadPoolExecutor(1)
    wait_until(lambda: is_shut_down(pool))
    ending.set()
    REPORT["late"] = harness.manager.get(grant, timeout=TIMEOUT) == harness.record(grant).token


def print_report(harness: Harness, grants: list[Grant]) -> None:
    """Print what is stored after the keeper's exit handlers have run."""
    REPORT["generations"] = [harness.record(grant).generation for grant in grants]
    REPORT["requests"] = len(harness.banks.presented())
    REPORT["events"] = sorted(set(harness.event_names()))
    print(json.dumps(REPORT), flush=True)  # noqa: T201  the test reads it


def main() -> None:
    """End during one refresh, one that the store fails to take, and one that starts too late."""
    harness = Harness()
    grants = [Grant("IIDX00001", f"u-{number}") for number in range(1, 4)]
    LAST_CALLS.append(lambda: print_report(harness, grants))
    harness.make_manager(real_waits=True)
    for grant in grants:
        harness.authorize(grant.username)
    harness.advance(DAY + 1)
    fail_to_store_twice(harness, grants[1].username)
    ending = threading.Event()
    harness.banks.respond_next(respond_after(ending), respond_after(ending))
    start_refresh(harness, grants[0])
    start_refresh(harness, grants[1])
    threading.Thread(target=get_while_ending, args=(harness, grants[2], ending)).start()


if __name__ == "__main__":
    main()
