"""A client call as a function: it can be repeated, and it returns its error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from blink_oauth import BlinkError, Grant, ResponseMeta, RevocationError, Token, TokenKind
from blink_oauth_testing.sandbox import Sandbox
from flavours import Caller
from wire.harness import CUSTOMER, exchange, refresh_token

Operation = Literal["exchange_code", "refresh", "revoke"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

Result = Token | Mapping[TokenKind, ResponseMeta] | BlinkError
RepeatableCall = Callable[[], Result]


def repeatable_call(
    caller: Caller, sandbox: Sandbox, grant: Grant, operation: Operation
) -> RepeatableCall:
    """Return a function that makes the same call each time and returns its result or error."""
    if operation == "exchange_code":
        code = sandbox.issue_code(grant)
    else:
        token = exchange(caller, sandbox, grant)

    def call() -> Result:
        try:
            if operation == "exchange_code":
                return caller.exchange_code(
                    grant, code=code, redirect_uri=sandbox.redirect_uri, psu=CUSTOMER
                )
            if operation == "refresh":
                return caller.refresh(grant, refresh_token(token))
            return caller.revoke(grant, token)
        except BlinkError as error:
            return error

    return call


def result_of_faulty_call(result: Result) -> Token | ResponseMeta | BlinkError:
    """Return the result of the request that the fault hit: the first one of a revocation."""
    if isinstance(result, RevocationError):
        return result.errors[TokenKind.REFRESH_TOKEN]
    if isinstance(result, Mapping):
        return result[TokenKind.REFRESH_TOKEN]
    return result
