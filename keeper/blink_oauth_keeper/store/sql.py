"""A token store in a database: an SQLite file, or PostgreSQL for several machines."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from functools import partial, wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

from attrs import evolve
from sqlalchemy import URL, Engine, Row
from sqlalchemy.exc import SQLAlchemyError

from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Secret, Token
from blink_oauth_keeper.clocks import BootClock, aware
from blink_oauth_keeper.clocks import boot_clock as machine_boot_clock
from blink_oauth_keeper.clocks import monotonic as clock_with_sleep
from blink_oauth_keeper.processes import fork_gate

from . import sql_outbox, sql_statements
from .keys import Key, KeyProvider
from .moving import MovingGrant, is_moved
from .outbox import NewNotice, Notice, OutboxEntry
from .protocol import (
    DueQuery,
    GrantKey,
    HistoryEntry,
    JournalEntry,
    Note,
    Origin,
    Record,
    Settlement,
    State,
    TokenStore,
    is_revoked,
)
from .rules import (
    CLAIMABLE,
    SALVAGEABLE,
    due_order,
    empty_record,
    erased,
    is_among,
    is_journaled,
    is_latest_claim,
    is_same_pair,
    is_unchanged,
    late_origin,
    newest_salvageable,
    renewed,
    require_retentions,
    revoked,
    written_back,
)
from .sealing import Binding, Sealed, Status, new_key, sealer_for
from .sql_clock import bound_ends, bound_ends_of_due, start_clock
from .sql_engine import (
    check_settings,
    check_writable,
    drop_lost_connections,
    engine_for,
    is_conflict,
    operation_on,
    ping_idle_connections,
    prepare_for_forks,
    shown_url,
    store_error_for,
)
from .sql_forgetting import Tombstones, is_tombstone
from .sql_keys import count_older, count_unknown, finish_upgrade, reseal_older
from .sql_moving import begin_move, client_ids, finish_move, receive
from .sql_schema import create_schema, is_upgraded, prepare_schema
from .sql_store_key import KeyRing
from .sql_tables import (
    Change,
    Database,
    Parameters,
    Reader,
    Session,
    binding_of,
    due_params,
    entry_params,
    grant_params,
    history,
    history_entry,
    journal,
    key_of,
    metadata,
    note_params,
    notices,
    pair_params,
    record_of,
    record_params,
    refusal_params,
    sealed_in,
    written_record,
)

__all__ = ["SqlTokenStore", "metadata"]

MAX_TRIES = 10
"""The most runs of a method whose transactions conflict with other transactions."""
PURGE_BATCH = 200
PURGE_PAUSE = 0.02
"""Seconds between two batches of `purge`. SQLite has no queue: a waiting writer polls the lock."""
UNOPENED_PAUSE = 3600.0
"""Seconds before a record that cannot be opened can be claimed again."""

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S")


def operation(method: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R]:
    """Turn database errors of a store's method into `StoreError`.

    If its transaction conflicts with another one, the method runs again.
    """

    @wraps(method)
    def run(store: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        for tries_left in reversed(range(MAX_TRIES)):
            try:
                return method(store, *args, **kwargs)
            except (SQLAlchemyError, OSError) as error:
                if tries_left and is_conflict(error):
                    continue
                store_error = store_error_for(method.__name__, error)
                break
        # Raised outside `except`: a chained exception would show the parameters of the statement.
        raise store_error

    return run


class SqlBase:
    """The database, keys and tables of `SqlTokenStore`."""

    _shown_url = ""

    def __init__(
        self,
        database: str | URL | Path | Engine,
        *,
        keys: Sequence[Key] | KeyProvider,
        fingerprint_key: Key | None = None,
        journal_retention: timedelta = timedelta(days=7),
        history_retention: timedelta = timedelta(days=400),
        clock: Callable[[], datetime] | None = None,
        monotonic: Callable[[], float] = clock_with_sleep,
        sleep: Callable[[float], None] = time.sleep,
        boot_clock: BootClock | None = None,
    ) -> None:
        engine, sealer = engine_for(database), sealer_for(keys, fingerprint_key, monotonic)
        self._owns_engine = not isinstance(database, Engine)
        has_fingerprint_key = fingerprint_key is not None
        # No later traceback contains a password or a key.
        del database, keys, fingerprint_key
        if isinstance(engine, InvalidInputError):
            raise engine
        if isinstance(sealer, InvalidInputError):
            raise sealer
        require_retentions(journal_retention, history_retention)
        self._shown_url = shown_url(engine)
        prepare_for_forks(engine)
        operation = partial(operation_on, engine)
        if self._owns_engine:
            ping_idle_connections(engine, monotonic)
        else:
            engine = engine.execution_options(isolation_level="AUTOCOMMIT")
        drop_lost_connections(engine)
        self._engine = engine
        self._database = Database(
            engine, clock and aware(clock), boot_clock or machine_boot_clock(), operation
        )
        self._sealer, self._reader = sealer, Reader(sealer, self._database)
        self._has_fingerprint_key, self._keys = has_fingerprint_key, KeyRing(sealer, monotonic)
        self._tombstones = Tombstones(self._keys)
        self._retention, self._sleep = (journal_retention, history_retention), sleep
        self._is_prepared = self._is_writable = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._shown_url!r})"

    @staticmethod
    def new_key() -> Secret:
        """Return a new random key. Make one once, and store what its `reveal()` returns.

        It is printed as `Secret(***)`. A store opens only with the keys that sealed its pairs, so
        a program that makes a new key at each start cannot open what it stored before.
        """
        return new_key()

    @operation
    def create_schema(self) -> None:
        """Create the tables, columns and indexes that are missing. Any process may call it.

        Processes of the version before may use the tables meanwhile and afterwards.

        Raises:
            SchemaError: The tables are newer than this version of the library.
            StoreError: The database cannot be used.
        """
        check_settings(self._database)
        create_schema(self._database)

    @operation
    def rotate_keys(self, *, batch: int = 100) -> int:
        """Seal and authenticate with the first key the rows that have one of the other keys.

        The store stays in use meanwhile: a row that changes at the same time is skipped, and a new
        call finds it. Several processes may call it at the same time.

        Args:
            batch: The number of rows per transaction.

        Returns:
            The number of pairs that were sealed again.

        Raises:
            StoreError: The database cannot be used.
        """
        return reseal_older(self._prepared(), self._sealer, batch)

    @operation
    def count_older_seals(self) -> int:
        """Return the number of pairs, journal included, that the first key did not seal.

        At 0 the other keys can be removed, once every process has the same first key.

        Raises:
            StoreError: The database cannot be used.
        """
        return count_older(self._prepared(), self._sealer)

    @operation
    def count_unknown_seals(self) -> int:
        """Return the number of pairs, journal included, that are sealed with an unknown key.

        Raises:
            StoreError: The database cannot be used.
        """
        return count_unknown(self._prepared(), self._sealer)

    @operation
    def client_ids(self) -> Sequence[str]:
        """Return the clients that have records, sorted.

        Raises:
            StoreError: The database cannot be used.
        """
        return client_ids(self._prepared())

    @operation
    def begin_move(self, key: GrantKey) -> MovingGrant | None:
        """Keep every process from refreshing a grant, and return all that is stored of it.

        Nothing is changed while a refresh is in progress. If the move was begun before, the same is
        returned again.

        Returns:
            What `receive` of the other store takes, or None if a refresh is in progress or the
            grant has no record.

        Raises:
            SealError: Its pair or a journal entry cannot be opened. Nothing was changed.
            StoreError: The database cannot be used.
        """
        return begin_move(self._writable(), self._reader, self._sealer, key)

    @operation
    def receive(self, moving: MovingGrant) -> None:
        """Store a grant of another store, unless the stored pair is as new.

        The older of two different pairs goes to the journal as `replaced`. It may be called again.

        Args:
            moving: What `begin_move` of the other store returned.

        Raises:
            SealError: The stored pair cannot be opened. Nothing was changed.
            StoreError: The database cannot be used, or the stored record is itself being moved.
        """
        receive(self._writable(), self._reader, self._sealer, self._tombstones, moving)

    @operation
    def finish_move(self, moving: MovingGrant) -> bool:
        """Delete pair, journal entries and undelivered notices that another store has received.

        Args:
            moving: What `begin_move` returned.

        Returns:
            Whether record and journal were still as `begin_move` returned them; otherwise nothing
            was changed.

        Raises:
            StoreError: The database cannot be used.
        """
        return finish_move(self._writable(), moving)

    @operation
    def needs_upgrade(self) -> bool:
        """Return whether `finish_upgrade` has still to be called for these tables.

        Raises:
            StoreError: The database cannot be used.
        """
        return not is_upgraded(self._prepared())

    @operation
    def finish_upgrade(self, *, batch: int = 100) -> None:
        """Seal and authenticate every row as this version does, and refuse older processes.

        Call it when no process of the version before runs any more: rows that such a process writes
        afterwards are refused. The store stays in use meanwhile. Until then rows of that version
        are accepted, so an attacker with write access can still change state and attempts. If
        it is interrupted, call it again. If there is nothing to do, nothing changes.

        Args:
            batch: The number of rows per transaction.

        Raises:
            SealError: A stored pair is sealed with a key that was not given. Nothing was changed.
            StoreError: The database cannot be used.
        """
        finish_upgrade(self._prepared(), self._sealer, batch)

    def fingerprint(self, text: str) -> str:
        """Return a keyed fingerprint of a text for logs: short, and the same for the same text.

        Its key is that of the store, which is made at the first call. If it can neither be read nor
        made, the key is derived from one of `keys`; nothing is raised.
        """
        key = None if self._has_fingerprint_key else self._keys.for_logs(self._prepared)
        return self._sealer.fingerprint(text, key)

    def close(self) -> None:
        """Close the connections, unless the application made the engine."""
        if self._owns_engine:
            with fork_gate.operation():
                self._engine.dispose()

    def _prepared(self) -> Database:
        # No lock: a second check does no harm, and another thread may hold a lock during a fork.
        if not self._is_prepared:
            check_settings(self._database)
            prepare_schema(self._database, may_add=self._owns_engine)
            self._keys.read_ahead(self._database)
            self._is_prepared = start_clock(self._database)
        return self._database

    def _writable(self) -> Database:
        """Return the database once it can keep the result of a call that follows.

        What stores a result uses `_prepared`: it must not fail for lack of another permission.
        """
        database = self._prepared()
        if not self._is_writable:
            check_writable(database)
            self._is_writable = True
        return database


class SqlTokenStore(SqlBase, TokenStore):
    """Stores sealed tokens in an SQLite file or in PostgreSQL, for any number of processes.

    ```python
    SqlTokenStore("sqlite:///tokens.db", keys=KeyFile("tokens.keys"))
    SqlTokenStore("postgresql+psycopg://app@db.example/app", keys=KeyFile("tokens.keys"))
    ```

    With a URL the store makes its own engine (5 connections), and creates missing tables and
    columns at first use. With an `Engine` of the application it creates nothing by itself: call
    `create_schema()`, or include `metadata` in your migrations.

    With the URL of an SQLite file, a new file is readable for its owner only, and committed changes
    survive a loss of power. Put the file on a local disk.

    On PostgreSQL the store keeps no session state, so a pooler may give each transaction another
    connection, provided that psycopg prepares no statements: with your own engine, set
    `connect_args={"prepare_threshold": None}`. Leave `synchronous_commit` on, and use a synchronous
    standby for failover: if a commit is lost, so is a refresh token. Set `statement_timeout` for
    the role of the store: the store detects a lost connection, but not a server that hangs.

    A forked child opens its own connections, also with an engine of the application. Before a fork,
    idle connections to an SQLite file are closed; if one is in use all the same, the child's store
    raises `StoreError`.

    A row that cannot be opened, or that was changed past the store, does not affect the others:
    `due` and `claim_due` skip it, and a warning is logged. `records` opens no pair; a record whose
    key is missing or that was changed has the error `SealError`.

    Args:
        database: `sqlite:///…` with the path of a file, a `pathlib.Path`, `postgresql+psycopg://…`,
            or an engine for one of them.
        keys: Fernet keys, as `new_key` makes them: the first key seals, all keys open. Or a
            `KeyProvider`, such as `KeyFile`, which a running store asks for keys that are new.
        fingerprint_key: The key of the fingerprints in logs. By default it is a random key that the
            store makes once and keeps sealed, so that the fingerprints of all its processes are the
            same and do not change with `keys`; pass a key to compare those of several stores.
        journal_retention: The age at which `purge` deletes journal entries.
        history_retention: The age at which `purge` deletes history entries.
        clock: Returns the current time, timezone-aware, in place of the database. Only for tests.
        monotonic: Returns seconds of a clock that never goes back.
        sleep: Sleeps some seconds, between two batches of `purge`.
        boot_clock: The clock by which leases and pauses run in an SQLite file; by default that of
            this machine. Only for tests.

    Raises:
        InvalidInputError: The database is not supported, a key is no Fernet key, or the provider
            has no keys.
    """

    @operation
    def load(self, key: GrantKey) -> Record | None:
        with self._prepared().session() as session:
            row = self._tombstones.load(session, key)
            if row:
                bound_ends(session, row)
        return row and self._reader.record(key, row)

    @operation
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        # Only a new consent makes another state claimable, and it changes the generation.
        if seen.token is None or seen.state not in CLAIMABLE:
            return None
        lease = {"expected_attempts": seen.attempts, "new_owner": owner, "ttl": ttl}
        parameters = record_params(seen) | self._lease_mac(seen) | lease
        with self._writable().single_change() as session:
            row = session.row(sql_statements.CLAIM, parameters)
        # Same generation, same pair.
        return row and record_of(seen.key, row, seen.token)

    @operation
    def claim_due(self, query: DueQuery, *, owner: str, ttl: float, limit: int) -> list[Record]:
        statement = sql_statements.lock_due(targets=query.targets is not None)
        claims: list[Record] = []
        while True:
            with self._writable().transaction() as session:
                rows = session.rows(statement, self._due_params(query, limit - len(claims)))
                found = [self._reader.record_if_opened(key_of(row), row) for row in rows]
                opened = [record for record in found if record.token is not None]
                unopened = [record for record in found if record.token is None]
                session.claim(
                    sql_statements.CLAIM_LOCKED,
                    {"client": query.client_id, "new_owner": owner, "ttl": ttl},
                    [grant_params(r.key) | self._lease_mac(r) for r in opened],
                )
                # Otherwise the next call would find them first again, and they cannot be used.
                pause = {"pause": UNOPENED_PAUSE}
                session.each(
                    sql_statements.PAUSE_LOCKED,
                    [grant_params(r.key) | pause | {"new_error": r.error} for r in unopened],
                )
            claims += [
                evolve(
                    record,
                    state=State.REFRESHING,
                    attempts=record.attempts + 1,
                    owner=owner,
                    lease_left=ttl,
                )
                for record in opened
            ]
            if not unopened:
                break
        if len(claims) < limit:
            self._bound_ends_of_due(query)
        return sorted(claims, key=due_order)

    def _bound_ends_of_due(self, query: DueQuery) -> None:
        with self._prepared().session() as session:
            targets = query.targets is not None
            bound_ends_of_due(session, self._due_params(query), targets=targets)

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
        database = self._prepared()
        pair = renewed(claim, token, issued_at=issued_at, idle_until=idle_until, state=state)
        keeps_attempts = state is State.UNCERTAIN
        with database.transaction() if keeps_attempts else database.single_change() as session:
            if keeps_attempts:
                # Another claim may have counted an attempt with the refresh token that stays.
                row = session.row(sql_statements.LOCK, grant_params(claim.key))
                pair = evolve(pair, attempts=max(pair.attempts, row.attempts if row else 0))
            written = self._write(session, sql_statements.WRITE, claim, pair, note)
            if written is not None:
                return Settlement(stored=True, record=written)
        with database.transaction() as session:
            row = self._locked(session, claim.key)
            record = self._reader.record_if_opened(claim.key, row) if row else None
            stored = record is not None and is_same_pair(record.token, token)
            if not stored:
                self._add_to_journal(session, claim, token, late_origin(state))
            row = session.row(sql_statements.LOAD, grant_params(claim.key))
        # The result is stored: a record that cannot be opened does not change that.
        return Settlement(
            stored=stored, record=row and self._reader.record_if_opened(claim.key, row)
        )

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
        release_values = {
            "new_state": state.value,
            "new_attempts": attempts,
            "new_error": error,
            "pause": pause,
            "new_mac": self._mac(claim, state.value, attempts),
        }
        with self._prepared().single_change() as session:
            parameters = record_params(claim) | refusal_params(claim) | release_values
            row = session.change(sql_statements.RELEASE, parameters | note_params(note))
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
        with self._prepared().transaction() as session:
            row = self._locked(session, key)
            # A pair that cannot be opened goes to the journal as it is; the consent replaces it.
            current = empty_record(key, issued_at)
            if row:
                current = self._reader.record_if_opened(key, row)
            if is_same_pair(current.token, token):
                return current
            if row and (replaced := sealed_in(row)):
                binding = binding_of(key, row, Origin.REPLACED)
                if current.token is not None:
                    replaced = self._seal(binding, current.token)
                self._insert_entry(session, binding, replaced)
            pair = renewed(current, token, issued_at=issued_at, idle_until=idle_until)
            pair = evolve(pair, consent=current.consent + 1)
            change = sql_statements.WRITE if row else sql_statements.INSERT
            written = self._write(session, change, current, pair, note)
            assert written is not None
            return written

    @operation
    def write_back(self, known: Record, *, seen: Record | None, note: Note) -> Record | None:
        with self._prepared().transaction() as session:
            row = self._tombstones.lock(session, known.key)
            # Its pair need not be opened: it is that of `seen`.
            current = row and record_of(known.key, row, None)
            if not is_unchanged(current, seen):
                return None
            if row is None or current is None:
                return self._write(session, sql_statements.INSERT, known, written_back(known), note)
            row = self._tombstones.restore_name(session, known.key, row)
            replaced, token = sealed_in(row), seen and seen.token
            if replaced and not (token and is_same_pair(known.token, token)):
                binding = binding_of(known.key, row, Origin.REPLACED)
                self._insert_entry(
                    session, binding, self._seal(binding, token) if token else replaced
                )
            change = sql_statements.WRITE
            return self._write(session, change, current, written_back(known), note)

    @operation
    def mark_revoked(self, key: GrantKey, *, note: Note, forget: bool = False) -> Record | None:
        database = self._prepared()
        if forget:
            # Before the mark: without the key, nothing could be forgotten.
            self._keys.make(database)
        with database.transaction() as session:
            row = self._tombstones.lock(session, key)
            if forget and (row is None or is_tombstone(row)):
                self._tombstones.delete_traces(session, key)
            if row is None:
                return None
            current = self._reader.record(key, row)
            if forget and is_moved(current):
                # A tombstone would not follow the grant into the other store.
                return current
            if is_revoked(current):
                if forget and not is_tombstone(row):
                    self._tombstones.mark(session, key)
                    return evolve(current, forgetting=True)
                return current
            new = revoked(current, forget=forget)
            written = self._write(session, sql_statements.WRITE, current, new, note)
            assert written is not None
            return written

    @operation
    def erase(self, record: Record, *, journaled: Collection[Token], note: Note) -> bool:
        with self._prepared().transaction() as session:
            row = self._tombstones.lock(session, record.key)
            current = row and record_of(record.key, row, None)
            if current is None or not is_revoked(current):
                return False
            if current.generation != record.generation:
                return False
            if current.state is State.FORGOTTEN:
                return True
            if current.state is State.REVOKING:
                self._write(session, sql_statements.WRITE, current, erased(current), note)
            for number, entry in self._entries(session, record.key):
                if is_among(entry.token, journaled):
                    session.count(sql_statements.DELETE_ENTRY, {"entry": number})
            if current.forgetting:
                self._tombstones.replace_by_tombstone(session, record.key)
        return True

    @operation
    def revoking(self, client_id: str, *, limit: int) -> Sequence[Record]:
        with self._prepared().session() as session:
            rows = session.rows(sql_statements.REVOKING, {"client": client_id, "limit": limit})
        # A pair that cannot be opened cannot be revoked at the bank.
        found = ((row, self._reader.record_if_opened(key_of(row), row)) for row in rows)
        return [record for row, record in found if record.token or row.sealed is None]

    @operation
    def journal(self, record: Record, token: Token, *, origin: Origin) -> None:
        with self._prepared().transaction() as session:
            row = self._tombstones.lock(session, record.key)
            if row is not None and is_tombstone(row):
                if origin is Origin.FOREIGN:
                    return
                self._tombstones.restore_name(session, record.key, row)
            self._add_to_journal(session, record, token, origin)

    @operation
    def journal_entries(self, key: GrantKey) -> Sequence[JournalEntry]:
        with self._prepared().session() as session:
            return [entry for _, entry in self._entries(session, key)]

    @operation
    def salvage(self, claim: Record, *, note: Note) -> Record | None:
        with self._prepared().transaction() as session:
            key = claim.key
            row = session.row(sql_statements.LOCK, grant_params(key))
            # Same generation, same pair: it is not opened, its key may have become unknown here.
            if row is None or not is_latest_claim(
                record := evolve(record_of(key, row, claim.token), consent=claim.consent), claim
            ):
                return None
            self._require_keys(session, record)
            entries = self._entries(session, key)
            newest = newest_salvageable([entry for _, entry in reversed(entries)], record)
            if newest is None or record.token is None:
                return None
            number = next(number for number, entry in entries if entry is newest)
            session.count(sql_statements.DELETE_ENTRY, {"entry": number})
            binding = binding_of(key, row, Origin.REFUSED)
            self._insert_entry(session, binding, self._seal(binding, record.token))
            pair = renewed(record, newest.token, issued_at=newest.at, idle_until=record.idle_until)
            pair = evolve(pair, state=State.REFRESHING, attempts=1, owner=record.owner)
            return self._write(session, sql_statements.SALVAGE, claim, pair, note)

    @operation
    def due(self, query: DueQuery, *, limit: int) -> Sequence[Record]:
        statement = sql_statements.due(targets=query.targets is not None)
        with self._prepared().session() as session:
            rows = session.rows(statement, self._due_params(query, limit))
        if len(rows) < limit:
            self._bound_ends_of_due(query)
        found = [self._reader.record_if_opened(key_of(row), row) for row in rows]
        return [record for record in found if record.token is not None]

    @operation
    def unreadable(self, query: DueQuery) -> int:
        targets = query.targets is not None
        parameters = self._due_params(query)
        with self._prepared().session() as session:
            counts = session.rows(sql_statements.unknown_keys(targets=targets), parameters)
            rows = session.rows(sql_statements.unopened(targets=targets), parameters)
        # The sealer asks for an unknown key again.
        unknown: int = sum(row.number for row in counts if self._sealer.key(row.key_id) is None)
        return unknown + sum(not self._reader.can_open(key_of(row), row) for row in rows)

    @operation
    def records(
        self, client_id: str, *, after: GrantKey | None = None, limit: int = 100
    ) -> Sequence[Record]:
        page = grant_params(after) if after else {"target": "", "user": ""}
        with self._prepared().session() as session:
            rows = session.rows(
                sql_statements.RECORDS, page | {"client": client_id, "limit": limit}
            )
        return [self._reader.listed(key_of(row), row) for row in rows]

    @operation
    def add_note(self, key: GrantKey, *, note: Note) -> None:
        with self._writable().transaction() as session:
            row = self._tombstones.lock(session, key)
            if row is not None and is_tombstone(row):
                self._tombstones.set_time(session, key, row)
            else:
                session.count(sql_statements.INSERT_NOTE, grant_params(key) | note_params(note))

    @operation
    def history(self, key: GrantKey, *, limit: int = 100) -> Sequence[HistoryEntry]:
        with self._prepared().session() as session:
            rows = session.rows(sql_statements.HISTORY, grant_params(key) | {"limit": limit})
        return [history_entry(row) for row in rows]

    @operation
    def add_notice(self, seen: Record, notice: NewNotice) -> bool:
        return sql_outbox.add_notice(self._prepared(), seen, notice)

    @operation
    def add_certificate_notice(
        self, client_id: str, certificate: str, stage: int, notice: NewNotice
    ) -> bool:
        database = self._prepared()
        return sql_outbox.add_certificate_notice(database, client_id, certificate, stage, notice)

    @operation
    def claim_notices(self, client_id: str, *, limit: int, ttl: float) -> Sequence[Notice]:
        return sql_outbox.claim_notices(self._prepared(), client_id, limit, ttl)

    @operation
    def notice_delivered(self, notice: Notice) -> None:
        sql_outbox.notice_delivered(self._prepared(), notice)

    @operation
    def notice_failed(self, notice: Notice, *, pause: float | None, counts: bool = True) -> None:
        sql_outbox.notice_failed(self._prepared(), notice, pause, counts=counts)

    @operation
    def retry_notices(self, client_id: str) -> int:
        return sql_outbox.retry_notices(self._prepared(), client_id)

    @operation
    def notices(self, client_id: str, *, limit: int = 100) -> Sequence[OutboxEntry]:
        return sql_outbox.undelivered(self._prepared(), client_id, limit)

    @operation
    def purge(self) -> int:
        deleted = 0
        of_journal, of_history = self._retention
        retentions = {journal: of_journal, history: of_history, notices: of_history}
        for table, retention in retentions.items():
            selection = {"minus_retention": -retention.total_seconds(), "limit": PURGE_BATCH}
            while True:
                with self._prepared().session() as session:
                    rows = session.rows(sql_statements.SELECT_OLD[table], selection)
                    # In the same order in every process, so that no two wait for each other.
                    ids = {"ids": sorted(row.id for row in rows)}
                    deleted += session.count(sql_statements.DELETE_ROWS[table], ids) if rows else 0
                if len(rows) < PURGE_BATCH:
                    break
                self._sleep(PURGE_PAUSE)
        return deleted

    def _locked(self, session: Session, key: GrantKey) -> Row[Any] | None:
        """Return the row of a grant, locked; a tombstone becomes a row to be forgotten again."""
        row = self._tombstones.lock(session, key)
        return row and self._tombstones.restore_name(session, key, row)

    def _write(
        self, session: Session, change: Change, seen: Record, new: Record, note: Note
    ) -> Record | None:
        """Replace a record that is still as it was read; return the new record, or None."""
        sealed = self._sealer.seal_record(new, strict=self._database.strict)
        parameters = record_params(seen) | pair_params(new, sealed) | note_params(note)
        mac = self._mac(new, str(parameters["new_state"]), new.attempts)
        row = session.change(change, parameters | {"new_mac": mac if sealed else None})
        return row and written_record(new, row)

    def _mac(self, record: Record, state: str, attempts: int) -> str:
        """Return the MAC of a record's row with this state and these attempts."""
        binding = Binding(record.key, record.generation, record.consent)
        return self._sealer.mac(binding, Status(state, attempts))

    def _lease_mac(self, seen: Record) -> Parameters:
        return {"new_mac": self._mac(seen, State.REFRESHING.value, seen.attempts + 1)}

    def _due_params(self, query: DueQuery, limit: int = 0) -> Parameters:
        strict = self._prepared().strict
        return due_params(query, self._sealer.key_ids, limit, strict=strict)

    def _seal(self, binding: Binding, token: Token) -> Sealed:
        return self._sealer.seal(binding, token, strict=self._database.strict)

    def _entries(self, session: Session, key: GrantKey) -> list[tuple[int, JournalEntry]]:
        """Return the row ids and journal entries of a grant, the newest first."""
        rows = session.rows(sql_statements.JOURNAL_ENTRIES, grant_params(key))
        read = ((row.id, self._reader.entry_if_opened(key, row)) for row in rows)
        return [(number, entry) for number, entry in read if entry]

    def _require_keys(self, session: Session, record: Record) -> None:
        # A pair that could be salvaged with a key that is missing here is not passed over.
        for row in session.rows(sql_statements.JOURNAL_ENTRIES, grant_params(record.key)):
            if row.consent == record.consent and row.origin in SALVAGEABLE:
                self._sealer.key_of(binding_of(record.key, row), Sealed(row.sealed, row.key_id))

    def _add_to_journal(
        self, session: Session, record: Record, token: Token, origin: Origin
    ) -> None:
        """Add a pair to the journal under the record's next generation, unless it is there."""
        # Otherwise a second copy could be salvaged after the first was refused.
        entries = [entry for _, entry in self._entries(session, record.key)]
        if not is_journaled(token, origin, entries):
            binding = Binding(record.key, record.generation + 1, record.consent, origin)
            self._insert_entry(session, binding, self._seal(binding, token))

    def _insert_entry(self, session: Session, binding: Binding, sealed: Sealed) -> None:
        session.count(sql_statements.INSERT_ENTRY, entry_params(binding, sealed))
