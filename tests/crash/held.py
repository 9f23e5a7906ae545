"""PostgreSQL held back in the middle of writing a new pair."""

from __future__ import annotations

from typing import Self

import psycopg
from attrs import frozen

from storm.crowd import wait_until

__all__ = ["HeldBack"]

TRAP = """
CREATE FUNCTION wait_for_the_test() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtext(NEW.target_id));
    RETURN NEW;
END $$;
CREATE TRIGGER trap BEFORE INSERT ON blink_oauth_history
FOR EACH ROW WHEN (NEW.event = 'refresh.succeeded') EXECUTE FUNCTION wait_for_the_test();
"""
WAITING = """
SELECT pid FROM pg_locks
WHERE locktype = 'advisory' AND NOT granted AND objid::bigint = hashtext(%s)::bigint & 4294967295
"""


@frozen
class HeldBack:
    """Keeps new pairs of some targets from being committed.

    When a pair is settled, its row is changed already; the line in the history waits.

    Args:
        connection: A connection of its own, in autocommit mode, to a database with the tables.
    """

    connection: psycopg.Connection

    @classmethod
    def at(cls, connection: psycopg.Connection, targets: list[str]) -> Self:
        """Hold back whatever is refreshed at these targets."""
        connection.execute(TRAP)
        for target_id in targets:
            connection.execute("SELECT pg_advisory_lock(hashtext(%s))", [target_id])
        return cls(connection)

    def backend(self, target_id: str) -> int:
        """Wait until a pair is written and not committed; return the server's process."""

        def waiting() -> int | None:
            row = self.connection.execute(WAITING, [target_id]).fetchone()
            return row[0] if row else None

        return wait_until(waiting)

    def give_up(self, target_id: str, backend: int) -> None:
        """Lose the transaction, as when the server's machine dies as well."""
        self.connection.execute("SELECT pg_terminate_backend(%s)", [backend])
        self._end(backend)
        self._let_go(target_id)

    def go_on(self, target_id: str, backend: int) -> None:
        """Let the server commit, and find out that its client is gone."""
        self._let_go(target_id)
        self._end(backend)

    def _let_go(self, target_id: str) -> None:
        self.connection.execute("SELECT pg_advisory_unlock(hashtext(%s))", [target_id])

    def _end(self, backend: int) -> None:
        known = "SELECT pid FROM pg_stat_activity WHERE pid = %s"
        wait_until(lambda: not self.connection.execute(known, [backend]).fetchone())
