"""An SQLite file: readable for its owner alone, durable, and shared by processes."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest
from sqlalchemy import create_engine, event, text
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from blink_oauth.errors import InvalidInputError, StoreError
from blink_oauth.storage import Record, SqlTokenStore, engines
from blink_oauth.storage.contract.material import (
    CLIENT,
    ISSUED,
    KEY,
    at_once,
    days,
    grant_key,
    note,
    pair,
)

FERNET_KEY = SqlTokenStore.new_key()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Name a file that is not there yet."""
    return tmp_path / "tokens.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqlTokenStore]:
    """Return a store in that file."""
    store = SqlTokenStore(f"sqlite:///{path}", keys=[FERNET_KEY])
    yield store
    store.close()


def put(store: SqlTokenStore, name: str = "a") -> Record:
    """Store a pair."""
    return store.put(KEY, pair(name), issued_at=ISSUED, idle_until=ISSUED + days(30), note=note())


def modes(folder: Path) -> dict[str, str]:
    """Return the modes of all files in a folder."""
    return {path.name: stat.filemode(path.stat().st_mode) for path in folder.iterdir()}


def test_all_files_are_readable_for_their_owner_alone(store: SqlTokenStore, path: Path) -> None:
    mask = os.umask(0)
    try:
        put(store)
    finally:
        os.umask(mask)
    files = ("tokens.db", "tokens.db-shm", "tokens.db-wal")
    assert modes(path.parent) == dict.fromkeys(files, "-rw-------")


def test_the_file_is_never_readable_for_others(store: SqlTokenStore, path: Path) -> None:
    seen: list[str] = []

    def look(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        seen.append(stat.filemode(path.stat().st_mode))

    # SQLite has opened the file by then, and written nothing.
    event.listen(store._engine, "connect", look, insert=True)
    mask = os.umask(0)
    try:
        put(store)
    finally:
        os.umask(mask)
    assert seen == ["-rw-------"]


def test_a_file_that_is_there_keeps_its_mode(store: SqlTokenStore, path: Path) -> None:
    path.touch()
    path.chmod(0o660)
    put(store)
    assert modes(path.parent)["tokens.db"] == "-rw-rw----"


def test_what_was_committed_survives_a_loss_of_power(store: SqlTokenStore) -> None:
    put(store)
    full = 2
    with store._engine.connect() as connection:
        settings = [
            connection.scalar(text(f"PRAGMA {name}"))
            for name in ("journal_mode", "synchronous", "busy_timeout")
        ]
    assert settings == ["wal", full, 30_000]


def refusal(code: int) -> sqlite3.OperationalError:
    """Return an error as SQLite raises it."""
    error = sqlite3.OperationalError("fake")
    error.sqlite_errorcode = code
    return error


def test_several_that_open_a_new_file_at_once_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # SQLite refuses to change the mode of a file that others are just changing, and does not wait.
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    busy = refusal(sqlite3.SQLITE_BUSY)
    cursor = Mock(execute=Mock(side_effect=[busy, busy, None]))
    engines._write_ahead(cursor)
    assert cursor.execute.call_count == 3
    assert pauses == [0.01, 0.01]


def test_a_file_that_cannot_be_written_is_not_waited_for() -> None:
    cursor = Mock(execute=Mock(side_effect=refusal(sqlite3.SQLITE_READONLY)))
    with pytest.raises(sqlite3.OperationalError):
        engines._write_ahead(cursor)
    assert cursor.execute.call_count == 1


@pytest.mark.parametrize(
    "database",
    ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"],
)
def test_a_database_in_memory_is_refused(database: str) -> None:
    with pytest.raises(InvalidInputError, match="must be a file"):
        SqlTokenStore(database, keys=[FERNET_KEY])


def test_an_engine_for_a_database_in_memory_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="must be a file"):
        SqlTokenStore(create_engine("sqlite://"), keys=[FERNET_KEY])


def test_a_relative_path_is_that_of_the_folder_it_was_given_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    store = SqlTokenStore("sqlite:///tokens.db", keys=[FERNET_KEY])
    monkeypatch.chdir("elsewhere")
    put(store)
    assert (tmp_path / "tokens.db").exists()
    assert list((tmp_path / "elsewhere").iterdir()) == []
    store.close()


def test_a_folder_that_is_missing_is_an_error_of_the_store(path: Path) -> None:
    store = SqlTokenStore(f"sqlite:///{path.parent / 'missing' / 'tokens.db'}", keys=[FERNET_KEY])
    with pytest.raises(StoreError, match="No such file or directory"):
        store.load(KEY)
    (path.parent / "missing").mkdir()
    assert store.load(KEY) is None
    store.close()


def test_the_applications_own_engine_serves_as_well(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    store.create_schema()

    seen = put(store)
    claims = at_once(4, lambda number: store.claim(seen, owner=f"fake-owner-{number}", ttl=60))
    assert len([claim for claim in claims if claim]) == 1
    store.close()
    assert store.load(KEY) is not None
    engine.dispose()


def test_a_closed_store_opens_again(store: SqlTokenStore, path: Path) -> None:
    put(store)
    store.close()
    # The last connection takes the files beside the database with it.
    assert list(modes(path.parent)) == ["tokens.db"]
    assert store.load(KEY) is not None


def start(path: Path, program: str) -> subprocess.Popen[str]:
    """Start a program that finds a store in the file, and whose last line is what it tells."""
    opening = f"""
import json, os, sys
from blink_oauth.storage import SqlTokenStore
from blink_oauth.storage.contract.material import *
store = SqlTokenStore("sqlite:///{path}", keys=[sys.stdin.readline().strip()])
print("ready", flush=True)
sys.stdin.readline()
def put(name):
    return store.put(grant_key(name), pair(name), issued_at=ISSUED, idle_until=ISSUED, note=note())
"""
    process = subprocess.Popen(
        [sys.executable, "-c", opening + program],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    process.stdin.write(FERNET_KEY.reveal() + "\n")
    process.stdin.flush()
    return process


def finish(*processes: subprocess.Popen[str]) -> list[object]:
    """Let all programs go at the same moment, and return what they told."""
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes)
    return [json.loads(lines.splitlines()[-1]) for lines in told]


def test_processes_share_a_new_file_and_one_wins_each_claim(
    store: SqlTokenStore, path: Path
) -> None:
    program = """
won = []
for number in range(15):
    seen = put(f"customer-{number}")
    if store.claim(seen, owner=f"owner-{os.getpid()}", ttl=600):
        won.append(seen.key.grant.username)
print(json.dumps(won))
"""
    wins = finish(*(start(path, program) for _ in range(3)))
    everybody = [f"customer-{number}" for number in range(15)]
    assert sorted(name for won in wins if isinstance(won, list) for name in won) == sorted(
        everybody
    )
    assert len(store.records(CLIENT)) == 15
    assert [record.generation for record in store.records(CLIENT)] == [1] * 15


def test_a_forked_child_opens_connections_of_its_own(store: SqlTokenStore, path: Path) -> None:
    program = """
put("parent")
inherited = store._engine.pool
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    assert store._engine.pool is inherited
    put("parent again")
    print(json.dumps([record.key.grant.username for record in store.records(CLIENT)]))
else:
    assert store._engine.pool is not inherited
    put("child")
"""
    [names] = finish(start(path, program))
    assert names == ["child", "parent", "parent again"]
    assert store.load(grant_key("child")) is not None
