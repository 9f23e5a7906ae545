"""A process of one version of the library: it does what the test writes to its standard input.

It uses names that both versions have. Each message is a line of JSON, and so is each reply.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import blink_oauth_keeper
from blink_oauth import BlinkError, Grant, Token
from blink_oauth_keeper import TokenManager
from storm.shared_config import CUSTOMER, SharedConfig, ShiftedClock

__all__ = ["fingerprint"]


def fingerprint(token: Token) -> str:
    """Return the hash of an access token."""
    return hashlib.sha256(token.access_token.reveal().encode()).hexdigest()


def outcome(call: Callable[[], Token]) -> str:
    """Return the hash of the access token that a call returns, or its error as text."""
    try:
        return fingerprint(call())
    except BlinkError as error:
        return f"{type(error).__name__}: {error}"


def perform(manager: TokenManager, message: dict[str, Any]) -> object:
    """Do what a message says, for all its grants at the same time, and return the reply."""
    if message["do"] == "refresh_due":
        report = manager.refresh_due(within=timedelta(days=10))
        return [report.refreshed, report.failed, report.uncertain, report.consent_needed]
    grants = [Grant(*names) for names in message["grants"]]
    codes = message.get("codes", [])

    def call(number: int) -> str:
        if message["do"] == "authorize":
            code, redirect_uri = codes[number], message["redirect_uri"]
            return outcome(
                lambda: manager.authorize(
                    grants[number], code=code, redirect_uri=redirect_uri, psu=CUSTOMER
                )
            )
        return outcome(lambda: manager.get(grants[number]))

    with ThreadPoolExecutor(len(grants)) as pool:
        return list(pool.map(call, range(len(grants))))


def reply(content: object) -> None:
    """Write a reply."""
    sys.stdout.write(f"{json.dumps(content)}\n")
    sys.stdout.flush()


def main() -> None:
    """Reply to all messages."""
    config = SharedConfig(**json.loads(sys.stdin.readline()))
    clock = ShiftedClock()
    with closing(config.store()) as store, config.manager(clock, store=store) as manager:
        reply(str(Path(blink_oauth_keeper.__file__).parent))
        for line in sys.stdin:
            message = json.loads(line)
            clock.ahead = message.get("ahead", clock.ahead)
            if message["do"] == "finish_upgrade":
                needed = store.needs_upgrade()
                store.finish_upgrade()
                reply([needed, store.needs_upgrade()])
            else:
                reply(perform(manager, message))


if __name__ == "__main__":
    main()
