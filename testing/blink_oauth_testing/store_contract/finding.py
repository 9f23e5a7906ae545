"""What is due is found in time and claimed once; everything is listed in order."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

from attrs import evolve

from blink_oauth_keeper.store.protocol import Due, Note, Origin, Record, State

from .harness import (
    CLIENT,
    ISSUED,
    KEY,
    Harness,
    at_rest,
    due,
    grant_key,
    is_utc,
    note,
    origins,
    pair,
)

__all__ = ["Finding", "Listing"]

ONE, TWO, THREE = "IIDX00001", "IIDX00002", "IIDX00003"
STRANGER = "CIDX0000000003"


def names(records: Sequence[Record]) -> list[str]:
    """Return the usernames of records."""
    return [record.key.grant.username for record in records]


class Finding(Harness):
    """What `due` and `claim_due` promise."""

    def put_idle(self, **idle: float) -> None:
        """Store a pair for each name, with a refresh token that lives so many days unused."""
        for name, count in idle.items():
            self.put(name, grant_key(name), idle=count)

    def put_targets(self) -> None:
        """Store a pair at each of three targets, and one of another client."""
        for days_left, target in enumerate((ONE, TWO, THREE), start=1):
            self.put(target, grant_key(target, target), idle=days_left)
        self.put("stranger", grant_key("stranger", ONE, STRANGER), idle=1)

    def take(self, wanted: Due, *, limit: int = 100) -> list[Record]:
        """Claim what is due."""
        return self.store.claim_due(wanted, owner=uuid4().hex, ttl=1000, limit=limit)

    def test_those_are_due_first_whose_refresh_tokens_end_first(self) -> None:
        self.put_idle(third=3, first=1, fourth=4, second=2)
        assert names(self.second.due(due(), limit=100)) == ["first", "second", "third", "fourth"]
        assert names(self.second.due(due(), limit=2)) == ["first", "second"]
        assert self.second.due(due(), limit=1)[0] == self.seen(grant_key("first"))

    def test_to_look_at_what_is_due_claims_nothing(self) -> None:
        self.put_idle(one=1)
        before = self.seen(grant_key("one"))
        assert list(self.store.due(due(), limit=100)) == [before]
        assert self.seen(grant_key("one")) == before

    def test_a_refresh_token_is_due_up_to_the_very_moment(self) -> None:
        self.put_idle(before=9, at=10, after=10 + 0.001 / 86_400)
        assert names(self.store.due(due(within=10), limit=100)) == ["before", "at"]
        assert names(self.take(due(within=10))) == ["before", "at"]

    def test_a_pair_without_a_refresh_token_is_never_due(self) -> None:
        lonely = evolve(pair("a"), refresh_token=None)
        self.store.put(KEY, lonely, issued_at=ISSUED, idle_until=None, note=note())
        assert list(self.store.due(due(within=10_000), limit=100)) == []
        assert self.take(due(within=10_000)) == []

    def test_what_is_due_is_chosen_by_client_and_target(self) -> None:
        self.put_targets()
        for wanted, found in [
            (due(), [ONE, TWO, THREE]),
            (due(targets=[TWO]), [TWO]),
            (due(targets={THREE, ONE, "IIDX00009"}), [ONE, THREE]),
            (due(targets=[]), []),
            (due(except_targets=(ONE, THREE)), [TWO]),
            (due(targets=[ONE, TWO], except_targets=frozenset({TWO})), [ONE]),
            (due(client=STRANGER), ["stranger"]),
            (due(client="CIDX0000000004"), []),
        ]:
            assert names(self.store.due(wanted, limit=100)) == found, wanted

    def test_what_is_due_is_claimed_by_client_and_target(self) -> None:
        self.put_targets()
        assert self.take(due(targets=[])) == []
        assert names(self.take(due(except_targets=[ONE, TWO]))) == [THREE]
        assert names(self.take(due(targets=[TWO, THREE]))) == [TWO]
        assert names(self.take(due())) == [ONE]
        assert names(self.take(due(client=STRANGER))) == ["stranger"]

    def test_a_refresh_token_in_doubt_is_due_only_where_that_is_asked_for(self) -> None:
        self.put_idle(sure=2, once=3, twice=1)
        for name, attempts in (("once", 1), ("twice", 2)):
            claim = self.claim(self.seen(grant_key(name)))
            self.release(claim, State.UNCERTAIN, attempts=attempts)
        assert names(self.store.due(due(), limit=100)) == ["sure"]
        assert names(self.store.due(due(attempts=1), limit=100)) == ["sure", "once"]
        assert names(self.store.due(due(attempts=2), limit=100)) == ["twice", "sure", "once"]
        assert names(self.take(due())) == ["sure"]
        assert names(self.take(due(attempts=1))) == ["once"]
        assert names(self.take(due(attempts=2))) == ["twice"]

    def test_what_could_not_be_claimed_is_not_due(self) -> None:
        self.put_idle(leased=1, paused=2, refused=3, revoked=4, free=5)
        self.claim(self.seen(grant_key("leased")), ttl=1000)
        for name, state in (("paused", State.ACTIVE), ("refused", State.NEEDS_CONSENT)):
            pause = 1000 if name == "paused" else 0
            claim = self.claim(self.seen(grant_key(name)))
            self.release(claim, state, attempts=0, pause=pause)
        self.store.revoke(grant_key("revoked"), note=note())
        assert names(self.store.due(due(attempts=9), limit=100)) == ["free"]
        assert names(self.take(due(attempts=9), limit=1)) == ["free"]
        self.let_pass(1001)
        later = ["leased", "paused", "free"]
        assert names(self.store.due(due(attempts=9), limit=100)) == later
        assert names(self.take(due(attempts=9))) == later

    def test_what_is_due_is_claimed_in_turn_and_up_to_the_limit(self) -> None:
        self.put_idle(third=3, first=1, fourth=4, second=2)
        assert names(self.take(due(), limit=3)) == ["first", "second", "third"]
        assert names(self.take(due(), limit=3)) == ["fourth"]
        assert self.take(due(), limit=3) == []

    def test_what_was_due_is_claimed_like_any_other(self) -> None:
        before = self.put("a", idle=1)
        [claim] = self.store.claim_due(due(), owner="owner-of-the-lease", ttl=1000, limit=1)
        assert at_rest(claim) == evolve(
            before,
            state=State.REFRESHING,
            attempts=1,
            owner="owner-of-the-lease",
            updated_at=claim.updated_at,
        )
        assert 900 < claim.lease_left <= 1000
        assert at_rest(self.seen()) == at_rest(claim)
        assert self.loses(before)
        assert self.settle(claim, "b").stored

    def test_many_that_claim_what_is_due_never_claim_the_same(self) -> None:
        everybody = [f"customer-{number:02}" for number in range(24)]
        self.put_idle(**dict.fromkeys(everybody, 1))
        stores = [self.store, self.second]

        def take(number: int) -> list[Record]:
            store = stores[number % 2]
            return store.claim_due(due(), owner=f"owner-{number}", ttl=1000, limit=6)

        batches = self.at_once(4, take)
        assert all(len(batch) <= 6 for batch in batches)
        taken = [name for batch in batches for name in names(batch)]
        # A batch may be small where another was at the same records, but the rest is still there.
        rest = names(self.take(due()))
        assert sorted(taken + rest) == everybody
        for number, batch in enumerate(batches):
            assert {self.seen(record.key).owner for record in batch} <= {f"owner-{number}"}


class Listing(Harness):
    """What `records`, `history`, `purge` and the dates in them promise."""

    def test_records_are_sorted_by_target_and_username(self) -> None:
        keys = [
            grant_key(username, target)
            for target in ("IIDX00001", "IIDX00002", "IIDX00010")
            for username in ("Zoe", "anna", "anna 2", "Émile", "éva", "\U0001f600")
        ]
        for key in keys[1::2] + keys[::2]:
            self.put("a", key)
        assert [record.key for record in self.second.records(CLIENT)] == keys

    def test_records_come_in_pages(self) -> None:
        keys = [grant_key(name, f"IIDX0000{n}") for n in range(3) for name in ("Ann", "ann", "Éva")]
        for key in keys:
            self.put("a", key)
        pages, after = [], None
        for _ in range(4):
            page = [record.key for record in self.second.records(CLIENT, after=after, limit=4)]
            pages.append(page)
            after = page[-1] if page else after
        assert pages == [keys[:4], keys[4:8], keys[8:], []]
        beyond = grant_key("bob", "IIDX00001")
        assert [r.key for r in self.second.records(CLIENT, after=beyond, limit=2)] == keys[5:7]

    def test_a_page_shows_records_as_they_are(self) -> None:
        self.put("a", grant_key("active"))
        self.claim(self.put("b", grant_key("leased")))
        self.put("c", grant_key("revoked"))
        self.store.revoke(grant_key("revoked"), note=note())
        page = self.second.records(CLIENT)
        assert [record.state for record in page] == [
            State.ACTIVE,
            State.REFRESHING,
            State.REVOKED,
        ]
        assert page[0] == self.seen(grant_key("active"))
        assert 900 < page[1].lease_left <= 1000

    def test_a_client_is_not_shown_the_records_of_another(self) -> None:
        self.put("a")
        self.put("b", grant_key(client="CIDX0000000003"))
        assert [record.key for record in self.second.records(CLIENT)] == [KEY]
        assert list(self.second.records("CIDX0000000004")) == []

    def test_every_change_is_a_line_in_the_history(self) -> None:
        steps = [
            Note(event="authorized", correlation_id="call-1", actor="psu"),
            Note(event="failed", correlation_id="call-2", outcome="uncertain", detail="TimedOut"),
            Note(event="refreshed", correlation_id="call-3"),
            Note(event="salvaged"),
            Note(event="revoked"),
        ]
        issued_at = self.clock()
        put = self.store.put(
            KEY, pair("a"), issued_at=issued_at, idle_until=issued_at, note=steps[0]
        )
        self.store.release(
            self.claim(put), state=State.UNCERTAIN, attempts=1, pause=0, error=None, note=steps[1]
        )
        claim = self.claim()
        self.store.settle(
            claim, pair("b"), issued_at=issued_at, idle_until=issued_at, note=steps[2]
        )
        self.settle(claim, "c")
        self.store.salvage(self.claim(), note=steps[3])
        self.store.revoke(KEY, note=steps[4])
        history = self.second.history(KEY)
        assert [entry.note for entry in history] == steps[::-1]
        assert [entry.generation for entry in history] == [4, 3, 2, 1, 1]

    def test_the_history_is_read_from_its_newest_line(self) -> None:
        for number in range(6):
            self.store.put(
                KEY,
                pair(f"{number}"),
                issued_at=self.clock(),
                idle_until=None,
                note=note(f"event-{number}"),
            )
            self.let_pass(number % 2)
        assert self.events() == [f"event-{number}" for number in range(5, -1, -1)]
        newest = self.second.history(KEY, limit=2)
        assert [entry.note.event for entry in newest] == ["event-5", "event-4"]

    def test_what_changes_nothing_adds_no_line(self) -> None:
        self.put("a")
        claim = self.claim()
        self.settle(claim, "b")
        events = self.events()
        self.store.claim(claim, owner="late", ttl=1000)
        self.release(claim)
        self.settle(claim, "b")
        self.put("b")
        assert self.events() == events

    def test_each_grant_has_its_own_history(self) -> None:
        self.put("a")
        self.put("b", grant_key("other"))
        self.store.revoke(KEY, note=note("revoked"))
        assert self.events() == ["revoked", "changed"]
        assert self.events(grant_key("other")) == ["changed"]
        assert self.events(grant_key("nobody")) == []

    def test_a_record_knows_the_last_call_for_its_grant(self) -> None:
        self.store.put(
            KEY,
            pair("a"),
            issued_at=self.clock(),
            idle_until=None,
            note=note("authorized", "call-1"),
        )
        assert self.seen().correlation_id == "call-1"
        self.store.revoke(KEY, note=note("revoked"))
        assert self.seen().correlation_id == "call-1"
        self.store.put(
            KEY,
            pair("b"),
            issued_at=self.clock(),
            idle_until=None,
            note=note("authorized", "call-2"),
        )
        assert self.seen().correlation_id == "call-2"

    def test_a_record_tells_when_it_was_written(self) -> None:
        self.put("a")
        self.let_pass(1000)
        before = self.seen()
        for change in (self.claim, lambda: self.release(self.seen()), lambda: self.put("b")):
            change()
            after = self.seen()
            assert after.updated_at - before.updated_at >= timedelta(seconds=1000)
            assert is_utc(after.updated_at)
            self.let_pass(1000)
            before = self.seen()

    def test_dates_in_journal_and_history_are_those_of_the_store(self) -> None:
        record = self.put("a")
        for number in range(2):
            self.store.journal(record, pair(f"{number}"), origin=Origin.ERROR)
            self.settle(self.claim(), f"b{number}")
            self.let_pass(1000)
        late, early = (entry.at for entry in self.journal())
        assert 1000 <= (late - early).total_seconds() < 1100
        late, early, *_ = (entry.at for entry in self.second.history(KEY))
        assert 1000 <= (late - early).total_seconds() < 1100
        assert is_utc(late)
        assert all(is_utc(entry.at) for entry in self.journal())

    def test_old_journal_entries_are_purged_and_young_ones_stay(self) -> None:
        record = self.put("a")
        self.store.journal(record, pair("old"), origin=Origin.ERROR)
        self.let_pass(self.journal_retention.total_seconds() - 1000)
        self.store.journal(record, pair("young"), origin=Origin.ERROR)
        assert self.store.purge() == 0
        self.let_pass(1001)
        assert self.store.purge() == 1
        assert origins(self.journal()) == [(Origin.ERROR, pair("young"), 2, 1)]
        assert self.store.purge() == 0
        assert self.events() == ["changed"]

    def test_old_history_is_purged_and_the_record_stays(self) -> None:
        self.put("a")
        self.put("other", grant_key("other"))
        self.let_pass(self.history_retention.total_seconds() - 1000)
        self.store.revoke(KEY, note=note("revoked"))
        assert self.store.purge() == 0
        self.let_pass(1001)
        before = self.seen()
        assert self.store.purge() == 2
        assert self.events() == ["revoked"]
        assert self.events(grant_key("other")) == []
        assert self.seen() == before
        assert self.seen(grant_key("other")).token == pair("other")
