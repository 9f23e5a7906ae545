"""The statements on the journal and the history, built once as those on the grants."""

from __future__ import annotations

from sqlalchemy import ColumnElement, String, Table, and_, bindparam, delete, insert, select

from .moments import NOW, after
from .sql_tables import history, journal

__all__ = [
    "ENTRIES",
    "FORGET",
    "HISTORY",
    "IDENTITY",
    "KEEP",
    "LINE",
    "NOTE",
    "PURGE",
    "TAKE",
    "of_grant",
]


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
