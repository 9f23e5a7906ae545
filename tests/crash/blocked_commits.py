"""PostgreSQL, blocked in the transaction that stores a new pair."""

from __future__ import annotations

from typing import Self

import psycopg
from attrs import frozen

from storm.callers import wait_until

__all__ = ["BlockedCommits"]

TRIGGER = """
CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext(NEW.target_id));
    RETURN NEW;
END $$;
CREATE TRIGGER wait_for_the_test BEFORE INSERT ON blink_oauth_history
FOR EACH ROW WHEN (NEW.event = 'refresh.succeeded') EXECUTE FUNCTION wait_for_the_test();
"""
WAITING_BACKEND = """
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND NOT granted AND objid::bigint = hashtext(%s)::bigint & 4294967295
"""


@frozen
class BlockedCommits:
    """Blocks the commits of new pairs at some targets.

    The transaction has changed the row of the grant; its insert into the history waits for a lock.

    Args:
        connection: A separate connection to the database, in autocommit mode.
    """

    connection: psycopg.Connection

    @classmethod
    def at(cls, connection: psycopg.Connection, targets: list[str]) -> Self:
        """Block the commits of refreshes at these targets."""
        connection.execute(TRIGGER)
        for target_id in targets:
            connection.execute("SELECT pg_advisory_lock(hashtext(%s))", [target_id])
        return cls(connection)

    def backend(self, target_id: str) -> int:
        """Wait until a pair is written and not committed; return the id of the server process."""

        def waiting() -> int | None:
            row = self.connection.execute(WAITING_BACKEND, [target_id]).fetchone()
            return row[0] if row else None

        return wait_until(waiting)

    def roll_back(self, target_id: str, backend: int) -> None:
        """End the server process, so that the transaction is rolled back."""
        self.connection.execute("SELECT pg_terminate_backend(%s)", [backend])
        self._wait_for_end(backend)
        self._unlock(target_id)

    def commit(self, target_id: str, backend: int) -> None:
        """Let the server commit; it notices afterwards that its client is killed."""
        self._unlock(target_id)
        self._wait_for_end(backend)

    def _unlock(self, target_id: str) -> None:
        self.connection.execute("SELECT pg_advisory_unlock(hashtext(%s))", [target_id])

    def _wait_for_end(self, backend: int) -> None:
        query = "SELECT pid FROM pg_stat_activity WHERE pid = %s"
        wait_until(lambda: not self.connection.execute(query, [backend]).fetchone())
