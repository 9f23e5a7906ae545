"""The throughput of the keeper, and its load on a database pool, as ratios within one run.

* `refresh_due` over 5,000 due grants in PostgreSQL, 64 at a time, with a bank that responds after
  50 ms: its refreshes per second, compared with the requests per second of 64 threads that share
  one bare `httpx.Client`, which keeps all connections and stores nothing. Also compared with an
  `httpx.Client` with its default limits, and with raw sockets on the same stub server.
* The same, compared with 64 threads that do the least by which a refresh can be stored: each sends
  the same request over its own TLS socket and reads the response; then it changes the row of a
  grant and inserts an entry of the history, in one transaction with psycopg, in the same tables and
  with as many connections as the store has. They claim, check, seal and log nothing.
* 120 grants with expired access tokens requested at once, with a bank that responds after 2 s and a
  database pool of 5 connections: the time until all are refreshed, and the longest wait of an
  unrelated query on the same pool, both compared with the bank's 2 s.

All on this machine: mutual TLS on loopback, and a separate PostgreSQL behind a local socket.

Left out: the network to the database and other load on its disk; several keepers at once; banks
that fail, refuse or limit; storing the grants.
"""

from __future__ import annotations

import socket
import ssl
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from queue import LifoQueue
from time import perf_counter

import psycopg
import sqlalchemy
from attrs import evolve
from benchmarks.rounds import Figure, Limit, Round, in_rounds, medians_in_turn, ratio, report
from benchmarks.sockets import DEFAULT, KEEP_ALL, bare_httpx, raw_capacity, raw_request
from benchmarks.stub_server import StubServer, running_stub_server

from blink_oauth import BlinkOAuth, Grant, Settings, Token
from blink_oauth_keeper import GrantKey, Note, SqlTokenStore, TokenManager
from postgresql import LOCAL, PostgreSQL

GRANTS, AT_ONCE, DELAY = 5_000, 64, 0.05
CALLERS, LONG_DELAY, POOL_SIZE = 120, 2.0, 5
LIMIT = Limit(1.1, at_least=True)
STORED_LIMIT = Limit(0.55, at_least=True)
STORE_POOL_SIZE = 10
SEALED = "x" * 548
"""A text as long as a sealed pair of the stub server."""
UPDATE = """
UPDATE blink_oauth_grants
SET generation = generation + 1, sealed = %s, idle_until = %s, updated_at = clock_timestamp()
WHERE client_id = %s AND target_id = %s AND username = %s
"""
INSERT = """
INSERT INTO blink_oauth_history
(client_id, target_id, username, at, generation, event, outcome, actor, correlation_id)
VALUES (%s, %s, %s, clock_timestamp(), 2, 'benchmark', 'done', 'benchmark', 'benchmark')
"""
ALL_LIMIT, QUERY_LIMIT = Limit(2.0), Limit(0.5)


@contextmanager
def database(pool_size: int) -> Iterator[tuple[sqlalchemy.Engine, SqlTokenStore]]:
    """Run a PostgreSQL; return an engine with a pool of the given size, and a store on it."""
    with closing(PostgreSQL(settings=LOCAL)) as server:
        engine = sqlalchemy.create_engine(
            server.url(),
            pool_size=pool_size,
            max_overflow=0,
            connect_args={"prepare_threshold": None},
        )
        store = SqlTokenStore(engine, keys=[SqlTokenStore.new_key()])
        store.create_schema()
        yield engine, store
        engine.dispose()


def put_due_grants(
    store: SqlTokenStore, client_id: str, number: int, target_id: str
) -> list[Grant]:
    """Store grants whose access tokens have expired and whose refresh tokens expire soon."""
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


def keep_alive(server: StubServer, store: SqlTokenStore, number: int, target_id: str) -> float:
    """Return the refreshes per second of `refresh_due` over new grants at one bank."""
    put_due_grants(store, server.settings.client_id, number, target_id)
    # One bank may use half of the connections and threads.
    settings = evolve(server.settings, max_connections=2 * AT_ONCE)
    with (
        BlinkOAuth(settings) as blink,
        TokenManager(blink, store, threads=AT_ONCE) as manager,
    ):
        begun = perf_counter()
        summary = manager.refresh_due(concurrency=AT_ONCE, limit=number)
        elapsed = perf_counter() - begun
        if summary.refreshed != number:
            raise SystemExit(f"Some grants were not refreshed: {summary}")
    return number / elapsed


