"""What is odd in the response with a pair: in events, log, history and status."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import create_engine, text

from blink_oauth import BlinkError, ForeignResponseError, Grant, Oddity
from blink_oauth_keeper import (
    Event,
    EventName,
    GrantStatus,
    SqlTokenStore,
    TokenManager,
)
from blink_oauth_keeper.events import LEVELS
from blink_oauth_keeper.store.moving import copy_grants
from blink_oauth_keeper.store.protocol import Origin, State
from keeper.harness import (
    HEADERS,
    PSU,
    REDIRECT_URI,
    TARGET,
    TIMEOUT,
    Execute,
    Gate,
    Harness,
    Responder,
    members_of,
    response_lost,
    status_response,
    with_members,
)
from wrapper.harness import reply

ODD, AGAIN = EventName.ODD_RESPONSE, EventName.ODD_RESPONSE_AGAIN
CACHEABLE = frozenset({Oddity.CACHEABLE})
DETAIL = "odd: cacheable"


def cacheable(execute: Execute) -> httpx.Response:
    """Respond as the bank does, through a proxy that drops the headers about caching."""
    kept = {name: HEADERS[name] for name in ("Content-Type", "X-CorAPI-Source")}
    return reply(200, members_of(execute()), kept)


def named(*oddities: Oddity) -> Responder:
    """Respond as the bank does, with these oddities of a body."""
    odd: dict[Oddity, dict[str, Any]] = {
        Oddity.EXPIRES_IN_MISSING: {"expires_in": None},
        Oddity.SCOPE_UNUSABLE: {"scope": 7},
        Oddity.TOKEN_TYPE_MISSING: {"token_type": None},
    }
    members: dict[str, Any] = {}
    for oddity in oddities:
        members |= odd[oddity]
    return with_members(**members)


OPERATIONS = (Path(__file__).parents[2] / "docs/operations.md").read_text("utf-8")


def odd_events(harness: Harness) -> list[tuple[EventName, tuple[str, ...]]]:
    return [(event.name, event.oddities) for event in harness.events if event.oddities]


def statuses(manager: TokenManager, grant: Grant) -> list[frozenset[Oddity]]:
    """Return the oddities of a grant in its status and in the listing."""
    listed: list[GrantStatus] = [each for each in manager.statuses() if each.grant == grant]
    return [manager.status(grant).oddities, *(each.oddities for each in listed)]


def exchanged(harness: Harness) -> Grant:
    return harness.authorize(responder=cacheable)


def exchanged_in_a_task(harness: Harness) -> Grant:
    grant = Grant(TARGET, "u-4711")
    harness.banks.respond_next(cacheable, kind="authorization_code")
    code = harness.banks.issue_code(grant)
    asyncio.run(harness.manager.aauthorize(grant, code=code, redirect_uri=REDIRECT_URI, psu=PSU))
    return grant


def refreshed(harness: Harness) -> Grant:
    harness.banks.respond_next(cacheable)
    grant = harness.authorize()
    harness.manager.refresh(grant)
    return grant


def refreshed_in_a_task(harness: Harness) -> Grant:
    harness.banks.respond_next(cacheable)
    grant = harness.authorize()
    asyncio.run(harness.manager.arefresh(grant))
    return grant


def replayed(harness: Harness) -> Grant:
    harness.allowed_replays = 1
    harness.banks.set_policy(replay_window=60.0)
    harness.banks.respond_next(response_lost, cacheable)
    grant = harness.authorize()
    with pytest.raises(BlinkError):
        harness.manager.refresh(grant)
    harness.advance(60)
    return grant


def settled_late(harness: Harness) -> Grant:
    harness.banks.respond_next(cacheable)
    grant = harness.authorize()
    harness.faulty.fail("settle")
    harness.manager.refresh(grant)
    harness.faulty.recover()
    harness.advance(5)
    return grant


WAYS: dict[str, Callable[[Harness], Grant]] = {
    "a code exchange": exchanged,
    "a code exchange in a task": exchanged_in_a_task,
    "a refresh": refreshed,
    "a refresh in a task": refreshed_in_a_task,
    "a replay": replayed,
    "a result that is stored late": settled_late,
}


@pytest.fixture(params=["memory", "sql"])
def stored(request: pytest.FixtureRequest, harness: Harness, tmp_path: Path) -> Harness:
    """Return the harness, whose first manager has one of the stores."""
    if request.param == "sql":
        key = SqlTokenStore.new_key()
        store = SqlTokenStore(tmp_path / "tokens.db", keys=[key], clock=harness.clock.now)
        harness.faulty.inner = store
    return harness


@pytest.mark.parametrize("way", WAYS)
def test_event_history_and_status_name_what_was_odd(stored: Harness, way: str) -> None:
    grant = WAYS[way](stored)
    stored.wait_until_idle()
    assert odd_events(stored) == [(ODD, ("cacheable",))]
    (event,) = [event for event in stored.events if event.oddities]
    generation = stored.manager.status(grant).generation
    entries = stored.manager.history(grant)
    (entry, *_) = [each for each in entries if each.note.detail == DETAIL]
    assert (event.target_id, event.generation) == (TARGET, generation)
    assert (event.correlation_id, entry.generation) == (entry.note.correlation_id, generation)
    assert {each.grant for each in stored.events} == {event.grant} == {grant}
    assert (event.outcome, event.error) == ("done", None)
    assert statuses(stored.manager, grant) == [CACHEABLE, CACHEABLE]


def test_the_entry_of_a_record_that_is_written_back_names_what_was_odd(harness: Harness) -> None:
    grant = harness.authorize()
    restore = harness.back_up()
    harness.banks.respond_next(cacheable)
    harness.manager.refresh(grant)
    restore()
    harness.advance(600)
    harness.manager.get(grant)
    note = harness.manager.history(grant)[0].note
    assert (note.event, note.detail) == (EventName.STORE_BEHIND, DETAIL)
    assert statuses(harness.manager, grant) == [CACHEABLE, CACHEABLE]


def test_the_next_usual_pair_has_nothing_odd(stored: Harness) -> None:
    grant = refreshed(stored)
    stored.manager.refresh(grant)
    assert stored.manager.history(grant)[0].note.detail is None
    assert statuses(stored.manager, grant) == [frozenset(), frozenset()]


def test_a_pair_that_was_superseded_is_reported_and_keeps_its_oddities_in_the_journal(
    stored: Harness,
) -> None:
    grant = stored.expired_grant()
    gate = Gate()

    def odd_and_held(execute: Execute) -> httpx.Response:
        response = cacheable(execute)
        return gate(lambda: response)

    stored.banks.respond_next(odd_and_held)
    caller = stored.in_thread(lambda: stored.manager.get(grant))
    gate.wait()
    stored.authorize(manager=stored.make_manager())
    gate.open()
    caller.result(TIMEOUT)
    stored.wait_until_idle()
    assert odd_events(stored) == [(ODD, ("cacheable",))]
    entries = stored.store.journal_entries(stored.key(grant))
    oddities = {entry.origin: entry.token.oddities for entry in entries}
    assert oddities == {Origin.SUPERSEDED: CACHEABLE, Origin.REPLACED: frozenset()}
    assert statuses(stored.manager, grant) == [frozenset(), frozenset()]


def test_an_oddity_warns_once_for_each_target(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "blink_oauth_keeper")
    missing, scope = Oddity.EXPIRES_IN_MISSING, Oddity.SCOPE_UNUSABLE
    calls: list[tuple[str, Responder, EventName]] = [
        (TARGET, named(missing), ODD),
        (TARGET, named(missing), AGAIN),
        # A new one with a known one.
        (TARGET, named(missing, scope), ODD),
        (TARGET, named(scope), AGAIN),
        (TARGET, named(missing), AGAIN),
        ("IIDX00002", named(missing), ODD),
        ("IIDX00002", named(missing), AGAIN),
        ("IIDX00002", named(scope), ODD),
    ]
    for number, (target, responder, _) in enumerate(calls):
        harness.authorize(f"u-{number}", target, responder=responder)
    assert [name for name, _ in odd_events(harness)] == [name for *_, name in calls]
    levels = {ODD: "WARNING", AGAIN: "DEBUG"}
    records = [record for record in caplog.records if " oddities=" in record.getMessage()]
    assert [record.levelname for record in records] == [levels[name] for *_, name in calls]
    assert records[2].getMessage().endswith(" oddities=expires_in_missing,scope_unusable")


def test_each_manager_warns_for_itself(harness: Harness) -> None:
    for manager in (harness.make_manager(), harness.make_manager()):
        harness.authorize(manager=manager, responder=cacheable)
    assert [name for name, _ in odd_events(harness)] == [ODD, ODD]


def test_a_refresh_without_a_new_refresh_token_is_not_odd(stored: Harness) -> None:
    stored.banks.set_policy(rotates=False)
    grant = stored.authorize()
    token = stored.manager.refresh(grant)
    assert token.oddities == {Oddity.REFRESH_TOKEN_MISSING}
    assert odd_events(stored) == []
    assert stored.manager.history(grant)[0].note.detail is None
    assert statuses(stored.manager, grant) == [frozenset(), frozenset()]


def test_a_code_exchange_without_a_refresh_token_is_odd(stored: Harness) -> None:
    grant = stored.authorize(responder=with_members(refresh_token=None))
    missing = Oddity.REFRESH_TOKEN_MISSING
    assert odd_events(stored) == [(ODD, (missing.value,))]
    assert statuses(stored.manager, grant) == [{missing}, {missing}]


def test_a_pair_in_an_uncertain_response_names_what_was_odd(harness: Harness) -> None:
    def failing(execute: Execute) -> httpx.Response:
        return reply(500, members_of(execute()), HEADERS)

    harness.banks.respond_next(failing)
    grant = harness.authorize()
    harness.manager.refresh(grant)
    assert odd_events(harness) == [(ODD, ("status_undocumented",))]
    assert statuses(harness.manager, grant) == [{Oddity.STATUS_UNDOCUMENTED}] * 2


def test_a_listener_that_raises_costs_neither_the_pair_nor_the_entry(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    def listener(event: Event) -> None:
        raise RuntimeError(event.name)

    manager = harness.make_manager(on_event=listener)
    grant = harness.authorize(manager=manager, responder=cacheable)
    assert manager.history(grant)[0].note.detail == DETAIL
    assert statuses(manager, grant) == [CACHEABLE, CACHEABLE]
    assert any("response.odd " in record.getMessage() for record in caplog.records)


def test_the_pair_of_a_foreign_response_is_not_reported_as_odd(harness: Harness) -> None:
    pair = {"access_token": "fake-access-of-another", "refresh_token": "fake-refresh-of-another"}
    harness.banks.respond_next(status_response(200, pair, X_Correlation_ID="another"))
    grant = harness.authorize()
    with pytest.raises(ForeignResponseError):
        harness.manager.refresh(grant)
    assert odd_events(harness) == []
    assert statuses(harness.manager, grant) == [frozenset(), frozenset()]


def test_a_listing_names_what_was_odd_although_it_cannot_open_the_pair(
    harness: Harness, tmp_path: Path
) -> None:
    file = tmp_path / "tokens.db"
    store = SqlTokenStore(file, keys=[SqlTokenStore.new_key()], clock=harness.clock.now)
    grant = harness.authorize(manager=harness.make_manager(store=store), responder=cacheable)
    other = SqlTokenStore(file, keys=[SqlTokenStore.new_key()], clock=harness.clock.now)
    (status,) = harness.make_manager(store=other).statuses()
    assert (status.grant, status.state) == (grant, State.UNREADABLE)
    assert status.oddities == CACHEABLE


def test_a_listing_shows_only_names_of_oddities_and_only_those_of_the_stored_generation(
    harness: Harness, tmp_path: Path
) -> None:
    file = tmp_path / "tokens.db"
    store = SqlTokenStore(file, keys=[SqlTokenStore.new_key()], clock=harness.clock.now)
    manager = harness.make_manager(store=store)
    harness.authorize(manager=manager, responder=cacheable)
    engine = create_engine(f"sqlite:///{file}")
    with engine.begin() as connection:
        change = "UPDATE blink_oauth_history SET detail = 'odd: of a newer version, cacheable'"
        connection.execute(text(change))
        # A move adds the entries of another store behind the own ones.
        columns = "client_id, target_id, username, at, event, outcome, actor"
        older = f"""
            INSERT INTO blink_oauth_history ({columns}, generation, detail)
            SELECT {columns}, generation - 1, 'odd: scope_unusable' FROM blink_oauth_history
        """
        connection.execute(text(older))
    engine.dispose()
    assert [status.oddities for status in manager.statuses()] == [CACHEABLE]


def test_a_grant_that_moves_to_another_store_takes_its_oddities_along(
    harness: Harness, tmp_path: Path
) -> None:
    key = SqlTokenStore.new_key()
    source, target = (
        SqlTokenStore(tmp_path / name, keys=[key], clock=harness.clock.now)
        for name in ("source.db", "target.db")
    )
    # The target has an older consent with a higher generation: the generation changes.
    old = harness.make_manager(store=target)
    grant = harness.authorize(manager=old)
    for _ in range(3):
        old.refresh(grant)
    harness.advance(3600)
    new = harness.make_manager(store=source)
    for _ in range(2):
        harness.authorize(manager=new, responder=cacheable)
    copy_grants(source, target, wait=0, monotonic=harness.clock.monotonic, sleep=lambda _: None)
    moved = harness.make_manager(store=target)
    assert moved.status(grant).generation == 5
    assert statuses(moved, grant) == [CACHEABLE, CACHEABLE]
    assert statuses(new, grant) == [frozenset(), frozenset()]


def test_the_operations_page_says_what_to_do_about_each_oddity_and_each_warning() -> None:
    rows = [line for line in OPERATIONS.splitlines() if line.startswith("| `")]
    patterns = [
        pattern.replace("…", "*")
        for row in rows
        for pattern in re.findall(r"`([^`]+)`", row.split(" | ")[0])
    ]
    names = {oddity.value for oddity in Oddity}
    names |= {name.value for name in EventName if LEVELS[name] >= logging.WARNING}
    missing = {
        name for name in names if not any(fnmatchcase(name, pattern) for pattern in patterns)
    }
    assert missing == set()
