"""The tables come into being once, are those that are known, and Alembic can have them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import (
    Column,
    Engine,
    Integer,
    MetaData,
    Table,
    create_engine,
    func,
    insert,
    inspect,
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

FERNET_KEY = SqlTokenStore.new_key()
NAMES = ["blink_oauth_grants", "blink_oauth_history", "blink_oauth_journal", "blink_oauth_schema"]


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Return an application's own engine for each kind of database in turn."""
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


def store_in(database: str | Engine) -> SqlTokenStore:
    """Return a store."""
    return SqlTokenStore(database, keys=[FERNET_KEY])


def names(engine: Engine) -> list[str]:
    """Return the names of the tables that are there."""
    return sorted(inspect(engine).get_table_names())


def test_a_url_is_all_that_it_takes(database_url: str, engine: Engine) -> None:
    store = store_in(database_url)
    assert names(engine) == []
    assert store.load(KEY) is None
    assert names(engine) == NAMES
    store.close()


def test_a_database_is_not_asked_before_it_is_needed() -> None:
    store = store_in("postgresql+psycopg://nobody@127.0.0.1:1/nowhere")
    with pytest.raises(StoreError, match="There is no connection to the server"):
        store.load(KEY)


def test_nothing_is_created_by_itself_in_the_applications_database(engine: Engine) -> None:
    store = store_in(engine)
    with pytest.raises(SchemaError, match=r"Call create_schema\(\) once") as caught:
        store.load(KEY)
    assert not caught.value.retryable
    assert names(engine) == []
    store.create_schema()
    assert store.load(KEY) is None


def test_the_tables_are_created_once_whoever_asks(engine: Engine) -> None:
    run_concurrently(6, lambda number: store_in(engine).create_schema())
    store = store_in(engine)
    record = store.put(KEY, pair("a"), issued_at=ISSUED, idle_until=None, note=note())
    run_concurrently(2, lambda number: store_in(engine).create_schema())
    assert store.load(KEY) == record
    with engine.connect() as connection:
        assert list(connection.scalars(select(tables.schema.c.version))) == [tables.VERSION]


def test_whoever_comes_second_in_creating_a_table_finds_it(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = store_in(postgres_url)

    def come_second(*_: object) -> None:
        monkeypatch.undo()
        first = store_in(postgres_url)
        first.create_schema()
        first.close()
        raise ProgrammingError("CREATE TABLE", None, Exception("it exists"))

    monkeypatch.setattr(metadata, "create_all", come_second)
    assert store.load(KEY) is None
    store.close()


def test_many_stores_that_find_no_tables_all_work(database_url: str) -> None:
    stores = [store_in(database_url) for _ in range(6)]
    assert run_concurrently(6, lambda number: stores[number].load(KEY)) == [None] * 6
    for store in stores:
        store.close()


def test_what_is_missing_is_added(engine: Engine) -> None:
    store_in(engine).create_schema()
    with engine.begin() as connection:
        tables.journal.drop(connection)
    store_in(engine).create_schema()
    assert names(engine) == NAMES


def test_tables_of_a_newer_version_are_not_touched(database_url: str, engine: Engine) -> None:
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


def test_tables_that_change_under_a_store_are_told(engine: Engine) -> None:
    store = store_in(engine)
    store.create_schema()
    with engine.begin() as connection:
        connection.execute(text("ALTER TABLE blink_oauth_grants RENAME COLUMN owner TO holder"))
    with pytest.raises(SchemaError, match="not those that this version knows"):
        store.load(KEY)


def test_the_tables_can_be_part_of_the_applications_own(engine: Engine) -> None:
    mine = MetaData()
    Table("mine", mine, Column("id", Integer, primary_key=True))
    for table in metadata.sorted_tables:
        table.to_metadata(mine)
    mine.create_all(engine)
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


def test_tables_of_a_migration_need_no_version(engine: Engine) -> None:
    # Alembic creates tables, and puts nothing into them.
    metadata.create_all(engine)
    store = store_in(engine)
    assert store.load(KEY) is None
    store.create_schema()
    with engine.connect() as connection:
        assert connection.scalar(select(func.max(tables.schema.c.version))) == tables.VERSION


def test_a_look_up_uses_an_index(engine: Engine) -> None:
    store_in(engine).create_schema()
    indices = {index["name"] for table in NAMES for index in inspect(engine).get_indexes(table)}
    assert indices == {
        "blink_oauth_grants_due",
        "blink_oauth_history_at",
        "blink_oauth_history_grant",
        "blink_oauth_journal_at",
        "blink_oauth_journal_grant",
    }


def test_there_is_one_row_for_a_grant(engine: Engine) -> None:
    store_in(engine).create_schema()
    row: dict[str, object] = dict.fromkeys(("client_id", "target_id", "username"), "same")
    row |= {"generation": 1, "consent": 1, "state": "active", "attempts": 0}
    row |= {"issued_at": ISSUED, "updated_at": ISSUED}
    twice = insert(tables.grants).values([row, row])
    with engine.begin() as connection, pytest.raises(IntegrityError):
        connection.execute(twice)
