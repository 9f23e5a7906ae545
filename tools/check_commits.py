"""Check the commits since the last tag: what changed generated/, and that it came with its cause.

    python tools/check_commits.py [--since REV]   by default since the last tag, else all commits

The generator is upgraded in one commit, the contract changed in another. A commit that changes what
generated/ is made from has the code that was made from it; a commit that changes generated/ has the
cause. A merge is wrong only if it is wrong compared with each of its parents. Commits without this
file are older than the rule: they are shown only.

Reads Git only, and generates nothing. Exit status: 0 right, 1 a commit is wrong, 2 nothing was
checked, because the history is not there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from attrs import frozen

from contract_document import SPEC
from generation import show

SETTINGS = "generator-config.yml"
PINS = "requirements/generate.txt"
GENERATED = "generated"
PROVENANCE = f"{GENERATED}/provenance.json"
BY_HAND = f"{GENERATED}/README.md"
TOOLS = tuple(
    f"tools/{name}.py" for name in ("contract_document", "generated_code", "generation", "surface")
)
CAUSES = (SPEC, SETTINGS, PINS, *TOOLS)
KINDS = ("contract", "settings", "generator", "tools", "generated code")
RULE = "tools/check_commits.py"
EXIT_RIGHT, EXIT_WRONG, EXIT_UNCHECKED = 0, 1, 2


class NoHistoryError(Exception):
    """The commits cannot be read; the message says why."""


@frozen
class State:
    """What a commit has.

    Attributes:
        files: The id of each file that is generated or a cause, by its path.
        made_with: The version of each tool that the provenance tells.
        made_from: The SHA-256 of each source that the provenance tells.
        sources: The SHA-256 of each of those sources in this commit.
        pinned: The version of each tool that is pinned in this commit.
        has_rule: Whether the commit has this check.
    """

    files: dict[str, str]
    made_with: dict[str, str]
    made_from: dict[str, str]
    sources: dict[str, str]
    pinned: dict[str, str]
    has_rule: bool


NOTHING = State(files={}, made_with={}, made_from={}, sources={}, pinned={}, has_rule=False)


def main(arguments: list[str] | None = None) -> int:
    """Print the commits that concern generated/ with their faults, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--since", metavar="REV")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        return check(History(options.root), options.since)
    except NoHistoryError as error:
        print(f"No commit was checked. {error}", file=sys.stderr)
        return EXIT_UNCHECKED


def check(history: History, since: str | None) -> int:
    """Print each commit since a revision that concerns generated/; return the exit status."""
    start = since or history.last_tag()
    wrong = 0
    for commit, parents, subject in history.commits(start):
        after = history.state(commit)
        bases = [history.state(parent) for parent in parents] or [NOTHING]
        kinds = [set(changes(before, after)) for before in bases]
        if not all(kinds):
            continue
        changed = [kind for kind in KINDS if any(kind in each for each in kinds)]
        show(f"{commit[:9]}  {' + '.join(changed)}: {subject}")
        each = [list(faults(before, after)) for before in bases]
        found = [fault for fault in each[0] if all(fault in others for others in each)]
        for fault in found:
            show(f"           {'wrong' if after.has_rule else 'before the rule'}: {fault}")
        wrong += bool(found) and after.has_rule
    if wrong:
        print(f"Wrong: {wrong} commit(s). Rewrite them before they are merged.", file=sys.stderr)
        return EXIT_WRONG
    show(f"No commit since {start or 'the beginning'} is wrong.")
    return EXIT_RIGHT


def changes(before: State, after: State) -> Iterator[str]:
    """Yield what a commit changes of generated/ and of what it is made from."""
    paths = changed_files(before, after)
    is_generated = any(path not in CAUSES for path in paths)
    if SPEC in paths:
        yield "contract"
    if SETTINGS in paths:
        yield "settings"
    if (before.made_with, before.pinned) != (after.made_with, after.pinned):
        yield "generator"
    if is_generated and any(path in TOOLS for path in paths):
        yield "tools"
    if is_generated:
        yield "generated code"


def faults(before: State, after: State) -> Iterator[str]:
    """Yield what is wrong with a commit, compared with one parent."""
    has_both = before.made_with and after.made_with
    is_upgrade = has_both and before.made_with != after.made_with
    if is_upgrade and before.made_from.get(SPEC) != after.made_from.get(SPEC):
        yield "The generator and the contract change. Make two commits, the generator first."
    if not any(path in CAUSES for path in changed_files(before, after)):
        yield "Generated code changes, and nothing that it is made from: it was edited by hand."
    for path, digest in after.sources.items():
        if after.made_from.get(path) != digest:
            yield f"The generated code is not made from its {path}. Generate in the same commit."
    for tool, version in after.made_with.items():
        if after.pinned.get(tool) != version:
            yield f"The generated code is made with {tool} {version}, which {PINS} does not pin."


