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
from keeper.stage import DAY, PATIENCE, Answer, Execute, Stage, eventually  # noqa: E402

TOLD: dict[str, object] = {}


def answer_after(ended: threading.Event) -> Answer:
    """Answer only once the interpreter has come to its end."""

    def answer(execute: Execute) -> httpx.Response:
        ended.wait(PATIENCE)
        return execute()

    return answer


def leave(stage: Stage, grant: Grant) -> None:
    """Start a refresh, and do not wait for it."""
    try:
        stage.manager.get(grant, timeout=0)
    except RefreshPendingError:
        TOLD[grant.username] = "left"


def stumble_twice(stage: Stage) -> None:
    """Let the store refuse the pair of one grant two times."""
    settle, left = stage.memory.settle, [None, None]

    def reluctantly(claim: Any, *args: Any, **options: Any) -> object:
        if claim.key.grant.username == "u-2" and left:
            left.pop()
            raise stage.shaky.error()
        return settle(claim, *args, **options)

    stage.shaky.instead["settle"] = reluctantly


def takes_no_work(pool: ThreadPoolExecutor) -> bool:
    """Say whether the interpreter has come to its end, and no pool takes any more work."""
    try:
        pool.submit(int)
    except RuntimeError:
        return True
    return False


def come_late(stage: Stage, grant: Grant, ended: threading.Event) -> None:
    """Ask for a token once the interpreter ends and no pool takes any more work."""
    pool = ThreadPoolExecutor(1)
    eventually(lambda: takes_no_work(pool))
    ended.set()
    TOLD["late"] = stage.manager.get(grant, timeout=PATIENCE) == stage.record(grant).token


def tell(stage: Stage, grants: list[Grant]) -> None:
    """Print what is stored; it is called after everything that the library does at the end."""
    TOLD["generations"] = [stage.record(grant).generation for grant in grants]
    TOLD["posts"] = len(stage.banks.presented())
    TOLD["events"] = sorted(set(stage.names()))
    print(json.dumps(TOLD), flush=True)  # noqa: T201  what the test reads


def main() -> None:
    """End with one flight in the air, one that the store does not take at once, and a late one."""
    stage = Stage()
    grants = [Grant("IIDX00001", f"u-{number}") for number in range(1, 4)]
    AT_THE_VERY_END.append(lambda: tell(stage, grants))
    stage.make(real_waits=True)
    for grant in grants:
        stage.authorize(grant.username)
    stage.advance(DAY + 1)
    stumble_twice(stage)
    ended = threading.Event()
    stage.banks.answer(answer_after(ended), answer_after(ended))
    leave(stage, grants[0])
    leave(stage, grants[1])
    threading.Thread(target=come_late, args=(stage, grants[2], ended)).start()


if __name__ == "__main__":
    main()
