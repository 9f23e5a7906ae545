"""Adoption of consents whose tokens the application has kept so far."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from blink_oauth import BlinkError, Grant, InvalidInputError, NotConnectedError, Secret, Token
from blink_oauth_keeper import (
    ConsentNeededError,
    EventName,
    GrantExistsError,
    GrantMovedError,
    RefreshPendingError,
    Report,
    SqlTokenStore,
    State,
    StoreError,
)
from blink_oauth_keeper.store.protocol import GrantKey, Origin, Record
from blink_oauth_testing.sandbox.banks import IssuedTokens
from keeper.harness import (
    CLIENT_ID,
    DAY,
    PSU,
    REDIRECT_URI,
    TARGET,
    Gate,
    Harness,
    concurrently,
    connection_refused,
    request_lost,
)

GRANT = Grant(TARGET, "u-4711")
KEY = GrantKey(CLIENT_ID, GRANT)
HOUR = timedelta(hours=1)


@pytest.fixture(params=["memory", "sqlite"])
def adopting(request: pytest.FixtureRequest, harness: Harness, tmp_path: Path) -> Iterator[Harness]:
    """Yield a harness, once with the store in memory and once with one in a file."""
    if request.param == "memory":
        yield harness
        return
    keys = [SqlTokenStore.new_key()]
    with closing(SqlTokenStore(tmp_path / "t.db", keys=keys, clock=harness.clock.now)) as store:
        harness.faulty.inner = store
        yield harness
        # The harness stores unstored results at its end, in the store in memory.
        harness.wait_until_idle()
        harness.faulty.inner = harness.memory


def issued(harness: Harness, grant: Grant = GRANT) -> IssuedTokens:
    """Return the tokens that the application got from the bank by itself."""
    code = harness.banks.issue_code(grant)
    tokens = harness.banks.bank(grant.target_id).exchange_code(
        CLIENT_ID, code, REDIRECT_URI, grant.username
    )
    assert isinstance(tokens, IssuedTokens)
    return tokens


def refresh_token(harness: Harness) -> str:
    """Return a refresh token that the application got from the bank by itself."""
    token = issued(harness).refresh_token
    assert token is not None
    return token


def adopt(harness: Harness, token: str, **options: Any) -> Token:
    return harness.manager.adopt(GRANT, refresh_token=token, **options)


def stored(harness: Harness) -> Record:
    record = harness.store.load(KEY)
    assert record is not None
    return record


def history(harness: Harness) -> list[str]:
    """Return the events of the history, the oldest first."""
    return [entry.note.event for entry in reversed(harness.manager.history(GRANT))]


def require_refused(harness: Harness, error: type[BlinkError], match: str, token: str) -> None:
    """Require that an adoption is refused, and neither presents nor changes anything."""
    before, requests = stored(harness), len(harness.banks.requests)
    with pytest.raises(error, match=match):
        adopt(harness, token)
    assert stored(harness) == before
    assert len(harness.banks.requests) == requests


def test_a_refresh_token_is_stored_then_presented_once(adopting: Harness) -> None:
    old = refresh_token(adopting)
    at_the_bank: list[Record | None] = []

    def respond(execute: Callable[[], Any]) -> Any:
        at_the_bank.append(adopting.store.load(KEY))
        return execute()

    adopting.banks.respond_next(respond)
    token = adopt(adopting, old, psu=PSU)
    (during,) = at_the_bank
    assert during is not None
    assert during.token is not None
    assert (during.state, during.token.refresh_token) == (State.REFRESHING, Secret(old))
    assert adopting.banks.presented() == [old]
    assert adopting.banks.requests[-1].psu_ip == PSU.ip
    assert adopting.banks.accepts(GRANT, token)
    assert adopting.manager.get(GRANT) == token
    record = stored(adopting)
    assert (record.generation, record.consent, record.state) == (2, 1, State.ACTIVE)
    assert history(adopting) == [EventName.ADOPTED, EventName.REFRESHED]
    assert adopting.event_names() == [EventName.ADOPTED, EventName.REFRESHED]
    (entry, _) = reversed(adopting.manager.history(GRANT))
    assert (entry.generation, entry.note.actor) == (1, "psu")
    assert old not in repr(entry)


def test_a_valid_access_token_is_served_until_it_is_stale(adopting: Harness) -> None:
    tokens = issued(adopting)
    token = adopting.manager.adopt(
        GRANT,
        refresh_token=Secret(tokens.refresh_token or ""),
        access_token=tokens.access_token,
        expires_at=adopting.clock.now() + HOUR,
    )
    assert token.access_token == Secret(tokens.access_token)
    assert adopting.make_manager().get(GRANT).access_token == token.access_token
    assert adopting.banks.presented() == []
    status = adopting.manager.status(GRANT)
    assert (status.usable, status.expires_at) == (True, adopting.clock.now() + HOUR)
    adopting.advance(3_550)
    assert adopting.manager.get(GRANT).access_token != token.access_token
    assert adopting.banks.presented() == [tokens.refresh_token]


def test_an_access_token_that_has_expired_is_refreshed_at_once(adopting: Harness) -> None:
    tokens = issued(adopting)
    assert tokens.refresh_token is not None
    token = adopt(
        adopting,
        tokens.refresh_token,
        access_token=tokens.access_token,
        expires_at=adopting.clock.now() - HOUR,
    )
    assert token.access_token != Secret(tokens.access_token)
    assert adopting.banks.presented() == [tokens.refresh_token]


@pytest.mark.anyio
async def test_a_coroutine_adopts(adopting: Harness) -> None:
    old = refresh_token(adopting)
    token = await adopting.manager.aadopt(GRANT, refresh_token=old)
    assert await adopting.manager.aget(GRANT) == token
    assert await adopting.manager.aadopt(GRANT, refresh_token=old) == token
    assert adopting.banks.presented() == [old]


@pytest.mark.anyio
async def test_an_adoption_goes_on_if_its_coroutine_is_cancelled(harness: Harness) -> None:
    gate = Gate()
    harness.banks.respond_next(gate)
    old = refresh_token(harness)
    task = asyncio.create_task(harness.manager.aadopt(GRANT, refresh_token=old))
    await gate.async_wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    gate.open()
    harness.wait_until_idle()
    assert (stored(harness).generation, harness.banks.presented()) == (2, [old])


def test_a_caller_whose_timeout_passes_gets_an_error_and_the_adoption_goes_on(
    harness: Harness,
) -> None:
    gate = Gate()
    harness.banks.respond_next(gate)
    old = refresh_token(harness)
    with pytest.raises(RefreshPendingError, match="It goes on"):
        adopt(harness, old, timeout=0.05)
    gate.open()
    harness.wait_until_idle()
    assert stored(harness).generation == 2
    assert adopt(harness, old) == stored(harness).token


def test_a_second_adoption_of_the_same_token_spends_nothing(adopting: Harness) -> None:
    old = refresh_token(adopting)
    token = adopt(adopting, old)
    record = stored(adopting)
    assert adopt(adopting, old) == token
    assert adopting.make_manager().adopt(GRANT, refresh_token=old) == token
    assert stored(adopting) == record
    assert adopting.banks.presented() == [old]
    assert history(adopting).count(EventName.ADOPTED) == 1


def test_a_second_adoption_does_not_replace_a_pair_that_was_rotated_since(
    adopting: Harness,
) -> None:
    old = refresh_token(adopting)
    adopt(adopting, old)
    for _ in range(3):
        adopting.advance(DAY)
        adopting.manager.get(GRANT)
    newest = stored(adopting)
    assert newest.generation == 5
    assert adopt(adopting, old) == newest.token
    assert adopting.make_manager().adopt(GRANT, refresh_token=old) == newest.token
    assert stored(adopting) == newest
    assert adopting.banks.presented().count(old) == 1
    assert adopting.banks.accepts(GRANT, newest.token or pytest.fail("no pair"))


def test_a_process_that_read_no_record_does_not_replace_a_newer_pair(adopting: Harness) -> None:
    old = refresh_token(adopting)
    load = adopting.faulty.inner.load
    reads: list[GrantKey] = []

    def load_before_the_other_process(key: GrantKey) -> Record | None:
        reads.append(key)
        if len(reads) > 1:
            return load(key)
        del adopting.faulty.replacements["load"]
        adopting.make_manager().adopt(GRANT, refresh_token=old)
        adopting.faulty.replacements["load"] = load_before_the_other_process
        return None

    late = adopting.make_manager()
    adopting.faulty.replacements["load"] = load_before_the_other_process
    assert late.adopt(GRANT, refresh_token=old) == stored(adopting).token
    assert stored(adopting).generation == 2
    assert adopting.banks.presented() == [old]
    assert history(adopting) == [EventName.ADOPTED, EventName.REFRESHED]


def test_managers_that_adopt_at_the_same_moment_present_the_token_once(adopting: Harness) -> None:
    old = refresh_token(adopting)
    managers = [adopting.make_manager(real_waits=True) for _ in range(4)]
    waiting = iter(managers * 2)
    tokens = concurrently(lambda: next(waiting).adopt(GRANT, refresh_token=old), 8)
    assert tokens == [stored(adopting).token] * 8
    assert adopting.banks.presented() == [old]
    assert history(adopting) == [EventName.ADOPTED, EventName.REFRESHED]


def test_a_record_that_changes_with_each_try_ends_the_adoption(harness: Harness) -> None:
    harness.faulty.replacements["write_back"] = lambda *_, **__: None
    with pytest.raises(StoreError, match=r"changed.* was not presented. Adopt it again"):
        adopt(harness, refresh_token(harness))
    assert harness.banks.presented() == []


def test_after_a_kill_between_storing_and_refreshing_the_next_get_goes_on(
    adopting: Harness,
) -> None:
    old = refresh_token(adopting)
    killed = adopting.make_manager()
    adopting.faulty.fail("claim", "release")
    with pytest.raises(StoreError):
        killed.adopt(GRANT, refresh_token=old)
    assert adopting.banks.presented() == []
    adopting.faulty.recover()
    next_process = adopting.make_manager()
    status = next_process.status(GRANT)
    assert (status.state, status.usable, status.needs_consent) == (State.ACTIVE, False, False)
    assert (status.expires_at, status.refresh_at) == (None, None)
    assert list(next_process.statuses()) == [status]
    token = next_process.get(GRANT)
    assert adopting.banks.presented() == [old]
    assert next_process.adopt(GRANT, refresh_token=old) == token


def test_an_adoption_whose_result_was_lost_is_repeated(adopting: Harness) -> None:
    old = refresh_token(adopting)
    adopting.faulty.lost_results.add("write_back")
    with pytest.raises(StoreError, match=r"was not presented\. Adopt it again"):
        adopt(adopting, old)
    assert adopting.banks.presented() == []
    adopt(adopting, old)
    assert adopting.banks.presented() == [old]
    assert history(adopting) == [EventName.ADOPTED, EventName.REFRESHED]


@pytest.mark.parametrize("method", ["load", "write_back", "fingerprint"])
def test_without_the_store_nothing_is_presented(method: str, adopting: Harness) -> None:
    old = refresh_token(adopting)
    adopting.faulty.fail(method)
    with pytest.raises(StoreError, match="The refresh token was not presented"):
        adopt(adopting, old)
    adopting.faulty.recover()
    assert adopting.store.load(KEY) is None
    assert adopting.banks.presented() == []


def test_a_failed_refresh_leaves_the_token_stored(adopting: Harness) -> None:
    old = refresh_token(adopting)
    adopting.banks.respond_next(connection_refused)
    adopting.allowed_replays = 1
    with pytest.raises(NotConnectedError) as caught:
        adopt(adopting, old)
    assert caught.value.retry_after is not None
    adopting.advance(caught.value.retry_after + 0.1)
    assert adopt(adopting, old) == adopting.manager.get(GRANT) == stored(adopting).token
    assert history(adopting).count(EventName.ADOPTED) == 1


def test_an_uncertain_refresh_is_replayed_as_any_other(harness: Harness) -> None:
    old = refresh_token(harness)
    harness.banks.respond_next(request_lost)
    with pytest.raises(BlinkError):
        adopt(harness, old)
    assert stored(harness).state is State.UNCERTAIN
    harness.allowed_replays = 1
    harness.advance(30)
    assert harness.banks.presented() == [old, old]
    assert adopt(harness, old) == stored(harness).token
    assert harness.banks.accepts(GRANT, stored(harness).token or pytest.fail("no pair"))


def test_a_wrong_token_is_presented_once_and_needs_consent(adopting: Harness) -> None:
    for _ in range(2):
        with pytest.raises(BlinkError) as caught:
            adopt(adopting, "fake-wrong-refresh-token")
        assert caught.value.needs_consent
    assert adopting.banks.presented() == ["fake-wrong-refresh-token"]
    status = adopting.manager.status(GRANT)
    assert (status.state, status.needs_consent) == (State.NEEDS_CONSENT, True)


def test_after_a_refusal_another_token_is_a_new_consent(adopting: Harness) -> None:
    with pytest.raises(BlinkError):
        adopt(adopting, "fake-wrong-refresh-token")
    old = refresh_token(adopting)
    token = adopt(adopting, old)
    assert adopting.banks.accepts(GRANT, token)
    record = stored(adopting)
    assert (record.consent, record.state) == (2, State.ACTIVE)
    # The refused one was adopted before, and so was the first of the new consent.
    assert adopt(adopting, "fake-wrong-refresh-token") == token
    assert adopting.banks.presented() == ["fake-wrong-refresh-token", old]


def test_a_revoked_grant_stays_revoked(adopting: Harness) -> None:
    old = refresh_token(adopting)
    adopt(adopting, old)
    adopting.manager.revoke(GRANT)
    require_refused(adopting, ConsentNeededError, "was revoked", old)
    require_refused(adopting, ConsentNeededError, "was revoked", refresh_token(adopting))
    assert adopting.banks.presented() == [old]


def test_a_forgotten_grant_stays_forgotten(adopting: Harness) -> None:
    old = refresh_token(adopting)
    adopt(adopting, old)
    adopting.manager.forget(GRANT)
    for token in (old, refresh_token(adopting)):
        require_refused(adopting, ConsentNeededError, "was forgotten.*neither stored nor", token)
    assert history(adopting) == []
    assert adopting.banks.presented() == [old]


def test_a_token_that_was_never_refreshed_is_revoked_without_an_access_token(
    adopting: Harness,
) -> None:
    old = refresh_token(adopting)
    adopting.faulty.fail("claim", "release")
    with pytest.raises(StoreError):
        adopt(adopting, old)
    adopting.faulty.recover()
    adopting.manager.forget(GRANT)
    assert adopting.banks.presented("revoke") == [old]
    assert stored(adopting).state is State.FORGOTTEN


def test_an_adoption_that_is_forgotten_during_its_refresh_leaves_no_valid_token(
    adopting: Harness,
) -> None:
    gate = Gate()
    adopting.banks.respond_next(gate)
    old = refresh_token(adopting)
    caller = adopting.in_thread(lambda: adopt(adopting, old))
    gate.wait()
    adopting.make_manager().forget(GRANT)
    gate.open()
    with pytest.raises(BlinkError):
        caller.result()
    adopting.wait_until_idle()
    assert adopting.manager.refresh_due() == Report()
    assert stored(adopting).state is State.FORGOTTEN
    assert adopting.banks.presented() == [old]
    revoked = adopting.banks.presented("revoke")
    assert (revoked[0], len(revoked)) == (old, 3)
    assert not any(map(adopting.banks.bank(TARGET).accepts, revoked))


def test_a_grant_with_a_usable_pair_is_not_replaced(adopting: Harness) -> None:
    adopting.authorize(GRANT.username)
    other = refresh_token(adopting)
    require_refused(adopting, GrantExistsError, r"state active.*neither stored nor", other)
    own = stored(adopting).token
    assert own is not None
    assert own.refresh_token is not None
    assert adopt(adopting, own.refresh_token.reveal()) == adopting.manager.get(GRANT)
    assert adopting.banks.presented() == []


def test_an_uncertain_grant_is_not_replaced(harness: Harness) -> None:
    harness.expired_grant()
    harness.banks.respond_next(request_lost)
    with pytest.raises(BlinkError):
        harness.manager.get(GRANT)
    require_refused(harness, GrantExistsError, "state uncertain", refresh_token(harness))
    harness.allowed_replays = 1


def test_a_refresh_in_progress_is_not_replaced(harness: Harness) -> None:
    harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(GRANT))
    gate.wait()
    require_refused(harness, GrantExistsError, "state refreshing", refresh_token(harness))
    gate.open()
    assert caller.result() == stored(harness).token


def test_a_new_consent_that_is_still_to_be_stored_is_not_replaced(harness: Harness) -> None:
    old = refresh_token(harness)
    harness.faulty.fail("put")
    harness.authorize(GRANT.username)
    harness.wait_until_idle()
    with pytest.raises(RefreshPendingError, match="neither stored nor presented"):
        adopt(harness, old)
    harness.faulty.recover()
    harness.advance(1.1)
    assert history(harness) == [EventName.AUTHORIZING, EventName.AUTHORIZED]
    require_refused(harness, GrantExistsError, "state active", old)


def test_a_refused_adoption_makes_no_pause_of_a_refresh_longer(harness: Harness) -> None:
    grant = harness.expired_grant()
    for _ in range(5):
        require_refused(harness, GrantExistsError, "state active", refresh_token(harness))
    harness.banks.respond_next(connection_refused)
    with pytest.raises(NotConnectedError):
        harness.manager.get(grant)
    assert 0 < stored(harness).pause_left <= 1


def test_a_pair_without_an_access_token_is_never_revoked_or_served_by_halves(
    adopting: Harness,
) -> None:
    old = refresh_token(adopting)
    adopting.faulty.fail("claim", "release")
    with pytest.raises(StoreError):
        adopt(adopting, old)
    adopting.faulty.recover()
    adopting.advance(0.6)
    # Also by a clock that was set back: no access token of the record is served.
    adopting.clock.shift_wall_clock(-30 * DAY)
    adopting.banks.respond_next(connection_refused)
    with pytest.raises(NotConnectedError):
        adopting.make_manager().get(GRANT)
    adopting.make_manager().revoke(GRANT)
    assert adopting.banks.presented("revoke") == [old]
    assert not adopting.banks.bank().accepts(old)
    assert adopting.manager.status(GRANT).state is State.REVOKED


def test_the_replaced_pair_is_revoked_with_the_grant(adopting: Harness) -> None:
    with pytest.raises(BlinkError):
        adopt(adopting, "fake-wrong-refresh-token")
    adopt(adopting, refresh_token(adopting))
    (entry,) = adopting.store.journal_entries(KEY)
    assert (entry.origin, entry.consent) == (Origin.REPLACED, 1)
    adopting.manager.revoke(GRANT)
    assert len(adopting.banks.presented("revoke")) == 3
    assert list(adopting.store.journal_entries(KEY)) == []


def test_refresh_due_finds_an_adopted_grant_due_at_once(adopting: Harness) -> None:
    tokens = issued(adopting)
    access = {"access_token": tokens.access_token, "expires_at": adopting.clock.now() + HOUR}
    adopt(adopting, tokens.refresh_token or "", **access)
    adopting.clock.elapse(1)
    assert adopting.manager.refresh_due().refreshed == 1
    adopting.clock.elapse(1)
    assert adopting.manager.refresh_due().due == 0


def test_an_adopted_grant_moves_to_another_store(harness: Harness, tmp_path: Path) -> None:
    old = refresh_token(harness)
    stores = [
        SqlTokenStore(tmp_path / name, keys=[SqlTokenStore.new_key()], clock=harness.clock.now)
        for name in ("a.db", "b.db")
    ]
    with closing(stores[0]), closing(stores[1]):
        for store in stores:
            store.create_schema()
        first = harness.make_manager(store=stores[0])
        harness.banks.respond_next(connection_refused)
        with pytest.raises(NotConnectedError):
            first.adopt(GRANT, refresh_token=old)
        moving = stores[0].begin_move(KEY)
        assert moving is not None
        stores[1].receive(moving)
        assert stores[0].finish_move(moving)
        with pytest.raises(GrantMovedError):
            first.adopt(GRANT, refresh_token=old)
        harness.advance(1.1)
        second = harness.make_manager(store=stores[1])
        token = second.adopt(GRANT, refresh_token=old)
        assert harness.banks.accepts(GRANT, token)
        harness.wait_until_idle()
    assert harness.banks.presented() == [old, old]
    harness.allowed_replays = 1


def test_an_access_token_needs_its_expiry(harness: Harness) -> None:
    options: list[dict[str, Any]] = [
        {"access_token": "fake-access"},
        {"expires_at": harness.clock.now()},
        {"access_token": "fake-access", "expires_at": datetime(2026, 3, 4)},  # noqa: DTZ001
        {"access_token": "fake-access", "expires_at": 3600},
        {"access_token": ""},
    ]
    for each in options:
        with pytest.raises(InvalidInputError, match="Nothing was sent") as caught:
            adopt(harness, "fake-refresh", **each)
        assert "fake-" not in str(caught.value)
    assert harness.faulty.calls == []
