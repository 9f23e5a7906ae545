"""Failures of the database: they lose no pair, can be repeated, and show no secret."""

from __future__ import annotations

import logging
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import OperationalError

from blink_oauth.errors import InvalidInputError
from blink_oauth_keeper import KeyFile, Origin, Record, SqlTokenStore, State
from blink_oauth_keeper.errors import StoreError
from blink_oauth_keeper.store.sql_tables import Database
from blink_oauth_testing.store_contract.harness import ISSUED, KEY, entry_values, note, pair
from postgresql import PostgreSQL

FERNET_KEY = SqlTokenStore.new_key()
PASSWORD = "fake-password"


@pytest.fixture
def store(database_url: str) -> Iterator[SqlTokenStore]:
    """Return a store in each kind of database."""
    store = SqlTokenStore(database_url, keys=[FERNET_KEY])
    store.create_schema()
    yield store
    store.close()


def put(store: SqlTokenStore, name: str = "a") -> Record:
    """Store a pair."""
    return store.put(KEY, pair(name), issued_at=ISSUED, idle_until=None, note=note("put"))


def claim(store: SqlTokenStore, seen: Record) -> Record:
    """Claim a record, which must succeed."""
    claimed = store.claim(seen, owner="fake-owner", ttl=600)
    assert claimed is not None
    return claimed


def settle(store: SqlTokenStore, claimed: Record, name: str = "b") -> bool:
    """Settle a pair."""
    return store.settle(
        claimed, pair(name), issued_at=ISSUED, idle_until=None, note=note("settled")
    ).stored


def release(store: SqlTokenStore, claimed: Record) -> bool:
    """Release the lease."""
    return store.release(
        claimed, state=State.ACTIVE, attempts=0, pause=0, error=None, note=note("released")
    )


def events(store: SqlTokenStore) -> list[str]:
    """Return the events of the history, the oldest first."""
    return [entry.note.event for entry in reversed(store.history(KEY))]


@contextmanager
def losing_the_result() -> Iterator[None]:
    """Break the connection after a change is committed and before the store gets the result."""
    begun: list[str] = []

    def lose(connection: Connection, cursor: object, statement: str, *rest: object) -> None:
        changes = statement.startswith(("UPDATE", "WITH"))
        if statement == "COMMIT" or (changes and not begun):
            begun.clear()
            raise OperationalError("fake", None, Exception("the connection is lost"))
        if statement.startswith("BEGIN"):
            begun.append(statement)

    event.listen(Engine, "after_cursor_execute", lose)
    yield
    event.remove(Engine, "after_cursor_execute", lose)


def with_unknown_result(change: Callable[[], object]) -> None:
    """Make a change whose result is unknown to the caller."""
    with (
        losing_the_result(),
        pytest.raises(StoreError, match="unknown whether the change was made") as caught,
    ):
        change()
    assert caught.value.retryable


def test_settle_can_be_repeated_if_its_result_is_unknown(store: SqlTokenStore) -> None:
    claimed = claim(store, put(store))
    with_unknown_result(lambda: settle(store, claimed))
    record = store.load(KEY)
    assert settle(store, claimed)
    assert store.load(KEY) == record
    assert record is not None
    assert (record.generation, record.token) == (2, pair("b"))
    assert list(store.journal_entries(KEY)) == []
    assert events(store) == ["put", "settled"]


def test_a_superseded_pair_is_journaled_once_if_settle_is_repeated(store: SqlTokenStore) -> None:
    claimed = claim(store, put(store))
    put(store, "again")
    with_unknown_result(lambda: settle(store, claimed, "late"))
    assert not settle(store, claimed, "late")
    found = [origin for origin, *_ in entry_values(list(store.journal_entries(KEY)))]
    assert found == [Origin.SUPERSEDED, Origin.REPLACED]


def test_put_can_be_repeated_if_its_result_is_unknown(store: SqlTokenStore) -> None:
    with_unknown_result(lambda: put(store))
    assert put(store).generation == 1
    with_unknown_result(lambda: put(store, "b"))
    assert put(store, "b").generation == 2
    assert len(store.journal_entries(KEY)) == 1
    assert events(store) == ["put", "put"]


def test_release_can_be_repeated_if_its_result_is_unknown(store: SqlTokenStore) -> None:
    claimed = claim(store, put(store))
    with_unknown_result(lambda: release(store, claimed))
    record = store.load(KEY)
    assert record is not None
    assert (record.state, record.attempts, record.lease_left) == (State.ACTIVE, 0, 0)
    assert release(store, claimed)


