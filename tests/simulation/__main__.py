"""Run schedules in a process of their own. `test_random_schedules` shows how to repeat one.

python -m simulation seed <scenario> <seed>
python -m simulation path <bank> <family> <choice,choice,…>
python -m simulation seeds <scenario,…> <first> <count> <step>
python -m simulation paths <bank/family,…>
python -m simulation mutants <first> <step>
"""

from __future__ import annotations

import gc
import json
import sys
from collections.abc import Callable, Mapping

from .exhaustive_search import FAMILIES, Choices, paths
from .exhaustive_search import run as run_path
from .harness import BANKS
from .invariants import violations
from .mutants import MUTANTS, seeds_until_violation
from .random_schedules import SCENARIOS
from .random_schedules import run as run_seed

MAX_VIOLATIONS = 3


def show_seed(scenario: str, seed: str) -> str:
    """Return the steps of a random schedule, and the invariants that it violates."""
    trace: list[str] = []
    simulation, kind = run_seed(SCENARIOS[scenario], int(seed), trace=trace)
    found = violations(simulation.facts, kind)
    return "\n".join([*trace, *(f"{name}: {violation}" for name, violation in found)])


def show_path(bank: str, family: str, choices: str = "") -> str:
    """Return the steps of a path, and the invariants that it violates."""
    trace: list[str] = []
    path = Choices(tuple(int(choice) for choice in choices.split(",") if choice))
    simulation = run_path(BANKS[bank], FAMILIES[family], path, trace=trace)
    assert simulation is not None
    found = violations(simulation.facts, BANKS[bank])
    return "\n".join([*trace, *(f"{name}: {violation}" for name, violation in found)])


def run_seeds(scenarios: str, first: str, count: str, step: str) -> str:
    """Run many seeds of each scenario; return the numbers and the first violations."""
    found: list[str] = []
    schedules = dict.fromkeys(scenarios.split(","), 0)
    presentations = dict.fromkeys(schedules, 0)
    for name in schedules:
        for seed in range(int(first), int(first) + int(count) * int(step), int(step)):
            simulation, kind = run_seed(SCENARIOS[name], seed)
            schedules[name] += 1
            presentations[name] += len(simulation.facts.presentations)
            if violations(simulation.facts, kind) and len(found) < MAX_VIOLATIONS:
                found.append(f"seed {name} {seed}\n{show_seed(name, str(seed))}")
    return report(schedules, presentations, found)


def run_paths(families: str) -> str:
    """Run all paths of some families; return the numbers and the first violations."""
    found: list[str] = []
    schedules: dict[str, int] = {}
    presentations: dict[str, int] = {}
    for name in families.split(","):
        bank, _, family = name.partition("/")
        schedules[name] = presentations[name] = 0
        for simulation, taken in paths(BANKS[bank], FAMILIES[family]):
            schedules[name] += 1
            presentations[name] += len(simulation.facts.presentations)
            if violations(simulation.facts, BANKS[bank]) and len(found) < MAX_VIOLATIONS:
                choices = ",".join(map(str, taken))
                found.append(f"path {bank} {family} {choices}\n{show_path(bank, family, choices)}")
    return report(schedules, presentations, found)


def run_mutants(first: str, step: str) -> str:
    """Search a violation for each mutant; return the numbers of seeds and the failed searches."""
    mutants = MUTANTS[int(first) :: int(step)]
    seeds = {mutant.name: seeds_until_violation(mutant) for mutant in mutants}
    found = [
        f"{name}: no seed violates the invariant, or the real code violates it too"
        for name, count in seeds.items()
        if count is None
    ]
    return report(seeds, {}, found)


def report(
    schedules: Mapping[str, int | None], presentations: Mapping[str, int], found: list[str]
) -> str:
    """Return the values of `Findings` as JSON."""
    return json.dumps({"schedules": schedules, "presentations": presentations, "violations": found})


COMMANDS: dict[str, Callable[..., str]] = {
    "seed": show_seed,
    "path": show_path,
    "seeds": run_seeds,
    "paths": run_paths,
    "mutants": run_mutants,
}

if __name__ == "__main__":
    # The libraries stay: without this, each collection would visit all their objects.
    gc.freeze()
    sys.stdout.write(COMMANDS[sys.argv[1]](*sys.argv[2:]) + "\n")
