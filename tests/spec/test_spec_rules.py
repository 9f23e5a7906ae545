"""The contract follows the house rules of spec/README.md.

A rule is a function that yields the faults of a contract. Each rule is checked against the contract
and against contracts broken on purpose, which proves that the rule finds a fault.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_spec_validator import OpenAPIV31SpecValidator

SPEC = Path(__file__).parents[2] / "spec" / "openapi.yaml"
CONTRACT: dict[str, Any] = yaml.safe_load(SPEC.read_text(encoding="utf-8"))

# The lists of the platform's pages: statuses, and the headers that are always there. They are
# here alone; all other tests read from the contract what is declared and what is required.
STATUSES = {"200", "400", "401", "403", "406", "415", "500", "502", "504"}
ON_REQUEST = {
    "X-Correlation-ID",
    "User-Agent",
    "X-CorAPI-Target-ID",
    "X-PSU-IP-Address",
    "X-PSU-User-Agent",
}
ON_SUCCESS = {
    "POST /oauth/token": {"X-Correlation-ID", "X-CorAPI-Source", "Cache-Control", "Pragma"},
    "POST /oauth/revoke": {"X-Correlation-ID", "X-CorAPI-Source", "Cache-Control", "Pragma"},
}
ON_ERROR = {"X-Correlation-ID", "X-CorAPI-Source", "Content-Language"}

Contract = dict[str, Any]
Step = str | int
Rule = Callable[[Contract], Iterator[str]]


def walk(node: object, place: tuple[Step, ...] = ()) -> Iterator[tuple[tuple[Step, ...], object]]:
    """Yield a node and every node below it, each with its place."""
    yield place, node
    if isinstance(node, list):
        node = dict(enumerate(node))
    if isinstance(node, dict):
        for step, child in node.items():
            yield from walk(child, (*place, step))


def mappings(contract: Contract) -> Iterator[tuple[tuple[Step, ...], dict[str, Any]]]:
    """Yield every mapping of the contract with its place."""
    return ((place, node) for place, node in walk(contract) if isinstance(node, dict))


def operations(contract: Contract) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every operation with its name, such as POST /oauth/token."""
    for path, item in contract["paths"].items():
        for method, operation in item.items():
            yield f"{method.upper()} {path}", operation


def resolve(contract: Contract, node: dict[str, Any]) -> dict[str, Any]:
    """Return the node that an internal reference leads to, or the node itself."""
    for step in node.get("$ref", "").split("/")[1:]:
        contract = contract[step]
    return contract if "$ref" in node else node


def is_valid_openapi(contract: Contract) -> Iterator[str]:
    """The contract is valid OpenAPI 3.1."""
    for error in OpenAPIV31SpecValidator(contract).iter_errors():
        yield str(error.message)


def operation_ids_are_unique(contract: Contract) -> Iterator[str]:
    """operationId is unique: it names the generated module, which a second one would overwrite."""
    ids = [operation.get("operationId") for _, operation in operations(contract)]
    for name, operation in operations(contract):
        if ids.count(operation.get("operationId")) != 1 or len(operation.get("tags", ())) != 1:
            yield f"{name} needs a unique operationId and one tag"


def every_status_is_documented(contract: Contract) -> Iterator[str]:
    """Both operations document the platform's statuses, and no others."""
    for name, operation in operations(contract):
        for status in STATUSES ^ operation["responses"].keys():
            yield f"{name}: {status!r} is missing or unexpected"


def required(contract: Contract, headers: dict[str, Any]) -> set[str]:
    """Return the names of the headers that are required."""
    return {name for name, header in headers.items() if resolve(contract, header).get("required")}


def every_status_requires_its_headers(contract: Contract) -> Iterator[str]:
    """Each status requires exactly the headers that the platform lists for it."""
    for name, operation in operations(contract):
        for status, reference in operation["responses"].items():
            headers = resolve(contract, reference).get("headers", {})
            listed = ON_SUCCESS[name] if status == "200" else ON_ERROR
            for header in required(contract, headers) ^ listed:
                yield f"{name} {status}: {header} is not required, or not listed"


def every_operation_requires_its_headers(contract: Contract) -> Iterator[str]:
    """Each operation requires exactly the request headers that the platform lists."""
    for name, operation in operations(contract):
        parameters = [resolve(contract, parameter) for parameter in operation["parameters"]]
        for header in required(contract, {item["name"]: item for item in parameters}) ^ ON_REQUEST:
            yield f"{name}: {header} is not required, or not listed"
        for item in parameters:
            if item["in"] != "header":
                yield f"{name}: {item['name']} is no header"


