"""Tables of the version before: both versions use them, then the upgrade is finished."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, select, update
from sqlalchemy.exc import OperationalError

from blink_oauth.tokens import Secret
from blink_oauth_keeper import Origin, Record, SqlTokenStore, State
from blink_oauth_keeper.errors import SealError, StoreError
from blink_oauth_keeper.store.sql_tables import SHARED_VERSION, VERSION, grants, journal, schema
from blink_oauth_testing.store_contract.harness import (
    CLIENT,
    ISSUED,
    ManualClock,
    due,
    entry_values,
    grant_key,
    note,
    pair,
)
from keeper.store.first_version import FirstVersion, create_first_version

KEY, OTHER = (SqlTokenStore.new_key() for _ in range(2))
A, B = (grant_key(name) for name in "ab")
REFUSED = "altered, moved or put back"


class Shared:
    """A database of the version before, a process of that version, and a store of this one."""

    def __init__(self, url: str) -> None:
        self.engine: Engine = create_engine(url)
        self.clock = ManualClock()
        create_first_version(self.engine)
        self.old = FirstVersion(self.engine, KEY)
        self.old.put(A, pair("a"))
        self.store = self.open()
        self.store.create_schema()

    def open(self, *keys: Secret) -> SqlTokenStore:
        """Open the database, by default with the key of the old process."""
        return SqlTokenStore(self.engine, keys=keys or [KEY], clock=self.clock)

    def load(self) -> Record:
        """Return the record of the first grant."""
        record = self.store.load(A)
        assert record is not None
        return record

    def claim(self) -> Record:
        """Claim the record of the first grant, which must succeed."""
        claim = self.store.claim(self.load(), owner="fake-owner", ttl=60)
        assert claim is not None
        return claim

    def settle(self, claim: Record, name: str) -> bool:
        """Settle a pair."""
        settlement = self.store.settle(
            claim, pair(name), issued_at=ISSUED, idle_until=ISSUED, note=note()
        )
        return settlement.stored

    def versions(self) -> list[int]:
        """Return the stored versions."""
        with self.engine.connect() as connection:
            return sorted(connection.scalars(select(schema.c.version)))

    def change(self, **values: object) -> None:
        """Change the row of the first grant, as an attacker would."""
        of_first = grants.c.username == A.grant.username
        with self.engine.begin() as connection:
            connection.execute(update(grants).where(of_first).values(values))

    def contents(self) -> list[object]:
        """Return all rows of grants and journal."""
        with self.engine.connect() as connection:
            return [
                tuple(row)
                for table in (grants, journal)
                for row in connection.execute(select(table))
            ]


@pytest.fixture
def shared(database_url: str) -> Iterator[Shared]:
    """Return a database of each kind."""
    made = Shared(database_url)
    yield made
    made.engine.dispose()


def test_rows_of_the_version_before_are_used_as_they_are(shared: Shared) -> None:
    record = shared.load()
    assert (record.token, record.generation, record.state) == (pair("a"), 1, State.ACTIVE)
    assert [found.key for found in shared.store.due(due(), limit=9)] == [A]
    [claim] = shared.store.claim_due(due(), owner="fake-owner", ttl=60, limit=9)
    assert shared.settle(claim, "newer")
    assert shared.load().token == pair("newer")
    assert shared.store.needs_upgrade()


def test_both_versions_write_the_same_rows_in_turn(shared: Shared) -> None:
    # After each write of the new version the MAC is right, and the old one does not update it.
    assert shared.settle(shared.claim(), "b")
    shared.old.claim(A)
    assert (shared.load().state, shared.load().attempts) == (State.REFRESHING, 1)
    shared.old.release(A, "uncertain")
    assert shared.load().state is State.UNCERTAIN
    claim = shared.claim()
    assert claim.attempts == 2
    shared.old.settle(A, pair("c"))
    assert not shared.settle(claim, "d")
    shared.old.put(A, pair("e"))
    record = shared.load()
    assert (record.token, record.consent) == (pair("e"), 2)
    assert entry_values(list(shared.store.journal_entries(A))) == [
        (Origin.REPLACED, pair("c"), 3, 1),
        (Origin.SUPERSEDED, pair("d"), 3, 1),
    ]
    assert shared.store.mark_revoked(A, note=note()) is not None


def test_the_journal_of_the_version_before_is_salvaged(shared: Shared) -> None:
    shared.old.journal(A, pair("late"), "superseded")
    salvaged = shared.store.salvage(shared.claim(), note=note())
    assert salvaged is not None
    assert salvaged.token == pair("late")


def test_a_refused_pair_that_the_version_before_moved_is_known_as_refused(shared: Shared) -> None:
    assert shared.settle(shared.claim(), "b")
    shared.old.refuse(A)
    [entry] = shared.store.journal_entries(A)
    assert (entry.origin, entry.token) == (Origin.REFUSED, pair("b"))


def test_after_the_upgrade_every_row_is_bound_and_authenticated(shared: Shared) -> None:
    shared.old.put(B, pair("b"))
    shared.old.journal(A, pair("late"), "superseded")
    shared.old.claim(B)
    before, entries = shared.store.records(CLIENT), shared.store.journal_entries(A)
    shared.store.finish_upgrade(batch=1)
    assert shared.versions() == [SHARED_VERSION, VERSION]
    assert not shared.store.needs_upgrade()
    for store in (shared.store, shared.open()):
        assert store.records(CLIENT) == before
        assert store.load(B) is not None
        assert store.journal_entries(A) == entries
        assert not store.needs_upgrade()


def test_after_the_upgrade_a_changed_state_is_refused(shared: Shared) -> None:
    shared.old.claim(A)
    shared.old.release(A, "needs_consent")
    shared.change(state="active")
    # Nothing shows before the upgrade that the old process did not write this.
    assert shared.load().state is State.ACTIVE
    shared.change(state="needs_consent")
    shared.store.finish_upgrade()
    assert shared.load().state is State.NEEDS_CONSENT
    shared.change(state="active")
    for store in (shared.store, shared.open()):
        with pytest.raises(SealError, match=REFUSED):
            store.load(A)


def test_after_the_upgrade_a_pair_from_before_it_is_refused(shared: Shared) -> None:
    row = shared.old.row(A)
    assert row is not None
    shared.store.finish_upgrade()
    shared.change(sealed=row["sealed"])
    with pytest.raises(SealError, match=REFUSED):
        shared.store.load(A)


def test_a_finished_upgrade_accepts_no_altered_row_when_it_is_called_again(shared: Shared) -> None:
    shared.store.finish_upgrade()
    shared.change(attempts=7)
    before = shared.contents()
    for store in (shared.store, shared.open()):
        store.finish_upgrade()
        assert shared.contents() == before
        with pytest.raises(SealError, match=REFUSED):
            store.load(A)


def test_a_process_that_began_before_the_upgrade_goes_on(shared: Shared) -> None:
    began_before = shared.open()
    seen = began_before.load(A)
    assert seen is not None
    shared.store.finish_upgrade()
    claim = began_before.claim(seen, owner="fake-owner", ttl=60)
    assert claim is not None
    assert shared.load().state is State.REFRESHING
    began_before.settle(claim, pair("b"), issued_at=ISSUED, idle_until=ISSUED, note=note())
    assert shared.load().token == pair("b")
    assert began_before.load(A) == shared.load()
    record = began_before.put(A, pair("c"), issued_at=ISSUED, idle_until=ISSUED, note=note())
    assert shared.load() == record
    assert [entry.token for entry in shared.store.journal_entries(A)] == [pair("b")]


def test_an_upgrade_with_a_missing_key_changes_nothing(shared: Shared) -> None:
    FirstVersion(shared.engine, OTHER).put(B, pair("b"))
    before = shared.contents()
    with pytest.raises(SealError, match="1 stored pairs are sealed with keys that are not among"):
        shared.store.finish_upgrade()
    assert shared.contents() == before
    assert shared.versions() == [SHARED_VERSION]
    both = shared.open(KEY, OTHER)
    both.finish_upgrade()
    assert both.load(B) is not None


def test_an_upgrade_skips_what_was_altered_before_and_leaves_it_refused(shared: Shared) -> None:
    shared.old.put(B, pair("b"))
    row = shared.old.row(B)
    assert row is not None
    shared.change(sealed=row["sealed"])
    shared.store.finish_upgrade()
    assert not shared.store.needs_upgrade()
    with pytest.raises(SealError, match=REFUSED):
        shared.store.load(A)
    assert shared.store.load(B) is not None


def test_an_interrupted_upgrade_can_be_repeated(shared: Shared) -> None:
    for name in "bcdef":
        shared.old.put(grant_key(name), pair(name))
    commits = []

    def fail(connection: Connection, cursor: object, statement: str, *rest: object) -> None:
        commits.append(statement == "COMMIT")
        if sum(commits) == 3:
            raise OperationalError("fake", None, Exception("the connection is lost"))

    event.listen(shared.engine, "before_cursor_execute", fail)
    with pytest.raises(StoreError):
        shared.store.finish_upgrade(batch=2)
    event.remove(shared.engine, "before_cursor_execute", fail)
    assert shared.store.needs_upgrade()
    for name in "abcdef":
        assert shared.open().load(grant_key(name)) is not None
    shared.store.finish_upgrade(batch=2)
    for name in "abcdef":
        assert shared.store.load(grant_key(name)) is not None


def test_the_store_is_in_use_during_the_upgrade(shared: Shared) -> None:
    keys = [grant_key(f"customer-{number}") for number in range(12)]
    for key in keys:
        shared.old.put(key, pair(key.grant.username))
    began_before = shared.open()
    stored: list[bool] = []

    def refresh() -> None:
        for key in keys:
            seen = began_before.load(key)
            assert seen is not None
            claim = began_before.claim(seen, owner="fake-owner", ttl=60)
            assert claim is not None
            token = pair(f"new-{key.grant.username}")
            settlement = began_before.settle(
                claim, token, issued_at=ISSUED, idle_until=ISSUED, note=note()
            )
            stored.append(settlement.stored)

    threads = [
        threading.Thread(target=refresh),
        *(threading.Thread(target=shared.open().finish_upgrade, kwargs={"batch": 1}) for _ in "12"),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert stored == [True] * len(keys)
    upgraded = shared.open()
    assert not upgraded.needs_upgrade()
    for key in keys:
        record = upgraded.load(key)
        assert record is not None
        assert record.token == pair(f"new-{key.grant.username}")


def test_a_row_that_the_version_before_writes_after_the_upgrade_is_refused(shared: Shared) -> None:
    shared.store.finish_upgrade()
    shared.old.claim(A)
    with pytest.raises(SealError, match=REFUSED):
        shared.store.load(A)
