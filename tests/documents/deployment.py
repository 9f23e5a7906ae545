"""The files of docs/deployment, read: the units of systemd, the manifests and the image."""

from __future__ import annotations

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from attrs import frozen

from documents.examples import PROJECT

__all__ = [
    "FOLDER",
    "MANIFESTS",
    "UNITS",
    "Container",
    "Stage",
    "Unit",
    "containers",
    "manifest",
    "stages",
]

FOLDER = PROJECT / "docs" / "deployment"
UNITS = sorted(path.name for path in (FOLDER / "systemd").glob("*.service"))
MANIFESTS = sorted((FOLDER / "kubernetes").glob("*.yaml"))


@frozen
class Unit:
    """A unit of systemd.

    Attributes:
        name: The name of its file.
        values: The values of each directive, in order; the names of sections do not matter.
    """

    name: str
    values: Mapping[str, Sequence[str]]

    @classmethod
    def read(cls, name: str) -> Unit:
        """Read a unit of docs/deployment/systemd."""
        values = defaultdict(list)
        for line in (FOLDER / "systemd" / name).read_text("utf-8").splitlines():
            if line and line[0] not in "#[":
                key, value = line.split("=", 1)
                values[key].append(value)
        return cls(name, values)

    def one(self, key: str) -> str:
        """Return the value of a directive that occurs once."""
        (value,) = self.values[key]
        return value

    def words(self, key: str) -> list[str]:
        """Return the words of all values of a directive."""
        return [word for value in self.values[key] for word in shlex.split(value)]

    @property
    def environment(self) -> dict[str, str]:
        """The variables that the unit sets."""
        return dict(value.split("=", 1) for value in self.values["Environment"])


@cache
def manifest(kind: str) -> Any:
    """Return the only object of a kind in docs/deployment/kubernetes."""
    documents = [each for path in MANIFESTS for each in yaml.safe_load_all(path.read_text("utf-8"))]
    (found,) = [each for each in documents if each["kind"] == kind]
    return found


@frozen
class Container:
    """The container of a manifest, and the pod that it is in."""

    spec: Mapping[str, Any]
    pod: Mapping[str, Any]


def containers() -> dict[str, Container]:
    """Return the container of Deployment and CronJob."""
    pods = {
        "Deployment": manifest("Deployment")["spec"]["template"]["spec"],
        "CronJob": manifest("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"],
    }
    found = {}
    for kind, pod in pods.items():
        (spec,) = pod["containers"]
        found[kind] = Container(spec, pod)
    return found


@frozen
class Stage:
    """A stage of the Containerfile: instruction and arguments, in order."""

    instructions: Sequence[tuple[str, str]]

    def all(self, name: str) -> list[str]:
        """Return the arguments of each instruction of a name."""
        return [arguments for each, arguments in self.instructions if each == name]


def stages(path: Path = FOLDER / "Containerfile") -> list[Stage]:
    """Return the stages of a Containerfile; the first one has what is before them."""
    text = re.sub(r"^#.*\n", "", path.read_text("utf-8"), flags=re.MULTILINE)
    found: list[list[tuple[str, str]]] = [[]]
    for line in filter(None, re.sub(r"\\\n\s*", "", text).splitlines()):
        name, _, arguments = line.partition(" ")
        if name == "FROM":
            found.append([])
        found[-1].append((name, arguments))
    return [Stage(each) for each in found]
