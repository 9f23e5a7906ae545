"""The manager in coroutines: each method that waits has a twin that does not block the loop."""

from __future__ import annotations

import asyncio
import inspect
import re
import threading
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest

from blink_oauth import InvalidInputError
from blink_oauth_keeper import Report, StoreError, TokenManager, UnknownGrantError
from blink_oauth_keeper import status as status_module
from keeper.harness import (
    DAY,
    UNKNOWN_GRANT,
    Gate,
    Harness,
    start_task,
    wait_until,
)

pytestmark = pytest.mark.anyio
MONTH = timedelta(days=30)
WITHOUT_TWIN = {
    "client": "making it waits for nothing; for coroutines there is async_client",
    "async_client": "making it waits for nothing; for threads there is client",
    "auth": "one object serves httpx.Client and httpx.AsyncClient, and making it waits for nothing",
    "fingerprint": "it waits for nothing once the store was used, which has read the key",
    "invalidate": "it only changes the cache, and waits for nothing",
}
METHODS: dict[str, Callable[..., object]] = {
    name: member
    for name, member in vars(TokenManager).items()
    if inspect.isfunction(member) and not name.startswith("_")
}
ASYNC = {
    name
    for name, member in METHODS.items()
    if inspect.iscoroutinefunction(member) or inspect.isasyncgenfunction(member)
}
TWINS = METHODS.keys() - ASYNC - WITHOUT_TWIN.keys()


def sections(name: str) -> str:
    """Return the docstring of a method from its arguments or errors on."""
    text = inspect.getdoc(METHODS[name]) or ""
    return text[re.search(r"^(?:Args|Raises):|\Z", text, re.MULTILINE).start() :]  # type: ignore[union-attr]


def test_each_method_has_a_twin_or_a_reason_to_have_none() -> None:
    assert {f"a{name}" for name in TWINS} == ASYNC
    assert METHODS.keys() >= WITHOUT_TWIN.keys()
    assert all(WITHOUT_TWIN.values())


@pytest.mark.parametrize("name", sorted(TWINS))
def test_a_twin_has_the_same_parameters_docstring_and_result(name: str) -> None:
    signature, twin = inspect.signature(METHODS[name]), inspect.signature(METHODS[f"a{name}"])
    assert signature.parameters == twin.parameters
    result = str(signature.return_annotation).replace("Iterator[", "AsyncIterator[")
    assert twin.return_annotation == result
    assert sections(name) == sections(f"a{name}") != ""
    first, *_ = (inspect.getdoc(METHODS[name]) or "").splitlines()
    text = inspect.getdoc(METHODS[f"a{name}"]) or ""
    assert text.startswith(f"{first}\n\nThe same as `{name}`, for ")


def test_the_sections_that_are_compared_hold_arguments_and_errors() -> None:
    assert sections("status").startswith("Args:\n    grant: ")
    assert "StoreError: " in sections("status")
    assert sections("statuses").startswith("Raises:\n")


async def test_an_async_with_block_closes_its_manager(harness: Harness) -> None:
    async with harness.manager as manager:
        assert manager is harness.manager
        assert not harness.is_closed()
    assert harness.is_closed()
    assert harness.faulty.calls[-1] == "close"


async def test_an_async_with_block_that_fails_closes_its_manager(harness: Harness) -> None:
    with pytest.raises(ZeroDivisionError):
        async with harness.manager:
            raise ZeroDivisionError
    assert harness.is_closed()


async def test_aclose_waits_for_the_flight_in_progress_and_the_loop_goes_on(
    harness: Harness,
) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = await start_task(harness.manager.aget(grant))
    await gate.async_wait()
    closing = await start_task(harness.manager.aclose())
    await asyncio.to_thread(wait_until, harness.is_closed)
    assert not closing.done()
    gate.open()
    await closing
    assert await caller == harness.record(grant).token
    assert harness.faulty.calls[-1] == "close"


async def test_aclose_gives_up_after_its_timeout(harness: Harness) -> None:
    grant = harness.expired_grant()
    harness.faulty.fail("settle", "journal")
    await harness.manager.aget(grant)
    # Until the flight waits to store its pair: a wait that begins later ends by the test's clock.
    await asyncio.to_thread(harness.wait_until_idle)
    await harness.manager.aclose(timeout=0)
    assert harness.record(grant).generation == 1
    assert harness.is_closed()
    harness.allowed_replays = 1


async def test_closing_goes_on_if_its_coroutine_is_cancelled(harness: Harness) -> None:
    grant = harness.expired_grant()
    gate = Gate()
    harness.banks.respond_next(gate)
    caller = await start_task(harness.manager.aget(grant))
    await gate.async_wait()
    closing = await start_task(harness.manager.aclose())
    await asyncio.to_thread(wait_until, harness.is_closed)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    gate.open()
    await caller
    await asyncio.to_thread(wait_until, lambda: harness.faulty.calls[-1] == "close")


