"""Tests of `put`, `revoke`, `erase`, the journal and `salvage`."""

from __future__ import annotations

from attrs import evolve

from blink_oauth.tokens import Token
from blink_oauth_keeper.store.protocol import Origin, Record, State

from .harness import (
    CLIENT,
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

__all__ = ["Consents", "Salvaging"]


class Consents(Harness):
    """Tests of `put`, `revoke` and `erase`."""

    def test_the_first_pair_is_the_first_generation_of_the_first_consent(self) -> None:
        put = self.put("a")
        assert put == self.read()
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

    def test_a_new_consent_replaces_the_pair(self) -> None:
        self.put("a")
        self.settle(self.claim(), "b")
        again = self.put("c")
        assert again == self.read()
        assert (again.generation, again.consent, again.token) == (3, 2, pair("c"))
        assert entry_values(self.journal()) == [(Origin.REPLACED, pair("b"), 2, 1)]

    def test_a_refresh_in_progress_cannot_overwrite_a_new_consent(self) -> None:
        self.put("a")
        claim = self.claim()
        put = self.put("b")
        assert (put.state, put.lease_left, put.attempts, put.owner) == (State.ACTIVE, 0, 0, None)
        assert not self.release(claim, State.NEEDS_CONSENT)
        assert not self.settle(claim, "c").stored
        assert self.read() == put
        assert entry_values(self.journal()) == [
            (Origin.SUPERSEDED, pair("c"), 2, 1),
            (Origin.REPLACED, pair("a"), 1, 1),
        ]

    def test_a_new_consent_makes_a_paused_refused_or_revoked_grant_active(self) -> None:
        paused, refused, revoked = (grant_key(name) for name in ("paused", "refused", "revoked"))
        self.release(self.claim(self.put("a", paused)), State.UNCERTAIN, pause=1000)
        self.release(self.claim(self.put("a", refused)), State.NEEDS_CONSENT)
        self.put("a", revoked)
        self.store.mark_revoked(revoked, note=note())
        for key in (paused, refused, revoked):
            self.put("b", key)
            now = self.read(key)
            assert (now.state, now.attempts, now.error) == (State.ACTIVE, 0, None)
            assert (now.pause_left, now.consent) == (0, 2)
            assert self.claim(now).token == pair("b")

    def test_putting_the_same_pair_again_changes_nothing(self) -> None:
        self.put("a")
        first = self.put("b")
        journal, events = self.journal(), self.events()
        assert self.put("b") == first == self.read()
        assert (self.journal(), self.events()) == (journal, events)

    def test_putting_the_same_pair_again_keeps_the_lease(self) -> None:
        self.put("a")
        claim = self.claim()
        assert untimed(self.put("a")) == untimed(claim) == untimed(self.read())
        assert self.read().lease_left > 0
        assert self.settle(claim, "b").stored

    def test_putting_the_same_pair_again_does_not_undo_a_revocation(self) -> None:
        self.put("a")
        revoked = self.store.mark_revoked(KEY, note=note())
        assert self.put("a") == revoked == self.read()

    def test_of_many_concurrent_consents_the_last_is_stored_and_no_pair_is_lost(self) -> None:
        names = [f"a{n}" for n in range(8)]
        put = self.run_concurrently(8, lambda n: self.put(names[n]))
        assert sorted(record.generation for record in put) == list(range(1, 9))
        last = self.read()
        assert (last.generation, last.consent) == (8, 8)
        journaled = [entry.token for entry in self.journal()]
        assert last.token is not None
        assert sorted(access_tokens([last.token, *journaled])) == sorted(
            access_tokens([pair(n) for n in names])
        )

    def test_a_revoked_grant_keeps_its_pair_until_it_is_erased(self) -> None:
        before = self.put("a")
        revoked = self.store.mark_revoked(KEY, note=note())
        assert revoked == self.read()
        assert revoked == evolve(
            before,
            generation=before.generation + 1,
            state=State.REVOKING,
            updated_at=self.read().updated_at,
        )

    def test_a_refresh_in_progress_cannot_overwrite_a_revocation(self) -> None:
        self.put("a")
        claim = self.claim()
        revoked = self.store.mark_revoked(KEY, note=note())
        assert revoked == self.read()
        assert not self.release(claim, State.ACTIVE)
        assert not self.settle(claim, "b").stored
        assert self.read() == revoked

    def test_a_revocation_clears_lease_pause_attempts_and_error(self) -> None:
        claimed, paused = grant_key("claimed"), grant_key("paused")
        self.claim(self.put("a", claimed))
        self.release(self.claim(self.put("a", paused)), State.UNCERTAIN, pause=1000)
        for key in (claimed, paused):
            self.store.mark_revoked(key, note=note())
            now = self.read(key)
            assert (now.lease_left, now.pause_left, now.attempts, now.error) == (0, 0, 0, None)

    def test_revoking_again_changes_nothing(self) -> None:
        self.put("a")
        revoked, events = self.store.mark_revoked(KEY, note=note()), self.events()
        assert self.store.mark_revoked(KEY, note=note()) == revoked == self.read()
        assert self.events() == events

    def test_an_unknown_grant_cannot_be_revoked(self) -> None:
        assert self.store.mark_revoked(KEY, note=note()) is None
        assert self.store.load(KEY) is None
        assert self.events() == []

    def test_erasing_deletes_every_pair_and_keeps_record_and_history(self) -> None:
        other = self.put("other", grant_key("other"))
        self.settle(self.claim(other), "other-2")
        self.settle(other, "other-3")
        self.put("a")
        claim = self.claim()
        self.put("b")
        self.settle(claim, "c")
        revoked = self.store.mark_revoked(KEY, note=note("revoked"))
        events = self.events()
        assert revoked is not None
        assert self.erase(revoked, note=note("erased"))
        now = self.read()
        gone = evolve(revoked, state=State.REVOKED, token=None, expires_at=None)
        assert now == evolve(gone, updated_at=now.updated_at)
        assert (self.journal(), self.events()) == ([], ["erased", *events])
        assert len(self.journal(other.key)) == 1

    def test_erasing_spares_a_pair_that_was_journaled_meanwhile(self) -> None:
        self.put("a")
        claim = self.claim()
        revoked = self.store.mark_revoked(KEY, note=note())
        assert revoked is not None
        self.store.journal(revoked, pair("early"), origin=Origin.ERROR)
        read = [entry.token for entry in self.store.journal_entries(KEY)]
        assert not self.settle(claim, "late").stored
        assert self.store.erase(revoked, journaled=read, note=note("erased"))
        assert [entry.token for entry in self.journal()] == [pair("late")]
        assert [record.key for record in self.store.revoking(CLIENT, limit=9)] == [KEY]

    def test_erasing_again_changes_nothing(self) -> None:
        self.put("a")
        revoked = self.store.mark_revoked(KEY, note=note())
        assert revoked is not None
        assert self.erase(revoked, note=note())
        erased, events = self.read(), self.events()
        assert self.erase(revoked, note=note())
        assert self.store.mark_revoked(KEY, note=note()) == erased == self.read()
        assert self.events() == events

    def test_erasing_deletes_a_pair_that_was_journaled_after_the_first_erasure(self) -> None:
        claim = self.claim(self.put("a"))
        revoked = self.store.mark_revoked(KEY, note=note())
        assert revoked is not None
        assert self.erase(revoked, note=note())
        assert not self.settle(claim, "late").stored
        assert self.erase(revoked, note=note())
        assert self.journal() == []
        assert self.read().state is State.REVOKED

    def test_a_revocation_is_unfinished_until_it_is_erased(self) -> None:
        self.put("active", grant_key("active"))
        marked = []
        for target, name in [("IIDX00002", "a"), ("IIDX00001", "b"), ("IIDX00001", "a")]:
            key = grant_key(name, target)
            self.put(name, key)
            marked.append(self.store.mark_revoked(key, note=note()))
        expected = [marked[2], marked[1], marked[0]]
        assert list(self.second.revoking(CLIENT, limit=10)) == expected
        assert list(self.second.revoking(CLIENT, limit=2)) == expected[:2]
        assert list(self.second.revoking("CIDX0000000003", limit=10)) == []
        assert marked[1] is not None
        assert self.erase(marked[1], note=note())
        assert list(self.second.revoking(CLIENT, limit=10)) == [marked[2], marked[0]]

    def test_a_revocation_is_unfinished_while_the_journal_has_a_pair(self) -> None:
        claim = self.claim(self.put("a"))
        revoked = self.store.mark_revoked(KEY, note=note())
        assert revoked is not None
        assert self.erase(revoked, note=note())
        assert list(self.second.revoking(CLIENT, limit=10)) == []
        assert not self.settle(claim, "late").stored
        assert list(self.second.revoking(CLIENT, limit=10)) == [self.read()]
        assert self.erase(self.read(), note=note())
        assert list(self.second.revoking(CLIENT, limit=10)) == []

    def test_a_foreign_pair_keeps_no_revocation_unfinished(self) -> None:
        record = self.put("a")
        self.store.journal(record, pair("foreign"), origin=Origin.FOREIGN)
        revoked = self.store.mark_revoked(KEY, note=note())
        assert revoked is not None
        assert list(self.second.revoking(CLIENT, limit=10)) == [revoked]
        assert self.store.erase(revoked, journaled=[], note=note())
        assert list(self.second.revoking(CLIENT, limit=10)) == []
        assert entry_values(self.journal()) == [(Origin.FOREIGN, pair("foreign"), 2, 1)]

    def test_a_new_consent_ends_an_unfinished_revocation(self) -> None:
        self.put("a")
        self.store.mark_revoked(KEY, note=note())
        assert self.put("b").state is State.ACTIVE
        assert list(self.second.revoking(CLIENT, limit=10)) == []
        assert entry_values(self.journal()) == [(Origin.REPLACED, pair("a"), 2, 1)]

    def test_only_a_revoked_grant_is_erased(self) -> None:
        active = self.put("a")
        self.settle(active, "b")
        self.settle(active, "c")
        journal = self.journal()
        assert not self.erase(self.read(), note=note())
        assert self.read().token == pair("b")
        assert self.journal() == journal

    def test_nothing_is_erased_after_a_new_consent(self) -> None:
        self.put("a")
        revoked = self.store.mark_revoked(KEY, note=note())
        assert revoked is not None
        again = self.put("b")
        assert not self.erase(revoked, note=note())
        assert self.read() == again
        assert entry_values(self.journal()) == [(Origin.REPLACED, pair("a"), 2, 1)]

    def test_nothing_is_erased_after_a_later_revocation(self) -> None:
        self.put("a")
        first = self.store.mark_revoked(KEY, note=note())
        assert first is not None
        self.put("b")
        later = self.store.mark_revoked(KEY, note=note())
        assert not self.erase(first, note=note())
        assert self.read() == later

    def test_an_unknown_grant_cannot_be_erased(self) -> None:
        unknown = evolve(self.put("a"), key=grant_key("unknown"), state=State.REVOKED)
        assert not self.erase(unknown, note=note())

    def test_a_new_consent_after_an_erasure_replaces_no_pair(self) -> None:
        self.put("a")
        revoked = self.store.mark_revoked(KEY, note=note())
        assert revoked is not None
        self.erase(revoked, note=note())
        again = self.put("a")
        assert (again.generation, again.consent, again.token) == (3, 2, pair("a"))
        assert (again.state, self.journal()) == (State.ACTIVE, [])


class Salvaging(Harness):
    """Tests of `journal`, `journal_entries` and `salvage`."""

    def superseded(self, *names: str) -> Record:
        """Return a claim on a grant that has superseded pairs of these names in the journal."""
        claim = self.claim(self.put("stored-first"))
        self.settle(claim, "stored")
        for name in names:
            assert not self.settle(claim, name).stored
        return self.claim()

    def test_the_journal_keeps_a_pair_under_the_next_generation(self) -> None:
        record = self.put("a")
        self.store.journal(record, pair("b"), origin=Origin.ERROR)
        assert entry_values(self.journal()) == [(Origin.ERROR, pair("b"), 2, 1)]
        assert self.journal()[0].key == KEY
        assert self.read() == record

    def test_journal_entries_are_returned_newest_first(self) -> None:
        record = self.put("a")
        for origin in Origin:
            self.store.journal(record, pair(origin), origin=origin)
            self.let_pass(1)
        assert [entry.origin for entry in self.journal()] == list(reversed(Origin))
        times = [entry.at for entry in self.journal()]
        assert times == sorted(times, reverse=True)
        assert times[0] - times[-1] >= days(0)

    def test_journal_entries_of_the_same_time_are_returned_newest_first(self) -> None:
        record = self.put("a")
        for number in range(5):
            self.store.journal(record, pair(f"{number}"), origin=Origin.ERROR)
        assert [entry.token for entry in self.journal()] == [pair(f"{n}") for n in range(4, -1, -1)]

    def test_a_pair_that_is_journaled_twice_is_in_the_journal_once(self) -> None:
        record = self.put("a")
        for _ in range(2):
            self.store.journal(record, pair("b"), origin=Origin.ERROR)
        assert entry_values(self.journal()) == [(Origin.ERROR, pair("b"), 2, 1)]

    def test_each_grant_has_its_own_journal(self) -> None:
        other = self.put("other", grant_key("other"))
        self.store.journal(self.put("a"), pair("b"), origin=Origin.ERROR)
        self.store.journal(other, pair("c"), origin=Origin.ERROR)
        assert [entry.token for entry in self.journal()] == [pair("b")]
        assert self.journal(grant_key("unknown")) == []

    def test_a_superseded_pair_is_salvaged_under_the_same_lease(self) -> None:
        claim = self.superseded("late")
        salvaged = self.store.salvage(claim, note=note("salvaged"))
        assert salvaged is not None
        assert untimed(salvaged) == untimed(self.read())
        assert (salvaged.token, salvaged.generation) == (pair("late"), claim.generation + 1)
        assert (salvaged.state, salvaged.attempts) == (State.REFRESHING, 1)
        assert (salvaged.owner, salvaged.consent) == (claim.owner, claim.consent)
        assert 0 < salvaged.lease_left <= claim.lease_left
        assert self.events()[0] == "salvaged"

    def test_the_refused_pair_goes_to_the_journal_and_the_salvaged_one_leaves_it(self) -> None:
        claim = self.superseded("late")
        self.store.salvage(claim, note=note())
        assert entry_values(self.journal()) == [
            (Origin.REFUSED, pair("stored"), claim.generation, 1)
        ]

    def test_the_newest_superseded_pair_is_salvaged_first(self) -> None:
        claim = self.superseded("late", "later", "latest")
        for name in ("latest", "later", "late"):
            salvaged = self.store.salvage(claim, note=note())
            assert salvaged is not None
            assert salvaged.token == pair(name)
            claim = salvaged
        assert self.store.salvage(claim, note=note()) is None

    def test_a_pair_from_a_failed_response_can_be_salvaged(self) -> None:
        claim = self.claim(self.put("a"))
        self.store.journal(claim, pair("b"), origin=Origin.ERROR)
        salvaged = self.store.salvage(claim, note=note())
        assert salvaged is not None
        assert salvaged.token == pair("b")

    def test_a_replaced_or_refused_pair_is_never_salvaged(self) -> None:
        claim = self.claim(self.put("a"))
        self.store.journal(claim, pair("b"), origin=Origin.REPLACED)
        self.store.journal(claim, pair("c"), origin=Origin.REFUSED)
        journal = self.journal()
        assert self.store.salvage(claim, note=note()) is None
        assert self.journal() == journal

    def test_a_foreign_pair_is_never_salvaged(self) -> None:
        claim = self.claim(self.put("a"))
        self.store.journal(claim, pair("foreign"), origin=Origin.FOREIGN)
        journal = self.journal()
        assert self.store.salvage(claim, note=note()) is None
        assert self.journal() == journal

    def test_a_foreign_pair_that_arrives_in_a_response_of_its_own_is_salvaged(self) -> None:
        claim = self.claim(self.put("a"))
        for _ in range(2):
            self.store.journal(claim, pair("b"), origin=Origin.FOREIGN)
        assert entry_values(self.journal()) == [(Origin.FOREIGN, pair("b"), 2, 1)]
        self.settle(claim, "stored")
        assert not self.settle(claim, "b").stored
        salvaged = self.store.salvage(self.claim(), note=note())
        assert salvaged is not None
        assert salvaged.token == pair("b")

    def test_a_pair_of_a_grant_without_a_record_can_be_journaled(self) -> None:
        unknown = evolve(self.put("a"), key=grant_key("unknown"), generation=0, consent=0)
        self.store.journal(unknown, pair("foreign"), origin=Origin.FOREIGN)
        entries = entry_values(self.journal(unknown.key))
        assert entries == [(Origin.FOREIGN, pair("foreign"), 1, 0)]
        assert self.store.load(unknown.key) is None
        assert list(self.second.revoking(CLIENT, limit=10)) == []

    def test_a_pair_of_another_consent_is_never_salvaged(self) -> None:
        old = self.claim(self.put("old"))
        self.put("new")
        assert not self.settle(old, "late").stored
        claim = self.claim()
        assert self.store.salvage(claim, note=note()) is None
        assert self.read().token == pair("new")

    def test_a_pair_of_another_grant_is_never_salvaged(self) -> None:
        self.superseded("late")
        other = self.claim(self.put("other", grant_key("other")))
        assert self.store.salvage(other, note=note()) is None

    def test_a_pair_without_a_usable_refresh_token_is_never_salvaged(self) -> None:
        refused = self.claim(self.put("a"))
        same = evolve(pair("b"), refresh_token=pair("a").refresh_token)
        for token in (same, evolve(pair("c"), refresh_token=None)):
            self.store.journal(refused, token, origin=Origin.ERROR)
        assert self.store.salvage(refused, note=note()) is None

    def test_a_refresh_token_that_was_refused_is_never_salvaged_again(self) -> None:
        claim = self.claim(self.put("a"))
        same_refresh_token = [
            evolve(pair(name), refresh_token=pair("b").refresh_token) for name in ("c", "d")
        ]
        for token in (same_refresh_token[0], pair("e"), same_refresh_token[1]):
            self.store.journal(claim, token, origin=Origin.ERROR)
        tried: list[Token | None] = []
        for _ in range(3):
            salvaged = self.store.salvage(claim, note=note())
            tried.append(salvaged.token if salvaged else None)
            claim = salvaged or claim
        assert tried == [same_refresh_token[1], pair("e"), None]

    def test_without_a_pair_to_salvage_nothing_changes(self) -> None:
        claim = self.claim(self.put("a"))
        events = self.events()
        assert self.store.salvage(claim, note=note()) is None
        assert untimed(self.read()) == untimed(claim)
        assert self.read().lease_left > 0
        assert (self.journal(), self.events()) == ([], events)

    def test_a_salvage_changes_nothing_after_another_claim(self) -> None:
        claim = self.superseded("late")
        self.let_pass(2000)
        new_claim = self.claim()
        journal = self.journal()
        assert self.store.salvage(claim, note=note()) is None
        assert untimed(self.read()) == untimed(new_claim)
        self.settle(new_claim, "next")
        assert self.store.salvage(new_claim, note=note()) is None
        assert (self.read().token, self.journal()) == (pair("next"), journal)

    def test_a_salvaged_claim_works_like_any_claim(self) -> None:
        first = self.store.salvage(self.superseded("late", "later"), note=note())
        assert first is not None
        assert self.claim_fails(first)
        assert self.release(first, State.UNCERTAIN, attempts=1)
        second = self.store.salvage(self.claim(), note=note())
        assert second is not None
        assert self.settle(second, "next").stored
        assert (self.read().token, self.read().idle_until) == (pair("next"), ISSUED + days(31))

    def test_after_a_salvage_the_previous_claim_changes_nothing(self) -> None:
        claim = self.superseded("late")
        salvaged = self.store.salvage(claim, note=note())
        assert not self.release(claim, State.NEEDS_CONSENT)
        assert untimed(self.read()) == untimed(salvaged)
