"""Edits of a contract, for tests. A path is a sequence of keys; `*` matches every key."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

Node = dict[str, Any]
Change = Callable[[Node], None]

PATHS, SCHEMAS = "paths", "components.schemas"
TOKEN, REVOKE = f"{PATHS}./oauth/token.post", f"{PATHS}./oauth/revoke.post"
RESPONSES, HEADERS = "components.responses", "components.responses.*.headers"
CONFLICT = {"$ref": "#/components/responses/BadRequest"}


def matches(node: Node, keys: list[str]) -> Iterator[tuple[Node, str]]:
    """Yield the parent node and the last key of each match."""
    first, *rest = keys
    for key in [key for key in node if first in ("*", key)]:
        if rest:
            yield from matches(node[key], rest)
        else:
            yield node, key


def find(contract: Node, path: str) -> list[tuple[Node, str]]:
    """Return the parent node and the last key of each match; there must be at least one."""
    nodes = list(matches(contract, path.split(".")))
    assert nodes, path
    return nodes


def put(path: str, value: object) -> Change:
    """Add a key or change its value."""
    parent, _, name = path.rpartition(".")

    def change(contract: Node) -> None:
        for node, key in find(contract, parent):
            node[key][name] = value

    return change


def remove(path: str) -> Change:
    """Remove a key."""

    def change(contract: Node) -> None:
        for node, key in find(contract, path):
            del node[key]

    return change


def rename(path: str, new: str) -> Change:
    """Rename a key without changing the order of the keys."""

    def change(contract: Node) -> None:
        for node, old in find(contract, path):
            renamed = {new if key == old else key: value for key, value in node.items()}
            node.clear()
            node.update(renamed)

    return change


def rename_component(folder: str, old: str, new: str) -> Change:
    """Rename a component, and all references to it."""
    references = [f"#/components/{folder}/{name}" for name in (old, new)]

    def follow(node: Any) -> None:
        for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            if value == references[0]:
                node[key] = references[1]
            elif isinstance(value, (dict, list)):
                follow(value)

    return combined(rename(f"components.{folder}.{old}", new), follow)


def add_request_header(name: str, *, required: bool) -> Change:
    """Add a header to the token request."""
    header = {"name": name, "in": "header", "required": required, "schema": {"type": "string"}}

    def change(contract: Node) -> None:
        contract["components"]["parameters"]["Added"] = header
        reference = {"$ref": "#/components/parameters/Added"}
        contract["paths"]["/oauth/token"]["post"]["parameters"].append(reference)

    return change


def remove_request_header(name: str) -> Change:
    """Remove a header from the revocation only."""

    def change(contract: Node) -> None:
        parameters = contract["paths"]["/oauth/revoke"]["post"]["parameters"]
        parameters.remove({"$ref": f"#/components/parameters/{name}"})

    return change


def combined(*changes: Change) -> Change:
    """Return one change that makes several changes."""

    def change(contract: Node) -> None:
        for one in changes:
            one(contract)

    return change
