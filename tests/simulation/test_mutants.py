"""Each line that makes the protocol safe is needed: without it an invariant is violated.

`mutants` has the table: the change of a line, the invariant, and the scenario that shows it.
"""

from __future__ import annotations

import re

import pytest

from simulation.invariants import INVARIANTS
from simulation.mutants import MUTANTS, Mutant
from simulation.mutation import source_of
from simulation.subprocesses import Findings, run_in_subprocesses

CORES = 2


@pytest.fixture(scope="module")
def findings() -> Findings:
    """Search a schedule that shows each mutant."""
    return run_in_subprocesses([("mutants", str(first), str(CORES)) for first in range(CORES)])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_a_mutant_violates_its_invariant(mutant: Mutant, findings: Findings) -> None:
    assert findings.schedules[mutant.name], f"{mutant.breaks} holds in spite of: {mutant.name}"


def test_every_marked_line_has_a_mutant() -> None:
    source = source_of("refresh")
    marked = sorted(int(number) for number in re.findall(r"# \[(\d+)\] ", source))
    changed = [int(found[1]) for one in MUTANTS if (found := re.match(r"\[(\d+)\]", one.name))]
    assert marked == sorted(set(changed)) == list(range(1, max(marked) + 1))


def test_every_invariant_is_violated_by_a_mutant() -> None:
    assert {mutant.breaks for mutant in MUTANTS} == {one.__name__ for one in INVARIANTS}


def test_the_names_of_the_mutants_are_unique() -> None:
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
