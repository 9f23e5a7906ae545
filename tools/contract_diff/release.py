"""Decide whether the version of a contract, and the changelog, fit its changes."""

from __future__ import annotations

import re
from collections.abc import Sequence

from attrs import frozen

from contract_document import Node

from .rules import Change, Consequence

CHANGELOG = "CHANGELOG.md"
HANDLED_BY_HAND = (Consequence.BREAKS, Consequence.UNKNOWN, Consequence.HANDLE)


@frozen
class Release:
    """Whether version and changelog fit.

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


def worst_of(changes: Sequence[Change]) -> Consequence | None:
    """Return the worst consequence, or None if nothing changed."""
    return min((one.consequence for one in changes), key=lambda one: one.rank, default=None)


def needed_version(before: str, worst: Consequence | None) -> str:
    """Return the lowest version that may follow a version.

    Texts need no new version: nothing that is sent, received or typed differs.

    Raises:
        ValueError: If the version is not of the form 1.2.3.
    """
    major, minor, patch = numbers(before)
    if worst in (None, Consequence.WORDS):
        return before
    if worst in HANDLED_BY_HAND:
        return f"{major + 1}.0.0" if major else f"0.{minor + 1}.0"
    if worst is Consequence.USABLE and major:
        return f"{major}.{minor + 1}.0"
    return f"{major}.{minor}.{patch + 1}"


def numbers(version: str) -> tuple[int, int, int]:
    """Return the three numbers of a version.

    Raises:
        ValueError: If it is not of the form 1.2.3.
    """
    found = re.fullmatch(r"(\d+)\.(\d+)\.(\d+)", version)
    if not found:
        raise ValueError(f"info.version is {version!r}; it must be three numbers, as in 1.2.3.")
    major, minor, patch = map(int, found.groups())
    return major, minor, patch


def contract_entries(changelog: str, *, newest: bool) -> list[str]:
    """Return the entries of the sections *Contract* of a changelog.

    Args:
        changelog: Its text.
        newest: Whether only the unreleased and the newest version count.
    """
    versions = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    if newest:
        has_unreleased = any("unreleased" in one[:20].lower() for one in versions[:1])
        versions = versions[: has_unreleased + 1]
    sections = [
        section.partition("\n")
        for version in versions
        for section in re.split(r"^### ", version, flags=re.MULTILINE)[1:]
    ]
    return [
        " ".join(entry.split())
        for title, _, text in sections
        if title.strip() == "Contract"
        for entry in re.split(r"^[-*] ", text, flags=re.MULTILINE)[1:]
    ]


def check(
    old: Node, new: Node, changes: Sequence[Change], changelogs: tuple[str, str] | None
) -> Release:
    """Return whether the version of a contract, and its changelog, fit its changes.

    Args:
        old: The older contract.
        new: The newer one.
        changes: What differs.
        changelogs: The older changelog and the newer one; None if there are none to compare.
    """
    before, after = (str(one["info"].get("version", "none")) for one in (old, new))
    worst, problems, needed = worst_of(changes), [], before
    try:
        needed = needed_version(before, worst)
        if numbers(after) < numbers(needed):
            lower = ", and lower than before" if numbers(after) < numbers(before) else ""
            problems.append(f"info.version is {after}{lower}; raise it to {needed} or higher.")
    except ValueError as error:
        problems.append(str(error))
    count = None
    if changelogs is not None:
        known = contract_entries(changelogs[0], newest=False)
        count = len(set(contract_entries(changelogs[1], newest=True)) - set(known))
        if not count and worst not in (None, Consequence.WORDS):
            problems.append(f"{CHANGELOG} does not tell the change: add it under *Contract*.")
    return Release(before, after, needed, count, tuple(problems))
