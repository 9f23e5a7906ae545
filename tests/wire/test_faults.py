"""Each fault of the sandbox at each operation and bank: the result is as in the table, and true.

An outcome is a promise about a token that cannot be replaced. So each result is compared with the
table and, in addition, with what the bank executed.
"""

from __future__ import annotations

import pytest
from attrs import evolve

from blink_oauth import BlinkError, Outcome, ResponseMeta, Token
from blink_oauth_testing.sandbox import FAULTS, Exchange, Sandbox
from blink_oauth_testing.sandbox.faults import slow_body, slow_headers
from flavours import Caller
from wire.calls import OPERATIONS, Operation, repeatable_call, result_of_faulty_call
from wire.fault_table import TABLE, Failure, Success, expectation
from wire.harness import NON_ROTATING, STRICT, exchange

# Only the pieces of a slow response matter here, not its pace.
QUICKER = {"slow-body": slow_body(0.005), "slow-headers": slow_headers(0.005)}
CASES = [
    pytest.param(name, operation, id=f"{name}-{operation}")
    for name, fault in FAULTS.items()
    for operation in OPERATIONS
    if fault.operation is None or operation != "revoke"
]


def false_claims(result: Token | ResponseMeta | BlinkError, seen: Exchange) -> list[str]:
    """Return the claims of a result about the execution that are false."""
    if not isinstance(result, BlinkError):
        return [] if seen.executed else ["success, although the bank executed nothing"]
    found = []
    if seen.executed and result.outcome is not Outcome.UNCERTAIN:
        found.append("not executed, although the bank executed the call")
    if not seen.executed and result.needs_consent:
        found.append("a new consent is needed, although the bank executed nothing")
    return found


def promises_repeatable(error: BlinkError) -> bool:
    """Return whether an error promises that the same call can succeed when it is repeated."""
    return error.retryable or error.outcome is not Outcome.UNCERTAIN


def check_success(result: Token | ResponseMeta, expected: Success, seen: Exchange) -> None:
    meta = result.meta if isinstance(result, Token) else result
    assert meta is not None
    assert meta.correlation_id == seen.correlation_id
    assert meta.status == seen.status
    assert (meta.echoed, meta.source, meta.caching_forbidden) == (
        expected.echoed,
        expected.source,
        expected.caching_forbidden,
    )
    if isinstance(result, Token):
        assert result.oddities == expected.oddities


def check_failure(error: BlinkError, expected: Failure, seen: Exchange) -> None:
    assert type(error) is expected.error
    assert error.outcome is expected.outcome
    assert error.status == expected.status
    assert error.source is expected.source
    assert error.retryable is expected.retryable
    assert error.needs_consent is False
    assert (error.token is not None) is expected.has_token
    assert error.correlation_id == seen.correlation_id
    assert seen.correlation_id is not None
    assert seen.correlation_id in str(error)
    assert (error.meta.retry_after if error.meta else None) == expected.retry_after


def test_the_table_has_exactly_one_row_for_every_fault() -> None:
    assert TABLE.keys() == FAULTS.keys()
    for name, fault in FAULTS.items():
        assert (TABLE[name].revocation is None) == (fault.operation == "request_token"), name


@pytest.mark.parametrize("bank", [STRICT, NON_ROTATING])
@pytest.mark.parametrize(("fault", "operation"), CASES)
def test_a_fault_has_the_result_of_the_table_and_no_false_claim(
    caller: Caller, blink_sandbox: Sandbox, bank: str, fault: str, operation: Operation
) -> None:
    call = repeatable_call(caller, blink_sandbox, blink_sandbox.grant(bank), operation)
    before = len(blink_sandbox.exchanges)
    blink_sandbox.fail(QUICKER.get(fault, FAULTS[fault]))
    result = call()

    seen = blink_sandbox.exchanges[before]
    assert seen.fault == fault
    faulty = result_of_faulty_call(result)
    assert false_claims(faulty, seen) == []
    expected = expectation(fault, operation, rotates=bank == STRICT)
    if isinstance(expected, Failure):
        assert isinstance(faulty, BlinkError)
        check_failure(faulty, expected, seen)
    else:
        assert not isinstance(faulty, BlinkError)
        check_success(faulty, expected, seen)
    if isinstance(result, BlinkError) and promises_repeatable(result):
        assert not isinstance(call(), BlinkError)


def test_a_false_claim_about_the_execution_is_found(blink_sandbox: Sandbox, caller: Caller) -> None:
    exchange(caller, blink_sandbox, blink_sandbox.grant())
    executed = blink_sandbox.exchanges[-1]
    not_executed = evolve(executed, executed=False)
    for outcome in (Outcome.NOT_EXECUTED, Outcome.REJECTED):
        assert false_claims(BlinkError("a false claim", outcome=outcome), executed)
    assert false_claims(Token(access_token="fake-access-token-1"), not_executed)
    assert false_claims(BlinkError("a false claim", needs_consent=True), not_executed)
