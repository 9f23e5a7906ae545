"""The control interface: another process reads exchanges, plans faults and advances the clock."""

from __future__ import annotations

import httpx
import pytest

from blink_oauth_testing.sandbox import Sandbox
from testing.raw_client import NON_ROTATING, STRICT, RawClient


def post(sandbox: Sandbox, body: object, path: str = "faults") -> httpx.Response:
    return httpx.post(f"{sandbox.control_url}/sandbox/{path}", json=body, trust_env=False)


def test_another_process_can_read_environment_targets_and_exchanges(
    sandbox: Sandbox, client: RawClient
) -> None:
    tokens = client.tokens()
    for _ in range(2):
        client.refresh(tokens["refresh_token"])
    response = httpx.get(f"{sandbox.control_url}/sandbox", trust_env=False)
    content = response.json()
    assert content["environment"] == sandbox.environment()
    assert content["targets"] == list(sandbox.banks)
    assert content["banks"][STRICT] == {"refreshes": 1, "reuses": 1}
    assert content["banks"][NON_ROTATING] == {"refreshes": 0, "reuses": 0}
    assert sandbox.clock() - 5.0 < content["now"] <= sandbox.clock()
    seen = [(exchange["operation"], exchange["status"]) for exchange in content["exchanges"]]
    assert seen == [("request_token", status) for status in (200, 200, 400)]
    for secret in (tokens["access_token"], tokens["refresh_token"]):
        assert secret not in response.text
    passphrase = sandbox.client_certificate().passphrase
    assert passphrase is not None
    assert passphrase.reveal() not in response.text


def test_another_process_can_plan_a_fault(sandbox: Sandbox, client: RawClient) -> None:
    token = client.tokens()["access_token"]
    body = {"target_id": STRICT, "operation": "list_accounts", "fault": "bad-gateway-html"}
    assert post(sandbox, body | {"times": 2}).status_code == 204
    assert [client.accounts(token).status_code for _ in range(3)] == [502, 502, 200]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "Send an object"),
        ({"fault": "bad-gateway-html", "bank": STRICT}, "Send an object"),
        ({}, "There is no such fault"),
        ({"fault": ["not-json"]}, "There is no such fault"),
        ({"fault": "no-such-fault"}, "bad-gateway-html"),
        ({"fault": "not-json", "times": True}, "whole number"),
        ({"fault": "not-json", "times": "2"}, "whole number"),
        ({"fault": "not-json", "times": 0}, "at least once"),
        ({"fault": "not-json", "target_id": "IIDX77777"}, "no such bank"),
        ({"fault": "not-json", "operation": "revoke_token"}, "fits only"),
        ({"fault": "not-json", "operation": 7}, "no such operation"),
        ({"fault": "not-json", "target_id": []}, "no such bank"),
    ],
)
def test_an_invalid_fault_is_refused(sandbox: Sandbox, body: object, words: str) -> None:
    response = post(sandbox, body)
    assert response.status_code == 400
    assert words in response.json()["error"]


def test_another_process_can_advance_the_clock(sandbox: Sandbox, client: RawClient) -> None:
    token = client.tokens()["access_token"]
    before = sandbox.clock()
    response = post(sandbox, {"advance": 86_400}, "clock")
    assert response.status_code == 200
    assert before + 86_400 <= response.json()["now"] <= sandbox.clock()
    assert client.accounts(token).status_code == 401
    assert post(sandbox, {"advance": 0.5}, "clock").json()["now"] >= before + 86_400.5


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{}", "Send an object"),
        ("[]", "Send an object"),
        ('{"advance": 1, "ahead": 1}', "Send an object"),
        ('{"advance": true}', "number of seconds"),
        ('{"advance": "60"}', "number of seconds"),
        ('{"advance": -1}', "backwards"),
        ('{"advance": NaN}', "backwards"),
        ('{"advance": 1e999}', "1e11 seconds"),
        ("{", "Expecting"),
    ],
)
def test_an_invalid_advance_is_refused(sandbox: Sandbox, body: str, words: str) -> None:
    url = f"{sandbox.control_url}/sandbox/clock"
    headers = {"Content-Type": "application/json"}
    response = httpx.post(url, content=body, headers=headers, trust_env=False)
    assert response.status_code == 400
    assert words in response.json()["error"]
    assert sandbox.clock.ahead == 0.0


@pytest.mark.parametrize("path", ["faults", "clock"])
def test_the_body_must_be_json(sandbox: Sandbox, path: str) -> None:
    url = f"{sandbox.control_url}/sandbox/{path}"
    as_form = httpx.post(url, data={"fault": "not-json"}, trust_env=False)
    assert as_form.status_code == 415
    broken = httpx.post(
        url, content="{", headers={"Content-Type": "application/json"}, trust_env=False
    )
    assert broken.status_code == 400


def test_there_is_no_token_endpoint_without_tls(sandbox: Sandbox) -> None:
    url = f"{sandbox.control_url}/consent-flow/v2/oauth/token"
    assert httpx.post(url, trust_env=False).status_code == 404
