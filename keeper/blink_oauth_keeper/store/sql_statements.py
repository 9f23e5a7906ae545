"""The SQL statements on grants, journal and history, and the clock of the database.

Each statement is built once, so that SQLAlchemy compiles it once. SQLite and PostgreSQL use the
same statements, except for a `Change`. The parameter `now` is None unless a test has its own clock.

Leases and pauses run by the clock that all processes share: `clock_timestamp()` on PostgreSQL, and
on SQLite the machine's clock in milliseconds.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from typing import Any

from sqlalchemy import (
    Boolean,
    ColumnElement,
    Float,
    Integer,
    Select,
    String,
    Table,
    and_,
    bindparam,
    delete,
    func,
    insert,
    not_,
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

from blink_oauth_keeper.errors import SealError

from .protocol import State
from .sealing import ID_LENGTH
from .sql_tables import HAS_CLAIMABLE_STATE, Change, UtcDateTime, grants, history, journal

__all__ = [
    "CLAIM",
    "CLAIM_LOCKED",
    "DELETE_ROWS",
    "ERASE",
    "INSERT",
    "LOAD",
    "LOCK",
    "PAUSE_LOCKED",
    "RECORDS",
    "RELEASE",
    "SALVAGE",
    "SELECT_OLD",
    "WRITE",
    "due",
    "lock_due",
    "mac_key_id",
    "unknown_keys",
    "unopened",
]


class CurrentTime(FunctionElement[datetime]):
    """The current time when the row is processed, not when the transaction began."""

    type = UtcDateTime()
    inherit_cache = True


class AddSeconds(FunctionElement[datetime]):
    """A time plus a number of seconds."""

    type = UtcDateTime()
    inherit_cache = True


def seconds_from_now(name: str) -> ColumnElement[datetime]:
    """Return the current time plus the seconds in a parameter.

    Args:
        name: The name of the parameter.
    """
    return AddSeconds(NOW, bindparam(name, type_=Float))


@compiles(CurrentTime)
def _current_time(element: CurrentTime, compiler: SQLCompiler, **options: Any) -> str:
    return "clock_timestamp()"


@compiles(CurrentTime, "sqlite")
def _current_time_in_sqlite(element: CurrentTime, compiler: SQLCompiler, **options: Any) -> str:
    return "strftime('%Y-%m-%d %H:%M:%f000', 'now')"


@compiles(AddSeconds)
def _add_seconds(element: AddSeconds, compiler: SQLCompiler, **options: Any) -> str:
    time, seconds = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({time} + make_interval(secs => {seconds}))"


@compiles(AddSeconds, "sqlite")
def _add_seconds_in_sqlite(element: AddSeconds, compiler: SQLCompiler, **options: Any) -> str:
    time, seconds = (compiler.process(clause, **options) for clause in element.clauses)
    return f"strftime('%Y-%m-%d %H:%M:%f000', {time}, {seconds} || ' seconds')"


NOW: ColumnElement[datetime] = func.coalesce(
    bindparam("now", type_=UtcDateTime), CurrentTime(), type_=UtcDateTime
)


def is_of_grant(table: Table) -> ColumnElement[bool]:
    """Return the condition that a row belongs to the grant in the parameters."""
    return and_(
        table.c.client_id == bindparam("client"),
        table.c.target_id == bindparam("target"),
        table.c.username == bindparam("user"),
    )


KEY_VALUES: dict[str, object] = {
    "client_id": bindparam("client"),
    "target_id": bindparam("target"),
    "username": bindparam("user"),
}

INSERT_ENTRY = (
    insert(journal)
    .inline()
    .values(
        KEY_VALUES
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
JOURNAL_ENTRIES = select(journal).where(is_of_grant(journal)).order_by(journal.c.id.desc())
DELETE_ENTRY = delete(journal).where(journal.c.id == bindparam("entry"))
ERASE_JOURNAL = delete(journal).where(
    is_of_grant(journal), journal.c.consent <= bindparam("last_consent")
)

NOTE_VALUES: dict[str, object] = {
    "event": bindparam("note_event", type_=String),
    "outcome": bindparam("note_outcome", type_=String),
    "detail": bindparam("note_detail", type_=String),
    "actor": bindparam("note_actor", type_=String),
    "correlation_id": bindparam("note_correlation_id", type_=String),
}
INSERT_HISTORY = (
    insert(history)
    .inline()
    .values(KEY_VALUES | NOTE_VALUES | {"at": NOW, "generation": bindparam("new_generation")})
)
HISTORY = (
    select(history)
    .where(is_of_grant(history))
    .order_by(history.c.id.desc())
    .limit(bindparam("limit"))
)
SELECT_OLD = {
    table: select(table.c.id)
    .where(table.c.at < seconds_from_now("minus_retention"))
    .order_by(table.c.at)
    .limit(bindparam("limit"))
    for table in (journal, history)
}
DELETE_ROWS = {
    table: delete(table).where(table.c.id.in_(bindparam("ids", expanding=True)))
    for table in (journal, history)
}


def mac_key_id() -> ColumnElement[str]:
    """Return the id of the key that the MAC of a row of the grants was made with."""
    return func.substr(grants.c.mac, 1, ID_LENGTH)


RECORD_COLUMNS = (*grants.c, NOW.label("now"))


# Conditions on the row.
HAS_GENERATION = and_(is_of_grant(grants), grants.c.generation == bindparam("expected_generation"))
IS_LATEST_CLAIM = and_(HAS_GENERATION, grants.c.owner == bindparam("expected_owner"))
IS_CLAIMABLE = and_(
    or_(grants.c.lease_until.is_(None), grants.c.lease_until <= NOW),
    or_(grants.c.pause_until.is_(None), grants.c.pause_until <= NOW),
    HAS_CLAIMABLE_STATE,
)

# New values of the row.
LEASE_VALUES: dict[str, object] = {
    "state": State.REFRESHING.value,
    "attempts": grants.c.attempts + 1,
    "owner": bindparam("new_owner"),
    "lease_until": seconds_from_now("ttl"),
    "pause_until": null(),
    "updated_at": NOW,
    "mac": bindparam("new_mac"),
}
CALL_VALUES: dict[str, object] = {
    "correlation_id": func.coalesce(
        bindparam("note_correlation_id", type_=String), grants.c.correlation_id
    ),
    "updated_at": NOW,
}
PAIR_VALUES: dict[str, object] = {
    "generation": bindparam("new_generation"),
    "consent": bindparam("new_consent"),
    "state": bindparam("new_state"),
    "sealed": bindparam("new_sealed"),
    "key_id": bindparam("new_key_id"),
    "issued_at": bindparam("new_issued_at", type_=UtcDateTime),
    "idle_until": bindparam("new_idle_until", type_=UtcDateTime),
    "expires_at": bindparam("new_expires_at", type_=UtcDateTime),
    "expires_generation": bindparam("new_generation"),
    "attempts": bindparam("new_attempts"),
    "owner": bindparam("new_owner"),
    "pause_until": null(),
    "error": bindparam("new_error"),
    "refusals": null(),
    "refused_since": null(),
    "mac": bindparam("new_mac"),
}
RELEASE_VALUES: dict[str, object] = {
    "state": bindparam("new_state"),
    "attempts": bindparam("new_attempts"),
    "lease_until": null(),
    "pause_until": seconds_from_now("pause"),
    "error": bindparam("new_error"),
    "refusals": bindparam("new_refusals", type_=Integer),
    "refused_since": bindparam("new_refused_since", type_=UtcDateTime),
    "mac": bindparam("new_mac"),
}


def _with_history(change: ReturningUpdate[Any] | ReturningInsert[Any]) -> Change:
    # A single statement needs no explicit transaction. On PostgreSQL it is one round trip, and a
    # process that stops in the middle holds no lock.
    changed = change.cte("changed")
    columns: dict[str, Any] = {
        "client_id": changed.c.client_id,
        "target_id": changed.c.target_id,
        "username": changed.c.username,
        "at": changed.c.updated_at,
        "generation": changed.c.generation,
    } | NOTE_VALUES
    entry = insert(history).from_select(list(columns), select(*columns.values())).cte("entry")
    return Change(change, INSERT_HISTORY, select(changed).add_cte(entry))


LOAD = select(*RECORD_COLUMNS).where(is_of_grant(grants))
LOCK = LOAD.with_for_update()
CLAIM = (
    update(grants)
    .where(HAS_GENERATION, grants.c.attempts == bindparam("expected_attempts"), IS_CLAIMABLE)
    .values(LEASE_VALUES)
    .returning(*RECORD_COLUMNS)
)
# For rows that this transaction has locked.
CLAIM_LOCKED = update(grants).where(is_of_grant(grants)).values(LEASE_VALUES)
PAUSE_LOCKED = (
    update(grants)
    .where(is_of_grant(grants))
    .values(pause_until=seconds_from_now("pause"), error=bindparam("new_error"), updated_at=NOW)
)
RELEASE = _with_history(
    update(grants)
    .where(IS_LATEST_CLAIM)
    .values(RELEASE_VALUES | CALL_VALUES)
    .returning(*RECORD_COLUMNS)
)
WRITE = _with_history(
    update(grants)
    .where(HAS_GENERATION)
    .values(PAIR_VALUES | CALL_VALUES | {"lease_until": null()})
    .returning(*RECORD_COLUMNS)
)
SALVAGE = _with_history(
    update(grants)
    .where(IS_LATEST_CLAIM)
    .values(PAIR_VALUES | CALL_VALUES)
    .returning(*RECORD_COLUMNS)
)
INSERT = _with_history(
    insert(grants)
    .values(
        KEY_VALUES
        | PAIR_VALUES
        | {"correlation_id": bindparam("note_correlation_id"), "updated_at": NOW}
    )
    .returning(*RECORD_COLUMNS)
)
ERASE = (
    update(grants)
    .where(HAS_GENERATION, grants.c.state == State.REVOKED.value)
    .values(sealed=None, key_id=None, expires_at=None, mac=None, updated_at=NOW)
)
RECORDS = (
    select(*RECORD_COLUMNS)
    .where(
        grants.c.client_id == bindparam("client"),
        tuple_(grants.c.target_id, grants.c.username)
        > tuple_(bindparam("target", type_=String), bindparam("user", type_=String)),
    )
    .order_by(grants.c.target_id, grants.c.username)
    .limit(bindparam("limit"))
)


def _due_conditions(targets: bool) -> list[ColumnElement[bool]]:
    conditions = [
        grants.c.client_id == bindparam("client"),
        grants.c.idle_until <= bindparam("before", type_=UtcDateTime),
        grants.c.attempts <= bindparam("max_attempts"),
        grants.c.target_id.not_in(bindparam("except_targets", expanding=True)),
        HAS_CLAIMABLE_STATE,
    ]
    if targets:
        conditions.append(grants.c.target_id.in_(bindparam("targets", expanding=True)))
    return conditions


HAS_KNOWN_KEY = grants.c.key_id.in_(bindparam("key_ids", expanding=True))
HAS_KNOWN_MAC_KEY = or_(
    bindparam("any_mac", type_=Boolean),
    grants.c.mac.is_(None),
    mac_key_id().in_(bindparam("key_ids", expanding=True)),
)


@cache
def unknown_keys(*, targets: bool) -> Select[Any]:
    """Return the statement that counts due records by each unknown key.

    Args:
        targets: Whether to filter by the parameter `targets`.
    """
    return (
        select(grants.c.key_id, func.count().label("number"))
        .where(*_due_conditions(targets), grants.c.sealed.is_not(None), not_(HAS_KNOWN_KEY))
        .group_by(grants.c.key_id)
    )


@cache
def unopened(*, targets: bool) -> Select[Any]:
    """Return the statement that reads the due records that failed to open with a known key.

    Args:
        targets: Whether to filter by the parameter `targets`.
    """
    failed = grants.c.error == SealError.__name__
    return select(*RECORD_COLUMNS).where(*_due_conditions(targets), failed, HAS_KNOWN_KEY)


@cache
def due(*, targets: bool) -> Select[Any]:
    """Return the statement that reads due records.

    Args:
        targets: Whether to filter by the parameter `targets`.
    """
    return (
        select(*RECORD_COLUMNS)
        .where(*_due_conditions(targets), HAS_KNOWN_KEY, HAS_KNOWN_MAC_KEY, IS_CLAIMABLE)
        .order_by(grants.c.idle_until, grants.c.target_id, grants.c.username)
        .limit(bindparam("limit"))
    )


@cache
def lock_due(*, targets: bool) -> Select[Any]:
    """Return the statement that locks due records and skips those that are locked.

    Args:
        targets: Whether to filter by the parameter `targets`.
    """
    return due(targets=targets).with_for_update(skip_locked=True)
