"""The cost of statements in an SQLite file, which does not depend on the speed of the machine."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TypeVar

from sqlalchemy import Connection, Engine, event

__all__ = ["counted_steps"]

T = TypeVar("T")


def counted_steps(engine: Engine, operate: Callable[[], T]) -> tuple[int, T]:
    """Call a function, and return the steps of SQLite's virtual machine with its result.

    Args:
        engine: An engine for an SQLite file.
        operate: Executes statements with the engine.
    """
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    def watch(connection: Connection, *_: object) -> None:
        driver = connection.connection.driver_connection
        assert isinstance(driver, sqlite3.Connection)
        driver.set_progress_handler(step, 1)

    event.listen(engine, "before_cursor_execute", watch)
    result = operate()
    event.remove(engine, "before_cursor_execute", watch)
    return steps, result
