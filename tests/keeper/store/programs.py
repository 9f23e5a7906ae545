"""Test programs that use a store in their own processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from blink_oauth import Secret

PREAMBLE = """
import json, os, sys
from sqlalchemy import Engine, event
from blink_oauth_keeper import SqlTokenStore
from blink_oauth_testing.store_contract.harness import *
store = SqlTokenStore(sys.stdin.readline().strip(), keys=[sys.stdin.readline().strip()])
opened = []
event.listen(Engine, "connect", lambda connection, _: opened.append(connection))
print("ready", flush=True)
sys.stdin.readline()
def put(name):
    return store.put(grant_key(name), pair(name), issued_at=ISSUED, idle_until=ISSUED, note=note())
def names():
    return [record.key.grant.username for record in store.records(CLIENT)]
"""


def start(url: str, key: Secret, program: str) -> subprocess.Popen[str]:
    """Start a program that uses a store and prints its result as its last line.

    Args:
        url: The database of the store.
        key: The key of the store.
        program: The code that runs after `finish` is called. It can use `store`, `put`, `names`,
            and `opened`, the list of the connections that were opened.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(f"{url}\n{key.reveal()}\n")
    process.stdin.flush()
    return process


def finish(*processes: subprocess.Popen[str]) -> list[object]:
    """Let all programs run at the same time, and return their results."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [json.loads(lines.splitlines()[-1]) for lines in outputs]
