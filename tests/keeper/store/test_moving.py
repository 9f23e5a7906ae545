"""Grants move to another store: no token is presented, lost, or usable in two stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from attrs import define, evolve, field
from sqlalchemy import Connection, Engine, create_engine, delete, event, select, update

from blink_oauth.tokens import Secret, Token
from blink_oauth_keeper import (
    GrantKey,
    NewNotice,
    Notice,
    NoticeKind,
    Origin,
    Record,
    SqlTokenStore,
    State,
)
from blink_oauth_keeper.errors import SealError, StoreError
from blink_oauth_keeper.store.moving import CopyReport, copy_grants
from blink_oauth_keeper.store.rules import CLAIMABLE
from blink_oauth_keeper.store.sql_tables import clock, grants, history, journal, notices
from blink_oauth_testing.store_contract.harness import (
    CLIENT,
    ISSUED,
    ManualClock,
    days,
    entry_values,
    grant_key,
    note,
    pair,
    untimed,
)
from postgresql import PostgreSQL

OLD_KEY, NEW_KEY, OTHER = (SqlTokenStore.new_key() for _ in range(3))
A, B, C = (grant_key(name) for name in "abc")
IDLE = ISSUED + days(30)
MOVED = "grant.moved"
LOST, AT_RISK, RECOVERED = (
    NewNotice(kind=kind, reason="fake", ends_at=IDLE)
    for kind in (NoticeKind.LOST, NoticeKind.AT_RISK, NoticeKind.RECOVERED)
)


class KilledError(Exception):
    """Stands for the kill of the process that moves the grants."""


@define(eq=False)
class Stores:
    """Two stores with keys of their own, and a clock that both use."""

    source_engine: Engine
    target_engine: Engine
    clock: ManualClock = field(factory=ManualClock)
    slept: list[float] = field(factory=list)
    while_waiting: Callable[[], None] = field(default=lambda: None)

    def source(self, *keys: Secret) -> SqlTokenStore:
        """Open the source."""
        return self._open(self.source_engine, keys or (OLD_KEY,))

    def target(self, *keys: Secret) -> SqlTokenStore:
        """Open the target."""
        return self._open(self.target_engine, keys or (NEW_KEY,))

    def _open(self, engine: Engine, keys: tuple[Secret, ...]) -> SqlTokenStore:
        return SqlTokenStore(engine, keys=keys, clock=self.clock)

    def copy(
        self,
        source: SqlTokenStore | None = None,
        target: SqlTokenStore | None = None,
        *,
        wait: float = 30,
        dry_run: bool = False,
    ) -> CopyReport:
        """Move all grants from the source to the target."""
        return copy_grants(
            source or self.source(),
            target or self.target(),
            wait=wait,
            monotonic=lambda: self.clock().timestamp(),
            sleep=self._sleep,
            dry_run=dry_run,
        )

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.while_waiting()
        self.clock.advance(seconds)

    def empty(self) -> None:
        """Delete all rows of both stores."""
        for engine in (self.source_engine, self.target_engine):
            with engine.begin() as connection:
                for table in (grants, journal, history, notices, clock):
                    connection.execute(delete(table))

    def contents(self) -> list[object]:
        """Return all rows of grants and journal in both stores."""
        rows: list[object] = []
        for engine in (self.source_engine, self.target_engine):
            with engine.connect() as connection:
                rows += [
                    tuple(row)
                    for table in (grants, journal)
                    for row in connection.execute(select(table))
                ]
        return rows


@pytest.fixture(
    scope="module", params=["sqlite to sqlite", "sqlite to postgresql", "postgresql to sqlite"]
)
def engines(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[list[Engine]]:
    """Return two databases with the tables: to create them anew for each test is slow."""
    folder = tmp_path_factory.mktemp("stores")
    with ExitStack() as stack:
        made = []
        for number, kind in enumerate(request.param.split(" to ")):
            url = f"sqlite:///{folder / f'{number}.db'}"
            if kind == "postgresql":
                server: PostgreSQL = request.getfixturevalue("postgres")
                name = server.create()
                stack.callback(server.drop, name)
                url = server.url(name)
            made.append(create_engine(url))
            stack.callback(made[-1].dispose)
            SqlTokenStore(made[-1], keys=[OLD_KEY]).create_schema()
        yield made


@pytest.fixture
def stores(engines: list[Engine]) -> Stores:
    """Return the two empty stores."""
    source, target = engines
    made = Stores(source, target)
    made.empty()
    return made


def put(store: SqlTokenStore, key: GrantKey, name: str) -> Record:
    """Store the pair of a new consent."""
    return store.put(key, pair(name), issued_at=ISSUED, idle_until=IDLE, note=note("authorized"))


def claim(store: SqlTokenStore, key: GrantKey, ttl: float = 25) -> Record:
    """Claim a grant, which must succeed."""
    seen = store.load(key)
    assert seen is not None
    made = store.claim(seen, owner="fake-owner", ttl=ttl)
    assert made is not None
    return made


def refresh(store: SqlTokenStore, key: GrantKey, name: str) -> Record:
    """Store the pair of a refresh."""
    settled = store.settle(
        claim(store, key), pair(name), issued_at=ISSUED, idle_until=IDLE, note=note("refreshed")
    )
    assert settled.stored
    assert settled.record is not None
    return settled.record


def release(store: SqlTokenStore, key: GrantKey, state: State, attempts: int) -> None:
    """Release a new claim with a state."""
    made = claim(store, key)
    assert store.release(
        made, state=state, attempts=attempts, pause=40, error="FakeError", note=note("failed")
    )


def loaded(store: SqlTokenStore, key: GrantKey) -> Record:
    """Return the record of a grant, which must be there."""
    record = store.load(key)
    assert record is not None
    return record


def can_be_refreshed(record: Record | None) -> bool:
    """Return whether a process may claim a record, now or after a pause."""
    return record is not None and record.token is not None and record.state in CLAIMABLE


def events(store: SqlTokenStore, key: GrantKey) -> list[str]:
    """Return the events in the history of a grant, the oldest first."""
    return [entry.note.event for entry in reversed(store.history(key))]


def active(store: SqlTokenStore) -> None:
    put(store, A, "a")
    refresh(store, A, "b")


def uncertain(store: SqlTokenStore) -> None:
    put(store, A, "a")
    release(store, A, State.UNCERTAIN, 1)


def with_a_foreign_pair(store: SqlTokenStore) -> None:
    uncertain(store)
    for origin in (Origin.FOREIGN, Origin.SUPERSEDED):
        store.journal(loaded(store, A), pair("late"), origin=origin)


def refused_for_days(store: SqlTokenStore) -> None:
    put(store, A, "a")
    made = evolve(claim(store, A), refusals=7, refused_since=ISSUED - days(3))
    assert store.release(
        made, state=State.ACTIVE, attempts=0, pause=40, error="FakeError", note=note("failed")
    )


def needs_consent(store: SqlTokenStore) -> None:
    put(store, A, "a")
    put(store, A, "b")
    release(store, A, State.NEEDS_CONSENT, 1)


def killed(store: SqlTokenStore) -> None:
    put(store, A, "a")
    claim(store, A, ttl=0)


def without_refresh_token(store: SqlTokenStore) -> None:
    token = evolve(pair("a"), refresh_token=None)
    store.put(A, token, issued_at=ISSUED, idle_until=None, note=note())


def revocation_unfinished(store: SqlTokenStore) -> None:
    put(store, A, "a")
    store.mark_revoked(A, note=note())


@pytest.mark.parametrize(
    "make",
    [
        active,
        uncertain,
        with_a_foreign_pair,
        refused_for_days,
        needs_consent,
        killed,
        without_refresh_token,
        revocation_unfinished,
    ],
)
def test_a_moved_record_is_as_it_was(stores: Stores, make: Callable[[SqlTokenStore], None]) -> None:
    source, target = stores.source(), stores.target()
    make(source)
    before, history = loaded(source, A), list(source.history(A))
    entries = entry_values(list(source.journal_entries(A)))
    stores.clock.advance(10)
    assert stores.copy() == CopyReport(moved=1)
    pause = max(before.pause_left - 10, 0)
    assert untimed(loaded(target, A)) == evolve(untimed(before), owner=None)
    assert loaded(target, A).pause_left == pytest.approx(pause, abs=0.01)
    assert entry_values(list(target.journal_entries(A))) == entries
    assert list(target.history(A))[1:] == history
    assert events(target, A)[-1] == MOVED
    [listed] = target.records(CLIENT)
    assert (listed.state, listed.expires_at) == (before.state, before.expires_at)


def test_the_source_has_no_pair_afterwards_and_says_where_it_went(stores: Stores) -> None:
    source = stores.source()
    put(source, A, "a")
    put(source, A, "b")
    stores.copy()
    record = loaded(source, A)
    assert (record.token, record.state, record.generation) == (None, State.REVOKED, 2)
    assert source.journal_entries(A) == []
    assert events(source, A) == ["authorized", "authorized", MOVED]
    assert source.claim(record, owner="fake-owner", ttl=25) is None
    with stores.source_engine.connect() as connection:
        assert connection.execute(select(grants.c.sealed, grants.c.mac)).one() == (None, None)


def test_grants_of_all_clients_are_read_in_pages(stores: Stores) -> None:
    source, target = stores.source(), stores.target()
    keys = [grant_key(f"customer-{number:03}") for number in range(200)]
    keys.append(grant_key(client="CIDX0000000009"))
    for key in keys:
        put(source, key, key.grant.username)
    limits: list[int] = []

    class Reading(SqlTokenStore):
        def records(
            self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
        ) -> list[Record]:
            limits.append(limit)
            return list(super().records(client_id, after=after, limit=limit))

    reading = Reading(stores.source_engine, keys=[OLD_KEY], clock=stores.clock)
    assert stores.copy(reading) == CopyReport(moved=len(keys))
    assert set(limits) == {100}
    assert all(loaded(target, key).token == pair(key.grant.username) for key in keys)


def test_a_second_run_changes_nothing(stores: Stores) -> None:
    source, target = stores.source(), stores.target()
    put(source, A, "a")
    needs_consent(source)
    put(source, B, "revoked")
    revoked = source.mark_revoked(B, note=note())
    assert revoked is not None
    assert source.erase(revoked, journaled=[], note=note())
    assert stores.copy() == CopyReport(moved=2)
    before, history = stores.contents(), list(target.history(A))
    assert stores.copy() == CopyReport(moved_before=2)
    assert stores.contents() == before
    assert list(target.history(A)) == history


def test_a_dry_run_counts_and_changes_nothing(stores: Stores) -> None:
    source, target = stores.source(), stores.target()
    for key in (A, B, C):
        put(source, key, "a")
    put(target, B, "other")
    claim(source, C)
    before = stores.contents()
    assert stores.copy(dry_run=True) == CopyReport(moved=1, kept=1, in_progress=1)
    assert stores.contents() == before
    assert stores.slept == []


# ---- a move that stops


def undelivered(store: SqlTokenStore) -> list[Notice]:
    """Return the notices of a store that are not delivered."""
    return [entry.notice for entry in store.notices(CLIENT)]


def test_notices_that_are_not_delivered_move_with_their_grant(stores: Stores) -> None:
    source, target = stores.source(), stores.target()
    put(source, A, "a")
    for notice in (AT_RISK, LOST):
        assert source.add_notice(loaded(source, A), notice)
    [first] = source.claim_notices(CLIENT, limit=9, ttl=60)
    source.notice_delivered(first)
    [second] = source.claim_notices(CLIENT, limit=9, ttl=60)
    source.notice_failed(second, pause=None)
    assert source.add_certificate_notice(CLIENT, "fake-fingerprint", 1, LOST)
    seen = loaded(source, A)
    stores.copy()
    assert [notice.certificate for notice in undelivered(source)] == ["fake-fingerprint"]
    # A dead one is tried again in the target, under its id.
    assert list(target.claim_notices(CLIENT, limit=9, ttl=60)) == [evolve(second, tries=2)]
    assert loaded(target, A).notice is NoticeKind.LOST
    # A process that read the record before the move does not tell of it in the source.
    assert not source.add_notice(seen, RECOVERED)
    assert target.add_notice(loaded(target, A), RECOVERED)
    # Its delivery in the source had begun before.
    source.notice_delivered(second)
    stores.copy()
    assert [notice.kind for notice in undelivered(target)] == [LOST.kind, RECOVERED.kind]


def fail_at(engine: Engine, number: int) -> Callable[[], bool]:
    """Raise before the statement of this number; return a function that ends that.

    Statements that only read are not counted: a process that is killed before one leaves the same
    rows as a process that is killed before the next statement.
    """
    counted = 0
    failed = False

    def fail(_connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        nonlocal counted, failed
        # A killed process sends no ROLLBACK; the database makes one.
        if statement.startswith(("SELECT", "ROLLBACK")):
            return
        counted += 1
        if counted == number:
            failed = True
            raise KilledError

    event.listen(engine, "before_cursor_execute", fail)

    def end() -> bool:
        event.remove(engine, "before_cursor_execute", fail)
        return failed

    return end


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_move_that_is_killed_before_any_change_is_finished_by_the_next(
    stores: Stores, side: str
) -> None:
    key, source, target = A, stores.source(), stores.target()
    for number in range(1, 80):
        put(source, key, "old")
        put(source, key, "new")
        release(source, key, State.UNCERTAIN, 1)
        assert source.add_notice(loaded(source, key), LOST)
        told = undelivered(source)
        before = loaded(source, key)
        end = fail_at(stores.source_engine if side == "source" else stores.target_engine, number)
        try:
            stores.copy(source, target)
        except (KilledError, StoreError):
            pass
        finally:
            was_killed = end()
        records = [source.load(key), target.load(key)]
        assert sum(map(can_be_refreshed, records)) <= 1
        assert pair("new") in [record.token for record in records if record]
        assert {*undelivered(source), *undelivered(target)} == {*told}
        stores.copy(source, target)
        assert (undelivered(source), undelivered(target)) == ([], told)
        moved = loaded(target, key)
        assert untimed(moved) == evolve(untimed(before), owner=None)
        assert loaded(source, key).token is None
        assert entry_values(list(target.journal_entries(key))) == [
            (Origin.REPLACED, pair("old"), 1, 1)
        ]
        assert events(target, key) == ["authorized", "authorized", "failed", MOVED]
        assert events(source, key) == events(target, key)
        if not was_killed:
            assert number > 9
            return
        stores.empty()
    pytest.fail("a move has more changes than were tried")


def stopped_move(stores: Stores, *, received: bool) -> None:
    """Begin to move the first grant, and stop."""
    moving = stores.source().begin_move(A)
    assert moving is not None
    if received:
        stores.target().receive(moving)


@pytest.mark.parametrize("received", [False, True])
def test_no_process_refreshes_in_the_source_while_a_move_has_stopped(
    stores: Stores, *, received: bool
) -> None:
    source = stores.source()
    seen = put(source, A, "a")
    stopped_move(stores, received=received)
    stores.clock.advance(1e6)
    assert source.claim(seen, owner="fake-owner", ttl=25) is None
    record = loaded(source, A)
    assert record.token == pair("a")
    assert source.claim(record, owner="fake-owner", ttl=25) is None


def test_a_pair_that_the_target_refreshed_before_the_move_was_finished_stays(
    stores: Stores,
) -> None:
    source, target = stores.source(), stores.target()
    put(source, A, "a")
    stopped_move(stores, received=True)
    refresh(target, A, "b")
    assert stores.copy() == CopyReport(moved=1)
    assert loaded(target, A).token == pair("b")
    # The spent pair is never presented: a replaced one is not salvaged.
    assert entry_values(list(target.journal_entries(A))) == [(Origin.REPLACED, pair("a"), 1, 1)]
    assert loaded(source, A).token is None


def test_a_pair_that_arrives_in_the_source_after_the_move_began_is_moved_by_the_next_run(
    stores: Stores,
) -> None:
    source, target = stores.source(), stores.target()
    put(source, A, "a")
    late = claim(source, A, ttl=0)
    moving = source.begin_move(A)
    assert moving is not None
    target.receive(moving)
    settled = source.settle(late, pair("b"), issued_at=ISSUED, idle_until=IDLE, note=note())
    assert settled.stored
    assert not source.finish_move(moving)
    assert stores.copy() == CopyReport(moved=1)
    assert loaded(target, A).token == pair("b")
    assert loaded(source, A).token is None


def test_a_journal_entry_that_is_added_after_the_move_began_is_moved_too(stores: Stores) -> None:
    source, target = stores.source(), stores.target()
    seen = put(source, A, "a")
    moving = source.begin_move(A)
    assert moving is not None
    target.receive(moving)
    source.journal(seen, pair("late"), origin=Origin.ERROR)
    assert not source.finish_move(moving)
    assert stores.copy() == CopyReport(moved=1)
    assert entry_values(list(target.journal_entries(A))) == [(Origin.ERROR, pair("late"), 2, 1)]


def test_a_new_consent_after_the_move_began_is_moved_by_the_next_run(stores: Stores) -> None:
    source, target = stores.source(), stores.target()
    put(source, A, "a")
    stopped_move(stores, received=True)
    put(source, A, "b")
    assert stores.copy() == CopyReport(moved=1)
    record = loaded(target, A)
    assert (record.token, record.consent) == (pair("b"), 2)
    assert entry_values(list(target.journal_entries(A))) == [(Origin.REPLACED, pair("a"), 1, 1)]


def test_a_login_in_the_source_after_the_move_is_moved_above_the_generation_of_the_target(
    stores: Stores,
) -> None:
    source, target = stores.source(), stores.target()
    put(source, A, "a")
    stores.copy()
    for name in "bcd":
        refresh(target, A, name)
    put(source, A, "login")
    assert stores.copy() == CopyReport(moved=1)
    record = loaded(target, A)
    assert (record.token, record.consent, record.generation) == (pair("login"), 2, 5)
    assert stores.copy() == CopyReport(moved_before=1)


def test_two_runs_at_the_same_time_move_each_grant_once(stores: Stores) -> None:
    source, target = stores.source(), stores.target()
    put(source, A, "a")
    first, second = source.begin_move(A), source.begin_move(A)
    assert first is not None
    assert second is not None
    for moving in (first, second):
        target.receive(moving)
        assert source.finish_move(moving)
    assert loaded(target, A).token == pair("a")
    assert events(target, A) == ["authorized", MOVED]


# ---- a refresh in progress


def test_a_refresh_in_progress_is_waited_for(stores: Stores) -> None:
    source = stores.source()
    put(source, A, "a")
    put(source, B, "other")
    made = claim(source, A)

    def settle() -> None:
        if len(stores.slept) == 3:
            source.settle(made, pair("b"), issued_at=ISSUED, idle_until=IDLE, note=note())

    stores.while_waiting = settle
    assert stores.copy() == CopyReport(moved=2)
    assert stores.slept == [1.0] * 3
    assert loaded(stores.target(), A).token == pair("b")


def test_a_refresh_that_does_not_end_leaves_its_grant_in_the_source(stores: Stores) -> None:
    source, target = stores.source(), stores.target()
    put(source, A, "a")
    made = claim(source, A)
    assert stores.copy(wait=5) == CopyReport(in_progress=1)
    assert stores.slept == [1.0] * 5
    assert target.load(A) is None
    assert source.settle(made, pair("b"), issued_at=ISSUED, idle_until=IDLE, note=note()).stored


# ---- keys


def test_without_the_key_of_the_source_a_grant_is_left(stores: Stores) -> None:
    source = stores.source()
    put(source, A, "a")
    put(stores.source(OTHER), B, "b")
    assert stores.copy() == CopyReport(moved=1, unreadable=1)
    assert loaded(stores.source(OTHER), B).token == pair("b")
    assert stores.copy(stores.source(OLD_KEY, OTHER)) == CopyReport(moved=1, moved_before=1)


def test_without_the_key_of_a_journal_entry_a_grant_is_left(stores: Stores) -> None:
    put(stores.source(OTHER), A, "a")
    put(stores.source(OLD_KEY, OTHER), A, "b")
    with stores.source_engine.begin() as connection:
        connection.execute(update(journal).values(key_id="fake"))
    before = stores.contents()
    assert stores.copy(stores.source(OLD_KEY, OTHER)) == CopyReport(unreadable=1)
    assert stores.contents() == before


def test_a_target_with_pairs_of_another_key_gets_nothing(stores: Stores) -> None:
    put(stores.source(), A, "a")
    put(stores.target(OTHER), B, "b")
    before = stores.contents()
    with pytest.raises(SealError, match="1 stored pairs of the target are sealed with keys that"):
        stores.copy()
    assert stores.contents() == before


def test_an_altered_record_is_left_on_either_side(stores: Stores) -> None:
    put(stores.source(), A, "a")
    put(stores.target(), A, "b")
    for engine in (stores.target_engine, stores.source_engine):
        with engine.begin() as connection:
            connection.execute(update(grants).values(attempts=5))
        before = stores.contents()
        assert stores.copy() == CopyReport(unreadable=1)
        assert stores.contents() == before


def test_the_pairs_are_sealed_with_the_keys_of_the_target_alone(stores: Stores) -> None:
    needs_consent(stores.source())
    stores.copy()
    with pytest.raises(SealError):
        stores.target(OLD_KEY).load(A)
    assert stores.target().count_older_seals() == 0


# ---- a target that has the grant


@pytest.mark.parametrize("newer", [1, 2])
def test_a_target_that_is_as_new_or_newer_keeps_its_pair(stores: Stores, newer: int) -> None:
    put(stores.source(), A, "a")
    target = stores.target()
    for number in range(newer):
        put(target, A, f"target-{number}")
    before = stores.contents()
    assert stores.copy() == CopyReport(kept=1)
    assert stores.contents() == before


def test_a_later_login_in_the_target_is_not_replaced_by_higher_numbers(stores: Stores) -> None:
    source, target = stores.source(), stores.target()
    put(source, A, "a")
    put(source, A, "b")
    later = ISSUED + days(1)
    target.put(A, pair("later"), issued_at=later, idle_until=IDLE, note=note())
    assert stores.copy() == CopyReport(kept=1)
    assert loaded(target, A).token == pair("later")


def test_an_older_pair_of_the_target_goes_to_its_journal(stores: Stores) -> None:
    source, target = stores.source(), stores.target()
    put(target, A, "older")
    in_progress = claim(target, A)
    put(source, A, "a")
    put(source, A, "b")
    assert stores.copy() == CopyReport(moved=1)
    record = loaded(target, A)
    assert (record.token, record.generation, record.lease_left) == (pair("b"), 2, 0)
    journaled = [entry.token for entry in target.journal_entries(A)]
    assert journaled == [pair("older"), pair("a")]
    late: Token = pair("late")
    settled = target.settle(in_progress, late, issued_at=ISSUED, idle_until=IDLE, note=note())
    assert not settled.stored
    assert loaded(target, A).token == pair("b")


def test_a_grant_can_be_moved_back(stores: Stores) -> None:
    source, target = stores.source(), stores.target()
    put(source, A, "a")
    put(source, B, "b")
    stores.copy()
    refresh(target, B, "newer")
    assert stores.copy(target, source) == CopyReport(moved=2)
    assert can_be_refreshed(loaded(source, A))
    assert loaded(source, B).token == pair("newer")
    assert not can_be_refreshed(loaded(target, A))
    assert stores.copy() == CopyReport(moved=2)


def test_a_store_is_not_moved_into_itself(stores: Stores) -> None:
    source = stores.source()
    put(source, A, "a")
    before = stores.contents()
    assert stores.copy(source, stores.source()) == CopyReport(kept=1)
    assert stores.contents() == before
    stopped_move(stores, received=False)
    before = stores.contents()
    with pytest.raises(StoreError, match="itself being moved"):
        stores.copy(source, stores.source())
    assert stores.contents() == before
