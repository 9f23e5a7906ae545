"""Every interleaving of two workers that find one expired token, with every fault at every point.

Two paths that come to the same state are followed once from there on. To see the steps of one:

    PYTHONPATH=wrapper:generated:tests python -m simulation path strict late 0,0,1
"""

from __future__ import annotations

import pytest

from simulation.children import Findings, play

BANKS = ("strict", "windowed", "non-rotating")
SCHEDULES = {
    "no fault": (28, 28, 28),
    "crash": (134, 134, 134),
    "lost reply": (56, 56, 56),
    "late": (12_570, 7_130, 7_130),
    "bad store": (294, 294, 294),
    "mishap": (460, 460, 460),
    "lost reply and crash": (1_014, 942, 942),
    "bad store twice": (1_170, 1_170, 1_170),
}
"""How many schedules there are at each bank; fewer would mean that some are not tried any more."""


@pytest.fixture(scope="module")
def findings() -> Findings:
    """Play them all; the lease's end at every point is about as much as the rest."""
    names = [f"{bank}/{family}" for family in SCHEDULES for bank in BANKS]
    first = ["strict/late"]
    second = [name for name in names if name not in first]
    return play([("paths", ",".join(first)), ("paths", ",".join(second))])


@pytest.mark.parametrize("bank", BANKS)
@pytest.mark.parametrize("family", SCHEDULES)
def test_every_schedule_keeps_every_promise(family: str, bank: str, findings: Findings) -> None:
    name = f"{bank}/{family}"
    found = [text for text in findings.found if text.startswith(f"path {bank} {family} ")]
    assert not found, "\n\n".join(found)
    assert findings.played[name] >= SCHEDULES[family][BANKS.index(bank)]


def test_without_a_fault_one_refresh_token_leaves_in_every_schedule(findings: Findings) -> None:
    for bank in BANKS:
        name = f"{bank}/no fault"
        assert findings.sent[name] == findings.played[name] > 0
