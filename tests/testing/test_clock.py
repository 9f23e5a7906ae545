"""One clock drives the sandbox, a token manager and its store."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import evolve

from blink_oauth import BlinkOAuth, CertificateError, Grant, OAuthError, Psu, ResponseError
from blink_oauth_keeper import (
    Event,
    MemoryTokenStore,
    RefreshPausedError,
    SqlTokenStore,
    TargetProfile,
    TokenManager,
    TokenStore,
)
from blink_oauth_keeper.store.protocol import GrantKey, State
from blink_oauth_testing import Sandbox
from blink_oauth_testing.sandbox import Bank, Clock

HOUR, DAY = 3_600.0, 86_400.0
TIMEOUT = 10.0
MakeManager = Callable[..., TokenManager]


@pytest.fixture
def make_manager(sandbox: Sandbox) -> Iterator[MakeManager]:
    """Return a function that makes managers on the sandbox's clock, which are closed afterwards."""
    clock = sandbox.clock
    with ExitStack() as stack:
        blink = stack.enter_context(BlinkOAuth(sandbox.settings(), clock=clock.now))

        def make(store: TokenStore | None = None, **options: Any) -> TokenManager:
            store = store or MemoryTokenStore(clock=clock.now)
            manager = TokenManager(blink, store, **clock.manager_options(), **options)
            return stack.enter_context(manager)

        yield make


def authorized(sandbox: Sandbox, manager: TokenManager, username: str = "u-4711") -> Grant:
    grant = sandbox.grant(username=username)
    code, uri = sandbox.issue_code(grant), sandbox.redirect_uri
    manager.authorize(grant, code=code, redirect_uri=uri, psu=Psu.AUTO)
    return grant


def bank_of(sandbox: Sandbox, grant: Grant) -> Bank:
    return sandbox.banks[grant.target_id]


@pytest.fixture
def change_bank(sandbox: Sandbox) -> Iterator[Callable[..., None]]:
    """Return a function that changes the policy of the first bank until the end of the test."""
    bank = next(iter(sandbox.banks.values()))
    policy = bank.policy

    def change(**changes: Any) -> None:
        bank.policy = evolve(policy, **changes)

    yield change
    bank.policy = policy


def test_the_parts_of_an_advance_add_up() -> None:
    clock = Clock(source=lambda: 5.0)
    clock.advance(days=1, hours=-2, minutes=3, seconds=4)
    assert clock() == clock.now().timestamp() == 5.0 + DAY - 2 * HOUR + 184
    assert clock.monotonic() == DAY - 2 * HOUR + 184
    for backwards in ({"days": -1}, {"hours": -1}, {"minutes": -1}, {"hours": 1, "minutes": -61}):
        with pytest.raises(ValueError, match="backwards"):
            clock.advance(**backwards)
    assert clock.monotonic() == clock.ahead == DAY - 2 * HOUR + 184


def test_a_reset_sets_the_time_back_but_not_the_monotonic_clock() -> None:
    clock = Clock(source=lambda: 5.0)
    clock.advance(hours=1)
    assert clock.monotonic() == HOUR
    clock.ahead = 0.0
    assert (clock(), clock.monotonic()) == (5.0, HOUR)
    clock.advance(seconds=1)
    assert clock.monotonic() == HOUR + 1


def test_two_sandboxes_have_two_clocks_unless_they_share_one(sandbox: Sandbox) -> None:
    other, sharing = Sandbox(), Sandbox(clock=sandbox.clock)
    for each in (other, sharing):
        bank = next(iter(each.banks.values()))
        code = bank.issue_code("CIDX0000000002", each.redirect_uri, "u-4711")
        sandbox.clock.advance(minutes=1)
        answer = bank.exchange_code("CIDX0000000002", code, each.redirect_uri, "u-4711")
        assert hasattr(answer, "access_token") is (each is other)
    assert other.clock.ahead == 0.0


