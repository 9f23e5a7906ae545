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
from blink_oauth_keeper.cache import Held
from blink_oauth_keeper.store.protocol import Origin, State
from keeper.stage import (
    DAY,
    PATIENCE,
    Answer,
    Execute,
    Gate,
    Stage,
    eventually,
    lost,
    never_arrived,
    says,
    storm,
    unreachable,
    with_members,
)

INVALID_GRANT = says(400, {"error": "invalid_grant"})


def posts(stage: Stage) -> int:
    """Return how many refreshes reached the platform."""
    return len(stage.banks.presented())


# One refresh, whoever asks


@pytest.mark.anyio
async def test_a_lifetime_below_the_leeway_does_not_make_each_coroutine_refresh(
    stage: Stage,
) -> None:
    """Authlib (async): lifetime 30 s, leeway 60 s, 10 coroutines: 10 posts, family revoked."""
    stage.banks.set_policy(access_token_lifetime=30)
    grant = stage.expired()
    tokens = await asyncio.gather(*(stage.manager.aget(grant) for _ in range(10)))
    assert len(set(tokens)) == 1
    assert posts(stage) == 1
    assert await stage.manager.aget(grant) == tokens[0]
    assert stage.banks.is_alive(grant, tokens[0])


def test_threads_that_share_an_expired_token_refresh_it_once(stage: Stage) -> None:
    """Authlib (sync), requests-oauthlib, requests_oauth2client, google-auth, MSAL: 8 posts."""
    grant = stage.expired()
    results = storm(lambda: stage.manager.get(grant), 8)
    assert len(set(results)) == 1
    assert posts(stage) == 1


def test_two_objects_on_one_store_refresh_once(stage: Stage) -> None:
    """Authlib 673: the lock belongs to the client object, and frameworks make one per request."""
    managers = [stage.make(real_waits=True) for _ in range(4)]
    grant = stage.expired()
    gate = Gate()
    stage.banks.answer(gate)
    calls = [stage.aside(partial(manager.get, grant)) for manager in managers]
    gate.wait()
    gate.open()
    tokens = {call.result(PATIENCE).access_token for call in calls}
    assert len(tokens) == 1
    assert posts(stage) == 1


def test_a_straggler_that_read_the_old_token_starts_no_second_refresh(stage: Stage) -> None:
    """Duende: nothing re-reads the store between reading a token and presenting it."""
    first, second = stage.make(real_waits=True), stage.make(real_waits=True)
    grant = stage.expired()
    read, go = threading.Event(), threading.Event()
    claim = stage.memory.claim

    def late_claim(*args: Any, **options: Any) -> object:
        if not read.is_set():
            read.set()
            assert go.wait(PATIENCE)
        return claim(*args, **options)

    stage.shaky.instead["claim"] = late_claim
    straggler = stage.aside(lambda: first.get(grant))
    assert read.wait(PATIENCE)
    token = second.get(grant)
    go.set()
    assert straggler.result(PATIENCE).access_token == token.access_token
    assert posts(stage) == 1


def test_a_token_that_was_refused_before_the_refresh_landed_is_not_served_again(
    stage: Stage,
) -> None:
    """Anthropic 1841: a 401 that arrives while a refresh is in flight is forgotten."""
    grant = stage.authorize()
    old = stage.manager.get(grant)
    stage.advance(DAY - 1800)
    gate = Gate(unreachable, first=True)
    stage.banks.answer(gate)
    stage.manager.get(grant)
    gate.wait()
    stage.manager.invalidate(grant, old)
    caller = stage.aside(lambda: stage.manager.get(grant))
    gate.open()
    # The flight fails, and its record still has the refused token: that one is not brought back.
    with pytest.raises(BlinkError):
        caller.result(PATIENCE)
    stage.advance(60)
    assert stage.manager.get(grant) != old
    stage.replays = 1


def test_a_result_older_than_the_refusal_is_not_mistaken_for_a_fresh_one(stage: Stage) -> None:
    """Anthropic 1841, the other order: the refresh that was in flight brings a newer token."""
    grant = stage.authorize()
    old = stage.manager.get(grant)
    stage.advance(DAY - 1800)
    gate = Gate()
    stage.banks.answer(gate)
    stage.manager.get(grant)
    gate.wait()
    stage.manager.invalidate(grant, old)
    caller = stage.aside(lambda: stage.manager.get(grant))
    gate.open()
    assert caller.result(PATIENCE) != old
    assert posts(stage) == 1


