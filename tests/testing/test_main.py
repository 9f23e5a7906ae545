"""`python -m blink_oauth_testing.sandbox`: its output, its options and its end on a signal."""

from __future__ import annotations

import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from attrs import evolve

from blink_oauth import BlinkOAuth, Grant, RevocationError, Settings, Token
from blink_oauth_testing.sandbox.__main__ import main


def exports_of(line: str) -> tuple[str, str]:
    _, assignment = shlex.split(line)
    name, _, value = assignment.partition("=")
    return name, value


@pytest.mark.parametrize("stop_signal", [signal.SIGTERM, signal.SIGINT])
def test_it_prints_the_variables_of_a_client_and_stops_on_a_signal(
    stop_signal: signal.Signals,
) -> None:
    command = [
        sys.executable,
        "-m",
        "blink_oauth_testing.sandbox",
        "--consent-page",
        "--lifetime",
        "60",
        "--refuse-revocation-field",
        "username",
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        assert run.stdout is not None
        lines: list[str] = []
        while not lines or "Ctrl-C" not in lines[-1]:
            lines.append(run.stdout.readline())
            assert lines[-1], "it ended before the signal"
        environment = dict(exports_of(line) for line in lines if line.startswith("export "))
        passphrase = Path(environment["BLINK_KEY_PASSPHRASE_FILE"]).read_text("utf-8")
        (authorize_url,) = (line.split()[-1] for line in lines if "Authorize:" in line)
        page = httpx.get(authorize_url, trust_env=False)
        settings = Settings.from_env(environment)
        grant, token = Grant("IIDX00002", "u-4711"), Token(access_token="fake-unknown-token")
        with BlinkOAuth(settings) as blink, pytest.raises(RevocationError) as refused:
            blink.revoke(grant, token)
        with BlinkOAuth(evolve(settings, revocation_fields=["client_id"])) as blink:
            blink.revoke(grant, token)
        run.send_signal(stop_signal)
        rest, errors = run.communicate(timeout=10.0)
    assert run.returncode == 0
    assert errors == ""
    assert "form field username: not allowed" in str(refused.value)
    assert passphrase not in "".join(lines) + rest
    assert "Sign in" in page.text
    assert any("IIDX00001" in line for line in lines)
    assert not Path(environment["BLINK_CERTIFICATE"]).exists()


@pytest.mark.parametrize("lifetime", ["0", "-5", "soon"])
def test_an_invalid_lifetime_is_a_usage_error(
    lifetime: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--lifetime", lifetime])
    assert caught.value.code == 2
    assert "--lifetime" in capsys.readouterr().err


def test_an_unknown_revocation_field_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--refuse-revocation-field", "token"])
    assert caught.value.code == 2
    assert "token_type_hint" in capsys.readouterr().err
