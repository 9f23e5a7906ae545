"""What goes into a store comes out of it, and is shown nowhere."""

from __future__ import annotations

import unicodedata
from datetime import UTC, datetime, timedelta, timezone

from attrs import evolve

from blink_oauth.headers import ResponseMeta, Source
from blink_oauth.tokens import Oddity, Token
from blink_oauth_keeper.store.protocol import GrantKey, Origin

from .harness import CLIENT, ISSUED, KEY, Harness, days, due, grant_key, is_utc, note, pair

__all__ = ["Values"]

LARGE = 16_384
NEPAL = timezone(timedelta(hours=5, minutes=45))


class Values(Harness):
    """What records, pairs and keys promise."""

    def comes_back(self, token: Token, key: GrantKey = KEY) -> Token:
        """Store a pair in each way there is, and return what comes out."""
        record = self.put("before", key)
        self.store.journal(record, token, origin=Origin.ERROR)
        assert self.journal(key)[0].token == token
        until = ISSUED + days(30)
        self.store.settle(record, token, issued_at=ISSUED, idle_until=until, note=note())
        assert self.seen(key).token == token
        self.put("between", key)
        self.store.put(key, token, issued_at=ISSUED, idle_until=until, note=note())
        assert self.seen(key).token == token
        self.put("after", key)
        replaced = self.journal(key)[0].token
        assert replaced == token
        return replaced

    def test_a_pair_that_lacks_whatever_may_be_missing_comes_back(self) -> None:
        full = pair("full")
        lacking = [
            evolve(full, refresh_token=None),
            evolve(full, token_type=None),
            evolve(full, expires_at=None),
            evolve(full, scope=None),
            Token(access_token=full.access_token),
        ]
        for number, token in enumerate(lacking):
            self.comes_back(token, grant_key(f"customer-{number}"))

    def test_the_smallest_values_are_not_taken_for_missing_ones(self) -> None:
        stored = self.comes_back(evolve(pair("a"), token_type="", scope=frozenset()))
        assert (stored.token_type, stored.scope) == ("", frozenset())

    def test_what_was_odd_about_a_pair_comes_back(self) -> None:
        stored = self.comes_back(evolve(pair("odd"), oddities=frozenset(Oddity)))
        assert all(isinstance(oddity, Oddity) for oddity in stored.oddities)

    def test_odd_texts_in_a_pair_come_back(self) -> None:
        odd = "fake-\x00\n\t\"'\\%s{}; é ß 漢字 \U0001f600"
        self.comes_back(
            Token(
                access_token=f"a {odd}",
                refresh_token=f"r {odd}",
                token_type=odd,
                scope=frozenset({"accounts", odd, ""}),
            )
        )

    def test_large_tokens_come_back(self) -> None:
        self.comes_back(Token(access_token="a" * LARGE, refresh_token="\U0001f600" * (LARGE // 4)))

    def test_what_the_headers_said_and_unknown_members_are_not_stored(self) -> None:
        meta = ResponseMeta(
            status=200,
            correlation_id="call-1",
            echoed=True,
            source=Source.PROVIDER,
            language=None,
            cache_rules_held=True,
            retry_after=None,
        )
        laden = evolve(pair("a"), meta=meta, extra={"id_token": "fake-id-token"})
        put = self.store.put(KEY, laden, issued_at=ISSUED, idle_until=None, note=note())
        assert put.token == self.seen().token == pair("a")
        self.store.journal(put, laden, origin=Origin.ERROR)
        assert self.journal()[0].token == pair("a")
        laden = evolve(laden, access_token=pair("b").access_token)
        settled = self.store.settle(put, laden, issued_at=ISSUED, idle_until=None, note=note())
        assert settled.record is not None
        assert settled.record.token == evolve(pair("a"), access_token=pair("b").access_token)

    def test_a_pair_is_the_same_whatever_came_with_it(self) -> None:
        put = self.put("a")
        laden = evolve(pair("a"), extra={"id_token": "fake-id-token"})
        again = self.store.put(KEY, laden, issued_at=ISSUED, idle_until=None, note=note())
        assert again == put == self.seen()

    def test_every_username_comes_back(self) -> None:
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
            assert self.seen(grant_key(username)).token == pair(f"{number}")
            assert self.seen(grant_key(username)).key == grant_key(username)
        assert len(self.store.records(CLIENT)) == len(usernames)

    def test_usernames_that_only_look_alike_are_different_customers(self) -> None:
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
            assert self.seen(grant_key(username)).token == pair(f"{number}")

    def test_moments_come_back_in_utc_to_the_microsecond(self) -> None:
        issued = datetime(2030, 3, 31, 1, 59, 59, 999_999, NEPAL)
        until = datetime(2030, 4, 30, 23, 0, 0, 1, NEPAL)
        token = evolve(pair("a"), expires_at=issued.astimezone(UTC) + days(1))
        self.store.put(KEY, token, issued_at=issued, idle_until=until, note=note())
        self.check_moments(issued, until)
        later = issued + days(1)
        self.store.settle(self.claim(), pair("b"), issued_at=later, idle_until=until, note=note())
        self.check_moments(later, until)

    def check_moments(self, issued: datetime, until: datetime) -> None:
        """Compare the moments of the record."""
        record = self.seen()
        assert record.token is not None
        assert record.idle_until is not None
        assert record.token.expires_at is not None
        assert (record.issued_at, record.idle_until) == (issued, until)
        for moment in (record.issued_at, record.idle_until, record.token.expires_at):
            assert is_utc(moment)

    def test_what_is_due_is_the_same_in_every_time_zone(self) -> None:
        self.put("a", idle=10)
        for zone in (UTC, NEPAL, timezone(-timedelta(hours=11))):
            moment = (ISSUED + days(10)).astimezone(zone)
            early = moment - timedelta(microseconds=1)
            assert len(self.store.due(evolve(due(), before=moment), limit=10)) == 1
            assert len(self.store.due(evolve(due(), before=early), limit=10)) == 0

    def test_many_grants_are_kept_apart(self) -> None:
        keys = [grant_key(f"customer-{n:03}", f"IIDX{n % 7:05}") for n in range(150)]
        for number, key in enumerate(keys):
            self.put(f"{number}", key)
        found = {record.key: record.token for record in self.second.records(CLIENT, limit=1000)}
        assert found == {key: pair(f"{number}") for number, key in enumerate(keys)}
        assert len(self.second.records(CLIENT)) == 100

    def test_nothing_that_a_store_returns_shows_a_token(self) -> None:
        self.put("a")
        claim = self.claim()
        shown = [self.put("b"), self.settle(claim, "c"), claim, self.claim()]
        shown += [*self.store.due(due(within=1000), limit=9), *self.store.records(CLIENT)]
        text = repr([shown, self.journal(), self.store.history(KEY), self.seen()])
        text += f"{self.store!r} {self.store}"
        assert "fake-" not in text

    def test_a_fingerprint_stands_for_a_text_and_does_not_show_it(self) -> None:
        text = "fake-access-token-\U0001f600"
        mark = self.store.fingerprint(text)
        assert mark == self.store.fingerprint(text) == self.second.fingerprint(text)
        assert mark != self.store.fingerprint(text + " ")
        assert 8 <= len(mark) <= 64
        assert mark.isascii()
        assert mark.isalnum()
        assert "fake" not in mark
