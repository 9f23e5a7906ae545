"""PostgreSQL behind a pooler, after a restart, with one connection, and serializable."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from sqlalchemy import Connection, Engine, create_engine, event, make_url, text
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

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
from keeper.store.first_version import create_first_version
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


def put(
    store: SqlTokenStore, name: str = "customer", *, pair_name: str = "a", idle: float = 30
) -> Record:
    """Store a pair."""
    return store.put(
        grant_key(name),
        pair(pair_name),
        issued_at=ISSUED,
        idle_until=ISSUED + days(idle),
        note=note(),
    )


def claim(store: SqlTokenStore, seen: Record) -> Record:
    """Claim a record, which must succeed."""
    claimed = store.claim(seen, owner="fake-owner", ttl=600)
    assert claimed is not None
    return claimed


def settle(store: SqlTokenStore, claimed: Record, pair_name: str) -> bool:
    """Settle a pair."""
    until = ISSUED + days(60)
    return store.settle(
        claimed, pair(pair_name), issued_at=ISSUED, idle_until=until, note=note()
    ).stored


def call_all_methods(store: SqlTokenStore) -> None:
    """Call every method so that it has an effect."""
    first = claim(store, put(store))
    assert settle(store, first, "b")
    assert not settle(store, first, "c")
    record = store.load(KEY)
    assert record is not None
    store.journal(record, pair("d"), origin=Origin.ERROR)
    claimed = claim(store, record)
    assert store.write_back(evolve(claimed, generation=9), seen=record, note=note()) is None
    salvaged = store.salvage(claimed, note=note())
    assert salvaged is not None
    assert store.release(salvaged, state=State.ACTIVE, attempts=0, pause=0, error=None, note=note())
    assert len(store.due(due(within=100), limit=10)) == 1
    [claimed] = store.claim_due(due(within=100), owner="fake-owner", ttl=600, limit=10)
    put(store, pair_name="e")
    assert not store.release(
        claimed, state=State.ACTIVE, attempts=0, pause=0, error=None, note=note()
    )
    revoked = store.mark_revoked(KEY, note=note())
    assert revoked is not None
    journaled = [entry.token for entry in store.journal_entries(KEY)]
    assert len(journaled) > 1
    assert store.revoking(CLIENT, limit=10) == [revoked]
    assert store.erase(revoked, journaled=journaled, note=note())
    assert store.revoking(CLIENT, limit=10) == []
    assert [record.state for record in store.records(CLIENT)] == [State.REVOKED]
    assert len(store.history(KEY)) > 5
    assert store.purge() == 0
    assert store.rotate_keys() == store.count_older_seals() == 0


@pytest.fixture
def pooler(postgres: PostgreSQL) -> Iterator[Pooler]:
    """Return a proxy that alternates between two server connections."""
    database = postgres.create()
    # The path of pytest's folder may be too long for a socket.
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


def test_all_methods_work_behind_a_transaction_pooler(pooler: Pooler, postgres: PostgreSQL) -> None:
    store = SqlTokenStore(pooled_url(pooler), keys=[FERNET_KEY])
    for _ in range(8):
        # By default psycopg prepares a statement that was executed five times.
        call_all_methods(store)
    store.close()
    assert pooler.switches > 100
    assert_no_session_state(pooler)


def test_many_threads_work_behind_a_transaction_pooler(pooler: Pooler) -> None:
    store = SqlTokenStore(pooled_url(pooler), keys=[FERNET_KEY])
    seen = put(store)

    def refresh(number: int) -> bool:
        claimed = store.claim(seen, owner=f"owner-{number}", ttl=600)
        return claimed is not None and settle(store, claimed, f"new-{number}")

    assert sum(run_concurrently(8, refresh)) == 1
    store.close()
    assert_no_session_state(pooler)


def test_several_claims_and_an_upgrade_work_behind_a_transaction_pooler(
    pooler: Pooler, postgres: PostgreSQL
) -> None:
    engine = create_engine(postgres.url(pooler.database))
    create_first_version(engine)
    engine.dispose()
    store = SqlTokenStore(pooled_url(pooler), keys=[FERNET_KEY])
    for number in range(7):
        put(store, f"customer-{number}")
    assert len(store.claim_due(due(within=100), owner="fake-owner", ttl=600, limit=5)) == 5
    store.finish_upgrade(batch=3)
    assert len(store.claim_due(due(within=100), owner="fake-owner", ttl=600, limit=5)) == 2
    assert not store.needs_upgrade()
    store.close()
    assert_no_session_state(pooler)


def assert_no_session_state(pooler: Pooler) -> None:
    """Check that both server connections have no session state."""
    queries = {
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
        for what, query in queries.items():
            assert [connection.scalar(text(query)) for _ in range(2)] == [0, 0], what
    engine.dispose()


def test_calls_succeed_after_a_restart_of_the_server(
    store: SqlTokenStore, postgres: PostgreSQL
) -> None:
    seen = put(store)
    run_concurrently(5, lambda number: store.load(KEY))
    postgres.restart()
    claimed = claim(store, seen)
    postgres.restart("immediate")
    assert settle(store, claimed, "b")
    assert store.load(KEY) is not None


@pytest.fixture
def pings(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return a list that gets an entry for each ping of a connection."""
    pings: list[object] = []
    ping: Any = PGDialect_psycopg.do_ping

    def counted(dialect: PGDialect_psycopg, connection: object) -> bool:
        pings.append(connection)
        return bool(ping(dialect, connection))

    monkeypatch.setattr(PGDialect_psycopg, "do_ping", counted)
    return pings


