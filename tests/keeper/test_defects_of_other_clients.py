"""Defects of other token clients, with a test for each that the keeper does not have it.

Each docstring names the project, its issue where there is one, and the defect. Defects in signing
requests are in `test_auth`, those of databases in the tests of the stores.
"""

from __future__ import annotations

import asyncio
import logging
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import pytest

from blink_oauth import BlinkError, InvalidGrantError, StatusError, Token
from blink_oauth_keeper import (
    ConsentNeededError,
    Event,
    EventName,
    RefreshPausedError,
    RefreshPendingError,
    StoreError,
    TargetProfile,
)
from blink_oauth_keeper.cache import CachedToken, Deadline
from blink_oauth_keeper.store.protocol import Origin, State
from keeper.harness import (
    DAY,
    TIMEOUT,
    Execute,
    Gate,
    Harness,
    Responder,
    concurrently,
    connection_refused,
    request_lost,
    response_lost,
    status_response,
    wait_until,
    with_members,
)

INVALID_GRANT = status_response(400, {"error": "invalid_grant"})


def refresh_count(harness: Harness) -> int:
    """Return how many refresh requests reached the platform."""
    return len(harness.banks.presented())


# One refresh for all callers


@pytest.mark.anyio
async def test_a_lifetime_below_the_leeway_does_not_make_each_coroutine_refresh(
    harness: Harness,
) -> None:
    """Authlib (async): lifetime 30 s, leeway 60 s, 10 coroutines: 10 requests, family revoked."""
    harness.banks.set_policy(access_token_lifetime=30)
    grant = harness.expired_grant()
    tokens = await asyncio.gather(*(harness.manager.aget(grant) for _ in range(10)))
    assert len(set(tokens)) == 1
    assert refresh_count(harness) == 1
    assert await harness.manager.aget(grant) == tokens[0]
    assert harness.banks.accepts(grant, tokens[0])


def test_threads_that_share_an_expired_token_refresh_it_once(harness: Harness) -> None:
    """Authlib (sync), requests-oauthlib, requests_oauth2client, google-auth, MSAL: 8 requests."""
    grant = harness.expired_grant()
    results = concurrently(lambda: harness.manager.get(grant), 8)
    assert len(set(results)) == 1
    assert refresh_count(harness) == 1


def test_several_managers_on_one_store_refresh_once(harness: Harness) -> None:
    """Authlib 673: each client object has its own lock, and frameworks make one per request."""
    managers = [harness.make_manager(real_waits=True) for _ in range(4)]
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    calls = [harness.in_thread(partial(manager.get, grant)) for manager in managers]
    gate.wait()
    gate.open()
    tokens = {call.result(TIMEOUT).access_token for call in calls}
    assert len(tokens) == 1
    assert refresh_count(harness) == 1


def test_a_late_claim_on_an_old_record_starts_no_second_refresh(harness: Harness) -> None:
    """Duende: the store is not read again between reading a token and presenting it."""
    first, second = harness.make_manager(real_waits=True), harness.make_manager(real_waits=True)
    grant = harness.expired_grant()
    read, proceed = threading.Event(), threading.Event()
    claim = harness.memory.claim

    def late_claim(*args: Any, **options: Any) -> object:
        if not read.is_set():
            read.set()
            assert proceed.wait(TIMEOUT)
        return claim(*args, **options)

    harness.faulty.replacements["claim"] = late_claim
    late_caller = harness.in_thread(lambda: first.get(grant))
    assert read.wait(TIMEOUT)
    token = second.get(grant)
    proceed.set()
    assert late_caller.result(TIMEOUT).access_token == token.access_token
    assert refresh_count(harness) == 1


def test_a_token_that_is_refused_during_a_refresh_is_not_served_after_the_refresh_fails(
    harness: Harness,
) -> None:
    """Anthropic 1841: a 401 during a refresh is forgotten."""
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.advance(DAY - 1800)
    gate = Gate(connection_refused, holds_request=True)
    harness.banks.respond_next(gate)
    harness.manager.get(grant)
    gate.wait()
    harness.manager.invalidate(grant, old)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.open()
    # The record of the failed flight still has the refused token, which must not be cached again.
    with pytest.raises(BlinkError):
        caller.result(TIMEOUT)
    harness.advance(60)
    assert harness.manager.get(grant) != old
    harness.allowed_replays = 1


