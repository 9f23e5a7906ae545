"""`blink-oauth sandbox`, as a process of its own: its output, its options and its end."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from attrs import define, evolve, field

from blink_oauth import BlinkOAuth, Grant, Psu, ResponseError, RevocationError, Settings, Token
from blink_oauth_cli.errors import ExitCode
from blink_oauth_cli.main import run
from cli.cli_harness import CODE

FIELDS = ("--refuse-revocation-field", "username", "--refuse-revocation-field", "client_id")
GRANT = Grant("IIDX00002", "u-4711")


@define(eq=False)
class Process:
    """A sandbox that runs.

    Attributes:
        process: The process of the command.
        lines: What it has printed.
    """

    process: subprocess.Popen[str]
    lines: list[str] = field(factory=list)

    @property
    def variables(self) -> dict[str, str]:
        """The variables that it has printed."""
        words = [shlex.split(line)[1] for line in self.lines if line.startswith("export ")]
        return {name: value for name, _, value in (word.partition("=") for word in words)}

    @property
    def settings(self) -> Settings:
        """The settings of a client, from these variables."""
        return Settings.from_env(self.variables)

    def stop(self, number: signal.Signals) -> tuple[str, str]:
        """Send a signal, and return the rest of the output."""
        self.process.send_signal(number)
        return self.process.communicate(timeout=10.0)


@contextmanager
def sandbox(environ: Mapping[str, str], arguments: Sequence[str] = ()) -> Iterator[Process]:
    """Start a sandbox, and kill it if it still runs afterwards."""
    process = subprocess.Popen(
        [sys.executable, "-m", "blink_oauth_cli", "sandbox", *arguments],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with process:
        try:
            assert process.stdout is not None
            started = Process(process)
            while not started.lines or "Ctrl-C" not in started.lines[-1]:
                started.lines.append(process.stdout.readline())
                assert started.lines[-1], "it ended before the signal"
            yield started
        finally:
            process.kill()


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the environment of a user without configuration, and set it in this process."""
    for name in [name for name in os.environ if name.startswith("BLINK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return dict(os.environ)


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    """Return the exit code and the two streams of `sandbox --env`."""
    capsys.readouterr()
    code = run(["sandbox", "--env", *words])
    out, errors = capsys.readouterr()
    return code, out, errors


def test_it_prints_the_variables_of_a_client_and_takes_the_options(
    environ: dict[str, str],
) -> None:
    with sandbox(environ, ("--lifetime", "60", *FIELDS)) as running:
        settings, token = running.settings, Token(access_token="fake-unknown-token")
        passphrase = Path(running.variables["BLINK_KEY_PASSPHRASE_FILE"]).read_text("utf-8")
        with BlinkOAuth(settings) as blink, pytest.raises(RevocationError, match="client_id: not"):
            blink.revoke(GRANT, token)
        with BlinkOAuth(evolve(settings, revocation_fields=["token_type_hint"])) as blink:
            blink.revoke(GRANT, token)
            fault = next(line for line in running.lines if "curl " in line)
            plant(fault)
            with pytest.raises(ResponseError, match="asked to fail"):
                blink.exchange_code(
                    GRANT, code=CODE, redirect_uri="http://127.0.0.1/callback", psu=Psu.AUTO
                )
        query = {"response_type": "code", "client_id": settings.client_id, "state": "fake-state"}
        url = running.variables["BLINK_AUTHORIZE_URL"].replace("{target_id}", GRANT.target_id)
        query |= {"redirect_uri": "http://127.0.0.1:9/callback", "username": GRANT.username}
        assert "Sign in" in httpx.get(url, params=query, trust_env=False).text
        rest, errors = running.stop(signal.SIGTERM)
    assert running.process.returncode == 0
    assert errors == "The sandbox has stopped; its keys, certificates and tokens are deleted.\n"
    assert passphrase not in "".join(running.lines) + rest
    assert not Path(running.variables["BLINK_CERTIFICATE"]).exists()


def plant(line: str) -> None:
    """Send what a printed command line of curl would send."""
    comment, curl, *options = shlex.split(line)
    assert (comment, curl) == ("#", "curl")
    url, _, header, _, data = options
    name, _, value = header.partition(": ")
    httpx.post(url, content=data, headers={name: value}, trust_env=False).raise_for_status()


def test_two_sandboxes_leave_each_other_alone(
    environ: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with sandbox(environ) as first:
        with sandbox(environ) as second:
            assert not set(places(first)) & set(places(second))
            code, out, errors = shown(capsys)
            assert (code, out.splitlines()) == (0, exports(second))
            assert (
                errors
                == f"The last of 2 sandboxes; choose by --http-port: {ports(second, first)}.\n"
            )
            assert shown(capsys, "--http-port", port(first)) == (
                0,
                "\n".join(exports(first)) + "\n",
                "",
            )
            second.stop(signal.SIGINT)
        assert second.process.returncode == 0
        assert shown(capsys) == (0, "\n".join(exports(first)) + "\n", "")
        code, _, errors = shown(capsys, "--http-port", port(second))
        assert (code, f"with --http-port {port(second)}" in errors) == (ExitCode.USAGE, True)
        first.process.kill()
        first.process.wait()
    # The file of a killed sandbox is still there.
    code, _, errors = shown(capsys)
    assert (code, "No sandbox runs" in errors) == (ExitCode.USAGE, True)


def exports(running: Process) -> list[str]:
    """Return the lines of its environment."""
    return [line.rstrip("\n") for line in running.lines if line.startswith("export ")]


def places(running: Process) -> list[str]:
    """Return its addresses and files."""
    names = ("BASE_URL", "AUTHORIZE_URL", "STORE", "CERTIFICATE", "KEY", "CA")
    return [running.variables[f"BLINK_{name}"] for name in names]


def port(running: Process) -> str:
    """Return its port of http."""
    return str(httpx.URL(running.variables["BLINK_AUTHORIZE_URL"].partition("/{")[0]).port)


def ports(*running: Process) -> str:
    """Return their ports of http."""
    return ", ".join(map(port, running))
