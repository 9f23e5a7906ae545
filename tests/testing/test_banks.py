"""The state machine of a bank: codes, rotation, reuse, expiry and revocation."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest
from attrs import evolve

from blink_oauth_testing.sandbox import DEFAULT_BANKS, Bank, BankPolicy, Clock
from blink_oauth_testing.sandbox.banks import DAY, IssuedTokens, Refusal

CLIENT, USERNAME, CALLBACK = "CIDX0000000002", "u-4711", "http://127.0.0.1/callback"
STRICT, NON_ROTATING = DEFAULT_BANKS


def bank_with(policy: BankPolicy) -> tuple[Bank, Clock]:
    numbers, clock = count(1), Clock(source=lambda: 1_800_000_000.0)
    return Bank(policy, clock, lambda kind: f"fake-{kind}-{next(numbers)}"), clock


def issued(outcome: IssuedTokens | Refusal) -> IssuedTokens:
    assert isinstance(outcome, IssuedTokens), outcome
    return outcome


def refused(outcome: object) -> Refusal:
    assert isinstance(outcome, Refusal), outcome
    assert outcome.error == "invalid_grant"
    return outcome


def new_pair(bank: Bank) -> tuple[str, str]:
    code = bank.issue_code(CLIENT, CALLBACK, USERNAME)
    pair = issued(bank.exchange_code(CLIENT, code, CALLBACK, USERNAME))
    assert pair.refresh_token is not None
    return pair.access_token, pair.refresh_token


def test_a_code_gives_a_pair_with_the_lifetime_of_the_policy() -> None:
    bank, clock = bank_with(evolve(STRICT, access_token_lifetime=60.0))
    code = bank.issue_code(CLIENT, CALLBACK, USERNAME)
    pair = issued(bank.exchange_code(CLIENT, code, CALLBACK, USERNAME))
    assert pair.expires_in == 60
    assert bank.check_access(CLIENT, pair.access_token) is None
    clock.advance(seconds=59.9)
    assert bank.accepts(pair.access_token)
    clock.advance(seconds=0.1)
    assert not bank.accepts(pair.access_token)
    expired = bank.check_access(CLIENT, pair.access_token)
    assert expired is not None
    assert expired.error == "expired_token"


@pytest.mark.parametrize("fields", [["token"], "username", [7]])
def test_a_policy_refuses_only_fields_that_a_revocation_may_leave_out(fields: Any) -> None:
    with pytest.raises(ValueError, match="token_type_hint, client_id, username"):
        evolve(STRICT, refused_revocation_fields=fields)
    closed = evolve(STRICT, refused_revocation_fields=["username", "username"])
    assert closed.refused_revocation_fields == {"username"}


def test_a_code_expires_after_thirty_seconds() -> None:
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
def test_a_code_is_bound_to_client_redirect_uri_and_username(
    client: str, redirect_uri: str, username: str
) -> None:
    bank, _ = bank_with(STRICT)
    code = bank.issue_code(CLIENT, CALLBACK, USERNAME)
    refused(bank.exchange_code(client, code, redirect_uri, username))
    # The refused exchange did not spend the code.
    issued(bank.exchange_code(CLIENT, code, CALLBACK, USERNAME))


def test_a_code_exchanged_twice_revokes_the_tokens_issued_for_it() -> None:
    bank, _ = bank_with(STRICT)
    code = bank.issue_code(CLIENT, CALLBACK, USERNAME)
    pair = issued(bank.exchange_code(CLIENT, code, CALLBACK, USERNAME))
    refused(bank.exchange_code(CLIENT, code, CALLBACK, USERNAME))
    assert pair.refresh_token is not None
    assert not bank.accepts(pair.access_token)
    assert not bank.accepts(pair.refresh_token)


def test_another_client_cannot_revoke_by_replaying_a_code() -> None:
    bank, _ = bank_with(STRICT)
    code = bank.issue_code(CLIENT, CALLBACK, USERNAME)
    pair = issued(bank.exchange_code(CLIENT, code, CALLBACK, USERNAME))
    refused(bank.exchange_code("CIDX0000000003", code, CALLBACK, USERNAME))
    assert bank.accepts(pair.access_token)


def test_a_rotating_bank_gives_a_new_refresh_token_each_time() -> None:
    bank, _ = bank_with(STRICT)
    access, refresh = new_pair(bank)
    renewed = issued(bank.refresh(CLIENT, refresh, USERNAME))
    assert renewed.refresh_token not in {None, refresh}
    assert not bank.accepts(refresh)
    # A refresh does not revoke the earlier access token.
    assert bank.accepts(access)


def test_a_reused_refresh_token_revokes_the_whole_family() -> None:
    bank, _ = bank_with(STRICT)
    access, refresh = new_pair(bank)
    renewed = issued(bank.refresh(CLIENT, refresh, USERNAME))
    refused(bank.refresh(CLIENT, refresh, USERNAME))
    assert renewed.refresh_token is not None
    for token in (access, renewed.access_token, renewed.refresh_token):
        assert not bank.accepts(token)
    assert "revoked" in refused(bank.refresh(CLIENT, renewed.refresh_token, USERNAME)).description


def test_reuse_of_a_refresh_token_leaves_other_consents_valid() -> None:
    bank, _ = bank_with(STRICT)
    _, refresh = new_pair(bank)
    other_access, other_refresh = new_pair(bank)
    bank.refresh(CLIENT, refresh, USERNAME)
    refused(bank.refresh(CLIENT, refresh, USERNAME))
    assert bank.accepts(other_access)
    assert bank.accepts(other_refresh)


def test_a_bank_can_refuse_reuse_without_revoking_the_family() -> None:
    bank, _ = bank_with(evolve(STRICT, on_reuse="refuse"))
    _, refresh = new_pair(bank)
    renewed = issued(bank.refresh(CLIENT, refresh, USERNAME))
    refused(bank.refresh(CLIENT, refresh, USERNAME))
    assert renewed.refresh_token is not None
    assert bank.accepts(renewed.refresh_token)


def test_a_spent_refresh_token_may_be_replayed_within_the_window() -> None:
    bank, clock = bank_with(evolve(STRICT, replay_window=30.0))
    access, refresh = new_pair(bank)
    pairs = [issued(bank.refresh(CLIENT, refresh, USERNAME))]
    for _ in range(2):
        clock.advance(seconds=14.9)
        assert bank.accepts(refresh)
        pairs.append(issued(bank.refresh(CLIENT, refresh, USERNAME)))
    assert len({pair.refresh_token for pair in pairs} | {refresh}) == 4
    assert (bank.refreshes, bank.reuses) == (3, 0)
    # The pair of each response is valid, whichever response the client received.
    for pair in pairs:
        assert bank.accepts(pair.access_token)
        issued(bank.refresh(CLIENT, pair.refresh_token or "", USERNAME))
    assert bank.accepts(access)


def test_the_replay_window_starts_with_the_first_use_and_ends() -> None:
    bank, clock = bank_with(evolve(STRICT, replay_window=30.0))
    _, refresh = new_pair(bank)
    clock.advance(seconds=DAY)
    bank.refresh(CLIENT, refresh, USERNAME)
    clock.advance(seconds=20.0)
    replayed = issued(bank.refresh(CLIENT, refresh, USERNAME))
    clock.advance(seconds=10.0)
    assert not bank.accepts(refresh)
    assert "used before" in refused(bank.refresh(CLIENT, refresh, USERNAME)).description
    assert not bank.accepts(replayed.access_token)
    assert bank.reuses == 1


def test_a_bank_can_refuse_a_late_replay_without_revoking_the_family() -> None:
    bank, clock = bank_with(evolve(STRICT, replay_window=30.0, on_reuse="refuse"))
    access, refresh = new_pair(bank)
    bank.refresh(CLIENT, refresh, USERNAME)
    clock.advance(seconds=30.0)
    refused(bank.refresh(CLIENT, refresh, USERNAME))
    assert bank.accepts(access)


def test_a_replay_for_another_username_or_after_expiry_or_revocation_is_refused() -> None:
    bank, clock = bank_with(evolve(STRICT, replay_window=30.0, refresh_token_lifetime=10.0))
    _, refresh = new_pair(bank)
    bank.refresh(CLIENT, refresh, USERNAME)
    refused(bank.refresh(CLIENT, refresh, "u-4712"))
    clock.advance(seconds=10.0)
    assert "expired" in refused(bank.refresh(CLIENT, refresh, USERNAME)).description
    revoked, _ = bank_with(evolve(STRICT, replay_window=30.0))
    _, refresh = new_pair(revoked)
    revoked.refresh(CLIENT, refresh, USERNAME)
    revoked.revoke(CLIENT, refresh, USERNAME)
    assert "revoked" in refused(revoked.refresh(CLIENT, refresh, USERNAME)).description
    assert bank.reuses == revoked.reuses == 0


def test_a_bank_counts_refreshes_and_reuses_until_it_is_reset() -> None:
    bank, _ = bank_with(STRICT)
    _, refresh = new_pair(bank)
    assert (bank.refreshes, bank.reuses) == (0, 0)
    bank.refresh(CLIENT, refresh, USERNAME)
    assert (bank.refreshes, bank.reuses) == (1, 0)
    # Each reuse counts, even after the family is revoked.
    for count_so_far in (1, 2):
        bank.refresh(CLIENT, refresh, USERNAME)
        assert (bank.refreshes, bank.reuses) == (1, count_so_far)
    bank.refresh(CLIENT, "fake-unknown", USERNAME)
    assert (bank.refreshes, bank.reuses) == (1, 2)
    bank.reset()
    assert (bank.refreshes, bank.reuses) == (0, 0)


def test_a_bank_that_does_not_rotate_detects_no_reuse() -> None:
    bank, _ = bank_with(NON_ROTATING)
    _, refresh = new_pair(bank)
    for _ in range(3):
        issued(bank.refresh(CLIENT, refresh, USERNAME))
    assert (bank.refreshes, bank.reuses) == (3, 0)


def test_only_one_of_many_threads_can_spend_a_refresh_token() -> None:
    bank, _ = bank_with(evolve(STRICT, on_reuse="refuse"))
    _, refresh = new_pair(bank)
    barrier = threading.Barrier(8)

    def slow_clock() -> float:
        time.sleep(0.001)  # Lets other threads run between the check and the spending.
        return 1_800_000_000.0

    bank.now = slow_clock

    def race(_: int) -> IssuedTokens | Refusal:
        barrier.wait(timeout=5.0)
        return bank.refresh(CLIENT, refresh, USERNAME)

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(race, range(8)))
    assert [type(outcome) for outcome in outcomes].count(IssuedTokens) == 1
    assert (bank.refreshes, bank.reuses) == (1, 7)


@pytest.mark.parametrize("policy", DEFAULT_BANKS, ids=["rotating", "not rotating"])
def test_a_second_consent_revokes_the_first_at_a_bank_with_one_token_per_contract(
    policy: BankPolicy,
) -> None:
    bank, _ = bank_with(evolve(policy, one_token_per_contract=True))
    access, refresh = new_pair(bank)
    newer = issued(bank.refresh(CLIENT, refresh, USERNAME))
    second_access, second_refresh = new_pair(bank)
    for token in (access, newer.access_token, newer.refresh_token or refresh):
        assert not bank.accepts(token)
    denied = bank.check_access(CLIENT, newer.access_token)
    assert denied is not None
    assert denied.error == "invalid_token"
    lost = bank.refresh(CLIENT, newer.refresh_token or refresh, USERNAME)
    assert "revoked" in refused(lost).description
    # A second consent is no reuse.
    assert bank.reuses == 0
    assert bank.accepts(second_access)
    assert bank.accepts(second_refresh)


def test_a_code_revokes_the_earlier_consent_only_when_it_is_exchanged() -> None:
    bank, _ = bank_with(evolve(STRICT, one_token_per_contract=True))
    access, _ = new_pair(bank)
    code = bank.issue_code(CLIENT, CALLBACK, USERNAME)
    refused(bank.exchange_code(CLIENT, code, "http://127.0.0.1/elsewhere", USERNAME))
    assert bank.accepts(access)
    issued(bank.exchange_code(CLIENT, code, CALLBACK, USERNAME))
    assert not bank.accepts(access)


@pytest.mark.parametrize(("client", "username"), [("CIDX0000000003", USERNAME), (CLIENT, "u-4712")])
def test_a_consent_leaves_those_of_other_clients_and_customers_valid(
    client: str, username: str
) -> None:
    bank, _ = bank_with(evolve(STRICT, one_token_per_contract=True))
    access, _ = new_pair(bank)
    code = bank.issue_code(client, CALLBACK, username)
    issued(bank.exchange_code(client, code, CALLBACK, username))
    assert bank.accepts(access)


def test_several_consents_are_valid_at_once_by_default() -> None:
    bank, _ = bank_with(STRICT)
    tokens = [*new_pair(bank), *new_pair(bank)]
    assert all(map(bank.accepts, tokens))


def test_after_a_change_to_one_token_per_contract_a_consent_revokes_all_earlier_ones() -> None:
    bank, _ = bank_with(STRICT)
    tokens = [*new_pair(bank), *new_pair(bank)]
    bank.policy = evolve(STRICT, one_token_per_contract=True)
    new_pair(bank)
    assert not any(map(bank.accepts, tokens))


@pytest.mark.parametrize("repeats", [True, False])
def test_a_bank_that_does_not_rotate_repeats_the_refresh_token_or_leaves_it_out(
    repeats: bool,
) -> None:
    bank, _ = bank_with(evolve(NON_ROTATING, repeats_refresh_token=repeats))
    _, refresh = new_pair(bank)
    for _ in range(2):
        renewed = issued(bank.refresh(CLIENT, refresh, USERNAME))
        assert renewed.refresh_token == (refresh if repeats else None)
        assert bank.accepts(renewed.access_token)


@pytest.mark.parametrize("policy", DEFAULT_BANKS, ids=["rotating", "not rotating"])
def test_each_refresh_restarts_the_thirty_days(policy: BankPolicy) -> None:
    bank, clock = bank_with(policy)
    _, refresh = new_pair(bank)
    for _ in range(3):
        clock.advance(seconds=29 * DAY)
        refresh = issued(bank.refresh(CLIENT, refresh, USERNAME)).refresh_token or refresh
    clock.advance(seconds=30 * DAY)
    assert "expired" in refused(bank.refresh(CLIENT, refresh, USERNAME)).description


@pytest.mark.parametrize(("client", "username"), [("CIDX0000000003", USERNAME), (CLIENT, "u-4712")])
def test_a_refresh_token_is_bound_to_client_and_username(client: str, username: str) -> None:
    bank, _ = bank_with(STRICT)
    _, refresh = new_pair(bank)
    refused(bank.refresh(client, refresh, username))
    issued(bank.refresh(CLIENT, refresh, USERNAME))


def test_an_unknown_refresh_token_is_refused() -> None:
    bank, _ = bank_with(STRICT)
    assert "unknown" in refused(bank.refresh(CLIENT, "fake-unknown", USERNAME)).description


def test_revoking_the_refresh_token_revokes_its_access_tokens() -> None:
    bank, _ = bank_with(STRICT)
    access, refresh = new_pair(bank)
    assert bank.revoke(CLIENT, refresh, USERNAME) is None
    assert not bank.accepts(access)
    refused(bank.refresh(CLIENT, refresh, USERNAME))


def test_revoking_the_access_token_leaves_the_refresh_token_valid() -> None:
    bank, _ = bank_with(STRICT)
    access, refresh = new_pair(bank)
    assert bank.revoke(CLIENT, access, USERNAME) is None
    denied = bank.check_access(CLIENT, access)
    assert denied is not None
    assert denied.error == "invalid_token"
    issued(bank.refresh(CLIENT, refresh, USERNAME))


def test_revoking_an_unknown_or_revoked_token_is_no_error() -> None:
    bank, _ = bank_with(STRICT)
    access, _ = new_pair(bank)
    assert bank.revoke(CLIENT, "fake-unknown", USERNAME) is None
    assert bank.revoke(CLIENT, access, USERNAME) is None
    assert bank.revoke(CLIENT, access, USERNAME) is None


@pytest.mark.parametrize(("client", "username"), [("CIDX0000000003", USERNAME), (CLIENT, "u-4712")])
def test_revoking_for_another_client_or_customer_is_refused(client: str, username: str) -> None:
    bank, _ = bank_with(STRICT)
    access, refresh = new_pair(bank)
    for token in (access, refresh):
        refused(bank.revoke(client, token, username))
        assert bank.accepts(token)


def test_an_access_token_is_refused_for_another_client() -> None:
    bank, _ = bank_with(STRICT)
    access, _ = new_pair(bank)
    assert bank.check_access("CIDX0000000003", access) is not None


def test_a_reset_deletes_tokens_and_restores_the_policy() -> None:
    bank, _ = bank_with(STRICT)
    access, _ = new_pair(bank)
    bank.policy = evolve(STRICT, rotates=False)
    bank.reset()
    assert bank.policy == STRICT
    assert not bank.accepts(access)


def test_secrets_stay_out_of_every_repr() -> None:
    bank, _ = bank_with(STRICT)
    code = bank.issue_code(CLIENT, CALLBACK, USERNAME)
    pair = bank.exchange_code(CLIENT, code, CALLBACK, USERNAME)
    assert "fake-" not in repr(bank)
    assert "fake-" not in repr(pair)


def test_the_clock_refuses_to_go_backwards_or_too_far() -> None:
    clock = Clock(source=lambda: 5.0)
    clock.advance(seconds=2.5)
    assert clock() == 7.5
    for seconds in (-1.0, math.nan, math.inf, 10**400):
        with pytest.raises(ValueError, match="backwards"):
            clock.advance(seconds=seconds)
    assert clock() == 7.5


def test_a_customer_can_withdraw_every_consent_at_the_bank() -> None:
    bank, _ = bank_with(NON_ROTATING)
    pairs = [new_pair(bank), new_pair(bank)]
    bank.withdraw(CLIENT, "u-4712")
    bank.withdraw("CIDX0000000003", USERNAME)
    assert all(bank.accepts(token) for pair in pairs for token in pair)
    bank.withdraw(CLIENT, USERNAME)
    assert not any(bank.accepts(token) for pair in pairs for token in pair)


def test_a_refresh_token_can_be_made_to_expire_alone() -> None:
    bank, _ = bank_with(NON_ROTATING)
    (access, refresh), (_, other) = new_pair(bank), new_pair(bank)
    assert bank.expire(refresh)
    assert "expired" in refused(bank.refresh(CLIENT, refresh, USERNAME)).description
    assert bank.accepts(access)
    assert bank.accepts(other)
    assert not bank.expire(access)
    assert bank.accepts(access)
