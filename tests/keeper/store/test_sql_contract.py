"""SqlTokenStore passes the contract on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import URL, Engine, create_engine, delete

from blink_oauth_keeper import SqlTokenStore, TokenStore
from blink_oauth_keeper.store.sql_tables import grants, history, journal, notices
from blink_oauth_testing.store_contract import ManualClock, TokenStoreContract
from keeper.store.first_version import create_first_version
from postgresql import PostgreSQL

KEY = SqlTokenStore.new_key()


@pytest.fixture(scope="module")
def engine(postgres: PostgreSQL) -> Iterator[Engine]:
    """Return an engine of the application for a database that has the tables."""
    name = postgres.create()
    engine = create_engine(postgres.url(name))
    SqlTokenStore(engine, keys=[KEY]).create_schema()
    yield engine
    engine.dispose()
    postgres.drop(name)


class SqlContract(TokenStoreContract):
    """The contract for both databases."""

    database: str | URL | Engine

    def make_store(self, clock: ManualClock) -> TokenStore:
        return SqlTokenStore(self.database, keys=[KEY], clock=clock)

    def reopen(self, store: TokenStore) -> TokenStore:
        return SqlTokenStore(self.database, keys=[KEY], clock=self.clock)


class TestSqlite(SqlContract):
    """A file, with an engine that the store makes."""

    @pytest.fixture(autouse=True)
    def new_file(self, tmp_path: Path) -> None:
        """Choose a file that does not exist."""
        self.database = f"sqlite:///{tmp_path / 'tokens.db'}"


class TestTablesOfTheVersionBefore(SqlContract):
    """A file that processes of the version before may use as well."""

    @pytest.fixture(autouse=True)
    def older_file(self, tmp_path: Path) -> None:
        """Create the tables of the version before."""
        self.database = f"sqlite:///{tmp_path / 'tokens.db'}"
        engine = create_engine(self.database)
        create_first_version(engine)
        engine.dispose()


class TestPostgresql(SqlContract):
    """An engine of the application."""

    @pytest.fixture(autouse=True)
    def empty_tables(self, engine: Engine) -> None:
        """Empty the tables."""
        with engine.begin() as connection:
            for table in (grants, journal, history, notices):
                connection.execute(delete(table))
        self.database = engine
