"""What grows with the number of stored grants, as ratios within one run.

* the wait of a writer during `purge` of 200,000 old entries, compared with 2,000 (SQLite); of each
  purge the first seconds are measured
* `claim_due` behind 50,000 grants that need consent, compared with 500 (SQLite)
* `claim_due` of the memory store with 100,000 grants, compared with 1,000
* the peak of memory of a listing of 20,000 grants, compared with 2,000 (SQLite)

Left out: PostgreSQL, where a purge blocks no writer; the time of a whole purge, most of which is
its pauses.
"""

from __future__ import annotations

import statistics
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter, sleep

from benchmarks.rounds import ROUNDS, Figure, Limit, in_rounds, medians_in_turn, ratio, report
from sqlalchemy import Engine, create_engine, insert, select

from blink_oauth import Grant, Token
from blink_oauth_keeper import DueQuery, GrantKey, MemoryTokenStore, Note, SqlTokenStore, TokenStore
from blink_oauth_keeper.profile import TargetProfile
from blink_oauth_keeper.status import statuses_of
from blink_oauth_keeper.store.sql_tables import grants, history

CLIENT = "CIDX0000000002"
FEW_ENTRIES, MANY_ENTRIES, PURGE_SECONDS = 2_000, 200_000, 1.5
FEW_REFUSED, MANY_REFUSED = 500, 50_000
FEW_GRANTS, MANY_GRANTS = 1_000, 100_000
FEW_LISTED, MANY_LISTED = 2_000, 20_000
CLAIMS, BATCHES = 10, 10
WAIT_LIMIT, CLAIM_LIMIT, MEMORY_LIMIT = Limit(1.5), Limit(1.5), Limit(1.2)
NOW = datetime.now(UTC)
FERNET_KEY = SqlTokenStore.new_key()


class EnoughError(Exception):
    """Ends a purge that has been measured for long enough."""


@contextmanager
def database() -> Iterator[Engine]:
    """Yield an engine for a new SQLite file with the tables."""
    with tempfile.TemporaryDirectory() as folder:
        engine = create_engine(f"sqlite:///{Path(folder) / 'tokens.db'}", hide_parameters=True)
        SqlTokenStore(engine, keys=[FERNET_KEY]).create_schema()
        yield engine
        engine.dispose()


def put(store: TokenStore, name: str, idle: timedelta = timedelta(days=1)) -> None:
    """Store a pair."""
    store.put(
        GrantKey(CLIENT, Grant("IIDX99999", name)),
        Token(access_token=f"fake-access-{name}", refresh_token=f"fake-refresh-{name}"),
        issued_at=NOW,
        idle_until=NOW + idle,
        note=Note(event="benchmark"),
    )


def copy_row(engine: Engine, count: int, **values: object) -> None:
    """Store rows that differ from the first row in their usernames and in these values."""
    with engine.begin() as connection:
        row = dict(connection.execute(select(grants)).mappings().first() or {})
        rows = [row | {"username": f"copy-{number:06}"} | values for number in range(count)]
        connection.execute(insert(grants), rows)


def add_old_entries(engine: Engine, count: int) -> None:
    """Store history entries that are older than the retention."""
    old = {"client_id": CLIENT, "target_id": "IIDX99999", "generation": 1, "actor": "auto"}
    old |= {"event": "fake", "outcome": "done", "at": NOW - timedelta(days=500)}
    rows = [old | {"username": f"customer-{number * 7919 % count}"} for number in range(count)]
    with engine.begin() as connection:
        connection.execute(insert(history), rows)


