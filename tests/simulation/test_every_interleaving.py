"""Every interleaving of two workers that find one expired token, with every fault at every point.

Two paths that reach the same state are followed once from there on. To see the steps of one:

    PYTHONPATH=wrapper:generated:tests python -m simulation path strict "lease ends" 0,0,1
"""

from __future__ import annotations

import pytest

from simulation.subprocesses import Findings, run_in_subprocesses

BANKS = ("strict", "replay window", "non-rotating")
SCHEDULES = {
    "no fault": (28, 28, 28),
    "crash": (134, 134, 134),
    "lost response": (56, 56, 56),
    "lease ends": (12_570, 7_130, 7_130),
    "store failure": (294, 294, 294),
    "request fault": (460, 460, 460),
    "lost response and crash": (1_014, 942, 942),
    "two store failures": (1_170, 1_170, 1_170),
}
"""The number of schedules at each bank; with fewer, some schedules would not be tried."""


@pytest.fixture(scope="module")
def findings() -> Findings:
    """Run all schedules in two subprocesses that take about equally long."""
    names = [f"{bank}/{family}" for family in SCHEDULES for bank in BANKS]
    first = ["strict/lease ends"]
    second = [name for name in names if name not in first]
    return run_in_subprocesses([("paths", ",".join(first)), ("paths", ",".join(second))])


@pytest.mark.parametrize("bank", BANKS)
@pytest.mark.parametrize("family", SCHEDULES)
def test_every_schedule_satisfies_every_invariant(
    family: str, bank: str, findings: Findings
) -> None:
    name = f"{bank}/{family}"
    found = [text for text in findings.violations if text.startswith(f"path {bank} {family} ")]
    assert not found, "\n\n".join(found)
    assert findings.schedules[name] >= SCHEDULES[family][BANKS.index(bank)]


def test_without_a_fault_every_schedule_presents_one_refresh_token(findings: Findings) -> None:
    for bank in BANKS:
        name = f"{bank}/no fault"
        assert findings.presentations[name] == findings.schedules[name] > 0
