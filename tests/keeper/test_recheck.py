"""A cached token is served only while the store can still say the same.

Past the time for a re-check the store is read before the token is served. After a refusal by a
bank's API the store is read at once.
"""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import httpx
import pytest
from attrs import define, field

from blink_oauth import Grant, Token
from blink_oauth_keeper import ConsentNeededError, StoreError, TokenManager
from blink_oauth_keeper.auth import GrantAuth
from blink_oauth_keeper.cache import RECHECK
from blink_oauth_keeper.store.protocol import State
from flavours import FLAVOURS, Flavour
from keeper.bank_api import URL, BankApi, PreparedResponse, request, unauthorized, unread
from keeper.harness import (
    DAY,
    PSU,
    TIMEOUT,
    Execute,
    Gate,
    Harness,
    concurrently,
    connection_refused,
    wait_until,
)

BOTH = pytest.mark.parametrize("flavour", FLAVOURS)
FIVE_MINUTES = RECHECK.total_seconds()
HOUR = 3600.0


def get(flavour: Flavour, manager: TokenManager, grant: Grant, **options: Any) -> Token:
    if flavour == "sync":
        return manager.get(grant, **options)
    return asyncio.run(manager.aget(grant, **options))


def loads(harness: Harness) -> int:
    return harness.faulty.calls.count("load")


@pytest.fixture
def other(harness: Harness) -> TokenManager:
    """Return the manager of another process on the same store."""
    _ = harness.manager
    return harness.make_manager()


# Past the time for a re-check


STEPS: dict[str, tuple[float, float]] = {
    "five minutes": (FIVE_MINUTES, 0),
    "six hours": (6 * HOUR, 0),
    "the wall clock was set back meanwhile": (FIVE_MINUTES, -HOUR),
    "the machine slept, and the monotonic clock stood still": (1, HOUR),
}


@BOTH
@pytest.mark.parametrize("name", STEPS)
def test_a_grant_that_another_process_revoked_is_not_served_past_the_re_check(
    name: str, flavour: Flavour, harness: Harness, other: TokenManager
) -> None:
    elapsed, step = STEPS[name]
    grant = harness.authorize()
    assert harness.manager.get(grant)
    other.revoke(grant)
    harness.clock.shift_wall_clock(step)
    harness.advance(elapsed)
    with pytest.raises(ConsentNeededError):
        get(flavour, harness.manager, grant)
    with pytest.raises(ConsentNeededError):
        get(flavour, harness.manager, grant)


@BOTH
def test_before_the_re_check_the_store_is_not_read(flavour: Flavour, harness: Harness) -> None:
    grant = harness.authorize()
    harness.faulty.calls.clear()
    for _ in range(5):
        harness.advance(FIVE_MINUTES / 5 - 1)
        assert get(flavour, harness.manager, grant)
        assert get(flavour, harness.manager, grant, min_validity=60)
    assert loads(harness) == 0


@BOTH
def test_the_newer_token_of_another_process_is_served_at_the_re_check(
    flavour: Flavour, harness: Harness, other: TokenManager
) -> None:
    grant = harness.authorize()
    newer = other.refresh(grant)
    harness.advance(FIVE_MINUTES)
    assert get(flavour, harness.manager, grant).access_token == newer.access_token
    assert len(harness.banks.presented()) == 1


def test_many_callers_share_one_re_check(harness: Harness) -> None:
    grant = harness.authorize()
    harness.advance(FIVE_MINUTES)
    loading, proceed = harness.hold_loads()
    harness.faulty.calls.clear()
    callers = harness.in_thread(lambda: concurrently(lambda: harness.manager.get(grant), 16))
    assert loading.wait(TIMEOUT)
    proceed.set()
    assert len(set(callers.result(TIMEOUT))) == 1
    assert loads(harness) == 1


