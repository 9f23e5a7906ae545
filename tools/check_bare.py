"""Check an installation without extras: what works, and the errors that name a missing extra.

    python tools/check_bare.py   with the Python of an environment that has the wheel and pytest

Exit status: 0 no faults, 1 at least one fault.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

EXTRAS = (
    *("aiohttp", "click", "openapi_core", "opentelemetry", "platformdirs", "prometheus_client"),
    *("rich", "sqlalchemy"),
)
PROGRAMS = Path(sys.executable).parent

MEMORY_STORE = """
from blink_oauth import BlinkOAuth, Grant, Settings
from blink_oauth_keeper import MemoryTokenStore, TokenManager
from blink_oauth_testing import TokenStoreContract
settings = Settings(
    base_url="http://127.0.0.1:9",
    client_id="CIDX0000000002",
    user_agent="acme-books/3.2",
    allow_plain_http=True,
)
with BlinkOAuth(settings) as blink, TokenManager(blink, MemoryTokenStore()) as manager:
    assert list(manager.statuses()) == []
"""
OTHER_TEST = "def test_sum():\n    assert 1 + 1 == 2\n"
FIXTURE_TEST = "def test_platform(blink_sandbox):\n    pass\n"
NEEDS = {
    "from blink_oauth_keeper import SqlTokenStore": "pip install 'blink-oauth[sql]'",
    "from blink_oauth_keeper import metadata": "pip install 'blink-oauth[sql]'",
    "from blink_oauth_keeper import otel_listener": "pip install 'blink-oauth[otel]'",
    "from blink_oauth_keeper import prometheus_listener": "pip install 'blink-oauth[prometheus]'",
    "from blink_oauth_testing import Sandbox": "pip install 'blink-oauth[testing]'",
}


def run(folder: Path, *command: str) -> tuple[int, list[str]]:
    """Run a program; return its exit status and what it printed."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, [*done.stdout.splitlines(), *done.stderr.splitlines()]


def python(folder: Path, *arguments: str) -> tuple[int, list[str]]:
    """Run Python with warnings as errors."""
    return run(folder, sys.executable, "-W", "error", *arguments)


def pytest(folder: Path, test: str) -> tuple[int, list[str]]:
    """Run a project's only test, with warnings as errors."""
    (folder / "test_it.py").write_text(test, "utf-8")
    return python(folder, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider")


def faults(folder: Path) -> Iterator[str]:
    """Yield every fault.

    Args:
        folder: An empty folder outside the source tree.
    """
    yield from (f"{name} is installed: nothing is proven" for name in EXTRAS if find_spec(name))
    yield from failure_of("the test of another project", pytest(folder, OTHER_TEST))
    yield from failure_of("a manager with a store in memory", python(folder, "-c", MEMORY_STORE))
    for statement, extra in NEEDS.items():
        code, lines = python(folder, "-c", statement)
        if code != 1 or not lines[-1].startswith("ImportError: ") or extra not in lines[-1]:
            yield f"“{statement}” does not name {extra}: {lines[-1:]}"
    code, lines = pytest(folder, FIXTURE_TEST)
    if code != 1 or not any("blink-oauth[testing]" in line for line in lines):
        yield f"the fixture does not name blink-oauth[testing]: {lines}"
    for command in ([str(PROGRAMS / "blink-oauth")], [sys.executable, "-m", "blink_oauth_cli"]):
        code, lines = run(folder, *command, "status")
        if code != 2 or len(lines) != 1 or "blink-oauth[cli]" not in lines[0]:
            yield f"the command does not name blink-oauth[cli] in one line: {code}, {lines}"


def failure_of(what: str, result: tuple[int, Sequence[str]]) -> Iterator[str]:
    """Yield a fault if a program failed."""
    code, lines = result
    if code:
        yield "\n".join([f"{what} failed with exit status {code}:", *lines])


def main() -> int:
    """Print every fault; return the exit status."""
    with TemporaryDirectory() as folder:
        found = list(faults(Path(folder)))
    print("\n".join(found) or "The installation without extras has no faults.")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
