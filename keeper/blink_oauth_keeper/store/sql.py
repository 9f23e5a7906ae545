"""Tokens kept in a database: an SQLite file, or PostgreSQL for several machines."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from blink_oauth.tokens import Token

from . import archive
from . import sql_statements as statements
from .failures import operation
from .opening import SqlBase
from .protocol import TokenStore
from .records import (
    Due,
    GrantKey,
    HistoryEntry,
    JournalEntry,
    Note,
    Origin,
    Record,
    Settlement,
    State,
    state_before,
)
from .rows import history_entry, of_due, of_grant, of_note, of_pair, of_seen, record_of
from .rules import renewed, urgency
from .sql_tables import metadata
from .sql_transactions import entries, keep, put, revoke, salvage, supersede

__all__ = ["SqlTokenStore", "metadata"]

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
            row = session.row(statements.LOAD, of_grant(key))
        return row and self._reader.record(row)

    @operation
    def claim(self, seen: Record, *, owner: str, ttl: float) -> Record | None:
        if seen.token is None:
            return None
        lease = {"seen_attempts": seen.attempts, "new_owner": owner, "ttl": ttl}
        with self._ready().session() as session:
            row = session.row(statements.CLAIM, of_seen(seen) | lease)
        # The generation is the same, so the pair is.
        return row and record_of(row, seen.token)

    @operation
    def claim_due(self, due: Due, *, owner: str, ttl: float, limit: int) -> list[Record]:
        statement = statements.claim_due(targets=due.targets is not None)
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
                session.row(statements.RELEASE, of_seen(claim) | outcome)

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
            row = session.change(statements.WRITE, parameters)
            if row is not None:
                return Settlement(stored=True, record=record_of(row, pair.token))
        with self._ready().transaction() as session:
            stored = supersede(session, self._reader, claim, token)
            now = session.row(statements.LOAD, of_grant(claim.key))
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
            row = session.change(statements.RELEASE, of_seen(claim) | outcome | of_note(note))
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
            if not session.count(statements.ERASE, seen):
                return False
            session.count(archive.FORGET, seen | {"seen_consent": record.consent})
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
        statement = statements.due(targets=due.targets is not None)
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
            rows = session.rows(statements.RECORDS, page | {"client": client_id, "limit": limit})
        return [self._reader.record_if_readable(row) for row in rows]

    @operation
    def history(self, key: GrantKey, *, limit: int = 100) -> Sequence[HistoryEntry]:
        with self._ready().session() as session:
            rows = session.rows(archive.HISTORY, of_grant(key) | {"limit": limit})
        return [history_entry(row) for row in rows]

    @operation
    def purge(self) -> int:
        with self._ready().transaction() as session:
            return sum(
                session.count(statement, {"minus_retention": -retention.total_seconds()})
                for statement, retention in zip(archive.PURGE, self._retention, strict=True)
            )
