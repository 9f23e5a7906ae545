"""How a process kills itself at a certain step."""

from __future__ import annotations

import os
import signal

from sqlalchemy import Engine, event

__all__ = ["kill_before_next_commit", "kill_this_process"]


def kill_this_process() -> None:
    """Kill this process with SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_before_next_commit() -> None:
    """Kill this process before its next COMMIT; a single statement has none."""

    def kill(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement == "COMMIT":
            kill_this_process()

    event.listen(Engine, "before_cursor_execute", kill)
