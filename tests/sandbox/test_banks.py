"""The state machine of a bank: codes, rotation, reuse, expiry and revocation."""

from __future__ import annotations

from itertools import count

import pytest
from attrs import evolve

from blink_oauth.sandbox import DEFAULT_BANKS, Bank, BankPolicy, Clock
from blink_oauth.sandbox.banks import DAY, Issued, Refusal

CLIENT, USERNAME, CALLBACK = "CIDX0000000002", "u-4711", "http://127.0.0.1/callback"
STRICT, LENIENT = DEFAULT_BANKS


def bank_with(policy: BankPolicy) -> tuple[Bank, Clock]:
    numbers, clock = count(1), Clock(source=lambda: 1_800_000_000.0)
    return Bank(policy, clock, lambda kind: f"fake-{kind}-{next(numbers)}"), clock


def issued(outcome: Issued | Refusal) -> Issued:
    assert isinstance(outcome, Issued), outcome
    return outcome


def refused(outcome: object) -> Refusal:
    assert isinstance(outcome, Refusal), outcome
    assert outcome.error == "invalid_grant"
    return outcome


def first_pair(bank: Bank) -> tuple[str, str]:
    code = bank.issue_code(CLIENT, CALLBACK, USERNAME)
    pair = issued(bank.exchange_code(CLIENT, code, CALLBACK, USERNAME))
    assert pair.refresh_token is not None
    return pair.access_token, pair.refresh_token


def test_a_code_gives_a_pair_that_lives_as_long_as_the_policy_says() -> None:
    bank, clock = bank_with(evolve(STRICT, access_token_lifetime=60.0))
    code = bank.issue_code(CLIENT, CALLBACK, USERNAME)
    pair = issued(bank.exchange_code(CLIENT, code, CALLBACK, USERNAME))
    assert pair.expires_in == 60
    assert bank.check_access(CLIENT, pair.access_token) is None
    clock.advance(seconds=59.9)
    assert bank.is_alive(pair.access_token)
    clock.advance(seconds=0.1)
    assert not bank.is_alive(pair.access_token)
    expired = bank.check_access(CLIENT, pair.access_token)
    assert expired is not None
    assert expired.error == "expired_token"


def test_a_code_lives_thirty_seconds() -> None:
    bank, clock = bank_with(STRICT)
    in_time, too_late = (bank.issue_code(CLIENT, CALLBACK, USERNAME) for _ in range(2))
    clock.advance(seconds=29.9)
    issued(bank.exchange_code(CLIENT, in_time, CALLBACK, USERNAME))
    clock.advance(seconds=0.1)
    assert (
        "expired" in refused(bank.exchange_code(CLIENT, too_late, CALLBACK, USERNAME)).description
    )


@pytest.mark.parametrize(
    ("client", "redirect_uri", "username"),
    [
        ("CIDX0000000003", CALLBACK, USERNAME),
        (CLIENT, "http://127.0.0.1/elsewhere", USERNAME),
        (CLIENT, CALLBACK, "u-4712"),
    ],
    ids=["client", "redirect URI", "username"],
)
def test_a_code_is_bound_to_what_it_was_issued_for(
    client: str, redirect_uri: str, username: str
) -> None:
    bank, _ = bank_with(STRICT)
    code = bank.issue_code(CLIENT, CALLBACK, USERNAME)
    refused(bank.exchange_code(client, code, redirect_uri, username))
    # The attempt of somebody else has not spent it.
    issued(bank.exchange_code(CLIENT, code, CALLBACK, USERNAME))


def test_a_replayed_code_revokes_what_it_issued() -> None:
    bank, _ = bank_with(STRICT)
    code = bank.issue_code(CLIENT, CALLBACK, USERNAME)
    pair = issued(bank.exchange_code(CLIENT, code, CALLBACK, USERNAME))
    refused(bank.exchange_code(CLIENT, code, CALLBACK, USERNAME))
    assert pair.refresh_token is not None
    assert not bank.is_alive(pair.access_token)
    assert not bank.is_alive(pair.refresh_token)


def test_another_client_cannot_revoke_by_replaying_a_code() -> None:
    bank, _ = bank_with(STRICT)
    code = bank.issue_code(CLIENT, CALLBACK, USERNAME)
    pair = issued(bank.exchange_code(CLIENT, code, CALLBACK, USERNAME))
    refused(bank.exchange_code("CIDX0000000003", code, CALLBACK, USERNAME))
    assert bank.is_alive(pair.access_token)


def test_a_rotating_bank_gives_a_new_refresh_token_each_time() -> None:
    bank, _ = bank_with(STRICT)
    access, refresh = first_pair(bank)
    renewed = issued(bank.refresh(CLIENT, refresh, USERNAME))
    assert renewed.refresh_token not in {None, refresh}
    assert not bank.is_alive(refresh)
    # A refresh does not end the access token that is still out there.
    assert bank.is_alive(access)


def test_a_reused_refresh_token_revokes_the_whole_family() -> None:
    bank, _ = bank_with(STRICT)
    access, refresh = first_pair(bank)
    renewed = issued(bank.refresh(CLIENT, refresh, USERNAME))
    refused(bank.refresh(CLIENT, refresh, USERNAME))
    assert renewed.refresh_token is not None
    for token in (access, renewed.access_token, renewed.refresh_token):
        assert not bank.is_alive(token)
    assert "revoked" in refused(bank.refresh(CLIENT, renewed.refresh_token, USERNAME)).description