def test_a_caller_with_a_refused_token_gets_the_newer_one_of_the_refresh_in_progress(
    harness: Harness,
) -> None:
    """Anthropic 1841, the other order: the refresh in progress receives a newer token."""
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.advance(DAY - 1800)
    gate = Gate()
    harness.banks.respond_next(gate)
    harness.manager.get(grant)
    gate.wait()
    harness.manager.invalidate(grant, old)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.open()
    assert caller.result(TIMEOUT) != old
    assert refresh_count(harness) == 1


def test_grants_are_kept_apart_even_with_the_same_refresh_token(harness: Harness) -> None:
    """Duende 360: refreshes are shared by refresh token, so a caller gets another grant's token."""
    harness.banks.set_policy("IIDX00001", rotates=False)
    first, second = harness.expired_grant("u-1"), harness.expired_grant("u-2")
    gate = Gate()
    harness.banks.respond_always(gate)
    calls = [harness.in_thread(lambda: harness.manager.get(first)) for _ in range(2)]
    calls += [harness.in_thread(lambda: harness.manager.get(second)) for _ in range(2)]
    gate.wait(2)
    gate.open()
    one, same, other, same_other = (call.result(TIMEOUT) for call in calls)
    assert one == same != other == same_other
    assert {
        request.username for request in harness.banks.requests if request.kind == "refresh_token"
    } == {
        "u-1",
        "u-2",
    }


def test_callers_that_share_a_failed_refresh_start_no_further_ones(harness: Harness) -> None:
    """Authlib (async): 200 requests one after the other; MSAL.NET 4196: a 429 never ends."""
    grant = harness.expired_grant()
    gate = Gate(status_response(503), holds_request=True)
    harness.banks.respond_next(gate)
    callers = harness.in_thread(lambda: concurrently(lambda: harness.manager.get(grant), 64))
    gate.wait()
    gate.open()
    assert {type(error) for error in callers.result(TIMEOUT)} == {StatusError}
    assert refresh_count(harness) == 1


def test_a_refused_refresh_token_is_presented_once(harness: Harness) -> None:
    """MSAL caches failed responses so that an `invalid_grant` is not requested again."""
    grant = harness.expired_grant()
    harness.banks.respond_always(INVALID_GRANT)
    for _ in range(20):
        with pytest.raises(BlinkError) as caught:
            harness.manager.get(grant)
        assert caught.value.needs_consent
        harness.advance(61)
    assert refresh_count(harness) == 1


def test_invalidating_each_fresh_token_does_not_cause_a_refresh_loop(harness: Harness) -> None:
    """Spring 10016 and 12309: a 401 to each fresh token causes endless retries."""
    grant = harness.authorize()
    for _ in range(10):
        harness.manager.invalidate(grant, harness.manager.get(grant))
    assert refresh_count(harness) == 0
    harness.advance(61)
    for _ in range(10):
        harness.manager.invalidate(grant, harness.manager.get(grant))
    assert refresh_count(harness) == 1


# Callers that stop waiting


@pytest.mark.anyio
async def test_cancelling_the_first_caller_does_not_cancel_the_flight(harness: Harness) -> None:
    """Duende, go-sdk 988, openclaw 93952: cancelling the first caller cancels the refresh."""
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    first = asyncio.create_task(harness.manager.aget(grant))
    await gate.async_wait()
    second = asyncio.create_task(harness.manager.aget(grant))
    await asyncio.sleep(0)
    first.cancel()
    gate.open()
    assert (await second).access_token
    assert first.cancelled()
    assert harness.record(grant).generation == 2


def test_a_caller_can_stop_waiting(harness: Harness) -> None:
    """x/oauth2 388: a mutex is held during the request, and callers cannot stop waiting."""
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    first = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    with pytest.raises(RefreshPendingError):
        harness.manager.get(grant, timeout=0)
    gate.open()
    assert first.result(TIMEOUT)


