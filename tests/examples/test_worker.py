"""The worker of `examples/worker`: a round, its end, two workers at once, idle grants."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from attrs import define, evolve

from blink_oauth import BlinkOAuth, Grant, Psu
from blink_oauth_keeper import (
    GrantKey,
    KeyFile,
    Note,
    Record,
    Report,
    SqlTokenStore,
    State,
    TokenManager,
)
from blink_oauth_testing import Sandbox

PROJECT = Path(__file__).parents[2]
PROGRAM = PROJECT / "examples" / "worker" / "worker.py"
GUIDE = PROJECT / "docs" / "how-to" / "workers.md"
STRICT, MILD = "IIDX00001", "IIDX00002"
GRANTS = [Grant(target_id, f"u-{number}") for target_id in (STRICT, MILD) for number in range(7)]
LONGEST = 30.0
"""Seconds after which a test that hangs fails."""


@pytest.fixture(scope="module")
def program() -> Any:
    """Return the module of the worker."""
    specification = importlib.util.spec_from_file_location("example_worker", PROGRAM)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    # `dataclass` looks its annotations up there.
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


@define(eq=False)
class Harness:
    """A sandbox and a store of grants in a file, for workers in this process and others."""

    sandbox: Sandbox
    folder: Path
    stack: ExitStack
    program: Any

    @property
    def variables(self) -> dict[str, str]:
        return self.sandbox.environment() | {
            "BLINK_STORE": f"sqlite:///{self.folder / 'tokens.db'}",
            "BLINK_STORE_KEYS_FILE": str(self.folder / "tokens.keys"),
            "BLINK_ACCOUNTS_URL": self.sandbox.accounts_url,
        }

    def store(self) -> SqlTokenStore:
        """Open the store."""
        keys = KeyFile(self.folder / "tokens.keys")
        return self.stack.enter_context(
            closing(SqlTokenStore(self.variables["BLINK_STORE"], keys=keys))
        )

    def authorize(self, grants: Sequence[Grant] = GRANTS) -> None:
        """Store a pair for each grant, whose access token has expired and must be refreshed."""
        past = datetime.now(UTC) - timedelta(days=2)
        store = self.store()
        with BlinkOAuth(self.sandbox.settings()) as blink:
            for grant in grants:
                code = self.sandbox.issue_code(grant)
                uri = self.sandbox.redirect_uri
                token = blink.exchange_code(grant, code=code, redirect_uri=uri, psu=Psu.AUTO)
                store.put(
                    GrantKey(blink.settings.client_id, grant),
                    evolve(token, expires_at=past + timedelta(days=1)),
                    issued_at=past,
                    idle_until=past + timedelta(days=30),
                    note=Note(event="a"),
                )

    def records(self) -> list[Record]:
        """Return the records of all grants, with their pairs."""
        store, client_id = self.store(), self.sandbox.settings().client_id
        found = [store.load(GrantKey(client_id, grant)) for grant in GRANTS]
        return [record for record in found if record is not None]

    def worker(self, stopping: asyncio.Event) -> Any:
        """Return a worker with a manager of its own, as in a process of its own."""
        blink = self.stack.enter_context(BlinkOAuth(self.sandbox.settings()))
        manager = TokenManager(blink, self.store(), on_event=self.program.alert)
        self.stack.callback(manager.close)
        return self.program.Worker(manager, self.sandbox.accounts_url, stopping)

    def run(self, workers: int = 1) -> list[int]:
        """Make a round of each worker at the same time, and return their exit codes."""

        async def rounds() -> list[int]:
            made = [self.worker(asyncio.Event()) for _ in range(workers)]
            return [*await asyncio.gather(*(worker.work(once=True) for worker in made))]

        return asyncio.run(rounds())

    def refreshes(self) -> int:
        """Return the number of refreshes that the banks have executed."""
        return sum(bank.refreshes for bank in self.sandbox.banks.values())


@pytest.fixture
def harness(blink_sandbox: Sandbox, tmp_path: Path, program: Any) -> Iterator[Harness]:
    """Yield a harness with an empty store."""
    (tmp_path / "tokens.keys").write_text(SqlTokenStore.new_key().reveal(), "ascii")
    with ExitStack() as stack:
        yield Harness(blink_sandbox, tmp_path, stack, program)


def lines_of(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    """Return the messages of a logger."""
    return [record.getMessage() for record in caplog.records if record.name == name]


def test_a_round_fetches_what_it_can_and_reports_the_rest_without_names(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    harness.authorize()
    harness.sandbox.banks[MILD].withdraw(harness.sandbox.settings().client_id, "u-3")
    harness.sandbox.fail("internal-server-error", operation="list_accounts", times=2)
    assert harness.run() == [3]
    states = Counter(record.state for record in harness.records())
    assert states == {State.ACTIVE: len(GRANTS) - 1, State.NEEDS_CONSENT: 1}
    assert Counter(record.generation for record in harness.records()) == {1: 1, 2: len(GRANTS) - 1}
    lines = lines_of(caplog, "worker")
    assert sum("accounts=2" in line for line in lines) == len(GRANTS) - 3
    assert sum("error=HTTPStatusError" in line for line in lines) == 2
    (refused,) = [line for line in lines if "error=InvalidGrantError" in line]
    (alert,) = [line for line in lines if line.startswith("customer: ")]
    assert f"(grant.consent_needed {MILD} " in alert
    # The keeper's own line about the grant has the same fingerprint.
    fingerprint = refused.split()[0]
    keeper = lines_of(caplog, "blink_oauth_keeper")
    assert [line.split()[1] for line in keeper if "consent_needed" in line] == [fingerprint]
    assert fingerprint.removeprefix("grant=") in alert
    own = "\n".join([*lines, *keeper])
    assert [grant.username for grant in GRANTS if grant.username in own] == []
    pairs = [record.token for record in harness.records() if record.token is not None]
    assert not any(pair.access_token.reveal() in caplog.text for pair in pairs)
    # In the next round the grant that waits for its customer is left alone.
    sent = len(harness.sandbox.exchanges)
    assert harness.run() == [0]
    forms = [dict(exchange.form) for exchange in harness.sandbox.exchanges[sent:]]
    assert "u-3" not in [form.get("username") for form in forms]


def test_two_workers_at_once_refresh_each_grant_once(harness: Harness) -> None:
    harness.authorize()
    assert harness.run(workers=2) == [0, 0]
    assert harness.refreshes() == len(GRANTS)
    assert {record.generation for record in harness.records()} == {2}
    assert harness.sandbox.banks[STRICT].reuses == 0


def test_the_commands_of_the_guide_fetch_the_accounts(harness: Harness) -> None:
    harness.authorize(GRANTS[:1])
    (harness.folder / "tokens.keys").rename(harness.folder / "tokens.db.keys")
    evaluate, *commands = re.findall(r"(?m)^\$ (.*)$", GUIDE.read_text("utf-8"))
    assert evaluate == 'eval "$(blink-oauth sandbox --env)"'
    done = subprocess.run(
        ["bash", "-e", "-c", "\n".join(commands)],
        cwd=PROJECT,
        env=os.environ
        | harness.sandbox.environment()
        | {
            # What the sandbox prints beside the variables of the client.
            "BLINK_STORE": str(harness.folder / "tokens.db"),
            "BLINK_ACCOUNTS_URL": harness.sandbox.accounts_url,
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        },
        capture_output=True,
        text=True,
        timeout=LONGEST,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "target=IIDX00001 accounts=2" in done.stderr


def wait_until(condition: Callable[[], bool]) -> None:
    """Return as soon as a condition is true."""
    deadline = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_sigterm_in_the_middle_of_a_round_loses_nothing(harness: Harness) -> None:
    harness.authorize()
    for bank in harness.sandbox.banks.values():
        # Two at once: the whole round would take more than three seconds.
        bank.policy = evolve(bank.policy, response_delay=0.5)
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM)],
        env=os.environ | harness.variables | {"WORKER_AT_ONCE": "2"},
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    with process:
        try:
            wait_until(lambda: harness.refreshes() > 0)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate(timeout=LONGEST)
        finally:
            process.kill()
    assert process.returncode == 0, errors
    records = harness.records()
    assert {record.state for record in records} == {State.ACTIVE}
    # What the banks have issued is stored, and the rest of the round was not started.
    assert 0 < harness.refreshes() < len(GRANTS)
    assert sum(record.generation == 2 for record in records) == harness.refreshes()
    for record in records:
        assert record.token is not None
        assert record.token.refresh_token is not None
        bank = harness.sandbox.banks[record.key.grant.target_id]
        assert bank.accepts(record.token.refresh_token.reveal())


def test_a_wrong_setting_ends_the_program_with_its_exit_code(
    harness: Harness, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in harness.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BLINK_BASE_URL", "ftp://wrong.example")
    # The program sets this level; the fixture restores it.
    caplog.set_level(logging.DEBUG, logger="httpx")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(PROGRAM), run_name="__main__")
    assert ended.value.code == 2
    assert lines_of(caplog, "worker")[-1].startswith("InvalidInputError: ")


def test_idle_grants_are_refreshed_and_the_wait_for_the_next_run_can_be_stopped(
    blink_sandbox: Sandbox,
    blink_manager: TokenManager,
    program: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    grants = GRANTS[5:9]
    for grant in grants:
        code, uri = blink_sandbox.issue_code(grant), blink_sandbox.redirect_uri
        blink_manager.authorize(grant, code=code, redirect_uri=uri, psu=Psu.AUTO)

    async def keep_alive() -> None:
        stopping = asyncio.Event()
        worker = program.Worker(blink_manager, blink_sandbox.accounts_url, stopping)
        loop, run = asyncio.get_running_loop(), blink_manager.arefresh_due

        async def run_and_stop(**options: Any) -> Report:
            report = await run(**options)
            loop.call_soon(stopping.set)
            return report

        monkeypatch.setattr(blink_manager, "arefresh_due", run_and_stop)
        await asyncio.wait_for(worker.keep_alive(0.0), LONGEST)

    blink_sandbox.clock.advance(days=25)
    asyncio.run(keep_alive())
    assert {blink_manager.status(grant).generation for grant in grants} == {2}
    assert sum(bank.refreshes for bank in blink_sandbox.banks.values()) == len(grants)
