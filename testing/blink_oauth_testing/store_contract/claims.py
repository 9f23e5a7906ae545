"""Tests of `load`, `claim`, `settle` and `release`."""

from __future__ import annotations

from uuid import uuid4

from attrs import evolve

from blink_oauth_keeper.store.protocol import LONGEST_LEASE, Origin, Record, State

from .harness import (
    ISSUED,
    KEY,
    Harness,
    access_tokens,
    days,
    entry_values,
    grant_key,
    note,
    pair,
    untimed,
)

__all__ = ["Claims", "Settling"]


class Claims(Harness):
    """Tests of `load` and `claim`."""

    def test_an_unknown_grant_has_no_record_and_cannot_be_claimed(self) -> None:
        assert self.store.load(KEY) is None
        self.put("a")
        unknown = evolve(self.read(), key=grant_key("unknown"))
        assert self.claim_fails(unknown)
        assert self.store.load(unknown.key) is None

    def test_a_grant_belongs_to_one_client_one_target_and_one_username(self) -> None:
        keys = [
            KEY,
            grant_key("another customer"),
            grant_key(target="IIDX99998"),
            grant_key(client="CIDX0000000003"),
        ]
        for number, key in enumerate(keys):
            self.put(f"{number}", key)
        assert [self.read(key).token for key in keys] == [pair(f"{n}") for n in range(len(keys))]
        assert {(self.read(key).key, self.read(key).generation) for key in keys} == {
            (key, 1) for key in keys
        }

    def test_a_claim_stores_state_attempt_and_owner(self) -> None:
        before = self.put("a")
        claim = self.store.claim(before, owner="owner-of-the-lease", ttl=LONGEST_LEASE)
        assert untimed(claim) == evolve(
            before,
            state=State.REFRESHING,
            attempts=1,
            owner="owner-of-the-lease",
            updated_at=untimed(claim).updated_at,
        )
        assert untimed(self.read()) == untimed(claim)

    def test_a_lease_runs_for_its_ttl(self) -> None:
        self.put("a")
        claim = self.claim()
        assert 20 < claim.lease_left <= LONGEST_LEASE
        assert 20 < self.read().lease_left <= LONGEST_LEASE
        self.let_pass(20)
        assert 0 < self.read().lease_left <= 10
        assert self.read().pause_left == 0

    def test_of_many_concurrent_claims_one_succeeds(self) -> None:
        seen = self.put("a")
        stores = [self.store, self.second]
        owners = [uuid4().hex for _ in range(16)]
        claims = self.run_concurrently(
            len(owners), lambda n: stores[n % 2].claim(seen, owner=owners[n], ttl=LONGEST_LEASE)
        )
        won = [owners[n] for n, claim in enumerate(claims) if claim is not None]
        assert won == [self.read().owner]
        assert self.read().attempts == 1

    def test_different_grants_can_be_claimed_concurrently(self) -> None:
        seen = [self.put(f"{n}", grant_key(f"customer-{n}")) for n in range(8)]
        claims = self.run_concurrently(
            8, lambda n: self.store.claim(seen[n], owner=f"owner-{n}", ttl=LONGEST_LEASE)
        )
        assert [claim and claim.owner for claim in claims] == [f"owner-{n}" for n in range(8)]

    def test_a_claim_fails_while_a_lease_runs(self) -> None:
        before = self.put("a")
        claim = self.claim(before)
        assert self.claim_fails(before)
        assert self.claim_fails(claim)
        assert self.claim_fails(self.read())

    def test_a_lease_ends_after_its_ttl(self) -> None:
        self.put("a")
        self.claim()
        self.let_pass(1001)
        abandoned = self.read()
        assert (abandoned.lease_left, abandoned.state) == (0, State.REFRESHING)

    def test_a_claim_after_an_abandoned_lease_counts_another_attempt(self) -> None:
        self.put("a")
        first = self.claim()
        self.let_pass(1001)
        second = self.claim()
        assert (second.attempts, second.generation) == (2, 1)
        assert second.owner != first.owner
        assert second.lease_left > 0

    def test_a_claim_fails_if_the_generation_has_changed(self) -> None:
        before = self.put("a")
        self.settle(self.claim(before), "b")
        now = self.read()
        assert (now.attempts, now.lease_left) == (before.attempts, 0)
        assert self.claim_fails(before)
        assert self.claim_fails(evolve(now, generation=now.generation + 1))

    def test_a_claim_fails_if_the_attempts_have_changed(self) -> None:
        before = self.put("a")
        claim = self.claim(before)
        assert self.release(claim, State.UNCERTAIN, attempts=1)
        assert self.claim_fails(before)
        uncertain = self.read()
        assert self.release(self.claim(uncertain), State.ACTIVE, attempts=0)
        assert self.claim_fails(uncertain)

    def test_a_claim_fails_while_a_pause_runs(self) -> None:
        self.put("a")
        self.release(self.claim(), State.ACTIVE, attempts=0, pause=1000)
        assert self.claim_fails(self.read())
        self.let_pass(900)
        assert self.claim_fails(self.read())

    def test_a_pause_ends_after_its_seconds(self) -> None:
        self.put("a")
        self.release(self.claim(), State.ACTIVE, attempts=0, pause=1000)
        assert 900 < self.read().pause_left <= 1000
        self.let_pass(900)
        assert 0 < self.read().pause_left <= 100
        self.let_pass(101)
        assert self.read().pause_left == 0
        assert self.claim().pause_left == 0

    def test_a_grant_that_is_active_or_uncertain_can_be_claimed(self) -> None:
        for state in (State.ACTIVE, State.UNCERTAIN):
            key = grant_key(state)
            self.release(self.claim(self.put("a", key)), state, attempts=1)
            assert self.read(key).state is state
            assert self.claim(self.read(key)).attempts == 2

    def test_a_refused_revoked_or_erased_grant_cannot_be_claimed(self) -> None:
        refused, revoked, erased = (grant_key(name) for name in ("refused", "revoked", "erased"))
        self.release(self.claim(self.put("a", refused)), State.NEEDS_CONSENT, attempts=0)
        for key in (revoked, erased):
            self.put("a", key)
            self.store.mark_revoked(key, note=note())
        assert self.erase(self.read(erased), note=note())
        for key in (refused, revoked, erased):
            assert self.claim_fails(self.read(key)), key.grant.username


