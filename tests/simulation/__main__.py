"""Play schedules in a process of their own. See `test_random_schedules` for how to play one again.

python -m simulation seed <scenario> <seed>
python -m simulation path <bank> <family> <turn,turn,…>
python -m simulation seeds <scenario,…> <first> <count> <step>
python -m simulation paths <bank/family,…>
python -m simulation mutants <first> <step>
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from .chance import SCENARIOS
from .chance import play as play_seed
from .exhaustion import FAMILIES, Choices, paths
from .exhaustion import play as play_path
from .harness import BANKS
from .invariants import broken
from .mutants import MUTANTS, seeds_until_broken

MOST_FINDINGS = 3


def show_seed(scenario: str, seed: str) -> str:
    """Return the steps of a schedule, and what it breaks."""
    trace: list[str] = []
    world, kind = play_seed(SCENARIOS[scenario], int(seed), trace=trace)
    return "\n".join([*trace, *(f"{name}: {seen}" for name, seen in broken(world.facts, kind))])


def show_path(bank: str, family: str, turns: str = "") -> str:
    """Return the steps of a path, and what it breaks."""
    trace: list[str] = []
    choices = Choices(tuple(int(turn) for turn in turns.split(",") if turn))
    world = play_path(BANKS[bank], FAMILIES[family], choices, trace=trace)
    assert world is not None
    found = broken(world.facts, BANKS[bank])
    return "\n".join([*trace, *(f"{name}: {seen}" for name, seen in found)])


def play_seeds(scenarios: str, first: str, count: str, step: str) -> str:
    """Play many seeds of each scenario; return how many, and what was found."""
    found: list[str] = []
    played = dict.fromkeys(scenarios.split(","), 0)
    sent = dict.fromkeys(played, 0)
    for name in played:
        for seed in range(int(first), int(first) + int(count) * int(step), int(step)):
            world, kind = play_seed(SCENARIOS[name], seed)
            played[name] += 1
            sent[name] += len(world.facts.presentations)
            if broken(world.facts, kind) and len(found) < MOST_FINDINGS:
                found.append(f"seed {name} {seed}\n{show_seed(name, str(seed))}")
    return json.dumps({"played": played, "sent": sent, "found": found})


def play_paths(families: str) -> str:
    """Play all paths of some families; return how many, and what was found."""
    found: list[str] = []
    played: dict[str, int] = {}
    sent: dict[str, int] = {}
    for name in families.split(","):
        bank, _, family = name.partition("/")
        played[name] = sent[name] = 0
        for world, taken in paths(BANKS[bank], FAMILIES[family]):
            played[name] += 1
            sent[name] += len(world.facts.presentations)
            if broken(world.facts, BANKS[bank]) and len(found) < MOST_FINDINGS:
                turns = ",".join(map(str, taken))
                found.append(f"path {bank} {family} {turns}\n{show_path(bank, family, turns)}")
    return json.dumps({"played": played, "sent": sent, "found": found})


def play_mutants(first: str, step: str) -> str:
    """Look for the schedule that shows each mutant; return how many it took, and the rest."""
    ours = MUTANTS[int(first) :: int(step)]
    played = {one.line: seeds_until_broken(one) for one in ours}
    found = [
        f"{line}: nothing shows it, or the real code does the same"
        for line, seeds in played.items()
        if seeds is None
    ]
    return json.dumps({"played": played, "sent": {}, "found": found})


WAYS: dict[str, Callable[..., str]] = {
    "seed": show_seed,
    "path": show_path,
    "seeds": play_seeds,
    "paths": play_paths,
    "mutants": play_mutants,
}

if __name__ == "__main__":
    sys.stdout.write(WAYS[sys.argv[1]](*sys.argv[2:]) + "\n")
