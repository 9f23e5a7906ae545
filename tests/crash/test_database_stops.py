"""The database stops during a refresh: nothing is sent without a claim, and no pair is lost."""

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
from storm.callers import ArrivalCounter, Result, ThreadCallers, wait_until
from storm.shared_config import TWO_DAYS, SharedConfig, ShiftedClock, authorize

MODES = ("fast", "immediate")
"""How a server stops: in an orderly way, or as in a crash."""


def nothing() -> None:
    """Do nothing."""


@define(eq=False)
class Hooks:
    """Functions that a test sets, called around the request to the bank."""

    before_claim: Callable[[], None] = nothing
    after_receive: Callable[[], None] = nothing


class Client(BlinkOAuth):
    """A client that calls a hook after a response is read."""

    hooks: Hooks

    def refresh(self, *args: Any, **options: Any) -> Token:
        token = super().refresh(*args, **options)
        self.hooks.after_receive()
        return token


class Store(SqlTokenStore):
    """A store that calls a hook before a claim."""

    hooks: Hooks

    def claim(self, *args: Any, **options: Any) -> Any:
        self.hooks.before_claim()
        return super().claim(*args, **options)


@define(eq=False)
class Harness:
    """A manager with an expired token, and what it works with."""

    config: SharedConfig
    grant: Grant
    bank: Bank
    manager: TokenManager
    events: list[EventName]
    hooks: Hooks
    callers: ThreadCallers = field(factory=lambda: ThreadCallers(8))

    def call_all(self) -> list[Result]:
        """Let eight threads ask at once."""
        with self.callers:
            return self.callers.call_all(self.manager, self.grant, ArrivalCounter())

    def recovers(self) -> bool:
        """Wait until a caller gets a token again; return whether the bank accepts it."""

        def token() -> Token | None:
            try:
                return self.manager.get(self.grant)
            except StoreError:
                return None

        return self.bank.accepts(wait_until(token).access_token.reveal())

    def stored(self) -> tuple[State, int]:
        """Return the state and generation that another process reads from the store."""
        store = self.config.store()
        record = store.load(GrantKey(self.config.client_id, self.grant))
        store.close()
        assert record
        assert record.token
        assert record.token.refresh_token
        assert self.bank.accepts(record.token.refresh_token.reveal())
        return record.state, record.generation


@pytest.fixture
def harness(url: str, blink_sandbox: Sandbox) -> Iterator[Harness]:
    grant, clock, hooks = blink_sandbox.grant(), ShiftedClock(), Hooks()
    events: list[EventName] = []
    config = SharedConfig(blink_sandbox.environment(), url)
    store = Store(url, keys=[config.key])
    store.hooks = Client.hooks = hooks
    with config.manager(
        clock, store=store, client=Client, on_event=lambda event: events.append(event.name)
    ) as manager:
        authorize(manager, blink_sandbox, grant)
        clock.ahead = TWO_DAYS
        bank = blink_sandbox.banks[grant.target_id]
        yield Harness(config, grant, bank, manager, events, hooks)


def test_nothing_is_sent_while_the_database_is_down(
    postgresql: PostgreSQL, harness: Harness
) -> None:
    postgresql.stop()
    results = harness.call_all()
    assert {type(result) for result in results} == {StoreError}
    assert harness.bank.refreshes == 0
    postgresql.start()
    assert harness.stored() == (State.ACTIVE, 1)
    assert harness.recovers()
    assert harness.bank.refreshes == 1


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_sent_if_the_database_stops_before_the_claim(
    postgresql: PostgreSQL, harness: Harness, mode: str
) -> None:
    harness.hooks.before_claim = lambda: postgresql.stop(mode)
    results = harness.call_all()
    assert {type(result) for result in results} == {StoreError}
    assert harness.bank.refreshes == 0
    harness.hooks.before_claim = nothing
    postgresql.start()
    assert harness.stored() == (State.ACTIVE, 1)
    assert harness.recovers()
    assert harness.bank.refreshes == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_pair_received_while_the_database_is_down_is_served_and_stored_later(
    postgresql: PostgreSQL, harness: Harness, mode: str
) -> None:
    harness.hooks.after_receive = lambda: postgresql.stop(mode)
    results = harness.call_all()
    assert len(set(map(id, results))) == 1
    assert isinstance(results[0], Token)
    assert harness.bank.accepts(results[0].access_token.reveal())
    assert harness.manager.get(harness.grant) is results[0], "meanwhile it is served from memory"
    assert EventName.UNSETTLED in harness.events
    assert EventName.SETTLED_LATE not in harness.events
    postgresql.start()
    wait_until(lambda: EventName.SETTLED_LATE in harness.events)
    assert harness.stored() == (State.ACTIVE, 2)
    assert (harness.bank.refreshes, harness.bank.reuses) == (1, 0)
