"""An argument of another type is refused before anything happens, with its name and an example."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from blink_oauth import (
    AsyncBlinkOAuth,
    AuthorizationRequest,
    BlinkOAuth,
    ClientCertificate,
    Grant,
    InvalidInputError,
    Psu,
    Settings,
    Token,
    answer_to,
    check_certificate,
    ssl_context,
)
from blink_oauth_keeper import (
    EnvironmentKeys,
    GrantKey,
    KeyFile,
    LiteralKeys,
    MemoryTokenStore,
    SqlTokenStore,
    TargetProfile,
    TokenManager,
)
from keeper.harness import Harness
from wrapper.leaks import found, texts_of_error

WRONG = cast("Any", "fake-secret-in-the-wrong-place")
SEVEN = cast("Any", 7)
GRANT = Grant("IIDX99999", "u-4711")
SETTINGS = Settings(
    base_url="https://blink.invalid/v2", client_id="CIDX0000000002", user_agent="acme-books/3.2"
)
URI = "https://app.example/callback"
KEY = "fake-key-of-the-application"
NOW = datetime(2026, 3, 4, tzinfo=UTC)
NAIVE = NOW.replace(tzinfo=None)
BANK = "https://bank.example/authorize"
CERTIFICATE = ClientCertificate("client.pem")
WRONG_MAPPING = cast("Any", {"BLINK_STORE_KEYS": WRONG})


def no_request(request: httpx.Request) -> httpx.Response:
    raise AssertionError("a request was sent")


BLINK = BlinkOAuth(SETTINGS, transport=httpx.MockTransport(no_request))
REQUEST = AuthorizationRequest.new("CIDX0000000002", GRANT, URI, key=KEY)


def new(**changes: Any) -> AuthorizationRequest:
    values: dict[str, Any] = {"client_id": "C", "grant": GRANT, "redirect_uri": URI, "key": KEY}
    return AuthorizationRequest.new(**(values | changes))


def settings(**changes: Any) -> Settings:
    return Settings(base_url="https://a.example", client_id="C", user_agent="a/1", **changes)


CLIENT: dict[str, tuple[str, str, Callable[[], object]]] = {
    "settings": ("settings", "Settings.from_env()", lambda: BlinkOAuth(WRONG)),
    "settings of the async client": (
        *("settings", "Settings.from_env()"),
        lambda: AsyncBlinkOAuth(WRONG),
    ),
    "grant": ("grant", "Grant(", lambda: BLINK.refresh(WRONG, "fake-refresh-token")),
    "psu": ("psu", "Psu.AUTO", lambda: BLINK.refresh(GRANT, "fake-refresh-token", psu=WRONG)),
    "token": ("token", "Token(", lambda: BLINK.revoke(GRANT, WRONG)),
    "client_id": ("client_id", '"CIDX', lambda: new(client_id=7)),
    "grant of a request": ("grant", "Grant(", lambda: new(grant=WRONG)),
    "redirect_uri": ("redirect_uri", '"https://', lambda: new(redirect_uri=7)),
    "restored grant": (
        *("grant", "Grant("),
        lambda: AuthorizationRequest.restore("C", WRONG, URI, state="s", key=KEY),
    ),
    "template": ("template", '"https://', lambda: REQUEST.url(SEVEN)),
    "extra": ("extra", '{"scope"', lambda: REQUEST.url(BANK, cast("Any", [("scope", "ais")]))),
    "extra, a list in it": (
        *("extra['scope']", '{"scope"'),
        lambda: REQUEST.url(BANK, cast("Any", {"scope": ["ais"]})),
    ),
    "redirect_uri, relative": ("redirect_uri", '"https://', lambda: new(redirect_uri="/callback")),
    "redirect_uri, empty": ("redirect_uri", '"https://', lambda: new(redirect_uri="")),
    "state": (
        "state",
        "AuthorizationRequest.new(",
        lambda: AuthorizationRequest("C", GRANT, URI, WRONG),
    ),
    "now": ("now", "datetime.now(UTC)", lambda: ssl_context(CERTIFICATE, now=WRONG)),
    "now, naive": ("now", "datetime.now(UTC)", lambda: ssl_context(CERTIFICATE, now=NAIVE)),
    "clock": ("clock", "datetime.now(UTC)", lambda: BlinkOAuth(SETTINGS, clock=cast("Any", NOW))),
    "clock, naive": (
        "clock",
        "datetime.now(UTC)",
        lambda: BlinkOAuth(SETTINGS, clock=lambda: NAIVE),
    ),
    "clock of the async client": (
        *("clock", "datetime.now(UTC)"),
        lambda: AsyncBlinkOAuth(SETTINGS, clock=lambda: NAIVE),
    ),
    "error": ("error", "BlinkError", lambda: answer_to(WRONG)),
    "name of a variable with keys": (
        "name",
        '"BLINK_STORE_KEYS"',
        lambda: EnvironmentKeys(WRONG_MAPPING),
    ),
    "query": ("query", '"code=', lambda: REQUEST.read_callback(cast("Any", b"code=c"))),
    "certificate": (
        *("certificate", "ClientCertificate("),
        lambda: check_certificate(WRONG, now=NOW),
    ),
    "certificate of a context": (
        *("certificate", "ClientCertificate("),
        lambda: ssl_context(WRONG, now=NOW),
    ),
    "expires_at": (
        *("expires_at", "timezone-aware datetime, such as datetime.now(UTC)"),
        lambda: Token(access_token="fake-secret-access", expires_at=WRONG),
    ),
    "expires_at, naive": (
        *("expires_at", "must have a time zone, such as datetime.now(UTC)"),
        lambda: Token(access_token="fake-secret-access", expires_at=NOW.replace(tzinfo=None)),
    ),
    "environ": ("environ", "a Mapping, such as os.environ", lambda: Settings.from_env(WRONG)),
    "trust_env": ("trust_env", "True or False", lambda: settings(trust_env="false")),
    "allow_plain_http": ("allow_plain_http", "True", lambda: settings(allow_plain_http="0")),
    "accept_foreign_correlation_id": (
        *("accept_foreign_correlation_id", "True"),
        lambda: settings(accept_foreign_correlation_id="no"),
    ),
}


def refused(call: Callable[[], object], name: str, example: str) -> None:
    """Require that a call is refused with the name of the argument and an example."""
    with pytest.raises(InvalidInputError) as caught:
        call()
    text = str(caught.value)
    assert name in text
    assert example in text
    assert "fake-secret" not in text


@pytest.mark.parametrize("case", CLIENT)
def test_the_client_refuses_an_argument_of_another_type(case: str) -> None:
    name, example, call = CLIENT[case]
    refused(call, name, example)


@pytest.mark.parametrize("value", ["3600", True, timedelta(hours=1), 0, -1, float("nan")])
@pytest.mark.parametrize(
    "name", ["advisory", "mandatory", "default_lifetime", "idle_lifetime", "rate"]
)
def test_a_profile_refuses_what_is_no_number_above_zero(name: str, value: Any) -> None:
    example = "5.0" if name == "rate" else "3_600.0"
    refused(lambda: TargetProfile(**{name: value}), f"TargetProfile.{name}", example)


@pytest.mark.parametrize("name", ["rotates", "last_attempt"])
@pytest.mark.parametrize("value", ["no", 0, None])
def test_a_profile_refuses_what_is_no_bool(name: str, value: Any) -> None:
    refused(lambda: TargetProfile(**{name: value}), f"TargetProfile.{name}", "True or False")


@pytest.mark.parametrize("value", ["once", None, 7])
def test_a_profile_names_the_ways_after_uncertainty(value: Any) -> None:
    names = '"replay_once" or "hold"'
    refused(lambda: TargetProfile(after_uncertainty=value), "after_uncertainty", names)


@pytest.mark.parametrize("name", ["journal_retention", "history_retention"])
def test_a_store_refuses_a_retention_that_is_no_timedelta(name: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {name: 7}
    refused(lambda: MemoryTokenStore(**options), name, "timedelta(days=")
    keys = [SqlTokenStore.new_key()]
    refused(lambda: SqlTokenStore(tmp_path / "t.db", keys=keys, **options), name, "timedelta(days=")


VALUES: dict[str, tuple[str, str, Callable[[], object]]] = {
    "client_id of a key": ("client_id", '"CIDX', lambda: GrantKey(SEVEN, GRANT)),
    "grant of a key": ("grant", "Grant(", lambda: GrantKey("CIDX0000000002", WRONG)),
    "path": ("path", 'a path, such as KeyFile("', lambda: KeyFile(SEVEN)),
    "one key": ("keys", "a list of keys, such as LiteralKeys([", lambda: LiteralKeys(WRONG)),
    "one key as a Secret": (
        *("keys", "a Secret"),
        lambda: LiteralKeys(cast("Any", SqlTokenStore.new_key())),
    ),
    "no list of keys": ("keys", "a list of keys", lambda: LiteralKeys(SEVEN)),
}


@pytest.mark.parametrize("case", VALUES)
def test_a_value_of_the_store_is_not_made_of_another_type(case: str) -> None:
    name, example, make = VALUES[case]
    refused(make, name, example)


def test_no_traceback_of_a_refused_key_contains_it() -> None:
    key = SqlTokenStore.new_key().reveal()
    with pytest.raises(InvalidInputError) as caught:
        LiteralKeys(key)
    assert found({key}, texts_of_error(caught.value)) == []


MANAGER: dict[str, tuple[str, str, Callable[[TokenManager], object]]] = {
    "within": ("within", "timedelta(days=10)", lambda m: m.refresh_due(within=SEVEN)),
    "within, negative": (
        *("within", "below 0"),
        lambda m: m.refresh_due(within=timedelta(days=-10)),
    ),
    "limit": ("limit", "10_000", lambda m: m.refresh_due(limit=WRONG)),
    "limit, a bool": ("limit", "10_000", lambda m: m.refresh_due(limit=True)),
    "limit, negative": ("limit", "0 or more", lambda m: m.refresh_due(limit=-1)),
    "concurrency": ("concurrency", "32", lambda m: m.refresh_due(concurrency=WRONG)),
    "concurrency, 0": ("concurrency", "1 or more", lambda m: m.refresh_due(concurrency=0)),
    "on_progress": ("on_progress", "print", lambda m: m.refresh_due(on_progress=WRONG)),
    "stop": ("stop", "stopping.is_set", lambda m: m.refresh_due(stop=cast("Any", False))),
    "stop, a coroutine function": (
        *("stop", "without async"),
        lambda m: m.refresh_due(stop=cast("Any", m.aclose)),
    ),
    "min_validity": (
        *("min_validity", "number of seconds"),
        lambda m: m.get(GRANT, min_validity=cast("Any", timedelta(minutes=5))),
    ),
    "min_validity, None": (
        *("min_validity", "30.0"),
        lambda m: m.get(GRANT, min_validity=cast("Any", None)),
    ),
    "min_validity, negative": (
        *("min_validity", "below 0"),
        lambda m: m.get(GRANT, min_validity=-1.0),
    ),
    "min_validity, nan": (
        *("min_validity", "finite"),
        lambda m: m.get(GRANT, min_validity=float("nan")),
    ),
    "timeout of get": (
        *("timeout", "number of seconds or None"),
        lambda m: m.get(Grant("IIDX1", "u"), timeout=WRONG),
    ),
    "timeout of refresh": ("timeout", "30.0", lambda m: m.refresh(GRANT, timeout=WRONG)),
    "timeout, infinite": (
        *("timeout", "finite"),
        lambda m: m.refresh(GRANT, timeout=float("inf")),
    ),
    "timeout of close": ("timeout", "30.0", lambda m: m.close(WRONG)),
    "limit of history": ("limit", "100", lambda m: m.history(GRANT, limit=WRONG)),
    "limit of history, negative": ("limit", "0 or", lambda m: m.history(GRANT, limit=-1)),
    "psu of get": ("psu", "Psu.AUTO", lambda m: m.refresh(GRANT, psu=WRONG)),
    "psu of revoke": ("psu", "Psu.AUTO", lambda m: m.revoke(GRANT, psu=WRONG)),
    "psu of authorize": (
        *("psu", "Psu.AUTO"),
        lambda m: m.authorize(GRANT, code="fake-code", redirect_uri=URI, psu=WRONG),
    ),
    "grant of adopt": (
        *("grant", "Grant("),
        lambda m: m.adopt(WRONG, refresh_token="fake-secret-refresh"),
    ),
    "refresh_token of adopt": (
        *("refresh token", "str or Secret"),
        lambda m: m.adopt(GRANT, refresh_token=SEVEN),
    ),
    "expires_at of adopt": (
        *("expires_at", "datetime.now(UTC)"),
        lambda m: m.adopt(
            GRANT, refresh_token="fake-secret-a", access_token="fake-secret-b", expires_at=WRONG
        ),
    ),
    "timeout of adopt": (
        *("timeout", "30.0"),
        lambda m: m.adopt(GRANT, refresh_token="fake-secret-refresh", timeout=WRONG),
    ),
    "psu of adopt": (
        *("psu", "Psu.AUTO"),
        lambda m: m.adopt(GRANT, refresh_token="fake-secret-refresh", psu=WRONG),
    ),
    "grant of get": ("grant", "Grant(", lambda m: m.get(cast("Any", {}))),
    "grant of status": ("grant", "Grant(", lambda m: m.status(WRONG)),
    "grant of fingerprint": ("grant", "Grant(", lambda m: m.fingerprint(WRONG)),
    "grant of auth": ("grant", "Grant(", lambda m: m.auth(WRONG, psu=Psu.AUTO)),
    "psu of auth": ("psu", "Psu.AUTO", lambda m: m.auth(GRANT, psu=WRONG)),
    "psu of headers": ("psu", "Psu.AUTO", lambda m: m.headers(GRANT, psu=WRONG)),
    "grant of invalidate": ("grant", "Grant(", lambda m: m.invalidate(WRONG, WRONG)),
    "token of invalidate": ("token", "manager.get", lambda m: m.invalidate(GRANT, WRONG)),
}


@pytest.mark.parametrize("case", MANAGER)
def test_the_manager_refuses_an_argument_of_another_type_and_changes_nothing(case: str) -> None:
    name, example, call = MANAGER[case]
    with Harness() as harness:
        harness.authorize(GRANT.username, GRANT.target_id)
        harness.faulty.calls.clear()
        requests = len(harness.banks.requests)
        refused(lambda: call(harness.manager), name, example)
        assert (harness.faulty.calls, len(harness.banks.requests)) == ([], requests)


def test_a_deadline_that_has_passed_is_a_timeout(harness: Harness) -> None:
    harness.manager.close(timeout=-1.0)
    assert harness.is_closed()


OPTIONS: dict[str, tuple[str, Any]] = {
    "lease": ("30.0", "25"),
    "threads": ("100", "5"),
    "profile": ("TargetProfile(", {}),
    "profiles": ("TargetProfile(", [TargetProfile()]),
    "profiles['IIDX99999']": ("TargetProfile(", {"IIDX99999": {}}),
    "profiles by grant": ("IIDX99999", {GRANT: TargetProfile()}),
    "on_event": ("print", 7),
    "store": ("SqlTokenStore(", "sqlite:///tokens.db"),
    "clock": ("datetime.now(UTC)", NOW),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_manager_is_not_made_with_an_argument_of_another_type(name: str) -> None:
    example, value = OPTIONS[name]
    argument = re.split(r"[ \[]", name)[0]
    options = {"store": MemoryTokenStore()} | {argument: value}
    refused(lambda: TokenManager(BLINK, **options), name.partition(" ")[0], example)


USES: dict[str, Callable[[TokenManager], object]] = {
    "get": lambda m: m.get(GRANT),
    "refresh": lambda m: m.refresh(GRANT),
    "authorize": lambda m: m.authorize(
        Grant("IIDX99999", "u-2"), code="fake-code", redirect_uri=URI, psu=Psu.AUTO
    ),
    "adopt": lambda m: m.adopt(
        Grant("IIDX99999", "u-3"),
        refresh_token="fake-secret-a",
    ),
    "status": lambda m: m.status(GRANT),
    "statuses": lambda m: list(m.statuses()),
    "refresh_due": lambda m: m.refresh_due(within=timedelta(days=40)),
    "refresh_due, dry": lambda m: m.refresh_due(dry_run=True),
}


@pytest.mark.parametrize("use", USES)
def test_a_naive_clock_is_named_where_the_manager_first_uses_it_and_nothing_is_sent(
    harness: Harness, use: str
) -> None:
    harness.authorize(GRANT.username, GRANT.target_id)
    harness.advance(86_401)
    manager = harness.make_manager(clock=lambda: NAIVE)
    requests = len(harness.banks.requests)
    refused(lambda: USES[use](manager), "clock", "datetime.now(UTC)")
    assert len(harness.banks.requests) == requests


def test_a_store_names_a_naive_clock(tmp_path: Path) -> None:
    refused(lambda: MemoryTokenStore(clock=lambda: NAIVE), "clock", "datetime.now(UTC)")
    keys = [SqlTokenStore.new_key()]
    with closing(SqlTokenStore(tmp_path / "t.db", keys=keys, clock=lambda: NAIVE)) as store:
        refused(store.create_schema, "clock", "datetime.now(UTC)")
