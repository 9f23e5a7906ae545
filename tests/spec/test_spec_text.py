"""The text of the contract: all YAML parsers read it alike, and spec/README.md has every mark."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

SPEC_FOLDER = Path(__file__).parents[2] / "spec"
TEXT = (SPEC_FOLDER / "openapi.yaml").read_text(encoding="utf-8")
CONTRACT: dict[str, Any] = yaml.safe_load(TEXT)

# The type of a plain scalar in YAML 1.2 (core schema); a scalar that matches nothing is a string.
# A leading zero is octal in 1.1 and decimal in 1.2: the types agree, the values do not.
YAML_1_2 = {
    "int of another value": r"[-+]?0[0-9]+",
    "NoneType": r"null|Null|NULL|~|",
    "bool": r"true|True|TRUE|false|False|FALSE",
    "int": r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+",
    "float": r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?"
    r"|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
}


def ambiguous_scalars(text: str) -> Iterator[str]:
    """Yield every unquoted scalar that YAML 1.1 and YAML 1.2 read as different types."""
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.ScalarEvent) and event.implicit[0]:
            old = type(yaml.safe_load(event.value)).__name__
            readings = (kind for kind, form in YAML_1_2.items() if re.fullmatch(form, event.value))
            if old != next(readings, "str"):
                yield event.value


def repeated_keys(text: str) -> Iterator[str]:
    """Yield every key that occurs twice in one mapping; PyYAML would silently use the last."""
    nodes = [yaml.compose(text, Loader=yaml.SafeLoader)]
    for node in nodes:
        if isinstance(node, yaml.SequenceNode):
            nodes.extend(node.value)
        if isinstance(node, yaml.MappingNode):
            keys = [key.value for key, _ in node.value]
            yield from (key for key in keys if keys.count(key) > 1)
            nodes.extend(value for _, value in node.value)


def marks(node: object, *place: str) -> Iterator[tuple[str, str]]:
    """Yield the place, as written in spec/README.md, and the value of every x-blink-evidence."""
    if isinstance(node, list):
        node = {str(index): item for index, item in enumerate(node)}
    if not isinstance(node, dict):
        return
    if "operationId" in node:
        place = ("operations", node["operationId"])
    if "x-blink-evidence" in node:
        yield "/".join(place), node["x-blink-evidence"]
    for key, child in node.items():
        yield from marks(child, *place, *(() if key in {"components", "properties"} else (key,)))


def test_yaml_1_1_and_1_2_read_the_contract_alike() -> None:
    assert list(ambiguous_scalars(TEXT)) == []


@pytest.mark.parametrize("scalar", ["no", "on", "2026-01-31", "12:30:45", "0o17", "017", "1e3"])
def test_an_ambiguous_scalar_is_found_unless_it_is_quoted(scalar: str) -> None:
    assert list(ambiguous_scalars(f"key: {scalar}")) == [scalar]
    assert list(ambiguous_scalars(f'key: "{scalar}"')) == []


def test_no_key_of_the_contract_occurs_twice() -> None:
    assert list(repeated_keys(TEXT)) == []
    assert list(repeated_keys("a: [{b: 1, b: 2}]")) == ["b", "b"]


def test_the_readme_lists_exactly_the_marks_of_the_contract() -> None:
    readme = (SPEC_FOLDER / "README.md").read_text(encoding="utf-8")
    row = re.compile(r"^\| `([\w/-]+)` \| [^|]+ \| (\w+) \| [^|]+ \| [^|]+ \|$", re.MULTILINE)
    listed = row.findall(readme)
    assert sorted(listed) == sorted(marks(CONTRACT))
    assert len(listed) == len(set(listed))


def test_every_operation_header_status_and_field_is_marked() -> None:
    components = CONTRACT["components"]
    expected = {f"operations/{name}" for name in ("request_token", "revoke_token")}
    for kind in ("parameters", "headers", "responses"):
        expected |= {f"{kind}/{name}" for name in components[kind]}
    for name, schema in components["schemas"].items():
        for field, value in schema.get("properties", {}).items():
            shared = value["$ref"].rpartition("/")[2] if "$ref" in value else f"{name}/{field}"
            expected.add(f"schemas/{shared}")
    assert expected <= dict(marks(CONTRACT)).keys()
    assert {word for _, word in marks(CONTRACT)} == {"stated", "provisional", "inferred"}


def test_the_contract_has_no_other_extension() -> None:
    assert set(re.findall(r"^ *(x-[\w-]+):", TEXT, re.MULTILINE)) == {
        "x-blink-evidence",
        "x-blink-inferred-parameters",
        "x-blink-client-authentication",
    }


def test_only_the_two_headers_on_the_revocation_page_are_stated_for_revocation() -> None:
    operation = CONTRACT["paths"]["/oauth/revoke"]["post"]
    parameters = {item["$ref"].rpartition("/")[2] for item in operation["parameters"]}
    inferred = set(operation["x-blink-inferred-parameters"])
    assert parameters - inferred == {"CorrelationId", "UserAgent"}
    assert inferred < parameters
