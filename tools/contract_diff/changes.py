"""Compare two contracts, and tell what each change means for the caller."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from attrs import evolve

from contract_document import GenerationError, Node, Place, operations, resolve, steps

from .grammar import GRAMMAR, UNKNOWN, Element
from .rules import (
    ABSENT,
    BOTH,
    INPUTS,
    OUTPUTS,
    REQUEST,
    RESPONSE,
    RULES,
    Change,
    Rule,
    consequence,
)
from .symbols import Key, Made, made_names, names_of
from .values import EVERYTHING, VALUES, items, plain, said, same, text_of

Item = tuple[str, Any]
ItemKey = Callable[[Node, Item], object]


def compare(old: Node, new: Node, rules: Sequence[Rule] = RULES) -> list[Change]:
    """Return the changes between two contracts with their consequences, in the document's order."""
    changes = (consequence(one, rules) for one in _Comparison(old, new).changes())
    return _merged(changes)


def _merged(changes: Iterator[Change]) -> list[Change]:
    """Make one change of the same header, media type or status in several places."""
    merged: dict[object, Change] = {}
    for one in changes:
        place: object = one.place
        if one.kind in ("response header", "media type", "status"):
            place = one.place[-1]
        elif one.kind == "reference":
            place = ""
        key = (place, one.kind, one.how, text_of(one.before), text_of(one.after), one.sides)
        if key in merged:
            known = merged[key]
            merged[key] = evolve(known, others=(*known.others, one.place))
        else:
            merged[key] = one
    return list(merged.values())


# ---- parts of a contract


def node(value: Any) -> Node:
    """Return a node, empty if there is none."""
    return value if isinstance(value, dict) else {}


def nodes(value: Any) -> Iterator[Node]:
    """Yield every node in a value."""
    if isinstance(value, dict):
        yield value
    for one in value.values() if isinstance(value, dict) else value:
        if isinstance(one, (dict, list)):
            yield from nodes(one)


def target(contract: Node, value: Any) -> Node:
    """Return the node that a reference leads to; if it leads nowhere, the node with it."""
    try:
        return resolve(contract, node(value))
    except GenerationError:
        return node(value)


def expand(contract: Node, value: Any, within: tuple[str, ...] = ()) -> Any:
    """Return a value with all references replaced by what they lead to."""
    if isinstance(value, list):
        return [expand(contract, one, within) for one in value]
    if not isinstance(value, dict):
        return value
    reference = str(value.get("$ref", ""))
    if reference in within:
        return value
    found = target(contract, value)
    return {key: expand(contract, one, (*within, reference)) for key, one in found.items()}


def uses(contract: Node) -> Iterator[tuple[Place, str]]:
    """Yield each component that an operation refers to, directly or not, with the side."""
    paths = node(contract.get("paths")).values()
    pending = [(node(path).get("parameters"), REQUEST) for path in paths]
    for _, _, operation in operations(contract):
        pending += [(operation.get(key), REQUEST) for key in ("parameters", "requestBody")]
        pending.append((operation.get("responses"), RESPONSE))
    seen = set()
    while pending:
        value, side = pending.pop()
        for one in nodes(value) if isinstance(value, (dict, list)) else ():
            for place, found in steps(contract, one):
                if (place, side) not in seen:
                    seen.add((place, side))
                    pending.append((found, side))
                    yield place, side


