"""Ctrl-C and SIGTERM during a call: the call finishes, or the grant becomes uncertain."""

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

from cli.cli_harness import TARGET, CommandResult, Harness, require_no_secret, require_two_lines

TIMEOUT = 30.0
"""Seconds after which a test that hangs fails."""
IDLE_LIFETIME = 29 * 86_400.0
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts the command in a process of its own."""
    running: list[subprocess.Popen[str]] = []

    def start_process(*words: str) -> subprocess.Popen[str]:
        with default_handling(signal.SIGINT):
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

    yield start_process
    for process in running:
        with process:
            process.kill()


@pytest.fixture
def slow(harness: Harness) -> Iterator[Harness]:
    """Yield a harness with an access token that is valid for 1 s and a bank that takes 0.7 s."""
    with bank_policy(harness, access_token_lifetime=1.0):
        harness.authorize(idle_lifetime=IDLE_LIFETIME)
    with bank_policy(harness, response_delay=0.7):
        yield harness


@contextmanager
def default_handling(number: signal.Signals) -> Iterator[None]:
    """Give a signal its default Python handler, also for processes that are started meanwhile.

    If the tests run as a background job, the signal is ignored, and child processes inherit that.
    """
    before = signal.signal(number, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(number, before)


@contextmanager
def bank_policy(harness: Harness, **changes: float) -> Iterator[None]:
    """Change the policy of the bank temporarily."""
    bank = harness.sandbox.banks[TARGET]
    policy = bank.policy
    bank.policy = evolve(policy, **changes)  # type: ignore[arg-type]
    yield
    bank.policy = policy


def wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as a condition is true."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def token_requests(harness: Harness) -> int:
    """Return the number of token requests that the platform received."""
    return sum(exchange.operation == "request_token" for exchange in harness.sandbox.exchanges)


def result_of(process: subprocess.Popen[str], before: str = "") -> CommandResult:
    """Wait for a process to end, and return its result."""
    out, errors = process.communicate(timeout=TIMEOUT)
    return CommandResult(process.returncode, out, before + errors)


@pytest.mark.parametrize(
    ("command", "number"),
    [("refresh", signal.SIGINT), ("token", signal.SIGINT), ("refresh", signal.SIGTERM)],
)
def test_an_interrupted_command_finishes_the_call_in_progress(
    slow: Harness, start: Start, command: str, number: signal.Signals
) -> None:
    expiry = slow.pair().expires_at
    assert expiry is not None
    wait_until(lambda: datetime.now(UTC) > expiry)
    before, secrets, requests = slow.record(), slow.secrets(), token_requests(slow)
    process = start(command)
    wait_until(lambda: token_requests(slow) > requests)
    process.send_signal(number)
    result = result_of(process)
    assert (result.code, result.out) == (130, "")
    note, *rest = result.errors.strip().splitlines()
    assert "A call in progress is awaited" in note
    require_two_lines(
        CommandResult(130, "", "\n".join(rest)), "refresh.succeeded", "blink-oauth status"
    )
    after = slow.record()
    assert (after.state, after.generation) == ("active", before.generation + 1)
    assert after.token != before.token
    assert slow.run("refresh").code == 0
    require_no_secret(result, secrets + slow.secrets())


def test_a_second_interruption_exits_immediately_and_status_shows_uncertain(
    harness: Harness, start: Start
) -> None:
    harness.authorize()
    harness.configure(timeout_total="3", lease="3.5")
    before, requests = harness.pair(), token_requests(harness)
    with bank_policy(harness, response_delay=3600.0):
        process = start("refresh")
        wait_until(lambda: token_requests(harness) > requests)
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        note_lines = process.stderr.readline() + process.stderr.readline()
        assert "Ctrl-C again exits immediately" in note_lines
        process.send_signal(signal.SIGINT)
        result = result_of(process, note_lines)
    assert (result.code, result.out) == (130, "")
    assert "shows as refreshing, then as uncertain" in result.errors.replace("\n", " ")
    (status,) = harness.run("status", "--json").json
    assert (status["state"], status["attempts"]) == ("refreshing", 1), result.errors
    assert harness.record().token == before
    wait_until(lambda: harness.run("status", "--json").json[0]["state"] == "uncertain")
    assert harness.record().token == before


def test_an_interrupted_keep_alive_finishes_the_refresh_in_progress(
    slow: Harness, start: Start
) -> None:
    before, requests = slow.record(), token_requests(slow)
    process = start("keep-alive", "--within", "30d")
    wait_until(lambda: token_requests(slow) > requests)
    process.send_signal(signal.SIGINT)
    result = result_of(process)
    assert (result.code, result.errors) == (0, "")
    events = [line.split('"')[3] for line in result.out.splitlines()]
    assert events == ["refresh.succeeded", "keep_alive.finished"]
    assert slow.record().generation == before.generation + 1


def test_sigterm_ends_an_idle_daemon(stored: Harness, start: Start) -> None:
    process = start("keep-alive", "--every", "1h")
    assert process.stdout is not None
    assert "keep_alive.finished" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    result = result_of(process)
    assert (result.code, result.out, result.errors) == (0, "", "")
