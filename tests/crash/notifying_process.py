"""A process that loses a consent, delivers its notice, and is killed at a certain step."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from attrs import frozen

from blink_oauth import BlinkError, Grant
from blink_oauth_keeper import Notice, SqlTokenStore
from crash.kills import kill_before_next_commit, kill_this_process
from storm.processes import Pipe
from storm.shared_config import SharedConfig, ShiftedClock

__all__ = ["Receiver", "Step", "main"]


class Step(StrEnum):
    """The step at which the process is killed."""

    CHANGE = "before the commit of the lost consent and its notice"
    CHANGED = "after the commit of the lost consent and its notice"
    WRITE = "before the commit of a notice that the scan writes"
    WRITTEN = "after the commit of a notice that the scan writes"
    CLAIM = "before the commit of a delivery that begins"
    CLAIMED = "after the commit of a delivery that begins"
    RECEIVED = "after the receiver has the notice"
    MARK = "before the commit of the end of a delivery"
    MARKED = "after the commit of the end of a delivery"


@frozen
class Receiver:
    """Appends each notice to a file, a line for each delivery.

    Attributes:
        path: The file.
        killed_after: Whether the process is killed as soon as the line is written.
    """

    path: Path
    killed_after: bool = False

    def __call__(self, notice: Notice) -> None:
        username = notice.grant.username if notice.grant else ""
        with self.path.open("a") as file:
            file.write(f"{username} {notice.kind} {notice.id}\n")
        if self.killed_after:
            kill_this_process()

    def lines(self, grant: Grant) -> list[tuple[str, str]]:
        """Return the kinds and ids of the deliveries about a grant, in their order."""
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return [(kind, name) for username, kind, name in lines if username == grant.username]


class KilledStore(SqlTokenStore):
    """A store whose process is killed before or after the commit of a step."""

    final_step: Step

    def release(self, *args: Any, **options: Any) -> bool:
        self._before(Step.CHANGE)
        released = super().release(*args, **options)
        self._after(Step.CHANGE, Step.CHANGED)
        return released

    def add_notice(self, *args: Any, **options: Any) -> bool:
        self._before(Step.WRITE)
        written = super().add_notice(*args, **options)
        self._after(Step.WRITE, Step.WRITTEN)
        return written

    def claim_notices(self, *args: Any, **options: Any) -> Sequence[Notice]:
        self._before(Step.CLAIM)
        claimed = super().claim_notices(*args, **options)
        self._after(Step.CLAIM, Step.CLAIMED)
        return claimed

    def notice_delivered(self, notice: Notice) -> None:
        self._before(Step.MARK)
        super().notice_delivered(notice)
        self._after(Step.MARK, Step.MARKED)

    def _before(self, step: Step) -> None:
        if self.final_step is step:
            kill_before_next_commit()

    def _after(self, *steps: Step) -> None:
        # A single statement has no COMMIT of its own: it is all or nothing.
        if self.final_step in steps:
            kill_this_process()


def main(
    _pipe: Pipe, config: SharedConfig, lost: Grant, step: Step, ahead: float, path: Path
) -> None:
    """Refresh a grant whose consent was withdrawn, then deliver notices, up to a certain step."""
    clock = ShiftedClock(ahead)
    KilledStore.final_step = step
    store = KilledStore(config.database, keys=[config.key], clock=clock)
    with config.manager(clock, store=store) as manager:
        with suppress(BlinkError):
            manager.refresh(lost)
        manager.deliver_notices(Receiver(path, killed_after=step is Step.RECEIVED))
