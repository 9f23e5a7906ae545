"""Check the commits since the last tag: what changed generated/, and that it came with its cause.

    python tools/check_commits.py [--since REV]   by default since the last tag, else all commits

The generator is upgraded in one commit, the contract changed in another. A commit that changes what
generated/ is made from has the code that was made from it; a commit that changes generated/ has the
cause. A merge is wrong only if it is wrong compared with each of its parents. Commits without this
file are older than the rule: they are shown only.

Reads Git only, and generates nothing. Exit status: 0 right, 1 a commit is wrong, 2 wrong usage,
3 nothing was checked, because the history is missing.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Collection, Iterator
from io import BytesIO
from pathlib import Path

from attrs import frozen

from contract_document import SPEC
from repository import NoHistoryError, last_tag, run_git

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
READ = (SPEC, SETTINGS, PINS, PROVENANCE, RULE)  # the files of a commit that are read
EXIT_RIGHT, EXIT_WRONG, EXIT_NO_HISTORY = 0, 1, 3


@frozen
class State:
    """What the generated code of a commit is made with and made from.

    Attributes:
        made_with: The version of each tool that the provenance tells.
        made_from: The SHA-256 of each source that the provenance tells.
        sources: The SHA-256 of each of those sources in this commit.
        pinned: The version of each tool that is pinned in this commit.
        has_rule: Whether the commit has this check.
    """

    made_with: dict[str, str]
    made_from: dict[str, str]
    sources: dict[str, str]
    pinned: dict[str, str]
    has_rule: bool


@frozen
class Commit:
    """A commit that changes generated/ or a cause, compared with each parent.

    Attributes:
        after: What it has.
        bases: What each parent has, or nothing, and the paths that differ from that parent.
    """

    id: str
    subject: str
    after: State
    bases: list[tuple[State, set[str]]]


def main(arguments: list[str] | None = None) -> int:
    """Print the commits that concern generated/ with their faults, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--since", metavar="REV")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        need_history(options.root)
        start = options.since or last_tag(options.root)
        commits = read_commits(options.root, f"{start}..HEAD" if start else "HEAD")
    except NoHistoryError as error:
        print(f"No commit was checked. {error}", file=sys.stderr)
        return EXIT_NO_HISTORY
    wrong = 0
    for commit in commits:
        each = [kinds(before, commit.after, paths) for before, paths in commit.bases]
        if not all(each):
            continue
        changed = [kind for kind in KINDS if any(kind in one for one in each)]
        print(f"{commit.id[:9]}  {' + '.join(changed)}: {commit.subject}")
        found = faults(commit)
        for fault in found:
            print(f"           {'wrong' if commit.after.has_rule else 'before the rule'}: {fault}")
        wrong += bool(found) and commit.after.has_rule
    if wrong:
        print(f"Wrong: {wrong} commit(s). Rewrite them before they are merged.", file=sys.stderr)
        return EXIT_WRONG
    print(f"No commit since {start or 'the beginning'} is wrong.")
    return EXIT_RIGHT


# ---- the decisions


def kinds(before: State, after: State, paths: set[str]) -> list[str]:
    """Return what a commit changes of generated/ and of what it is made from."""
    is_generated = not paths.issubset(CAUSES)
    is_other_generator = (before.made_with, before.pinned) != (after.made_with, after.pinned)
    changed = {
        "contract": SPEC in paths,
        "settings": SETTINGS in paths,
        "generator": is_other_generator,
        "tools": is_generated and not paths.isdisjoint(TOOLS),
        "generated code": is_generated,
    }
    return [kind for kind in KINDS if changed[kind]]


def faults(commit: Commit) -> list[str]:
    """Return what is wrong with a commit, whichever parent it is compared with."""
    first, *others = [list(compare(before, commit.after, paths)) for before, paths in commit.bases]
    return [fault for fault in first if all(fault in other for other in others)]


def compare(before: State, after: State, paths: set[str]) -> Iterator[str]:
    """Yield what is wrong with a commit, compared with one parent."""
    is_upgrade = before.made_with and after.made_with and before.made_with != after.made_with
    if is_upgrade and before.made_from.get(SPEC) != after.made_from.get(SPEC):
        yield "The generator and the contract change. Make two commits, the generator first."
    if paths.isdisjoint(CAUSES):
        yield "Generated code changes, and nothing that it is made from: it was edited by hand."
    for path, digest in after.sources.items():
        if after.made_from.get(path) != digest:
            yield f"The generated code is not made from its {path}. Generate in the same commit."
    for tool, version in after.made_with.items():
        if after.pinned.get(tool) != version:
            yield f"The generated code is made with {tool} {version}, which {PINS} does not pin."


