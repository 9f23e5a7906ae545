"""The Python code in the documents runs unchanged against the local platform."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from blink_oauth import AuthorizationCode
from blink_oauth_keeper import SqlTokenStore
from blink_oauth_testing import BankPolicy, Sandbox

PROJECT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Run a platform with the bank of the documents."""
    with Sandbox(banks=[BankPolicy("IIDX99999", "Musterbank")]) as running:
        yield running


@pytest.fixture
def names(
    sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, Any]]:
    """Define the names that the documents use undefined, and close what their blocks open."""
    for name, value in sandbox.environment().items():
        monkeypatch.setenv(name, value)
    key_file = tmp_path / "tokens.keys"
    key_file.write_text(SqlTokenStore.new_key().reveal(), "ascii")
    given: dict[str, Any] = {
        "url": f"sqlite:///{tmp_path}/tokens.db",
        "key": SqlTokenStore.new_key(),
        "key_file": key_file,
        "ip": "203.0.113.7",
        "agent": "Mozilla/5.0 (X11; Linux x86_64)",
        "uri": sandbox.redirect_uri,
        "app_key": "fake-session-key",
        "session": {},
        "accounts_url": sandbox.accounts_url,
    }
    yield given
    given["manager"].close()
    given["blink"].close()


def blocks(document: str) -> list[str]:
    """Return the blocks of Python code in a document."""
    found = BLOCK.findall((PROJECT / document).read_text(encoding="utf-8"))
    assert found, document
    return found


def execute(source: str, names: dict[str, Any], document: str) -> None:
    exec(compile(source, document, "exec"), names)


def run(document: str, names: dict[str, Any], sandbox: Sandbox) -> None:
    """Run the blocks of a document in order, each with a new authorization code."""
    for source in blocks(document):
        names["code"] = sandbox.issue_code(sandbox.grant())
        names["query"] = urlencode({"code": names["code"], **names["session"]})
        execute(source, names, document)


def test_the_readme_runs(
    names: dict[str, Any],
    sandbox: Sandbox,
    blink_sandbox: Sandbox,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("README.md", names, sandbox)
    assert names["location"].startswith("https://bank.example/authorize?response_type=code&")
    assert isinstance(names["result"], AuthorizationCode)
    assert names["accounts"].json()["accounts"][0]["currency"] == "CHF"
    assert "No rule of the platform is broken." in capsys.readouterr().out
    test: Callable[[Sandbox], None] = names["test_a_gateway_timeout_may_have_spent_the_code"]
    test(blink_sandbox)
    assert blink_sandbox.exchanges[-1].executed is True


@pytest.mark.parametrize("document", ["docs/lifecycle.md", "docs/operations.md"])
def test_the_other_documents_run_after_the_first_block_of_the_readme(
    document: str, names: dict[str, Any], sandbox: Sandbox, capsys: pytest.CaptureFixture[str]
) -> None:
    names["code"] = sandbox.issue_code(sandbox.grant())
    execute(blocks("README.md")[0], names, "README.md")
    first = names["manager"]
    run(document, names, sandbox)
    first.close()
    if document == "docs/operations.md":
        SqlTokenStore(names["url"], keys=[capsys.readouterr().out.strip()]).close()
