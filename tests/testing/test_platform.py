"""The platform enforces each rule of the contract, and responds in the forms of the contract."""

from __future__ import annotations

import httpx
import pytest
from attrs import evolve

from blink_oauth.settings import RevocationField
from blink_oauth_testing.sandbox import Sandbox
from testing.raw_client import (
    CLIENT_ID,
    HEADERS,
    NON_ROTATING,
    STRICT,
    USERNAME,
    RawClient,
    tls_context,
)

EXCHANGE = {
    "grant_type": "authorization_code",
    "client_id": CLIENT_ID,
    "username": USERNAME,
    "code": "fake-code",
    "redirect_uri": "http://127.0.0.1/callback",
}
REFRESH = {
    "grant_type": "refresh_token",
    "client_id": CLIENT_ID,
    "username": USERNAME,
    "refresh_token": "fake-refresh-token",
}


def assert_refused(response: httpx.Response, status: int, kind: str) -> str:
    assert response.status_code == status, response.text
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["X-CorAPI-Source"] == "PLATFORM"
    assert response.headers["Content-Language"] == "en"
    # The pages list these headers for successes only.
    assert "Cache-Control" not in response.headers
    assert "Pragma" not in response.headers
    problem = response.json()
    assert problem["type"] == f"/problems/{kind}"
    assert problem["status"] == status
    detail: str = problem["detail"]
    return detail


def test_a_token_response_carries_the_headers_of_the_contract(client: RawClient) -> None:
    code = client.sandbox.issue_code(client.sandbox.grant(STRICT))
    response = client.exchange(code)
    assert response.status_code == 200
    tokens = response.json()
    assert tokens.keys() == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
    assert tokens["scope"] == "accounts"
    expected = {
        "X-Correlation-ID": HEADERS["X-Correlation-ID"],
        "X-CorAPI-Source": "PROVIDER",
        "Cache-Control": "no-store",
        "Pragma": "no-cache",
        "Content-Type": "application/json;charset=utf-8",
    }
    assert {name: response.headers[name] for name in expected} == expected
    assert "Content-Language" not in response.headers


def test_a_bank_refuses_with_an_error_of_rfc_6749(client: RawClient) -> None:
    response = client.exchange("fake-unknown-code")
    assert response.status_code == 400
    assert response.headers["X-CorAPI-Source"] == "PROVIDER"
    assert response.headers["Content-Type"] == "application/json"
    assert "Cache-Control" not in response.headers
    assert "Pragma" not in response.headers
    assert response.json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "name",
    [
        "X-Correlation-ID",
        "User-Agent",
        "X-CorAPI-Target-ID",
        "X-PSU-IP-Address",
        "X-PSU-User-Agent",
    ],
)
def test_a_missing_header_is_refused(client: RawClient, name: str) -> None:
    response = client.post("/oauth/token", REFRESH, headers={name: None})
    assert name in assert_refused(response, 400, "INVALID_PAYLOAD")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-Correlation-ID", "x" * 65),
        ("X-Correlation-ID", ""),
        ("X-PSU-IP-Address", "not-an-address"),
        ("X-PSU-IP-Address", "auto"),
        ("X-CorAPI-Target-ID", ""),
        ("User-Agent", ""),
        ("X-PSU-User-Agent", ""),
    ],
)
def test_a_header_that_breaks_its_rule_is_refused(client: RawClient, name: str, value: str) -> None:
    response = client.post("/oauth/token", REFRESH, headers={name: value})
    assert name in assert_refused(response, 400, "INVALID_PAYLOAD")


@pytest.mark.parametrize("value", ["AUTO", "2001:db8::7", "203.0.113.7"])
def test_addresses_and_auto_are_accepted(client: RawClient, value: str) -> None:
    response = client.post("/oauth/token", REFRESH, headers={"X-PSU-IP-Address": value})
    assert response.json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    ("whole", "missing"),
    [
        (EXCHANGE, "grant_type"),
        (EXCHANGE, "client_id"),
        (EXCHANGE, "username"),
        (EXCHANGE, "code"),
        (EXCHANGE, "redirect_uri"),
        (REFRESH, "refresh_token"),
        (REFRESH, "username"),
    ],
)
def test_a_missing_field_is_refused_and_named(
    client: RawClient, whole: dict[str, str], missing: str
) -> None:
    form = {name: value for name, value in whole.items() if name != missing}
    detail = assert_refused(client.post("/oauth/token", form), 400, "INVALID_PAYLOAD")
    assert f"{missing}: missing" in detail


