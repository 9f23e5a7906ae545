"""The control interface: another process reads exchanges, plans faults and advances the clock."""

from __future__ import annotations

from contextlib import closing
from http.client import HTTPConnection

import httpx
import pytest

from blink_oauth_testing.sandbox import Sandbox
from testing.raw_client import NON_ROTATING, STRICT, USERNAME, RawClient


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


def test_another_process_can_choose_the_revocation_fields_that_banks_refuse(
    sandbox: Sandbox, client: RawClient
) -> None:
    def statuses() -> list[int]:
        return [client.revoke("fake", target_id=name).status_code for name in sandbox.banks]

    body = {"refused_fields": ["username", "token_type_hint"]}
    assert post(sandbox, body, "revocation").status_code == 204
    assert statuses() == [400, 400]
    post(sandbox, {"refused_fields": [], "target_id": NON_ROTATING}, "revocation")
    assert statuses() == [400, 200]
    post(sandbox, {"refused_fields": []}, "revocation")
    assert statuses() == [200, 200]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "Send an object"),
        ({}, "Send an object"),
        ({"target_id": STRICT}, "Send an object"),
        ({"refused_fields": ["username"], "bank": STRICT}, "Send an object"),
        ({"refused_fields": ["token"]}, "token_type_hint, client_id, username"),
        ({"refused_fields": "username"}, "token_type_hint, client_id, username"),
        ({"refused_fields": ""}, "token_type_hint, client_id, username"),
        ({"refused_fields": None}, "token_type_hint, client_id, username"),
        ({"refused_fields": [["username"]]}, "token_type_hint, client_id, username"),
        ({"refused_fields": ["username"], "target_id": "IIDX77777"}, "no such bank"),
        ({"refused_fields": ["username"], "target_id": []}, "no such bank"),
    ],
)
def test_an_invalid_choice_of_revocation_fields_is_refused(
    sandbox: Sandbox, client: RawClient, body: object, words: str
) -> None:
    response = post(sandbox, body, "revocation")
    assert response.status_code == 400
    assert words in response.json()["error"]
    assert client.revoke("fake").status_code == 200


def test_another_process_can_withdraw_a_consent(sandbox: Sandbox, client: RawClient) -> None:
    tokens = client.tokens()
    withdrawal = {"target_id": STRICT, "username": USERNAME}
    assert post(sandbox, withdrawal | {"username": "another"}, "withdrawal").status_code == 204
    assert client.accounts(tokens["access_token"]).status_code == 200
    assert post(sandbox, withdrawal, "withdrawal").status_code == 204
    assert client.accounts(tokens["access_token"]).status_code == 401
    assert client.refresh(tokens["refresh_token"]).json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], "Send an object"),
        ({"target_id": STRICT}, "Send an object"),
        ({"target_id": "IIDX77777", "username": "u"}, "no such bank"),
        ({"target_id": [], "username": "u"}, "no such bank"),
        ({"target_id": STRICT, "username": ["u"]}, "must be a text"),
    ],
)
def test_an_invalid_withdrawal_is_refused(sandbox: Sandbox, body: object, words: str) -> None:
    response = post(sandbox, body, "withdrawal")
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


@pytest.mark.parametrize("path", ["faults", "revocation", "clock"])
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


Headers = list[tuple[str, str]]
FOREIGN: dict[str, Headers] = {
    "rebound name": [("Host", "evil.example:PORT")],
    "name without port": [("Host", "127.0.0.1")],
    "another port": [("Host", "127.0.0.1:1")],
    "name that begins like ours": [("Host", "localhost.evil.example:PORT")],
    "credentials": [("Host", "localhost:PORT@evil.example")],
    "empty": [("Host", "")],
    "two": [("Host", "127.0.0.1:PORT"), ("Host", "evil.example")],
    "foreign page": [("Origin", "https://evil.example")],
    "page without an origin": [("Origin", "null")],
    "page of another port": [("Origin", "http://127.0.0.1:1")],
}


def sent(sandbox: Sandbox, path: str, headers: Headers, method: str = "GET") -> int:
    """Send a request with given headers, and return the status."""
    port = sandbox.control_url.rpartition(":")[2]
    body = b'{"fault": "not-json"}' if method == "POST" else b""
    given = [(name, value.replace("PORT", port)) for name, value in headers]
    with closing(HTTPConnection("127.0.0.1", int(port), timeout=10)) as connection:
        connection.putrequest(method, path, skip_host="Host" in dict(headers))
        own = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        for name, value in own + given:
            connection.putheader(name, value)
        connection.endheaders(body)
        return connection.getresponse().status


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize(("method", "path"), [("GET", "/sandbox"), ("POST", "/sandbox/faults")])
def test_a_web_page_cannot_control_the_sandbox(
    sandbox: Sandbox, client: RawClient, name: str, method: str, path: str
) -> None:
    assert sent(sandbox, path, FOREIGN[name], method) in {400, 403}
    assert client.accounts(client.tokens()["access_token"]).status_code == 200


@pytest.mark.parametrize(
    "name", [name for name, headers in FOREIGN.items() if "Host" in repr(headers)]
)
def test_the_authorize_endpoint_answers_under_no_foreign_name(sandbox: Sandbox, name: str) -> None:
    assert sent(sandbox, f"/{STRICT}/oauth/authorize", FOREIGN[name]) in {400, 403}


@pytest.mark.parametrize(
    "header",
    [("Host", "LOCALHOST:PORT"), ("Host", "[::1]:PORT"), ("Origin", "http://127.0.0.1:PORT")],
)
def test_every_name_of_the_loopback_address_controls_the_sandbox(
    sandbox: Sandbox, header: tuple[str, str]
) -> None:
    assert sent(sandbox, "/sandbox", [header]) == 200
