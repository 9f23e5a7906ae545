"""Compare two values of a contract by their kind: how one changed into the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import zip_longest
from typing import Any

from contract_parts import items, text_of, without
from contract_rules import ABSENT

MARKS = ("inferred", "provisional", "stated")
Difference = tuple[str, Any, Any]


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
    "request header name": renamed,
    "operationId": renamed,
    "authentication": security,
    "evidence": evidence,
    "inferred parameters": inferred_parameters,
}
