"""Notices are written once, with the change that they are about, and delivered in their order."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from attrs import evolve

from blink_oauth_keeper.store.outbox import NewNotice, Notice, NoticeKind, OutboxEntry
from blink_oauth_keeper.store.protocol import Note, Origin, Record, State

from .harness import CLIENT, ISSUED, KEY, Harness, days, grant_key, is_utc, note, pair, untimed

__all__ = ["Delivering", "Notices"]

LOST = NewNotice(kind=NoticeKind.LOST, reason="refused", ends_at=ISSUED + days(1))
AT_RISK = NewNotice(kind=NoticeKind.AT_RISK, reason="uncertain")
RECOVERED = NewNotice(kind=NoticeKind.RECOVERED)
EXPIRING = NewNotice(kind=NoticeKind.EXPIRING, ends_at=ISSUED + days(30))
CERTIFICATE = "fake-fingerprint"
TTL = 60.0
LONG = 80_000.0
"""Seconds; less than the longest pause of a notice."""


class NoticesHarness(Harness):
    """Shorthands for the methods of a store that are about notices."""

    def entries(self, client: str = CLIENT) -> Sequence[OutboxEntry]:
        """Return the undelivered notices as the second store reads them, the oldest first."""
        return self.second.notices(client)

    def kinds(self) -> list[NoticeKind]:
        """Return the kinds of the undelivered notices."""
        return [entry.notice.kind for entry in self.entries()]

    def add(self, notice: NewNotice = LOST, name: str = "customer") -> bool:
        """Add a notice to the record of a grant as it is now."""
        return self.store.add_notice(self.read(grant_key(name)), notice)

    def claimed(self, limit: int = 99) -> list[Notice]:
        """Claim notices through the second store."""
        return list(self.second.claim_notices(CLIENT, limit=limit, ttl=TTL))

    def claimed_kinds(self) -> list[NoticeKind]:
        """Claim notices, and return their kinds."""
        return [notice.kind for notice in self.claimed()]

    def put_with(self, name: str, notice: NewNotice = RECOVERED) -> Record:
        """Store the pair of a new consent with a notice."""
        noted = evolve(note(), notice=notice)
        return self.store.put(KEY, pair(name), issued_at=ISSUED, idle_until=ISSUED, note=noted)

    def settle_with(self, claim: Record, name: str, notice: NewNotice = RECOVERED) -> Record:
        """Settle a pair with a notice; return the record."""
        noted = evolve(note(), notice=notice)
        settlement = self.store.settle(
            claim, pair(name), issued_at=ISSUED, idle_until=ISSUED, note=noted
        )
        assert settlement.record is not None
        return settlement.record

    def release_with(self, claim: Record, notice: NewNotice = LOST) -> bool:
        """Release a lease with a notice."""
        return self.store.release(
            claim,
            state=State.UNCERTAIN,
            attempts=1,
            pause=0.0,
            error=None,
            note=Note(event="released", correlation_id="call-1", notice=notice),
        )

    def forget(self) -> Record:
        """Forget the grant, and return the tombstone."""
        marked = self.store.mark_revoked(KEY, note=note(), forget=True)
        assert marked is not None
        assert self.erase(marked, note=note())
        return self.read()


class Notices(NoticesHarness):
    """Tests of what writes a notice."""

    def test_a_notice_is_written_with_the_change(self) -> None:
        self.put("a")
        claim = self.claim()
        assert self.release_with(claim)
        assert self.read().notice is NoticeKind.LOST
        [entry] = self.entries()
        lost = entry.notice
        assert str(UUID(lost.id)) == lost.id
        assert lost == Notice(
            id=lost.id,
            kind=NoticeKind.LOST,
            client_id=CLIENT,
            grant=KEY.grant,
            generation=1,
            reason="refused",
            ends_at=ISSUED + days(1),
            correlation_id="call-1",
            at=lost.at,
        )
        assert (entry.is_dead, entry.due_in) == (False, 0.0)
        assert is_utc(lost.at)
        [released, _] = self.second.history(KEY)
        assert released.note == Note(event="released", correlation_id="call-1")
        # Its effect may have been unknown.
        assert self.release_with(claim)
        assert [entry.notice.id for entry in self.entries()] == [lost.id]

    def test_any_change_of_a_record_writes_its_notice(self) -> None:
        first = self.put_with("a", AT_RISK)
        second = self.settle_with(self.claim(first), "b", LOST)
        self.store.journal(second, pair("c"), origin=Origin.ERROR)
        salvaged = self.store.salvage(self.claim(second), note=evolve(note(), notice=AT_RISK))
        assert salvaged is not None
        known, noted = evolve(salvaged, generation=9, notice=None), evolve(note(), notice=LOST)
        written = self.store.write_back(known, seen=salvaged, note=noted)
        assert written is not None
        revoked = self.store.mark_revoked(KEY, note=evolve(note(), notice=AT_RISK))
        assert revoked is not None
        records = [first, second, salvaged, written, revoked]
        assert [record.notice for record in records] == self.kinds()
        assert self.kinds() == ["consent.at_risk", "consent.lost"] * 2 + ["consent.at_risk"]
        assert [entry.notice.generation for entry in self.entries()] == [1, 2, 3, 9, 10]
        assert self.read() == revoked

    def test_a_change_that_fails_writes_no_notice(self) -> None:
        self.put("a")
        claim = self.claim()
        self.put("b")
        assert not self.release_with(claim)
        self.settle_with(claim, "late", LOST)
        assert (self.entries(), self.read().notice) == ([], None)

    def test_that_a_grant_has_recovered_is_written_after_trouble_only(self) -> None:
        assert self.put_with("a").notice is None
        assert self.settle_with(self.claim(), "b").notice is None
        assert not self.add(RECOVERED)
        self.release_with(self.claim())
        assert self.settle_with(self.claim(), "c").notice is NoticeKind.RECOVERED
        assert self.kinds() == [NoticeKind.LOST, NoticeKind.RECOVERED]
        assert self.settle_with(self.claim(), "d").notice is None
        assert self.settle_with(self.claim(), "e") == self.read()
        assert (self.read().notice, len(self.entries())) == (None, 2)

    def test_whether_it_has_recovered_is_decided_when_it_is_stored(self) -> None:
        self.put("a")
        claim = self.claim()
        assert self.add(AT_RISK)
        assert claim.notice is None
        assert self.settle_with(claim, "b").notice is NoticeKind.RECOVERED
        self.put("c")
        assert self.add(AT_RISK)
        claim = self.claim()
        assert self.add(RECOVERED)
        assert claim.notice is NoticeKind.AT_RISK
        assert self.settle_with(claim, "d").notice is None
        assert self.kinds() == [AT_RISK.kind, RECOVERED.kind] * 2

    def test_a_change_without_a_notice_keeps_the_last_one(self) -> None:
        self.put("a")
        assert self.add(LOST)
        claim = self.claim()
        assert self.release(claim)
        [listed] = self.second.records(CLIENT)
        records = [claim, self.settle(self.claim(), "b").record, self.put("c"), listed, self.read()]
        assert [record and record.notice for record in records] == [NoticeKind.LOST] * 5
        assert len(self.entries()) == 1

    def test_a_notice_is_added_to_the_record_that_was_read_and_changes_nothing_else(self) -> None:
        self.put("a")
        claim = self.claim()
        assert self.store.add_notice(claim, AT_RISK)
        assert untimed(self.read()) == untimed(evolve(claim, notice=NoticeKind.AT_RISK))
        assert self.read().lease_left > 0
        assert not self.store.add_notice(claim, LOST)
        stale = self.read()
        assert self.settle(claim, "b").stored
        assert not self.store.add_notice(stale, LOST)
        assert (self.kinds(), self.read().notice) == ([AT_RISK.kind], AT_RISK.kind)
        assert not self.store.add_notice(evolve(claim, key=grant_key("unknown")), LOST)
        assert self.second.load(grant_key("unknown")) is None

    def test_a_grant_has_one_notice_of_a_kind_and_generation(self) -> None:
        self.put("a")
        self.put("other", grant_key("other"))
        assert [self.add(each) for each in (LOST, RECOVERED, LOST)] == [True, True, False]
        assert self.add(LOST, "other")
        assert self.read().notice is NoticeKind.LOST
        [lost, *_] = self.claimed()
        self.store.notice_delivered(lost)
        assert self.add(RECOVERED) is self.add(LOST) is False
        self.put("b")
        assert (self.add(RECOVERED), self.add(LOST)) == (True, True)
        seen = self.put("c")
        assert seen.notice is NoticeKind.LOST
        added = self.run_concurrently(4, lambda _: self.store.add_notice(seen, AT_RISK))
        assert sorted(added) == [False, False, False, True]
        assert len({entry.notice.id for entry in self.entries()}) == 5

    def test_a_certificate_has_one_notice_for_each_stage(self) -> None:
        def add(_: int, stage: int = 1, client: str = CLIENT, name: str = CERTIFICATE) -> bool:
            return self.store.add_certificate_notice(client, name, stage, EXPIRING)

        assert sorted(self.run_concurrently(4, add)) == [False, False, False, True]
        assert [add(0), add(0, 2), add(0, name="other"), add(0, client="CIDX9")] == [
            False,
            *[True] * 3,
        ]
        found = [entry.notice for entry in self.entries()]
        assert [(each.certificate, each.generation) for each in found] == [
            (CERTIFICATE, 1),
            (CERTIFICATE, 2),
            ("other", 1),
        ]
        first = found[0]
        assert (first.kind, first.client_id, first.grant) == (NoticeKind.EXPIRING, CLIENT, None)
        assert (first.ends_at, first.reason) == (ISSUED + days(30), None)
        assert [each.certificate for each in self.claimed()] == [CERTIFICATE, "other"]
        assert [entry.notice.client_id for entry in self.entries("CIDX9")] == ["CIDX9"]


class Delivering(NoticesHarness):
    """Tests of how notices are delivered and deleted."""

    def test_a_claimed_notice_is_kept_from_others_until_the_time_is_over(self) -> None:
        for name in "abc":
            self.put(name, grant_key(name))
            assert self.add(LOST, name)
        ids = [entry.notice.id for entry in self.entries()]
        first = self.claimed(limit=2)
        assert [(each.id, each.tries) for each in first] == [(ids[0], 1), (ids[1], 1)]
        assert [each.id for each in self.claimed()] == [ids[2]]
        assert self.claimed() == []
        assert [TTL - 30 < entry.due_in <= TTL for entry in self.entries()] == [True] * 3
        self.let_pass(TTL + 1)
        assert list(self.store.claim_notices("CIDX0000000009", limit=9, ttl=TTL)) == []
        again = self.claimed()
        assert [(each.id, each.tries) for each in again] == [(each, 2) for each in ids]
        assert evolve(again[0], tries=1) == first[0]
        self.let_pass(TTL + 1)
        found = self.run_concurrently(4, lambda _: self.store.claim_notices(CLIENT, limit=1, ttl=9))
        found = [*found, self.claimed()]
        assert sorted(each.id for claimed in found for each in claimed) == sorted(ids)

    def test_notices_of_a_grant_are_delivered_one_after_the_other(self) -> None:
        self.put("a")
        self.put("b", grant_key("b"))
        assert [self.add(each) for each in (AT_RISK, LOST, RECOVERED)] == [True] * 3
        assert self.add(LOST, "b")
        claimed = self.claimed()
        assert [each.grant for each in claimed] == [KEY.grant, grant_key("b").grant]
        first = claimed[0]
        assert first.kind is NoticeKind.AT_RISK
        self.store.notice_failed(first, pause=100)
        assert self.claimed() == []
        self.let_pass(101)
        first = self.claimed()[0]
        assert (first.kind, first.tries) == (NoticeKind.AT_RISK, 2)
        self.store.notice_delivered(first)
        [second] = self.claimed()
        assert second.kind is NoticeKind.LOST
        self.store.notice_failed(second, pause=None)
        # A dead one does not hold up the others.
        assert self.claimed_kinds() == [NoticeKind.RECOVERED]

    def test_a_claim_that_is_given_back_counts_no_try(self) -> None:
        self.put("a")
        assert self.add(LOST)
        [told] = self.claimed()
        self.store.notice_failed(told, pause=0, counts=False)
        assert [entry.notice for entry in self.entries()] == [evolve(told, tries=0)]
        assert self.claimed() == [told]

    def test_a_claim_that_has_ended_changes_no_later_one(self) -> None:
        self.put("a")
        assert self.add(LOST)
        [told] = self.claimed()
        self.let_pass(TTL + 1)
        [again] = self.claimed()
        for counts in (True, False):
            self.store.notice_failed(told, pause=0, counts=counts)
            self.store.notice_failed(told, pause=None, counts=counts)
        assert self.claimed() == []
        [entry] = self.entries()
        assert (entry.notice, entry.is_dead) == (again, False)

    def test_a_delivered_notice_is_not_returned_again(self) -> None:
        self.put("a")
        assert self.add(LOST)
        [lost] = self.claimed()
        self.let_pass(TTL + 1)
        [again] = self.claimed()
        self.store.notice_delivered(lost)
        self.store.notice_delivered(again)
        self.store.notice_failed(again, pause=0)
        self.store.notice_failed(again, pause=None)
        self.let_pass(LONG)
        assert (self.claimed(), self.entries()) == ([], [])
        assert self.store.retry_notices(CLIENT) == 0
        assert self.read().notice is NoticeKind.LOST

    def test_a_dead_notice_is_tried_again_on_demand_only(self) -> None:
        self.put("a")
        assert self.add(LOST)
        assert self.store.add_certificate_notice(CLIENT, CERTIFICATE, 1, EXPIRING)
        [lost, of_certificate] = self.claimed()
        self.store.notice_failed(lost, pause=None)
        self.store.notice_failed(of_certificate, pause=LONG)
        assert [entry.is_dead for entry in self.entries()] == [True, False]
        assert LONG - 30 < self.entries()[1].due_in <= LONG
        assert [entry.notice for entry in self.second.notices(CLIENT, limit=1)] == [lost]
        self.let_pass(LONG + 1)
        assert self.claimed_kinds() == [NoticeKind.EXPIRING]
        assert self.store.retry_notices("CIDX0000000009") == 0
        assert self.store.retry_notices(CLIENT) == 1
        assert [(entry.is_dead, entry.due_in) for entry in self.entries()[:1]] == [(False, 0.0)]
        again = evolve(lost, tries=2)
        assert self.claimed() == [again]
        self.store.notice_failed(again, pause=None)
        self.store.notice_delivered(lost)
        assert self.kinds() == [NoticeKind.EXPIRING]

    def test_the_notices_of_a_forgotten_grant_are_deleted(self) -> None:
        seen = self.put("a")
        self.put("b", grant_key("b"))
        assert self.add(LOST)
        assert self.add(LOST, "b")
        in_delivery = self.claimed()[0]
        assert self.forget().notice is None
        assert [entry.notice.grant for entry in self.entries()] == [grant_key("b").grant]
        self.store.notice_failed(in_delivery, pause=1)
        self.store.notice_delivered(in_delivery)
        assert not self.store.add_notice(seen, LOST)
        assert not self.store.add_notice(self.read(), LOST)
        assert self.put_with("c").notice is None
        assert len(self.entries()) == 1

    def test_notices_are_purged_as_the_history_is(self) -> None:
        self.put("a")
        for notice in (LOST, RECOVERED):
            assert self.add(notice)
        self.store.notice_delivered(self.claimed()[0])
        self.let_pass(self.history_retention.total_seconds() - 60)
        assert self.store.purge() == 0
        assert self.store.add_certificate_notice(CLIENT, CERTIFICATE, 1, EXPIRING)
        assert not self.add(LOST)
        self.let_pass(120)
        # With an entry of the history.
        assert self.store.purge() == 3
        assert self.kinds() == [NoticeKind.EXPIRING]
