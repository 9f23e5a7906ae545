"""Stored values are returned unchanged, and no repr shows a token."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta, timezone

from attrs import evolve

from blink_oauth.tokens import Oddity, Token
from blink_oauth_keeper.store.protocol import GrantKey, Origin

from .harness import CLIENT, ISSUED, KEY, META, Harness, days, due, grant_key, is_utc, note, pair

__all__ = ["Values"]

LARGE = 16_384
NEPAL = timezone(timedelta(hours=5, minutes=45))


class Values(Harness):
    """Tests of the values that a store returns."""

    def round_trip(self, token: Token, key: GrantKey = KEY) -> Token:
        """Store a pair with each method that stores one, and return it as it is read."""
        record = self.put("before", key)
        self.store.journal(record, token, origin=Origin.ERROR)
        assert self.journal(key)[0].token == token
        until = ISSUED + days(30)
        self.store.settle(record, token, issued_at=ISSUED, idle_until=until, note=note())
        assert self.read(key).token == token
        self.put("between", key)
        self.store.put(key, token, issued_at=ISSUED, idle_until=until, note=note())
        assert self.read(key).token == token
        self.put("after", key)
        replaced = self.journal(key)[0].token
        assert replaced == token
        return replaced

    def test_a_pair_without_optional_values_is_returned_unchanged(self) -> None:
        full = pair("full")
        partial = [
            evolve(full, refresh_token=None),
            evolve(full, token_type=None),
            evolve(full, expires_at=None),
            evolve(full, scope=None),
            Token(access_token=full.access_token),
        ]
        for number, token in enumerate(partial):
            self.round_trip(token, grant_key(f"customer-{number}"))

    def test_empty_values_are_not_returned_as_missing(self) -> None:
        stored = self.round_trip(evolve(pair("a"), token_type="", scope=frozenset()))
        assert (stored.token_type, stored.scope) == ("", frozenset())

    def test_the_oddities_of_a_pair_are_returned_unchanged(self) -> None:
        stored = self.round_trip(evolve(pair("odd"), oddities=frozenset(Oddity)))
        assert all(isinstance(oddity, Oddity) for oddity in stored.oddities)

    def test_special_characters_in_a_pair_are_returned_unchanged(self) -> None:
        special = "fake-\x00\n\t\"'\\%s{}; é ß 漢字 \U0001f600"
        self.round_trip(
            Token(
                access_token=f"a {special}",
                refresh_token=f"r {special}",
                token_type=special,
                scope=frozenset({"accounts", special, ""}),
            )
        )

    def test_large_tokens_are_returned_unchanged(self) -> None:
        self.round_trip(Token(access_token="a" * LARGE, refresh_token="\U0001f600" * (LARGE // 4)))

    def test_response_headers_are_not_stored_and_unknown_members_are(self) -> None:
        extra = {"id_token": "fake-id-token", "refresh_expires_in": 7, "list": [{"é": None}, 1.5]}
        received = evolve(pair("a"), meta=META, extra=extra)
        kept = evolve(received, meta=None)
        put = self.store.put(KEY, received, issued_at=ISSUED, idle_until=None, note=note())
        assert put.token == self.read().token == kept
        self.store.journal(put, received, origin=Origin.ERROR)
        assert self.journal()[0].token == kept
        received = evolve(received, access_token=pair("b").access_token)
        settled = self.store.settle(put, received, issued_at=ISSUED, idle_until=None, note=note())
        assert settled.record is not None
        kept = evolve(kept, access_token=pair("b").access_token)
        assert settled.record.token == self.read().token == kept

    def test_unknown_members_that_are_no_json_or_too_large_are_left_out(self) -> None:
        nested: list[object] = []
        for _ in range(500):
            nested = [nested]
        extra = {
            "set": {1},
            "infinite": float("inf"),
            "long": "a" * LARGE,
            "nested": nested,
            "object": object(),
            "kept": "fake-value",
        }
        received = evolve(pair("a"), extra=extra)
        put = self.store.put(KEY, received, issued_at=ISSUED, idle_until=None, note=note())
        assert put.token == self.read().token == evolve(pair("a"), extra={"kept": "fake-value"})

    def test_pairs_are_compared_without_unknown_members(self) -> None:
        put = self.put("a")
        received = evolve(pair("a"), extra={"id_token": "fake-id-token"})
        again = self.store.put(KEY, received, issued_at=ISSUED, idle_until=None, note=note())
        assert again == put == self.read()

    def test_every_username_is_returned_unchanged(self) -> None:
        usernames = [
            "\U0001f600" * 64,
            "é" * 64,
            " leading and trailing blanks ",
            "'; DROP TABLE grants; --",
            '"%_\\\n\r\t\x01\x7f\u2028',
            "%",
            "_",
            "\u200f\u0645\u062d\u0645\u062f",
        ]
        for number, username in enumerate(usernames):
            self.put(f"{number}", grant_key(username))
        for number, username in enumerate(usernames):
            assert self.read(grant_key(username)).token == pair(f"{number}")
            assert self.read(grant_key(username)).key == grant_key(username)
        assert len(self.store.records(CLIENT)) == len(usernames)

    def test_usernames_that_look_alike_are_different_grants(self) -> None:
        composed = "Zoé"
        alike = [
            composed,
            unicodedata.normalize("NFD", composed),
            composed.lower(),
            composed + " ",
            "Zoe",
            "Ζoe",  # noqa: RUF001 - a Greek capital Zeta
        ]
        for number, username in enumerate(alike):
            self.put(f"{number}", grant_key(username))
        for number, username in enumerate(alike):
            assert self.read(grant_key(username)).token == pair(f"{number}")

    def test_times_are_returned_in_utc_to_the_microsecond(self) -> None:
        issued = datetime(2030, 3, 31, 1, 59, 59, 999_999, NEPAL)
        until = datetime(2030, 4, 30, 23, 0, 0, 1, NEPAL)
        token = evolve(pair("a"), expires_at=issued.astimezone(UTC) + days(1))
        self.store.put(KEY, token, issued_at=issued, idle_until=until, note=note())
        self.check_times(issued, until)
        later = issued + days(1)
        self.store.settle(self.claim(), pair("b"), issued_at=later, idle_until=until, note=note())
        self.check_times(later, until)

    def check_times(self, issued: datetime, until: datetime) -> None:
        """Compare the times of the record, and check that they are in UTC."""
        record = self.read()
        assert record.token is not None
        assert record.idle_until is not None
        assert record.token.expires_at is not None
        assert (record.issued_at, record.idle_until) == (issued, until)
        for time in (record.issued_at, record.idle_until, record.token.expires_at):
            assert is_utc(time)

    def test_the_time_zone_of_before_does_not_change_what_is_due(self) -> None:
        self.put("a", idle=10)
        for zone in (UTC, NEPAL, timezone(-timedelta(hours=11))):
            expiry = (ISSUED + days(10)).astimezone(zone)
            early = expiry - timedelta(microseconds=1)
            assert len(self.store.due(evolve(due(), before=expiry), limit=10)) == 1
            assert len(self.store.due(evolve(due(), before=early), limit=10)) == 0

    def test_many_grants_are_stored_separately(self) -> None:
        keys = [grant_key(f"customer-{n:03}", f"IIDX{n % 7:05}") for n in range(150)]
        for number, key in enumerate(keys):
            self.put(f"{number}", key)
        listed = [record.key for record in self.second.records(CLIENT, limit=1000)]
        found = {key: self.read(key).token for key in listed}
        assert found == {key: pair(f"{number}") for number, key in enumerate(keys)}
        assert len(self.second.records(CLIENT)) == 100

    def test_no_returned_value_shows_a_token(self) -> None:
        self.put("a")
        claim = self.claim()
        shown = [self.put("b"), self.settle(claim, "c"), claim, self.claim()]
        shown += [*self.store.due(due(within=1000), limit=9), *self.store.records(CLIENT)]
        text = repr([shown, self.journal(), self.store.history(KEY), self.read()])
        text += f"{self.store!r} {self.store}"
        assert "fake-" not in text

    def test_a_fingerprint_identifies_a_text_and_does_not_show_it(self) -> None:
        text = "fake-access-token-\U0001f600"
        fingerprint = self.store.fingerprint(text)
        assert fingerprint == self.store.fingerprint(text) == self.second.fingerprint(text)
        assert fingerprint != self.store.fingerprint(text + " ")
        assert 8 <= len(fingerprint) <= 64
        assert fingerprint.isascii()
        assert fingerprint.isalnum()
        assert "fake" not in fingerprint
