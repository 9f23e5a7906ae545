"""The store's own key: fingerprints stay the same over a rotation, and never fail a caller."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import Engine, create_engine, event, select, update

from blink_oauth.tokens import Secret
from blink_oauth_keeper import KeyFile, SealError, SqlTokenStore
from blink_oauth_keeper.store.sealing import key_id
from blink_oauth_keeper.store.sql_contents import pairs_by_key
from blink_oauth_keeper.store.sql_tables import store_key
from blink_oauth_testing.store_contract.harness import (
    ISSUED,
    KEY,
    days,
    note,
    pair,
    run_concurrently,
)

OLD, NEW, OTHER = (SqlTokenStore.new_key() for _ in range(3))
TEXT = "fake-client fake-target fake-customer"


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Return an engine for a database of each kind, with its tables."""
    with closing(SqlTokenStore(database_url, keys=[OLD])) as own:
        own.create_schema()
    wait = {"timeout": 30} if database_url.startswith("sqlite") else {}
    engine = create_engine(database_url, connect_args=wait)
    yield engine
    engine.dispose()


def open_store(engine: Engine, *keys: Secret) -> SqlTokenStore:
    return SqlTokenStore(engine, keys=keys, monotonic=lambda: 0.0)


def test_fingerprints_stay_the_same_over_a_rotation_of_keys(engine: Engine) -> None:
    before = open_store(engine, OLD).fingerprint(TEXT)
    steps = [(OLD, NEW), (NEW, OLD)]
    shown = [open_store(engine, *keys).fingerprint(TEXT) for keys in steps]
    both = open_store(engine, NEW, OLD)
    assert (both.count_older_seals(), both.rotate_keys()) == (1, 0)
    assert both.count_older_seals() == 0
    assert open_store(engine, NEW).count_unknown_seals() == 0
    assert [*shown, open_store(engine, NEW).fingerprint(TEXT)] == [before] * 3


def test_the_key_is_made_once_and_sealed(engine: Engine, database_url: str) -> None:
    stores = [open_store(engine, OLD) for _ in range(6)]
    fingerprints = run_concurrently(6, lambda number: stores[number].fingerprint(TEXT))
    assert len(set(fingerprints)) == 1
    with engine.connect() as connection:
        (row,) = connection.execute(select(store_key)).all()
    assert row.key_id == key_id(OLD)
    assert row.sealed.startswith("gAAAA")
    assert pairs_by_key(database_url) == {key_id(OLD): 1}


def test_two_stores_have_different_fingerprints(engine: Engine, tmp_path: Path) -> None:
    with closing(SqlTokenStore(tmp_path / "other.db", keys=[OLD])) as other:
        assert other.fingerprint(TEXT) != open_store(engine, OLD).fingerprint(TEXT)


def test_a_given_fingerprint_key_is_used_instead(engine: Engine, tmp_path: Path) -> None:
    key = Secret("fake-fingerprint-key")
    one = SqlTokenStore(engine, keys=[OLD], fingerprint_key=key)
    with closing(SqlTokenStore(tmp_path / "other.db", keys=[NEW], fingerprint_key=key)) as other:
        assert one.fingerprint(TEXT) == other.fingerprint(TEXT)
    assert one.fingerprint(TEXT) != open_store(engine, OLD).fingerprint(TEXT)


def test_without_the_key_that_opens_it_a_fingerprint_is_made_with_another(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    known = open_store(engine, OLD).fingerprint(TEXT)
    caplog.set_level(logging.WARNING)
    lacking = open_store(engine, NEW)
    assert lacking.count_unknown_seals() == 1
    shown = {lacking.fingerprint(TEXT) for _ in range(3)}
    assert len(shown) == 1
    assert known not in shown
    warnings = [each for each in caplog.messages if "key of the fingerprints" in each]
    assert len(warnings) == 1
    assert "SealError" in warnings[0]


def test_a_running_store_uses_the_key_once_it_is_given_back(engine: Engine, tmp_path: Path) -> None:
    known = open_store(engine, OLD).fingerprint(TEXT)
    file, seconds = tmp_path / "keys", [0.0]
    file.write_text(NEW.reveal())
    store = SqlTokenStore(engine, keys=KeyFile(file), monotonic=lambda: seconds[0])
    assert store.fingerprint(TEXT) != known
    file.write_text(f"{NEW.reveal()}\n{OLD.reveal()}")
    seconds[0] += 10
    assert store.fingerprint(TEXT) == known


def test_a_key_that_was_altered_is_not_replaced(engine: Engine) -> None:
    store = open_store(engine, OLD)
    store.fingerprint(TEXT)
    sealed = store.put(KEY, pair("a"), issued_at=ISSUED, idle_until=ISSUED + days(1), note=note())
    assert sealed.token == pair("a")
    grants = store_key.metadata.tables["blink_oauth_grants"]
    with engine.begin() as connection:
        # The sealed text of a pair does not open as the key.
        text = connection.scalar(select(grants.c.sealed))
        connection.execute(update(store_key).values(sealed=text))
    altered = open_store(engine, OLD)
    assert altered.fingerprint(TEXT) == altered.fingerprint(TEXT)
    with pytest.raises(SealError, match="was altered"):
        altered.mark_revoked(KEY, note=note(), forget=True)
    assert altered.load(KEY) == sealed
    with engine.connect() as connection:
        assert connection.scalar(select(store_key.c.sealed)) == text


def test_a_store_that_can_only_be_read_makes_a_fingerprint_all_the_same(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    read_only = engine.execution_options(isolation_level="AUTOCOMMIT")
    command = (
        "PRAGMA query_only = ON"
        if engine.dialect.name == "sqlite"
        else "SET default_transaction_read_only = on"
    )
    event.listen(engine, "engine_connect", lambda c: c.exec_driver_sql(command))
    caplog.set_level(logging.WARNING)
    store = open_store(read_only, OLD)
    assert store.load(KEY) is None
    assert store.fingerprint(TEXT) == open_store(read_only, OLD).fingerprint(TEXT)
    with engine.connect() as connection:
        assert connection.execute(select(store_key)).all() == []
    assert any("can neither be read nor made" in each for each in caplog.messages)


def test_an_outage_after_the_first_use_changes_no_fingerprint(database_url: str) -> None:
    with closing(SqlTokenStore(database_url, keys=[OLD])) as store:
        known = store.fingerprint(TEXT)
    engine = create_engine(database_url)
    store = open_store(engine, OLD)
    assert store.load(KEY) is None
    statements: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    # The key was read with the first use; no event asks the database for it.
    assert store.fingerprint(TEXT) == known
    assert statements == []
    engine.dispose()
