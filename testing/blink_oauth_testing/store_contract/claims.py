"""A claim is won by one, and writes the risk down before it is taken."""

from __future__ import annotations

from uuid import uuid4

from attrs import evolve

from blink_oauth_keeper.store.records import State

from .material import KEY, at_rest, grant_key, note, pair
from .stage import Stage

__all__ = ["Claims"]


class Claims(Stage):
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
