"""What is due is found in time, and claimed once."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from attrs import evolve

from blink_oauth_keeper.store.records import Due, Record, State

from .material import ISSUED, KEY, at_rest, due, grant_key, note, pair
from .stage import Stage

__all__ = ["Finding"]

ONE, TWO, THREE = "IIDX00001", "IIDX00002", "IIDX00003"
STRANGER = "CIDX0000000003"


def names(records: Sequence[Record]) -> list[str]:
    """Return the usernames of records."""
    return [record.key.grant.username for record in records]


class Finding(Stage):
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
