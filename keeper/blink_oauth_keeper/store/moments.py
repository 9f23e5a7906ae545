"""The database's own clock, as SQL.

Leases and pauses run by the clock that all processes share: `clock_timestamp()` on PostgreSQL, and
on SQLite the machine's clock in milliseconds. A test may put a moment of its own in its place.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Float, bindparam, func
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from .sql_tables import Moment

__all__ = ["NOW", "after"]


class Clock(FunctionElement[datetime]):
    """The present moment, read when the row is, not when the transaction began."""

    type = Moment()
    inherit_cache = True


class After(FunctionElement[datetime]):
    """A moment so many seconds after another."""

    type = Moment()
    inherit_cache = True


def after(seconds: str) -> ColumnElement[datetime]:
    """Return the moment so many seconds from now.

    Args:
        seconds: The name of the parameter that holds them.
    """
    return After(NOW, bindparam(seconds, type_=Float))


@compiles(Clock)
def _clock(element: Clock, compiler: SQLCompiler, **options: Any) -> str:
    return "clock_timestamp()"


@compiles(Clock, "sqlite")
def _clock_of_sqlite(element: Clock, compiler: SQLCompiler, **options: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


@compiles(After)
def _after(element: After, compiler: SQLCompiler, **options: Any) -> str:
    moment, seconds = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({moment} + make_interval(secs => {seconds}))"


@compiles(After, "sqlite")
def _after_in_sqlite(element: After, compiler: SQLCompiler, **options: Any) -> str:
    moment, seconds = (compiler.process(clause, **options) for clause in element.clauses)
    return f"strftime('%Y-%m-%d %H:%M:%f000', {moment}, {seconds} || ' seconds')"


NOW: ColumnElement[datetime] = func.coalesce(bindparam("now", type_=Moment), Clock(), type_=Moment)
