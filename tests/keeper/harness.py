"""The harness of the lifecycle tests: strict banks in memory, and a time that passes when told.

Nothing on it waits by the real clock. `Banks` play the platform for a real `BlinkOAuth`, and every
manager's wake-ups hang on `Time`, which a test moves with `Harness.advance`.
"""

from __future__ import annotations

import asyncio
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
from blink_oauth_keeper.flights import thread_pool
from blink_oauth_keeper.store.protocol import GrantKey, Record, TokenStore
from blink_oauth_testing.sandbox.banks import Bank, BankPolicy, Issued
from wrapper.harness import PSU, REDIRECT_URI, form, reply

__all__ = [
    "CLIENT_ID",
    "DAY",
    "PSU",
    "REDIRECT_URI",
    "SETTINGS",
    "START",
    "TARGET",
    "Answer",
    "Banks",
    "Execute",
    "Gate",
    "Harness",
    "ShakyStore",
    "Time",
    "TimedWakeups",
    "Workers",
    "begun",
    "eventually",
    "honest",
    "lost",
    "never_arrived",
    "says",
    "storm",
    "unreachable",
    "with_members",
]

START = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
CLIENT_ID = "CIDX0000000002"
TARGET = "IIDX00001"
DAY = 86_400.0
NOBODY = Grant(TARGET, "u-nobody")
"""Somebody of whom nothing was ever stored."""
STRICT = BankPolicy(TARGET, "Musterbank Streng")
PATIENCE = 10.0
"""Real seconds after which a test gives up on what should have happened at once."""

SETTINGS = Settings(
    base_url="https://blink.invalid/consent-flow/v2",
    client_id=CLIENT_ID,
    user_agent="acme-books/3.2",
    timeouts=Timeouts(total=10.0),
)

Result = TypeVar("Result")


async def begun(call: Coroutine[Any, Any, Result]) -> asyncio.Task[Result]:
    """Begin a call, and return once it waits for something."""
    task = asyncio.create_task(call)
    await asyncio.sleep(0)
    return task


def eventually(condition: Callable[[], bool]) -> None:
    """Return once something is the case that other threads are about to bring about."""
    give_up = time.monotonic() + PATIENCE
    pause = threading.Event()
    while not condition():
        assert time.monotonic() < give_up, "it did not happen"
        pause.wait(0.0005)


@define(eq=False)
class Time:
    """A wall clock and a monotonic one that stand still until they are moved."""

    wall: datetime = START
    seconds: float = 1_000.0
    _heap: list[tuple[float, int, Callable[[], None]]] = field(init=False, factory=list)
    _order: Iterator[int] = field(init=False, factory=itertools.count)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds

    def pass_by(self, seconds: float) -> None:
        """Let time pass, and wake nobody."""
        self.wall += timedelta(seconds=seconds)
        self.seconds += seconds

    def jump(self, seconds: float) -> None:
        """Set the wall clock, as an operator or NTP would; no time passes."""
        self.wall += timedelta(seconds=seconds)

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        """Call back when so much time has passed."""
        with self._lock:
            heapq.heappush(self._heap, (self.seconds + seconds, next(self._order), call))

    def move_to_next(self, latest: float) -> Callable[[], None] | None:
        """Move to the next call that is due by then, and return it."""
        with self._lock:
            if not self._heap or self._heap[0][0] > latest:
                return None
            moment, _, call = heapq.heappop(self._heap)
        self.pass_by(max(0.0, moment - self.seconds))
        return call


@define(eq=False)
class TimedWakeups:
    """Timers that go off when a test lets the time pass.

    Attributes:
        pending: The calls that are still to come.
    """

    time: Time
    pending: list[Callable[[], None]] = field(init=False, factory=list)
    _closed: bool = field(init=False, default=False)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def start(self) -> None:
        """Start no thread."""

    def after(self, seconds: float, call: Callable[[], None]) -> None:
        with self._lock:
            if not self._closed:
                self.pending.append(call)
                self.time.after(seconds, lambda: self._go_off(call))
                return
        call()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            calls, self.pending = self.pending, []
        for call in calls:
            call()

    def _go_off(self, call: Callable[[], None]) -> None:
        with self._lock:
            if call not in self.pending:
                return
            self.pending.remove(call)
        call()


