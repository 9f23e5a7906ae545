"""A process that refreshes one token and is killed at a certain step."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from blink_oauth import BlinkOAuth, Grant, Token
from blink_oauth_keeper import SqlTokenStore
from blink_oauth_keeper.store.protocol import Record, Settlement
from crash.kills import kill_before_next_commit, kill_this_process
from storm.processes import Pipe
from storm.shared_config import TWO_DAYS, SharedConfig, ShiftedClock

__all__ = ["Step", "main"]


class Step(StrEnum):
    """The step at which the process is killed."""

    BEFORE_CLAIM = "before claim"
    AFTER_CLAIM = "after claim"
    AFTER_SEND = "after send"
    """The bank has refreshed and does not respond; the test kills the process."""
    AFTER_RECEIVE = "after receive"
    DURING_COMMIT = "during commit"
    """The new pair is written and not committed; on PostgreSQL the test kills the process."""
    SERVER_COMMITS = "server commits"
    """As before, and PostgreSQL commits after the process is killed."""
    AFTER_COMMIT = "after commit"


class KilledClient(BlinkOAuth):
    """A client whose process is killed after a response is read."""

    final_step: Step

    def refresh(self, *args: Any, **options: Any) -> Token:
        token = super().refresh(*args, **options)
        if self.final_step is Step.AFTER_RECEIVE:
            kill_this_process()
        return token


class KilledStore(SqlTokenStore):
    """A store whose process is killed around a claim or around the commit of a new pair."""

    final_step: Step

    def claim(self, *args: Any, **options: Any) -> Record | None:
        if self.final_step is Step.BEFORE_CLAIM:
            kill_this_process()
        claim = super().claim(*args, **options)
        if self.final_step is Step.AFTER_CLAIM:
            kill_this_process()
        return claim

    def settle(self, *args: Any, **options: Any) -> Settlement:
        if self.final_step is Step.DURING_COMMIT:
            kill_before_next_commit()
        settlement = super().settle(*args, **options)
        if self.final_step is Step.AFTER_COMMIT:
            kill_this_process()
        return settlement


def main(_pipe: Pipe, config: SharedConfig, grant: Grant, step: Step) -> None:
    """Refresh an expired token up to a certain step."""
    store = KilledStore(config.database, keys=[config.key])
    store.final_step = KilledClient.final_step = step
    with config.manager(ShiftedClock(TWO_DAYS), store=store, client=KilledClient) as manager:
        manager.get(grant)
