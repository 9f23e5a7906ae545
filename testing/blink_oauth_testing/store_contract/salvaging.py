"""The journal loses nothing, and gives back the pair that may still be good."""

from __future__ import annotations

from attrs import evolve

from blink_oauth.tokens import Token
from blink_oauth_keeper.store.records import Origin, Record, State

from .material import ISSUED, KEY, at_rest, days, grant_key, note, origins, pair
from .stage import Stage

__all__ = ["Salvaging"]


class Salvaging(Stage):
    """What `journal`, `journal_entries` and `salvage` promise."""

    def superseded(self, *names: str) -> Record:
        """Return the claim on a pair beside which others came too late."""
        late = self.claim(self.put("stored-first"))
        self.settle(late, "stored")
        for name in names:
            assert not self.settle(late, name).stored
        return self.claim()

    def test_the_journal_keeps_a_pair_under_the_next_generation(self) -> None:
        record = self.put("a")
        self.store.journal(record, pair("b"), origin=Origin.ERROR)
        assert origins(self.journal()) == [(Origin.ERROR, pair("b"), 2, 1)]
        assert self.journal()[0].key == KEY
        assert self.seen() == record

    def test_the_journal_is_read_from_its_newest_entry(self) -> None:
        record = self.put("a")
        for origin in Origin:
            self.store.journal(record, pair(origin), origin=origin)
            self.let_pass(1)
        assert [entry.origin for entry in self.journal()] == list(reversed(Origin))
        moments = [entry.at for entry in self.journal()]
        assert moments == sorted(moments, reverse=True)
        assert moments[0] - moments[-1] >= days(0)

    def test_entries_of_one_moment_are_read_from_the_newest_too(self) -> None:
        record = self.put("a")
        for number in range(5):
            self.store.journal(record, pair(f"{number}"), origin=Origin.ERROR)
        assert [entry.token for entry in self.journal()] == [pair(f"{n}") for n in range(4, -1, -1)]

    def test_a_pair_that_is_written_to_the_journal_again_is_in_it_once(self) -> None:
        record = self.put("a")
        for _ in range(2):
            self.store.journal(record, pair("b"), origin=Origin.ERROR)
        assert origins(self.journal()) == [(Origin.ERROR, pair("b"), 2, 1)]

    def test_each_grant_has_its_own_journal(self) -> None:
        other = self.put("other", grant_key("other"))
        self.store.journal(self.put("a"), pair("b"), origin=Origin.ERROR)
        self.store.journal(other, pair("c"), origin=Origin.ERROR)
        assert [entry.token for entry in self.journal()] == [pair("b")]
        assert self.journal(grant_key("nobody")) == []

    def test_a_superseded_pair_is_salvaged_under_the_same_lease(self) -> None:
        claim = self.superseded("late")
        salvaged = self.store.salvage(claim, note=note("salvaged"))
        assert salvaged is not None
        assert at_rest(salvaged) == at_rest(self.seen())
        assert (salvaged.token, salvaged.generation) == (pair("late"), claim.generation + 1)
        assert (salvaged.state, salvaged.attempts) == (State.REFRESHING, 1)
        assert (salvaged.owner, salvaged.consent) == (claim.owner, claim.consent)
        assert 0 < salvaged.lease_left <= claim.lease_left
        assert self.events()[0] == "salvaged"

    def test_the_refused_pair_goes_to_the_journal_and_the_salvaged_one_leaves_it(self) -> None:
        claim = self.superseded("late")
        self.store.salvage(claim, note=note())
        assert origins(self.journal()) == [(Origin.REFUSED, pair("stored"), claim.generation, 1)]

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

    def test_a_pair_of_another_consent_is_never_salvaged(self) -> None:
        old = self.claim(self.put("old"))
        self.put("new")
        assert not self.settle(old, "late").stored
        claim = self.claim()
        assert self.store.salvage(claim, note=note()) is None
        assert self.seen().token == pair("new")

    def test_a_pair_of_another_grant_is_never_salvaged(self) -> None:
        self.superseded("late")
        other = self.claim(self.put("other", grant_key("other")))
        assert self.store.salvage(other, note=note()) is None

    def test_a_pair_that_could_not_be_refreshed_either_is_never_salvaged(self) -> None:
        refused = self.claim(self.put("a"))
        same = evolve(pair("b"), refresh_token=pair("a").refresh_token)
        for useless in (same, evolve(pair("c"), refresh_token=None)):
            self.store.journal(refused, useless, origin=Origin.ERROR)
        assert self.store.salvage(refused, note=note()) is None

    def test_a_refresh_token_that_was_refused_is_never_salvaged_again(self) -> None:
        claim = self.claim(self.put("a"))
        twins = [evolve(pair(name), refresh_token=pair("b").refresh_token) for name in ("c", "d")]
        for token in (twins[0], pair("e"), twins[1]):
            self.store.journal(claim, token, origin=Origin.ERROR)
        tried: list[Token | None] = []
        for _ in range(3):
            salvaged = self.store.salvage(claim, note=note())
            tried.append(salvaged.token if salvaged else None)
            claim = salvaged or claim
        assert tried == [twins[1], pair("e"), None]

    def test_without_a_pair_to_salvage_nothing_changes(self) -> None:
        claim = self.claim(self.put("a"))
        events = self.events()
        assert self.store.salvage(claim, note=note()) is None
        assert at_rest(self.seen()) == at_rest(claim)
        assert self.seen().lease_left > 0
        assert (self.journal(), self.events()) == ([], events)

    def test_whoever_lost_the_lease_salvages_nothing(self) -> None:
        claim = self.superseded("late")
        self.let_pass(2000)
        other = self.claim()
        journal = self.journal()
        assert self.store.salvage(claim, note=note()) is None
        assert at_rest(self.seen()) == at_rest(other)
        self.settle(other, "next")
        assert self.store.salvage(other, note=note()) is None
        assert (self.seen().token, self.journal()) == (pair("next"), journal)

    def test_a_salvaged_claim_is_a_claim(self) -> None:
        first = self.store.salvage(self.superseded("late", "later"), note=note())
        assert first is not None
        assert self.loses(first)
        assert self.release(first, State.UNCERTAIN, attempts=1)
        second = self.store.salvage(self.claim(), note=note())
        assert second is not None
        assert self.settle(second, "next").stored
        assert (self.seen().token, self.seen().idle_until) == (pair("next"), ISSUED + days(31))

    def test_the_owner_of_a_refused_pair_holds_the_salvaged_one_by_its_new_claim_alone(
        self,
    ) -> None:
        claim = self.superseded("late")
        salvaged = self.store.salvage(claim, note=note())
        assert not self.release(claim, State.NEEDS_CONSENT)
        assert at_rest(self.seen()) == at_rest(salvaged)
