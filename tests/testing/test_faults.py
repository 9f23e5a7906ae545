"""Each fault does what its name says, and its exchange records whether the request was executed."""

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
from blink_oauth_testing.sandbox.http import (
    ServedApplication,
    bind,
    send_response,
    server_context,
    serving,
)
from blink_oauth_testing.sandbox.messages import Response
from testing.raw_client import HEADERS, NON_ROTATING, STRICT, RawClient, tls_context

PAIR = {"access_token", "token_type", "expires_in", "refresh_token", "scope"}


def refresh_with(client: RawClient, fault: Fault | str) -> httpx.Response:
    token = client.tokens()["refresh_token"]
    client.sandbox.fail(fault, target_id=STRICT, operation="request_token")
    return client.refresh(token)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_every_fault_happens_once_and_leaves_the_server_usable(
    client: RawClient, fault: Fault
) -> None:
    token = client.tokens()["refresh_token"]
    client.sandbox.fail(fault)
    try:
        response = client.refresh(token)
    except (httpx.ReadError, httpx.RemoteProtocolError):
        assert fault.delivery.reset or fault.delivery.body_fraction < 1.0
    else:
        assert response.status_code == client.sandbox.exchanges[-1].status
    exchange = client.sandbox.exchanges[-1]
    assert (exchange.fault, exchange.executed) == (fault.name, fault.executes)
    # The refresh token is spent if, and only if, the bank executed the request.
    assert client.sandbox.banks[STRICT].accepts(token) is not fault.executes
    assert client.tokens().keys() == PAIR


