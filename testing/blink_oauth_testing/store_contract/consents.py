"""A new consent and a revocation go before every refresh in flight."""

from __future__ import annotations

from attrs import evolve

from blink_oauth_keeper.store.records import Origin, Record, State

from .material import ISSUED, KEY, at_rest, days, grant_key, note, origins, pair, texts
from .stage import Stage

__all__ = ["Consents"]


class Consents(Stage):
    """What `put`, `revoke` and `erase` promise."""

    def test_the_first_pair_is_the_first_generation_of_the_first_consent(self) -> None:
        put = self.put("a")
        assert put == self.seen()
        assert put == Record(
            key=KEY,
            generation=1,
            consent=1,
            state=State.ACTIVE,
            token=pair("a"),
            issued_at=ISSUED,
            idle_until=ISSUED + days(30),
            updated_at=put.updated_at,
        )
        assert self.journal() == []

    def test_a_new_consent_puts_its_pair_in_the_place_of_the_old(self) -> None:
        self.put("a")
        self.settle(self.claim(), "b")
        again = self.put("c")
        assert again == self.seen()
        assert (again.generation, again.consent, again.token) == (3, 2, pair("c"))
        assert origins(self.journal()) == [(Origin.REPLACED, pair("b"), 2, 1)]

    def test_a_refresh_in_flight_loses_against_a_new_consent(self) -> None:
        self.put("a")
        claim = self.claim()
        put = self.put("b")
        assert (put.state, put.lease_left, put.attempts, put.owner) == (State.ACTIVE, 0, 0, None)
        assert not self.release(claim, State.NEEDS_CONSENT)
        assert not self.settle(claim, "c").stored
        assert self.seen() == put
        assert origins(self.journal()) == [
            (Origin.SUPERSEDED, pair("c"), 2, 1),
            (Origin.REPLACED, pair("a"), 1, 1),
        ]

    def test_a_new_consent_ends_whatever_was_wrong(self) -> None:
        paused, refused, revoked = (grant_key(name) for name in ("paused", "refused", "revoked"))
        self.release(self.claim(self.put("a", paused)), State.UNCERTAIN, pause=1000)
        self.release(self.claim(self.put("a", refused)), State.NEEDS_CONSENT)
        self.put("a", revoked)
        self.store.revoke(revoked, note=note())
        for key in (paused, refused, revoked):
            self.put("b", key)
            now = self.seen(key)
            assert (now.state, now.attempts, now.error) == (State.ACTIVE, 0, None)
            assert (now.pause_left, now.consent) == (0, 2)
            assert self.claim(now).token == pair("b")

    def test_putting_the_same_pair_again_changes_nothing(self) -> None:
        self.put("a")
        first = self.put("b")
        journal, events = self.journal(), self.events()
        assert self.put("b") == first == self.seen()
        assert (self.journal(), self.events()) == (journal, events)

    def test_putting_the_same_pair_again_leaves_a_lease_alone(self) -> None:
        self.put("a")
        claim = self.claim()
        assert at_rest(self.put("a")) == at_rest(claim) == at_rest(self.seen())
        assert self.seen().lease_left > 0
        assert self.settle(claim, "b").stored

    def test_putting_the_same_pair_again_does_not_undo_a_revocation(self) -> None:
        self.put("a")
        revoked = self.store.revoke(KEY, note=note())
        assert self.put("a") == revoked == self.seen()

    def test_of_many_consents_at_once_the_last_is_stored_and_none_is_lost(self) -> None:
        names = [f"a{n}" for n in range(8)]
        put = self.at_once(8, lambda n: self.put(names[n]))
        assert sorted(record.generation for record in put) == list(range(1, 9))
        last = self.seen()
        assert (last.generation, last.consent) == (8, 8)
        journalled = [entry.token for entry in self.journal()]
        assert last.token is not None
        assert sorted(texts([last.token, *journalled])) == sorted(texts([pair(n) for n in names]))

    def test_a_revoked_grant_keeps_its_pair_until_it_is_erased(self) -> None:
        before = self.put("a")
        revoked = self.store.revoke(KEY, note=note())
        assert revoked == self.seen()
        assert revoked == evolve(
            before,
            generation=before.generation + 1,
            state=State.REVOKED,
            updated_at=self.seen().updated_at,
        )

    def test_a_refresh_in_flight_loses_against_a_revocation(self) -> None:
        self.put("a")
        claim = self.claim()
        revoked = self.store.revoke(KEY, note=note())
        assert revoked == self.seen()
        assert not self.release(claim, State.ACTIVE)
        assert not self.settle(claim, "b").stored
        assert self.seen() == revoked

    def test_a_revocation_clears_lease_pause_attempts_and_error(self) -> None:
        claimed, paused = grant_key("claimed"), grant_key("paused")
        self.claim(self.put("a", claimed))
        self.release(self.claim(self.put("a", paused)), State.UNCERTAIN, pause=1000)
        for key in (claimed, paused):
            self.store.revoke(key, note=note())
            now = self.seen(key)
            assert (now.lease_left, now.pause_left, now.attempts, now.error) == (0, 0, 0, None)

    def test_revoking_again_changes_nothing(self) -> None:
        self.put("a")
        revoked, events = self.store.revoke(KEY, note=note()), self.events()
        assert self.store.revoke(KEY, note=note()) == revoked == self.seen()
        assert self.events() == events

    def test_an_unknown_grant_cannot_be_revoked(self) -> None:
        assert self.store.revoke(KEY, note=note()) is None
        assert self.store.load(KEY) is None
        assert self.events() == []

    def test_erasing_forgets_every_pair_and_keeps_record_and_history(self) -> None:
        other = self.put("other", grant_key("other"))
        self.settle(self.claim(other), "other-2")
        self.settle(other, "other-3")
        self.put("a")
        claim = self.claim()
        self.put("b")
        self.settle(claim, "c")
        revoked = self.store.revoke(KEY, note=note("revoked"))
        events = self.events()
        assert revoked is not None
        assert self.store.erase(revoked)
        now = self.seen()
        assert now == evolve(revoked, token=None, updated_at=now.updated_at)
        assert (self.journal(), self.events()) == ([], events)
        assert len(self.journal(other.key)) == 1

    def test_only_what_is_revoked_is_erased(self) -> None:
        active = self.put("a")
        self.settle(active, "b")
        self.settle(active, "c")
        journal = self.journal()
        assert not self.store.erase(self.seen())
        assert self.seen().token == pair("b")
        assert self.journal() == journal

    def test_nothing_is_erased_after_a_new_consent(self) -> None:
        self.put("a")
        revoked = self.store.revoke(KEY, note=note())
        assert revoked is not None
        again = self.put("b")
        assert not self.store.erase(revoked)
        assert self.seen() == again
        assert origins(self.journal()) == [(Origin.REPLACED, pair("a"), 2, 1)]

    def test_nothing_is_erased_after_a_later_revocation(self) -> None:
        self.put("a")
        first = self.store.revoke(KEY, note=note())
        assert first is not None
        self.put("b")
        later = self.store.revoke(KEY, note=note())
        assert not self.store.erase(first)
        assert self.seen() == later

    def test_an_unknown_grant_cannot_be_erased(self) -> None:
        nobody = evolve(self.put("a"), key=grant_key("nobody"), state=State.REVOKED)
        assert not self.store.erase(nobody)

    def test_a_new_consent_after_an_erasure_has_nothing_to_replace(self) -> None:
        self.put("a")
        revoked = self.store.revoke(KEY, note=note())
        assert revoked is not None
        self.store.erase(revoked)
        again = self.put("a")
        assert (again.generation, again.consent, again.token) == (3, 2, pair("a"))
        assert (again.state, self.journal()) == (State.ACTIVE, [])