@define(eq=False)
class Workers(Executor):
    """The threads of a manager, as it makes them itself, with a look at how busy they are.

    Attributes:
        busy: How many pieces of work are done now or wait for a thread.
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
            return self._pool.submit(self._work, partial(fn, *args, **options))
        except RuntimeError:
            self._count(-1)
            raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def _work(self, call: Callable[[], Result]) -> Result:
        try:
            return call()
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        with self._lock:
            self.busy += change


Execute = Callable[[], httpx.Response]
"""Lets the bank do what it was asked for, and returns its answer."""
Answer = Callable[[Execute], httpx.Response]
"""What comes back for a call."""


def honest(execute: Execute) -> httpx.Response:
    """Answer as the bank does."""
    return execute()


def lost(execute: Execute) -> httpx.Response:
    """Let the bank execute the call, and lose its answer."""
    execute()
    raise httpx.ReadError("connection reset by peer")


def never_arrived(execute: Execute) -> httpx.Response:
    """Lose the request, so that nobody knows that the bank never saw it."""
    raise httpx.ReadTimeout("timed out")


def unreachable(execute: Execute) -> httpx.Response:
    """Make no connection: certainly nothing happened."""
    raise httpx.ConnectError("connection refused")


def says(status: int, body: object = b"", *, source: str = "PROVIDER", **headers: str) -> Answer:
    """Answer with a status, without asking the bank."""
    fields = {"X-CorAPI-Source": source} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    return lambda execute: reply(status, body, fields)


def with_members(status: int = 200, **members: object) -> Answer:
    """Answer as the bank does, but with other members; None leaves one out."""

    def answer(execute: Execute) -> httpx.Response:
        body = members_of(execute()) | members
        kept = {name: value for name, value in body.items() if value is not None}
        return reply(status, kept, HEADERS)

    return answer


@define(eq=False)
class Gate:
    """Holds answers back until it is opened.

    Args:
        answer: What to answer then.
        first: Whether the bank is asked only when the gate opens.
    """

    answer: Answer = honest
    first: bool = False
    held: int = field(init=False, default=0)
    _opened: threading.Event = field(init=False, factory=threading.Event)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def __call__(self, execute: Execute) -> httpx.Response:
        if self.first:
            self._hold()
            return self.answer(execute)
        try:
            return self.answer(execute)
        finally:
            self._hold()

    def wait(self, count: int = 1) -> None:
        """Wait until so many calls are held."""
        eventually(lambda: self.held >= count)

    async def held_up(self) -> None:
        """Wait in a coroutine until a call is held."""
        while not self.held:  # noqa: ASYNC110  another thread brings it about
            await asyncio.sleep(0)

    def open(self) -> None:
        """Let all go on, those that come later too."""
        with self._lock:
            self.held = 0
            self._opened.set()

    def _hold(self) -> None:
        with self._lock:
            if self._opened.is_set():
                return
            self.held += 1
        assert self._opened.wait(PATIENCE), "nobody opened the gate"


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
class Post:
    """A request that reached the platform: what for, at which bank, with which secret."""

    kind: str
    target_id: str
    username: str
    secret: str = field(repr=False)
    psu_ip: str = "AUTO"


@define(eq=False)
class Banks:
    """The platform with its banks: rotating ones that revoke a consent on reuse, unless told."""

    time: Time
    policy: BankPolicy = STRICT
    posts: list[Post] = field(init=False, factory=list)
    gates: list[Gate] = field(init=False, factory=list)
    _banks: dict[str, Bank] = field(init=False, factory=dict)
    _answers: dict[str, deque[Answer]] = field(init=False, factory=dict)
    _always: dict[str, Answer] = field(init=False, factory=dict)
    _secrets: Iterator[int] = field(init=False, factory=itertools.count)
    _lock: threading.Lock = field(init=False, factory=threading.Lock)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        fields, headers = form(request), request.headers
        post = Post(
            kind=fields.get("grant_type", "revoke"),
            target_id=headers["X-CorAPI-Target-ID"],
            username=fields["username"],
            secret=fields.get("refresh_token") or fields.get("code") or fields["token"],
            psu_ip=headers["X-PSU-IP-Address"],
        )
        with self._lock:
            self.posts.append(post)
            waiting = self._answers.get(post.kind)
            answer = waiting.popleft() if waiting else self._always.get(post.kind, honest)
        return answer(lambda: self._execute(post, fields))

    def answer(self, *answers: Answer, kind: str = "refresh_token") -> None:
        """Prepare the answers to the next calls of a kind, one each."""
        self.gates += [answer for answer in answers if isinstance(answer, Gate)]
        with self._lock:
            self._answers.setdefault(kind, deque()).extend(answers)

    def always(self, answer: Answer, kind: str = "refresh_token") -> None:
        """Prepare the answer to all calls of a kind for which no other one is prepared."""
        if isinstance(answer, Gate):
            self.gates.append(answer)
        self._always[kind] = answer

    def of(self, target_id: str = TARGET) -> Bank:
        """Return a bank."""
        with self._lock:
            if target_id not in self._banks:
                policy = evolve(self.policy, target_id=target_id)
                self._banks[target_id] = Bank(policy, self.time.monotonic, self._new_secret)
            return self._banks[target_id]

    def set_policy(self, target_id: str = TARGET, **changes: Any) -> None:
        """Change how a bank behaves."""
        bank = self.of(target_id)
        bank.policy = evolve(bank.policy, **changes)

    def issue_code(self, grant: Grant) -> str:
        """Issue a code, as after the customer's consent."""
        return self.of(grant.target_id).issue_code(CLIENT_ID, REDIRECT_URI, grant.username)

    def presented(self, kind: str = "refresh_token") -> list[str]:
        """Return the secrets of all calls of a kind, in their order."""
        return [post.secret for post in self.posts if post.kind == kind]

    def presented_twice(self) -> list[int]:
        """Return how often those refresh tokens were presented that came more than once."""
        return [count for count in Counter(self.presented()).values() if count > 1]

    def held(self) -> int:
        """Return how many calls are held back now."""
        return sum(gate.held for gate in self.gates)

    def is_alive(self, grant: Grant, token: Token) -> bool:
        """Tell whether a bank would still accept both halves of a pair."""
        bank = self.of(grant.target_id)
        assert token.refresh_token is not None
        secrets = (token.access_token.reveal(), token.refresh_token.reveal())
        return all(bank.is_alive(secret) for secret in secrets)

    def _new_secret(self, kind: str) -> str:
        return f"fake-{kind}-{next(self._secrets)}"

    def _execute(self, post: Post, fields: dict[str, str]) -> httpx.Response:
        bank = self.of(post.target_id)
        if post.kind == "revoke":
            refused = bank.revoke(CLIENT_ID, post.secret, post.username)
            return reply(200, b"", HEADERS) if refused is None else _refusal(refused.error)
        if post.kind == "refresh_token":
            result = bank.refresh(CLIENT_ID, post.secret, post.username)
        else:
            uri = fields["redirect_uri"]
            result = bank.exchange_code(CLIENT_ID, post.secret, uri, post.username)
        if not isinstance(result, Issued):
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


