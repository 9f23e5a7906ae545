"""The state of the tokens after a refusal, a broken response or an incomplete revocation."""

from __future__ import annotations

import pytest
from attrs import evolve

from blink_oauth import (
    BlinkError,
    Grant,
    InvalidClientError,
    Oddity,
    Outcome,
    ProblemError,
    RevocationError,
    Settings,
    Source,
    TokenKind,
)
from blink_oauth_testing.sandbox import Delivery, Fault, Sandbox
from blink_oauth_testing.sandbox.messages import oauth_error, problem
from flavours import Caller
from wire.calls import OPERATIONS, Operation, repeatable_call, result_of_faulty_call
from wire.harness import STRICT, Connect, exchange, refresh_token

BOTH = frozenset(TokenKind)
REFRESH, ACCESS = (frozenset({kind}) for kind in (TokenKind.REFRESH_TOKEN, TokenKind.ACCESS_TOKEN))
NO_FAULT = Fault("no-fault", executes=True)


@pytest.mark.parametrize(
    ("fault", "state"), [("reset-after", "unknown"), ("too-many-requests", "active")]
)
@pytest.mark.parametrize("failed", [REFRESH, ACCESS, BOTH], ids=["refresh", "access", "both"])
def test_a_failed_revocation_names_the_tokens_that_are_still_active(
    caller: Caller, blink_sandbox: Sandbox, fault: str, state: str, failed: frozenset[TokenKind]
) -> None:
    grant = blink_sandbox.grant()
    token = exchange(caller, blink_sandbox, grant)
    for kind in (TokenKind.REFRESH_TOKEN, TokenKind.ACCESS_TOKEN):
        blink_sandbox.fail(fault if kind in failed else NO_FAULT, operation="revoke_token")
    with pytest.raises(RevocationError) as caught:
        caller.revoke(grant, token)
    error = caught.value
    nothing: frozenset[TokenKind] = frozenset()
    assert error.revoked == BOTH - failed
    assert error.unknown == (failed if state == "unknown" else nothing)
    assert error.not_revoked == (failed if state == "active" else nothing)
    assert error.errors.keys() == failed
    assert all(seen.operation == "revoke_token" for seen in blink_sandbox.exchanges[-2:])


def test_the_platform_refuses_the_client_id_of_another_client(
    connect: Connect, blink_sandbox: Sandbox, settings: Settings
) -> None:
    caller = connect(evolve(settings, client_id="CIDX0000000003"))
    with pytest.raises(ProblemError) as caught:
        caller.refresh(blink_sandbox.grant(), "fake-refresh-token-1")
    error = caught.value
    assert (error.status, error.source, error.code) == (401, Source.PLATFORM, "INVALID_CLIENT")
    assert error.outcome is Outcome.NOT_EXECUTED
    assert not blink_sandbox.exchanges[-1].executed


def test_the_platform_refuses_a_bank_that_is_not_connected(
    caller: Caller, blink_sandbox: Sandbox
) -> None:
    with pytest.raises(ProblemError) as caught:
        caller.refresh(Grant("IIDX99999", "u-4711"), "fake-refresh-token-1")
    assert (caught.value.status, caught.value.source) == (403, Source.PLATFORM)
    assert caught.value.outcome is Outcome.NOT_EXECUTED
    assert not blink_sandbox.exchanges[-1].executed


