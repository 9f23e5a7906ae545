"""Ctrl-C and SIGTERM in the middle: the flight lands, or its state says that it did not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from attrs import evolve

from cli.cli_harness import TARGET, Desk, Seen, require_no_secret, require_two_lines

PATIENCE = 30.0
"""Seconds; longer than anything takes: it ends a test that hangs."""
SOON = 29 * 86_400.0
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return what starts the command as a process of its own."""
    running: list[subprocess.Popen[str]] = []

    def begin(*words: str) -> subprocess.Popen[str]:
        with heard(signal.SIGINT):
            process = subprocess.Popen(
                [sys.executable, "-m", "blink_oauth_cli", *words],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                env=os.environ | {"PYTHONIOENCODING": "utf-8"},
            )
        running.append(process)
        return process

    yield begin
    for process in running:
        with process:
            process.kill()


@pytest.fixture
def slow(desk: Desk) -> Iterator[Desk]:
    """Give a desk with a grant whose access token lives a second, and a bank that takes as long."""
    with habits_of_bank(desk, access_token_lifetime=1.0):
        desk.authorize(idle_lifetime=SOON)
    with habits_of_bank(desk, response_delay=0.7):
        yield desk


@contextmanager
def heard(number: signal.Signals) -> Iterator[None]:
    """Let a process that is started meanwhile hear a signal.

    A job in the background inherits that it is ignored, and would hand it down.
    """
    before = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def habits_of_bank(desk: Desk, **habits: float) -> Iterator[None]:
    """Let the bank behave otherwise for a while."""
    bank = desk.sandbox.banks[TARGET]
    policy = bank.policy
    bank.policy = evolve(policy, **habits)  # type: ignore[arg-type]
    yield
    bank.policy = policy


def wait_until(happened: Callable[[], bool]) -> None:
    """Return as soon as something has happened."""
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def asked(desk: Desk) -> int:
    """Return how many tokens the platform was asked for."""
    return sum(exchange.operation == "request_token" for exchange in desk.sandbox.exchanges)


def end(process: subprocess.Popen[str], before: str = "") -> Seen:
    """Wait for a process, and return what it left."""
    out, errors = process.communicate(timeout=PATIENCE)
    return Seen(process.returncode, out, before + errors)


@pytest.mark.parametrize(
    ("command", "number"),
    [("refresh", signal.SIGINT), ("token", signal.SIGINT), ("refresh", signal.SIGTERM)],
)
def test_what_is_in_the_air_lands(
    slow: Desk, start: Start, command: str, number: signal.Signals
) -> None:
    over = slow.pair().expires_at
    assert over is not None
    wait_until(lambda: datetime.now(UTC) > over)
    before, secrets, calls = slow.record(), slow.secrets(), asked(slow)
    process = start(command)
    wait_until(lambda: asked(slow) > calls)
    process.send_signal(number)
    seen = end(process)
    assert (seen.code, seen.out) == (130, "")
    note, *rest = seen.errors.strip().splitlines()
    assert "A call that is under way is awaited" in note
    require_two_lines(Seen(130, "", "\n".join(rest)), "refresh.succeeded", "blink-oauth status")
    after = slow.record()
    assert (after.state, after.generation) == ("active", before.generation + 1)
    assert after.token != before.token
    assert slow.run("refresh").code == 0
    require_no_secret(seen, secrets + slow.secrets())


def test_a_second_interruption_leaves_at_once_and_shows(desk: Desk, start: Start) -> None:
    desk.authorize()
    desk.configure(timeout_total="3", lease="3.5")
    before, calls = desk.pair(), asked(desk)
    with habits_of_bank(desk, response_delay=3600.0):
        process = start("refresh")
        wait_until(lambda: asked(desk) > calls)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        told = process.stderr.readline() + process.stderr.readline()
        assert "Ctrl-C again leaves at once" in told
        process.send_signal(signal.SIGINT)
        seen = end(process, told)
    assert (seen.code, seen.out) == (130, "")
    assert "shows as refreshing, then as uncertain" in seen.errors.replace("\n", " ")
    (status,) = desk.run("status", "--json").json
    assert (status["state"], status["attempts"]) == ("refreshing", 1), seen.errors
    assert desk.record().token == before
    wait_until(lambda: desk.run("status", "--json").json[0]["state"] == "uncertain")
    assert desk.record().token == before


def test_keep_alive_ends_in_order(slow: Desk, start: Start) -> None:
    before, calls = slow.record(), asked(slow)
    process = start("keep-alive", "--within", "30d")
    wait_until(lambda: asked(slow) > calls)
    process.send_signal(signal.SIGINT)
    seen = end(process)
    assert (seen.code, seen.errors) == (0, "")
    events = [line.split('"')[3] for line in seen.out.splitlines()]
    assert events == ["refresh.succeeded", "keep_alive.finished"]
    assert slow.record().generation == before.generation + 1


def test_a_daemon_ends_when_it_is_told_to(stored: Desk, start: Start) -> None:
    process = start("keep-alive", "--every", "1h")
    assert process.stdout is not None
    assert "keep_alive.finished" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    seen = end(process)
    assert (seen.code, seen.out, seen.errors) == (0, "", "")