def test_a_reused_refresh_token_spares_other_consents() -> None:
    bank, _ = bank_with(STRICT)
    _, refresh = first_pair(bank)
    other_access, other_refresh = first_pair(bank)
    bank.refresh(CLIENT, refresh, USERNAME)
    refused(bank.refresh(CLIENT, refresh, USERNAME))
    assert bank.is_alive(other_access)
    assert bank.is_alive(other_refresh)


def test_a_bank_may_only_refuse_a_reused_refresh_token() -> None:
    bank, _ = bank_with(evolve(STRICT, on_reuse="refuse"))
    _, refresh = first_pair(bank)
    renewed = issued(bank.refresh(CLIENT, refresh, USERNAME))
    refused(bank.refresh(CLIENT, refresh, USERNAME))
    assert renewed.refresh_token is not None
    assert bank.is_alive(renewed.refresh_token)


@pytest.mark.parametrize("repeats", [True, False])
def test_a_bank_that_does_not_rotate_repeats_the_refresh_token_or_leaves_it_out(
    repeats: bool,
) -> None:
    bank, _ = bank_with(evolve(LENIENT, repeats_refresh_token=repeats))
    _, refresh = first_pair(bank)
    for _ in range(2):
        renewed = issued(bank.refresh(CLIENT, refresh, USERNAME))
        assert renewed.refresh_token == (refresh if repeats else None)
        assert bank.is_alive(renewed.access_token)


@pytest.mark.parametrize("policy", DEFAULT_BANKS, ids=["rotating", "not rotating"])
def test_each_refresh_counts_the_thirty_days_anew(policy: BankPolicy) -> None:
    bank, clock = bank_with(policy)
    _, refresh = first_pair(bank)
    for _ in range(3):
        clock.advance(seconds=29 * DAY)
        refresh = issued(bank.refresh(CLIENT, refresh, USERNAME)).refresh_token or refresh
    clock.advance(seconds=30 * DAY)
    assert "expired" in refused(bank.refresh(CLIENT, refresh, USERNAME)).description


@pytest.mark.parametrize(("client", "username"), [("CIDX0000000003", USERNAME), (CLIENT, "u-4712")])
def test_a_refresh_token_is_bound_to_client_and_username(client: str, username: str) -> None:
    bank, _ = bank_with(STRICT)
    _, refresh = first_pair(bank)
    refused(bank.refresh(client, refresh, username))
    issued(bank.refresh(CLIENT, refresh, USERNAME))


def test_an_unknown_refresh_token_is_refused() -> None:
    bank, _ = bank_with(STRICT)
    assert "unknown" in refused(bank.refresh(CLIENT, "fake-nobodys", USERNAME)).description


def test_revoking_the_refresh_token_takes_its_access_tokens_with_it() -> None:
    bank, _ = bank_with(STRICT)
    access, refresh = first_pair(bank)
    assert bank.revoke(CLIENT, refresh, USERNAME) is None
    assert not bank.is_alive(access)
    refused(bank.refresh(CLIENT, refresh, USERNAME))


def test_revoking_the_access_token_leaves_the_refresh_token() -> None:
    bank, _ = bank_with(STRICT)
    access, refresh = first_pair(bank)
    assert bank.revoke(CLIENT, access, USERNAME) is None
    denied = bank.check_access(CLIENT, access)
    assert denied is not None
    assert denied.error == "invalid_token"
    issued(bank.refresh(CLIENT, refresh, USERNAME))


def test_revoking_what_is_unknown_or_revoked_is_no_error() -> None:
    bank, _ = bank_with(STRICT)
    access, _ = first_pair(bank)
    assert bank.revoke(CLIENT, "fake-nobodys", USERNAME) is None
    assert bank.revoke(CLIENT, access, USERNAME) is None
    assert bank.revoke(CLIENT, access, USERNAME) is None


@pytest.mark.parametrize(("client", "username"), [("CIDX0000000003", USERNAME), (CLIENT, "u-4712")])
def test_nobody_revokes_the_token_of_somebody_else(client: str, username: str) -> None:
    bank, _ = bank_with(STRICT)
    access, refresh = first_pair(bank)
    for token in (access, refresh):
        refused(bank.revoke(client, token, username))
        assert bank.is_alive(token)


def test_an_access_token_opens_nothing_for_another_client() -> None:
    bank, _ = bank_with(STRICT)
    access, _ = first_pair(bank)
    assert bank.check_access("CIDX0000000003", access) is not None


def test_a_reset_forgets_tokens_and_restores_the_policy() -> None:
    bank, _ = bank_with(STRICT)
    access, _ = first_pair(bank)
    bank.policy = evolve(STRICT, rotates=False)
    bank.reset()
    assert bank.policy == STRICT
    assert not bank.is_alive(access)


def test_secrets_stay_out_of_every_repr() -> None:
    bank, _ = bank_with(STRICT)
    code = bank.issue_code(CLIENT, CALLBACK, USERNAME)
    pair = bank.exchange_code(CLIENT, code, CALLBACK, USERNAME)
    assert "fake-" not in repr(bank)
    assert "fake-" not in repr(pair)


def test_the_clock_does_not_run_backwards() -> None:
    clock = Clock(source=lambda: 5.0)
    clock.advance(seconds=2.5)
    assert clock() == 7.5
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(seconds=-1.0)
