"""A process that refreshes one token and dies at a certain step of it."""

from __future__ import annotations

import os
import signal
from enum import StrEnum
from typing import Any

from sqlalchemy import event

from blink_oauth import BlinkOAuth, Grant, Token
from blink_oauth_keeper import SqlTokenStore
from blink_oauth_keeper.store.protocol import Record, Settlement
from storm.places import DAYS, Place, ShiftedClock
from storm.processes import Pipe

__all__ = ["Step", "main"]


class Step(StrEnum):
    """Where the process is when it is killed."""

    BEFORE_CLAIM = "before claim"
    AFTER_CLAIM = "after claim"
    AFTER_SEND = "after send"
    """The bank has decided, and its answer never comes: the test kills the process."""
    AFTER_RECEIVE = "after receive"
    DURING_COMMIT = "during commit"
    """The new pair is written and not committed; on PostgreSQL the test kills the process."""
    COMMIT_GOES_ON = "commit goes on"
    """The same, and PostgreSQL commits although nobody waits for it any more."""
    AFTER_COMMIT = "after commit"


def die() -> None:
    """Be killed."""
    os.kill(os.getpid(), signal.SIGKILL)


class MortalClient(BlinkOAuth):
    """Dies once a reply is read."""

    last_step: Step

    def refresh(self, *args: Any, **options: Any) -> Token:
        token = super().refresh(*args, **options)
        if self.last_step is Step.AFTER_RECEIVE:
            die()
        return token


class MortalStore(SqlTokenStore):
    """Dies around the lease, and around the commit of a new pair."""

    last_step: Step

    def claim(self, *args: Any, **options: Any) -> Record | None:
        if self.last_step is Step.BEFORE_CLAIM:
            die()
        claim = super().claim(*args, **options)
        if self.last_step is Step.AFTER_CLAIM:
            die()
        return claim

    def settle(self, *args: Any, **options: Any) -> Settlement:
        if self.last_step is Step.DURING_COMMIT:
            event.listen(self._database.engine, "before_cursor_execute", die_of_a_commit)
        settlement = super().settle(*args, **options)
        if self.last_step is Step.AFTER_COMMIT:
            die()
        return settlement


def die_of_a_commit(_connection: object, _cursor: object, statement: str, *_: object) -> None:
    """Die if a transaction is about to be committed; a statement by itself has no COMMIT."""
    if statement == "COMMIT":
        die()


def main(_pipe: Pipe, place: Place, grant: Grant, step: Step) -> None:
    """Refresh a token that has expired, up to a certain step."""
    store = MortalStore(place.database, keys=[place.key])
    store.last_step = MortalClient.last_step = step
    with place.managing(ShiftedClock(DAYS), store=store, client=MortalClient) as manager:
        manager.get(grant)