def state(files: dict[str, bytes]) -> State:
    """Return the state of a commit.

    Args:
        files: The content of those of the files in `READ` that the commit has.
    """
    made_with, made_from = provenance(files.get(PROVENANCE, b""))
    pins = files.get(PINS, b"").decode(errors="replace")
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)", pins, re.MULTILINE))
    sources = (path for path in (SPEC, SETTINGS) if path in files)
    return State(
        made_with=made_with,
        made_from=made_from,
        sources={path: hashlib.sha256(files[path]).hexdigest() for path in sources},
        pinned={tool: pinned[tool] for tool in made_with if tool in pinned},
        has_rule=RULE in files,
    )


def provenance(content: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """Return both tables of a provenance.json; empty ones if it is missing or damaged."""
    try:
        record = json.loads(content)
        return dict(record["made_with"]), dict(record["made_from_sha256"])
    except (ValueError, KeyError, TypeError):
        return {}, {}


# ---- what git prints


def git(root: Path, *arguments: str, input_: str = "") -> bytes:
    """Return what git prints.

    Raises:
        NoHistoryError: If git is not installed or fails.
    """
    result = run_git(root, *arguments, input_=input_)
    if result.returncode:
        raise NoHistoryError(f"git says: {result.stderr.decode(errors='replace').strip()}")
    return result.stdout


def need_history(root: Path) -> None:
    """Raise an error unless a folder is the top of a repository with its whole history.

    Raises:
        NoHistoryError: If it is not.
    """
    if git(root, "rev-parse", "--show-prefix").strip():
        raise NoHistoryError(f"{root} is not the top of a repository.")
    if git(root, "rev-parse", "--is-shallow-repository").strip() == b"true":
        raise NoHistoryError("The checkout is shallow. Run `git fetch --unshallow --tags` first.")


def read_commits(root: Path, revisions: str) -> list[Commit]:
    """Return the commits that change generated/ or a cause, oldest first.

    Raises:
        NoHistoryError: If a revision is unknown.
    """
    settings = ("log.showSignature=false", "log.showRoot=true", "log.diffMerges=separate")
    options = [part for one in settings for part in ("-c", one)]
    # -m: a merge comes once for each parent that it differs from, in their order.
    shown = ("-m", "--raw", "--no-renames", "--no-color", "--format=%x00%H%x09%P%x09%s")
    order = ("--full-history", "--topo-order", "--reverse")
    paths = (GENERATED, f":(exclude){BY_HAND}", *CAUSES)
    text = git(root, *options, "log", *order, *shown, revisions, "--", *paths)
    found: dict[tuple[str, str, str], list[set[str]]] = {}
    for entry in text.decode(errors="replace").split("\0")[1:]:
        head, *lines = entry.split("\n")
        commit, parents, subject = head.split("\t", 2)
        each = found.setdefault((commit, parents, subject), [])
        each.append({line.partition("\t")[2] for line in lines if line})
    states = read_states(root, {id_ for head in found for id_ in " ".join(head[:2]).split()})
    nothing = state({})
    commits = []
    for (commit, parents, subject), each in found.items():
        bases = [states[parent] for parent in parents.split()] or [nothing]
        # A merge that equals a parent is right; that parent is left out.
        if len(bases) == len(each):
            pairs = list(zip(bases, each, strict=True))
            commits.append(Commit(commit, subject, states[commit], pairs))
    return commits


def read_states(root: Path, commits: Collection[str]) -> dict[str, State]:
    """Return the state of each commit, by its id.

    Raises:
        NoHistoryError: If git fails.
    """
    names = "".join(f"{commit}:{path}\n" for commit in commits for path in READ)
    output = BytesIO(git(root, "cat-file", "--batch", input_=names))
    states = {}
    for commit in commits:
        files = {}
        for path in READ:
            head = output.readline()
            if not head.endswith(b" missing\n"):
                files[path] = output.read(int(head.split()[-1]))
                output.readline()
        states[commit] = state(files)
    return states


if __name__ == "__main__":
    raise SystemExit(main())
