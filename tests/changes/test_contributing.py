"""The second example of CONTRIBUTING.md, a response header, is complete and true.

The diffs on the page are applied to a copy of the tree. Needs the generator and the libraries of
the tests in one environment: the session `types` runs it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from contextlib import redirect_stdout
from difflib import unified_diff
from io import StringIO
from pathlib import Path
from typing import NamedTuple

import pytest

from generation import main

PROJECT = Path(__file__).parents[2]
PACKAGES = ("generated", "wrapper", "keeper", "cli", "testing")
PAGE = (PROJECT / "CONTRIBUTING.md").read_text("utf-8")
HEADERS_TEST = "tests/wrapper/test_headers.py"
SECTION = PAGE.partition("### A response header\n")[2].partition("\n## ")[0]

# Prints the value that the client reads from a response of the sandbox, and what the sandbox
# finds wrong with its own response.
CALL = """\
from blink_oauth import BlinkOAuth, Psu
from blink_oauth_testing.sandbox import Sandbox

with Sandbox() as sandbox, BlinkOAuth(sandbox.settings()) as blink:
    grant = sandbox.grant()
    code, redirect_uri = sandbox.issue_code(grant), sandbox.redirect_uri
    token = blink.exchange_code(grant, code=code, redirect_uri=redirect_uri, psu=Psu.AUTO)
    print(token.meta.new, sandbox.exchanges[0].response_violations)
"""


class Hunk(NamedTuple):
    """A part of a diff: the lines before and after."""

    before: str
    after: str


def blocks(language: str) -> list[str]:
    """Return the code blocks of the section in a language."""
    return re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)


def files_of(diff: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of each file in a diff, and the lines of its hunks."""
    for part in re.split(r"^--- a/", diff, flags=re.MULTILINE)[1:]:
        name, plus, *lines = part.splitlines()
        assert plus == f"+++ b/{name}"
        yield name, lines


def hunks_of(lines: list[str]) -> Iterator[Hunk]:
    """Yield the hunks of a file."""
    for hunk in re.split(r"^@@.*\n", "".join(f"{line}\n" for line in lines), flags=re.MULTILINE)[
        1:
    ]:
        # An editor may have removed the blank of an empty line.
        kinds = [(line[:1] or " ", line[1:]) for line in hunk.splitlines()]
        yield Hunk(
            *(
                "".join(f"{text}\n" for kind, text in kinds if kind in sides)
                for sides in (" -", " +")
            )
        )


def by_hand() -> dict[str, list[Hunk]]:
    """Return the hunks of all files that are edited by hand."""
    found: dict[str, list[Hunk]] = defaultdict(list)
    for block in blocks("diff"):
        for name, lines in files_of(block):
            if not name.startswith("generated/"):
                found[name] += hunks_of(lines)
    return found


