"""Every example conforms to the contract, which has the body of every file of `spec/examples`.

The contract has the bodies themselves because mock servers do not read files; users read the files.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_schema_validator import OAS31Validator

SPEC_FOLDER = Path(__file__).parents[2] / "spec"
EXAMPLES = SPEC_FOLDER / "examples"
CONTRACT: dict[str, Any] = yaml.safe_load((SPEC_FOLDER / "openapi.yaml").read_text("utf-8"))
COMPONENTS: dict[str, Any] = CONTRACT["components"]
Body = dict[str, str | int]
HEADERS: dict[str, dict[str, str]] = json.loads((EXAMPLES / "headers.json").read_text("utf-8"))


def bodies() -> Iterator[tuple[str, Body, dict[str, str]]]:
    """Yield the name, the value and the schema of every example of a body."""
    for kind in ("requestBodies", "responses"):
        for item in COMPONENTS[kind].values():
            for media_type in item.get("content", {}).values():
                for name, example in media_type.get("examples", {}).items():
                    yield name, example["value"], media_type["schema"]


BODIES = list(bodies())


def faults(value: object, schema: dict[str, str]) -> list[str]:
    """Return the errors of a value against a schema of the contract, formats included."""
    validator = OAS31Validator(
        schema | {"components": COMPONENTS}, format_checker=OAS31Validator.FORMAT_CHECKER
    )
    return [error.message for error in validator.iter_errors(value)]


def declared_headers(name: str) -> list[tuple[str, dict[str, Any]]]:
    """Return every declaration of a header that one entry of headers.json has an example of.

    A header may be declared for one status or for one operation alone.
    """
    if name.startswith("request"):
        return [(item["name"], item) for item in COMPONENTS["parameters"].values()]
    found = {
        (header, reference["$ref"].rpartition("/")[2])
        for item in CONTRACT["paths"].values()
        for status, response in item["post"]["responses"].items()
        if (status == "200") == ("success" in name)
        for header, reference in COMPONENTS["responses"][response["$ref"].rpartition("/")[2]][
            "headers"
        ].items()
    }
    return [(header, COMPONENTS["headers"][component]) for header, component in sorted(found)]


@pytest.mark.parametrize(("name", "value", "schema"), BODIES)
def test_the_example_of_a_body_conforms_to_its_schema(
    name: str, value: Body, schema: dict[str, str]
) -> None:
    assert faults(value, schema) == [], name


@pytest.mark.parametrize("schema", [schema for _, _, schema in BODIES])
def test_an_empty_body_does_not_conform_to_the_schema(schema: dict[str, str]) -> None:
    assert faults({}, schema)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, value, _ in BODIES])
def test_the_example_of_a_body_equals_its_file_and_the_order_of_its_members(
    name: str, value: Body
) -> None:
    assert json.dumps(value, indent=2) + "\n" == (EXAMPLES / f"{name}.json").read_text("utf-8")


def test_every_file_is_in_the_contract() -> None:
    files = [path.name for path in EXAMPLES.iterdir() if path.name != "headers.json"]
    assert sorted(files) == sorted(f"{name}.json" for name, _, _ in BODIES)


def test_every_body_has_an_example() -> None:
    items = {**COMPONENTS["requestBodies"], **COMPONENTS["responses"]}
    with_content = {name for name, item in items.items() if "content" in item}
    with_example = {
        name
        for name in with_content
        if any("examples" in media_type for media_type in items[name]["content"].values())
    }
    assert with_example == with_content


@pytest.mark.parametrize("name", HEADERS)
def test_the_examples_of_headers_are_complete_and_conform_to_their_schemas(name: str) -> None:
    headers = declared_headers(name)
    assert HEADERS[name].keys() == {header for header, _ in headers}
    assert [faults(HEADERS[name][header], item["schema"]) for header, item in headers] == [
        []
    ] * len(headers)
    assert all(faults("\r\n", item["schema"]) for _, item in headers)


def test_the_header_examples_in_the_contract_equal_those_in_the_file() -> None:
    parameters = COMPONENTS["parameters"].values()
    assert {item["name"]: item["example"] for item in parameters} == HEADERS["request_interactive"]
    for name in ("response_success", "response_error_provider"):
        for header, declared in declared_headers(name):
            assert declared["example"] == HEADERS[name][header]


def test_every_secret_in_an_example_is_obviously_fake() -> None:
    secrets = {"access_token", "refresh_token", "code", "token"}
    found = [value for _, body, _ in BODIES for field, value in body.items() if field in secrets]
    assert found
    assert [value for value in found if not str(value).startswith("fake-")] == []
