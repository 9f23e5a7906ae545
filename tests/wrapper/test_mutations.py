"""Thousands of mutated responses: no unexpected error, no lost token, no secret in a text.

The expectations are written independently of the code under test.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings

from blink_oauth import (
    BlinkError,
    ForeignResponseError,
    Outcome,
    ResponseError,
    RevocationError,
    Token,
    TokenKind,
)
from flavours import FLAVOURS, Flavour
from wrapper.harness import (
    ACCESS_TOKEN,
    CODE,
    FIRST_ID,
    REFRESH_TOKEN,
    REFRESH_TOKEN_SENT,
    Call,
    connected,
    exchange,
    refresh,
    revoke_access,
)
from wrapper.leaks import found, texts_of, texts_of_error
from wrapper.mutations import MutatedResponse, mutants

EXAMPLES = 700
MUTATED = settings(
    max_examples=EXAMPLES,
    # Without the phase `explain`, which takes minutes. The failing example is enough.
    phases=(Phase.explicit, Phase.generate, Phase.shrink),
    suppress_health_check=[HealthCheck.too_slow],
)


KINDS: dict[str, Callable[[MutatedResponse], bool]] = {
    "a pair with a success": lambda m: len(m.tokens) == 2 and 200 <= m.status < 300,
    "a pair with an error": lambda m: len(m.tokens) == 2 and m.status >= 400,
    "a pair in an incomplete body": lambda m: len(m.tokens) == 2 and m.broken is not None,
    "one token": lambda m: len(m.tokens) == 1,
    "no token with a success": lambda m: not m.tokens and 200 <= m.status < 300,
    "a refusal of the platform": lambda m: m.from_platform and m.status in {401, 403, 415},
    "a 429 or 503 of the platform": lambda m: m.from_platform and m.status in {429, 503},
    "a compressed body": lambda m: m.wire != m.content,
    "an undocumented status": lambda m: not 200 <= m.status < 600,
    "a foreign response": lambda m: m.is_foreign,
    "a foreign response with a pair": lambda m: m.is_foreign and len(m.tokens) == 2,
}


@pytest.mark.parametrize("flavour", FLAVOURS)
@MUTATED
@given(mutant=mutants())
def test_a_mutated_response_to_a_refresh_is_a_token_or_one_of_our_errors(
    flavour: Flavour, mutant: MutatedResponse
) -> None:
    check_token_call(flavour, refresh, REFRESH_TOKEN_SENT, mutant)


def test_a_mutated_response_to_an_exchange_is_a_token_or_one_of_our_errors_for_each_kind() -> None:
    counts = dict.fromkeys(KINDS, 0)

    @MUTATED
    @given(mutant=mutants())
    def check(mutant: MutatedResponse) -> None:
        for kind, fits in KINDS.items():
            counts[kind] += fits(mutant)
        check_token_call("sync", exchange, CODE, mutant)

    check()
    assert min(counts.values()) >= 10, counts
    assert counts["a pair with a success"] >= 60, counts


@MUTATED
@given(mutant=mutants())
def test_a_mutated_response_to_a_revocation_is_a_success_or_one_of_our_errors(
    mutant: MutatedResponse,
) -> None:
    error = result_of_call("async", revoke_access, mutant)
    assert isinstance(error, RevocationError) is not succeeds(mutant)
    if isinstance(error, RevocationError):
        check_error(error.errors[TokenKind.ACCESS_TOKEN], ACCESS_TOKEN, mutant)
        check_error(error, ACCESS_TOKEN, mutant)


def succeeds(mutant: MutatedResponse) -> bool:
    """Return whether a response is a success, and the response to this call."""
    return 200 <= mutant.status < 300 and not mutant.is_foreign


def result_of_call(flavour: Flavour, call: Call, mutant: MutatedResponse) -> object:
    """Return the result or the BlinkError of a call. Any other error fails the test."""
    note(f"{mutant}")
    with connected(flavour, lambda _request: mutant.response()) as blink:
        try:
            return call(blink)
        except BlinkError as exc:
            return exc


def check_token_call(flavour: Flavour, call: Call, sent: str, mutant: MutatedResponse) -> None:
    """Make a call for a token, and check its result."""
    result = result_of_call(flavour, call, mutant)
    if isinstance(result, Token):
        assert succeeds(mutant)
        token: Token | None = result
        assert result.meta is not None
        assert result.meta.correlation_id == FIRST_ID
        assert result.meta.status == mutant.status
        assert found({sent} | mutant.tokens, texts_of(result)) == []
    else:
        assert isinstance(result, ResponseError)
        check_error(result, sent, mutant)
        token = result.token
    if len(mutant.tokens) == 2:
        assert isinstance(result, Token) is succeeds(mutant)
        assert token is not None
        assert token.access_token.reveal() == ACCESS_TOKEN
        assert token.refresh_token is not None
        assert token.refresh_token.reveal() == REFRESH_TOKEN


def check_error(error: BlinkError, sent: str, mutant: MutatedResponse) -> None:
    """Check an error: its facts, and that no text contains the sent or a received secret."""
    assert error.status == mutant.status
    assert error.correlation_id == FIRST_ID
    assert error.meta is not None
    assert error.meta.status == mutant.status
    assert error.outcome is expected_outcome(mutant, error.token)
    assert error.outcome is Outcome.REJECTED or not error.needs_consent
    is_foreign = isinstance(error, ForeignResponseError | RevocationError)
    assert is_foreign if mutant.is_foreign else type(error) is not ForeignResponseError
    assert found({sent} | mutant.tokens, texts_of_error(error)) == []


def expected_outcome(mutant: MutatedResponse, token: Token | None) -> Outcome:
    """Return the outcome that a response without success must have.

    If the platform refuses the client or its format, limits the rate or is unavailable, the call
    was not executed, unless the response has a token. Any other client error is a decision, except
    those about the response (406, 416), and those after a timeout, a closed connection or a failure
    behind the server. All other statuses may come from a call that was executed.
    """
    if mutant.is_foreign:
        return Outcome.UNCERTAIN
    match mutant.status:
        case 401 | 403 | 415 | 429 | 503 if mutant.from_platform:
            return Outcome.NOT_EXECUTED if token is None else Outcome.UNCERTAIN
        case 406 | 408 | 416 | 424 | 460 | 499:
            return Outcome.UNCERTAIN
        case status if status // 100 == 4:
            return Outcome.REJECTED
        case _:
            return Outcome.UNCERTAIN