class _Comparison:
    """The comparison of two contracts."""

    def __init__(self, old: Node, new: Node) -> None:
        self._old, self._new = old, new
        self._used = {place for place, _ in uses(new)}
        self._sides: dict[Place, set[str]] = defaultdict(set)
        for place, side in (*uses(old), *uses(new)):
            self._sides[place].add(side)
        self._followed: set[tuple[str, str]] = set()
        keywords = [
            one.get("unevaluatedProperties", True) for each in (old, new) for one in nodes(each)
        ]
        self._names_matter = any(one not in EVERYTHING for one in keywords)

    def changes(self) -> Iterator[Change]:
        """Yield the changes."""
        yield from self._keys("document", self._old, self._new, ())

    @cached_property
    def _made(self) -> tuple[dict[Key, Made], dict[Key, Made]]:
        return made_names(self._old), made_names(self._new)

    def _loses_names(self, place: Place) -> bool:
        """Return whether the generator makes names of a schema that it no longer makes."""
        old, new = self._made
        return place[1] == "schemas" and not names_of(old, place) <= new.keys()

    def _change(self, place: Place, kind: str, how: str, before: Any, after: Any) -> Change:
        if kind == "component" and how in ("removed", "renamed") and self._loses_names(place):
            kind = "generated name"
        return Change(place, kind, how, before, after, self._sides_of(place))

    def _sides_of(self, place: Place) -> frozenset[str]:
        if place[0] == "components":
            return frozenset(self._sides.get(place[:3], BOTH))
        return frozenset({RESPONSE if place[3:4] == ("responses",) else REQUEST})

    def _keys(self, type_: str, old: Node, new: Node, place: Place) -> Iterator[Change]:
        """Compare two nodes key by key."""
        changes = []
        for key in dict.fromkeys((*old, *new)):
            before, after = old.get(key, ABSENT), new.get(key, ABSENT)
            if same(before, after):
                continue
            element = GRAMMAR[type_].get(key) or GRAMMAR[type_].get("*", UNKNOWN)
            found = list(self._element(element, before, after, (*place, key)))
            changes += found or [self._change((*place, key), "order", "changed", before, after)]
        return _with_required(changes) if type_ == "schema" else iter(changes)

    def _element(self, element: Element, old: Any, new: Any, place: Place) -> Iterator[Change]:
        """Compare what one key holds."""
        is_mapping = all(one is ABSENT or isinstance(one, dict) for one in (old, new))
        is_list = all(one is ABSENT or isinstance(one, list) for one in (old, new))
        if not element.type:
            return self._value(element.kind, old, new, place)
        if element.each and is_list:
            return self._list(element, items(old), items(new), place)
        if not is_mapping:
            return iter([self._change(place, "unknown", "changed", old, new)])
        if element.each:
            return self._mapping(element, node(old), node(new), place)
        if ABSENT in (old, new) and element.type not in ("info", "components", "schema"):
            return iter([self._one_sided(element.kind, old, new, place)])
        return self._node(element.type, node(old), node(new), place)

    def _one_sided(self, kind: str, old: Any, new: Any, place: Place) -> Change:
        """Compare an element with nothing."""
        how = "removed" if new is ABSENT else "added"
        if how == "added" and kind in INPUTS | OUTPUTS:
            is_required = target(self._new, new).get("required") is True
            how = "added as required" if is_required else how
        if how == "removed" and kind == "component" and place in self._used:
            how = "removed, and still referred to"
        return self._change(place, kind, how, old, new)

    def _node(self, type_: str, old: Node, new: Node, place: Place) -> Iterator[Change]:
        """Compare two nodes; a component that both refer to is compared in its own place."""
        refs = (str(old.get("$ref", "")), str(new.get("$ref", "")))
        if refs[0] == refs[1] or refs in self._followed:
            old, new = ({**one, "$ref": None} for one in (old, new))
            return self._keys(type_, old, new, place)
        self._followed.add(refs)
        targets = target(self._old, old), target(self._new, new)
        changes = list(self._keys(type_, *targets, place))
        self._followed.discard(refs)
        if any("$ref" in one for one in targets):
            changes = [self._change(place, "reference", "dangling", *refs)]
        shown = (one or ABSENT for one in refs)
        return iter(changes or [self._change(place, "reference", "changed", *shown)])

    def _mapping(self, element: Element, old: Node, new: Node, place: Place) -> Iterator[Change]:
        """Compare the elements of a mapping by their names; equal ones may have been renamed."""

        def name(_: Node, item: Item) -> object:
            return item[0]

        keys = (name,) if element.kind == "status" else (name, _content)
        for before, after in self._paired(old.items(), new.items(), keys):
            if not (before and after and before[0] != after[0]):
                yield from self._pair(element, before, after, place)
            elif (*place, before[0]) in self._used:
                yield from self._pair(element, before, None, place)
                yield from self._pair(element, None, after, place)
            else:
                names = before[0], after[0]
                yield self._change((*place, before[0]), element.kind, "renamed", *names)

    def _list(
        self, element: Element, old: list[Any], new: list[Any], place: Place
    ) -> Iterator[Change]:
        """Compare the elements of a list, whose order means nothing."""
        left, right = ([(str(i), one) for i, one in enumerate(each)] for each in (old, new))
        for before, after in self._paired(left, right, LIST_KEYS[element.type]):
            yield from self._pair(element, before, after, place)

    def _pair(
        self, element: Element, before: Item | None, after: Item | None, place: Place
    ) -> Iterator[Change]:
        """Compare two elements of a mapping or a list, or one with nothing."""
        if before and after:
            if not same(before[1], after[1]):
                one = Element(element.kind, element.type)
                yield from self._element(one, before[1], after[1], (*place, after[0]))
        elif before:
            yield self._one_sided(element.kind, before[1], ABSENT, (*place, before[0]))
        elif after:
            yield self._one_sided(element.kind, ABSENT, after[1], (*place, after[0]))

    def _paired(
        self, old: Iterable[Item], new: Iterable[Item], keys: Iterable[ItemKey]
    ) -> list[tuple[Item | None, Item | None]]:
        """Pair the items with the same key: by the first key function, the rest by the next."""
        left, right = list(old), list(new)
        pairs: list[tuple[Item | None, Item | None]] = []
        for key in keys:
            by_key = {key(self._new, item): item for item in reversed(right)}
            for item in list(left):
                found = by_key.pop(key(self._old, item), None)
                if found is not None:
                    pairs.append((item, found))
                    left.remove(item)
                    right.remove(found)
        return [*pairs, *((item, None) for item in left), *((None, item) for item in right)]

    def _value(self, kind: str, old: Any, new: Any, place: Place) -> Iterator[Change]:
        """Compare two plain values."""
        if kind == "condition" and not self._names_matter:
            if same(said(old), said(new)):
                yield self._change(place, kind, "written", old, new)
                return
            old, new = said(old), said(new)
        for how, before, after in VALUES.get(kind, plain)(place[-1], old, new):
            if kind == "members required":
                member = (*place, str(before or after))
                yield self._change(member, "member", how, bool(before), bool(after))
            elif kind == "inferred parameters":
                yield self._change(place, "evidence", how, before, after)
            elif kind == "enum value" and ABSENT in (before, after) and ABSENT not in (old, new):
                value = before if after is ABSENT else after
                yield self._change((*place, str(value)), kind, how, before, after)
            else:
                kind = kind.removesuffix(" required").removesuffix(" name")
                yield self._change(place, kind, how, before, after)


