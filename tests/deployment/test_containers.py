"""The image runs as Deployment and units say: read-only, without rights, and follows a Secret."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from blink_oauth_cli.errors import ExitCode
from blink_oauth_testing import Sandbox
from deployment.containers import (
    MOUNTS,
    POD,
    PODMAN,
    STATE,
    Job,
    system_calls_of_the_units,
)
from documents.deployment import FOLDER, stages
from documents.examples import PROJECT

ALWAYS_DUE = "--within=31d"
"""Longer than a refresh token is valid if it is not used, so that each run refreshes."""


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def job(image: str, sandbox: Sandbox, tmp_path: Path) -> Job:
    """Return a job with a due grant."""
    sandbox.reset()
    job = Job(image, sandbox, tmp_path)
    job.prepare()
    return job


def free_port() -> int:
    """Return a port that nothing uses."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def arguments(port: int, every: str = "1h") -> list[str]:
    """Return the arguments of the Deployment, listening on loopback with a port of the test."""
    args = [*POD.spec["args"], ALWAYS_DUE]
    assert "--every=1h" in args
    assert "--listen=0.0.0.0:9464" in args
    changes = {
        "--every=1h": f"--every={every}",
        "--listen=0.0.0.0:9464": f"--listen=127.0.0.1:{port}",
    }
    return [changes.get(each, each) for each in args]


def get(port: int, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{port}{path}", trust_env=False)


@pytest.fixture(params=["of the Deployment", "of the units"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, ...]:
    """Return how a container is confined; the units have system calls of their own."""
    confined = ("--read-only", f"--tmpfs={MOUNTS['tmp']}:size=16m")
    if request.param == "of the Deployment":
        return confined
    profile = tmp_path / "seccomp.json"
    profile.write_text(json.dumps(system_calls_of_the_units()))
    return (*confined, f"--security-opt=seccomp={profile}")


def test_the_job_answers_probes_refreshes_and_ends_on_sigterm(
    job: Job, options: tuple[str, ...]
) -> None:
    port = free_port()
    with job.run(*arguments(port), options=options) as running:
        report = running.wait_for("keep_alive.finished")
        assert (report["due"], report["refreshed"]) == (1, 1)
        for probe in ("livenessProbe", "readinessProbe"):
            assert get(port, POD.spec[probe]["httpGet"]["path"]).status_code == 200
        assert "blink_oauth_keep_alive_last_run_success 1.0" in get(port, "/metrics").text
        assert running.stop() == ExitCode.DONE
    (call,) = [each for each in job.sandbox.exchanges if each.operation == "request_token"][1:]
    assert call.status == 200


def test_the_system_calls_of_the_units_forbid_what_they_name(job: Job, tmp_path: Path) -> None:
    profile = tmp_path / "seccomp.json"
    profile.write_text(json.dumps(system_calls_of_the_units()))
    code = "import mmap; mmap.mmap(-1, 4096, prot=7)"
    for option, expected in ((f"--security-opt=seccomp={profile}", 1), ("--read-only", 0)):
        with job.run("-c", code, options=("--entrypoint=python", option)) as running:
            status, errors = running.ended()
        assert (status, "PermissionError" in errors) == (expected, expected == 1), errors


def test_no_file_is_written_but_those_of_the_store(job: Job) -> None:
    """A root that may be written to shows also what a read-only one would refuse in silence."""
    with job.run("keep-alive", ALWAYS_DUE, options=()) as running:
        assert running.ended() == (ExitCode.DONE, "")
        # podman makes these for the volumes and for the names of the host.
        mounted = {*MOUNTS.values(), STATE, "/etc/hosts", "/etc/resolv.conf", "/run/.containerenv"}
        parents = {str(parent) for each in mounted for parent in Path(each).parents}
        assert running.changed - mounted - parents <= {"/etc/mtab"}
    written = {path.name for path in (job.folder / "state").iterdir()}
    assert written <= {"tokens.db", "tokens.db-wal", "tokens.db-shm"}


def test_the_job_follows_a_secret_that_is_replaced(job: Job) -> None:
    port = free_port()
    with job.run(*arguments(port, every="1s")) as running:
        running.wait_for("keep_alive.finished")
        name = job.sandbox.settings().client_id
        new = job.sandbox.authority.issue_client(name)
        job.sandbox.register(new)
        job.put(new)
        renewed = running.wait_for("certificate.renewed")
        assert renewed["expires_at"]
        report = running.wait_for("keep_alive.finished")
        assert (report["failed"], report["refreshed"]) == (0, 1)
        assert running.stop() == ExitCode.DONE
    assert "certificate.refused" not in {each["event"] for each in running.events}


def test_a_job_without_configuration_ends_with_a_usage_error(job: Job) -> None:
    with job.run("keep-alive", environment=False) as running:
        status, errors = running.ended()
    assert status == ExitCode.USAGE
    assert errors.startswith("Error: ")


def test_a_database_that_cannot_be_reached_fails_the_run(job: Job) -> None:
    job.configure(f"postgresql+psycopg://app@127.0.0.1:{free_port()}/app")
    with job.run("keep-alive") as running:
        status, errors = running.ended()
    assert status == ExitCode.FAILED, errors
    assert "Error: " in errors


def test_the_doctor_accepts_the_permissions_of_the_secret(job: Job) -> None:
    with job.run("doctor") as running:
        output, errors = running.process.communicate(timeout=60)
    (line,) = [each for each in output.splitlines() if "key_file: " in each and "store" not in each]
    assert line.startswith("OK"), output + errors
    assert "root's" in line


def test_the_image_has_the_pinned_libraries_and_no_installer(job: Job) -> None:
    code = (
        "import importlib.metadata as m, json; "
        "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
    )
    program = ("--entrypoint=/opt/blink-oauth/bin/python",)
    with job.run("-Ic", code, options=program) as running:
        output, errors = running.process.communicate(timeout=60)
    found = {re.sub(r"[_.]", "-", name): version for name, version in json.loads(output).items()}
    pins = (PROJECT / "requirements" / "image.txt").read_text("utf-8")
    pinned = dict(
        re.findall(r"^([a-z0-9-]+)==(\S+)(?! ; sys_platform == 'win32')", pins, re.MULTILINE)
    )
    assert found.pop("blink-oauth", None), errors
    assert found.items() <= pinned.items()
    # Windows needs the one, and Python before 3.13 the other.
    assert pinned.keys() - found.keys() <= {"tzdata", "typing-extensions"}
    assert "pip" not in found


def test_the_image_is_what_its_recipe_says(image: str) -> None:
    inspected = subprocess.run([*PODMAN, "inspect", image], check=True, capture_output=True)
    configuration: dict[str, Any] = json.loads(inspected.stdout)[0]["Config"]
    last = stages(FOLDER / "Containerfile")[-1]
    assert [configuration["User"]] == last.all("USER")
    assert [configuration["StopSignal"]] == last.all("STOPSIGNAL")
    assert configuration["Entrypoint"] == json.loads(last.all("ENTRYPOINT")[0])
    assert configuration["Labels"]["org.opencontainers.image.title"] == "blink-oauth"
    assert not any("BLINK" in each or "PASS" in each for each in configuration["Env"])
