"""CI runs each default session of the noxfile, and reports success only if all its jobs have it."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"

pytestmark = pytest.mark.skipif(not WORKFLOW.exists(), reason="the source archive has no workflows")


def default_sessions() -> set[str]:
    """Return the names of the sessions that `nox` runs without arguments."""
    return {
        node.name
        for node in ast.parse((ROOT / "noxfile.py").read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef)
        and "nox.session" in map(ast.unparse, node.decorator_list)
    }


@pytest.fixture
def ci() -> str:
    return WORKFLOW.read_text("utf-8")


def test_ci_runs_each_default_session(ci: str) -> None:
    # With that option, `docs` follows the links to other hosts instead.
    run = set(re.findall(r"nox -s (\w+)\b(?! -- --external)", ci))
    for sessions in re.findall(r"session: \[(.*)\]", ci):
        run.update(sessions.split(", "))
    assert len(default_sessions()) > 8
    assert default_sessions() - run == set()


def test_ci_waits_for_each_of_its_jobs(ci: str) -> None:
    *jobs, last = re.findall(r"^  ([\w-]+):$", ci.partition("\njobs:\n")[2], re.MULTILINE)
    waiting = ci.partition(f"\n  {last}:\n")[2]
    (needs,) = re.findall(r"needs: \[(.*)\]", waiting)
    (expected,) = re.findall(r'test "\$RESULTS" = "(.*)"', waiting)
    assert re.findall(r"needs\.([\w-]+)\.result", waiting) == needs.split(", ") == jobs
    assert len(expected.split()) == len(jobs)