def changed_files(before: State, after: State) -> list[str]:
    """Return the paths of the files that differ."""
    paths = sorted(before.files.keys() | after.files.keys())
    return [path for path in paths if before.files.get(path) != after.files.get(path)]


class History:
    """The commits of a repository, read by git."""

    def __init__(self, root: Path) -> None:
        """Open the repository whose top is a folder.

        Raises:
            NoHistoryError: If there is none, or its history is cut off.
        """
        self._root = root
        self._states: dict[str, State] = {}
        if self._text("rev-parse", "--show-prefix").strip():
            raise NoHistoryError(f"{root} is not the top of a repository.")
        if self._text("rev-parse", "--is-shallow-repository").strip() == "true":
            raise NoHistoryError(
                "The checkout is shallow. Run `git fetch --unshallow --tags` first."
            )

    def last_tag(self) -> str | None:
        """Return the tag of the last version before HEAD; None before the first.

        Raises:
            NoHistoryError: If there is no commit.
        """
        listed = ("--list", "v*", "--merged", "HEAD", "--sort=-version:refname")
        return next(iter(self._text("tag", *listed).split()), None)

    def commits(self, since: str | None) -> Iterator[tuple[str, list[str], str]]:
        """Yield the id, the parents and the subject of each commit that changes a file of a state.

        Raises:
            NoHistoryError: If the revision is unknown.
        """
        log = ("-c", "log.showSignature=false", "log", "--full-history", "--topo-order")
        commits = f"{since}..HEAD" if since else "HEAD"
        shown = ("--reverse", "--format=%H%x09%P%x09%s")
        text = self._text(*log, *shown, commits, "--", GENERATED, *CAUSES)
        for line in text.splitlines():
            commit, parents, subject = line.split("\t", 2)
            yield commit, parents.split(), subject

    def state(self, commit: str) -> State:
        """Return what a commit has.

        Raises:
            NoHistoryError: If the commit is missing.
        """
        if commit not in self._states:
            self._states[commit] = self._read_state(commit)
        return self._states[commit]

    def _read_state(self, commit: str) -> State:
        listed = self._text("ls-tree", "-r", "-z", commit, "--", GENERATED, *CAUSES, RULE)
        entries = (entry.split("\t") for entry in listed.split("\0") if entry)
        files = {path: head.split()[2] for head, path in entries if path != BY_HAND}
        has_rule = files.pop(RULE, None) is not None
        content = {
            path: self._git("cat-file", "blob", files[path])
            for path in (SPEC, SETTINGS, PINS, PROVENANCE)
            if path in files
        }
        record = parsed(content.get(PROVENANCE, b""))
        pins = content.get(PINS, b"").decode(errors="replace")
        return State(
            files=files,
            made_with=record["made_with"],
            made_from=record["made_from_sha256"],
            sources={
                path: hashlib.sha256(content[path]).hexdigest()
                for path in (SPEC, SETTINGS)
                if path in content
            },
            pinned={
                tool: version
                for tool, version in re.findall(r"^([\w.-]+)==(\S+)", pins, re.MULTILINE)
                if tool in record["made_with"]
            },
            has_rule=has_rule,
        )

    def _text(self, *arguments: str) -> str:
        return self._git(*arguments).decode(errors="replace")

    def _git(self, *arguments: str) -> bytes:
        command = ["git", "-C", str(self._root), *arguments]
        try:
            result = subprocess.run(command, capture_output=True, check=False)
        except FileNotFoundError as error:
            raise NoHistoryError("git is not installed.") from error
        if result.returncode:
            raise NoHistoryError(f"git says: {result.stderr.decode(errors='replace').strip()}")
        return result.stdout


def parsed(provenance: bytes) -> dict[str, dict[str, str]]:
    """Return the two tables of a provenance.json; empty ones if it is missing or damaged."""
    names = ("made_with", "made_from_sha256")
    try:
        record = json.loads(provenance)
        return {
            name: {str(key): str(value) for key, value in record[name].items()} for name in names
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {name: {} for name in names}


if __name__ == "__main__":
    raise SystemExit(main())
