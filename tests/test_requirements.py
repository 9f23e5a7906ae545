"""The sets of pinned tools, and the lowest versions that the project declares."""

from __future__ import annotations

import json
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
INTEROP = ROOT / "tools" / "interop"
SETS = sorted((ROOT / "requirements").glob("*.txt"))
REQUIREMENT = re.compile(
    r"^([a-z0-9-]+)==(\S+)(?: ;[^\\\n]*)?(?: \\\n    --hash=sha256:[0-9a-f]{64})+$", re.MULTILINE
)


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_each_tool_has_one_version_and_its_hashes(path: Path) -> None:
    text = path.read_text()
    tools = [line for line in text.splitlines() if line[0] not in " #"]
    assert tools
    assert len(REQUIREMENT.findall(text)) == len(tools)


@pytest.mark.parametrize("path", SETS, ids=lambda path: path.stem)
def test_no_set_names_an_index(path: Path) -> None:
    assert not re.search(r"://|--(extra-)?index|--find-links|--trusted-host", path.read_text())


def test_the_lowest_set_has_the_lower_bound_of_each_library() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = chain(project["dependencies"], *project["optional-dependencies"].values())
    bounds = dict(re.split(r"(?:\[[a-z,]+\])?>=", each.partition(",")[0]) for each in declared)
    lowest = dict(REQUIREMENT.findall((ROOT / "requirements" / "lowest.txt").read_text()))
    assert len(bounds) > 15
    assert {name: _parts(lowest[name]) for name in bounds} == {
        name: _parts(bound) for name, bound in bounds.items()
    }


def test_each_foreign_tool_has_one_version_and_all_its_packages_have_hashes() -> None:
    chosen = json.loads((INTEROP / "package.json").read_text("utf-8"))["devDependencies"]
    lock = json.loads((INTEROP / "package-lock.json").read_text("utf-8"))["packages"]
    assert lock.pop("")["devDependencies"] == chosen
    assert {name: lock[f"node_modules/{name}"]["version"] for name in chosen} == chosen
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in chosen.values())
    unverified = [
        name for name, each in lock.items() if not each["integrity"].startswith("sha512-")
    ]
    assert unverified == []


def test_the_lock_of_the_foreign_tools_names_no_registry() -> None:
    lock = json.loads((INTEROP / "package-lock.json").read_text("utf-8"))["packages"]
    assert [name for name, each in lock.items() if "resolved" in each] == []
    # Whom the authors ask to support them is no address of a package.
    for each in lock.values():
        each.pop("funding", None)
    assert "://" not in json.dumps(lock)


def _parts(version: str) -> tuple[int, ...]:
    """Return the numbers of a version, without zeros at its end."""
    numbers = [int(part) for part in version.split(".")]
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