def test_a_refresh_in_the_background_ends_before_the_clock_moves(
    sandbox: Sandbox, make_manager: MakeManager, change_bank: Callable[..., None]
) -> None:
    manager = make_manager()
    grant = authorized(sandbox, manager)
    sandbox.clock.advance(hours=22)
    change_bank(response_delay=0.2)
    first = manager.get(grant)
    before = sandbox.clock()
    sandbox.clock.advance(hours=1)
    assert sandbox.exchanges[-1].at < before + TIMEOUT
    second = manager.get(grant)
    assert second != first
    assert second.expires_at is not None
    assert second.expires_at.timestamp() < before + DAY + TIMEOUT
    assert bank_of(sandbox, grant).refreshes == 1


def test_another_process_moves_the_clock_after_a_refresh_in_the_background(
    sandbox: Sandbox, make_manager: MakeManager, change_bank: Callable[..., None]
) -> None:
    manager = make_manager()
    grant = authorized(sandbox, manager)
    sandbox.clock.advance(hours=22)
    change_bank(response_delay=0.2)
    manager.get(grant)
    before = sandbox.clock()
    url = f"{sandbox.control_url}/sandbox/clock"
    assert httpx.post(url, json={"advance": DAY}, timeout=TIMEOUT).status_code == 200
    assert sandbox.exchanges[-1].at < before + TIMEOUT
    assert bank_of(sandbox, grant).refreshes == 1


def test_an_advance_gives_up_on_a_refresh_that_does_not_end() -> None:
    clock = Clock(patience=0.01)
    pool = clock.manager_options()["new_thread_pool"](1)
    proceed = threading.Event()
    running = pool.submit(proceed.wait, TIMEOUT)
    with pytest.raises(RuntimeError, match=r"not ended within 0\.01 s"):
        clock.advance(hours=1)
    assert clock.ahead == 0.0
    proceed.set()
    assert running.result(TIMEOUT)
    clock.patience = TIMEOUT
    clock.advance(hours=1)
    pool.shutdown()
    with pytest.raises(RuntimeError, match="after shutdown"):
        pool.submit(proceed.wait)
    clock.advance(hours=1)
    assert clock.ahead == 2 * HOUR


def test_a_planned_replay_is_made_at_its_time(
    sandbox: Sandbox, make_manager: MakeManager, change_bank: Callable[..., None]
) -> None:
    manager = make_manager()
    grant = authorized(sandbox, manager)
    change_bank(replay_window=60.0)
    sandbox.clock.advance(hours=22)
    sandbox.fail("gateway-timeout-after")
    first = manager.get(grant)
    before = sandbox.clock()
    sandbox.clock.advance(hours=1)
    assert sandbox.exchanges[-1].at < before + 60.0
    assert manager.status(grant).state is State.ACTIVE
    assert manager.get(grant) != first


def test_a_caller_that_waits_for_a_lease_elsewhere_goes_on(
    sandbox: Sandbox, make_manager: MakeManager
) -> None:
    store = MemoryTokenStore(clock=sandbox.clock.now)
    manager = make_manager(store)
    grant = authorized(sandbox, manager)
    sandbox.clock.advance(hours=25)
    record = store.load(GrantKey(sandbox.settings().client_id, grant))
    assert record is not None
    assert store.claim(record, owner="elsewhere", ttl=25.0)
    with ThreadPoolExecutor() as pool:
        caller = pool.submit(manager.get, grant)
        while not wait([caller], timeout=0.005).done:
            sandbox.clock.advance(seconds=5)
        assert caller.result() != record.token
    assert bank_of(sandbox, grant).refreshes == 1


def test_a_manager_that_sleeps_advances_the_clock(
    sandbox: Sandbox, make_manager: MakeManager
) -> None:
    manager = make_manager(profile=TargetProfile(rate=1 / HOUR))
    for number in range(3):
        authorized(sandbox, manager, f"u-{number}")
    sandbox.clock.advance(days=25)
    before = sandbox.clock.ahead
    assert manager.refresh_due().refreshed == 3
    assert 2 * HOUR - TIMEOUT < sandbox.clock.ahead - before < 3 * HOUR


