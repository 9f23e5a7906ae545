"""The fixtures of the plugin, used as in a project that has the package installed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs/testing.md"
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def without_installed_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load no installed plugin: the others take seconds, and ours may not be installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


OPTIONS = ("-W", "error", "-p", "no:cacheprovider", "-p", "blink_oauth_testing.pytest_plugin")


def run(pytester: pytest.Pytester, test: str) -> pytest.RunResult:
    """Run a test module in a new process, with warnings as errors."""
    pytester.makepyfile(test)
    return pytester.runpytest_subprocess(*OPTIONS)


def test_the_fixture_resets_one_running_sandbox_for_each_test(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import httpx

        ports = set()

        def test_one(blink_sandbox):
            ports.add(blink_sandbox.base_url)
            blink_sandbox.clock.advance(seconds=60)
            blink_sandbox.fail("not-json")
            assert httpx.get(blink_sandbox.control_url + "/sandbox").json()["exchanges"] == []

        def test_two(blink_sandbox):
            ports.add(blink_sandbox.base_url)
            assert len(ports) == 1
            assert blink_sandbox.clock.ahead == 0
        """,
    )
    result.assert_outcomes(passed=2)


def test_a_violation_without_a_fault_is_an_error_at_teardown(
    pytester: pytest.Pytester,
) -> None:
    result = run(
        pytester,
        """
        def test_one(monkeypatch, blink_sandbox):
            monkeypatch.setattr(type(blink_sandbox), "violations", ("header Pragma: missing",))

        def test_two(blink_sandbox):
            assert blink_sandbox.violations == ()
        """,
    )
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*ContractViolationError: header Pragma: missing*"])


def test_without_the_extra_the_fixture_names_it(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(aiohttp="raise ImportError('missing', name='aiohttp')")
    tests = """
        def test_one(blink_sandbox): pass
        def test_two(blink_manager): pass
        """
    result = run(pytester, tests)
    result.assert_outcomes(errors=2)
    result.stdout.fnmatch_lines(["*needs the extra blink-oauth[[]testing[]]*"])


def test_the_guide_runs_with_both_managers(pytester: pytest.Pytester) -> None:
    test, failure, conftest = BLOCK.findall(GUIDE.read_text("utf-8"))
    tests = f"{test}\n\n{failure}"
    database = pytester.mkdir("database")
    (database / "conftest.py").write_text(conftest, "utf-8")
    (database / "test_database.py").write_text(tests, "utf-8")
    again = """

def test_the_manager_and_its_clock_are_new(blink_sandbox, blink_manager):
    assert list(blink_manager.statuses()) == []
    assert blink_sandbox.clock.ahead == 0
    code = blink_sandbox.issue_code(grant := blink_sandbox.grant())
    uri = blink_sandbox.redirect_uri
    blink_manager.authorize(grant, code=code, redirect_uri=uri, psu=Psu.AUTO)
    blink_sandbox.clock.advance(days=20)
    assert blink_manager.refresh_due(within=timedelta(days=9)).due == 0
    assert blink_manager.refresh_due(within=timedelta(days=11)).refreshed == 1
"""
    pytester.makepyfile(f"from datetime import timedelta\n{tests}{again}")
    # In this process, which has loaded the platform already: a new one takes seconds.
    result = pytester.runpytest_inprocess(*OPTIONS)
    result.assert_outcomes(passed=5)


def test_the_plugin_loads_no_extra_until_a_test_uses_the_fixture(pytester: pytest.Pytester) -> None:
    result = run(
        pytester,
        """
        import sys

        def test_one():
            assert "blink_oauth_testing.pytest_plugin" in sys.modules
            unwanted = {"aiohttp", "openapi_core", "blink_oauth_testing.sandbox"}
            assert not unwanted & sys.modules.keys()
        """,
    )
    result.assert_outcomes(passed=1)
