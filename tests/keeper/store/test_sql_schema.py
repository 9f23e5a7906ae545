"""The tables: created once, completed later, checked for their version, usable in migrations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import (
    URL,
    Column,
    Engine,
    Integer,
    MetaData,
    Table,
    create_engine,
    event,
    func,
    insert,
    inspect,
    make_url,
    select,
    text,
    update,
)
from sqlalchemy.exc import IntegrityError, ProgrammingError

from blink_oauth_keeper import SqlTokenStore
from blink_oauth_keeper.errors import SchemaError, StoreError
from blink_oauth_keeper.store import sql_tables as tables
from blink_oauth_keeper.store.sql import metadata
from blink_oauth_testing.store_contract.harness import ISSUED, KEY, note, pair, run_concurrently
from keeper.store import programs
from keeper.store.first_version import create_first_version, first_metadata
from postgresql import PostgreSQL

FERNET_KEY = SqlTokenStore.new_key()
NAMES = [
    "blink_oauth_clock",
    "blink_oauth_grants",
    "blink_oauth_history",
    "blink_oauth_journal",
    "blink_oauth_notices",
    "blink_oauth_schema",
    "blink_oauth_store_key",
]


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Return an engine of the application for each kind of database."""
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


def store_in(database: str | URL | Engine) -> SqlTokenStore:
    """Return a store."""
    return SqlTokenStore(database, keys=[FERNET_KEY])


def names(engine: Engine) -> list[str]:
    """Return the names of the existing tables."""
    return sorted(inspect(engine).get_table_names())


def test_with_a_url_the_first_use_creates_the_tables(database_url: str, engine: Engine) -> None:
    store = store_in(database_url)
    assert names(engine) == []
    assert store.load(KEY) is None
    assert names(engine) == NAMES
    store.close()


def test_a_store_does_not_connect_before_its_first_use() -> None:
    store = store_in("postgresql+psycopg://user@127.0.0.1:1/missing")
    with pytest.raises(StoreError, match="There is no connection to the server"):
        store.load(KEY)


def test_with_an_engine_of_the_application_only_create_schema_creates_tables(
    engine: Engine,
) -> None:
    store = store_in(engine)
    with pytest.raises(SchemaError, match=r"Call create_schema\(\) once") as caught:
        store.load(KEY)
    assert not caught.value.retryable
    assert names(engine) == []
    store.create_schema()
    assert store.load(KEY) is None


def test_concurrent_calls_create_the_tables_once(engine: Engine) -> None:
    run_concurrently(6, lambda number: store_in(engine).create_schema())
    store = store_in(engine)
    record = store.put(KEY, pair("a"), issued_at=ISSUED, idle_until=None, note=note())
    run_concurrently(2, lambda number: store_in(engine).create_schema())
    assert store.load(KEY) == record
    with engine.connect() as connection:
        assert list(connection.scalars(select(tables.schema.c.version))) == [tables.VERSION]


