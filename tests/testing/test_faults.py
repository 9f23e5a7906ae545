"""Each fault does on the wire what its name says, and the record knows whether a bank acted."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from aiohttp import web
from attrs import evolve

from blink_oauth_testing.sandbox import (
    FAULTS,
    SILENT_FAULTS,
    ContractViolationError,
    Delivery,
    Fault,
    Sandbox,
    platform,
)
from blink_oauth_testing.sandbox.certificates import CredentialFiles
from blink_oauth_testing.sandbox.faults import (
    BAD_GATEWAY_HTML,
    GATEWAY_TIMEOUT_AFTER,
    GATEWAY_TIMEOUT_BEFORE,
    MISSING_ACCESS_TOKEN,
    NOT_JSON,
    RESET_AFTER,
    RESET_BEFORE,
    SLOW_BODY,
    FaultPlan,
    Operation,
    slow_body,
    slow_headers,
    too_many_requests,
    truncated_body,
    unavailable,
)
from blink_oauth_testing.sandbox.http import Site, bind, deliver, server_context, serving
from blink_oauth_testing.sandbox.messages import Response
from testing.caller import HEADERS, LENIENT, STRICT, Caller, tls_context

PAIR = {"access_token", "token_type", "expires_in", "refresh_token"}


def refresh_under(caller: Caller, fault: Fault | str) -> httpx.Response:
    token = caller.tokens()["refresh_token"]
    caller.sandbox.fail(fault, target_id=STRICT, operation="request_token")
    return caller.refresh(token)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_strikes_once_and_leaves_the_server_usable(
    caller: Caller, fault: Fault
) -> None:
    token = caller.tokens()["refresh_token"]
    caller.sandbox.fail(fault)
    try:
        response = caller.refresh(token)
    except (httpx.ReadError, httpx.RemoteProtocolError):
        assert fault.delivery.reset or fault.delivery.body_fraction < 1.0
    else:
        assert response.status_code == caller.sandbox.exchanges[-1].status
    struck = caller.sandbox.exchanges[-1]
    assert (struck.fault, struck.executed) == (fault.name, fault.executes)
    # A bank that acted has spent the refresh token; one that did not still takes it.
    assert caller.sandbox.banks[STRICT].accepts(token) is not fault.executes
    assert caller.tokens().keys() == PAIR


@pytest.mark.parametrize(
    ("name", "status", "source"),
    [
        ("gateway-timeout-before", 504, "PLATFORM"),
        ("gateway-timeout-after", 504, "PLATFORM"),
        ("internal-server-error", 500, "PLATFORM"),
        ("service-unavailable", 503, "PLATFORM"),
        ("too-many-requests", 429, "PLATFORM"),
        ("bad-gateway-html", 502, None),
        ("status-201", 201, "PROVIDER"),
        ("status-299", 299, "PROVIDER"),
        ("status-499", 499, None),
        ("status-520", 520, None),
        ("status-599", 599, None),
        ("redirect", 307, None),
    ],
)
def test_a_status_fault_answers_with_its_status(
    caller: Caller, name: str, status: int, source: str | None
) -> None:
    response = refresh_under(caller, name)
    assert response.status_code == status
    assert response.headers.get("X-CorAPI-Source") == source


def test_an_undocumented_success_still_carries_the_pair(caller: Caller) -> None:
    assert refresh_under(caller, "status-299").json().keys() == PAIR


def test_a_bad_gateway_is_a_page_of_html(caller: Caller) -> None:
    response = refresh_under(caller, BAD_GATEWAY_HTML)
    assert response.headers["Content-Type"] == "text/html;charset=utf-8"
    assert response.text.startswith("<html>")


@pytest.mark.parametrize("name", ["service-unavailable", "too-many-requests"])
def test_a_busy_platform_says_when_to_come_back(caller: Caller, name: str) -> None:
    assert refresh_under(caller, name).headers["Retry-After"] == "2"


@pytest.mark.parametrize(
    ("retry_after", "header"),
    [
        (0, "0"),
        (120, "120"),
        (datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC), "Wed, 02 Jan 2030 03:04:05 GMT"),
        (None, None),
    ],
)
@pytest.mark.parametrize(("make", "status"), [(unavailable, 503), (too_many_requests, 429)])
def test_a_busy_platform_says_when_in_either_way_or_not_at_all(
    caller: Caller,
    make: Callable[[int | datetime | None], Fault],
    status: int,
    retry_after: int | datetime | None,
    header: str | None,
) -> None:
    response = refresh_under(caller, make(retry_after))
    assert response.status_code == status
    assert response.headers.get("Retry-After") == header
    assert not caller.sandbox.exchanges[-1].executed


def test_a_date_in_no_known_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="UTC"):
        unavailable(datetime(2030, 1, 2, 3, 4, 5))  # noqa: DTZ001


def test_a_redirect_points_elsewhere(caller: Caller) -> None:
    location = refresh_under(caller, "redirect").headers["Location"]
    assert httpx.URL(location).host == "elsewhere.invalid"


@pytest.mark.parametrize(
    ("name", "expires_in"),
    [
        ("null-expires-in", None),
        ("string-expires-in", "300"),
        ("float-expires-in", 300.5),
        ("negative-expires-in", -1),
    ],
)
def test_an_odd_lifetime_arrives_as_it_is(caller: Caller, name: str, expires_in: object) -> None:
    assert refresh_under(caller, name).json()["expires_in"] == expires_in


@pytest.mark.parametrize("member", ["access_token", "expires_in", "refresh_token"])
def test_a_missing_member_is_missing(caller: Caller, member: str) -> None:
    response = refresh_under(caller, f"missing-{member.replace('_', '-')}")
    assert response.json().keys() == PAIR - {member}


def test_unknown_members_come_on_top(caller: Caller) -> None:
    assert refresh_under(caller, "unknown-members").json().keys() > PAIR


def test_a_token_type_may_be_odd(caller: Caller) -> None:
    assert refresh_under(caller, "odd-token-type").json()["token_type"] == "MAC"


@pytest.mark.parametrize(("name", "body"), [("empty-body", b""), ("not-json", b"access granted")])
def test_a_body_may_be_unreadable(caller: Caller, name: str, body: bytes) -> None:
    response = refresh_under(caller, name)
    assert (response.status_code, response.content) == (200, body)


def test_a_body_may_be_a_list(caller: Caller) -> None:
    (pair,) = refresh_under(caller, "json-list").json()
    assert pair.keys() == PAIR


@pytest.mark.parametrize(
    ("name", "header", "value"),
    [
        ("wrong-content-type", "Content-Type", "text/plain"),
        ("wrong-correlation-id", "X-Correlation-ID", "of-somebody-else"),
        ("missing-correlation-id", "X-Correlation-ID", None),
        ("missing-source", "X-CorAPI-Source", None),
        ("cacheable", "Cache-Control", "public, max-age=60"),
    ],
)
def test_a_header_may_be_wrong_or_missing(
    caller: Caller, name: str, header: str, value: str | None
) -> None:
    response = refresh_under(caller, name)
    assert response.headers.get_list(header) == ([] if value is None else [value])
    assert response.json().keys() == PAIR


@pytest.mark.parametrize("fault", [RESET_BEFORE, RESET_AFTER])
def test_a_reset_ends_the_connection_without_a_word(caller: Caller, fault: Fault) -> None:
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        refresh_under(caller, fault)


def test_a_reset_is_one_of_tcp(sandbox: Sandbox) -> None:
    # Below TLS, as Python's ssl reports a reset and a mere end in the same way.
    certificate = sandbox.client_certificate()
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = tls_context(str(certificate.ca), certificate).wrap_bio(
        incoming, outgoing, server_hostname="localhost"
    )
    url = httpx.URL(sandbox.accounts_url)
    request = httpx.Request("GET", url, headers=HEADERS)
    lines = [f"GET {url.path} HTTP/1.1", *(f"{k}: {v}" for k, v in request.headers.items())]
    sandbox.fail(RESET_BEFORE)
    with socket.create_connection(("127.0.0.1", url.port or 0), timeout=5.0) as connection:
        while True:
            with contextlib.suppress(ssl.SSLWantReadError):
                tls.do_handshake()
                break
            connection.sendall(outgoing.read())
            incoming.write(connection.recv(65_536))
        tls.write("\r\n".join([*lines, "", ""]).encode())
        connection.sendall(outgoing.read())
        with pytest.raises(ConnectionResetError):
            list(iter(lambda: connection.recv(65_536), b""))


def test_a_truncated_body_is_announced_whole(caller: Caller) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match=r"received (\d+) bytes, expected (\d+)"):
        refresh_under(caller, truncated_body(0.25))


def test_a_slow_body_drips_and_ends(caller: Caller) -> None:
    token = caller.tokens()["refresh_token"]
    caller.sandbox.fail(slow_body(0.02))
    started = time.monotonic()
    assert caller.refresh(token).json().keys() == PAIR
    assert time.monotonic() - started >= 0.02 * 9


def test_slow_headers_keep_the_client_waiting_for_a_response(caller: Caller) -> None:
    token = caller.tokens()["refresh_token"]
    caller.sandbox.fail(slow_headers(0.3))
    with pytest.raises(httpx.ReadTimeout):
        caller.http.post(
            "/oauth/token",
            data={
                "grant_type": "refresh_token",
                "client_id": caller.client_id,
                "username": "u-4711",
                "refresh_token": token,
            },
            headers=HEADERS,
            timeout=0.1,
        )


def test_a_sandbox_that_stops_does_not_wait_for_a_slow_body() -> None:
    with Sandbox() as sandbox:
        caller = Caller(sandbox)
        sandbox.fail(slow_body(60.0), operation="list_accounts")
        token = caller.tokens()["access_token"]
        request = caller.http.build_request(
            "GET",
            sandbox.accounts_url,
            headers=HEADERS | {"Authorization": f"Bearer {token}"},
        )
        response = caller.http.send(request, stream=True)
        started = time.monotonic()
    assert time.monotonic() - started < 5.0
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        response.read()
    caller.close()


@pytest.mark.parametrize("silence", SILENT_FAULTS.values(), ids=SILENT_FAULTS)
def test_a_silent_endpoint_answers_nothing_and_serves_the_next_one(
    caller: Caller, silence: Fault
) -> None:
    token = caller.tokens()["refresh_token"]
    caller.sandbox.fail(silence.name, operation="request_token")
    caller.http.timeout = httpx.Timeout(5.0, read=0.1)
    with pytest.raises(httpx.ReadTimeout):
        caller.refresh(token)
    struck = caller.sandbox.exchanges[-1]
    assert (struck.fault, struck.executed) == (silence.name, silence.executes)
    assert caller.sandbox.banks[STRICT].accepts(token) is not silence.executes
    caller.http.timeout = httpx.Timeout(5.0)
    assert caller.tokens().keys() == PAIR


def test_a_sandbox_that_stops_breaks_its_silence() -> None:
    with Sandbox() as sandbox, ThreadPoolExecutor(1) as pool:
        caller = Caller(sandbox)
        sandbox.fail("silence-before")
        waiting = pool.submit(caller.refresh, "fake-refresh-token")
        while not (sandbox.exchanges or waiting.done()):
            time.sleep(0.01)
        started = time.monotonic()
        sandbox.stop()
        error = waiting.exception(timeout=5.0)
    assert isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError))
    assert time.monotonic() - started < 5.0
    caller.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "delivery", [Delivery(silent=True), Delivery(after=3600.0), Delivery(head_interval=60.0)]
)
async def test_a_client_that_goes_away_ends_what_it_waited_for(
    delivery: Delivery, sandbox: Sandbox, tmp_path: Path
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        begun.set()
        try:
            return await deliver(request, Response(200, body=b"{}"), delivery)
        finally:
            ended.set()

    application, authority = web.Application(), sandbox.authority
    application.router.add_get("/", handle)
    credentials, certificate = authority.issue_server(), sandbox.client_certificate()
    files = CredentialFiles.named(tmp_path, "server")
    credentials.save(tmp_path, "server")
    context = server_context(files, credentials.passphrase, authority.root_pem.decode())
    with bind(0) as listening:
        async with serving(Site(listening, application, context)):
            _, writer = await asyncio.open_connection(
                *listening.getsockname(),
                ssl=tls_context(str(certificate.ca), certificate),
                server_hostname="localhost",
            )
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await asyncio.wait_for(begun.wait(), 5.0)
            assert not ended.is_set()
            writer.transport.abort()
            await asyncio.wait_for(ended.wait(), 5.0)


def test_faults_keep_to_bank_operation_and_number(caller: Caller) -> None:
    caller.sandbox.fail(GATEWAY_TIMEOUT_BEFORE, target_id=STRICT, operation="revoke_token", times=2)
    strict, lenient = caller.tokens(STRICT), caller.tokens(LENIENT)
    assert caller.revoke(lenient["access_token"], target_id=LENIENT).status_code == 200
    statuses = [caller.revoke(strict["access_token"]).status_code for _ in range(3)]
    assert statuses == [504, 504, 200]


def test_a_token_fault_waits_for_a_token_request(caller: Caller) -> None:
    tokens = caller.tokens()
    caller.sandbox.fail(MISSING_ACCESS_TOKEN)
    assert caller.revoke(tokens["access_token"]).status_code == 200
    assert "access_token" not in caller.refresh(tokens["refresh_token"]).json()


def test_a_refused_request_leaves_the_fault_for_the_next_one(caller: Caller) -> None:
    tokens = caller.tokens()
    caller.sandbox.fail(GATEWAY_TIMEOUT_AFTER)
    assert caller.refresh(tokens["refresh_token"], username="").status_code == 400
    assert caller.refresh(tokens["refresh_token"]).status_code == 504


def test_faults_strike_in_the_order_they_were_asked_for(caller: Caller) -> None:
    token = caller.tokens()["refresh_token"]
    caller.sandbox.fail(GATEWAY_TIMEOUT_BEFORE)
    caller.sandbox.fail(BAD_GATEWAY_HTML)
    assert [caller.refresh(token).status_code for _ in range(3)] == [504, 502, 200]


def test_a_fault_of_ones_own_is_a_value(caller: Caller) -> None:
    teapot = Fault("teapot", executes=False, change=lambda _: Response(418))
    assert refresh_under(caller, teapot).status_code == 418
    executed = evolve(BAD_GATEWAY_HTML, executes=True)
    assert refresh_under(caller, executed).status_code == 502
    assert caller.sandbox.exchanges[-1].executed


@pytest.mark.parametrize(
    ("target_id", "operation", "times", "words"),
    [
        ("IIDX77777", None, 1, "no such bank"),
        (None, "request_tokens", 1, "no such operation"),
        (None, "revoke_token", 1, "fits only request_token"),
        (None, None, 0, "at least once"),
    ],
)
def test_a_fault_that_could_never_happen_is_refused(
    target_id: str | None, operation: Operation | None, times: int, words: str
) -> None:
    plan = FaultPlan((STRICT,))
    with pytest.raises(ValueError, match=words):
        plan.add(NOT_JSON, target_id=target_id, operation=operation, times=times)


def test_a_fault_that_nobody_knows_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match=r"no such fault.*not-json.*silence-after"):
        sandbox.fail("no-such-fault")


def test_a_broken_response_that_was_asked_for_is_no_violation(caller: Caller) -> None:
    refresh_under(caller, "missing-source")
    assert caller.sandbox.exchanges[-1].violations == (
        "header X-CorAPI-Source: missing required header",
    )
    assert caller.sandbox.violations == ()


@pytest.mark.parametrize(
    ("name", "violation"),
    [
        ("missing-access-token", "body field access_token: missing"),
        ("string-expires-in", "body field expires_in: type integer"),
        ("cacheable", "header Cache-Control: pattern"),
        ("wrong-correlation-id", "header X-Correlation-ID: not that of the request"),
        ("wrong-content-type", "body: "),
        ("not-json", "body: "),
        ("json-list", "body: type object"),
        ("status-299", "body: "),
        ("bad-gateway-html", "header X-CorAPI-Source: missing"),
    ],
)
def test_the_sandbox_sees_what_is_wrong_with_its_own_response(
    caller: Caller, name: str, violation: str
) -> None:
    refresh_under(caller, name)
    violations = caller.sandbox.exchanges[-1].violations
    assert any(text.startswith(violation) for text in violations), violations
    assert "fake-" not in str(violations)


def break_secretly(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a defect of the platform break the contract once."""
    caller = Caller(sandbox)
    with monkeypatch.context() as defect:
        defect.setattr(platform, "success", lambda content: Response(200))
        caller.exchange(sandbox.issue_code(sandbox.grant()))
    caller.close()


def test_a_violation_nobody_asked_for_fails_the_with_block(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox().start()
    break_secretly(sandbox, monkeypatch)
    with pytest.raises(ContractViolationError, match="request_token 200: header Cache-Control"):
        sandbox.__exit__(None, None, None)


def test_a_violation_does_not_hide_another_error(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox().start()
    break_secretly(sandbox, monkeypatch)
    error = ZeroDivisionError()
    # Returns without an error of its own, so that this one goes on.
    sandbox.__exit__(ZeroDivisionError, error, None)
    assert sandbox.violations


def test_a_slow_fault_of_the_registry_ends_soon() -> None:
    assert SLOW_BODY.delivery.body_interval * SLOW_BODY.delivery.pieces <= 1.0
