"""Decide whether a release can be made of this commit, and prepare its files; publish nothing.

    python tools/release.py FOLDER [--tag TAG]   by default the tag is `v` and the version

`nox -s release` calls it. FOLDER has the archives of two builds of the commit, in `first/archives`
and `second/archives`; `sbom.json`; and `fresh`, the environment that the SBOM describes. The
archives, the SBOM and the notes, which are the section of the changelog, go to dist/.

Exit status: 0 the release can be made, 1 it cannot, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Collection, Iterator, Mapping
from importlib.metadata import distributions
from itertools import chain
from pathlib import Path
from typing import Any

from attrs import frozen

ROOT = Path(__file__).parents[1]
NAME = "blink-oauth"
VERSION_FILE = "wrapper/blink_oauth/_version.py"
CHANGELOG = "CHANGELOG.md"
PAGES = ("README.md", "SECURITY.md", "docs/tutorial.md")
BEFORE_THE_FIRST = re.compile(
    r"\b(?:(?:not|nothing is) released yet|not taken yet|(?:until|after) the first release)\b",
    re.IGNORECASE,
)
"""What a page says before the first release, and what is not true of a released one."""


@frozen
class Candidate:
    """What a release would be made of.

    Attributes:
        tag: The tag that the release has, or will have.
        version: The version that the client tells.
        head: The id of the commit.
        tags: The commit of each tag of a version.
        changed: The files that differ from the commit.
        changelog: The text of the changelog.
        pages: The texts of other pages, by their names.
        urls: The addresses of the project, by their titles.
        builds: The SHA-256 of each archive, by its name, of two builds.
        sbom: The bill of materials, in CycloneDX's JSON.
        required: The names of the libraries that the wheel requires, those of extras too.
        installed: The version of each library in an environment with all extras.
    """

    tag: str
    version: str
    head: str
    tags: Mapping[str, str]
    changed: Collection[str]
    changelog: str
    pages: Mapping[str, str]
    urls: Mapping[str, str]
    builds: tuple[Mapping[str, str], Mapping[str, str]]
    sbom: Mapping[str, Any]
    required: Collection[str]
    installed: Mapping[str, str]


def faults(candidate: Candidate) -> list[str]:
    """Return why the release cannot be made, in sentences; nothing if it can."""
    return [
        *(f"{name} is not as in the commit." for name in candidate.changed),
        *faults_of_version(candidate.version, candidate.tag, candidate.tags, candidate.head),
        *faults_of_changelog(candidate.changelog, candidate.version),
        *faults_of_pages({**candidate.pages, CHANGELOG: preamble(candidate.changelog)}),
        *faults_of_urls(candidate.urls),
        *faults_of_builds(*candidate.builds),
        *faults_of_sbom(candidate.sbom, candidate.required, candidate.installed),
    ]


def faults_of_version(version: str, tag: str, tags: Mapping[str, str], head: str) -> Iterator[str]:
    """Yield why a commit cannot have a version and its tag.

    Args:
        version: The version that the client tells.
        tag: The tag of the release.
        tags: The commit of each tag of a version.
        head: The id of the commit.
    """
    if numbers(version) is None:
        yield f"{VERSION_FILE} has {version!r}; a release has three numbers, as in 1.2.3."
        return
    if tag != f"v{version}":
        yield f"The tag is {tag}, but {VERSION_FILE} has {version}."
    if tags.get(tag, head) != head:
        yield f"The tag {tag} is on another commit. Raise the version."
    later = [each for each in tags if (numbers(each[1:]) or ()) > (numbers(version) or ())]
    yield from (f"{each} is released already, and {version} is lower." for each in sorted(later))


def numbers(version: str) -> tuple[int, ...] | None:
    """Return the three numbers of a version, or None if it has another form."""
    is_release = re.fullmatch(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}", version)
    return tuple(map(int, version.split("."))) if is_release else None


def sections(changelog: str) -> dict[str, str]:
    """Return the text of each version of a changelog by its title, the newest first."""
    parts = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    titles_and_texts = (part.partition("\n") for part in parts)
    return {title.strip(): text.strip() for title, _, text in titles_and_texts}


def preamble(changelog: str) -> str:
    """Return what a changelog says before its first version."""
    return re.split(r"^## ", changelog, maxsplit=1, flags=re.MULTILINE)[0]


def notes(changelog: str, version: str) -> str | None:
    """Return the section of a version, the notes of its release; None if there is none."""
    titles = re.compile(rf"\[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d")
    found = [text for title, text in sections(changelog).items() if titles.fullmatch(title)]
    return found[0] if found else None


def faults_of_changelog(changelog: str, version: str) -> Iterator[str]:
    """Yield why a changelog does not tell a version."""
    told = notes(changelog, version)
    if told is None:
        yield f"{CHANGELOG} has no section “## [{version}] - YYYY-MM-DD”."
        return
    if not re.search(r"^[-*] ", told, re.MULTILINE):
        yield f"The section {version} of {CHANGELOG} has no entry."
    first, *_ = (title for title in sections(changelog) if title != "[Unreleased]")
    if not first.startswith(f"[{version}]"):
        yield f"The section {version} of {CHANGELOG} is not the newest."
    if sections(changelog).get("[Unreleased]"):
        yield f"{CHANGELOG} has entries under Unreleased. Move them to {version}."


def faults_of_pages(pages: Mapping[str, str]) -> Iterator[str]:
    """Yield the sentences that a release makes untrue."""
    for name, text in pages.items():
        for found in BEFORE_THE_FIRST.findall(" ".join(text.split())):
            yield f"{name} still says “{found}”."


def faults_of_urls(urls: Mapping[str, str]) -> Iterator[str]:
    """Yield why the page of the index would lead nowhere."""
    if not any(url.startswith("https://") for url in urls.values()):
        yield "pyproject.toml has no project.urls. Add the address of the repository."


def faults_of_builds(first: Mapping[str, str], second: Mapping[str, str]) -> Iterator[str]:
    """Yield the archives that two builds made differently, or one build alone.

    Args:
        first: The SHA-256 of each archive of a build, by its name.
        second: The same of another build.
    """
    if sorted(name.rpartition(".")[2] for name in first) != ["gz", "whl"]:
        yield f"A build makes a wheel and a source archive, and not {sorted(first)}."
    for name in sorted({*first, *second}):
        if first.get(name) != second.get(name):
            yield f"Two builds of {name} differ: {first.get(name)}, {second.get(name)}."


def faults_of_sbom(
    sbom: Mapping[str, Any], required: Collection[str], installed: Mapping[str, str]
) -> Iterator[str]:
    """Yield the libraries that a bill of materials lacks, or has in another version.

    Args:
        sbom: The bill.
        required: The names of the libraries that the wheel requires.
        installed: The version of each library that is installed with it.
    """
    listed = {normal(each["name"]): each.get("version") for each in sbom["components"]}
    for name in sorted(set(map(normal, required)) - listed.keys()):
        yield f"The SBOM lacks {name}, which the wheel requires."
    for name, version in sorted((normal(name), each) for name, each in installed.items()):
        if listed.get(name) != version and name != NAME:
            yield f"The SBOM has {name} {listed.get(name)}; {version} is installed."


def normal(name: str) -> str:
    """Return the normal form of the name of a distribution."""
    return re.sub(r"[-_.]+", "-", name).lower()


def with_version(sbom: Mapping[str, Any], version: str) -> dict[str, Any]:
    """Return a bill of materials whose subject has its version, which pyproject.toml lacks."""
    metadata = sbom["metadata"]
    subject = {**metadata["component"], "version": version, "purl": f"pkg:pypi/{NAME}@{version}"}
    return {**sbom, "metadata": {**metadata, "component": subject}}


def report(candidate: Candidate, found: Collection[str]) -> str:
    """Return what would be released, and why it cannot be or how it is done."""
    first, second = candidate.builds
    told = notes(candidate.changelog, candidate.version) or ""
    needed = len(set(map(normal, candidate.required)))
    lines = [
        f"{NAME} {candidate.version}, commit {candidate.head[:12]}, tag {candidate.tag}:",
        *(
            f"  {name}, SHA-256 {digest}{' in both builds' * (second.get(name) == digest)}"
            for name, digest in sorted(first.items())
        ),
        f"  an SBOM of {len(candidate.sbom['components'])} libraries; the wheel requires {needed}",
        f"  notes of {len(told.splitlines())} lines",
    ]
    if found:
        return "\n".join([*lines, "It cannot be released:", *(f"- {each}" for each in found)])
    if candidate.tag in candidate.tags:
        return "\n".join([*lines, "It can be released."])
    steps = [
        "It can be released. Nothing is tagged or published; these commands do it:",
        f"  git tag --annotate {candidate.tag} --message {candidate.tag} {candidate.head}",
        f"  git push origin {candidate.tag}",
        "Then the workflow Release builds the tag anew, attests the archives, uploads them to the",
        "index and makes the release with the notes.",
    ]
    return "\n".join([*lines, *steps])


def git(*arguments: str, root: Path = ROOT) -> list[str]:
    """Run git, which must succeed, and return the lines that it prints."""
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


def tags_of(root: Path) -> dict[str, str]:
    """Return the commit of each tag of a version."""
    form = "--format=%(refname:short) %(objectname) %(*objectname)"
    tags = [line.split() for line in git("for-each-ref", form, "refs/tags/v*", root=root)]
    return {name: commits[-1] for name, *commits in tags}


def changed_in(root: Path) -> list[str]:
    """Return the files that differ from the commit, new ones too."""
    return [line[3:] for line in git("status", "--porcelain", root=root)]


def archives_in(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a folder, by its name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def required_by(wheel: Path) -> list[str]:
    """Return the names of the libraries that a wheel requires, those of extras too."""
    (metadata,) = distributions(path=[str(wheel)])
    return [re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in metadata.requires or ()]


def installed_in(environment: Path) -> dict[str, str]:
    """Return the version of each library of an environment, by its name."""
    libraries = [str(path) for path in environment.glob("lib/python*/site-packages")]
    return {each.name: each.version for each in distributions(path=libraries)}


def read(folder: Path, tag: str | None) -> Candidate:
    """Read what a release would be made of.

    Args:
        folder: The folder with the builds.
        tag: The tag of the release, or None for that of the version.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    (version,) = re.findall(r'__version__ = "(.*)"', (ROOT / VERSION_FILE).read_text("utf-8"))
    wheels = folder.glob("first/archives/*.whl")
    return Candidate(
        tag=tag or f"v{version}",
        version=version,
        head=git("rev-parse", "HEAD")[0],
        tags=tags_of(ROOT),
        changed=changed_in(ROOT),
        changelog=(ROOT / CHANGELOG).read_text("utf-8"),
        pages={name: (ROOT / name).read_text("utf-8") for name in PAGES},
        urls=project.get("urls", {}),
        builds=(archives_in(folder / "first/archives"), archives_in(folder / "second/archives")),
        sbom=with_version(json.loads((folder / "sbom.json").read_text("utf-8")), version),
        required=list(chain.from_iterable(map(required_by, wheels))),
        installed=installed_in(folder / "fresh"),
    )


def write(candidate: Candidate, archives: Path, target: Path) -> None:
    """Write the files of a release.

    Args:
        candidate: What it is made of.
        archives: The folder with its archives.
        target: The folder for the files, which is emptied first.
    """
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(archives, target)
    sbom = json.dumps(candidate.sbom, indent=2, sort_keys=True, ensure_ascii=False)
    (target / "sbom.cdx.json").write_text(f"{sbom}\n", "utf-8")
    text = notes(candidate.changelog, candidate.version)
    (target / "notes.md").write_text(f"{text or ''}\n", "utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Write the files of the release, print the report, and return the exit status."""
    parser = argparse.ArgumentParser("release", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--tag", metavar="TAG", help="the tag that was pushed")
    options = parser.parse_args(arguments)
    candidate = read(options.folder, options.tag)
    found = faults(candidate)
    write(candidate, options.folder / "first/archives", ROOT / "dist")
    print(report(candidate, found))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
