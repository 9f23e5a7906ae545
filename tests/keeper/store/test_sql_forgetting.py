"""Forgotten grants in a database: no row names the customer, and every process finds out."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest
from attrs import define
from sqlalchemy import Engine, create_engine, delete, select

from blink_oauth.tokens import Secret
from blink_oauth_keeper import GrantKey, Origin, Record, SealError, SqlTokenStore, State, StoreError
from blink_oauth_keeper.store.moving import CopyReport, copy_grants, is_moved
from blink_oauth_keeper.store.rules import is_pseudonym
from blink_oauth_keeper.store.sql_contents import grant_names
from blink_oauth_keeper.store.sql_tables import grants, metadata, store_key
from blink_oauth_testing.store_contract.harness import (
    CLIENT,
    ISSUED,
    ManualClock,
    days,
    grant_key,
    note,
    pair,
    run_concurrently,
)
from keeper.store.first_version import FirstVersion

OLD, NEW, OTHER = (SqlTokenStore.new_key() for _ in range(3))
NAME = "fake-customer-4711"
KEY = grant_key(NAME)


@define(eq=False)
class Tables:
    """A database that several processes use."""

    engine: Engine
    clock: ManualClock

    def store(self, *keys: Secret, fingerprint_key: Secret | None = None) -> SqlTokenStore:
        """Open the database as a process does."""
        return SqlTokenStore(
            self.engine, keys=keys or [OLD], fingerprint_key=fingerprint_key, clock=self.clock
        )

    def text(self) -> str:
        """Return all values of all tables."""
        with self.engine.connect() as connection:
            return repr(
                [
                    tuple(row)
                    for t in metadata.sorted_tables
                    for row in connection.execute(select(t))
                ]
            )

    def usernames(self) -> Sequence[str]:
        """Return the usernames in the table of the grants."""
        with self.engine.connect() as connection:
            return connection.scalars(select(grants.c.username)).all()


@pytest.fixture
def tables(database_url: str) -> Iterator[Tables]:
    """Return a database of each kind, with its tables."""
    own = SqlTokenStore(database_url, keys=[OLD])
    own.create_schema()
    own.close()
    wait = {"timeout": 30} if database_url.startswith("sqlite") else {}
    made = Tables(create_engine(database_url, connect_args=wait), ManualClock())
    yield made
    made.engine.dispose()


def put(store: SqlTokenStore, name: str = "a", key: GrantKey = KEY) -> Record:
    """Store the pair of a new consent."""
    idle_until = ISSUED + days(30)
    return store.put(key, pair(name), issued_at=ISSUED, idle_until=idle_until, note=note())


def forget(store: SqlTokenStore, key: GrantKey = KEY) -> bool:
    """Forget a grant as a flight does; return whether it was forgotten."""
    marked = store.mark_revoked(key, note=note(), forget=True)
    assert marked is not None
    journaled = [entry.token for entry in store.journal_entries(key)]
    assert store.erase(marked, journaled=journaled, note=note())
    return state(store, key) is State.FORGOTTEN


def state(store: SqlTokenStore, key: GrantKey = KEY) -> State | None:
    record = store.load(key)
    return None if record is None else record.state


def test_no_table_names_a_forgotten_customer(tables: Tables) -> None:
    store = tables.store()
    record = put(store)
    store.journal(record, pair("late"), origin=Origin.ERROR)
    store.journal(record, pair("foreign"), origin=Origin.FOREIGN)
    assert NAME in tables.text()
    assert forget(store)
    assert NAME not in tables.text()
    (pseudonym,) = tables.usernames()
    assert len(pseudonym) <= 64
    assert is_pseudonym(pseudonym)


def test_after_a_checkpoint_no_file_names_a_forgotten_customer(tmp_path: Path) -> None:
    with closing(SqlTokenStore(tmp_path / "t.db", keys=[OLD])) as store:
        for number in range(9):
            put(store, f"pair-{number}")
        assert forget(store)

        def is_named() -> bool:
            return any(NAME.encode() in file.read_bytes() for file in tmp_path.iterdir())

        assert is_named()
        with closing(sqlite3.connect(tmp_path / "t.db")) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        assert not is_named()


def test_pseudonyms_differ_between_grants_and_between_stores(
    tables: Tables, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = tables.store()
    keys = [KEY, grant_key("other"), grant_key(NAME, target="IIDX00002")]
    for key in keys:
        put(store, key=key)
        assert forget(store, key)
    names = set(tables.usernames())
    assert len(names) == len(keys)
    url = f"sqlite:///{tmp_path_factory.mktemp('other') / 'tokens.db'}"
    other = SqlTokenStore(url, keys=[OLD])
    put(other)
    assert forget(other)
    assert not names & set(grant_names(url, CLIENT, beginning="", limit=9))
    engine = create_engine(url)
    with engine.connect() as connection:
        assert not names & set(connection.scalars(select(grants.c.username)))
    engine.dispose()
    other.close()


def test_a_tombstone_survives_a_rotation_of_keys(tables: Tables) -> None:
    assert (put(tables.store()), forget(tables.store()))[1]
    both = tables.store(NEW, OLD)
    assert both.count_older_seals() == 1
    assert both.rotate_keys() == 0
    assert both.count_older_seals() == 0
    new = tables.store(NEW)
    assert state(new) is State.FORGOTTEN
    assert put(new, "b").consent == 2


def test_after_a_restore_from_before_the_key_was_made_every_process_finds_a_tombstone(
    tables: Tables,
) -> None:
    running, other = tables.store(), tables.store()
    put(running)
    assert put(running, key=grant_key("other"))
    assert forget(running, grant_key("other"))
    before = running.fingerprint("fake")
    with tables.engine.begin() as connection:
        connection.execute(delete(store_key))
    assert forget(running)
    assert [state(store) for store in (running, other, tables.store())] == [State.FORGOTTEN] * 3
    assert running.fingerprint("fake") == tables.store().fingerprint("fake") != before


def test_a_process_that_lacks_the_key_of_a_rotation_still_finds_tombstones(tables: Tables) -> None:
    running = tables.store()
    put(running)
    assert forget(running)
    assert tables.store(NEW, OLD).rotate_keys() == 0
    assert tables.store(NEW, OLD).count_older_seals() == 0
    assert state(running) is State.FORGOTTEN


def test_another_fingerprint_key_finds_the_same_tombstone(tables: Tables) -> None:
    put(tables.store(fingerprint_key=Secret("fake-fingerprint-key")))
    assert forget(tables.store(fingerprint_key=Secret("fake-fingerprint-key")))
    assert state(tables.store()) is State.FORGOTTEN
    assert state(tables.store(fingerprint_key=Secret("fake-other-key"))) is State.FORGOTTEN


def test_without_the_key_of_its_own_key_a_store_forgets_nothing(tables: Tables) -> None:
    record = put(tables.store())
    tables.store().fingerprint("fake")
    lacking = tables.store(OTHER)
    with pytest.raises(SealError, match="key of the store's fingerprints"):
        lacking.mark_revoked(KEY, note=note(), forget=True)
    assert state(tables.store()) is State.ACTIVE
    with tables.engine.connect() as connection:
        assert len(connection.execute(select(store_key)).all()) == 1
    # An unknown grant is not forgotten, as long as there is no tombstone at its target.
    assert lacking.load(grant_key("unknown")) is None
    assert forget(tables.store())
    calls: list[Callable[[], object]] = [
        lambda: lacking.load(KEY),
        lambda: put(lacking, "b"),
        lambda: lacking.journal(record, pair("late"), origin=Origin.ERROR),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="key of the store's fingerprints"):
            call()
    assert NAME not in tables.text()
    assert lacking.load(grant_key("unknown", target="IIDX00002")) is None


def test_a_process_that_lacks_the_key_erases_but_leaves_the_rest_to_others(
    tables: Tables, caplog: pytest.LogCaptureFixture
) -> None:
    put(tables.store())
    marked = tables.store().mark_revoked(KEY, note=note(), forget=True)
    assert marked is not None
    caplog.set_level(logging.WARNING)
    lacking = tables.store(OTHER)
    assert lacking.erase(marked, journaled=[], note=note())
    assert "key of the store's fingerprints" in caplog.text
    store = tables.store()
    (left,) = store.revoking(CLIENT, limit=9)
    assert (left.state, left.forgetting, left.token) == (State.REVOKED, True, None)
    assert forget(store)


def test_the_wish_to_forget_moves_to_another_store(tables: Tables, tmp_path: Path) -> None:
    source, target = tables.store(), SqlTokenStore(f"sqlite:///{tmp_path}/target.db", keys=[NEW])
    put(source)
    source.mark_revoked(KEY, note=note(), forget=True)
    copy(source, target)
    record = target.load(KEY)
    assert record is not None
    assert (record.state, record.forgetting, record.token) == (State.REVOKING, True, pair("a"))
    assert source.revoking(CLIENT, limit=9) == []
    assert forget(target)
    copy(source, target)
    assert state(target) is State.FORGOTTEN
    target.close()


def test_what_a_store_has_forgotten_does_not_move_back_to_it(
    tables: Tables, tmp_path: Path
) -> None:
    target, source = tables.store(), SqlTokenStore(f"sqlite:///{tmp_path}/source.db", keys=[NEW])
    put(target)
    assert forget(target)
    put(source)
    for number in range(4):
        record = source.load(KEY)
        assert record is not None
        source.settle(
            record,
            pair(f"source-{number}"),
            issued_at=ISSUED + days(1),
            idle_until=ISSUED + days(31),
            note=note(),
        )
    assert copy(source, target).kept == 1
    assert NAME not in tables.text()
    put(source, "later")
    assert copy(source, target).moved == 1
    moved = target.load(KEY)
    assert moved is not None
    assert (moved.state, moved.forgetting, moved.token) == (State.ACTIVE, False, pair("later"))
    source.close()


def test_a_grant_that_is_forgotten_during_its_move_is_revoked(
    tables: Tables, tmp_path: Path
) -> None:
    target, source = tables.store(), SqlTokenStore(f"sqlite:///{tmp_path}/source.db", keys=[NEW])
    put(target)
    put(source, "moving")
    moving = source.begin_move(KEY)
    assert moving is not None
    assert forget(target)
    target.receive(moving)
    (left,) = target.revoking(CLIENT, limit=9)
    assert (left.state, left.forgetting) == (State.REVOKED, True)
    assert [entry.token for entry in target.journal_entries(KEY)] == [pair("moving")]
    assert target.history(KEY) == []
    assert forget(target)
    assert NAME not in tables.text()
    source.close()


def test_a_grant_that_is_moved_away_is_not_forgotten_in_the_source(
    tables: Tables, tmp_path: Path
) -> None:
    source, target = tables.store(), SqlTokenStore(f"sqlite:///{tmp_path}/target.db", keys=[NEW])

    def require_unchanged() -> None:
        before = tables.text()
        marked = source.mark_revoked(KEY, note=note(), forget=True)
        assert marked is not None
        assert is_moved(marked)
        assert tables.text() == before

    put(source)
    source.fingerprint("fake")
    moving = source.begin_move(KEY)
    assert moving is not None
    require_unchanged()
    target.receive(moving)
    require_unchanged()
    assert source.finish_move(moving)
    require_unchanged()
    assert forget(target)
    target.close()


def copy(source: SqlTokenStore, target: SqlTokenStore) -> CopyReport:
    return copy_grants(source, target, wait=0, monotonic=lambda: 0.0, sleep=lambda _: None)


def test_completion_and_listings_show_no_tombstone(tables: Tables, database_url: str) -> None:
    store = tables.store()
    put(store)
    others = ["forgotten:me", "other"]
    for name in others:
        put(store, key=grant_key(name))
    assert forget(store)
    names = [f"IIDX99999/{name}" for name in others]
    assert list(grant_names(database_url, CLIENT, beginning="", limit=9)) == names
    assert [record.key for record in store.records(CLIENT)] == [*map(grant_key, others)]


def test_of_many_processes_that_forget_at_once_each_finds_the_same(tables: Tables) -> None:
    put(tables.store())
    stores = [tables.store() for _ in range(6)]
    assert run_concurrently(6, lambda number: forget(stores[number])) == [True] * 6
    assert len(tables.usernames()) == 1
    with tables.engine.connect() as connection:
        assert len(connection.execute(select(store_key)).all()) == 1


# Processes of the version before, which ignore the new column and table


def test_the_version_before_finds_no_token_and_no_name_in_a_tombstone(tables: Tables) -> None:
    older, store = FirstVersion(tables.engine, OLD), tables.store()
    put(store)
    assert forget(store)
    assert older.row(KEY) is None
    (pseudonym,) = tables.usernames()
    row = older.row(grant_key(pseudonym))
    assert row is not None
    assert (row["state"], row["sealed"], row["key_id"], row["idle_until"]) == (
        "revoked",
        None,
        None,
        None,
    )


def test_a_consent_that_the_version_before_stores_is_used_and_can_be_forgotten(
    tables: Tables,
) -> None:
    older, store = FirstVersion(tables.engine, OLD), tables.store()
    put(store)
    assert forget(store)
    with tables.engine.begin() as connection:
        # As when the tables were made by that version.
        connection.execute(delete(metadata.tables["blink_oauth_schema"]))
    store = tables.store()
    older.put(KEY, pair("older"))
    record = store.load(KEY)
    assert record is not None
    assert (record.state, record.token) == (State.ACTIVE, pair("older"))
    assert forget(store)
    assert NAME not in tables.text()
    assert put(store, "b").state is State.ACTIVE


def test_a_consent_that_the_version_before_stores_ends_the_wish_to_forget(
    tables: Tables,
) -> None:
    with tables.engine.begin() as connection:
        connection.execute(delete(metadata.tables["blink_oauth_schema"]))
    older, store = FirstVersion(tables.engine, OLD), tables.store()
    put(store)
    store.mark_revoked(KEY, note=note(), forget=True)
    older.put(KEY, pair("older"))
    record = store.load(KEY)
    assert record is not None
    assert (record.state, record.forgetting) == (State.ACTIVE, False)
    revoked = store.mark_revoked(KEY, note=note())
    assert revoked is not None
    assert not revoked.forgetting


def test_what_the_version_before_has_erased_only_is_still_forgotten(tables: Tables) -> None:
    store = tables.store()
    put(store)
    store.mark_revoked(KEY, note=note(), forget=True)
    with tables.engine.begin() as connection:
        # As that version erases.
        connection.execute(grants.update().values(sealed=None, key_id=None))
    (left,) = store.revoking(CLIENT, limit=9)
    assert (left.state, left.forgetting) == (State.REVOKED, True)
    assert forget(store)
