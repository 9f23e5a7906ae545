"""A process that delivers notices is killed at each step: no notice is lost."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from itertools import cycle, islice
from pathlib import Path

import pytest

from blink_oauth import BlinkError, Grant
from blink_oauth_keeper import SqlTokenStore, TokenManager
from blink_oauth_testing.sandbox import Sandbox
from crash.notifying_process import Receiver, Step, main
from storm.processes import running_process
from storm.shared_config import SharedConfig, ShiftedClock, authorize

ROUNDS = int(os.environ.get("BLINK_TEST_NOTICES", len(Step)))
IDLE_END_IN_SIGHT = 27 * 86_400.0
"""Seconds from now; a refresh token that is never used expires after 30 days."""
LATER = IDLE_END_IN_SIGHT + 3_600.0
"""Seconds from now: the leases of the killed process have ended, and so has its delivery."""


def refresh_in_vain(manager: TokenManager, grant: Grant) -> None:
    """Refresh a grant whose consent is lost."""
    with pytest.raises(BlinkError) as refused:
        manager.refresh(grant)
    assert refused.value.needs_consent


def check_deliveries(deliveries: list[tuple[str, str]], kinds: list[str], step: Step) -> None:
    """Check that each notice was delivered, in order, and again only with the same id."""
    ids = dict.fromkeys(deliveries)
    assert [kind for kind, _ in ids] == kinds, step
    assert len({name for _, name in ids}) == len(kinds), step
    # A process that is killed between receipt and commit is the only reason of a repetition.
    may_repeat = step in {Step.RECEIVED, Step.MARK}
    assert len(deliveries) <= len(kinds) + may_repeat, step
    assert deliveries == sorted(deliveries, key=lambda one: kinds.index(one[0])), step


def test_no_notice_is_lost_and_a_repeated_one_has_its_id(
    database: str, blink_sandbox: Sandbox, tmp_path: Path
) -> None:
    config = SharedConfig(blink_sandbox.environment(), database, lease=25.0)
    receiver = Receiver(tmp_path / "deliveries.txt")
    with ExitStack() as stack:
        now, later = ShiftedClock(), ShiftedClock(LATER)
        first = stack.enter_context(config.manager(now))
        store = SqlTokenStore(database, keys=[config.key], clock=later)
        manager = stack.enter_context(config.manager(later, store=store))
        for number, step in enumerate(islice(cycle(Step), ROUNDS)):
            lost = blink_sandbox.grant(username=f"lost-{number}")
            idle = blink_sandbox.grant(username=f"idle-{number}")
            authorize(first, blink_sandbox, lost)
            authorize(first, blink_sandbox, idle)
            blink_sandbox.banks[lost.target_id].withdraw(config.client_id, lost.username)
            killed = (config, lost, step, IDLE_END_IN_SIGHT, receiver.path)
            with running_process(main, *killed) as worker:
                assert worker.join() == -signal.SIGKILL, step

            refresh_in_vain(manager, lost)
            manager.deliver_notices(receiver)
            authorize(manager, blink_sandbox, lost)
            manager.refresh(idle)
            manager.deliver_notices(receiver)
            check_deliveries(receiver.lines(lost), ["consent.lost", "consent.recovered"], step)
            check_deliveries(receiver.lines(idle), ["consent.at_risk", "consent.recovered"], step)
    assert receiver.path.read_text().count("\n") >= 4 * ROUNDS
