"""Processes of the version before and of this one share the tables: nothing is refreshed twice.

The version before is the code at a revision of this repository, whose packages a process imports
from an extracted archive. The test is skipped only where the clone does not have that revision.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import attrs
import pytest
from attrs import define

import blink_oauth_keeper
from blink_oauth import Grant, Token
from blink_oauth_keeper import GrantKey, Origin, SqlTokenStore, State
from blink_oauth_testing.sandbox import Sandbox
from storm.shared_config import TWO_DAYS, SharedConfig

VERSION_BEFORE = "b06a098ad294ee75e96024d760fb86afc6280596"
PROJECT = Path(__file__).parents[2]
PACKAGES = ("wrapper", "keeper", "generated")
GRANTS = 6
IDLE = 25 * 86_400.0
"""Seconds after which `refresh_due` finds a grant that was not used."""


@pytest.fixture(scope="session")
def version_before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the packages of the version before."""
    folder = tmp_path_factory.mktemp("before")
    archive = folder / "packages.tar"
    with archive.open("wb") as output:
        code = subprocess.run(
            ["git", "archive", "--format=tar", VERSION_BEFORE, *PACKAGES],
            cwd=PROJECT,
            stdout=output,
            stderr=subprocess.DEVNULL,
            check=False,
        ).returncode
    if code:
        pytest.skip(f"this clone does not have the revision {VERSION_BEFORE[:7]}")
    with tarfile.open(archive) as packages:
        packages.extractall(folder, filter="data")
    return folder


@define(eq=False)
class Process:
    """A process of one version."""

    process: subprocess.Popen[str]

    def send(self, do: str, **message: object) -> None:
        """Write a message."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do} | message) + "\n")
        self.process.stdin.flush()

    def receive(self) -> object:
        """Return the next reply."""
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def stop(self) -> None:
        """Let the process end, which must succeed."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(60) == 0


