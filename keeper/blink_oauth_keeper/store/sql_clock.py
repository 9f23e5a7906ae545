"""The clock by which leases and pauses run, and what is done where it was set back."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row
from sqlalchemy.exc import SQLAlchemyError

from . import sql_statements
from .protocol import LONGEST_LEASE, LONGEST_PAUSE
from .sql_tables import Database, Session, grant_params, key_of, seconds_left

__all__ = ["bound_ends", "bound_ends_of_due", "start_clock"]

TOLERANCE = 1.0
"""Seconds by which an end may be too late: the servers of a database may differ by that."""
DUE_PAGE = 100


def start_clock(database: Database) -> bool:
    """Store when the machine booted, unless another process of this boot has; return whether it is.

    From then on the clock of leases and pauses does not follow the steps of the wall clock. The
    first process after a boot gives each lease its full time again, since the end of a lease of the
    boot before may mean another time now.
    """
    boot = database.boot_clock
    if database.engine.dialect.name != "sqlite" or not boot.boot or database.clock:
        return True
    with database.session() as session:
        if session.row(sql_statements.LOAD_BOOT, {}):
            return True
    # A database that cannot be written can still be read; without the row the wall clock counts.
    with suppress(SQLAlchemyError), database.transaction() as session:
        if session.count(sql_statements.INSERT_BOOT, {}):
            session.count(sql_statements.RESTART_LEASES, {"ttl": LONGEST_LEASE})
        return True
    return False


def bound_ends(session: Session, row: Row[Any]) -> None:
    """Set the ends of lease and pause in a row anew, if the clock was set back since they were set.

    Without that, the lease would block the grant for as long as the clock was set back.
    """
    bounds = _later_bounds(row)
    if bounds:
        seen = {"expected_generation": row.generation, "expected_owner": row.owner}
        # A database that cannot be written can still be read.
        with suppress(SQLAlchemyError):
            session.count(sql_statements.BOUND_ENDS, grant_params(key_of(row)) | seen | bounds)


def bound_ends_of_due(session: Session, selection: Mapping[str, object], *, targets: bool) -> None:
    """Do what `bound_ends` does for records that would be due without their leases and pauses.

    Args:
        session: The session.
        selection: The parameters that select due records.
        targets: Whether to filter by the parameter `targets`.
    """
    statement = sql_statements.due_with_late_ends(targets=targets)
    for row in session.rows(statement, {**selection, "limit": DUE_PAGE}):
        bound_ends(session, row)


def _later_bounds(row: Row[Any]) -> dict[str, object]:
    """Return the bounds of both ends in a row, if one of the ends is later, else nothing."""
    lease_end, lease_is_late = _bound(row.lease_until, row, LONGEST_LEASE)
    pause_end, pause_is_late = _bound(row.pause_until, row, LONGEST_PAUSE)
    if not lease_is_late and not pause_is_late:
        return {}
    return {"new_lease_until": lease_end, "new_pause_until": pause_end}


def _bound(until: datetime | None, row: Row[Any], longest: float) -> tuple[datetime | None, bool]:
    if until is None:
        return None, False
    bound: datetime = row.now + timedelta(seconds=seconds_left(until, row, longest))
    return bound, (until - bound).total_seconds() > TOLERANCE
