"""The demo prints the expected results, and no secret."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from blink_oauth_keeper import SqlTokenStore

TOUR = Path(__file__).parents[2] / "demo" / "tour.py"
TWO_SCREENS = 80
"""Lines of output that can be read in two minutes."""
STORE_KEY = re.compile(r"[\w-]{43}=")


@pytest.fixture(scope="module")
def printed() -> str:
    run = subprocess.run([sys.executable, TOUR], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stderr == ""
    return run.stdout


@pytest.fixture(scope="module")
def transcript(printed: str) -> str:
    return " ".join(printed.split())


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
        "what happened error source outcome spent? next",
        "a bank that is not connected ProblemError PLATFORM NOT_EXECUTED no fix the cause",
        "a code that was not issued InvalidGrantError PROVIDER REJECTED refused ask for consent",
        "the old refresh token again InvalidGrantError PROVIDER REJECTED refused ask for consent",
        "after that, even the new one InvalidGrantError PROVIDER REJECTED refused ask for consent",
        "502 with a page of HTML StatusError UNKNOWN UNCERTAIN maybe replay once",
        "504 although it was executed ProblemError PLATFORM UNCERTAIN maybe replay once",
        "whether the last request was executed: True.",
        "Same refresh token: True.",
        "refresh token: 200 from the provider",
        "access token: 200 from the provider",
        "The account list now returns 401.",
        "holds bank id: True, access token: False, refresh token: False.",
        "50 threads call get(). Different tokens returned: 1. Requests at the sandbox: 1.",
        "get() returns the same token: True.",
        "In the background: refresh.succeeded. Stored: generation 3.",
        "get() returns generation 3, valid until",
        "UTC. Requests at the sandbox: 0.",
        "Musterbank Kulant the 504 uncertain 0 get() serves the same token: True",
        "Musterbank Kulant 30 s later active 1 refresh.replayed, refresh.succeeded",
        "Musterbank Streng the 504 uncertain 0 get() serves the same token: True",
        "Musterbank Streng 30 s later uncertain 0 RefreshUncertainError",
        "Musterbank Streng 2 h later needs_consent 1 InvalidGrantError: ask for consent",
        "0 violations of the contract",
    ],
)
def test_the_demo_prints_the_expected_words(transcript: str, words: str) -> None:
    assert words in transcript


def test_the_demo_fits_on_two_screens(printed: str) -> None:
    lines = printed.splitlines()
    assert len(lines) <= TWO_SCREENS
    assert max(map(len, lines)) <= 100


@pytest.mark.parametrize("kind", ["access-token", "refresh-token", "authorization-code"])
def test_the_demo_shows_no_secret(transcript: str, kind: str) -> None:
    # The secrets of the sandbox's banks have this prefix.
    assert f"fake-{kind}-" not in transcript
    assert "passphrase" not in transcript


def test_the_demo_shows_neither_the_key_of_the_store_nor_a_sealed_text(transcript: str) -> None:
    assert STORE_KEY.search(SqlTokenStore.new_key().reveal())
    assert not STORE_KEY.search(transcript)
    # Every text sealed by Fernet has this prefix.
    assert "gAAAA" not in transcript
