"""openapi-core accepts the exchanges that the contract allows, and refuses all others.

The sandbox validates with openapi-core, so these tests also prove that the sandbox can.
"""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
import yaml
from openapi_core import Config, OpenAPI
from openapi_core.exceptions import OpenAPIError
from openapi_core.testing import MockRequest, MockResponse

SPEC_FOLDER = Path(__file__).parents[2] / "spec"
HOST = "https://localhost:8443"
BASE_PATH = "/api/bankingservices/xe/b-link-consent-2/consent-flow/v2"
FORM = "application/x-www-form-urlencoded"
JSON = "application/json"
PROBLEM = "application/problem+json"

Fields = dict[str, str]


def example(name: str) -> Fields:
    """Read one body of spec/examples."""
    body: Fields = json.loads((SPEC_FOLDER / "examples" / f"{name}.json").read_text("utf-8"))
    return body


def headers(name: str) -> Fields:
    """Read one set of headers of spec/examples."""
    sets: dict[str, Fields] = json.loads((SPEC_FOLDER / "examples/headers.json").read_text("utf-8"))
    return sets[name]


def read_problem(body: bytes, **_parameters: str) -> object:
    """Decode problem details; media type parameters such as charset do not affect JSON."""
    return json.loads(body)


DOCUMENT: dict[str, Any] = yaml.safe_load((SPEC_FOLDER / "openapi.yaml").read_text("utf-8"))
CONTRACT = OpenAPI.from_dict(
    DOCUMENT, config=Config(extra_media_type_deserializers={PROBLEM: read_problem})
)
CODE = example("token-request-authorization-code")
REFRESH = example("token-request-refresh")
REVOKE = example("revoke-request-refresh-token")
OPTIONAL = ("token_type_hint", "client_id", "username")
"""The fields that a revocation may leave out."""
INTERACTIVE = headers("request_interactive")
SUCCESS = headers("response_success")
ERROR = headers("response_error_platform")
TOKENS = json.dumps(example("token-response"))
GRANT_REFUSED = json.dumps(example("error-oauth-invalid-grant"))
UNREACHABLE = json.dumps(example("error-problem-bad-gateway"))
ERRORS = [
    '{"error": "invalid_grant"}',
    '{"error": "invalid_grant", "error_description": "No.", "error_uri": "about:blank", "x": 1}',
    '{"type": "/problems/X"}',
    '{"type": "/problems/X", "title": "X", "detail": "No", "instance": "1", "status": 400, "x": 1}',
    '{"type": "/problems/X", "error": "invalid_grant"}',
]
NO_ERRORS = [
    "{}",
    "[]",
    '"invalid_grant"',
    '{"error_description": "No.", "title": "X", "status": 400}',
    '{"error": ""}',
    '{"error": null}',
    '{"error": 1}',
    '{"error": "invalid_grant", "error_description": 1}',
    '{"error": "invalid_grant", "error_uri": 1}',
    '{"type": ""}',
    '{"type": 1}',
    *(f'{{"type": "/problems/X", "{name}": 1}}' for name in ("title", "detail", "instance")),
    '{"type": "/problems/X", "status": "400"}',
]


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    """Return the node that an internal reference leads to, or the node itself."""
    found = DOCUMENT
    for step in node.get("$ref", "").split("/")[1:]:
        found = found[step]
    return found if "$ref" in node else node


def required_headers(path: str, status: int | None = None) -> list[str]:
    """Return the required headers of a response of an operation; without a status, of a request."""
    operation = DOCUMENT["paths"][path]["post"]
    if status is None:
        headers = {item["name"]: item for item in map(resolve, operation["parameters"])}
    else:
        headers = resolve(operation["responses"][str(status)])["headers"]
    return [name for name, header in headers.items() if resolve(header).get("required")]


def without(fields: Fields, *names: str) -> Fields:
    """Return the fields except the named ones."""
    return {name: value for name, value in fields.items() if name not in names}


def request(
    form: Fields, sent: Fields = INTERACTIVE, path: str | None = None, media_type: str = FORM
) -> MockRequest:
    """Return the request with a form; a form with a `token` field is a revocation."""
    return MockRequest(
        HOST,
        "post",
        BASE_PATH + (path or ("/oauth/revoke" if "token" in form else "/oauth/token")),
        headers=dict(sent),
        data=urlencode(form).encode(),
        content_type=media_type,
    )


def response(status: int, body: str, received: Fields, media_type: str = JSON) -> MockResponse:
    """Return a response whose headers include the media type."""
    sent = {**received, "Content-Type": media_type}
    return MockResponse(body.encode(), status, headers=sent, content_type=media_type)


@pytest.mark.parametrize(
    "good",
    [
        request(CODE),
        request(REFRESH),
        request(REFRESH, headers("request_unattended")),
        request(REFRESH, INTERACTIVE | {"X-PSU-IP-Address": "2001:db8::7"}),
        *(
            request(without(REVOKE, *fields))
            for count in range(4)
            for fields in combinations(OPTIONAL, count)
        ),
    ],
)
def test_a_request_that_conforms_to_the_contract_is_accepted(good: MockRequest) -> None:
    CONTRACT.validate_request(good)


