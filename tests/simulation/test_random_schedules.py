"""A hundred thousand random schedules of two to five workers violate no invariant.

The name of a scenario and a seed determine a schedule. To see the steps of one:

    PYTHONPATH=wrapper:generated:tests python -m simulation seed mixed 4711
"""

from __future__ import annotations

import pytest

from simulation.invariants import INVARIANTS, Invariant, violations
from simulation.network import RequestFault
from simulation.random_schedules import SCENARIOS, run
from simulation.subprocesses import Findings, run_in_subprocesses

SCHEDULES = 100_016
CORES = 2
PER_PROCESS = SCHEDULES // len(SCENARIOS) // CORES
OF_STORE_AND_CLOCK = ("restores", "clock-steps", "missing-keys")
OTHER_SEEDS = range(200_000, 200_060)


@pytest.fixture(scope="module")
def findings() -> Findings:
    """Run all schedules."""
    names = ",".join(SCENARIOS)
    return run_in_subprocesses(
        [("seeds", names, str(first), str(PER_PROCESS), str(CORES)) for first in range(CORES)]
    )


def test_a_hundred_thousand_random_schedules_violate_no_invariant(findings: Findings) -> None:
    assert not findings.violations, "\n\n".join(findings.violations)
    assert findings.schedules.total() == SCHEDULES >= 100_000


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_schedules_of_a_scenario_present_refresh_tokens(name: str, findings: Findings) -> None:
    assert findings.schedules[name] == PER_PROCESS * CORES
    assert findings.presentations[name] > findings.schedules[name] / 2


@pytest.mark.parametrize("invariant", INVARIANTS, ids=lambda invariant: invariant.__name__)
def test_an_invariant_holds_in_every_scenario(invariant: Invariant) -> None:
    for name, scenario in SCENARIOS.items():
        for seed in OTHER_SEEDS[:5]:
            simulation, kind = run(scenario, seed)
            assert invariant(simulation.facts, kind) is None, f"{name} {seed}"


def test_a_seed_determines_the_schedule() -> None:
    first: list[str] = []
    second: list[str] = []
    run(SCENARIOS["mixed"], 7, trace=first)
    run(SCENARIOS["mixed"], 7, trace=second)
    assert first == second
    assert len(first) > 10


def test_a_trace_shows_no_token() -> None:
    trace: list[str] = []
    run(SCENARIOS["lossy"], 1, trace=trace)
    text = "\n".join(trace)
    assert "sends refresh-token-1" in text
    assert "fake-" not in text


def test_every_fault_is_injected_in_some_schedule() -> None:
    seen: set[str] = set()
    for seed in OTHER_SEEDS:
        for name in (
            "mixed",
            "request-faults",
            "crashes",
            "outages",
            "not-forwarded",
            "swapped-responses",
            *OF_STORE_AND_CLOCK,
        ):
            simulation, kind = run(SCENARIOS[name], seed)
            assert not violations(simulation.facts, kind)
            seen |= simulation.facts.faults
    others = {"crash", "store", "time passes", "closing", "outlasted", "timed out"}
    others |= {"restored", "forgotten", "clock stepped", "key missing"}
    requests = {fault.value for fault in RequestFault if fault is not RequestFault.NONE}
    assert seen >= others | requests | {"revocation failed"}
