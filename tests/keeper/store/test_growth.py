"""What a claim, a listing and a purge cost does not grow with the number of stored grants."""

from __future__ import annotations

import logging
import random
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve
from sqlalchemy import Connection, Engine, create_engine, event, insert, select, text, update

from blink_oauth_keeper import MemoryTokenStore, Record, SqlTokenStore, State, TokenStore
from blink_oauth_keeper.store.rules import due_order, is_due
from blink_oauth_keeper.store.sql_tables import grants, history, journal
from blink_oauth_testing.store_contract.harness import (
    CLIENT,
    ISSUED,
    KEY,
    ManualClock,
    days,
    due,
    grant_key,
    note,
    pair,
    run_concurrently,
)
from keeper.store.sqlite_steps import counted_steps

FERNET_KEY, OTHER_KEY = SqlTokenStore.new_key(), SqlTokenStore.new_key()
RETENTION = timedelta(days=400)
BATCH = 500
"""The most rows that a purge may delete in one transaction."""


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """Return an engine for a database of each kind that has the tables."""
    engine = create_engine(database_url)
    SqlTokenStore(engine, keys=[FERNET_KEY]).create_schema()
    yield engine
    engine.dispose()


def store_in(engine: Engine, **options: Any) -> SqlTokenStore:
    """Return a store with a clock that stands still."""
    return SqlTokenStore(engine, keys=[FERNET_KEY], clock=ManualClock(), **options)


def put(store: TokenStore, name: str, idle: float = 1) -> Record:
    """Store a pair for the grant with this username."""
    until = ISSUED + days(idle)
    return store.put(
        grant_key(name), pair(name), issued_at=ISSUED, idle_until=until, note=note("put")
    )


def fill(engine: Engine, count: int, **values: object) -> None:
    """Store rows that are like the row of `KEY`, except for their usernames and these values."""
    with engine.begin() as connection:
        row = dict(connection.execute(select(grants)).mappings().first() or {})
        rows = [row | {"username": f"filled-{number:06}"} | values for number in range(count)]
        connection.execute(insert(grants), rows)


# Claims


def claim_steps(engine: Engine, front: int, **values: object) -> int:
    """Return the steps of SQLite's virtual machine to claim ten grants behind others.

    Args:
        engine: An engine for an SQLite file.
        front: The number of grants whose refresh tokens expire before those of the ten.
        values: The columns that make them unclaimable.
    """
    store = store_in(engine)
    put(store, KEY.grant.username, idle=9000)
    fill(engine, front, **({"idle_until": ISSUED} | values))
    for number in range(10):
        put(store, f"due-{number}")
    query = due(attempts=1)
    steps, claims = counted_steps(
        engine, lambda: store.claim_due(query, owner="owner", ttl=60, limit=10)
    )
    assert [claim.key.grant.username for claim in claims] == [f"due-{n}" for n in range(10)]
    return steps


@pytest.mark.parametrize(
    "values",
    [{"state": "needs_consent"}, {"state": "revoked"}, {"idle_until": None}],
    ids=["needs-consent", "revoked", "without-a-refresh-token"],
)
def test_a_claim_on_sqlite_passes_over_no_grant_that_cannot_be_due(
    tmp_path: Path, values: dict[str, object]
) -> None:
    steps = []
    for number in (10, 3_000):
        engine = create_engine(f"sqlite:///{tmp_path / str(number)}")
        store_in(engine).create_schema()
        steps.append(claim_steps(engine, number, **values))
        engine.dispose()
    few, many = steps
    assert few > 100
    assert many <= few * 1.05


def plans(engine: Engine, act: Callable[[], object]) -> list[str]:
    """Return the plans of the statements on grants that an operation executes."""
    found: list[tuple[str, Any]] = []

    def note_statement(
        connection: Connection, cursor: object, statement: str, parameters: Any, *_: object
    ) -> None:
        if "idle_until <=" in statement:
            found.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note_statement)
    act()
    event.remove(engine, "before_cursor_execute", note_statement)
    return [explain(engine, *each) for each in found]