def _with_required(changes: list[Change]) -> Iterator[Change]:
    """Say of an added member that it is required, and of a removed or renamed one nothing more."""
    members = [one for one in changes if one.kind == "member" and one.place[-2] == "properties"]
    listed = {_member(one) for one in members}
    listed |= {(one.place[:-2], one.after) for one in members if one.how == "renamed"}
    required = {_member(one) for one in changes if one.how == "now required"}
    for one in changes:
        if one in members and one.how == "added" and _member(one) in required:
            yield evolve(one, how="added as required")
        elif one in members or one.kind != "member" or _member(one) not in listed:
            yield one


def _member(change: Change) -> tuple[Place, str]:
    """Return the schema and the name of a member, or of an entry of the list `required`."""
    return change.place[:-2], change.place[-1]


# ---- how the elements of mappings and lists are paired


def _content(contract: Node, item: Item) -> object:
    return text_of(expand(contract, item[1]))


def _reference_or_name(contract: Node, item: Item) -> object:
    return node(item[1]).get("$ref") or _name(contract, item)


def _name(contract: Node, item: Item) -> object:
    parameter = target(contract, item[1])
    return text_of([parameter.get("in"), parameter.get("name")])


def _all_but_name(contract: Node, item: Item) -> object:
    return text_of({**expand(contract, item[1]), "name": ""})


# One server whose URL changes is the same server.
SERVER_KEYS: tuple[ItemKey, ...] = (lambda _, item: item[1].get("url"), lambda _, item: "")
LIST_KEYS: dict[str, tuple[ItemKey, ...]] = {
    "parameter": (_reference_or_name, _name, _all_but_name),
    "server": SERVER_KEYS,
    "own server": SERVER_KEYS,
}
