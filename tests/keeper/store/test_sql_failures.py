"""What fails is told plainly, without a secret, and does no harm."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import OperationalError

from blink_oauth.errors import InvalidInputError
from blink_oauth_keeper import Origin, Record, SqlTokenStore, State
from blink_oauth_keeper.errors import StoreError
from blink_oauth_keeper.store.sql_tables import Database
from blink_oauth_testing.store_contract.harness import ISSUED, KEY, entry_values, note, pair
from postgresql import PostgreSQL

FERNET_KEY = SqlTokenStore.new_key()
PASSWORD = "fake-password"


@pytest.fixture
def store(database_url: str) -> Iterator[SqlTokenStore]:
    """Return a store in each kind of database in turn."""
    store = SqlTokenStore(database_url, keys=[FERNET_KEY])
    store.create_schema()
    yield store
    store.close()


def put(store: SqlTokenStore, name: str = "a") -> Record:
    """Store a pair."""
    return store.put(KEY, pair(name), issued_at=ISSUED, idle_until=None, note=note("put"))


def claim(store: SqlTokenStore, seen: Record) -> Record:
    """Take the lease."""
    taken = store.claim(seen, owner="fake-owner", ttl=600)
    assert taken is not None
    return taken


def settle(store: SqlTokenStore, taken: Record, name: str = "b") -> bool:
    """Bring a pair home."""
    return store.settle(
        taken, pair(name), issued_at=ISSUED, idle_until=None, note=note("settled")
    ).stored


def release(store: SqlTokenStore, taken: Record) -> bool:
    """Give the lease back."""
    return store.release(
        taken, state=State.ACTIVE, attempts=0, pause=0, error=None, note=note("released")
    )


def events(store: SqlTokenStore) -> list[str]:
    """Return the events of the history, the oldest first."""
    return [entry.note.event for entry in reversed(store.history(KEY))]


@contextmanager
def losing_the_answer() -> Iterator[None]:
    """Lose the connection when a change is durable, and before anybody hears of it."""

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


def unknown(change: Callable[[], object]) -> None:
    """Make a change, and do not learn whether it was made."""
    with (
        losing_the_answer(),
        pytest.raises(StoreError, match="nobody knows") as caught,
    ):
        change()
    assert caught.value.retryable


def test_a_pair_of_which_nobody_knows_whether_it_is_stored_is_settled_again(
    store: SqlTokenStore,
) -> None:
    taken = claim(store, put(store))
    unknown(lambda: settle(store, taken))
    record = store.load(KEY)
    assert settle(store, taken)
    assert store.load(KEY) == record
    assert record is not None
    assert (record.generation, record.token) == (2, pair("b"))
    assert list(store.journal_entries(KEY)) == []
    assert events(store) == ["put", "settled"]


def test_a_late_pair_of_which_nobody_knows_whether_it_is_kept_is_kept_once(
    store: SqlTokenStore,
) -> None:
    taken = claim(store, put(store))
    put(store, "again")
    unknown(lambda: settle(store, taken, "late"))
    assert not settle(store, taken, "late")
    found = [origin for origin, *_ in entry_values(list(store.journal_entries(KEY)))]
    assert found == [Origin.SUPERSEDED, Origin.REPLACED]


def test_a_consent_of_which_nobody_knows_whether_it_is_stored_is_put_again(
    store: SqlTokenStore,
) -> None:
    unknown(lambda: put(store))
    assert put(store).generation == 1
    unknown(lambda: put(store, "b"))
    assert put(store, "b").generation == 2
    assert len(store.journal_entries(KEY)) == 1
    assert events(store) == ["put", "put"]


def test_a_lease_of_which_nobody_knows_whether_it_went_back_is_given_back_again(
    store: SqlTokenStore,
) -> None:
    taken = claim(store, put(store))
    unknown(lambda: release(store, taken))
    record = store.load(KEY)
    assert record is not None
    assert (record.state, record.attempts, record.lease_left) == (State.ACTIVE, 0, 0)
    assert release(store, taken)


def test_a_claim_of_which_nobody_knows_is_not_won_twice(postgres_url: str) -> None:
    store = SqlTokenStore(postgres_url, keys=[FERNET_KEY])
    seen = put(store)
    unknown(lambda: store.claim(seen, owner="fake-owner", ttl=600))
    assert store.claim(seen, owner="fake-owner", ttl=600) is None
    record = store.load(KEY)
    assert record is not None
    assert (record.state, record.attempts, record.owner) == (State.REFRESHING, 1, "fake-owner")
    store.close()


def test_a_change_that_fails_in_the_middle_is_not_made(store: SqlTokenStore) -> None:
    put(store)

    def fail(connection: Connection, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith(("UPDATE", "WITH")):
            raise OperationalError("fake", None, Exception("no more"))

    # The old pair is in the journal by then.
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
            raise OperationalError("fake", None, Exception("no more"))

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
    assert "Nothing was sent." in str(caught.value)


def test_a_file_that_is_no_database_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tokens.db"
    path.write_text("nonsense " * 1000)
    with pytest.raises(StoreError, match="SQLITE_NOTADB") as caught:
        SqlTokenStore(f"sqlite:///{path}", keys=[FERNET_KEY]).load(KEY)
    assert not caught.value.retryable


def test_a_file_that_somebody_holds_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tokens.db"
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    store.create_schema()
    holder = create_engine(f"sqlite:///{path}", isolation_level="AUTOCOMMIT")
    with holder.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="Somebody held the file for too long") as caught:
            put(store)
        connection.exec_driver_sql("ROLLBACK")
    assert caught.value.retryable
    assert put(store).generation == 1
    engine.dispose()
    holder.dispose()


def test_a_permission_that_is_missing_is_told(postgres: PostgreSQL, postgres_url: str) -> None:
    url = make_url(postgres_url)
    postgres.execute("DROP ROLE IF EXISTS stranger")
    postgres.execute("CREATE ROLE stranger LOGIN")
    store = SqlTokenStore(url.set(username="stranger"), keys=[FERNET_KEY])
    with pytest.raises(StoreError, match=r"42501.*refuses the permission") as caught:
        store.load(KEY)
    assert not caught.value.retryable
    store.close()


@pytest.mark.parametrize(
    "database",
    [
        f"mysql://user:{PASSWORD}@db.example/app",
        f"postgresql+asyncpg://user:{PASSWORD}@db.example/app",
        f"sqlite+aiosqlite:///{PASSWORD}",
        f"{PASSWORD} is no URL",
        f"nonsense://{PASSWORD}",
        None,
        b"sqlite:///tokens.db",
    ],
)
def test_a_database_that_cannot_be_used_is_refused_and_not_shown(database: Any) -> None:
    with pytest.raises(InvalidInputError) as caught:
        SqlTokenStore(database, keys=[FERNET_KEY])
    assert_hidden(caught.value, PASSWORD)


def test_keys_that_cannot_be_used_are_refused_and_not_shown() -> None:
    for keys in ([], ["fake-key"], "fake-key"):
        with pytest.raises(InvalidInputError) as caught:
            SqlTokenStore(f"sqlite:///{PASSWORD}", keys=keys)
        assert_hidden(caught.value, "fake-key")


def assert_hidden(error: BaseException, *secrets: str) -> None:
    """Look for secrets in an error, and in all frames but those of the tests."""
    assert error.__context__ is None
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    ours = [frame for frame in frames if frame.f_code.co_filename != __file__]
    assert ours
    shown = [str(error), *(repr(frame.f_locals) for frame in ours)]
    assert [text for text in shown for secret in secrets if secret in text] == []


def test_a_store_shows_neither_password_nor_key() -> None:
    url = f"postgresql+psycopg://user:{PASSWORD}@db.example/app?password={PASSWORD}"
    store = SqlTokenStore(url, keys=[FERNET_KEY])
    assert repr(store) == "SqlTokenStore('postgresql+psycopg://user:***@db.example/app')"
    assert FERNET_KEY.reveal() not in repr(vars(store))
    # An engine shows the query of its URL.
    others = [value for value in vars(store).values() if not isinstance(value, (Engine, Database))]
    assert PASSWORD not in repr(others)


def test_a_url_without_a_driver_is_one_for_psycopg() -> None:
    store = SqlTokenStore("postgresql://user@db.example/app", keys=[FERNET_KEY])
    assert repr(store) == "SqlTokenStore('postgresql+psycopg://user@db.example/app')"


def test_no_secret_is_found_in_the_database_or_in_the_logs(
    database_url: str, tmp_path: Path, postgres: PostgreSQL, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    engine = create_engine(database_url, echo="debug")
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    store.create_schema()
    taken = claim(store, put(store))
    settle(store, taken, "b")
    settle(store, taken, "c")
    put(store, "d")
    store.revoke(KEY, note=note())
    if engine.dialect.name == "sqlite":
        # While the store is open, the file beside it that is written first holds the changes.
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


def test_the_logs_of_an_engine_that_the_store_makes_hide_all_values(
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
