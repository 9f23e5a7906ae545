"""Read parts of a contract: values, references, and the components that each side uses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from contract_grammar import METHODS
from contract_rules import ABSENT, REQUEST, RESPONSE, Place

Node = dict[str, Any]


def node(value: Any) -> Node:
    """Return a node, empty if there is none."""
    return value if isinstance(value, dict) else {}


def items(value: Any) -> list[Any]:
    """Return the items of a list; of another value, the value itself; of none, none."""
    return [] if value is ABSENT else value if isinstance(value, list) else [value]


def without(these: list[Any], those: list[Any]) -> list[Any]:
    """Return the items of one list that another lacks."""
    texts = {text_of(one) for one in those}
    return [one for one in these if text_of(one) not in texts]


def same(one: Any, other: Any) -> bool:
    """Return whether two values are equal; the order of keys is no difference."""
    if one is other or type(one) is not type(other):  # in Python, `True == 1`
        return one is other
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def text_of(value: object) -> str:
    """Return a text that two values share only if they are the same."""
    return repr(value) if value is ABSENT else json.dumps(value, sort_keys=True, default=str)


def lookup(contract: Node, reference: str) -> tuple[Place, Any]:
    """Return the place that a reference names and what is there, or `ABSENT`."""
    place = tuple(step.replace("~1", "/").replace("~0", "~") for step in reference[2:].split("/"))
    found: Any = contract
    for step in place:
        found = found.get(step, ABSENT) if isinstance(found, dict) else ABSENT
    return place, found


def resolve(contract: Node, value: Any) -> Node:
    """Return what a reference leads to, with the keys beside it; itself if it leads nowhere."""
    found, followed = node(value), set()
    while "$ref" in found and found["$ref"] not in followed:
        reference = str(found["$ref"])
        followed.add(reference)
        target = lookup(contract, reference)[1]
        if not isinstance(target, dict):
            break
        found = {**target, **{key: one for key, one in found.items() if key != "$ref"}}
    return found


def expand(contract: Node, value: Any, within: tuple[str, ...] = ()) -> Any:
    """Return a value with all references replaced by what they lead to."""
    if isinstance(value, list):
        return [expand(contract, one, within) for one in value]
    if not isinstance(value, dict):
        return value
    reference = str(value.get("$ref", ""))
    if reference in within:
        return value
    target = resolve(contract, value)
    return {key: expand(contract, one, (*within, reference)) for key, one in target.items()}


def uses(contract: Node) -> Iterator[tuple[Place, str]]:
    """Yield each component that an operation refers to, directly or not, with the side."""
    pending: list[tuple[Any, str]] = []
    for path in node(contract.get("paths")).values():
        pending.append((node(path).get("parameters"), REQUEST))
        for operation in (node(node(path).get(method)) for method in METHODS):
            pending += [(operation.get(key), REQUEST) for key in ("parameters", "requestBody")]
            pending.append((operation.get("responses"), RESPONSE))
    seen = set()
    while pending:
        value, side = pending.pop()
        if isinstance(value, list):
            pending += [(one, side) for one in value]
        elif isinstance(value, dict):
            pending += [(one, side) for one in value.values()]
            if "$ref" not in value:
                continue
            place, target = lookup(contract, str(value["$ref"]))
            if (place, side) not in seen:
                seen.add((place, side))
                pending.append((target, side))
                yield place, side
