"""Tombstones in the tables: the rows of forgotten grants, whose usernames are keyed pseudonyms.

A row is renamed and not deleted, so that a process that waits for its lock finds the tombstone,
and so that a role needs no other permission.
"""

from __future__ import annotations

import logging
import secrets
from typing import Any

from attrs import frozen
from sqlalchemy import Executable, Row, bindparam, delete, null, select, update

from blink_oauth_keeper.errors import SealError

from .protocol import GrantKey, Origin, State
from .rules import PSEUDONYM, pseudonym
from .sql_statements import LOAD, LOCK, NOW, is_of_grant
from .sql_store_key import KeyRing
from .sql_tables import (
    TOMBSTONE,
    Parameters,
    Session,
    grant_params,
    grants,
    history,
    journal,
    notices,
)

__all__ = ["Tombstones", "is_tombstone"]

logger = logging.getLogger("blink_oauth_keeper.store")

ANY_TOMBSTONE = (
    select(grants.c.username)
    .where(
        grants.c.client_id == bindparam("client"),
        grants.c.target_id == bindparam("target"),
        grants.c.forget_generation == TOMBSTONE,
    )
    .limit(1)
)
RENAME = update(grants).where(is_of_grant(grants)).values(username=bindparam("new_user"))
RESTORE_NAME = RENAME.values(forget_generation=grants.c.generation)
REPLACE_BY_TOMBSTONE = RENAME.values(
    state=State.REVOKED.value,
    sealed=None,
    key_id=None,
    mac=None,
    idle_until=None,
    expires_at=None,
    expires_generation=None,
    attempts=0,
    owner=None,
    lease_until=null(),
    pause_until=null(),
    error=None,
    refusals=None,
    refused_since=None,
    correlation_id=None,
    notice=None,
    forget_generation=TOMBSTONE,
    updated_at=NOW,
)
SET_TIME = update(grants).where(is_of_grant(grants)).values(updated_at=NOW)
MARK = update(grants).where(is_of_grant(grants)).values(forget_generation=grants.c.generation)
OWN_ENTRY = (
    select(journal.c.id)
    .where(is_of_grant(journal), journal.c.origin != Origin.FOREIGN.value)
    .limit(1)
)
DELETE_FOREIGN = delete(journal).where(
    is_of_grant(journal), journal.c.origin == Origin.FOREIGN.value
)
DELETE_HISTORY = delete(history).where(is_of_grant(history))
DELETE_NOTICES = delete(notices).where(is_of_grant(notices))


@frozen(eq=False)
class Tombstones:
    """Finds, makes and ends the tombstones of a store.

    Args:
        keys: The key of the pseudonyms.
    """

    keys: KeyRing

    def load(self, session: Session, key: GrantKey) -> Row[Any] | None:
        """Return the row of a grant, which may be a tombstone, or None.

        Raises:
            SealError: There is no row, and the key of the tombstones is missing.
        """
        return self._find(session, key, LOAD)

    def lock(self, session: Session, key: GrantKey) -> Row[Any] | None:
        """Return the row of a grant as `load` does, and lock it."""
        return self._find(session, key, LOCK)

    def _find(self, session: Session, key: GrantKey, statement: Executable) -> Row[Any] | None:
        row = session.row(statement, grant_params(key))
        if row is not None or (tombstone := self._params(session, key)) is None:
            return row
        # A new consent may have ended the tombstone in between.
        return session.row(statement, tombstone) or session.row(statement, grant_params(key))

    def _params(self, session: Session, key: GrantKey) -> Parameters | None:
        """Return the parameters that select the tombstone of a grant, None if there is none."""
        try:
            store_key = self.keys.read(session)
        except SealError:
            if session.row(ANY_TOMBSTONE, grant_params(key)) is None:
                return None
            raise
        if store_key is None:
            return None
        return grant_params(key) | {"user": pseudonym(store_key.pseudonyms, key)}

    def mark(self, session: Session, key: GrantKey) -> None:
        """Mark the row of a revoked grant, so that it is forgotten once it is erased."""
        session.count(MARK, grant_params(key))

    def restore_name(self, session: Session, key: GrantKey, row: Row[Any]) -> Row[Any]:
        """Return the row of a grant, as one to be forgotten again if it is a tombstone.

        Args:
            session: The session of a transaction.
            key: The client and the grant.
            row: What `lock` returned.
        """
        if not is_tombstone(row):
            return row
        tombstone = grant_params(key) | {"user": row.username}
        session.count(RESTORE_NAME, tombstone | {"new_user": key.grant.username})
        restored = session.row(LOCK, grant_params(key))
        assert restored is not None
        return restored

    def replace_by_tombstone(self, session: Session, key: GrantKey) -> bool:
        """Replace all that is stored of a grant by a tombstone.

        Returns:
            Whether it was done; it is not if the journal still has a pair of the grant, or if the
            key of the pseudonyms is missing.
        """
        if session.row(OWN_ENTRY, grant_params(key)) is not None:
            return False
        try:
            store_key = self.keys.read(session)
        except SealError as error:
            logger.warning("%s", error)
            return False
        if store_key is None:
            return False
        self.delete_traces(session, key)
        tombstone = grant_params(key) | {"user": pseudonym(store_key.pseudonyms, key)}
        # A process of the version before stores a new consent beside the tombstone.
        spare = PSEUDONYM + secrets.token_urlsafe(32)
        session.count(RENAME, tombstone | {"new_user": spare})
        session.count(REPLACE_BY_TOMBSTONE, grant_params(key) | {"new_user": tombstone["user"]})
        return True

    def delete_traces(self, session: Session, key: GrantKey) -> None:
        """Delete history and notices of a grant, and the foreign pairs in its journal."""
        for statement in (DELETE_FOREIGN, DELETE_HISTORY, DELETE_NOTICES):
            session.count(statement, grant_params(key))

    def set_time(self, session: Session, key: GrantKey, row: Row[Any]) -> None:
        """Change the time of a tombstone only, which proves that the store takes changes."""
        session.count(SET_TIME, grant_params(key) | {"user": row.username})


def is_tombstone(row: Row[Any]) -> bool:
    """Return whether a row is a tombstone."""
    return bool(row.forget_generation == TOMBSTONE)
