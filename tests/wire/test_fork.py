"""A forked child opens its own connections and never uses those of its parent."""

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
from wire.counting_server import CountingServer, counting_server

PROGRAM = Path(__file__).with_name("fork_program.py")


@pytest.fixture
def server(blink_sandbox: Sandbox, tmp_path: Path) -> Iterator[CountingServer]:
    """Run a server with TLS, where a connection that two processes share breaks for both."""
    credentials = blink_sandbox.authority.issue_server()
    saved = credentials.save(tmp_path, "server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(saved.chain, saved.key, credentials.passphrase)
    with counting_server(context) as server:
        yield server


def run(flavour: Flavour, state: str, sandbox: Sandbox, server: CountingServer) -> None:
    """Run the program, and check that neither process reports an error."""
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
            # The line is empty if the program failed; its errors are read below.
            program.stdout.readline()
            server.respond("parent-1")
        _, errors = program.communicate(timeout=120)
    assert (program.returncode, errors) == (0, "")


def test_the_child_does_not_use_an_idle_connection_of_the_parent(
    flavour: Flavour, blink_sandbox: Sandbox, server: CountingServer
) -> None:
    run(flavour, "idle", blink_sandbox, server)
    assert server.requests == [("parent-1", 0), ("child-1", 1), ("child-2", 1), ("parent-2", 0)]
    assert server.opened == 2


def test_calls_in_progress_and_waiting_calls_finish_in_the_parent(
    flavour: Flavour, blink_sandbox: Sandbox, server: CountingServer
) -> None:
    run(flavour, "busy", blink_sandbox, server)
    assert server.requests == [
        ("parent-1", 0),
        # The call in progress of the parent does not count for the child's limit.
        ("child-1", 1),
        ("child-2", 1),
        ("parent-2", 0),
        ("parent-3", 0),
    ]
    assert server.opened == 2


def test_a_lock_held_by_another_thread_does_not_block_the_child(
    blink_sandbox: Sandbox,
) -> None:
    # Without TLS, because each of more than 100 children connects.
    with counting_server() as server:
        run("sync", "at_every_line", blink_sandbox, server)
    parents = [number for name, number in server.requests if name.startswith("parent")]
    children = [number for name, number in server.requests if name.startswith("child")]
    assert parents == [0, 0]
    assert children == list(range(1, server.opened))
    assert len(children) > 100