def explain(engine: Engine, statement: str, parameters: Any) -> str:
    """Return the plan of a statement; PostgreSQL would read a small table without its indices."""
    command = "EXPLAIN QUERY PLAN " if engine.dialect.name == "sqlite" else "EXPLAIN "
    with engine.connect() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(text("SET enable_seqscan = off"))
            connection.execute(text("SET enable_bitmapscan = off"))
        rows = connection.exec_driver_sql(command + statement, parameters)
        return "\n".join(str(row) for row in rows)


@pytest.mark.parametrize("targets", [None, ("IIDX99999",)], ids=["all-targets", "one-target"])
def test_due_records_are_read_in_order_from_their_index(
    engine: Engine, targets: tuple[str, ...] | None
) -> None:
    store = store_in(engine)
    put(store, "a")
    query = due(targets=targets)
    found = plans(engine, lambda: store.due(query, limit=5))
    found += plans(engine, lambda: store.claim_due(query, owner="owner", ttl=60, limit=5))
    assert len(found) >= 2
    for plan in found:
        assert "blink_oauth_grants_claimable" in plan
        assert "SCAN blink_oauth_grants" not in plan
        assert "TEMP B-TREE FOR ORDER BY" not in plan
        assert "Sort" not in plan


def in_memory(front: int, make_unclaimable: Callable[[TokenStore, Record], object]) -> int:
    """Return how many functions a memory store calls to claim ten grants behind others."""
    store = MemoryTokenStore(clock=ManualClock())
    for number in range(front):
        make_unclaimable(store, put(store, f"front-{number:06}", idle=0))
    for number in range(10):
        put(store, f"due-{number}")
    claims: list[Record] = []

    def claim() -> None:
        claims.extend(store.claim_due(due(), owner="owner", ttl=60, limit=10))

    called = function_calls(claim)
    assert [claim.key.grant.username for claim in claims] == [f"due-{n}" for n in range(10)]
    return called


def function_calls(act: Callable[[], object]) -> int:
    """Return how many functions are called."""
    called = 0

    def count(frame: object, what: str, argument: object) -> None:
        nonlocal called
        called += what in {"call", "c_call"}

    sys.setprofile(count)
    try:
        act()
    finally:
        sys.setprofile(None)
    return called


def refuse(store: TokenStore, record: Record) -> None:
    """Make a record need consent."""
    _release(store, record, State.NEEDS_CONSENT)


def pause(store: TokenStore, record: Record) -> None:
    """Pause a record for an hour."""
    _release(store, record, State.ACTIVE, seconds=3600)


def lease(store: TokenStore, record: Record) -> None:
    """Claim a record."""
    assert store.claim(record, owner="other", ttl=3600)


def leave_uncertain(store: TokenStore, record: Record) -> None:
    """Count an attempt."""
    _release(store, record, State.UNCERTAIN, attempts=1)


def _release(
    store: TokenStore, record: Record, state: State, *, attempts: int = 0, seconds: float = 0
) -> None:
    claim = store.claim(record, owner="other", ttl=3600)
    assert claim
    assert store.release(
        claim, state=state, attempts=attempts, pause=seconds, error=None, note=note()
    )


def stay_due_later(store: TokenStore, record: Record) -> None:
    """Move the expiry of a refresh token behind that of all others."""
    store.settle(record, pair("later"), issued_at=ISSUED, idle_until=ISSUED + days(9), note=note())


@pytest.mark.parametrize(
    "change",
    [refuse, pause, lease, leave_uncertain, stay_due_later],
    ids=lambda each: each.__name__,
)
def test_a_claim_in_memory_passes_over_no_grant_that_it_cannot_claim(
    change: Callable[[TokenStore, Record], object],
) -> None:
    few, many = in_memory(10, change), in_memory(3_000, change)
    # The depth of a binary search grows with the logarithm.
    assert many <= few * 3
    assert many < 3_000


def test_a_grant_with_another_target_is_not_passed_over_in_memory() -> None:
    def at_another_target(store: TokenStore, record: Record) -> None:
        stay_due_later(store, record)
        key = grant_key(record.key.grant.username, "IIDX00001")
        store.put(key, pair("x"), issued_at=ISSUED, idle_until=ISSUED, note=note())

    for wanted in (
        due(targets=["IIDX99999"], within=8),
        due(except_targets=["IIDX00001"], within=8),
    ):
        called = []
        for number in (10, 2_000):
            store = MemoryTokenStore(clock=ManualClock())
            for each in range(number):
                at_another_target(store, put(store, f"other-{each}"))
            put(store, "due")
            called.append(function_calls(lambda: store.due(wanted, limit=1)))  # noqa: B023
            assert [r.key.grant.username for r in store.due(wanted, limit=9)] == ["due"]
        assert called[1] <= called[0] * 3