def raw_tls_and_sql(
    server: StubServer,
    engine: sqlalchemy.Engine,
    store: SqlTokenStore,
    number: int,
    target_id: str,
) -> float:
    """Return the requests per second of threads that store something after each response."""
    grants = put_due_grants(store, server.settings.client_id, number, target_id)
    request, context = raw_request(server), server.context
    url = engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    connections: LifoQueue[psycopg.Connection] = LifoQueue()
    for _ in range(STORE_POOL_SIZE):
        connections.put(psycopg.connect(url, prepare_threshold=None))
    sockets = [
        context.wrap_socket(
            socket.create_connection(("localhost", server.port)), server_hostname="localhost"
        )
        for _ in range(AT_ONCE)
    ]
    left = iter(grants)

    def work(tls: ssl.SSLSocket) -> None:
        for grant in left:
            tls.sendall(request)
            response = b""
            while not response.endswith(b"}"):
                response += tls.recv(65536)
            key = (server.settings.client_id, grant.target_id, grant.username)
            idle_until = datetime.now(UTC) + timedelta(days=30)
            connection = connections.get()
            with connection.transaction():
                connection.execute(UPDATE, (SEALED, idle_until, *key))
                connection.execute(INSERT, key)
            connections.put(connection)

    with ThreadPoolExecutor(AT_ONCE) as threads:
        begun = perf_counter()
        list(threads.map(work, sockets))
        elapsed = perf_counter() - begun
    for tls in sockets:
        tls.close()
    while not connections.empty():
        connections.get().close()
    return number / elapsed


def contend_for_the_pool(
    engine: sqlalchemy.Engine, store: SqlTokenStore, settings: Settings, target_id: str
) -> Round:
    """Return the seconds of 120 refreshes, of the longest wait of a query, and of the bank."""
    done = threading.Event()
    waits: list[float] = []

    def query() -> None:
        while not done.wait(0.02):
            begun = perf_counter()
            with engine.connect() as connection:
                connection.execute(sqlalchemy.text("SELECT 1"))
            waits.append(perf_counter() - begun)

    grants = put_due_grants(store, settings.client_id, CALLERS, target_id)
    with (
        BlinkOAuth(settings) as blink,
        TokenManager(blink, store, threads=CALLERS) as manager,
        ThreadPoolExecutor(CALLERS + 1) as threads,
    ):
        unrelated = threads.submit(query)
        begun = perf_counter()
        list(threads.map(manager.get, grants))
        elapsed = perf_counter() - begun
        done.set()
        unrelated.result()
    return {
        f"{CALLERS} grants at once": elapsed,
        "longest wait of an unrelated query": max(waits),
        "the bank's delay": LONG_DELAY,
    }


def figures(number: int) -> Iterator[Figure]:
    """Yield the figures of the throughput, then of the database pool."""
    banks = (f"IIDX{index:05}" for index in count(1))
    with database(STORE_POOL_SIZE) as (engine, store), running_stub_server(DELAY) as server:
        subjects = {
            "raw sockets": lambda: raw_capacity(server, AT_ONCE, number),
            "httpx.Client by default": lambda: bare_httpx(server, DEFAULT),
            "httpx.Client that keeps all": lambda: bare_httpx(server, KEEP_ALL, AT_ONCE, number),
            "raw TLS and SQL": lambda: raw_tls_and_sql(server, engine, store, number, next(banks)),
            "refresh_due": lambda: keep_alive(server, store, number, next(banks)),
        }
        rounds = in_rounds(lambda: medians_in_turn(subjects))
    yield ratio(rounds, "refresh_due", "httpx.Client that keeps all", LIMIT)
    yield ratio(rounds, "refresh_due", "httpx.Client by default")
    yield ratio(rounds, "refresh_due", "raw TLS and SQL", STORED_LIMIT)
    yield ratio(rounds, "refresh_due", "raw sockets")
    # Raw sockets are the upper bound: this ratio shows how close httpx comes to it.
    yield ratio(rounds, "httpx.Client that keeps all", "raw sockets")
    with database(POOL_SIZE) as (engine, store), running_stub_server(LONG_DELAY) as server:
        # The database is measured, so every refresh gets a connection to the bank at once. One bank
        # may use half of them.
        settings = evolve(server.settings, max_connections=2 * CALLERS)
        rounds = in_rounds(lambda: contend_for_the_pool(engine, store, settings, next(banks)))
    yield ratio(rounds, f"{CALLERS} grants at once", "the bank's delay", ALL_LIMIT)
    yield ratio(rounds, "longest wait of an unrelated query", "the bank's delay", QUERY_LIMIT)


if __name__ == "__main__":
    number = int(sys.argv[1]) if len(sys.argv) > 1 else GRANTS
    raise SystemExit(report(__doc__, figures(number)))
