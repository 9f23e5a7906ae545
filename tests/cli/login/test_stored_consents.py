"""A login asks before it opens the bank's page, if its consent may end another one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import pytest
from attrs import define, field

from blink_oauth import Grant, Token
from blink_oauth_cli.errors import ExitCode
from blink_oauth_cli.stored_consents import consents_at_risk
from blink_oauth_keeper import GrantKey, MemoryTokenStore, Note, Record, State, TokenStore
from cli.cli_harness import CLIENT, GRANT, TARGET, USERNAME, Harness, require_two_lines

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
KEY = GrantKey(CLIENT, Grant(TARGET, USERNAME))
NOTE = Note(event="a")
TOKEN = Token(access_token="fake-access-token", refresh_token="fake-refresh-token")
OWN, OTHERS = f"{GRANT} is stored and needs no consent", "grants of other usernames"


def put(
    store: TokenStore,
    username: str = USERNAME,
    target_id: str = TARGET,
    *,
    client_id: str = CLIENT,
    can_refresh: bool = True,
) -> Record:
    """Store a pair as an authorization does."""
    return store.put(
        GrantKey(client_id, Grant(target_id, username)),
        TOKEN if can_refresh else Token(access_token="fake-access-token"),
        issued_at=NOW,
        idle_until=NOW + timedelta(days=30) if can_refresh else None,
        note=NOTE,
    )


def release(store: TokenStore, state: State, *, attempts: int) -> None:
    """Store the state after a refresh."""
    claim = store.claim(put(store), owner="a", ttl=5.0)
    assert claim is not None
    store.release(claim, state=state, attempts=attempts, pause=0.0, error="a", note=NOTE)


def revoke(store: TokenStore) -> None:
    put(store)
    assert store.mark_revoked(KEY, note=NOTE)


def at_risk(store: TokenStore) -> str:
    return consents_at_risk(store, KEY, store.load(KEY), {}, NOW)


AT_RISK: dict[str, Callable[[TokenStore], object]] = {
    "active": put,
    "refreshing": lambda store: store.claim(put(store), owner="a", ttl=5.0),
    "uncertain, and a replay follows": lambda store: release(store, State.UNCERTAIN, attempts=1),
}
NOT_AT_RISK: dict[str, Callable[[TokenStore], object]] = {
    "nothing stored": lambda store: None,
    "at another target": lambda store: (put(store, target_id="IIDX00000"), put(store, "a", "IIDX")),
    "at a later target": lambda store: put(store, target_id="IIDX00002"),
    "of another client": lambda store: put(store, client_id="CIDX0000000003"),
    "without a refresh token": lambda store: put(store, can_refresh=False),
    "uncertain for good": lambda store: release(store, State.UNCERTAIN, attempts=3),
    "needs consent": lambda store: release(store, State.NEEDS_CONSENT, attempts=1),
    "revoked": revoke,
}


@pytest.mark.parametrize("state", AT_RISK)
def test_a_grant_that_needs_no_consent_is_at_risk(state: str) -> None:
    store = MemoryTokenStore(clock=lambda: NOW)
    AT_RISK[state](store)
    text = at_risk(store)
    assert OWN in text
    assert OTHERS not in text


@pytest.mark.parametrize("state", NOT_AT_RISK)
def test_a_grant_that_needs_a_consent_or_is_another_banks_is_not_at_risk(state: str) -> None:
    store = MemoryTokenStore(clock=lambda: NOW)
    NOT_AT_RISK[state](store)
    assert at_risk(store) == ""


def test_grants_of_other_usernames_are_named_apart() -> None:
    store = MemoryTokenStore(clock=lambda: NOW)
    for username in ("u-3", "u-1"):
        put(store, username)
    text = at_risk(store)
    assert f"{OTHERS} at {TARGET}: 2 (u-1, u-3)." in text
    assert OWN not in text
    put(store)
    assert OWN in at_risk(store)
    # The pair of the login's own grant is not one of the others.
    assert ": 2 (u-1, u-3)." in at_risk(store)


@define(eq=False)
class CountingStore(MemoryTokenStore):
    """A store that notes how many records each call for records may return."""

    limits: list[int] = field(factory=list)

    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        self.limits.append(limit)
        return super().records(client_id, after=after, limit=limit)


def test_of_many_grants_one_page_is_read_and_three_are_named() -> None:
    store = CountingStore(clock=lambda: NOW)
    for number in range(600):
        put(store, f"v-{number:03}")
    text = at_risk(store)
    assert ": 500 or more (v-000, v-001, v-002, …)." in text
    assert store.limits == [500]


@pytest.fixture
def opened(stored: Harness, monkeypatch: pytest.MonkeyPatch) -> list[Grant]:
    """Return a list that gets the grant of each login that would open a page."""
    grants: list[Grant] = []

    def log_in(*_: object, grant: Grant, **__: object) -> Token:
        grants.append(grant)
        return TOKEN

    monkeypatch.setattr("blink_oauth_cli.login_flow.log_in", log_in)
    return grants


def test_without_a_terminal_a_login_over_a_stored_grant_opens_nothing(
    stored: Harness, opened: list[Grant]
) -> None:
    before, exchanges = stored.rows(), len(stored.sandbox.exchanges)
    result = stored.run("login")
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    require_two_lines(result, OWN, "--yes")
    require_two_lines(result, "Nothing was opened or sent: without a terminal")
    assert opened == []
    assert (stored.rows(), len(stored.sandbox.exchanges)) == (before, exchanges)


def test_with_yes_a_login_does_not_ask(stored: Harness, opened: list[Grant]) -> None:
    assert stored.run("login", "--yes").code == 0
    assert opened == [KEY.grant]


@pytest.mark.parametrize(("answer", "code"), [(True, ExitCode.DONE), (False, ExitCode.USAGE)])
def test_on_a_terminal_a_login_asks_and_the_default_is_no(
    stored: Harness, opened: list[Grant], answer: bool, code: ExitCode
) -> None:
    asked: list[tuple[str, object]] = []

    def confirm(text: str, **options: object) -> bool:
        asked.append((text, options.get("default", False)))
        return answer

    stored.monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    stored.monkeypatch.setattr("click.confirm", confirm)
    result = stored.run("login")
    assert result.code == code
    assert OWN in result.errors.splitlines()[0]
    assert asked == [("Log in at the bank all the same?", False)]
    assert opened == ([KEY.grant] if answer else [])
    if not answer:
        assert result.errors.splitlines()[1] == "Error: Nothing was opened or sent."


def test_another_username_of_the_bank_is_asked_about_and_shown_escaped(
    stored: Harness, opened: list[Grant]
) -> None:
    with stored.open_store() as store:
        put(store, "a\x1b[31m")
    result = stored.run("login", f"{TARGET}/u-2")
    require_two_lines(result, rf"at {TARGET}: 2 (a\x1b[31m, {USERNAME}).", "--yes")
    assert opened == []
    assert stored.run("login", "IIDX00002/u-2").code == 0
    assert opened == [Grant("IIDX00002", "u-2")]


def test_a_login_after_a_revocation_does_not_ask(stored: Harness, opened: list[Grant]) -> None:
    assert stored.run("revoke", "--yes").code == 0
    assert stored.run("login").code == 0
    assert opened == [KEY.grant]