def test_what_is_due_in_memory_agrees_with_the_records_after_any_changes() -> None:
    chance = random.Random(7)
    clock = ManualClock()
    store = MemoryTokenStore(clock=clock)
    names = [f"customer-{number}" for number in range(1_500)]
    for name in names:
        put(store, name, idle=chance.random() * 12)
    states = [State.ACTIVE, State.UNCERTAIN, State.NEEDS_CONSENT]
    for _ in range(3_000):
        clock.advance(chance.random() * 20)
        record = store.load(grant_key(chance.choice(names)))
        assert record
        claim = store.claim(record, owner="other", ttl=chance.choice([0, 3600]))
        if claim is None:
            stay_due_later(store, record)
        elif chance.random() < 0.7:
            store.release(
                claim,
                state=chance.choice(states),
                attempts=chance.randrange(3),
                pause=chance.choice([0, 3600]),
                error=None,
                note=note(),
            )
    loaded = [store.load(grant_key(name)) for name in names]
    for query in (due(), due(attempts=9), due(within=3), due(targets=[])):
        expected = sorted((r for r in loaded if r and is_due(r, query)), key=due_order)
        assert store.due(query, limit=9_999) == expected
        claims = store.claim_due(query, owner="owner", ttl=0, limit=7)
        assert [claim.key for claim in claims] == [record.key for record in expected[:7]]
        loaded = [store.load(grant_key(name)) for name in names]


# Listings


