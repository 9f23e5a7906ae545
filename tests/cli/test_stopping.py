"""A command that waits can be stopped by a signal at any moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).with_name("stopping_program.py")


def test_a_signal_at_any_step_of_a_wait_requests_the_end() -> None:
    """The program would not end if the handler waited for a lock that the wait holds."""
    run = subprocess.run(
        [sys.executable, "-W", "error", PROGRAM],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert int(run.stdout) > 3
