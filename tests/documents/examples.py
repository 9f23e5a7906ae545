"""The code blocks of the pages, as Sybil finds them, and how each language is executed."""

from __future__ import annotations

import io
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import click
from attrs import frozen
from sybil import Document, Example, Sybil
from sybil.document import PythonDocStringDocument
from sybil.evaluators.python import PythonEvaluator
from sybil.evaluators.skip import Skipper
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from sybil.typing import Evaluator

from blink_oauth_cli.configuration import Configuration, read_profile
from blink_oauth_cli.main import command, run
from token_life import transitions

__all__ = [
    "DOCSTRINGS",
    "ELSEWHERE",
    "FENCE",
    "PAGES",
    "PROJECT",
    "Count",
    "count",
    "executed_by",
    "is_marked",
    "languages_of",
    "options_of",
    "parsed",
]

PROJECT = Path(__file__).parents[2]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(path.relative_to(PROJECT).as_posix() for path in (PROJECT / "docs").rglob("*.md")),
)
FENCE = re.compile(r"^ *```(.*)\n(?:.*\n)*? *```$", re.MULTILINE)
"""A block in a fence, with its language; a picture has none, a directive of Sphinx has braces."""
DOCSTRINGS = sorted(
    path.relative_to(PROJECT).as_posix()
    for folder in ("wrapper", "keeper", "cli", "testing")
    for path in (PROJECT / folder).rglob("*.py")
    if FENCE.search(path.read_text("utf-8"))
)
"""The modules whose docstrings have code blocks."""

FIRST_DAY = "tests/terminal/test_first_day.py"
GENERATION = "tests/generation/test_generation.py and tests/changes/test_contributing.py"
HSM = "tests/hsm/test_key_in_module.py"
NEWCOMER = "tools/newcomer.py"
PAGES_OF_EXAMPLES = "tests/browser/test_example_pages.py"
WEBHOOK = "tests/keeper/test_webhook.py"
WORKER = "tests/examples/test_worker.py"
WRAPPED_KEYS = "tests/cli/test_wrapped_keys.py"
ELSEWHERE = {
    ("docs/tutorial.md", ""): NEWCOMER,
    ("docs/how-to/certificates.md", "[default]\n"): HSM,
    ("docs/how-to/certificates.md", "$ openssl genpkey"): HSM,
    ("docs/how-to/django.md", "$ "): PAGES_OF_EXAMPLES,
    ("docs/how-to/fastapi.md", "$ "): PAGES_OF_EXAMPLES,
    ("docs/how-to/keys.md", "$ "): WRAPPED_KEYS,
    ("docs/how-to/workers.md", "$ "): WORKER,
    ("docs/how-to/notices.md", "{"): WEBHOOK,
    ("docs/cli.md", "$ blink-oauth sandbox\n"): FIRST_DAY,
    ("docs/cli.md", '$ eval "$(blink-oauth sandbox --env)"\n'): FIRST_DAY,
    ("CONTRIBUTING.md", "--- a/"): GENERATION,
    ("CONTRIBUTING.md", "changed  generated/"): GENERATION,
}
"""The page and the beginning of each block that another test or tool executes, and its name."""


def executed_by(example: Example) -> str | None:
    """Return the other test or tool that executes a block, or None."""
    for (page, beginning), test in ELSEWHERE.items():
        if Path(example.path).match(page) and example.parsed.startswith(beginning):
            return test
    return None


def python(example: Example) -> str | None:
    """Execute Python code; it must print exactly the comment at its end."""
    if executed_by(example) is not None:
        return None
    with redirect_stdout(io.StringIO()) as output:
        PythonEvaluator()(example)
    comment = re.search(r"(?:^# .*\n)*\Z", example.parsed, re.MULTILINE)
    assert comment is not None
    return difference(re.sub("^# ", "", comment[0], flags=re.MULTILINE), output.getvalue())


def difference(documented: str, seen: str) -> str | None:
    """Return what to tell about two outputs, or None if they are equal."""
    return None if documented == seen else f"Documented:\n{documented}\nPrinted:\n{seen}"


@frozen
class Console:
    """Runs the lines `$ blink-oauth …` in this process, and compares what they print.

    Args:
        places: Texts of the page that stand for something of this run, each with the real text.
    """

    places: Mapping[str, str]

    def __call__(self, example: Example) -> str | None:
        """Run the commands of a block."""
        if executed_by(example) is not None:
            return None
        seen = ""
        for line in re.findall(r"^\$ .*\n", example.parsed, re.MULTILINE):
            program, *words = shlex.split(line.removeprefix("$ "), comments=True)
            assert program == "blink-oauth", f"{program} is not our command"
            with redirect_stdout(io.StringIO()) as output, redirect_stderr(output):
                run([self.places.get(word, word) for word in words])
            seen += line + output.getvalue()
        return difference(example.parsed, seen)


