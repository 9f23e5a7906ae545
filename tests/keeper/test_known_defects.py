"""What went wrong in other token clients, one test each: none of it may happen here.

The docstrings name the project in which it was seen, or where it was reported. What is about HTTP
signing stands in `test_auth`, what is about databases in the tests of the stores.
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
from blink_oauth_keeper.cache import CachedToken
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
    """Return how many refreshes reached the platform."""
    return len(harness.banks.presented())


# One refresh, whoever asks


@pytest.mark.anyio
async def test_a_lifetime_below_the_leeway_does_not_make_each_coroutine_refresh(
    harness: Harness,
) -> None:
    """Authlib (async): lifetime 30 s, leeway 60 s, 10 coroutines: 10 posts, family revoked."""
    harness.banks.set_policy(access_token_lifetime=30)
    grant = harness.expired_grant()
    tokens = await asyncio.gather(*(harness.manager.aget(grant) for _ in range(10)))
    assert len(set(tokens)) == 1
    assert refresh_count(harness) == 1
    assert await harness.manager.aget(grant) == tokens[0]
    assert harness.banks.accepts(grant, tokens[0])


def test_threads_that_share_an_expired_token_refresh_it_once(harness: Harness) -> None:
    """Authlib (sync), requests-oauthlib, requests_oauth2client, google-auth, MSAL: 8 posts."""
    grant = harness.expired_grant()
    results = concurrently(lambda: harness.manager.get(grant), 8)
    assert len(set(results)) == 1
    assert refresh_count(harness) == 1


def test_two_objects_on_one_store_refresh_once(harness: Harness) -> None:
    """Authlib 673: the lock belongs to the client object, and frameworks make one per request."""
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


def test_a_straggler_that_read_the_old_token_starts_no_second_refresh(harness: Harness) -> None:
    """Duende: nothing re-reads the store between reading a token and presenting it."""
    first, second = harness.make_manager(real_waits=True), harness.make_manager(real_waits=True)
    grant = harness.expired_grant()
    read, go = threading.Event(), threading.Event()
    claim = harness.memory.claim

    def late_claim(*args: Any, **options: Any) -> object:
        if not read.is_set():
            read.set()
            assert go.wait(TIMEOUT)
        return claim(*args, **options)

    harness.faulty.replacements["claim"] = late_claim
    straggler = harness.in_thread(lambda: first.get(grant))
    assert read.wait(TIMEOUT)
    token = second.get(grant)
    go.set()
    assert straggler.result(TIMEOUT).access_token == token.access_token
    assert refresh_count(harness) == 1


def test_a_token_that_was_refused_before_the_refresh_landed_is_not_served_again(
    harness: Harness,
) -> None:
    """Anthropic 1841: a 401 that arrives while a refresh is in flight is forgotten."""
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
    # The flight fails, and its record still has the refused token: that one is not brought back.
    with pytest.raises(BlinkError):
        caller.result(TIMEOUT)
    harness.advance(60)
    assert harness.manager.get(grant) != old
    harness.allowed_replays = 1


def test_a_result_older_than_the_refusal_is_not_mistaken_for_a_fresh_one(harness: Harness) -> None:
    """Anthropic 1841, the other order: the refresh that was in flight brings a newer token."""
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
    """Duende 360: keyed by the refresh token, a caller gets the token of another one."""
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


def test_waiters_who_failed_together_do_not_queue_for_turns_of_their_own(harness: Harness) -> None:
    """Authlib (async): 200 requests one after the other; MSAL.NET 4196: a 429 becomes chronic."""
    grant = harness.expired_grant()
    gate = Gate(status_response(503), holds_request=True)
    harness.banks.respond_next(gate)
    callers = harness.in_thread(lambda: concurrently(lambda: harness.manager.get(grant), 64))
    gate.wait()
    gate.open()
    assert {type(error) for error in callers.result(TIMEOUT)} == {StatusError}
    assert refresh_count(harness) == 1


def test_a_refused_refresh_token_causes_no_storm_of_refused_ones(harness: Harness) -> None:
    """MSAL needs a cache of failed answers for this: an `invalid_grant` is not asked for again."""
    grant = harness.expired_grant()
    harness.banks.respond_always(INVALID_GRANT)
    for _ in range(20):
        with pytest.raises(BlinkError) as caught:
            harness.manager.get(grant)
        assert caught.value.needs_consent
        harness.advance(61)
    assert refresh_count(harness) == 1


def test_a_fresh_token_that_is_refused_does_not_loop(harness: Harness) -> None:
    """Spring 10016 and 12309: a 401 to each fresh token, and the same is tried for ever."""
    grant = harness.authorize()
    for _ in range(10):
        harness.manager.invalidate(grant, harness.manager.get(grant))
    assert refresh_count(harness) == 0
    harness.advance(61)
    for _ in range(10):
        harness.manager.invalidate(grant, harness.manager.get(grant))
    assert refresh_count(harness) == 1


# Who waits may leave, and nobody hangs


@pytest.mark.anyio
async def test_a_flight_does_not_die_with_its_first_caller(harness: Harness) -> None:
    """Duende, go-sdk 988, openclaw 93952: the flight runs with the first caller's cancellation."""
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