@pytest.mark.parametrize(
    "bad",
    [
        *(
            request(form, without(INTERACTIVE, header))
            for form, path in ((REFRESH, "/oauth/token"), (REVOKE, "/oauth/revoke"))
            for header in required_headers(path)
        ),
        *(request(REFRESH, INTERACTIVE | {header: ""}) for header in INTERACTIVE),
        *(request(CODE | {field: ""}) for field in CODE),
        *(request(without(CODE, field)) for field in CODE),
        *(request(without(REFRESH, field)) for field in REFRESH),
        request(without(REVOKE, "token"), path="/oauth/revoke"),
        *(request(REVOKE | {field: ""}) for field in REVOKE),
        request(REVOKE | {"username": "u" * 65}),
        request(CODE | {"refresh_token": "fake-refresh-token-1"}),
        request(REFRESH | {"code": "fake-authorization-code-1"}),
        request(REFRESH | {"redirect_uri": "https://books.example/callback"}),
        request(REFRESH | {"grant_type": "password"}),
        request(REFRESH | {"username": "u" * 65}),
        request(REVOKE | {"token_type_hint": "id_token"}),
        request(REFRESH, INTERACTIVE | {"X-Correlation-ID": "c" * 65}),
        request(REFRESH, INTERACTIVE | {"X-PSU-IP-Address": "automatic"}),
        request(REFRESH, media_type=JSON),
    ],
)
def test_a_request_that_violates_the_contract_is_refused(bad: MockRequest) -> None:
    with pytest.raises(OpenAPIError):
        CONTRACT.validate_request(bad)


@pytest.mark.parametrize(
    ("form", "good"),
    [
        (CODE, response(200, TOKENS, SUCCESS)),
        (REFRESH, response(200, TOKENS, SUCCESS, f"{JSON};charset=utf-8")),
        (REFRESH, response(200, TOKENS, SUCCESS | {"Cache-Control": "private, no-store"})),
        (REFRESH, response(200, '{"access_token": "a", "token_type": "Bearer", "x": 1}', SUCCESS)),
        (REVOKE, response(200, "", SUCCESS)),
        (REFRESH, response(400, GRANT_REFUSED, headers("response_error_provider"))),
        (REVOKE, response(502, UNREACHABLE, ERROR, PROBLEM)),
        (REVOKE, response(502, UNREACHABLE, ERROR, f"{PROBLEM};charset=utf-8")),
        *((REVOKE, response(400, body, ERROR)) for body in ERRORS),
        *((REVOKE, response(400, body, ERROR, PROBLEM)) for body in ERRORS),
    ],
)
def test_a_response_that_conforms_to_the_contract_is_accepted(
    form: Fields, good: MockResponse
) -> None:
    CONTRACT.validate_response(request(form), good)


@pytest.mark.parametrize(
    ("form", "good"),
    [
        (REFRESH, (200, TOKENS, SUCCESS)),
        (REFRESH, (400, GRANT_REFUSED, ERROR)),
        (REVOKE, (200, "", SUCCESS)),
        (REVOKE, (400, GRANT_REFUSED, ERROR)),
    ],
)
def test_a_response_needs_each_required_header_and_no_optional_one(
    form: Fields, good: tuple[int, str, Fields]
) -> None:
    status, body, headers = good
    required = required_headers("/oauth/revoke" if "token" in form else "/oauth/token", status)
    assert required
    least = {name: headers[name] for name in required}
    CONTRACT.validate_response(request(form), response(status, body, least))
    for name in required:
        bad = response(status, body, without(headers, name))
        with pytest.raises(OpenAPIError):
            CONTRACT.validate_response(request(form), bad)


@pytest.mark.parametrize(
    "bad",
    [
        response(200, TOKENS, SUCCESS | {"Cache-Control": "private"}),
        response(200, TOKENS, SUCCESS | {"Pragma": "cache"}),
        response(200, TOKENS, SUCCESS | {"X-CorAPI-Source": "BANK"}),
        response(400, GRANT_REFUSED, ERROR | {"Content-Language": "de"}),
        response(200, '{"token_type": "bearer"}', SUCCESS),
        response(200, '{"access_token": "", "token_type": "bearer"}', SUCCESS),
        *(response(400, body, ERROR) for body in NO_ERRORS),
        *(response(400, body, ERROR, PROBLEM) for body in NO_ERRORS),
        response(502, "<html>", ERROR, "text/html"),
        response(503, UNREACHABLE, ERROR, PROBLEM),
    ],
)
def test_a_response_that_violates_the_contract_is_refused(bad: MockResponse) -> None:
    with pytest.raises(OpenAPIError):
        CONTRACT.validate_response(request(REFRESH), bad)
