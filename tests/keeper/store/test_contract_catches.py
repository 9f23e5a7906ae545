"""The contract can fail: each store here breaks one rule, and a test that names it fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import pytest
from attrs import evolve

from blink_oauth import Token
from blink_oauth_keeper import (
    Due,
    GrantKey,
    HistoryEntry,
    JournalEntry,
    MemoryTokenStore,
    Note,
    Origin,
    Record,
    Settlement,
    State,
)
from blink_oauth_testing.store_contract import Clock, TokenStoreContract

BROKEN: list[tuple[type[MemoryTokenStore], str]] = []


def caught_by(sentence: str) -> Callable[[type[MemoryTokenStore]], type[MemoryTokenStore]]:
    """Note which test of the contract is to catch a broken store."""

    def add(store: type[MemoryTokenStore]) -> type[MemoryTokenStore]:
        BROKEN.append((store, sentence))
        return store

    return add


class Lenient(MemoryTokenStore):
    """A store whose rows can be changed behind the rules."""

    def __init__(self, *, clock: Clock) -> None:
        self.clock = clock
        self.rows: dict[GrantKey, Any] = {}
        super().__init__(clock=clock, rows=self.rows)

    def change(self, key: GrantKey, **facts: object) -> None:
        """Put a grant into another state, without a trace."""
        row = self.rows[key]
        assert row.record is not None
        row.record = evolve(row.record, **facts)


@caught_by("a_claim_is_lost_if_the_attempts_have_moved")
class ClaimIgnoresAttempts(Lenient):
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        now = self.load(seen.key) or seen
        return super().claim(evolve(seen, attempts=now.attempts), owner=owner, ttl=ttl)


@caught_by("a_claim_is_lost_if_the_generation_has_moved")
class ClaimIgnoresGeneration(Lenient):
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        now = self.load(seen.key) or seen
        return super().claim(evolve(seen, generation=now.generation), owner=owner, ttl=ttl)


@caught_by("nobody_claims_while_a_lease_runs")
class ClaimIgnoresTheLease(Lenient):
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        if seen.key in self.rows:
            self.rows[seen.key].lease_until = None
        return super().claim(seen, owner=owner, ttl=ttl)


@caught_by("nobody_claims_while_a_pause_runs")
class ClaimIgnoresThePause(Lenient):
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        if seen.key in self.rows:
            self.rows[seen.key].pause_until = None
        return super().claim(seen, owner=owner, ttl=ttl)


@caught_by("a_grant_that_is_over_cannot_be_claimed")
class ClaimIgnoresTheState(Lenient):
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        if seen.key in self.rows:
            self.change(seen.key, state=State.ACTIVE)
        return super().claim(seen, owner=owner, ttl=ttl)


@caught_by("the_next_to_claim_an_abandoned_lease_makes_another_attempt")
class ClaimCountsNoSecondAttempt(Lenient):
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        claim = super().claim(seen, owner=owner, ttl=ttl)
        if claim is not None:
            self.change(seen.key, attempts=1)
        return claim and self.load(seen.key)


@caught_by("a_lease_runs_for_its_time")
class LeaseNeverEnds(Lenient):
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        return super().claim(seen, owner=owner, ttl=ttl * 1000)


@caught_by("a_claim_is_won_by_one_of_many")
class ClaimReadsBeforeItLocks(Lenient):
    """Every reader in the gap is told that it won, as without a compare-and-swap."""

    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        claim = super().claim(seen, owner=owner, ttl=ttl)
        if claim is None and (now := self.load(seen.key)) and now.state is State.REFRESHING:
            return evolve(now, owner=owner) if now.generation == seen.generation else None
        return claim


class SettlesItsOwnWay(Lenient):
    """A store that breaks a rule before or after it settles a pair."""

    def before(self, claim: Record, token: Token) -> None:
        """Break a rule before."""

    def after(self, claim: Record, settlement: Settlement) -> Settlement:
        """Break a rule after."""
        return settlement

    def settle(
        self,
        claim: Record,
        token: Token,
        *,
        issued_at: datetime,
        idle_until: datetime | None,
        note: Note,
        state: State = State.ACTIVE,
    ) -> Settlement:
        self.before(claim, token)
        settlement = super().settle(
            claim, token, issued_at=issued_at, idle_until=idle_until, note=note, state=state
        )
        return self.after(claim, settlement)


@caught_by("a_pair_is_settled_although_another_holds_the_lease")
class SettleNeedsTheOwner(SettlesItsOwnWay):
    def before(self, claim: Record, token: Token) -> None:
        now = self.load(claim.key)
        if now is not None and now.owner != claim.owner:
            self.change(claim.key, generation=now.generation + 1)


@caught_by("a_pair_is_settled_although_the_lease_ran_out")
class SettleNeedsTheLease(SettlesItsOwnWay):
    def before(self, claim: Record, token: Token) -> None:
        now = self.load(claim.key)
        if now is not None and not now.lease_left:
            self.change(claim.key, generation=now.generation + 1)


@caught_by("a_pair_that_comes_too_late_goes_to_the_journal")
class SettleIgnoresTheGeneration(SettlesItsOwnWay):
    def before(self, claim: Record, token: Token) -> None:
        if self.load(claim.key) is not None:
            self.change(claim.key, generation=claim.generation)


@caught_by("of_many_that_settle_one_is_stored_and_none_is_lost")
class SettleDropsThePairOfTheLoser(SettlesItsOwnWay):
    def after(self, claim: Record, settlement: Settlement) -> Settlement:
        if not settlement.stored:
            self.rows[claim.key].journal = ()
        return settlement


@caught_by("settling_again_does_no_harm")
class SettleJournalsItsOwnPair(SettlesItsOwnWay):
    def before(self, claim: Record, token: Token) -> None:
        now = self.load(claim.key)
        if now is not None and now.generation != claim.generation:
            self.journal(claim, token, origin=Origin.SUPERSEDED)


@caught_by("a_pair_that_comes_too_late_twice_is_in_the_journal_once")
class SettleJournalsEachTime(SettlesItsOwnWay):
    def after(self, claim: Record, settlement: Settlement) -> Settlement:
        if not settlement.stored:
            row = self.rows[claim.key]
            row.journal += row.journal[-1:]
        return settlement


@caught_by("pairs_that_share_one_of_two_tokens_are_not_the_same")
class SettleComparesAccessTokensOnly(SettlesItsOwnWay):
    def after(self, claim: Record, settlement: Settlement) -> Settlement:
        row = self.rows[claim.key]
        now = settlement.record
        if now is None or now.token is None or not row.journal:
            return settlement
        if row.journal[-1].token.access_token != now.token.access_token:
            return settlement
        row.journal = row.journal[:-1]
        return Settlement(stored=True, record=now)


@caught_by("a_pair_in_doubt_is_settled_with_one_attempt")
class SettleForgetsTheDoubt(SettlesItsOwnWay):
    def after(self, claim: Record, settlement: Settlement) -> Settlement:
        self.change(claim.key, attempts=0)
        return settlement


@caught_by("a_pair_that_arrives_ends_a_pause_and_clears_an_error")
class SettleKeepsThePause(SettlesItsOwnWay):
    def before(self, claim: Record, token: Token) -> None:
        self.pause = self.rows[claim.key].pause_until

    def after(self, claim: Record, settlement: Settlement) -> Settlement:
        self.rows[claim.key].pause_until = self.pause
        return settlement


class ReleasesItsOwnWay(Lenient):
    """A store that replaces the claim before a lease goes back."""

    def as_if(self, claim: Record, now: Record) -> Record:
        """Return the claim that the rules are to see."""
        raise NotImplementedError

    def release(
        self,
        claim: Record,
        *,
        state: State,
        attempts: int,
        pause: float,
        error: str | None,
        note: Note,
    ) -> bool:
        now = self.load(claim.key)
        return super().release(
            claim if now is None else self.as_if(claim, now),
            state=state,
            attempts=attempts,
            pause=pause,
            error=error,
            note=note,
        )


@caught_by("whoever_lost_the_lease_to_another_changes_nothing")
class ReleaseIgnoresTheOwner(ReleasesItsOwnWay):
    def as_if(self, claim: Record, now: Record) -> Record:
        return evolve(claim, owner=now.owner)


@caught_by("whoever_lost_the_lease_to_a_new_generation_changes_nothing")
class ReleaseIgnoresTheGeneration(ReleasesItsOwnWay):
    def as_if(self, claim: Record, now: Record) -> Record:
        return evolve(claim, generation=now.generation, owner=now.owner)


@caught_by("a_lease_that_ran_out_goes_back_while_nobody_else_has_come")
class ReleaseNeedsTheLease(ReleasesItsOwnWay):
    def as_if(self, claim: Record, now: Record) -> Record:
        return claim if now.lease_left else evolve(claim, owner="nobody")


class PutsItsOwnWay(Lenient):
    """A store that breaks a rule before or after it stores a new consent."""

    def before(self, key: GrantKey) -> None:
        """Break a rule before."""

    def after(self, old: Record | None, new: Record) -> None:
        """Break a rule after."""

    def put(
        self,
        key: GrantKey,
        token: Token,
        *,
        issued_at: datetime,
        idle_until: datetime | None,
        note: Note,
    ) -> Record:
        old = self.load(key)
        if old is not None:
            self.before(key)
        new = super().put(key, token, issued_at=issued_at, idle_until=idle_until, note=note)
        self.after(old, new)
        return self.load(key) or new


@caught_by("a_new_consent_puts_its_pair_in_the_place_of_the_old")
class PutForgetsTheOldPair(PutsItsOwnWay):
    def before(self, key: GrantKey) -> None:
        self.change(key, token=None)


@caught_by("a_refresh_in_flight_loses_against_a_new_consent")
class PutKeepsTheGeneration(PutsItsOwnWay):
    def after(self, old: Record | None, new: Record) -> None:
        self.change(new.key, generation=old.generation if old else 1)


@caught_by("a_pair_of_another_consent_is_never_salvaged")
class PutKeepsTheConsent(PutsItsOwnWay):
    def after(self, old: Record | None, new: Record) -> None:
        self.change(new.key, consent=1)


@caught_by("putting_the_same_pair_again_leaves_a_lease_alone")
class PutTakesTheLeaseAway(PutsItsOwnWay):
    def after(self, old: Record | None, new: Record) -> None:
        self.rows[new.key].lease_until = None


@caught_by("putting_the_same_pair_again_does_not_undo_a_revocation")
class PutRevives(PutsItsOwnWay):
    def after(self, old: Record | None, new: Record) -> None:
        self.change(new.key, state=State.ACTIVE)


@caught_by("what_the_headers_said_and_unknown_members_are_not_stored")
class PutStoresEverything(Lenient):
    def put(
        self,
        key: GrantKey,
        token: Token,
        *,
        issued_at: datetime,
        idle_until: datetime | None,
        note: Note,
    ) -> Record:
        new = super().put(key, token, issued_at=issued_at, idle_until=idle_until, note=note)
        self.change(key, token=token)
        return self.load(key) or new


@caught_by("a_refresh_in_flight_loses_against_a_revocation")
class RevokeKeepsTheGeneration(Lenient):
    def revoke(self, key: GrantKey, *, note: Note) -> Record | None:
        old = self.load(key)
        if old is None or super().revoke(key, note=note) is None:
            return None
        self.change(key, generation=old.generation)
        return self.load(key)


@caught_by("a_revoked_grant_keeps_its_pair_until_it_is_erased")
class RevokeErases(Lenient):
    def revoke(self, key: GrantKey, *, note: Note) -> Record | None:
        revoked = super().revoke(key, note=note)
        return revoked and (self.erase(revoked) or True) and self.load(key)


@caught_by("a_revocation_clears_lease_pause_attempts_and_error")
class RevokeKeepsTheAttempts(Lenient):
    def revoke(self, key: GrantKey, *, note: Note) -> Record | None:
        old = self.load(key)
        if old is None or super().revoke(key, note=note) is None:
            return None
        self.change(key, attempts=old.attempts)
        return self.load(key)


@caught_by("only_what_is_revoked_is_erased")
class EraseIgnoresTheState(Lenient):
    def erase(self, record: Record) -> bool:
        if record.key in self.rows:
            self.change(record.key, state=State.REVOKED)
        return super().erase(record)


@caught_by("nothing_is_erased_after_a_later_revocation")
class EraseIgnoresTheGeneration(Lenient):
    def erase(self, record: Record) -> bool:
        return super().erase(self.load(record.key) or record)


@caught_by("erasing_forgets_every_pair_and_keeps_record_and_history")
class EraseKeepsTheJournal(Lenient):
    def erase(self, record: Record) -> bool:
        journal = self.journal_entries(record.key)
        erased = super().erase(record)
        if erased:
            self.rows[record.key].journal = tuple(reversed(journal))
        return erased


@caught_by("a_pair_that_is_written_to_the_journal_again_is_in_it_once")
class JournalWritesEachTime(Lenient):
    def journal(self, record: Record, token: Token, *, origin: Origin) -> None:
        super().journal(record, token, origin=origin)
        self.rows[record.key].journal += self.rows[record.key].journal[-1:]


@caught_by("the_journal_is_read_from_its_newest_entry")
class JournalOldestFirst(Lenient):
    def journal_entries(self, key: GrantKey) -> Sequence[JournalEntry]:
        return super().journal_entries(key)[::-1]


@caught_by("a_pair_of_another_consent_is_never_salvaged")
class SalvageCrossesConsents(Lenient):
    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        row = self.rows[claim.key]
        row.journal = tuple(evolve(entry, consent=claim.consent) for entry in row.journal)
        return super().salvage(claim, note=note)


@caught_by("a_replaced_or_refused_pair_is_never_salvaged")
class SalvageIgnoresTheOrigin(Lenient):
    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        row = self.rows[claim.key]
        row.journal = tuple(evolve(entry, origin=Origin.ERROR) for entry in row.journal)
        return super().salvage(claim, note=note)


@caught_by("the_newest_superseded_pair_is_salvaged_first")
class SalvageTakesTheOldest(Lenient):
    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        row = self.rows[claim.key]
        row.journal = row.journal[::-1]
        return super().salvage(claim, note=note)


@caught_by("a_pair_that_could_not_be_refreshed_either_is_never_salvaged")
class SalvageTriesTheRefusedTokenAgain(Lenient):
    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        self.change(claim.key, token=Token(access_token="fake-access-token-other"))
        return super().salvage(claim, note=note)


@caught_by("whoever_lost_the_lease_salvages_nothing")
class SalvageIgnoresTheOwner(Lenient):
    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        return super().salvage(self.load(claim.key) or claim, note=note)


@caught_by("a_superseded_pair_is_salvaged_under_the_same_lease")
class SalvageGivesTheLeaseBack(Lenient):
    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        self.rows[claim.key].lease_until = None
        return super().salvage(claim, note=note)


@caught_by("those_are_due_first_whose_refresh_tokens_end_first")
class DueInTheWrongOrder(Lenient):
    def due(self, due: Due, *, limit: int) -> Sequence[Record]:
        return super().due(due, limit=limit)[::-1]


@caught_by("what_could_not_be_claimed_is_not_due")
class DueIgnoresLeases(Lenient):
    def due(self, due: Due, *, limit: int) -> Sequence[Record]:
        for row in self.rows.values():
            row.lease_until = None
        return super().due(due, limit=limit)


@caught_by("a_refresh_token_in_doubt_is_due_only_where_that_is_asked_for")
class DueIgnoresAttempts(Lenient):
    def due(self, due: Due, *, limit: int) -> Sequence[Record]:
        return super().due(evolve(due, max_attempts=1000), limit=limit)


@caught_by("what_is_due_is_chosen_by_client_and_target")
class DueTakesNoTargetsForAll(Lenient):
    def due(self, due: Due, *, limit: int) -> Sequence[Record]:
        return super().due(evolve(due, targets=due.targets or None), limit=limit)


@caught_by("what_is_due_is_claimed_in_turn_and_up_to_the_limit")
class ClaimDueIgnoresTheLimit(Lenient):
    def claim_due(self, due: Due, *, owner: str, ttl: float, limit: int) -> list[Record]:
        return super().claim_due(due, owner=owner, ttl=ttl, limit=1000)


@caught_by("what_is_due_is_claimed_by_client_and_target")
class ClaimDueIgnoresTargets(Lenient):
    def claim_due(self, due: Due, *, owner: str, ttl: float, limit: int) -> list[Record]:
        everywhere = evolve(due, targets=None, except_targets=())
        return super().claim_due(everywhere, owner=owner, ttl=ttl, limit=limit)


@caught_by("what_was_due_is_claimed_like_any_other")
class ClaimDueOnlyLooks(Lenient):
    def claim_due(self, due: Due, *, owner: str, ttl: float, limit: int) -> list[Record]:
        return list(self.due(due, limit=limit))


@caught_by("records_come_in_pages")
class RecordsAlwaysStartOver(Lenient):
    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        return super().records(client_id, limit=limit)


@caught_by("records_are_sorted_by_target_and_username")
class RecordsSortedAsInADictionary(Lenient):
    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        page = super().records(client_id, after=after, limit=limit)
        return sorted(page, key=lambda r: (r.key.grant.target_id, r.key.grant.username.lower()))


@caught_by("a_client_is_not_shown_the_records_of_another")
class RecordsOfEverybody(Lenient):
    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        return list(filter(None, map(self.load, self.rows)))


@caught_by("the_history_is_read_from_its_newest_line")
class HistoryOldestFirst(Lenient):
    def history(self, key: GrantKey, *, limit: int = 100) -> Sequence[HistoryEntry]:
        return super().history(key, limit=limit)[::-1]


@caught_by("every_change_is_a_line_in_the_history")
class HistoryHoldsTheGenerationBefore(Lenient):
    def history(self, key: GrantKey, *, limit: int = 100) -> Sequence[HistoryEntry]:
        entries = super().history(key, limit=limit)
        return [evolve(entry, generation=entry.generation - 1) for entry in entries]


@caught_by("old_history_is_purged_and_the_record_stays")
class PurgeTakesRecordsToo(Lenient):
    def purge(self) -> int:
        purged = super().purge()
        if purged:
            for key in [key for key in self.rows if not self.history(key)]:
                del self.rows[key]
        return purged


@caught_by("old_journal_entries_are_purged_and_young_ones_stay")
class PurgeTakesEverything(Lenient):
    def purge(self) -> int:
        now = self.clock()
        return sum(row.forget(now, now) for row in self.rows.values())


@caught_by("moments_come_back_in_utc_to_the_microsecond")
class MomentsInWholeSeconds(PutsItsOwnWay):
    def after(self, old: Record | None, new: Record) -> None:
        self.change(new.key, issued_at=new.issued_at.replace(microsecond=0))


@caught_by("usernames_that_only_look_alike_are_different_customers")
class UsernamesWithoutCase(Lenient):
    def load(self, key: GrantKey) -> Record | None:
        grant = evolve(key.grant, username=key.grant.username.lower().strip())
        return super().load(evolve(key, grant=grant)) or super().load(key)


@caught_by("nothing_that_a_store_returns_shows_a_token")
class ShowsItsTokens(Lenient):
    def __repr__(self) -> str:
        tokens = [row.record.token for row in self.rows.values() if row.record]
        return f"<{[token.access_token.reveal() for token in tokens if token]}>"


@caught_by("a_fingerprint_stands_for_a_text_and_does_not_show_it")
class FingerprintShowsTheText(Lenient):
    def fingerprint(self, text: str) -> str:
        return text[:4] + super().fingerprint(text)


def sentences_of(contract: type[TokenStoreContract]) -> list[str]:
    """Return the names of the tests."""
    return [name for name in dir(contract) if name.startswith("test_")]


def run(store: Callable[..., MemoryTokenStore], name: str) -> None:
    """Run one test of the contract on a store."""

    class Contract(TokenStoreContract):
        def make_store(self, clock: Clock) -> MemoryTokenStore:
            return store(clock=clock)

    contract = Contract()
    try:
        getattr(contract, name)()
    finally:
        contract.teardown_method()


@pytest.mark.parametrize(("store", "sentence"), BROKEN, ids=[store.__name__ for store, _ in BROKEN])
def test_a_broken_store_is_caught_by_the_test_that_names_its_rule(
    store: type[MemoryTokenStore], sentence: str
) -> None:
    run(MemoryTokenStore, f"test_{sentence}")
    with pytest.raises(AssertionError):
        run(store, f"test_{sentence}")


def test_a_store_that_breaks_nothing_is_not_caught() -> None:
    for name in sentences_of(TokenStoreContract):
        run(Lenient, name)


def test_a_store_that_loses_everything_between_two_processes_is_caught() -> None:
    class Contract(TokenStoreContract):
        def make_store(self, clock: Clock) -> MemoryTokenStore:
            return MemoryTokenStore(clock=clock)

        def reopen(self, store: object) -> MemoryTokenStore:
            return MemoryTokenStore(clock=self.clock)

    blind = []
    for name in sentences_of(Contract):
        contract = Contract()
        try:
            getattr(contract, name)()
        except (AssertionError, IndexError, ValueError):
            continue
        finally:
            contract.teardown_method()
        blind.append(name)
    assert len(blind) < len(sentences_of(Contract)) / 6, blind


def test_a_store_without_make_store_is_told_what_to_do() -> None:
    with pytest.raises(NotImplementedError, match="make_store"):
        _ = TokenStoreContract().store