@pytest.fixture
def clock() -> list[float]:
    """Return a list with the time of a monotonic clock."""
    return [1000.0]


@pytest.fixture
def timed_store(postgres_url: str, clock: list[float]) -> Iterator[SqlTokenStore]:
    """Return a store that has one idle connection, and whose clock a test sets."""
    store = SqlTokenStore(postgres_url, keys=[FERNET_KEY], monotonic=lambda: clock[0])
    put(store)
    yield store
    store.close()


def test_a_connection_is_pinged_only_after_it_was_idle(
    timed_store: SqlTokenStore, clock: list[float], pings: list[object]
) -> None:
    for _ in range(5):
        assert timed_store.load(KEY) is not None
    assert pings == []
    clock[0] += 0.9
    assert timed_store.load(KEY) is not None
    assert pings == []
    clock[0] += 1.0
    assert timed_store.load(KEY) is not None
    assert len(pings) == 1
    assert timed_store.load(KEY) is not None
    assert len(pings) == 1


def test_a_connection_that_the_server_has_closed_is_replaced_however_short_it_was_idle(
    timed_store: SqlTokenStore, clock: list[float], pings: list[object], postgres_url: str
) -> None:
    for idle in (0.0, 60.0):
        pings.clear()
        end_sessions(postgres_url)
        clock[0] += idle
        assert timed_store.load(KEY) is not None
        assert len(pings) == 1


def test_every_connection_is_replaced_after_one_was_found_closed(
    timed_store: SqlTokenStore, postgres_url: str
) -> None:
    run_concurrently(5, lambda number: timed_store.load(KEY))
    end_sessions(postgres_url)
    assert timed_store.load(KEY) is not None
    assert all(run_concurrently(5, lambda number: timed_store.load(KEY)))


def test_a_batch_of_claims_takes_as_many_statements_as_one_claim(postgres_url: str) -> None:
    engine = create_engine(postgres_url)
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    store.create_schema()
    for number in range(21):
        put(store, f"customer-{number}", idle=number)
    statements: list[tuple[str, bool]] = []

    def record(
        connection: object, cursor: object, statement: str, _: object, __: object, many: bool
    ) -> None:
        statements.append((statement, many))

    def claimed(limit: int) -> list[Record]:
        statements.clear()
        return store.claim_due(due(within=100), owner="fake-owner", ttl=600, limit=limit)

    assert len(claimed(1)) == 1
    event.listen(engine, "before_cursor_execute", record)
    assert len(claimed(1)) == 1
    of_one = list(statements)
    claims = claimed(19)
    assert len(claims) == 19
    assert statements == of_one
    assert not any(many for _, many in statements)
    for claim in claims:
        stored = store.load(claim.key)
        assert stored is not None
        assert (stored.state, stored.attempts, stored.owner) == (State.REFRESHING, 1, "fake-owner")
        assert stored.token == claim.token
        assert settle(store, claim, "b")
    engine.dispose()


def test_a_stopped_server_raises_a_retryable_error_until_it_starts_again(
    store: SqlTokenStore, postgres: PostgreSQL
) -> None:
    claimed = claim(store, put(store))
    postgres.stop()
    try:
        with pytest.raises(StoreError, match="There is no connection to the server") as caught:
            settle(store, claimed, "b")
    finally:
        postgres.start()
    assert caught.value.retryable
    assert settle(store, claimed, "b")


def test_a_connection_that_breaks_in_a_transaction_changes_nothing(
    store: SqlTokenStore, postgres: PostgreSQL, postgres_url: str
) -> None:
    put(store)

    def break_connection(
        connection: Connection, cursor: object, statement: str, *rest: object
    ) -> None:
        if statement.startswith("INSERT INTO blink_oauth_journal"):
            terminate_all(postgres, postgres_url)

    event.listen(Engine, "after_cursor_execute", break_connection)
    with pytest.raises(StoreError, match="57P01"):
        put(store, pair_name="b")
    event.remove(Engine, "after_cursor_execute", break_connection)
    assert list(store.journal_entries(KEY)) == []
    assert put(store, pair_name="b").generation == 2
    assert len(store.journal_entries(KEY)) == 1


def end_sessions(url: str) -> None:
    """End the other sessions on a database, and wait until they have ended."""
    engine = create_engine(url)
    with engine.connect() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    engine.dispose()


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
    call_all_methods(store)
    put(store, "other")
    seen = run_concurrently(8, lambda number: store.load(grant_key("other")))
    assert [record.token for record in seen if record] == [pair("a")] * 8
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    engine.dispose()


