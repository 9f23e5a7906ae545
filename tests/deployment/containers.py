"""Containers of the image, run by podman as Deployment and units say."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count, islice
from pathlib import Path
from typing import Any

from attrs import define, field

from blink_oauth import BlinkOAuth, Psu
from blink_oauth_keeper import SqlTokenStore, TokenManager
from blink_oauth_testing import Sandbox
from blink_oauth_testing.sandbox import Credentials
from documents.deployment import Unit, containers, manifest

__all__ = ["PODMAN", "Job", "Running", "system_calls_of_the_units"]

PODMAN = ("podman", "--cgroup-manager=cgroupfs", "--runtime=runc")
LIMITS = ("--ulimit=nofile=4096:4096", "--ulimit=nproc=4096:4096")
"""Where podman may not raise the limits, it would refuse to run a container."""
POD = containers()["Deployment"]
MOUNTS = {each["name"]: each["mountPath"] for each in POD.spec["volumeMounts"]}
STATE = "/state"
WAIT = 60.0
"""Seconds to wait for a container to end: its grace period."""
LONGEST = 120
"""Seconds after which podman kills a container, which then fails its test."""
MOST_EVENTS = 100
"""The most events to read for one."""
_numbers = count(1)


def podman(*words: str | Path) -> str:
    """Run podman, and return what it prints."""
    return subprocess.run([*PODMAN, *words], check=True, capture_output=True, text=True).stdout


def an_hour_ago() -> datetime:
    """Return the time one hour ago."""
    return datetime.now(UTC) - timedelta(hours=1)


@define
class Running:
    """A container that runs in the foreground of a process.

    Attributes:
        name: The name of the container.
        process: The process, whose exit status is that of the container.
        events: The events that it has printed so far.
    """

    name: str
    process: subprocess.Popen[str]
    events: list[dict[str, Any]] = field(factory=list)

    def wait_for(self, event: str) -> dict[str, Any]:
        """Read until an event is printed, and return it."""
        assert self.process.stdout is not None
        for line in islice(self.process.stdout, MOST_EVENTS):
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]
        raise AssertionError(f"no {event}: {self.events}")

    def stop(self) -> int:
        """Send SIGTERM, and return the exit code."""
        podman("kill", "--signal=TERM", self.name)
        return self.ended()[0]

    def ended(self) -> tuple[int, str]:
        """Wait for the end, and return the exit code and the error output."""
        _, errors = self.process.communicate(timeout=WAIT)
        return self.process.returncode, errors

    @property
    def changed(self) -> set[str]:
        """The files and folders of its root that differ from those of the image."""
        return {line.split(" ", 1)[1] for line in podman("diff", self.name).splitlines()}


@define
class Job:
    """The job of the Deployment, with the sandbox as platform and a store in an SQLite file.

    Args:
        image: The image.
        sandbox: The platform.
        folder: The folder of its volumes.
    """

    image: str
    sandbox: Sandbox
    folder: Path
    versions: int = field(init=False, default=0)
    key: str = field(init=False, default="", repr=False)

    def prepare(self) -> None:
        """Write configuration, secrets and a store with a grant."""
        for name in ("configuration", "secrets", "state"):
            (self.folder / name).mkdir()
        self.configure(f"sqlite:///{STATE}/tokens.db")
        key = SqlTokenStore.new_key()
        self.key = key.reveal()
        credentials = self.sandbox.authority.issue_client(self.sandbox.settings().client_id)
        self.sandbox.register(credentials)
        self.put(credentials)
        grant = self.sandbox.grant()
        store = SqlTokenStore(self.folder / "state" / "tokens.db", keys=[key])
        with (
            closing(store),
            BlinkOAuth(self.sandbox.settings()) as blink,
            # A grant of this second would not be due yet, however long `--within` is.
            TokenManager(blink, store, clock=an_hour_ago) as manager,
        ):
            manager.authorize(
                grant,
                code=self.sandbox.issue_code(grant),
                redirect_uri=self.sandbox.redirect_uri,
                psu=Psu.AUTO,
            )
        self.own("state")

    def configure(self, store: str) -> None:
        """Write the file of the ConfigMap, with client and platform of the sandbox."""
        settings = self.sandbox.settings()
        ((name, text),) = manifest("ConfigMap")["data"].items()
        # The client ids of the sandbox look like test.
        values = tomllib.loads(text)["profiles"]["production"] | {
            "base_url": settings.base_url,
            "client_id": settings.client_id,
            "store": store,
            "ca": f"{MOUNTS['secrets']}/ca.pem",
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in values.items()]
        text = "\n".join(("[profiles.sandbox]", *lines, ""))
        (self.folder / "configuration" / name).write_text(text)

    def put(self, credentials: Credentials) -> None:
        """Write the Secret as the kubelet does: into a new folder, to which a link then leads."""
        self.versions += 1
        secrets = self.folder / "secrets"
        version = secrets / f"..version-{self.versions}"
        version.mkdir(mode=0o750)
        made = self.folder / f"made-{self.versions}"
        made.mkdir()
        files = credentials.save(made, "client")
        contents = {
            "certificate.pem": files.chain.read_bytes(),
            "certificate.key": files.key.read_bytes(),
            "passphrase": files.passphrase.read_bytes(),
            "store.keys": self.key.encode(),
            "ca.pem": self.sandbox.authority.root_pem,
        }
        for name, content in contents.items():
            (version / name).write_bytes(content)
            # As with fsGroup: the files are root's, and its group may read them.
            (version / name).chmod(0o440)
        for path in (version, *version.iterdir()):
            shutil.chown(path, 0, POD.pod["securityContext"]["fsGroup"])
        (secrets / "..data_tmp").symlink_to(version.name)
        (secrets / "..data_tmp").replace(secrets / "..data")
        for name in contents:
            if not (secrets / name).is_symlink():
                (secrets / name).symlink_to(f"..data/{name}")

    def own(self, name: str) -> None:
        """Give a folder to the user of the image."""
        context = POD.pod["securityContext"]
        for path in (self.folder / name, *(self.folder / name).iterdir()):
            shutil.chown(path, context["runAsUser"], context["runAsGroup"])

    @contextmanager
    def run(
        self,
        *words: str,
        options: Sequence[str] = ("--read-only", f"--tmpfs={MOUNTS['tmp']}:size=16m"),
        environment: bool = True,
    ) -> Iterator[Running]:
        """Run a command line in a container, and delete the container afterwards.

        Args:
            words: The arguments of the entry point.
            options: What a test changes of the container.
            environment: Whether to set the variables of the Deployment.
        """
        name = f"blink-oauth-test-{os.getpid()}-{next(_numbers)}"
        context = POD.pod["securityContext"]
        variables = [
            f"--env={each['name']}={each['value']}" for each in POD.spec["env"] if "value" in each
        ]
        volumes = [
            *(f"--volume={self.folder / n}:{MOUNTS[n]}:ro" for n in ("configuration", "secrets")),
            f"--volume={self.folder / 'state'}:{STATE}",
        ]
        process = subprocess.Popen(
            [
                *(*PODMAN, "run", f"--name={name}", *LIMITS, "--network=host"),
                # The user has no name, as in Kubernetes.
                *("--passwd=false", f"--timeout={LONGEST}"),
                *("--cap-drop=ALL", "--security-opt=no-new-privileges"),
                f"--user={context['runAsUser']}:{context['runAsGroup']}",
                *(*options, *volumes, *(variables if environment else ())),
                *(self.image, *words),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            yield Running(name, process)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            subprocess.run([*PODMAN, "rm", "--force", name], check=True, capture_output=True)
            process.communicate(timeout=WAIT)


def system_calls_of_the_units() -> dict[str, Any]:
    """Return what the units allow as a profile of seccomp.

    It has `SystemCallFilter` and `MemoryDenyWriteExecute`, in the words of `systemd-analyze`.
    """
    unit = Unit.read("blink-keep-alive-daemon.service")
    allowed = named("@default")
    for value in unit.values["SystemCallFilter"]:
        sets = [named(each) for each in value.removeprefix("~").split()]
        allowed = allowed.difference(*sets) if value[0] == "~" else allowed.union(*sets)
    assert unit.one("MemoryDenyWriteExecute") == "yes"
    mapping, protecting = {"mmap"}, allowed & {"mprotect", "pkey_mprotect"}
    assert {"mmap", "mprotect"} <= allowed
    write, execute = 2, 4

    def with_protection(names: set[str], mask: int, value: int) -> dict[str, Any]:
        argument = {"index": 2, "value": mask, "valueTwo": value, "op": "SCMP_CMP_MASKED_EQ"}
        return {"names": sorted(names), "action": "SCMP_ACT_ALLOW", "args": [argument]}

    return {
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [
            {"names": sorted(allowed - mapping - protecting), "action": "SCMP_ACT_ALLOW"},
            *(with_protection(mapping, write | execute, each) for each in (0, write, execute)),
            with_protection(protecting, execute, 0),
        ],
    }


def named(name: str) -> set[str]:
    """Return the system calls of a set of systemd."""
    printed = subprocess.run(
        ["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True
    ).stdout
    found = set(re.findall(r"^ +([a-z_0-9]+)$", printed, re.MULTILINE))
    return found.union(*map(named, re.findall(r"^ +(@[a-z-]+)$", printed, re.MULTILINE)))