@pytest.mark.parametrize(
    ("form", "named"),
    [
        (EXCHANGE | {"grant_type": "password"}, "grant_type"),
        (EXCHANGE | {"username": "u" * 65}, "username: maxLength 64"),
        (EXCHANGE | {"username": ""}, "username"),
        (EXCHANGE | {"code": ""}, "code"),
        (EXCHANGE | {"refresh_token": "fake-refresh-token"}, "combination"),
        (REFRESH | {"code": "fake-code"}, "combination"),
        (REFRESH | {"redirect_uri": "http://127.0.0.1/callback"}, "combination"),
        (REFRESH | {"scope": "everything"}, "scope: not allowed"),
        (REFRESH | {"client_secret": "fake-secret"}, "client_secret: not allowed"),
    ],
)
def test_a_form_that_breaks_a_rule_is_refused(
    client: RawClient, form: dict[str, str], named: str
) -> None:
    detail = assert_refused(client.post("/oauth/token", form), 400, "INVALID_PAYLOAD")
    assert named in detail
    assert "fake-" not in detail


def test_a_revocation_without_a_token_is_refused(client: RawClient) -> None:
    form = {"client_id": CLIENT_ID, "username": USERNAME, "token_type_hint": "access_token"}
    detail = assert_refused(client.post("/oauth/revoke", form), 400, "INVALID_PAYLOAD")
    assert detail == "body field token: missing"


@pytest.mark.parametrize(
    "names", [(), ("client_id",), ("username",), ("token_type_hint", "client_id", "username")]
)
def test_a_token_is_revoked_with_any_of_the_other_fields(
    client: RawClient, names: tuple[str, ...]
) -> None:
    token = client.tokens()["access_token"]
    values = {
        "token_type_hint": "access_token",
        "client_id": CLIENT_ID,
        "username": USERNAME,
    }
    form = {"token": token, **{name: values[name] for name in names}}
    assert client.post("/oauth/revoke", form).status_code == 200
    assert not client.sandbox.banks[STRICT].accepts(token)


@pytest.mark.parametrize(
    ("changes", "status"), [({"client_id": "CIDX0000000003"}, 401), ({"username": "other"}, 400)]
)
def test_a_field_of_a_revocation_that_is_sent_must_be_right(
    client: RawClient, changes: dict[str, str], status: int
) -> None:
    token = client.tokens()["access_token"]
    response = client.post("/oauth/revoke", {"token": token, **changes})
    assert response.status_code == status
    assert client.sandbox.banks[STRICT].accepts(token)


@pytest.mark.parametrize(
    ("refused", "sent", "broken"),
    [
        (("username",), ("client_id", "username"), ["username"]),
        (("token_type_hint",), ("token_type_hint",), ["token_type_hint"]),
        (("client_id", "username"), ("username", "client_id"), ["client_id", "username"]),
        (("token_type_hint", "username"), ("client_id",), []),
        (("token_type_hint", "client_id", "username"), (), []),
    ],
)
def test_a_closed_form_refuses_a_revocation_with_its_fields_and_no_other(
    client: RawClient,
    refused: tuple[RevocationField, ...],
    sent: tuple[str, ...],
    broken: list[str],
) -> None:
    bank = client.sandbox.banks[STRICT]
    bank.policy = evolve(bank.policy, refused_revocation_fields=refused)
    token = client.tokens()["access_token"]
    values = {
        "token_type_hint": "access_token",
        "client_id": CLIENT_ID,
        "username": USERNAME,
    }
    response = client.post("/oauth/revoke", {"token": token} | {n: values[n] for n in sent})
    assert bank.accepts(token) is bool(broken)
    if not broken:
        assert response.status_code == 200
        return
    assert response.status_code == 400
    assert response.headers["X-CorAPI-Source"] == "PROVIDER"
    assert response.json() == {
        "error": "invalid_request",
        "error_description": "; ".join(f"form field {name}: not allowed" for name in broken),
    }
    # A token request has these fields whatever the form of a revocation has.
    assert client.refresh(client.tokens()["refresh_token"]).status_code == 200


def test_a_repeated_form_field_is_refused(client: RawClient) -> None:
    body = "&".join(f"{name}={value}" for name, value in REFRESH.items()) + "&username=other"
    response = client.http.post(
        "/oauth/token",
        content=body,
        headers=HEADERS | {"Content-Type": "application/x-www-form-urlencoded"},
    )
    detail = assert_refused(response, 400, "MALFORMED_PAYLOAD")
    assert detail == "form field username: more than once"