def test_a_claim_fails_if_it_is_repeated_after_an_unknown_result(postgres_url: str) -> None:
    store = SqlTokenStore(postgres_url, keys=[FERNET_KEY])
    seen = put(store)
    # The first claim of a store checks its permissions, in a transaction of its own.
    store.add_note(KEY, note=note())
    with_unknown_result(lambda: store.claim(seen, owner="fake-owner", ttl=600))
    assert store.claim(seen, owner="fake-owner", ttl=600) is None
    record = store.load(KEY)
    assert record is not None
    assert (record.state, record.attempts, record.owner) == (State.REFRESHING, 1, "fake-owner")
    store.close()


def test_a_change_that_fails_in_the_middle_is_not_made(store: SqlTokenStore) -> None:
    put(store)

    def fail(connection: Connection, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith(("UPDATE", "WITH")):
            raise OperationalError("fake", None, Exception("the connection is lost"))

    # The transaction has added the old pair to the journal before it fails.
    event.listen(Engine, "before_cursor_execute", fail)
    with pytest.raises(StoreError):
        put(store, "b")
    event.remove(Engine, "before_cursor_execute", fail)
    assert list(store.journal_entries(KEY)) == []
    assert events(store) == ["put"]


def test_a_change_that_fails_leaves_no_transaction_in_the_pool(database_url: str) -> None:
    engine = create_engine(database_url, pool_size=1, max_overflow=0, skip_autocommit_rollback=True)
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    store.create_schema()

    def fail(connection: Connection, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith(("INSERT", "WITH")):
            raise OperationalError("fake", None, Exception("the connection is lost"))

    event.listen(engine, "before_cursor_execute", fail)
    with pytest.raises(StoreError):
        put(store)
    event.remove(engine, "before_cursor_execute", fail)
    assert put(store).generation == 1
    engine.dispose()


def test_a_failure_shows_neither_parameters_nor_the_statement(
    store: SqlTokenStore, database_url: str
) -> None:
    put(store)
    engine = create_engine(database_url)
    with engine.connect() as connection:
        sealed = connection.exec_driver_sql("SELECT sealed FROM blink_oauth_grants").scalar()
    engine.dispose()
    assert isinstance(sealed, str)

    def fail(connection: Connection, cursor: object, statement: str, *rest: object) -> None:
        raise OperationalError(statement, [sealed], Exception(sealed))

    event.listen(Engine, "before_cursor_execute", fail)
    with pytest.raises(StoreError) as caught:
        put(store, "b")
    event.remove(Engine, "before_cursor_execute", fail)
    assert_hidden(
        caught.value, "fake-access", "fake-refresh", FERNET_KEY.reveal(), sealed, "SELECT"
    )
    assert "failed in put (Exception)" in str(caught.value)
    assert "It is unknown whether the change was made" in str(caught.value)
    # The bank may have been called before.
    assert "sent" not in str(caught.value)


def test_a_file_that_is_no_database_raises_a_permanent_error(tmp_path: Path) -> None:
    path = tmp_path / "tokens.db"
    path.write_text("nonsense " * 1000)
    with pytest.raises(
        StoreError, match=r"SQLITE_NOTADB\). The file is no SQLite database"
    ) as caught:
        SqlTokenStore(f"sqlite:///{path}", keys=[FERNET_KEY]).load(KEY)
    assert not caught.value.retryable


@pytest.mark.skipif(sys.platform != "linux", reason="it lists the open files as Linux does")
@pytest.mark.parametrize("intact", [0, 100], ids=["no database", "damaged tables"])
def test_a_file_that_cannot_be_read_is_not_left_open(tmp_path: Path, intact: int) -> None:
    path = tmp_path / "tokens.db"
    with closing(SqlTokenStore(path, keys=[FERNET_KEY])) as store:
        store.create_schema()
    content = path.read_bytes()
    path.write_bytes(content[:intact] + b"n" * len(content[intact:]))
    with pytest.raises(StoreError, match=r"SQLITE_NOTADB|SQLITE_CORRUPT") as caught:
        SqlTokenStore(path, keys=[FERNET_KEY]).load(KEY)
    opened = {os.path.realpath(each) for each in Path("/proc/self/fd").iterdir()}
    assert os.path.realpath(path) not in opened
    assert not caught.value.retryable


def test_a_locked_file_raises_a_retryable_error(tmp_path: Path) -> None:
    path = tmp_path / "tokens.db"
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    store.create_schema()
    holder = create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")
    with holder.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="kept the file locked for too long") as caught:
            put(store)
        connection.exec_driver_sql("ROLLBACK")
    assert caught.value.retryable
    assert put(store).generation == 1
    engine.dispose()
    holder.dispose()


def test_a_missing_permission_raises_a_permanent_error(
    postgres: PostgreSQL, postgres_url: str
) -> None:
    url = make_url(postgres_url)
    postgres.execute("DROP ROLE IF EXISTS unprivileged")
    postgres.execute("CREATE ROLE unprivileged LOGIN")
    store = SqlTokenStore(url.set(username="unprivileged"), keys=[FERNET_KEY])
    with pytest.raises(StoreError, match=r"42501.*lacks a permission") as caught:
        store.load(KEY)
    assert not caught.value.retryable
    store.close()


@pytest.mark.parametrize(
    "database",
    [
        f"mysql://user:{PASSWORD}@db.example/app",
        f"postgresql+asyncpg://user:{PASSWORD}@db.example/app",
        f"postgresql+psycopg_async://user:{PASSWORD}@db.example/app",
        f"sqlite+aiosqlite:///{PASSWORD}",
        f"sqlite:///{PASSWORD}?mode=rw",
        f"sqlite:///tokens?/{PASSWORD}",
        f"{PASSWORD} is no URL",
        f"nonsense://{PASSWORD}",
        # A password that is not escaped, or in the wrong place.
        f"postgresql://user:fake@{PASSWORD}@db.example/app",
        f"postgresql://user:fake@x/{PASSWORD}@db.example/app",
        f"postgresql://user/{PASSWORD}@db.example/app",
        f"postgresql://user:{PASSWORD}",
        f"postgresql://user@db.example:{PASSWORD}/app",
        f"postgresql://user:fake:x@db.example:{PASSWORD}@db.example/app",
        None,
        b"sqlite:///tokens.db",
    ],
)
def test_an_unsupported_database_is_refused_and_its_url_not_shown(database: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        SqlTokenStore(database, keys=[FERNET_KEY])
    assert_hidden(caught.value, PASSWORD)


def test_invalid_keys_are_refused_and_not_shown() -> None:
    for keys in ([], ["fake-key"], "fake-key"):
        with pytest.raises(InvalidInputError) as caught:
            SqlTokenStore(f"sqlite:///{PASSWORD}", keys=keys)
        assert_hidden(caught.value, "fake-key")


def test_a_key_in_place_of_the_path_of_its_file_is_refused_and_not_shown() -> None:
    with pytest.raises(InvalidInputError) as caught:
        KeyFile(FERNET_KEY.reveal())
    assert_hidden(caught.value, FERNET_KEY.reveal())


def assert_hidden(error: BaseException, *secrets: str) -> None:
    """Check that an error, and the frames outside this file, contain none of the secrets."""
    assert error.__context__ is None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    product = [frame for frame in frames if frame.f_code.co_filename != __file__]
    assert product
    shown = [str(error), *(repr(frame.f_locals) for frame in product)]
    assert [text for text in shown for secret in secrets if secret in text] == []


def test_a_store_shows_neither_password_nor_key() -> None:
    url = f"postgresql+psycopg://user:{PASSWORD}@db.example/app?password={PASSWORD}"
    store = SqlTokenStore(url, keys=[FERNET_KEY])
    assert repr(store) == "SqlTokenStore('postgresql+psycopg://user:***@db.example/app')"
    assert FERNET_KEY.reveal() not in repr(vars(store))
    # The repr of an engine contains the query of its URL.
    others = [value for value in vars(store).values() if not isinstance(value, (Engine, Database))]
    assert PASSWORD not in repr(others)


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
def test_a_postgresql_url_without_a_driver_uses_psycopg(scheme: str) -> None:
    store = SqlTokenStore(f"{scheme}://user@db.example/app", keys=[FERNET_KEY])
    assert repr(store) == "SqlTokenStore('postgresql+psycopg://user@db.example/app')"


def test_database_and_logs_contain_no_secret(
    database_url: str, tmp_path: Path, postgres: PostgreSQL, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    engine = create_engine(database_url, echo="debug")
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    store.create_schema()
    claimed = claim(store, put(store))
    settle(store, claimed, "b")
    settle(store, claimed, "c")
    put(store, "d")
    store.mark_revoked(KEY, note=note())
    if engine.dialect.name == "sqlite":
        # While the store is open, the write-ahead log contains the changes.
        stored = b"".join(path.read_bytes() for path in tmp_path.iterdir()).decode("latin-1")
        assert (tmp_path / "tokens.db").exists()
    else:
        assert engine.url.database is not None
        stored = postgres.dump(engine.url.database)
    engine.dispose()
    assert KEY.grant.username in stored
    assert KEY.grant.username in caplog.text
    for shown in (stored, caplog.text):
        assert re.search(r"fake-(access|refresh)", shown) is None
        assert FERNET_KEY.reveal() not in shown


def test_the_stores_own_engine_logs_no_values(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "sqlalchemy.engine")
    store = SqlTokenStore(database_url, keys=[FERNET_KEY])
    settle(store, claim(store, put(store)))
    store.close()
    assert "UPDATE blink_oauth_grants" in caplog.text
    assert "hide_parameters" in caplog.text
    sent = [record for record in caplog.records if not record.message.startswith("Row")]
    assert [record.message for record in sent if KEY.grant.username in record.message] == []