@BOTH
def test_a_caller_with_a_valid_token_never_waits_for_the_bank(
    flavour: Flavour, harness: Harness, other: TokenManager
) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    gate = Gate()
    harness.banks.respond_next(gate)
    refresh = harness.in_thread(lambda: harness.manager.refresh(grant))
    gate.wait()
    harness.advance(FIVE_MINUTES)
    assert get(flavour, harness.manager, grant) == old
    assert get(flavour, other, grant) == old
    gate.open()
    assert refresh.result(TIMEOUT) != old


def test_a_stale_token_is_refreshed_in_the_background_after_the_re_check(harness: Harness) -> None:
    grant = harness.authorize()
    old = harness.manager.get(grant)
    harness.advance(DAY - 3600)
    gate = Gate()
    harness.banks.respond_next(gate)
    assert harness.manager.get(grant) == old
    gate.wait()
    gate.open()
    harness.wait_until_idle()
    assert harness.manager.get(grant) != old


@BOTH
def test_while_the_store_cannot_be_read_the_cached_token_is_served_until_its_end(
    flavour: Flavour, harness: Harness
) -> None:
    grant = harness.authorize()
    token = harness.manager.get(grant)
    harness.faulty.fail()
    for age in (FIVE_MINUTES, 6 * HOUR, DAY - 61, DAY - 1):
        harness.advance(age - (harness.clock.now() - harness.record(grant).issued_at).seconds)
        assert get(flavour, harness.manager, grant) == token
    harness.advance(1)
    with pytest.raises(StoreError):
        get(flavour, harness.manager, grant)


def test_while_the_store_cannot_be_read_it_is_asked_once_in_five_seconds(harness: Harness) -> None:
    grant = harness.authorize()
    harness.advance(HOUR)
    harness.faulty.fail()
    harness.faulty.calls.clear()
    for _ in range(20):
        assert harness.manager.get(grant)
        harness.advance(1)
    assert loads(harness) == 4


def test_a_revocation_is_obeyed_as_soon_as_the_store_can_be_read_again(
    harness: Harness, other: TokenManager
) -> None:
    grant = harness.authorize()
    other.revoke(grant)
    harness.faulty.fail()
    harness.advance(FIVE_MINUTES)
    assert harness.manager.get(grant)
    harness.faulty.recover()
    harness.advance(5)
    with pytest.raises(ConsentNeededError):
        harness.manager.get(grant)


@BOTH
def test_a_caller_whose_timeout_passes_first_gets_the_cached_token(
    flavour: Flavour, harness: Harness
) -> None:
    grant = harness.authorize()
    token = harness.manager.get(grant)
    harness.advance(FIVE_MINUTES)
    loading, proceed = harness.hold_loads()
    assert get(flavour, harness.manager, grant, timeout=0) == token
    assert loading.wait(TIMEOUT)
    proceed.set()


# A refused token


