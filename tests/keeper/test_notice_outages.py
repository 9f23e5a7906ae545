"""No notice is lost, and those of a grant arrive in their order, whatever fails.

Receivers that are down, and processes that end between claim, handler and delivery. A notice that
arrives again has the same id.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve, field
from hypothesis import given, settings
from hypothesis import strategies as st

from blink_oauth import Grant, Token
from blink_oauth_keeper import (
    DeliveryError,
    GrantKey,
    LiteralKeys,
    NewNotice,
    Note,
    Notice,
    NoticeKind,
    SqlTokenStore,
    TokenManager,
    TokenStore,
    Webhook,
)
from keeper.harness import CLIENT_ID, TARGET, Harness, ManualClock
from keeper.test_webhook import SECRET, Server, serving
from wire.loopback import listening, url_of

HOUR = 3_600.0
LOST = NewNotice(kind=NoticeKind.LOST, reason="refused")
RECOVERED = NewNotice(kind=NoticeKind.RECOVERED)
KEY = SqlTokenStore.new_key()


@define(eq=False)
class History:
    """Grants whose consents are lost and given again, and the notices that this writes.

    Attributes:
        written: The kinds of the notices of each grant, in their order.
    """

    store: TokenStore
    clock: ManualClock
    written: dict[Grant, list[NoticeKind]] = field(factory=dict)
    _pairs: int = field(init=False, default=0)

    def consent(self, grant: Grant) -> None:
        """Store the pair of a consent."""
        note = Note(event="grant.authorized", notice=RECOVERED)
        self._pairs += 1
        token = Token(
            access_token=f"fake-access-token-{self._pairs}",
            refresh_token=f"fake-refresh-token-{self._pairs}",
        )
        now = self.clock.now()
        idle_until = now + timedelta(days=30)
        key = GrantKey(CLIENT_ID, grant)
        self.store.put(key, token, issued_at=now, idle_until=idle_until, note=note)
        if self.written.setdefault(grant, []):
            self.written[grant].append(NoticeKind.RECOVERED)

    def lose_and_consent(self, grant: Grant) -> None:
        """Lose a consent, and store the pair of another one: two notices."""
        record = self.store.load(GrantKey(CLIENT_ID, grant))
        assert record is not None
        assert self.store.add_notice(record, LOST)
        self.written[grant].append(NoticeKind.LOST)
        self.consent(grant)

    def check(self, received: Sequence[Notice]) -> None:
        """Check that all notices were received, in the order of each grant."""
        by_id: dict[str, Notice] = {}
        first: dict[Grant, list[NoticeKind]] = {grant: [] for grant in self.written}
        for notice in received:
            known = by_id.setdefault(notice.id, notice)
            # A repetition differs in its number of tries only.
            assert evolve(notice, tries=known.tries) == known
            if known is notice:
                assert notice.grant is not None
                first[notice.grant].append(notice.kind)
        assert first == self.written


def grants(count: int) -> list[Grant]:
    return [Grant(TARGET, f"u-{number}") for number in range(count)]


@pytest.fixture(params=["memory", "sqlite"])
def store(request: pytest.FixtureRequest, harness: Harness, tmp_path: Path) -> TokenStore:
    """Return an empty store with the clock of the harness; its managers close it."""
    if request.param == "memory":
        return harness.memory
    sql = SqlTokenStore(
        tmp_path / "tokens.db",
        keys=LiteralKeys([KEY]),
        clock=harness.clock.now,
        monotonic=harness.clock.monotonic,
    )
    sql.create_schema()
    return sql


def times_out(clock: ManualClock) -> None:
    clock.elapse(10)
    raise DeliveryError("The receiver sent no complete response in time.")


def accepts_and_times_out(clock: ManualClock) -> None:
    clock.elapse(10)
    raise TimeoutError


def refuses(clock: ManualClock) -> None:
    raise ConnectionRefusedError


def is_limited(clock: ManualClock) -> None:
    raise DeliveryError("The receiver responded with status 429.", status=429, retry_after=25.0)


def redirects(clock: ManualClock) -> None:
    raise DeliveryError("The receiver responded with status 302.", status=302)


def is_broken(clock: ManualClock) -> None:
    raise DeliveryError("The receiver responded with status 500.", status=500)


FAILURES = (refuses, times_out, is_broken, is_limited, redirects, accepts_and_times_out)


def test_a_receiver_that_is_down_for_an_hour_gets_all_in_the_order_of_each_grant(
    harness: Harness, store: TokenStore
) -> None:
    history, clock = History(store, harness.clock), harness.clock
    all_grants = grants(100 if store is harness.memory else 4)
    for grant in all_grants:
        history.consent(grant)
        history.lose_and_consent(grant)
    down_until = clock.seconds + HOUR
    received: list[Notice] = []
    failures = Counter[str]()

    def receive(notice: Notice) -> None:
        if clock.seconds < down_until:
            failure = FAILURES[failures.total() % len(FAILURES)]
            failures[failure.__name__] += 1
            if failure is accepts_and_times_out:
                received.append(notice)
            failure(clock)
        received.append(notice)

    managers = [harness.make_manager(store=store) for _ in range(2)]
    runs = 0
    while clock.seconds < down_until or history.store.notices(CLIENT_ID):
        report = managers[runs % 2].deliver_notices(receive)
        assert report.dead == 0
        clock.elapse(60)
        runs += 1
        if runs == 20:
            for grant in all_grants[::2]:
                history.lose_and_consent(grant)
    # The longest pause is an hour.
    assert clock.seconds < down_until + HOUR + 120
    assert failures.keys() == {failure.__name__ for failure in FAILURES}
    history.check(received)
    assert len(received) > sum(map(len, history.written.values()))


def test_a_webhook_whose_receiver_is_down_for_an_hour_gets_all(harness: Harness) -> None:
    history, clock = History(harness.memory, harness.clock), harness.clock
    for grant in grants(4):
        history.consent(grant)
        history.lose_and_consent(grant)
    with listening() as closed:
        refusing_url = url_of(closed, "http")
    received: list[Notice] = []
    with serving(Server()) as server:
        responses = [(500, {}), (429, {"Retry-After": "120"}), (302, {"Location": refusing_url})]
        down_until = clock.seconds + HOUR
        # Its own clock is the real one: only the pauses are simulated.
        receiving = Webhook(url_of(server.socket, "http"), SECRET, monotonic=clock.monotonic)
        refusing = Webhook(refusing_url, SECRET, monotonic=clock.monotonic)

        def receive(notice: Notice) -> None:
            is_up = clock.seconds >= down_until
            server.status, server.headers = 200, {}
            phase = int(clock.seconds // 240) % 4
            if not is_up and phase == 3:
                refusing(notice)
            if not is_up:
                server.status, server.headers = responses[phase]
            receiving(notice)
            received.append(notice)

        while clock.seconds < down_until or harness.memory.notices(CLIENT_ID):
            harness.manager.deliver_notices(receive)
            clock.elapse(60)
    history.check(received)
    accepted = [headers["webhook-id"] for headers, _ in server.requests][-len(received) :]
    assert accepted == [notice.id for notice in received]


class Killed(BaseException):
    """The process ends."""


@define(eq=False)
class Deliverers:
    """Processes that deliver, one after the other, until they are killed."""

    history: History
    manager: TokenManager
    received: list[Notice] = field(factory=list)

    def run(self, outcomes: Sequence[str]) -> None:
        """Deliver, with these outcomes of the handler; the last one is repeated."""
        left = list(outcomes)

        def receive(notice: Notice) -> None:
            outcome = left.pop(0) if len(left) > 1 else left[0]
            if outcome == "killed before":
                raise Killed
            if outcome != "refused":
                self.received.append(notice)
            if outcome == "killed after":
                raise Killed
            if outcome in {"refused", "response lost"}:
                raise ConnectionError

        with contextlib.suppress(Killed):
            self.manager.deliver_notices(receive, limit=12)

    def finish(self) -> None:
        """Deliver all that is left."""
        for _ in range(20):
            self.run(["accepted"])
            if not self.manager.notices():
                return
            self.history.clock.elapse(HOUR)
        raise AssertionError("notices are left")


OUTCOMES = st.sampled_from(
    ["accepted", "refused", "response lost", "killed before", "killed after"]
)
STEPS = st.one_of(
    st.tuples(st.just("lose"), st.integers(0, 2)),
    st.tuples(st.just("run"), st.lists(OUTCOMES, min_size=1, max_size=4)),
    st.tuples(st.just("claim and end"), st.integers(1, 3)),
    st.tuples(st.just("elapse"), st.sampled_from([1.0, 20.0, 300.0, HOUR])),
)


@contextlib.contextmanager
def deliverers() -> Iterator[Deliverers]:
    with Harness() as harness:
        yield Deliverers(History(harness.memory, harness.clock), harness.manager)


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=14))
def test_random_failures_and_ends_of_processes_lose_nothing(
    steps: list[tuple[str, Any]],
) -> None:
    three = grants(3)
    with deliverers() as processes:
        history = processes.history
        for grant in three:
            history.consent(grant)
            history.lose_and_consent(grant)
        do: dict[str, Callable[[Any], object]] = {
            "lose": lambda number: history.lose_and_consent(three[number]),
            "run": processes.run,
            "claim and end": lambda count: history.store.claim_notices(
                CLIENT_ID, limit=count, ttl=300
            ),
            "elapse": history.clock.elapse,
        }
        for name, argument in steps:
            do[name](argument)
        processes.finish()
        history.check(processes.received)


def test_the_check_finds_a_lost_a_doubled_and_a_misplaced_notice() -> None:
    with deliverers() as processes:
        history, (grant, *_) = processes.history, grants(1)
        history.consent(grant)
        history.lose_and_consent(grant)
        processes.finish()
        first, second = processes.received
        history.check([first, second, evolve(first, tries=2)])
        doubled = evolve(second, id="another id")
        for wrong in ([first], [second, first], [first, second, doubled]):
            with pytest.raises(AssertionError):
                history.check(wrong)
