"""A process that adopts or forgets a grant and is killed at a certain step."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from blink_oauth import BlinkOAuth, Grant, ResponseMeta, TokenKind
from blink_oauth_keeper import SqlTokenStore
from blink_oauth_keeper.store.protocol import Record
from crash.kills import kill_before_next_commit, kill_this_process
from storm.processes import Pipe
from storm.shared_config import SharedConfig, ShiftedClock

__all__ = ["ADOPTING", "Step", "main"]


class Step(StrEnum):
    """The step at which the process is killed."""

    ADOPT = "before the commit of the refresh token"
    ADOPTED = "after the commit of the refresh token"
    MARK = "before the commit of the mark"
    MARKED = "after the commit of the mark"
    REVOKED = "after the bank has revoked the pair"
    ERASE = "before the commit of the tombstone"
    ERASED = "after the commit of the tombstone"


ADOPTING = (Step.ADOPT, Step.ADOPTED)


class KilledClient(BlinkOAuth):
    """A client whose process is killed after a revocation."""

    final_step: Step

    def revoke(self, *args: Any, **options: Any) -> dict[TokenKind, ResponseMeta]:
        responses = super().revoke(*args, **options)
        if self.final_step is Step.REVOKED:
            kill_this_process()
        return responses


class KilledStore(SqlTokenStore):
    """A store whose process is killed before or after the commit of a step."""

    final_step: Step

    def write_back(self, *args: Any, **options: Any) -> Record | None:
        self._before(Step.ADOPT)
        written = super().write_back(*args, **options)
        self._after(Step.ADOPTED)
        return written

    def mark_revoked(self, *args: Any, **options: Any) -> Record | None:
        self._before(Step.MARK)
        marked = super().mark_revoked(*args, **options)
        self._after(Step.MARKED)
        return marked

    def erase(self, *args: Any, **options: Any) -> bool:
        self._before(Step.ERASE)
        erased = super().erase(*args, **options)
        self._after(Step.ERASED)
        return erased

    def _before(self, step: Step) -> None:
        if self.final_step is step:
            kill_before_next_commit()

    def _after(self, step: Step) -> None:
        if self.final_step is step:
            kill_this_process()


def main(_pipe: Pipe, config: SharedConfig, grant: Grant, step: Step, refresh_token: str) -> None:
    """Adopt the refresh token or forget the grant, up to a certain step."""
    KilledStore.final_step = KilledClient.final_step = step
    store = KilledStore(config.database, keys=[config.key])
    with config.manager(ShiftedClock(), store=store, client=KilledClient) as manager:
        if step in ADOPTING:
            manager.adopt(grant, refresh_token=refresh_token)
        else:
            manager.forget(grant)
