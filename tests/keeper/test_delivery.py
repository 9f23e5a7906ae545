"""Notices reach their handler: each one, in the order of its grant, until it is delivered."""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from typing import Any, cast

import pytest
from attrs import define, evolve, field

from blink_oauth import BlinkError, Grant, InvalidInputError
from blink_oauth_keeper import (
    DeliveryError,
    EventName,
    NewNotice,
    Notice,
    NoticeKind,
    NoticeReport,
    StoreError,
    TargetProfile,
    TokenManager,
)
from blink_oauth_keeper.delivery import pause_after_failure
from blink_oauth_keeper.notices import due_notice
from keeper.harness import DAY, TIMEOUT, Harness, start_task, status_response

LOST, AT_RISK, RECOVERED = NoticeKind.LOST, NoticeKind.AT_RISK, NoticeKind.RECOVERED
CLAIM = 300.0
"""Seconds that a claim lasts."""


def lose(harness: Harness, grant: Grant) -> None:
    """Let the bank refuse the refresh token of a grant."""
    harness.banks.respond_next(status_response(400, {"error": "invalid_grant"}))
    with pytest.raises(BlinkError):
        harness.manager.refresh(grant)


def lost_grants(harness: Harness, count: int) -> list[Grant]:
    """Authorize grants and lose them; each has a notice."""
    grants = [harness.authorize(f"u-{number}") for number in range(count)]
    for grant in grants:
        lose(harness, grant)
    return grants


@define
class Receiver:
    """A handler that notes what it accepts.

    Attributes:
        failing: Raises instead, for each notice that it is called with; None to accept.
        accepted: The accepted notices, in their order.
        tried: The ids of all notices that it was called with.
    """

    failing: Callable[[Notice], object] | None = None
    accepted: list[Notice] = field(factory=list)
    tried: list[str] = field(factory=list)

    def __call__(self, notice: Notice) -> None:
        self.tried.append(notice.id)
        if self.failing is not None:
            self.failing(notice)
        self.accepted.append(notice)

    def kinds(self) -> list[NoticeKind]:
        return [notice.kind for notice in self.accepted]


def fail(notice: Notice) -> object:
    raise ZeroDivisionError("fake-text with u-4711")


def interrupt(notice: Notice) -> None:
    raise KeyboardInterrupt


def ask_for(seconds: float) -> Callable[[Notice], None]:
    """Return a handler whose receiver asks for a pause."""

    def handler(notice: Notice) -> None:
        raise DeliveryError("The receiver asks for a pause.", retry_after=seconds)

    return handler


def test_a_consent_that_is_lost_and_given_again_has_two_notices_in_this_order(
    harness: Harness,
) -> None:
    grant = harness.authorize()
    lose(harness, grant)
    harness.authorize()
    receiver = Receiver()
    report = harness.manager.deliver_notices(receiver)
    assert report == NoticeReport(delivered=2)
    assert receiver.kinds() == [LOST, RECOVERED]
    first, second = receiver.accepted
    assert first.grant == second.grant == grant
    assert (first.reason, first.generation, second.generation) == ("refused", 1, 2)
    assert first.id != second.id
    assert harness.manager.deliver_notices(receiver) == NoticeReport()


def test_a_notice_that_no_change_writes_is_written_once_by_the_scan(harness: Harness) -> None:
    grant = harness.authorize()
    harness.clock.elapse(26 * DAY)
    receiver = Receiver()
    assert harness.manager.deliver_notices(receiver, scan=False) == NoticeReport()
    report = harness.manager.deliver_notices(receiver)
    assert report == NoticeReport(written=1, delivered=1)
    assert harness.manager.deliver_notices(receiver) == NoticeReport()
    (notice,) = receiver.accepted
    assert (notice.kind, notice.reason) == (AT_RISK, "idle_end")
    assert notice.ends_at == harness.record(grant).idle_until
    harness.manager.refresh(grant)
    harness.manager.deliver_notices(receiver)
    assert receiver.kinds() == [AT_RISK, RECOVERED]