EVERY_CALL = frozenset(
    name for name in vars(TokenStore) if not name.startswith("_") and name != "fingerprint"
)


class ShakyStore:
    """A store in memory that can be told to fail.

    Attributes:
        down: The methods that fail and do nothing.
        deaf: The methods whose next call is done, and its result is lost.
        instead: What is called in place of a method.
        calls: The names of all calls.
    """

    def __init__(self, inner: TokenStore) -> None:
        self.inner = inner
        self.down: frozenset[str] = frozenset()
        self.deaf: set[str] = set()
        self.instead: dict[str, Callable[..., object]] = {}
        self.calls: list[str] = []
        self.error: Callable[[], Exception] = lambda: StoreError("The store is away.")

    def __getattr__(self, name: str) -> Callable[..., object]:
        method = getattr(self.inner, name)

        def call(*args: object, **options: object) -> object:
            self.calls.append(name)
            if name in self.down:
                raise self.error()
            result = self.instead.get(name, method)(*args, **options)
            if name in self.deaf:
                self.deaf.discard(name)
                raise self.error()
            return result

        return call

    def go_down(self, *names: str) -> None:
        """Fail in some methods, or in all."""
        self.down = frozenset(names) or EVERY_CALL - {"close"}

    def come_back(self) -> None:
        """Work again."""
        self.down = frozenset()


