"""What a fresh token costs, as ratios within one run.

* a request of httpx through `TokenManager.auth` adds at most a third of what Authlib adds to the
  same request, six headers and a new correlation id included, where Authlib sets one
* `TokenManager.get` of a fresh token among 100,000 grants: at most 5 plain look-ups of the same key
* 100,000 grants in memory, store and manager together: at most 1 KiB each

Nothing leaves the process: the other side is an `httpx.MockTransport` that only answers. So all
that is measured is work of this one thread, by the clock that counts nothing else. The subjects
take turns, in another order in each round, since each finds the caches as the one before left them.
"""

from __future__ import annotations

import asyncio
import gc
import random
import statistics
import time
import tracemalloc
import warnings
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from time import thread_time

import httpx

from blink_oauth import BlinkOAuth, Grant, Psu, Settings, Token
from blink_oauth_keeper import MemoryTokenStore, TokenManager
from blink_oauth_keeper.auth import GrantAuth
from blink_oauth_keeper.steps import Landing
from blink_oauth_keeper.store.protocol import GrantKey, Note

with warnings.catch_warnings():
    # Authlib would rather have another library than httpx, and insists on saying so.
    import authlib.deprecate  # type: ignore

    warnings.simplefilter("ignore", authlib.deprecate.AuthlibDeprecationWarning)
    from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuth2Client  # type: ignore

ROUNDS, CALLS, WARM_UP = 400, 25, 5
GRANTS, LOOKS, LOOK_ROUNDS = 100_000, 20_000, 30
ADDED_LIMIT, LOOK_LIMIT, MEMORY_LIMIT = 1 / 3, 5.0, 1024.0

URL = "https://bank.invalid/accounts"
CLIENT_ID = "CIDX0000000002"
SETTINGS = Settings(
    base_url="https://blink.invalid/consent-flow/v2",
    client_id=CLIENT_ID,
    user_agent="acme-books/3.2",
)
PERSON = Psu(ip="203.0.113.7", user_agent="Mozilla/5.0 (X11; Linux x86_64)")
ACCESS_TOKEN = "fake-access-token-of-forty-three-characters"
AUTHLIB_TOKEN = {"access_token": ACCESS_TOKEN, "token_type": "bearer"}

Block = Callable[[int], float]
"""Makes a number of requests and returns how many seconds that took."""


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


def block(client: httpx.Client) -> Block:
    """Measure requests with a client."""

    def run(times: int) -> float:
        start = thread_time()
        for _ in range(times):
            client.get(URL)
        return thread_time() - start

    return run


def async_block(client: httpx.AsyncClient, runner: asyncio.Runner) -> Block:
    """Measure requests with an asynchronous client."""

    async def requests(times: int) -> float:
        start = thread_time()
        for _ in range(times):
            await client.get(URL)
        return thread_time() - start

    return lambda times: runner.run(requests(times))


def sync_costs(auth: GrantAuth) -> dict[str, float]:
    """Measure the three synchronous clients."""
    transport = httpx.MockTransport(answer)
    with (
        httpx.Client(transport=transport) as bare,
        OAuth2Client(token=AUTHLIB_TOKEN, transport=transport) as authlib,
        httpx.Client(auth=auth, transport=transport) as ours,
    ):
        return costs({"bare": block(bare), "authlib": block(authlib), "ours": block(ours)})


def async_costs(auth: GrantAuth) -> dict[str, float]:
    """Measure the three asynchronous clients."""
    transport = httpx.MockTransport(answer)
    with asyncio.Runner() as runner:
        clients = {
            "bare": httpx.AsyncClient(transport=transport),
            "authlib": AsyncOAuth2Client(token=AUTHLIB_TOKEN, transport=transport),
            "ours": httpx.AsyncClient(auth=auth, transport=transport),
        }
        measured = costs({name: async_block(one, runner) for name, one in clients.items()})
        closings: list[Awaitable[None]] = [client.aclose() for client in clients.values()]
        for closing in closings:
            runner.run(_awaited(closing))
        return measured


async def _awaited(work: Awaitable[None]) -> None:
    await work


