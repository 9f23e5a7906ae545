"""Nothing inferred stands as stated: spec/README.md has the origin of each description.

A rule yields the faults of a contract, its README and the code. Each rule is also checked against
texts that are broken on purpose, which proves that it finds a fault.
"""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).parents[2]
CONTRACT: dict[str, Any] = yaml.safe_load((PROJECT / "spec/openapi.yaml").read_text("utf-8"))
README = (PROJECT / "spec/README.md").read_text("utf-8")

Place = tuple[str, ...]


def section(readme: str, title: str) -> str:
    """Return the text below a heading of the README, up to the next one."""
    return readme.partition(f"\n### {title}\n")[2].partition("\n##")[0]


def rows(text: str) -> list[tuple[str, ...]]:
    """Return the cells of each row of a table, without its head."""
    table = [line for line in text.splitlines() if line.startswith("|")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in table[2:]]


def quoted_in(text: str) -> list[str]:
    """Return what stands between backticks."""
    return re.findall(r"`([^`]+)`", text)


# ---- the descriptions


def elements(node: object, *place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each mapping of the contract with its place as in the README, except for examples."""
    if isinstance(node, list):
        node = {str(index): item for index, item in enumerate(node)}
    if not isinstance(node, dict):
        return
    if "operationId" in node:
        place = ("operations", node["operationId"])
    yield "/".join(place), node
    for key, child in node.items():
        if key not in {"example", "examples"}:
            inner = () if key in {"components", "properties"} else (key,)
            yield from elements(child, *place, *inner)


def texts(contract: dict[str, Any]) -> dict[str, str]:
    """Return each description by its place, and each title and summary below it."""
    return {
        place if key == "description" else f"{place}/{key}": node[key].strip()
        for place, node in elements(contract)
        for key in ("title", "summary", "description")
        if isinstance(node.get(key), str)
    }


def faults_of_texts(contract: dict[str, Any], readme: str) -> Iterator[str]:
    """Every description has the words of a page, restates one, or is listed as ours."""
    found, of_page = texts(contract), section(readme, "Texts of the pages")
    marks = {place: node.get("x-blink-evidence") for place, node in elements(contract)}
    quoted = {place.strip("`"): text for place, text in rows(of_page)}
    restated = quoted_in(of_page.rpartition("say no more than the page")[2])
    ours = quoted_in(" ".join(row[0] for row in rows(section(readme, "Texts of our own"))))
    marked = [
        place
        for place in found
        if marks.get(place) in {"provisional", "inferred"} and place not in quoted
    ]
    for place, text in quoted.items():
        if found.get(place) != text:
            yield f"{place}: {found.get(place)!r} does not have the words of the page, {text!r}"
    for place in restated:
        element = place.removesuffix("/summary")
        if marks.get(element) != "stated" or f"| `{element}` |" not in readme:
            yield f"{place}: is not marked as stated, with its page in a row of Line by line"
    listed = [*quoted, *restated, *ours, *marked]
    for place in sorted(found.keys() ^ set(listed)):
        if place in found:
            yield f"{place}: has no origin; add it to Texts of the pages or Texts of our own"
        else:
            yield f"{place}: is not in the contract, or has no text there; remove it"
    for place in sorted({place for place in listed if listed.count(place) > 1}):
        yield f"{place}: has two origins; list it once"


def changed(place: str, value: str) -> dict[str, Any]:
    """Return the contract with another text at a place, whose steps are separated by blanks."""
    *steps, last = place.split()
    contract = node = copy.deepcopy(CONTRACT)
    for step in steps:
        node = node[step]
    node[last] = value
    return contract


def test_each_description_has_an_origin() -> None:
    assert list(faults_of_texts(CONTRACT, README)) == []
    assert len(texts(CONTRACT)) > 50


@pytest.mark.parametrize(
    ("place", "fault"),
    [
        ("components schemas Pragma description", "has no origin"),
        ("components responses TokenIssued summary", "has no origin"),
        ("paths /oauth/token summary", "has no origin"),
        ("components responses Forbidden description", "does not have the words of the page"),
        ("paths /oauth/token post summary", "does not have the words of the page"),
        ("components parameters TargetId x-blink-evidence", "is not marked as stated"),
        ("components schemas TokenTypeHint x-blink-evidence", "has no origin"),
    ],
)
def test_a_description_without_origin_is_found(place: str, fault: str) -> None:
    assert any(fault in found for found in faults_of_texts(changed(place, "stated?"), README))


@pytest.mark.parametrize(
    ("row", "replacement", "fault"),
    [
        ("| `schemas/TokenResponse/scope` | The values", "| `scope` | The values", "has no origin"),
        ("`schemas/TokenRequest/code`, ", "", "has no origin"),
        ("| `tags/0` |", "| `tags/0`, `tags/1` |", "is not in the contract"),
        ("| `tags/0` |", "| `tags/0`, `responses/Forbidden` |", "has two origins"),
        ("| `headers/Pragma` | must be: ", "| `headers/Pragma` | should be: ", "words of the page"),
    ],
)
def test_a_wrong_row_of_a_text_is_found(row: str, replacement: str, fault: str) -> None:
    assert README.count(row) == 1
    wrong = README.replace(row, replacement)
    assert any(fault in found for found in faults_of_texts(CONTRACT, wrong))


# ---- beyond the contract

STATUS = re.compile(r"\b[1-5][0-9]{2}\b")
HEADER = re.compile(r"[A-Z][A-Za-z]*(?:-[A-Z][A-Za-z]*)+")
# What these modules do with a status or a header is either in the contract or beyond it.
OF_STATUSES = (
    "wrapper/blink_oauth/_outcomes.py",
    "testing/blink_oauth_testing/sandbox/platform.py",
    "testing/blink_oauth_testing/sandbox/faults.py",
)
OF_HEADERS = (*OF_STATUSES, "wrapper/blink_oauth/headers.py", "wrapper/blink_oauth/_wire.py")
# Part of HTTP for every body and every method: neither the contract nor our choice.
OF_HTTP = {"Content-Type", "Allow"}


def is_defined(code: str) -> bool:
    """Return whether the code in a row, such as `package.module:Class.method`, exists."""
    module, _, names = code.partition(":")
    files = list(PROJECT.glob(f"*/{module.replace('.', '/')}.py"))
    found: list[ast.stmt] = parsed(files[0]).body if files else []
    for name in names.split("."):
        defined = [node for node in found if name in names_of(node)]
        if not defined:
            return False
        found = getattr(defined[0], "body", [])
    return bool(files)


def names_of(node: ast.stmt) -> set[str]:
    """Return the names that a statement defines."""
    if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        return {node.name}
    targets = [*getattr(node, "targets", ()), *filter(None, [getattr(node, "target", None)])]
    return {target.id for target in targets if isinstance(target, ast.Name)}


@cache
def constants(files: tuple[str, ...]) -> set[object]:
    """Return the constants in the code of some files."""
    nodes = (node for file in files for node in ast.walk(parsed(PROJECT / file)))
    return {node.value for node in nodes if isinstance(node, ast.Constant)}


@cache
def parsed(file: Path) -> ast.Module:
    """Return the code of a file."""
    return ast.parse(file.read_text("utf-8"))


def faults_of_additions(readme: str) -> Iterator[str]:
    """Each addition names code that exists, and no status or header of the contract."""
    components = CONTRACT["components"]
    statuses = {key for item in CONTRACT["paths"].values() for key in item["post"]["responses"]}
    headers = {one["name"] for one in components["parameters"].values()}
    headers |= {key for item in components["responses"].values() for key in item["headers"]}
    table = rows(section(readme, "Beyond the contract"))
    what = " ".join(row[0] for row in table)
    additions = {*STATUS.findall(what)}, {*HEADER.findall(what)}
    for row in table:
        if not quoted_in(row[1]):
            yield f"{row[0]}: names no code; add the place that does it, as `module:name`"
        for code in quoted_in(row[1]):
            if not is_defined(code):
                yield f"{row[0]}: {code} does not exist; name the place that does it now"
    for one in (additions[0] & statuses) | (additions[1] & headers):
        yield f"{one}: is in the contract; it is not beyond it"
    used = {str(value) for value in constants(OF_STATUSES) if type(value) is int}
    for status in {one for one in used if STATUS.fullmatch(one)} - statuses - additions[0]:
        yield f"{status}: is neither in the contract nor an addition; add a row"
    used = {value for value in constants(OF_HEADERS) if isinstance(value, str)}
    names = {one for one in used if HEADER.fullmatch(one)}
    for name in names - headers - additions[1] - OF_HTTP:
        yield f"{name}: is neither in the contract nor an addition; add a row"


def test_each_addition_to_the_contract_names_code_and_is_no_part_of_the_contract() -> None:
    assert list(faults_of_additions(README)) == []
    assert len(rows(section(README, "Beyond the contract"))) > 20


@pytest.mark.parametrize(
    ("row", "replacement", "fault"),
    [
        ("Statuses 429, 503", "Statuses 429, 502, 503", "502: is in the contract"),
        ("Statuses 408, 416,", "Statuses 416,", "408: is neither in the contract"),
        ("`Retry-After` is read", "The wait is read", "Retry-After: is neither"),
        ("`Retry-After` is read", "`Retry-After`, `Pragma`, `User-Agent`", "User-Agent: is in"),
        (":UNCERTAIN_CLIENT_ERRORS`", ":CERTAIN_CLIENT_ERRORS`", "does not exist"),
        ("`blink_oauth._api:Api.probe`", "`blink_oauth._api:Api.nowhere`", "does not exist"),
        ("`blink_oauth.context:Grant`", "`blink_oauth.nowhere:Grant`", "does not exist"),
        ("| `blink_oauth.context:Grant` |", "| |", "names no code"),
    ],
)
def test_a_wrong_row_of_an_addition_is_found(row: str, replacement: str, fault: str) -> None:
    assert README.count(row) == 1
    wrong = README.replace(row, replacement)
    assert any(fault in found for found in faults_of_additions(wrong))