def test_a_store_works_if_another_process_creates_the_tables_first(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_in(postgres_url)

    def create_second(*_: object) -> None:
        monkeypatch.undo()
        first = store_in(postgres_url)
        first.create_schema()
        first.close()
        raise ProgrammingError("CREATE TABLE", None, Exception("it exists"))

    monkeypatch.setattr(metadata, "create_all", create_second)
    assert store.load(KEY) is None
    store.close()


def test_stores_that_create_the_tables_concurrently_all_work(database_url: str) -> None:
    stores = [store_in(database_url) for _ in range(6)]
    assert run_concurrently(6, lambda number: stores[number].load(KEY)) == [None] * 6
    for store in stores:
        store.close()


def test_create_schema_adds_a_missing_table(engine: Engine) -> None:
    store_in(engine).create_schema()
    with engine.begin() as connection:
        tables.journal.drop(connection)
    store_in(engine).create_schema()
    assert names(engine) == NAMES


def test_tables_of_a_newer_version_raise_a_schema_error(database_url: str, engine: Engine) -> None:
    store_in(engine).create_schema()
    with engine.begin() as connection:
        connection.execute(update(tables.schema).values(version=tables.VERSION + 1))
    for store in (store_in(engine), store_in(database_url)):
        with pytest.raises(SchemaError, match=f"have version {tables.VERSION + 1}") as caught:
            store.load(KEY)
        assert "Update the library" in str(caught.value)
        with pytest.raises(SchemaError):
            store.create_schema()
        store.close()


def test_tables_that_were_changed_raise_a_schema_error(engine: Engine) -> None:
    store = store_in(engine)
    store.create_schema()
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE blink_oauth_grants RENAME COLUMN owner TO holder"))
    with pytest.raises(SchemaError, match="do not match this version"):
        store.load(KEY)


def test_the_tables_can_be_part_of_the_applications_metadata(engine: Engine) -> None:
    application = MetaData()
    Table("own_table", application, Column("id", Integer, primary_key=True))
    for table in metadata.sorted_tables:
        table.to_metadata(application)
    application.create_all(engine)
    store = store_in(engine)
    store.put(KEY, pair("a"), issued_at=ISSUED, idle_until=None, note=note())
    assert store.load(KEY) is not None


def test_alembic_sees_the_same_tables(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        added = [
            step[1].name for step in compare_metadata(context, metadata) if step[0] == "add_table"
        ]
    assert sorted(added) == NAMES
    store_in(engine).create_schema()
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_tables_from_a_migration_need_no_version(engine: Engine) -> None:
    # Alembic creates the tables and inserts no version.
    metadata.create_all(engine)
    store = store_in(engine)
    assert store.load(KEY) is None
    store.create_schema()
    with engine.connect() as connection:
        version = connection.scalar(select(func.max(tables.schema.c.version)))
    # Processes of the version before may use them already.
    assert version == tables.SHARED_VERSION


def test_the_tables_have_their_indices(engine: Engine) -> None:
    store_in(engine).create_schema()
    indices = {index["name"] for table in NAMES for index in inspect(engine).get_indexes(table)}
    assert indices == {
        "blink_oauth_grants_claimable",
        "blink_oauth_grants_forgetting",
        "blink_oauth_grants_revoking",
        "blink_oauth_history_at",
        "blink_oauth_history_grant",
        "blink_oauth_journal_at",
        "blink_oauth_journal_grant",
        "blink_oauth_notices_at",
        "blink_oauth_notices_name",
        "blink_oauth_notices_once",
        "blink_oauth_notices_pending",
    }


def test_a_second_row_for_a_grant_is_refused(engine: Engine) -> None:
    store_in(engine).create_schema()
    row: dict[str, object] = dict.fromkeys(("client_id", "target_id", "username"), "same")
    row |= {"generation": 1, "consent": 1, "state": "active", "attempts": 0}
    row |= {"issued_at": ISSUED, "updated_at": ISSUED}
    twice = insert(tables.grants).values([row, row])
    with engine.begin() as connection, pytest.raises(IntegrityError):
        connection.execute(twice)


def is_complete(engine: Engine) -> bool:
    """Return whether the database has all tables, columns and indexes."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, metadata)
    # Processes of the version before read by this index.
    return [each for each in differences if "blink_oauth_grants_due" not in str(each)] == []


def versions(engine: Engine) -> list[int]:
    """Return the stored versions of the tables."""
    with engine.connect() as connection:
        return sorted(connection.scalars(select(tables.schema.c.version)))


def test_the_first_use_completes_older_tables(database_url: str, engine: Engine) -> None:
    create_first_version(engine)
    assert not is_complete(engine)
    store = store_in(database_url)
    record = store.put(KEY, pair("a"), issued_at=ISSUED, idle_until=None, note=note())
    assert store.load(KEY) == record
    assert is_complete(engine)
    # Processes of the version before still start.
    assert versions(engine) == [tables.SHARED_VERSION]
    store.close()


def test_with_an_engine_of_the_application_only_create_schema_completes_older_tables(
    engine: Engine,
) -> None:
    create_first_version(engine)
    store = store_in(engine)
    with pytest.raises(SchemaError, match=r"there is no .*blink_oauth_grants\.mac") as caught:
        store.load(KEY)
    assert "Call create_schema() once" in str(caught.value)
    assert not is_complete(engine)
    store.create_schema()
    assert store.load(KEY) is None
    assert is_complete(engine)


def test_a_missing_index_is_added_and_not_required(database_url: str, engine: Engine) -> None:
    store_in(engine).create_schema()
    with engine.begin() as connection:
        connection.execute(text("DROP INDEX blink_oauth_grants_claimable"))
    assert store_in(engine).load(KEY) is None
    store = store_in(database_url)
    assert store.load(KEY) is None
    store.close()
    assert is_complete(engine)


def test_the_finished_upgrade_drops_the_index_of_the_version_before(engine: Engine) -> None:
    create_first_version(engine)
    store = store_in(engine)
    store.create_schema()
    for is_left in (True, False):
        with engine.connect() as connection:
            names = {
                index["name"] for index in inspect(connection).get_indexes("blink_oauth_grants")
            }
        assert ("blink_oauth_grants_due" in names) is is_left
        store.finish_upgrade()


def test_concurrent_processes_complete_older_tables_once(database_url: str, engine: Engine) -> None:
    create_first_version(engine)
    write = "print(json.dumps(put(f'customer-{os.getpid()}').generation))"
    started = [programs.start(database_url, FERNET_KEY, write) for _ in range(4)]
    assert programs.finish(*started) == [1] * 4
    assert is_complete(engine)
    assert versions(engine) == [tables.SHARED_VERSION]


def test_a_store_works_if_another_process_adds_the_columns_first(
    database_url: str, engine: Engine
) -> None:
    create_first_version(engine)
    first, second = store_in(engine), store_in(database_url)
    waiting = [first]

    def add_first(connection: object, cursor: object, statement: str, *rest: object) -> None:
        # The second store has found what is missing, and has added nothing yet.
        if statement.startswith("BEGIN") and waiting:
            waiting.pop().create_schema()

    event.listen(Engine, "before_cursor_execute", add_first)
    try:
        assert second.load(KEY) is None
    finally:
        event.remove(Engine, "before_cursor_execute", add_first)
    second.close()
    assert not waiting
    assert is_complete(engine)


def test_nothing_is_added_to_tables_of_a_newer_version(database_url: str, engine: Engine) -> None:
    create_first_version(engine)
    with engine.begin() as connection:
        connection.execute(insert(tables.schema).values(version=tables.VERSION + 1))
    store = store_in(database_url)
    with pytest.raises(SchemaError, match="Update the library"):
        store.load(KEY)
    store.close()
    with engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, first_metadata) == []


def test_a_role_that_may_not_alter_tables_gets_an_error_in_words(
    postgres: PostgreSQL, postgres_url: str
) -> None:
    engine = create_engine(postgres_url)
    create_first_version(engine)
    postgres.execute("DROP ROLE IF EXISTS writer")
    postgres.execute("CREATE ROLE writer LOGIN")
    with engine.begin() as connection:
        connection.execute(text("GRANT ALL ON ALL TABLES IN SCHEMA public TO writer"))
    store = store_in(make_url(postgres_url).set(username="writer"))
    with pytest.raises(SchemaError, match=r"blink_oauth_grants\.mac.*42501.*lacks a permission"):
        store.load(KEY)
    store_in(engine).create_schema()
    with engine.begin() as connection:
        connection.execute(text("GRANT ALL ON ALL TABLES IN SCHEMA public TO writer"))
        connection.execute(text("DROP INDEX blink_oauth_grants_claimable"))
    # It works without an index.
    assert store.load(KEY) is None
    with pytest.raises(SchemaError, match=r"blink_oauth_grants_claimable.*lacks a permission"):
        store.create_schema()
    store.close()
    engine.dispose()
