"""Compare two values of a contract by their kind: how one changed into the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any

from .grammar import TEXTS
from .rules import ABSENT

EVERYTHING: tuple[Any, ...] = (True, {})
OTHERS = ("additionalProperties", "unevaluatedProperties")
MARKS = ("inferred", "provisional", "stated")
Difference = tuple[str, Any, Any]
"""How a value changed, the older value and the newer one."""


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


def said(schema: Any) -> Any:
    """Return what a schema demands, without texts and without keywords that allow everything.

    Where a schema says `unevaluatedProperties: false`, it matters which properties others name.
    """
    if isinstance(schema, list):
        return [said(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {}
    for key, value in schema.items():
        if key in ("const", "enum", "default"):
            found[key] = value
        elif key == "properties" and isinstance(value, dict):
            named = {name: said(one) for name, one in value.items()}
            found[key] = {name: one for name, one in named.items() if one not in EVERYTHING}
        elif key not in {*TEXTS, "title", "$comment"}:
            found[key] = said(value)
    nothing: dict[str, tuple[Any, ...]] = {"properties": ({},)} | dict.fromkeys(OTHERS, EVERYTHING)
    return {key: one for key, one in found.items() if one not in nothing.get(key, ())}


def plain(_: str, old: Any, new: Any) -> Iterator[Difference]:
    """Compare two values of which nothing more is known."""
    yield "added" if old is ABSENT else "removed" if new is ABSENT else "changed", old, new


def constraint(_: str, old: Any, new: Any) -> Iterator[Difference]:
    """Compare two constraints: a new one tightens."""
    yield "tightened" if old is ABSENT else "loosened" if new is ABSENT else "changed", old, new


def limit(key: str, old: Any, new: Any) -> Iterator[Difference]:
    """Compare two limits of a length or a number."""
    if not all(isinstance(one, (int, float)) for one in (old, new)):
        yield from constraint(key, old, new)
    else:
        yield "tightened" if (new < old) == key.startswith("max") else "loosened", old, new


def type_(key: str, old: Any, new: Any) -> Iterator[Difference]:
    """Compare two types; each can be a list of alternatives, and an integer is a number."""
    before, after = (
        {*map(text_of, items(one)), *(['"integer"'] if "number" in items(one) else [])}
        for one in (old, new)
    )
    if ABSENT in (old, new) or not (before <= after or after <= before):
        yield from constraint(key, old, new)
    else:
        how = "written" if before == after else "loosened" if before < after else "tightened"
        yield how, old, new


def enum_value(key: str, old: Any, new: Any) -> Iterator[Difference]:
    """Compare the values of an enumeration one by one."""
    if ABSENT in (old, new):
        yield from constraint(key, old, new)
        return
    yield from (("tightened", one, ABSENT) for one in without(items(old), items(new)))
    yield from (("loosened", ABSENT, one) for one in without(items(new), items(old)))


def closed(key: str, old: Any, new: Any) -> Iterator[Difference]:
    """Compare whether unknown members are allowed, as they are if nothing is said."""
    before, after = (one is not False for one in (old, new))
    if isinstance(old, dict) or isinstance(new, dict):
        yield from plain(key, old, new)
    else:
        how = "written" if before == after else "loosened" if after else "tightened"
        yield how, old, new


def condition(key: str, old: Any, new: Any) -> Iterator[Difference]:
    """Compare conditions: one more tightens, one more alternative loosens."""
    if not (isinstance(old, list) and isinstance(new, list)):
        yield from constraint(key, old, new)
        return
    removed, added = without(old, new), without(new, old)
    for before, after in zip_longest(removed, added, fillvalue=ABSENT):
        for how, _, _ in constraint(key, before, after):
            swapped = {"tightened": "loosened", "loosened": "tightened"} if key != "allOf" else {}
            yield swapped.get(how, how), before, after


def required_flag(_: str, old: Any, new: Any) -> Iterator[Difference]:
    """Compare whether something is required, as nothing is unless it says so."""
    before, after = (one is True for one in (old, new))
    yield "written" if before == after else ("no longer required", "now required")[after], old, new


def deprecated(_: str, old: Any, new: Any) -> Iterator[Difference]:
    """Compare whether something is deprecated, as nothing is unless it says so."""
    before, after = (one is True for one in (old, new))
    yield "added" if after and not before else "written", old, new


def members_required(_: str, old: Any, new: Any) -> Iterator[Difference]:
    """Compare the names of the required members."""
    yield from (("no longer required", one, "") for one in without(items(old), items(new)))
    yield from (("now required", "", one) for one in without(items(new), items(old)))


def security(key: str, old: Any, new: Any) -> Iterator[Difference]:
    """Compare security requirements; none is the same as an empty list."""
    if items(old) == items(new) == []:
        yield "written", old, new
    else:
        yield from plain(key, old, new)


def evidence(key: str, old: Any, new: Any) -> Iterator[Difference]:
    """Compare two marks of evidence."""
    if old in MARKS and new in MARKS:
        yield "raised" if MARKS.index(new) > MARKS.index(old) else "lowered", old, new
    else:
        yield from plain(key, old, new)


def inferred_parameters(_: str, old: Any, new: Any) -> Iterator[Difference]:
    """Compare the names of the parameters that an operation is inferred to have."""
    yield from (("raised", f"{one} inferred", ABSENT) for one in without(items(old), items(new)))
    yield from (("lowered", ABSENT, f"{one} inferred") for one in without(items(new), items(old)))


def renamed(_: str, old: Any, new: Any) -> Iterator[Difference]:
    """Compare two names."""
    yield "renamed", old, new


VALUES: dict[str, Callable[[str, Any, Any], Iterator[Difference]]] = {
    "constraint": constraint,
    "limit": limit,
    "type": type_,
    "enum value": enum_value,
    "closed": closed,
    "condition": condition,
    "request header required": required_flag,
    "response header required": required_flag,
    "request body required": required_flag,
    "members required": members_required,
    "deprecated": deprecated,
    "request header name": renamed,
    "operationId": renamed,
    "authentication": security,
    "evidence": evidence,
    "inferred parameters": inferred_parameters,
}
