"""The harness of the keeper's tests: strict banks in memory, and clocks that a test moves.

No test waits for the real clock. `Banks` plays the platform for a real `BlinkOAuth`, and every
manager takes its time from a `ManualClock`, which a test moves with `Harness.advance`.
"""

from __future__ import annotations

import asyncio
import copy
import heapq
import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import httpx
from attrs import define, evolve, field, frozen

from blink_oauth import (
    BlinkOAuth,
    Grant,
    InvalidInputError,
    NotConnectedError,
    Settings,
    Timeouts,
    Token,
)
from blink_oauth_keeper import (
    Event,
    EventName,
    MemoryTokenStore,
    StoreError,
    TokenManager,
    UnknownGrantError,
)
from blink_oauth_keeper.clocks import never_back
from blink_oauth_keeper.flights import thread_pool
from blink_oauth_keeper.store.memory import StoredGrant
from blink_oauth_keeper.store.protocol import GrantKey, Record, TokenStore
from blink_oauth_testing.sandbox.banks import Bank, BankPolicy, IssuedTokens
from wrapper.harness import PSU, REDIRECT_URI, form, reply

__all__ = [
    "CLIENT_ID",
    "DAY",
    "EVERY_METHOD",
    "PSU",
    "REDIRECT_URI",
    "SETTINGS",
    "START",
    "TARGET",
    "Banks",
    "CountingExecutor",
    "Execute",
    "FaultyStore",
    "Gate",
    "Harness",
    "ManualClock",
    "ManualTimers",
    "Responder",
    "bank_response",
    "concurrently",
    "connection_refused",
    "request_lost",
    "response_lost",
    "start_task",
    "status_response",
    "wait_until",
    "with_members",
]

START = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
CLIENT_ID = "CIDX0000000002"
TARGET = "IIDX00001"
DAY = 86_400.0
UNKNOWN_GRANT = Grant(TARGET, "u-unknown")
"""A grant that no test stores."""
STRICT = BankPolicy(TARGET, "Musterbank Streng")
TIMEOUT = 10.0
"""Real seconds after which a test fails that waits for another thread."""

SETTINGS = Settings(
    base_url="https://blink.invalid/consent-flow/v2",
    client_id=CLIENT_ID,
    user_agent="acme-books/3.2",
    timeouts=Timeouts(total=10.0),
)

Result = TypeVar("Result")