def test_grants_are_kept_apart_even_with_the_same_refresh_token(stage: Stage) -> None:
    """Duende 360: keyed by the refresh token, a caller gets the token of another one."""
    stage.banks.set_policy("IIDX00001", rotates=False)
    first, second = stage.expired("u-1"), stage.expired("u-2")
    gate = Gate()
    stage.banks.always(gate)
    calls = [stage.aside(lambda: stage.manager.get(first)) for _ in range(2)]
    calls += [stage.aside(lambda: stage.manager.get(second)) for _ in range(2)]
    gate.wait(2)
    gate.open()
    one, same, other, same_other = (call.result(PATIENCE) for call in calls)
    assert one == same != other == same_other
    assert {post.username for post in stage.banks.posts if post.kind == "refresh_token"} == {
        "u-1",
        "u-2",
    }


def test_waiters_who_failed_together_do_not_queue_for_turns_of_their_own(stage: Stage) -> None:
    """Authlib (async): 200 requests one after the other; MSAL.NET 4196: a 429 becomes chronic."""
    grant = stage.expired()
    gate = Gate(says(503), first=True)
    stage.banks.answer(gate)
    callers = stage.aside(lambda: storm(lambda: stage.manager.get(grant), 64))
    gate.wait()
    gate.open()
    assert {type(error) for error in callers.result(PATIENCE)} == {StatusError}
    assert posts(stage) == 1


def test_a_refused_refresh_token_causes_no_storm_of_refused_ones(stage: Stage) -> None:
    """MSAL needs a cache of failed answers for this: an `invalid_grant` is not asked for again."""
    grant = stage.expired()
    stage.banks.always(INVALID_GRANT)
    for _ in range(20):
        with pytest.raises(BlinkError) as caught:
            stage.manager.get(grant)
        assert caught.value.needs_consent
        stage.advance(61)
    assert posts(stage) == 1


def test_a_fresh_token_that_is_refused_does_not_loop(stage: Stage) -> None:
    """Spring 10016 and 12309: a 401 to each fresh token, and the same is tried for ever."""
    grant = stage.authorize()
    for _ in range(10):
        stage.manager.invalidate(grant, stage.manager.get(grant))
    assert posts(stage) == 0
    stage.advance(61)
    for _ in range(10):
        stage.manager.invalidate(grant, stage.manager.get(grant))
    assert posts(stage) == 1


# Who waits may leave, and nobody hangs


@pytest.mark.anyio
async def test_a_flight_does_not_die_with_its_first_caller(stage: Stage) -> None:
    """Duende, go-sdk 988, openclaw 93952: the flight runs with the first caller's cancellation."""
    grant = stage.expired()
    gate = Gate()
    stage.banks.answer(gate)
    first = asyncio.create_task(stage.manager.aget(grant))
    await gate.held_up()
    second = asyncio.create_task(stage.manager.aget(grant))
    await asyncio.sleep(0)
    first.cancel()
    gate.open()
    assert (await second).access_token
    assert first.cancelled()
    assert stage.record(grant).generation == 2


def test_waiters_can_give_up(stage: Stage) -> None:
    """x/oauth2 388: a mutex is held over the network call, and waiters cannot leave."""
    grant = stage.expired()
    gate = Gate()
    stage.banks.answer(gate)
    leader = stage.aside(lambda: stage.manager.get(grant))
    gate.wait()
    with pytest.raises(RefreshPendingError):
        stage.manager.get(grant, timeout=0)
    gate.open()
    assert leader.result(PATIENCE)


def test_loops_that_share_a_manager_do_not_block_each_other(stage: Stage) -> None:
    """deer-flow 4240: one asyncio lock shared by several event loops deadlocks."""
    grant = stage.expired()
    gate = Gate()
    stage.banks.answer(gate)
    with ThreadPoolExecutor(3) as pool:
        loops = [pool.submit(asyncio.run, stage.manager.aget(grant)) for _ in range(3)]
        gate.wait()
        # A loop that begins and ends while the others wait.
        with pytest.raises(RefreshPendingError):
            asyncio.run(stage.manager.aget(grant, timeout=0))
        gate.open()
        assert len({loop.result(PATIENCE) for loop in loops}) == 1
    assert posts(stage) == 1


