"""The database goes away in the middle of one refresh: without it nothing is sent, nothing lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from attrs import define, field

from blink_oauth import BlinkOAuth, Grant, Token
from blink_oauth_keeper import EventName, SqlTokenStore, StoreError, TokenManager
from blink_oauth_keeper.store.protocol import GrantKey, State
from blink_oauth_testing.sandbox import Sandbox
from blink_oauth_testing.sandbox.banks import Bank
from postgresql import PostgreSQL
from storm.crowd import Answer, Gathering, Threads, wait_until
from storm.places import DAYS, Place, ShiftedClock, authorize

MODES = ("fast", "immediate")
"""How a server stops: in good order, or as in a crash."""


def nothing() -> None:
    """Do nothing."""


@define(eq=False)
class Moments:
    """What happens around the request to the bank; a test puts its own in place."""

    before_claim: Callable[[], None] = nothing
    after_receive: Callable[[], None] = nothing


class Client(BlinkOAuth):
    """A client that lets something happen once a reply is read."""

    moments: Moments

    def refresh(self, *args: Any, **options: Any) -> Token:
        token = super().refresh(*args, **options)
        self.moments.after_receive()
        return token


class Store(SqlTokenStore):
    """A store that lets something happen before a lease is taken."""

    moments: Moments

    def claim(self, *args: Any, **options: Any) -> Any:
        self.moments.before_claim()
        return super().claim(*args, **options)


@define(eq=False)
class Scene:
    """A manager with a token that has expired, and everybody it deals with."""

    place: Place
    grant: Grant
    bank: Bank
    manager: TokenManager
    events: list[EventName]
    moments: Moments
    crowd: Threads = field(factory=lambda: Threads(8))

    def storm(self) -> list[Answer]:
        """Let a few threads ask at once."""
        with self.crowd:
            return self.crowd.storm(self.manager, self.grant, Gathering())

    def recovers(self) -> bool:
        """Wait until a failure of the store is forgotten, and say whether all is well then."""

        def token() -> Token | None:
            try:
                return self.manager.get(self.grant)
            except StoreError:
                return None

        return self.bank.accepts(wait_until(token).access_token.reveal())

    def generation(self) -> tuple[State, int]:
        """Return what another process finds in the store."""
        store = self.place.store()
        record = store.load(GrantKey(self.place.client_id, self.grant))
        store.close()
        assert record
        assert record.token
        assert record.token.refresh_token
        assert self.bank.accepts(record.token.refresh_token.reveal())
        return record.state, record.generation


@pytest.fixture
def scene(url: str, blink_sandbox: Sandbox) -> Iterator[Scene]:
    grant, clock, moments = blink_sandbox.grant(), ShiftedClock(), Moments()
    events: list[EventName] = []
    place = Place(blink_sandbox.environment(), url)
    store = Store(url, keys=[place.key])
    store.moments = Client.moments = moments
    with place.managing(
        clock, store=store, client=Client, on_event=lambda event: events.append(event.name)
    ) as manager:
        authorize(manager, blink_sandbox, grant)
        clock.ahead = DAYS
        bank = blink_sandbox.banks[grant.target_id]
        yield Scene(place, grant, bank, manager, events, moments)


def test_nothing_is_sent_while_the_database_is_down(postgresql: PostgreSQL, scene: Scene) -> None:
    postgresql.stop()
    answers = scene.storm()
    assert {type(answer) for answer in answers} == {StoreError}
    assert scene.bank.refreshes == 0
    postgresql.start()
    assert scene.generation() == (State.ACTIVE, 1)
    assert scene.recovers()
    assert scene.bank.refreshes == 1


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_sent_if_the_database_goes_down_before_the_lease_is_taken(
    postgresql: PostgreSQL, scene: Scene, mode: str
) -> None:
    scene.moments.before_claim = lambda: postgresql.stop(mode)
    answers = scene.storm()
    assert {type(answer) for answer in answers} == {StoreError}
    assert scene.bank.refreshes == 0
    scene.moments.before_claim = nothing
    postgresql.start()
    assert scene.generation() == (State.ACTIVE, 1)
    assert scene.recovers()
    assert scene.bank.refreshes == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_pair_that_comes_while_the_database_is_down_is_served_and_stored_later(
    postgresql: PostgreSQL, scene: Scene, mode: str
) -> None:
    scene.moments.after_receive = lambda: postgresql.stop(mode)
    answers = scene.storm()
    assert len(set(map(id, answers))) == 1
    assert isinstance(answers[0], Token)
    assert scene.bank.accepts(answers[0].access_token.reveal())
    assert scene.manager.get(scene.grant) is answers[0], "it is served from memory meanwhile"
    assert EventName.UNSETTLED in scene.events
    assert EventName.SETTLED_LATE not in scene.events
    postgresql.start()
    wait_until(lambda: EventName.SETTLED_LATE in scene.events)
    assert scene.generation() == (State.ACTIVE, 2)
    assert (scene.bank.refreshes, scene.bank.reuses) == (1, 0)
