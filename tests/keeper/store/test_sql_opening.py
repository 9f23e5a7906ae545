"""What a store proves or refuses when it opens: permissions, settings, drivers and paths."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import InternalError

from blink_oauth import Grant, Psu
from blink_oauth.errors import InvalidInputError
from blink_oauth_keeper import SqlTokenStore, TokenManager
from blink_oauth_keeper.errors import StoreError
from blink_oauth_testing.store_contract.harness import (
    ISSUED,
    KEY,
    due,
    grant_key,
    note,
    pair,
)
from keeper.harness import REDIRECT_URI, TARGET, Harness
from postgresql import PostgreSQL

FERNET_KEY = SqlTokenStore.new_key()
ROLE = "limited_keeper"


def put(store: SqlTokenStore, username: str = "customer") -> None:
    """Store a pair."""
    store.put(grant_key(username), pair("a"), issued_at=ISSUED, idle_until=ISSUED, note=note())


def database_of(url: str) -> str:
    """Return the name of the database in a URL."""
    database = make_url(url).database
    assert database is not None
    return database


@pytest.fixture
def database(postgres: PostgreSQL) -> Iterator[str]:
    """Return the URL of a database whose settings a test changes."""
    name = postgres.create()
    yield postgres.url(name)
    postgres.drop(name)


@pytest.fixture
def limited(postgres: PostgreSQL, database: str) -> Iterator[str]:
    """Return the URL of a database with tables, for a role that may do all that is needed."""
    store = SqlTokenStore(database, keys=[FERNET_KEY])
    store.create_schema()
    put(store)
    store.close()
    statements = (
        f"DROP ROLE IF EXISTS {ROLE}",
        f"CREATE ROLE {ROLE} LOGIN",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {ROLE}",
        f"GRANT INSERT, UPDATE ON blink_oauth_grants TO {ROLE}",
        f"GRANT INSERT, DELETE ON blink_oauth_journal TO {ROLE}",
        f"GRANT INSERT ON blink_oauth_history, blink_oauth_notices TO {ROLE}",
    )
    with postgres.connect(database_of(database)) as connection:
        for statement in statements:
            connection.execute(statement)
        yield str(make_url(database).set(username=ROLE))
        connection.execute(f"DROP OWNED BY {ROLE}")


def spending(store: SqlTokenStore) -> list[Callable[[], object]]:
    """Return the calls after which a code or a refresh token is sent."""
    record = store.load(KEY)
    assert record is not None
    return [
        lambda: store.add_note(KEY, note=note()),
        lambda: store.claim(record, owner="fake-owner", ttl=60),
        lambda: store.claim_due(due(), owner="fake-owner", ttl=60, limit=1),
    ]


def test_a_role_needs_no_more_than_the_permissions_to_keep_a_result(limited: str) -> None:
    store = SqlTokenStore(limited, keys=[FERNET_KEY])
    for call in spending(store):
        call()
    store.close()


@pytest.mark.parametrize(
    "missing",
    [
        "UPDATE ON blink_oauth_grants",
        "INSERT ON blink_oauth_grants",
        "INSERT ON blink_oauth_journal",
        "DELETE ON blink_oauth_journal",
        "SELECT ON blink_oauth_journal",
        "INSERT ON blink_oauth_history",
        "INSERT ON blink_oauth_notices",
    ],
)
def test_a_missing_permission_is_found_before_anything_is_sent(
    limited: str, postgres: PostgreSQL, missing: str
) -> None:
    with postgres.connect(database_of(limited)) as connection:
        connection.execute(f"REVOKE {missing} FROM {ROLE}")
    store = SqlTokenStore(limited, keys=[FERNET_KEY])
    for call in spending(store):
        with pytest.raises(StoreError, match=r"42501.*lacks a permission"):
            call()
    # What is stored can still be read.
    assert store.load(KEY) is not None
    store.close()


def test_a_code_is_not_sent_to_a_bank_if_the_store_is_read_only(
    harness: Harness, postgres: PostgreSQL, database: str
) -> None:
    with closing(SqlTokenStore(database, keys=[FERNET_KEY])) as store:
        store.create_schema()
    postgres.execute(
        f"ALTER DATABASE {database_of(database)} SET default_transaction_read_only = on"
    )
    require_unsent_code(harness, SqlTokenStore(database, keys=[FERNET_KEY]), "read-only")


def test_a_code_is_not_sent_to_a_bank_if_the_disk_is_full(harness: Harness, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'tokens.db'}")
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    store.create_schema()
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()

    def limit(connection: Any, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    event.listen(engine, "connect", limit)
    engine.dispose()

    def fill() -> None:
        for _ in range(1000):
            store.add_note(KEY, note=note())

    with pytest.raises(StoreError, match="SQLITE_FULL"):
        fill()
    require_unsent_code(harness, store, "The disk is full")
    engine.dispose()


def test_a_code_is_not_sent_to_a_bank_if_a_permission_is_missing(
    harness: Harness, limited: str, postgres: PostgreSQL
) -> None:
    with postgres.connect(database_of(limited)) as connection:
        connection.execute(f"REVOKE INSERT ON blink_oauth_history FROM {ROLE}")
    require_unsent_code(harness, SqlTokenStore(limited, keys=[FERNET_KEY]), "42501")


def require_unsent_code(harness: Harness, store: SqlTokenStore, words: str) -> None:
    """Check that an authorization is refused in words, and that the bank gets no request."""
    grant = Grant(TARGET, "u-4711")
    code = harness.banks.issue_code(grant)
    with TokenManager(harness.blink, store) as manager:
        for _ in range(2):
            with pytest.raises(StoreError, match=words) as caught:
                manager.authorize(grant, code=code, redirect_uri=REDIRECT_URI, psu=Psu.AUTO)
            assert "The code was not sent and is not spent." in str(caught.value)
    assert harness.banks.requests == []
    store.close()


def test_a_refresh_in_progress_does_not_block_a_code(harness: Harness, database_url: str) -> None:
    store = SqlTokenStore(database_url, keys=[FERNET_KEY])
    grant = Grant(TARGET, "u-4711")
    with TokenManager(harness.blink, store) as manager:

        def authorize() -> None:
            code = harness.banks.issue_code(grant)
            manager.authorize(grant, code=code, redirect_uri=REDIRECT_URI, psu=Psu.AUTO)

        authorize()
        record = store.load(harness.key(grant))
        assert record is not None
        assert store.claim(record, owner="fake-owner", ttl=600)
        authorize()
    events = [entry.note.event for entry in store.history(harness.key(grant))]
    assert events == ["grant.authorized", "grant.authorizing"] * 2
    store.close()


def sql_ascii(postgres: PostgreSQL) -> str:
    """Create a database whose encoding is SQL_ASCII, and return its name."""
    postgres.execute("DROP DATABASE IF EXISTS ascii")
    postgres.execute(
        "CREATE DATABASE ascii TEMPLATE template0 ENCODING 'SQL_ASCII' LC_COLLATE 'C' LC_CTYPE 'C'"
    )
    return "ascii"


@pytest.mark.parametrize("query", [{}, {"client_encoding": "latin1"}])
def test_a_store_works_in_a_database_of_any_encoding(
    postgres: PostgreSQL, query: dict[str, str]
) -> None:
    url = make_url(postgres.url(sql_ascii(postgres))).update_query_dict(query)
    store = SqlTokenStore(url, keys=[FERNET_KEY])
    put(store, "u-Zürich \u0142")
    record = store.load(grant_key("u-Zürich \u0142"))
    assert record is not None
    assert record.token == pair("a")
    store.close()
    postgres.drop("ascii")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
@pytest.mark.parametrize("call", ["load", "create_schema"])
def test_an_engine_of_the_application_in_another_encoding_is_refused(
    postgres: PostgreSQL, encoding: str, call: str
) -> None:
    url = postgres.url(sql_ascii(postgres))
    engine = create_engine(url, connect_args={"client_encoding": encoding})
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    with pytest.raises(StoreError, match=f"encoding of its session is {encoding}") as caught:
        getattr(store, call)(*([KEY] if call == "load" else []))
    assert not caught.value.retryable
    engine.dispose()
    postgres.drop("ascii")


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("DateStyle = 'German'", "DateStyle is German"),
        ("DateStyle = 'SQL, DMY'", "DateStyle is SQL, DMY"),
        ("synchronous_commit = off", "synchronous_commit is off"),
    ],
)
def test_a_setting_with_which_results_are_lost_or_unreadable_is_refused(
    postgres: PostgreSQL, database: str, setting: str, words: str
) -> None:
    postgres.execute(f"ALTER DATABASE {database_of(database)} SET {setting}")
    engine = create_engine(database)
    for made in (database, engine):
        store = SqlTokenStore(made, keys=[FERNET_KEY])
        with pytest.raises(StoreError, match=words) as caught:
            store.load(KEY)
        assert "Nothing was read or changed." in str(caught.value)
        store.close()
    engine.dispose()


@pytest.mark.parametrize(
    "setting",
    [
        "standard_conforming_strings = off",
        "IntervalStyle = 'sql_standard'",
        "TimeZone = 'Asia/Kathmandu'",
        "synchronous_commit = local",
        "extra_float_digits = -15",
        "DateStyle = 'ISO, DMY'",
    ],
)
def test_a_store_works_with_any_other_setting(
    postgres: PostgreSQL, database: str, setting: str
) -> None:
    postgres.execute(f"ALTER DATABASE {database_of(database)} SET {setting}")
    store = SqlTokenStore(database, keys=[FERNET_KEY])
    put(store)
    record = store.load(KEY)
    assert record is not None
    assert (record.token, record.issued_at) == (pair("a"), ISSUED)
    assert store.claim(record, owner="fake-owner", ttl=60) is not None
    store.close()


@pytest.mark.parametrize(
    "pragma", ["synchronous = OFF", "synchronous = NORMAL", "journal_mode = MEMORY"]
)
def test_an_engine_whose_commits_do_not_survive_a_loss_of_power_is_refused(
    tmp_path: Path, pragma: str
) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'tokens.db'}")

    def set_pragma(connection: Any, *_: object) -> None:
        connection.execute(f"PRAGMA {pragma}")

    event.listen(engine, "connect", set_pragma)
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    calls: list[Callable[[], object]] = [store.create_schema, lambda: store.load(KEY)]
    for call in calls:
        with pytest.raises(StoreError, match="a loss of power can lose a stored token") as caught:
            call()
        assert not caught.value.retryable
    engine.dispose()


def asynchronous_engine() -> Engine:
    """Return the engine inside an `AsyncEngine`."""
    return create_engine("postgresql+psycopg_async://user@db.example/app")


@pytest.mark.parametrize(
    "database",
    [
        "postgresql+psycopg_async://user@db.example/app",
        make_url("postgresql+psycopg_async://user@db.example/app"),
        asynchronous_engine(),
    ],
    ids=["text", "URL", "engine"],
)
def test_an_asynchronous_driver_is_refused_when_the_store_is_made(database: Any) -> None:
    with pytest.raises(InvalidInputError, match="asynchronous driver psycopg"):
        SqlTokenStore(database, keys=[FERNET_KEY])


@pytest.mark.parametrize("name", ["a#b", "50%25", "a%20b", "two words", "ä&b=c", "a+b"])
def test_the_path_that_is_printed_is_the_path_that_is_used(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    store = SqlTokenStore(f"sqlite:///{path}", keys=[FERNET_KEY])
    put(store)
    assert repr(store) == f"SqlTokenStore('sqlite:///{path}')"
    assert path in set(tmp_path.iterdir())
    store.close()


@pytest.mark.parametrize("name", ["what?", "a?b=c", "50%25?", "?"])
def test_a_path_with_a_question_mark_is_used_if_it_cannot_be_a_query(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / name
    with pytest.raises(InvalidInputError, match="must have no query"):
        SqlTokenStore(f"sqlite:///{path}", keys=[FERNET_KEY])
    for database in (path, URL.create("sqlite", database=str(path))):
        with closing(SqlTokenStore(database, keys=[FERNET_KEY])) as store:
            put(store)
            assert repr(store) == f"SqlTokenStore('sqlite:///{path}')"
        assert {entry.name for entry in tmp_path.iterdir()} == {name}


@pytest.mark.parametrize("made", ["by the store", "by the application"])
def test_a_store_works_again_after_a_failover(
    postgres: PostgreSQL, database: str, made: str
) -> None:
    engine = create_engine(database, pool_pre_ping=True)
    store = SqlTokenStore(database if made == "by the store" else engine, keys=[FERNET_KEY])
    store.create_schema()
    put(store)
    name = database_of(database)
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    demoted(postgres, name)
    record = store.load(KEY)
    assert record is not None
    # New connections lead to the new primary, and those of the pool to the former one.
    postgres.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    tries = 0
    claim = None
    while claim is None and tries < 3:
        tries += 1
        try:
            claim = store.claim(record, owner="fake-owner", ttl=60)
        except StoreError as error:
            assert "read-only" in str(error)  # noqa: PT017 - any number of tries may fail
    assert (claim is not None, tries) == (True, 2)
    store.close()
    engine.dispose()


def demoted(postgres: PostgreSQL, name: str) -> None:
    """End the connections to a database, so that the next ones get its new settings."""
    postgres.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    )


def failing(engine: Engine, code: str) -> list[str]:
    """Let the next SELECT from the grants fail with a code of the server, once for each item."""
    left: list[str] = []

    def fail(
        _connection: object, _cursor: object, statement: str, parameters: Any, *_: object
    ) -> tuple[str, Any]:
        if left and "FROM blink_oauth_grants" in statement:
            left.pop()
            raising = f"RAISE EXCEPTION 'fake' USING ERRCODE = '{code}'"
            return f"DO $$ BEGIN {raising}; END $$", {}
        return statement, parameters

    event.listen(engine, "before_cursor_execute", fail, retval=True)
    return left


@pytest.mark.parametrize(
    ("code", "dropped"),
    [
        *((code, True) for code in ("25006", "25P03", "57P01", "57P02", "57P03", "57P05")),
        *((code, True) for code in ("08000", "08006", "08P01")),
        *((code, False) for code in ("57014", "53200", "55P03", "22000")),
    ],
)
def test_a_connection_is_dropped_if_its_server_may_be_the_wrong_one(
    postgres_url: str, code: str, dropped: bool
) -> None:
    engine = create_engine(postgres_url)
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    store.create_schema()
    put(store)
    opened: list[object] = []
    event.listen(engine, "connect", lambda connection, _: opened.append(connection))
    failing(engine, code).append("SELECT")
    with pytest.raises(StoreError, match=code):
        store.load(KEY)
    assert store.load(KEY) is not None
    assert len(opened) == dropped
    engine.dispose()


def test_an_error_of_the_applications_own_statement_drops_no_connection(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    store.create_schema()
    opened: list[object] = []
    event.listen(engine, "connect", lambda connection, _: opened.append(connection))
    with engine.connect() as connection:
        connection.exec_driver_sql("SET TRANSACTION READ ONLY")
        with pytest.raises(InternalError, match="read-only transaction"):
            connection.exec_driver_sql("CREATE TABLE other (x int)")
    assert store.load(KEY) is None
    assert opened == []
    engine.dispose()
