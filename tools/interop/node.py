"""Runs the foreign tools of a folder that `npm ci` has filled."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

SECONDS_TO_RUN = 120.0
SECONDS_TO_START = 60.0
SHOWN_OF_PRISM = 3  # lines; its help follows
# A tool must contact nothing but loopback: Redocly would report its use and ask for updates.
QUIET = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_NOTIFICATIONS": "true", "NO_COLOR": "1"}
NOISE = re.compile(r"\s*($|at |[╔║╚])")  # an empty line, a frame of a stack, Redocly's box


@frozen
class Report:
    """What a check did, the complaints of its tool, and notes."""

    done: str
    complaints: Sequence[str]
    notes: Sequence[str] = ()


def readable(output: str) -> list[str]:
    """Return the lines of a tool's output that a person reads."""
    return [line.strip() for line in output.splitlines() if not NOISE.match(line)]


@frozen
class Tools:
    """The installed tools.

    Attributes:
        folder: The folder of package.json, node_modules and what is next to them.
        contract: The OpenAPI document.
    """

    folder: Path
    contract: Path

    def version(self, package: str) -> str:
        """Return the version of an installed package."""
        manifest = self.folder / "node_modules" / package / "package.json"
        return str(json.loads(manifest.read_text("utf-8"))["version"])

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, at most two minutes."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=SECONDS_TO_RUN,
            check=False,
        )

    @contextmanager
    def prism(self, command: str, *arguments: str) -> Iterator[str]:
        """Run Prism on a free port of 127.0.0.1 until the block ends; its URL is the value.

        Raises:
            RuntimeError: Prism does not start within a minute.
        """
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        # Prism would serve from a second process if NODE_ENV were production.
        served = ("--host=127.0.0.1", f"--port={port}", "--multiprocess=false")
        prism = ("prism", command, str(self.contract), *arguments, *served)
        with tempfile.TemporaryFile("w+", encoding="utf-8") as output:
            process = subprocess.Popen(
                prism,
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
            try:
                if not _listens(port, process):
                    output.seek(0)
                    said = " ".join(readable(output.read())[:SHOWN_OF_PRISM])
                    raise RuntimeError(f"Prism does not start: {said}")
                yield f"http://127.0.0.1:{port}"
            finally:
                process.terminate()
                try:
                    process.wait(10.0)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def _environment(self) -> dict[str, str]:
        programs = self.folder / "node_modules" / ".bin"
        return os.environ | QUIET | {"PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    """Wait until the process listens; return whether it does."""
    give_up = time.monotonic() + SECONDS_TO_START
    while process.poll() is None and time.monotonic() < give_up:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            return True
    return False
