"""Each store here breaks one rule, and the test of that rule fails."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

import pytest
from attrs import evolve

from blink_oauth import Token
from blink_oauth_keeper import (
    DueQuery,
    GrantKey,
    HistoryEntry,
    JournalEntry,
    MemoryTokenStore,
    NewNotice,
    Note,
    Notice,
    NoticeKind,
    Origin,
    Record,
    Settlement,
    State,
)
from blink_oauth_keeper.store.memory import StoredNotice
from blink_oauth_keeper.store.rules import due_order, is_due
from blink_oauth_testing.store_contract import ManualClock, TokenStoreContract
from blink_oauth_testing.store_contract.harness import CLIENT

BROKEN: list[tuple[type[MemoryTokenStore], str]] = []


def caught_by(test: str) -> Callable[[type[MemoryTokenStore]], type[MemoryTokenStore]]:
    """Register a broken store with the test of the contract that has to fail.

    Args:
        test: The name of the test, without `test_`.
    """

    def add(store: type[MemoryTokenStore]) -> type[MemoryTokenStore]:
        BROKEN.append((store, test))
        return store

    return add


class ChangeableStore(MemoryTokenStore):
    """A correct store whose grants and notices a subclass can change directly."""

    def __init__(self, *, clock: ManualClock) -> None:
        self.clock = clock
        self.grants: dict[GrantKey, Any] = {}
        self.outbox: dict[Any, StoredNotice] = {}
        super().__init__(clock=clock, grants=self.grants, outbox=self.outbox)

    def change(self, key: GrantKey, **values: object) -> None:
        """Change values of a record, past all rules and without a history entry."""
        grant = self.grants[key]
        assert grant.record is not None
        grant.record = evolve(grant.record, **values)

    def change_extras(self, key: GrantKey, **values: object) -> None:
        """Change lease, pause, journal or history of a grant, past all rules."""
        grant = self.grants[key]
        grant.extras = evolve(grant.extras, **values)


@caught_by("a_claim_fails_if_the_attempts_have_changed")
class ClaimIgnoresAttempts(ChangeableStore):
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        now = self.load(seen.key) or seen
        return super().claim(evolve(seen, attempts=now.attempts), owner=owner, ttl=ttl)


@caught_by("a_claim_fails_if_the_generation_has_changed")
class ClaimIgnoresGeneration(ChangeableStore):
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        now = self.load(seen.key) or seen
        return super().claim(evolve(seen, generation=now.generation), owner=owner, ttl=ttl)


@caught_by("a_claim_fails_while_a_lease_runs")
class ClaimIgnoresTheLease(ChangeableStore):
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        if seen.key in self.grants:
            self.change_extras(seen.key, lease_until=None)
        return super().claim(seen, owner=owner, ttl=ttl)


@caught_by("a_claim_fails_while_a_pause_runs")
class ClaimIgnoresThePause(ChangeableStore):
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        if seen.key in self.grants:
            self.change_extras(seen.key, pause_until=None)
        return super().claim(seen, owner=owner, ttl=ttl)


@caught_by("a_refused_revoked_or_erased_grant_cannot_be_claimed")
class ClaimIgnoresTheState(ChangeableStore):
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        if seen.key in self.grants:
            self.change(seen.key, state=State.ACTIVE)
        return super().claim(seen, owner=owner, ttl=ttl)


@caught_by("a_claim_after_an_abandoned_lease_counts_another_attempt")
class ClaimCountsNoSecondAttempt(ChangeableStore):
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        claim = super().claim(seen, owner=owner, ttl=ttl)
        if claim is not None:
            self.change(seen.key, attempts=1)
        return claim and self.load(seen.key)


@caught_by("a_lease_runs_for_its_ttl")
class LeaseNeverEnds(ChangeableStore):
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        return super().claim(seen, owner=owner, ttl=ttl * 1000)


@caught_by("of_many_concurrent_claims_one_succeeds")
class ClaimReadsBeforeItLocks(ChangeableStore):
    """Every caller that read before the claim succeeds, as without a compare-and-swap."""

    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        claim = super().claim(seen, owner=owner, ttl=ttl)
        if claim is None and (now := self.load(seen.key)) and now.state is State.REFRESHING:
            return evolve(now, owner=owner) if now.generation == seen.generation else None
        return claim


@caught_by("no_record_is_unreadable_whose_pair_can_be_read")
class UnreadableCountsWhatIsDue(ChangeableStore):
    def unreadable(self, query: DueQuery) -> int:
        return len(self.due(query, limit=100))


class SettleHooks(ChangeableStore):
    """A store with a method that runs before `settle` and one that runs after it."""

    def before(self, claim: Record, token: Token) -> None:
        """Break a rule before the call."""

    def after(self, claim: Record, settlement: Settlement) -> Settlement:
        """Break a rule after the call."""
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


@caught_by("a_pair_is_settled_although_another_claim_has_the_lease")
class SettleNeedsTheOwner(SettleHooks):
    def before(self, claim: Record, token: Token) -> None:
        now = self.load(claim.key)
        if now is not None and now.owner != claim.owner:
            self.change(claim.key, generation=now.generation + 1)


@caught_by("a_pair_is_settled_after_the_lease_has_ended")
class SettleNeedsTheLease(SettleHooks):
    def before(self, claim: Record, token: Token) -> None:
        now = self.load(claim.key)
        if now is not None and not now.lease_left:
            self.change(claim.key, generation=now.generation + 1)


@caught_by("a_pair_of_an_old_generation_goes_to_the_journal")
class SettleIgnoresTheGeneration(SettleHooks):
    def before(self, claim: Record, token: Token) -> None:
        if self.load(claim.key) is not None:
            self.change(claim.key, generation=claim.generation)


@caught_by("of_many_concurrent_settlements_one_is_stored_and_no_pair_is_lost")
class SettleDropsSupersededPairs(SettleHooks):
    def after(self, claim: Record, settlement: Settlement) -> Settlement:
        if not settlement.stored:
            self.change_extras(claim.key, journal=())
        return settlement


@caught_by("settling_a_pair_again_changes_nothing")
class SettleJournalsItsOwnPair(SettleHooks):
    def before(self, claim: Record, token: Token) -> None:
        now = self.load(claim.key)
        if now is not None and now.generation != claim.generation:
            self.journal(claim, token, origin=Origin.SUPERSEDED)


@caught_by("a_late_pair_with_the_presented_refresh_token_is_not_salvageable")
class SettleJournalsASpentTokenAsSuperseded(SettleHooks):
    def after(self, claim: Record, settlement: Settlement) -> Settlement:
        journal = self.grants[claim.key].extras.journal
        late = tuple(evolve(entry, origin=Origin.SUPERSEDED) for entry in journal)
        self.change_extras(claim.key, journal=late)
        return settlement


@caught_by("a_superseded_pair_that_is_settled_twice_is_in_the_journal_once")
class SettleJournalsEachTime(SettleHooks):
    def after(self, claim: Record, settlement: Settlement) -> Settlement:
        if not settlement.stored:
            entries = self.grants[claim.key].extras.journal
            self.change_extras(claim.key, journal=(*entries, entries[-1]))
        return settlement


@caught_by("pairs_that_share_only_one_token_are_different")
class SettleComparesAccessTokensOnly(SettleHooks):
    def after(self, claim: Record, settlement: Settlement) -> Settlement:
        entries = self.grants[claim.key].extras.journal
        now = settlement.record
        if now is None or now.token is None or not entries:
            return settlement
        if entries[-1].token.access_token != now.token.access_token:
            return settlement
        self.change_extras(claim.key, journal=entries[:-1])
        return Settlement(stored=True, record=now)


@caught_by("an_uncertain_pair_is_settled_with_one_attempt")
class SettleClearsTheAttempts(SettleHooks):
    def after(self, claim: Record, settlement: Settlement) -> Settlement:
        self.change(claim.key, attempts=0)
        return settlement


@caught_by("a_settled_pair_ends_a_pause_and_clears_an_error")
class SettleKeepsThePause(SettleHooks):
    def before(self, claim: Record, token: Token) -> None:
        self.pause = self.grants[claim.key].extras.pause_until

    def after(self, claim: Record, settlement: Settlement) -> Settlement:
        self.change_extras(claim.key, pause_until=self.pause)
        return settlement


class ReleaseHooks(ChangeableStore):
    """A store that replaces the claim before a release."""

    def replaced(self, claim: Record, now: Record) -> Record:
        """Return the claim to release."""
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
            claim if now is None else self.replaced(claim, now),
            state=state,
            attempts=attempts,
            pause=pause,
            error=error,
            note=note,
        )


@caught_by("a_release_changes_nothing_after_another_claim")
class ReleaseIgnoresTheOwner(ReleaseHooks):
    def replaced(self, claim: Record, now: Record) -> Record:
        return evolve(claim, owner=now.owner)


@caught_by("a_release_changes_nothing_after_a_new_generation")
class ReleaseIgnoresTheGeneration(ReleaseHooks):
    def replaced(self, claim: Record, now: Record) -> Record:
        return evolve(claim, generation=now.generation, owner=now.owner)


@caught_by("an_ended_lease_can_be_released_before_another_claim")
class ReleaseNeedsTheLease(ReleaseHooks):
    def replaced(self, claim: Record, now: Record) -> Record:
        return claim if now.lease_left else evolve(claim, owner="unknown-owner")


@caught_by("a_release_stores_the_refusals_of_the_claim")
class ReleaseDropsTheRefusals(ReleaseHooks):
    def replaced(self, claim: Record, now: Record) -> Record:
        return evolve(claim, refusals=0, refused_since=None)


@caught_by("a_new_pair_clears_the_refusals")
class SettleKeepsTheRefusals(ChangeableStore):
    def settle(self, claim: Record, token: Token, **options: Any) -> Settlement:
        settlement = super().settle(claim, token, **options)
        refused = {"refusals": claim.refusals, "refused_since": claim.refused_since}
        self.change(claim.key, **refused)
        return settlement


class PutHooks(ChangeableStore):
    """A store with a method that runs before `put` and one that runs after it."""

    def before(self, key: GrantKey) -> None:
        """Break a rule before the call."""

    def after(self, old: Record | None, new: Record) -> None:
        """Break a rule after the call."""

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


@caught_by("a_new_consent_replaces_the_pair")
class PutDropsTheOldPair(PutHooks):
    def before(self, key: GrantKey) -> None:
        self.change(key, token=None)


@caught_by("a_refresh_in_progress_cannot_overwrite_a_new_consent")
class PutKeepsTheGeneration(PutHooks):
    def after(self, old: Record | None, new: Record) -> None:
        self.change(new.key, generation=old.generation if old else 1)


@caught_by("a_pair_of_another_consent_is_never_salvaged")
class PutKeepsTheConsent(PutHooks):
    def after(self, old: Record | None, new: Record) -> None:
        self.change(new.key, consent=1)


@caught_by("putting_the_same_pair_again_keeps_the_lease")
class PutEndsTheLease(PutHooks):
    def after(self, old: Record | None, new: Record) -> None:
        self.change_extras(new.key, lease_until=None)


@caught_by("putting_the_same_pair_again_does_not_undo_a_revocation")
class PutActivatesARevokedGrant(PutHooks):
    def after(self, old: Record | None, new: Record) -> None:
        self.change(new.key, state=State.ACTIVE)


@caught_by("response_headers_are_not_stored_and_unknown_members_are")
class PutStoresEverything(ChangeableStore):
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


@caught_by("a_refresh_in_progress_cannot_overwrite_a_revocation")
class RevokeKeepsTheGeneration(ChangeableStore):
    def mark_revoked(self, key: GrantKey, *, note: Note, forget: bool = False) -> Record | None:
        old = self.load(key)
        if old is None or super().mark_revoked(key, note=note, forget=forget) is None:
            return None
        self.change(key, generation=old.generation)
        return self.load(key)


@caught_by("a_note_is_added_to_the_history_and_changes_nothing_else")
class NotesEndTheLease(ChangeableStore):
    def add_note(self, key: GrantKey, *, note: Note) -> None:
        super().add_note(key, note=note)
        if key in self.grants:
            self.change_extras(key, lease_until=None)


@caught_by("a_note_can_be_added_for_an_unknown_grant")
class NotesNeedARecord(ChangeableStore):
    def add_note(self, key: GrantKey, *, note: Note) -> None:
        if self.load(key):
            super().add_note(key, note=note)


@caught_by("a_revoked_grant_keeps_its_pair_until_it_is_erased")
class RevokeErases(ChangeableStore):
    def mark_revoked(self, key: GrantKey, *, note: Note, forget: bool = False) -> Record | None:
        revoked = super().mark_revoked(key, note=note, forget=forget)
        return revoked and (self.erase(revoked, journaled=[], note=note) or True) and self.load(key)


@caught_by("a_revocation_clears_lease_pause_attempts_and_error")
class RevokeKeepsTheAttempts(ChangeableStore):
    def mark_revoked(self, key: GrantKey, *, note: Note, forget: bool = False) -> Record | None:
        old = self.load(key)
        if old is None or super().mark_revoked(key, note=note, forget=forget) is None:
            return None
        self.change(key, attempts=old.attempts)
        return self.load(key)


@caught_by("a_grant_that_is_to_be_forgotten_is_revoked_first")
class RevokeDoesNotForget(ChangeableStore):
    def mark_revoked(self, key: GrantKey, *, note: Note, forget: bool = False) -> Record | None:
        return super().mark_revoked(key, note=note)


@caught_by("a_forgotten_grant_keeps_numbers_and_times_only")
class EraseDoesNotForget(ChangeableStore):
    def erase(self, record: Record, *, journaled: Collection[Token], note: Note) -> bool:
        if record.key in self.grants:
            self.change(record.key, forgetting=False)
        return super().erase(record, journaled=journaled, note=note)


@caught_by("a_new_consent_replaces_a_tombstone")
class ForgettingLeavesNothing(ChangeableStore):
    def erase(self, record: Record, *, journaled: Collection[Token], note: Note) -> bool:
        before = set(self.grants)
        erased = super().erase(record, journaled=journaled, note=note)
        for key in self.grants.keys() - before:
            del self.grants[key]
        return erased


@caught_by("a_pair_that_was_journaled_meanwhile_keeps_the_grant_from_being_forgotten")
class ForgettingDeletesEveryPair(ChangeableStore):
    def erase(self, record: Record, *, journaled: Collection[Token], note: Note) -> bool:
        everything = [entry.token for entry in self.journal_entries(record.key)]
        return super().erase(record, journaled=everything, note=note)


@caught_by("a_late_pair_of_a_forgotten_grant_is_kept_to_be_revoked")
class LatePairsAreLost(ChangeableStore):
    def settle(self, claim: Record, token: Token, **values: Any) -> Settlement:
        now = self.load(claim.key)
        if now is not None and now.state is State.FORGOTTEN:
            return Settlement(stored=False, record=now)
        return super().settle(claim, token, **values)


@caught_by("a_note_brings_no_history_of_a_forgotten_grant_back")
class NotesAreAlwaysKept(ChangeableStore):
    def add_note(self, key: GrantKey, *, note: Note) -> None:
        now = self.load(key)
        if now is not None and now.state is State.FORGOTTEN:
            self.store_consent(key, note)
        super().add_note(key, note=note)

    def store_consent(self, key: GrantKey, note: Note) -> None:
        token = Token(access_token="fake-access-token")
        self.put(key, token, issued_at=self.clock(), idle_until=None, note=note)


@caught_by("no_listing_has_a_forgotten_grant")
class TombstonesAreListed(ChangeableStore):
    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        found = [g.record for g in self.grants.values() if g.record]
        return sorted(found, key=lambda record: record.key.grant.username)[:limit]


@caught_by("a_tombstone_is_never_purged")
class TombstonesArePurged(ChangeableStore):
    def purge(self) -> int:
        purged = super().purge()
        for key, grant in list(self.grants.items()):
            if grant.record.state is State.FORGOTTEN:
                del self.grants[key]
        return purged


@caught_by("many_grants_are_forgotten_independently")
class TombstonesIgnoreTheClient(ChangeableStore):
    def load(self, key: GrantKey) -> Record | None:
        keys = [evolve(key, client_id=client) for client in (key.client_id, "CIDX0000000009")]
        found = [super(TombstonesIgnoreTheClient, self).load(each) for each in keys]
        tombstones = [each for each in found if each and each.state is State.FORGOTTEN]
        return evolve(tombstones[0], key=key) if tombstones else found[0]


@caught_by("a_new_consent_ends_the_wish_to_forget")
class PutKeepsTheWishToForget(ChangeableStore):
    def put(self, key: GrantKey, token: Token, **values: Any) -> Record:
        before = self.load(key)
        record = super().put(key, token, **values)
        if before is not None and before.forgetting:
            self.change(key, forgetting=True)
            return evolve(record, forgetting=True)
        return record


@caught_by("only_a_revoked_grant_is_erased")
class EraseIgnoresTheState(ChangeableStore):
    def erase(self, record: Record, *, journaled: Collection[Token], note: Note) -> bool:
        if record.key in self.grants:
            self.change(record.key, state=State.REVOKED)
        return super().erase(record, journaled=journaled, note=note)


@caught_by("nothing_is_erased_after_a_later_revocation")
class EraseIgnoresTheGeneration(ChangeableStore):
    def erase(self, record: Record, *, journaled: Collection[Token], note: Note) -> bool:
        return super().erase(self.load(record.key) or record, journaled=journaled, note=note)


@caught_by("erasing_deletes_every_pair_and_keeps_record_and_history")
class EraseKeepsTheJournal(ChangeableStore):
    def erase(self, record: Record, *, journaled: Collection[Token], note: Note) -> bool:
        journal = self.journal_entries(record.key)
        erased = super().erase(record, journaled=journaled, note=note)
        if erased:
            self.change_extras(record.key, journal=tuple(reversed(journal)))
        return erased


@caught_by("erasing_spares_a_pair_that_was_journaled_meanwhile")
class EraseDeletesTheWholeJournal(ChangeableStore):
    def erase(self, record: Record, *, journaled: Collection[Token], note: Note) -> bool:
        erased = super().erase(record, journaled=journaled, note=note)
        if erased:
            self.change_extras(record.key, journal=())
        return erased


@caught_by("erasing_again_changes_nothing")
class EraseAddsToTheHistoryEachTime(ChangeableStore):
    def erase(self, record: Record, *, journaled: Collection[Token], note: Note) -> bool:
        if (now := self.load(record.key)) and now.state is State.REVOKED:
            self.change(record.key, token=Token(access_token="fake-access-token"))
        return super().erase(record, journaled=journaled, note=note)


@caught_by("erasing_deletes_every_pair_and_keeps_record_and_history")
class EraseKeepsTheState(ChangeableStore):
    def erase(self, record: Record, *, journaled: Collection[Token], note: Note) -> bool:
        erased = super().erase(record, journaled=journaled, note=note)
        if erased:
            self.change(record.key, state=State.REVOKING)
        return erased


@caught_by("a_revocation_is_unfinished_until_it_is_erased")
class RevokingIgnoresTheClient(ChangeableStore):
    def revoking(self, client_id: str, *, limit: int) -> Sequence[Record]:
        revoking = super().revoking
        clients = {key.client_id for key in self.grants}
        return [each for name in clients for each in revoking(name, limit=limit)]


@caught_by("a_revocation_is_unfinished_while_the_journal_has_a_pair")
class RevokingIgnoresTheJournal(ChangeableStore):
    def revoking(self, client_id: str, *, limit: int) -> Sequence[Record]:
        found = super().revoking(client_id, limit=limit)
        return [record for record in found if record.token]


@caught_by("a_foreign_pair_keeps_no_revocation_unfinished")
class RevokingCountsForeignPairs(ChangeableStore):
    def revoking(self, client_id: str, *, limit: int) -> Sequence[Record]:
        return [
            record
            for key in self.grants
            if (record := self.load(key)) and (record.token or self.journal_entries(key))
        ][:limit]


@caught_by("a_new_consent_ends_an_unfinished_revocation")
class RevokingFindsEveryJournal(ChangeableStore):
    def revoking(self, client_id: str, *, limit: int) -> Sequence[Record]:
        return [record for key in self.grants if (record := self.load(key))][:limit]


class WriteBackHooks(ChangeableStore):
    """A store with a method that runs before `write_back` and one that runs after it."""

    def before(self, known: Record, seen: Record | None) -> tuple[Record, Record | None]:
        """Return the arguments, to break a rule before the call."""
        return known, seen

    def after(self, written: Record) -> None:
        """Break a rule after the call."""

    def write_back(self, known: Record, *, seen: Record | None, note: Note) -> Record | None:
        known, seen = self.before(known, seen)
        written = super().write_back(known, seen=seen, note=note)
        if written is not None:
            self.after(written)
        return written


@caught_by("nothing_is_written_back_after_another_change")
class WriteBackIgnoresTheGeneration(WriteBackHooks):
    def before(self, known: Record, seen: Record | None) -> tuple[Record, Record | None]:
        return known, self.load(known.key)


@caught_by("nothing_is_written_back_after_a_claim")
class WriteBackIgnoresTheAttempts(WriteBackHooks):
    def before(self, known: Record, seen: Record | None) -> tuple[Record, Record | None]:
        now = self.load(known.key)
        return known, seen and now and evolve(seen, attempts=now.attempts)


@caught_by("an_existing_record_is_not_overwritten_as_a_missing_one")
class WriteBackReplacesAnyRecord(WriteBackHooks):
    def before(self, known: Record, seen: Record | None) -> tuple[Record, Record | None]:
        return known, seen or self.load(known.key)


@caught_by("a_missing_record_is_not_written_back_over_one_that_was_seen")
class WriteBackAddsARecord(WriteBackHooks):
    def before(self, known: Record, seen: Record | None) -> tuple[Record, Record | None]:
        return known, seen if known.key in self.grants else None


@caught_by("a_record_that_is_written_back_replaces_an_older_one")
class WriteBackDropsTheOldPair(WriteBackHooks):
    def after(self, written: Record) -> None:
        self.change_extras(written.key, journal=())


@caught_by("a_replaced_pair_is_never_salvaged")
class WriteBackJournalsTheOldPairAsSuperseded(WriteBackHooks):
    def after(self, written: Record) -> None:
        journal = self.grants[written.key].extras.journal
        late = {"origin": Origin.SUPERSEDED, "generation": 9, "consent": written.consent}
        self.change_extras(written.key, journal=tuple(evolve(e, **late) for e in journal))


@caught_by("the_attempts_of_an_uncertain_record_are_written_back")
class WriteBackKeepsTheAttempts(WriteBackHooks):
    def before(self, known: Record, seen: Record | None) -> tuple[Record, Record | None]:
        return evolve(known, attempts=seen.attempts if seen else 0), seen


@caught_by("a_refused_record_is_written_back")
class WriteBackMakesARecordActive(WriteBackHooks):
    def before(self, known: Record, seen: Record | None) -> tuple[Record, Record | None]:
        return evolve(known, state=State.ACTIVE), seen


@caught_by("writing_back_ends_lease_and_pause")
class WriteBackKeepsTheOwner(WriteBackHooks):
    def after(self, written: Record) -> None:
        self.change(written.key, owner="fake-owner")


@caught_by("a_pair_that_is_written_back_keeps_no_headers")
class WriteBackStoresEverything(WriteBackHooks):
    def before(self, known: Record, seen: Record | None) -> tuple[Record, Record | None]:
        self.token = known.token
        return known, seen

    def after(self, written: Record) -> None:
        self.change(written.key, token=self.token)


@caught_by("a_pair_that_is_journaled_twice_is_in_the_journal_once")
class JournalWritesEachTime(ChangeableStore):
    def journal(self, record: Record, token: Token, *, origin: Origin) -> None:
        super().journal(record, token, origin=origin)
        entries = self.grants[record.key].extras.journal
        self.change_extras(record.key, journal=(*entries, entries[-1]))


@caught_by("journal_entries_are_returned_newest_first")
class JournalOldestFirst(ChangeableStore):
    def journal_entries(self, key: GrantKey) -> Sequence[JournalEntry]:
        return super().journal_entries(key)[::-1]


@caught_by("a_pair_of_another_consent_is_never_salvaged")
class SalvageIgnoresTheConsent(ChangeableStore):
    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        entries = self.grants[claim.key].extras.journal
        changed = tuple(evolve(entry, consent=claim.consent) for entry in entries)
        self.change_extras(claim.key, journal=changed)
        return super().salvage(claim, note=note)


@caught_by("a_foreign_pair_is_never_salvaged")
class SalvageTakesForeignPairs(ChangeableStore):
    def journal(self, record: Record, token: Token, *, origin: Origin) -> None:
        foreign = origin is Origin.FOREIGN
        super().journal(record, token, origin=Origin.ERROR if foreign else origin)


@caught_by("a_foreign_pair_that_arrives_in_a_response_of_its_own_is_salvaged")
class JournalTakesAForeignPairForTheOwn(ChangeableStore):
    def journal(self, record: Record, token: Token, *, origin: Origin) -> None:
        foreign = origin is Origin.FOREIGN
        super().journal(record, token, origin=Origin.REPLACED if foreign else origin)


@caught_by("a_pair_of_a_grant_without_a_record_can_be_journaled")
class JournalNeedsARecord(ChangeableStore):
    def journal(self, record: Record, token: Token, *, origin: Origin) -> None:
        if self.load(record.key):
            super().journal(record, token, origin=origin)


@caught_by("a_replaced_or_refused_pair_is_never_salvaged")
class SalvageIgnoresTheOrigin(ChangeableStore):
    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        entries = self.grants[claim.key].extras.journal
        changed = tuple(evolve(entry, origin=Origin.ERROR) for entry in entries)
        self.change_extras(claim.key, journal=changed)
        return super().salvage(claim, note=note)


@caught_by("the_newest_superseded_pair_is_salvaged_first")
class SalvageTakesTheOldest(ChangeableStore):
    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        entries = self.grants[claim.key].extras.journal
        self.change_extras(claim.key, journal=entries[::-1])
        return super().salvage(claim, note=note)


@caught_by("a_pair_without_a_usable_refresh_token_is_never_salvaged")
class SalvageTriesTheRefusedTokenAgain(ChangeableStore):
    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        self.change(claim.key, token=Token(access_token="fake-access-token-other"))
        return super().salvage(claim, note=note)


@caught_by("a_salvage_changes_nothing_after_another_claim")
class SalvageIgnoresTheOwner(ChangeableStore):
    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        return super().salvage(self.load(claim.key) or claim, note=note)


@caught_by("a_superseded_pair_is_salvaged_under_the_same_lease")
class SalvageReleasesTheLease(ChangeableStore):
    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        self.change_extras(claim.key, lease_until=None)
        return super().salvage(claim, note=note)


@caught_by("due_records_are_sorted_by_the_expiry_of_their_refresh_tokens")
class DueInTheWrongOrder(ChangeableStore):
    def due(self, query: DueQuery, *, limit: int) -> Sequence[Record]:
        return super().due(query, limit=limit)[::-1]


@caught_by("a_record_that_cannot_be_claimed_is_not_due")
class DueIgnoresLeases(ChangeableStore):
    def due(self, query: DueQuery, *, limit: int) -> Sequence[Record]:
        found = [evolve(grant.record, lease_left=0.0) for grant in self.grants.values()]
        return sorted((each for each in found if is_due(each, query)), key=due_order)[:limit]


@caught_by("a_record_with_attempts_is_due_only_up_to_max_attempts")
class DueIgnoresAttempts(ChangeableStore):
    def due(self, query: DueQuery, *, limit: int) -> Sequence[Record]:
        return super().due(evolve(query, max_attempts=1000), limit=limit)


@caught_by("due_selects_by_client_and_target")
class DueReadsEmptyTargetsAsAll(ChangeableStore):
    def due(self, query: DueQuery, *, limit: int) -> Sequence[Record]:
        return super().due(evolve(query, targets=query.targets or None), limit=limit)


@caught_by("a_record_that_was_issued_later_is_not_due")
class DueIgnoresWhenThePairWasIssued(ChangeableStore):
    def due(self, query: DueQuery, *, limit: int) -> Sequence[Record]:
        return super().due(evolve(query, issued_before=None), limit=limit)


@caught_by("unknown_members_that_are_no_json_or_too_large_are_left_out")
class PutStoresEveryMember(ChangeableStore):
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
        self.change(key, token=evolve(token, meta=None))
        return self.load(key) or new


@caught_by("claim_due_claims_in_order_and_up_to_the_limit")
class ClaimDueIgnoresTheLimit(ChangeableStore):
    def claim_due(self, query: DueQuery, *, owner: str, ttl: float, limit: int) -> list[Record]:
        return super().claim_due(query, owner=owner, ttl=ttl, limit=1000)


@caught_by("claim_due_selects_by_client_and_target")
class ClaimDueIgnoresTargets(ChangeableStore):
    def claim_due(self, query: DueQuery, *, owner: str, ttl: float, limit: int) -> list[Record]:
        all_targets = evolve(query, targets=None, except_targets=())
        return super().claim_due(all_targets, owner=owner, ttl=ttl, limit=limit)


@caught_by("claim_due_takes_leases_as_claim_does")
class ClaimDueOnlyReads(ChangeableStore):
    def claim_due(self, query: DueQuery, *, owner: str, ttl: float, limit: int) -> list[Record]:
        return list(self.due(query, limit=limit))


@caught_by("records_are_returned_in_pages")
class RecordsIgnoreTheKeyToStartAfter(ChangeableStore):
    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        return super().records(client_id, limit=limit)


@caught_by("records_are_sorted_by_target_and_username")
class RecordsSortedWithoutCase(ChangeableStore):
    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        page = super().records(client_id, after=after, limit=limit)
        return sorted(page, key=lambda r: (r.key.grant.target_id, r.key.grant.username.lower()))


@caught_by("records_have_no_pairs_but_say_when_the_access_tokens_expire")
class RecordsHavePairs(ChangeableStore):
    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        page = super().records(client_id, after=after, limit=limit)
        return [self.load(record.key) or record for record in page]


@caught_by("records_have_the_oddities_of_their_pairs")
class RecordsWithoutOddities(ChangeableStore):
    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        page = super().records(client_id, after=after, limit=limit)
        return [evolve(record, oddities=frozenset()) for record in page]


@caught_by("records_have_the_oddities_of_their_pairs")
class RecordsHaveEachOddity(ChangeableStore):
    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        page = super().records(client_id, after=after, limit=limit)
        return [
            evolve(record, oddities=found.token.oddities)
            for record in page
            if (found := self.load(record.key)) and found.token
        ]


@caught_by("only_the_records_of_the_given_client_are_returned")
class RecordsOfAllClients(ChangeableStore):
    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        return list(filter(None, map(self.load, self.grants)))


@caught_by("history_entries_are_returned_newest_first")
class HistoryOldestFirst(ChangeableStore):
    def history(self, key: GrantKey, *, limit: int = 100) -> Sequence[HistoryEntry]:
        return super().history(key, limit=limit)[::-1]


@caught_by("every_change_adds_an_entry_to_the_history")
class HistoryHasThePreviousGeneration(ChangeableStore):
    def history(self, key: GrantKey, *, limit: int = 100) -> Sequence[HistoryEntry]:
        entries = super().history(key, limit=limit)
        return [evolve(entry, generation=entry.generation - 1) for entry in entries]


@caught_by("old_history_entries_are_purged_and_the_record_stays")
class PurgeDeletesRecordsToo(ChangeableStore):
    def purge(self) -> int:
        purged = super().purge()
        if purged:
            for key in [key for key in self.grants if not self.history(key)]:
                del self.grants[key]
        return purged


@caught_by("old_journal_entries_are_purged_and_newer_ones_stay")
class PurgeDeletesEverything(ChangeableStore):
    def purge(self) -> int:
        now = self.clock()
        return sum(grant.purge(now, now) for grant in self.grants.values())


@caught_by("times_are_returned_in_utc_to_the_microsecond")
class TimesInWholeSeconds(PutHooks):
    def after(self, old: Record | None, new: Record) -> None:
        self.change(new.key, issued_at=new.issued_at.replace(microsecond=0))


@caught_by("usernames_that_look_alike_are_different_grants")
class UsernamesWithoutCase(ChangeableStore):
    def load(self, key: GrantKey) -> Record | None:
        grant = evolve(key.grant, username=key.grant.username.lower().strip())
        return super().load(evolve(key, grant=grant)) or super().load(key)


@caught_by("no_returned_value_shows_a_token")
class ShowsItsTokens(ChangeableStore):
    def __repr__(self) -> str:
        tokens = [grant.record.token for grant in self.grants.values() if grant.record]
        return f"<{[token.access_token.reveal() for token in tokens if token]}>"


@caught_by("a_fingerprint_identifies_a_text_and_does_not_show_it")
class FingerprintShowsTheText(ChangeableStore):
    def fingerprint(self, text: str) -> str:
        return text[:4] + super().fingerprint(text)


@caught_by("a_notice_is_written_with_the_change")
class WritesNoNotice(ChangeableStore):
    def release(self, claim: Record, *, note: Note, **values: Any) -> bool:
        return super().release(claim, note=evolve(note, notice=None), **values)


@caught_by("a_notice_is_written_with_the_change")
class WritesANoticeTwice(ChangeableStore):
    """A release whose effect was unknown is made again."""

    def release(self, claim: Record, *, note: Note, **values: Any) -> bool:
        for told in list(self.outbox):
            self.outbox["again", *told] = self.outbox.pop(told)
        return super().release(claim, note=note, **values)


@caught_by("a_notice_is_written_with_the_change")
class HistoryHasTheNotice(ChangeableStore):
    def history(self, key: GrantKey, *, limit: int = 100) -> Sequence[HistoryEntry]:
        told = NewNotice(kind=NoticeKind.LOST)
        entries = super().history(key, limit=limit)
        return [evolve(entry, note=evolve(entry.note, notice=told)) for entry in entries]


@caught_by("any_change_of_a_record_writes_its_notice")
class RevocationWritesNoNotice(ChangeableStore):
    def mark_revoked(self, key: GrantKey, *, note: Note, forget: bool = False) -> Record | None:
        return super().mark_revoked(key, note=evolve(note, notice=None), forget=forget)


@caught_by("a_change_that_fails_writes_no_notice")
class WritesTheNoticeOfAFailedChange(ChangeableStore):
    def release(self, claim: Record, *, note: Note, **values: Any) -> bool:
        released = super().release(claim, note=note, **values)
        now = self.load(claim.key)
        if not released and now and note.notice:
            self.add_notice(now, note.notice)
        return released


@caught_by("that_a_grant_has_recovered_is_written_after_trouble_only")
class TellsOfEveryPair(SettleHooks):
    def after(self, claim: Record, settlement: Settlement) -> Settlement:
        self.change(claim.key, notice=NoticeKind.LOST)
        return settlement


@caught_by("whether_it_has_recovered_is_decided_when_it_is_stored")
class DecidesByTheClaim(SettleHooks):
    def before(self, claim: Record, token: Token) -> None:
        self.change(claim.key, notice=claim.notice)


@caught_by("a_change_without_a_notice_keeps_the_last_one")
class SettleForgetsTheLastNotice(SettleHooks):
    def after(self, claim: Record, settlement: Settlement) -> Settlement:
        self.change(claim.key, notice=None)
        return evolve(settlement, record=self.load(claim.key))


@caught_by("a_notice_is_added_to_the_record_that_was_read_and_changes_nothing_else")
class AddIgnoresTheLastNotice(ChangeableStore):
    def add_notice(self, seen: Record, notice: NewNotice) -> bool:
        now = self.load(seen.key) or seen
        return super().add_notice(evolve(seen, notice=now.notice), notice)


@caught_by("a_notice_is_added_to_the_record_that_was_read_and_changes_nothing_else")
class AddIgnoresTheGeneration(ChangeableStore):
    def add_notice(self, seen: Record, notice: NewNotice) -> bool:
        now = self.load(seen.key) or seen
        return super().add_notice(evolve(seen, generation=now.generation), notice)


@caught_by("a_notice_is_added_to_the_record_that_was_read_and_changes_nothing_else")
class AddEndsTheLease(ChangeableStore):
    def add_notice(self, seen: Record, notice: NewNotice) -> bool:
        if seen.key in self.grants:
            self.change_extras(seen.key, lease_until=None)
        return super().add_notice(seen, notice)


@caught_by("a_notice_is_added_to_the_record_that_was_read_and_changes_nothing_else")
class AddNeedsTheLease(ChangeableStore):
    def add_notice(self, seen: Record, notice: NewNotice) -> bool:
        return seen.lease_left <= 0 and super().add_notice(seen, notice)


@caught_by("a_grant_has_one_notice_of_a_kind_and_generation")
class AddWritesEachTime(ChangeableStore):
    def add_notice(self, seen: Record, notice: NewNotice) -> bool:
        for told in list(self.outbox):
            self.outbox["again", *told] = self.outbox.pop(told)
        return super().add_notice(seen, notice)


@caught_by("a_grant_has_one_notice_of_a_kind_and_generation")
class DeletesWhatWasDelivered(ChangeableStore):
    def notice_delivered(self, notice: Notice) -> None:
        for name in [name for name, s in self.outbox.items() if s.notice.id == notice.id]:
            del self.outbox[name]


@caught_by("a_certificate_has_one_notice_for_each_stage")
class CertificateHasOneNotice(ChangeableStore):
    def add_certificate_notice(
        self, client_id: str, certificate: str, stage: int, notice: NewNotice
    ) -> bool:
        return super().add_certificate_notice(client_id, certificate, 1, notice)


@caught_by("a_certificate_has_one_notice_for_each_stage")
class CertificatesAreOne(ChangeableStore):
    def add_certificate_notice(
        self, client_id: str, certificate: str, stage: int, notice: NewNotice
    ) -> bool:
        return super().add_certificate_notice(client_id, "same", stage, notice)


class ClaimsNotices(ChangeableStore):
    """A store whose `claim_notices` a subclass breaks."""

    def broken(self, client_id: str, limit: int, ttl: float) -> Sequence[Notice]:
        """Claim notices."""
        return super().claim_notices(client_id, limit=limit, ttl=ttl)

    def claim_notices(self, client_id: str, *, limit: int, ttl: float) -> Sequence[Notice]:
        return self.broken(client_id, limit, ttl)


@caught_by("a_claimed_notice_is_kept_from_others_until_the_time_is_over")
class ClaimedNoticeIsFree(ClaimsNotices):
    def broken(self, client_id: str, limit: int, ttl: float) -> Sequence[Notice]:
        return super().broken(client_id, limit, 0)


@caught_by("a_claimed_notice_is_kept_from_others_until_the_time_is_over")
class ClaimedNoticeIsLost(ClaimsNotices):
    def broken(self, client_id: str, limit: int, ttl: float) -> Sequence[Notice]:
        return super().broken(client_id, limit, 100 * ttl)


@caught_by("a_claimed_notice_is_kept_from_others_until_the_time_is_over")
class ClaimHasNoLimit(ClaimsNotices):
    def broken(self, client_id: str, limit: int, ttl: float) -> Sequence[Notice]:
        return super().broken(client_id, 1000, ttl)


@caught_by("a_claimed_notice_is_kept_from_others_until_the_time_is_over")
class ClaimCountsNoTry(ClaimsNotices):
    def broken(self, client_id: str, limit: int, ttl: float) -> Sequence[Notice]:
        return [evolve(notice, tries=1) for notice in super().broken(client_id, limit, ttl)]


@caught_by("a_claimed_notice_is_kept_from_others_until_the_time_is_over")
class NewIdForEachDelivery(ClaimsNotices):
    def broken(self, client_id: str, limit: int, ttl: float) -> Sequence[Notice]:
        return [evolve(each, id=f"{each.id}-2") for each in super().broken(client_id, limit, ttl)]


@caught_by("a_claimed_notice_is_kept_from_others_until_the_time_is_over")
class ClaimIgnoresTheClient(ClaimsNotices):
    def broken(self, client_id: str, limit: int, ttl: float) -> Sequence[Notice]:
        return super().broken(CLIENT, limit, ttl)


@caught_by("a_claimed_notice_is_kept_from_others_until_the_time_is_over")
class NewestNoticeFirst(ClaimsNotices):
    def broken(self, client_id: str, limit: int, ttl: float) -> Sequence[Notice]:
        return super().broken(client_id, limit, ttl)[::-1]


@caught_by("notices_of_a_grant_are_delivered_one_after_the_other")
class ClaimsAllOfAGrant(ClaimsNotices):
    def broken(self, client_id: str, limit: int, ttl: float) -> Sequence[Notice]:
        claimed, hidden = list(super().broken(client_id, limit, ttl)), []
        for stored in self.outbox.values():
            if stored.is_pending():
                hidden.append(stored)
                stored.is_dead = stored.notice in claimed
        claimed += super().broken(client_id, limit, ttl)
        for stored in hidden:
            stored.is_dead = False
        return claimed


@caught_by("notices_of_a_grant_are_delivered_one_after_the_other")
class DeadNoticeHoldsUpOthers(ClaimsNotices):
    def broken(self, client_id: str, limit: int, ttl: float) -> Sequence[Notice]:
        dead = {stored.notice.grant for stored in self.outbox.values() if stored.is_dead}
        return [each for each in super().broken(client_id, limit, ttl) if each.grant not in dead]


@caught_by("notices_of_a_grant_are_delivered_one_after_the_other")
class PauseIsIgnored(ChangeableStore):
    def notice_failed(self, notice: Notice, *, pause: float | None, counts: bool = True) -> None:
        super().notice_failed(notice, pause=pause and 0.0, counts=counts)


@caught_by("a_claim_that_is_given_back_counts_no_try")
class EachClaimCounts(ChangeableStore):
    def notice_failed(self, notice: Notice, *, pause: float | None, counts: bool = True) -> None:
        super().notice_failed(notice, pause=pause)


@caught_by("a_claim_that_has_ended_changes_no_later_one")
class EndedClaimChangesALaterOne(ChangeableStore):
    def notice_failed(self, notice: Notice, *, pause: float | None, counts: bool = True) -> None:
        for stored in self.outbox.values():
            notice = evolve(notice, tries=stored.notice.tries)
        super().notice_failed(notice, pause=pause, counts=counts)


@caught_by("a_delivered_notice_is_not_returned_again")
class FailureEndsADelivery(ChangeableStore):
    def notice_failed(self, notice: Notice, *, pause: float | None, counts: bool = True) -> None:
        for stored in self.outbox.values():
            stored.is_delivered = False
        super().notice_failed(notice, pause=pause, counts=counts)


@caught_by("a_delivered_notice_is_not_returned_again")
class DeliveryIsNotNoted(ChangeableStore):
    def notice_delivered(self, notice: Notice) -> None:
        """Do nothing."""


@caught_by("a_dead_notice_is_tried_again_on_demand_only")
class DeadNoticeIsTriedAgain(ChangeableStore):
    def notice_failed(self, notice: Notice, *, pause: float | None, counts: bool = True) -> None:
        super().notice_failed(notice, pause=pause or 0.0, counts=counts)


@caught_by("a_dead_notice_is_tried_again_on_demand_only")
class RetryOfAllClients(ChangeableStore):
    def retry_notices(self, client_id: str) -> int:
        return super().retry_notices(CLIENT)


@caught_by("a_dead_notice_is_tried_again_on_demand_only")
class RetryAfterThePause(ChangeableStore):
    def retry_notices(self, client_id: str) -> int:
        dead = [stored for stored in self.outbox.values() if stored.is_dead]
        count = super().retry_notices(client_id)
        for stored in dead:
            stored.due_at += 100
        return count


@caught_by("a_dead_notice_is_tried_again_on_demand_only")
class DeadNoticeStaysDead(ChangeableStore):
    """One that was delivered meanwhile."""

    def notice_delivered(self, notice: Notice) -> None:
        if not any(s.is_dead and s.notice.id == notice.id for s in self.outbox.values()):
            super().notice_delivered(notice)


@caught_by("the_notices_of_a_forgotten_grant_are_deleted")
class NoticesAreNotForgotten(ChangeableStore):
    def erase(self, record: Record, *, journaled: Collection[Token], note: Note) -> bool:
        kept = dict(self.outbox)
        erased = super().erase(record, journaled=journaled, note=note)
        self.outbox.update(kept)
        return erased


@caught_by("the_notices_of_a_forgotten_grant_are_deleted")
class ForgettingDeletesAllNotices(ChangeableStore):
    def erase(self, record: Record, *, journaled: Collection[Token], note: Note) -> bool:
        self.outbox.clear()
        return super().erase(record, journaled=journaled, note=note)


@caught_by("the_notices_of_a_forgotten_grant_are_deleted")
class DeletedNoticeCannotFail(ChangeableStore):
    def notice_failed(self, notice: Notice, *, pause: float | None, counts: bool = True) -> None:
        assert any(stored.notice.id == notice.id for stored in self.outbox.values())
        super().notice_failed(notice, pause=pause, counts=counts)


@caught_by("notices_are_purged_as_the_history_is")
class NoticesAreNotPurged(ChangeableStore):
    def purge(self) -> int:
        kept = dict(self.outbox)
        deleted = super().purge()
        self.outbox.update(kept)
        return deleted


@caught_by("notices_are_purged_as_the_history_is")
class DeliveredNoticesArePurgedAtOnce(ChangeableStore):
    def purge(self) -> int:
        for name in [name for name, stored in self.outbox.items() if stored.is_delivered]:
            del self.outbox[name]
        return super().purge()


def names_of_tests(contract: type[TokenStoreContract]) -> list[str]:
    """Return the names of the tests of a contract."""
    return [name for name in dir(contract) if name.startswith("test_")]


def run(store: Callable[..., MemoryTokenStore], name: str) -> None:
    """Run one test of the contract on a store."""

    class Contract(TokenStoreContract):
        def make_store(self, clock: ManualClock) -> MemoryTokenStore:
            return store(clock=clock)

    contract = Contract()
    try:
        getattr(contract, name)()
    finally:
        contract.teardown_method()


@pytest.mark.parametrize(("store", "test"), BROKEN, ids=[store.__name__ for store, _ in BROKEN])
def test_a_broken_store_fails_the_test_of_the_rule_that_it_breaks(
    store: type[MemoryTokenStore], test: str
) -> None:
    run(MemoryTokenStore, f"test_{test}")
    with pytest.raises(AssertionError):
        run(store, f"test_{test}")


def test_a_correct_store_passes_all_tests() -> None:
    for name in names_of_tests(TokenStoreContract):
        run(ChangeableStore, name)


def test_a_store_that_shares_nothing_between_two_processes_fails_most_tests() -> None:
    class Contract(TokenStoreContract):
        def make_store(self, clock: ManualClock) -> MemoryTokenStore:
            return MemoryTokenStore(clock=clock)

        def reopen(self, store: object) -> MemoryTokenStore:
            return MemoryTokenStore(clock=self.clock)

    passed = []
    for name in names_of_tests(Contract):
        contract = Contract()
        try:
            getattr(contract, name)()
        except (AssertionError, IndexError, ValueError):
            continue
        finally:
            contract.teardown_method()
        passed.append(name)
    assert len(passed) < len(names_of_tests(Contract)) / 6, passed


def test_a_contract_without_make_store_raises_an_error_that_names_it() -> None:
    with pytest.raises(NotImplementedError, match="make_store"):
        _ = TokenStoreContract().store
