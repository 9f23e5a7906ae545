"""Tests of `write_back`, for a store that went backwards."""

from __future__ import annotations

from typing import Any

from attrs import evolve

from blink_oauth_keeper.store.protocol import Origin, Record, State

from .harness import ISSUED, KEY, META, Harness, days, entry_values, note, pair, untimed

__all__ = ["WritingBack"]


def newer(record: Record, name: str = "newer", **values: Any) -> Record:
    """Return the record as a process knows it that has seen three more refreshes."""
    known = evolve(
        record,
        generation=record.generation + 3,
        token=pair(name),
        issued_at=ISSUED + days(3),
        idle_until=ISSUED + days(33),
    )
    return evolve(known, **values)


class WritingBack(Harness):
    """Tests of `write_back`."""

    def test_a_record_that_is_written_back_replaces_an_older_one(self) -> None:
        seen = self.put("older")
        known = newer(seen, consent=2, correlation_id="call-9")
        written = self.store.write_back(known, seen=seen, note=note("behind", "call-9"))
        assert written == self.read()
        assert written == evolve(known, updated_at=self.read().updated_at)
        assert self.events()[0] == "behind"
        assert entry_values(self.journal()) == [(Origin.REPLACED, pair("older"), 1, 1)]

    def test_a_record_that_is_missing_is_written_back(self) -> None:
        known = newer(evolve(self.put("a"), key=KEY))
        lost = evolve(known, key=evolve(KEY, client_id="CIDX0000000003"))
        written = self.store.write_back(lost, seen=None, note=note("behind"))
        assert written == self.read(lost.key)
        assert written == evolve(lost, updated_at=self.read(lost.key).updated_at)
        assert (self.events(lost.key), self.journal(lost.key)) == (["behind"], [])

    def test_an_existing_record_is_not_overwritten_as_a_missing_one(self) -> None:
        put = self.put("a")
        assert self.store.write_back(newer(put), seen=None, note=note()) is None
        assert (self.read(), len(self.events())) == (put, 1)

    def test_a_missing_record_is_not_written_back_over_one_that_was_seen(self) -> None:
        seen = evolve(self.put("a"), key=evolve(KEY, client_id="CIDX0000000003"))
        assert self.store.write_back(newer(seen), seen=seen, note=note()) is None
        assert self.store.load(seen.key) is None

    def test_nothing_is_written_back_after_another_change(self) -> None:
        seen = self.put("a")
        self.settle(self.claim(), "b")
        stored, journal = self.read(), self.journal()
        assert self.store.write_back(newer(seen), seen=seen, note=note()) is None
        assert (self.read(), self.journal()) == (stored, journal)

    def test_nothing_is_written_back_after_a_claim(self) -> None:
        seen = self.put("a")
        claim = self.claim()
        assert self.store.write_back(newer(seen), seen=seen, note=note()) is None
        assert untimed(self.read()) == untimed(claim)
        assert self.settle(claim, "b").stored

    def test_of_many_concurrent_processes_one_writes_back(self) -> None:
        seen = self.put("a")
        written = self.run_concurrently(
            8, lambda n: self.store.write_back(newer(seen, f"b{n}"), seen=seen, note=note("behind"))
        )
        assert [record for record in written if record] == [self.read()]
        assert (self.events().count("behind"), len(self.journal())) == (1, 1)

    def test_writing_back_ends_lease_and_pause(self) -> None:
        self.release(self.claim(self.put("a")), State.UNCERTAIN, pause=1000)
        self.store.write_back(newer(self.read()), seen=self.read(), note=note())
        claim = self.claim()
        again = newer(claim, owner="fake-owner", lease_left=9.0, pause_left=9.0)
        assert self.store.write_back(again, seen=claim, note=note()) is not None
        now = self.read()
        assert (now.owner, now.lease_left, now.pause_left) == (None, 0, 0)
        assert not self.release(claim)
        assert not self.settle(claim, "c").stored
        assert self.claim().token == pair("newer")

    def test_the_attempts_of_an_uncertain_record_are_written_back(self) -> None:
        seen = self.put("a")
        known = evolve(seen, state=State.UNCERTAIN, attempts=2, error="TimedOutError")
        assert self.store.write_back(known, seen=seen, note=note()) is not None
        now = self.read()
        assert (now.state, now.attempts, now.error) == (State.UNCERTAIN, 2, "TimedOutError")
        assert (now.generation, now.token, self.journal()) == (seen.generation, seen.token, [])

    def test_a_refused_record_is_written_back(self) -> None:
        seen = self.put("a")
        known = evolve(seen, state=State.NEEDS_CONSENT)
        self.store.write_back(known, seen=seen, note=note())
        assert self.read().state is State.NEEDS_CONSENT
        assert self.claim_fails(self.read())

    def test_a_revocation_is_written_back_and_can_be_finished(self) -> None:
        seen = self.put("a")
        known = newer(seen, state=State.REVOKING)
        written = self.store.write_back(known, seen=seen, note=note())
        assert written is not None
        assert (self.read().state, self.read().token) == (State.REVOKING, pair("newer"))
        assert self.erase(written, note=note())
        assert (self.read().state, self.journal()) == (State.REVOKED, [])

    def test_a_replaced_pair_is_never_salvaged(self) -> None:
        seen = self.put("older")
        self.store.write_back(newer(seen), seen=seen, note=note())
        assert self.store.salvage(self.claim(), note=note()) is None

    def test_a_pair_that_is_written_back_keeps_no_headers(self) -> None:
        seen = self.put("a")
        token = evolve(pair("newer"), extra={"id": "fake"}, meta=META)
        written = self.store.write_back(newer(seen, token=token), seen=seen, note=note())
        assert written is not None
        assert written.token == self.read().token == evolve(token, meta=None)

    def test_writing_back_again_changes_nothing(self) -> None:
        seen = self.put("a")
        known = newer(seen)
        written = self.store.write_back(known, seen=seen, note=note())
        events = self.events()
        assert self.store.write_back(known, seen=seen, note=note()) is None
        assert (self.read(), self.events()) == (written, events)
