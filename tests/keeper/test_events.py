"""The events of the keeper: stable names and fields, and no secret."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import attrs
import httpx
import pytest

from blink_oauth import BlinkError, Grant
from blink_oauth_keeper import Event, EventName
from blink_oauth_keeper.events import LEVELS
from blink_oauth_keeper.executor import log_event
from keeper.harness import (
    CLIENT_ID,
    PSU,
    REDIRECT_URI,
    START,
    TARGET,
    TIMEOUT,
    Execute,
    Gate,
    Harness,
    connection_refused,
    response_lost,
    status_response,
    with_members,
)
from wrapper.leaks import found, texts_of

NAMES = {
    "certificate.expiring": "WARNING",
    "certificate.refused": "ERROR",
    "certificate.renewed": "INFO",
    "grant.adopted": "INFO",
    "grant.attention_needed": "ERROR",
    "grant.authorization_failed": "WARNING",
    "grant.authorizing": "INFO",
    "grant.authorized": "INFO",
    "grant.consent_needed": "ERROR",
    "grant.forgotten": "INFO",
    "grant.moved": "INFO",
    "grant.revocation_failed": "ERROR",
    "grant.revoked": "INFO",
    "grant.revoking": "INFO",
    "notice.dead": "ERROR",
    "refresh.abandoned": "WARNING",
    "refresh.failed": "WARNING",
    "refresh.replayed": "WARNING",
    "refresh.salvaged": "WARNING",
    "refresh.succeeded": "INFO",
    "refresh.superseded": "WARNING",
    "refresh.uncertain": "ERROR",
    "response.foreign": "CRITICAL",
    "response.odd": "WARNING",
    "response.odd_again": "DEBUG",
    "store.behind": "CRITICAL",
    "store.lost": "CRITICAL",
    "store.settled_late": "WARNING",
    "store.unreadable": "CRITICAL",
    "store.unsettled": "CRITICAL",
}
"""Alerts depend on these: a name may be added, but not removed or changed."""
FIELDS = {
    "at",
    "certificate",
    "correlation_id",
    "count",
    "error",
    "expires_at",
    "fingerprint",
    "foreign_correlation_id",
    "generation",
    "grant",
    "name",
    "oddities",
    "outcome",
    "role",
    "rules",
    "seconds",
    "stage",
    "state",
    "status",
    "target_id",
}
LOGGER = "blink_oauth_keeper"


def test_names_and_levels_of_events_do_not_change() -> None:
    levels = {name.value: logging.getLevelName(LEVELS[name]) for name in EventName}
    assert levels == NAMES
    assert LEVELS.keys() == set(EventName)


def test_fields_of_events_do_not_change() -> None:
    assert {field.name for field in attrs.fields(Event)} == FIELDS


def authorized(harness: Harness) -> None:
    harness.authorize()


def not_authorized(harness: Harness) -> None:
    harness.banks.respond_next(
        status_response(400, {"error": "invalid_grant"}), kind="authorization_code"
    )
    with pytest.raises(BlinkError):
        harness.manager.authorize(
            Grant(TARGET, "u-4711"), code="fake-code", redirect_uri=REDIRECT_URI, psu=PSU
        )


def refreshed(harness: Harness) -> None:
    harness.manager.get(harness.expired_grant())


def failed(harness: Harness) -> None:
    harness.banks.respond_next(connection_refused)
    with pytest.raises(BlinkError):
        harness.manager.get(harness.expired_grant())


def uncertain_then_replayed(harness: Harness) -> None:
    harness.allowed_replays = 1
    harness.banks.set_policy(replay_window=60.0)
    harness.banks.respond_next(response_lost)
    grant = harness.expired_grant()
    with pytest.raises(BlinkError):
        harness.manager.get(grant)
    harness.advance(60)


def consent_needed(harness: Harness) -> None:
    harness.banks.respond_next(
        status_response(400, {"error": "invalid_grant", "error_description": "expired"})
    )
    with pytest.raises(BlinkError):
        harness.manager.get(harness.expired_grant())


def superseded(harness: Harness) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    harness.authorize(manager=harness.make_manager())
    gate.open()
    caller.result(TIMEOUT)


def revoked(harness: Harness) -> None:
    harness.manager.revoke(harness.authorize())


def not_revoked(harness: Harness) -> None:
    grant = harness.authorize()
    harness.banks.respond_always(connection_refused, kind="revoke")
    with pytest.raises(BlinkError):
        harness.manager.revoke(grant)


def settled_late(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.fail("settle")
    harness.manager.get(grant)
    harness.faulty.recover()
    harness.advance(5)


def foreign(harness: Harness) -> None:
    pair = {"access_token": "fake-access-of-another", "refresh_token": "fake-refresh-of-another"}
    # Its id may be any text of the peer.
    harness.banks.respond_next(
        status_response(200, pair, X_Correlation_ID="fake-access-of-another")
    )
    with pytest.raises(BlinkError):
        harness.manager.get(harness.expired_grant())


def odd(harness: Harness) -> None:
    # An odd value may be a secret; only the name of the oddity is reported.
    harness.banks.respond_always(with_members(token_type="fake-access-of-another"))
    grant = harness.expired_grant()
    for _ in range(2):
        harness.manager.refresh(grant)


def restored(harness: Harness) -> None:
    grant = harness.authorize()
    restore = harness.back_up()
    harness.manager.refresh(grant)
    restore()
    harness.advance(600)
    harness.manager.get(grant)


SCENARIOS: dict[str, tuple[Callable[[Harness], None], list[str]]] = {
    "a code is exchanged": (authorized, ["grant.authorized"]),
    "a code is refused": (not_authorized, ["grant.authorization_failed"]),
    "a token is refreshed": (refreshed, ["grant.authorized", "refresh.succeeded"]),
    "a refresh fails": (failed, ["grant.authorized", "refresh.failed"]),
    "a response is lost": (
        uncertain_then_replayed,
        ["grant.authorized", "refresh.uncertain", "refresh.replayed", "refresh.succeeded"],
    ),
    "a refresh is refused": (consent_needed, ["grant.authorized", "grant.consent_needed"]),
    "a grant is authorized during a refresh": (
        superseded,
        ["grant.authorized", "grant.authorized", "refresh.superseded"],
    ),
    "a grant is revoked": (
        revoked,
        ["grant.authorized", "grant.revoking", "grant.revoked"],
    ),
    "a revocation fails": (
        not_revoked,
        ["grant.authorized", "grant.revoking", "grant.revocation_failed"],
    ),
    "a response belongs to another request": (
        foreign,
        ["grant.authorized", "response.foreign", "refresh.uncertain"],
    ),
    "two responses are odd in the same way": (
        odd,
        [
            *["grant.authorized", "response.odd", "refresh.succeeded"],
            *["response.odd_again", "refresh.succeeded"],
        ],
    ),
    "the store is restored from a backup": (
        restored,
        ["grant.authorized", "refresh.succeeded", "store.behind"],
    ),
    "the store fails for a while": (
        settled_late,
        ["grant.authorized", "store.unsettled", "store.settled_late", "refresh.succeeded"],
    ),
}
EACH_SCENARIO = pytest.mark.parametrize("name", SCENARIOS)


def run_scenario(name: str, harness: Harness) -> list[Event]:
    """Run a scenario, and return its events."""
    SCENARIOS[name][0](harness)
    harness.wait_until_idle()
    return harness.events


def secrets_of(harness: Harness) -> set[str]:
    """Return every code and token that was sent, stored or journaled."""
    secrets = {request.secret for request in harness.banks.requests}
    for record in harness.memory.records(CLIENT_ID):
        pairs = [entry.token for entry in harness.memory.journal_entries(record.key)]
        stored = harness.memory.load(record.key)
        if stored is not None and stored.token is not None:
            pairs.append(stored.token)
        for pair in pairs:
            secrets.add(pair.access_token.reveal())
            secrets |= {pair.refresh_token.reveal()} if pair.refresh_token else set()
    return secrets


def texts_of_record(record: logging.LogRecord) -> Iterator[tuple[str, str]]:
    """Yield every text of a log record, with those of its extra fields."""
    yield "message", record.getMessage()
    yield "formatted", logging.Formatter().format(record)
    yield from ((f"field {name}", repr(value)) for name, value in vars(record).items())


@EACH_SCENARIO
def test_each_scenario_emits_its_events_in_order(name: str, harness: Harness) -> None:
    assert [event.name.value for event in run_scenario(name, harness)] == SCENARIOS[name][1]


@EACH_SCENARIO
def test_no_event_and_no_log_record_contains_a_secret_or_a_username(
    name: str, harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    events = run_scenario(name, harness)
    secrets = secrets_of(harness)
    secrets.add("fake-access-of-another")
    assert len(secrets) > 1
    assert events
    logged = [text for record in caplog.records for text in texts_of_record(record)]
    texts = [text for event in events for text in texts_of(event)]
    assert found(secrets, texts) == []
    # Its attribute `grant` names the customer, and so does a pickle, but nothing that is logged.
    printed = [(place, text) for place, text in texts if place != "pickle"]
    assert found({*secrets, "u-4711"}, [*printed, *logged]) == []
    assert {event.grant for event in events} == {Grant(TARGET, "u-4711")}


@EACH_SCENARIO
def test_each_event_is_logged_with_its_level_and_all_its_fields(
    name: str, harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    events = run_scenario(name, harness)
    records = [record for record in caplog.records if record.name == LOGGER]
    assert len(records) == len(events)
    for event, record in zip(events, records, strict=True):
        assert record.levelname == NAMES[event.name.value]
        assert record.getMessage().startswith(f"{event.name.value} grant={event.fingerprint} ")
        fields = {key: value for key, value in vars(record).items() if key.startswith("blink_")}
        values = attrs.asdict(event, recurse=False)
        # In a log `grant` is the fingerprint.
        values["grant"] = values.pop("fingerprint")
        assert fields == {f"blink_{key}": value for key, value in values.items()}


def test_an_event_names_the_grant_the_request_the_generation_and_the_duration(
    harness: Harness,
) -> None:
    def slow_response(execute: Execute) -> httpx.Response:
        harness.clock.elapse(1.5)
        return execute()

    harness.banks.respond_always(slow_response)
    grant = harness.expired_grant()
    harness.manager.get(grant)
    authorization, refresh = harness.events
    assert refresh.grant == authorization.grant == grant
    assert refresh.fingerprint == authorization.fingerprint
    assert refresh.fingerprint in repr(refresh)
    assert harness.manager.fingerprint(grant) == refresh.fingerprint
    assert TARGET in repr(refresh)
    assert refresh.target_id == TARGET
    assert (authorization.generation, refresh.generation) == (1, 2)
    assert refresh.state == "active"
    assert refresh.correlation_id == harness.record(grant).correlation_id
    assert refresh.correlation_id != authorization.correlation_id
    assert (refresh.outcome, refresh.error, refresh.status) == ("done", None, None)
    assert refresh.seconds == 1.5
    assert refresh.at == harness.clock.now()


def test_the_event_of_a_failure_names_the_error_the_status_and_the_outcome(
    harness: Harness,
) -> None:
    harness.banks.respond_next(status_response(503))
    with pytest.raises(BlinkError) as caught:
        harness.manager.get(harness.expired_grant())
    event = harness.events[-1]
    assert (event.error, event.status) == ("StatusError", 503)
    assert event.outcome == caught.value.outcome
    assert event.correlation_id == caught.value.correlation_id
    assert event.seconds is not None


def test_fingerprints_of_different_grants_differ(harness: Harness) -> None:
    for username in ("u-1", "u-2", "u-1"):
        harness.authorize(username)
    first, second, third = [event.fingerprint for event in harness.events]
    assert first == third != second
    assert len(first) >= 16


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt()])
def test_an_exception_in_a_listener_is_logged_and_changes_nothing(
    error: BaseException, harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    def listener(event: Event) -> None:
        raise error

    manager = harness.make_manager(on_event=listener)
    grant = harness.authorize(manager=manager)
    token = manager.get(grant)
    harness.advance(25 * 3600)
    assert manager.get(grant).access_token != token.access_token
    assert harness.record(grant).generation == 2
    errors = [record for record in caplog.records if record.exc_info]
    assert len(errors) == 2
    assert all(record.levelno == logging.ERROR for record in errors)


def test_an_event_is_logged_by_the_logger_of_the_keeper(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    log_event(
        Event(
            name=EventName.REFRESHED,
            at=datetime(2026, 3, 4, tzinfo=UTC),
            grant=Grant(TARGET, "u-4711"),
            fingerprint="f",
            target_id="t",
        )
    )
    (record,) = caplog.records
    assert record.getMessage() == (
        "refresh.succeeded grant=f target=t generation=None correlation_id=None outcome=done "
        "error=None"
    )


@pytest.mark.parametrize(("level", "built"), [(logging.INFO, True), (logging.WARNING, False)])
def test_no_event_is_built_if_it_is_neither_logged_nor_listened_to(
    level: int, built: bool, harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(level, LOGGER)
    fingerprints: list[str] = []
    original = harness.store.fingerprint

    def fingerprint(text: str) -> str:
        fingerprints.append(text)
        return original(text)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness.store, "fingerprint", fingerprint)
        harness.authorize(manager=harness.make_manager(on_event=None))
    assert bool(fingerprints) is built
    assert bool(caplog.records) is built


def test_events_carry_the_time_of_the_managers_clock(harness: Harness) -> None:
    harness.authorize(responder=with_members(expires_in=None))
    assert harness.events[0].at == START
