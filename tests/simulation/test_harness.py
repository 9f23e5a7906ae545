"""The simulated banks behave as the sandbox's, except for two traits that some of them have."""

from __future__ import annotations

import pytest

from blink_oauth_testing.sandbox.banks import IssuedTokens, Refusal
from simulation.harness import BANKS, CLIENT_ID, USERNAME, SimulatedBank, new_bank

CALLBACK = "https://app.example/callback"


def authorized(name: str) -> tuple[SimulatedBank, str]:
    """Return a bank to which the customer has consented, and the refresh token."""
    bank = new_bank(BANKS[name], lambda: 0.0)
    code = bank.issue_code(CLIENT_ID, CALLBACK, USERNAME)
    issued = bank.exchange_code(CLIENT_ID, code, CALLBACK, USERNAME)
    assert isinstance(issued, IssuedTokens)
    assert issued.refresh_token is not None
    return bank, issued.refresh_token


def refreshed(bank: SimulatedBank, token: str) -> str:
    """Present a refresh token and return the new one."""
    issued = bank.refresh(CLIENT_ID, token, USERNAME)
    assert isinstance(issued, IssuedTokens)
    assert issued.refresh_token is not None
    return issued.refresh_token


@pytest.mark.parametrize("name", BANKS)
def test_a_bank_accepts_a_replay_only_if_it_allows_replays(name: str) -> None:
    bank, first = authorized(name)
    refreshed(bank, first)
    again = bank.refresh(CLIENT_ID, first, USERNAME)
    assert isinstance(again, IssuedTokens if BANKS[name].allows_replay else Refusal)


@pytest.mark.parametrize(("name", "valid"), [("newest pair only", False), ("replay window", True)])
def test_a_replay_may_invalidate_the_earlier_pair(name: str, valid: bool) -> None:
    bank, first = authorized(name)
    earlier, newest = refreshed(bank, first), refreshed(bank, first)
    assert bank.accepts(earlier) is valid
    assert bank.accepts(newest)


@pytest.mark.parametrize(("name", "valid"), [("refusing", True), ("strict", False)])
def test_a_revocation_may_end_a_single_token(name: str, valid: bool) -> None:
    bank, first = authorized(name)
    second = refreshed(bank, first)
    bank.revoke(CLIENT_ID, first, USERNAME)
    assert bank.accepts(second) is valid
