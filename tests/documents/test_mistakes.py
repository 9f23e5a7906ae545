"""Each mistake with the library has a message that helps, as docs/how-to/mistakes.md shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from blink_oauth import (
    BlinkError,
    BlinkOAuth,
    FailedCallback,
    InvalidInputError,
    Outcome,
    answer_to,
)
from blink_oauth_keeper import MemoryTokenStore, TokenManager
from blink_oauth_testing import Sandbox
from documents.examples import PROJECT
from documents.mistakes import APP_KEY, KEY, MISTAKES, Mistake, World, command_table, library_table

PAGE = PROJECT / "docs/how-to/mistakes.md"


@pytest.fixture
def world(
    blink_sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    monkeypatch.chdir(tmp_path)
    with (
        BlinkOAuth(blink_sandbox.settings()) as blink,
        TokenManager(blink, MemoryTokenStore()) as manager,
    ):
        world = World(blink_sandbox, tmp_path, manager, blink)
        yield world
        world.close()


def outcome_of(mistake: Mistake, world: World) -> object:
    """Return what a mistake raises or returns."""
    try:
        return mistake.act(world)
    except Exception as error:  # noqa: BLE001 - each mistake raises another
        return error


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake.did)
def test_a_mistake_is_named_with_what_to_do(mistake: Mistake, world: World) -> None:
    count = len(world.sandbox.exchanges)
    found = outcome_of(mistake, world)
    assert type(found) is mistake.kind, repr(found)
    text = str(found.reason if isinstance(found, FailedCallback) else found)
    assert mistake.says in text
    assert len(world.sandbox.exchanges) - count == mistake.sent
    passphrase = world.certificate.passphrase
    assert passphrase is not None
    secrets = (KEY.reveal(), APP_KEY, passphrase.reveal(), "fake-", "-----BEGIN")
    assert [secret for secret in secrets if secret in text] == []
    if isinstance(found, BlinkError):
        answer = answer_to(found)
        assert (answer.status, answer.exit_code) == (mistake.status, mistake.exit_code)
        assert found.outcome in {Outcome.NOT_EXECUTED, Outcome.REJECTED}
        assert isinstance(found, InvalidInputError) == (mistake.exit_code == 2)
    else:
        assert (mistake.status, mistake.exit_code) == (None, None)


def tables_of_page() -> list[list[str]]:
    """Return the lines of the tables of the page."""
    sections = PAGE.read_text("utf-8").split("\n## ")
    tables = [[line for line in section.splitlines() if line[:1] == "|"] for section in sections]
    return [table for table in tables if table]


def test_the_page_shows_the_rows_of_the_tests() -> None:
    assert tables_of_page() == [library_table(), command_table()]


def test_there_are_thirty_mistakes_of_each_and_none_is_there_twice() -> None:
    for table in tables_of_page():
        rows = {row.split(" | ")[0] + row.split(" | ")[1] for row in table[2:]}
        assert len(rows) == len(table) - 2 >= 30
