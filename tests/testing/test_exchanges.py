"""Recorded exchanges are complete and contain no secret."""

from __future__ import annotations

import logging
import socket

import httpx
import pytest
from attrs import evolve

from blink_oauth_testing.sandbox import Sandbox
from blink_oauth_testing.sandbox.exchanges import MAX_EXCHANGES, ExchangeRecorder
from blink_oauth_testing.sandbox.http import http_logger
from blink_oauth_testing.sandbox.messages import Request, success
from testing.raw_client import CLIENT_ID, HEADERS, STRICT, RawClient


def test_an_exchange_records_request_and_response(sandbox: Sandbox, client: RawClient) -> None:
    sandbox.clock.advance(seconds=100.0)
    client.tokens()
    (exchange,) = sandbox.exchanges
    assert exchange.operation == "request_token"
    assert exchange.target_id == STRICT
    assert exchange.client_id == CLIENT_ID
    assert exchange.correlation_id == HEADERS["X-Correlation-ID"]
    assert (exchange.method, exchange.path) == ("POST", "/consent-flow/v2/oauth/token")
    assert (exchange.status, exchange.executed, exchange.fault) == (200, True, None)
    assert exchange.request_violations == exchange.response_violations == ()
    assert ("X-PSU-IP-Address", "203.0.113.7") in exchange.request_headers
    assert ("X-CorAPI-Source", "PROVIDER") in exchange.response_headers
    assert sandbox.clock() - 5.0 < exchange.at <= sandbox.clock()


def test_a_refusal_is_recorded_with_the_rules_that_were_broken(
    sandbox: Sandbox, client: RawClient
) -> None:
    client.refresh("fake-refresh-token", username="")
    exchange = sandbox.exchanges[-1]
    assert (exchange.status, exchange.executed) == (400, False)
    assert exchange.request_violations == ("body field username: minLength 1",)


def test_a_request_to_an_unknown_path_is_recorded_too(sandbox: Sandbox, client: RawClient) -> None:
    client.http.get("/nowhere")
    assert (sandbox.exchanges[-1].operation, sandbox.exchanges[-1].status) == (None, 404)


def test_the_recorder_keeps_the_newest_exchanges_and_every_violation(
    sandbox: Sandbox, client: RawClient
) -> None:
    client.tokens()
    recorder, (exchange,) = ExchangeRecorder(), sandbox.exchanges
    recorder.add(evolve(exchange, response_violations=("header Pragma: missing",)))
    for number in range(MAX_EXCHANGES):
        recorder.add(evolve(exchange, at=float(number)))
    assert [seen.at for seen in recorder.exchanges] == [
        float(number) for number in range(MAX_EXCHANGES)
    ]
    assert list(recorder.violations) == ["request_token 200: header Pragma: missing"]
    recorder.clear()
    assert not recorder.exchanges
    assert not recorder.violations


def test_equal_secrets_have_equal_fingerprints(sandbox: Sandbox, client: RawClient) -> None:
    token = client.tokens()["refresh_token"]
    client.refresh(token)
    client.refresh(token)
    first, again = (dict(exchange.form)["refresh_token"] for exchange in sandbox.exchanges[-2:])
    assert first == again == sandbox.fingerprint(token)
    assert first.startswith("fingerprint:")


def test_fingerprints_of_two_sandboxes_cannot_be_compared(sandbox: Sandbox) -> None:
    with Sandbox() as other:
        assert other.fingerprint("fake-token") != sandbox.fingerprint("fake-token")


def test_no_secret_is_recorded_or_logged(
    sandbox: Sandbox, client: RawClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="aiohttp")
    caplog.set_level(logging.DEBUG, logger="asyncio")
    caplog.set_level(logging.DEBUG, logger="blink_oauth")
    code = sandbox.issue_code(sandbox.grant())
    pair = client.exchange(code).json()
    client.accounts(pair["access_token"])
    renewed = client.refresh(pair["refresh_token"]).json()
    client.revoke(renewed["refresh_token"])
    client.refresh("fake-unknown-token", client_secret="fake-client-secret")
    seen = repr(sandbox.exchanges) + repr(sandbox) + caplog.text
    secrets = [code, "fake-unknown-token", "fake-client-secret"]
    secrets += [pair["access_token"], pair["refresh_token"], renewed["access_token"]]
    assert [secret for secret in secrets if secret in seen] == []
    assert len(sandbox.exchanges) == 5


def test_requests_and_responses_hide_secrets_in_their_repr() -> None:
    call = Request(
        "POST", "/", (("Authorization", "Bearer fake-token"),), b"token=fake-token", "00"
    )
    assert "fake-token" not in repr(call)
    assert "fake-token" not in repr(success({"access_token": "fake-token"}))


def test_exchanges_are_in_the_order_of_the_requests(sandbox: Sandbox, client: RawClient) -> None:
    for number in range(5):
        client.post("/oauth/token", {}, headers={"X-Correlation-ID": f"id-{number}"})
    assert [e.correlation_id for e in sandbox.exchanges] == [f"id-{n}" for n in range(5)]


def test_a_malformed_http_request_is_refused_and_not_logged(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    url = httpx.URL(sandbox.control_url)
    with socket.create_connection(("127.0.0.1", url.port or 0), timeout=5.0) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nAuthorization: Bearer fake-token\x00\r\n\r\n")
        assert b" 400 " in connection.recv(64)
    assert "fake-token" not in caplog.text


def test_an_error_of_the_sandbox_itself_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        http_logger.exception("Error handling request")
    assert "ZeroDivisionError" in caplog.text
