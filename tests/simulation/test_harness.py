"""The simulated banks are the sandbox's, but for the two habits that some of them have."""

from __future__ import annotations

import pytest

from blink_oauth_testing.sandbox.banks import Issued, Refusal
from simulation.harness import BANKS, CLIENT_ID, USERNAME, SimulatedBank, new_bank

CALLBACK = "https://app.example/callback"


def opened(name: str) -> tuple[SimulatedBank, str]:
    """Return a bank at which the customer has consented, and the refresh token."""
    bank = new_bank(BANKS[name], lambda: 0.0)
    code = bank.issue_code(CLIENT_ID, CALLBACK, USERNAME)
    issued = bank.exchange_code(CLIENT_ID, code, CALLBACK, USERNAME)
    assert isinstance(issued, Issued)
    assert issued.refresh_token is not None
    return bank, issued.refresh_token


def refreshed(bank: SimulatedBank, token: str) -> str:
    """Return the refresh token that another one brings."""
    issued = bank.refresh(CLIENT_ID, token, USERNAME)
    assert isinstance(issued, Issued)
    assert issued.refresh_token is not None
    return issued.refresh_token


@pytest.mark.parametrize("name", BANKS)
def test_a_bank_takes_a_spent_refresh_token_again_only_if_it_forgives(name: str) -> None:
    bank, first = opened(name)
    refreshed(bank, first)
    again = bank.refresh(CLIENT_ID, first, USERNAME)
    assert isinstance(again, Issued if BANKS[name].forgives else Refusal)


@pytest.mark.parametrize(("name", "lives"), [("last lives", False), ("windowed", True)])
def test_a_replay_may_end_the_pair_that_came_before(name: str, lives: bool) -> None:
    bank, first = opened(name)
    lost, found = refreshed(bank, first), refreshed(bank, first)
    assert bank.accepts(lost) is lives
    assert bank.accepts(found)


@pytest.mark.parametrize(("name", "lives"), [("refusing", True), ("strict", False)])
def test_a_revocation_may_end_one_token_only(name: str, lives: bool) -> None:
    bank, first = opened(name)
    second = refreshed(bank, first)
    bank.revoke(CLIENT_ID, first, USERNAME)
    assert bank.accepts(second) is lives
