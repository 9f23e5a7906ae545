"""MemoryTokenStore: the contract, memory use, forks, retention and clocks."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
import tracemalloc
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from blink_oauth import Grant, InvalidInputError, Token
from blink_oauth_keeper import DueQuery, GrantKey, MemoryTokenStore, Note, Record
from blink_oauth_testing.store_contract import ManualClock, TokenStoreContract

KEY = GrantKey("CIDX0000000002", Grant("IIDX99999", "customer"))
NOW = datetime(2030, 5, 17, 9, 30, tzinfo=UTC)
GRANTS = 2_000
CACHE_BYTES = 170
"""Bytes that the keeper's cache needs for each grant: an object, a date, an entry."""

FORK = """
import inspect, os
from datetime import UTC, datetime
from blink_oauth import Grant, Token
from blink_oauth_keeper.errors import StoreError
from blink_oauth_keeper import GrantKey, MemoryTokenStore, Note, TokenStore

def call(method):
    parameters = inspect.signature(method).parameters.values()
    positional = [None for p in parameters if p.kind is not p.KEYWORD_ONLY]
    return method(*positional, **{p.name: None for p in parameters if p.kind is p.KEYWORD_ONLY})

store = MemoryTokenStore()
key, token = GrantKey("CIDX0000000002", Grant("IIDX99999", "customer")), Token(access_token="fake")
store.put(key, token, issued_at=datetime.now(UTC), idle_until=None, note=Note(event="authorized"))
store._lock.acquire()  # another thread may hold it when the process forks
child = os.fork()
if child:
    store._lock.release()
    print("the child ended with", os.waitpid(child, 0)[1])
    print("the parent reads", store.load(key).token == token)
    raise SystemExit
names = [name for name in vars(TokenStore) if not name.startswith("_") and name != "close"]
for name in names:
    try:
        call(getattr(store, name))
    except StoreError as error:
        assert "after a fork" in str(error) and "SqlTokenStore" in str(error)
        assert not error.retryable
        names = [other for other in names if other != name]
store.close()
print("the child could still use", names, flush=True)
os._exit(0)
"""


class TestMemoryTokenStore(TokenStoreContract):
    """The contract."""

    def make_store(self, clock: ManualClock) -> MemoryTokenStore:
        return MemoryTokenStore(clock=clock)


def put(store: MemoryTokenStore, key: GrantKey = KEY, number: int = 0) -> Record:
    """Store a pair of fake tokens."""
    token = Token(
        access_token=f"fake-access-token-{number:06}",
        refresh_token=f"fake-refresh-token-{number:06}",
        token_type="BEARER".lower(),  # a new string, as in each response
        expires_at=NOW + timedelta(seconds=number),
        scope=frozenset({"accounts", "payments"}),
    )
    return store.put(
        key,
        token,
        issued_at=NOW + timedelta(seconds=number),
        idle_until=NOW + timedelta(days=30, seconds=number),
        note=Note(event="authorized", correlation_id=f"{number:036}"),
    )


def test_after_a_fork_the_store_raises_in_the_child_and_works_in_the_parent() -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "the child could still use []",
        "the child ended with 0",
        "the parent reads True",
    ], done.stderr


def test_a_grant_takes_at_most_a_kilobyte_besides_its_texts() -> None:
    clock = ManualClock()
    text_bytes = 0
    tracemalloc.start()
    try:
        store = MemoryTokenStore(clock=clock)
        for number in range(GRANTS):
            clock.advance(0.01)
            grant = Grant(f"IIDX{number % 20:05}", f"customer-{number:06}@example.com")
            record = put(store, GrantKey("CIDX0000000002", grant), number)
            assert record.token is not None
            assert record.token.refresh_token is not None
            tokens = [record.token.access_token, record.token.refresh_token]
            names = [grant.target_id, grant.username, str(record.correlation_id)]
            text_bytes += sum(sys.getsizeof(text) for text in names)
            text_bytes += sum(sys.getsizeof(token.reveal()) for token in tokens)
        # Python 3.11 keeps up to 2,000 freed tuples of 20 values, as many as a record has.
        gc.collect()
        used = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert 0 < (used - text_bytes) / GRANTS <= 1024 - CACHE_BYTES


def test_readers_of_a_grant_without_lease_and_pause_share_one_record() -> None:
    store = MemoryTokenStore()
    record = put(store)
    assert store.load(KEY) is record
    assert (
        store.due(DueQuery(client_id=KEY.client_id, before=NOW + timedelta(days=30)), limit=1)[0]
        is record
    )


