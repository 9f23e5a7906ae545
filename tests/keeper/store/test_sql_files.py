"""SQLite files: readable for their owner only, durable, and shared by processes."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Self

import pytest
from sqlalchemy import Engine, create_engine, event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import ConnectionPoolEntry

from blink_oauth.errors import InvalidInputError
from blink_oauth_keeper import Record, SqlTokenStore
from blink_oauth_keeper.errors import StoreError
from blink_oauth_testing.store_contract.harness import (
    CLIENT,
    ISSUED,
    KEY,
    days,
    note,
    pair,
    run_concurrently,
)
from keeper.store.programs import finish, start

FERNET_KEY = SqlTokenStore.new_key()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a file that does not exist."""
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


def test_all_files_are_readable_for_their_owner_only(store: SqlTokenStore, path: Path) -> None:
    mask = os.umask(0)
    try:
        put(store)
    finally:
        os.umask(mask)
    files = ("tokens.db", "tokens.db-shm", "tokens.db-wal")
    assert modes(path.parent) == dict.fromkeys(files, "-rw-------")


def test_the_file_is_never_readable_for_others(store: SqlTokenStore, path: Path) -> None:
    seen: list[str] = []

    def record_mode(connection: DBAPIConnection, _: ConnectionPoolEntry) -> None:
        seen.append(stat.filemode(path.stat().st_mode))

    # It runs before the store's listener, when SQLite has opened the file and written nothing.
    event.listen(Engine, "connect", record_mode)
    mask = os.umask(0)
    try:
        put(store)
    finally:
        os.umask(mask)
        event.remove(Engine, "connect", record_mode)
    assert seen == ["-rw-------"]


def test_an_existing_file_keeps_its_mode(store: SqlTokenStore, path: Path) -> None:
    path.touch()
    path.chmod(0o660)
    put(store)
    assert modes(path.parent)["tokens.db"] == "-rw-rw----"


def test_commits_are_synced_to_disk(store: SqlTokenStore) -> None:
    full, seen = 2, []

    def record_settings(connection: DBAPIConnection, *_: object) -> None:
        cursor = connection.cursor()
        for name in ("journal_mode", "synchronous", "busy_timeout"):
            cursor.execute(f"PRAGMA {name}")
            seen.append(cursor.fetchone())
        cursor.close()

    event.listen(Engine, "checkin", record_settings)
    put(store)
    event.remove(Engine, "checkin", record_settings)
    assert seen[-3:] == [("wal",), (full,), (30_000,)]


@contextmanager
def refusing_wal(*codes: int) -> Iterator[list[int]]:
    """Let SQLite refuse WAL mode with these error codes, one after the other.

    SQLite does so without a wait if another connection changes the mode of the file.
    """
    codes_left = list(codes)

    class Cursor(sqlite3.Cursor):
        def execute(self, statement: str, *parameters: Any) -> Self:
            if statement == "PRAGMA journal_mode = WAL" and codes_left:
                error = sqlite3.OperationalError("fake")
                error.sqlite_errorcode = codes_left.pop(0)
                raise error
            return super().execute(statement, *parameters)

    class Connection(sqlite3.Connection):
        def cursor(self, factory: Any = Cursor) -> Any:
            return super().cursor(factory)

    def connect(_: object, __: object, arguments: Any, options: Any) -> sqlite3.Connection:
        return sqlite3.connect(*arguments, factory=Connection, **options)

    event.listen(Engine, "do_connect", connect)
    try:
        yield codes_left
    finally:
        event.remove(Engine, "do_connect", connect)


def test_connections_that_set_wal_mode_at_the_same_time_wait_for_each_other(
    store: SqlTokenStore, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    with refusing_wal(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_BUSY) as codes_left:
        put(store)
    assert codes_left == []
    assert pauses == [0.01, 0.01]
    with closing(sqlite3.connect(path)) as other:
        assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_read_only_file_raises_an_error_without_a_wait(
    store: SqlTokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    with refusing_wal(*[sqlite3.SQLITE_READONLY] * 9) as codes_left, pytest.raises(StoreError):
        put(store)
    assert codes_left
    assert pauses == []


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


def test_a_relative_path_is_resolved_when_the_store_is_made(
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


def test_a_missing_folder_raises_a_store_error(path: Path) -> None:
    store = SqlTokenStore(f"sqlite:///{path.parent / 'missing' / 'tokens.db'}", keys=[FERNET_KEY])
    with pytest.raises(StoreError, match=r"The folder .*missing does not exist: make it"):
        store.load(KEY)
    (path.parent / "missing").mkdir()
    assert store.load(KEY) is None
    store.close()


def test_an_engine_of_the_application_works(path: Path) -> None:
    engine = create_engine(f"sqlite:///{path}")
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    store.create_schema()

    seen = put(store)
    claims = run_concurrently(
        4, lambda number: store.claim(seen, owner=f"fake-owner-{number}", ttl=60)
    )
    assert len([claim for claim in claims if claim]) == 1
    store.close()
    assert store.load(KEY) is not None
    engine.dispose()


def test_a_closed_store_reopens_at_its_next_use(store: SqlTokenStore, path: Path) -> None:
    put(store)
    store.close()
    # SQLite deletes its other files when the last connection closes.
    assert list(modes(path.parent)) == ["tokens.db"]
    assert store.load(KEY) is not None


def test_processes_share_a_new_file_and_one_of_them_makes_each_claim(
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
    wins = finish(*(start(f"sqlite:///{path}", FERNET_KEY, program) for _ in range(3)))
    customers = [f"customer-{number}" for number in range(15)]
    assert sorted(name for won in wins if isinstance(won, list) for name in won) == sorted(
        customers
    )
    assert len(store.records(CLIENT)) == 15
    assert [record.generation for record in store.records(CLIENT)] == [1] * 15