async def start_task(call: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
    """Start a task, and return it once it waits for the first time."""
    task = asyncio.create_task(call)
    await asyncio.sleep(0)
    return task


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until other threads have made a condition true, or fail after `TIMEOUT`."""
    give_up = time.monotonic() + TIMEOUT
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < give_up, "the condition did not become true"
        pause.wait(0.0005)


@define(eq=False)
class ManualClock:
    """A wall clock and a monotonic clock that move only when a test moves them."""

    wall: datetime = START
    seconds: float = 1_000.0
    _heap: list[tuple[float, int, Callable[[], None]]] = field(init=False, factory=list)
    _order: Iterator[int] = field(init=False, factory=itertools.count)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds

    def elapse(self, seconds: float) -> None:
        """Move both clocks forward without making the calls that become due."""
        self.wall += timedelta(seconds=seconds)
        self.seconds += seconds

    def shift_wall_clock(self, seconds: float) -> None:
        """Set the wall clock forward or back, as NTP does; the monotonic clock stands still."""
        self.wall += timedelta(seconds=seconds)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Schedule a call by the monotonic clock."""
        with self._lock:
            heapq.heappush(self._heap, (self.seconds + seconds, next(self._order), call))

    def move_to_next(self, latest: float) -> Callable[[], None] | None:
        """Move to the next scheduled call and return it, or None if none is due by `latest`."""
        with self._lock:
            if not self._heap or self._heap[0][0] > latest:
                return None
            moment, _, call = heapq.heappop(self._heap)
        self.elapse(max(0.0, moment - self.seconds))
        return call


@define(eq=False)
class ManualTimers:
    """The timers of a manager, driven by a `ManualClock`.

    Attributes:
        pending: The scheduled calls.
    """

    clock: ManualClock
    pending: list[Callable[[], None]] = field(init=False, factory=list)
    _closed: bool = field(init=False, default=False)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def start(self) -> None:
        """Do nothing: these timers need no thread."""

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        with self._lock:
            if not self._closed:
                self.pending.append(call)
                self.clock.after(seconds, lambda: self._call_if_pending(call))
                return
        call()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            calls, self.pending = self.pending, []
        for call in calls:
            call()

    def _call_if_pending(self, call: Callable[[], None]) -> None:
        with self._lock:
            if call not in self.pending:
                return
            self.pending.remove(call)
        call()


@define(eq=False)
class CountingExecutor(Executor):
    """The keeper's own thread pool, with a count of the unfinished calls.

    Attributes:
        busy: The calls that run now or wait for a thread.
    """

    threads: int
    busy: int = field(init=False, default=0)
    _pool: Executor = field(init=False)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def __attrs_post_init__(self) -> None:
        self._pool = thread_pool(self.threads)

    def submit(
        self, fn: Callable[..., Result], /, *args: object, **options: object
    ) -> Future[Result]:
        self._count(1)
        try:
            return self._pool.submit(self._run, partial(fn, *args, **options))
        except RuntimeError:
            self._count(-1)
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _run(self, call: Callable[[], Result]) -> Result:
        try:
            return call()
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self.busy += change


Execute = Callable[[], httpx.Response]
"""Lets the bank execute the request, and returns the bank's response."""
Responder = Callable[[Execute], httpx.Response]
"""Returns the response to a request, or raises the error of a broken connection."""


def bank_response(execute: Execute) -> httpx.Response:
    """Respond as the bank does."""
    return execute()


def response_lost(execute: Execute) -> httpx.Response:
    """Let the bank execute the request, and lose its response."""
    execute()
    raise httpx.ReadError("connection reset by peer")


def request_lost(execute: Execute) -> httpx.Response:
    """Lose the request; the client cannot know that the bank never received it."""
    raise httpx.ReadTimeout("timed out")


def connection_refused(execute: Execute) -> httpx.Response:
    """Refuse the connection; the client knows that nothing was executed."""
    raise httpx.ConnectError("connection refused")


def status_response(
    status: int, body: object = b"", *, source: str = "PROVIDER", **headers: str
) -> Responder:
    """Respond with a status, without letting the bank execute the request."""
    fields = {"X-CorAPI-Source": source} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return lambda execute: reply(status, body, fields)


def with_members(status: int = 200, **members: object) -> Responder:
    """Respond as the bank does, with some members replaced, or left out where they are None."""

    def respond(execute: Execute) -> httpx.Response:
        body = members_of(execute()) | members
        kept = {name: value for name, value in body.items() if value is not None}
        return reply(status, kept, HEADERS)

    return respond


@define(eq=False)
class Gate:
    """Holds responses back until it is opened.

    Args:
        responder: Makes the response.
        holds_request: Whether the bank executes the request only after the gate is opened.

    Attributes:
        held: The requests that are held now.
    """

    responder: Responder = bank_response
    holds_request: bool = False
    held: int = field(init=False, default=0)
    _opened: threading.Event = field(init=False, factory=threading.Event)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def __call__(self, execute: Execute) -> httpx.Response:
        if self.holds_request:
            self._wait_until_opened()
            return self.responder(execute)
        try:
            return self.responder(execute)
        finally:
            self._wait_until_opened()

    def wait(self, count: int = 1) -> None:
        """Wait until so many requests are held."""
        wait_until(lambda: self.held >= count)

    async def async_wait(self) -> None:
        """Wait in a coroutine until a request is held."""
        while not self.held:  # noqa: ASYNC110  another thread changes it
            await asyncio.sleep(0)

    def open(self) -> None:
        """Let the held requests and all later ones pass."""
        with self._lock:
            self.held = 0
            self._opened.set()

    def _wait_until_opened(self) -> None:
        with self._lock:
            if self._opened.is_set():
                return
            self.held += 1
        assert self._opened.wait(TIMEOUT), "the test did not open the gate"


HEADERS = {
    "Content-Type": "application/json",
    "X-CorAPI-Source": "PROVIDER",
    "Cache-Control": "no-store",
    "Pragma": "no-cache",
}


def members_of(response: httpx.Response) -> dict[str, object]:
    """Return the members of a token response."""
    response.read()
    return dict(response.json())


@frozen
class PlatformRequest:
    """A request that reached the platform.

    Attributes:
        kind: The grant type, or `revoke`.
        target_id: The target.
        username: The customer.
        secret: The code or the token that was sent.
        psu_ip: The IP address of the PSU, or `AUTO`.
    """

    kind: str
    target_id: str
    username: str
    secret: str = field(repr=False)
    psu_ip: str = "AUTO"


@define(eq=False)
class Banks:
    """The platform and its banks, which rotate refresh tokens and revoke a consent on reuse.

    Attributes:
        requests: The requests that reached the platform, in their order.
        gates: The gates among the responders.
    """

    clock: ManualClock
    policy: BankPolicy = STRICT
    requests: list[PlatformRequest] = field(init=False, factory=list)
    gates: list[Gate] = field(init=False, factory=list)
    _banks: dict[str, Bank] = field(init=False, factory=dict)
    _next: dict[str, deque[Responder]] = field(init=False, factory=dict)
    _always: dict[tuple[str, str | None], Responder] = field(init=False, factory=dict)
    _secrets: Iterator[int] = field(init=False, factory=itertools.count)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        fields, headers = form(request), request.headers
        received = PlatformRequest(
            kind=fields.get("grant_type", "revoke"),
            target_id=headers["X-CorAPI-Target-ID"],
            username=fields["username"],
            secret=fields.get("refresh_token") or fields.get("code") or fields["token"],
            psu_ip=headers["X-PSU-IP-Address"],
        )
        with self._lock:
            self.requests.append(received)
            queued = self._next.get(received.kind)
            always = self._always.get((received.kind, None), bank_response)
            always = self._always.get((received.kind, received.target_id), always)
            respond = queued.popleft() if queued else always
        return respond(lambda: self._execute(received, fields))

    def respond_next(self, *responders: Responder, kind: str = "refresh_token") -> None:
        """Set the responders of the next requests of a kind, one for each."""
        self.gates += [responder for responder in responders if isinstance(responder, Gate)]
        with self._lock:
            self._next.setdefault(kind, deque()).extend(responders)

    def respond_always(
        self,
        responder: Responder,
        kind: str = "refresh_token",
        *,
        target_id: str | None = None,
    ) -> None:
        """Set the responder of all requests of a kind for which `respond_next` set none.

        Args:
            responder: Responds.
            kind: The kind.
            target_id: The only target for which it responds; None for all.
        """
        if isinstance(responder, Gate):
            self.gates.append(responder)
        self._always[kind, target_id] = responder

    def bank(self, target_id: str = TARGET) -> Bank:
        """Return a bank."""
        with self._lock:
            if target_id not in self._banks:
                policy = evolve(self.policy, target_id=target_id)
                self._banks[target_id] = Bank(policy, self.clock.monotonic, self._new_secret)
            return self._banks[target_id]

    def set_policy(self, target_id: str = TARGET, **changes: Any) -> None:
        """Change the policy of a bank."""
        bank = self.bank(target_id)
        bank.policy = evolve(bank.policy, **changes)

    def issue_code(self, grant: Grant) -> str:
        """Issue a code, as after the customer's consent."""
        return self.bank(grant.target_id).issue_code(CLIENT_ID, REDIRECT_URI, grant.username)

    def presented(self, kind: str = "refresh_token") -> list[str]:
        """Return the secrets of all requests of a kind, in their order."""
        return [request.secret for request in self.requests if request.kind == kind]

    def presented_twice(self) -> list[int]:
        """Return the counts of those refresh tokens that were presented more than once."""
        return [count for count in Counter(self.presented()).values() if count > 1]

    def held(self) -> int:
        """Return how many requests are held now."""
        return sum(gate.held for gate in self.gates)

    def accepts(self, grant: Grant, token: Token) -> bool:
        """Return whether a bank would accept both tokens of a pair."""
        bank = self.bank(grant.target_id)
        assert token.refresh_token is not None
        secrets = (token.access_token.reveal(), token.refresh_token.reveal())
        return all(bank.accepts(secret) for secret in secrets)

    def _new_secret(self, kind: str) -> str:
        return f"fake-{kind}-{next(self._secrets)}"

    def _execute(self, request: PlatformRequest, fields: dict[str, str]) -> httpx.Response:
        bank = self.bank(request.target_id)
        if request.kind == "revoke":
            refused = bank.revoke(CLIENT_ID, request.secret, request.username)
            return reply(200, b"", HEADERS) if refused is None else _refusal(refused.error)
        if request.kind == "refresh_token":
            result = bank.refresh(CLIENT_ID, request.secret, request.username)
        else:
            uri = fields["redirect_uri"]
            result = bank.exchange_code(CLIENT_ID, request.secret, uri, request.username)
        if not isinstance(result, IssuedTokens):
            return _refusal(result.error)
        members = {
            "access_token": result.access_token,
            "token_type": "bearer",
            "expires_in": result.expires_in,
        }
        if result.refresh_token is not None:
            members["refresh_token"] = result.refresh_token
        return reply(200, members, HEADERS)


def _refusal(error: str) -> httpx.Response:
    return reply(400, {"error": error}, HEADERS)


EVERY_METHOD = frozenset(
    name for name in vars(TokenStore) if not name.startswith("_") and name != "fingerprint"
)


class FaultyStore:
    """A store whose methods fail when a test says so.

    Attributes:
        inner: The store that executes the calls.
        failing: The methods that raise without being executed.
        lost_results: The methods whose next call is executed and raises all the same.
        replacements: The functions that are called instead of methods.
        calls: The names of the called methods, in their order.
        error: Makes the exception that is raised.
    """

    def __init__(self, inner: TokenStore) -> None:
        self.inner = inner
        self.failing: frozenset[str] = frozenset()
        self.lost_results: set[str] = set()
        self.replacements: dict[str, Callable[..., object]] = {}
        self.calls: list[str] = []
        self.error: Callable[[], Exception] = lambda: StoreError("The store is unavailable.")

    def __getattr__(self, name: str) -> Callable[..., object]:
        method = getattr(self.inner, name)

        def call(*args: object, **options: object) -> object:
            self.calls.append(name)
            if name in self.failing:
                raise self.error()
            result = self.replacements.get(name, method)(*args, **options)
            if name in self.lost_results:
                self.lost_results.discard(name)
                raise self.error()
            return result

        return call

    def fail(self, *names: str) -> None:
        """Let some methods fail, or all but `close` if none is named."""
        self.failing = frozenset(names) or EVERY_METHOD - {"close"}

    def recover(self) -> None:
        """Let no method fail any more."""
        self.failing = frozenset()


class Harness:
    """Banks, a store, a client and the managers of a test; all of it is closed at the end.

    Attributes:
        clock: The clocks of everything.
        banks: The platform.
        memory: The store in memory.
        stored: What it contains.
        faulty: The same store as the managers use it.
        blink: The client of the managers.
        events: The events of the managers, in their order.
        allowed_replays: How many times this test may present one refresh token again.
    """

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.banks = Banks(self.clock)
        self.stored: dict[GrantKey, StoredGrant] = {}
        self._store_clock = never_back(self.clock.now)
        self.memory = self._new_store()
        self.faulty = FaultyStore(self.memory)
        self.blink = BlinkOAuth(
            SETTINGS, clock=self.clock.now, transport=httpx.MockTransport(self.banks)
        )
        self.events: list[Event] = []
        self.allowed_replays = 0
        self._managers: list[TokenManager] = []
        self._timers: list[ManualTimers] = []
        self._executors: list[CountingExecutor] = []
        self._threads = ThreadPoolExecutor(32)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.faulty.recover()
        for gate in self.banks.gates:
            gate.open()
        if exc is None:
            # Unstored results are stored now, so that closing does not wait in real time.
            self.advance(1.1)
        for manager in self._managers:
            manager.close()
        self._threads.shutdown()
        self.blink.close()
        if exc is None:
            counts = self.banks.presented_twice()
            assert all(count <= 1 + self.allowed_replays for count in counts)

    @property
    def store(self) -> TokenStore:
        """The store of all managers."""
        return cast("TokenStore", self.faulty)

    @property
    def manager(self) -> TokenManager:
        """The first manager; it has the defaults unless a test called `make_manager` before."""
        return self._managers[0] if self._managers else self.make_manager()

    def make_manager(
        self, *, store: TokenStore | None = None, real_waits: bool = False, **options: Any
    ) -> TokenManager:
        """Make a manager.

        Args:
            store: Its store; None for the one in memory.
            real_waits: Whether its waits take real time, for managers that race each other.
            **options: Further arguments of the manager.
        """
        defaults: dict[str, Any] = {
            "clock": self.clock.now,
            "monotonic": self.clock.monotonic,
            "random": lambda: 0.5,
            "on_event": self.events.append,
            "new_thread_pool": self._new_executor,
        }
        if real_waits:
            defaults["monotonic"] = time.monotonic
        else:
            defaults |= {"new_timers": self._new_timers, "sleep": self.clock.elapse}
        manager = TokenManager(self.blink, store or self.store, **(defaults | options))
        self._managers.append(manager)
        return manager

    def is_closed(self, manager: TokenManager | None = None) -> bool:
        """Return whether a manager refuses new calls because it is closed."""
        try:
            (manager or self.manager).revoke(UNKNOWN_GRANT)
        except InvalidInputError as error:
            return "The manager is closed" in str(error)
        except UnknownGrantError:
            return False
        raise AssertionError("an unknown grant was revoked")

    def open_breaker(self, target_id: str = TARGET) -> None:
        """Fail a target until its circuit breaker opens, by code exchanges of another grant."""
        for _ in range(2):
            try:
                self.authorize("u-unavailable", target_id, responder=connection_refused)
            except NotConnectedError:
                continue
            raise AssertionError("the target is available")

    def authorize(
        self,
        username: str = "u-4711",
        target_id: str = TARGET,
        *,
        responder: Responder = bank_response,
        manager: TokenManager | None = None,
    ) -> Grant:
        """Exchange a new code of a customer, and store the pair."""
        grant = Grant(target_id, username)
        self.banks.respond_next(responder, kind="authorization_code")
        (manager or self.manager).authorize(
            grant, code=self.banks.issue_code(grant), redirect_uri=REDIRECT_URI, psu=PSU
        )
        return grant

    def expired_grant(self, username: str = "u-4711", target_id: str = TARGET) -> Grant:
        """Authorize a grant, and let its access token expire."""
        grant = self.authorize(username, target_id)
        self.advance(self.banks.bank(target_id).policy.access_token_lifetime + 1)
        return grant

    def record(self, grant: Grant) -> Record:
        """Return the record of a grant."""
        record = self.memory.load(self.key(grant))
        assert record is not None
        return record

    def back_up(self) -> Callable[[], None]:
        """Copy the store; return a function that restores this copy."""
        backup = {key: copy.copy(stored) for key, stored in self.stored.items()}

        def restore() -> None:
            self.stored.clear()
            self.stored.update({key: copy.copy(stored) for key, stored in backup.items()})
            self.memory = self.faulty.inner = self._new_store()

        return restore

    def key(self, grant: Grant) -> GrantKey:
        """Return the key of a grant in the store."""
        return GrantKey(CLIENT_ID, grant)

    def event_names(self) -> list[EventName]:
        """Return the names of the events so far."""
        return [event.name for event in self.events]

    def in_thread(self, call: Callable[[], Result]) -> Future[Result]:
        """Make a call in another thread."""
        return self._threads.submit(call)

    def hold_loads(self) -> tuple[threading.Event, threading.Event]:
        """Make each load wait; return the event that a load sets, and the one that it waits for.

        The record is read after the wait.
        """
        loading, proceed = threading.Event(), threading.Event()
        load = self.memory.load

        def held_load(key: GrantKey) -> Record | None:
            loading.set()
            assert proceed.wait(TIMEOUT)
            return load(key)

        self.faulty.replacements["load"] = held_load
        return loading, proceed

    def wait_until_idle(self) -> None:
        """Wait until every flight has ended, waits for the clock, or is held at a gate."""
        wait_until(lambda: self.busy() == self.banks.held())

    def advance(self, seconds: float) -> None:
        """Move the clocks forward, and make the calls that become due, each at its time."""
        end = self.clock.seconds + seconds
        self.wait_until_idle()
        while (call := self.clock.move_to_next(end)) is not None:
            call()
            self.wait_until_idle()
        self.clock.elapse(end - self.clock.seconds)

    def waiting(self) -> int:
        """Return how many scheduled calls wait for the clock."""
        return sum(len(timers.pending) for timers in self._timers)

    def busy(self) -> int:
        """Return how many flights run, wait for a thread, or are held at a gate."""
        return sum(executor.busy for executor in self._executors)

    def in_progress(self) -> int:
        """Return the sum of `busy` and `waiting`."""
        return self.busy() + self.waiting()

    def _new_store(self) -> MemoryTokenStore:
        return MemoryTokenStore(
            clock=self.clock.now,
            monotonic=self._store_clock,
            grants=self.stored,
            pseudonym_key=b"fake-pseudonym-key",
        )

    def _new_timers(self) -> ManualTimers:
        self._timers.append(ManualTimers(self.clock))
        return self._timers[-1]

    def _new_executor(self, threads: int) -> CountingExecutor:
        self._executors.append(CountingExecutor(threads))
        return self._executors[-1]


def concurrently(call: Callable[[], Result], count: int) -> list[Result | Exception]:
    """Make a call in many threads at the same moment, and return their results or errors."""
    ready = threading.Barrier(count)

    def one() -> Result | Exception:
        ready.wait(TIMEOUT)
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - it is the outcome of this thread
            return error

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(one) for _ in range(count)]]
