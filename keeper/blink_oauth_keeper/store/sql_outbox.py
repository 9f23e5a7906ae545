"""The notices in the tables: written without another change, claimed, delivered, listed.

A notice that goes with a change is written by the statements of the change.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import eq
from typing import Any

from sqlalchemy import (
    BigInteger,
    Float,
    Integer,
    Row,
    String,
    and_,
    bindparam,
    delete,
    exists,
    false,
    literal,
    not_,
    or_,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert as insert_once

from blink_oauth.context import Grant

from .moving import MARK
from .outbox import LONGEST_NOTICE_PAUSE, NewNotice, Notice, OutboxEntry
from .protocol import GrantKey, Record
from .sql_statements import (
    HAS_GENERATION,
    INSERT_NOTICE,
    KEY_VALUES,
    NEXT_NOTICE,
    NOTICE_VALUES,
    NOW,
    AddSeconds,
    is_of_grant,
    seconds_from,
)
from .sql_tables import (
    KINDS,
    Database,
    Session,
    UtcDateTime,
    grant_params,
    grants,
    notice_params,
    notices,
    record_params,
)

__all__ = [
    "add_certificate_notice",
    "add_moved_notices",
    "add_notice",
    "claim_notices",
    "delete_moved_notices",
    "notice_delivered",
    "notice_failed",
    "retry_notices",
    "undelivered",
    "undelivered_of",
]

SET_NOTICE = (
    update(grants)
    .where(
        HAS_GENERATION,
        grants.c.notice.is_not_distinct_from(bindparam("expected_notice", type_=String)),
        # The store that has the grant now writes its notices.
        or_(grants.c.owner.is_(None), not_(grants.c.owner.startswith(MARK))),
    )
    .values(notice=NEXT_NOTICE)
)
INSERT_OF_GRANT = INSERT_NOTICE.returning(notices.c.id)
INSERT_OF_CERTIFICATE = (
    insert_once(notices)
    .inline()
    .values(
        NOTICE_VALUES
        | {
            "client_id": bindparam("client"),
            "target_id": "",
            "username": "",
            "certificate": bindparam("new_certificate"),
            "generation": bindparam("new_generation", type_=BigInteger),
        }
    )
    .on_conflict_do_nothing()
    .returning(notices.c.id)
)
# A newer version, which uses the same tables, may know more kinds.
IS_KNOWN = notices.c.kind.in_(sorted(KINDS))
IS_UNDELIVERED = and_(
    notices.c.client_id == bindparam("client"),
    notices.c.delivered_at.is_(None),
    IS_KNOWN,
)
IS_OVERDUE = or_(
    notices.c.due_at <= NOW,
    # The clock was set back.
    notices.c.due_at > AddSeconds(NOW, literal(LONGEST_NOTICE_PAUSE, Float)),
)
_older = notices.alias("older")
HAS_OLDER = exists().where(
    *(
        eq(_older.c[name], notices.c[name])
        for name in ("client_id", "target_id", "username", "certificate")
    ),
    _older.c.delivered_at.is_(None),
    _older.c.is_dead.is_(false()),
    _older.c.id < notices.c.id,
)
_claimable = (
    select(notices.c.id)
    .where(IS_UNDELIVERED, notices.c.is_dead.is_(false()), IS_OVERDUE, not_(HAS_OLDER))
    .order_by(notices.c.id)
    .limit(bindparam("limit"))
    .with_for_update(skip_locked=True)
    .cte("claimable")
)
CLAIM = (
    update(notices)
    .where(notices.c.id.in_(select(_claimable.c.id)))
    .values(tries=notices.c.tries + 1, due_at=seconds_from(NOW, "ttl"))
    .returning(*notices.c)
)
OF_NOTICE = and_(notices.c.notice_id == bindparam("notice"), notices.c.delivered_at.is_(None))
DELIVERED = update(notices).where(OF_NOTICE).values(delivered_at=NOW, is_dead=false())
FAILED = (
    update(notices)
    # Each claim changes the number.
    .where(OF_NOTICE, notices.c.tries == bindparam("expected_tries"))
    .values(
        tries=bindparam("new_tries"),
        due_at=seconds_from(NOW, "pause"),
        is_dead=bindparam("new_is_dead"),
    )
)
RETRY = (
    update(notices)
    .where(IS_UNDELIVERED, notices.c.is_dead.is_(true()))
    .values(due_at=NOW, is_dead=false())
)
UNDELIVERED = (
    select(*notices.c, NOW.label("now"))
    .where(IS_UNDELIVERED)
    .order_by(notices.c.id)
    .limit(bindparam("limit"))
)
UNDELIVERED_OF = (
    select(notices)
    .where(is_of_grant(notices), notices.c.delivered_at.is_(None), IS_KNOWN)
    .order_by(notices.c.id)
)
ADD_MOVED = (
    insert_once(notices)
    .inline()
    .values(
        NOTICE_VALUES
        | KEY_VALUES
        | {
            "certificate": "",
            "generation": bindparam("new_generation", type_=BigInteger),
            "correlation_id": bindparam("new_correlation_id", type_=String),
            "at": bindparam("new_at", type_=UtcDateTime),
            "tries": bindparam("new_tries", type_=Integer),
        }
    )
    .on_conflict_do_nothing()
)
DELETE_MOVED = delete(notices).where(OF_NOTICE)


def add_notice(database: Database, seen: Record, notice: NewNotice) -> bool:
    """Write a notice about a grant whose record does not change otherwise."""
    expected = record_params(seen) | {"expected_notice": seen.notice and seen.notice.value}
    parameters = expected | notice_params(notice)
    with database.transaction() as session:
        if not session.count(SET_NOTICE, parameters):
            return False
        return session.row(INSERT_OF_GRANT, parameters) is not None


def add_certificate_notice(
    database: Database, client_id: str, certificate: str, stage: int, notice: NewNotice
) -> bool:
    """Write a notice about a certificate, once for each stage of it."""
    subject = {"client": client_id, "new_certificate": certificate, "new_generation": stage}
    with database.session() as session:
        return session.row(INSERT_OF_CERTIFICATE, subject | notice_params(notice)) is not None


def claim_notices(database: Database, client_id: str, limit: int, ttl: float) -> Sequence[Notice]:
    """Claim notices to deliver now, and return them, the oldest first."""
    with database.single_change() as session:
        rows = session.rows(CLAIM, {"client": client_id, "limit": limit, "ttl": ttl})
    return [_notice(row) for row in sorted(rows, key=lambda row: int(row.id))]


def notice_delivered(database: Database, notice: Notice) -> None:
    """Note that a notice was delivered."""
    with database.session() as session:
        session.count(DELIVERED, {"notice": notice.id})


def notice_failed(database: Database, notice: Notice, pause: float | None, *, counts: bool) -> None:
    """Note that the delivery of a notice failed."""
    failure = {
        "notice": notice.id,
        "expected_tries": notice.tries,
        "new_tries": notice.tries - (not counts),
        "pause": pause or 0.0,
        "new_is_dead": pause is None,
    }
    with database.session() as session:
        session.count(FAILED, failure)


def retry_notices(database: Database, client_id: str) -> int:
    """Let all dead notices of a client be tried again now, and return their number."""
    with database.session() as session:
        return session.count(RETRY, {"client": client_id})


def undelivered(database: Database, client_id: str, limit: int) -> Sequence[OutboxEntry]:
    """Return the notices of a client that are not delivered, the oldest first."""
    with database.session() as session:
        rows = session.rows(UNDELIVERED, {"client": client_id, "limit": limit})
    return [
        OutboxEntry(notice=_notice(row), is_dead=row.is_dead, due_in=_due_in(row)) for row in rows
    ]


def undelivered_of(session: Session, key: GrantKey) -> Sequence[Notice]:
    """Return the notices of a grant that are not delivered, the oldest first."""
    return [_notice(row) for row in session.rows(UNDELIVERED_OF, grant_params(key))]


def add_moved_notices(session: Session, key: GrantKey, moved: Sequence[Notice]) -> None:
    """Add the notices of another store, to be delivered now, also those that are dead there."""
    for notice in moved:
        parameters = {
            "new_notice_id": notice.id,
            "new_notice": notice.kind.value,
            "new_generation": notice.generation,
            "new_reason": notice.reason,
            "new_ends_at": notice.ends_at,
            "new_correlation_id": notice.correlation_id,
            "new_at": notice.at,
            "new_tries": notice.tries,
        }
        session.count(ADD_MOVED, grant_params(key) | parameters)


def delete_moved_notices(session: Session, moved: Sequence[Notice]) -> None:
    """Delete the notices that another store has, unless they were delivered meanwhile."""
    session.each(DELETE_MOVED, [{"notice": notice.id} for notice in moved])


def _due_in(row: Row[Any]) -> float:
    seconds: float = (row.due_at - row.now).total_seconds()
    return seconds if 0 < seconds <= LONGEST_NOTICE_PAUSE else 0.0


def _notice(row: Row[Any]) -> Notice:
    return Notice(
        id=row.notice_id,
        kind=KINDS[row.kind],
        client_id=row.client_id,
        grant=None if row.certificate else Grant(row.target_id, row.username),
        generation=row.generation,
        certificate=row.certificate or None,
        reason=row.reason,
        ends_at=row.ends_at,
        correlation_id=row.correlation_id,
        at=row.at,
        tries=row.tries,
    )
