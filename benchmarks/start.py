"""The cost of starting, as ratios within one run. Each subject runs in a new interpreter each time.

* the import of values and errors, and the import of the client, each compared with `import httpx`
* the import of the keeper with its SQL store, compared with `import httpx, sqlalchemy`
* the whole process of `blink-oauth --help`, compared with `python -c "import click"`
* the first token: from the start of the process until it has made a client with its certificate and
  read a fresh token from an SQLite store (`first_token_blink.py`), compared with Authlib, the same
  mutual TLS and a hand-written cache in SQLite (`first_token_authlib.py`)

Left out: compiling the sources to bytecode, which happens once per installation; cold disk caches;
the end of the process after the first token. httpx loads click and rich where they are installed,
as they are here, on both sides. The cache used with Authlib neither seals its tokens nor shares
them between processes, and its certificate is not checked.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from time import perf_counter

from benchmarks.rounds import Figure, Limit, in_rounds, medians_in_turn, ratio, report

from blink_oauth import Grant, Token
from blink_oauth_keeper import GrantKey, Note, SqlTokenStore
from blink_oauth_testing.sandbox.certificates import shared_authority

TURNS = 9
KEY = GrantKey("CIDX0000000002", Grant("IIDX00001", "u-4711"))
VALUES = "from blink_oauth import BlinkError, Grant, Settings, Token"
CLIENT = "from blink_oauth import BlinkOAuth"
KEEPER = "from blink_oauth_keeper import SqlTokenStore, TokenManager"
HTTPX, SQLALCHEMY = "import httpx", "import httpx, sqlalchemy"
HELP, CLICK = "blink-oauth --help", 'python -c "import click"'
BLINK, AUTHLIB = "first token with blink-oauth", "first token with Authlib"
LIMITS = {
    (VALUES, HTTPX): Limit(1.0),
    (CLIENT, HTTPX): Limit(1.7, proposed=True),
    (KEEPER, SQLALCHEMY): Limit(1.3, proposed=True),
    (HELP, CLICK): Limit(2.5, proposed=True),
    (BLINK, AUTHLIB): Limit(1.8),
}


class Interpreters:
    """Runs new interpreters that share a bytecode cache in a folder.

    Args:
        bytecode: The folder; it is used even if the environment disables writing bytecode.
    """

    def __init__(self, bytecode: Path) -> None:
        inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
        self._environment = inherited | {"PYTHONPYCACHEPREFIX": str(bytecode)}

    def until_printed(self, *arguments: str) -> float:
        """Return the seconds from the start of a process until it prints `True`."""
        begin = perf_counter()
        with self._started(*arguments) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            elapsed = perf_counter() - begin
        if line != "True\n" or process.returncode:
            raise SystemExit(f"{arguments} failed")
        return elapsed

    def until_ended(self, *arguments: str) -> float:
        """Return the seconds of a whole process."""
        begin = perf_counter()
        with self._started(*arguments) as process:
            process.communicate()
        if process.returncode:
            raise SystemExit(f"{arguments} failed")
        return perf_counter() - begin

    def for_statement(self, statement: str) -> float:
        """Return the seconds of a statement, without the start of the interpreter."""
        code = f"import time; t = time.perf_counter(); {statement}; print(time.perf_counter() - t)"
        with self._started("-c", code) as process:
            out, _ = process.communicate()
        return float(out)

    def _started(self, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", *arguments]
        return subprocess.Popen(command, env=self._environment, stdout=subprocess.PIPE, text=True)


def prepare(folder: Path) -> None:
    """Write the certificate, and a fresh token in the storage of each side."""
    authority = shared_authority()
    (folder / "ca.pem").write_bytes(authority.root_pem)
    authority.issue_client(KEY.client_id).save(folder, "client")
    key = SqlTokenStore.new_key()
    (folder / "key").write_text(key.reveal())
    now = datetime.now(UTC)
    access_token, refresh_token = "fake-access-token", "fake-refresh-token"
    token = Token(
        access_token=access_token,
        refresh_token=refresh_token,
        token_type="bearer",  # noqa: S106
        expires_at=now + timedelta(days=1),
    )
    store = SqlTokenStore(f"sqlite:///{folder / 'tokens.db'}", keys=[key])
    store.put(
        KEY, token, issued_at=now, idle_until=now + timedelta(days=30), note=Note(event="bench")
    )
    store.close()
    cached = {
        "access_token": access_token,
        "refresh_token": refresh_token,
        "token_type": "bearer",
        "expires_at": int(time.time()) + 86_400,
    }
    grant = KEY.grant
    with closing(sqlite3.connect(folder / "cache.db")) as cache, cache:
        cache.execute(
            "CREATE TABLE tokens "
            "(target_id TEXT, username TEXT, token TEXT, PRIMARY KEY (target_id, username))"
        )
        row = (grant.target_id, grant.username, json.dumps(cached))
        cache.execute("INSERT INTO tokens VALUES (?, ?, ?)", row)


def subjects(fresh: Interpreters, folder: Path) -> Mapping[str, Callable[[], float]]:
    """Return the subjects by name."""
    statements = (VALUES, CLIENT, KEEPER, HTTPX, SQLALCHEMY)
    grant = KEY.grant
    arguments = (str(folder), KEY.client_id, grant.target_id, grant.username)
    here = Path(__file__).parent
    return {each: partial(fresh.for_statement, each) for each in statements} | {
        HELP: partial(fresh.until_ended, "-m", "blink_oauth_cli", "--help"),
        CLICK: partial(fresh.until_ended, "-c", "import click"),
        BLINK: partial(fresh.until_printed, str(here / "first_token_blink.py"), *arguments),
        AUTHLIB: partial(fresh.until_printed, str(here / "first_token_authlib.py"), *arguments),
    }


def figures() -> Iterator[Figure]:
    """Yield all figures."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        measured = subjects(Interpreters(folder / "bytecode"), folder)
        medians_in_turn(measured)  # fills the bytecode cache
        rounds = in_rounds(lambda: medians_in_turn(measured, TURNS))
    for (subject, reference), limit in LIMITS.items():
        yield ratio(rounds, subject, reference, limit)


if __name__ == "__main__":
    raise SystemExit(report(__doc__, figures()))
