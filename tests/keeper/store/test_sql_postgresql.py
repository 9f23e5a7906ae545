"""PostgreSQL behind a pooler, after a restart, with one connection, and strictly serialised."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text

from blink_oauth_keeper import Origin, Record, SqlTokenStore, State
from blink_oauth_keeper.errors import StoreError
from blink_oauth_testing.store_contract.harness import (
    CLIENT,
    ISSUED,
    KEY,
    days,
    due,
    entry_values,
    grant_key,
    note,
    pair,
    run_concurrently,
)
from keeper.store.pooler import Pooler, pooling
from keeper.store.programs import finish, start
from postgresql import PostgreSQL

FERNET_KEY = SqlTokenStore.new_key()


@pytest.fixture
def store(postgres_url: str) -> Iterator[SqlTokenStore]:
    """Return a store in a new database."""
    store = SqlTokenStore(postgres_url, keys=[FERNET_KEY])
    yield store
    store.close()


def put(store: SqlTokenStore, name: str = "customer", *, of: str = "a", idle: float = 30) -> Record:
    """Store a pair."""
    return store.put(
        grant_key(name), pair(of), issued_at=ISSUED, idle_until=ISSUED + days(idle), note=note()
    )


def claim(store: SqlTokenStore, seen: Record) -> Record:
    """Take the lease."""
    taken = store.claim(seen, owner="fake-owner", ttl=600)
    assert taken is not None
    return taken


def settle(store: SqlTokenStore, taken: Record, of: str) -> bool:
    """Bring a pair home."""
    until = ISSUED + days(60)
    return store.settle(taken, pair(of), issued_at=ISSUED, idle_until=until, note=note()).stored


def use_everything(store: SqlTokenStore) -> None:
    """Call every method, so that each does something."""
    late = claim(store, put(store))
    assert settle(store, late, "b")
    assert not settle(store, late, "c")
    record = store.load(KEY)
    assert record is not None
    store.journal(record, pair("d"), origin=Origin.ERROR)
    taken = claim(store, record)
    salvaged = store.salvage(taken, note=note())
    assert salvaged is not None
    assert store.release(salvaged, state=State.ACTIVE, attempts=0, pause=0, error=None, note=note())
    assert len(store.due(due(within=100), limit=10)) == 1
    [taken] = store.claim_due(due(within=100), owner="fake-owner", ttl=600, limit=10)
    put(store, of="e")
    assert not store.release(
        taken, state=State.ACTIVE, attempts=0, pause=0, error=None, note=note()
    )
    revoked = store.revoke(KEY, note=note())
    assert revoked is not None
    assert len(store.journal_entries(KEY)) > 1
    assert store.erase(revoked)
    assert [record.state for record in store.records(CLIENT)] == [State.REVOKED]
    assert len(store.history(KEY)) > 5
    assert store.purge() == 0
    assert store.rotate_keys() == store.count_older_seals() == 0


@pytest.fixture
def pooler(postgres: PostgreSQL) -> Iterator[Pooler]:
    """Return a proxy that hands each transaction to another of two connections."""
    database = postgres.create()
    # Not below pytest's folder, whose path may be too long for a socket.
    with (
        tempfile.TemporaryDirectory() as folder,
        pooling(postgres.socket, database, Path(folder)) as pooler,
    ):
        yield pooler
    postgres.drop(database)


def pooled_url(pooler: Pooler) -> str:
    """Return the URL of a proxy."""
    folder = Path(pooler.listener.getsockname()).parent
    return f"postgresql+psycopg://postgres@/{pooler.database}?host={folder}"


def test_everything_works_behind_a_pooler_of_transactions(
    pooler: Pooler, postgres: PostgreSQL
) -> None:
    store = SqlTokenStore(pooled_url(pooler), keys=[FERNET_KEY])
    for _ in range(8):
        # Often enough for a driver that prepares what it executes often.
        use_everything(store)
    store.close()
    assert pooler.switches > 100
    assert_nothing_is_left(pooler)


def test_many_threads_work_behind_a_pooler_of_transactions(pooler: Pooler) -> None:
    store = SqlTokenStore(pooled_url(pooler), keys=[FERNET_KEY])
    seen = put(store)

    def refresh(number: int) -> bool:
        taken = store.claim(seen, owner=f"owner-{number}", ttl=600)
        return taken is not None and settle(store, taken, f"new-{number}")

    assert sum(run_concurrently(8, refresh)) == 1
    store.close()
    assert_nothing_is_left(pooler)


def assert_nothing_is_left(pooler: Pooler) -> None:
    """Look for what may stay behind in a session, in each of the two."""
    left = {
        "prepared statements": "SELECT count(*) FROM pg_prepared_statements",
        "advisory locks": "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        "settings": "SELECT count(*) FROM pg_settings WHERE source = 'session'",
        "listeners": "SELECT count(*) FROM pg_listening_channels()",
        "temporary tables": "SELECT count(*) FROM pg_class WHERE relpersistence = 't'",
    }
    engine = create_engine(
        pooled_url(pooler),
        isolation_level="AUTOCOMMIT",
        connect_args={"prepare_threshold": None},
    )
    with engine.connect() as connection:
        for what, query in left.items():
            assert [connection.scalar(text(query)) for _ in range(2)] == [0, 0], what
    engine.dispose()


def test_a_restart_between_two_calls_fails_none(store: SqlTokenStore, postgres: PostgreSQL) -> None:
    seen = put(store)
    run_concurrently(5, lambda number: store.load(KEY))
    postgres.restart()
    taken = claim(store, seen)
    postgres.restart("immediate")
    assert settle(store, taken, "b")
    assert store.load(KEY) is not None


def test_a_server_that_is_down_is_told_and_found_again(
    store: SqlTokenStore, postgres: PostgreSQL
) -> None:
    taken = claim(store, put(store))
    postgres.stop()
    try:
        with pytest.raises(StoreError, match="There is no connection to the server") as caught:
            settle(store, taken, "b")
    finally:
        postgres.start()
    assert caught.value.retryable
    assert settle(store, taken, "b")


def test_a_connection_that_breaks_in_a_transaction_leaves_nothing(
    store: SqlTokenStore, postgres: PostgreSQL, postgres_url: str
) -> None:
    put(store)

    def end_it(connection: Connection, cursor: object, statement: str, *rest: object) -> None:
        if statement.startswith("INSERT INTO blink_oauth_journal"):
            terminate_all(postgres, postgres_url)

    event.listen(Engine, "after_cursor_execute", end_it)
    with pytest.raises(StoreError, match="57P01"):
        put(store, of="b")
    event.remove(Engine, "after_cursor_execute", end_it)
    assert list(store.journal_entries(KEY)) == []
    assert put(store, of="b").generation == 2
    assert len(store.journal_entries(KEY)) == 1


def terminate_all(postgres: PostgreSQL, url: str) -> None:
    """End all connections to a database."""
    postgres.execute(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
        f"WHERE datname = '{make_url(url).database}' AND pid <> pg_backend_pid()"
    )


def test_one_connection_is_enough(postgres_url: str) -> None:
    engine = create_engine(postgres_url, pool_size=1, max_overflow=0, pool_timeout=1)
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    store.create_schema()
    use_everything(store)
    put(store, "other")
    seen = run_concurrently(8, lambda number: store.load(grant_key("other")))
    assert [record.token for record in seen if record] == [pair("a")] * 8
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    engine.dispose()


def test_a_pool_that_is_used_up_is_an_error_of_the_store(postgres_url: str) -> None:
    engine = create_engine(postgres_url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    store.create_schema()
    with engine.connect(), pytest.raises(StoreError, match="No connection of the pool") as caught:
        store.load(KEY)
    assert caught.value.retryable
    assert store.load(KEY) is None
    engine.dispose()


def test_strict_serialisation_is_no_error_and_one_wins(postgres: PostgreSQL) -> None:
    name = postgres.create()
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    store = SqlTokenStore(postgres.url(name), keys=[FERNET_KEY])
    other = SqlTokenStore(postgres.url(name), keys=[FERNET_KEY])
    for round_ in range(3):
        seen = put(store, of=f"{round_}")

        def refresh(number: int, seen: Record = seen) -> bool:
            use = store if number % 2 else other
            taken = use.claim(seen, owner=f"owner-{number}", ttl=600)
            return taken is not None and settle(use, taken, f"{seen.generation}-{number}")

        assert sum(run_concurrently(8, refresh)) == 1
    late = claim(store, put(store, of="again"))
    put(store, of="new")
    assert run_concurrently(4, lambda number: settle(store, late, f"late-{number}")) == [False] * 4
    found = [entry.origin for entry in store.journal_entries(KEY)]
    assert found == [Origin.SUPERSEDED] * 4 + [Origin.REPLACED] * 4
    store.close()
    other.close()
    postgres.drop(name)


def test_the_first_pairs_of_a_grant_at_once_are_all_kept(store: SqlTokenStore) -> None:
    run_concurrently(6, lambda number: put(store, of=f"{number}"))
    record = store.load(KEY)
    assert record is not None
    assert (record.generation, record.consent) == (6, 6)
    assert [origin for origin, *_ in entry_values(list(store.journal_entries(KEY)))] == [
        Origin.REPLACED
    ] * 5


def test_a_pair_that_many_write_to_the_journal_is_in_it_once(store: SqlTokenStore) -> None:
    record = put(store)

    def write(number: int) -> None:
        # Every pair comes from several threads, at about the same time.
        store.journal(record, pair(f"late-{number // 4}"), origin=Origin.ERROR)

    run_concurrently(20, write)
    assert len(store.journal_entries(KEY)) == 5


def test_nobody_waits_long_for_a_lock(store: SqlTokenStore) -> None:
    limits: list[tuple[str, object]] = []

    def look(connection: Connection, cursor: object, statement: str, *rest: object) -> None:
        verb = statement.split(maxsplit=1)[0]
        if verb in {"SELECT", "INSERT"}:
            names = ("lock_timeout", "idle_in_transaction_session_timeout")
            found = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names]
            limits.append((verb, found))

    put(store)
    event.listen(Engine, "before_cursor_execute", look)
    put(store, of="b")
    in_transaction = [found for verb, found in limits if verb == "INSERT"]
    limits.clear()
    store.load(KEY)
    event.remove(Engine, "before_cursor_execute", look)
    assert in_transaction
    assert all(found == ["10s", "10s"] for found in in_transaction)
    assert limits == [("SELECT", ["0", "0"])]


def test_what_others_hold_is_not_waited_for_by_who_claims_what_is_due(
    postgres_url: str, postgres: PostgreSQL
) -> None:
    impatient = f"{postgres_url}&options=-c%20lock_timeout%3D2s"
    store = SqlTokenStore(impatient, keys=[FERNET_KEY])
    for day, name in enumerate("abc", start=1):
        put(store, name, idle=day)
    database = make_url(postgres_url).database
    assert database is not None
    with postgres.connect(database) as other, other.transaction():
        other.execute("SELECT * FROM blink_oauth_grants WHERE username = 'a' FOR UPDATE")
        claims = store.claim_due(due(), owner="fake-owner", ttl=60, limit=1)
        assert [taken.key for taken in claims] == [grant_key("b")]
    claims = store.claim_due(due(), owner="fake-owner", ttl=60, limit=1)
    assert [taken.key for taken in claims] == [grant_key("a")]
    store.close()


def test_a_forked_child_leaves_the_connections_of_its_parent_alone(
    store: SqlTokenStore, postgres: PostgreSQL, postgres_url: str
) -> None:
    program = """
def server_process():
    served.clear()
    put(f"customer-{os.getpid()}")
    return served.pop()
served = []
event.listen(
    Engine, "checkout", lambda connection, *_: served.append(connection.info.backend_pid)
)
parents = server_process()
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    # Whatever the child did, the server still serves the parent on the same connection.
    assert server_process() == parents
    print(json.dumps([len(names()), len(opened)]))
else:
    assert server_process() != parents
    store.close()
"""
    assert finish(start(postgres_url, FERNET_KEY, program)) == [[2, 1]]
    assert len(store.records(CLIENT)) == 2
