"""The cost of a fresh token, as ratios within one run.

* the time that `TokenManager.auth` adds to a request of httpx, compared with the time that
  Authlib's client adds, sync and async: the manager sets six headers with a new correlation id for
  each request, Authlib sets one
* `TokenManager.get` of a fresh token, and a request with `TokenManager.auth`, with the metrics of
  Prometheus on and notices delivered, compared with the same without
* a request with `TokenManager.auth` through `TokenManager.client` over mutual TLS to a server on
  this machine, with metrics and notices, and with a certificate that is renewed from its files,
  compared with the same without them and with an `ssl.SSLContext`, which is not renewed

Notices are looked for after 20,000 calls of `get`, or after 25 requests: `keep-alive` does it twice
a minute. None is due.
* `TokenManager.get` of a fresh token among 100,000 grants, compared with a dict look-up
* the memory of 100,000 grants in store and manager, in bytes per grant

Elsewhere the server is an `httpx.MockTransport`, so nothing leaves the process. The figures are CPU
time of one thread.

Left out elsewhere: sockets and TLS, whose time would hide the difference; refreshes (see `cost`);
the first `get` of a grant, which reads the store; concurrent threads; Authlib on httpx2, which it
prefers. The `Grant` objects of the application are not counted, because it has them anyway.
"""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from time import thread_time
from typing import Any

import httpx
from attrs import evolve
from benchmarks.rounds import Figure, Limit, Round, in_rounds, medians_in_turn, ratio, report
from benchmarks.stub_server import FORM, running_stub_server
from prometheus_client import CollectorRegistry

from blink_oauth import BlinkOAuth, Grant, Psu, Settings, Timeouts, Token
from blink_oauth_keeper import (
    GrantKey,
    MemoryTokenStore,
    Note,
    TokenManager,
    prometheus_listener,
)

with warnings.catch_warnings():
    # Authlib warns that it prefers httpx2.
    import authlib.deprecate  # type: ignore

    warnings.simplefilter("ignore", authlib.deprecate.AuthlibDeprecationWarning)
    from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuth2Client  # type: ignore

TURNS, CALLS, WARM_UP = 130, 25, 5
GRANTS, LOOKUPS, LOOKUP_TURNS = 100_000, 20_000, 10
ADDED_LIMIT, LOOKUP_LIMIT, MEMORY_LIMIT = Limit(1.0), Limit(5.0), Limit(1024.0)
WATCHED_LIMIT = Limit(1.05)

URL = "https://bank.invalid/accounts"
CLIENT_ID = "CIDX0000000002"
SETTINGS = Settings(
    base_url="https://blink.invalid/consent-flow/v2",
    client_id=CLIENT_ID,
    user_agent="acme-books/3.2",
)
CUSTOMER = Psu(ip="203.0.113.7", user_agent="Mozilla/5.0 (X11; Linux x86_64)")
ACCESS_TOKEN = "fake-access-token-of-forty-three-characters"
AUTHLIB_TOKEN = {"access_token": ACCESS_TOKEN, "token_type": "bearer"}


def respond(_: httpx.Request) -> httpx.Response:
    """Return the same response to every request."""
    return httpx.Response(200, json={"accounts": []})


def key_of(number: int) -> GrantKey:
    """Return the key of the grant with a number."""
    return GrantKey(CLIENT_ID, Grant(f"IIDX{number % 20:05}", f"customer-{number:08}"))


def put(store: MemoryTokenStore, key: GrantKey, number: int) -> None:
    """Store a pair that shares no object with the pairs of other grants."""
    now = datetime.now(UTC)
    token = Token(
        access_token=f"fake-access-{number}-".ljust(43, "a"),
        refresh_token=f"fake-refresh-{number}-".ljust(43, "r"),
        token_type="bearer",  # noqa: S106
        expires_at=now + timedelta(days=1),
        scope=frozenset(["accounts", "payments"]),
    )
    note = Note(event="grant.authorized", correlation_id=f"{number:036}")
    store.put(key, token, issued_at=now, idle_until=now + timedelta(days=30), note=note)


