"""A process that is forked off makes connections of its own, and leaves its parent's alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from blink_oauth.sandbox import Sandbox
from flavours import Caller, Flavour
from wire.forking import GRANT
from wire.stage import exchange, refresh_token

PROGRAM = Path(__file__).with_name("forking.py")


def test_parent_and_child_each_use_connections_of_their_own(
    flavour: Flavour, caller: Caller, blink_sandbox: Sandbox
) -> None:
    token = exchange(caller, blink_sandbox, GRANT)
    run = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM, flavour, refresh_token(token)],
        env=os.environ
        | blink_sandbox.environment()
        | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert [json.loads(line) for line in run.stdout.splitlines()] == [
        # It inherited one connection and made one.
        {"who": "child", "connected": 2, "calls": 3},
        # Its connection outlived whatever the child did.
        {"who": "parent", "connected": 1, "calls": 3},
    ]
    assert [seen.status for seen in blink_sandbox.exchanges] == [200] * 6
