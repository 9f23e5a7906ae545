"""A process that is forked off makes connections of its own, and leaves its parent's alone."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blink_oauth_testing.sandbox import Sandbox
from flavours import Flavour
from wire.counting import CountingServer, counting

PROGRAM = Path(__file__).with_name("forking.py")


@pytest.fixture
def server(blink_sandbox: Sandbox, tmp_path: Path) -> Iterator[CountingServer]:
    """Run a server with TLS: two processes that write to one connection break it for both."""
    credentials = blink_sandbox.authority.issue_server()
    saved = credentials.save(tmp_path, "server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(saved.chain, saved.key, credentials.passphrase)
    with counting(context) as server:
        yield server


def run(flavour: Flavour, state: str, sandbox: Sandbox, server: CountingServer) -> None:
    """Run the program, and check that neither process complains."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", PROGRAM, flavour, server.base_url, state],
        env=os.environ
        | sandbox.environment()
        | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stderr is not None
        if state == "busy":
            server.hold("parent-1")
            server.wait_for("parent-1")
            program.stdin.write("\n")
            program.stdin.flush()
            # Nothing comes if the program failed, and what it said of that is read below.
            program.stdout.readline()
            server.answer("parent-1")
        _, complaints = program.communicate(timeout=120)
    assert (program.returncode, complaints) == (0, "")


def test_an_idle_connection_stays_the_parents(
    flavour: Flavour, blink_sandbox: Sandbox, server: CountingServer
) -> None:
    run(flavour, "idle", blink_sandbox, server)
    assert server.requests == [("parent-1", 0), ("child-1", 1), ("child-2", 1), ("parent-2", 0)]
    assert server.opened == 2


def test_a_call_in_progress_and_those_that_wait_stay_the_parents(
    flavour: Flavour, blink_sandbox: Sandbox, server: CountingServer
) -> None:
    run(flavour, "busy", blink_sandbox, server)
    assert server.requests == [
        ("parent-1", 0),
        # Its parent's call takes up none of its room.
        ("child-1", 1),
        ("child-2", 1),
        ("parent-2", 0),
        ("parent-3", 0),
    ]
    assert server.opened == 2


def test_no_lock_that_another_thread_holds_blocks_the_child(
    blink_sandbox: Sandbox,
) -> None:
    # Without TLS: each of many children connects.
    with counting() as server:
        run("sync", "anywhere", blink_sandbox, server)
    parents = [number for name, number in server.requests if name.startswith("parent")]
    children = [number for name, number in server.requests if name.startswith("child")]
    assert parents == [0, 0]
    assert children == list(range(1, server.opened))
    assert len(children) > 100