class Settling(Harness):
    """Tests of `settle` and `release`."""

    def test_a_settled_pair_is_the_record_of_the_next_generation(self) -> None:
        before = self.put("a")
        settlement = self.settle(self.claim(), "b")
        after = self.read()
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

    def test_an_uncertain_pair_is_settled_with_one_attempt(self) -> None:
        self.put("a")
        assert self.settle(self.claim(), "b", state=State.UNCERTAIN).stored
        after = self.read()
        assert (after.state, after.attempts, after.lease_left) == (State.UNCERTAIN, 1, 0)
        assert self.claim(after).attempts == 2

    def test_a_pair_is_settled_after_the_lease_has_ended(self) -> None:
        self.put("a")
        claim = self.claim(ttl=10)
        self.let_pass(100)
        assert self.settle(claim, "b").stored
        assert self.read().token == pair("b")

    def test_a_pair_is_settled_although_another_claim_has_the_lease(self) -> None:
        self.put("a")
        old_claim = self.claim(ttl=10)
        self.let_pass(100)
        new_claim = self.claim()
        assert self.settle(old_claim, "b").stored
        after = self.read()
        assert (after.state, after.lease_left, after.owner) == (State.ACTIVE, 0, None)
        assert not self.release(new_claim)
        assert not self.settle(new_claim, "c").stored
        assert self.read() == after

    def test_a_settled_pair_ends_a_pause_and_clears_an_error(self) -> None:
        self.put("a")
        old_claim = self.claim(ttl=10)
        self.let_pass(100)
        self.release(self.claim(), State.UNCERTAIN, attempts=2, pause=1000)
        assert self.settle(old_claim, "b").stored
        after = self.read()
        assert (after.attempts, after.pause_left, after.error) == (0, 0, None)

    def test_a_settled_pair_activates_a_grant_that_was_refused_meanwhile(self) -> None:
        self.put("a")
        old_claim = self.claim(ttl=10)
        self.let_pass(100)
        self.release(self.claim(), State.NEEDS_CONSENT)
        assert self.settle(old_claim, "b").stored
        assert self.claim().token == pair("b")

    def test_a_pair_of_an_old_generation_goes_to_the_journal(self) -> None:
        self.put("a")
        old_claim = self.claim(ttl=10)
        self.let_pass(100)
        self.settle(self.claim(), "b")
        stored = self.read()
        settlement = self.settle(old_claim, "c")
        assert not settlement.stored
        assert settlement.record == stored == self.read()
        assert entry_values(self.journal()) == [(Origin.SUPERSEDED, pair("c"), 2, 1)]

    def test_a_pair_settled_after_a_revocation_goes_to_the_journal(self) -> None:
        self.put("a")
        claim = self.claim()
        revoked = self.store.mark_revoked(KEY, note=note())
        settlement = self.settle(claim, "b")
        assert not settlement.stored
        assert settlement.record == revoked == self.read()
        assert entry_values(self.journal()) == [(Origin.SUPERSEDED, pair("b"), 2, 1)]

    def test_a_pair_of_an_unknown_grant_goes_to_the_journal(self) -> None:
        claim = evolve(self.put("a"), key=grant_key("unknown"), generation=7, consent=3)
        settlement = self.settle(claim, "b")
        assert (settlement.stored, settlement.record) == (False, None)
        assert entry_values(self.journal(claim.key)) == [(Origin.SUPERSEDED, pair("b"), 8, 3)]
        assert self.journal() == []

    def test_settling_a_pair_again_changes_nothing(self) -> None:
        self.put("a")
        claim = self.claim()
        first = self.settle(claim, "b")
        events = self.events()
        assert self.settle(claim, "b") == first
        assert (self.read(), self.journal(), self.events()) == (first.record, [], events)

    def test_settling_a_pair_again_keeps_the_next_lease(self) -> None:
        self.put("a")
        claim = self.claim()
        self.settle(claim, "b")
        next_claim = self.claim()
        again = self.settle(claim, "b")
        assert again.stored
        assert untimed(again.record) == untimed(next_claim) == untimed(self.read())
        assert self.read().lease_left > 0
        assert self.journal() == []

    def test_a_superseded_pair_that_is_settled_twice_is_in_the_journal_once(self) -> None:
        self.put("a")
        claim = self.claim()
        self.settle(claim, "b")
        for _ in range(2):
            assert not self.settle(claim, "c").stored
        assert entry_values(self.journal()) == [(Origin.SUPERSEDED, pair("c"), 2, 1)]

    def test_a_late_pair_with_the_presented_refresh_token_is_not_salvageable(self) -> None:
        self.put("a")
        claim = self.claim()
        self.settle(claim, "b")
        assert not self.settle(claim, "c", state=State.UNCERTAIN).stored
        assert entry_values(self.journal()) == [(Origin.REPLACED, pair("c"), 2, 1)]

    def test_pairs_that_share_only_one_token_are_different(self) -> None:
        self.put("a")
        claim = self.claim()
        self.settle(claim, "b")
        similar = [
            evolve(pair("b"), refresh_token=None),
            evolve(pair("b"), refresh_token=pair("c").refresh_token),
            evolve(pair("b"), access_token=pair("c").access_token),
        ]
        for token in similar:
            settlement = self.store.settle(
                claim, token, issued_at=ISSUED, idle_until=None, note=note()
            )
            assert not settlement.stored
        assert [entry.token for entry in reversed(self.journal())] == similar

    def test_of_many_concurrent_settlements_one_is_stored_and_no_pair_is_lost(self) -> None:
        self.put("a")
        claim = self.claim()
        names = [f"b{n}" for n in range(8)]
        settled = self.run_concurrently(8, lambda n: self.settle(claim, names[n]).stored)
        assert settled.count(True) == 1
        stored, journaled = self.read().token, [entry.token for entry in self.journal()]
        assert stored == pair(names[settled.index(True)])
        assert sorted(access_tokens([stored, *journaled])) == sorted(
            access_tokens([pair(n) for n in names])
        )
        assert self.read().generation == 2

    def test_a_release_stores_state_attempts_and_error(self) -> None:
        before = self.put("a")
        claim = self.claim()
        assert self.release(claim, State.UNCERTAIN, attempts=1, error="TimedOutError")
        after = self.read()
        assert after == evolve(
            before,
            state=State.UNCERTAIN,
            attempts=1,
            error="TimedOutError",
            owner=claim.owner,
            updated_at=after.updated_at,
        )

    def test_a_release_as_unspent_makes_the_grant_active(self) -> None:
        self.put("a")
        assert self.release(self.claim(), State.ACTIVE, attempts=0, error=None)
        after = self.read()
        assert (after.state, after.attempts, after.error) == (State.ACTIVE, 0, None)
        assert self.claim().attempts == 1

    def test_a_release_stores_the_refusals_of_the_claim(self) -> None:
        self.put("a")
        refused = evolve(self.claim(), refusals=3, refused_since=ISSUED + days(1))
        assert self.release(refused, State.ACTIVE, attempts=0)
        after = self.read()
        assert (after.refusals, after.refused_since) == (3, ISSUED + days(1))
        claim = self.claim()
        assert (claim.refusals, claim.refused_since) == (3, ISSUED + days(1))
        assert self.release(claim, State.ACTIVE, attempts=0, error=None)
        assert (self.read().refusals, self.read().refused_since) == (3, ISSUED + days(1))

    def test_a_new_pair_clears_the_refusals(self) -> None:
        self.put("a")
        refused = evolve(self.claim(), refusals=3, refused_since=ISSUED + days(1))
        self.release(refused, State.ACTIVE, attempts=0)
        self.settle(self.claim(), "b")
        assert (self.read().refusals, self.read().refused_since) == (0, None)
        refused = evolve(self.claim(), refusals=3, refused_since=ISSUED + days(1))
        self.release(refused, State.ACTIVE, attempts=0)
        self.put("c")
        assert (self.read().refusals, self.read().refused_since) == (0, None)

    def test_a_refused_grant_keeps_its_pair(self) -> None:
        self.put("a")
        assert self.release(self.claim(), State.NEEDS_CONSENT, attempts=0)
        after = self.read()
        assert (after.state, after.token) == (State.NEEDS_CONSENT, pair("a"))

    def test_a_release_changes_nothing_after_another_claim(self) -> None:
        self.put("a")
        old_claim = self.claim(ttl=10)
        self.let_pass(100)
        new_claim = self.claim()
        events = self.events()
        assert not self.release(old_claim, State.NEEDS_CONSENT, attempts=0, pause=1000)
        assert untimed(self.read()) == untimed(new_claim)
        assert (self.read().pause_left, self.events()) == (0, events)
        assert self.read().lease_left > 0

    def test_a_release_changes_nothing_after_a_new_generation(self) -> None:
        self.put("a")
        claim = self.claim()
        self.settle(claim, "b")
        after, events = self.read(), self.events()
        assert not self.release(claim, State.NEEDS_CONSENT)
        assert (self.read(), self.events()) == (after, events)

    def test_an_ended_lease_can_be_released_before_another_claim(self) -> None:
        self.put("a")
        claim = self.claim(ttl=10)
        self.let_pass(100)
        assert self.release(claim, State.UNCERTAIN, attempts=1)
        assert self.read().state is State.UNCERTAIN

    def test_releasing_a_lease_again_does_no_harm(self) -> None:
        self.put("a")
        claim = self.claim()
        self.release(claim, State.UNCERTAIN, attempts=1, pause=1000)
        first = self.read()
        self.release(claim, State.UNCERTAIN, attempts=1, pause=1000)
        again = self.read()
        assert untimed(evolve(again, updated_at=first.updated_at)) == untimed(first)
        assert 0 < again.pause_left <= 1000

    def test_a_lease_of_an_unknown_grant_cannot_be_released(self) -> None:
        claim = evolve(self.put("a"), key=grant_key("unknown"), owner="unknown-owner")
        assert not self.release(claim)
        assert self.store.load(claim.key) is None