def test_event_loops_that_share_a_manager_do_not_block_each_other(harness: Harness) -> None:
    """deer-flow 4240: one asyncio lock shared by several event loops deadlocks."""
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    with ThreadPoolExecutor(3) as pool:
        loops = [pool.submit(asyncio.run, harness.manager.aget(grant)) for _ in range(3)]
        gate.wait()
        # Another event loop starts and ends during the refresh.
        with pytest.raises(RefreshPendingError):
            asyncio.run(harness.manager.aget(grant, timeout=0))
        gate.open()
        assert len({loop.result(TIMEOUT) for loop in loops}) == 1
    assert refresh_count(harness) == 1


def test_no_lock_is_held_during_a_request_to_a_bank(harness: Harness) -> None:
    """MCP SDK 1326: a lock is held during the request, and a second request waits for it."""
    slow, other = harness.expired_grant("u-1"), harness.expired_grant("u-2")
    fresh = harness.authorize("u-3")
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(slow))
    gate.wait()
    assert harness.manager.get(fresh)
    assert harness.manager.get(other)
    assert harness.manager.status(slow).state is State.REFRESHING
    assert not caller.done()
    gate.open()
    caller.result(TIMEOUT)


def test_after_an_unexpected_error_in_a_flight_the_next_call_starts_another(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """Nango 1005: an entry stays in the table of running refreshes, and blocks all later ones."""
    grant = harness.expired_grant()

    def broken(execute: Execute) -> httpx.Response:
        raise MemoryError

    harness.banks.respond_next(broken)
    with pytest.raises(MemoryError):
        harness.manager.get(grant)
    harness.advance(26)
    assert harness.manager.get(grant)
    assert "A flight broke" in caplog.text
    harness.allowed_replays = 1


# Received pairs


@pytest.mark.parametrize("lifetime", ["soon", [], {}, -1, "NaN", 1e400, True])
def test_an_invalid_lifetime_does_not_lose_the_pair(harness: Harness, lifetime: object) -> None:
    """Authlib, httpx-oauth: `int(expires_in)` raises after the server has rotated."""
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(expires_in=lifetime))
    token = harness.manager.get(grant)
    assert harness.record(grant).token == token
    assert harness.banks.accepts(grant, token)


def test_a_token_without_a_lifetime_is_refreshed_too(harness: Harness) -> None:
    """Authlib 530, requests-oauthlib 434: `is_expired()` is None, and nothing is refreshed."""
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(expires_in=None))
    old = harness.manager.get(grant)
    harness.advance(3601)
    assert harness.manager.get(grant) != old


@pytest.mark.parametrize("scope", ["accounts", "", None, ["accounts"], 7])
def test_a_narrowed_scope_does_not_lose_the_pair(harness: Harness, scope: object) -> None:
    """requests-oauthlib, oauthlib 562: a changed scope raises after the server has rotated."""
    grant = harness.authorize(responder=with_members(scope="accounts payments"))
    harness.advance(DAY + 1)
    harness.banks.respond_next(with_members(scope=scope))
    token = harness.manager.get(grant)
    assert harness.record(grant).token == token
    assert harness.banks.accepts(grant, token)


