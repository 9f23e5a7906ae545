"""Tokens kept in a database: an SQLite file, or PostgreSQL for several machines."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import URL, Engine, Row, Table, and_, bindparam, func, select, tuple_, update

from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Secret, Token
from blink_oauth_keeper.errors import SealError
from blink_oauth_keeper.processes import renew_after_fork

from . import sql_statements
from .protocol import (
    Due,
    GrantKey,
    HistoryEntry,
    JournalEntry,
    Note,
    Origin,
    Record,
    Settlement,
    State,
    TokenStore,
    state_before,
)
from .rules import renewed, urgency
from .sealing import Key, Sealed, Sealer, new_key, sealer_for
from .sql_engine import (
    Database,
    check_schema,
    create_schema,
    engine_for,
    forget_connections,
    has_schema,
    operation,
)
from .sql_tables import (
    Reader,
    grants,
    history_entry,
    journal,
    metadata,
    of_due,
    of_grant,
    of_note,
    of_pair,
    of_seen,
    place_of,
    record_of,
    sealed_in,
)
from .sql_transactions import entries, keep, put, revoke, salvage, supersede

__all__ = ["SqlTokenStore", "metadata"]

logger = logging.getLogger("blink_oauth_keeper.store")

START: dict[Table, tuple[object, ...]] = {grants: ("", "", ""), journal: (0,)}
"""What sorts before all primary keys of a table."""


def _names(table: Table) -> list[str]:
    return [column.name for column in table.primary_key]


STALE = {
    table: select(table)
    .where(
        table.c.key_id.in_(bindparam("older_keys", expanding=True)),
        tuple_(*table.primary_key)
        > tuple_(*(bindparam(f"after_{c.name}", type_=c.type) for c in table.primary_key)),
    )
    .order_by(*table.primary_key)
    .limit(bindparam("limit"))
    for table in START
}
RESEAL = {
    table: update(table)
    .where(
        and_(*(column == bindparam(f"the_{column.name}") for column in table.primary_key)),
        table.c.generation == bindparam("seen"),
        table.c.key_id == bindparam("older_key"),
    )
    .values(sealed=bindparam("new_sealed"), key_id=bindparam("new_key_id"))
    for table in START
}
COUNT = {
    table: select(func.count()).select_from(table).where(table.c.key_id != bindparam("first_key"))
    for table in START
}


def count_stale(database: Database, sealer: Sealer) -> int:
    """Count the pairs that are sealed with another key than the first."""
    first = {"first_key": sealer.key_ids[0]}
    with database.session() as session:
        return sum(row[0] for count in COUNT.values() for row in session.rows(count, first))


def reseal_stale(database: Database, sealer: Sealer, batch: int) -> int:
    """Seal with the first key what is sealed with one of the others, and count it.

    A pair that somebody replaces meanwhile is left alone.
    """
    done = 0
    for table in START:
        for rows in _stale(database, sealer, table, batch):
            fresh = [(row, sealed) for row in rows if (sealed := _resealed(sealer, row))]
            with database.transaction() as session:
                done += sum(
                    session.count(RESEAL[table], _reseal(table, row, sealed))
                    for row, sealed in fresh
                )
    return done


def _stale(
    database: Database, sealer: Sealer, table: Table, batch: int
) -> Iterator[list[Row[Any]]]:
    after = START[table]
    while True:
        place = {f"after_{name}": value for name, value in zip(_names(table), after, strict=True)}
        wanted = {"older_keys": sealer.key_ids[1:], "limit": batch}
        with database.session() as session:
            rows = list(session.rows(STALE[table], place | wanted))
        if not rows:
            return
        yield rows
        after = tuple(getattr(rows[-1], name) for name in _names(table))


def _resealed(sealer: Sealer, row: Row[Any]) -> Sealed | None:
    sealed, place = sealed_in(row), place_of(row)
    try:
        return sealed and sealer.seal(place, sealer.open(place, sealed))
    except SealError as error:
        logger.warning("%s", error)
        return None


def _reseal(table: Table, row: Row[Any], sealed: Sealed) -> dict[str, object]:
    return {f"the_{name}": getattr(row, name) for name in _names(table)} | {
        "seen": row.generation,
        "older_key": row.key_id,
        "new_sealed": sealed.text,
        "new_key_id": sealed.key_id,
    }


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
        renew_after_fork(engine, forget_connections)
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


UNREADABLE_PAUSE = 3600.0


class SqlTokenStore(SqlBase, TokenStore):
    """Keep tokens in an SQLite file or in PostgreSQL, sealed, for any number of processes.

    ```python
    SqlTokenStore("sqlite:///tokens.db", keys=[key])
    SqlTokenStore("postgresql+psycopg://app@db.example/app", keys=[key])
    ```

    With a URL the store makes its engine (5 connections), and the tables when it is first used and
    they are missing. With the application's own `Engine` it changes nothing by itself: call
    `create_schema()`, or include `metadata` in your migrations.

    An SQLite file is made readable for its owner alone, and written so that what was committed
    survives a loss of power. It belongs on a local disk.

    On PostgreSQL the store keeps nothing in a session, so a pooler may give each transaction
    another connection, provided that psycopg prepares no statements: with an engine of your own,
    set `connect_args={"prepare_threshold": None}` there. Leave `synchronous_commit` on, and give a
    server that fails over a synchronous standby: a commit that is lost takes a refresh token with
    it. Set `statement_timeout` for the role that the store logs in with: whether the server is
    gone the store notices itself, but not that it hangs.

    A forked child opens connections of its own. So it does with the application's engine.

    Where one row cannot be opened, the others still can: `records` shows it without a token and
    with the error `SealError`, `due` and `claim_due` leave it out, and a warning is logged.

    Args:
        database: `sqlite:///…` with the path of a file, `postgresql+psycopg://…`, or an engine for
            one of them.
        keys: Fernet keys, as `new_key` makes them. The first seals, all open.
        fingerprint_key: The key of the fingerprints in logs. By default it is made from the last of
            `keys`, so fingerprints change when that key is dropped; give one of your own if logs
            of years are to be compared.
        journal_retention: The age at which `purge` deletes entries of the journal.
        history_retention: The age at which `purge` deletes lines of the history.
        clock: For tests alone: returns the present moment, aware, in place of the database.

    Raises:
        InvalidInputError: The database is none that can be used, or a key is no Fernet key.
    """

    @operation
    def load(self, key: GrantKey) -> Record | None:
        with self._ready().session() as session:
            row = session.row(sql_statements.LOAD, of_grant(key))
        return row and self._reader.record(row)

    @operation
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        if seen.token is None:
            return None
        lease = {"seen_attempts": seen.attempts, "new_owner": owner, "ttl": ttl}
        with self._ready().session() as session:
            row = session.row(sql_statements.CLAIM, of_seen(seen) | lease)
        # The generation is the same, so the pair is.
        return row and record_of(row, seen.token)

    @operation
    def claim_due(self, due: Due, *, owner: str, ttl: float, limit: int) -> list[Record]:
        statement = sql_statements.claim_due(targets=due.targets is not None)
        lease = {"new_owner": owner, "ttl": ttl}
        claims: list[Record] = []
        while True:
            wanted = of_due(due, self._sealer.key_ids, limit - len(claims))
            with self._ready().session() as session:
                rows = session.rows(statement, wanted | lease)
            found = [self._reader.record_if_readable(row) for row in rows]
            claims += [claim for claim in found if claim.token is not None]
            unreadable = [claim for claim in found if claim.token is None]
            if not unreadable:
                return sorted(claims, key=urgency)
            self._put_off(unreadable)

    def _put_off(self, claims: Sequence[Record]) -> None:
        # Nobody can use them, and being the first that are due they must not be in the way.
        with self._ready().session() as session:
            for claim in claims:
                outcome = {
                    "new_state": state_before(claim).value,
                    "new_attempts": claim.attempts - 1,
                    "new_error": claim.error,
                    "pause": UNREADABLE_PAUSE,
                    "call": None,
                }
                session.row(sql_statements.RELEASE, of_seen(claim) | outcome)

    @operation
    def settle(
        self,
        claim: Record,
        token: Token,
        *,
        issued_at: datetime,
        idle_until: datetime | None,
        note: Note,
        state: State = State.ACTIVE,
    ) -> Settlement:
        pair = renewed(claim, token, issued_at=issued_at, idle_until=idle_until, state=state)
        sealed = self._reader.seal(pair, token)
        with self._ready().one_change() as session:
            parameters = of_seen(claim) | of_pair(pair, sealed) | of_note(note)
            row = session.change(sql_statements.WRITE, parameters)
            if row is not None:
                return Settlement(stored=True, record=record_of(row, pair.token))
        with self._ready().transaction() as session:
            stored = supersede(session, self._reader, claim, token)
            now = session.row(sql_statements.LOAD, of_grant(claim.key))
        return Settlement(stored=stored, record=now and self._reader.record(now))

    @operation
    def release(
        self,
        claim: Record,
        *,
        state: State,
        attempts: int,
        pause: float,
        error: str | None,
        note: Note,
    ) -> bool:
        outcome = {
            "new_state": state.value,
            "new_attempts": attempts,
            "new_error": error,
            "pause": pause,
        }
        with self._ready().one_change() as session:
            row = session.change(sql_statements.RELEASE, of_seen(claim) | outcome | of_note(note))
        return row is not None

    @operation
    def put(
        self,
        key: GrantKey,
        token: Token,
        *,
        issued_at: datetime,
        idle_until: datetime | None,
        note: Note,
    ) -> Record:
        with self._ready().transaction() as session:
            return put(
                session,
                self._reader,
                key,
                token,
                issued_at=issued_at,
                idle_until=idle_until,
                note=note,
            )

    @operation
    def revoke(self, key: GrantKey, *, note: Note) -> Record | None:
        with self._ready().transaction() as session:
            return revoke(session, self._reader, key, note)

    @operation
    def erase(self, record: Record) -> bool:
        seen = of_seen(record)
        with self._ready().transaction() as session:
            if not session.count(sql_statements.ERASE, seen):
                return False
            session.count(sql_statements.FORGET, seen | {"seen_consent": record.consent})
        return True

    @operation
    def journal(self, record: Record, token: Token, *, origin: Origin) -> None:
        with self._ready().transaction() as session:
            keep(session, self._reader, record, token, origin)

    @operation
    def journal_entries(self, key: GrantKey) -> Sequence[JournalEntry]:
        with self._ready().session() as session:
            return [entry for _, entry in entries(session, self._reader, key)]

    @operation
    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        with self._ready().transaction() as session:
            return salvage(session, self._reader, claim, note)

    @operation
    def due(self, due: Due, *, limit: int) -> Sequence[Record]:
        statement = sql_statements.due(targets=due.targets is not None)
        with self._ready().session() as session:
            rows = session.rows(statement, of_due(due, self._sealer.key_ids, limit))
        found = map(self._reader.record_if_readable, rows)
        return [record for record in found if record.token is not None]

    @operation
    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        page = of_grant(after) if after else {"target": "", "user": ""}
        with self._ready().session() as session:
            rows = session.rows(
                sql_statements.RECORDS, page | {"client": client_id, "limit": limit}
            )
        return [self._reader.record_if_readable(row) for row in rows]

    @operation
    def history(self, key: GrantKey, *, limit: int = 100) -> Sequence[HistoryEntry]:
        with self._ready().session() as session:
            rows = session.rows(sql_statements.HISTORY, of_grant(key) | {"limit": limit})
        return [history_entry(row) for row in rows]

    @operation
    def purge(self) -> int:
        with self._ready().transaction() as session:
            return sum(
                session.count(statement, {"minus_retention": -retention.total_seconds()})
                for statement, retention in zip(sql_statements.PURGE, self._retention, strict=True)
            )
