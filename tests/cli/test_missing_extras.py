"""What the command says where an extra is not installed, or only a part of one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from blink_oauth_cli.errors import ExitCode
from cli.cli_harness import Desk, Seen, require_two_lines

POSTGRESQL = "postgresql+psycopg://user:fake-password@127.0.0.1:1/tokens"


def run_without(library: str, *words: str) -> Seen:
    """Run the installed command in a process of its own that cannot import a library."""
    code = f"""
import sys
sys.modules[{library!r}] = None
sys.argv = ["blink-oauth", *{words!r}]
from blink_oauth_cli.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return Seen(done.returncode, done.stdout, done.stderr)


def test_without_its_own_extra_the_command_names_it_in_one_line(desk: Desk) -> None:
    seen = run_without("click", "status")
    assert (seen.code, seen.out) == (ExitCode.USAGE, "")
    (line,) = seen.errors.splitlines()
    assert line == "Error: click is not installed. → pip install 'blink-oauth[cli]'"


@pytest.mark.parametrize(
    ("library", "extras"), [("platformdirs", "cli"), ("rich", "cli"), ("sqlalchemy", "cli,sql")]
)
def test_a_command_names_the_extra_that_brings_what_it_lacks(
    stored: Desk, library: str, extras: str
) -> None:
    seen = run_without(library, "status")
    assert (seen.code, seen.out) == (ExitCode.USAGE, "")
    require_two_lines(seen, f"{library} is not installed.", f"'blink-oauth[{extras}]'")


def test_a_store_in_postgresql_names_the_extra_of_its_driver(desk: Desk) -> None:
    desk.configure(store=POSTGRESQL)
    seen = run_without("psycopg", "status")
    assert (seen.code, seen.out) == (ExitCode.USAGE, "")
    require_two_lines(seen, "psycopg is not installed.", "'blink-oauth[cli,postgresql]'")
    assert "fake-password" not in seen.errors


@pytest.mark.parametrize(
    ("library", "store", "extras"),
    [("sqlalchemy", None, "cli,sql"), ("psycopg", POSTGRESQL, "cli,postgresql")],
)
def test_the_doctor_finds_a_missing_extra_of_the_store(
    stored: Desk, library: str, store: str | None, extras: str
) -> None:
    if store is not None:
        stored.configure(store=store)
    seen = run_without(library, "doctor")
    assert seen.code == ExitCode.FAILED
    assert f"{library} is not installed." in seen.out
    assert f"pip install 'blink-oauth[{extras}]'" in seen.out


def test_a_sqlite_file_needs_no_driver_of_postgresql(stored: Desk) -> None:
    assert run_without("psycopg", "status").code == ExitCode.DONE


def test_the_sandbox_names_its_extra(desk: Desk) -> None:
    seen = run_without("aiohttp", "sandbox")
    assert (seen.code, seen.out) == (ExitCode.USAGE, "")
    require_two_lines(seen, "The sandbox is not installed.", "'blink-oauth[cli,testing]'")


def test_an_import_that_no_extra_repairs_is_no_advice_to_install_one(desk: Desk) -> None:
    seen = run_without("tomllib", "status")
    assert seen.code == ExitCode.FAILED
    require_two_lines(seen, "Something unexpected: ModuleNotFoundError.", "--debug")
