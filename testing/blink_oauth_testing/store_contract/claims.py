"""A claim is won by one, and settled or released by the rules.

A pair that was received is stored or goes to the journal; a lease goes back by its owner alone.
"""

from __future__ import annotations

from uuid import uuid4

from attrs import evolve

from blink_oauth_keeper.store.protocol import Origin, Record, State

from .harness import ISSUED, KEY, Harness, at_rest, days, grant_key, note, origins, pair, texts

__all__ = ["Claims", "Settling"]


class Claims(Harness):
    """What `load` and `claim` promise."""

    def test_an_unknown_grant_has_no_record_and_cannot_be_claimed(self) -> None:
        assert self.store.load(KEY) is None
        self.put("a")
        nobody = evolve(self.seen(), key=grant_key("nobody"))
        assert self.loses(nobody)
        assert self.store.load(nobody.key) is None

    def test_a_grant_belongs_to_one_client_one_target_and_one_username(self) -> None:
        keys = [
            KEY,
            grant_key("another customer"),
            grant_key(target="IIDX99998"),
            grant_key(client="CIDX0000000003"),
        ]
        for number, key in enumerate(keys):
            self.put(f"{number}", key)
        assert [self.seen(key).token for key in keys] == [pair(f"{n}") for n in range(len(keys))]
        assert {(self.seen(key).key, self.seen(key).generation) for key in keys} == {
            (key, 1) for key in keys
        }

    def test_a_claim_writes_down_that_the_refresh_token_is_at_risk(self) -> None:
        before = self.put("a")
        claim = self.store.claim(before, owner="owner-of-the-lease", ttl=1000)
        assert at_rest(claim) == evolve(
            before,
            state=State.REFRESHING,
            attempts=1,
            owner="owner-of-the-lease",
            updated_at=at_rest(claim).updated_at,
        )
        assert at_rest(self.seen()) == at_rest(claim)

    def test_a_lease_runs_for_its_time(self) -> None:
        self.put("a")
        claim = self.claim(ttl=1000)
        assert 900 < claim.lease_left <= 1000
        assert 900 < self.seen().lease_left <= 1000
        self.let_pass(900)
        assert 0 < self.seen().lease_left <= 100
        assert self.seen().pause_left == 0

    def test_a_claim_is_won_by_one_of_many(self) -> None:
        seen = self.put("a")
        stores = [self.store, self.second]
        owners = [uuid4().hex for _ in range(16)]
        claims = self.at_once(
            len(owners), lambda n: stores[n % 2].claim(seen, owner=owners[n], ttl=1000)
        )
        won = [owners[n] for n, claim in enumerate(claims) if claim is not None]
        assert won == [self.seen().owner]
        assert self.seen().attempts == 1

    def test_each_of_many_grants_is_claimed_at_the_same_time(self) -> None:
        seen = [self.put(f"{n}", grant_key(f"customer-{n}")) for n in range(8)]
        claims = self.at_once(8, lambda n: self.store.claim(seen[n], owner=f"owner-{n}", ttl=1000))
        assert [claim and claim.owner for claim in claims] == [f"owner-{n}" for n in range(8)]

    def test_nobody_claims_while_a_lease_runs(self) -> None:
        before = self.put("a")
        claim = self.claim(before)
        assert self.loses(before)
        assert self.loses(claim)
        assert self.loses(self.seen())

    def test_a_lease_ends_by_itself(self) -> None:
        self.put("a")
        self.claim(ttl=1000)
        self.let_pass(1001)
        abandoned = self.seen()
        assert (abandoned.lease_left, abandoned.state) == (0, State.REFRESHING)

    def test_the_next_to_claim_an_abandoned_lease_makes_another_attempt(self) -> None:
        self.put("a")
        first = self.claim(ttl=1000)
        self.let_pass(1001)
        second = self.claim()
        assert (second.attempts, second.generation) == (2, 1)
        assert second.owner != first.owner
        assert second.lease_left > 0

    def test_a_claim_is_lost_if_the_generation_has_moved(self) -> None:
        before = self.put("a")
        self.settle(self.claim(before), "b")
        now = self.seen()
        assert (now.attempts, now.lease_left) == (before.attempts, 0)
        assert self.loses(before)
        assert self.loses(evolve(now, generation=now.generation + 1))

    def test_a_claim_is_lost_if_the_attempts_have_moved(self) -> None:
        before = self.put("a")
        claim = self.claim(before)
        assert self.release(claim, State.UNCERTAIN, attempts=1)
        assert self.loses(before)
        uncertain = self.seen()
        assert self.release(self.claim(uncertain), State.ACTIVE, attempts=0)
        assert self.loses(uncertain)

    def test_nobody_claims_while_a_pause_runs(self) -> None:
        self.put("a")
        self.release(self.claim(), State.ACTIVE, attempts=0, pause=1000)
        assert self.loses(self.seen())
        self.let_pass(900)
        assert self.loses(self.seen())

    def test_a_pause_ends_by_itself(self) -> None:
        self.put("a")
        self.release(self.claim(), State.ACTIVE, attempts=0, pause=1000)
        assert 900 < self.seen().pause_left <= 1000
        self.let_pass(900)
        assert 0 < self.seen().pause_left <= 100
        self.let_pass(101)
        assert self.seen().pause_left == 0
        assert self.claim().pause_left == 0

    def test_a_grant_that_is_active_or_uncertain_can_be_claimed(self) -> None:
        for state in (State.ACTIVE, State.UNCERTAIN):
            key = grant_key(state)
            self.release(self.claim(self.put("a", key)), state, attempts=1)
            assert self.seen(key).state is state
            assert self.claim(self.seen(key)).attempts == 2

    def test_a_grant_that_is_over_cannot_be_claimed(self) -> None:
        refused, revoked, erased = (grant_key(name) for name in ("refused", "revoked", "erased"))
        self.release(self.claim(self.put("a", refused)), State.NEEDS_CONSENT, attempts=0)
        for key in (revoked, erased):
            self.put("a", key)
            self.store.revoke(key, note=note())
        assert self.store.erase(self.seen(erased))
        for key in (refused, revoked, erased):
            assert self.loses(self.seen(key)), key.grant.username


class Settling(Harness):
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