@pytest.mark.parametrize(
    ("name", "status", "source"),
    [
        ("gateway-timeout-before", 504, "PLATFORM"),
        ("gateway-timeout-after", 504, "PLATFORM"),
        ("not-acceptable-after", 406, "PLATFORM"),
        ("not-acceptable-after-by-bank", 406, "PROVIDER"),
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
def test_a_status_fault_responds_with_its_status(
    client: RawClient, name: str, status: int, source: str | None
) -> None:
    response = refresh_with(client, name)
    assert response.status_code == status
    assert response.headers.get("X-CorAPI-Source") == source


def test_an_undocumented_success_still_carries_the_pair(client: RawClient) -> None:
    assert refresh_with(client, "status-299").json().keys() == PAIR


def test_a_bad_gateway_is_an_html_page(client: RawClient) -> None:
    response = refresh_with(client, BAD_GATEWAY_HTML)
    assert response.headers["Content-Type"] == "text/html;charset=utf-8"
    assert response.text.startswith("<html>")


@pytest.mark.parametrize("name", ["service-unavailable", "too-many-requests"])
def test_a_busy_platform_sends_retry_after(client: RawClient, name: str) -> None:
    assert refresh_with(client, name).headers["Retry-After"] == "2"


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
def test_retry_after_is_seconds_or_a_date_or_absent(
    client: RawClient,
    make: Callable[[int | datetime | None], Fault],
    status: int,
    retry_after: int | datetime | None,
    header: str | None,
) -> None:
    response = refresh_with(client, make(retry_after))
    assert response.status_code == status
    assert response.headers.get("Retry-After") == header
    assert not client.sandbox.exchanges[-1].executed


def test_a_date_without_a_time_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="UTC"):
        unavailable(datetime(2030, 1, 2, 3, 4, 5))  # noqa: DTZ001


def test_a_redirect_points_to_another_host(client: RawClient) -> None:
    location = refresh_with(client, "redirect").headers["Location"]
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
def test_an_invalid_lifetime_arrives_unchanged(
    client: RawClient, name: str, expires_in: object
) -> None:
    assert refresh_with(client, name).json()["expires_in"] == expires_in


@pytest.mark.parametrize("member", ["access_token", "expires_in", "refresh_token"])
def test_a_missing_member_fault_removes_only_that_member(client: RawClient, member: str) -> None:
    response = refresh_with(client, f"missing-{member.replace('_', '-')}")
    assert response.json().keys() == PAIR - {member}


def test_unknown_members_are_added_to_the_pair(client: RawClient) -> None:
    assert refresh_with(client, "unknown-members").json().keys() > PAIR


def test_the_token_type_can_be_unknown(client: RawClient) -> None:
    assert refresh_with(client, "odd-token-type").json()["token_type"] == "MAC"


@pytest.mark.parametrize(("name", "body"), [("empty-body", b""), ("not-json", b"access granted")])
def test_the_body_can_be_empty_or_not_json(client: RawClient, name: str, body: bytes) -> None:
    response = refresh_with(client, name)
    assert (response.status_code, response.content) == (200, body)


def test_the_body_can_be_a_list(client: RawClient) -> None:
    (pair,) = refresh_with(client, "json-list").json()
    assert pair.keys() == PAIR


@pytest.mark.parametrize(
    ("name", "header", "value"),
    [
        ("wrong-content-type", "Content-Type", "text/plain"),
        ("wrong-correlation-id", "X-Correlation-ID", "of-another-request"),
        ("missing-correlation-id", "X-Correlation-ID", None),
        ("missing-source", "X-CorAPI-Source", None),
        ("cacheable", "Cache-Control", "public, max-age=60"),
    ],
)
def test_a_header_can_be_wrong_or_missing(
    client: RawClient, name: str, header: str, value: str | None
) -> None:
    response = refresh_with(client, name)
    assert response.headers.get_list(header) == ([] if value is None else [value])
    assert response.json().keys() == PAIR


@pytest.mark.parametrize("fault", [RESET_BEFORE, RESET_AFTER])
def test_a_reset_ends_the_connection_without_a_response(client: RawClient, fault: Fault) -> None:
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        refresh_with(client, fault)


def test_a_reset_is_a_tcp_reset(sandbox: Sandbox) -> None:
    # Reads from the socket below TLS, because Python's ssl reports a reset like any other end.
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


def test_a_truncated_body_is_shorter_than_its_content_length(client: RawClient) -> None:
    with pytest.raises(httpx.RemoteProtocolError, match=r"received (\d+) bytes, expected (\d+)"):
        refresh_with(client, truncated_body(0.25))


def test_a_slow_body_arrives_slowly_and_completely(client: RawClient) -> None:
    token = client.tokens()["refresh_token"]
    client.sandbox.fail(slow_body(0.02))
    started = time.monotonic()
    assert client.refresh(token).json().keys() == PAIR
    assert time.monotonic() - started >= 0.02 * 9


def test_slow_headers_delay_the_response(client: RawClient) -> None:
    token = client.tokens()["refresh_token"]
    client.sandbox.fail(slow_headers(0.3))
    with pytest.raises(httpx.ReadTimeout):
        client.http.post(
            "/oauth/token",
            data={
                "grant_type": "refresh_token",
                "client_id": client.client_id,
                "username": "u-4711",
                "refresh_token": token,
            },
            headers=HEADERS,
            timeout=0.1,
        )


def test_stop_does_not_wait_for_a_slow_body() -> None:
    with Sandbox() as sandbox:
        client = RawClient(sandbox)
        sandbox.fail(slow_body(60.0), operation="list_accounts")
        token = client.tokens()["access_token"]
        request = client.http.build_request(
            "GET",
            sandbox.accounts_url,
            headers=HEADERS | {"Authorization": f"Bearer {token}"},
        )
        response = client.http.send(request, stream=True)
        started = time.monotonic()
    assert time.monotonic() - started < 5.0
    with pytest.raises((httpx.ReadError, httpx.RemoteProtocolError)):
        response.read()
    client.close()


@pytest.mark.parametrize("silence", SILENT_FAULTS.values(), ids=SILENT_FAULTS)
def test_a_silent_fault_sends_nothing_and_the_next_request_succeeds(
    client: RawClient, silence: Fault
) -> None:
    token = client.tokens()["refresh_token"]
    client.sandbox.fail(silence.name, operation="request_token")
    client.http.timeout = httpx.Timeout(5.0, read=0.1)
    with pytest.raises(httpx.ReadTimeout):
        client.refresh(token)
    exchange = client.sandbox.exchanges[-1]
    assert (exchange.fault, exchange.executed) == (silence.name, silence.executes)
    assert client.sandbox.banks[STRICT].accepts(token) is not silence.executes
    client.http.timeout = httpx.Timeout(5.0)
    assert client.tokens().keys() == PAIR


def test_stop_ends_a_silent_connection() -> None:
    with Sandbox() as sandbox, ThreadPoolExecutor(1) as pool:
        client = RawClient(sandbox)
        sandbox.fail("silence-before")
        waiting = pool.submit(client.refresh, "fake-refresh-token")
        while not (sandbox.exchanges or waiting.done()):
            time.sleep(0.01)
        started = time.monotonic()
        sandbox.stop()
        error = waiting.exception(timeout=5.0)
    assert isinstance(error, (httpx.ReadError, httpx.RemoteProtocolError))
    assert time.monotonic() - started < 5.0
    client.close()


@pytest.mark.anyio
@pytest.mark.parametrize(
    "delivery", [Delivery(silent=True), Delivery(delay=3600.0), Delivery(head_interval=60.0)]
)
async def test_a_client_that_disconnects_ends_its_delivery(
    delivery: Delivery, sandbox: Sandbox, tmp_path: Path
) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def handle(request: web.Request) -> web.StreamResponse:
        begun.set()
        try:
            return await send_response(request, Response(200, body=b"{}"), delivery)
        finally:
            ended.set()

    application, authority = web.Application(), sandbox.authority
    application.router.add_get("/", handle)
    credentials, certificate = authority.issue_server(), sandbox.client_certificate()
    files = CredentialFiles.named(tmp_path, "server")
    credentials.save(tmp_path, "server")
    context = server_context(files, credentials.passphrase, authority.root_pem.decode())
    with bind(0) as listening:
        async with serving(ServedApplication(listening, application, context)):
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


def test_a_fault_applies_to_its_bank_operation_and_number_of_requests(client: RawClient) -> None:
    client.sandbox.fail(GATEWAY_TIMEOUT_BEFORE, target_id=STRICT, operation="revoke_token", times=2)
    strict, lenient = client.tokens(STRICT), client.tokens(NON_ROTATING)
    assert client.revoke(lenient["access_token"], target_id=NON_ROTATING).status_code == 200
    statuses = [client.revoke(strict["access_token"]).status_code for _ in range(3)]
    assert statuses == [504, 504, 200]


def test_a_token_fault_waits_for_a_token_request(client: RawClient) -> None:
    tokens = client.tokens()
    client.sandbox.fail(MISSING_ACCESS_TOKEN)
    assert client.revoke(tokens["access_token"]).status_code == 200
    assert "access_token" not in client.refresh(tokens["refresh_token"]).json()


def test_a_refused_request_leaves_the_fault_for_the_next_one(client: RawClient) -> None:
    tokens = client.tokens()
    client.sandbox.fail(GATEWAY_TIMEOUT_AFTER)
    assert client.refresh(tokens["refresh_token"], username="").status_code == 400
    assert client.refresh(tokens["refresh_token"]).status_code == 504


def test_faults_happen_in_the_order_they_were_planned(client: RawClient) -> None:
    token = client.tokens()["refresh_token"]
    client.sandbox.fail(GATEWAY_TIMEOUT_BEFORE)
    client.sandbox.fail(BAD_GATEWAY_HTML)
    assert [client.refresh(token).status_code for _ in range(3)] == [504, 502, 200]


def test_a_test_can_define_its_own_fault(client: RawClient) -> None:
    own_fault = Fault("teapot", executes=False, change=lambda _: Response(418))
    assert refresh_with(client, own_fault).status_code == 418
    executed = evolve(BAD_GATEWAY_HTML, executes=True)
    assert refresh_with(client, executed).status_code == 502
    assert client.sandbox.exchanges[-1].executed


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


def test_an_unknown_fault_name_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match=r"no such fault.*not-json.*silence-after"):
        sandbox.fail("no-such-fault")


