"""The package under generated/ has exactly the operations, models and types of the contract."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import httpx
import pytest
import yaml

import blink_oauth_api
from blink_oauth_api import contract
from blink_oauth_api.models import ErrorBody, RevokeRequest, TokenRequest
from blink_oauth_api.models.source import SOURCE_VALUES
from blink_oauth_api.types import UNSET

SPEC = Path(__file__).parents[2] / "spec" / "openapi.yaml"
CONTRACT: dict[str, Any] = yaml.safe_load(SPEC.read_text(encoding="utf-8"))
PACKAGE = "blink_oauth_api"
MODULES = [module.name for module in pkgutil.walk_packages(blink_oauth_api.__path__, f"{PACKAGE}.")]
OPERATIONS = ["request_token", "revoke_token"]
BODIES = {
    "request_token": TokenRequest("refresh_token", "client", "user", refresh_token="fake-token-1"),
    "revoke_token": RevokeRequest("fake-token-1"),
}


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    """Return the node that an internal reference leads to, or the node itself."""
    found = CONTRACT
    for step in node.get("$ref", "").split("/")[1:]:
        found = found[step]
    return found if "$ref" in node else node


def in_contract(operation: str) -> dict[str, Any]:
    """Return an operation of the contract."""
    posts: list[dict[str, Any]] = [item["post"] for item in CONTRACT["paths"].values()]
    return next(post for post in posts if post["operationId"] == operation)


def request_headers(operation: str) -> dict[str, bool]:
    """Return the names of the request headers of an operation, and whether each is required."""
    parameters = [resolve(node) for node in in_contract(operation)["parameters"]]
    return {header["name"]: header.get("required", False) for header in parameters}


def response_headers(operation: str) -> list[dict[str, bool]]:
    """Return the same of the response headers, for each status."""
    responses = [resolve(node) for node in in_contract(operation)["responses"].values()]
    return [
        {name: resolve(node).get("required", False) for name, node in response["headers"].items()}
        for response in responses
    ]


def letters(name: str) -> str:
    """Return what the name of a header and that of its parameter in Python have in common."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def header_parameters(module: ModuleType) -> list[inspect.Parameter]:
    """Return the parameters of a generated operation after client and body."""
    client, body, *others = inspect.signature(module.sync_detailed).parameters.values()
    assert (client.name, body.name) == ("client", "body")
    return others


@pytest.mark.parametrize("module", MODULES)
def test_every_generated_module_can_be_imported(module: str) -> None:
    assert importlib.import_module(module).__name__ == module


def test_exactly_the_two_operations_are_generated() -> None:
    assert [name for name in MODULES if name.startswith(f"{PACKAGE}.api.")] == [
        f"{PACKAGE}.api.oauth",
        *(f"{PACKAGE}.api.oauth.{operation}" for operation in OPERATIONS),
    ]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_can_be_called_with_and_without_asyncio(operation: str) -> None:
    module = importlib.import_module(f"{PACKAGE}.api.oauth.{operation}")
    assert not inspect.iscoroutinefunction(module.sync_detailed)
    assert inspect.iscoroutinefunction(module.asyncio_detailed)
    assert inspect.signature(module.sync_detailed) == inspect.signature(module.asyncio_detailed)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_operation_takes_and_sends_the_body_and_its_headers(operation: str) -> None:
    module = importlib.import_module(f"{PACKAGE}.api.oauth.{operation}")
    parameters, headers = header_parameters(module), request_headers(operation)
    # A call without an optional header is valid.
    assert [(letters(one.name), one.default is one.empty) for one in parameters] == [
        (letters(name), required) for name, required in headers.items()
    ]
    requests: list[httpx.Request] = []

    def respond(request: httpx.Request) -> httpx.Response:
        requests.append(request)
        return httpx.Response(204)

    transport = httpx.MockTransport(respond)
    client = blink_oauth_api.Client("https://bank.example", httpx_args={"transport": transport})
    for with_optional in (True, False):
        names = [name for name, required in headers.items() if required or with_optional]
        values = {
            one.name: f"value of {letters(one.name)}"
            for one in parameters
            if with_optional or one.default is one.empty
        }
        module.sync_detailed(client=client, body=BODIES[operation], **values)
        received = {
            name: value
            for name, value in requests[-1].headers.items()
            if value.startswith("value of ")
        }
        assert received == {name.lower(): f"value of {letters(name)}" for name in names}