def test_a_listener_advances_the_clock_at_once(sandbox: Sandbox, make_manager: MakeManager) -> None:
    moved: list[float] = []

    def listen(event: Event) -> None:
        sandbox.clock.advance(seconds=1)
        moved.append(sandbox.clock.ahead)

    manager = make_manager(on_event=listen)
    authorized(sandbox, manager)
    assert moved == [1.0]


def test_a_circuit_that_opened_closes_after_an_advance(
    sandbox: Sandbox, make_manager: MakeManager
) -> None:
    manager = make_manager()
    grant, other = (authorized(sandbox, manager, name) for name in ("u-1", "u-2"))
    sandbox.clock.advance(hours=25)
    sandbox.fail("service-unavailable", times=2)
    for _ in range(2):
        sandbox.clock.advance(minutes=30)
        with pytest.raises(ResponseError):
            manager.get(grant)
    with pytest.raises(RefreshPausedError):
        manager.get(other)
    sandbox.clock.advance(minutes=30)
    assert manager.get(other) != manager.get(grant)
    assert bank_of(sandbox, grant).refreshes == 2


def test_a_lease_in_a_database_ends_by_the_clock(
    sandbox: Sandbox, make_manager: MakeManager, tmp_path: Path
) -> None:
    store = SqlTokenStore(
        tmp_path / "tokens.db", keys=[SqlTokenStore.new_key()], clock=sandbox.clock.now
    )
    manager = make_manager(store)
    grant = authorized(sandbox, manager)
    sandbox.clock.advance(hours=25)
    key = GrantKey(sandbox.settings().client_id, grant)
    record = store.load(key)
    assert record is not None
    claim = store.claim(record, owner="elsewhere", ttl=25.0)
    assert claim is not None
    assert claim.lease_left > 0
    sandbox.clock.advance(seconds=26)
    record = store.load(key)
    assert record is not None
    assert record.lease_left == 0
    assert manager.get(grant) != record.token


def test_coroutines_and_threads_use_one_manager(
    sandbox: Sandbox, make_manager: MakeManager
) -> None:
    manager = make_manager()

    async def use() -> None:
        grant = sandbox.grant()
        code, uri = sandbox.issue_code(grant), sandbox.redirect_uri
        first = await manager.aauthorize(grant, code=code, redirect_uri=uri, psu=Psu.AUTO)
        sandbox.clock.advance(hours=22)
        assert await manager.aget(grant) == first
        sandbox.clock.advance(hours=25)
        tokens = await asyncio.gather(*(manager.aget(grant) for _ in range(20)))
        assert len({token.access_token.reveal() for token in tokens}) == 1
        assert bank_of(sandbox, grant).refreshes == 2
        sandbox.clock.advance(days=30)
        with pytest.raises(OAuthError, match="invalid_grant"):
            await manager.aget(grant)

    asyncio.run(use())


def test_a_client_made_after_the_end_of_its_certificate_is_refused(
    sandbox: Sandbox, make_manager: MakeManager
) -> None:
    manager = make_manager()
    sandbox.clock.advance(days=400)
    assert manager.get(authorized(sandbox, manager)).expires_at is not None
    with pytest.raises(CertificateError, match="expired"):
        BlinkOAuth(sandbox.settings(), clock=sandbox.clock.now)


def test_an_advance_stops_at_a_thousand_planned_calls_at_most() -> None:
    clock = Clock(source=lambda: 5.0)
    timers = clock.manager_options()["new_timers"]()
    timers.start()
    calls: list[float] = []

    def repeat() -> None:
        calls.append(clock())
        if clock() < DAY:
            timers.after(1.0, repeat)

    timers.after(1.0, repeat)
    clock.advance(seconds=2.5)
    assert calls == pytest.approx([6.0, 7.0], abs=0.01)
    clock.advance(days=1)
    assert 1_000 <= len(calls) <= 1_003
    assert clock() == pytest.approx(5.0 + 2.5 + DAY)
    timers.close()
