"""openapi-core understands the contract: it passes what is right and names what is wrong.

The sandbox enforces the contract with openapi-core, so this is also the proof that it can.
"""

from __future__ import annotations

import json
from pathlib import Path
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
    """Decode problem details; media type parameters such as charset mean nothing for JSON."""
    return json.loads(body)


CONTRACT = OpenAPI.from_dict(
    yaml.safe_load((SPEC_FOLDER / "openapi.yaml").read_text("utf-8")),
    config=Config(extra_media_type_deserializers={PROBLEM: read_problem}),
)
CODE = example("token-request-authorization-code")
REFRESH = example("token-request-refresh")
REVOKE = example("revoke-request-refresh-token")
PERSON = headers("request_interactive")
SUCCESS = headers("response_success")
FAILURE = headers("response_error_platform")
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


def without(fields: Fields, *names: str) -> Fields:
    """Return the fields without some of them."""
    return {name: value for name, value in fields.items() if name not in names}


def request(
    form: Fields, sent: Fields = PERSON, path: str | None = None, media_type: str = FORM
) -> MockRequest:
    """Return the request of a form; a form with a token in it is a revocation."""
    return MockRequest(
        HOST,
        "post",
        BASE_PATH + (path or ("/oauth/revoke" if "token" in form else "/oauth/token")),
        headers=dict(sent),
        data=urlencode(form).encode(),
        content_type=media_type,
    )


def response(status: int, body: str, received: Fields, media_type: str = JSON) -> MockResponse:
    """Return a response with its media type among its headers."""
    sent = {**received, "Content-Type": media_type}
    return MockResponse(body.encode(), status, headers=sent, content_type=media_type)


@pytest.mark.parametrize(
    "good",
    [
        request(CODE),
        request(REFRESH),
        request(REFRESH, headers("request_unattended")),
        request(REFRESH, PERSON | {"X-PSU-IP-Address": "2001:db8::7"}),
        request(REVOKE),
        request(without(REVOKE, "token_type_hint")),
    ],
)
def test_a_request_as_the_contract_wants_it_passes(good: MockRequest) -> None:
    CONTRACT.validate_request(good)


@pytest.mark.parametrize(
    "bad",
    [
        *(request(REFRESH, without(PERSON, header)) for header in PERSON),
        *(request(REVOKE, without(PERSON, header)) for header in PERSON),
        *(request(REFRESH, PERSON | {header: ""}) for header in PERSON),
        *(request(CODE | {field: ""}) for field in CODE),
        *(request(without(CODE, field)) for field in CODE),
        *(request(without(REFRESH, field)) for field in REFRESH),
        *(
            request(without(REVOKE, field), path="/oauth/revoke")
            for field in ("token", "client_id", "username")
        ),
        request(CODE | {"refresh_token": "fake-refresh-token-1"}),
        request(REFRESH | {"code": "fake-authorization-code-1"}),
        request(REFRESH | {"redirect_uri": "https://books.example/callback"}),
        request(REFRESH | {"grant_type": "password"}),
        request(REFRESH | {"username": "u" * 65}),
        request(REVOKE | {"token_type_hint": "id_token"}),
        request(REFRESH, PERSON | {"X-Correlation-ID": "c" * 65}),
        request(REFRESH, PERSON | {"X-PSU-IP-Address": "automatic"}),
        request(REFRESH, media_type=JSON),
    ],
)
def test_a_request_against_the_contract_is_named(bad: MockRequest) -> None:
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
        (REVOKE, response(502, UNREACHABLE, FAILURE, PROBLEM)),
        (REVOKE, response(502, UNREACHABLE, FAILURE, f"{PROBLEM};charset=utf-8")),
        *((REVOKE, response(400, body, FAILURE)) for body in ERRORS),
        *((REVOKE, response(400, body, FAILURE, PROBLEM)) for body in ERRORS),
    ],
)
def test_a_response_as_the_contract_describes_it_passes(form: Fields, good: MockResponse) -> None:
    CONTRACT.validate_response(request(form), good)


@pytest.mark.parametrize(
    "bad",
    [
        *(response(200, TOKENS, without(SUCCESS, header)) for header in SUCCESS),
        *(response(400, GRANT_REFUSED, without(FAILURE, header)) for header in FAILURE),
        response(200, TOKENS, SUCCESS | {"Cache-Control": "private"}),
        response(200, TOKENS, SUCCESS | {"Pragma": "cache"}),
        response(200, TOKENS, SUCCESS | {"X-CorAPI-Source": "BANK"}),
        response(400, GRANT_REFUSED, FAILURE | {"Content-Language": "de"}),
        response(200, '{"token_type": "bearer"}', SUCCESS),
        response(200, '{"access_token": "", "token_type": "bearer"}', SUCCESS),
        *(response(400, body, FAILURE) for body in NO_ERRORS),
        *(response(400, body, FAILURE, PROBLEM) for body in NO_ERRORS),
        response(502, "<html>", FAILURE, "text/html"),
        response(503, UNREACHABLE, FAILURE, PROBLEM),
    ],
)
def test_a_response_against_the_contract_is_named(bad: MockResponse) -> None:
    with pytest.raises(OpenAPIError):
        CONTRACT.validate_response(request(REFRESH), bad)
