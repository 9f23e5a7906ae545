"""A process that moves grants to another store and is killed at a certain step."""

from __future__ import annotations

import time
from enum import StrEnum

from blink_oauth_keeper import GrantKey, SqlTokenStore
from blink_oauth_keeper.store.moving import MovingGrant, copy_grants
from crash.kills import kill_before_next_commit, kill_this_process
from storm.processes import Pipe
from storm.shared_config import SharedConfig

__all__ = ["MoveStep", "main"]


class MoveStep(StrEnum):
    """The step at which the process is killed."""

    BLOCK = "before the source commits that it blocks the grant"
    BLOCKED = "after the source has blocked the grant"
    RECEIVE = "before the target commits the grant"
    RECEIVED = "after the target has the grant"
    FINISH = "before the source commits that it deletes the pair"
    FINISHED = "after the source has deleted the pair"


class KilledStore(SqlTokenStore):
    """A store whose process is killed before or after the commit of a step."""

    final_step: MoveStep

    def begin_move(self, key: GrantKey) -> MovingGrant | None:
        self._before(MoveStep.BLOCK)
        moving = super().begin_move(key)
        self._after(MoveStep.BLOCKED)
        return moving

    def receive(self, moving: MovingGrant) -> None:
        self._before(MoveStep.RECEIVE)
        super().receive(moving)
        self._after(MoveStep.RECEIVED)

    def finish_move(self, moving: MovingGrant) -> bool:
        self._before(MoveStep.FINISH)
        finished = super().finish_move(moving)
        self._after(MoveStep.FINISHED)
        return finished

    def _before(self, step: MoveStep) -> None:
        if self.final_step is step:
            kill_before_next_commit()

    def _after(self, step: MoveStep) -> None:
        if self.final_step is step:
            kill_this_process()


def main(_pipe: Pipe, config: SharedConfig, other: SharedConfig, step: MoveStep) -> None:
    """Move all grants up to a certain step of the first that is not moved yet."""
    KilledStore.final_step = step
    source, target = (KilledStore(each.database, keys=[each.key]) for each in (config, other))
    copy_grants(source, target, wait=0, monotonic=time.monotonic, sleep=time.sleep)