def test_waiters_can_give_up(harness: Harness) -> None:
    """x/oauth2 388: a mutex is held over the network call, and waiters cannot leave."""
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    leader = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    with pytest.raises(RefreshPendingError):
        harness.manager.get(grant, timeout=0)
    gate.open()
    assert leader.result(TIMEOUT)


def test_loops_that_share_a_manager_do_not_block_each_other(harness: Harness) -> None:
    """deer-flow 4240: one asyncio lock shared by several event loops deadlocks."""
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    with ThreadPoolExecutor(3) as pool:
        loops = [pool.submit(asyncio.run, harness.manager.aget(grant)) for _ in range(3)]
        gate.wait()
        # A loop that begins and ends while the others wait.
        with pytest.raises(RefreshPendingError):
            asyncio.run(harness.manager.aget(grant, timeout=0))
        gate.open()
        assert len({loop.result(TIMEOUT) for loop in loops}) == 1
    assert refresh_count(harness) == 1


def test_nothing_is_locked_while_a_bank_thinks(harness: Harness) -> None:
    """MCP SDK 1326: a lock is held over the request, and a second one waits for the first."""
    slow, quick = harness.expired_grant("u-1"), harness.expired_grant("u-2")
    fresh = harness.authorize("u-3")
    gate = Gate()
    harness.banks.respond_next(gate)
    waiting = harness.in_thread(lambda: harness.manager.get(slow))
    gate.wait()
    assert harness.manager.get(fresh)
    assert harness.manager.get(quick)
    assert harness.manager.status(slow).state is State.REFRESHING
    assert not waiting.done()
    gate.open()
    waiting.result(TIMEOUT)


def test_a_flight_that_broke_does_not_stay_for_ever(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    """Nango 1005: a stuck entry of the in-flight table, and never a refresh again."""
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


# What the bank has issued is kept


@pytest.mark.parametrize("lifetime", ["soon", [], {}, -1, "NaN", 1e400, True])
def test_a_lifetime_that_cannot_be_read_does_not_lose_the_pair(
    harness: Harness, lifetime: object
) -> None:
    """Authlib, httpx-oauth: `int(expires_in)` raises after the server has rotated."""
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(expires_in=lifetime))
    token = harness.manager.get(grant)
    assert harness.record(grant).token == token
    assert harness.banks.accepts(grant, token)


def test_a_missing_lifetime_does_not_mean_never_refresh(harness: Harness) -> None:
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
    """Authlib (async): a hook that is no coroutine raises, and the new pair is lost."""

    def listen(event: Event) -> None:
        raise error

    harness.make_manager(on_event=listen)
    grant = harness.expired_grant()
    harness.faulty.fail("settle")
    token = harness.manager.get(grant)
    harness.faulty.recover()
    harness.advance(1)
    record = harness.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert "could not be told" in caplog.text


def test_the_store_has_the_pair_before_anybody_else(harness: Harness) -> None:
    """x/oauth2 84, Authlib 796: no hook, or one that comes too late and does not say whose."""
    grant = harness.expired_grant()
    settling, go = threading.Event(), threading.Event()
    settle = harness.memory.settle

    def slowly(*args: Any, **options: Any) -> object:
        settling.set()
        assert go.wait(TIMEOUT)
        return settle(*args, **options)

    harness.faulty.replacements["settle"] = slowly
    callers = [harness.in_thread(lambda: harness.manager.get(grant)) for _ in range(4)]
    assert settling.wait(TIMEOUT)
    with pytest.raises(RefreshPendingError):
        harness.manager.get(grant, timeout=0)
    assert not any(caller.done() for caller in callers)
    go.set()
    stored = {caller.result(TIMEOUT) for caller in callers}
    assert stored == {harness.record(grant).token}


def test_a_reply_without_a_refresh_token_keeps_the_old_one(harness: Harness) -> None:
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
    """httpx_auth: the entry is deleted first; a failure or a second thread finds nothing."""
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


