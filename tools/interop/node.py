"""Runs the foreign tools of a folder that `npm ci` has filled."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

SECONDS_TO_RUN = 120.0
SECONDS_TO_START = 60.0
# A tool must contact nothing but loopback: Redocly would report its use and ask for updates.
QUIET = {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true", "NO_COLOR": "1"}


@frozen
class Report:
    """What a tool did, its complaints in plain words, and notes."""

    tool: str
    version: str
    done: str
    complaints: Sequence[str]
    notes: Sequence[str] = ()


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

    def run(self, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, at most two minutes."""
        return subprocess.run(
            [self._path(program), *arguments],
            cwd=self.folder,
            env=os.environ | QUIET,
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
        listen = ("--host", "127.0.0.1", "--port", str(port))
        process = subprocess.Popen(
            [self._path("prism"), command, str(self.contract), *arguments, *listen],
            cwd=self.folder,
            env=os.environ | QUIET,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            _wait_for(port, process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            try:
                process.wait(10.0)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _path(self, program: str) -> str:
        local = self.folder / "node_modules" / ".bin" / program
        return str(local) if local.exists() else program


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    give_up = time.monotonic() + SECONDS_TO_START
    while process.poll() is None and time.monotonic() < give_up:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError("Prism does not start.")
