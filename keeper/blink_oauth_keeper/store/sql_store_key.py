"""The random key of a store, from which fingerprints and the names in tombstones are made.

It is made once and never changes, so that both stay the same when the keys of the store change. It
is sealed with these, in a table of its own.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from attrs import define, field
from sqlalchemy import bindparam, insert, select, update
from sqlalchemy.exc import IntegrityError

from blink_oauth_keeper.errors import SealError

from .sealing import Sealed, Sealer, StoreKey, new_key
from .sql_tables import Database, Session, store_key

__all__ = ["KeyRing", "count_older_key", "count_unknown_key", "reseal_key"]

RETRY_INTERVAL = 3.0
"""Seconds after which a key that could not be read for a log is asked for again."""

logger = logging.getLogger("blink_oauth_keeper.store")

LOAD_KEY = select(store_key).where(store_key.c.id == 1)
INSERT_KEY = insert(store_key).values(
    id=1, sealed=bindparam("new_sealed"), key_id=bindparam("new_key_id")
)
UPDATE_KEY = (
    update(store_key)
    .where(store_key.c.id == 1, store_key.c.sealed == bindparam("expected_sealed"))
    .values(sealed=bindparam("new_sealed"), key_id=bindparam("new_key_id"))
)


@define(eq=False, repr=False)
class KeyRing:
    """Reads and makes the key of a store, and keeps it for the fingerprints.

    Args:
        sealer: Seals and opens the key.
        monotonic: Returns seconds of a clock that never goes back.
    """

    _sealer: Sealer
    _monotonic: Callable[[], float]
    _opened: tuple[str, StoreKey] | None = field(init=False, default=None)
    _failed_at: float | None = field(init=False, default=None)

    def read(self, session: Session) -> StoreKey | None:
        """Return the key that the store has now, or None if it has none.

        A database that was restored may have no key, or another one than before.

        Raises:
            SealError: It cannot be opened.
        """
        row, opened = session.row(LOAD_KEY, {}), self._opened
        if row is None:
            return None
        if opened is None or opened[0] != row.sealed:
            try:
                key = self._sealer.open_key(Sealed(row.sealed, row.key_id))
            except SealError:
                if opened is None:
                    raise
                # Sealed anew in a rotation, with a key that this process does not have.
                return opened[1]
            self._opened = opened = (row.sealed, key)
        return opened[1]

    def make(self, database: Database) -> StoreKey:
        """Return the key; make it if the store has none.

        Raises:
            SealError: It cannot be opened; no other is made.
        """
        with database.session() as session:
            key = self.read(session)
        if key is None:
            sealed = self._sealer.seal_key(new_key())
            values = {"new_sealed": sealed.text, "new_key_id": sealed.key_id}
            try:
                with database.session() as session:
                    session.count(INSERT_KEY, values)
            except IntegrityError:
                logger.debug("Another process has made the key of the store.")
            with database.session() as session:
                key = self.read(session)
            assert key is not None
        return key

    def read_ahead(self, database: Database) -> None:
        """Read the key while the database responds, so that no event waits for it later."""
        self._for_logs(lambda: self._read_in(database))

    def for_logs(self, prepared: Callable[[], Database]) -> StoreKey | None:
        """Return the key, or None if it can neither be read nor made now. Nothing is raised."""
        opened = self._opened
        return opened[1] if opened else self._for_logs(lambda: self.make(prepared()))

    def _read_in(self, database: Database) -> StoreKey | None:
        with database.session() as session:
            return self.read(session)

    def _for_logs(self, get: Callable[[], StoreKey | None]) -> StoreKey | None:
        # Another thread may change it meanwhile.
        now, failed_at = self._monotonic(), self._failed_at
        if failed_at is not None and now - failed_at < RETRY_INTERVAL:
            return None
        try:
            key = get()
        except Exception as error:  # noqa: BLE001  a fingerprint fails no caller
            # Once: a store that can only be read would warn at each event.
            if failed_at is None:
                logger.warning(
                    "The key of the fingerprints can neither be read nor made (%s): until then the "
                    "fingerprints in logs and events are made with another key.",
                    type(error).__name__,
                )
            self._failed_at = now
            return None
        self._failed_at = None
        return key


def reseal_key(database: Database, sealer: Sealer) -> None:
    """Seal the key of a store with the first key, if another one sealed it and can open it."""
    with database.session() as session:
        row = session.row(LOAD_KEY, {})
        if row is None or row.key_id == sealer.current().id:
            return
        try:
            sealed = sealer.resealed_key(Sealed(row.sealed, row.key_id))
        except SealError as error:
            logger.warning("%s", error)
            return
        values = {"expected_sealed": row.sealed}
        session.count(UPDATE_KEY, values | {"new_sealed": sealed.text, "new_key_id": sealed.key_id})


def count_older_key(session: Session, sealer: Sealer) -> int:
    """Return 1 if the key of the store is sealed with another key than the first, otherwise 0."""
    row = session.row(LOAD_KEY, {})
    return int(row is not None and row.key_id != sealer.current().id)


def count_unknown_key(session: Session, sealer: Sealer) -> int:
    """Return 1 if the key of the store is sealed with an unknown key, otherwise 0."""
    row = session.row(LOAD_KEY, {})
    return int(row is not None and row.key_id not in sealer.key_ids)
