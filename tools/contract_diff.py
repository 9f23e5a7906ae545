"""Tell what a change of the contract means, before anybody regenerates.

    python tools/contract_diff.py                      the working tree and the last tag
    python tools/contract_diff.py --against REV        the working tree and another commit
    python tools/contract_diff.py OLD.yaml NEW.yaml    two files; no changelog is compared

Without a tag, the working tree is compared with the first commit that has the contract. `--each`
shows the commits since then one by one, which is not judged. Only git and files are read.

`--json` prints an object with `from`, `to`, `error` (empty, or why a past commit could not be
compared), `worst` (null: nothing changed), `judgement`
(`version_before`, `version_after`, `version_needed`, `new_changelog_entries`: null for two files,
`problems`: sentences) and `changes`: for each `consequence`, `rule`, `kind`, `how`, `sides`,
`places` (lists of keys), `before` and `after` (left out if there is none), `symbols` (`file`,
`name`) and `consumers` (`file`, `line`, `scope`, `via`). With `--each`, `commits` holds such
objects too, with the judgement null.

Needs an environment with requirements/generate.txt. Exit status: 0 version and changelog fit,
1 they do not, 2 wrong usage or a contract that cannot be read, 3 the history is missing.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from attrs import evolve
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from contract_changes import compare
from contract_consumers import Code, Consumer, Symbol
from contract_parts import Node
from contract_report import Comparison, Judgement, Leaf, as_json, as_markdown, as_text
from contract_rules import Change, Consequence

SPEC, CHANGELOG = "spec/openapi.yaml", "CHANGELOG.md"
EXIT_FITS, EXIT_UNFIT, EXIT_USAGE, EXIT_NO_HISTORY = 0, 1, 2, 3
HANDLED_BY_HAND = (Consequence.BREAKS, Consequence.UNKNOWN, Consequence.HANDLE)


class UnreadableError(Exception):
    """A contract cannot be read; the message says which and why."""


class NoHistoryError(Exception):
    """The commit to compare with is not in this checkout."""


# ---- the judgement


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
        unreleased = (
            versions[:1] if versions[:1] and "unreleased" in versions[0][:20].lower() else []
        )
        versions = versions[: len(unreleased) + 1]
    sections = (
        section.partition("\n")[2]
        for version in versions
        for section in re.split(r"^### ", version, flags=re.MULTILINE)[1:]
        if section.partition("\n")[0].strip() == "Contract"
    )
    entries = (re.split(r"^[-*] ", section, flags=re.MULTILINE)[1:] for section in sections)
    return [" ".join(entry.split()) for each in entries for entry in each]


def judge(
    old: Node, new: Node, changes: Sequence[Change], changelogs: tuple[str, str] | None
) -> Judgement:
    """Judge whether the version of a contract, and its changelog, fit its changes.

    Args:
        old: The older contract.
        new: The newer one.
        changes: What differs.
        changelogs: The older changelog and the newer one; None if there are none to compare.
    """
    before, after = (str(one.get("info", {}).get("version", "none")) for one in (old, new))
    worst = min((one.consequence for one in changes), key=lambda one: one.rank, default=None)
    problems, needed = [], before
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
    return Judgement(before, after, needed, count, tuple(problems))


# ---- reading


def load(text: str, name: str) -> Node:
    """Return a contract.

    Raises:
        UnreadableError: If the text is not YAML or not a mapping.
    """
    try:
        found = YAML(typ="safe").load(text)
    except YAMLError as error:
        raise UnreadableError(f"{name} is not YAML: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("info"), dict):
        raise UnreadableError(f"{name} is not an OpenAPI document: it has no info.")
    return {str(key): with_text_keys(value) for key, value in found.items()}


def with_text_keys(value: Any) -> Any:
    """Return a value with all keys as texts: a status can be written as a number."""
    if isinstance(value, dict):
        return {str(key): with_text_keys(one) for key, one in value.items()}
    return [with_text_keys(one) for one in value] if isinstance(value, list) else value


def read(path: Path) -> str:
    """Return the text of a file.

    Raises:
        UnreadableError: If it cannot be read.
    """
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"{path} cannot be read: {error}") from error


def git(root: Path, *arguments: str) -> str | None:
    """Return what git prints, or None if it fails.

    Raises:
        NoHistoryError: If git is not installed.
    """
    try:
        command = ["git", "-C", str(root), *arguments]
        result = subprocess.run(command, capture_output=True, check=False)
    except FileNotFoundError as error:
        raise NoHistoryError("git is not installed.") from error
    return None if result.returncode else result.stdout.decode("utf-8", "replace")


def base(root: Path, revision: str | None) -> str:
    """Return the commit or tag to compare with: the one asked for, the last tag, the first commit.

    Raises:
        NoHistoryError: If the checkout does not have it.
        UnreadableError: If there is no such commit.
    """
    is_shallow = (git(root, "rev-parse", "--is-shallow-repository") or "none").strip()
    if is_shallow == "none":
        raise NoHistoryError(f"{root} is no checkout of git.")
    if revision is not None:
        name = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        if git(root, *name) is not None:
            return revision
        if is_shallow == "true":
            raise NoHistoryError(f"This shallow checkout has no {revision}.")
        raise UnreadableError(f"There is no commit {revision}.")
    tag = git(root, "describe", "--tags", "--abbrev=0", "--match", "v*")
    if tag is not None:
        return tag.strip()
    first = git(root, "log", "--diff-filter=A", "--format=%h", "--", SPEC)
    if is_shallow == "true" or not first:
        raise NoHistoryError("This checkout has neither a tag nor the first commit.")
    return first.split()[-1]


def at(root: Path, revision: str) -> Node:
    """Return the contract of a commit.

    Raises:
        UnreadableError: If the commit has none.
    """
    text = git(root, "show", f"{revision}:./{SPEC}")
    if text is None:
        raise UnreadableError(f"{revision} has no {SPEC}.")
    return load(text, f"{SPEC} of {revision}")


# ---- the comparisons


def comparison(old: Node, new: Node, names: tuple[str, str], root: Path | None) -> Comparison:
    """Compare two contracts; with a root, name the code that its changes concern."""
    changes = compare(old, new)
    if root is None:
        return Comparison(*names, old, new, tuple(map(Leaf, changes)))
    return Comparison(*names, old, new, tuple(traced(old, new, changes, Code(root))))


def traced(old: Node, new: Node, changes: Sequence[Change], code: Code) -> Iterator[Leaf]:
    """Yield the changes with the generated names and the code that consumes them."""
    for change in changes:
        if change.consequence is Consequence.WORDS:
            yield Leaf(change)
            continue
        contract = old if change.is_of_the_old else new
        symbols: dict[Symbol, None] = {}
        consumers: dict[Consumer, None] = {}
        for exact in (change.place, *change.others):
            # The generator makes nothing of `required: false`; the element tells more.
            is_flag = exact[-1] == "required" and not code.symbols(contract, exact)
            place = exact[:-1] if is_flag else exact
            symbols |= dict.fromkeys(code.symbols(contract, place))
            consumers |= dict.fromkeys(code.consumers(contract, place))
        ordered = sorted(consumers, key=lambda one: (bool(one.via), one.file, one.line))
        yield Leaf(change, tuple(symbols), tuple(ordered))


def each_commit(root: Path, since: str) -> Iterator[Comparison]:
    """Yield what each commit since another has changed, oldest first."""
    listed = git(root, "log", "--reverse", "--format=%h %s", f"{since}..HEAD", "--", SPEC) or ""
    for line in listed.splitlines():
        commit, _, subject = line.partition(" ")
        names = (f"{commit}^", f"{commit} {subject}")
        try:
            yield comparison(at(root, f"{commit}^"), at(root, commit), names, None)
        except UnreadableError as error:
            # It is past: nobody can correct it any more.
            yield Comparison(*names, {}, {}, (), error=f"not compared: {error}")


def main(arguments: list[str] | None = None) -> int:
    """Compare, print the report and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="two contracts")
    parser.add_argument("--against", metavar="REV", help="the commit to compare with")
    parser.add_argument("--each", action="store_true", help="show each commit since then, too")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], metavar="DIR")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--markdown", action="store_true", help="for a pull request")
    form.add_argument("--json", action="store_true", help="for machines")
    options = parser.parse_args(arguments)
    if len(options.files) not in (0, 2) or (options.files and (options.against or options.each)):
        parser.error("give two files, or none and perhaps --against and --each")
    try:
        past, current = run(options)
    except UnreadableError as error:
        print(f"Nothing was compared. {error}", file=sys.stderr)
        return EXIT_USAGE
    except NoHistoryError as error:
        print(
            f"Nothing was compared. {error}\nFetch the history (`git fetch --unshallow --tags`),"
            " or give two files.",
            file=sys.stderr,
        )
        return EXIT_NO_HISTORY
    if options.json:
        report = as_json(current)
        if options.each:
            report["commits"] = [as_json(one) for one in past]
        print(json.dumps(report, indent=2, default=str))
    else:
        form_of = as_markdown if options.markdown else as_text
        print("\n".join(map(form_of, (*past, current))), end="")
    return exit_status(current.judgement)


def exit_status(judgement: Judgement | None) -> int:
    """Return the exit status of a judgement."""
    return EXIT_UNFIT if judgement and judgement.problems else EXIT_FITS


def run(options: argparse.Namespace) -> tuple[list[Comparison], Comparison]:
    """Return what is past, and the comparison that is judged.

    Raises:
        NoHistoryError: If the checkout lacks the commit to compare with.
        UnreadableError: If a contract cannot be read.
    """
    root = options.root.resolve()
    if options.files:
        old, new = (load(read(path), str(path)) for path in options.files)
        names, changelogs, past = tuple(map(str, options.files)), None, []
    else:
        revision = base(root, options.against)
        old, new = at(root, revision), load(read(root / SPEC), SPEC)
        names = (revision, "working tree")
        older = git(root, "show", f"{revision}:./{CHANGELOG}") or ""
        changelogs = (older, read(root / CHANGELOG))
        past = list(each_commit(root, revision)) if options.each else []
    current = comparison(old, new, (names[0], names[1]), root)
    changes = [leaf.change for leaf in current.leaves]
    return past, evolve(current, judgement=judge(old, new, changes, changelogs))


if __name__ == "__main__":
    raise SystemExit(main())
