"""Everything the client sends and everything the sandbox answers is what the contract says."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
from attrs import evolve

from blink_oauth import BlinkError, Grant, RevocationError, Token
from blink_oauth_testing.sandbox import Fault, Sandbox
from blink_oauth_testing.sandbox.messages import Response, Source, oauth_error, problem
from contract.judge import Judge, Message, Recorder
from flavours import FLAVOURS, Caller, Flavour, calling
from wire.harness import LENIENT, PERSON, STRICT, exchange, refresh_token

STATUSES = {200, 400, 401, 403, 406, 415, 500, 502, 504}
SOURCES: tuple[Source, ...] = ("PLATFORM", "PROVIDER")
OPERATIONS = ("/oauth/token", "/oauth/revoke")
FAKE = Token(access_token="fake-access-token-1", refresh_token="fake-refresh-token-1")


def succeed(caller: Caller, sandbox: Sandbox, bank: str) -> None:
    """Take a token through its whole life, for a person and for nobody."""
    grant = sandbox.grant(bank, "Zoë & Söhne+1=%")
    token = exchange(caller, sandbox, grant)
    first = refresh_token(token)
    newer = caller.refresh(grant, first, psu=PERSON)
    caller.refresh(grant, newer.refresh_token or first)
    caller.revoke(grant, newer)
    caller.revoke(grant, token, psu=PERSON)


def be_refused(caller: Caller, grant: Grant) -> None:
    """Make each kind of call at the mercy of the platform, and see each fail."""
    with pytest.raises(BlinkError):
        caller.exchange_code(
            grant,
            code="fake-authorization-code-1",
            redirect_uri="https://books.example/callback?tenant=7",
            psu=PERSON,
        )
    with pytest.raises(BlinkError):
        caller.refresh(grant, "fake-refresh-token-1")
    with pytest.raises(RevocationError):
        caller.revoke(grant, FAKE)


def failures() -> Iterator[Response]:
    """Yield every form in which the contract lets a call fail: status, source and body."""
    for status, source in product(sorted(STATUSES - {200}), SOURCES):
        yield problem(status, "TECHNICAL_ERROR", "Fault", "As asked for.", source)
        refusal = evolve(oauth_error("server_error", "As asked for."), status=status)
        yield refusal.with_header("X-CorAPI-Source", source)


def answering(reply: Response) -> Fault:
    """Make a fault that answers a request with a reply."""

    def change(usual: Response) -> Response:
        return reply.with_header("X-Correlation-ID", usual.header("X-Correlation-ID") or "")

    return Fault("asked-for", executes=False, change=change)


@pytest.fixture(params=FLAVOURS)
def messages(request: pytest.FixtureRequest, blink_sandbox: Sandbox) -> list[Message]:
    """Run the whole repertoire of one flavour, and return what went over the wire."""
    flavour: Flavour = request.param
    recorder = Recorder(blink_sandbox.settings())
    with calling(flavour, blink_sandbox.settings(), transport=recorder) as caller:
        for bank in (STRICT, LENIENT):
            succeed(caller, blink_sandbox, bank)
        be_refused(caller, Grant("IIDX99999", "u-4711"))
        for reply in failures():
            blink_sandbox.fail(answering(reply), times=4)
            be_refused(caller, blink_sandbox.grant())
        with pytest.raises(BlinkError):
            caller.refresh(blink_sandbox.grant(), "fake-refresh-token-1")
    impostor = evolve(blink_sandbox.settings(), client_id="CIDX0000000009")
    with calling(flavour, impostor, transport=recorder) as caller:
        be_refused(caller, blink_sandbox.grant())
    return recorder.messages


def test_the_repertoire_keeps_the_contract_both_ways(
    messages: list[Message], blink_sandbox: Sandbox
) -> None:
    judge = Judge.of(blink_sandbox.base_url)
    assert [fault for message in messages for fault in judge.faults(message)] == []
    assert {(message.operation, message.status) for message in messages} == set(
        product(OPERATIONS, STATUSES)
    )
    assert len(messages) == len(blink_sandbox.exchanges)


def test_the_sandbox_came_to_the_same_verdict(
    messages: list[Message], blink_sandbox: Sandbox
) -> None:
    assert len(messages) == len(blink_sandbox.exchanges)
    for seen in blink_sandbox.exchanges:
        assert seen.request_violations == ()
        assert seen.violations == ()
