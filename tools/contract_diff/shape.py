"""Find where a document does not have the shape of a contract, which other modules rely on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from contract_document import Node, Place, steps

from .grammar import GRAMMAR, LISTS, UNKNOWN, Element

NEEDED = {"operation": ("operationId",), "parameter": ("name", "in"), "server": ("url",)}


TEXT, TEXTS, LIST, MAPPING = "a text", "a list of texts", "a list", "a mapping"
TYPES = {TEXT: str, TEXTS: list, LIST: list, MAPPING: dict}
# Other plain values are only compared and shown, which takes any value.
PLAIN = {
    ("operation", "operationId"): TEXT,
    ("operation", "tags"): TEXTS,
    ("operation", "x-blink-inferred-parameters"): TEXTS,
    ("parameter", "name"): TEXT,
    ("parameter", "in"): TEXT,
    ("server", "url"): TEXT,
    ("schema", "required"): TEXTS,
    ("schema", "enum"): LIST,
}


def complaints(contract: Node) -> Iterator[str]:
    """Yield a sentence for each place that has the wrong shape, without the full stop.

    A reference that leads nowhere is none: the comparison reports it.
    """
    yield from _references(contract, ())
    yield from _node(contract, "document", contract, (), set())


def _references(value: Any, place: Place) -> Iterator[str]:
    if isinstance(value, dict) and "$ref" in value:
        yield from _complaint(TEXT, value["$ref"], (*place, "$ref"))
    found = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in found:
        if isinstance(one, (dict, list)):
            yield from _references(one, (*place, str(key)))


def _node(
    contract: Node, type_: str, value: Node, place: Place, seen: set[tuple[str, Place]]
) -> Iterator[str]:
    """Check a node, and what its reference leads to as a node of the same type."""
    if (type_, place) in seen:
        return
    seen.add((type_, place))
    grammar = GRAMMAR[type_]
    for needed in NEEDED.get(type_, ()) if "$ref" not in value else ():
        if needed not in value:
            yield f"{_words(place)} has no {needed}"
    for key, one in value.items():
        element = grammar.get(key) or grammar.get("*", UNKNOWN)
        if (type_, key) in PLAIN:
            yield from _complaint(PLAIN[type_, key], one, (*place, key))
        if element.type:
            yield from _element(contract, element, one, (*place, key), seen)
    for at, found in steps(contract, value) if isinstance(value.get("$ref"), str) else ():
        if found is not None:
            yield from _element(contract, Element(type=type_), found, at, seen)


def _element(
    contract: Node, element: Element, value: Any, place: Place, seen: set[tuple[str, Place]]
) -> Iterator[str]:
    in_list = element.each and element.type in LISTS and element.kind != "component"
    shape = LIST if in_list else MAPPING
    yield from _complaint(shape, value, place)
    if not isinstance(value, TYPES[shape]):
        return
    if element.each:
        one = Element(type=element.type)
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _element(contract, one, item, (*place, str(key)), seen)
    else:
        yield from _node(contract, element.type, value, place, seen)


def _complaint(shape: str, value: Any, place: Place) -> Iterator[str]:
    is_right = isinstance(value, TYPES[shape])
    if not is_right or (shape == TEXTS and not all(isinstance(one, str) for one in value)):
        yield f"{_words(place)} must be {shape}"


def _words(place: Place) -> str:
    return " > ".join(place)