@define(eq=False)
class StrictApi(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """Accepts only the newest access token of the bank.

    Attributes:
        newest: The newest access token.
        refusal: The status for any other token.
        statuses: The statuses of all responses.
    """

    newest: str = ""
    refusal: int = 401
    statuses: list[int] = field(factory=list)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        bearer = request.headers["Authorization"].removeprefix("Bearer ")
        status = 200 if bearer == self.newest else self.refusal
        self.statuses.append(status)
        return httpx.Response(status)

    def issue(self, execute: Execute) -> httpx.Response:
        """Let the bank issue a token, and refuse all earlier ones from now on."""
        response = execute()
        self.newest = json.loads(response.read())["access_token"]
        return unread(response)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return self.handle_request(request)


def send(flavour: Flavour, auth: GrantAuth, api: Any) -> int:
    return request(flavour, auth, api).status_code


@pytest.fixture
def api(harness: Harness) -> StrictApi:
    api = StrictApi()
    harness.banks.respond_always(api.issue)
    return api


AGES = pytest.mark.parametrize("age", [0.0, 10.0, 59.0, 60.0, 240.0])
REFUSALS = pytest.mark.parametrize("refusal", [401, 403])


@BOTH
@AGES
@REFUSALS
def test_a_replaced_token_is_answered_with_the_one_of_another_process(
    refusal: int, age: float, flavour: Flavour, harness: Harness, api: StrictApi
) -> None:
    grant = harness.authorize()
    other = harness.make_manager()
    auth = harness.manager.auth(grant, psu=PSU)
    other.refresh(grant)
    harness.advance(age)
    api.refusal = refusal
    assert [send(flavour, auth, api) for _ in range(3)] == [200, 200, 200]
    assert api.statuses == [refusal, 200, 200, 200]
    assert len(harness.banks.presented()) == 1


@BOTH
@REFUSALS
def test_a_refused_token_is_answered_with_the_one_that_another_process_is_just_getting(
    refusal: int, flavour: Flavour, harness: Harness, api: StrictApi, other: TokenManager
) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    gate = Gate(api.issue)
    harness.banks.respond_next(gate)
    refresh = harness.in_thread(lambda: other.refresh(grant))
    gate.wait()
    api.refusal = refusal
    sent = harness.in_thread(lambda: send(flavour, auth, api))
    wait_until(lambda: bool(harness.waiting()))
    gate.open()
    refresh.result(TIMEOUT)
    harness.advance(1)
    assert sent.result(TIMEOUT) == 200
    assert len(harness.banks.presented()) == 1


@BOTH
def test_a_young_refused_token_is_not_refreshed_if_the_store_has_no_newer_one(
    flavour: Flavour, harness: Harness
) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    harness.faulty.calls.clear()
    transport = BankApi([unauthorized()])
    assert send(flavour, auth, transport) == 401
    assert len(transport.requests) == loads(harness) == 1
    assert harness.banks.presented() == []


@BOTH
@pytest.mark.parametrize("step", [-HOUR, -10 * HOUR, HOUR])
def test_a_step_of_the_wall_clock_does_not_keep_a_401_from_a_refresh(
    step: float, flavour: Flavour, harness: Harness
) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    harness.clock.shift_wall_clock(step)
    harness.advance(60)
    assert send(flavour, auth, BankApi([unauthorized()])) == 200
    assert len(harness.banks.presented()) == 1


def test_the_age_of_a_token_counts_from_when_this_process_first_had_it(harness: Harness) -> None:
    # The process that issued the token had a clock that is ahead by an hour.
    grant = harness.authorize()
    harness.clock.shift_wall_clock(-HOUR)
    manager = harness.make_manager()
    token = manager.get(grant)
    harness.advance(59)
    assert not manager.invalidate(grant, token)
    assert manager.get(grant) == token
    harness.advance(1)
    assert manager.invalidate(grant, token)
    assert manager.get(grant) != token


@BOTH
def test_a_403_never_causes_a_refresh(flavour: Flavour, harness: Harness) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    for age in (0.0, 120.0, HOUR):
        harness.advance(age)
        assert send(flavour, auth, BankApi([httpx.Response(403)])) == 403
    assert harness.banks.presented() == []

    # The token is in its last minute when the bank responds.
    def last_minute(_: httpx.Request) -> httpx.Response:
        harness.advance(DAY - HOUR - 120 - 30)
        return httpx.Response(403)

    assert send(flavour, auth, BankApi([last_minute])) == 403
    assert harness.banks.presented() == []


@BOTH
def test_403s_read_the_store_at_most_once_in_five_seconds(
    flavour: Flavour, harness: Harness
) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    harness.faulty.calls.clear()
    for _ in range(20):
        assert send(flavour, auth, BankApi([httpx.Response(403)])) == 403
        harness.advance(1)
    assert loads(harness) == 4


@BOTH
@pytest.mark.parametrize(
    "response",
    [
        httpx.Response(403, headers={"WWW-Authenticate": 'Bearer error="insufficient_scope"'}),
        httpx.Response(
            403,
            headers={"Content-Type": "application/problem+json"},
            json={"type": "/problems/INSUFFICIENT_PRIVILEGES"},
        ),
    ],
    ids=["insufficient_scope", "a problem"],
)
def test_a_403_for_another_reason_changes_nothing(
    response: PreparedResponse, flavour: Flavour, harness: Harness, other: TokenManager
) -> None:
    grant = harness.authorize()
    other.refresh(grant)
    harness.faulty.calls.clear()
    transport = BankApi([response])
    assert send(flavour, harness.manager.auth(grant, psu=PSU), transport) == 403
    assert (len(transport.requests), loads(harness)) == (1, 0)


@BOTH
def test_a_403_is_returned_although_the_store_cannot_be_read(
    flavour: Flavour, harness: Harness
) -> None:
    auth = harness.manager.auth(harness.authorize(), psu=PSU)
    harness.faulty.fail()
    assert send(flavour, auth, BankApi([httpx.Response(403)])) == 403
    assert send(flavour, auth, BankApi()) == 200


@BOTH
def test_a_403_is_returned_although_the_grant_was_revoked(
    flavour: Flavour, harness: Harness, other: TokenManager
) -> None:
    grant = harness.authorize()
    auth = harness.manager.auth(grant, psu=PSU)
    other.revoke(grant)
    assert send(flavour, auth, BankApi([httpx.Response(403)])) == 403
    with pytest.raises(ConsentNeededError):
        send(flavour, auth, BankApi())


@BOTH
def test_a_young_401_is_returned_although_the_store_cannot_be_read(
    flavour: Flavour, harness: Harness
) -> None:
    grant = harness.authorize()
    harness.faulty.fail()
    assert send(flavour, harness.manager.auth(grant, psu=PSU), BankApi([unauthorized()])) == 401


def test_a_read_that_began_before_the_refusal_does_not_answer_it(
    harness: Harness, other: TokenManager
) -> None:
    grant = harness.authorize()
    manager = harness.manager
    old = manager.get(grant)
    record, load = harness.record(grant), harness.memory.load
    loading, proceed = threading.Event(), threading.Event()

    def slow_load(key: Any) -> Any:
        if loading.is_set():
            return load(key)
        loading.set()
        assert proceed.wait(TIMEOUT)
        return record

    harness.faulty.replacements["load"] = slow_load
    manager.invalidate(grant, old)
    first = harness.in_thread(lambda: manager.get(grant))
    assert loading.wait(TIMEOUT)
    newer = other.refresh(grant)
    manager.invalidate(grant, old)
    second = harness.in_thread(lambda: manager.get(grant))
    proceed.set()
    assert second.result(TIMEOUT).access_token == newer.access_token
    assert first.result(TIMEOUT)
    assert manager.get(grant).access_token == newer.access_token


@REFUSALS
def test_sixteen_threads_are_never_refused_while_another_process_refreshes(
    refusal: int, harness: Harness, api: StrictApi
) -> None:
    ours, theirs = (harness.make_manager(real_waits=True) for _ in range(2))
    grant = harness.authorize(responder=api.issue, manager=ours)
    auth = ours.auth(grant, psu=PSU)
    api.refusal = refusal
    stop = threading.Event()
    wrong: list[int] = []
    last_used: dict[int, str] = {}

    def requests(number: int) -> None:
        with httpx.Client(auth=auth, transport=api) as client:
            while not stop.is_set():
                response = client.get(URL)
                last_used[number] = response.request.headers["Authorization"]
                if response.status_code != 200:
                    wrong.append(response.status_code)

    def all_use_the_newest() -> bool:
        return [*last_used.values()] == 16 * [f"Bearer {api.newest}"]

    threads = [threading.Thread(target=requests, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    wait_until(all_use_the_newest)
    # Between two reads of the store after a 403 there are five seconds.
    for _ in range(1 if refusal == 403 else 8):
        theirs.refresh(grant)
        wait_until(all_use_the_newest)
    stop.set()
    for thread in threads:
        thread.join(TIMEOUT)
    assert wrong == []
    assert refusal in api.statuses


def test_an_invalidated_young_token_is_returned_again_if_the_store_has_no_other(
    harness: Harness,
) -> None:
    grant = harness.authorize()
    token = harness.manager.get(grant)
    harness.banks.respond_always(connection_refused)
    assert not harness.manager.invalidate(grant, token)
    assert harness.manager.get(grant) == token
    assert harness.record(grant).state is State.ACTIVE
