"""Only `login` and `store init` make a store, and what they make is private to its owner."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from blink_oauth_cli.errors import CommandError, ExitCode
from blink_oauth_cli.key_files import read_keys, write_keys
from blink_oauth_keeper import SqlTokenStore
from blink_oauth_keeper.store.sealing import key_id
from cli.cli_harness import GRANT, Harness, require_two_lines
from storm.databases import empty_database

USING: list[tuple[str, ...]] = [
    ("status",),
    ("history", GRANT),
    ("token", GRANT),
    ("refresh", GRANT),
    ("revoke", GRANT, "--yes"),
    ("forget", GRANT, "--yes"),
    ("keep-alive",),
    ("keep-alive", "--dry-run"),
    ("keys", "add"),
    ("keys", "seal"),
    ("keys", "drop"),
    ("store", "copy", "other.db"),
    ("store", "upgrade", "--yes"),
]
"""The commands that use a store and make none."""


def mistyped(harness: Harness) -> Path:
    return harness.folder / "typo" / "tokens.db"


def empty(harness: Harness) -> Path:
    harness.file.touch(mode=0o600)
    return harness.file


def only_its_key(harness: Harness) -> Path:
    harness.keys.write_text(SqlTokenStore.new_key().reveal(), "ascii")
    return harness.file


def dangling_link(harness: Harness) -> Path:
    link = harness.folder / "link.db"
    link.symlink_to(harness.folder / "missing.db")
    return link


def other_database(harness: Harness) -> Path:
    with closing(sqlite3.connect(harness.file)) as connection:
        connection.execute("CREATE TABLE bookmarks (url)")
    only_its_key(harness)
    return harness.file


def folder_in_its_place(harness: Harness) -> Path:
    harness.file.mkdir()
    return harness.file


def link_in_a_loop(harness: Harness) -> Path:
    harness.file.symlink_to(harness.file)
    return harness.file


def content_of(folder: Path) -> dict[Path, bytes | None]:
    """Return all paths below a folder, with the content of the files."""
    return {
        path: path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
        if path.suffix != ".toml"
    }


@pytest.mark.parametrize(
    ("place", "phrase"),
    [
        (mistyped, "There is no store"),
        (empty, "the file is empty"),
        (only_its_key, "There is no store"),
        (dangling_link, "There is no store"),
        (other_database, "a database of something else"),
        (folder_in_its_place, "is a folder"),
        (link_in_a_loop, "cannot be read"),
    ],
)
def test_a_command_makes_no_store(
    harness: Harness, place: Callable[[Harness], Path], phrase: str
) -> None:
    harness.configure(store=str(place(harness)))
    before = content_of(harness.folder)
    for words in USING:
        result = harness.run(*words)
        assert (result.code, result.out) == (ExitCode.USAGE, ""), words
        require_two_lines(result, phrase, "--store (BLINK_STORE)")
        assert content_of(harness.folder) == before, words
    harness.run("doctor")
    assert content_of(harness.folder) == before


def test_the_doctor_warns_of_a_mistyped_store(harness: Harness) -> None:
    harness.configure(store=str(mistyped(harness)))
    (check,) = [each for each in harness.run("doctor", "--json").json if each["name"] == "store"]
    assert check["level"] == "warn"
    assert "There is no store" in check["finding"]
    assert "blink-oauth store init" in check["remedy"]


@pytest.fixture(scope="module")
def postgresql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of an empty database of PostgreSQL."""
    with empty_database("postgresql", tmp_path_factory.mktemp("postgresql")) as url:
        yield url


def test_a_store_in_postgresql_is_made_once_and_its_key_is_asked_for_by_id(
    harness: Harness, postgresql: str
) -> None:
    keys = harness.folder / "pg.keys"
    harness.configure(store=postgresql)
    none_yet = harness.run("status")
    require_two_lines(none_yet, "No key is known for this store, and there is no", "keys generate")
    harness.configure(store=postgresql, store_keys_file=str(keys))
    missing = harness.run("keep-alive")
    assert missing.code == ExitCode.USAGE
    require_two_lines(missing, "There is no store in the database", "blink-oauth store init")
    made = harness.run("store", "init")
    assert made.code == 0
    assert str(keys) in made.out
    assert harness.run("store", "init").out == "The store is there already; nothing was changed.\n"
    code = harness.sandbox.issue_code(harness.sandbox.grant())
    login = ("login", "--code", code, "--redirect-uri", harness.sandbox.redirect_uri)
    assert harness.run(*login).code == 0

    # Without its key, it is asked for by its id, and none is made.
    needed = f"{key_id(keys.read_text('ascii').strip())}"
    key = keys.read_text("ascii")
    harness.configure(store=postgresql, store_keys_file=None)
    for command in ("status", "keep-alive", "store init"):
        result = harness.run(*command.split())
        assert result.code == ExitCode.USAGE
        require_two_lines(result, needed, "A new key could not open them")
        assert "keys generate" not in result.errors
    harness.configure(store=postgresql, store_keys_file=str(keys))
    keys.unlink()
    for command in ("status", "store init", "login --no-browser --timeout 1"):
        result = harness.run(*command.split())
        assert result.code == ExitCode.USAGE
        require_two_lines(result, f"sealed with the key {needed}", "Put the file back")
    assert not keys.exists()
    keys.write_text(key, "ascii")
    assert harness.run("token").code == 0


