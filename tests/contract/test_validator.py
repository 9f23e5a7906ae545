"""The validator of the contract tests finds every deliberate violation."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

import pytest
from attrs import evolve

from contract.validator import ContractValidator, Exchange, Headers

BASE_URL = "https://localhost:8443/consent-flow/v2"
VALIDATOR = ContractValidator.for_server(BASE_URL)
EXAMPLES = Path(__file__).parents[2] / "spec/examples/headers.json"


def example(name: str) -> Headers:
    """Return one set of headers of spec/examples, in lower case as on the wire."""
    headers: dict[str, str] = json.loads(EXAMPLES.read_text("utf-8"))[name]
    return tuple((header.lower(), value) for header, value in headers.items())


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    """Return the node that an internal reference leads to, or the node itself."""
    found = VALIDATOR.document
    for step in node.get("$ref", "").split("/")[1:]:
        found = found[step]
    return found if "$ref" in node else node


SENT = (
    *example("request_interactive"),
    ("accept", "application/json"),
    ("content-type", "application/x-www-form-urlencoded"),
)
ISSUED = Exchange(
    method="POST",
    url=f"{BASE_URL}/oauth/token",
    sent=SENT,
    form=urlencode(
        {
            "grant_type": "refresh_token",
            "client_id": "CIDX0000000002",
            "username": "u-4711",
            "refresh_token": "fake-refresh-token-1",
        }
    ).encode(),
    status=200,
    received=(
        *example("response_success"),
        ("content-type", "application/json;charset=utf-8"),
    ),
    body=b'{"access_token": "fake-access-token-1", "token_type": "bearer", "expires_in": 300}',
)
REFUSED = evolve(
    ISSUED,
    status=502,
    received=(
        *example("response_error_provider"),
        ("content-type", "application/problem+json"),
    ),
    body=b'{"type": "/problems/TECHNICAL_ERROR", "title": "Bad Gateway", "detail": "No."}',
)
REVOKED = evolve(
    ISSUED,
    url=f"{BASE_URL}/oauth/revoke",
    form=urlencode(
        {"token": "fake-access-token-1", "client_id": "CIDX0000000002", "username": "u-4711"}
    ).encode(),
    received=tuple(pair for pair in ISSUED.received if pair[0] != "content-type"),
    body=b"",
)
VALID = (
    ISSUED,
    REFUSED,
    REVOKED,
    evolve(REVOKED, form=b"token=fake-access-token-1"),
    evolve(REVOKED, form=b"token=fake-access-token-1&token_type_hint=access_token"),
)


def with_header(headers: Headers, name: str, value: str | None) -> Headers:
    """Return the headers with one of them set, or removed if the value is None."""
    others = tuple(pair for pair in headers if pair[0] != name)
    return others if value is None else (*others, (name, value))


def sent(name: str, value: str | None) -> Callable[[Exchange], Exchange]:
    return lambda exchange: evolve(exchange, sent=with_header(exchange.sent, name, value))


def received(name: str, value: str | None) -> Callable[[Exchange], Exchange]:
    return lambda exchange: evolve(exchange, received=with_header(exchange.received, name, value))


def form(name: str, value: str | None) -> Callable[[Exchange], Exchange]:
    def change(exchange: Exchange) -> Exchange:
        fields = dict(parse_qsl(exchange.form.decode()))
        fields.pop(name, None)
        added = {} if value is None else {name: value}
        return evolve(exchange, form=urlencode(fields | added).encode())

    return change


def member(name: str, value: object) -> Callable[[Exchange], Exchange]:
    def change(exchange: Exchange) -> Exchange:
        members = json.loads(exchange.body) | {name: value}
        if value is None:
            del members[name]
        return evolve(exchange, body=json.dumps(members).encode())

    return change


def required(headers: dict[str, Any]) -> list[str]:
    """Return the names of the headers that are required, in lower case."""
    return [name.lower() for name, header in headers.items() if resolve(header).get("required")]


def required_sent(exchange: Exchange) -> list[str]:
    """Return the request headers that the contract requires in an exchange."""
    operation = VALIDATOR.document["paths"][exchange.operation]["post"]
    return required({item["name"]: item for item in map(resolve, operation["parameters"])})


def required_received(exchange: Exchange) -> list[str]:
    """Return the response headers that the contract requires in an exchange."""
    responses = VALIDATOR.document["paths"][exchange.operation]["post"]["responses"]
    return required(resolve(responses[str(exchange.status)])["headers"])


INVALID: dict[str, tuple[Exchange, Callable[[Exchange], Exchange]]] = {
    **{f"{name} not sent": (ISSUED, sent(name, None)) for name in required_sent(ISSUED)},
    **{
        f"{name} not sent to revoke": (REVOKED, sent(name, None)) for name in required_sent(REVOKED)
    },
    **{f"{name} sent empty": (ISSUED, sent(name, "")) for name in required_sent(ISSUED)},
    "correlation id too long": (ISSUED, sent("x-correlation-id", "c" * 65)),
    "invalid address": (ISSUED, sent("x-psu-ip-address", "automatic")),
    "authorization sent": (ISSUED, sent("authorization", "Bearer fake-access-token-1")),
    "JSON sent": (ISSUED, sent("content-type", "application/json")),
    **{
        f"{name} not in the form": (ISSUED, form(name, None))
        for name in ("grant_type", "client_id", "username", "refresh_token")
    },
    "unknown grant type": (ISSUED, form("grant_type", "password")),
    "code and refresh token": (ISSUED, form("code", "fake-authorization-code-1")),
    "username too long": (ISSUED, form("username", "u" * 65)),
    "unknown field": (ISSUED, form("client_secret", "fake-client-secret-1")),
    "repeated field": (ISSUED, lambda m: evolve(m, form=m.form + b"&username=u-4711")),
    "unknown hint": (REVOKED, form("token_type_hint", "id_token")),
    "no token to revoke": (REVOKED, form("token", None)),
    "wrong path": (ISSUED, lambda m: evolve(m, url=f"{BASE_URL}/oauth/introspect")),
    "wrong method": (ISSUED, lambda m: evolve(m, method="PUT")),
    **{
        f"{name} not received": (ISSUED, received(name, None)) for name in required_received(ISSUED)
    },
    **{
        f"{name} not received on revoke": (REVOKED, received(name, None))
        for name in required_received(REVOKED)
    },
    **{
        f"{name} not received on error": (REFUSED, received(name, None))
        for name in required_received(REFUSED)
    },
    "correlation id differs": (ISSUED, received("x-correlation-id", "another-correlation-id")),
    "unknown source": (ISSUED, received("x-corapi-source", "BANK")),
    "cacheable": (ISSUED, received("cache-control", "private")),
    "not in English": (REFUSED, received("content-language", "de")),
    "HTML received": (REFUSED, received("content-type", "text/html")),
    "undocumented status": (REFUSED, lambda m: evolve(m, status=503)),
    "no access token": (ISSUED, member("access_token", None)),
    "lifetime as a string": (ISSUED, member("expires_in", "300")),
    "error without a type": (REFUSED, member("type", None)),
}


@pytest.mark.parametrize(
    "exchange", VALID, ids=["issued", "refused", "revoked", "token alone", "token and hint"]
)
def test_a_valid_exchange_has_no_violations(exchange: Exchange) -> None:
    assert VALIDATOR.violations(exchange) == []


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_exchange_has_violations(name: str) -> None:
    exchange, change = INVALID[name]
    assert VALIDATOR.violations(change(exchange)) != []
