"""All is listed in order, and old entries go."""

from __future__ import annotations

from datetime import timedelta

from blink_oauth_keeper.store.records import Note, Origin, State

from .material import CLIENT, KEY, grant_key, is_utc, note, origins, pair
from .stage import Stage

__all__ = ["Listing"]


class Listing(Stage):
    """What `records`, `history`, `purge` and the dates in them promise."""

    def test_records_are_sorted_by_target_and_username(self) -> None:
        keys = [
            grant_key(username, target)
            for target in ("IIDX00001", "IIDX00002", "IIDX00010")
            for username in ("Zoe", "anna", "anna 2", "Émile", "éva", "\U0001f600")
        ]
        for key in keys[1::2] + keys[::2]:
            self.put("a", key)
        assert [record.key for record in self.second.records(CLIENT)] == keys

    def test_records_come_in_pages(self) -> None:
        keys = [grant_key(name, f"IIDX0000{n}") for n in range(3) for name in ("Ann", "ann", "Éva")]
        for key in keys:
            self.put("a", key)
        pages, after = [], None
        for _ in range(4):
            page = [record.key for record in self.second.records(CLIENT, after=after, limit=4)]
            pages.append(page)
            after = page[-1] if page else after
        assert pages == [keys[:4], keys[4:8], keys[8:], []]
        beyond = grant_key("bob", "IIDX00001")
        assert [r.key for r in self.second.records(CLIENT, after=beyond, limit=2)] == keys[5:7]

    def test_a_page_shows_records_as_they_are(self) -> None:
        self.put("a", grant_key("active"))
        self.claim(self.put("b", grant_key("leased")))
        self.put("c", grant_key("revoked"))
        self.store.revoke(grant_key("revoked"), note=note())
        page = self.second.records(CLIENT)
        assert [record.state for record in page] == [
            State.ACTIVE,
            State.REFRESHING,
            State.REVOKED,
        ]
        assert page[0] == self.seen(grant_key("active"))
        assert 900 < page[1].lease_left <= 1000

    def test_a_client_is_not_shown_the_records_of_another(self) -> None:
        self.put("a")
        self.put("b", grant_key(client="CIDX0000000003"))
        assert [record.key for record in self.second.records(CLIENT)] == [KEY]
        assert list(self.second.records("CIDX0000000004")) == []

    def test_every_change_is_a_line_in_the_history(self) -> None:
        steps = [
            Note(event="authorized", correlation_id="call-1", actor="psu"),
            Note(event="failed", correlation_id="call-2", outcome="uncertain", detail="TimedOut"),
            Note(event="refreshed", correlation_id="call-3"),
            Note(event="salvaged"),
            Note(event="revoked"),
        ]
        issued_at = self.clock()
        put = self.store.put(
            KEY, pair("a"), issued_at=issued_at, idle_until=issued_at, note=steps[0]
        )
        self.store.release(
            self.claim(put), state=State.UNCERTAIN, attempts=1, pause=0, error=None, note=steps[1]
        )
        claim = self.claim()
        self.store.settle(
            claim, pair("b"), issued_at=issued_at, idle_until=issued_at, note=steps[2]
        )
        self.settle(claim, "c")
        self.store.salvage(self.claim(), note=steps[3])
        self.store.revoke(KEY, note=steps[4])
        history = self.second.history(KEY)
        assert [entry.note for entry in history] == steps[::-1]
        assert [entry.generation for entry in history] == [4, 3, 2, 1, 1]

    def test_the_history_is_read_from_its_newest_line(self) -> None:
        for number in range(6):
            self.store.put(
                KEY,
                pair(f"{number}"),
                issued_at=self.clock(),
                idle_until=None,
                note=note(f"event-{number}"),
            )
            self.let_pass(number % 2)
        assert self.events() == [f"event-{number}" for number in range(5, -1, -1)]
        newest = self.second.history(KEY, limit=2)
        assert [entry.note.event for entry in newest] == ["event-5", "event-4"]

    def test_what_changes_nothing_adds_no_line(self) -> None:
        self.put("a")
        claim = self.claim()
        self.settle(claim, "b")
        events = self.events()
        self.store.claim(claim, owner="late", ttl=1000)
        self.release(claim)
        self.settle(claim, "b")
        self.put("b")
        assert self.events() == events

    def test_each_grant_has_its_own_history(self) -> None:
        self.put("a")
        self.put("b", grant_key("other"))
        self.store.revoke(KEY, note=note("revoked"))
        assert self.events() == ["revoked", "changed"]
        assert self.events(grant_key("other")) == ["changed"]
        assert self.events(grant_key("nobody")) == []

    def test_a_record_knows_the_last_call_for_its_grant(self) -> None:
        self.store.put(
            KEY,
            pair("a"),
            issued_at=self.clock(),
            idle_until=None,
            note=note("authorized", "call-1"),
        )
        assert self.seen().correlation_id == "call-1"
        self.store.revoke(KEY, note=note("revoked"))
        assert self.seen().correlation_id == "call-1"
        self.store.put(
            KEY,
            pair("b"),
            issued_at=self.clock(),
            idle_until=None,
            note=note("authorized", "call-2"),
        )
        assert self.seen().correlation_id == "call-2"

    def test_a_record_tells_when_it_was_written(self) -> None:
        self.put("a")
        self.let_pass(1000)
        before = self.seen()
        for change in (self.claim, lambda: self.release(self.seen()), lambda: self.put("b")):
            change()
            after = self.seen()
            assert after.updated_at - before.updated_at >= timedelta(seconds=1000)
            assert is_utc(after.updated_at)
            self.let_pass(1000)
            before = self.seen()

    def test_dates_in_journal_and_history_are_those_of_the_store(self) -> None:
        record = self.put("a")
        for number in range(2):
            self.store.journal(record, pair(f"{number}"), origin=Origin.ERROR)
            self.settle(self.claim(), f"b{number}")
            self.let_pass(1000)
        late, early = (entry.at for entry in self.journal())
        assert 1000 <= (late - early).total_seconds() < 1100
        late, early, *_ = (entry.at for entry in self.second.history(KEY))
        assert 1000 <= (late - early).total_seconds() < 1100
        assert is_utc(late)
        assert all(is_utc(entry.at) for entry in self.journal())

    def test_old_journal_entries_are_purged_and_young_ones_stay(self) -> None:
        record = self.put("a")
        self.store.journal(record, pair("old"), origin=Origin.ERROR)
        self.let_pass(self.journal_retention.total_seconds() - 1000)
        self.store.journal(record, pair("young"), origin=Origin.ERROR)
        assert self.store.purge() == 0
        self.let_pass(1001)
        assert self.store.purge() == 1
        assert origins(self.journal()) == [(Origin.ERROR, pair("young"), 2, 1)]
        assert self.store.purge() == 0
        assert self.events() == ["changed"]

    def test_old_history_is_purged_and_the_record_stays(self) -> None:
        self.put("a")
        self.put("other", grant_key("other"))
        self.let_pass(self.history_retention.total_seconds() - 1000)
        self.store.revoke(KEY, note=note("revoked"))
        assert self.store.purge() == 0
        self.let_pass(1001)
        before = self.seen()
        assert self.store.purge() == 2
        assert self.events() == ["revoked"]
        assert self.events(grant_key("other")) == []
        assert self.seen() == before
        assert self.seen(grant_key("other")).token == pair("other")
