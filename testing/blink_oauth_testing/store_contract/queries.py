"""Tests of `due`, `claim_due`, `records`, `history` and `purge`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from uuid import uuid4

from attrs import evolve

from blink_oauth.tokens import Oddity, Token
from blink_oauth_keeper.store.protocol import (
    LONGEST_LEASE,
    DueQuery,
    Note,
    Origin,
    Record,
    State,
    odd_detail,
)

from .harness import (
    CLIENT,
    ISSUED,
    KEY,
    Harness,
    days,
    due,
    entry_values,
    grant_key,
    is_utc,
    note,
    pair,
    untimed,
)

__all__ = ["DueRecords", "Listing"]

ONE, TWO, THREE = "IIDX00001", "IIDX00002", "IIDX00003"
OTHER_CLIENT = "CIDX0000000003"


def usernames(records: Sequence[Record]) -> list[str]:
    """Return the usernames of records."""
    return [record.key.grant.username for record in records]


class DueRecords(Harness):
    """Tests of `due` and `claim_due`."""

    def put_idle(self, **idle: float) -> None:
        """Store a pair for each username, whose refresh token expires unused after these days."""
        for name, idle_days in idle.items():
            self.put(name, grant_key(name), idle=idle_days)

    def put_targets(self) -> None:
        """Store a pair at each of three targets, and one of another client."""
        for days_left, target in enumerate((ONE, TWO, THREE), start=1):
            self.put(target, grant_key(target, target), idle=days_left)
        self.put("other", grant_key("other client", ONE, OTHER_CLIENT), idle=1)

    def claim_due(self, wanted: DueQuery, *, limit: int = 100) -> list[Record]:
        """Claim due records."""
        return self.store.claim_due(wanted, owner=uuid4().hex, ttl=LONGEST_LEASE, limit=limit)

    def test_no_record_is_unreadable_whose_pair_can_be_read(self) -> None:
        self.put_targets()
        self.put_idle(first=1, revoked=1)
        self.store.mark_revoked(grant_key("revoked"), note=note())
        (claimed, *_) = self.claim_due(due(), limit=1)
        before = [self.read(key) for key in (claimed.key, grant_key("revoked"))]
        for wanted in (due(attempts=1), due(targets=[ONE]), due(except_targets=[ONE])):
            assert self.second.unreadable(wanted) == 0
        assert [self.read(record.key) for record in before] == before

    def test_due_records_are_sorted_by_the_expiry_of_their_refresh_tokens(self) -> None:
        self.put_idle(third=3, first=1, fourth=4, second=2)
        assert usernames(self.second.due(due(), limit=100)) == [
            "first",
            "second",
            "third",
            "fourth",
        ]
        assert usernames(self.second.due(due(), limit=2)) == ["first", "second"]
        assert self.second.due(due(), limit=1)[0] == self.read(grant_key("first"))

    def test_reading_due_records_claims_nothing(self) -> None:
        self.put_idle(one=1)
        before = self.read(grant_key("one"))
        assert list(self.store.due(due(), limit=100)) == [before]
        assert self.read(grant_key("one")) == before

    def test_a_record_that_expires_exactly_at_the_given_time_is_due(self) -> None:
        self.put_idle(before=9, at=10, after=10 + 0.001 / 86_400)
        assert usernames(self.store.due(due(within=10), limit=100)) == ["before", "at"]
        assert usernames(self.claim_due(due(within=10))) == ["before", "at"]

    def test_a_pair_without_a_refresh_token_is_never_due(self) -> None:
        access_only = evolve(pair("a"), refresh_token=None)
        self.store.put(KEY, access_only, issued_at=ISSUED, idle_until=None, note=note())
        assert list(self.store.due(due(within=10_000), limit=100)) == []
        assert self.claim_due(due(within=10_000)) == []

    def test_due_selects_by_client_and_target(self) -> None:
        self.put_targets()
        for wanted, found in [
            (due(), [ONE, TWO, THREE]),
            (due(targets=[TWO]), [TWO]),
            (due(targets={THREE, ONE, "IIDX00009"}), [ONE, THREE]),
            (due(targets=[]), []),
            (due(except_targets=(ONE, THREE)), [TWO]),
            (due(targets=[ONE, TWO], except_targets=frozenset({TWO})), [ONE]),
            (due(client=OTHER_CLIENT), ["other client"]),
            (due(client="CIDX0000000004"), []),
        ]:
            assert usernames(self.store.due(wanted, limit=100)) == found, wanted

    def test_claim_due_selects_by_client_and_target(self) -> None:
        self.put_targets()
        assert self.claim_due(due(targets=[])) == []
        assert usernames(self.claim_due(due(except_targets=[ONE, TWO]))) == [THREE]
        assert usernames(self.claim_due(due(targets=[TWO, THREE]))) == [TWO]
        assert usernames(self.claim_due(due())) == [ONE]
        assert usernames(self.claim_due(due(client=OTHER_CLIENT))) == ["other client"]

    def test_a_record_that_was_issued_later_is_not_due(self) -> None:
        self.put_idle(first=2)
        for later, found in ((0, []), (1, ["first"])):
            query = evolve(due(), issued_before=ISSUED + timedelta(seconds=later))
            assert usernames(self.store.due(query, limit=100)) == found
        assert self.claim_due(evolve(due(), issued_before=ISSUED)) == []

    def test_a_record_with_attempts_is_due_only_up_to_max_attempts(self) -> None:
        self.put_idle(never=2, once=3, twice=1)
        for name, attempts in (("once", 1), ("twice", 2)):
            claim = self.claim(self.read(grant_key(name)))
            self.release(claim, State.UNCERTAIN, attempts=attempts)
        assert usernames(self.store.due(due(), limit=100)) == ["never"]
        assert usernames(self.store.due(due(attempts=1), limit=100)) == ["never", "once"]
        assert usernames(self.store.due(due(attempts=2), limit=100)) == ["twice", "never", "once"]
        assert usernames(self.claim_due(due())) == ["never"]
        assert usernames(self.claim_due(due(attempts=1))) == ["once"]
        assert usernames(self.claim_due(due(attempts=2))) == ["twice"]

    def test_a_record_that_cannot_be_claimed_is_not_due(self) -> None:
        self.put_idle(leased=1, paused=2, refused=3, revoked=4, free=5)
        self.claim(self.read(grant_key("leased")))
        for name, state in (("paused", State.ACTIVE), ("refused", State.NEEDS_CONSENT)):
            pause = 1000 if name == "paused" else 0
            claim = self.claim(self.read(grant_key(name)))
            self.release(claim, state, attempts=0, pause=pause)
        self.store.mark_revoked(grant_key("revoked"), note=note())
        assert usernames(self.store.due(due(attempts=9), limit=100)) == ["free"]
        assert usernames(self.claim_due(due(attempts=9), limit=1)) == ["free"]
        self.let_pass(1001)
        later = ["leased", "paused", "free"]
        assert usernames(self.store.due(due(attempts=9), limit=100)) == later
        assert usernames(self.claim_due(due(attempts=9))) == later

    def test_claim_due_claims_in_order_and_up_to_the_limit(self) -> None:
        self.put_idle(third=3, first=1, fourth=4, second=2)
        assert usernames(self.claim_due(due(), limit=3)) == ["first", "second", "third"]
        assert usernames(self.claim_due(due(), limit=3)) == ["fourth"]
        assert self.claim_due(due(), limit=3) == []

    def test_claim_due_takes_leases_as_claim_does(self) -> None:
        before = self.put("a", idle=1)
        [claim] = self.store.claim_due(
            due(), owner="owner-of-the-lease", ttl=LONGEST_LEASE, limit=1
        )
        assert untimed(claim) == evolve(
            before,
            state=State.REFRESHING,
            attempts=1,
            owner="owner-of-the-lease",
            updated_at=claim.updated_at,
        )
        assert 20 < claim.lease_left <= LONGEST_LEASE
        assert untimed(self.read()) == untimed(claim)
        assert self.claim_fails(before)
        assert self.settle(claim, "b").stored

    def test_concurrent_calls_of_claim_due_never_claim_the_same_record(self) -> None:
        customers = [f"customer-{number:02}" for number in range(24)]
        self.put_idle(**dict.fromkeys(customers, 1))
        stores = [self.store, self.second]

        def claim(number: int) -> list[Record]:
            store = stores[number % 2]
            return store.claim_due(due(), owner=f"owner-{number}", ttl=LONGEST_LEASE, limit=6)

        batches = self.run_concurrently(4, claim)
        assert all(len(batch) <= 6 for batch in batches)
        claimed = [name for batch in batches for name in usernames(batch)]
        # A call skips records that another call is claiming, so some may be left.
        rest = usernames(self.claim_due(due()))
        assert sorted(claimed + rest) == customers
        for number, batch in enumerate(batches):
            assert {self.read(record.key).owner for record in batch} <= {f"owner-{number}"}


class Listing(Harness):
    """Tests of `records`, `history` and `purge`."""

    def test_records_are_sorted_by_target_and_username(self) -> None:
        keys = [
            grant_key(username, target)
            for target in ("IIDX00001", "IIDX00002", "IIDX00010")
            for username in ("Zoe", "anna", "anna 2", "Émile", "éva", "\U0001f600")
        ]
        for key in keys[1::2] + keys[::2]:
            self.put("a", key)
        assert [record.key for record in self.second.records(CLIENT)] == keys

    def test_records_are_returned_in_pages(self) -> None:
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

    def test_records_have_their_current_state_and_lease(self) -> None:
        self.put("a", grant_key("active"))
        self.claim(self.put("b", grant_key("leased")))
        self.put("c", grant_key("revoked"))
        self.store.mark_revoked(grant_key("revoked"), note=note())
        page = self.second.records(CLIENT)
        assert [record.state for record in page] == [
            State.ACTIVE,
            State.REFRESHING,
            State.REVOKING,
        ]
        assert page[0] == evolve(self.read(grant_key("active")), token=None)
        assert 20 < page[1].lease_left <= LONGEST_LEASE

    def test_records_have_no_pairs_but_say_when_the_access_tokens_expire(self) -> None:
        self.put("a", grant_key("active"))
        claim = self.claim(self.put("b", grant_key("refreshed")))
        later = evolve(pair("c"), expires_at=ISSUED + days(2))
        self.store.settle(claim, later, issued_at=ISSUED, idle_until=ISSUED, note=note())
        self.put("d", grant_key("revoked"))
        self.store.mark_revoked(grant_key("revoked"), note=note())
        unlimited = evolve(pair("e"), expires_at=None)
        self.store.put(
            grant_key("unlimited"), unlimited, issued_at=ISSUED, idle_until=None, note=note()
        )
        page = self.second.records(CLIENT)
        assert [record.token for record in page] == [None] * 4
        day = ISSUED + days(1)
        assert [record.expires_at for record in page] == [day, ISSUED + days(2), day, None]
        for record in page:
            assert record == evolve(self.read(record.key), token=None)

    def test_records_have_the_oddities_of_their_pairs(self) -> None:
        def store(name: str, token: Token) -> Record:
            return self.store.put(
                grant_key(name),
                token,
                issued_at=ISSUED,
                idle_until=ISSUED,
                note=odd_note("grant.authorized", token),
            )

        def odd_note(event: str, token: Token) -> Note:
            return Note(event=event, detail=odd_detail(token))

        odd = evolve(pair("a"), oddities=frozenset(Oddity))
        claim = self.claim(store("became_usual", odd))
        self.store.settle(
            claim,
            pair("b"),
            issued_at=ISSUED,
            idle_until=ISSUED,
            note=odd_note("refresh.succeeded", pair("b")),
        )
        failed = self.claim(store("odd", odd))
        self.release(failed, State.UNCERTAIN, attempts=1)
        self.store.add_note(grant_key("odd"), note=note("grant.authorizing"))
        # A refresh may return no refresh token: that is as usual.
        same_refresh_token = frozenset({Oddity.REFRESH_TOKEN_MISSING})
        store("same_refresh_token", evolve(pair("c"), oddities=same_refresh_token))
        store("usual", pair("d"))
        behind = store("written_back", pair("e"))
        known = evolve(behind, generation=5, token=evolve(pair("f"), oddities=odd.oddities))
        self.store.write_back(known, seen=behind, note=odd_note("store.behind", odd))
        page = self.second.records(CLIENT)
        all_but_one = frozenset(Oddity) - same_refresh_token
        assert {record.key.grant.username: record.oddities for record in page} == {
            "became_usual": frozenset(),
            "odd": all_but_one,
            "same_refresh_token": frozenset(),
            "usual": frozenset(),
            "written_back": all_but_one,
        }

    def test_only_the_records_of_the_given_client_are_returned(self) -> None:
        self.put("a")
        self.put("b", grant_key(client="CIDX0000000003"))
        assert [record.key for record in self.second.records(CLIENT)] == [KEY]
        assert list(self.second.records("CIDX0000000004")) == []

    def test_every_change_adds_an_entry_to_the_history(self) -> None:
        notes = [
            Note(event="authorized", correlation_id="call-1", actor="psu"),
            Note(event="failed", correlation_id="call-2", outcome="uncertain", detail="TimedOut"),
            Note(event="refreshed", correlation_id="call-3"),
            Note(event="salvaged"),
            Note(event="revoked"),
        ]
        issued_at = self.clock()
        put = self.store.put(
            KEY, pair("a"), issued_at=issued_at, idle_until=issued_at, note=notes[0]
        )
        self.store.release(
            self.claim(put), state=State.UNCERTAIN, attempts=1, pause=0, error=None, note=notes[1]
        )
        claim = self.claim()
        self.store.settle(
            claim, pair("b"), issued_at=issued_at, idle_until=issued_at, note=notes[2]
        )
        self.settle(claim, "c")
        self.store.salvage(self.claim(), note=notes[3])
        self.store.mark_revoked(KEY, note=notes[4])
        history = self.second.history(KEY)
        assert [entry.note for entry in history] == notes[::-1]
        assert [entry.generation for entry in history] == [4, 3, 2, 1, 1]

    def test_history_entries_are_returned_newest_first(self) -> None:
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

    def test_a_call_that_changes_nothing_adds_no_history_entry(self) -> None:
        self.put("a")
        claim = self.claim()
        self.settle(claim, "b")
        events = self.events()
        self.store.claim(claim, owner="late-owner", ttl=LONGEST_LEASE)
        self.release(claim)
        self.settle(claim, "b")
        self.put("b")
        assert self.events() == events

    def test_a_note_is_added_to_the_history_and_changes_nothing_else(self) -> None:
        claim = self.claim(self.put("a"))
        added = Note(
            event="authorizing",
            correlation_id="call-1",
            outcome="uncertain",
            detail="TimedOut",
            actor="psu",
        )
        self.store.add_note(KEY, note=added)
        newest, *_ = self.second.history(KEY)
        assert (newest.note, newest.generation) == (added, claim.generation)
        record = self.read()
        assert untimed(record) == untimed(claim)
        assert 20 < record.lease_left <= LONGEST_LEASE
        assert self.settle(claim, "b").stored
        self.store.add_note(KEY, note=note("later"))
        assert self.events() == ["later", "changed", "authorizing", "changed"]

    def test_a_note_can_be_added_for_an_unknown_grant(self) -> None:
        self.store.add_note(KEY, note=note("authorizing"))
        entries = [(entry.note, entry.generation) for entry in self.second.history(KEY)]
        assert entries == [(note("authorizing"), 0)]
        assert self.second.load(KEY) is None
        assert list(self.second.records(CLIENT)) == []
        assert self.put("a").generation == 1
        assert self.events() == ["changed", "authorizing"]

    def test_each_grant_has_its_own_history(self) -> None:
        self.put("a")
        self.put("b", grant_key("other"))
        self.store.mark_revoked(KEY, note=note("revoked"))
        assert self.events() == ["revoked", "changed"]
        assert self.events(grant_key("other")) == ["changed"]
        assert self.events(grant_key("unknown")) == []

    def test_a_record_has_the_correlation_id_of_the_last_call(self) -> None:
        self.store.put(
            KEY,
            pair("a"),
            issued_at=self.clock(),
            idle_until=None,
            note=note("authorized", "call-1"),
        )
        assert self.read().correlation_id == "call-1"
        self.store.mark_revoked(KEY, note=note("revoked"))
        assert self.read().correlation_id == "call-1"
        self.store.put(
            KEY,
            pair("b"),
            issued_at=self.clock(),
            idle_until=None,
            note=note("authorized", "call-2"),
        )
        assert self.read().correlation_id == "call-2"

    def test_a_record_has_the_time_of_its_last_change(self) -> None:
        self.put("a")
        self.let_pass(1000)
        before = self.read()
        for change in (self.claim, lambda: self.release(self.read()), lambda: self.put("b")):
            change()
            after = self.read()
            assert after.updated_at - before.updated_at >= timedelta(seconds=1000)
            assert is_utc(after.updated_at)
            self.let_pass(1000)
            before = self.read()

    def test_journal_and_history_entries_are_dated_by_the_stores_clock(self) -> None:
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

    def test_old_journal_entries_are_purged_and_newer_ones_stay(self) -> None:
        record = self.put("a")
        self.store.journal(record, pair("old"), origin=Origin.ERROR)
        self.let_pass(self.journal_retention.total_seconds() - 1000)
        self.store.journal(record, pair("newer"), origin=Origin.ERROR)
        assert self.store.purge() == 0
        self.let_pass(1001)
        assert self.store.purge() == 1
        assert entry_values(self.journal()) == [(Origin.ERROR, pair("newer"), 2, 1)]
        assert self.store.purge() == 0
        assert self.events() == ["changed"]

    def test_old_history_entries_are_purged_and_the_record_stays(self) -> None:
        self.put("a")
        self.put("other", grant_key("other"))
        self.let_pass(self.history_retention.total_seconds() - 1000)
        self.store.mark_revoked(KEY, note=note("revoked"))
        assert self.store.purge() == 0
        self.let_pass(1001)
        before = self.read()
        assert self.store.purge() == 2
        assert self.events() == ["revoked"]
        assert self.events(grant_key("other")) == []
        assert self.read() == before
        assert self.read(grant_key("other")).token == pair("other")