@pytest.mark.parametrize("error", [ValueError("defect"), SystemExit(1)])
def test_a_listener_that_raises_loses_nothing(
    harness: Harness, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """Authlib (async): a hook that is not a coroutine raises, and the new pair is lost."""

    def listener(event: Event) -> None:
        raise error

    harness.make_manager(on_event=listener)
    grant = harness.expired_grant()
    harness.faulty.fail("settle")
    token = harness.manager.get(grant)
    harness.faulty.recover()
    harness.advance(1)
    record = harness.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert "could not be logged or delivered" in caplog.text


def test_a_pair_is_stored_before_a_caller_gets_it(harness: Harness) -> None:
    """x/oauth2 84, Authlib 796: no hook, or one that is called too late and names no grant."""
    grant = harness.expired_grant()
    settling, proceed = threading.Event(), threading.Event()
    settle = harness.memory.settle

    def slow_settle(*args: Any, **options: Any) -> object:
        settling.set()
        assert proceed.wait(TIMEOUT)
        return settle(*args, **options)

    harness.faulty.replacements["settle"] = slow_settle
    callers = [harness.in_thread(lambda: harness.manager.get(grant)) for _ in range(4)]
    assert settling.wait(TIMEOUT)
    with pytest.raises(RefreshPendingError):
        harness.manager.get(grant, timeout=0)
    assert not any(caller.done() for caller in callers)
    proceed.set()
    stored = {caller.result(TIMEOUT) for caller in callers}
    assert stored == {harness.record(grant).token}


def test_a_response_without_a_refresh_token_keeps_the_old_one(harness: Harness) -> None:
    """botocore drops it, simple-oauth2 58 sets it to undefined (RFC 6749 section 6)."""
    harness.banks.set_policy(rotates=False)
    grant = harness.authorize()
    before = harness.record(grant).token
    assert before is not None
    for _ in range(3):
        harness.advance(DAY + 1)
        assert harness.manager.get(grant).refresh_token == before.refresh_token
    harness.allowed_replays = 2


def test_nothing_is_deleted_before_the_refresh_has_succeeded(harness: Harness) -> None:
    """httpx_auth: the entry is deleted first, so none is left after a failure."""
    grant = harness.expired_grant()
    before = harness.record(grant).token
    gate = Gate(connection_refused)
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    assert harness.record(grant).token == before
    gate.open()
    with pytest.raises(BlinkError):
        caller.result(TIMEOUT)
    assert harness.record(grant).token == before


def test_the_refused_replay_of_a_slow_process_does_not_change_the_stored_pair(
    harness: Harness,
) -> None:
    """Spring: on `invalid_grant` the loser of a race deletes the record of the winner."""
    grant = harness.expired_grant()
    late = Gate(holds_request=True)
    harness.banks.respond_next(late)
    slow_caller = harness.in_thread(lambda: harness.manager.get(grant))
    late.wait()
    harness.clock.elapse(26)
    stored = harness.make_manager().get(grant)
    harness.banks.set_policy(on_reuse="refuse")
    late.open()
    assert slow_caller.result(TIMEOUT).access_token == stored.access_token
    record = harness.record(grant)
    assert (record.state, record.generation) == (State.ACTIVE, 2)
    assert harness.banks.accepts(grant, stored)
    harness.allowed_replays = 1


def test_a_pair_that_arrives_after_the_end_of_its_lease_is_stored(harness: Harness) -> None:
    """appstrate 1366, litellm 31493: only the owner may settle, and the usable pair is dropped."""
    grant = harness.expired_grant()
    slow = Gate()
    harness.banks.respond_next(slow)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    slow.wait()
    harness.clock.elapse(26)
    assert harness.memory.claim(harness.record(grant), owner="another owner", ttl=25)
    slow.open()
    token = caller.result(TIMEOUT)
    assert harness.banks.accepts(grant, token)
    assert harness.record(grant).token == harness.manager.get(grant)
    assert harness.record(grant).lease_left == 0


def test_a_process_does_not_release_the_lease_of_the_next_owner(harness: Harness) -> None:
    """APIFold 53: a lock without an owner is released by another process."""
    grant = harness.expired_grant()
    slow = Gate(connection_refused)
    harness.banks.respond_next(slow)
    caller = harness.in_thread(lambda: harness.manager.get(grant, timeout=TIMEOUT))
    slow.wait()
    harness.clock.elapse(26)
    assert harness.memory.claim(harness.record(grant), owner="another owner", ttl=25)
    slow.open()
    wait_until(lambda: harness.waiting() == 1)
    assert not caller.done()
    record = harness.record(grant)
    assert (record.owner, record.state) == ("another owner", State.REFRESHING)
    assert record.lease_left == 25
    harness.manager.close()
    with pytest.raises(RefreshPendingError):
        caller.result(TIMEOUT)


def test_settling_the_same_pair_twice_counts_once(harness: Harness) -> None:
    """codex-lb 1254: randomised ciphertext never compares equal, and the new pair is dropped."""
    grant = harness.expired_grant()
    harness.faulty.lost_results = {"settle"}
    harness.manager.get(grant)
    harness.advance(1)
    # The second call stores nothing: neither a generation nor a journal entry.
    assert harness.faulty.calls.count("settle") == 2
    assert harness.record(grant).generation == 2
    assert harness.memory.journal_entries(harness.key(grant)) == ()


def test_other_writes_to_a_record_do_not_make_settling_fail(harness: Harness) -> None:
    """Floway 340: a write to another column changes the version, and the new pair is dropped."""
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    claim = harness.record(grant)
    harness.memory.journal(claim, Token(access_token="fake-odd"), origin=Origin.ERROR)
    harness.memory.purge()
    gate.open()
    token = caller.result(TIMEOUT)
    assert harness.record(grant).generation == 2
    assert harness.banks.accepts(grant, token)


# Refresh tokens that may be spent


@pytest.mark.parametrize("status", [500, 502, 504, 408, 429])
def test_a_failed_token_request_is_not_repeated_at_once(harness: Harness, status: int) -> None:
    """google-auth: up to three tries on retryable codes, also after a server has rotated."""
    grant = harness.expired_grant()

    def executed(execute: Execute) -> httpx.Response:
        execute()
        return status_response(status)(execute)

    harness.banks.respond_next(executed)
    with pytest.raises(StatusError):
        harness.manager.get(grant)
    assert refresh_count(harness) == 1
    # A 500 ends the request, so that the one replay is made a second later.
    harness.allowed_replays = int(status == 500)


@pytest.mark.parametrize(
    "responder",
    [status_response(400, {"error": "invalid_client"}), status_response(401), response_lost],
)
def test_no_error_makes_the_client_send_the_same_refresh_token_again(
    harness: Harness, responder: Responder
) -> None:
    """x/oauth2: while it detects the authentication style, any error makes it send again."""
    grant = harness.expired_grant()
    harness.banks.respond_next(responder)
    with pytest.raises(BlinkError):
        harness.manager.get(grant)
    assert refresh_count(harness) == 1


def test_the_attempt_is_stored_before_the_refresh_token_is_sent(harness: Harness) -> None:
    """Vault plugin: no attempt is stored, so it is unknown what a crashed process has spent."""
    grant = harness.expired_grant()
    seen: list[tuple[State, int]] = []

    def recording(execute: Execute) -> httpx.Response:
        record = harness.record(grant)
        seen.append((record.state, record.attempts))
        return execute()

    harness.banks.respond_next(recording)
    harness.manager.get(grant)
    assert seen == [(State.REFRESHING, 1)]


def test_no_refresh_token_is_sent_if_the_claim_cannot_be_stored(harness: Harness) -> None:
    """executor 1377: the write fails after the grant is spent."""
    grant = harness.expired_grant()
    harness.faulty.fail("claim")
    with pytest.raises(StoreError):
        harness.manager.get(grant)
    assert refresh_count(harness) == 0


def test_a_caller_whose_wait_for_the_lease_ends_does_not_refresh_without_it(
    harness: Harness,
) -> None:
    """n8n 37828: when waiting for the lock times out, the refresh is made without it."""
    grant = harness.expired_grant()
    assert harness.memory.claim(harness.record(grant), owner="another owner", ttl=1000)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    wait_until(lambda: harness.waiting() == 1)
    harness.advance(100)
    with pytest.raises(RefreshPendingError) as caught:
        caller.result(TIMEOUT)
    # The error must not look like one of the bank (Nango 5648).
    assert caught.value.status is None
    assert caught.value.retryable
    assert refresh_count(harness) == 0


def test_after_an_invalid_grant_a_newer_pair_in_the_store_is_served(harness: Harness) -> None:
    """warden 305, Spring: the loser of a race gets an error although the grant is active."""
    grant = harness.expired_grant()
    gate = Gate(INVALID_GRANT)
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    harness.authorize(manager=harness.make_manager())
    gate.open()
    assert caller.result(TIMEOUT) == harness.record(grant).token
    assert harness.record(grant).state is State.ACTIVE


def test_a_superseded_pair_is_salvaged_before_consent_is_needed(harness: Harness) -> None:
    """toolhive 6548: the usable pair is that of the last redemption, wherever it is stored."""
    harness.banks.set_policy(replay_window=60.0)
    grant = harness.expired_grant()
    late = Gate(holds_request=True)
    harness.banks.respond_next(late)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    late.wait()
    harness.clock.elapse(26)
    harness.make_manager().get(grant)
    late.open()
    caller.result(TIMEOUT)
    harness.advance(DAY + 1)
    harness.banks.respond_next(INVALID_GRANT)
    token = harness.manager.get(grant)
    assert harness.banks.accepts(grant, token)
    assert EventName.SALVAGED in harness.event_names()
    harness.allowed_replays = 1


def test_an_odd_success_response_is_accepted_and_the_request_not_repeated(harness: Harness) -> None:
    """toolhive 6194: validation of a success drops the pair, and the old token is presented."""
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(status=201, token_type="mac", scope=7, expires_in="?"))
    token = harness.manager.get(grant)
    assert harness.record(grant).token == token
    assert refresh_count(harness) == 1