def writer_wait(engine: Engine, refill: int) -> float:
    """Return the seconds that nine of ten writers wait at most during a purge.

    Args:
        engine: An engine for a database with old entries.
        refill: The number of entries to store for the next purge if one ends.
    """
    waits: list[float] = []
    writer = SqlTokenStore(engine, keys=[FERNET_KEY])
    end, ended = perf_counter() + PURGE_SECONDS, threading.Event()

    def pause(seconds: float) -> None:
        sleep(seconds)
        if perf_counter() > end:
            raise EnoughError

    def purge() -> None:
        store = SqlTokenStore(engine, keys=[FERNET_KEY], sleep=pause)
        with suppress(EnoughError):
            while True:
                store.purge()
                add_old_entries(engine, refill)
        ended.set()

    purging = threading.Thread(target=purge)
    purging.start()
    while not ended.is_set():
        begun = perf_counter()
        put(writer, "writer")
        waits.append(perf_counter() - begun)
        sleep(0.005)
    purging.join()
    return statistics.quantiles(waits, n=10)[-1]


def purged(databases: ExitStack, entries: int) -> Callable[[], float]:
    """Return the measurement of `writer_wait` in a new database."""
    engine = databases.enter_context(database())
    add_old_entries(engine, entries)
    return lambda: writer_wait(engine, FEW_ENTRIES)


def behind(databases: ExitStack, refused: int) -> Callable[[], float]:
    """Return the measurement of claims behind grants that need consent."""
    engine = databases.enter_context(database())
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    put(store, "first", timedelta(days=9_000))
    copy_row(engine, refused, state="needs_consent", idle_until=NOW)
    for number in range(CLAIMS * BATCHES * ROUNDS):
        put(store, f"due-{number:06}")
    return lambda: claim_seconds(store)


def in_memory(number: int) -> Callable[[], float]:
    """Return the measurement of claims in a memory store."""
    store = MemoryTokenStore()
    for each in range(number):
        put(store, f"due-{each:06}", timedelta(days=1, seconds=each % 997))
    return lambda: claim_seconds(store)


def claim_seconds(store: TokenStore) -> float:
    """Return the median seconds of claiming ten due grants."""
    query = DueQuery(client_id=CLIENT, before=NOW + timedelta(days=10))
    times = []
    for _ in range(BATCHES):
        begun = perf_counter()
        claims = store.claim_due(query, owner="benchmark", ttl=600, limit=CLAIMS)
        times.append(perf_counter() - begun)
        if len(claims) != CLAIMS:
            raise SystemExit(f"{len(claims)} grants were claimed.")
    return statistics.median(times)


def listing(databases: ExitStack, number: int) -> Callable[[], float]:
    """Return the measurement of the bytes that a listing takes at most."""
    engine = databases.enter_context(database())
    store = SqlTokenStore(engine, keys=[FERNET_KEY])
    put(store, "first")
    copy_row(engine, number - 1)

    def peak() -> float:
        tracemalloc.start()
        statuses = statuses_of(store, CLIENT, lambda _: TargetProfile(), lambda: NOW)
        listed = sum(1 for _ in statuses)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        if listed != number:
            raise SystemExit(f"{listed} grants were listed.")
        return used

    return peak


def figures() -> Iterator[Figure]:
    """Yield all figures."""
    with ExitStack() as databases:
        subjects = {
            "a writer's wait, purge of 200,000": purged(databases, MANY_ENTRIES),
            "of 2,000": purged(databases, FEW_ENTRIES),
            "claim_due behind 50,000": behind(databases, MANY_REFUSED),
            "behind 500": behind(databases, FEW_REFUSED),
            "claim_due among 100,000 in memory": in_memory(MANY_GRANTS),
            "among 1,000": in_memory(FEW_GRANTS),
            "peak of a listing of 20,000": listing(databases, MANY_LISTED),
            "of 2,000 grants": listing(databases, FEW_LISTED),
        }
        rounds = in_rounds(lambda: medians_in_turn(subjects))
    yield ratio(rounds, "a writer's wait, purge of 200,000", "of 2,000", WAIT_LIMIT)
    yield ratio(rounds, "claim_due behind 50,000", "behind 500", CLAIM_LIMIT)
    yield ratio(rounds, "claim_due among 100,000 in memory", "among 1,000", CLAIM_LIMIT)
    yield ratio(rounds, "peak of a listing of 20,000", "of 2,000 grants", MEMORY_LIMIT)


if __name__ == "__main__":
    raise SystemExit(report(__doc__, figures()))