def costs(blocks: dict[str, Block]) -> dict[str, float]:
    """Return what one request costs bare, and what the others add, in microseconds.

    Each is the median of all rounds; what is added is taken within a round, so that a machine whose
    speed drifts does not matter.
    """
    measured: dict[str, list[float]] = {name: [] for name in blocks}
    shuffle = random.Random(1).shuffle  # noqa: S311
    for _ in range(ROUNDS):
        turns = list(blocks)
        shuffle(turns)
        taken = {}
        for name in turns:
            blocks[name](WARM_UP)
            taken[name] = blocks[name](CALLS) / CALLS * 1e6
        bare = taken["bare"]
        for name, microseconds in taken.items():
            measured[name].append(microseconds - (0 if name == "bare" else bare))
    return {name: statistics.median(values) for name, values in measured.items()}


def look_ratios(manager: TokenManager, grants: list[Grant]) -> list[float]:
    """Measure `get` against a plain look-up, on grants all over the memory."""
    plain = {grant: manager.get(grant) for grant in grants}
    sample = random.Random(2).sample(grants, LOOKS)  # noqa: S311
    ratios = []
    for _ in range(LOOK_ROUNDS):
        start = thread_time()
        for grant in sample:
            plain[grant]
        middle = thread_time()
        for grant in sample:
            manager.get(grant)
        ratios.append((thread_time() - middle) / (middle - start))
    return ratios


def bytes_each(store: MemoryTokenStore, manager: TokenManager) -> tuple[float, float]:
    """Return what a grant takes in the store, and in the store and the manager.

    The application's own `Grant` objects are not counted: it has them anyway.
    """
    grants = [key_of(number).grant for number in range(GRANTS)]
    gc.collect()
    tracemalloc.start()
    for number, grant in enumerate(grants):
        put(store, GrantKey(CLIENT_ID, grant), number)
    stored, _ = tracemalloc.get_traced_memory()
    for grant in grants:
        # What the landing of a flight does, without its threads.
        key = GrantKey(CLIENT_ID, grant)
        manager._holding.remember(key.grant, Landing(store.load(key)))  # noqa: SLF001
    gc.collect()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return stored / GRANTS, held / GRANTS


def verdict(what: str, value: float, limit: float) -> bool:
    """Print a value beside its limit and say whether it keeps it."""
    kept = value <= limit
    print(f"{what}: {value:.2f}, limit {limit:.2f}: {'kept' if kept else 'EXCEEDED'}")
    return kept


def added(what: str, measured: dict[str, float]) -> bool:
    """Report what a client adds to bare httpx, beside what Authlib adds."""
    bare, ours, authlib = measured["bare"], measured["ours"], measured["authlib"]
    print(f"{what}: bare {bare:.1f} µs, ours +{ours:.1f} µs, Authlib +{authlib:.1f} µs")
    return verdict(f"{what}, ours / Authlib", ours / authlib, ADDED_LIMIT)


def main() -> int:
    """Measure all and return 0 if every limit is kept."""
    store = MemoryTokenStore()
    transport = httpx.MockTransport(answer)
    with (
        BlinkOAuth(SETTINGS, transport=transport) as blink,
        TokenManager(blink, store) as manager,
    ):
        grant = key_of(GRANTS).grant
        put(store, key_of(GRANTS), GRANTS)
        auth = manager.auth(grant, psu=PERSON)
        kept = [
            added("a request, sync", sync_costs(auth)),
            added("a request, async", async_costs(auth)),
        ]
        began = time.perf_counter()
        in_store, in_all = bytes_each(store, manager)
        print(f"{GRANTS} grants loaded in {time.perf_counter() - began:.0f} s")
        looks = statistics.median(look_ratios(manager, [key_of(n).grant for n in range(GRANTS)]))
        kept.append(verdict("manager.get / plain look-up", looks, LOOK_LIMIT))
        print(f"a grant in the store alone: {in_store:.0f} bytes")
        kept.append(verdict("bytes for a grant in store and manager", in_all, MEMORY_LIMIT))
    return 0 if all(kept) else 1


if __name__ == "__main__":
    raise SystemExit(main())
