"""`store copy` moves the grants to another store; `store upgrade` finishes an upgrade."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from blink_oauth_cli.errors import ExitCode
from blink_oauth_keeper import GrantKey, Record, SqlTokenStore
from cli.cli_harness import CLIENT, GRANT, Harness, require_no_secret, require_two_lines
from storm.databases import empty_database

MOVED = "Moved: 1. Moved before: 0. As new or newer there: 0. Being refreshed: 0. Not opened: 0.\n"
AGAIN = "blink-oauth store copy again"


@pytest.fixture(params=["sqlite", "postgresql"])
def other(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Yield the URL of an empty database in a folder of its own."""
    folder = tmp_path / "other"
    folder.mkdir()
    with empty_database(request.param, folder) as url:
        yield url


@pytest.fixture
def new_keys(stored: Harness) -> Path:
    """Return a new file of keys."""
    file = stored.folder / "new.keys"
    assert stored.run("keys", "generate", "--output", str(file)).code == 0
    return file


def record_in(harness: Harness, url: str, keys: Path) -> Record | None:
    """Return the record of the grant in another store."""
    store = SqlTokenStore(url, keys=keys.read_text("ascii").split())
    with closing(store):
        return store.load(GrantKey(CLIENT, harness.sandbox.grant()))


def make_store(harness: Harness, url: str, keys: Path) -> None:
    """Make a store that has these keys."""
    words = ("store", "init", "--store", url, "--store-keys-file", str(keys))
    assert harness.run(*words).code == 0


@pytest.fixture
def new_file(stored: Harness) -> str:
    """Return the name of a new store with a key beside it."""
    assert stored.run("store", "init", "--store", "new.db").code == 0
    return "new.db"


def test_the_grants_are_used_from_the_other_store(
    stored: Harness, other: str, new_keys: Path
) -> None:
    secrets, pair = stored.secrets(), stored.pair()
    words = ("store", "copy", other, "--to-keys-file", str(new_keys))
    make_store(stored, other, new_keys)
    dry = stored.run(*words, "--dry-run")
    assert (dry.code, dry.out) == (0, MOVED.replace("Moved: 1", "To move: 1"))
    assert record_in(stored, other, new_keys) is None
    result = stored.run(*words)
    assert (result.code, result.out) == (0, MOVED)
    require_no_secret(result, secrets)
    moved = record_in(stored, other, new_keys)
    assert moved is not None
    assert moved.token == pair
    old = stored.run("refresh", GRANT)
    assert old.code == ExitCode.FAILED
    require_two_lines(old, "was moved to another store", "BLINK_STORE")
    assert stored.run(*words).out == MOVED.replace(
        "Moved: 1. Moved before: 0", "Moved: 0. Moved before: 1"
    )
    stored.configure(store=other, store_keys_file=str(new_keys))
    assert stored.run("refresh", GRANT).code == 0
    assert "grant.moved" in stored.run("history", GRANT).out
    assert stored.run("revoke", GRANT, "--yes").code == 0


def test_the_variables_name_the_other_store(stored: Harness, other: str, new_keys: Path) -> None:
    make_store(stored, other, new_keys)
    stored.monkeypatch.setenv("BLINK_COPY_TO", other)
    stored.monkeypatch.setenv("BLINK_COPY_TO_KEYS_FILE", str(new_keys))
    assert stored.run("store", "copy").out == MOVED


def test_the_key_of_another_file_is_beside_it(stored: Harness, new_file: str) -> None:
    result = stored.run("store", "copy", new_file)
    assert (result.code, result.out) == (0, MOVED)
    url = f"sqlite:///{stored.folder / new_file}"
    assert record_in(stored, url, stored.folder / "new.db.keys") is not None


@pytest.mark.parametrize("options", [(), ("--dry-run",)])
def test_a_move_makes_no_store(
    stored: Harness, other: str, new_keys: Path, options: tuple[str, ...]
) -> None:
    before = stored.rows()
    words = ("store", "copy", other, "--to-keys-file", str(new_keys), *options)
    for _ in range(2):
        result = stored.run(*words)
        assert (result.code, result.out) == (ExitCode.USAGE, "")
        require_two_lines(result, "There is no store", "STORE (BLINK_COPY_TO)")
        assert "blink-oauth store init" in result.errors
    assert stored.rows() == before


