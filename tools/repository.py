"""What the tools read of the repository, with git."""

from __future__ import annotations

import subprocess
from pathlib import Path


class NoHistoryError(Exception):
    """The history is missing; the message says why."""


def run_git(root: Path, *arguments: str, input_: str = "") -> subprocess.CompletedProcess[bytes]:
    """Run git in a folder, and return its exit status and what it printed.

    Raises:
        NoHistoryError: If git is not installed.
    """
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, input=input_.encode(), capture_output=True, check=False)
    except FileNotFoundError as error:
        raise NoHistoryError("git is not installed.") from error


def last_tag(root: Path) -> str | None:
    """Return the tag of the last version before HEAD; None before the first.

    Raises:
        NoHistoryError: If git is not installed.
    """
    # A candidate such as v1.0.0-rc.1 is older than v1.0.0.
    listed = ("tag", "--list", "v*", "--merged", "HEAD", "--sort=-version:refname")
    found = run_git(root, "-c", "versionsort.suffix=-", *listed).stdout.decode()
    return next(iter(found.split()), None)
