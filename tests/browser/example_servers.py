"""The applications in the servers that a reader starts."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from blink_oauth_cli.sandbox import environment
from blink_oauth_testing import Sandbox

PROJECT = Path(__file__).parents[2]
PORTS = {"fastapi": "--port {}", "django": "--noreload {}"}
"""The name of each guide, and what the test adds to its last command."""

SECONDS = 60.0


def variables_for(sandbox: Sandbox, folder: Path) -> dict[str, str]:
    """Return what `blink-oauth sandbox --env` prints, with a store in another folder."""
    return environment(sandbox) | {"BLINK_STORE": str(folder / "tokens.db")}


def commands_of(name: str) -> list[str]:
    """Return the commands of a guide for the second terminal; the first runs the sandbox."""
    page = (PROJECT / "docs" / "how-to" / f"{name}.md").read_text("utf-8")
    sandbox, evaluate, *others = re.findall(r"(?m)^\$ (.*)$", page)
    assert sandbox == "blink-oauth sandbox"
    assert evaluate == 'eval "$(blink-oauth sandbox --env)"'
    return others


@frozen
class Server:
    """A server of an application.

    Attributes:
        origin: The origin of its pages.
    """

    origin: str


@contextmanager
def running(name: str, variables: Mapping[str, str], log: Path) -> Iterator[Server]:
    """Start the server of an application as its guide says, and stop it with Ctrl-C.

    Args:
        name: The name of the guide.
        variables: The variables that the sandbox prints.
        log: The file for what it prints.
    """
    port = free_port()
    origin = f"http://127.0.0.1:{port}"
    *before, server = commands_of(name)
    script = "\n".join((*before, f"exec {server} {PORTS[name].format(port)}"))
    # A test run in the background ignores Ctrl-C, and so would the server.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["bash", "-e", "-c", script],
            cwd=PROJECT,
            env={
                **os.environ,
                **variables,
                "BLINK_REDIRECT_URI": f"{origin}/callback",
                "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
                # Python then reports what is not closed at the end, too.
                "PYTHONWARNINGS": "always::ResourceWarning",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_for(port, process)
            yield Server(origin)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(SECONDS)
            finally:
                process.kill()


def free_port() -> int:
    """Return a port that is free now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the server accepts connections."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise AssertionError("the server did not start")
