"""Two processes that play schedules, one for each core. Nothing traces or slows them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from attrs import field, frozen

__all__ = ["Findings", "play"]

MOST_SECONDS = 900.0


@frozen
class Findings:
    """What came of many schedules.

    Attributes:
        played: How many were played, by family.
        sent: How many refresh tokens left in them, by family.
        found: The first schedules that broke an invariant, with all their steps.
    """

    played: Counter[str] = field(factory=Counter)
    sent: Counter[str] = field(factory=Counter)
    found: list[str] = field(factory=list)


def play(orders: Sequence[Sequence[str]]) -> Findings:
    """Run `python -m simulation` once for each order, all at the same time."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")
    }
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    findings = Findings()
    with ExitStack() as stack:
        children = [stack.enter_context(_child(order, environment)) for order in orders]
        for child in children:
            said, _ = child.communicate(timeout=MOST_SECONDS)
            assert child.returncode == 0
            report = json.loads(said)
            findings.played.update({name: many or 0 for name, many in report["played"].items()})
            findings.sent.update(report["sent"])
            findings.found.extend(report["found"])
    return findings


@contextmanager
def _child(order: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "simulation", *order]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()
