"""Tell what a change of the contract means, before anybody regenerates.

    python -m contract_diff                      the working tree and the last tag
    python -m contract_diff --against REV        the working tree and another commit
    python -m contract_diff OLD.yaml NEW.yaml    two files; no changelog is compared

Without a tag, the working tree is compared with the first commit that has the contract. `--each`
shows the commits since then one by one; only the whole is checked. Texts are listed by their names;
`--words` shows what they say. Only git and files are read.

`--json` prints an object with `from`, `to`, `error` (empty, or why a past commit could not be
compared), `worst` (null: nothing changed), `release` (`version_before`, `version_after`,
`version_needed`, `new_changelog_entries`: null for two files, `problems`: sentences), `readers`
(the code that reads the whole contract) and `changes`: for each `consequence`, `rule`, `kind`,
`how`, `sides`, `places` (lists of keys), `before` and `after` (left out if there is none),
`symbols` (`file`, `name`) and `consumers` (`file`, `line`, `scope`, `via`). With `--each`,
`commits` holds such objects too, with the release null.

Needs an environment with requirements/generate.txt, and `tools` on the path. Exit status: 0 version
and changelog fit, 1 they do not, 2 wrong usage or a contract that cannot be read or is
malformed, 3 the history is missing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import TypeVar

from attrs import evolve

from contract_document import SPEC, Node
from repository import NoHistoryError

from .changes import compare
from .consumers import Code, Consumer
from .release import CHANGELOG, check
from .report import Comparison, Leaf, as_json, as_markdown, as_text
from .rules import Change, Consequence
from .symbols import Symbol
from .versions import UnreadableError, at, base, git, load, read

T = TypeVar("T")
EXIT_FITS, EXIT_UNFIT, EXIT_USAGE, EXIT_NO_HISTORY = 0, 1, 2, 3


def traced(old: Node, new: Node, changes: Sequence[Change], code: Code) -> Iterator[Leaf]:
    """Yield the changes with the generated names and the code that consumes them."""
    for change in changes:
        if change.consequence is Consequence.WORDS:
            yield Leaf(change)
            continue
        contract, other = (old, new) if change.is_of_the_old else (new, old)
        if change.kind == "generated name":
            # The values stay, so that only the lines with the name itself have to change.
            used = code.consumers(contract, change.place, other)
            direct = [one for one in used if not one.via]
            yield Leaf(change, code.symbols(contract, change.place, other), direct)
            continue
        symbols: dict[Symbol, None] = {}
        consumers: dict[Consumer, None] = {}
        for place in (change.place, *change.others):
            # If nothing is made of a value, or no code depends on it, what it belongs to counts.
            in_list = place[-2:-1] == ("required",)
            around = (*place[:-2], "properties", *place[:-3:-1]) if in_list else (*place[:-1], "")
            exact = [] if change.how == "no longer required" else [place]
            places = exact if change.how.startswith("added") else [*exact, around]
            symbols |= dict.fromkeys(first(code.symbols(contract, one) for one in places))
            consumers |= dict.fromkeys(
                first(code.consumers(contract, *one) for one in product(places, (other, None)))
            )
        ordered = sorted(consumers, key=lambda one: (bool(one.via), one.file, one.line))
        yield Leaf(change, tuple(symbols), tuple(ordered))


def first(found: Iterable[list[T]]) -> list[T]:
    """Return the first list that is not empty."""
    return next(filter(None, found), [])


def each_commit(root: Path, since: str) -> Iterator[Comparison]:
    """Yield what each commit since another has changed, oldest first, if it changed anything."""
    listed = git(root, "log", "--reverse", "--format=%h %s", f"{since}..HEAD", "--", SPEC) or ""
    for line in listed.splitlines():
        commit, _, subject = line.partition(" ")
        names = (f"{commit}^", f"{commit} {subject}")
        try:
            old, new = at(root, f"{commit}^"), at(root, commit)
            changes = compare(old, new)
            if changes:
                yield Comparison(*names, old, new, tuple(map(Leaf, changes)))
        except UnreadableError as error:
            # A past commit cannot be corrected.
            yield Comparison(*names, {}, {}, (), error=f"not compared: {error}")


def main(arguments: list[str] | None = None) -> int:
    """Compare, print the report and return the exit status."""
    parser = argparse.ArgumentParser(
        "contract_diff", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="two contracts")
    parser.add_argument("--against", metavar="REV", help="the commit to compare with")
    parser.add_argument("--each", action="store_true", help="show each commit since then, too")
    parser.add_argument("--words", action="store_true", help="show what the changed texts say")
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[2], metavar="DIR")
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
        commits = {"commits": [as_json(one) for one in past]} if options.each else {}
        print(json.dumps(as_json(current) | commits, indent=2, default=str))
    else:
        form_of = partial(as_markdown if options.markdown else as_text, words=options.words)
        print("\n".join(map(form_of, (*past, current))), end="")
    return EXIT_UNFIT if current.release and current.release.problems else EXIT_FITS


def run(options: argparse.Namespace) -> tuple[list[Comparison], Comparison]:
    """Return what is past, and the comparison that is checked.

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
        changelogs = git(root, "show", f"{revision}:./{CHANGELOG}") or "", read(root / CHANGELOG)
        past = list(each_commit(root, revision)) if options.each else []
    changes, code = compare(old, new), Code(root)
    leaves = tuple(traced(old, new, changes, code))
    current = Comparison(names[0], names[1], old, new, leaves, code.readers())
    return past, evolve(current, release=check(old, new, changes, changelogs))


if __name__ == "__main__":
    raise SystemExit(main())