class Harness:
    """Banks, a store, a client, and managers on them; a test closes none of it.

    Attributes:
        replays: How often a refresh token may be presented again in this test.
    """

    def __init__(self) -> None:
        self.time = Time()
        self.banks = Banks(self.time)
        self.memory = MemoryTokenStore(clock=self.time.now)
        self.shaky = ShakyStore(self.memory)
        self.blink = BlinkOAuth(
            SETTINGS, clock=self.time.now, transport=httpx.MockTransport(self.banks)
        )
        self.events: list[Event] = []
        self.replays = 0
        self._managers: list[TokenManager] = []
        self._timers: list[TimedWakeups] = []
        self._workers: list[Workers] = []
        self._aside = ThreadPoolExecutor(32)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.shaky.come_back()
        for gate in self.banks.gates:
            gate.open()
        if exc is None:
            # What waits for the store is written; nobody waits for that by the real clock.
            self.advance(1.1)
        for manager in self._managers:
            manager.close()
        self._aside.shutdown()
        self.blink.close()
        if exc is None:
            assert all(count <= 1 + self.replays for count in self.banks.presented_twice())

    @property
    def store(self) -> TokenStore:
        """The store of all managers."""
        return cast("TokenStore", self.shaky)

    @property
    def manager(self) -> TokenManager:
        """The first manager, with defaults unless `make` was called before."""
        return self._managers[0] if self._managers else self.make()

    def make(self, *, real_waits: bool = False, **options: Any) -> TokenManager:
        """Make a manager.

        Args:
            real_waits: Whether its waits pass by the real clock: for two that race each other.
            **options: Further arguments of the manager.
        """
        defaults: dict[str, Any] = {
            "clock": self.time.now,
            "monotonic": self.time.monotonic,
            "random": lambda: 0.5,
            "on_event": self.events.append,
            "executor": self._new_workers,
        }
        if real_waits:
            defaults["monotonic"] = time.monotonic
        else:
            defaults |= {"timers": self._new_timers, "sleep": self.time.pass_by}
        manager = TokenManager(self.blink, self.store, **(defaults | options))
        self._managers.append(manager)
        return manager

    def refuses(self, manager: TokenManager | None = None) -> bool:
        """Say whether a manager begins nothing new any more."""
        try:
            (manager or self.manager).revoke(NOBODY)
        except InvalidInputError as error:
            return "The manager is closed" in str(error)
        except UnknownGrantError:
            return False
        raise AssertionError("there is nothing to revoke")

    def let_fail(self, target_id: str = TARGET) -> None:
        """Let a target be unreachable so often that it counts as failing; no grant suffers."""
        for _ in range(2):
            try:
                self.authorize("u-in-vain", target_id, answer=unreachable)
            except NotConnectedError:
                continue
            raise AssertionError("it can be reached")

    def authorize(
        self,
        username: str = "u-4711",
        target_id: str = TARGET,
        *,
        answer: Answer = honest,
        manager: TokenManager | None = None,
    ) -> Grant:
        """Take a customer through the consent, and store the pair."""
        grant = Grant(target_id, username)
        self.banks.answer(answer, kind="authorization_code")
        (manager or self.manager).authorize(
            grant, code=self.banks.issue_code(grant), redirect_uri=REDIRECT_URI, psu=PSU
        )
        return grant

    def expired(self, username: str = "u-4711", target_id: str = TARGET) -> Grant:
        """Authorize a grant, and let its access token expire."""
        grant = self.authorize(username, target_id)
        self.advance(self.banks.of(target_id).policy.access_token_lifetime + 1)
        return grant

    def record(self, grant: Grant) -> Record:
        """Return what the store knows of a grant."""
        record = self.memory.load(self.key(grant))
        assert record is not None
        return record

    def key(self, grant: Grant) -> GrantKey:
        """Return the identity of a grant."""
        return GrantKey(CLIENT_ID, grant)

    def names(self) -> list[EventName]:
        """Return the names of the events so far."""
        return [event.name for event in self.events]

    def aside(self, call: Callable[[], Result]) -> Future[Result]:
        """Make a call in another thread."""
        return self._aside.submit(call)

    def calm(self) -> None:
        """Wait until every flight has landed, waits for the time, or is held at a bank."""
        eventually(lambda: self.busy() == self.banks.held())

    def advance(self, seconds: float) -> None:
        """Let time pass; whoever waits for it wakes up in turn and goes on."""
        end = self.time.seconds + seconds
        self.calm()
        while (call := self.time.move_to_next(end)) is not None:
            call()
            self.calm()
        self.time.pass_by(end - self.time.seconds)

    def waiting(self) -> int:
        """Return how many wait for the time to pass."""
        return sum(len(timers.pending) for timers in self._timers)

    def busy(self) -> int:
        """Return how many are at work, wait for a thread, or are held at a bank."""
        return sum(workers.busy for workers in self._workers)

    def in_progress(self) -> int:
        """Return how many are at work, held at a bank, or wait for anything."""
        return self.busy() + self.waiting()

    def _new_timers(self) -> TimedWakeups:
        self._timers.append(TimedWakeups(self.time))
        return self._timers[-1]

    def _new_workers(self, threads: int) -> Workers:
        self._workers.append(Workers(threads))
        return self._workers[-1]


def storm(call: Callable[[], Result], count: int) -> list[Result | Exception]:
    """Make a call in many threads at the same moment; return what each got or raised."""
    ready = threading.Barrier(count)

    def one() -> Result | Exception:
        ready.wait(PATIENCE)
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - it is what this caller got
            return error

    with ThreadPoolExecutor(count) as pool:
        return [future.result() for future in [pool.submit(one) for _ in range(count)]]