def test_an_exhausted_pool_raises_a_retryable_error(postgres_url: str) -> None:
    engine = create_engine(postgres_url, pool_size=1, max_overflow=0, pool_timeout=0.05)
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    store.create_schema()
    with engine.connect(), pytest.raises(StoreError, match="No connection of the pool") as caught:
        store.load(KEY)
    assert caught.value.retryable
    assert "Nothing was changed." in str(caught.value)
    assert store.load(KEY) is None
    engine.dispose()


def test_serializable_transactions_raise_no_error_and_one_claim_succeeds(
    postgres: PostgreSQL,
) -> None:
    name = postgres.create()
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'")
    store = SqlTokenStore(postgres.url(name), keys=[FERNET_KEY])
    other = SqlTokenStore(postgres.url(name), keys=[FERNET_KEY])
    for round_ in range(3):
        seen = put(store, pair_name=f"{round_}")

        def refresh(number: int, seen: Record = seen) -> bool:
            use = store if number % 2 else other
            claimed = use.claim(seen, owner=f"owner-{number}", ttl=600)
            return claimed is not None and settle(use, claimed, f"{seen.generation}-{number}")

        assert sum(run_concurrently(8, refresh)) == 1
    late = claim(store, put(store, pair_name="again"))
    put(store, pair_name="new")
    assert run_concurrently(4, lambda number: settle(store, late, f"late-{number}")) == [False] * 4
    found = [entry.origin for entry in store.journal_entries(KEY)]
    assert found == [Origin.SUPERSEDED] * 4 + [Origin.REPLACED] * 4
    store.close()
    other.close()
    postgres.drop(name)


def test_concurrent_first_consents_of_a_grant_are_all_stored(store: SqlTokenStore) -> None:
    run_concurrently(6, lambda number: put(store, pair_name=f"{number}"))
    record = store.load(KEY)
    assert record is not None
    assert (record.generation, record.consent) == (6, 6)
    assert [origin for origin, *_ in entry_values(list(store.journal_entries(KEY)))] == [
        Origin.REPLACED
    ] * 5


def test_a_pair_that_threads_journal_concurrently_is_in_the_journal_once(
    store: SqlTokenStore,
) -> None:
    record = put(store)

    def write(number: int) -> None:
        # Four threads write each pair, at about the same time.
        store.journal(record, pair(f"late-{number // 4}"), origin=Origin.ERROR)

    run_concurrently(20, write)
    assert len(store.journal_entries(KEY)) == 5


def test_transactions_limit_lock_and_idle_time(store: SqlTokenStore) -> None:
    limits: list[tuple[str, object]] = []

    def record_limits(
        connection: Connection, cursor: object, statement: str, *rest: object
    ) -> None:
        verb = statement.split(maxsplit=1)[0]
        if verb in {"SELECT", "INSERT"}:
            names = ("lock_timeout", "idle_in_transaction_session_timeout")
            found = [connection.exec_driver_sql(f"SHOW {name}").scalar() for name in names]
            limits.append((verb, found))

    put(store)
    event.listen(Engine, "before_cursor_execute", record_limits)
    put(store, pair_name="b")
    in_transaction = [found for verb, found in limits if verb == "INSERT"]
    limits.clear()
    store.load(KEY)
    event.remove(Engine, "before_cursor_execute", record_limits)
    assert in_transaction
    assert all(found == ["10s", "10s"] for found in in_transaction)
    assert limits == [("SELECT", ["0", "0"])]


def test_claim_due_skips_locked_rows_without_a_wait(
    postgres_url: str, postgres: PostgreSQL
) -> None:
    short_timeout = f"{postgres_url}&options=-c%20lock_timeout%3D2s"
    store = SqlTokenStore(short_timeout, keys=[FERNET_KEY])
    for day, name in enumerate("abc", start=1):
        put(store, name, idle=day)
    database = make_url(postgres_url).database
    assert database is not None
    with postgres.connect(database) as other, other.transaction():
        other.execute("SELECT * FROM blink_oauth_grants WHERE username = 'a' FOR UPDATE")
        claims = store.claim_due(due(), owner="fake-owner", ttl=60, limit=1)
        assert [claimed.key for claimed in claims] == [grant_key("b")]
    claims = store.claim_due(due(), owner="fake-owner", ttl=60, limit=1)
    assert [claimed.key for claimed in claims] == [grant_key("a")]
    store.close()


def test_a_forked_child_does_not_use_the_connections_of_its_parent(
    store: SqlTokenStore, postgres: PostgreSQL, postgres_url: str
) -> None:
    program = """
def server_process():
    backends.clear()
    put(f"customer-{os.getpid()}")
    return backends.pop()
backends = []
event.listen(
    Engine, "checkout", lambda connection, *_: backends.append(connection.info.backend_pid)
)
parent_backend = server_process()
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    # The parent keeps its server process, whatever the child did.
    assert server_process() == parent_backend
    print(json.dumps([len(names()), len(opened)]))
else:
    assert server_process() != parent_backend
    store.close()
"""
    assert finish(start(postgres_url, FERNET_KEY, program)) == [[2, 1]]
    assert len(store.records(CLIENT)) == 2
