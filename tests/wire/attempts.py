"""A call as a value: prepared once, made as often as a test wants, its error returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

from blink_oauth import BlinkError, Grant, ResponseMeta, RevocationError, Token, TokenKind
from blink_oauth_testing.sandbox import Sandbox
from flavours import Caller
from wire.harness import PERSON, exchange, refresh_token

Operation = Literal["exchange_code", "refresh", "revoke"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)

Result = Token | Mapping[TokenKind, ResponseMeta] | BlinkError
Attempt = Callable[[], Result]


def attempt(caller: Caller, sandbox: Sandbox, grant: Grant, operation: Operation) -> Attempt:
    """Prepare a call that can be made more than once, and that returns its error."""
    if operation == "exchange_code":
        code = sandbox.issue_code(grant)
    else:
        token = exchange(caller, sandbox, grant)

    def call() -> Result:
        try:
            if operation == "exchange_code":
                return caller.exchange_code(
                    grant, code=code, redirect_uri=sandbox.redirect_uri, psu=PERSON
                )
            if operation == "refresh":
                return caller.refresh(grant, refresh_token(token))
            return caller.revoke(grant, token)
        except BlinkError as error:
            return error

    return call


def of_the_faulty_call(result: Result) -> Token | ResponseMeta | BlinkError:
    """Return what became of the one call that the fault struck: the first of a revocation."""
    if isinstance(result, RevocationError):
        return result.errors[TokenKind.REFRESH_TOKEN]
    if isinstance(result, Mapping):
        return result[TokenKind.REFRESH_TOKEN]
    return result