def configuration_file(example: Example) -> None:
    """Read each profile of a `blink-oauth.toml`, as the command does."""
    # Not in the working folder, where the command would find it.
    folder = Path("configuration").absolute()
    folder.mkdir()
    file = folder / "blink-oauth.toml"
    file.write_text(example.parsed, "utf-8")
    read_profile(file, None)
    for name in tomllib.loads(example.parsed)["profiles"]:
        configuration = Configuration(profile=read_profile(file, name), given={})
        if passphrase := configuration.get("key_passphrase_file"):
            Path(passphrase).parent.mkdir(exist_ok=True)
            Path(passphrase).write_text("fake-passphrase", "ascii")
        assert configuration.settings().client_id == configuration.client_id
        assert configuration.target_profiles().keys() == configuration.profile.targets.keys()


def options_of(words: Sequence[str]) -> dict[str, Any]:
    """Parse the words of a command line as the command does, and return its options."""
    name, subcommand, rest = command.resolve_command(click.Context(command), list(words))
    assert subcommand is not None
    return subcommand.make_context(name, rest).params


def state_diagram(example: Example) -> str | None:
    """Compare the transitions of a diagram with those that a store makes."""
    documented = set(re.findall(r"^ +(\S+ --> \w+)", example.parsed, re.MULTILINE))
    made = {f"{before or '[*]'} --> {after}" for _, before, after in transitions()}
    return difference("\n".join(sorted(documented)), "\n".join(sorted(made)))


def executed_elsewhere(example: Example) -> str | None:
    """Require that another test executes a block."""
    return None if executed_by(example) else "No test executes this block."


def languages_of(page: Path) -> list[str]:
    """Return the language of each code block of a page, in order."""
    text = page.read_text("utf-8")
    return [language for language in FENCE.findall(text) if language and language[0] != "{"]


def parsed(page: Path, places: Mapping[str, str] | None = None) -> Document:
    """Return a page, or the docstrings of a module, with the blocks.

    A language that nothing here executes is an error.
    """
    languages: dict[str, Evaluator] = {
        "python": python,
        "console": Console(places or {}),
        "toml": configuration_file,
        "mermaid": state_diagram,
        "diff": executed_elsewhere,
        "ini": executed_elsewhere,
        "json": executed_elsewhere,
    }
    found = set(languages_of(page))
    assert found <= languages.keys(), f"{page.name}: nothing executes {found - languages.keys()}"
    parsers = [CodeBlockParser(name, evaluator) for name, evaluator in languages.items()]
    types: dict[str | None, type[Document]] = {".py": PythonDocStringDocument}
    return Sybil([*parsers, SkipParser()], document_types=types).parse(page)


def is_marked(example: Example) -> bool:
    """Return whether an example is no block, but marks the next one as not executed."""
    return isinstance(example.region.evaluator, Skipper)


@frozen
class Count:
    """The numbers of code blocks.

    Attributes:
        here: Blocks that the tests of this folder execute.
        docstrings: Those of them that are in docstrings.
        elsewhere: Blocks that other tests execute.
        reasons: Why each other block is not executed, with the page and its line.
        pictures: Blocks without a language, which are drawings and no code.
    """

    here: int
    docstrings: int
    elsewhere: int
    reasons: tuple[str, ...]
    pictures: int

    def __str__(self) -> str:
        executed = (
            f"{self.here + self.elsewhere} executed "
            f"({self.docstrings} of docstrings, {self.elsewhere} by other tests)"
        )
        first = f"{executed}, {len(self.reasons)} not; {self.pictures} pictures."
        return "\n  ".join((first, *self.reasons))


def count() -> Count:
    """Count the code blocks of all pages and docstrings."""
    here, elsewhere, reasons, pictures = 0, 0, [], 0
    for page in PAGES:
        pictures += FENCE.findall((PROJECT / page).read_text("utf-8")).count("")
        marked = False
        for example in parsed(PROJECT / page):
            if is_marked(example):
                reasons.append(f"{page}:{example.line}: {example.parsed[1]}")
            elif not marked:
                elsewhere += executed_by(example) is not None
                here += executed_by(example) is None
            marked = is_marked(example)
    docstrings = sum(len(list(parsed(PROJECT / module))) for module in DOCSTRINGS)
    return Count(here + docstrings, docstrings, elsewhere, tuple(reasons), pictures)
