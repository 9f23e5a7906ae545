"""The fixture `blink_sandbox`, used as in a project that has the package installed."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture(autouse=True)
def without_installed_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Load no installed plugin: the others take seconds, and ours may not be installed."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def run(pytester: pytest.Pytester, test: str) -> pytest.RunResult:
    """Run a test module in a new process, with warnings as errors."""
    pytester.makepyfile(test)
    options = ("-W", "error", "-p", "no:cacheprovider", "-p", "blink_oauth_testing.pytest_plugin")
    return pytester.runpytest_subprocess(*options)


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
    result = run(pytester, "def test_one(blink_sandbox): pass")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*needs the extra blink-oauth[[]testing[]]*"])


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
