"""Every request of the client and every response of the sandbox conforms to the contract."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
from attrs import evolve

from blink_oauth import BlinkError, Grant, RevocationError, Token
from blink_oauth_testing.sandbox import Fault, Sandbox
from blink_oauth_testing.sandbox.messages import Response, Source, oauth_error, problem
from contract.validator import ContractValidator, Exchange, Recorder
from flavours import FLAVOURS, Caller, Flavour, calling
from wire.harness import CUSTOMER, NON_ROTATING, STRICT, exchange, refresh_token

STATUSES = {200, 400, 401, 403, 406, 415, 500, 502, 504}
SOURCES: tuple[Source, ...] = ("PLATFORM", "PROVIDER")
OPERATIONS = ("/oauth/token", "/oauth/revoke")
FAKE = Token(access_token="fake-access-token-1", refresh_token="fake-refresh-token-1")


def make_successful_calls(caller: Caller, sandbox: Sandbox, bank: str) -> None:
    """Exchange, refresh and revoke tokens, with and without a customer's device."""
    grant = sandbox.grant(bank, "Zoë & Söhne+1=%")
    token = exchange(caller, sandbox, grant)
    first = refresh_token(token)
    newer = caller.refresh(grant, first, psu=CUSTOMER)
    caller.refresh(grant, newer.refresh_token or first)
    caller.revoke(grant, newer)
    caller.revoke(grant, token, psu=CUSTOMER)


def make_failing_calls(caller: Caller, grant: Grant) -> None:
    """Make each kind of call, and require that each fails."""
    with pytest.raises(BlinkError):
        caller.exchange_code(
            grant,
            code="fake-authorization-code-1",
            redirect_uri="https://books.example/callback?tenant=7",
            psu=CUSTOMER,
        )
    with pytest.raises(BlinkError):
        caller.refresh(grant, "fake-refresh-token-1")
    with pytest.raises(RevocationError):
        caller.revoke(grant, FAKE)


def failures() -> Iterator[Response]:
    """Yield every error response of the contract: each status, source and kind of body."""
    for status, source in product(sorted(STATUSES - {200}), SOURCES):
        yield problem(status, "TECHNICAL_ERROR", "Fault", "As asked for.", source)
        error = evolve(oauth_error("server_error", "As asked for."), status=status)
        yield error.with_header("X-CorAPI-Source", source)


def responding_with(reply: Response) -> Fault:
    """Return a fault that responds with a reply."""

    def change(usual: Response) -> Response:
        return reply.with_header("X-Correlation-ID", usual.header("X-Correlation-ID") or "")

    return Fault("asked-for", executes=False, change=change)


@pytest.fixture(params=FLAVOURS)
def recorded(request: pytest.FixtureRequest, blink_sandbox: Sandbox) -> list[Exchange]:
    """Make every kind of call with one flavour, and return the recorded exchanges."""
    flavour: Flavour = request.param
    recorder = Recorder(blink_sandbox.settings())
    with calling(flavour, blink_sandbox.settings(), transport=recorder) as caller:
        for bank in (STRICT, NON_ROTATING):
            make_successful_calls(caller, blink_sandbox, bank)
        make_failing_calls(caller, Grant("IIDX99999", "u-4711"))
        for reply in failures():
            blink_sandbox.fail(responding_with(reply), times=4)
            make_failing_calls(caller, blink_sandbox.grant())
        with pytest.raises(BlinkError):
            caller.refresh(blink_sandbox.grant(), "fake-refresh-token-1")
    other_client = evolve(blink_sandbox.settings(), client_id="CIDX0000000009")
    with calling(flavour, other_client, transport=recorder) as caller:
        make_failing_calls(caller, blink_sandbox.grant())
    return recorder.exchanges


def test_all_requests_and_responses_conform_to_the_contract(
    recorded: list[Exchange], blink_sandbox: Sandbox
) -> None:
    validator = ContractValidator.for_server(blink_sandbox.base_url)
    assert [found for each in recorded for found in validator.violations(each)] == []
    assert {(each.operation, each.status) for each in recorded} == set(
        product(OPERATIONS, STATUSES)
    )
    assert len(recorded) == len(blink_sandbox.exchanges)


def test_the_sandbox_finds_no_violation_either(
    recorded: list[Exchange], blink_sandbox: Sandbox
) -> None:
    assert len(recorded) == len(blink_sandbox.exchanges)
    for seen in blink_sandbox.exchanges:
        assert seen.request_violations == ()
        assert seen.response_violations == ()
