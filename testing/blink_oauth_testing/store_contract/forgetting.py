"""A grant that is forgotten leaves a tombstone, which nothing but a new consent replaces."""

from __future__ import annotations

from attrs import evolve

from blink_oauth_keeper.store.protocol import Origin, Record, State

from .harness import (
    CLIENT,
    ISSUED,
    KEY,
    Harness,
    access_tokens,
    days,
    due,
    entry_values,
    grant_key,
    note,
    pair,
)

__all__ = ["Forgetting"]


class Forgetting(Harness):
    """Tests of `mark_revoked` with `forget`, and of `erase` after it."""

    def forgotten(self, name: str = "a") -> Record:
        """Store a pair, forget the grant, and return the tombstone as the second store reads it."""
        self.put(name)
        marked = self.store.mark_revoked(KEY, note=note(), forget=True)
        assert marked is not None
        assert self.erase(marked, note=note())
        return self.read()

    def usernames(self) -> set[str]:
        """Return the usernames in all listings of the second store."""
        listed = [
            *self.second.records(CLIENT),
            *self.second.revoking(CLIENT, limit=99),
            *self.second.due(due(within=99, attempts=99), limit=99),
        ]
        return {record.key.grant.username for record in listed}

    def test_a_grant_that_is_to_be_forgotten_is_revoked_first(self) -> None:
        before = self.put("a")
        marked = self.store.mark_revoked(KEY, note=note("marked"), forget=True)
        assert marked == self.read()
        assert marked == evolve(
            before,
            generation=before.generation + 1,
            state=State.REVOKING,
            forgetting=True,
            updated_at=self.read().updated_at,
        )
        assert list(self.second.revoking(CLIENT, limit=9)) == [marked]
        assert self.events()[0] == "marked"

    def test_a_forgotten_grant_keeps_numbers_and_times_only(self) -> None:
        self.put("a")
        claim = self.claim()
        self.release(claim, State.UNCERTAIN, pause=1000)
        marked = self.store.mark_revoked(KEY, note=note(correlation_id="call-1"), forget=True)
        assert marked is not None
        assert self.erase(marked, note=note(correlation_id="call-2"))
        assert self.read() == Record(
            key=KEY,
            generation=2,
            consent=1,
            state=State.FORGOTTEN,
            token=None,
            issued_at=ISSUED,
            idle_until=None,
            updated_at=self.read().updated_at,
        )

    def test_journal_and_history_of_a_forgotten_grant_are_deleted(self) -> None:
        other = self.put("other", grant_key("other"))
        self.store.journal(other, pair("other-2"), origin=Origin.ERROR)
        record = self.put("a")
        self.store.journal(record, pair("b"), origin=Origin.ERROR)
        self.store.journal(record, pair("foreign"), origin=Origin.FOREIGN)
        marked = self.store.mark_revoked(KEY, note=note(), forget=True)
        assert marked is not None
        assert self.store.erase(marked, journaled=[pair("b")], note=note())
        assert (self.journal(), self.events()) == ([], [])
        assert len(self.journal(other.key)) == len(self.events(other.key)) == 1

    def test_no_listing_has_a_forgotten_grant(self) -> None:
        keys = [grant_key(name) for name in ("a", "customer", "z")]
        for key in keys:
            self.put(key.grant.username, key)
        self.forgotten("b")
        assert self.usernames() == {"a", "z"}
        assert [r.key for r in self.second.records(CLIENT, limit=2)] == [keys[0], keys[2]]
        assert [r.key for r in self.second.records(CLIENT, after=keys[0], limit=1)] == [keys[2]]

    def test_a_grant_can_be_forgotten_after_it_was_erased(self) -> None:
        self.put("a")
        revoked = self.store.mark_revoked(KEY, note=note())
        assert revoked is not None
        assert self.erase(revoked, note=note())
        assert list(self.second.revoking(CLIENT, limit=9)) == []
        marked = self.store.mark_revoked(KEY, note=note(), forget=True)
        assert marked is not None
        assert (marked.state, marked.generation) == (State.REVOKED, revoked.generation)
        assert list(self.second.revoking(CLIENT, limit=9)) == [marked]
        assert self.erase(marked, note=note())
        assert self.read().state is State.FORGOTTEN

    def test_a_revocation_in_progress_can_be_made_to_forget(self) -> None:
        self.put("a")
        revoked = self.store.mark_revoked(KEY, note=note())
        assert revoked is not None
        marked = self.store.mark_revoked(KEY, note=note(), forget=True)
        assert marked is not None
        assert marked == evolve(revoked, forgetting=True, updated_at=marked.updated_at)
        assert self.store.mark_revoked(KEY, note=note()) == marked == self.read()
        assert self.erase(revoked, note=note())
        assert self.read().state is State.FORGOTTEN

    def test_forgetting_again_changes_nothing(self) -> None:
        tombstone = self.forgotten()
        assert self.store.mark_revoked(KEY, note=note(), forget=True) == tombstone
        assert self.store.mark_revoked(KEY, note=note()) == tombstone
        assert self.erase(tombstone, note=note())
        assert self.read() == tombstone
        assert self.events() == []

    def test_an_unknown_grant_cannot_be_forgotten_but_its_traces_are_deleted(self) -> None:
        empty = evolve(self.put("a", grant_key("other")), key=KEY, generation=0, consent=0)
        self.store.add_note(KEY, note=note())
        self.store.journal(empty, pair("foreign"), origin=Origin.FOREIGN)
        assert self.store.mark_revoked(KEY, note=note()) is None
        assert (len(self.journal()), len(self.events())) == (1, 1)
        assert self.store.mark_revoked(KEY, note=note(), forget=True) is None
        assert self.second.load(KEY) is None
        assert (self.journal(), self.events()) == ([], [])

    def test_a_pair_that_was_journaled_meanwhile_keeps_the_grant_from_being_forgotten(
        self,
    ) -> None:
        self.put("a")
        claim = self.claim()
        self.store.journal(claim, pair("foreign"), origin=Origin.FOREIGN)
        marked = self.store.mark_revoked(KEY, note=note(), forget=True)
        assert marked is not None
        assert not self.settle(claim, "late").stored
        assert self.store.erase(marked, journaled=[], note=note("erased"))
        assert (self.events()[:1], len(self.journal())) == (["erased"], 2)
        now = self.read()
        assert (now.state, now.forgetting) == (State.REVOKED, True)
        assert list(self.second.revoking(CLIENT, limit=9)) == [now]
        assert self.erase(now, note=note())
        assert self.read().state is State.FORGOTTEN

    def test_a_late_pair_of_a_forgotten_grant_is_kept_to_be_revoked(self) -> None:
        self.put("a")
        claim = self.claim()
        marked = self.store.mark_revoked(KEY, note=note(), forget=True)
        assert marked is not None
        assert self.erase(marked, note=note())
        settlement = self.settle(claim, "late")
        now = self.read()
        assert (settlement.stored, settlement.record) == (False, now)
        assert (now.state, now.forgetting, now.token) == (State.REVOKED, True, None)
        assert (now.generation, now.consent) == (marked.generation, 1)
        assert access_tokens([e.token for e in self.journal()]) == access_tokens([pair("late")])
        assert list(self.second.revoking(CLIENT, limit=9)) == [now]
        assert self.erase(now, note=note())
        assert (self.read().state, self.journal()) == (State.FORGOTTEN, [])

    def test_a_pair_that_is_journaled_late_is_kept_to_be_revoked(self) -> None:
        before = self.put("a")
        self.forgotten("b")
        self.store.journal(before, pair("late"), origin=Origin.ERROR)
        assert entry_values(self.journal()) == [(Origin.ERROR, pair("late"), 2, 1)]
        assert list(self.second.revoking(CLIENT, limit=9)) == [self.read()]
        assert self.read().forgetting

    def test_a_foreign_pair_of_a_forgotten_grant_is_not_stored(self) -> None:
        before = self.put("a")
        tombstone = self.forgotten("b")
        self.store.journal(before, pair("foreign"), origin=Origin.FOREIGN)
        assert (self.journal(), self.read()) == ([], tombstone)

    def test_a_note_brings_no_history_of_a_forgotten_grant_back(self) -> None:
        tombstone = self.forgotten()
        self.store.add_note(KEY, note=note())
        assert self.events() == []
        assert self.read() == evolve(tombstone, updated_at=self.read().updated_at)

    def test_a_forgotten_grant_cannot_be_claimed_released_or_salvaged(self) -> None:
        self.put("a")
        claim = self.claim()
        marked = self.store.mark_revoked(KEY, note=note(), forget=True)
        assert marked is not None
        assert self.erase(marked, note=note())
        tombstone = self.read()
        assert self.claim_fails(claim)
        assert self.claim_fails(tombstone)
        assert not self.release(claim)
        assert self.store.salvage(claim, note=note()) is None
        assert self.store.claim_due(due(within=99, attempts=9), owner="o", ttl=9, limit=9) == []
        assert (self.read(), self.events()) == (tombstone, [])

    def test_a_new_consent_replaces_a_tombstone(self) -> None:
        tombstone = self.forgotten()
        again = self.put("b")
        assert again == self.read()
        assert (again.generation, again.consent) == (tombstone.generation + 1, 2)
        assert (again.state, again.forgetting) == (State.ACTIVE, False)
        assert (self.usernames(), self.journal(), self.events()) == (
            {"customer"},
            [],
            ["changed"],
        )

    def test_a_new_consent_ends_the_wish_to_forget(self) -> None:
        self.put("a")
        marked = self.store.mark_revoked(KEY, note=note(), forget=True)
        assert marked is not None
        again = self.put("b")
        assert (again.state, again.forgetting) == (State.ACTIVE, False)
        assert not self.erase(marked, note=note())
        revoked = self.store.mark_revoked(KEY, note=note())
        assert revoked is not None
        assert not revoked.forgetting
        assert self.erase(revoked, note=note())
        assert self.read().state is State.REVOKED

    def test_a_grant_can_be_forgotten_a_second_time(self) -> None:
        first = self.forgotten()
        again = self.forgotten("b")
        assert (again.generation, again.consent) == (first.generation + 2, 2)
        assert self.usernames() == set()

    def test_a_record_is_written_back_over_a_tombstone_only_as_it_was_read(self) -> None:
        seen = self.put("a")
        tombstone = self.forgotten("b")
        known = evolve(seen, generation=9, state=State.REVOKING, forgetting=True)
        assert self.store.write_back(known, seen=seen, note=note()) is None
        assert self.store.write_back(known, seen=None, note=note()) is None
        assert (self.read(), self.events()) == (tombstone, [])
        written = self.store.write_back(known, seen=tombstone, note=note())
        assert written == self.read()
        assert (written.generation, written.state, written.forgetting, written.token) == (
            9,
            State.REVOKING,
            True,
            pair("a"),
        )
        assert self.erase(written, note=note())
        assert (self.read().state, self.read().generation) == (State.FORGOTTEN, 9)

    def test_a_tombstone_is_never_purged(self) -> None:
        tombstone = self.forgotten()
        self.let_pass(10 * (self.journal_retention + self.history_retention).total_seconds())
        assert self.store.purge() == 0
        assert evolve(self.read(), updated_at=tombstone.updated_at) == tombstone

    def test_many_grants_are_forgotten_independently(self) -> None:
        other_client = grant_key("a", client="CIDX0000000009")
        keys = [grant_key("a"), grant_key("b"), grant_key("a", target="IIDX00002"), other_client]
        for key in keys:
            self.put("x", key)
            marked = self.store.mark_revoked(key, note=note(), forget=True)
            assert marked is not None
            assert self.erase(marked, note=note())
        assert {self.read(key).state for key in keys} == {State.FORGOTTEN}
        self.store.put(
            keys[0], pair("y"), issued_at=ISSUED, idle_until=ISSUED + days(9), note=note()
        )
        states = [self.read(key).state for key in keys]
        assert states == [State.ACTIVE, *[State.FORGOTTEN] * 3]

    def test_of_forgetting_and_a_consent_at_once_one_comes_first(self) -> None:
        for number in range(4):
            self.put(f"before-{number}")

            def run(thread: int, number: int = number) -> object:
                if thread:
                    return self.put(f"after-{number}")
                marked = self.store.mark_revoked(KEY, note=note(), forget=True)
                assert marked is not None
                return self.erase(marked, note=note())

            self.run_concurrently(2, run)
            now = self.read()
            if now.state is State.FORGOTTEN:
                assert (self.journal(), self.events()) == ([], [])
            else:
                assert (now.state, now.token) == (State.ACTIVE, pair(f"after-{number}"))
                assert now.forgetting is False
