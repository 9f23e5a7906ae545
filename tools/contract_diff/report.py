"""Print the changes of a contract, the worst first: as a tree, as Markdown or as JSON."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from itertools import groupby, pairwise
from typing import Any

from attrs import asdict, frozen

from contract_document import METHODS, Node, Place, steps

from .changes import node, nodes, target
from .consumers import Consumer
from .release import Release, worst_of
from .rules import ABSENT, RESPONSE, Change, Consequence
from .symbols import Symbol
from .values import same

WIDTH = 100
LONG = 400  # characters of a value that are shown
# These keys say what the next one is, which the tree says in words.
LEFT_OUT = {"properties", "schema", "content", "headers", "responses", "parameters"}
LEFT_OUT |= {"required", "enum", "variables"}
# A change of these is told by their name; of other kinds, by the values before and after.
ELEMENTS = {
    *("member", "form field", "request header", "response header", "request body"),
    *("status", "media type", "server variable"),
}
COMPONENTS = {
    "schemas": "schema",
    "parameters": "request header",
    "headers": "response header",
    "requestBodies": "request body",
    "responses": "response",
    "examples": "example",
}


@frozen
class Leaf:
    """A change with what the generator makes of it and the code that uses that."""

    change: Change
    symbols: Sequence[Symbol] = ()
    consumers: Sequence[Consumer] = ()


@frozen
class Comparison:
    """Two contracts, by the names of their versions, and what differs.

    Attributes:
        readers: The code that reads the whole contract.
        release: Whether version and changelog fit; None if that is not checked.
        error: Why they could not be compared; empty if they were.
    """

    old_name: str
    new_name: str
    old: Node
    new: Node
    leaves: tuple[Leaf, ...]
    readers: Sequence[Consumer] = ()
    release: Release | None = None
    error: str = ""

    @property
    def worst(self) -> Consequence | None:
        """Return the worst consequence, or None if nothing changed."""
        return worst_of([leaf.change for leaf in self.leaves])

    @property
    def counts(self) -> str:
        """Return how many changes have each consequence, in words."""
        counts = Counter(leaf.change.consequence for leaf in self.leaves)
        each = [f"{counts[one]} {one.value}" for one in Consequence if one in counts]
        return self.error or ", ".join(each) or "no change"

    def contract_of(self, change: Change) -> Node:
        """Return the contract in which the place of a change exists."""
        return self.old if change.is_of_the_old else self.new


# ---- words


def top_of(change: Change, comparison: Comparison) -> str:
    """Return the operation or the component that a change is in, in words."""
    place = change.place
    if place[0] == "components" and len(place) > 2:
        name = wire_name(comparison.contract_of(change), place[:3])
        name = name if name != place[2] else ""
        facts = (name, COMPONENTS.get(place[1], place[1]), " and ".join(_sides(change)))
        return f"{place[2]} ({', '.join(filter(None, facts))})"
    if place[0] == "paths":
        return operation_of(place)
    return place[0]


def operation_of(place: Place) -> str:
    """Return the operation or the path that a place is in."""
    return " ".join((*(one.upper() for one in place[2:3] if one in METHODS), place[1]))


def wire_name(contract: Node, component: Place) -> str:
    """Return the name on the wire of a component that is a header or parameter; empty if none."""
    if component[1] == "parameters":
        return str(
            target(contract, contract["components"]["parameters"][component[2]]).get("name", "")
        )
    holders = [contract.get("paths", {}), contract["components"].get("responses", {})]
    names = (
        name
        for holder in nodes(holders)
        for name, header in node(holder.get("headers")).items()
        if any(place == component for place, _ in steps(contract, header))
    )
    return ", ".join(dict.fromkeys(names))


def _sides(change: Change) -> list[str]:
    return [f"{side}s" for side in sorted(change.sides)]


def middle_of(place: Place) -> str:
    """Return the keys between the operation or component and the leaf, without filling words."""
    depth = 3 if place[0] in ("components", "paths") else 1
    keys = list(place)
    for before, key in pairwise(place):
        if before == "servers":
            keys[keys.index(key)] = f"server {int(key) + 1}"
    return " > ".join(key for key in keys[depth:-1] if key not in LEFT_OUT)


def name_of(change: Change, kind: str, contract: Node) -> str:
    """Return the kind and the name of the element that a change is about."""
    is_flag = change.kind != "member" and change.place[-1] == "required"
    place = change.place[:-1] if is_flag else change.place
    if change.kind == "response header" and place[0] == "components" and len(place) == 3:
        return f"{kind} {wire_name(contract, place) or place[-1]}"
    if change.kind != "request header":
        return f"{kind} {place[-1]}"
    found: Any = contract
    for step in place:
        found = found[int(step)] if isinstance(found, list) else target(contract, found)[step]
    parameter = target(contract, found)
    if parameter.get("in", "header") != "header":
        kind = f"{parameter['in']} parameter"
    return f"{kind} {parameter.get('name', place[-1])}"


def words_of(change: Change, comparison: Comparison) -> tuple[str, str, str]:
    """Return what changed, in words, and the values before and after if the words lack them."""
    path, before, after = narrowed(change.before, change.after)
    words, values = " > ".join((change.place[-1], *path)), shown(before, after)
    name = _by_name(change, comparison)
    if name:
        return name, "", ""
    if change.kind == "reference":
        words = "reference leads nowhere:" if change.how == "dangling" else "reference:"
    elif ABSENT in (before, after) and change.how != "written":
        how, value = ("removed", values[0]) if after is ABSENT else ("added", values[1])
        return f"{words} {how}: {value}", "", ""
    return words, *values


def _by_name(change: Change, comparison: Comparison) -> str:
    """Return the words of a change that is told by a name, not by two values."""
    kind, key, found = change.kind, change.place[-1], ""
    if kind == "member" and RESPONSE not in change.sides:
        kind = "form field"
    if change.how == "renamed" and key != "in":
        before, after = shown(change.before, change.after)
        noun = {"operationId": key, "generated name": "schema"}.get(kind, kind)
        found = f"{noun} {before} renamed to {after}"
    elif kind == "enum value" and key != "enum":
        found = f"value {key} {'removed' if change.after is ABSENT else 'added'}"
    elif change.place[-2:-1] == ("servers",) and change.how in ("added", "removed"):
        server = change.before if change.after is ABSENT else change.after
        found = f"server {server['url'] if isinstance(server, dict) else server} {change.how}"
    elif kind in ("component", "operation", "generated name"):
        found = f"{'schema' if kind == 'generated name' else kind} {change.how}"
    elif kind in ELEMENTS and change.how not in ("written", "renamed"):
        found = f"{name_of(change, kind, comparison.contract_of(change))} {change.how}"
    return found


def narrowed(before: Any, after: Any) -> tuple[tuple[str, ...], Any, Any]:
    """Return the keys to the only difference within two values, and the values there."""
    pairs: list[tuple[str, Any, Any]] = []
    if isinstance(before, dict) and isinstance(after, dict):
        keys = dict.fromkeys((*before, *after))
        pairs = [(key, before.get(key, ABSENT), after.get(key, ABSENT)) for key in keys]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(str(i), *pair) for i, pair in enumerate(zip(before, after, strict=True))]
    differing = [pair for pair in pairs if not same(*pair[1:])]
    if len(differing) != 1:
        return (), before, after
    ((key, *values),) = differing
    path, *narrower = narrowed(*values)
    return (key, *path), narrower[0], narrower[1]


def shown(before: Any, after: Any) -> tuple[str, str]:
    """Return two values as text; of long ones, what is between their equal ends."""
    texts = [_text(before), _text(after)]
    if max(map(len, texts)) <= WIDTH // 3:
        return texts[0], texts[1]
    split = [text.split() for text in texts]
    start = _equal(*split)
    end = _equal(*(words[: start - 1 if start else None : -1] for words in split))
    start, end = max(0, start - 3), max(0, end - 3)
    cut = [" ".join(words[start : len(words) - end]) for words in split]
    before, after = (
        f"{'… ' if start else ''}{one[:LONG]}{' …' if end or one[LONG:] else ''}" for one in cut
    )
    return before, after


def _equal(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many items are equal from the beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def _text(value: Any) -> str:
    if value is ABSENT:
        return "none"
    if isinstance(value, str):
        return " ".join(value.split())
    return json.dumps(value, ensure_ascii=False, default=str)


def code_of(leaf: Leaf) -> Iterator[tuple[str, str]]:
    """Yield the generated names and the code that uses them, file by file, each with a heading."""
    for file, symbols in groupby(leaf.symbols, lambda one: one.file):
        yield "generated", f"{file}: {', '.join(one.name for one in symbols)}"
    direct = [one for one in leaf.consumers if not one.via]
    others = [one for one in leaf.consumers if one.via]
    for file, text in _lines(direct):
        yield "used by", f"{file}: {text}"
    if others:
        yield "through", ", ".join(sorted({one.via for one in others}))
    for file, text in _lines(others):
        yield "", f"{file}: {text}"


def _lines(consumers: Sequence[Consumer]) -> Iterator[tuple[str, str]]:
    """Yield each file with its lines, those of the same function together."""
    for file, found in groupby(consumers, lambda one: one.file):
        scopes = groupby(found, lambda one: one.scope)
        yield (
            file,
            ", ".join(
                f"{' '.join(dict.fromkeys(str(one.line) for one in group))} {scope}".rstrip()
                for scope, group in scopes
            ),
        )


def also_in(change: Change) -> str:
    """Return the operations and components of the other places of a change."""
    return ", ".join(
        dict.fromkeys(
            one[2] if one[0] == "components" else operation_of(one) for one in change.others
        )
    )


def ending(comparison: Comparison) -> Iterator[str]:
    """Yield the sentences that end a report."""
    if comparison.error:
        return
    if comparison.leaves and comparison.readers:
        files = ", ".join(sorted({one.file for one in comparison.readers}))
        yield f"The sandbox enforces every line of the contract: {files}."
    yield f"Worst: {comparison.worst.value if comparison.worst else 'nothing changed'}."
    release = comparison.release
    if release is None:
        return
    before, after, needed = release.before, release.after, release.needed
    yield f"info.version: {before} -> {after}; needed: {needed} or higher."
    if release.new_entries is not None:
        entries = "entry" if release.new_entries == 1 else "entries"
        yield f"CHANGELOG.md: {release.new_entries} new {entries} under Contract."
    yield from release.problems or ("Version and changelog fit.",)


def blocks(comparison: Comparison) -> Iterator[tuple[Consequence, str, list[Leaf]]]:
    """Yield the changes with the same consequence in the same component, the worst first."""
    for consequence in Consequence:
        found: dict[str, list[Leaf]] = {}
        for leaf in comparison.leaves:
            if leaf.change.consequence is consequence:
                found.setdefault(top_of(leaf.change, comparison), []).append(leaf)
        for top, leaves in found.items():
            yield consequence, top, leaves


def names_of_texts(leaves: Iterable[Leaf], comparison: Comparison) -> str:
    """Return what has changed without a consequence in a component, by its names."""
    found: dict[str, list[str]] = {}
    for change in (leaf.change for leaf in leaves):
        middle, key = middle_of(change.place), change.place[-1]
        if change.kind != "text":
            words, before, after = words_of(change, comparison)
            more = f" (also in {also_in(change)})" if change.others else ""
            name = f"{words} {before} -> {after}" if before else words
            if len(name) > WIDTH // 2 and change.kind != "reference":
                name = f"{change.place[-1]} changed"
            name += more
        else:
            is_example = {"example", "examples"} & set(change.place[-2:])
            name = "example" if is_example else key
        found.setdefault(name, []).append(middle)
    return "; ".join(
        _counted(name, middles)
        if name == "example"
        else name + (f" of {', '.join(filter(None, middles))}" if any(middles) else "")
        for name, middles in found.items()
    )


def _counted(name: str, found: Sequence[object]) -> str:
    return f"{len(found)} {name}{'s' if len(found) > 1 else ''}"


# ---- the three forms


def as_text(comparison: Comparison, *, words: bool = False) -> str:
    """Return a tree for a terminal of 100 columns.

    Args:
        comparison: The two contracts and their changes.
        words: Whether texts are shown with what they say.
    """
    lines = _wrapped(f"{comparison.old_name} -> {comparison.new_name}")
    lines += [*_wrapped(comparison.counts), ""]
    for consequence, group in groupby(blocks(comparison), lambda block: block[0]):
        lines.append(consequence.value)
        for _, top, leaves in group:
            if consequence is Consequence.WORDS and not words:
                lines += _wrapped(f"{top}: {names_of_texts(leaves, comparison)}", 2, 4)
                continue
            lines.append(f"  {top}")
            for leaf in leaves:
                lines += _leaf(leaf, comparison)
        lines.append("")
    lines += [line for sentence in ending(comparison) for line in _wrapped(sentence)]
    return "\n".join(lines) + "\n"


def _leaf(leaf: Leaf, comparison: Comparison) -> Iterator[str]:
    middle = middle_of(leaf.change.place)
    words, before, after = words_of(leaf.change, comparison)
    where = f"{middle} > " if middle else ""
    short = f"{where}{words} {before} -> {after}" if before else where + words
    if len(short) < WIDTH - 4 or not before:
        yield from _wrapped(short, 4, 6)
    else:
        yield from _wrapped(where + words, 4, 6)
        yield from _wrapped(f"from       {before}", 6, 17)
        yield from _wrapped(f"to         {after}", 6, 17)
    if leaf.change.consequence is not Consequence.WORDS:
        yield from _wrapped(leaf.change.because, 6, 6)
    if leaf.change.others:
        yield from _wrapped(f"also in    {also_in(leaf.change)}", 6, 17)
    for word, text in code_of(leaf):
        yield from _wrapped(f"{word:<10} {text}", 6, 17 if word else 19)


def _wrapped(text: str, first: int = 0, next_: int = 0) -> list[str]:
    return textwrap.wrap(
        *(text, WIDTH),
        initial_indent=" " * first,
        subsequent_indent=" " * next_,
        break_on_hyphens=False,
        drop_whitespace=True,
    )


def as_markdown(comparison: Comparison, *, words: bool = False) -> str:
    """Return a table for a pull request; the consumers of each change are folded.

    Args:
        comparison: The two contracts and their changes.
        words: Whether texts are shown with what they say.
    """
    lines = [
        f"### Contract: {_escaped(comparison.old_name)} → {_escaped(comparison.new_name)}",
        "",
        f"**{_escaped(comparison.counts)}**",
        "",
        *(f"- {_escaped(sentence)}" for sentence in ending(comparison)),
    ]
    found = list(blocks(comparison))
    leaves = [
        (top, leaf) for one, top, each in found if one is not Consequence.WORDS for leaf in each
    ]
    texts = [(top, each) for one, top, each in found if one is Consequence.WORDS]
    if leaves:
        lines += ["", "| Consequence | Where | Change |", "| --- | --- | --- |"]
    for top, leaf in leaves:
        change = leaf.change
        more = f" and {len(change.others)} more" if change.others else ""
        where = " > ".join(filter(None, (top + more, middle_of(change.place))))
        lines.append(
            f"| {change.consequence.value} | {_escaped(where)} | {_change(leaf, comparison)} |"
        )
    for top, leaf in leaves:
        if leaf.symbols:
            words_, lines_ = words_of(leaf.change, comparison)[0], _counted("line", leaf.consumers)
            title = escape(f"{top}, {words_}: {lines_} of code", quote=False)  # no Markdown
            lines += ["", f"<details><summary>{title}</summary>", ""]
            for word, text in code_of(leaf):
                lines.append(f"- {word} {_code(text)}" if word else f"  - {_code(text)}")
            lines += ["", "</details>"]
    if texts:
        count = sum(len(each) for _, each in texts)
        lines += [
            "",
            f"<details><summary>{_counted('change', range(count))} of words</summary>",
            "",
        ]
        for top, each in texts:
            if not words:
                lines.append(f"- {_escaped(f'{top}: {names_of_texts(each, comparison)}')}")
                continue
            lines.append(f"- {_escaped(top)}")
            # Outside a table, a `|` in code needs no escape.
            changes = (_change(leaf, comparison) for leaf in each)
            lines += ["  - " + one.replace("\\|", "|") for one in changes]
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def _change(leaf: Leaf, comparison: Comparison) -> str:
    words, before, after = words_of(leaf.change, comparison)
    values = f" {_code(before)} → {_code(after)}" if before else ""
    return _escaped(words) + values


def _code(text: str) -> str:
    """Return a text as code; GitHub takes a `|` in a table for a border even in code."""
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}".replace("|", "\\|")


def _escaped(text: str) -> str:
    """Return a text as Markdown that shows it."""
    text = text.replace(" -> ", " → ").replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\|*_`\[\]~$#@>])", r"\\\1", text)


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the report for machines; `__main__` explains its keys."""
    release = comparison.release
    return {
        "from": comparison.old_name,
        "to": comparison.new_name,
        "error": comparison.error,
        "worst": comparison.worst.value if comparison.worst else None,
        "release": release
        and {
            "version_before": release.before,
            "version_after": release.after,
            "version_needed": release.needed,
            "new_changelog_entries": release.new_entries,
            "problems": list(release.problems),
        },
        "readers": [asdict(one) for one in comparison.readers],
        "changes": [
            {
                "consequence": leaf.change.consequence.value,
                **{key: getattr(leaf.change, key) for key in ("rule", "kind", "how")},
                "sides": sorted(leaf.change.sides),
                "places": [list(place) for place in (leaf.change.place, *leaf.change.others)],
                **{
                    key: value
                    for key, value in (("before", leaf.change.before), ("after", leaf.change.after))
                    if value is not ABSENT
                },
                "symbols": [asdict(one) for one in leaf.symbols],
                "consumers": [asdict(one) for one in leaf.consumers],
            }
            for leaf in comparison.leaves
        ],
    }