@define(eq=False)
class Upgrade:
    """The processes of both versions, and the bank that counts their refreshes."""

    sandbox: Sandbox
    config: SharedConfig
    folder: Path
    grants: Sequence[Grant]
    stack: ExitStack
    ahead: float = 0.0
    refreshes: int = 0

    def start(self, count: int, *, before: bool) -> list[Process]:
        """Start processes of the version before or of this one, and wait until they are ready."""
        paths = [PROJECT / "tests"]
        if before:
            paths += [self.folder / package for package in PACKAGES]
        processes = [self._start(paths) for _ in range(count)]
        installed = Path(blink_oauth_keeper.__file__).parent
        package = self.folder / "keeper" / "blink_oauth_keeper" if before else installed
        assert [process.receive() for process in processes] == [str(package)] * count
        return processes

    def _start(self, paths: Sequence[Path]) -> Process:
        process = self.stack.enter_context(
            subprocess.Popen(
                [sys.executable, str(PROJECT / "tests" / "storm" / "version_program.py")],
                env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
        )
        self.stack.callback(process.kill)
        assert process.stdin is not None
        process.stdin.write(json.dumps(attrs.asdict(self.config)) + "\n")
        process.stdin.flush()
        return Process(process)

    def authorize(self, process: Process) -> None:
        """Let a process store the first pair of each grant."""
        codes = [self.sandbox.issue_code(grant) for grant in self.grants]
        redirect_uri = self.sandbox.redirect_uri
        process.send("authorize", grants=self.names, codes=codes, redirect_uri=redirect_uri)
        process.receive()

    @property
    def names(self) -> list[tuple[str, str]]:
        """The names of the grants."""
        return [(grant.target_id, grant.username) for grant in self.grants]

    def expire(self) -> None:
        """Let all access tokens expire."""
        self.ahead += TWO_DAYS
        self.refreshes += GRANTS

    def get(self, *processes: Process) -> None:
        """Let processes ask for all tokens at the same time: they must get the same ones."""
        for process in processes:
            process.send("get", ahead=self.ahead, grants=self.names)
        results = [process.receive() for process in processes]
        assert isinstance(results[0], list)
        assert [len(result) for result in results[0]] == [64] * GRANTS, results[0]
        assert results == [results[0]] * len(processes)
        self.check()

    def refresh_due(self, *processes: Process) -> None:
        """Let processes refresh idle grants at the same time: each grant is refreshed once."""
        self.ahead += IDLE
        self.refreshes += GRANTS
        for process in processes:
            process.send("refresh_due", ahead=self.ahead)
        reports = [process.receive() for process in processes]
        totals = [sum(counts) for counts in zip(*map(numbers, reports), strict=True)]
        assert totals == [GRANTS, 0, 0, 0]
        self.check()

    def check(self) -> None:
        """Check that each expiry led to one refresh, and that no token was reused."""
        bank = self.sandbox.banks[self.grants[0].target_id]
        assert (bank.refreshes, bank.reuses) == (self.refreshes, 0)


def numbers(report: object) -> list[int]:
    """Return the numbers of a report."""
    assert isinstance(report, list)
    return [int(number) for number in report]


@contextmanager
def upgrading(sandbox: Sandbox, database: str, folder: Path) -> Iterator[Upgrade]:
    """Yield the harness; all its processes end afterwards."""
    grants = [sandbox.grant(username=f"u-{number}") for number in range(GRANTS)]
    with ExitStack() as stack:
        config = SharedConfig(sandbox.environment(), database)
        yield Upgrade(sandbox, config, folder, grants, stack)


def test_both_versions_refresh_the_same_grants_before_during_and_after_the_upgrade(
    database: str, blink_sandbox: Sandbox, version_before: Path
) -> None:
    with upgrading(blink_sandbox, database, version_before) as upgrade:
        old = upgrade.start(2, before=True)
        upgrade.authorize(old[0])
        upgrade.expire()
        upgrade.get(*old)
        # The new processes add the columns at their first use, while the old ones refresh.
        new = upgrade.start(2, before=False)
        for _ in range(3):
            upgrade.expire()
            upgrade.get(*old, *new)
        for first, second in ((old, new), (new, old)):
            upgrade.expire()
            upgrade.get(first[0])
            # What one version has written, the other reads, and refreshes nothing.
            upgrade.get(*second, first[1])
        upgrade.refresh_due(*old, *new)
        # An old process that starts now uses the upgraded tables.
        old += upgrade.start(1, before=True)
        upgrade.expire()
        upgrade.get(*new, *old)

        for process in old:
            process.stop()
        new[0].send("finish_upgrade")
        assert new[0].receive() == [True, False]
        upgrade.get(*new)
        for _ in range(2):
            upgrade.expire()
            upgrade.get(*new)
        upgrade.refresh_due(*new)

        [refused] = upgrade.start(1, before=True)
        refused.send("get", ahead=upgrade.ahead + TWO_DAYS, grants=upgrade.names)
        results = refused.receive()
        assert isinstance(results, list)
        for result in results:
            assert result.startswith("SchemaError: The tables of the token store have version 2")
            assert "Nothing was sent" in result
        refused.stop()
        for process in new:
            process.stop()
        upgrade.check()
        require_all_stored(upgrade)


OLD_PROCESS = """
import sys
from datetime import UTC, datetime
from blink_oauth import Grant, Token
from blink_oauth_keeper import GrantKey, Note, SqlTokenStore
from blink_oauth_keeper.store.protocol import Origin
url, fernet_key, do = sys.argv[1:]
store, note = SqlTokenStore(url, keys=[fernet_key]), Note(event="fake")
key, now = GrantKey("CIDX0000000002", Grant("IIDX00001", "u-1")), datetime.now(UTC)
pair = Token(access_token=f"fake-{do}", refresh_token=f"fake-refresh-{do}")
if do == "put":
    store.put(key, pair, issued_at=now, idle_until=now, note=note)
else:
    claim = store.claim(store.load(key), owner="fake-owner", ttl=20)
    print(len(store.journal_entries(key)), store.salvage(claim, note=note))
    store.journal(claim, pair, origin=Origin.ERROR)
    print(len(store.journal_entries(key)))
"""


def test_the_version_before_does_not_open_a_foreign_pair_and_goes_on(
    version_before: Path, tmp_path: Path
) -> None:
    url, fernet_key = f"sqlite:///{tmp_path}/tokens.db", SqlTokenStore.new_key().reveal()
    paths = os.pathsep.join(str(version_before / package) for package in PACKAGES)

    def run_old(do: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", OLD_PROCESS, url, fernet_key, do],
            env={**os.environ, "PYTHONPATH": paths},
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    run_old("put")
    key = GrantKey("CIDX0000000002", Grant("IIDX00001", "u-1"))
    with closing(SqlTokenStore(url, keys=[fernet_key])) as store:
        record = store.load(key)
        assert record is not None
        other = Token(access_token="fake-other", refresh_token="fake-other-refresh")
        store.journal(record, other, origin=Origin.FOREIGN)
        assert run_old("salvage").split() == ["0", "None", "1"]
        origins = [entry.origin for entry in store.journal_entries(key)]
        assert origins == [Origin.ERROR, Origin.FOREIGN]


def require_all_stored(upgrade: Upgrade) -> None:
    """Require that the bank accepts each stored pair, and that each refresh is a generation."""
    bank = upgrade.sandbox.banks[upgrade.grants[0].target_id]
    store = upgrade.config.store()
    upgrade.stack.callback(store.close)
    records = [store.load(GrantKey(upgrade.config.client_id, grant)) for grant in upgrade.grants]
    for record in records:
        assert record is not None
        assert (record.state, record.attempts) == (State.ACTIVE, 0)
        assert record.token is not None
        assert record.token.refresh_token is not None
        assert bank.accepts(record.token.refresh_token.reveal())
        assert store.journal_entries(record.key) == []
    assert sum(record.generation - 1 for record in records if record) == upgrade.refreshes
