"""The error of the command when a library of an extra is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from blink_oauth_cli.errors import ExitCode
from cli.cli_harness import CommandResult, Harness, require_two_lines

POSTGRESQL = "postgresql+psycopg://user:fake-password@127.0.0.1:1/tokens"


def run_without(library: str, *words: str) -> CommandResult:
    """Run the command in a process that cannot import a library."""
    code = f"""
import sys
sys.modules[{library!r}] = None
sys.argv = ["blink-oauth", *{words!r}]
from blink_oauth_cli.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return CommandResult(done.returncode, done.stdout, done.stderr)


def test_without_click_the_command_names_its_extra_in_one_line(harness: Harness) -> None:
    result = run_without("click", "status")
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    (line,) = result.errors.splitlines()
    assert line == "Error: click is not installed. → pip install 'blink-oauth[cli]'"


@pytest.mark.parametrize(
    ("library", "extras"), [("platformdirs", "cli"), ("rich", "cli"), ("sqlalchemy", "cli,sql")]
)
def test_a_command_names_the_extra_of_a_missing_library(
    stored: Harness, library: str, extras: str
) -> None:
    result = run_without(library, "status")
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    require_two_lines(result, f"{library} is not installed.", f"'blink-oauth[{extras}]'")


def test_a_postgresql_store_names_the_extra_of_its_driver(harness: Harness) -> None:
    harness.configure(store=POSTGRESQL)
    result = run_without("psycopg", "status")
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    require_two_lines(result, "psycopg is not installed.", "'blink-oauth[cli,postgresql]'")
    assert "fake-password" not in result.errors


@pytest.mark.parametrize(
    ("library", "store", "extras"),
    [("sqlalchemy", None, "cli,sql"), ("psycopg", POSTGRESQL, "cli,postgresql")],
)
def test_doctor_reports_a_missing_extra_of_the_store(
    stored: Harness, library: str, store: str | None, extras: str
) -> None:
    if store is not None:
        stored.configure(store=store)
    result = run_without(library, "doctor")
    assert result.code == ExitCode.FAILED
    assert f"{library} is not installed." in result.out
    assert f"pip install 'blink-oauth[{extras}]'" in result.out


def test_an_sqlite_store_needs_no_postgresql_driver(stored: Harness) -> None:
    assert run_without("psycopg", "status").code == ExitCode.DONE


def test_sandbox_names_its_extra(harness: Harness) -> None:
    result = run_without("aiohttp", "sandbox")
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    require_two_lines(result, "The sandbox is not installed.", "'blink-oauth[cli,testing]'")


def test_a_missing_module_of_no_extra_is_an_unexpected_error(
    harness: Harness,
) -> None:
    result = run_without("tomllib", "status")
    assert result.code == ExitCode.FAILED
    require_two_lines(result, "Something unexpected: ModuleNotFoundError.", "--debug")


def test_keep_alive_names_the_extra_of_its_metrics(harness: Harness) -> None:
    words = ("keep-alive", "--every", "1h", "--listen", "127.0.0.1:0")
    result = run_without("prometheus_client", *words)
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    require_two_lines(
        result, "prometheus_client is not installed.", "'blink-oauth[cli,prometheus]'"
    )
