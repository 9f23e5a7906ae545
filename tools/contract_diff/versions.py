"""Read the contract of the working tree, of a commit or of a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from contract_document import SPEC, Node, Place
from repository import NoHistoryError, last_tag, run_git

from .shape import complaints


class UnreadableError(Exception):
    """A contract cannot be read; the message says which and why."""


def load(text: str, name: str) -> Node:
    """Return a contract.

    Raises:
        UnreadableError: If the text is not YAML or not a contract.
    """
    try:
        found = YAML(typ="safe").load(text)
    except (YAMLError, ValueError, RecursionError) as error:  # a date such as 2026-02-31, or depth
        raise UnreadableError(f"{name} is not YAML: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("info"), dict):
        raise UnreadableError(f"{name} is not an OpenAPI document: it has no info.")
    contract: Node = _with_text_keys(found, name)
    for complaint in complaints(contract):
        raise UnreadableError(f"{name}: {complaint}.")
    return contract


def _with_text_keys(
    value: Any, name: str, place: Place = (), around: tuple[object, ...] = ()
) -> Any:
    """Return a value with all keys as texts: a status can be written as a number.

    Raises:
        UnreadableError: If the value contains itself, as an alias in YAML can make it.
    """
    if not isinstance(value, (dict, list)):
        return value
    if any(one is value for one in around):
        raise UnreadableError(f"{name}: {' > '.join(place)} contains itself.")
    inner = (*around, value)
    if isinstance(value, list):
        pairs = [(str(index), one) for index, one in enumerate(value)]
        return [_with_text_keys(one, name, (*place, key), inner) for key, one in pairs]
    pairs = [(str(key), one) for key, one in value.items()]
    return {key: _with_text_keys(one, name, (*place, key), inner) for key, one in pairs}


def read(path: Path) -> str:
    """Return the text of a file.

    Raises:
        UnreadableError: If it cannot be read.
    """
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnreadableError(f"{path} cannot be read: {error}") from error


def at(root: Path, revision: str) -> Node:
    """Return the contract of a commit.

    Raises:
        UnreadableError: If the commit has none.
    """
    text = git(root, "show", f"{revision}:./{SPEC}")
    if text is None:
        raise UnreadableError(f"{revision} has no {SPEC}.")
    return load(text, f"{SPEC} of {revision}")


def git(root: Path, *arguments: str) -> str | None:
    """Return what git prints, or None if it fails.

    Raises:
        NoHistoryError: If git is not installed.
    """
    result = run_git(root, *arguments)
    return None if result.returncode else result.stdout.decode("utf-8", "replace")


def base(root: Path, revision: str | None) -> str:
    """Return the commit or tag to compare with: the one asked for, the last tag, the first commit.

    Raises:
        NoHistoryError: If the checkout does not have it.
        UnreadableError: If there is no such commit.
    """
    is_shallow = (git(root, "rev-parse", "--is-shallow-repository") or "none").strip()
    if is_shallow == "none":
        raise NoHistoryError(f"{root} is no checkout of git.")
    if revision is not None:
        name = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
        if git(root, *name) is not None:
            return revision
        if is_shallow == "true":
            raise NoHistoryError(f"This shallow checkout has no {revision}.")
        raise UnreadableError(f"There is no commit {revision}.")
    if (tag := last_tag(root)) is not None:
        return tag
    first = git(root, "log", "--diff-filter=A", "--format=%h", "--", SPEC)
    if is_shallow == "true" or not first:
        raise NoHistoryError("This checkout has neither a tag nor the first commit.")
    return first.split()[-1]
