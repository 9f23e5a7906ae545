"""How a SQL store is opened, looked after and closed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from sqlalchemy import URL, Engine

from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Secret

from .engines import engine_for, forget_in_children
from .failures import operation
from .rotation import count_stale, reseal_stale
from .rows import Reader
from .schema import check_schema, create_schema, has_schema
from .sealing import Key, new_key, sealer_for
from .sql_engine import Database

__all__ = ["SqlBase"]


class SqlBase:
    """A database with the tables of a token store, and the keys to it."""

    _shown = ""

    def __init__(
        self,
        database: str | URL | Engine,
        *,
        keys: Sequence[Key],
        fingerprint_key: Key | None = None,
        journal_retention: timedelta = timedelta(days=7),
        history_retention: timedelta = timedelta(days=400),
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        engine, sealer = engine_for(database), sealer_for(keys, fingerprint_key)
        self._is_ours = not isinstance(database, Engine)
        # No traceback from here on holds a password or a key.
        del database, keys, fingerprint_key
        if isinstance(engine, InvalidInputError):
            raise engine
        if isinstance(sealer, InvalidInputError):
            raise sealer
        # The query of a URL may hold a password, too.
        self._shown = engine.url.set(query={}).render_as_string()
        forget_in_children(engine)
        if not self._is_ours:
            engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._engine, self._database = engine, Database(engine, clock)
        self._sealer, self._reader = sealer, Reader(sealer)
        self._retention = (journal_retention, history_retention)
        self._is_prepared = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown!r})"

    @staticmethod
    def new_key() -> Secret:
        """Return a new random key. Keep what its `reveal()` returns with your passwords."""
        return new_key()

    @operation
    def create_schema(self) -> None:
        """Create the tables that are missing. It may be called often, and by many at once.

        Raises:
            SchemaError: The tables are newer than this version of the library.
            StoreError: The database cannot be used.
        """
        create_schema(self._database)

    @operation
    def rotate_keys(self, *, batch: int = 100) -> int:
        """Seal with the first key what is sealed with one of the others.

        Everything goes on meanwhile: a pair that is replaced at the same moment is left alone. Many
        processes may do it at once.

        Args:
            batch: How many pairs to a transaction.

        Returns:
            How many pairs were sealed anew.

        Raises:
            StoreError: The database cannot be used.
        """
        return reseal_stale(self._ready(), self._sealer, batch)

    @operation
    def count_older_seals(self) -> int:
        """Count the pairs that are not sealed with the first key, in the journal too.

        At 0 the other keys can go, once no process has another key as its first.

        Raises:
            StoreError: The database cannot be used.
        """
        return count_stale(self._ready(), self._sealer)

    def fingerprint(self, text: str) -> str:
        """Return what stands for a text in logs: short, keyed, the same for the same text."""
        return self._sealer.fingerprint(text)

    def close(self) -> None:
        """Close the connections, unless the engine is the application's own."""
        if self._is_ours:
            self._engine.dispose()

    def _ready(self) -> Database:
        # No lock: to look twice does no harm, and a lock may be taken when the process forks.
        if not self._is_prepared:
            if self._is_ours and not has_schema(self._database):
                create_schema(self._database)
            check_schema(self._database)
            self._is_prepared = True
        return self._database
