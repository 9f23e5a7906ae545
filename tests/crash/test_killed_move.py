"""A process that moves grants is killed at each step: the next run finishes, nothing is lost."""

from __future__ import annotations

import signal
import time
from contextlib import ExitStack, closing
from pathlib import Path

from blink_oauth import BlinkError, Grant, Token
from blink_oauth_keeper import GrantMovedError, UnknownGrantError
from blink_oauth_keeper.store.moving import CopyReport, copy_grants
from blink_oauth_testing.sandbox import Sandbox
from crash.moving_process import MoveStep, main
from storm.processes import running_process
from storm.shared_config import TWO_DAYS, SharedConfig, ShiftedClock, authorize


def ask(config: SharedConfig, clock: ShiftedClock, grant: Grant) -> Token | BlinkError:
    """Ask for an expired token, in a manager that knows nothing of the grant yet."""
    with closing(config.store()) as store, config.manager(clock, store=store) as manager:
        try:
            return manager.get(grant)
        except BlinkError as error:
            return error


def test_a_killed_move_is_finished_by_the_next_run(
    database: str, blink_sandbox: Sandbox, tmp_path: Path
) -> None:
    clock = ShiftedClock()
    other = SharedConfig(blink_sandbox.environment(), database)
    config = SharedConfig(blink_sandbox.environment(), f"sqlite:///{tmp_path / 'source.db'}")
    refreshes = 0
    with ExitStack() as stack:
        source, target = (stack.enter_context(closing(each.store())) for each in (config, other))
        manager = stack.enter_context(config.manager(clock, store=source))
        for number, step in enumerate(MoveStep):
            grant = blink_sandbox.grant(username=f"u-{number}")
            bank = blink_sandbox.banks[grant.target_id]
            authorize(manager, blink_sandbox, grant)
            worker = stack.enter_context(running_process(main, config, other, step))
            assert worker.join() == -signal.SIGKILL
            clock.ahead += TWO_DAYS
            results = [ask(each, clock, grant) for each in (config, other)]
            tokens = [result for result in results if isinstance(result, Token)]
            refreshes += len(tokens)
            # Until the source has blocked the grant, it is refreshed there; once the target has
            # it, there. In between it waits.
            assert len(tokens) == (step is not MoveStep.BLOCKED and step is not MoveStep.RECEIVE)
            assert {type(each) for each in results} <= {Token, GrantMovedError, UnknownGrantError}
            assert (bank.refreshes, bank.reuses) == (refreshes, 0)

            report = copy_grants(
                source, target, wait=60, monotonic=time.monotonic, sleep=time.sleep
            )
            was_finished = step is MoveStep.FINISHED
            assert report == CopyReport(moved=not was_finished, moved_before=number + was_finished)
            clock.ahead += TWO_DAYS
            token = ask(other, clock, grant)
            refreshes += 1
            assert isinstance(token, Token)
            assert bank.accepts(token.access_token.reveal())
            assert isinstance(ask(config, clock, grant), GrantMovedError)
            assert (bank.refreshes, bank.reuses) == (refreshes, 0)
