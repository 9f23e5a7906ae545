"""SIGKILL at random moments: no refresh token is spent twice, and none is lost without a kill.

The environment variable `BLINK_TEST_KILLS` sets the number of kills at each database, and
`BLINK_TEST_SEED` repeats the random choices of a run, though not its moments.
"""

from __future__ import annotations

import os
import secrets

from crash.random_kills import Harness, running_sandbox

KILLS = int(os.environ.get("BLINK_TEST_KILLS", "8"))
SEED = int(os.environ.get("BLINK_TEST_SEED") or secrets.randbits(32))


def test_processes_killed_at_random_moments_break_no_promise(database: str) -> None:
    print(f"BLINK_TEST_SEED={SEED}")  # noqa: T201  pytest shows it if the test fails
    with running_sandbox() as sandbox:
        outcome = Harness(sandbox, database, SEED).run(KILLS)
    lines = [f"{number:8,} {name}" for name, number in outcome.figures.items()]
    print("\n".join(lines))  # noqa: T201  the session `kills` shows it
    assert not outcome.violations, "\n".join(outcome.violations[:20])
    assert outcome.figures["kills"] == KILLS
    assert outcome.figures["refreshes"] > KILLS
