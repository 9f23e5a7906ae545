"""What threads share without a lock stays right, however the interpreter interleaves them.

The interpreter switches threads after each microsecond here. A free-threaded build needs no switch.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from weakref import WeakKeyDictionary

import pytest

from blink_oauth import Grant, NotConnectedError, Token
from blink_oauth_keeper import StoreError, TargetProfile
from blink_oauth_keeper.cache import Cache
from blink_oauth_keeper.executor import Reported
from blink_oauth_keeper.processes import existing
from blink_oauth_keeper.steps import Result
from blink_oauth_keeper.store.protocol import GrantKey, Record, State
from keeper.harness import (
    CLIENT_ID,
    DAY,
    START,
    TARGET,
    TIMEOUT,
    Harness,
    ManualClock,
    concurrently,
)

GRANT = Grant(TARGET, "u-4711")
PROFILE = TargetProfile()
FAILURE = NotConnectedError("Not connected.")
THREADS = 4
ROUNDS = 2_000
KEPT = 400


@pytest.fixture(autouse=True)
def _many_switches() -> Iterator[None]:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.fixture
def cache() -> Cache:
    clock = ManualClock()
    return Cache(clock.now, clock.monotonic)


def result(generation: int) -> Result:
    """Return the result of a flight that has found a pair."""
    token = Token(
        access_token=f"fake-access-token-{generation}",
        refresh_token=f"fake-refresh-token-{generation}",
        expires_at=START + timedelta(seconds=DAY),
    )
    return Result(
        Record(
            key=GrantKey(CLIENT_ID, GRANT),
            generation=generation,
            consent=1,
            state=State.ACTIVE,
            token=token,
            issued_at=START,
            idle_until=None,
            updated_at=START,
        )
    )


def while_running(work: Callable[[int], None], observe: Callable[[], None]) -> None:
    """Work in some threads at once, each with its number, and observe as long as one works."""
    together = threading.Barrier(THREADS + 1)

    def one(number: int) -> None:
        together.wait(TIMEOUT)
        work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        working = [pool.submit(one, number) for number in range(THREADS)]
        together.wait(TIMEOUT)
        while not all(each.done() for each in working):
            observe()
        for each in working:
            each.result()


def test_a_reader_of_the_cache_never_finds_an_older_pair_than_before(cache: Cache) -> None:
    results = [result(generation) for generation in range(ROUNDS)]
    cache.update(GRANT, results[0], PROFILE)
    newest = 0

    def update(number: int) -> None:
        # Each flight has read the store at another time.
        for each in results[number::THREADS]:
            cache.update(GRANT, each, PROFILE)

    def observe() -> None:
        nonlocal newest
        generation = cache.tokens[GRANT].record.generation
        assert generation >= newest
        newest = generation

    while_running(update, observe)
    assert cache.tokens[GRANT].record.generation == ROUNDS - 1


def test_the_cache_always_knows_a_record_while_pairs_are_refused_and_replaced(
    cache: Cache,
) -> None:
    results = [result(generation) for generation in range(ROUNDS)]
    cache.update(GRANT, results[0], PROFILE)

    def replace(number: int) -> None:
        for each in results[number::THREADS]:
            cache.update(GRANT, each, PROFILE)
            if (cached := cache.tokens.get(GRANT)) is not None:
                cache.invalidate(GRANT, cached.token)

    def observe() -> None:
        assert cache.known(GRANT) is not None

    cache.monotonic = lambda: 0.0
    cache.now = lambda: START + timedelta(minutes=2)
    while_running(replace, observe)
    assert cache.refused[GRANT].generation == ROUNDS - 1


def test_each_failure_is_counted(cache: Cache) -> None:
    def fail(_: int) -> None:
        for _ in range(ROUNDS):
            cache.update(GRANT, Result(error=FAILURE), PROFILE)

    while_running(fail, lambda: None)
    assert cache.failures[GRANT] == THREADS * ROUNDS


class Finding:
    """Something to report: another thread may run before each operation that looks it up."""

    def __hash__(self) -> int:
        time.sleep(0)
        return id(self)


def test_of_all_threads_that_find_the_same_thing_one_reports_it() -> None:
    reported, findings = Reported(), [Finding() for _ in range(KEPT)]
    new: list[Finding] = []

    def find(_: int) -> None:
        new.extend(filter(reported.is_new, findings))

    while_running(find, lambda: None)
    assert len(new) == len(findings)
    assert {id(each) for each in new} == {id(each) for each in findings}


def test_no_caller_gets_an_older_token_than_a_refresh_has_returned(harness: Harness) -> None:
    grant = harness.authorize()
    newest, is_over = harness.manager.get(grant), threading.Event()

    def number(token: Token) -> int:
        return int(token.access_token.reveal().rpartition("-")[2])

    def get() -> int:
        calls = 0
        while not is_over.is_set():
            at_least = number(newest)
            assert number(harness.manager.get(grant)) >= at_least
            calls += 1
        return calls

    callers = [harness.in_thread(get) for _ in range(THREADS)]
    try:
        for _ in range(10):
            newest = harness.manager.refresh(grant)
    finally:
        is_over.set()
    assert all(caller.result(TIMEOUT) > 0 for caller in callers)


def test_callers_that_come_while_a_flight_fails_share_its_failure(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.fail()
    for flights in range(1, 6):
        errors = concurrently(lambda: harness.manager.get(grant), 64)
        assert {type(error) for error in errors} == {StoreError}
        assert harness.faulty.calls.count("load") == flights + 1
        harness.advance(DAY)


class Registered:
    """An object that a registry refers to weakly."""


def test_a_registry_can_be_listed_while_other_threads_add_to_it() -> None:
    registry: WeakKeyDictionary[Registered, int] = WeakKeyDictionary()
    kept = [Registered() for _ in range(KEPT)]
    for number, each in enumerate(kept):
        registry[each] = number

    def add(_: int) -> None:
        # An object that nothing else refers to leaves the registry at once.
        for number in range(ROUNDS):
            registry[Registered()] = number

    def observe() -> None:
        listed = existing(registry)
        assert {number for each, number in listed if each in kept_objects} == set(range(KEPT))

    kept_objects = set(kept)
    while_running(add, observe)