def test_the_loser_of_a_race_does_not_harm_the_winners_tokens(harness: Harness) -> None:
    """Spring: on `invalid_grant` the loser deletes by primary key what the winner has stored."""
    grant = harness.expired_grant()
    late = Gate(holds_request=True)
    harness.banks.respond_next(late)
    loser = harness.in_thread(lambda: harness.manager.get(grant))
    late.wait()
    harness.clock.elapse(26)
    winner = harness.make_manager().get(grant)
    harness.banks.set_policy(on_reuse="refuse")
    late.open()
    assert loser.result(TIMEOUT).access_token == winner.access_token
    record = harness.record(grant)
    assert (record.state, record.generation) == (State.ACTIVE, 2)
    assert harness.banks.accepts(grant, winner)
    harness.allowed_replays = 1


def test_a_lease_that_was_shorter_than_the_request_keeps_the_live_pair(harness: Harness) -> None:
    """appstrate 1366, litellm 31493: settled by owner too, and the living pair is thrown away."""
    grant = harness.expired_grant()
    slow = Gate()
    harness.banks.respond_next(slow)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    slow.wait()
    harness.clock.elapse(26)
    assert harness.memory.claim(harness.record(grant), owner="another", ttl=25)
    slow.open()
    token = caller.result(TIMEOUT)
    assert harness.banks.accepts(grant, token)
    assert harness.record(grant).token == harness.manager.get(grant)
    assert harness.record(grant).lease_left == 0


def test_a_lock_that_is_gone_is_not_given_back_for_its_next_holder(harness: Harness) -> None:
    """APIFold 53: a lock without an owner is released by somebody else."""
    grant = harness.expired_grant()
    slow = Gate(connection_refused)
    harness.banks.respond_next(slow)
    caller = harness.in_thread(lambda: harness.manager.get(grant, timeout=TIMEOUT))
    slow.wait()
    harness.clock.elapse(26)
    assert harness.memory.claim(harness.record(grant), owner="another", ttl=25)
    slow.open()
    wait_until(lambda: harness.waiting() == 1)
    assert not caller.done()
    record = harness.record(grant)
    assert (record.owner, record.state) == ("another", State.REFRESHING)
    assert record.lease_left == 25
    harness.manager.close()
    with pytest.raises(RefreshPendingError):
        caller.result(TIMEOUT)


def test_a_pair_is_compared_by_value_and_not_by_its_sealed_text(harness: Harness) -> None:
    """codex-lb 1254: randomised ciphertext never compares equal, and the new pair is dropped."""
    grant = harness.expired_grant()
    harness.faulty.lost_results = {"settle"}
    harness.manager.get(grant)
    harness.advance(1)
    # Settled twice with the same pair: once, as far as anybody can see.
    assert harness.faulty.calls.count("settle") == 2
    assert harness.record(grant).generation == 2
    assert harness.memory.journal_entries(harness.key(grant)) == ()


def test_an_unrelated_write_does_not_make_a_pair_lose(harness: Harness) -> None:
    """Floway 340: another column changes the version, and a rotated pair loses its swap."""
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


# What may be spent is not spent again


@pytest.mark.parametrize("status", [500, 502, 504, 408, 429])
def test_a_request_for_a_token_is_not_repeated_by_itself(harness: Harness, status: int) -> None:
    """google-auth: up to three tries on retryable codes, also after a server has rotated."""
    grant = harness.expired_grant()

    def executed(execute: Execute) -> httpx.Response:
        execute()
        return status_response(status)(execute)

    harness.banks.respond_next(executed)
    with pytest.raises(StatusError):
        harness.manager.get(grant)
    assert refresh_count(harness) == 1


@pytest.mark.parametrize(
    "answer",
    [status_response(400, {"error": "invalid_client"}), status_response(401), response_lost],
)
def test_no_error_makes_the_client_send_the_same_token_in_another_way(
    harness: Harness, answer: Responder
) -> None:
    """x/oauth2: any error while it finds out the kind of authentication resends the request."""
    grant = harness.expired_grant()
    harness.banks.respond_next(answer)
    with pytest.raises(BlinkError):
        harness.manager.get(grant)
    assert refresh_count(harness) == 1


def test_that_a_token_may_be_spent_stands_in_the_store_before_it_leaves(harness: Harness) -> None:
    """Vault plugin: no durable intent, so a survivor cannot know what a dead process has spent."""
    grant = harness.expired_grant()
    seen: list[tuple[State, int]] = []

    def look(execute: Execute) -> httpx.Response:
        record = harness.record(grant)
        seen.append((record.state, record.attempts))
        return execute()

    harness.banks.respond_next(look)
    harness.manager.get(grant)
    assert seen == [(State.REFRESHING, 1)]


def test_the_store_is_proven_writable_before_a_token_is_spent(harness: Harness) -> None:
    """executor 1377: the write fails after the grant is spent."""
    grant = harness.expired_grant()
    harness.faulty.fail("claim")
    with pytest.raises(StoreError):
        harness.manager.get(grant)
    assert refresh_count(harness) == 0