def test_nothing_is_locked_while_a_bank_thinks(stage: Stage) -> None:
    """MCP SDK 1326: a lock is held over the request, and a second one waits for the first."""
    slow, quick = stage.expired("u-1"), stage.expired("u-2")
    fresh = stage.authorize("u-3")
    gate = Gate()
    stage.banks.answer(gate)
    waiting = stage.aside(lambda: stage.manager.get(slow))
    gate.wait()
    assert stage.manager.get(fresh)
    assert stage.manager.get(quick)
    assert stage.manager.status(slow).state is State.REFRESHING
    assert not waiting.done()
    gate.open()
    waiting.result(PATIENCE)


def test_a_flight_that_broke_does_not_stay_for_ever(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Nango 1005: a stuck entry of the in-flight table, and never a refresh again."""
    grant = stage.expired()

    def broken(execute: Execute) -> httpx.Response:
        raise MemoryError

    stage.banks.answer(broken)
    with pytest.raises(MemoryError):
        stage.manager.get(grant)
    stage.advance(26)
    assert stage.manager.get(grant)
    assert "A flight broke" in caplog.text
    stage.replays = 1


# What the bank has issued is kept


@pytest.mark.parametrize("lifetime", ["soon", [], {}, -1, "NaN", 1e400, True])
def test_a_lifetime_that_cannot_be_read_does_not_lose_the_pair(
    stage: Stage, lifetime: object
) -> None:
    """Authlib, httpx-oauth: `int(expires_in)` raises after the server has rotated."""
    grant = stage.expired()
    stage.banks.answer(with_members(expires_in=lifetime))
    token = stage.manager.get(grant)
    assert stage.record(grant).token == token
    assert stage.banks.is_alive(grant, token)


def test_a_missing_lifetime_does_not_mean_never_refresh(stage: Stage) -> None:
    """Authlib 530, requests-oauthlib 434: `is_expired()` is None, and nothing is refreshed."""
    grant = stage.expired()
    stage.banks.answer(with_members(expires_in=None))
    old = stage.manager.get(grant)
    stage.advance(3601)
    assert stage.manager.get(grant) != old


@pytest.mark.parametrize("scope", ["accounts", "", None, ["accounts"], 7])
def test_a_narrowed_scope_does_not_lose_the_pair(stage: Stage, scope: object) -> None:
    """requests-oauthlib, oauthlib 562: a changed scope raises after the server has rotated."""
    grant = stage.authorize(answer=with_members(scope="accounts payments"))
    stage.advance(DAY + 1)
    stage.banks.answer(with_members(scope=scope))
    token = stage.manager.get(grant)
    assert stage.record(grant).token == token
    assert stage.banks.is_alive(grant, token)


@pytest.mark.parametrize("error", [ValueError("defect"), SystemExit(1)])
def test_a_listener_that_raises_loses_nothing(
    stage: Stage, caplog: pytest.LogCaptureFixture, error: BaseException
) -> None:
    """Authlib (async): a hook that is no coroutine raises, and the new pair is lost."""

    def listen(event: Event) -> None:
        raise error

    stage.make(on_event=listen)
    grant = stage.expired()
    stage.shaky.go_down("settle")
    token = stage.manager.get(grant)
    stage.shaky.come_back()
    stage.advance(1)
    record = stage.record(grant)
    assert record.token is not None
    assert record.token.access_token == token.access_token
    assert "could not be told" in caplog.text


def test_the_store_has_the_pair_before_anybody_else(stage: Stage) -> None:
    """x/oauth2 84, Authlib 796: no hook, or one that comes too late and does not say whose."""
    grant = stage.expired()
    settling, go = threading.Event(), threading.Event()
    settle = stage.memory.settle

    def slowly(*args: Any, **options: Any) -> object:
        settling.set()
        assert go.wait(PATIENCE)
        return settle(*args, **options)

    stage.shaky.instead["settle"] = slowly
    callers = [stage.aside(lambda: stage.manager.get(grant)) for _ in range(4)]
    assert settling.wait(PATIENCE)
    with pytest.raises(RefreshPendingError):
        stage.manager.get(grant, timeout=0)
    assert not any(caller.done() for caller in callers)
    go.set()
    stored = {caller.result(PATIENCE) for caller in callers}
    assert stored == {stage.record(grant).token}


def test_a_reply_without_a_refresh_token_keeps_the_old_one(stage: Stage) -> None:
    """botocore drops it, simple-oauth2 58 sets it to undefined (RFC 6749 section 6)."""
    stage.banks.set_policy(rotates=False)
    grant = stage.authorize()
    before = stage.record(grant).token
    assert before is not None
    for _ in range(3):
        stage.advance(DAY + 1)
        assert stage.manager.get(grant).refresh_token == before.refresh_token
    stage.replays = 2


def test_nothing_is_deleted_before_the_refresh_has_succeeded(stage: Stage) -> None:
    """httpx_auth: the entry is deleted first; a failure or a second thread finds nothing."""
    grant = stage.expired()
    before = stage.record(grant).token
    gate = Gate(unreachable)
    stage.banks.answer(gate)
    caller = stage.aside(lambda: stage.manager.get(grant))
    gate.wait()
    assert stage.record(grant).token == before
    gate.open()
    with pytest.raises(BlinkError):
        caller.result(PATIENCE)
    assert stage.record(grant).token == before


def test_the_loser_of_a_race_does_not_harm_the_winners_tokens(stage: Stage) -> None:
    """Spring: on `invalid_grant` the loser deletes by primary key what the winner has stored."""
    grant = stage.expired()
    late = Gate(first=True)
    stage.banks.answer(late)
    loser = stage.aside(lambda: stage.manager.get(grant))
    late.wait()
    stage.time.pass_by(26)
    winner = stage.make().get(grant)
    stage.banks.set_policy(on_reuse="refuse")
    late.open()
    assert loser.result(PATIENCE).access_token == winner.access_token
    record = stage.record(grant)
    assert (record.state, record.generation) == (State.ACTIVE, 2)
    assert stage.banks.is_alive(grant, winner)
    stage.replays = 1


def test_a_lease_that_was_shorter_than_the_request_keeps_the_live_pair(stage: Stage) -> None:
    """appstrate 1366, litellm 31493: settled by owner too, and the living pair is thrown away."""
    grant = stage.expired()
    slow = Gate()
    stage.banks.answer(slow)
    caller = stage.aside(lambda: stage.manager.get(grant))
    slow.wait()
    stage.time.pass_by(26)
    assert stage.memory.claim(stage.record(grant), owner="another", ttl=25)
    slow.open()
    token = caller.result(PATIENCE)
    assert stage.banks.is_alive(grant, token)
    assert stage.record(grant).token == stage.manager.get(grant)
    assert stage.record(grant).lease_left == 0


def test_a_lock_that_is_gone_is_not_given_back_for_its_next_holder(stage: Stage) -> None:
    """APIFold 53: a lock without an owner is released by somebody else."""
    grant = stage.expired()
    slow = Gate(unreachable)
    stage.banks.answer(slow)
    caller = stage.aside(lambda: stage.manager.get(grant, timeout=PATIENCE))
    slow.wait()
    stage.time.pass_by(26)
    assert stage.memory.claim(stage.record(grant), owner="another", ttl=25)
    slow.open()
    eventually(lambda: stage.waiting() == 1)
    assert not caller.done()
    record = stage.record(grant)
    assert (record.owner, record.state) == ("another", State.REFRESHING)
    assert record.lease_left == 25
    stage.manager.close()
    with pytest.raises(RefreshPendingError):
        caller.result(PATIENCE)


def test_a_pair_is_compared_by_value_and_not_by_its_sealed_text(stage: Stage) -> None:
    """codex-lb 1254: randomised ciphertext never compares equal, and the new pair is dropped."""
    grant = stage.expired()
    stage.shaky.deaf = {"settle"}
    stage.manager.get(grant)
    stage.advance(1)
    # Settled twice with the same pair: once, as far as anybody can see.
    assert stage.shaky.calls.count("settle") == 2
    assert stage.record(grant).generation == 2
    assert stage.memory.journal_entries(stage.key(grant)) == ()


def test_an_unrelated_write_does_not_make_a_pair_lose(stage: Stage) -> None:
    """Floway 340: another column changes the version, and a rotated pair loses its swap."""
    grant = stage.expired()
    gate = Gate()
    stage.banks.answer(gate)
    caller = stage.aside(lambda: stage.manager.get(grant))
    gate.wait()
    claim = stage.record(grant)
    stage.memory.journal(claim, Token(access_token="fake-odd"), origin=Origin.ERROR)
    stage.memory.purge()
    gate.open()
    token = caller.result(PATIENCE)
    assert stage.record(grant).generation == 2
    assert stage.banks.is_alive(grant, token)


# What may be spent is not spent again


@pytest.mark.parametrize("status", [500, 502, 504, 408, 429])
def test_a_request_for_a_token_is_not_repeated_by_itself(stage: Stage, status: int) -> None:
    """google-auth: up to three tries on retryable codes, also after a server has rotated."""
    grant = stage.expired()

    def executed(execute: Execute) -> httpx.Response:
        execute()
        return says(status)(execute)

    stage.banks.answer(executed)
    with pytest.raises(StatusError):
        stage.manager.get(grant)
    assert posts(stage) == 1


@pytest.mark.parametrize("answer", [says(400, {"error": "invalid_client"}), says(401), lost])
def test_no_error_makes_the_client_send_the_same_token_in_another_way(
    stage: Stage, answer: Answer
) -> None:
    """x/oauth2: any error while it finds out the kind of authentication resends the request."""
    grant = stage.expired()
    stage.banks.answer(answer)
    with pytest.raises(BlinkError):
        stage.manager.get(grant)
    assert posts(stage) == 1


def test_that_a_token_may_be_spent_stands_in_the_store_before_it_leaves(stage: Stage) -> None:
    """Vault plugin: no durable intent, so a survivor cannot know what a dead process has spent."""
    grant = stage.expired()
    seen: list[tuple[State, int]] = []

    def look(execute: Execute) -> httpx.Response:
        record = stage.record(grant)
        seen.append((record.state, record.attempts))
        return execute()

    stage.banks.answer(look)
    stage.manager.get(grant)
    assert seen == [(State.REFRESHING, 1)]


def test_the_store_is_proven_writable_before_a_token_is_spent(stage: Stage) -> None:
    """executor 1377: the write fails after the grant is spent."""
    grant = stage.expired()
    stage.shaky.go_down("claim")
    with pytest.raises(StoreError):
        stage.manager.get(grant)
    assert posts(stage) == 0


def test_who_waited_in_vain_does_not_refresh_without_the_lease(stage: Stage) -> None:
    """n8n 37828: when waiting for the lock times out, the refresh is made without it."""
    grant = stage.expired()
    assert stage.memory.claim(stage.record(grant), owner="another", ttl=1000)
    waiting = stage.aside(lambda: stage.manager.get(grant))
    eventually(lambda: stage.waiting() == 1)
    stage.advance(100)
    with pytest.raises(RefreshPendingError) as caught:
        waiting.result(PATIENCE)
    # Nor does it look like an error of the bank (Nango 5648).
    assert caught.value.status is None
    assert caught.value.retryable
    assert posts(stage) == 0


def test_an_invalid_grant_that_was_a_race_is_answered_from_the_store(stage: Stage) -> None:
    """warden 305, Spring: who lost a race is told that the grant is over, and it is not."""
    grant = stage.expired()
    gate = Gate(INVALID_GRANT)
    stage.banks.answer(gate)
    caller = stage.aside(lambda: stage.manager.get(grant))
    gate.wait()
    stage.authorize(manager=stage.make())
    gate.open()
    assert caller.result(PATIENCE) == stage.record(grant).token
    assert stage.record(grant).state is State.ACTIVE


def test_a_pair_that_lost_its_swap_is_tried_before_the_customer_is_asked(stage: Stage) -> None:
    """toolhive 6548: the living token is the one of the last redemption, wherever it is kept."""
    stage.banks.set_policy(replay_window=60.0)
    grant = stage.expired()
    late = Gate(first=True)
    stage.banks.answer(late)
    caller = stage.aside(lambda: stage.manager.get(grant))
    late.wait()
    stage.time.pass_by(26)
    stage.make().get(grant)
    late.open()
    caller.result(PATIENCE)
    stage.advance(DAY + 1)
    stage.banks.answer(INVALID_GRANT)
    token = stage.manager.get(grant)
    assert stage.banks.is_alive(grant, token)
    assert EventName.SALVAGED in stage.names()
    stage.replays = 1


def test_a_success_that_looks_odd_is_not_retried_with_the_spent_token(stage: Stage) -> None:
    """toolhive 6194: validation after the success throws the pair away and presents the old one."""
    grant = stage.expired()
    stage.banks.answer(with_members(status=201, token_type="mac", scope=7, expires_in="?"))
    token = stage.manager.get(grant)
    assert stage.record(grant).token == token
    assert posts(stage) == 1


# What is served


def test_an_expired_token_is_not_served_after_a_failed_refresh(stage: Stage) -> None:
    """botocore: during the pause after a failed mandatory refresh the expired token is returned."""
    grant = stage.expired()
    stage.banks.always(unreachable)
    for _ in range(5):
        with pytest.raises(BlinkError):
            stage.manager.get(grant)
    other = stage.make()
    with pytest.raises(RefreshPausedError):
        other.get(grant)
    assert posts(stage) == 1


def test_nobody_goes_without_a_token(stage: Stage) -> None:
    """Duende: where no token can be had, the request is sent without one."""
    grant = stage.expired()
    stage.banks.answer(INVALID_GRANT)
    with pytest.raises(InvalidGrantError):
        stage.manager.get(grant)
    stage.advance(120)
    with pytest.raises(ConsentNeededError):
        stage.manager.get(grant)


def test_a_refresh_that_succeeded_does_not_end_the_consent(stage: Stage) -> None:
    """fetcher 1249, OpenMeet 414: signed out although the refresh has succeeded."""
    grant = stage.authorize()
    old = stage.manager.get(grant)
    stage.advance(3600)
    stage.manager.invalidate(grant, old)
    assert stage.manager.get(grant) != old
    assert stage.record(grant).state is State.ACTIVE


def test_the_idle_end_of_a_refresh_token_is_known(stage: Stage) -> None:
    """Spring 13915: the expiry of the refresh token is ignored until it is too late."""
    grant = stage.authorize()
    stage.advance(25 * DAY)
    assert stage.manager.refresh_due().refreshed == 1
    stage.advance(25 * DAY)
    assert stage.manager.get(grant)


def test_a_restart_does_not_make_a_fleet_refresh_at_the_same_moment(stage: Stage) -> None:
    """azure-core draws its jitter anew for each object; here it is the grant's own."""
    grants = [stage.authorize(f"u-{number}") for number in range(20)]
    moments = [stage.manager.status(grant).refresh_at for grant in grants]
    assert len(set(moments)) == 20
    assert [stage.make().status(grant).refresh_at for grant in grants] == moments


def test_a_server_that_asks_for_time_gets_it_from_all_processes(stage: Stage) -> None:
    """MSAL.NET 4196, again: others that do not know of the 429 make it last."""
    grant = stage.expired()
    stage.banks.answer(says(429, Retry_After="600"))
    with pytest.raises(StatusError):
        stage.manager.get(grant)
    stage.advance(300)
    with pytest.raises(RefreshPausedError) as caught:
        stage.make().get(grant)
    assert caught.value.retry_after == 300
    assert posts(stage) == 1


# Secrets


def test_secrets_are_in_nothing_that_is_shown(
    stage: Stage, caplog: pytest.LogCaptureFixture
) -> None:
    """Authlib, httpx-oauth, MSAL, requests_oauth2client, requests-oauthlib 536, x/oauth2."""
    caplog.set_level(logging.DEBUG)
    grant = stage.expired()
    token = stage.manager.get(grant)
    stage.advance(DAY + 1)
    stage.banks.answer(never_arrived)
    with pytest.raises(BlinkError) as caught:
        stage.manager.get(grant)
    assert token.refresh_token is not None
    shown = [
        repr(token),
        repr(stage.manager),
        repr(stage.record(grant)),
        repr(Held(token, stage.time.now(), stage.record(grant))),
        repr(stage.events),
        str(caught.value),
        caplog.text,
    ]
    for secret in (token.access_token.reveal(), token.refresh_token.reveal()):
        assert [text for text in shown if secret in text] == []
    with pytest.raises(TypeError, match="never pickled"):
        pickle.dumps(token)


def test_a_user_chosen_profile_cannot_switch_the_safety_off(stage: Stage) -> None:
    """Duende, PR 12: the standing advice is reusable refresh tokens, which users cannot choose."""
    stage.make(profile=TargetProfile(mandatory=1e9, advisory=1e9))
    grant = stage.authorize()
    tokens = {stage.manager.get(grant) for _ in range(10)}
    assert len(tokens) == 1
    assert posts(stage) == 0
