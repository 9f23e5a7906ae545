"""The tools of systemd, Kubernetes and containers find no fault in docs/deployment."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from documents.deployment import FOLDER, MANIFESTS, UNITS

SYSTEMD = FOLDER / "systemd"
TIMERS = [path.name for path in SYSTEMD.glob("*.timer")]
VERSIONS = [f"1.{minor}" for minor in range(31, 38)]
"""The versions of Kubernetes: those since podFailurePolicy is stable whose schemas are here."""
WORST_EXPOSURE = 20
"""In tenths: 2.0, where 0 is best and 10 is worst."""


def tool(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool, and return its exit status and all that it prints."""
    return subprocess.run(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )


def installed(folder: Path, change: str = "") -> None:
    """Write the units as they are on a machine with the command, with more lines at the end."""
    for name in (*UNITS, *TIMERS):
        text = (SYSTEMD / name).read_text("utf-8")
        # The tool demands that the program exists.
        text = re.sub(r"(?<=^ExecStart=)\S+", sys.executable, text, flags=re.MULTILINE)
        service, install, rest = text.partition("\n[Install]")
        (folder / name).write_text(f"{service}\n{change}\n{install}{rest}")


@pytest.mark.parametrize("name", [*UNITS, *TIMERS])
def test_systemd_understands_each_directive(name: str, tmp_path: Path) -> None:
    installed(tmp_path)
    result = tool("systemd-analyze", "verify", tmp_path / name)
    assert (result.returncode, result.stdout) == (0, "")
    installed(tmp_path, "ProtectSystems=strict")
    found = tool("systemd-analyze", "verify", tmp_path / name).stdout
    assert re.search(rf"/{re.escape(name)}:\d+: Unknown key .*'ProtectSystems'", found)


@pytest.mark.parametrize("name", [each for each in UNITS if "keep-alive" in each])
def test_a_unit_exposes_little(name: str, tmp_path: Path) -> None:
    def exposure() -> subprocess.CompletedProcess[str]:
        options = ("--offline=true", f"--threshold={WORST_EXPOSURE}")
        return tool("systemd-analyze", "security", *options, tmp_path / name)

    installed(tmp_path)
    result = exposure()
    assert result.returncode == 0, result.stdout
    installed(tmp_path, "SystemCallFilter=\nCapabilityBoundingSet=CAP_SYS_ADMIN")
    assert exposure().returncode != 0


def validated(*paths: Path) -> subprocess.CompletedProcess[str]:
    """Compare manifests with the schemas of all versions; an unknown field is an error."""
    versions = [f"--kubernetes-version={version}" for version in VERSIONS]
    program = (sys.executable, "-m", "kubernetes_validate")
    return tool(*program, "--strict", *versions, *paths)


def test_the_manifests_fit_the_schemas_of_kubernetes() -> None:
    result = validated(*MANIFESTS)
    assert result.returncode == 0, result.stdout
    kinds = [
        each["kind"].lower()
        for path in MANIFESTS
        for each in yaml.safe_load_all(path.read_text("utf-8"))
    ]
    assert len(kinds) == 6
    # Of an object without a schema, the tool says so and goes on.
    seen = re.findall(
        r"^INFO .* passed for resource (\w+)/.* version ([\d.]+)$", result.stdout, re.MULTILINE
    )
    assert sorted(seen) == sorted((kind, version) for kind in kinds for version in VERSIONS)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("runAsNonRoot: true", "runAsNonroot: true"),
        ("replicas: 1", "replicas: one"),
        ("medium: Memory", "medium: [Memory]"),
    ],
)
def test_a_manifest_with_a_mistake_is_refused(tmp_path: Path, old: str, new: str) -> None:
    text = (FOLDER / "kubernetes" / "deployment.yaml").read_text("utf-8")
    assert old in text
    wrong = tmp_path / "deployment.yaml"
    wrong.write_text(text.replace(old, new))
    assert validated(wrong).returncode == 1


def test_hadolint_finds_no_fault_in_the_image_recipe(tmp_path: Path) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    result = tool(hadolint, FOLDER / "Containerfile")
    assert (result.returncode, result.stdout) == (0, "")
    wrong = tmp_path / "Containerfile"
    wrong.write_text("FROM python:latest\nRUN pip install httpx\n")
    assert "DL3007" in tool(hadolint, wrong).stdout