# Served tokens


def test_an_expired_token_is_not_served_after_a_failed_refresh(harness: Harness) -> None:
    """botocore: during the pause after a failed mandatory refresh the expired token is returned."""
    grant = harness.expired_grant()
    harness.banks.respond_always(connection_refused)
    for _ in range(5):
        with pytest.raises(BlinkError):
            harness.manager.get(grant)
    other = harness.make_manager()
    with pytest.raises(RefreshPausedError):
        other.get(grant)
    assert refresh_count(harness) == 1


def test_a_caller_without_a_usable_token_gets_an_error(harness: Harness) -> None:
    """Duende: if there is no token, the request is sent without one."""
    grant = harness.expired_grant()
    harness.banks.respond_next(INVALID_GRANT)
    with pytest.raises(InvalidGrantError):
        harness.manager.get(grant)
    harness.advance(120)
    with pytest.raises(ConsentNeededError):
        harness.manager.get(grant)


def test_after_a_refused_access_token_a_refresh_keeps_the_grant_active(harness: Harness) -> None:
    """fetcher 1249, OpenMeet 414: the customer is signed out although the refresh has succeeded."""
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.advance(3600)
    harness.manager.invalidate(grant, old)
    assert harness.manager.get(grant) != old
    assert harness.record(grant).state is State.ACTIVE