REFUSALS = {
    "401 of the platform": (problem(401, "X", "Refused", "No."), Outcome.NOT_EXECUTED),
    "403 of the platform": (problem(403, "X", "Refused", "No."), Outcome.NOT_EXECUTED),
    "406 of the platform": (problem(406, "X", "Refused", "No."), Outcome.UNCERTAIN),
    "406 of the bank": (problem(406, "X", "Refused", "No.", "PROVIDER"), Outcome.UNCERTAIN),
    "415 of the platform": (problem(415, "X", "Refused", "No."), Outcome.NOT_EXECUTED),
    "429 of the platform": (problem(429, "X", "Refused", "No."), Outcome.NOT_EXECUTED),
    "503 of the platform": (problem(503, "X", "Refused", "No."), Outcome.NOT_EXECUTED),
    "503 of the bank": (problem(503, "X", "Refused", "No.", "PROVIDER"), Outcome.UNCERTAIN),
    "503 without a source": (
        problem(503, "X", "Refused", "No.").without_header("X-CorAPI-Source"),
        Outcome.UNCERTAIN,
    ),
    "502 of the platform": (problem(502, "X", "Refused", "No."), Outcome.UNCERTAIN),
    "504 of the platform": (problem(504, "X", "Refused", "No."), Outcome.UNCERTAIN),
    "401 of the bank": (problem(401, "X", "Refused", "No.", "PROVIDER"), Outcome.REJECTED),
    "403 of the bank": (problem(403, "X", "Refused", "No.", "PROVIDER"), Outcome.REJECTED),
    "401 without a source": (
        problem(401, "X", "Refused", "No.").without_header("X-CorAPI-Source"),
        Outcome.REJECTED,
    ),
    "400 of the platform": (problem(400, "X", "Refused", "No."), Outcome.REJECTED),
    "408 of the platform": (problem(408, "X", "Refused", "No."), Outcome.UNCERTAIN),
}


@pytest.mark.parametrize("name", REFUSALS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_source_of_a_refusal_determines_the_outcome(
    caller: Caller, blink_sandbox: Sandbox, name: str, operation: Operation
) -> None:
    reply, outcome = REFUSALS[name]
    call = repeatable_call(caller, blink_sandbox, blink_sandbox.grant(), operation)
    blink_sandbox.fail(Fault(name, executes=False, change=lambda _: reply))
    error = result_of_faulty_call(call())
    assert isinstance(error, ProblemError)
    assert error.outcome is outcome
    assert error.needs_consent is False
    assert error.status == reply.status


@pytest.mark.parametrize("code", ["invalid_client", "Unauthorized_Client"])
def test_a_client_that_the_bank_refuses_has_its_own_error(
    caller: Caller, blink_sandbox: Sandbox, code: str
) -> None:
    reply = oauth_error(code, "No.")
    blink_sandbox.fail(Fault("refused", executes=True, change=lambda _: reply))
    with pytest.raises(InvalidClientError) as caught:
        caller.refresh(blink_sandbox.grant(), "fake-refresh-token-1")
    error = caught.value
    assert (error.error, error.code, error.description) == (code, code.lower(), "No.")
    assert error.outcome is Outcome.REJECTED
    assert not error.needs_consent


def test_a_complete_pair_in_a_truncated_body_is_returned(
    caller: Caller, blink_sandbox: Sandbox
) -> None:
    grant = blink_sandbox.grant()
    padded = Fault(
        "cut-after-the-pair",
        executes=True,
        change=lambda reply: reply.with_members({"padding": "x" * 10_000}),
        delivery=Delivery(body_fraction=0.5),
    )
    blink_sandbox.fail(padded)
    token = exchange(caller, blink_sandbox, grant)
    assert token.oddities == {Oddity.BODY_BROKEN}
    bank = blink_sandbox.banks[STRICT]
    assert bank.accepts(token.access_token.reveal())
    assert bank.accepts(refresh_token(token))


def test_a_pair_in_a_response_with_an_error_status_is_on_the_error(
    caller: Caller, blink_sandbox: Sandbox
) -> None:
    grant = blink_sandbox.grant()
    blink_sandbox.fail(
        Fault("pair-in-500", executes=True, change=lambda reply: evolve(reply, status=500))
    )
    with pytest.raises(BlinkError) as caught:
        exchange(caller, blink_sandbox, grant)
    error = caught.value
    assert error.outcome is Outcome.UNCERTAIN
    assert error.token is not None
    assert blink_sandbox.banks[STRICT].accepts(refresh_token(error.token))
    assert refresh_token(error.token) not in str(error)