def test_a_body_that_is_not_utf_8_is_refused(client: RawClient) -> None:
    response = client.http.post(
        "/oauth/token",
        content=b"grant_type=\xff\xfe",
        headers=HEADERS | {"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert assert_refused(response, 400, "MALFORMED_PAYLOAD") == "body: not UTF-8"


def test_a_secret_sent_as_the_whole_body_is_not_repeated(
    client: RawClient, sandbox: Sandbox
) -> None:
    response = client.http.post(
        "/oauth/token",
        content=b"fake-refresh-token-4711",
        headers=HEADERS | {"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert_refused(response, 400, "INVALID_PAYLOAD")
    assert "4711" not in response.text
    assert "fake-refresh-token" not in repr(sandbox.exchanges)


def post_with_repeated_header(client: RawClient, name: str) -> httpx.Response:
    request = client.http.build_request("POST", "/oauth/token", data=REFRESH, headers=HEADERS)
    repeated = [*request.headers.multi_items(), (name, request.headers[name])]
    return client.http.send(
        httpx.Request("POST", request.url, headers=repeated, content=request.content)
    )


@pytest.mark.parametrize("name", ["X-Correlation-ID", "X-CorAPI-Target-ID", "X-PSU-IP-Address"])
def test_a_repeated_header_is_refused(client: RawClient, name: str) -> None:
    response = post_with_repeated_header(client, name)
    assert name in assert_refused(response, 400, "MALFORMED_PAYLOAD")


def test_a_repeated_content_type_is_refused(client: RawClient) -> None:
    # Newer versions of aiohttp refuse it before the platform does, with their own response.
    assert post_with_repeated_header(client, "Content-Type").status_code == 400


@pytest.mark.parametrize("content_type", ["application/json", "multipart/form-data", None])
def test_anything_but_a_form_is_an_unsupported_media_type(
    client: RawClient, content_type: str | None
) -> None:
    response = client.post("/oauth/token", REFRESH, headers={"Content-Type": content_type})
    assert_refused(response, 415, "UNSUPPORTED_MEDIA_TYPE")


def test_a_charset_parameter_is_accepted(client: RawClient) -> None:
    content_type = "application/x-www-form-urlencoded; charset=UTF-8"
    response = client.post("/oauth/token", REFRESH, headers={"Content-Type": content_type})
    assert response.json()["error"] == "invalid_grant"


@pytest.mark.parametrize(
    "accept", ["text/html", "application/json;q=0", "application/json; q=0.0, */*", "image/*"]
)
def test_a_request_that_accepts_no_json_is_refused(client: RawClient, accept: str) -> None:
    response = client.post("/oauth/token", REFRESH, headers={"Accept": accept})
    assert_refused(response, 406, "NOT_ACCEPTABLE")


REFUSED_TYPES = ["application/json", "application/*, application/problem+json;q=0", "text/json"]


@pytest.mark.parametrize("accept", REFUSED_TYPES)
def test_a_refusal_whose_type_is_not_acceptable_becomes_not_acceptable(
    client: RawClient, accept: str
) -> None:
    # Without a form the refusal would be a 415 in problem details.
    headers = {"Accept": accept, "Content-Type": "text/plain"}
    response = client.post("/oauth/token", REFRESH, headers=headers)
    assert_refused(response, 406, "NOT_ACCEPTABLE")
    assert not client.sandbox.exchanges[-1].executed


def test_a_response_of_a_bank_whose_type_is_not_acceptable_is_not_acceptable_after_the_execution(
    client: RawClient,
) -> None:
    response = client.accounts("fake-unknown-token", Accept="application/json")
    assert_refused(response, 406, "NOT_ACCEPTABLE")
    assert client.sandbox.exchanges[-1].executed


@pytest.mark.parametrize(
    "accept",
    [None, "", "*/*", "application/*", "Application/JSON", "text/html, application/json;q=0.1"],
)
def test_a_request_that_accepts_json_is_executed(client: RawClient, accept: str | None) -> None:
    response = client.post("/oauth/token", REFRESH, headers={"Accept": accept})
    assert response.json()["error"] == "invalid_grant"


def test_the_client_id_must_be_that_of_the_certificate(client: RawClient) -> None:
    response = client.post("/oauth/token", REFRESH | {"client_id": "CIDX0000000003"})
    assert_refused(response, 401, "INVALID_CLIENT")


def test_an_unregistered_certificate_is_unauthorized(sandbox: Sandbox) -> None:
    certificate = sandbox.client_certificate(
        credentials=sandbox.authority.issue_client("CIDX0000000099")
    )
    verify = tls_context(str(certificate.ca), certificate)
    with httpx.Client(verify=verify, base_url=sandbox.base_url, trust_env=False) as http:
        response = http.post("/oauth/token", data=REFRESH, headers=HEADERS)
    assert_refused(response, 401, "INVALID_CLIENT")
    assert sandbox.exchanges[-1].client_id is None


def test_an_unknown_target_is_forbidden(client: RawClient) -> None:
    response = client.refresh("fake-refresh-token", target_id="IIDX77777")
    assert_refused(response, 403, "INSUFFICIENT_PRIVILEGES")


@pytest.mark.parametrize("path", ["/", "/oauth", "/oauth/token/", "/accounts", "/oauth/username"])
def test_other_paths_do_not_exist(client: RawClient, path: str) -> None:
    assert_refused(client.post(path, REFRESH), 404, "TECHNICAL_ERROR")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_not_allowed(client: RawClient, method: str) -> None:
    response = client.http.request(method, "/oauth/token", headers=HEADERS)
    assert_refused(response, 405, "WRONG_METHOD")
    assert response.headers["Allow"] == "POST"


@pytest.mark.parametrize("sent", [None, "", "x" * 65, "inner blank", "é"])
def test_a_request_without_a_usable_correlation_id_gets_a_new_one(
    client: RawClient, sent: str | None
) -> None:
    request = client.http.build_request("POST", "/oauth/token", data=REFRESH)
    for name, value in {**HEADERS, "X-Correlation-ID": sent}.items():
        if value is not None:
            request.headers[name] = value
    response = client.http.send(request)
    assert response.status_code == 400
    assert len(response.headers["X-Correlation-ID"]) == 36


def test_a_revocation_response_has_no_body(client: RawClient) -> None:
    response = client.revoke(client.tokens()["refresh_token"], token_type_hint="refresh_token")
    assert response.status_code == 200
    assert response.content == b""
    assert "Content-Type" not in response.headers
    assert response.headers["Pragma"] == "no-cache"


def test_a_token_of_another_client_cannot_be_revoked(
    client: RawClient, other_client: RawClient
) -> None:
    token = client.tokens()["access_token"]
    response = other_client.revoke(token)
    assert response.status_code == 400
    assert response.json()["error"] == "invalid_grant"
    assert client.accounts(token).status_code == 200


def test_the_accounts_need_a_token_that_is_not_revoked(client: RawClient) -> None:
    token = client.tokens()["access_token"]
    assert [account["id"] for account in client.accounts(token).json()["accounts"]] == ["1", "2"]
    client.revoke(token)
    response = client.accounts(token)
    assert response.status_code == 401
    assert response.json()["type"] == "/problems/INVALID_TOKEN"
    assert response.headers["X-CorAPI-Source"] == "PROVIDER"
    assert response.headers["WWW-Authenticate"] == 'Bearer error="invalid_token"'


def test_the_accounts_distinguish_an_expired_from_an_invalid_token(client: RawClient) -> None:
    token = client.tokens()["access_token"]
    client.sandbox.clock.advance(seconds=86_400)
    assert client.accounts(token).json()["type"] == "/problems/EXPIRED_TOKEN"
    for wrong in (
        client.accounts(None),
        client.accounts("fake-unknown"),
        client.accounts(None, Authorization=f"Basic {token}"),
    ):
        assert (wrong.status_code, wrong.json()["type"]) == (401, "/problems/INVALID_TOKEN")


def test_a_token_is_valid_only_at_the_bank_that_issued_it(client: RawClient) -> None:
    token = client.tokens(STRICT)["access_token"]
    assert client.accounts(token, target_id=NON_ROTATING).status_code == 401


def test_the_accounts_require_the_request_headers(client: RawClient) -> None:
    token = client.tokens()["access_token"]
    response = client.http.get(
        client.sandbox.accounts_url, headers={"Authorization": f"Bearer {token}"}
    )
    detail = assert_refused(response, 400, "INVALID_PAYLOAD")
    assert detail.count("missing") == 4


def test_the_lenient_bank_leaves_the_refresh_token_out(client: RawClient) -> None:
    tokens = client.tokens(NON_ROTATING)
    for _ in range(2):
        response = client.refresh(tokens["refresh_token"], target_id=NON_ROTATING)
        assert response.status_code == 200
        assert "refresh_token" not in response.json()