def test_a_process_whose_clock_is_behind_takes_back_no_notice(harness: Harness) -> None:
    harness.authorize()
    receiver = Receiver()
    harness.clock.elapse(25 * DAY + 60)
    harness.manager.deliver_notices(receiver)
    harness.clock.shift_wall_clock(-120)
    assert harness.manager.deliver_notices(receiver) == NoticeReport()
    harness.clock.elapse(DAY)
    harness.manager.deliver_notices(receiver)
    assert receiver.kinds() == [AT_RISK]


def test_a_grant_whose_key_is_missing_has_not_recovered(harness: Harness) -> None:
    profile, now = TargetProfile(), harness.clock.now()
    listed = evolve(harness.record(harness.authorize()), token=None, notice=AT_RISK)
    assert due_notice(listed, profile, now) == NewNotice(kind=RECOVERED)
    unreadable = evolve(listed, error="SealError")
    assert due_notice(unreadable, profile, now) is None
    warned = due_notice(evolve(unreadable, notice=None), profile, now + timedelta(days=26))
    assert warned == NewNotice(kind=AT_RISK, reason="idle_end", ends_at=listed.idle_until)
    without_refresh_token = evolve(unreadable, idle_until=None, notice=None)
    assert due_notice(without_refresh_token, profile, now + timedelta(days=26)) is None


def test_a_stopped_run_neither_scans_on_nor_keeps_its_claims(harness: Harness) -> None:
    lost_grants(harness, 3)
    assert harness.manager.deliver_notices(Receiver(), stop=lambda: True).left == 3
    assert "claim_notices" not in harness.faulty.calls
    receiver = Receiver()
    report = harness.manager.deliver_notices(receiver, stop=lambda: bool(receiver.accepted))
    assert report == NoticeReport(delivered=1, left=2)
    # At once, and not only after the claims would have ended.
    assert harness.manager.deliver_notices(receiver) == NoticeReport(delivered=2)
    assert [notice.tries for notice in receiver.accepted] == [1, 1, 1]


def test_the_limit_counts_tries(harness: Harness) -> None:
    lost_grants(harness, 3)
    receiver = Receiver()
    assert harness.manager.deliver_notices(receiver, limit=0).left == 3
    assert harness.manager.deliver_notices(receiver, limit=2) == NoticeReport(delivered=2, left=1)
    assert harness.manager.deliver_notices(receiver) == NoticeReport(delivered=1)


def test_more_notices_than_a_batch_are_delivered_in_one_run(harness: Harness) -> None:
    lost_grants(harness, 45)
    receiver = Receiver()
    assert harness.manager.deliver_notices(receiver).delivered == 45
    assert harness.faulty.calls.count("claim_notices") == 4


