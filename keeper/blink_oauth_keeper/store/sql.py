"""Tokens kept in a database: an SQLite file, or PostgreSQL for several machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from attrs import evolve
from sqlalchemy import URL, Engine
from sqlalchemy.exc import SQLAlchemyError

from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Secret, Token
from blink_oauth_keeper.processes import reset_after_fork

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
from .rules import (
    due_order,
    empty_record,
    is_latest_claim,
    is_same_pair,
    newest_salvageable,
    renewed,
    revoked,
)
from .sealing import Key, Place, new_key, sealer_for
from .sql_engine import (
    check_schema,
    create_schema,
    engine_for,
    explain,
    forget_connections,
    has_schema,
    is_conflict,
)
from .sql_keys import count_stale, reseal_stale
from .sql_tables import (
    Change,
    Database,
    Reader,
    Session,
    history_entry,
    key_of,
    metadata,
    of_due,
    of_entry,
    of_grant,
    of_note,
    of_pair,
    of_seen,
    place_of,
    record_of,
    sealed_in,
)

__all__ = ["SqlTokenStore", "metadata"]

ATTEMPTS = 10
UNREADABLE_PAUSE = 3600.0

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def operation(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Let a method of a store raise nothing but `StoreError` where its database fails.

    Where the database asks for it, because others were at the same rows, the method runs again.
    """

    @wraps(method)
    def run(store: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for left in reversed(range(ATTEMPTS)):
            try:
                return method(store, *args, **kwargs)
            except (SQLAlchemyError, OSError) as error:
                if left and is_conflict(error):
                    continue
                problem = explain(method.__name__, error)
                break
        # Raised out here, where no context holds the parameters of the statement.
        raise problem

    return run


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
        reset_after_fork(engine, forget_connections)
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
        return row and self._reader.record(key, row)

    @operation
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        if seen.token is None:
            return None
        lease = {"seen_attempts": seen.attempts, "new_owner": owner, "ttl": ttl}
        with self._ready().session() as session:
            row = session.row(sql_statements.CLAIM, of_seen(seen) | lease)
        # The generation is the same, so the pair is.
        return row and record_of(seen.key, row, seen.token)

    @operation
    def claim_due(self, due: Due, *, owner: str, ttl: float, limit: int) -> list[Record]:
        statement = sql_statements.claim_due(targets=due.targets is not None)
        lease = {"new_owner": owner, "ttl": ttl}
        claims: list[Record] = []
        while True:
            wanted = of_due(due, self._sealer.key_ids, limit - len(claims))
            with self._ready().session() as session:
                rows = session.rows(statement, wanted | lease)
            found = [self._reader.record_if_readable(key_of(row), row) for row in rows]
            claims += [claim for claim in found if claim.token is not None]
            unreadable = [claim for claim in found if claim.token is None]
            if not unreadable:
                return sorted(claims, key=due_order)
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
                session.row(sql_statements.RELEASE.alone, of_seen(claim) | outcome)

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
        database = self._ready()
        pair = renewed(claim, token, issued_at=issued_at, idle_until=idle_until, state=state)
        sealed = self._sealer.seal_record(pair)
        with database.one_change() as session:
            parameters = of_seen(claim) | of_pair(pair, sealed) | of_note(note)
            row = session.change(sql_statements.WRITE, parameters)
            if row is not None:
                return Settlement(stored=True, record=record_of(claim.key, row, pair.token))
        with database.transaction() as session:
            row = session.row(sql_statements.LOCK, of_grant(claim.key))
            record = self._reader.record_if_readable(claim.key, row) if row else None
            stored = record is not None and is_same_pair(record.token, token)
            if not stored:
                self._keep(session, claim, token, Origin.SUPERSEDED)
            now = session.row(sql_statements.LOAD, of_grant(claim.key))
        return Settlement(stored=stored, record=now and self._reader.record(claim.key, now))

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
            row = session.row(sql_statements.LOCK, of_grant(key))
            # What cannot be opened is kept as it is: a new consent is just what helps then.
            known = empty_record(key, issued_at)
            if row:
                known = self._reader.record_if_readable(key, row)
            if is_same_pair(known.token, token):
                return known
            if row and (replaced := sealed_in(row)):
                entry = of_entry(place_of(key, row), replaced, Origin.REPLACED)
                session.count(sql_statements.KEEP, entry)
            pair = renewed(known, token, issued_at=issued_at, idle_until=idle_until)
            pair = evolve(pair, consent=known.consent + 1)
            change = sql_statements.WRITE if row else sql_statements.INSERT
            written = self._write(session, change, known, pair, note)
            assert written is not None
            return written

    @operation
    def revoke(self, key: GrantKey, *, note: Note) -> Record | None:
        with self._ready().transaction() as session:
            row = session.row(sql_statements.LOCK, of_grant(key))
            if row is None:
                return None
            known = self._reader.record(key, row)
            if known.state is State.REVOKED:
                return known
            written = self._write(session, sql_statements.WRITE, known, revoked(known), note)
            assert written is not None
            return written

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
            session.row(sql_statements.LOCK, of_grant(record.key))
            self._keep(session, record, token, origin)

    @operation
    def journal_entries(self, key: GrantKey) -> Sequence[JournalEntry]:
        with self._ready().session() as session:
            return [entry for _, entry in self._entries(session, key)]

    @operation
    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        with self._ready().transaction() as session:
            key = claim.key
            row = session.row(sql_statements.LOCK, of_grant(key))
            if row is None or not is_latest_claim(record := self._reader.record(key, row), claim):
                return None
            kept = self._entries(session, key)
            newest = newest_salvageable([entry for _, entry in reversed(kept)], record)
            refused = sealed_in(row)
            if newest is None or refused is None:
                return None
            number = next(number for number, entry in kept if entry is newest)
            session.count(sql_statements.TAKE, {"entry": number})
            entry = of_entry(place_of(key, row), refused, Origin.REFUSED)
            session.count(sql_statements.KEEP, entry)
            pair = renewed(record, newest.token, issued_at=newest.at, idle_until=record.idle_until)
            pair = evolve(pair, state=State.REFRESHING, attempts=1, owner=record.owner)
            return self._write(session, sql_statements.SALVAGE, claim, pair, note)

    @operation
    def due(self, due: Due, *, limit: int) -> Sequence[Record]:
        statement = sql_statements.due(targets=due.targets is not None)
        with self._ready().session() as session:
            rows = session.rows(statement, of_due(due, self._sealer.key_ids, limit))
        found = [self._reader.record_if_readable(key_of(row), row) for row in rows]
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
        return [self._reader.record_if_readable(key_of(row), row) for row in rows]

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

    def _write(
        self, session: Session, change: Change, seen: Record, pair: Record, note: Note
    ) -> Record | None:
        """Write a record as it is to be, if it is still as it was seen; return it as it is now."""
        sealed = self._sealer.seal_record(pair)
        row = session.change(change, of_seen(seen) | of_pair(pair, sealed) | of_note(note))
        return row and record_of(pair.key, row, pair.token)

    def _entries(self, session: Session, key: GrantKey) -> list[tuple[int, JournalEntry]]:
        """Return what the journal holds of a grant, the newest first, with the rows' numbers."""
        rows = session.rows(sql_statements.ENTRIES, of_grant(key))
        read = ((row.id, self._reader.entry_if_readable(key, row)) for row in rows)
        return [(number, entry) for number, entry in read if entry]

    def _keep(self, session: Session, record: Record, token: Token, origin: Origin) -> None:
        """Add a pair to the journal under the record's next generation, unless it is there."""
        # A second copy could be salvaged after the first was refused.
        known = [entry.token for _, entry in self._entries(session, record.key)]
        if not any(is_same_pair(other, token) for other in known):
            place = Place(record.key, record.generation + 1, record.consent)
            entry = of_entry(place, self._sealer.seal(place, token), origin)
            session.count(sql_statements.KEEP, entry)
