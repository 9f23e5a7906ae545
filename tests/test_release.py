"""What stops a release, decided from values; and what is read of a repository."""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

import release
from check_archives import dead_links
from release import Candidate, faults, installed_in, notes, report, required_by, with_version

CHANGELOG = """# Changelog

## [Unreleased]

## [1.2.0] - 2026-11-26

### Added

- A thing.
- Another.

## [1.1.9] - 2026-01-01

- An old thing.
"""
BUILD = {"blink_oauth-1.2.0-py3-none-any.whl": "aa", "blink_oauth-1.2.0.tar.gz": "bb"}
RIGHT = Candidate(
    tag="v1.2.0",
    version="1.2.0",
    head="c0ffee" * 5,
    tags={"v1.1.9": "0ld"},
    changed=[],
    changelog=CHANGELOG,
    pages={"README.md": "# A library\n"},
    urls={"Source": "https://git.example/blink-oauth"},
    builds=(BUILD, BUILD),
    sbom={
        "metadata": {"component": {"name": "blink-oauth"}},
        "components": [{"name": "httpx", "version": "1.0"}, {"name": "PyYAML", "version": "6.0"}],
    },
    required=["httpx", "pyyaml"],
    installed={"blink-oauth": "1.2.0", "httpx": "1.0", "PyYAML": "6.0"},
)
NO_SECTION = "CHANGELOG.md has no section “## [1.2.0] - YYYY-MM-DD”."


def test_a_commit_without_a_fault_can_be_released_before_and_after_it_has_its_tag() -> None:
    assert faults(RIGHT) == []
    assert faults(evolve(RIGHT, tags={**RIGHT.tags, "v1.2.0": RIGHT.head})) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"changed": ["noxfile.py"]}, "noxfile.py is not as in the commit."),
        (
            {"tag": "v1.3.0"},
            "The tag is v1.3.0, but wrapper/blink_oauth/_version.py has 1.2.0.",
        ),
        ({"tag": "1.2.0"}, "The tag is 1.2.0, but wrapper/blink_oauth/_version.py has 1.2.0."),
        (
            {"tags": {"v1.2.0": "another"}},
            "The tag v1.2.0 is on another commit. Raise the version.",
        ),
        ({"tags": {"v1.10.0": "0ld"}}, "v1.10.0 is released already, and 1.2.0 is lower."),
        ({"changelog": CHANGELOG.replace("[1.2.0]", "[1.2.1]")}, NO_SECTION),
        ({"changelog": CHANGELOG.replace(" - 2026-11-26", "")}, NO_SECTION),
        ({"changelog": CHANGELOG.replace("[1.2.0]", "[1.2.0rc1]")}, NO_SECTION),
        ({"changelog": CHANGELOG.replace("1.2.0", "1x2x0")}, NO_SECTION),
        (
            {"changelog": CHANGELOG.replace("- A thing.\n- Another.\n", "")},
            "The section 1.2.0 of CHANGELOG.md has no entry.",
        ),
        (
            {
                "changelog": CHANGELOG.replace(
                    "## [1.2", "## [2.0.0] - 2027-01-01\n\n- X.\n\n## [1.2"
                )
            },
            "The section 1.2.0 of CHANGELOG.md is not the newest.",
        ),
        (
            {"changelog": CHANGELOG.replace("[Unreleased]\n", "[Unreleased]\n\n- Late.\n")},
            "CHANGELOG.md has entries under Unreleased. Move them to 1.2.0.",
        ),
        (
            {"changelog": f"Nothing is released yet.\n\n{CHANGELOG}"},
            "CHANGELOG.md still says “Nothing is released yet”.",
        ),
        (
            {"pages": {"README.md": "A library. Not released\nyet."}},
            "README.md still says “Not released yet”.",
        ),
        ({"urls": {}}, "pyproject.toml has no project.urls. Add the address of the repository."),
        (
            {"builds": (BUILD, BUILD | {"blink_oauth-1.2.0.tar.gz": "cc"})},
            "Two builds of blink_oauth-1.2.0.tar.gz differ: bb, cc.",
        ),
        (
            {"builds": (BUILD, {"blink_oauth-1.2.0.tar.gz": "bb"})},
            "Two builds of blink_oauth-1.2.0-py3-none-any.whl differ: aa, None.",
        ),
        ({"builds": ({}, {})}, "A build makes a wheel and a source archive, and not []."),
        (
            {"required": ["httpx", "PyYAML", "sqlalchemy"]},
            "The SBOM lacks sqlalchemy, which the wheel requires.",
        ),
        ({"installed": {"h11": "0.16"}}, "The SBOM has h11 None; 0.16 is installed."),
        ({"installed": {"httpx": "1.1"}}, "The SBOM has httpx 1.0; 1.1 is installed."),
    ],
)
def test_each_fault_is_found(change: Mapping[str, Any], fault: str) -> None:
    assert faults(evolve(RIGHT, **change)) == [fault]


