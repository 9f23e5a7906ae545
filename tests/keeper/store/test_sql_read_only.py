"""A process that can only read the file serves what is stored, and says why it stores nothing."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from blink_oauth_keeper import SqlTokenStore
from blink_oauth_testing.store_contract.harness import ISSUED, KEY, grant_key, note, pair
from keeper.store.programs import finish, start

FERNET_KEY = SqlTokenStore.new_key()

READER = """
from blink_oauth_keeper.errors import StoreError
path = repr(store).split("///")[1].rstrip("')")
seen = []

def attempt(work):
    try:
        return work()
    except StoreError as error:
        return f"{error.retryable} {error}"

def access():
    return attempt(lambda: store.load(KEY).token.access_token.reveal())

def write():
    return attempt(lambda: put("b") and "written")

def drop_privileges():
    # Root may write to any file.
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a folder that every user may read; pytest's own folders are private."""
    path = Path(tempfile.mkdtemp(prefix="read-only-"))
    path.chmod(0o755)
    yield path
    for entry in (path, *path.iterdir()):
        entry.chmod(0o755)
    shutil.rmtree(path)


@pytest.fixture
def store(folder: Path) -> Iterator[SqlTokenStore]:
    """Return a store with a pair, in a file of that folder."""
    with closing(SqlTokenStore(f"sqlite:///{folder / 'tokens.db'}", keys=[FERNET_KEY])) as store:
        put(store, "a")
        yield store


def put(store: SqlTokenStore, name: str) -> None:
    """Store a pair."""
    store.put(KEY, pair(name), issued_at=ISSUED, idle_until=ISSUED, note=note())


def forbid(folder: Path, *, files: bool = True) -> None:
    """Let nobody write to the folder, nor to its files, and let everybody read."""
    for path in folder.iterdir():
        path.chmod(0o444 if files else 0o666)
    folder.chmod(0o555)


def allow(folder: Path) -> None:
    """Let everybody write to the folder and its files."""
    folder.chmod(0o777)
    for path in folder.iterdir():
        path.chmod(0o666)


def run(folder: Path, program: str) -> Any:
    """Run a program that may not write unless the modes of the files let everybody."""
    url = f"sqlite:///{folder / 'tokens.db'}"
    [result] = finish(start(url, FERNET_KEY, READER + "drop_privileges()\n" + program))
    return result


def assert_refused(text: str) -> None:
    """Check that an error says in words that the file is read-only."""
    assert "The file or its folder is read-only." in text or "cannot be opened" in text


ACCESS = pair("a").access_token.reveal()


@pytest.mark.parametrize("files", [True, False], ids=["file and folder", "folder"])
def test_what_is_stored_is_served_after_all_writers_have_closed(
    store: SqlTokenStore, folder: Path, files: bool
) -> None:
    store.close()
    forbid(folder, files=files)
    first, refused, again = run(folder, "print(json.dumps([access(), write(), access()]))")
    assert (first, again) == (ACCESS, ACCESS)
    assert_refused(refused)


def test_what_is_stored_is_served_while_a_writer_has_the_file_open(
    store: SqlTokenStore, folder: Path
) -> None:
    forbid(folder)
    first, refused, again = run(folder, "print(json.dumps([access(), write(), access()]))")
    assert (first, again) == (ACCESS, ACCESS)
    assert_refused(refused)


def test_a_reader_sees_what_others_store_later(store: SqlTokenStore, folder: Path) -> None:
    store.close()
    forbid(folder)
    program = """
seen = [access()]
sys.stdout.write("read\\n")
sys.stdout.flush()
sys.stdin.readline()
print(json.dumps([*seen, access()]))
"""
    url = f"sqlite:///{folder / 'tokens.db'}"
    process = start(url, FERNET_KEY, READER + "drop_privileges()\n" + program)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()
    assert process.stdout.readline() == "read\n"
    allow(folder)
    put(store, "b")
    store.close()
    forbid(folder)
    process.stdin.write("go\n")
    output, _ = process.communicate(timeout=60)
    assert output.splitlines() == [f'["{ACCESS}", "{pair("b").access_token.reveal()}"]']


def test_a_file_without_a_write_ahead_log_is_served(store: SqlTokenStore, folder: Path) -> None:
    store.close()
    with closing(sqlite3.connect(folder / "tokens.db")) as connection:
        connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    forbid(folder)
    first, refused, again = run(folder, "print(json.dumps([access(), write(), access()]))")
    assert (first, again) == (ACCESS, ACCESS)
    assert_refused(refused)


def test_a_store_writes_again_once_the_file_is_writable(store: SqlTokenStore, folder: Path) -> None:
    store.close()
    forbid(folder)
    program = """
seen = [access(), write()]
sys.stdout.write("read\\n")
sys.stdout.flush()
sys.stdin.readline()
print(json.dumps([*seen, write(), access()]))
"""
    url = f"sqlite:///{folder / 'tokens.db'}"
    process = start(url, FERNET_KEY, READER + "drop_privileges()\n" + program)
    assert process.stdout is not None
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    assert [process.stdout.readline() for _ in range(2)] == ["ready\n", "read\n"]
    allow(folder)
    process.stdin.write("go\n")
    output, _ = process.communicate(timeout=60)
    first, refused, *after = json.loads(output)
    assert first == ACCESS
    assert_refused(refused)
    assert after == ["written", ACCESS]
    assert store.load(grant_key("b")) is not None


def test_a_missing_file_in_a_read_only_folder_is_refused_in_words(folder: Path) -> None:
    forbid(folder)
    assert "The file cannot be created: Permission denied." in run(
        folder, "print(json.dumps(access()))"
    )
