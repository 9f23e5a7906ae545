"""The parsed contract, as the tools that generate from it read it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

SPEC = "spec/openapi.yaml"
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
JSON_TYPES = {"string": "str", "integer": "int", "number": "float", "boolean": "bool"}

Node = dict[str, Any]
Place = tuple[str, ...]
"""The keys that lead to a part of the document; an index of a list is a key too."""


class GenerationError(Exception):
    """Nothing was generated and nothing was written; the message says what to do."""


def operations(contract: Node) -> Iterator[tuple[str, str, Node]]:
    """Yield the path, the method and the operation of every operation."""
    for path, item in contract.get("paths", {}).items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


def parameters(contract: Node, path: str, operation: Node) -> list[Node]:
    """Return the parameters of an operation, those of its path first, unless it has its own.

    Raises:
        GenerationError: If a reference does not resolve.
    """
    declared = (*contract["paths"][path].get("parameters", ()), *operation.get("parameters", ()))
    resolved = (resolve(contract, one) for one in declared)
    return list({(one["in"], one["name"]): one for one in resolved}.values())


def response_headers(contract: Node, operation: Node) -> dict[str, Node]:
    """Return the headers of the response of each status, by their names.

    Raises:
        GenerationError: If a reference does not resolve.
    """
    responses = {status: resolve(contract, one) for status, one in operation["responses"].items()}
    return {
        status: {name: resolve(contract, one) for name, one in response.get("headers", {}).items()}
        for status, response in responses.items()
    }


def json_type(contract: Node, schema: Node) -> str:
    """Return the Python type of a schema; `object` if there is no simple type.

    Raises:
        GenerationError: If a reference does not resolve.
    """
    schema = resolve(contract, schema)
    if "enum" in schema:
        return f"Literal[{', '.join(map(repr, schema['enum']))}]"
    return JSON_TYPES.get(str(schema.get("type")), "object")


def resolve(contract: Node, node: Node) -> Node:
    """Return the node that a reference leads to, with the keys beside it, or the node itself.

    Raises:
        GenerationError: If a reference does not resolve.
    """
    for place, found in steps(contract, node):
        if not isinstance(found, dict):
            reference = "/".join(("#", *place))
            raise GenerationError(f"Correct {SPEC}: {reference} does not resolve.")
        node = found | {key: value for key, value in node.items() if key != "$ref"}
    return node


def steps(contract: Node, node: Any) -> Iterator[tuple[Place, Any]]:
    """Yield the place that each reference leads to, until one leads to no further reference.

    With each comes what is there; None if there is nothing, or if the references form a circle.
    """
    seen = set()
    while isinstance(node, dict) and "$ref" in node:
        keys = node["$ref"].removeprefix("#/").split("/")
        place = tuple(key.replace("~1", "/").replace("~0", "~") for key in keys)
        node = contract if place not in seen else None
        for key in place:
            node = node.get(key) if isinstance(node, dict) else None
        seen.add(place)
        yield place, node
