"""`blink-oauth sandbox`, as a process of its own."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import evolve

from blink_oauth import BlinkOAuth, Grant, RevocationError, Settings, Token

FIELDS = ["--refuse-revocation-field", "username", "--refuse-revocation-field", "client_id"]


def test_the_sandbox_refuses_the_revocation_fields_of_its_flag(tmp_path: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BLINK_")}
    with subprocess.Popen(
        [sys.executable, "-m", "blink_oauth_cli", "sandbox", *FIELDS],
        env=environ | {"HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path / "data")},
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        exported: dict[str, str] = {}
        while "Ctrl-C" not in (line := run.stdout.readline()):
            assert line, "it ended before the signal"
            if line.startswith("export "):
                name, _, value = shlex.split(line)[1].partition("=")
                exported[name] = value
        settings = Settings.from_env(exported)
        grant, token = Grant("IIDX00002", "u-4711"), Token(access_token="fake-unknown-token")
        with BlinkOAuth(settings) as blink, pytest.raises(RevocationError, match="client_id: not"):
            blink.revoke(grant, token)
        with BlinkOAuth(evolve(settings, revocation_fields=["token_type_hint"])) as blink:
            blink.revoke(grant, token)
        run.send_signal(signal.SIGTERM)
        run.communicate(timeout=10.0)
    assert run.returncode == 0