def test_a_refresh_in_progress_is_reported_and_the_grant_stays(
    stored: Harness, new_file: str
) -> None:
    with stored.open_store() as store:
        seen = store.load(GrantKey(CLIENT, stored.sandbox.grant()))
        assert seen is not None
        assert store.claim(seen, owner="fake-owner", ttl=30)
    result = stored.run("store", "copy", new_file, "--wait", "1s")
    assert result.code == ExitCode.FAILED
    assert "Being refreshed: 1" in result.out
    assert "Error: 1 grants are being refreshed" in result.errors
    assert AGAIN in result.errors
    assert stored.pair() == seen.token


def test_a_grant_that_no_key_opens_is_reported_and_stays(
    stored: Harness, new_keys: Path, new_file: str
) -> None:
    before = stored.rows()
    right = stored.keys.read_text("ascii")
    stored.keys.write_text(new_keys.read_text("ascii"), "ascii")
    result = stored.run("store", "copy", new_file)
    assert result.code == ExitCode.FAILED
    assert "Not opened: 1" in result.out
    assert "Give the missing key" in result.errors
    assert stored.rows() == before
    stored.keys.write_text(right, "ascii")
    assert stored.run("store", "copy", new_file).out == MOVED


def test_a_wrong_key_of_the_other_store_moves_nothing(
    stored: Harness, other: str, new_keys: Path
) -> None:
    make_store(stored, other, new_keys)
    assert stored.run("store", "copy", other, "--to-keys-file", str(new_keys)).code == 0
    stored.authorize()
    before = stored.rows()
    wrong = stored.folder / "wrong.keys"
    assert stored.run("keys", "generate", "--output", str(wrong)).code == 0
    result = stored.run("store", "copy", other, "--to-keys-file", str(wrong))
    assert result.code == ExitCode.FAILED
    require_two_lines(result, "pairs of the target are sealed with keys that", "missing key")
    assert stored.rows() == before


@pytest.mark.parametrize(
    ("words", "what", "do"),
    [
        (("tokens.db",), "Both are the same store", "--store"),
        (
            ("postgresql+psycopg://localhost/app",),
            "No key is known for the other",
            "--to-keys-file",
        ),
        (("new.db", "--store", "missing.db"), "There is no store", "BLINK_STORE"),
        (("mysql://localhost/app", "--to-keys-file", "new.keys"), "must be SQLite", "Correct it"),
        ((), "Missing argument", "--help"),
    ],
)
def test_a_store_that_cannot_be_used_changes_nothing(
    stored: Harness, new_keys: Path, words: tuple[str, ...], what: str, do: str
) -> None:
    before = stored.rows()
    result = stored.run("store", "copy", *words)
    assert result.code == ExitCode.USAGE
    require_two_lines(result, what, do)
    assert stored.rows() == before
    assert new_keys.exists()


def test_an_interrupted_move_tells_how_to_go_on(stored: Harness, new_file: str) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SqlTokenStore, "receive", interrupt)
        result = stored.run("store", "copy", new_file)
    assert result.code == ExitCode.INTERRUPTED
    assert "nothing is lost or spent" in result.errors
    assert AGAIN in result.errors
    assert stored.run("store", "copy", new_file).out == MOVED


def make_older(harness: Harness) -> None:
    """Let the tables count as those that an older version may write to."""
    with closing(sqlite3.connect(harness.file)) as connection, connection:
        connection.execute("UPDATE blink_oauth_schema SET version = 1")


def versions(harness: Harness) -> list[int]:
    """Return the versions of the tables."""
    with closing(sqlite3.connect(harness.file)) as connection:
        return [
            row[0]
            for row in connection.execute("SELECT version FROM blink_oauth_schema ORDER BY 1")
        ]


def test_an_upgrade_is_checked_confirmed_and_finished(stored: Harness) -> None:
    make_older(stored)
    check = stored.run("store", "upgrade", "--check")
    assert check.code == ExitCode.FAILED
    assert "an older version may still write" in check.out
    unconfirmed = stored.run("store", "upgrade")
    assert unconfirmed.code == ExitCode.USAGE
    require_two_lines(unconfirmed, "cannot be confirmed", "--yes")
    assert versions(stored) == [1]
    done = stored.run("store", "upgrade", "--yes")
    assert (done.code, versions(stored)) == (0, [1, 2])
    assert "An older version refuses to start" in done.out
    for words in (("--check",), ("--yes",), ()):
        again = stored.run("store", "upgrade", *words)
        assert (again.code, "there is nothing to do" in again.out) == (0, True)
    assert stored.run("refresh", GRANT).code == 0