def test_a_response_that_a_fault_breaks_is_no_violation(client: RawClient) -> None:
    refresh_with(client, "missing-source")
    assert client.sandbox.exchanges[-1].response_violations == (
        "header X-CorAPI-Source: missing required header",
    )
    assert client.sandbox.violations == ()


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
def test_the_exchange_lists_the_rules_that_a_fault_breaks(
    client: RawClient, name: str, violation: str
) -> None:
    refresh_with(client, name)
    violations = client.sandbox.exchanges[-1].response_violations
    assert any(text.startswith(violation) for text in violations), violations
    assert "fake-" not in str(violations)


def break_the_contract(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a patched platform send one response that breaks the contract."""
    client = RawClient(sandbox)
    with monkeypatch.context() as defect:
        defect.setattr(platform, "success", lambda content: Response(200))
        client.exchange(sandbox.issue_code(sandbox.grant()))
    client.close()


def test_a_violation_without_a_fault_fails_the_with_block(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox().start()
    break_the_contract(sandbox, monkeypatch)
    with pytest.raises(ContractViolationError, match="request_token 200: header Cache-Control"):
        sandbox.__exit__(None, None, None)


def test_a_violation_does_not_hide_another_error(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = Sandbox().start()
    break_the_contract(sandbox, monkeypatch)
    error = ZeroDivisionError()
    # Must return without an error, so that Python raises the one given.
    sandbox.__exit__(ZeroDivisionError, error, None)
    assert sandbox.violations


def test_the_ready_made_slow_body_takes_at_most_a_second() -> None:
    assert SLOW_BODY.delivery.body_interval * SLOW_BODY.delivery.pieces <= 1.0
