"""Notices in the tables: one transaction with the change, other versions, clocks, many rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from attrs import evolve
from sqlalchemy import Engine, create_engine, event, insert, text, update

from blink_oauth_keeper import (
    NewNotice,
    Note,
    NoticeKind,
    Record,
    SqlTokenStore,
    State,
    TargetProfile,
)
from blink_oauth_keeper.errors import StoreError
from blink_oauth_keeper.notices import RECOVERED, due_notice
from blink_oauth_keeper.store.sql_tables import grants, notices
from blink_oauth_testing.store_contract.harness import (
    CLIENT,
    ISSUED,
    KEY,
    ManualClock,
    days,
    grant_key,
    note,
    pair,
    untimed,
)
from keeper.store.first_version import FirstVersion, create_first_version
from keeper.store.sqlite_steps import counted_steps
from postgresql import PostgreSQL

FERNET_KEY = SqlTokenStore.new_key()
LOST = NewNotice(kind=NoticeKind.LOST, reason="refused")
AT_RISK = NewNotice(kind=NoticeKind.AT_RISK, reason="uncertain")
WELL, TROUBLE = (Note(event="fake", notice=notice) for notice in (RECOVERED, LOST))


class Outbox:
    """A store in a database, and shorthands for its methods."""

    def __init__(self, url: str) -> None:
        self.engine: Engine = create_engine(url)
        self.clock = ManualClock()
        self.store = SqlTokenStore(self.engine, keys=[FERNET_KEY], clock=self.clock)
        self.store.create_schema()

    def put(self, name: str = "customer") -> Record:
        """Store a pair."""
        return self.store.put(
            grant_key(name), pair("a"), issued_at=ISSUED, idle_until=ISSUED + days(30), note=note()
        )

    def claim(self) -> Record:
        """Claim the record, which must succeed."""
        made = self.store.claim(self.load(), owner="fake-owner", ttl=20)
        assert made is not None
        return made

    def load(self) -> Record:
        """Return the record."""
        record = self.store.load(KEY)
        assert record is not None
        return record

    def release(self, claim: Record, note: Note = TROUBLE) -> bool:
        """Release the lease with a notice."""
        state = State.NEEDS_CONSENT
        return self.store.release(claim, state=state, attempts=1, pause=0, error=None, note=note)

    def settle(self, claim: Record, note: Note = WELL) -> Record:
        """Settle a pair with a notice; return the record."""
        until = ISSUED + days(30)
        settlement = self.store.settle(
            claim, pair("b"), issued_at=ISSUED, idle_until=until, note=note
        )
        assert settlement.stored
        assert settlement.record is not None
        return settlement.record

    def kinds(self) -> list[str]:
        """Return the kinds of the undelivered notices."""
        return [entry.notice.kind for entry in self.store.notices(CLIENT)]

    def execute(self, statement: str) -> None:
        """Execute a statement past the store."""
        with self.engine.begin() as connection:
            connection.execute(text(statement))


@pytest.fixture
def outbox(database_url: str) -> Iterator[Outbox]:
    """Return a store in a database of each kind."""
    made = Outbox(database_url)
    yield made
    made.engine.dispose()


def test_a_change_whose_notice_cannot_be_written_does_not_happen(outbox: Outbox) -> None:
    outbox.put()
    claim = outbox.claim()
    outbox.execute("ALTER TABLE blink_oauth_notices RENAME TO elsewhere")
    with pytest.raises(StoreError):
        outbox.release(claim)
    with pytest.raises(StoreError):
        outbox.store.add_notice(claim, LOST)
    assert untimed(outbox.load()) == untimed(claim)
    assert [entry.note.event for entry in outbox.store.history(KEY)] == ["changed"]
    outbox.execute("ALTER TABLE elsewhere RENAME TO blink_oauth_notices")
    assert outbox.release(claim)
    assert (outbox.kinds(), outbox.load().notice) == ([NoticeKind.LOST], NoticeKind.LOST)


def test_on_postgresql_a_change_and_its_notice_are_one_statement(postgres_url: str) -> None:
    outbox = Outbox(postgres_url)
    outbox.put()
    claim = outbox.claim()
    assert outbox.store.add_notice(claim, AT_RISK)
    statements: list[str] = []

    def record(connection: object, cursor: object, statement: str, *_: object) -> None:
        statements.append(statement)

    event.listen(outbox.engine, "before_cursor_execute", record)
    assert outbox.settle(claim).notice is NoticeKind.RECOVERED
    assert len(statements) == 1
    claim = outbox.claim()
    assert outbox.release(claim)
    assert len(statements) == 4
    event.remove(outbox.engine, "before_cursor_execute", record)
    assert outbox.kinds() == ["consent.at_risk", "consent.recovered", "consent.lost"]
    outbox.engine.dispose()


def test_what_a_change_that_held_the_lock_has_told_counts(
    postgres_url: str, postgres: PostgreSQL
) -> None:
    outbox = Outbox(postgres_url)
    outbox.put()
    claim = outbox.claim()
    records: list[Record] = []
    settling = threading.Thread(target=lambda: records.append(outbox.settle(claim)))
    waiting = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'")
    with outbox.engine.begin() as other:
        other.execute(update(grants).values(notice="consent.lost"))
        settling.start()
        with outbox.engine.connect() as watching:
            while not watching.scalar(waiting):
                assert settling.is_alive()
                watching.rollback()
    settling.join()
    assert [record.notice for record in records] == [NoticeKind.RECOVERED]
    assert outbox.kinds() == [NoticeKind.RECOVERED]
    outbox.engine.dispose()


def test_a_claim_skips_notices_that_another_process_is_claiming(postgres_url: str) -> None:
    outbox = Outbox(f"{postgres_url}&options=-c%20lock_timeout%3D2s")
    for name in "ab":
        record = outbox.put(name)
        assert outbox.store.add_notice(record, LOST)
        assert outbox.store.add_notice(evolve(record, notice=LOST.kind), AT_RISK)
    with outbox.engine.begin() as other:
        other.execute(text("SELECT * FROM blink_oauth_notices WHERE username = 'a' FOR UPDATE"))
        [claimed] = outbox.store.claim_notices(CLIENT, limit=9, ttl=60)
        assert claimed.grant == grant_key("b").grant
    [claimed] = outbox.store.claim_notices(CLIENT, limit=9, ttl=60)
    assert claimed.grant == grant_key("a").grant
    outbox.engine.dispose()


def test_a_process_of_the_version_before_loses_no_notice(database_url: str) -> None:
    engine = create_engine(database_url)
    create_first_version(engine)
    old = FirstVersion(engine, FERNET_KEY)
    old.put(KEY, pair("a"))
    outbox = Outbox(database_url)
    assert outbox.load().notice is None
    assert outbox.release(outbox.claim())
    # It stores a new pair, and knows nothing of notices.
    old.put(KEY, pair("b"))
    record = outbox.load()
    assert (record.state, record.notice) == (State.ACTIVE, NoticeKind.LOST)
    told = due_notice(record, TargetProfile(), ISSUED - days(9))
    assert told == RECOVERED
    assert outbox.store.add_notice(record, told)
    assert outbox.kinds() == ["consent.lost", "consent.recovered"]
    outbox.engine.dispose()
    engine.dispose()


def test_notices_of_a_newer_version_are_left_to_its_processes(outbox: Outbox) -> None:
    seen = outbox.put()
    for notice in (LOST, AT_RISK):
        assert outbox.store.add_notice(outbox.load(), notice)
    outbox.execute("UPDATE blink_oauth_notices SET kind = 'newer' WHERE kind = 'consent.lost'")
    outbox.execute("UPDATE blink_oauth_grants SET notice = 'newer'")
    assert outbox.load() == seen
    assert not outbox.store.add_notice(seen, LOST)
    # It is the oldest one of its grant.
    assert list(outbox.store.claim_notices(CLIENT, limit=9, ttl=60)) == []
    assert outbox.kinds() == ["consent.at_risk"]
    assert outbox.settle(outbox.claim()).notice is None


def test_a_notice_is_due_again_after_the_clock_was_set_back(outbox: Outbox) -> None:
    assert outbox.store.add_notice(outbox.put(), LOST)
    [told] = outbox.store.claim_notices(CLIENT, limit=9, ttl=60)
    outbox.clock.advance(-timedelta(days=2).total_seconds())
    assert [entry.due_in for entry in outbox.store.notices(CLIENT)] == [0.0]
    [again] = outbox.store.claim_notices(CLIENT, limit=9, ttl=60)
    assert again == evolve(told, tries=2)
    assert list(outbox.store.claim_notices(CLIENT, limit=9, ttl=60)) == []


def claim_steps(path: Path, count: int, **values: object) -> int:
    """Return the steps of SQLite's virtual machine to claim ten of many notices.

    Args:
        path: A file that does not exist.
        count: The number of notices.
        values: Columns of these notices; without any, all of them are due.
    """
    outbox = Outbox(f"sqlite:///{path}")
    row = {"client_id": CLIENT, "target_id": "IIDX99999", "certificate": "", "generation": 1}
    row |= {"kind": "consent.lost", "tries": 0, "is_dead": False, "at": ISSUED, "due_at": ISSUED}
    rows: list[dict[str, object]] = [
        row
        | values
        | {"notice_id": f"fake-{number}", "username": f"u-{number // 2}"}
        | {"generation": number}
        for number in range(count)
    ]
    with outbox.engine.begin() as connection:
        connection.execute(insert(notices), rows)
    for number in range(10):
        outbox.store.add_notice(outbox.put(f"last-{number}"), LOST)
    steps, claimed = counted_steps(
        outbox.engine, lambda: outbox.store.claim_notices(CLIENT, limit=10, ttl=60)
    )
    outbox.engine.dispose()
    assert len({notice.grant for notice in claimed}) == 10
    return steps


@pytest.mark.parametrize("values", [{}, {"delivered_at": ISSUED}], ids=["due", "delivered"])
def test_a_claim_of_notices_costs_the_same_however_many_there_are(
    tmp_path: Path, values: dict[str, object]
) -> None:
    few, many = (claim_steps(tmp_path / f"{count}", count, **values) for count in (40, 2_000))
    assert few > 100
    assert many <= few * 1.05
