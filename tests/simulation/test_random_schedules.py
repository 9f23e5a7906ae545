"""A hundred thousand random schedules of two to five workers break no promise of the protocol.

Each is said by the name of its scenario and a seed. To play one again and see its steps:

    PYTHONPATH=wrapper:generated:tests python -m simulation seed wild 4711
"""

from __future__ import annotations

import pytest

from simulation.chance import SCENARIOS, play
from simulation.children import Findings
from simulation.children import play as play_in_children
from simulation.invariants import ALWAYS, Invariant, broken
from simulation.network import Fate

SCHEDULES = 100_800
CORES = 2
EACH = SCHEDULES // len(SCENARIOS) // CORES
FEW = range(200_000, 200_060)


@pytest.fixture(scope="module")
def findings() -> Findings:
    """Play them all."""
    names = ",".join(SCENARIOS)
    return play_in_children(
        [("seeds", names, str(first), str(EACH), str(CORES)) for first in range(CORES)]
    )


def test_a_hundred_thousand_random_schedules_break_no_promise(findings: Findings) -> None:
    assert not findings.found, "\n\n".join(findings.found)
    assert findings.played.total() == SCHEDULES >= 100_000


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_schedules_of_a_scenario_present_refresh_tokens(name: str, findings: Findings) -> None:
    assert findings.played[name] == EACH * CORES
    assert findings.sent[name] > findings.played[name] / 2


@pytest.mark.parametrize("invariant", ALWAYS, ids=lambda invariant: invariant.__name__)
def test_an_invariant_holds_in_every_scenario(invariant: Invariant) -> None:
    for name, scenario in SCENARIOS.items():
        for seed in FEW[:5]:
            world, kind = play(scenario, seed)
            assert invariant(world.facts, kind) is None, f"{name} {seed}"


def test_a_seed_says_everything_about_a_schedule() -> None:
    first: list[str] = []
    second: list[str] = []
    play(SCENARIOS["wild"], 7, trace=first)
    play(SCENARIOS["wild"], 7, trace=second)
    assert first == second
    assert len(first) > 10


def test_a_trace_shows_no_token() -> None:
    trace: list[str] = []
    play(SCENARIOS["lossy"], 1, trace=trace)
    text = "\n".join(trace)
    assert "sends refresh-token-1" in text
    assert "fake-" not in text


def test_everything_that_can_go_wrong_does_go_wrong_somewhere() -> None:
    seen: set[str] = set()
    for seed in FEW:
        for name in ("wild", "mishaps", "crashes", "outages"):
            world, kind = play(SCENARIOS[name], seed)
            assert not broken(world.facts, kind)
            seen |= world.facts.disturbances
    others = {"crash", "store", "time passes", "closing", "outlasted", "timed out"}
    fates = {fate.value for fate in Fate if fate is not Fate.ANSWERED}
    assert seen >= others | fates | {"revocation failed"}
