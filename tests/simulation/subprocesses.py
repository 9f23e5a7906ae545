"""Schedules in subprocesses, one for each core, without coverage, which would slow them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from attrs import field, frozen

__all__ = ["Findings", "run_in_subprocesses"]

TIMEOUT = 900.0
"""Seconds."""


@frozen
class Findings:
    """The result of many schedules.

    Attributes:
        schedules: Number of schedules, by family.
        presentations: Number of presented refresh tokens, by family.
        violations: The first schedules that violate an invariant, with all their steps.
    """

    schedules: Counter[str] = field(factory=Counter)
    presentations: Counter[str] = field(factory=Counter)
    violations: list[str] = field(factory=list)


def run_in_subprocesses(commands: Sequence[Sequence[str]]) -> Findings:
    """Run `python -m simulation` with each list of arguments, all at the same time."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")
    }
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    findings = Findings()
    with ExitStack() as stack:
        children = [stack.enter_context(_child(arguments, environment)) for arguments in commands]
        for child in children:
            output, _ = child.communicate(timeout=TIMEOUT)
            assert child.returncode == 0
            report = json.loads(output)
            findings.schedules.update(
                {name: count or 0 for name, count in report["schedules"].items()}
            )
            findings.presentations.update(report["presentations"])
            findings.violations.extend(report["violations"])
    return findings


@contextmanager
def _child(
    arguments: Sequence[str], environment: dict[str, str]
) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "simulation", *arguments]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()
