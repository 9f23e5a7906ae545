"""What the blocks of the pages find: a platform, a folder, and the names that the pages explain."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import SkipTest
from urllib.parse import urlsplit

import httpx
import pytest
from attrs import define, field

from blink_oauth import BlinkOAuth, Grant, Psu
from blink_oauth_cli.sandbox import environment
from blink_oauth_keeper import SqlTokenStore, TokenManager
from blink_oauth_testing import Sandbox
from documents.examples import count, parsed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print how many code blocks are executed, and why the others are not."""
    terminalreporter.write_line(f"Code blocks of the documentation: {count()}")


@define
class Reader:
    """A reader who works through the pages in a folder of their own.

    Args:
        sandbox: The platform.
        request: Provides the fixtures of the tests in the pages.
        names: The names that the pages explain and do not define; then all names.
        block: The block that is executed, or was the last one.
    """

    sandbox: Sandbox
    request: pytest.FixtureRequest
    names: dict[str, Any]
    block: str = ""
    _opened: list[BlinkOAuth | TokenManager | SqlTokenStore] = field(factory=list)

    def work_through(self, page: Path, places: Mapping[str, str] | None = None) -> None:
        """Execute the blocks of a page in order, with the names that are defined so far.

        Args:
            page: The file of the page.
            places: Texts of the page that stand for something of this run.
        """
        document = parsed(page, places)
        names = document.namespace
        names.update(self.names)
        for example in document:
            known, self.block = set(names), str(example.parsed)
            names["code"] = self.sandbox.issue_code(self.sandbox.grant())
            # A block with a mark raises it.
            with suppress(SkipTest), self.closing_later(names):
                example.evaluate()
            new = names.keys() - known
            if "location" in new:
                names["query"] = self.consent(names["location"])
            for name in new:
                if name.startswith("test_"):
                    self.run_test(names[name])
                elif name.startswith("Test"):
                    self.run_class(names[name])
        self.names = names

    @contextmanager
    def closing_later(self, names: Mapping[str, Any]) -> Iterator[None]:
        """Note what a block opens, also if it fails."""
        try:
            yield
        finally:
            for value in names.values():
                if isinstance(value, (BlinkOAuth, TokenManager, SqlTokenStore)):
                    self._opened.append(value)

    def consent(self, location: str) -> str:
        """Approve at the bank as the customer does, and return the query of the callback."""
        bank = os.environ["BLINK_AUTHORIZE_URL"].format(target_id="IIDX00001")
        response = httpx.get(f"{bank}?{urlsplit(location).query}", trust_env=False)
        assert response.next_request is not None, response.text
        return response.next_request.url.query.decode()

    def run_test(self, test: Callable[..., None]) -> None:
        """Run a test of a page with its fixtures, as pytest does."""
        test(*map(self.request.getfixturevalue, inspect.signature(test).parameters))

    def run_class(self, tests: type) -> None:
        """Run tests of a class of a page, which need no fixtures, each in an object of its own."""
        methods = [name for name in dir(tests) if name.startswith("test_")]
        # That all of them pass is proved elsewhere: a few show that the class can be run.
        assert len(methods) > 20
        for name in methods[::10]:
            test = tests()
            getattr(test, name)()
            test.teardown_method()

    def close(self) -> None:
        """Close what the blocks left open, the clients after the managers."""
        for opened in reversed(self._opened):
            opened.close()


def kept_by_the_application(sandbox: Sandbox) -> SimpleNamespace:
    """Return a row of an application's own table: a customer and the refresh token."""
    target_id, username = "IIDX00001", "u-4712"
    code = sandbox.issue_code(Grant(target_id, username))
    with BlinkOAuth(sandbox.settings()) as blink:
        pair = blink.exchange_code(
            Grant(target_id, username),
            code=code,
            redirect_uri=sandbox.redirect_uri,
            psu=Psu.AUTO,
        )
    return SimpleNamespace(target_id=target_id, username=username, refresh_token=pair.refresh_token)


@pytest.fixture(scope="module")
def server() -> Iterator[Sandbox]:
    """Run one platform for all pages."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def reader(
    server: Sandbox,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[Reader]:
    """Return a reader in an empty folder, with the variables that the sandbox prints."""
    server.reset()
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BLINK_STORE", "tokens.db")
    monkeypatch.setenv("BLINK_STORE_KEYS_FILE", "tokens.keys")
    monkeypatch.chdir(tmp_path)
    row = kept_by_the_application(server)
    names = {
        "app_key": "fake-session-key",
        "session": {},
        "accounts_url": server.accounts_url,
        "row": row,
        "rows": [row],
    }
    reader = Reader(server, request, names)
    yield reader
    reader.close()