def test_a_listing_opens_no_pair(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    store = store_in(engine)
    put(store, "customer")
    with engine.begin() as connection:
        connection.execute(update(grants).values(sealed="nonsense"))
    [record] = store.records(CLIENT)
    assert (record.error, record.expires_at) == (None, ISSUED + days(1))
    assert caplog.record_tuples == []


def test_a_listing_names_a_pair_whose_key_is_missing(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    put(SqlTokenStore(engine, keys=[OTHER_KEY], clock=ManualClock()), "customer")
    [record] = store_in(engine).records(CLIENT)
    assert record.error == "SealError"
    assert [level for _, level, _ in caplog.record_tuples] == [logging.WARNING]


@pytest.mark.parametrize(
    "written", [None, 1], ids=["inserted-by-an-older-version", "refreshed-by-an-older-version"]
)
def test_a_listing_opens_a_pair_that_an_older_version_has_stored(
    engine: Engine, written: int | None
) -> None:
    store = store_in(engine)
    first = put(store, "customer")
    later = evolve(pair("b"), expires_at=ISSUED + days(5))
    store.settle(first, later, issued_at=ISSUED, idle_until=ISSUED + days(30), note=note())
    # An older version leaves the two columns as they are.
    stale = {"expires_generation": written, "expires_at": written and ISSUED + days(1)}
    with engine.begin() as connection:
        connection.execute(update(grants).values(stale))
    [record] = store.records(CLIENT)
    assert record == evolve(store.load(record.key) or record, token=None)
    assert record.expires_at == ISSUED + days(5)
    with engine.begin() as connection:
        connection.execute(update(grants).values(sealed="nonsense"))
    [record] = store.records(CLIENT)
    assert record.error == "SealError"


def test_an_erased_grant_has_no_expiry(engine: Engine) -> None:
    store = store_in(engine)
    put(store, "customer")
    revoked = store.mark_revoked(KEY, note=note())
    assert revoked
    assert store.erase(revoked, journaled=[], note=note())
    assert [record.expires_at for record in store.records(CLIENT)] == [None]


def test_a_page_of_a_memory_store_does_not_read_all_grants() -> None:
    called = []
    for number in (200, 4_000):
        store = MemoryTokenStore(clock=ManualClock())
        for each in range(number):
            put(store, f"customer-{each:06}")
        store.records(CLIENT)
        after = grant_key("customer-000099")
        called.append(function_calls(lambda: store.records(CLIENT, after=after, limit=50)))  # noqa: B023
    assert called[1] <= called[0] * 1.5


# Purges


class Deletions:
    """Records the rows of each delete of an engine, and what is done between two of them."""

    def __init__(self, engine: Engine) -> None:
        self.rows: list[int] = []
        event.listen(engine, "after_cursor_execute", self._note)

    def _note(self, connection: object, cursor: Any, statement: str, *_: object) -> None:
        if statement.startswith("DELETE"):
            self.rows.append(cursor.rowcount)


def fill_history(engine: Engine, count: int) -> None:
    """Store old entries in history and journal, half each."""
    old = ISSUED - RETENTION - days(1)
    key = {"client_id": CLIENT, "target_id": "IIDX99999", "generation": 1, "at": old}
    entry = key | {"event": "fake", "outcome": "done", "actor": "auto"}
    journaled = key | {"consent": 1, "origin": "error", "sealed": "fake", "key_id": "fake"}
    with engine.begin() as connection:
        for table, row in ((history, entry), (journal, journaled)):
            rows = [row | {"username": f"u-{number % 97}"} for number in range(count // 2)]
            connection.execute(insert(table), rows)


def test_a_purge_deletes_batches_and_lets_writers_in_between(engine: Engine) -> None:
    writer = store_in(engine)
    put(writer, "customer")
    fill_history(engine, 3_000)
    pauses: list[float] = []

    def write(seconds: float) -> None:
        put(writer, f"meanwhile-{len(pauses)}")
        pauses.append(seconds)

    deletions = Deletions(engine)
    assert store_in(engine, sleep=write).purge() == 3_000
    assert sum(deletions.rows) == 3_000
    assert max(deletions.rows) <= BATCH
    assert len(pauses) >= len(deletions.rows) - 2
    assert min(pauses) > 0
    assert len(writer.records(CLIENT)) == 1 + len(pauses)
    assert len(writer.history(KEY)) == 1


def test_a_small_purge_does_not_pause(engine: Engine) -> None:
    fill_history(engine, 20)
    assert store_in(engine, sleep=_fail).purge() == 20
    assert store_in(engine, sleep=_fail).purge() == 0


def _fail(_: float) -> None:
    raise AssertionError


def test_two_concurrent_purges_delete_each_entry_once(engine: Engine) -> None:
    fill_history(engine, 4_000)
    stores = [store_in(engine, sleep=lambda _: None) for _ in range(2)]
    counts = run_concurrently(2, lambda number: stores[number].purge())
    assert sum(counts) == 4_000


def test_a_purge_reads_old_entries_from_the_index_of_their_times(engine: Engine) -> None:
    fill_history(engine, 20)
    found: list[tuple[str, Any]] = []

    def note_statement(
        connection: object, cursor: object, statement: str, parameters: Any, *_: object
    ) -> None:
        if statement.startswith("SELECT") and "LIMIT" in statement:
            found.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note_statement)
    store_in(engine).purge()
    event.remove(engine, "before_cursor_execute", note_statement)
    explained = [explain(engine, *each) for each in found]
    assert ["blink_oauth_journal_at" in plan for plan in explained] == [True, False, False]
    assert ["blink_oauth_history_at" in plan for plan in explained] == [False, True, False]
    assert ["blink_oauth_notices_at" in plan for plan in explained] == [False, False, True]


def test_a_purge_of_a_memory_store_releases_its_lock_between_batches() -> None:
    clock = ManualClock()
    sizes: list[int] = []

    def write(_: float) -> None:
        # Would wait for ever if the lock were not released.
        put(store, f"meanwhile-{len(sizes)}")
        sizes.append(sum(len(store.history(grant_key(f"customer-{n}"))) for n in range(2_000)))

    store = MemoryTokenStore(clock=clock, sleep=write)
    for number in range(2_000):
        put(store, f"customer-{number}")
    clock.advance(401 * 86_400)
    assert store.purge() == 2_000
    steps = [before - after for before, after in pairwise([2_000, *sizes, 0])]
    assert max(steps) <= BATCH
    assert len(store.records(CLIENT, limit=5_000)) == 2_000 + len(sizes)