def test_a_refresh_token_is_refreshed_before_its_idle_lifetime_ends(harness: Harness) -> None:
    """Spring 13915: the expiry of the refresh token is ignored until it is too late."""
    grant = harness.authorize()
    harness.advance(25 * DAY)
    assert harness.manager.refresh_due().refreshed == 1
    harness.advance(25 * DAY)
    assert harness.manager.get(grant)


def test_the_refresh_times_of_grants_differ_and_survive_a_restart(harness: Harness) -> None:
    """azure-core draws its jitter for each object; here it is computed from the grant."""
    grants = [harness.authorize(f"u-{number}") for number in range(20)]
    moments = [harness.manager.status(grant).refresh_at for grant in grants]
    assert len(set(moments)) == 20
    assert [harness.make_manager().status(grant).refresh_at for grant in grants] == moments


def test_a_retry_after_applies_to_all_processes(harness: Harness) -> None:
    """MSAL.NET 4196: processes that do not know of the 429 prolong it."""
    grant = harness.expired_grant()
    harness.banks.respond_next(status_response(429, Retry_After="600"))
    with pytest.raises(StatusError):
        harness.manager.get(grant)
    harness.advance(300)
    with pytest.raises(RefreshPausedError) as caught:
        harness.make_manager().get(grant)
    assert caught.value.retry_after == 300
    assert refresh_count(harness) == 1


# Secrets