def without_key_file(harness: Harness) -> None:
    harness.keys.unlink()


def with_another_key_file(harness: Harness) -> None:
    harness.keys.write_text(SqlTokenStore.new_key().reveal(), "ascii")


def with_an_empty_key_file(harness: Harness) -> None:
    harness.keys.write_text("")


def with_another_key_in_the_variable(harness: Harness) -> None:
    harness.configure(store_keys=SqlTokenStore.new_key().reveal())


@pytest.mark.parametrize(
    "change",
    [
        without_key_file,
        with_another_key_file,
        with_an_empty_key_file,
        with_another_key_in_the_variable,
    ],
)
def test_the_key_of_a_store_is_asked_for_by_its_id(
    stored: Harness, change: Callable[[Harness], None]
) -> None:
    needed = f"{key_id(stored.keys.read_text('ascii').strip())}"
    before = stored.rows()
    change(stored)
    files = sorted(path.name for path in stored.folder.iterdir())
    for words in (
        ("status",),
        ("token",),
        ("store", "init"),
        ("login", "IIDX00002/u-1", "--no-browser", "--timeout", "1"),
        ("doctor",),
    ):
        result = stored.run(*words)
        assert needed in result.out + result.errors, words
        assert (result.code == 0) is (words == ("status",) and "unreadable" in result.out)
    assert stored.rows() == before
    assert sorted(path.name for path in stored.folder.iterdir()) == files


def test_a_store_made_with_a_given_key_has_no_other(harness: Harness) -> None:
    harness.configure(store_keys=SqlTokenStore.new_key().reveal())
    result = harness.run("store", "init", "--store", str(mistyped(harness)))
    assert (result.code, result.out) == (0, f"A new store: {mistyped(harness)}\n")
    assert [path.name for path in mistyped(harness).parent.iterdir()] == ["tokens.db"]


# ---- the files


@contextmanager
def umask(value: int) -> Iterator[None]:
    """Set the umask of the process."""
    before = os.umask(value)
    try:
        yield
    finally:
        os.umask(before)


def mode(path: Path) -> int:
    """Return the permission bits of a file."""
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("link", [False, True], ids=["file", "dangling-link"])
def test_what_is_made_is_private_whatever_the_umask(harness: Harness, link: bool) -> None:
    folder = harness.folder / "a" / "b"
    store = folder / "tokens.db"
    with umask(0):
        if link:
            store = harness.folder / "link.db"
            store.symlink_to(folder / "tokens.db")
            harness.keys.symlink_to(folder / "tokens.keys")
        harness.configure(store=str(store), store_keys_file=str(harness.keys) if link else None)
        assert harness.run("store", "init").code == 0
        open_store = SqlTokenStore(
            store, keys=read_keys(harness.keys if link else folder / "tokens.db.keys")
        )
        open_store.client_ids()
        made = [path for path in harness.folder.rglob("*") if path.is_relative_to(folder.parent)]
        assert {path.name for path in made} >= {"a", "b", "tokens.db", "tokens.db-wal"}
        modes = {path.name: mode(path) for path in made}
        open_store.close()
    assert modes == {p.name: 0o700 if p.name in {"a", "b"} else 0o600 for p in made}


def refuse(code: int) -> Callable[..., None]:
    """Return a function that fails with an error of the operating system."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.EPERM, errno.ENOTSUP, errno.EXDEV, errno.EMLINK])
def test_a_file_system_without_hard_links_takes_the_first_key(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(os, "link", refuse(code))
    assert harness.run("store", "init").code == 0
    assert mode(harness.keys) == 0o600
    assert len(read_keys(harness.keys)) == 1
    assert harness.run("status").code == 0


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_synchronize_takes_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    file = tmp_path / "tokens.keys"
    monkeypatch.setattr(os, "fsync", refuse(code))
    assert write_keys(file, [SqlTokenStore.new_key()], replace=False, consequence="", remedy="")
    assert len(read_keys(file)) == 1


@pytest.mark.parametrize(
    ("owner", "name", "code"),
    [
        (os, "fsync", errno.ENOSPC),
        (os, "open", errno.EACCES),
        (tempfile, "mkstemp", errno.EROFS),
        (Path, "replace", errno.EPERM),
    ],
)
def test_a_key_that_cannot_be_written_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: object, name: str, code: int
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, refuse(code))
        with pytest.raises(CommandError, match="cannot be written"):
            write_keys(
                tmp_path / "tokens.keys",
                [SqlTokenStore.new_key()],
                replace=False,
                consequence="",
                remedy="",
            )
    assert list(tmp_path.iterdir()) == []


def test_a_key_file_that_appears_meanwhile_is_kept(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, other = harness.folder / "new.keys", SqlTokenStore.new_key().reveal()
    mkstemp = tempfile.mkstemp

    def appears(*arguments: object, **options: object) -> object:
        file.write_text(other, "ascii")
        return mkstemp(*arguments, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(tempfile, "mkstemp", appears)
    result = harness.run("keys", "generate", "--output", str(file))
    assert result.code == ExitCode.USAGE
    require_two_lines(result, "is there already, and is left as it is", "Name a new file")
    assert file.read_text("ascii") == other
    assert [path.name for path in harness.folder.glob("*keys*")] == [file.name]
