"""Each line that makes the protocol safe is needed: without it a named promise breaks.

The table is in `mutants`: the line, what becomes of it, the promise, and where to look for it.
"""

from __future__ import annotations

import re

import pytest

from simulation.children import Findings, play
from simulation.mutants import INVARIANTS, MUTANTS, Mutant
from simulation.mutation import source_of

CORES = 2


@pytest.fixture(scope="module")
def findings() -> Findings:
    """Look for a schedule that shows each mutant."""
    return play([("mutants", str(first), str(CORES)) for first in range(CORES)])


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: one.line.replace(" ", "-"))
def test_without_the_line_a_promise_breaks(one: Mutant, findings: Findings) -> None:
    assert findings.played[one.line], f"{one.breaks} holds although: {one.line}"


def test_every_marked_line_has_a_mutant() -> None:
    sources = source_of("refresh")
    marked = sorted(int(number) for number in re.findall(r"# \[(\d+)\] ", sources))
    removed = [int(found[1]) for one in MUTANTS if (found := re.match(r"\[(\d+)\]", one.line))]
    assert marked == sorted(set(removed)) == list(range(1, max(marked) + 1))


def test_every_promise_is_broken_by_a_mutant() -> None:
    assert {one.breaks for one in MUTANTS} == set(INVARIANTS)


def test_each_line_of_the_table_is_another_one() -> None:
    assert len({one.line for one in MUTANTS}) == len(MUTANTS)