def test_no_repr_error_or_log_contains_a_secret(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """Authlib, httpx-oauth, MSAL, requests_oauth2client, requests-oauthlib 536, x/oauth2."""
    caplog.set_level(logging.DEBUG)
    grant = harness.expired_grant()
    token = harness.manager.get(grant)
    harness.advance(DAY + 1)
    harness.banks.respond_next(request_lost)
    with pytest.raises(BlinkError) as caught:
        harness.manager.get(grant)
    assert token.refresh_token is not None
    texts = [
        repr(token),
        repr(harness.manager),
        repr(harness.record(grant)),
        repr(CachedToken(token, Deadline(0.0, 0.0), harness.record(grant), 0)),
        repr(harness.events),
        str(caught.value),
        caplog.text,
    ]
    for secret in (token.access_token.reveal(), token.refresh_token.reveal()):
        assert [text for text in texts if secret in text] == []
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(token)


def test_no_profile_makes_a_fresh_token_be_refreshed_on_each_call(harness: Harness) -> None:
    """Duende, PR 12: the advice is reusable refresh tokens, which a client cannot choose."""
    harness.make_manager(profile=TargetProfile(mandatory=1e9, advisory=1e9))
    grant = harness.authorize()
    tokens = {harness.manager.get(grant) for _ in range(10)}
    assert len(tokens) == 1
    assert refresh_count(harness) == 0


@pytest.mark.parametrize(
    ("responder", "seconds"),
    [
        (status_response(503, source="PLATFORM"), 1),
        (status_response(503, source="PLATFORM", Retry_After="1"), 1),
        (status_response(429, Retry_After="1"), 1),
        (status_response(503, Retry_After="1"), 1),
        (status_response(503, Retry_After="20"), 20),
        (status_response(400, {"error": "invalid_request"}), 1),
        (status_response(404, b"<html>"), 1),
        (status_response(401, {"error": "invalid_client"}), 1),
        (status_response(500, b"<html>"), 1),
        (status_response(200, b"not JSON"), 1),
        (connection_refused, 1),
    ],
    ids=[
        "503-of-the-platform",
        "503-of-the-platform-with-retry-after",
        "429-with-retry-after",
        "503-with-retry-after-1",
        "503-with-retry-after-20",
        "invalid-request",
        "404-with-html",
        "invalid-client",
        "500-with-html",
        "200-without-a-token",
        "no-connection",
    ],
)
def test_after_one_bad_response_callers_wait_no_longer_than_the_server_demands(
    harness: Harness, responder: Responder, seconds: float
) -> None:
    """After one harmless failure every caller of an expired token got an error for a minute."""
    grant = harness.expired_grant()
    harness.banks.respond_next(responder)
    with pytest.raises(BlinkError):
        harness.manager.get(grant)
    harness.advance(seconds + 0.1)
    assert harness.manager.get(grant)
    assert harness.make_manager().get(grant)
    assert refresh_count(harness) == 2
    harness.allowed_replays = 1


@pytest.mark.parametrize(
    "responder",
    [
        request_lost,
        status_response(502),
        status_response(503),
        status_response(504, Retry_After="1"),
        status_response(408),
        status_response(499),
    ],
    ids=["no-response", "502", "503", "504-with-retry-after", "408", "499"],
)
def test_a_request_that_may_still_be_executed_is_not_repeated_before_its_lease_ends(
    harness: Harness, responder: Responder
) -> None:
    """The bank sees the same refresh token twice at the same time, and ends the consent."""
    grant = harness.expired_grant()
    harness.banks.respond_next(responder)
    with pytest.raises(BlinkError):
        harness.manager.get(grant)
    harness.advance(24.9)
    with pytest.raises(BlinkError):
        harness.make_manager().get(grant)
    assert refresh_count(harness) == 1
    harness.advance(5)
    assert harness.manager.get(grant)
    harness.allowed_replays = 1


def test_a_failure_is_shared_for_a_minute_at_most_and_a_new_consent_is_found(
    harness: Harness,
) -> None:
    """A process repeats the failure of an hour ago although another one has stored a new pair."""
    grant = harness.expired_grant()
    harness.banks.respond_next(status_response(429, Retry_After="3600"))
    with pytest.raises(BlinkError):
        harness.manager.get(grant)
    harness.authorize(grant.username, manager=harness.make_manager())
    harness.advance(61)
    assert harness.manager.get(grant) == harness.record(grant).token


def test_callers_that_ask_during_a_pause_do_not_make_the_next_pause_longer(
    harness: Harness,
) -> None:
    """Each question during a pause counts as one more failure."""
    grant = harness.expired_grant()
    harness.banks.respond_next(
        status_response(429, Retry_After="600"), status_response(400, {"error": "invalid_request"})
    )
    for _ in range(9):
        with pytest.raises(BlinkError):
            harness.manager.get(grant)
        harness.advance(61)
    harness.advance(60)
    with pytest.raises(BlinkError):
        harness.manager.get(grant)
    harness.advance(2.1)
    assert harness.manager.get(grant)
    harness.allowed_replays = 2