HUNKS = by_hand()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a copy of the packages, the contract, the tests of both and the changelog."""
    root = tmp_path / "project"
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in (*PACKAGES, "spec", "tests/spec", "tests/wrapper"):
        shutil.copytree(PROJECT / folder, root / folder, ignore=ignored)
    files = ("conftest.py", "flavours.py")
    for file in ("generator-config.yml", "pyproject.toml", *(f"tests/{name}" for name in files)):
        shutil.copy2(PROJECT / file, root / file)
    shutil.copy2(PROJECT / "CHANGELOG.md", root)
    return root


def run(root: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a copy, with its packages."""
    paths = os.pathsep.join(str(root / folder) for folder in PACKAGES)
    return subprocess.run(
        [sys.executable, *command],
        cwd=root,
        env={
            "PATH": os.defpath,
            "PYTHONPATH": paths,
            # No test that runs in a copy needs a plugin, and some take a second to load.
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def run_tests(root: Path, *tests: str) -> subprocess.CompletedProcess[str]:
    """Run tests of a copy."""
    return run(root, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)


def generate(root: Path) -> str:
    """Generate the code of a copy, and return what the generation prints."""
    with redirect_stdout(StringIO()) as output:
        assert main(["generate", "--root", str(root)]) == 0
    return output.getvalue()


def apply(root: Path, *files: str) -> None:
    """Apply the hunks of the page to these files of a copy; each must fit in one place."""
    for name in files:
        text = (root / name).read_text("utf-8")
        for before, after in HUNKS[name]:
            assert text.count(before) == 1, f"{name} does not have this once:\n{before}"
            text = text.replace(before, after)
        (root / name).write_text(text, "utf-8")


def snapshot(root: Path) -> dict[str, str]:
    """Read every file of a copy."""
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(root).as_posix(): path.read_text("utf-8") for path in files}


def generated_diff(before: dict[str, str], after: dict[str, str]) -> str:
    """Return the diff of all generated files but the provenance, without line numbers."""
    diffs = []
    for name in sorted(name for name in after if name.startswith("generated/")):
        if not name.endswith("provenance.json"):
            old, new = (side.get(name, "").splitlines(keepends=True) for side in (before, after))
            diffs.append("".join(unified_diff(old, new, f"a/{name}", f"b/{name}")))
    return without_positions("".join(diffs))


def without_positions(diff: str) -> str:
    """Return a diff without line numbers and blanks at the ends of lines."""
    return re.sub(r" +$", "", re.sub("^@@.*", "@@", diff, flags=re.MULTILINE), flags=re.MULTILINE)


def test_the_diffs_of_the_page_are_the_whole_change_and_the_value_arrives(tree: Path) -> None:
    before = snapshot(tree)
    apply(tree, *HUNKS)
    printed = generate(tree)
    after = snapshot(tree)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert changed - HUNKS.keys() == set(re.findall("generated/[^ \n]+(?=\n)", printed))
    assert blocks("console") == [printed]
    (shown,) = (diff for diff in blocks("diff") if "+++ b/generated/" in diff)
    assert without_positions(shown) == generated_diff(before, after)

    call = run(tree, "-c", CALL)
    assert call.stdout == "7 ()\n", call.stderr
    secrets = "tests/wrapper/test_secrets.py::test_a_secret_in_a_response_header_is_in_no_text"
    result = run_tests(tree, "tests/spec", HEADERS_TEST, secrets)
    assert result.returncode == 0, result.stdout


def test_the_table_of_what_is_noticed_has_every_file() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", SECTION, re.MULTILINE)
    assert {file for file, _ in rows} == HUNKS.keys() - {"spec/openapi.yaml"} | {"nox -s generate"}
    # Each noticing test is in the tree.
    named = {name for _, by in rows for name in re.findall(r"`(tests/[^`]+)`", by)}
    assert len(named) == 4
    assert [name for name in named if not (PROJECT / name).is_file()] == []


def test_a_file_that_is_forgotten_is_noticed_where_the_page_says(tree: Path) -> None:
    applied = {"spec/openapi.yaml", "wrapper/blink_oauth/headers.py"}
    apply(tree, *applied)
    noticing = {
        "tests/spec/test_spec_text.py": "test_the_readme_lists_exactly_the_marks_of_the_contract",
        "tests/spec/test_spec_examples.py": (
            "test_the_examples_of_headers_are_complete_and_conform_to_their_schemas"
        ),
        "tests/spec/test_generated_package.py": (
            "test_the_contract_types_hold_the_statuses_and_headers_of_each_operation"
        ),
        HEADERS_TEST: "test_every_header_that_the_client_reads_or_sends_is_pinned_to_the_contract",
    }
    tests = {f"{file}::{test}" for file, test in noticing.items()}
    assert {name.partition("[")[0] for name in failed(run_tests(tree, *tests))} == tests

    apply(tree, *HUNKS.keys() - applied - {HEADERS_TEST})
    test = "test_the_response_headers_of_the_contracts_example_are_read[response_success]"
    assert failed(run_tests(tree, HEADERS_TEST)) == [f"{HEADERS_TEST}::{test}"]


def failed(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the names of the tests that failed."""
    return re.findall(r"^FAILED (\S+)", result.stdout, re.MULTILINE)
