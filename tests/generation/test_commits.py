"""Each commit since the last tag is checked: its cause, and one cause at a time.

Each test makes a repository with a small contract, and checks it with tools/check_commits.py.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path

import pytest
from attrs import define

from check_commits import main

PROJECT = Path(__file__).parents[2]
RULE = "tools/check_commits.py"
ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    **{
        f"GIT_{role}_{key}": value
        for role in ("AUTHOR", "COMMITTER")
        for key, value in (("NAME", "Test"), ("EMAIL", "test@example.com"))
    },
}

TWO_CAUSES = "The generator and the contract change. Make two commits, the generator first."
BY_HAND = "Generated code changes, and nothing that it is made from: it was edited by hand."
OLD_CONTRACT = (
    "The generated code is not made from its spec/openapi.yaml. Generate in the same commit."
)
OLD_SETTINGS = OLD_CONTRACT.replace("spec/openapi.yaml", "generator-config.yml")


def not_pinned(version: str) -> str:
    """Return the fault of generated code that was made with a version that is not pinned."""
    return (
        f"The generated code is made with ruff {version}, which requirements/generate.txt does not"
        " pin."
    )


@define
class Repository:
    """A repository that has what the check reads."""

    root: Path

    def copy(self, root: Path) -> Repository:
        """Copy the repository into a new folder."""
        return Repository(shutil.copytree(self.root, root))

    def git(self, *arguments: str) -> str:
        """Run git, which must succeed, and return its output."""
        command = ["git", "-C", str(self.root), *arguments]
        result = subprocess.run(
            command, env=ENVIRONMENT, capture_output=True, text=True, check=True, timeout=60
        )
        return result.stdout.strip()

    def write(self, path: str, text: str) -> None:
        """Write a file."""
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, encoding="utf-8")

    def pin(self, version: str) -> None:
        """Pin a version of ruff."""
        self.write("requirements/generate.txt", f"pytest==1 \\\n    --hash=x\nruff=={version}\n")

    def generate(self, version: str = "1", code: str = "code") -> None:
        """Write the generated code of the contract and the settings that are there."""
        sources = ("spec/openapi.yaml", "generator-config.yml")
        record = {
            "made_with": {"ruff": version},
            "made_from_sha256": {
                name: hashlib.sha256((self.root / name).read_bytes()).hexdigest()
                for name in sources
            },
        }
        self.write("generated/provenance.json", json.dumps(record))
        self.write("generated/package/module.py", f"{code}\n")

    def commit(self, subject: str) -> str:
        """Commit everything, and return the id."""
        self.git("add", "--all", ":!generated/other")
        self.git("commit", "--quiet", "--allow-empty", "--message", subject)
        return self.git("rev-parse", "HEAD")

    def check(self, *arguments: str) -> tuple[int, str, str]:
        """Check the commits: the exit status, and what is printed on both streams."""
        with redirect_stdout(StringIO()) as output, redirect_stderr(StringIO()) as errors:
            status = main(["--root", str(self.root), *arguments])
        return status, output.getvalue(), errors.getvalue()


@pytest.fixture(autouse=True)
def git_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what Git tells its hooks, which would lead to the repository of this project."""
    for name in list(os.environ):
        if name.startswith("GIT_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Return a repository without the rule, with one commit; tests change copies of it."""
    repository = Repository(tmp_path_factory.mktemp("begun") / "project")
    repository.root.mkdir()
    repository.git("init", "--quiet", "--initial-branch=main")
    repository.write("spec/openapi.yaml", "version: 1\n")
    repository.write("generator-config.yml", "setting: 1\n")
    repository.write("generated/README.md", "By hand.\n")
    repository.pin("1")
    repository.generate()
    repository.commit("Begin")
    return repository


@pytest.fixture
def repository(begun: Repository, tmp_path: Path) -> Repository:
    """Return a repository without the rule, with one commit."""
    return begun.copy(tmp_path / "project")


@pytest.fixture(scope="module")
def with_rule(begun: Repository, tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Return a repository that has the rule, with a tag; tests change copies of it."""
    repository = begun.copy(tmp_path_factory.mktemp("with_rule") / "project")
    repository.write(RULE, "")
    repository.commit("Make the rule")
    repository.git("tag", "v1.0.0")
    return repository


@pytest.fixture
def ruled(with_rule: Repository, tmp_path: Path) -> Repository:
    """Return a repository that has the rule, with a tag."""
    return with_rule.copy(tmp_path / "project")


def change_the_contract(repository: Repository) -> None:
    repository.write("spec/openapi.yaml", "version: 2\n")


def change_the_settings(repository: Repository) -> None:
    repository.write("generator-config.yml", "setting: 2\n")


def contract(repository: Repository) -> None:
    change_the_contract(repository)
    repository.generate(code="more code")


def words_of_the_contract(repository: Repository) -> None:
    change_the_contract(repository)
    repository.generate()


def settings(repository: Repository) -> None:
    change_the_settings(repository)
    repository.generate(code="other code")


def generator(repository: Repository) -> None:
    repository.pin("2")
    repository.generate("2", "new code")


def generator_and_settings(repository: Repository) -> None:
    change_the_settings(repository)
    generator(repository)


def tool(repository: Repository) -> None:
    repository.write("tools/surface.py", "# more\n")
    repository.write("generated/API.md", "fact\n")


def page_by_hand(repository: Repository) -> None:
    repository.write("generated/README.md", "By hand, again.\n")


def another_pin(repository: Repository) -> None:
    repository.write("requirements/generate.txt", "pytest==2\nruff==1\n")


def unrelated(repository: Repository) -> None:
    repository.write("wrapper/module.py", "code\n")


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (contract, "contract + generated code"),
        (words_of_the_contract, "contract + generated code"),
        (settings, "settings + generated code"),
        (generator, "generator + generated code"),
        (generator_and_settings, "settings + generator + generated code"),
        (tool, "tools + generated code"),
        (page_by_hand, None),
        (another_pin, None),
        (unrelated, None),
    ],
)
def test_a_commit_with_one_cause_is_right(
    ruled: Repository, change: Callable[[Repository], None], shown: str | None
) -> None:
    change(ruled)
    commit = ruled.commit("Change it")
    line = f"{commit[:9]}  {shown}: Change it\n" if shown else ""
    assert ruled.check() == (0, f"{line}No commit since v1.0.0 is wrong.\n", "")


def generator_and_contract(repository: Repository) -> None:
    change_the_contract(repository)
    generator(repository)


def code_by_hand(repository: Repository) -> None:
    repository.write("generated/package/module.py", "edited code\n")


def added_by_hand(repository: Repository) -> None:
    repository.write("generated/package/another.py", "code\n")


def renamed_by_hand(repository: Repository) -> None:
    repository.git("mv", "generated/package/module.py", "generated/package/another.py")


def submodule_by_hand(repository: Repository) -> None:
    commit = repository.git("rev-parse", "HEAD")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},generated/other")


def surface_by_hand(repository: Repository) -> None:
    repository.write("generated/API.md", "fact\n")


def provenance_by_hand(repository: Repository) -> None:
    text = (repository.root / "generated/provenance.json").read_text("utf-8")
    repository.write("generated/provenance.json", text.replace('"ruff": "1"', '"ruff": "2"'))


def no_provenance(repository: Repository) -> None:
    (repository.root / "generated/provenance.json").unlink()


def pin_alone(repository: Repository) -> None:
    repository.pin("2")


@pytest.mark.parametrize(
    ("change", "shown", "faults"),
    [
        (generator_and_contract, "contract + generator + generated code", [TWO_CAUSES]),
        (change_the_contract, "contract", [OLD_CONTRACT]),
        (change_the_settings, "settings", [OLD_SETTINGS]),
        (pin_alone, "generator", [not_pinned("1")]),
        (code_by_hand, "generated code", [BY_HAND]),
        (added_by_hand, "generated code", [BY_HAND]),
        (surface_by_hand, "generated code", [BY_HAND]),
        (renamed_by_hand, "generated code", [BY_HAND]),
        (submodule_by_hand, "generated code", [BY_HAND]),
        (provenance_by_hand, "generator + generated code", [BY_HAND, not_pinned("2")]),
        (
            no_provenance,
            "generator + generated code",
            [BY_HAND, OLD_CONTRACT, OLD_SETTINGS],
        ),
    ],
)
def test_a_commit_with_two_causes_or_without_its_cause_is_wrong(
    ruled: Repository, change: Callable[[Repository], None], shown: str, faults: list[str]
) -> None:
    change(ruled)
    commit = ruled.commit("Change it")
    lines = [f"{commit[:9]}  {shown}: Change it", *(f"{' ' * 11}wrong: {each}" for each in faults)]
    status, output, errors = ruled.check()
    assert (status, output.splitlines()) == (1, lines)
    assert errors == "Wrong: 1 commit(s). Rewrite them before they are merged.\n"


def test_a_commit_after_a_wrong_one_does_not_hide_it(ruled: Repository) -> None:
    change_the_contract(ruled)
    ruled.commit("Change the contract")
    ruled.generate()
    ruled.commit("Generate")
    status, output, _ = ruled.check()
    assert status == 1
    assert output.count("wrong: ") == 2
    assert OLD_CONTRACT in output
    assert BY_HAND in output


def test_two_commits_for_two_causes_are_right(ruled: Repository) -> None:
    generator(ruled)
    first = ruled.commit("Upgrade ruff")
    change_the_contract(ruled)
    ruled.generate("2")
    second = ruled.commit("Change the contract")
    status, output, _ = ruled.check()
    assert status == 0
    assert output.splitlines() == [
        f"{first[:9]}  generator + generated code: Upgrade ruff",
        f"{second[:9]}  contract + generated code: Change the contract",
        "No commit since v1.0.0 is wrong.",
    ]


def test_commits_before_the_rule_are_shown_only(repository: Repository) -> None:
    first = repository.git("rev-parse", "HEAD")
    generator_and_contract(repository)
    commit = repository.commit("Change everything")
    repository.write(RULE, "")
    repository.commit("Make the rule")
    status, output, errors = repository.check()
    assert (status, errors) == (0, "")
    assert output.splitlines() == [
        f"{first[:9]}  contract + settings + generator + generated code: Begin",
        f"{commit[:9]}  contract + generator + generated code: Change everything",
        f"{' ' * 11}before the rule: {TWO_CAUSES}",
        "No commit since the beginning is wrong.",
    ]


def test_only_commits_since_the_last_tag_are_checked(ruled: Repository) -> None:
    code_by_hand(ruled)
    ruled.commit("Edit it")
    assert ruled.check()[0] == 1
    ruled.git("tag", "v1.10.0")
    ruled.git("tag", "draft")
    assert ruled.check() == (0, "No commit since v1.10.0 is wrong.\n", "")
    assert ruled.check("--since", "v1.0.0")[0] == 1


def test_a_tag_of_another_branch_is_not_the_last_one(ruled: Repository) -> None:
    ruled.git("checkout", "--quiet", "-b", "other")
    ruled.commit("Elsewhere")
    ruled.git("tag", "v2.0.0")
    ruled.git("checkout", "--quiet", "main")
    assert ruled.check() == (0, "No commit since v1.0.0 is wrong.\n", "")


def test_the_last_tag_may_be_annotated_and_is_no_candidate(ruled: Repository) -> None:
    code_by_hand(ruled)
    ruled.commit("Edit it")
    ruled.git("tag", "v1.1.0-rc.1", "v1.0.0")
    ruled.git("tag", "--annotate", "--message", "The version", "v1.1.0")
    assert ruled.check() == (0, "No commit since v1.1.0 is wrong.\n", "")


def test_a_subject_may_have_any_characters(ruled: Repository) -> None:
    contract(ruled)
    subject = "a\tb\u2028: 100%x00 ü"
    commit = ruled.commit(subject)
    assert ruled.check()[1].startswith(f"{commit[:9]}  contract + generated code: {subject}\n")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("log.diffMerges", "combined"),
        ("log.showRoot", "false"),
        ("diff.renames", "copies"),
        ("color.ui", "always"),
    ],
)
def test_the_settings_of_git_do_not_matter(ruled: Repository, name: str, value: str) -> None:
    branch_with_two_causes(ruled)
    settings(ruled)
    ruled.commit("Change the settings")
    ruled.git("merge", "--quiet", "--no-commit", "--strategy=ours", "branch")
    code_by_hand(ruled)
    ruled.commit("Merge it")
    ruled.git("tag", "--delete", "v1.0.0")
    expected = ruled.check()
    ruled.git("config", name, value)
    assert ruled.check() == expected


def test_a_merge_of_three_parents_and_of_another_history(ruled: Repository) -> None:
    for branch in ("second", "third"):
        ruled.git("checkout", "--quiet", "-b", branch, "main")
        ruled.write(f"wrapper/{branch}.py", "code\n")
        ruled.commit(branch)
    ruled.git("checkout", "--quiet", "--orphan", "fourth")
    ruled.git("rm", "-r", "--quiet", "--cached", ".")
    ruled.git("add", "wrapper")
    ruled.git("commit", "--quiet", "--message", "Begin again")
    root = ruled.git("rev-parse", "HEAD")
    ruled.git("clean", "-d", "--force", "--quiet")
    ruled.git("checkout", "--quiet", "main")
    ruled.git("merge", "--quiet", "--no-ff", "--message", "Merge three", "second", "third")
    assert len(ruled.git("show", "--no-patch", "--format=%P").split()) == 3
    merge = ("merge", "--quiet", "--allow-unrelated-histories", "--no-commit", root)
    ruled.git(*merge)
    code_by_hand(ruled)
    commit = ruled.commit("Merge another history")
    status, output, _ = ruled.check()
    # Compared with the other history, everything is new: the code has its cause.
    assert status == 0
    assert output.startswith(f"{commit[:9]}  ")
    assert "Merge three" not in output


def branch_with_two_causes(repository: Repository) -> None:
    """Upgrade the generator on a branch and change the contract on it, in two commits."""
    repository.git("checkout", "--quiet", "-b", "branch")
    generator(repository)
    repository.commit("Upgrade ruff")
    change_the_contract(repository)
    repository.generate("2")
    repository.commit("Change the contract")
    repository.git("checkout", "--quiet", "main")


def test_a_merge_of_right_commits_is_right(ruled: Repository) -> None:
    branch_with_two_causes(ruled)
    unrelated(ruled)
    ruled.commit("Go on")
    ruled.git("merge", "--quiet", "--no-ff", "--message", "Merge it", "branch")
    status, output, _ = ruled.check()
    assert status == 0
    assert "Merge it" not in output


def test_a_merge_that_is_right_compared_with_one_parent_is_right(ruled: Repository) -> None:
    branch_with_two_causes(ruled)
    settings(ruled)
    ruled.commit("Change the settings")
    ruled.git("merge", "--quiet", "--no-commit", "--strategy=ours", "branch")
    generator_and_contract(ruled)
    ruled.commit("Merge it")
    status, output, _ = ruled.check()
    assert status == 0
    assert "contract + settings + generator + generated code: Merge it\n" in output


def test_a_merge_of_an_upgrade_and_a_change_of_the_contract_is_generated_anew(
    ruled: Repository,
) -> None:
    ruled.git("checkout", "--quiet", "-b", "branch")
    generator(ruled)
    ruled.commit("Upgrade ruff")
    ruled.git("checkout", "--quiet", "main")
    contract(ruled)
    ruled.commit("Change the contract")
    ruled.git("merge", "--quiet", "--no-commit", "--strategy=ours", "branch")
    ruled.pin("2")
    ruled.commit("Merge it without generating")
    status, output, _ = ruled.check()
    assert status == 1
    assert f"Merge it without generating\n{' ' * 11}wrong: {not_pinned('1')}\n" in output
    ruled.generate("2", "more new code")
    ruled.git("add", "--all")
    ruled.git("commit", "--quiet", "--amend", "--message", "Merge it")
    status, output, _ = ruled.check()
    assert status == 0
    assert "contract + generator + generated code: Merge it\n" in output


def test_a_merge_that_adds_both_causes_is_wrong(ruled: Repository) -> None:
    ruled.git("checkout", "--quiet", "-b", "branch")
    unrelated(ruled)
    ruled.commit("Elsewhere")
    ruled.git("checkout", "--quiet", "main")
    ruled.git("merge", "--quiet", "--no-ff", "--no-commit", "branch")
    generator_and_contract(ruled)
    ruled.commit("Merge more")
    status, output, _ = ruled.check()
    assert status == 1
    assert f"Merge more\n{' ' * 11}wrong: {TWO_CAUSES}\n" in output


def test_a_shallow_checkout_is_not_checked(ruled: Repository, tmp_path: Path) -> None:
    code_by_hand(ruled)
    ruled.commit("Edit it")
    copy = Repository(tmp_path / "copy")
    ruled.git("clone", "--quiet", "--depth=1", f"file://{ruled.root}", str(copy.root))
    status, output, errors = copy.check()
    assert (status, output) == (3, "")
    assert errors.startswith("No commit was checked. The checkout is shallow. ")
    copy.git("fetch", "--quiet", "--unshallow", "--tags")
    assert copy.check() == ruled.check()


def test_a_tree_without_a_repository_is_not_checked(ruled: Repository, tmp_path: Path) -> None:
    status, output, errors = Repository(tmp_path).check()
    assert (status, output) == (3, "")
    assert errors.startswith("No commit was checked. git says: ")
    within = Repository(ruled.root / "generated")
    status, output, errors = within.check()
    assert (status, output) == (3, "")
    assert errors.endswith("generated is not the top of a repository.\n")


def test_an_unknown_revision_is_not_checked(ruled: Repository) -> None:
    status, output, errors = ruled.check("--since", "v9")
    assert (status, output) == (3, "")
    assert "v9" in errors


def test_this_project_has_no_wrong_commit() -> None:
    status, _, errors = Repository(PROJECT).check()
    # 3: the source archive has no history, nor has a shallow checkout.
    assert status in (0, 3), errors
