"""Print the changes of a contract: as a tree, as Markdown or as JSON."""

from __future__ import annotations

import json
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from attrs import frozen

from contract_consumers import Consumer
from contract_parts import Node, resolve
from contract_rules import ABSENT, REQUEST, RESPONSE, Change, Consequence, Place
from contract_symbols import Symbol

WIDTH = 100
INDENT = " " * 21
FEW = 2  # more texts of one component are listed without what they say
# These keys say what the next one is, which the tree says in words.
LEFT_OUT = {"properties", "schema", "content", "headers", "responses", "parameters"}
LEFT_OUT |= {"required", "enum"}
# A change of these is told by their name; of other kinds, by the values before and after.
ELEMENTS = {
    *("member", "form field", "request header", "response header", "request body"),
    *("status", "media type"),
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
class Judgement:
    """Whether the version and the changelog fit.

    Attributes:
        before: The version of the older contract.
        after: The version of the newer one.
        needed: The lowest version that fits.
        new_entries: How many entries the section *Contract* has gained; None if not compared.
        problems: What does not fit, in sentences; empty if all does.
    """

    before: str
    after: str
    needed: str
    new_entries: int | None
    problems: tuple[str, ...]


@frozen
class Comparison:
    """Two contracts, by the names of their versions, and what differs.

    Attributes:
        judgement: Whether version and changelog fit; None if that is not judged.
        error: Why they could not be compared; empty if they were.
    """

    old_name: str
    new_name: str
    old: Node
    new: Node
    leaves: tuple[Leaf, ...]
    judgement: Judgement | None = None
    error: str = ""

    @property
    def worst(self) -> Consequence | None:
        """Return the worst consequence, or None if nothing changed."""
        found = [leaf.change.consequence for leaf in self.leaves]
        return min(found, key=lambda one: one.rank, default=None)

    @property
    def counts(self) -> str:
        """Return how many changes have each consequence, in words."""
        counts = Counter(leaf.change.consequence for leaf in self.leaves)
        each = [f"{counts[one]} {one.value}" for one in Consequence if one in counts]
        return self.error or ", ".join(each) or "no change"


# ---- words


def top_of(change: Change, comparison: Comparison) -> str:
    """Return the operation or the component that a change is in, in words."""
    place = change.place
    if place[0] == "components" and len(place) > 2:
        contract = comparison.old if change.is_of_the_old else comparison.new
        name = resolve(contract, {"$ref": "#/" + "/".join(place[:3])}).get("name")
        wire = f"{name}, " if name else ""
        used = {f"{REQUEST}": "requests", f"{RESPONSE}": "responses"}
        sides = " and ".join(word for side, word in used.items() if side in change.sides)
        return f"{place[2]} ({wire}{COMPONENTS.get(place[1], place[1])}, {sides})"
    if place[0] == "paths":
        return " ".join((*(one.upper() for one in place[2:3]), *place[1:2]))
    return place[0]


def middle_of(place: Place) -> str:
    """Return the keys between the operation or component and the leaf, without filling words."""
    depth = 3 if place[0] in ("components", "paths") else 1
    return " > ".join(key for key in place[depth:-1] if key not in LEFT_OUT)


def name_of(change: Change, contract: Node) -> str:
    """Return the name of the element that a change is about."""
    is_flag = change.kind != "member" and change.place[-1] == "required"
    place = change.place[:-1] if is_flag else change.place
    if change.kind != "request header":
        return place[-1]
    found: Any = contract
    for step in place:
        found = found[int(step)] if isinstance(found, list) else resolve(contract, found)[step]
    return str(resolve(contract, found).get("name", place[-1]))


def words_of(change: Change, comparison: Comparison, width: int = 36) -> str:
    """Return what changed, in words: before and after."""
    contract = comparison.old if change.is_of_the_old else comparison.new
    kind, key = change.kind, change.place[-1]
    if kind == "member" and change.sides == {REQUEST}:
        kind = "form field"
    before, after = shown(change.before, change.after, width)
    if change.how == "renamed":
        words = f"{kind} {before} renamed to {after}"
    elif kind == "enum value" and key != "enum":
        words = f"value {key} {'removed' if change.after is ABSENT else 'added'}"
    elif kind == "reference":
        nowhere = " leads nowhere" if change.how == "dangling" else ""
        words = f"reference{nowhere}: {before} -> {after}"
    elif kind == "server" and change.how in ("added", "removed"):
        words = f"server {before if change.after is ABSENT else after} {change.how}"
    elif kind in ("component", "operation"):
        words = f"{kind} {change.how}"
    elif kind in ELEMENTS and change.how != "written":
        words = f"{kind} {name_of(change, contract)} {change.how}"
    else:
        words = f"{key} {before} -> {after}"
    return words


def shown(before: Any, after: Any, width: int) -> tuple[str, str]:
    """Return two values as text, cut so that their difference is seen."""
    texts = [_text(before), _text(after)]
    if max(map(len, texts)) <= width:
        return texts[0], texts[1]
    pairs = zip(*texts, strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(map(len, texts)))
    start = max(0, same - width // 3)
    cut = []
    for text in texts:
        part = text[start : start + width] if max(map(len, texts)) > width else text
        begins = "…" if start and len(text) > start else ""
        cut.append(f"{begins}{part}{'…' if start + width < len(text) else ''}")
    return cut[0], cut[1]


def _text(value: Any) -> str:
    if value is ABSENT:
        return "none"
    if isinstance(value, dict) and isinstance(value.get("url"), str):
        value = value["url"]
    if isinstance(value, str):
        return " ".join(value.split())
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=str)


def code_of(leaf: Leaf) -> Iterator[tuple[str, str]]:
    """Yield the generated names and the code that uses them, file by file, each with a heading."""
    for file, symbols in groupby(leaf.symbols, lambda one: one.file):
        yield "generated", f"{file}: {', '.join(one.name for one in symbols)}"
    for (is_direct, file), group in groupby(leaf.consumers, lambda one: (not one.via, one.file)):
        found = list(group)
        lines = ", ".join(dict.fromkeys(f"{one.line} {one.scope}".rstrip() for one in found))
        names = ", ".join(dict.fromkeys(one.via for one in found))
        yield (
            ("used by", f"{file}: {lines}")
            if is_direct
            else ("through", f"{names}: {file}: {lines}")
        )


def verdict(comparison: Comparison) -> Iterator[str]:
    """Yield the sentences that end a report."""
    if comparison.error:
        return
    judgement = comparison.judgement
    worst = comparison.worst.value if comparison.worst else "nothing changed"
    yield f"Worst: {worst}."
    if judgement is None:
        return
    yield (
        f"info.version: {judgement.before} -> {judgement.after};"
        f" needed: {judgement.needed} or higher."
    )
    if judgement.new_entries is not None:
        entries = "entry" if judgement.new_entries == 1 else "entries"
        yield f"CHANGELOG.md: {judgement.new_entries} new {entries} under Contract."
    yield from judgement.problems or ("Version and changelog fit.",)


# ---- the three forms


def as_text(comparison: Comparison) -> str:
    """Return a tree for a terminal of 100 columns."""
    lines = [
        *_plain(f"{comparison.old_name} -> {comparison.new_name}"),
        *_plain(comparison.counts),
        "",
    ]
    for top, leaves in groupby(comparison.leaves, lambda leaf: top_of(leaf.change, comparison)):
        lines.append(top)
        # What has no heading of its own comes first.
        ordered = sorted(leaves, key=lambda leaf: bool(middle_of(leaf.change.place)))
        texts = [leaf.change.place for leaf in ordered if leaf.change.kind == "text"]
        if len(texts) > FEW:
            names = ", ".join(" > ".join(filter(None, (middle_of(one), one[-1]))) for one in texts)
            lines += _wrapped(f"{len(texts)} texts: {names}", f"    {Consequence.WORDS.value:<17}")
            ordered = [leaf for leaf in ordered if leaf.change.kind != "text"]
        for middle, group in groupby(ordered, lambda leaf: middle_of(leaf.change.place)):
            lines += [f"  {middle}"] if middle else []
            for leaf in group:
                lines += _leaf(leaf, comparison)
        lines.append("")
    lines += [line for sentence in verdict(comparison) for line in _plain(sentence)]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _leaf(leaf: Leaf, comparison: Comparison) -> Iterator[str]:
    change = leaf.change
    words = words_of(change, comparison)
    yield from _wrapped(words, f"    {change.consequence.value:<17}")
    if change.consequence is not Consequence.WORDS:
        yield from _wrapped(change.because, INDENT)
    if change.others:
        others = ", ".join(_short(place) for place in change.others)
        yield from _wrapped(f"also in    {others}", INDENT)
    for word, text in code_of(leaf):
        yield from _wrapped(f"{word:<10} {text}", INDENT)


def _short(place: Place) -> str:
    return place[2] if place[0] == "components" else " ".join((place[2].upper(), place[1]))


def _wrapped(text: str, start: str) -> list[str]:
    return textwrap.wrap(
        *(text, WIDTH),
        initial_indent=start,
        subsequent_indent=INDENT + "  ",
        break_on_hyphens=False,
    )


def as_markdown(comparison: Comparison) -> str:
    """Return a table for a pull request; the consumers of each change are folded."""
    lines = [
        f"### Contract: {_cell(comparison.old_name)} → {_cell(comparison.new_name)}",
        "",
        f"**{_cell(comparison.counts)}**",
        "",
        *(f"- {_cell(sentence)}" for sentence in verdict(comparison)),
    ]
    words = [leaf for leaf in comparison.leaves if leaf.change.consequence is Consequence.WORDS]
    others = [leaf for leaf in comparison.leaves if leaf not in words]
    others.sort(key=lambda leaf: leaf.change.consequence.rank)
    lines += _table(others, comparison)
    for leaf in others:
        if not leaf.symbols:
            continue
        count = len(leaf.consumers)
        title = f"{words_of(leaf.change, comparison, 60)}: used in {count} places"
        lines += ["", f"<details><summary>{_html(title)}</summary>", ""]
        lines += [f"- {word} `{text}`" for word, text in code_of(leaf)]
        lines += ["", "</details>"]
    if words:
        lines += ["", "<details><summary>Only words</summary>", *_table(words, comparison)]
        lines += ["", "</details>"]
    return "\n".join(lines) + "\n"


def _table(leaves: Sequence[Leaf], comparison: Comparison) -> Iterator[str]:
    if leaves:
        yield from ("", "| Consequence | Where | Change |", "| --- | --- | --- |")
    for leaf in leaves:
        change = leaf.change
        more = f" and {len(change.others)} more" if change.others else ""
        middle = middle_of(change.place)
        where = top_of(change, comparison) + more + (f" > {middle}" if middle else "")
        cells = (change.consequence.value, where, words_of(change, comparison, 60))
        yield f"| {' | '.join(map(_cell, cells))} |"


def _html(text: str) -> str:
    text = text.replace(" -> ", " → ")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _cell(text: str) -> str:
    escaped = _html(text)
    for mark in "\\|*_`[]":
        escaped = escaped.replace(mark, f"\\{mark}")
    return escaped


def as_json(comparison: Comparison) -> dict[str, Any]:
    """Return the report for machines; `contract_diff` explains its keys."""
    judgement = comparison.judgement
    return {
        "from": comparison.old_name,
        "to": comparison.new_name,
        "error": comparison.error,
        "worst": comparison.worst.value if comparison.worst else None,
        "judgement": judgement
        and {
            "version_before": judgement.before,
            "version_after": judgement.after,
            "version_needed": judgement.needed,
            "new_changelog_entries": judgement.new_entries,
            "problems": list(judgement.problems),
        },
        "changes": [
            {
                "consequence": leaf.change.consequence.value,
                "rule": leaf.change.rule,
                "kind": leaf.change.kind,
                "how": leaf.change.how,
                "sides": sorted(leaf.change.sides),
                "places": [list(place) for place in (leaf.change.place, *leaf.change.others)],
                **{
                    key: value
                    for key, value in (("before", leaf.change.before), ("after", leaf.change.after))
                    if value is not ABSENT
                },
                "symbols": [{"file": one.file, "name": one.name} for one in leaf.symbols],
                "consumers": [
                    {"file": one.file, "line": one.line, "scope": one.scope, "via": one.via}
                    for one in leaf.consumers
                ],
            }
            for leaf in comparison.leaves
        ],
    }