@pytest.mark.parametrize("name", ["TokenRequest", "RevokeRequest", "TokenResponse", "ErrorBody"])
def test_each_model_has_the_fields_of_its_schema(name: str) -> None:
    model = getattr(importlib.import_module(f"{PACKAGE}.models"), name)
    fields = set(CONTRACT["components"]["schemas"][name]["properties"])
    if not name.endswith("Request"):
        fields.add("additional_properties")
    assert {field.name.removesuffix("_") for field in model.__attrs_attrs__} == fields


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("status", [400, 401, 403, 406, 415, 500, 502, 504])
@pytest.mark.parametrize("form", ["error", "type"])
def test_both_forms_of_an_error_have_one_model(operation: str, status: int, form: str) -> None:
    module = importlib.import_module(f"{PACKAGE}.api.oauth.{operation}")
    response = httpx.Response(status, json={form: "what happened"})
    transport = httpx.MockTransport(lambda _: response)
    client = blink_oauth_api.Client("https://bank.example", httpx_args={"transport": transport})
    required = [one.name for one in header_parameters(module) if one.default is one.empty]
    headers = dict.fromkeys(required, "AUTO")
    parsed = module.sync_detailed(client=client, body=BODIES[operation], **headers).parsed
    assert type(parsed) is ErrorBody
    assert parsed.error == ("what happened" if form == "error" else UNSET)
    assert parsed.type_ == ("what happened" if form == "type" else UNSET)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_the_contract_types_hold_the_statuses_and_headers_of_each_operation(operation: str) -> None:
    name = operation.title().replace("_", "")
    responses = response_headers(operation)
    received = getattr(contract, f"{name}ResponseHeaders")
    assert received.__required_keys__ == set.intersection(*map(required_names, responses))
    assert received.__required_keys__ | received.__optional_keys__ == set().union(*responses)
    sent = getattr(contract, f"{name}RequestHeaders")
    headers = request_headers(operation)
    assert sent.__required_keys__ == required_names(headers)
    assert sent.__required_keys__ | sent.__optional_keys__ == headers.keys()
    statuses = get_args(getattr(contract, f"{name}Status"))
    assert {str(status) for status in statuses} == in_contract(operation)["responses"].keys()


def required_names(headers: dict[str, bool]) -> set[str]:
    """Return the names of the headers that are required."""
    return {name for name, required in headers.items() if required}


def test_the_contract_types_hold_the_members_of_each_model() -> None:
    schemas = CONTRACT["components"]["schemas"].items()
    models = {f"{name}Members": schema for name, schema in schemas if "properties" in schema}
    assert {name for name in vars(contract) if name.endswith("Members")} == models.keys()
    for name, schema in models.items():
        members = getattr(contract, name)
        assert members.__required_keys__ == set(schema.get("required", ()))
        assert members.__annotations__.keys() == schema["properties"].keys()


def test_the_contract_types_hold_the_limits() -> None:
    limits = {name: value for name, value in vars(contract).items() if "_MAX_LENGTH" in name}
    assert limits == {
        "CORRELATION_ID_MAX_LENGTH": 64,
        "TOKEN_REQUEST_USERNAME_MAX_LENGTH": 64,
        "REVOKE_REQUEST_USERNAME_MAX_LENGTH": 64,
    }
    assert {value for name, value in vars(contract).items() if "_MIN_LENGTH" in name} == {1}


def test_the_package_is_typed_and_has_the_two_sources() -> None:
    folder = Path(inspect.getfile(blink_oauth_api)).parent
    assert (folder / "py.typed").is_file()
    assert {"PLATFORM", "PROVIDER"} == SOURCE_VALUES
