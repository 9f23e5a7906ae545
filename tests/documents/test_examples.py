"""Every code block of the pages works, or says why nothing executes it."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from sqlalchemy import MetaData

from blink_oauth import AuthorizationCode
from blink_oauth_keeper import MemoryTokenStore, State, metadata
from blink_oauth_testing import Sandbox
from check_site import public_names
from documents.conftest import Reader
from documents.examples import (
    DOCSTRINGS,
    ELSEWHERE,
    FENCE,
    PAGES,
    PROJECT,
    count,
    executed_by,
    is_marked,
    languages_of,
    parsed,
)
from storm.databases import empty_database

README = PROJECT / "README.md"
COMMAND, LIFECYCLE, OPERATIONS, TESTING = (
    PROJECT / "docs" / name for name in ("cli.md", "lifecycle.md", "operations.md", "testing.md")
)
DATABASE = "postgresql+psycopg://app@db.example/app"
"""The database that the pages name."""
MOST_MARKS = 5
_, _, CONSENTS, NOTICES = GUIDES = [
    PROJECT / "docs" / "how-to" / name
    for name in ("workers.md", "keep_alive.md", "consents.md", "notices.md")
]
"""They use the manager of the README. `CONSENTS` revokes its grant, and forgets another one."""
CERTIFICATES = PROJECT / "docs" / "how-to" / "certificates.md"
AFTER_README = {COMMAND, LIFECYCLE, OPERATIONS, *GUIDES}
OTHERS = [
    page
    for page in PAGES
    if PROJECT / page not in {README, TESTING, *AFTER_README} and languages_of(PROJECT / page)
]
"""The pages with blocks that need no other page."""


def test_the_code_blocks_of_the_readme_work(reader: Reader) -> None:
    reader.work_through(README)
    names = reader.names
    assert names["manager"].status(names["grant"]).usable
    assert names["accounts"].json()["accounts"][0]["currency"] == "CHF"


def test_the_code_blocks_of_the_operations_work_after_the_readme(
    reader: Reader, tmp_path: Path
) -> None:
    reader.work_through(README)
    reader.work_through(OPERATIONS)
    assert (tmp_path / "new.keys").stat().st_mode & 0o777 == 0o600
    # The documented way makes a key that a store takes.
    assert reader.names["shared"].count_older_seals() == 0


def test_the_code_blocks_of_the_lifecycle_work_after_the_readme(reader: Reader) -> None:
    reader.work_through(README)
    reader.work_through(LIFECYCLE)


def test_the_code_blocks_of_the_guides_work_after_the_readme(
    reader: Reader, blink_sandbox: Sandbox
) -> None:
    reader.work_through(README)
    for guide in GUIDES:
        reader.work_through(guide)
    names = reader.names
    assert names["location"].startswith("https://bank.example/authorize?response_type=code&")
    assert isinstance(names["result"], AuthorizationCode)
    assert names["session"] == {}
    assert names["manager"].status(blink_sandbox.grant()).state is State.REVOKED
    assert names["manager"].status(names["leaving"]).state is State.FORGOTTEN


def test_the_tests_of_the_guide_for_tests_run(reader: Reader, blink_sandbox: Sandbox) -> None:
    reader.work_through(TESTING)
    assert reader.names["test_a_gateway_timeout_may_have_spent_the_code"]
    assert blink_sandbox.exchanges[-1].executed is True


def test_the_code_blocks_of_the_command_work_after_the_readme(
    reader: Reader, tmp_path: Path
) -> None:
    reader.work_through(README)
    with empty_database("postgresql", tmp_path) as url:
        reader.work_through(COMMAND, {DATABASE: url})


@pytest.mark.parametrize("page", OTHERS)
def test_the_code_blocks_of_another_page_work_alone(page: str, reader: Reader) -> None:
    reader.work_through(PROJECT / page)


class MyStore(MemoryTokenStore):
    """A store of another project, for the docstring that tests it."""


def test_the_code_blocks_of_the_docstrings_work_after_the_readme(
    reader: Reader, blink_sandbox: Sandbox
) -> None:
    reader.work_through(README)
    base = SimpleNamespace(metadata=MetaData())
    reader.names |= {path.rpartition(".")[2]: value for path, value in public_names().items()}
    reader.names |= {"sandbox": blink_sandbox, "MyStore": MyStore, "Base": base}
    for module in DOCSTRINGS:
        reader.work_through(PROJECT / module)
    assert reader.names["target_metadata"] == [base.metadata, metadata]
    assert reader.names["clock"] is blink_sandbox.clock


IMPORT_OF_A_MODULE = re.compile(r"(?m)^\s*(?:from|import) (?:blink_oauth|blink_oauth_keeper)\..*")


@pytest.mark.parametrize("page", PAGES)
def test_no_page_imports_from_a_module_of_client_or_keeper(page: str) -> None:
    assert IMPORT_OF_A_MODULE.findall((PROJECT / page).read_text(encoding="utf-8")) == []


def test_an_import_from_a_module_is_found() -> None:
    assert IMPORT_OF_A_MODULE.findall("x\nfrom blink_oauth.tls import Rule\n") != []
    assert IMPORT_OF_A_MODULE.findall("from blink_oauth import Rule\n") == []


QUOTE = re.compile(r"^```\{literalinclude\} (\S+)\n:pyobject: ([\w.]+)\n```$", re.MULTILINE)
QUOTE_OF_LINES = re.compile(
    r"^```\{literalinclude\} (\S+)\n:language: \w+\n((?::(?:start-at|end-before): \".*\"\n)*)```$",
    re.MULTILINE,
)
"""A file in another language: the whole, or from one line to another one."""


def defined_in(file: Path) -> set[str]:
    """Return the names of the functions and classes of a file, and of their methods."""
    names = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.add(node.name)
            inner = node.body if isinstance(node, ast.ClassDef) else []
            names |= {f"{node.name}.{each.name}" for each in inner if hasattr(each, "name")}
    return names


def test_what_a_page_quotes_is_in_the_file_that_it_names() -> None:
    quotes = 0
    for page in (PROJECT / name for name in PAGES):
        text = page.read_text("utf-8")
        for file, name in QUOTE.findall(text):
            assert name in defined_in(page.parent / file), f"{page.name} quotes {name}"
            quotes += 1
        lines = QUOTE_OF_LINES.findall(text)
        for file, limits in lines:
            quoted = (page.parent / file).read_text("utf-8")
            for limit in re.findall('"(.*)"', limits):
                assert quoted.count(f"\n{limit}") == 1, f"{page.name} quotes {file}: {limit}"
        assert len(QUOTE.findall(text)) + len(lines) == text.count("{literalinclude}")
    assert quotes > 10


@pytest.mark.parametrize("page", PAGES)
def test_no_code_of_a_page_is_hidden_or_overlooked(page: str) -> None:
    blocks = [example for example in parsed(PROJECT / page) if not is_marked(example)]
    assert [example.region.lexemes["arguments"] for example in blocks] == languages_of(
        PROJECT / page
    )


def test_few_blocks_are_not_executed_and_each_says_why() -> None:
    marks = [mark for page in PAGES for mark in parsed(PROJECT / page) if is_marked(mark)]
    assert all(action == "next" and reason for action, reason in (each.parsed for each in marks))
    assert len(count().reasons) == len(marks) <= MOST_MARKS


def test_the_readme_has_the_command_that_ci_runs_and_that_of_the_demo_in_one_line_each() -> None:
    *_, tests = (PROJECT / ".ci" / "run").read_text("utf-8").splitlines()
    lines = README.read_text("utf-8").splitlines()
    assert f"$ {tests}" in lines
    assert f"$ {tests} -s demo" in lines


def test_each_block_that_other_tests_execute_is_on_its_page() -> None:
    blocks = [each for page in PAGES for each in parsed(PROJECT / page) if not is_marked(each)]
    assert {executed_by(block) for block in blocks} - {None} == {*ELSEWHERE.values()}
    files = {file for tests in ELSEWHERE.values() for file in re.findall(r"\S+/\S+\.py", tests)}
    assert [file for file in files if not (PROJECT / file).is_file()] == []


@pytest.mark.parametrize(
    ("page", "right", "wrong"),
    [
        (README, "A new key: tokens.keys.", "A key: tokens.keys."),
        (README, "manager.authorize(grant, code=code", "manager.authorize(grant, code='fake'"),
        (CERTIFICATES, "# True 364 False", "# True 365 False"),
        (TESTING, "Outcome.UNCERTAIN", "Outcome.REJECTED"),
        (CONSENTS, "key=app_key\n)", "key='another'\n)"),
        (OPERATIONS, "rotates=False", "rotating=False"),
        (COMMAND, 'user_agent = "acme-books/3.2"', 'agent = "acme-books/3.2"'),
        (LIFECYCLE, "refreshing --> uncertain", "refreshing --> unsure"),
        (CONSENTS, "# False True", "# True True"),
        (PROJECT / "CONTRIBUTING.md", "--- a/spec/openapi.yaml", "--- spec/openapi.yaml"),
    ],
)
def test_a_block_that_is_wrong_fails(
    page: Path, right: str, wrong: str, reader: Reader, tmp_path: Path
) -> None:
    text = page.read_text("utf-8")
    if page in {OPERATIONS, CONSENTS}:
        reader.work_through(README)
    if page not in {README, CONSENTS}:
        # Its blocks do not need each other.
        text = next(block[0] for block in FENCE.finditer(text) if right in block[0]) + "\n"
    (tmp_path / "pages").mkdir()
    changed = tmp_path / "pages" / page.name
    before, _, rest = text.partition(right)
    assert rest
    changed.write_text(before + wrong + rest, "utf-8")
    with pytest.raises(Exception):  # noqa: B017, PT011 - each block fails in its own way
        reader.work_through(changed)
    assert wrong in reader.block
