"""A row that was changed past the store is refused: its token is never presented or served."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from attrs import evolve
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Table,
    create_engine,
    delete,
    event,
    insert,
    select,
    update,
)

from blink_oauth.tokens import Secret
from blink_oauth_keeper import Origin, Record, SqlTokenStore, State
from blink_oauth_keeper.errors import SealError
from blink_oauth_keeper.store.sql_tables import grants, journal, schema
from blink_oauth_testing.store_contract.harness import (
    CLIENT,
    ISSUED,
    ManualClock,
    days,
    due,
    grant_key,
    note,
    pair,
)

OLD, NEW = (SqlTokenStore.new_key() for _ in range(2))
A, B = (grant_key(name) for name in "ab")
REFUSED = "altered, moved or put back"


class Attacked:
    """A database, its store, and an attacker who can write to the database."""

    def __init__(self, url: str) -> None:
        self.engine: Engine = create_engine(url)
        self.clock = ManualClock()
        self.open(OLD).create_schema()
        self.store = self.open(OLD)

    def open(self, *keys: Secret) -> SqlTokenStore:
        """Open the database with these keys."""
        return SqlTokenStore(self.engine, keys=keys, clock=self.clock)

    def put(self, name: str = "a", pair_name: str = "") -> Record:
        """Store a pair for a new consent."""
        return self.store.put(
            grant_key(name),
            pair(pair_name or name),
            issued_at=ISSUED,
            idle_until=ISSUED + days(1),
            note=note(),
        )

    def claim(self, seen: Record) -> Record:
        """Claim a record, which must succeed."""
        claim = self.store.claim(seen, owner="fake-owner", ttl=60)
        assert claim is not None
        return claim

    def release(self, claim: Record, state: State, attempts: int = 1) -> None:
        """Release a lease."""
        assert self.store.release(
            claim, state=state, attempts=attempts, pause=0, error=None, note=note()
        )

    def settle(self, claim: Record, name: str) -> Record:
        """Settle a pair, which must be stored."""
        settlement = self.store.settle(
            claim, pair(name), issued_at=ISSUED, idle_until=ISSUED, note=note()
        )
        assert settlement.stored
        assert settlement.record is not None
        return settlement.record

    def rows(self, table: Table, username: str = "a") -> list[dict[str, object]]:
        """Return the rows of a grant."""
        statement = select(table).where(table.c.username == username).order_by(*table.primary_key)
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(statement).mappings()]

    def change(self, table: Table = grants, username: str = "a", **values: object) -> None:
        """Change the rows of a grant."""
        self.change_where(table, table.c.username == username, values)

    def change_where(
        self, table: Table, condition: ColumnElement[bool], values: dict[str, object]
    ) -> None:
        """Change the rows that meet a condition."""
        with self.engine.begin() as connection:
            connection.execute(update(table).where(condition).values(values))


@pytest.fixture
def attacked(database_url: str) -> Iterator[Attacked]:
    """Return a database of each kind."""
    made = Attacked(database_url)
    yield made
    made.engine.dispose()


def reset_attempts(attacked: Attacked) -> None:
    attacked.release(attacked.claim(attacked.put()), State.UNCERTAIN)
    attacked.change(attempts=0)


def hide_a_replay(attacked: Attacked) -> None:
    attacked.release(attacked.claim(attacked.put()), State.UNCERTAIN)
    uncertain = attacked.store.load(A)
    assert uncertain is not None
    attacked.claim(uncertain)
    attacked.change(attempts=1, lease_until=None)


def hide_a_claim(attacked: Attacked) -> None:
    attacked.claim(attacked.put())
    attacked.change(state="active", lease_until=None)


def hide_a_refusal(attacked: Attacked) -> None:
    attacked.release(attacked.claim(attacked.put()), State.NEEDS_CONSENT)
    attacked.change(state="active")


def hide_a_revocation(attacked: Attacked) -> None:
    attacked.put()
    attacked.store.mark_revoked(A, note=note())
    attacked.change(state="active")


def raise_the_generation(attacked: Attacked) -> None:
    attacked.put()
    attacked.change(generation=9)


def lower_the_consent(attacked: Attacked) -> None:
    attacked.put()
    attacked.change(consent=0)


def write_an_unknown_state(attacked: Attacked) -> None:
    attacked.put()
    attacked.change(state="unknown")


def remove_the_mac(attacked: Attacked) -> None:
    attacked.put()
    attacked.change(mac=None)


def write_a_nonsense_mac(attacked: Attacked) -> None:
    attacked.put()
    key_id, _, value = str(attacked.rows(grants)[0]["mac"]).partition(":")
    attacked.change(mac=f"{key_id}:é{value[1:]}")


def copy_the_mac_of_another_grant(attacked: Attacked) -> None:
    attacked.put()
    attacked.put("b")
    attacked.change(mac=attacked.rows(grants, "b")[0]["mac"])


def put_an_older_mac_and_state_back(attacked: Attacked) -> None:
    record = attacked.put()
    older = attacked.rows(grants)[0]
    attacked.settle(attacked.claim(record), "newer")
    attacked.change(mac=older["mac"], state=older["state"], attempts=older["attempts"])


def put_an_older_pair_back(attacked: Attacked) -> None:
    record = attacked.put()
    older = attacked.rows(grants)[0]
    attacked.settle(attacked.claim(record), "newer")
    attacked.change(sealed=older["sealed"])


def swap_record_and_journal(attacked: Attacked) -> None:
    record = attacked.put()
    attacked.store.journal(record, pair("late"), origin=Origin.ERROR)
    attacked.settle(attacked.claim(record), "newer")
    [stored], [entry] = attacked.rows(grants), attacked.rows(journal)
    assert (stored["generation"], stored["consent"]) == (entry["generation"], entry["consent"])
    attacked.change(sealed=entry["sealed"])
    attacked.change(journal, sealed=stored["sealed"])


ALTERATIONS = [
    reset_attempts,
    hide_a_replay,
    hide_a_claim,
    hide_a_refusal,
    hide_a_revocation,
    raise_the_generation,
    lower_the_consent,
    write_an_unknown_state,
    remove_the_mac,
    write_a_nonsense_mac,
    copy_the_mac_of_another_grant,
    put_an_older_mac_and_state_back,
    put_an_older_pair_back,
    swap_record_and_journal,
]
Alteration = Callable[[Attacked], None]
every_alteration = pytest.mark.parametrize("alter", ALTERATIONS, ids=lambda alter: alter.__name__)


@every_alteration
def test_an_altered_record_is_not_loaded_or_claimed(attacked: Attacked, alter: Alteration) -> None:
    alter(attacked)
    attempts: list[Callable[[], Record | None]] = [
        lambda: attacked.store.load(A),
        lambda: attacked.store.mark_revoked(A, note=note()),
    ]
    for attempt in attempts:
        with pytest.raises(SealError, match=REFUSED) as caught:
            attempt()
        assert not caught.value.retryable
    assert [r.key for r in attacked.store.due(due(attempts=9), limit=9) if r.key == A] == []
    claims = attacked.store.claim_due(due(attempts=9), owner="fake-second", ttl=60, limit=9)
    assert [claim.key for claim in claims if claim.key == A] == []
    assert attacked.rows(grants)[0]["owner"] != "fake-second"


@every_alteration
def test_an_altered_record_is_listed_as_one_that_cannot_be_opened(
    attacked: Attacked, alter: Alteration
) -> None:
    alter(attacked)
    [listed] = [record for record in attacked.store.records(CLIENT) if record.key == A]
    assert listed.token is None
    # A list opens no pair, so it does not notice that only the pair is another one.
    is_noticed = alter not in {put_an_older_pair_back, swap_record_and_journal}
    assert listed.error == ("SealError" if is_noticed else None)


@every_alteration
def test_a_new_consent_replaces_an_altered_record(attacked: Attacked, alter: Alteration) -> None:
    alter(attacked)
    record = attacked.put(pair_name="again")
    assert attacked.store.load(A) == record
    assert record.token == pair("again")


def test_an_altered_record_waits_and_lets_the_other_due_records_pass(attacked: Attacked) -> None:
    hide_a_refusal(attacked)
    attacked.put("b")
    claims = attacked.store.claim_due(due(attempts=9), owner="fake-owner", ttl=60, limit=1)
    assert [claim.key for claim in claims] == [B]
    [row] = attacked.rows(grants)
    assert (row["error"], row["state"], row["attempts"]) == ("SealError", "active", 1)
    assert row["pause_until"] is not None
    assert attacked.store.claim_due(due(attempts=9), owner="fake-owner", ttl=60, limit=1) == []


def test_a_refused_record_that_was_made_active_later_is_not_claimed(attacked: Attacked) -> None:
    attacked.release(attacked.claim(attacked.put()), State.NEEDS_CONSENT)
    seen = attacked.store.load(A)
    assert seen is not None
    attacked.change(state="active")
    assert attacked.store.claim(seen, owner="fake-second", ttl=60) is None
    [row] = attacked.rows(grants)
    assert row["owner"] != "fake-second"


def test_a_change_of_the_lease_alone_is_no_alteration(attacked: Attacked) -> None:
    # The database computes it, so no MAC can cover it.
    claim = attacked.claim(attacked.put())
    attacked.change(lease_until=None)
    record = attacked.store.load(A)
    assert record is not None
    assert (record.state, record.attempts) == (claim.state, claim.attempts)


def test_a_pair_that_is_not_to_be_tried_again_cannot_be_made_salvageable(
    attacked: Attacked,
) -> None:
    record = attacked.put()
    attacked.store.journal(record, pair("late"), origin=Origin.SUPERSEDED)
    claim = attacked.claim(record)
    salvaged = attacked.store.salvage(claim, note=note())
    assert salvaged is not None
    [refused] = attacked.rows(journal)
    assert refused["origin"] == Origin.REFUSED
    attacked.change(journal, origin="superseded", generation=salvaged.generation)
    assert list(attacked.store.journal_entries(A)) == []
    attacked.change(journal, generation=refused["generation"])
    assert list(attacked.store.journal_entries(A)) == []
    assert attacked.store.salvage(salvaged, note=note()) is None


def test_two_journal_entries_cannot_exchange_their_pairs(attacked: Attacked) -> None:
    record = attacked.put()
    attacked.store.journal(record, pair("one"), origin=Origin.ERROR)
    attacked.store.journal(record, pair("two"), origin=Origin.SUPERSEDED)
    one, two = attacked.rows(journal)
    attacked.change_where(journal, journal.c.id == one["id"], {"sealed": two["sealed"]})
    attacked.change_where(journal, journal.c.id == two["id"], {"sealed": one["sealed"]})
    assert list(attacked.store.journal_entries(A)) == []


def test_a_journal_entry_of_an_unknown_origin_is_skipped(attacked: Attacked) -> None:
    record = attacked.put()
    attacked.store.journal(record, pair("one"), origin=Origin.ERROR)
    attacked.change(journal, origin="unknown")
    attacked.store.journal(record, pair("two"), origin=Origin.ERROR)
    assert [entry.token for entry in attacked.store.journal_entries(A)] == [pair("two")]


def test_a_foreign_pair_cannot_be_made_salvageable(attacked: Attacked) -> None:
    record = attacked.put()
    attacked.store.journal(record, pair("foreign"), origin=Origin.FOREIGN)
    assert [entry.token for entry in attacked.store.journal_entries(A)] == [pair("foreign")]
    for origin in set(Origin) - {Origin.FOREIGN}:
        attacked.change(journal, origin=origin.value)
        assert list(attacked.store.journal_entries(A)) == []
    assert attacked.store.salvage(attacked.claim(record), note=note()) is None


def test_a_pair_that_was_journaled_unopened_is_never_salvageable(attacked: Attacked) -> None:
    attacked.put()
    attacked.store = attacked.open(NEW)
    attacked.put(pair_name="again")
    both = attacked.open(NEW, OLD)
    [entry] = both.journal_entries(A)
    assert (entry.origin, entry.token) == (Origin.REPLACED, pair("a"))
    for origin in (Origin.SUPERSEDED, Origin.ERROR, Origin.REFUSED):
        attacked.change(journal, origin=origin.value)
        assert list(both.journal_entries(A)) == []


def test_the_pair_of_a_record_cannot_be_copied_into_the_journal(attacked: Attacked) -> None:
    record = attacked.put()
    attacked.store.journal(record, pair("late"), origin=Origin.SUPERSEDED)
    values = {name: attacked.rows(grants)[0][name] for name in ("sealed", "generation", "consent")}
    of_grant = journal.c.username == A.grant.username
    for origin in (Origin.SUPERSEDED, Origin.ERROR, Origin.REFUSED):
        attacked.change_where(journal, of_grant, values | {"origin": origin.value})
        assert list(attacked.store.journal_entries(A)) == []


@every_alteration
def test_a_lowered_version_of_the_tables_does_not_hide_an_alteration(
    attacked: Attacked, alter: Alteration
) -> None:
    alter(attacked)
    with attacked.engine.begin() as connection:
        connection.execute(delete(schema))
        connection.execute(insert(schema).values(version=1))
    with pytest.raises(SealError, match=REFUSED):
        attacked.open(OLD).load(A)


def test_a_row_keeps_its_mac_through_a_rotation_of_keys(attacked: Attacked) -> None:
    attacked.release(attacked.claim(attacked.put()), State.UNCERTAIN)
    attacked.put("b")
    attacked.store = attacked.open(NEW, OLD)
    seen = attacked.store.load(B)
    assert seen is not None
    # The old key sealed the pair, and the new one authenticates the row.
    claim = attacked.claim(seen)
    before = attacked.store.records(CLIENT)
    assert attacked.store.count_older_seals() == 2
    assert attacked.store.rotate_keys(batch=1) == 2
    assert attacked.store.count_older_seals() == 0
    attacked.store = attacked.open(NEW)
    assert attacked.store.records(CLIENT) == before
    assert attacked.store.load(A) is not None
    attacked.settle(claim, "newer")
    reset_attempts(attacked)
    with pytest.raises(SealError, match=REFUSED):
        attacked.store.load(A)


def test_a_rotation_seals_what_only_the_mac_shows_to_be_older(attacked: Attacked) -> None:
    new, both = attacked.open(NEW), attacked.open(NEW, OLD)
    attacked.put()
    assert both.rotate_keys() == 1
    # A node whose first key is still the old one.
    attacked.store = attacked.open(OLD, NEW)
    record = attacked.store.load(A)
    assert record is not None
    attacked.claim(record)
    with pytest.raises(SealError, match="not among those given"):
        new.load(A)
    assert both.count_older_seals() == 1
    assert both.rotate_keys() == 1
    assert new.load(A) is not None


def test_a_row_whose_mac_needs_a_missing_key_is_left_alone(attacked: Attacked) -> None:
    attacked.put()
    attacked.store = attacked.open(NEW, OLD)
    record = attacked.store.load(A)
    assert record is not None
    attacked.release(attacked.claim(record), State.ACTIVE, attempts=0)
    [before] = attacked.rows(grants)
    only_old = attacked.open(OLD)
    assert only_old.claim_due(due(), owner="fake-owner", ttl=60, limit=9) == []
    assert list(only_old.due(due(), limit=9)) == []
    assert attacked.rows(grants) == [before]


def test_a_rotation_does_not_accept_an_altered_row(attacked: Attacked) -> None:
    hide_a_refusal(attacked)
    [before] = attacked.rows(grants)
    assert attacked.open(NEW, OLD).rotate_keys() == 0
    assert attacked.rows(grants) == [before]


def test_a_rotation_does_not_overwrite_the_mac_of_a_claim(attacked: Attacked) -> None:
    seen, both = attacked.put(), attacked.open(NEW, OLD)
    assert both.count_older_seals() == 1
    waiting = [seen]

    def claim_meanwhile(
        connection: Connection, cursor: object, statement: str, *rest: object
    ) -> None:
        # The rotation has read the row and not written it yet.
        if statement.startswith("BEGIN") and waiting:
            attacked.claim(waiting.pop())

    event.listen(attacked.engine, "before_cursor_execute", claim_meanwhile)
    assert both.rotate_keys() == 0
    assert not waiting
    claimed = attacked.store.load(A)
    assert claimed is not None
    assert (claimed.state, claimed.attempts) == (State.REFRESHING, 1)
    assert both.rotate_keys() == 1
    assert attacked.open(NEW).load(A) == claimed


def test_a_claim_of_many_due_records_takes_as_many_statements_as_one_of_few(
    attacked: Attacked,
) -> None:
    statements: list[str] = []
    event.listen(
        attacked.engine,
        "before_cursor_execute",
        lambda connection, cursor, statement, *rest: statements.append(statement),
    )
    # The first claim of a store also checks what it may change.
    attacked.store.claim_due(due(), owner="fake-owner", ttl=30, limit=1)
    counts = []
    for count in (2, 40):
        for number in range(count):
            attacked.put(f"customer-{count}-{number}")
        statements.clear()
        claims = attacked.store.claim_due(due(), owner="fake-owner", ttl=60, limit=100)
        assert len(claims) == count
        counts.append(len(statements))
    assert counts[0] == counts[1]


def test_a_claim_of_due_records_is_what_the_store_then_has(attacked: Attacked) -> None:
    attacked.put()
    [claim] = attacked.store.claim_due(due(), owner="fake-owner", ttl=30, limit=9)
    loaded = attacked.store.load(A)
    assert loaded is not None
    assert loaded.lease_left == pytest.approx(claim.lease_left, abs=0.001)
    assert evolve(loaded, lease_left=claim.lease_left) == claim
    assert attacked.settle(claim, "newer").attempts == 0
