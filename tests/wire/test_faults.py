"""Each fault of the sandbox, at each operation and bank: what comes out, and that it is true.

An outcome is a promise about a token that cannot be replaced. So what comes out is not only
compared with the table: every promise is held against what the bank really did.
"""

from __future__ import annotations

import pytest
from attrs import evolve

from blink_oauth import BlinkError, Outcome, ResponseMeta, Token
from blink_oauth_testing.sandbox import FAULTS, Exchange, Sandbox
from blink_oauth_testing.sandbox.faults import slow_body, slow_headers
from flavours import Caller
from wire.attempts import OPERATIONS, Operation, attempt, of_the_faulty_call
from wire.fault_table import TABLE, Failure, Success, expectation
from wire.harness import LENIENT, STRICT, exchange

# The pace of a slow reply does not matter here, only that it comes in pieces.
QUICKER = {"slow-body": slow_body(0.005), "slow-headers": slow_headers(0.005)}
CASES = [
    pytest.param(name, operation, id=f"{name}-{operation}")
    for name, fault in FAULTS.items()
    for operation in OPERATIONS
    if fault.operation is None or operation != "revoke"
]


def lies(result: Token | ResponseMeta | BlinkError, seen: Exchange) -> list[str]:
    """Tell what a result says of the execution that is not so."""
    if not isinstance(result, BlinkError):
        return [] if seen.executed else ["it claims success, and the bank was never asked"]
    found = []
    if seen.executed and result.outcome is not Outcome.UNCERTAIN:
        found.append("the bank carried the call out, and the error does not say that it may have")
    if not seen.executed and result.needs_consent:
        found.append("the bank was never asked, and the customer is to consent again")
    return found


def promises_no_harm(error: BlinkError) -> bool:
    """Say whether an error promises that the same call can still be made."""
    return error.retryable or error.outcome is not Outcome.UNCERTAIN


def check_success(result: Token | ResponseMeta, expected: Success, seen: Exchange) -> None:
    meta = result.meta if isinstance(result, Token) else result
    assert meta is not None
    assert meta.correlation_id == seen.correlation_id
    assert meta.status == seen.status
    assert (meta.echoed, meta.source, meta.cache_rules_held) == (
        expected.echoed,
        expected.source,
        expected.cache_rules_held,
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
    assert error.token is None
    assert error.correlation_id == seen.correlation_id
    assert seen.correlation_id is not None
    assert seen.correlation_id in str(error)
    assert (error.meta.retry_after if error.meta else None) == expected.retry_after


def test_the_table_has_a_row_for_every_fault_and_for_nothing_else() -> None:
    assert TABLE.keys() == FAULTS.keys()
    for name, fault in FAULTS.items():
        assert (TABLE[name].revocation is None) == (fault.operation == "request_token"), name


@pytest.mark.parametrize("bank", [STRICT, LENIENT])
@pytest.mark.parametrize(("fault", "operation"), CASES)
def test_a_fault_comes_out_as_the_table_says_and_without_a_lie(
    caller: Caller, blink_sandbox: Sandbox, bank: str, fault: str, operation: Operation
) -> None:
    call = attempt(caller, blink_sandbox, blink_sandbox.grant(bank), operation)
    before = len(blink_sandbox.exchanges)
    blink_sandbox.fail(QUICKER.get(fault, FAULTS[fault]))
    result = call()

    seen = blink_sandbox.exchanges[before]
    assert seen.fault == fault
    struck = of_the_faulty_call(result)
    assert lies(struck, seen) == []
    expected = expectation(fault, operation, rotates=bank == STRICT)
    if isinstance(expected, Failure):
        assert isinstance(struck, BlinkError)
        check_failure(struck, expected, seen)
    else:
        assert not isinstance(struck, BlinkError)
        check_success(struck, expected, seen)
    if isinstance(result, BlinkError) and promises_no_harm(result):
        assert not isinstance(call(), BlinkError)


def test_a_lie_about_the_execution_would_be_found(blink_sandbox: Sandbox, caller: Caller) -> None:
    exchange(caller, blink_sandbox, blink_sandbox.grant())
    executed = blink_sandbox.exchanges[-1]
    untouched = evolve(executed, executed=False)
    for outcome in (Outcome.NOT_EXECUTED, Outcome.REJECTED):
        assert lies(BlinkError("a lie", outcome=outcome), executed)
    assert lies(Token(access_token="fake-access-token-1"), untouched)
    assert lies(BlinkError("a lie", needs_consent=True), untouched)