def test_a_failed_notice_is_tried_again_after_its_pause_with_the_same_id(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    (grant,) = lost_grants(harness, 1)
    receiver = Receiver(failing=fail)
    with caplog.at_level(logging.WARNING, "blink_oauth_keeper.notices"):
        report = harness.manager.deliver_notices(receiver)
    assert report == NoticeReport(failed=1, left=1)
    (line,) = [r.getMessage() for r in caplog.records if r.name == "blink_oauth_keeper.notices"]
    (notice_id,) = receiver.tried
    assert line == (
        f"Notice {notice_id} (consent.lost) failed at try 1 (ZeroDivisionError). "
        "The next try is in 8 s."
    )
    # The next notice of the grant waits for this one.
    harness.authorize(grant.username)
    receiver.failing = None
    harness.clock.elapse(7)
    assert harness.manager.deliver_notices(receiver) == NoticeReport(left=2)
    harness.clock.elapse(1)
    assert harness.manager.deliver_notices(receiver) == NoticeReport(delivered=2)
    assert receiver.kinds() == [LOST, RECOVERED]
    assert receiver.accepted[0].id == notice_id
    assert receiver.accepted[0].tries == 2


WEEK = timedelta(days=7)


@pytest.mark.parametrize(
    ("tries", "age", "spread", "retry_after", "pause"),
    [
        (1, timedelta(0), 0.0, None, 5.0),
        (1, timedelta(0), 1.0, None, 10.0),
        (2, timedelta(0), 1.0, None, 20.0),
        (9, timedelta(days=6), 1.0, None, 2560.0),
        (10, timedelta(days=6), 1.0, None, 3600.0),
        (10_000, timedelta(days=6), 0.0, None, 1800.0),
        (1, timedelta(0), 1.0, 120.0, 120.0),
        (1, timedelta(0), 1.0, 0.0, 10.0),
        (1, timedelta(0), 1.0, 1e9, 3600.0),
        (5, WEEK, 1.0, None, None),
        (5, WEEK - timedelta(seconds=1), 1.0, None, 160.0),
        # The deliveries were off for the week.
        (4, 4 * WEEK, 1.0, None, 80.0),
    ],
)
def test_pause_after_a_failure(
    tries: int, age: timedelta, spread: float, retry_after: float | None, pause: float | None
) -> None:
    assert pause_after_failure(tries, age, spread, retry_after) == pause


def test_after_a_week_of_failures_a_notice_is_dead_and_holds_up_none(harness: Harness) -> None:
    (grant,) = lost_grants(harness, 1)
    harness.authorize(grant.username)
    receiver = Receiver(failing=lambda notice: notice.kind is LOST and fail(notice))
    reports = []
    for _ in range(8):
        reports.append(harness.manager.deliver_notices(receiver))
        harness.clock.elapse(DAY)
    assert reports[:7] == [NoticeReport(failed=1, left=2)] * 7
    assert reports[7] == NoticeReport(dead=1, delivered=1)
    assert receiver.kinds() == [RECOVERED]
    (event,) = [e for e in harness.events if e.name is EventName.NOTICE_DEAD]
    assert (event.grant, event.error, event.generation) == (grant, "ZeroDivisionError", 1)
    assert event.fingerprint == harness.manager.fingerprint(grant)
    (entry,) = harness.manager.notices()
    assert entry.is_dead
    assert harness.manager.notices(limit=0) == []
    # A dead notice that fails again is dead again.
    assert harness.manager.retry_notices() == 1
    assert harness.manager.deliver_notices(receiver) == NoticeReport(dead=1)
    receiver.failing = None
    assert harness.manager.retry_notices() == 1
    assert harness.manager.deliver_notices(receiver) == NoticeReport(delivered=1)
    assert receiver.accepted[-1].id == entry.notice.id
    assert harness.manager.retry_notices() == 0


def test_a_run_ends_when_the_receiver_takes_too_long_again_and_again(harness: Harness) -> None:
    lost_grants(harness, 8)

    def time_out(notice: Notice) -> None:
        harness.clock.elapse(10)
        raise TimeoutError

    receiver = Receiver(failing=time_out)
    assert harness.manager.deliver_notices(receiver) == NoticeReport(failed=3, left=8)
    # The others were not tried, and are due at once.
    receiver.failing = None
    assert harness.manager.deliver_notices(receiver).delivered == 7
    harness.clock.elapse(10)
    assert harness.manager.deliver_notices(receiver).delivered == 1


def test_handlers_that_raise_at_once_do_not_end_a_run(harness: Harness) -> None:
    grants = lost_grants(harness, 30)
    receiver = Receiver(failing=lambda notice: notice.grant in grants[:25] and fail(notice))
    report = harness.manager.deliver_notices(receiver)
    assert (report.failed, report.delivered) == (25, 5)


def test_a_success_starts_the_patience_anew(harness: Harness) -> None:
    grants = lost_grants(harness, 9)

    def slow(notice: Notice) -> None:
        harness.clock.elapse(14)
        if notice.grant not in grants[2::3]:
            raise TimeoutError

    report = harness.manager.deliver_notices(Receiver(failing=slow))
    # After the third success the failed ones are due again, and fail three times.
    assert (report.delivered, report.failed) == (3, 6 + 3)


def test_a_short_pause_that_the_receiver_asks_for_is_slept_within_the_run(
    harness: Harness,
) -> None:
    lost_grants(harness, 3)
    receiver = Receiver()
    receiver.failing = lambda notice: len(receiver.tried) == 1 and ask_for(20)(notice)
    began = harness.clock.seconds
    report = harness.manager.deliver_notices(receiver)
    assert harness.clock.seconds == began + 20
    # The first one has a pause of its own, which is over.
    assert report == NoticeReport(failed=1, delivered=3)
    assert receiver.tried[0] == receiver.accepted[-1].id


def test_a_long_pause_that_the_receiver_asks_for_ends_the_run(harness: Harness) -> None:
    lost_grants(harness, 3)
    receiver = Receiver(failing=ask_for(600))
    began = harness.clock.seconds
    assert harness.manager.deliver_notices(receiver) == NoticeReport(failed=1, left=3)
    assert harness.clock.seconds == began
    receiver.failing = None
    assert harness.manager.deliver_notices(receiver).delivered == 2
    harness.clock.elapse(599)
    assert harness.manager.deliver_notices(receiver).delivered == 0
    harness.clock.elapse(1)
    assert harness.manager.deliver_notices(receiver).delivered == 1


def test_a_stop_ends_a_pause(harness: Harness) -> None:
    lost_grants(harness, 2)
    receiver = Receiver(failing=ask_for(20))
    began = harness.clock.seconds

    def stop() -> bool:
        return harness.clock.seconds >= began + 3

    assert harness.manager.deliver_notices(receiver, stop=stop) == NoticeReport(failed=1, left=2)
    assert harness.clock.seconds == began + 3


def test_an_interrupted_handler_raises_and_its_notice_comes_again(harness: Harness) -> None:
    lost_grants(harness, 1)
    receiver = Receiver(failing=interrupt)
    with pytest.raises(KeyboardInterrupt):
        harness.manager.deliver_notices(receiver)
    receiver.failing = None
    harness.clock.elapse(CLAIM - 1)
    assert harness.manager.deliver_notices(receiver) == NoticeReport(left=1)
    harness.clock.elapse(1)
    assert harness.manager.deliver_notices(receiver) == NoticeReport(delivered=1)
    assert len(set(receiver.tried)) == 1


def test_two_runs_at_once_share_the_notices(harness: Harness) -> None:
    grants = lost_grants(harness, 3)
    for grant in grants:
        harness.authorize(grant.username)
    other = harness.make_manager()
    inner, outer = Receiver(), Receiver()

    def second_run(notice: Notice) -> None:
        # While a notice is in its handler, another run gets none of its grant.
        other.deliver_notices(inner)
        assert notice.grant not in {each.grant for each in inner.accepted}

    outer.failing = second_run
    harness.manager.deliver_notices(outer)
    both = [notice.id for notice in (*inner.accepted, *outer.accepted)]
    assert len(both) == len(set(both)) == 6


def test_claims_that_have_nearly_ended_are_not_used(harness: Harness) -> None:
    lost_grants(harness, 8)
    receiver = Receiver(failing=lambda _: harness.clock.elapse(50))
    assert harness.manager.deliver_notices(receiver).delivered == 8
    assert len(set(receiver.tried)) == len(receiver.tried)
    assert harness.faulty.calls.count("claim_notices") == 3


def test_an_error_of_the_store_is_raised(harness: Harness) -> None:
    lost_grants(harness, 1)
    receiver = Receiver()
    for method in ("records", "claim_notices", "notice_delivered", "notices"):
        harness.faulty.fail(method)
        with pytest.raises(StoreError):
            harness.manager.deliver_notices(receiver)
        harness.faulty.recover()
        harness.clock.elapse(CLAIM)
    # It was in the handler when its delivery could not be noted.
    assert len(receiver.tried) == 2
    assert len(set(receiver.tried)) == 1


def test_notices_of_a_forgotten_grant_are_not_delivered(harness: Harness) -> None:
    (grant,) = lost_grants(harness, 1)
    harness.manager.forget(grant)
    receiver = Receiver()
    assert harness.manager.deliver_notices(receiver) == NoticeReport()
    assert receiver.tried == []


@pytest.mark.parametrize("failing", [False, True])
def test_a_grant_may_be_forgotten_while_its_notice_is_in_the_handler(
    harness: Harness, failing: bool
) -> None:
    lost_grants(harness, 1)

    def forget(notice: Notice) -> None:
        assert notice.grant is not None
        harness.manager.forget(notice.grant)
        if failing:
            raise ConnectionError

    report = harness.manager.deliver_notices(Receiver(failing=forget))
    assert report == NoticeReport(delivered=not failing, failed=failing)
    assert harness.manager.notices() == []


def test_a_notice_that_is_dead_without_a_grant_names_its_end(harness: Harness) -> None:
    end = harness.clock.now() + timedelta(days=9)
    notice = NewNotice(kind=NoticeKind.EXPIRING, ends_at=end)
    harness.memory.add_certificate_notice(harness.manager.client_id, "fake-name", 1, notice)
    receiver = Receiver(failing=fail)
    for _ in range(8):
        harness.manager.deliver_notices(receiver)
        harness.clock.elapse(DAY)
    (event,) = [e for e in harness.events if e.name is EventName.NOTICE_DEAD]
    assert (event.grant, event.fingerprint) == (None, "")
    assert (event.certificate, event.expires_at) == ("fake-name", end)


class Awaited:
    """An object whose calls are coroutines."""

    async def __call__(self, notice: Notice) -> None:
        raise AssertionError("it was awaited")


async def coroutine(notice: Notice) -> None:
    raise AssertionError("it was awaited")


def returning_a_coroutine(notice: Notice) -> object:
    return coroutine(notice)


def returning_an_awaitable(notice: Notice) -> object:
    class Result:
        def __await__(self) -> Iterator[None]:
            raise AssertionError("it was awaited")

    return Result()


@pytest.mark.parametrize("handler", [Awaited(), returning_a_coroutine, returning_an_awaitable])
def test_an_awaitable_that_nothing_awaits_is_an_error(
    harness: Harness, handler: Callable[[Notice], object]
) -> None:
    lost_grants(harness, 1)
    with pytest.raises(InvalidInputError, match=r"Call adeliver_notices\.$"):
        harness.manager.deliver_notices(handler)
    harness.clock.elapse(CLAIM)
    assert harness.manager.deliver_notices(Receiver()).delivered == 1


@pytest.mark.parametrize("handler", [coroutine, partial(coroutine)])
def test_a_coroutine_function_is_refused_before_anything_is_claimed(
    harness: Harness, handler: Callable[[Notice], object]
) -> None:
    with pytest.raises(InvalidInputError, match="handler must be a function without async"):
        harness.manager.deliver_notices(handler)
    assert harness.faulty.calls == []


@pytest.mark.anyio
async def test_a_coroutine_function_runs_in_the_event_loop(harness: Harness) -> None:
    await asyncio.to_thread(lost_grants, harness, 2)
    receiver, threads = Receiver(), set()

    async def handler(notice: Notice) -> None:
        await asyncio.sleep(0)
        threads.add(threading.get_ident())
        receiver(notice)

    report = await harness.manager.adeliver_notices(handler)
    assert report == NoticeReport(delivered=2)
    assert threads == {threading.get_ident()}


@pytest.mark.anyio
async def test_a_function_runs_in_a_thread_and_its_awaitable_in_the_event_loop(
    harness: Harness,
) -> None:
    await asyncio.to_thread(lost_grants, harness, 2)
    receiver, threads = Receiver(), set()

    def handler(notice: Notice) -> object:
        threads.add(threading.get_ident())

        async def rest() -> None:
            assert threading.get_ident() not in threads
            receiver(notice)

        return rest()

    assert (await harness.manager.adeliver_notices(handler)).delivered == 2
    assert len(receiver.accepted) == 2


@pytest.mark.anyio
async def test_a_coroutine_that_fails_is_tried_again(harness: Harness) -> None:
    await asyncio.to_thread(lost_grants, harness, 1)
    receiver = Receiver(failing=fail)

    async def handler(notice: Notice) -> None:
        receiver(notice)

    assert await harness.manager.adeliver_notices(handler) == NoticeReport(failed=1, left=1)
    receiver.failing = None
    harness.clock.elapse(10)
    stopped = await harness.manager.adeliver_notices(handler, stop=lambda: True, scan=False)
    assert stopped == NoticeReport(left=1)
    assert await harness.manager.adeliver_notices(handler) == NoticeReport(delivered=1)
    assert await harness.manager.anotices() == []


@pytest.mark.anyio
async def test_a_cancelled_delivery_cancels_its_handler_and_comes_again(harness: Harness) -> None:
    await asyncio.to_thread(lost_grants, harness, 1)
    tried: list[str] = []
    called = asyncio.Event()

    async def handler(notice: Notice) -> None:
        tried.append(notice.id)
        called.set()
        if len(tried) == 1:
            await asyncio.Event().wait()

    delivery = await start_task(harness.manager.adeliver_notices(handler))
    await asyncio.wait_for(called.wait(), TIMEOUT)
    delivery.cancel()
    with pytest.raises(asyncio.CancelledError):
        await delivery
    assert await harness.manager.adeliver_notices(handler) == NoticeReport(left=1)
    harness.clock.elapse(CLAIM)
    assert await harness.manager.adeliver_notices(handler) == NoticeReport(delivered=1)
    assert len(tried) == 2
    assert len(set(tried)) == 1


@pytest.mark.anyio
@pytest.mark.parametrize("method", ["records", "claim_notices", "notice_delivered", "notices"])
async def test_a_store_that_does_not_respond_does_not_block_the_event_loop(
    harness: Harness, method: str
) -> None:
    await asyncio.to_thread(lost_grants, harness, 1)
    called, proceed = threading.Event(), threading.Event()
    inner = getattr(harness.memory, method)

    def held(*args: object, **options: object) -> object:
        called.set()
        assert proceed.wait(TIMEOUT)
        return inner(*args, **options)

    harness.faulty.replacements[method] = held
    delivery = await start_task(harness.manager.adeliver_notices(Receiver()))
    # The loop goes on, or this would wait for itself.
    assert await asyncio.to_thread(called.wait, TIMEOUT)
    proceed.set()
    assert (await delivery).delivered == 1


@pytest.mark.anyio
async def test_dead_notices_are_tried_again_from_a_coroutine(harness: Harness) -> None:
    await asyncio.to_thread(lost_grants, harness, 1)
    (notice,) = harness.memory.claim_notices(harness.manager.client_id, limit=1, ttl=1)
    harness.memory.notice_failed(notice, pause=None)
    assert await harness.manager.aretry_notices() == 1
    assert (await harness.manager.adeliver_notices(Receiver())).delivered == 1


CLASS = cast("Any", Receiver)
WRONG: dict[str, tuple[str, Callable[[TokenManager], object]]] = {
    "handler": ("handler must be a function", lambda m: m.deliver_notices(cast("Any", None))),
    "class": (
        "handler must be a function of a Notice",
        lambda m: m.deliver_notices(cast("Any", Receiver)),
    ),
    "limit": ("limit must be a whole number", lambda m: m.deliver_notices(fail, limit=-1)),
    "stop": ("stop must be a function", lambda m: m.deliver_notices(fail, stop=cast("Any", 1))),
    "listed": ("limit must be a whole number", lambda m: m.notices(limit=-1)),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_argument_is_refused_by_name(harness: Harness, name: str) -> None:
    text, call = WRONG[name]
    with pytest.raises(InvalidInputError, match=re.escape(text)):
        call(harness.manager)
    assert harness.faulty.calls == []
