"""The demo does what it tells, and tells no secret."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TOUR = Path(__file__).parents[2] / "demo" / "tour.py"


@pytest.fixture(scope="module")
def transcript() -> str:
    run = subprocess.run([sys.executable, TOUR], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return " ".join(run.stdout.split())


@pytest.mark.parametrize(
    "words",
    [
        "No rule of the platform is broken.",
        "-> X-CorAPI-Target-ID: IIDX00001",
        "<- X-CorAPI-Source: PROVIDER",
        "Musterbank Streng: expires",
        "Musterbank Mild: expires",
        "200: Fake current account in CHF",
        "New refresh token: True.",
        "The old one again: InvalidGrantError, source PROVIDER, outcome REJECTED.",
        "A bank that is not connected: ProblemError, source PLATFORM, outcome NOT_EXECUTED.",
        "A code nobody issued: InvalidGrantError, source PROVIDER, outcome REJECTED.",
        "502 with a page of HTML: StatusError, source UNKNOWN, outcome UNCERTAIN.",
        "504 although the bank did its work: ProblemError, source PLATFORM, outcome UNCERTAIN.",
        "executed was True",
        "refresh token: 200 from the provider",
        "access token: 200 from the provider",
        "The account list now answers 401.",
        "0 violations of the contract",
    ],
)
def test_the_demo_shows_it_in_plain_words(transcript: str, words: str) -> None:
    assert words in transcript


@pytest.mark.parametrize("kind", ["access-token", "refresh-token", "authorization-code"])
def test_the_demo_shows_no_secret(transcript: str, kind: str) -> None:
    # Every secret of the sandbox's banks begins so.
    assert f"fake-{kind}-" not in transcript
    assert "passphrase" not in transcript