def sync_round(auth: httpx.Auth) -> Round:
    """Return the seconds that each of the three synchronous clients takes for its calls."""
    transport = httpx.MockTransport(respond)
    with (
        httpx.Client(transport=transport) as bare,
        OAuth2Client(token=AUTHLIB_TOKEN, transport=transport) as authlib,
        httpx.Client(auth=auth, transport=transport) as ours,
    ):

        def requests(client: httpx.Client) -> float:
            for _ in range(WARM_UP):
                client.get(URL)
            start = thread_time()
            for _ in range(CALLS):
                client.get(URL)
            return thread_time() - start

        return medians_in_turn(
            {
                "bare httpx": lambda: requests(bare),
                "Authlib": lambda: requests(authlib),
                "TokenManager.auth": lambda: requests(ours),
            },
            TURNS,
        )


def async_round(auth: httpx.Auth) -> Round:
    """Return the seconds that each of the three asynchronous clients takes for its calls."""
    transport = httpx.MockTransport(respond)

    async def requests(client: httpx.AsyncClient) -> float:
        for _ in range(WARM_UP):
            await client.get(URL)
        start = thread_time()
        for _ in range(CALLS):
            await client.get(URL)
        return thread_time() - start

    with asyncio.Runner() as runner:
        bare = httpx.AsyncClient(transport=transport)
        authlib = AsyncOAuth2Client(token=AUTHLIB_TOKEN, transport=transport)
        ours = httpx.AsyncClient(auth=auth, transport=transport)
        measured = medians_in_turn(
            {
                "bare httpx": lambda: runner.run(requests(bare)),
                "Authlib": lambda: runner.run(requests(authlib)),
                "TokenManager.auth": lambda: runner.run(requests(ours)),
            },
            TURNS,
        )
        for client in (bare, authlib, ours):
            runner.run(client.aclose())
        return measured


def added_time(rounds: list[Round], flavour: str) -> Iterator[Figure]:
    """Compare the time that each client adds to a request of bare httpx."""
    added = [{name: each[name] - each["bare httpx"] for name in each} for each in rounds]
    found = ratio(added, "TokenManager.auth", "Authlib", ADDED_LIMIT)
    yield Figure(f"{flavour}, time added to a request: {found.name}", found.values, found.limit)
    for name in ("TokenManager.auth", "Authlib"):
        found = ratio(rounds, name, "bare httpx")
        yield Figure(f"{flavour}, the whole request: {found.name}", found.values)


def deliver(manager: TokenManager) -> None:
    """Deliver the notices that are due: there is none."""
    assert manager.deliver_notices(lambda _: None, scan=False).left == 0


def watched_rounds(plain: TokenManager, watched: TokenManager, grant: Grant) -> Iterator[Figure]:
    """Compare a manager with metrics and deliveries of notices with one that has neither."""
    managers = {"with metrics and notices": watched, "without": plain}

    def gets(manager: TokenManager) -> float:
        start = thread_time()
        for _ in range(LOOKUPS):
            manager.get(grant)
        if manager is watched:
            deliver(manager)
        return thread_time() - start

    def requests(manager: TokenManager) -> float:
        auth = manager.auth(grant, psu=CUSTOMER)
        with httpx.Client(auth=auth, transport=httpx.MockTransport(respond)) as client:
            for _ in range(WARM_UP):
                client.get(URL)
            start = thread_time()
            for _ in range(CALLS):
                client.get(URL)
            if manager is watched:
                deliver(manager)
            return thread_time() - start

    for name, measure, turns in (
        ("get", gets, LOOKUP_TURNS),
        ("a request with auth", requests, TURNS),
    ):
        calls = {flavour: partial(measure, manager) for flavour, manager in managers.items()}
        rounds = in_rounds(partial(medians_in_turn, calls, turns))
        found = ratio(rounds, "with metrics and notices", "without", WATCHED_LIMIT)
        yield Figure(f"{name}: {found.name}", found.values, found.limit)


