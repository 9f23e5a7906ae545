"""One expired token and a crowd that finds it: one request, and one answer for everybody."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import pytest
from attrs import define, field, frozen

from blink_oauth import BlinkError, BlinkOAuth, Grant, TimedOutError, Timeouts, Token
from blink_oauth_keeper import MemoryTokenStore, TokenManager
from blink_oauth_keeper.store.protocol import Record
from blink_oauth_testing.sandbox import Fault, Sandbox
from blink_oauth_testing.sandbox.faults import SILENT_FAULTS, unavailable
from storm.crowd import TICK, Answer, Coroutines, Crowd, Gathering, Threads, wait_until
from storm.places import DAYS, authorize

ROUNDS = 200
TOTAL, LEASE = 20.0, 25.0
SILENCE = 1.0
"""Seconds after which a silent endpoint is given up."""


@define(eq=False)
class Time:
    """A clock on the wall and one that measures; both stand still until they are put forward."""

    wall: datetime = field(factory=lambda: datetime.now(UTC).replace(microsecond=0))
    seconds: float = 0.0

    def now(self) -> datetime:
        return self.wall

    def monotonic(self) -> float:
        return self.seconds

    def pass_by(self, seconds: float) -> None:
        self.wall += timedelta(seconds=seconds)
        self.seconds += seconds


@define(eq=False, repr=False, kw_only=True)
class HeldBack(MemoryTokenStore):
    """A store that lets nobody refresh before something is the case."""

    before_claim: Callable[[], None] = field(default=lambda: None)

    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        self.before_claim()
        return super().claim(seen, owner=owner, ttl=ttl)


@define(eq=False)
class Scene:
    """A crowd in front of a manager, and the strict bank behind it."""

    sandbox: Sandbox
    crowd: Crowd
    time: Time
    store: HeldBack
    manager: TokenManager
    grant: Grant
    gathering: Gathering = field(init=False, factory=Gathering)

    def authorize(self) -> None:
        """Get the first pair, and hold every refresh back until the whole crowd has asked."""
        authorize(self.manager, self.sandbox, self.grant)
        self.store.before_claim = self._all_have_asked

    def storm(self) -> list[Answer]:
        """Let everybody ask at once."""
        return self.crowd.storm(self.manager, self.grant, self.gathering)

    def requests(self) -> int:
        """Count the refreshes that arrived, whatever became of them."""
        forms = [seen.form for seen in self.sandbox.exchanges]
        return sum(("grant_type", "refresh_token") in form for form in forms)

    def _all_have_asked(self) -> None:
        self.gathering.complete()
        # While a flight is in the air, every event loop goes on.
        wait_until(self.crowd.signs_of_life(2))


@pytest.fixture(params=[Threads, Coroutines], ids=["threads", "coroutines"])
def crowd(request: pytest.FixtureRequest) -> Iterator[Crowd]:
    """Give each kind of crowd in turn."""
    with request.param() as crowd:
        yield crowd


@pytest.fixture
def total() -> float:
    """Give the seconds that a call takes at most; a test may want others."""
    return TOTAL


@pytest.fixture
def scene(crowd: Crowd, total: float, blink_sandbox: Sandbox) -> Iterator[Scene]:
    """Give a manager with one grant, and clocks that the test puts forward."""
    time = Time()
    settings = blink_sandbox.settings(timeouts=Timeouts(total=total))
    store = HeldBack(clock=time.now)
    with (
        BlinkOAuth(settings, clock=time.now) as blink,
        TokenManager(
            blink,
            store,
            lease=LEASE,
            clock=time.now,
            monotonic=time.monotonic,
            random=lambda: 0.0,
        ) as manager,
    ):
        scene = Scene(blink_sandbox, crowd, time, store, manager, blink_sandbox.grant())
        scene.authorize()
        yield scene


def test_an_expired_token_is_refreshed_once_whoever_asks(scene: Scene) -> None:
    bank = scene.sandbox.banks[scene.grant.target_id]
    for generation in range(1, ROUNDS + 1):
        scene.time.pass_by(DAYS)
        answers = scene.storm()
        assert len(answers) == scene.crowd.size
        assert len(set(map(id, answers))) == 1
        assert isinstance(answers[0], Token)
        assert bank.accepts(answers[0].access_token.reveal())
        assert (scene.requests(), bank.refreshes, bank.reuses) == (generation, generation, 0)


@frozen
class Trouble:
    """How the endpoint fails.

    Attributes:
        name: What it is called.
        fault: Makes the fault, given the present moment.
        quiet: Seconds for which nobody may ask again.
        rounds: How often to try it.
        total: Seconds that a call takes at most.
    """

    name: str
    fault: Callable[[datetime], Fault]
    quiet: float
    rounds: int = 5
    total: float = TOTAL


TROUBLES = (
    # A server that says it is unavailable gets a minute.
    Trouble("503", lambda _: unavailable(None), 60.0),
    Trouble("503-for-seconds", lambda _: unavailable(120), 120.0),
    Trouble("503-until-date", lambda now: unavailable(now + timedelta(seconds=150)), 150.0),
    # Until the lease is over the request may still be on its way.
    Trouble("silence", lambda _: SILENT_FAULTS["silence-before"], LEASE, rounds=2, total=SILENCE),
)


@pytest.mark.parametrize(
    ("trouble", "total"),
    [pytest.param(trouble, trouble.total, id=trouble.name) for trouble in TROUBLES],
)
def test_a_failing_endpoint_gets_one_request_and_all_who_waited_share_the_failure(
    trouble: Trouble, scene: Scene
) -> None:
    for round_ in range(trouble.rounds):
        scene.time.pass_by(DAYS)
        scene.sandbox.fail(trouble.fault(scene.time.now()))
        failed = scene.storm()
        assert scene.requests() == 2 * round_ + 1
        (failure,) = {(type(error), str(error)) for error in failed}
        assert issubclass(failure[0], BlinkError)
        assert len(set(map(id, failed))) == scene.crowd.size, "each raises an error of its own"

        scene.time.pass_by(trouble.quiet - 1)
        turned_away = scene.storm()
        assert scene.requests() == 2 * round_ + 1, "nobody gets a turn of their own"
        assert all(isinstance(answer, BlinkError) for answer in turned_away)

        scene.time.pass_by(2)
        assert len(set(map(id, scene.storm()))) == 1
        assert scene.requests() == 2 * round_ + 2
    bank = scene.sandbox.banks[scene.grant.target_id]
    assert (bank.refreshes, bank.reuses) == (trouble.rounds, 0)


@pytest.mark.parametrize("crowd", [Coroutines], indirect=True)
@pytest.mark.parametrize("total", [SILENCE])
def test_event_loops_stay_responsive_while_an_endpoint_is_silent(scene: Scene) -> None:
    scene.time.pass_by(DAYS)
    scene.sandbox.fail("silence-before")
    # A tenth of what there is time for; a loop that is blocked makes next to none.
    alive = scene.crowd.signs_of_life(round(SILENCE / TICK / 10))
    assert all(isinstance(answer, TimedOutError) for answer in scene.storm())
    assert alive()