def test_grants_share_equal_scopes_and_token_types() -> None:
    store = MemoryTokenStore()
    records = [put(store, GrantKey(f"CIDX{n}", KEY.grant), n) for n in range(2)]
    first, second = (record.token for record in records)
    assert first is not None
    assert second is not None
    assert first.scope is second.scope
    assert first.token_type is second.token_type


def test_reading_unknown_grants_stores_nothing() -> None:
    grants: dict[GrantKey, Any] = {}
    store = MemoryTokenStore(grants=grants)
    record = put(MemoryTokenStore())
    assert store.load(KEY) is None
    assert store.claim(record, owner="owner", ttl=20) is None
    assert store.mark_revoked(KEY, note=Note(event="revoked")) is None
    assert not store.erase(record, journaled=[], note=Note(event="erased"))
    assert (list(store.history(KEY)), list(store.journal_entries(KEY))) == ([], [])
    assert grants == {}


def test_the_history_keeps_its_newest_twenty_entries() -> None:
    for has_correlation_id in (True, False):
        grants: dict[GrantKey, Any] = {}
        store = MemoryTokenStore(grants=grants)
        for number in range(50):
            put(store, number=number)
            if not has_correlation_id:
                store.mark_revoked(KEY, note=Note(event=f"revoked-{number}"))
        history = store.history(KEY, limit=1000)
        assert len(history) == 20
        newest = history[0]
        if has_correlation_id:
            assert [entry.generation for entry in history] == list(range(50, 30, -1))
            assert newest.note == Note(event="authorized", correlation_id=f"{49:036}")
        else:
            assert [entry.generation for entry in history] == list(range(100, 80, -1))
            assert newest.note == Note(event="revoked-49")
        assert len(grants[KEY].extras.older_entries) <= 20


@pytest.mark.parametrize("duplicate", [pickle.dumps, copy.copy, copy.deepcopy])
def test_a_store_can_be_neither_pickled_nor_copied(duplicate: object) -> None:
    store = MemoryTokenStore()
    put(store)
    assert callable(duplicate)
    with pytest.raises(TypeError, match="SqlTokenStore") as refused:
        duplicate(store)
    assert "fake-" not in str(refused.value)
    assert "fake-" not in repr(store)


def test_each_store_makes_its_own_fingerprints() -> None:
    fingerprints = {MemoryTokenStore().fingerprint("fake-token") for _ in range(3)}
    assert len(fingerprints) == 3
    assert {len(fingerprint) for fingerprint in fingerprints} == {16}


def test_a_store_without_a_clock_uses_the_current_time() -> None:
    # `updated_at` has no fraction of a second, so that grants share it.
    before = datetime.now(UTC).replace(microsecond=0)
    record = put(MemoryTokenStore())
    assert before <= record.updated_at <= datetime.now(UTC)


def test_a_clock_may_return_the_time_in_any_zone() -> None:
    far_away = NOW.astimezone(timezone(timedelta(hours=9)))
    record = put(MemoryTokenStore(clock=lambda: far_away))
    assert record.updated_at == NOW
    assert record.updated_at.tzinfo is UTC


def test_a_datetime_without_a_time_zone_is_refused_and_nothing_is_stored() -> None:
    store = MemoryTokenStore()
    first = put(store)
    naive = NOW.replace(tzinfo=None)
    token = Token(access_token="fake-access-token-other")
    note = Note(event="authorized")
    with pytest.raises(InvalidInputError, match="time zone"):
        store.put(KEY, token, issued_at=naive, idle_until=None, note=note)
    with pytest.raises(InvalidInputError, match="time zone"):
        store.settle(first, token, issued_at=NOW, idle_until=naive, note=note)
    assert store.load(KEY) is first
    assert list(store.journal_entries(KEY)) == []


def test_closing_a_store_keeps_its_tokens() -> None:
    store = MemoryTokenStore()
    record = put(store)
    store.close()
    assert store.load(KEY) is record


def test_entries_are_purged_at_the_retention_of_the_store() -> None:
    clock = ManualClock()
    store = MemoryTokenStore(
        clock=clock, journal_retention=timedelta(hours=1), history_retention=timedelta(hours=2)
    )
    put(store, number=1)
    put(store, number=2)
    clock.advance(3601)
    assert store.purge() == 1
    clock.advance(3600)
    assert store.purge() == 2
    assert list(store.history(KEY)) == []