def renewed_rounds() -> Iterator[Figure]:
    """Compare requests with renewal, metrics and notices with those of a manager without them."""
    store, grant = MemoryTokenStore(), key_of(GRANTS).grant
    put(store, key_of(GRANTS), GRANTS)
    with running_stub_server(delay=0) as server, ExitStack() as stack:

        def requests(
            certificate: Any, *, delivers: bool = False, **options: Any
        ) -> Callable[[], float]:
            # The first connection waits until the server has started.
            waiting = Timeouts(connect=60.0)
            settings = evolve(server.settings, certificate=certificate, timeouts=waiting)
            blink = stack.enter_context(BlinkOAuth(settings))
            manager = stack.enter_context(TokenManager(blink, store, **options))
            client, auth = manager.client(), manager.auth(grant, psu=CUSTOMER)

            def measure() -> float:
                start = thread_time()
                for _ in range(CALLS):
                    client.post(f"{server.base_url}/oauth/token", data=FORM, auth=auth)
                if delivers:
                    deliver(manager)
                return thread_time() - start

            return measure

        calls = {
            "with renewal, metrics and notices": requests(
                server.certificate,
                delivers=True,
                on_event=prometheus_listener(CollectorRegistry()),
            ),
            "without": requests(server.context),
        }
        rounds = in_rounds(partial(medians_in_turn, calls, TURNS))
    found = ratio(rounds, "with renewal, metrics and notices", "without", WATCHED_LIMIT)
    yield Figure(f"a request over TLS: {found.name}", found.values, found.limit)


def lookup_round(manager: TokenManager, tokens: dict[Grant, Token], sample: list[Grant]) -> Round:
    """Measure `get` and a dict look-up on a random sample of the grants."""

    def gets(get: Callable[[Grant], object]) -> float:
        start = thread_time()
        for grant in sample:
            get(grant)
        return thread_time() - start

    def dict_lookups() -> float:
        # Subscripts in place, because `gets` would add a function call to each.
        start = thread_time()
        for grant in sample:
            tokens[grant]
        return thread_time() - start

    return medians_in_turn(
        {"TokenManager.get": lambda: gets(manager.get), "a dict look-up": dict_lookups},
        LOOKUP_TURNS,
    )


def bytes_per_grant(store: MemoryTokenStore, manager: TokenManager) -> tuple[float, float]:
    """Return the bytes of a grant in the store alone, and in store and manager together."""
    grants = [key_of(number).grant for number in range(GRANTS)]
    gc.collect()
    tracemalloc.start()
    for number, grant in enumerate(grants):
        put(store, GrantKey(CLIENT_ID, grant), number)
    stored, _ = tracemalloc.get_traced_memory()
    for grant in grants:
        manager.get(grant)
    gc.collect()
    total, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return stored / GRANTS, total / GRANTS


def figures() -> Iterator[Figure]:
    """Yield all figures."""
    store = MemoryTokenStore()
    with (
        BlinkOAuth(SETTINGS, transport=httpx.MockTransport(respond)) as blink,
        TokenManager(blink, store) as manager,
    ):
        grant = key_of(GRANTS).grant
        put(store, key_of(GRANTS), GRANTS)
        auth = manager.auth(grant, psu=CUSTOMER)
        yield from added_time(in_rounds(lambda: sync_round(auth)), "sync")
        yield from added_time(in_rounds(lambda: async_round(auth)), "async")
        with TokenManager(
            blink, store, on_event=prometheus_listener(CollectorRegistry())
        ) as watched:
            yield from watched_rounds(manager, watched, grant)
        yield from renewed_rounds()
        in_store, in_both = bytes_per_grant(store, manager)
        grants = [key_of(number).grant for number in range(GRANTS)]
        tokens = {each: manager.get(each) for each in grants}
        sample = random.Random(2).sample(grants, LOOKUPS)  # noqa: S311
        rounds = in_rounds(lambda: lookup_round(manager, tokens, sample))
        yield ratio(rounds, "TokenManager.get", "a dict look-up", LOOKUP_LIMIT)
        yield Figure("bytes per grant in the store alone, counted once", [in_store])
        yield Figure("bytes per grant in store and manager, counted once", [in_both], MEMORY_LIMIT)


if __name__ == "__main__":
    raise SystemExit(report(__doc__, figures()))