def every_header_is_a_component(contract: Contract) -> Iterator[str]:
    """Every header is defined under components, where its evidence and its example are."""
    for name, operation in operations(contract):
        nodes = [("parameter", node) for node in operation["parameters"]]
        for status, reference in operation["responses"].items():
            headers = resolve(contract, reference).get("headers", {}).items()
            nodes += [(f"{status} {header}", node) for header, node in headers]
        for place, node in nodes:
            if node.keys() != {"$ref"}:
                yield f"{name}: {place} is defined inline"


def every_error_carries_both_forms(contract: Contract) -> Iterator[str]:
    """Each error status allows JSON and problem details, with one schema for both."""
    media_types = ("application/json", "application/problem+json")
    forms = dict.fromkeys(media_types, "#/components/schemas/ErrorBody")
    for name, operation in operations(contract):
        for status, reference in operation["responses"].items():
            content = resolve(contract, reference).get("content", {})
            found = {key: media["schema"].get("$ref") for key, media in content.items()}
            if status != "200" and found != forms:
                yield f"{name} {status}: {found}"


def no_schema_is_inline(contract: Contract) -> Iterator[str]:
    """Every schema has a name; otherwise the generator would invent one."""
    for place, node in mappings(contract):
        if "schema" in node and "$ref" not in node["schema"]:
            yield f"{place}: inline schema"
        if place[-2:-1] == ("properties",) and node.keys() & {"enum", "properties", "anyOf"}:
            yield f"{place}: inline schema of a property"


def references_resolve(contract: Contract) -> Iterator[str]:
    """Every reference resolves and every component is used; the generator checks neither."""
    used = {str(node["$ref"]) for _, node in mappings(contract) if "$ref" in node}
    kinds = contract["components"].items()
    defined = {f"#/components/{kind}/{name}" for kind, items in kinds for name in items}
    for reference in used ^ defined:
        yield f"{reference} is dangling, external or unused"


def the_generator_supports_it(contract: Contract) -> Iterator[str]:
    """The contract has no construct that the generator drops, breaks or misreads."""
    for place, node in mappings(contract):
        unsupported = {"default", "securitySchemes", *(("security",) if place else ())}
        if node.keys() & unsupported and "servers" not in place:
            yield f"{place}: default or security"
        if "oneOf" in node and "properties" in node:
            yield f"{place}: oneOf beside properties"
        if place[:-1] == ("components", "schemas") and node.keys() & {"anyOf", "oneOf"}:
            yield f"{place}: a union of models"
        if node.get("in") == "header":
            schema = resolve(contract, node.get("schema", {}))
            if node["name"].lower() in {"accept", "content-type", "authorization"}:
                yield f"{place}: header parameter {node['name']}"
            if schema.get("type") != "string" or schema.keys() & {"const", "format", "anyOf"}:
                yield f"{place}: the generator must see a plain string"
    for name, body in contract["components"]["requestBodies"].items():
        if list(body["content"]) != ["application/x-www-form-urlencoded"]:
            yield f"{name}: a form has one media type"


def security_is_the_empty_list(contract: Contract) -> Iterator[str]:
    """The root has an empty `security`: linters ask for it, and the generator ignores it there."""
    if contract.get("security") != []:
        yield f"security: {contract.get('security')}"


def closed_requests_open_responses(contract: Contract) -> Iterator[str]:
    """Forms are closed; response bodies are open and allow any value of the right type."""
    schemas = contract["components"]["schemas"].items()
    for name, schema in ((name, schema) for name, schema in schemas if "properties" in schema):
        is_request = name.endswith("Request")
        if (schema.get("additionalProperties") is False) is not is_request:
            yield f"{name}: requests are closed, responses open"
        for field, declared in schema["properties"].items():
            value = resolve(contract, declared)
            may_be_empty = not value.keys() & {"enum", "minLength"}
            tight = value.keys() & {"enum", "const", "pattern", "maxLength"}
            retyped = value.get("format", "password") != "password"
            if may_be_empty if is_request else tight or retyped:
                yield f"{name}.{field}: too loose for a request or too tight for a response"


def secrets_are_marked(contract: Contract) -> Iterator[str]:
    """Every field with a token or a code has format: password, where it is described."""
    for place, node in mappings(contract):
        # A condition only names the fields that it is about.
        is_field = place[-2:-1] == ("properties",) and "then" not in place
        is_secret = is_field and re.search("token$|^code$", str(place[-1]))
        if is_secret and node.get("format") != "password":
            yield f"{place}: format: password is missing"


