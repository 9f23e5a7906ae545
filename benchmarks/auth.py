"""What a fresh token costs, as ratios within one run.

* what a request of httpx through `TokenManager.auth` takes longer than a bare one, beside what it
  takes longer through Authlib's client, sync and async: six headers with a new correlation id for
  each request, where Authlib sets one
* `TokenManager.get` of a fresh token among 100,000 grants, beside a plain look-up of the same key
* 100,000 grants in memory, store and manager together, in bytes each

Nothing leaves the process: the other side is an `httpx.MockTransport` that only answers. So all
that is measured is work of this one thread, by the clock that counts nothing else.

Left out: sockets and TLS, whose time would hide the difference; refreshes (see `cost`); the first
`get` of a grant, which asks the store; many threads at once; Authlib on httpx2, which it prefers.
The application's own `Grant` objects are not counted, since it has them anyway.
"""

from __future__ import annotations

import asyncio
import gc
import random
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from time import thread_time

import httpx
from benchmarks.rounds import Figure, Limit, Round, in_rounds, medians_in_turn, ratio, report

from blink_oauth import BlinkOAuth, Grant, Psu, Settings, Token
from blink_oauth_keeper import GrantKey, MemoryTokenStore, Note, TokenManager

with warnings.catch_warnings():
    # Authlib would rather have another library than httpx, and insists on saying so.
    import authlib.deprecate  # type: ignore

    warnings.simplefilter("ignore", authlib.deprecate.AuthlibDeprecationWarning)
    from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuth2Client  # type: ignore

TURNS, CALLS, WARM_UP = 130, 25, 5
GRANTS, LOOKS, LOOK_TURNS = 100_000, 20_000, 10
ADDED_LIMIT, LOOK_LIMIT, MEMORY_LIMIT = Limit(1.0), Limit(5.0), Limit(1024.0)

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


def answer(_: httpx.Request) -> httpx.Response:
    """Answer every request alike."""
    return httpx.Response(200, json={"accounts": []})


def key_of(number: int) -> GrantKey:
    """Return the key of one of many grants."""
    return GrantKey(CLIENT_ID, Grant(f"IIDX{number % 20:05}", f"customer-{number:08}"))


def put(store: MemoryTokenStore, key: GrantKey, number: int) -> None:
    """Store a pair as a bank issues it, nothing in it shared with other grants."""
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
    """Measure the three synchronous clients, and return seconds for each request."""
    transport = httpx.MockTransport(answer)
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
    """Measure the three asynchronous clients, and return seconds for each request."""
    transport = httpx.MockTransport(answer)

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


def added(rounds: list[Round], flavour: str) -> Iterator[Figure]:
    """Compare what each client adds to bare httpx."""
    more = [{name: each[name] - each["bare httpx"] for name in each} for each in rounds]
    found = ratio(more, "TokenManager.auth", "Authlib", ADDED_LIMIT)
    yield Figure(f"{flavour}, what a request takes longer: {found.name}", found.values, found.limit)
    for name in ("TokenManager.auth", "Authlib"):
        found = ratio(rounds, name, "bare httpx")
        yield Figure(f"{flavour}, the whole request: {found.name}", found.values)


def look_round(manager: TokenManager, plain: dict[Grant, Token], sample: list[Grant]) -> Round:
    """Measure `get` and a plain look-up, on grants all over the memory."""

    def looks(look: Callable[[Grant], object]) -> float:
        start = thread_time()
        for grant in sample:
            look(grant)
        return thread_time() - start

    def plain_looks() -> float:
        # Without a call for each, which `looks` would add.
        start = thread_time()
        for grant in sample:
            plain[grant]
        return thread_time() - start

    return medians_in_turn(
        {"TokenManager.get": lambda: looks(manager.get), "a plain look-up": plain_looks},
        LOOK_TURNS,
    )


def bytes_each(store: MemoryTokenStore, manager: TokenManager) -> tuple[float, float]:
    """Return what a grant takes in the store, and in the store and the manager."""
    grants = [key_of(number).grant for number in range(GRANTS)]
    gc.collect()
    tracemalloc.start()
    for number, grant in enumerate(grants):
        put(store, GrantKey(CLIENT_ID, grant), number)
    stored, _ = tracemalloc.get_traced_memory()
    for grant in grants:
        manager.get(grant)
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return stored / GRANTS, held / GRANTS


def figures() -> Iterator[Figure]:
    """Measure all."""
    store = MemoryTokenStore()
    with (
        BlinkOAuth(SETTINGS, transport=httpx.MockTransport(answer)) as blink,
        TokenManager(blink, store) as manager,
    ):
        grant = key_of(GRANTS).grant
        put(store, key_of(GRANTS), GRANTS)
        auth = manager.auth(grant, psu=CUSTOMER)
        yield from added(in_rounds(lambda: sync_round(auth)), "sync")
        yield from added(in_rounds(lambda: async_round(auth)), "async")
        in_store, in_all = bytes_each(store, manager)
        grants = [key_of(number).grant for number in range(GRANTS)]
        plain = {each: manager.get(each) for each in grants}
        sample = random.Random(2).sample(grants, LOOKS)  # noqa: S311
        rounds = in_rounds(lambda: look_round(manager, plain, sample))
        yield ratio(rounds, "TokenManager.get", "a plain look-up", LOOK_LIMIT)
        yield Figure("bytes of a grant in the store alone, counted once", [in_store])
        yield Figure("bytes of a grant in store and manager, counted once", [in_all], MEMORY_LIMIT)


if __name__ == "__main__":
    raise SystemExit(report(__doc__, figures()))