def test_who_waited_in_vain_does_not_refresh_without_the_lease(harness: Harness) -> None:
    """n8n 37828: when waiting for the lock times out, the refresh is made without it."""
    grant = harness.expired_grant()
    assert harness.memory.claim(harness.record(grant), owner="another", ttl=1000)
    waiting = harness.in_thread(lambda: harness.manager.get(grant))
    wait_until(lambda: harness.waiting() == 1)
    harness.advance(100)
    with pytest.raises(RefreshPendingError) as caught:
        waiting.result(TIMEOUT)
    # Nor does it look like an error of the bank (Nango 5648).
    assert caught.value.status is None
    assert caught.value.retryable
    assert refresh_count(harness) == 0


def test_an_invalid_grant_that_was_a_race_is_answered_from_the_store(harness: Harness) -> None:
    """warden 305, Spring: who lost a race is told that the grant is over, and it is not."""
    grant = harness.expired_grant()
    gate = Gate(INVALID_GRANT)
    harness.banks.respond_next(gate)
    caller = harness.in_thread(lambda: harness.manager.get(grant))
    gate.wait()
    harness.authorize(manager=harness.make_manager())
    gate.open()
    assert caller.result(TIMEOUT) == harness.record(grant).token
    assert harness.record(grant).state is State.ACTIVE


def test_a_pair_that_lost_its_swap_is_tried_before_the_customer_is_asked(harness: Harness) -> None:
    """toolhive 6548: the living token is the one of the last redemption, wherever it is kept."""
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


def test_a_success_that_looks_odd_is_not_retried_with_the_spent_token(harness: Harness) -> None:
    """toolhive 6194: validation after the success throws the pair away and presents the old one."""
    grant = harness.expired_grant()
    harness.banks.respond_next(with_members(status=201, token_type="mac", scope=7, expires_in="?"))
    token = harness.manager.get(grant)
    assert harness.record(grant).token == token
    assert refresh_count(harness) == 1


# What is served


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


def test_nobody_goes_without_a_token(harness: Harness) -> None:
    """Duende: where no token can be had, the request is sent without one."""
    grant = harness.expired_grant()
    harness.banks.respond_next(INVALID_GRANT)
    with pytest.raises(InvalidGrantError):
        harness.manager.get(grant)
    harness.advance(120)
    with pytest.raises(ConsentNeededError):
        harness.manager.get(grant)


def test_a_refresh_that_succeeded_does_not_end_the_consent(harness: Harness) -> None:
    """fetcher 1249, OpenMeet 414: signed out although the refresh has succeeded."""
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.advance(3600)
    harness.manager.invalidate(grant, old)
    assert harness.manager.get(grant) != old
    assert harness.record(grant).state is State.ACTIVE


def test_the_idle_end_of_a_refresh_token_is_known(harness: Harness) -> None:
    """Spring 13915: the expiry of the refresh token is ignored until it is too late."""
    grant = harness.authorize()
    harness.advance(25 * DAY)
    assert harness.manager.refresh_due().refreshed == 1
    harness.advance(25 * DAY)
    assert harness.manager.get(grant)


def test_a_restart_does_not_make_a_fleet_refresh_at_the_same_moment(harness: Harness) -> None:
    """azure-core draws its jitter anew for each object; here it is the grant's own."""
    grants = [harness.authorize(f"u-{number}") for number in range(20)]
    moments = [harness.manager.status(grant).refresh_at for grant in grants]
    assert len(set(moments)) == 20
    assert [harness.make_manager().status(grant).refresh_at for grant in grants] == moments


def test_a_server_that_asks_for_time_gets_it_from_all_processes(harness: Harness) -> None:
    """MSAL.NET 4196, again: others that do not know of the 429 make it last."""
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


def test_secrets_are_in_nothing_that_is_shown(
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
    shown = [
        repr(token),
        repr(harness.manager),
        repr(harness.record(grant)),
        repr(CachedToken(token, harness.clock.now(), harness.record(grant))),
        repr(harness.events),
        str(caught.value),
        caplog.text,
    ]
    for secret in (token.access_token.reveal(), token.refresh_token.reveal()):
        assert [text for text in shown if secret in text] == []
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(token)


def test_a_user_chosen_profile_cannot_switch_the_safety_off(harness: Harness) -> None:
    """Duende, PR 12: the standing advice is reusable refresh tokens, which users cannot choose."""
    harness.make_manager(profile=TargetProfile(mandatory=1e9, advisory=1e9))
    grant = harness.authorize()
    tokens = {harness.manager.get(grant) for _ in range(10)}
    assert len(tokens) == 1
    assert refresh_count(harness) == 0