async def test_closing_that_still_waits_for_a_thread_goes_on_if_its_coroutine_is_cancelled(
    harness: Harness,
) -> None:
    harness.authorize()
    occupied = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        asyncio.get_running_loop().set_default_executor(pool)
        other = asyncio.get_running_loop().run_in_executor(None, occupied.wait)
        closing = await start_task(harness.manager.aclose())
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing
        occupied.set()
        await other
    assert harness.faulty.calls[-1] == "close"


async def test_status_and_history_are_those_of_the_synchronous_methods(harness: Harness) -> None:
    grant = harness.authorize()
    manager = harness.manager
    manager.refresh(grant)
    assert await manager.astatus(grant) == manager.status(grant)
    assert len(manager.history(grant)) > 1
    assert await manager.ahistory(grant) == manager.history(grant)
    assert await manager.ahistory(grant, limit=1) == manager.history(grant)[:1]


async def test_the_errors_are_those_of_the_synchronous_methods(harness: Harness) -> None:
    manager = harness.manager
    with pytest.raises(UnknownGrantError, match="Authorize it first"):
        await manager.astatus(UNKNOWN_GRANT)
    with pytest.raises(InvalidInputError, match="must be a Grant"):
        await manager.ahistory("u-4711")  # type: ignore[arg-type]
    harness.faulty.fail()
    with pytest.raises(StoreError):
        [status async for status in manager.astatuses()]
    with pytest.raises(StoreError):
        await manager.arefresh_due()


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5])
async def test_astatuses_yields_every_grant_once_whatever_the_pages(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(status_module, "PAGE", 2)
    for number in range(count):
        harness.authorize(f"u-{number}")
    found = [status async for status in harness.manager.astatuses()]
    assert found == list(harness.manager.statuses())
    assert [status.grant.username for status in found] == [f"u-{each}" for each in range(count)]


def readers(manager: TokenManager) -> Iterator[tuple[str, Callable[[], Awaitable[object]]]]:
    """Yield a method of the store, and a call of the manager that waits for it."""

    async def statuses() -> object:
        return [status async for status in manager.astatuses()]

    yield "load", lambda: manager.astatus(UNKNOWN_GRANT)
    yield "records", statuses
    yield "history", lambda: manager.ahistory(UNKNOWN_GRANT)
    yield "due", lambda: manager.arefresh_due(dry_run=True)
    yield "close", manager.aclose


async def test_no_store_call_is_made_in_the_thread_of_the_loop(harness: Harness) -> None:
    calls: list[tuple[str, threading.Thread]] = []

    def recorded(name: str) -> Callable[..., object]:
        def call(*args: object, **options: object) -> object:
            calls.append((name, threading.current_thread()))
            return getattr(harness.memory, name)(*args, **options)

        return call

    called = list(readers(harness.manager))
    harness.faulty.replacements = {name: recorded(name) for name, _ in called}
    await asyncio.gather(*(call() for _, call in called[:-1]), return_exceptions=True)
    await harness.manager.aclose()
    assert {name for name, _ in calls} == {name for name, _ in called}
    assert threading.current_thread() not in {thread for _, thread in calls}


async def test_arefresh_due_refreshes_and_reports(harness: Harness) -> None:
    grants = [harness.authorize(f"u-{number}") for number in range(3)]
    harness.clock.elapse(DAY)
    assert (await harness.manager.arefresh_due(within=MONTH, dry_run=True)).due == 3
    progress: list[Report] = []
    report = await harness.manager.arefresh_due(
        within=MONTH, limit=2, concurrency=1, on_progress=progress.append
    )
    assert (report.due, report.refreshed) == (2, 2)
    assert [each.refreshed for each in progress] == [1, 2]
    assert sorted(harness.record(grant).generation for grant in grants) == [1, 2, 2]
    assert (await harness.manager.arefresh_due(within=MONTH, stop=lambda: True)).due == 0


async def test_a_cancelled_run_starts_no_more_refreshes_and_those_in_progress_finish(
    harness: Harness,
) -> None:
    for number in range(9):
        harness.authorize(f"u-{number}")
    harness.clock.elapse(DAY)
    gate = Gate()
    harness.banks.respond_always(gate)
    run = await start_task(harness.manager.arefresh_due(within=MONTH, concurrency=1))
    await asyncio.to_thread(gate.wait, 1)
    await asyncio.to_thread(harness.wait_until_idle)
    # The second claim finds that no other bank has a due grant. Then the run waits for the refresh.
    claims = 2
    await asyncio.to_thread(wait_until, lambda: harness.faulty.calls.count("claim_due") == claims)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run
    gate.open()
    # The executor's thread ends with the run.
    await asyncio.get_running_loop().shutdown_default_executor()
    assert harness.faulty.calls.count("claim_due") == claims
    states = [status.generation for status in harness.manager.statuses()]
    assert (states.count(1), states.count(2)) == (8, 1)
    assert {status.attempts for status in harness.manager.statuses()} == {0}
    assert "purge" not in harness.faulty.calls
