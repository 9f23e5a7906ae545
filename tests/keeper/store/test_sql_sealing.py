"""Pairs in a database open for their row and key only; a row that does not open harms no other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, Table, create_engine, event, select, update

from blink_oauth.tokens import Secret
from blink_oauth_keeper import Origin, Record, SqlTokenStore, State
from blink_oauth_keeper.errors import SealError
from blink_oauth_keeper.store.sql_tables import grants, history, journal
from blink_oauth_testing.store_contract.harness import (
    CLIENT,
    ISSUED,
    ManualClock,
    days,
    due,
    entry_values,
    grant_key,
    note,
    pair,
)

OLD, NEW, OTHER = (SqlTokenStore.new_key() for _ in range(3))
A, B, C = (grant_key(name) for name in "abc")

Contents = dict[str, list[tuple[Any, ...]]]


class SealedDatabase:
    """A database, and stores on it with different keys."""

    def __init__(self, url: str) -> None:
        self.engine: Engine = create_engine(url)
        self.clock = ManualClock()
        self.store(OLD).create_schema()

    def store(self, *keys: Secret) -> SqlTokenStore:
        """Open the database with these keys."""
        return SqlTokenStore(self.engine, keys=keys, clock=self.clock)

    def contents(self) -> Contents:
        """Return all rows of the tables."""
        with self.engine.connect() as connection:
            return {
                table.name: [tuple(row) for row in connection.execute(select(table))]
                for table in (grants, journal, history)
            }

    def change(self, table: Table, username: str, **values: object) -> None:
        """Change a row, as an attacker would."""
        with self.engine.begin() as connection:
            connection.execute(update(table).where(table.c.username == username).values(values))

    def row(self, table: Table, username: str) -> dict[str, object]:
        """Return a row."""
        with self.engine.connect() as connection:
            found = connection.execute(select(table).where(table.c.username == username))
            return dict(found.mappings().one())

    def corrupt(self, username: str) -> None:
        """Replace a sealed pair by that of another grant."""
        other = f"other-than-{username}"
        put(self.store(OLD), other, idle=9000)
        self.change(grants, username, sealed=self.row(grants, other)["sealed"])


@pytest.fixture
def sealed(database_url: str) -> Iterator[SealedDatabase]:
    """Return a database of each kind."""
    made = SealedDatabase(database_url)
    yield made
    made.engine.dispose()


def put(store: SqlTokenStore, name: str, *, idle: float = 1, pair_name: str = "") -> Record:
    """Store a pair for the grant with this username."""
    return store.put(
        grant_key(name),
        pair(pair_name or name),
        issued_at=ISSUED,
        idle_until=ISSUED + days(idle),
        note=note(),
    )


def settle(store: SqlTokenStore, claim: Record, name: str) -> bool:
    """Settle a pair."""
    settlement = store.settle(claim, pair(name), issued_at=ISSUED, idle_until=ISSUED, note=note())
    return settlement.stored


def test_a_wrong_key_opens_nothing_and_changes_nothing(sealed: SealedDatabase) -> None:
    record = put(sealed.store(OLD), "a")
    before, wrong = sealed.contents(), sealed.store(NEW)
    claim = sealed.store(OLD).load(A)
    attempts: list[Callable[[], Record | None]] = [
        lambda: wrong.load(A),
        lambda: wrong.mark_revoked(A, note=note()),
    ]
    for attempt in attempts:
        with pytest.raises(SealError, match="not among those given") as caught:
            attempt()
        assert not caught.value.retryable
    assert wrong.salvage(record, note=note()) is None
    assert wrong.claim_due(due(), owner="fake-owner", ttl=60, limit=10) == []
    assert list(wrong.due(due(), limit=10)) == []
    assert wrong.unreadable(due()) == 1
    assert wrong.rotate_keys() == 0
    assert sealed.contents() == before
    assert sealed.store(NEW, OLD).load(A) == claim == record


def test_a_pair_in_the_row_of_another_grant_is_refused(sealed: SealedDatabase) -> None:
    store = sealed.store(OLD)
    put(store, "a")
    put(store, "b")
    sealed.corrupt("a")
    before = sealed.contents()
    with pytest.raises(SealError, match="was not sealed for this row"):
        store.load(A)
    with pytest.raises(SealError):
        store.mark_revoked(A, note=note())
    assert sealed.contents() == before
    assert store.load(B) is not None


def test_an_older_pair_that_is_restored_is_refused(sealed: SealedDatabase) -> None:
    store = sealed.store(OLD)
    put(store, "a")
    old = sealed.row(grants, "a")
    put(store, "a", pair_name="newer")
    sealed.change(grants, "a", sealed=old["sealed"])
    with pytest.raises(SealError, match="older copy"):
        store.load(A)
    # Restoring its generation does not help: the consent is different.
    sealed.change(grants, "a", sealed=old["sealed"], generation=old["generation"])
    with pytest.raises(SealError):
        store.load(A)


def test_a_pair_from_the_journal_does_not_open_in_the_record(sealed: SealedDatabase) -> None:
    store = sealed.store(OLD)
    store.journal(put(store, "a"), pair("late"), origin=Origin.ERROR)
    sealed.change(grants, "a", sealed=sealed.row(journal, "a")["sealed"])
    with pytest.raises(SealError):
        store.load(A)


def test_a_new_consent_can_be_stored_if_the_key_is_lost(sealed: SealedDatabase) -> None:
    put(sealed.store(OLD), "a")
    store = sealed.store(NEW)
    record = put(store, "a", pair_name="again")
    assert record == store.load(A)
    assert (record.token, record.generation, record.consent) == (pair("again"), 2, 2)
    assert list(store.journal_entries(A)) == []
    entries = sealed.store(NEW, OLD).journal_entries(A)
    assert entry_values(list(entries)) == [(Origin.REPLACED, pair("a"), 1, 1)]


def test_a_corrupt_row_does_not_block_the_other_due_rows(
    sealed: SealedDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    store = sealed.store(OLD)
    for day, name in enumerate("abc", start=1):
        put(store, name, idle=day)
    sealed.corrupt("a")
    assert [record.key for record in store.due(due(), limit=10)] == [B, C]
    claims = store.claim_due(due(), owner="fake-owner", ttl=60, limit=1)
    assert [claim.key for claim in claims] == [B]
    assert "was not sealed for this row" in caplog.text
    row = sealed.row(grants, "a")
    assert (row["state"], row["attempts"], row["lease_until"]) == (State.ACTIVE, 0, None)
    # It gets a pause, so that it is not claimed first again.
    assert row["error"] == "SealError"
    claims = store.claim_due(due(), owner="fake-owner", ttl=60, limit=1)
    assert [claim.key for claim in claims] == [C]


def test_a_corrupt_row_stays_uncertain(sealed: SealedDatabase) -> None:
    store = sealed.store(OLD)
    claim = store.claim(put(store, "a"), owner="fake-owner", ttl=60)
    assert claim is not None
    store.release(claim, state=State.UNCERTAIN, attempts=1, pause=0, error=None, note=note())
    sealed.corrupt("a")
    assert store.claim_due(due(attempts=1), owner="fake-owner", ttl=60, limit=9) == []
    row = sealed.row(grants, "a")
    assert (row["state"], row["attempts"]) == (State.UNCERTAIN, 1)


def test_records_returns_a_record_that_cannot_be_opened_without_its_pair(
    sealed: SealedDatabase, caplog: pytest.LogCaptureFixture
) -> None:
    put(sealed.store(OLD), "a")
    store = sealed.store(NEW)
    put(store, "b")
    first, second = store.records(CLIENT)
    assert (first.key, first.token, first.error) == (A, None, "SealError")
    assert (second.key, second.token, second.error) == (B, None, None)
    assert store.claim(first, owner="fake-owner", ttl=60) is None
    [warning] = caplog.records
    assert (warning.name, warning.levelno) == ("blink_oauth_keeper.store", logging.WARNING)


def test_a_corrupt_journal_entry_does_not_hide_the_others(sealed: SealedDatabase) -> None:
    store = sealed.store(OLD)
    record = put(store, "a")
    store.journal(record, pair("late"), origin=Origin.SUPERSEDED)
    claim = store.claim(record, owner="fake-owner", ttl=60)
    assert claim is not None
    sealed.change(journal, "a", sealed="nonsense")
    store.journal(record, pair("later"), origin=Origin.SUPERSEDED)
    assert [entry.token for entry in store.journal_entries(A)] == [pair("later")]
    salvaged = store.salvage(claim, note=note())
    assert salvaged is not None
    assert salvaged.token == pair("later")


def test_a_superseded_pair_is_journaled_if_the_stored_pair_cannot_be_opened(
    sealed: SealedDatabase,
) -> None:
    store = sealed.store(OLD)
    claim = store.claim(put(store, "a"), owner="fake-owner", ttl=60)
    assert claim is not None
    put(sealed.store(NEW), "a", pair_name="again")
    for _ in range(2):
        late = store.settle(claim, pair("late"), issued_at=ISSUED, idle_until=ISSUED, note=note())
        assert late.record is not None
        assert (late.stored, late.record.token, late.record.error) == (False, None, "SealError")
    entries = [entry.token for entry in sealed.store(NEW, OLD).journal_entries(A)]
    assert entries == [pair("late"), pair("a")]


def fill(store: SqlTokenStore, count: int) -> None:
    """Store some grants, each with an entry in the journal."""
    for number in range(count):
        record = put(store, f"customer-{number}")
        store.journal(record, pair(f"late-{number}"), origin=Origin.ERROR)


def test_a_rotation_seals_all_pairs_with_the_first_key(sealed: SealedDatabase) -> None:
    fill(sealed.store(OLD), 5)
    both, other = sealed.store(NEW, OLD), sealed.store(OTHER)
    put(other, "z")
    fresh = put(both, "fresh")
    before = [both.load(record.key) for record in both.records(CLIENT) if record.error is None]
    assert len(before) == 6
    assert both.count_older_seals() == 11
    # The pair that is sealed with a missing key is counted and skipped.
    assert both.rotate_keys(batch=2) == 10
    assert both.count_older_seals() == 1
    assert both.rotate_keys(batch=2) == 0
    assert [both.load(record.key) for record in before if record] == before
    new = sealed.store(NEW)
    assert new.load(fresh.key) == fresh
    for number in range(5):
        key = grant_key(f"customer-{number}")
        assert [entry.token for entry in new.journal_entries(key)] == [pair(f"late-{number}")]
    assert other.load(grant_key("z")) is not None


def test_a_rotation_skips_an_erased_grant(sealed: SealedDatabase) -> None:
    store = sealed.store(OLD)
    put(store, "a")
    revoked = store.mark_revoked(A, note=note())
    assert revoked is not None
    assert store.erase(revoked, journaled=[], note=note())
    both = sealed.store(NEW, OLD)
    assert (both.count_older_seals(), both.rotate_keys()) == (0, 0)


def test_a_corrupt_row_does_not_stop_the_rotation(sealed: SealedDatabase) -> None:
    store = sealed.store(OLD)
    for name in "abc":
        put(store, name)
    sealed.corrupt("b")
    both = sealed.store(NEW, OLD)
    # The third is the row of the grant that the wrong pair was copied from.
    assert both.rotate_keys(batch=1) == 3
    assert both.count_older_seals() == 1
    assert sealed.store(NEW).load(C) is not None


def test_a_rotation_does_not_overwrite_a_pair_that_is_settled_meanwhile(
    sealed: SealedDatabase,
) -> None:
    old, both = sealed.store(OLD), sealed.store(NEW, OLD)
    claim = old.claim(put(old, "a"), owner="fake-owner", ttl=60)
    assert claim is not None
    assert both.count_older_seals() == 1
    claims, settled = [claim], []

    def settle_meanwhile(
        connection: Connection, cursor: object, statement: str, *rest: object
    ) -> None:
        # The rotation has read the row and not written it yet.
        if statement.startswith("BEGIN") and claims:
            settled.append(settle(old, claims.pop(), "new"))

    event.listen(sealed.engine, "before_cursor_execute", settle_meanwhile)
    assert both.rotate_keys() == 0
    assert settled == [True]
    record = old.load(A)
    assert record is not None
    assert record.token == pair("new")
    assert both.rotate_keys() == 1
    assert both.load(A) == record


def test_two_concurrent_rotations_seal_each_pair_once(sealed: SealedDatabase) -> None:
    fill(sealed.store(OLD), 20)
    both = sealed.store(NEW, OLD)
    counts: list[int] = []

    def rotate() -> None:
        counts.append(both.rotate_keys(batch=3))

    run_together(rotate, rotate)
    assert sum(counts) == 40
    assert both.count_older_seals() == 0


def test_refreshes_succeed_during_a_rotation(sealed: SealedDatabase) -> None:
    old, both = sealed.store(OLD), sealed.store(NEW, OLD)
    fill(old, 10)
    names = [f"customer-{number}" for number in range(10)]
    stored: list[bool] = []

    def refresh() -> None:
        for name in names:
            seen = both.load(grant_key(name))
            assert seen is not None
            claim = both.claim(seen, owner="fake-owner", ttl=60)
            assert claim is not None
            stored.append(settle(both, claim, f"new-{name}"))

    def rotate() -> None:
        both.rotate_keys(batch=1)

    run_together(refresh, rotate)
    assert stored == [True] * 10
    assert both.rotate_keys() == 0
    new = sealed.store(NEW)
    found = [new.load(record.key) for record in new.records(CLIENT)]
    assert [record and record.token for record in found] == [pair(f"new-{name}") for name in names]


def run_together(*functions: Callable[[], None]) -> None:
    """Run functions at the same time, each in a thread."""
    threads = [threading.Thread(target=function) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_purge_deletes_entries_older_than_their_retention(sealed: SealedDatabase) -> None:
    store = SqlTokenStore(
        sealed.engine,
        keys=[OLD],
        clock=sealed.clock,
        journal_retention=timedelta(hours=1),
        history_retention=timedelta(hours=2),
    )
    store.journal(put(store, "a"), pair("late"), origin=Origin.ERROR)
    sealed.clock.advance(3601)
    assert store.purge() == 1
    sealed.clock.advance(3600)
    assert store.purge() == 1