# Breaches of each rule: a place in the contract and the value to put there.
BREACHES: list[tuple[Rule, str, object]] = [
    (is_valid_openapi, "info", {}),
    (operation_ids_are_unique, "paths /oauth/revoke post operationId", "request_token"),
    (operation_ids_are_unique, "paths /oauth/revoke post tags", []),
    (every_status_is_documented, "paths /oauth/token post responses default", {}),
    (every_status_is_documented, "paths /oauth/token post responses", {}),
    (every_status_requires_its_headers, "components responses BadGateway headers", {}),
    (every_status_requires_its_headers, "components responses TokenRevoked headers", {}),
    (every_status_requires_its_headers, "components headers Pragma required", False),
    (
        every_status_requires_its_headers,
        "components responses TokenIssued headers X-New",
        {"required": True},
    ),
    (every_operation_requires_its_headers, "paths /oauth/token post parameters", []),
    (every_operation_requires_its_headers, "components parameters TargetId required", False),
    (every_operation_requires_its_headers, "components parameters TargetId in", "query"),
    (every_operation_requires_its_headers, "components parameters TargetId name", "X-New"),
    (every_header_is_a_component, "components responses TokenIssued headers X-New", {}),
    (every_header_is_a_component, "paths /oauth/token post parameters", [{"name": "X-New"}]),
    (every_error_carries_both_forms, "components responses BadGateway content", {}),
    (no_schema_is_inline, "components headers Pragma schema", {"type": "string"}),
    (no_schema_is_inline, "components schemas TokenRequest properties code enum", ["a"]),
    (references_resolve, "components responses BadGateway headers Pragma", {"$ref": "#/nowhere"}),
    (references_resolve, "components schemas Unused", {}),
    (the_generator_supports_it, "paths /oauth/token post responses default", {}),
    (the_generator_supports_it, "paths /oauth/token post security", []),
    (the_generator_supports_it, "components securitySchemes", {}),
    (security_is_the_empty_list, "security", [{}]),
    (security_is_the_empty_list, "security", None),
    (the_generator_supports_it, "components schemas TokenRequest oneOf", []),
    (the_generator_supports_it, "components schemas ErrorBody anyOf", [{"required": ["error"]}]),
    (the_generator_supports_it, "components parameters UserAgent name", "Accept"),
    (the_generator_supports_it, "components schemas HeaderText const", "AUTO"),
    (the_generator_supports_it, "components schemas HeaderText format", "uuid"),
    (the_generator_supports_it, "components requestBodies Token content application/json", {}),
    (
        closed_requests_open_responses,
        "components schemas TokenRequest additionalProperties",
        True,
    ),
    (
        closed_requests_open_responses,
        "components schemas TokenResponse additionalProperties",
        False,
    ),
    (
        closed_requests_open_responses,
        "components schemas TokenResponse properties token_type enum",
        ["x"],
    ),
    (
        closed_requests_open_responses,
        "components schemas ErrorBody properties instance format",
        "uri",
    ),
    (
        closed_requests_open_responses,
        "components schemas TokenRequest properties code",
        {"type": "string"},
    ),
    (secrets_are_marked, "components schemas TokenRequest properties code format", "byte"),
]
RULES = list(dict.fromkeys(rule for rule, _, _ in BREACHES))


def name_of(rule: object) -> str | None:
    """Return the name of a rule for the id of a test; pytest names all other values."""
    return getattr(rule, "__name__", None)


def test_there_are_exactly_the_two_operations() -> None:
    found = {name: (op["operationId"], op["tags"]) for name, op in operations(CONTRACT)}
    assert found == {
        "POST /oauth/token": ("request_token", ["oauth"]),
        "POST /oauth/revoke": ("revoke_token", ["oauth"]),
    }


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_the_contract_follows_the_rule(rule: Rule) -> None:
    assert list(rule(CONTRACT)) == []


@pytest.mark.parametrize(("rule", "place", "value"), BREACHES, ids=name_of)
def test_a_breach_of_the_rule_is_found(rule: Rule, place: str, value: object) -> None:
    *steps, last = place.split()
    broken = node = copy.deepcopy(CONTRACT)
    for step in steps:
        node = node[step]
    node[last] = value
    assert list(rule(broken))


def test_an_optional_header_of_one_operation_keeps_the_rules() -> None:
    extended = copy.deepcopy(CONTRACT)
    new = {"schema": {"$ref": "#/components/schemas/HeaderText"}}
    components, token = extended["components"], extended["paths"]["/oauth/token"]["post"]
    components["headers"]["Added"] = new
    components["parameters"]["Added"] = {"name": "X-Added", "in": "header", **new}
    for kind in ("TokenIssued", "BadGateway"):
        headers = components["responses"][kind]["headers"]
        headers["X-Added"] = {"$ref": "#/components/headers/Added"}
    token["parameters"].append({"$ref": "#/components/parameters/Added"})
    assert [fault for rule in RULES for fault in rule(extended)] == []
