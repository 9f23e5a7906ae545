"""The SQL statements that change and read grants, and the clock of the database.

Each statement is built once, so that SQLAlchemy compiles it once. SQLite and PostgreSQL use the
same statements, except for a `Change`. The parameter `now` is None unless a test has its own clock.

Leases and pauses run by a clock that all processes share. On PostgreSQL it is `clock_timestamp()`.
On SQLite it is the machine's boot clock, which no step of the wall clock moves, from the boot time
in the table `clock`; where the system has no boot clock, it is the wall clock.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from operator import eq
from typing import Any

from sqlalchemy import (
    ARRAY,
    BigInteger,
    Boolean,
    ColumnElement,
    Executable,
    Float,
    FromClause,
    Integer,
    Select,
    String,
    Table,
    and_,
    bindparam,
    case,
    delete,
    exists,
    false,
    func,
    insert,
    literal,
    literal_column,
    not_,
    null,
    or_,
    select,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql import insert as insert_once
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.dml import Insert, ReturningInsert, ReturningUpdate
from sqlalchemy.sql.functions import FunctionElement

from blink_oauth_keeper.errors import SealError
from blink_oauth_keeper.events import EventName

from .moving import MARK
from .outbox import TROUBLES, NoticeKind
from .protocol import LONGEST_LEASE, LONGEST_PAUSE, Origin, State
from .sealing import ID_LENGTH
from .sql_tables import (
    HAS_CLAIMABLE_STATE,
    TOMBSTONE,
    Change,
    Claims,
    UtcDateTime,
    clock,
    grants,
    history,
    is_revoking,
    is_to_be_forgotten,
    journal,
    notices,
)

__all__ = [
    "CLAIM",
    "CLAIM_LOCKED",
    "DELETE_ROWS",
    "INSERT",
    "INSERT_NOTICE",
    "LOAD",
    "LOCK",
    "PAUSE_LOCKED",
    "RECORDS",
    "RELEASE",
    "REVOKING",
    "SALVAGE",
    "SELECT_OLD",
    "WRITE",
    "due",
    "lock_due",
    "mac_key_id",
    "unknown_keys",
    "unopened",
]


TIME_FORMAT = "'%Y-%m-%d %H:%M:%f000'"


class CurrentTime(FunctionElement[datetime]):
    """The current time when the row is processed, not when the transaction began."""

    type = UtcDateTime()
    inherit_cache = True


class ByDialect(FunctionElement[datetime]):
    """A time: its first argument on PostgreSQL, its second in SQLite."""

    type = UtcDateTime()
    inherit_cache = True


class AddSeconds(FunctionElement[datetime]):
    """A time plus a number of seconds."""

    type = UtcDateTime()
    inherit_cache = True


def seconds_from(time: ColumnElement[datetime], name: str) -> ColumnElement[datetime]:
    """Return a time plus the seconds in a parameter.

    Args:
        time: The time.
        name: The name of the parameter.
    """
    return AddSeconds(time, bindparam(name, type_=Float))


@compiles(CurrentTime)
def _current_time(element: CurrentTime, compiler: SQLCompiler, **options: Any) -> str:
    return "clock_timestamp()"


@compiles(CurrentTime, "sqlite")
def _current_time_in_sqlite(element: CurrentTime, compiler: SQLCompiler, **options: Any) -> str:
    return f"strftime({TIME_FORMAT}, 'now')"


@compiles(ByDialect)
def _on_postgresql(element: ByDialect, compiler: SQLCompiler, **options: Any) -> str:
    postgresql, _ = element.clauses
    return compiler.process(postgresql, **options)


@compiles(ByDialect, "sqlite")
def _in_sqlite(element: ByDialect, compiler: SQLCompiler, **options: Any) -> str:
    _, sqlite = element.clauses
    return compiler.process(sqlite, **options)


@compiles(AddSeconds)
def _add_seconds(element: AddSeconds, compiler: SQLCompiler, **options: Any) -> str:
    time, seconds = (compiler.process(clause, **options) for clause in element.clauses)
    return f"({time} + make_interval(secs => {seconds}))"


@compiles(AddSeconds, "sqlite")
def _add_seconds_in_sqlite(element: AddSeconds, compiler: SQLCompiler, **options: Any) -> str:
    time, seconds = (compiler.process(clause, **options) for clause in element.clauses)
    return f"strftime({TIME_FORMAT}, {time}, {seconds} || ' seconds')"


NOW: ColumnElement[datetime] = func.coalesce(
    bindparam("now", type_=UtcDateTime), CurrentTime(), type_=UtcDateTime
)
# SQLite evaluates a subquery once. The aggregate returns a row for an unknown boot too.
IS_THIS_BOOT = clock.c.boot == bindparam("boot")
BOOT_TIME = select(
    func.coalesce(
        func.max(AddSeconds(clock.c.anchor, bindparam("boot_seconds", type_=Float))), CurrentTime()
    )
).where(IS_THIS_BOOT)
LEASE_NOW: ColumnElement[datetime] = func.coalesce(
    bindparam("now", type_=UtcDateTime),
    ByDialect(CurrentTime(), BOOT_TIME.scalar_subquery()),
    type_=UtcDateTime,
)
# When lease and pause were set, if the clock by which they run is the one of `updated_at`.
ENDS_SET_AT = ByDialect(
    grants.c.updated_at,
    case((exists().where(IS_THIS_BOOT), null()), else_=grants.c.updated_at),
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

ENTRY_VALUES = KEY_VALUES | {
    "generation": bindparam("new_generation"),
    "consent": bindparam("new_consent"),
    "origin": bindparam("new_origin"),
    "sealed": bindparam("new_sealed"),
    "key_id": bindparam("new_key_id"),
}
INSERT_ENTRY = insert(journal).inline().values(ENTRY_VALUES | {"at": NOW})
JOURNAL_ENTRIES = select(journal).where(is_of_grant(journal)).order_by(journal.c.id.desc())
DELETE_ENTRY = delete(journal).where(journal.c.id == bindparam("entry"))

NOTE_VALUES: dict[str, object] = {
    "event": bindparam("note_event", type_=String),
    "outcome": bindparam("note_outcome", type_=String),
    "detail": bindparam("note_detail", type_=String),
    "actor": bindparam("note_actor", type_=String),
    "correlation_id": bindparam("note_correlation_id", type_=String),
}
HISTORY_VALUES = KEY_VALUES | NOTE_VALUES | {"generation": bindparam("new_generation")}
INSERT_HISTORY = insert(history).inline().values(HISTORY_VALUES | {"at": NOW})
INSERT_NOTE = (
    insert(history)
    .inline()
    .values(
        KEY_VALUES
        | NOTE_VALUES
        | {
            "at": NOW,
            "generation": func.coalesce(
                select(grants.c.generation).where(is_of_grant(grants)).scalar_subquery(), 0
            ),
        }
    )
)
HISTORY = (
    select(history)
    .where(is_of_grant(history))
    .order_by(history.c.id.desc())
    .limit(bindparam("limit"))
)
SELECT_OLD = {
    table: select(table.c.id)
    .where(table.c.at < seconds_from(NOW, "minus_retention"))
    .order_by(table.c.at)
    .limit(bindparam("limit"))
    for table in (journal, history, notices)
}
DELETE_ROWS = {
    table: delete(table).where(table.c.id.in_(bindparam("ids", expanding=True)))
    for table in (journal, history, notices)
}


def mac_key_id() -> ColumnElement[str]:
    """Return the id of the key that the MAC of a row of the grants was made with."""
    return func.substr(grants.c.mac, 1, ID_LENGTH)


RECORD_COLUMNS = (
    *grants.c,
    LEASE_NOW.label("now"),
    ENDS_SET_AT.label("ends_set_at"),
)
WRITTEN_COLUMNS = (
    *(grants.c[name] for name in KEY_VALUES),
    grants.c.generation,
    grants.c.lease_until,
    grants.c.notice,
    grants.c.correlation_id,
    grants.c.updated_at,
    LEASE_NOW.label("now"),
    ENDS_SET_AT.label("ends_set_at"),
)
"""What the writer of a record cannot know, and what history and notice need."""


# Conditions on the row.
HAS_GENERATION = and_(is_of_grant(grants), grants.c.generation == bindparam("expected_generation"))
IS_LATEST_CLAIM = and_(HAS_GENERATION, grants.c.owner == bindparam("expected_owner"))
IS_CLAIMABLE = and_(
    or_(grants.c.lease_until.is_(None), grants.c.lease_until <= LEASE_NOW),
    or_(grants.c.pause_until.is_(None), grants.c.pause_until <= LEASE_NOW),
    HAS_CLAIMABLE_STATE,
)
ENDS_TOO_LATE = and_(
    or_(
        grants.c.lease_until > AddSeconds(LEASE_NOW, literal(LONGEST_LEASE, Float)),
        grants.c.pause_until > AddSeconds(LEASE_NOW, literal(LONGEST_PAUSE, Float)),
        and_(
            or_(grants.c.lease_until > LEASE_NOW, grants.c.pause_until > LEASE_NOW),
            ENDS_SET_AT > LEASE_NOW,
        ),
    ),
    HAS_CLAIMABLE_STATE,
)

# New values of the row.
LEASE_VALUES: dict[str, object] = {
    "state": State.REFRESHING.value,
    "attempts": grants.c.attempts + 1,
    "owner": bindparam("new_owner"),
    "lease_until": seconds_from(LEASE_NOW, "ttl"),
    "pause_until": null(),
    "updated_at": NOW,
    "mac": bindparam("new_mac"),
}
NEW_NOTICE: ColumnElement[str] = bindparam("new_notice", type_=String)
# Literals: SQLAlchemy renders a list of parameters anew at each execution.
IS_RECOVERY = NEW_NOTICE.in_([literal_column(f"'{NoticeKind.RECOVERED}'")])
HAD_NO_TROUBLE = func.coalesce(grants.c.notice, "").not_in(
    [literal_column(f"'{kind}'") for kind in sorted(TROUBLES)]
)
# As `outbox.next_notice` decides, from the row as it is once it is locked.
NEXT_NOTICE = case(
    (NEW_NOTICE.is_(None), grants.c.notice),
    (and_(IS_RECOVERY, HAD_NO_TROUBLE), null()),
    else_=NEW_NOTICE,
)
NOTICE_VALUES: dict[str, ColumnElement[Any]] = {
    "notice_id": bindparam("new_notice_id", type_=String),
    "kind": NEW_NOTICE,
    "reason": bindparam("new_reason", type_=String),
    "ends_at": bindparam("new_ends_at", type_=UtcDateTime),
    "at": NOW,
    "tries": literal(0),
    "due_at": NOW,
    "is_dead": false(),
}
CALL_VALUES: dict[str, object] = {
    "notice": NEXT_NOTICE,
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
    "forget_generation": bindparam("new_forget_generation", type_=BigInteger),
}
RELEASE_VALUES: dict[str, object] = {
    "state": bindparam("new_state"),
    "attempts": bindparam("new_attempts"),
    "lease_until": null(),
    "pause_until": seconds_from(LEASE_NOW, "pause"),
    "error": bindparam("new_error"),
    "refusals": bindparam("new_refusals", type_=Integer),
    "refused_since": bindparam("new_refused_since", type_=UtcDateTime),
    "mac": bindparam("new_mac"),
}


def _key_of(table: Table) -> tuple[ColumnElement[str], ...]:
    return (table.c.client_id, table.c.target_id, table.c.username)


def _insert_notice(record: FromClause, *conditions: ColumnElement[bool]) -> Insert:
    """Return the statement that writes a notice if it is the record's last one now.

    Args:
        record: The table of the grants, or the rows that a change returns.
        conditions: The condition that selects the record.
    """
    names = (*KEY_VALUES, "generation", "correlation_id")
    values = {name: record.c[name] for name in names} | {"certificate": literal("")} | NOTICE_VALUES
    new = select(*values.values()).where(*conditions, record.c.notice == NEW_NOTICE)
    return insert_once(notices).from_select(list(values), new).on_conflict_do_nothing()


INSERT_NOTICE = _insert_notice(grants, is_of_grant(grants))


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
    written = [column for column in changed.c if column.name not in KEY_VALUES]
    both = select(*written).add_cte(entry, _insert_notice(changed).cte("new_notice"))
    return Change(change, INSERT_HISTORY, INSERT_NOTICE, both)


NEEDED_CHANGES: tuple[Executable, ...] = (
    *(
        insert(table).from_select([column.name for column in table.c], select(table).where(false()))
        for table in (grants, journal, history, notices)
    ),
    update(grants).where(false()).values({column: column for column in grants.c}),
    delete(journal).where(false()),
)
"""Changes of no row: a role that may make them all can keep the result of any call."""

LOAD = select(*RECORD_COLUMNS).where(is_of_grant(grants))
LOCK = LOAD.with_for_update()
CLAIM = (
    update(grants)
    .where(HAS_GENERATION, grants.c.attempts == bindparam("expected_attempts"), IS_CLAIMABLE)
    .values(LEASE_VALUES)
    .returning(*RECORD_COLUMNS)
)
# For rows that this transaction has locked.
_locked = (
    func.unnest(
        *(bindparam(name, type_=ARRAY(String)) for name in ("targets", "users", "new_macs"))
    )
    .table_valued("target_id", "username", "mac", name="locked")
    .render_derived()
)
CLAIM_LOCKED = Claims(
    one=update(grants).where(is_of_grant(grants)).values(LEASE_VALUES),
    all=update(grants)
    .where(
        grants.c.client_id == bindparam("client"),
        grants.c.target_id == _locked.c.target_id,
        grants.c.username == _locked.c.username,
    )
    .values(LEASE_VALUES | {"mac": _locked.c.mac}),
)
PAUSE_LOCKED = (
    update(grants)
    .where(is_of_grant(grants))
    .values(
        pause_until=seconds_from(LEASE_NOW, "pause"), error=bindparam("new_error"), updated_at=NOW
    )
)
RELEASE = _with_history(
    update(grants)
    .where(IS_LATEST_CLAIM)
    .values(RELEASE_VALUES | CALL_VALUES)
    .returning(*WRITTEN_COLUMNS)
)
WRITE = _with_history(
    update(grants)
    .where(HAS_GENERATION)
    .values(PAIR_VALUES | CALL_VALUES | {"lease_until": null()})
    .returning(*WRITTEN_COLUMNS)
)
SALVAGE = _with_history(
    update(grants)
    .where(IS_LATEST_CLAIM)
    .values(PAIR_VALUES | CALL_VALUES)
    .returning(*WRITTEN_COLUMNS)
)
INSERT = _with_history(
    insert(grants)
    .values(
        KEY_VALUES
        | PAIR_VALUES
        | {
            "notice": case((IS_RECOVERY, null()), else_=NEW_NOTICE),
            "correlation_id": bindparam("note_correlation_id"),
            "updated_at": NOW,
        }
    )
    .returning(*WRITTEN_COLUMNS)
)


def _no_later_than(column: ColumnElement[datetime], name: str) -> ColumnElement[datetime]:
    bound = bindparam(name, type_=UtcDateTime)
    return case((column > bound, bound), else_=column)


BOUND_ENDS = (
    update(grants)
    .where(
        HAS_GENERATION,
        grants.c.owner.is_not_distinct_from(bindparam("expected_owner", type_=String)),
        or_(
            grants.c.lease_until > bindparam("new_lease_until", type_=UtcDateTime),
            grants.c.pause_until > bindparam("new_pause_until", type_=UtcDateTime),
        ),
    )
    .values(
        lease_until=_no_later_than(grants.c.lease_until, "new_lease_until"),
        pause_until=_no_later_than(grants.c.pause_until, "new_pause_until"),
        updated_at=NOW,
    )
)
# SQLite only.
LOAD_BOOT = select(clock.c.boot).where(clock.c.boot == bindparam("boot"))
INSERT_BOOT = (
    insert(clock)
    .prefix_with("OR IGNORE")
    .values(boot=bindparam("boot"), anchor=AddSeconds(NOW, -bindparam("boot_seconds", type_=Float)))
)
RESTART_LEASES = (
    update(grants)
    .where(grants.c.lease_until.is_not(None))
    .values(lease_until=seconds_from(LEASE_NOW, "ttl"))
)
# Every revocation that is not finished has a pair, in the row or in the journal, or is to be
# forgotten.
_UNFINISHED = (
    select(*_key_of(grants))
    .where(grants.c.client_id == bindparam("client"), is_revoking)
    .union(
        # A process of an older version erases the pair, and does not forget.
        select(*_key_of(grants)).where(
            grants.c.client_id == bindparam("client"),
            is_to_be_forgotten,
            grants.c.forget_generation == grants.c.generation,
        ),
        select(*_key_of(journal)).where(
            journal.c.client_id == bindparam("client"), journal.c.origin != Origin.FOREIGN.value
        ),
    )
    .subquery()
)
REVOKING = (
    select(*RECORD_COLUMNS)
    .join(_UNFINISHED, and_(*map(eq, _key_of(grants), _UNFINISHED.c)))
    .where(
        grants.c.state == State.REVOKED.value,
        # The store that has the grant now revokes its pairs.
        or_(grants.c.owner.is_(None), not_(grants.c.owner.startswith(MARK))),
    )
    .order_by(grants.c.target_id, grants.c.username)
    .limit(bindparam("limit"))
)
PAIR_EVENTS = (
    EventName.AUTHORIZED,
    EventName.REFRESHED,
    EventName.SALVAGED,
    EventName.STORE_BEHIND,
    EventName.MOVED,
)
"""The events whose entries are written together with a pair."""
# The oddities of a pair are sealed, and in clear only in the entry that was written with it. It is
# one of the newest, so that few entries are read.
PAIR_DETAIL = (
    select(history.c.detail)
    .where(
        *map(eq, _key_of(history), _key_of(grants)),
        history.c.generation == grants.c.generation,
        history.c.event.in_([event.value for event in PAIR_EVENTS]),
        grants.c.sealed.is_not(None),
    )
    .order_by(history.c.id.desc())
    .limit(1)
    .correlate(grants)
    .scalar_subquery()
    .label("pair_detail")
)
RECORDS = (
    select(*RECORD_COLUMNS, PAIR_DETAIL)
    .where(
        grants.c.client_id == bindparam("client"),
        tuple_(grants.c.target_id, grants.c.username)
        > tuple_(bindparam("target", type_=String), bindparam("user", type_=String)),
        grants.c.forget_generation.is_distinct_from(TOMBSTONE),
    )
    .order_by(grants.c.target_id, grants.c.username)
    .limit(bindparam("limit"))
)


def _due_conditions(targets: bool) -> list[ColumnElement[bool]]:
    conditions = [
        grants.c.client_id == bindparam("client"),
        grants.c.idle_until <= bindparam("before", type_=UtcDateTime),
        grants.c.issued_at < bindparam("issued_before", type_=UtcDateTime),
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
def due_with_late_ends(*, targets: bool) -> Select[Any]:
    """Return the statement that reads due records whose lease or pause ends too late.

    Args:
        targets: Whether to filter by the parameter `targets`.
    """
    return (
        select(*RECORD_COLUMNS)
        .where(*_due_conditions(targets), ENDS_TOO_LATE)
        .limit(bindparam("limit"))
    )


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
