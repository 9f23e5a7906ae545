"""How far a call travels through our own modules: for one warm call of each kind.

A profile function (`sys.setprofile` here, `threading.setprofile` in the threads of the manager)
sees the call and the return of each Python function. It counts, in all threads that serve the call,

* calls: how often a function of ours is entered. A generator is entered each time it goes on.
* modules: in how many modules of ours these functions stand.
* changes: how often a function is entered that stands in another module than the one that was
  entered before it in the same thread. To return is no change, and neither is the first function of
  a thread: what is counted is how often a reader who follows the call has to open another file.

Ours is what is written by hand in `blink_oauth` and `blink_oauth_keeper`. Left out, but named with
the number of their calls: the generated client (`blink_oauth_api`), what attrs makes of our classes
(its code has no file), httpx, httpcore and SQLAlchemy. Everything else is neither counted nor
named: the standard library, other libraries, and whatever is written in C.

The platform is a bare endpoint over mutual TLS in a process of its own, so that the wrapper's own
connections are in the count and none of the other side is. The bank's API behind `auth` is an
`httpx.MockTransport`: there all of the connection is httpx's. Where a token has to expire, the
clock of the manager is this script's, and therefore not counted.

Nothing is asserted, and nothing depends on time: the same code gives the same numbers. With the
name of a call as its argument, the command prints each function that this call enters.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

import httpx
from attrs import define, field, frozen
from benchmarks.stub_server import GRANT, running_stub_server

from blink_oauth import BlinkOAuth, Psu
from blink_oauth_keeper import MemoryTokenStore, SqlTokenStore, TokenManager, TokenStore
from blink_oauth_keeper.flights import thread_pool

OURS = ("blink_oauth", "blink_oauth_keeper")
NAMED = {"blink_oauth_api": "generated", "httpx": "httpx", "httpcore": "httpcore"}
NAMED["sqlalchemy"] = "SQLAlchemy"
ATTRS = "<attrs"
PSU = Psu(ip="203.0.113.7", user_agent="Mozilla/5.0 (X11; Linux x86_64)")
REDIRECT_URI = "https://acme.example/callback"
TO_EXPIRE = timedelta(days=1, hours=1)
WARM_UP = 3


@frozen
class Entry:
    """A function that was entered.

    Attributes:
        thread: In which thread.
        depth: How many functions of ours it was called by, one inside the other.
        module: Where it stands, without the name of the package for the wrapper's own.
        name: Its qualified name.
    """

    thread: int
    depth: int
    module: str
    name: str


@define(eq=False)
class Profiler:
    """Notes what is entered while it is on.

    Attributes:
        entries: The functions of ours, in their order.
        others: How often those were entered that are only named.
    """

    entries: list[Entry] = field(factory=list)
    others: Counter[str] = field(factory=Counter)
    is_on: bool = False
    _depth: Counter[int] = field(factory=Counter)
    _lock: threading.Lock = field(factory=threading.Lock)

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        """Take in an event, as `sys.setprofile` calls for it."""
        if not self.is_on or event not in ("call", "return"):
            return
        module = str(frame.f_globals.get("__name__", ""))
        package = module.partition(".")[0]
        is_attrs = frame.f_code.co_filename.startswith(ATTRS)
        if package in OURS and not is_attrs:
            self._note(event, module, frame.f_code.co_qualname)
        elif event == "call" and (is_attrs or package in NAMED):
            with self._lock:
                self.others["attrs" if is_attrs else NAMED[package]] += 1

    def _note(self, event: str, module: str, name: str) -> None:
        thread = threading.get_ident()
        with self._lock:
            if event == "return":
                self._depth[thread] -= 1
                return
            depth = self._depth[thread]
            self._depth[thread] = depth + 1
            self.entries.append(Entry(thread, depth, module.partition(".")[2] or module, name))


@frozen
class Way:
    """The way of one call.

    Attributes:
        name: Which call.
        entries: The functions of ours that it entered.
        others: How often it entered the others that are named.
    """

    name: str
    entries: tuple[Entry, ...]
    others: Counter[str]

    @property
    def modules(self) -> Counter[str]:
        """How often each module was entered."""
        return Counter(entry.module for entry in self.entries)

    @property
    def changes(self) -> int:
        """How often another module was entered than before, in the same thread."""
        return sum(is_change for _, is_change in self.steps())

    def steps(self) -> Iterator[tuple[Entry, bool]]:
        """Return the functions, and of each whether it stands in another module than the last."""
        last: dict[int, str] = {}
        for entry in self.entries:
            yield entry, last.get(entry.thread, entry.module) != entry.module
            last[entry.thread] = entry.module


@define(eq=False)
class Pool(Executor):
    """The threads of a manager, and a way to wait until they have nothing more to do."""

    threads: int
    _pool: Executor = field(init=False)
    _busy: int = field(init=False, default=0)
    _changed: threading.Condition = field(init=False, factory=threading.Condition)

    def __attrs_post_init__(self) -> None:
        self._pool = thread_pool(self.threads)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        with self._changed:
            self._busy += 1
        return self._pool.submit(self._work, fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._pool.shutdown(wait, cancel_futures=cancel_futures)

    def wait_until_idle(self) -> None:
        """Wait until all that was submitted is done."""
        with self._changed:
            self._changed.wait_for(lambda: not self._busy)

    def _work(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        try:
            return fn(*args, **kwargs)
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()


@define(eq=False)
class Calls:
    """Makes calls, and returns their ways."""

    profiler: Profiler = field(factory=Profiler)
    pools: list[Pool] = field(factory=list)
    _ahead: timedelta = timedelta(0)

    def now(self) -> datetime:
        """Tell the time of the managers."""
        return datetime.now(UTC) + self._ahead

    def pool(self, threads: int) -> Executor:
        """Make the threads of a manager."""
        self.pools.append(Pool(threads))
        return self.pools[-1]

    def way(self, name: str, call: Callable[[], object]) -> Way:
        """Make a call that has been made before, and return its way."""
        profiler = self.profiler
        for pool in self.pools:
            pool.wait_until_idle()
        profiler.entries.clear()
        profiler.others.clear()
        profiler.is_on = True
        sys.setprofile(profiler)
        try:
            call()
        finally:
            sys.setprofile(None)
            for pool in self.pools:
                pool.wait_until_idle()
            profiler.is_on = False
        return Way(name, tuple(profiler.entries), Counter(profiler.others))

    def expire(self) -> None:
        """Let the time of the managers pass until their tokens have expired."""
        self._ahead += TO_EXPIRE

    def manager(self, blink: BlinkOAuth, store: TokenStore, **options: Any) -> TokenManager:
        """Make a manager with a grant, and call it until all is warm."""
        manager = TokenManager(blink, store, executor=self.pool, **options)
        for _ in range(WARM_UP):
            manager.authorize(GRANT, code="fake-code", redirect_uri=REDIRECT_URI, psu=PSU)
            manager.refresh(GRANT)
        return manager


def ways() -> Iterator[Way]:
    """Make all calls, one after the other."""
    calls = Calls()
    threading.setprofile(calls.profiler)
    with (
        running_stub_server(delay=0) as server,
        BlinkOAuth(server.settings) as blink,
        tempfile.TemporaryDirectory() as folder,
    ):
        for _ in range(WARM_UP):
            blink.refresh(GRANT, "fake-refresh-token")
        yield calls.way("client.refresh", lambda: blink.refresh(GRANT, "fake-refresh-token"))
        with calls.manager(blink, MemoryTokenStore()) as manager:
            yield calls.way("manager.get, fresh", lambda: manager.get(GRANT))
            bank = httpx.MockTransport(lambda _: httpx.Response(200))
            with httpx.Client(auth=manager.auth(GRANT, psu=PSU), transport=bank) as client:
                client.get("https://bank.invalid/accounts")
                name = "auth on a request, fresh"
                yield calls.way(name, lambda: client.get("https://bank.invalid/accounts"))
            name = "manager.refresh, memory"
            yield calls.way(name, lambda: manager.refresh(GRANT))
        with calls.manager(blink, MemoryTokenStore(), clock=calls.now) as manager:
            calls.expire()
            yield calls.way("manager.get, expired", lambda: manager.get(GRANT))
        path = Path(folder) / "tokens.db"
        store = SqlTokenStore(f"sqlite:///{path}", keys=[SqlTokenStore.new_key()])
        with calls.manager(blink, store) as manager:
            yield calls.way("manager.refresh, SQLite", lambda: manager.refresh(GRANT))
            yield calls.way(
                "manager.authorize, SQLite",
                lambda: manager.authorize(
                    GRANT, code="fake-code", redirect_uri=REDIRECT_URI, psu=PSU
                ),
            )
    threading.setprofile(None)


def show(way: Way) -> None:
    """Print each function that a call entered; a star marks a change of module."""
    names: dict[int, str] = {}
    for entry, is_change in way.steps():
        thread = names.setdefault(entry.thread, chr(ord("a") + len(names)))
        mark = "*" if is_change else " "
        print(f"{thread} {mark} {'  ' * entry.depth}{entry.module}: {entry.name}")


def main() -> None:
    """Print a table of all calls, and the calls per module of each."""
    wanted = sys.argv[1] if len(sys.argv) > 1 else None
    found = list(ways())
    for way in found:
        if way.name == wanted:
            show(way)
    print(f"{'call':<26}{'calls':>6}{'modules':>9}{'changes':>9}  not counted")
    for way in found:
        others = ", ".join(f"{name} {number}" for name, number in sorted(way.others.items()))
        print(f"{way.name:<26}{len(way.entries):>6}{len(way.modules):>9}{way.changes:>9}  {others}")
    print()
    for way in found:
        counted = ", ".join(f"{name} {number}" for name, number in way.modules.most_common())
        print(f"{way.name}: {counted}")


if __name__ == "__main__":
    main()
