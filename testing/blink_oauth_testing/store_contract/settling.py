"""A pair that was brought home is stored or journalled; a lease goes back by its owner alone."""

from __future__ import annotations

from attrs import evolve

from blink_oauth_keeper.store.records import Origin, Record, State

from .material import ISSUED, KEY, at_rest, days, grant_key, note, origins, pair, texts
from .stage import Stage

__all__ = ["Settling"]


class Settling(Stage):
    """What `settle` and `release` promise."""

    def test_a_settled_pair_is_the_record_of_the_next_generation(self) -> None:
        before = self.put("a")
        settlement = self.settle(self.claim(), "b")
        after = self.seen()
        assert settlement.stored
        assert settlement.record == after
        assert after == Record(
            key=KEY,
            generation=before.generation + 1,
            consent=before.consent,
            state=State.ACTIVE,
            token=pair("b"),
            issued_at=ISSUED + days(1),
            idle_until=ISSUED + days(31),
            updated_at=after.updated_at,
        )
        assert self.journal() == []

    def test_a_pair_in_doubt_is_settled_with_one_attempt(self) -> None:
        self.put("a")
        assert self.settle(self.claim(), "b", state=State.UNCERTAIN).stored
        after = self.seen()
        assert (after.state, after.attempts, after.lease_left) == (State.UNCERTAIN, 1, 0)
        assert self.claim(after).attempts == 2

    def test_a_pair_is_settled_although_the_lease_ran_out(self) -> None:
        self.put("a")
        claim = self.claim(ttl=10)
        self.let_pass(100)
        assert self.settle(claim, "b").stored
        assert self.seen().token == pair("b")

    def test_a_pair_is_settled_although_another_holds_the_lease(self) -> None:
        self.put("a")
        late = self.claim(ttl=10)
        self.let_pass(100)
        other = self.claim()
        assert self.settle(late, "b").stored
        after = self.seen()
        assert (after.state, after.lease_left, after.owner) == (State.ACTIVE, 0, None)
        assert not self.release(other)
        assert not self.settle(other, "c").stored
        assert self.seen() == after

    def test_a_pair_that_arrives_ends_a_pause_and_clears_an_error(self) -> None:
        self.put("a")
        late = self.claim(ttl=10)
        self.let_pass(100)
        self.release(self.claim(), State.UNCERTAIN, attempts=2, pause=1000)
        assert self.settle(late, "b").stored
        after = self.seen()
        assert (after.attempts, after.pause_left, after.error) == (0, 0, None)

    def test_a_pair_that_arrives_revives_a_grant_that_was_refused_meanwhile(self) -> None:
        self.put("a")
        late = self.claim(ttl=10)
        self.let_pass(100)
        self.release(self.claim(), State.NEEDS_CONSENT)
        assert self.settle(late, "b").stored
        assert self.claim().token == pair("b")

    def test_a_pair_that_comes_too_late_goes_to_the_journal(self) -> None:
        self.put("a")
        late = self.claim(ttl=10)
        self.let_pass(100)
        self.settle(self.claim(), "b")
        stored = self.seen()
        settlement = self.settle(late, "c")
        assert not settlement.stored
        assert settlement.record == stored == self.seen()
        assert origins(self.journal()) == [(Origin.SUPERSEDED, pair("c"), 2, 1)]

    def test_a_pair_that_comes_after_the_revocation_goes_to_the_journal(self) -> None:
        self.put("a")
        claim = self.claim()
        revoked = self.store.revoke(KEY, note=note())
        settlement = self.settle(claim, "b")
        assert not settlement.stored
        assert settlement.record == revoked == self.seen()
        assert origins(self.journal()) == [(Origin.SUPERSEDED, pair("b"), 2, 1)]

    def test_a_pair_of_a_grant_that_is_not_stored_goes_to_the_journal(self) -> None:
        claim = evolve(self.put("a"), key=grant_key("nobody"), generation=7, consent=3)
        settlement = self.settle(claim, "b")
        assert (settlement.stored, settlement.record) == (False, None)
        assert origins(self.journal(claim.key)) == [(Origin.SUPERSEDED, pair("b"), 8, 3)]
        assert self.journal() == []

    def test_settling_again_does_no_harm(self) -> None:
        self.put("a")
        claim = self.claim()
        first = self.settle(claim, "b")
        events = self.events()
        assert self.settle(claim, "b") == first
        assert (self.seen(), self.journal(), self.events()) == (first.record, [], events)

    def test_settling_again_leaves_the_next_lease_alone(self) -> None:
        self.put("a")
        claim = self.claim()
        self.settle(claim, "b")
        following = self.claim()
        again = self.settle(claim, "b")
        assert again.stored
        assert at_rest(again.record) == at_rest(following) == at_rest(self.seen())
        assert self.seen().lease_left > 0
        assert self.journal() == []

    def test_a_pair_that_comes_too_late_twice_is_in_the_journal_once(self) -> None:
        self.put("a")
        claim = self.claim()
        self.settle(claim, "b")
        for _ in range(2):
            assert not self.settle(claim, "c").stored
        assert origins(self.journal()) == [(Origin.SUPERSEDED, pair("c"), 2, 1)]

    def test_pairs_that_share_one_of_two_tokens_are_not_the_same(self) -> None:
        self.put("a")
        claim = self.claim()
        self.settle(claim, "b")
        cousins = [
            evolve(pair("b"), refresh_token=None),
            evolve(pair("b"), refresh_token=pair("c").refresh_token),
            evolve(pair("b"), access_token=pair("c").access_token),
        ]
        for cousin in cousins:
            settlement = self.store.settle(
                claim, cousin, issued_at=ISSUED, idle_until=None, note=note()
            )
            assert not settlement.stored
        assert [entry.token for entry in reversed(self.journal())] == cousins

    def test_of_many_that_settle_one_is_stored_and_none_is_lost(self) -> None:
        self.put("a")
        claim = self.claim()
        names = [f"b{n}" for n in range(8)]
        settled = self.at_once(8, lambda n: self.settle(claim, names[n]).stored)
        assert settled.count(True) == 1
        stored, journalled = self.seen().token, [entry.token for entry in self.journal()]
        assert stored == pair(names[settled.index(True)])
        assert sorted(texts([stored, *journalled])) == sorted(texts([pair(n) for n in names]))
        assert self.seen().generation == 2

    def test_a_lease_goes_back_with_what_was_learnt(self) -> None:
        before = self.put("a")
        claim = self.claim()
        assert self.release(claim, State.UNCERTAIN, attempts=1, error="TimedOutError")
        after = self.seen()
        assert after == evolve(
            before,
            state=State.UNCERTAIN,
            attempts=1,
            error="TimedOutError",
            owner=claim.owner,
            updated_at=after.updated_at,
        )

    def test_a_lease_goes_back_unspent(self) -> None:
        self.put("a")
        assert self.release(self.claim(), State.ACTIVE, attempts=0, error=None)
        after = self.seen()
        assert (after.state, after.attempts, after.error) == (State.ACTIVE, 0, None)
        assert self.claim().attempts == 1

    def test_a_refused_grant_keeps_its_pair(self) -> None:
        self.put("a")
        assert self.release(self.claim(), State.NEEDS_CONSENT, attempts=0)
        after = self.seen()
        assert (after.state, after.token) == (State.NEEDS_CONSENT, pair("a"))

    def test_whoever_lost_the_lease_to_another_changes_nothing(self) -> None:
        self.put("a")
        late = self.claim(ttl=10)
        self.let_pass(100)
        other = self.claim()
        events = self.events()
        assert not self.release(late, State.NEEDS_CONSENT, attempts=0, pause=1000)
        assert at_rest(self.seen()) == at_rest(other)
        assert (self.seen().pause_left, self.events()) == (0, events)
        assert self.seen().lease_left > 0

    def test_whoever_lost_the_lease_to_a_new_generation_changes_nothing(self) -> None:
        self.put("a")
        claim = self.claim()
        self.settle(claim, "b")
        after, events = self.seen(), self.events()
        assert not self.release(claim, State.NEEDS_CONSENT)
        assert (self.seen(), self.events()) == (after, events)

    def test_a_lease_that_ran_out_goes_back_while_nobody_else_has_come(self) -> None:
        self.put("a")
        claim = self.claim(ttl=10)
        self.let_pass(100)
        assert self.release(claim, State.UNCERTAIN, attempts=1)
        assert self.seen().state is State.UNCERTAIN

    def test_giving_a_lease_back_again_does_no_harm(self) -> None:
        self.put("a")
        claim = self.claim()
        self.release(claim, State.UNCERTAIN, attempts=1, pause=1000)
        first = self.seen()
        self.release(claim, State.UNCERTAIN, attempts=1, pause=1000)
        again = self.seen()
        assert at_rest(evolve(again, updated_at=first.updated_at)) == at_rest(first)
        assert 0 < again.pause_left <= 1000

    def test_a_lease_of_an_unknown_grant_cannot_go_back(self) -> None:
        claim = evolve(self.put("a"), key=grant_key("nobody"), owner="nobody")
        assert not self.release(claim)
        assert self.store.load(claim.key) is None
