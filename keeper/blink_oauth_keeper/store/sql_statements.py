"""The statements on grants, journal and history, and the database's clock, as SQL.

Each statement is built once, so that SQLAlchemy compiles it once. They are the same on SQLite and
PostgreSQL, but for a `Change`. Each parameter has a name of its own; `now` is None unless a test
brings its own clock.

Leases and pauses run by the clock that all processes share: `clock_timestamp()` on PostgreSQL, and
on SQLite the machine's clock in milliseconds.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Float,
    Select,
    String,
    Table,
    and_,
    bindparam,
    case,
    delete,
    func,
    insert,
    null,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import ReturningInsert, ReturningUpdate
from sqlalchemy.sql.functions import FunctionElement

from .protocol import State
from .rules import CLAIMABLE
from .sql_tables import Change, Moment, grants, history, journal

__all__ = [
    "CLAIM",
    "ERASE",
    "INSERT",
    "LOAD",
    "LOCK",
    "RECORDS",
    "RELEASE",
    "SALVAGE",
    "WRITE",
    "claim_due",
    "due",
]


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


def of_grant(table: Table) -> ColumnElement[bool]:
    """Select the rows of one grant."""
    return and_(
        table.c.client_id == bindparam("client"),
        table.c.target_id == bindparam("target"),
        table.c.username == bindparam("user"),
    )


IDENTITY: dict[str, object] = {
    "client_id": bindparam("client"),
    "target_id": bindparam("target"),
    "username": bindparam("user"),
}

KEEP = (
    insert(journal)
    .inline()
    .values(
        IDENTITY
        | {
            "generation": bindparam("new_generation"),
            "consent": bindparam("new_consent"),
            "origin": bindparam("new_origin"),
            "sealed": bindparam("new_sealed"),
            "key_id": bindparam("new_key_id"),
            "at": NOW,
        }
    )
)
ENTRIES = select(journal).where(of_grant(journal)).order_by(journal.c.id.desc())
TAKE = delete(journal).where(journal.c.id == bindparam("entry"))
FORGET = delete(journal).where(of_grant(journal), journal.c.consent <= bindparam("seen_consent"))

LINE: dict[str, object] = {
    "event": bindparam("note_event", type_=String),
    "outcome": bindparam("note_outcome", type_=String),
    "detail": bindparam("note_detail", type_=String),
    "actor": bindparam("note_actor", type_=String),
    "correlation_id": bindparam("call", type_=String),
}
NOTE = (
    insert(history)
    .inline()
    .values(IDENTITY | LINE | {"at": NOW, "generation": bindparam("new_generation")})
)
HISTORY = (
    select(history).where(of_grant(history)).order_by(history.c.id.desc()).limit(bindparam("limit"))
)
PURGE = tuple(
    delete(table).where(table.c.at < after("minus_retention")) for table in (journal, history)
)


RECORD = (*grants.c, NOW.label("now"))


# Which row.
IS_SEEN = and_(of_grant(grants), grants.c.generation == bindparam("seen"))
IS_OWNED = and_(IS_SEEN, grants.c.owner == bindparam("by"))
IS_FREE = and_(
    or_(grants.c.lease_until.is_(None), grants.c.lease_until <= NOW),
    or_(grants.c.pause_until.is_(None), grants.c.pause_until <= NOW),
    or_(*(grants.c.state == state.value for state in sorted(CLAIMABLE))),
)

# What becomes of it.
LEASE: dict[str, object] = {
    "state": State.REFRESHING.value,
    "attempts": grants.c.attempts + 1,
    "owner": bindparam("new_owner"),
    "lease_until": after("ttl"),
    "pause_until": null(),
    "updated_at": NOW,
}
CALL: dict[str, object] = {
    "correlation_id": func.coalesce(bindparam("call", type_=String), grants.c.correlation_id),
    "updated_at": NOW,
}
PAIR: dict[str, object] = {
    "generation": bindparam("new_generation"),
    "consent": bindparam("new_consent"),
    "state": bindparam("new_state"),
    "sealed": bindparam("new_sealed"),
    "key_id": bindparam("new_key_id"),
    "issued_at": bindparam("new_issued_at", type_=Moment),
    "idle_until": bindparam("new_idle_until", type_=Moment),
    "attempts": bindparam("new_attempts"),
    "owner": bindparam("new_owner"),
    "pause_until": null(),
    "error": bindparam("new_error"),
}
# A refresh token that stays, in doubt, was perhaps presented by another meanwhile.
KEPT: dict[str, object] = {
    "attempts": case(
        (bindparam("new_state") == State.UNCERTAIN.value, grants.c.attempts),
        else_=bindparam("new_attempts"),
    )
}
OUTCOME: dict[str, object] = {
    "state": bindparam("new_state"),
    "attempts": bindparam("new_attempts"),
    "lease_until": null(),
    "pause_until": after("pause"),
    "error": bindparam("new_error"),
}


def _change(change: ReturningUpdate[Any] | ReturningInsert[Any]) -> Change:
    # A single statement needs no transaction around it, so on PostgreSQL it is one round trip, and
    # a process that is stopped in the middle holds no lock.
    changed = change.cte("changed")
    columns: dict[str, Any] = {
        "client_id": changed.c.client_id,
        "target_id": changed.c.target_id,
        "username": changed.c.username,
        "at": changed.c.updated_at,
        "generation": changed.c.generation,
    } | LINE
    line = insert(history).from_select(list(columns), select(*columns.values())).cte("line")
    return Change(change, NOTE, select(changed).add_cte(line))


LOAD = select(*RECORD).where(of_grant(grants))
LOCK = LOAD.with_for_update()
CLAIM = (
    update(grants)
    .where(IS_SEEN, grants.c.attempts == bindparam("seen_attempts"), IS_FREE)
    .values(LEASE)
    .returning(*RECORD)
)
RELEASE = _change(update(grants).where(IS_OWNED).values(OUTCOME | CALL).returning(*RECORD))
WRITE = _change(
    update(grants)
    .where(IS_SEEN)
    .values(PAIR | CALL | KEPT | {"lease_until": null()})
    .returning(*RECORD)
)
SALVAGE = _change(update(grants).where(IS_OWNED).values(PAIR | CALL).returning(*RECORD))
INSERT = _change(
    insert(grants)
    .values(IDENTITY | PAIR | {"correlation_id": bindparam("call"), "updated_at": NOW})
    .returning(*RECORD)
)
ERASE = (
    update(grants)
    .where(IS_SEEN, grants.c.state == State.REVOKED.value)
    .values(sealed=None, key_id=None, updated_at=NOW)
)
RECORDS = (
    select(*RECORD)
    .where(
        grants.c.client_id == bindparam("client"),
        tuple_(grants.c.target_id, grants.c.username)
        > tuple_(bindparam("target", type_=String), bindparam("user", type_=String)),
    )
    .order_by(grants.c.target_id, grants.c.username)
    .limit(bindparam("limit"))
)


def _are_due(targets: bool) -> list[ColumnElement[bool]]:
    conditions = [
        grants.c.client_id == bindparam("client"),
        grants.c.idle_until <= bindparam("before", type_=Moment),
        grants.c.attempts <= bindparam("max_attempts"),
        grants.c.key_id.in_(bindparam("key_ids", expanding=True)),
        grants.c.target_id.not_in(bindparam("except_targets", expanding=True)),
        IS_FREE,
    ]
    if targets:
        conditions.append(grants.c.target_id.in_(bindparam("targets", expanding=True)))
    return conditions


@cache
def due(*, targets: bool) -> Select[Any]:
    """Return what reads due records.

    Args:
        targets: Whether only those of certain targets.
    """
    return (
        select(*RECORD)
        .where(*_are_due(targets))
        .order_by(grants.c.idle_until, grants.c.target_id, grants.c.username)
        .limit(bindparam("limit"))
    )


@cache
def claim_due(*, targets: bool) -> ReturningUpdate[Any]:
    """Return what takes the leases on due records, past those that others are just claiming.

    Args:
        targets: Whether only those of certain targets.
    """
    # PostgreSQL runs a subquery in IN more than once if it likes, but a CTE that locks only once.
    picked = (
        due(targets=targets)
        .with_only_columns(grants.c.client_id, grants.c.target_id, grants.c.username)
        .with_for_update(skip_locked=True)
        .cte("picked")
    )
    return (
        update(grants)
        .where(
            grants.c.client_id == picked.c.client_id,
            grants.c.target_id == picked.c.target_id,
            grants.c.username == picked.c.username,
        )
        .values(LEASE)
        .returning(*RECORD)
    )
