"""A program that ends without closing its managers, while there is still something to bring home.

It is started by a test of its own, which reads the line of JSON that it prints at the very end.
"""

from __future__ import annotations

import atexit
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

AT_THE_VERY_END: list[Callable[[], None]] = []
# What is registered first is called last, after whatever the library does at the end.
atexit.register(lambda: [call() for call in AT_THE_VERY_END])

from blink_oauth import Grant  # noqa: E402
from blink_oauth_keeper import RefreshPendingError  # noqa: E402
from keeper.harness import DAY, PATIENCE, Answer, Execute, Harness, eventually  # noqa: E402

TOLD: dict[str, object] = {}


def answer_after(ended: threading.Event) -> Answer:
    """Answer only once the interpreter has come to its end."""

    def answer(execute: Execute) -> httpx.Response:
        ended.wait(PATIENCE)
        return execute()

    return answer


def leave(harness: Harness, grant: Grant) -> None:
    """Start a refresh, and do not wait for it."""
    try:
        harness.manager.get(grant, timeout=0)
    except RefreshPendingError:
        TOLD[grant.username] = "left"


def stumble_twice(harness: Harness) -> None:
    """Let the store refuse the pair of one grant two times."""
    settle, left = harness.memory.settle, [None, None]

    def reluctantly(claim: Any, *args: Any, **options: Any) -> object:
        if claim.key.grant.username == "u-2" and left:
            left.pop()
            raise harness.shaky.error()
        return settle(claim, *args, **options)

    harness.shaky.instead["settle"] = reluctantly


def takes_no_work(pool: ThreadPoolExecutor) -> bool:
    """Say whether the interpreter has come to its end, and no pool takes any more work."""
    try:
        pool.submit(int)
    except RuntimeError:
        return True
    return False


def come_late(harness: Harness, grant: Grant, ended: threading.Event) -> None:
    """Ask for a token once the interpreter ends and no pool takes any more work."""
    pool = ThreadPoolExecutor(1)
    eventually(lambda: takes_no_work(pool))
    ended.set()
    TOLD["late"] = harness.manager.get(grant, timeout=PATIENCE) == harness.record(grant).token


def tell(harness: Harness, grants: list[Grant]) -> None:
    """Print what is stored; it is called after everything that the library does at the end."""
    TOLD["generations"] = [harness.record(grant).generation for grant in grants]
    TOLD["posts"] = len(harness.banks.presented())
    TOLD["events"] = sorted(set(harness.names()))
    print(json.dumps(TOLD), flush=True)  # noqa: T201  what the test reads


def main() -> None:
    """End with one flight in the air, one that the store does not take at once, and a late one."""
    harness = Harness()
    grants = [Grant("IIDX00001", f"u-{number}") for number in range(1, 4)]
    AT_THE_VERY_END.append(lambda: tell(harness, grants))
    harness.make(real_waits=True)
    for grant in grants:
        harness.authorize(grant.username)
    harness.advance(DAY + 1)
    stumble_twice(harness)
    ended = threading.Event()
    harness.banks.answer(answer_after(ended), answer_after(ended))
    leave(harness, grants[0])
    leave(harness, grants[1])
    threading.Thread(target=come_late, args=(harness, grants[2], ended)).start()


if __name__ == "__main__":
    main()