@pytest.mark.parametrize("version", ["1.2", "1.2.0.dev1", "1.2.0rc1", "01.2.0", ""])
def test_a_version_that_is_no_release_is_refused(version: str) -> None:
    assert (
        f"wrapper/blink_oauth/_version.py has {version!r}; a release has three numbers, as in"
        " 1.2.3."
    ) in faults(evolve(RIGHT, version=version, tag=f"v{version}"))


def test_the_notes_are_the_section_of_the_version_alone() -> None:
    assert notes(CHANGELOG, "1.2.0") == "### Added\n\n- A thing.\n- Another."
    assert notes(CHANGELOG, "1.1.9") == "- An old thing."


def test_a_library_of_an_extra_that_is_not_installed_is_missed_in_the_sbom(tmp_path: Path) -> None:
    wheel = tmp_path / "blink_oauth-1.2.0-py3-none-any.whl"
    requirements = ("httpx<2,>=1.0", "Psycopg[binary]>=3.2; extra == 'postgresql'")
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(
            "blink_oauth-1.2.0.dist-info/METADATA", metadata("blink-oauth", "1.2.0", *requirements)
        )
    libraries = tmp_path / "fresh/lib/python3.11/site-packages"
    for name, version in (("httpx", "1.0"), ("h11", "0.16")):
        (libraries / f"{name}-{version}.dist-info").mkdir(parents=True)
        file = libraries / f"{name}-{version}.dist-info/METADATA"
        file.write_text(metadata(name, version), "utf-8")
    required, installed = required_by(wheel), installed_in(tmp_path / "fresh")
    assert required == ["httpx", "Psycopg"]
    assert installed == {"httpx": "1.0", "h11": "0.16"}
    assert faults(evolve(RIGHT, required=required, installed=installed)) == [
        "The SBOM lacks psycopg, which the wheel requires.",
        "The SBOM has h11 None; 0.16 is installed.",
    ]


def metadata(name: str, version: str, *requirements: str) -> str:
    """Return the metadata of a distribution."""
    lines = ["Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}"]
    return "\n".join([*lines, *(f"Requires-Dist: {each}" for each in requirements), ""])


def test_the_sbom_names_the_version_of_its_subject() -> None:
    assert with_version(RIGHT.sbom, "1.2.0") == {
        **RIGHT.sbom,
        "metadata": {
            "component": {
                "name": "blink-oauth",
                "version": "1.2.0",
                "purl": "pkg:pypi/blink-oauth@1.2.0",
            }
        },
    }


def test_the_report_tells_the_hash_of_each_archive_and_whether_both_builds_have_it() -> None:
    other = BUILD | {"blink_oauth-1.2.0.tar.gz": "cc"}
    assert report(evolve(RIGHT, builds=(BUILD, other)), ["They differ."]).splitlines()[1:3] == [
        "  blink_oauth-1.2.0-py3-none-any.whl, SHA-256 aa in both builds",
        "  blink_oauth-1.2.0.tar.gz, SHA-256 bb",
    ]


def test_the_report_tells_the_commands_only_if_nothing_is_wrong_or_tagged() -> None:
    command = f"git tag --annotate v1.2.0 --message v1.2.0 {RIGHT.head}"
    assert command in report(RIGHT, [])
    tagged = report(evolve(RIGHT, tags={"v1.2.0": RIGHT.head}), [])
    assert tagged.endswith("It can be released.")
    assert command not in tagged
    refused = report(RIGHT, ["It rains."])
    assert refused.endswith("It cannot be released:\n- It rains.")
    assert command not in refused


def test_a_link_that_needs_another_file_is_found_outside_of_code() -> None:
    page = """[a](docs/a.md), [`b`](b.md#part), [here](#part), [far](https://far.example/x.md)
`handlers[name](event)`
```python
handlers[name](event)
```
"""
    assert dead_links(page) == ["docs/a.md", "b.md#part", "#part"]


def test_tags_and_changed_files_are_read_from_the_repository(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message=first")
    git(tmp_path, "tag", "v0.1.0")
    git(tmp_path, "tag", "--annotate", "--message=v0.2.0", "v0.2.0")
    git(tmp_path, "tag", "another")
    (head,) = release.git("rev-parse", "HEAD", root=tmp_path)
    assert release.tags_of(tmp_path) == {"v0.1.0": head, "v0.2.0": head}
    assert release.changed_in(tmp_path) == []
    (tmp_path / "new.txt").write_text("new", "utf-8")
    assert release.changed_in(tmp_path) == ["new.txt"]


def git(root: Path, *arguments: str) -> None:
    """Run git without the settings of this machine."""
    environment = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
        **{
            f"GIT_{role}_{key}": value
            for role in ("AUTHOR", "COMMITTER")
            for key, value in (("NAME", "Test"), ("EMAIL", "test@example.com"))
        },
    }
    command = ["git", "-C", str(root), *arguments]
    subprocess.run(command, env=environment, check=True, timeout=60)
