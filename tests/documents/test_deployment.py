"""The files of docs/deployment fit the command, its exit codes, and each other.

`nox -s deployment` checks them with the tools of systemd, Kubernetes and containers, and runs them.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from blink_oauth import Settings, Timeouts
from blink_oauth_cli.configuration import KNOWN_VARIABLES, Configuration, configure
from blink_oauth_cli.errors import ExitCode
from blink_oauth_cli.monitor import Monitor
from blink_oauth_cli.monitoring_server import Address
from blink_oauth_cli.store_opening import location_of
from documents.deployment import FOLDER, UNITS, Container, Unit, containers, manifest, stages
from documents.examples import PROJECT, options_of

PAGE = (PROJECT / "docs" / "how-to" / "deployment.md").read_text("utf-8")
ONCE, DAEMON = Unit.read("blink-keep-alive.service"), Unit.read("blink-keep-alive-daemon.service")
TIMER = Unit.read("blink-keep-alive.timer")
PODS = containers()
SECRETS = {"certificate.pem", "certificate.key", "passphrase", "store.keys"}
ETC = Path("/etc/blink-oauth")
CLOSING = 10.0
"""Seconds for which a manager that closes tries to store results."""


def codes(*texts: str) -> set[ExitCode]:
    """Return the exit codes that a directive names."""
    return {ExitCode(int(each)) for text in texts for each in text.split()}


def configuration_of(file: Path, environment: dict[str, str]) -> Configuration:
    """Merge a configuration file with the variables of a process, as the command does."""
    assert environment["BLINK_CONFIG"] == str(ETC / file.name)
    given = {
        name.removeprefix("BLINK_").lower(): value
        for name, value in environment.items()
        if name.startswith("BLINK_")
    }
    given["config"] = str(file)
    return configure(given, folder=None, user_folder=None, variables=set(given))


def secret_paths(configuration: Configuration) -> dict[str, Path]:
    """Return the files of the secrets that the settings and the store name, by their names."""
    settings = Settings.from_env(
        # The passphrase is read at once.
        {k: v for k, v in configuration.values.items() if k != "BLINK_KEY_PASSPHRASE_FILE"}
    )
    certificate: Any = settings.certificate
    store = location_of(
        configuration.get("store") or "", keys_file=configuration.get("store_keys_file")
    )
    assert store.keys_file is not None
    passphrase = Path(configuration.get("key_passphrase_file") or "")
    files = (certificate.chain, certificate.key, passphrase, store.keys_file)
    return {path.name: path for path in files}


@pytest.fixture
def configuration_map(tmp_path: Path) -> Path:
    """Return the file of the ConfigMap."""
    ((name, text),) = manifest("ConfigMap")["data"].items()
    (tmp_path / name).write_text(text)
    return Path(tmp_path / name)


# The units of systemd


def test_a_unit_runs_a_command_line_that_the_command_accepts() -> None:
    for unit in (ONCE, DAEMON):
        program, *words = shlex.split(unit.one("ExecStart"))
        assert program == f"{installed_in()}/bin/blink-oauth"
        assert words[0] == "keep-alive"
        assert options_of(words)["every"] is not None or unit is ONCE
        assert f"{installed_in()}/bin/pip install" in PAGE


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("--every 1h", "--every daily"), ("--listen", "--listens"), ("keep-alive", "keep-live")],
)
def test_a_command_line_with_a_mistake_is_found(right: str, wrong: str) -> None:
    line = DAEMON.one("ExecStart")
    assert line.count(f" {right}") == 1
    with pytest.raises(click.UsageError):
        options_of(shlex.split(line.replace(f" {right}", f" {wrong}"))[1:])


def installed_in() -> str:
    """Return the folder of the environment, which units and image share."""
    (folder,) = {words.split()[-1] for words in stages()[-1].all("COPY")}
    return folder


def test_the_exit_codes_of_the_units_are_those_of_the_command() -> None:
    harmless = {ExitCode.CONSENT_NEEDED, ExitCode.UNCERTAIN}
    assert codes(ONCE.one("SuccessExitStatus")) == harmless
    # A job that has run for weeks ends on request; the figures show failures.
    assert codes(DAEMON.one("SuccessExitStatus")) == {*harmless, ExitCode.FAILED}
    assert codes(DAEMON.one("RestartPreventExitStatus")) == {ExitCode.USAGE}
    assert DAEMON.one("Restart") == "always"
    assert ExitCode.USAGE not in codes(ONCE.one("SuccessExitStatus"))


def test_the_variables_of_the_units_are_those_of_the_command() -> None:
    for unit in (ONCE, DAEMON):
        ours = {name for name in unit.environment if name.startswith("BLINK_")}
        assert len(ours) == 5
        assert ours <= KNOWN_VARIABLES
        assert unit.environment["PYTHONDONTWRITEBYTECODE"] == "1"


def test_the_daemon_reads_the_files_and_the_run_reads_copies_of_the_same_ones() -> None:
    file = FOLDER / "systemd" / "blink-oauth.toml"
    loaded = dict(value.split(":") for value in ONCE.values["LoadCredential"])
    assert loaded == {name: str(ETC / name) for name in SECRETS}
    copies = secret_paths(configuration_of(file, ONCE.environment))
    assert copies == {name: Path("%d") / name for name in SECRETS}
    originals = secret_paths(configuration_of(file, DAEMON.environment))
    assert originals == {name: ETC / name for name in SECRETS}
    assert not DAEMON.values["LoadCredential"]


def test_both_units_are_hardened_alike() -> None:
    (first, *rest) = [
        {
            key: values
            for key, values in unit.values.items()
            if re.match(
                r"Protect|Private|Restrict[A-Z]|SystemCall|Capab|Ambient|Lock|Memory|NoNew", key
            )
        }
        for unit in (ONCE, DAEMON)
    ]
    first.pop("RestartPreventExitStatus", None)
    assert len(first) > 20
    for other in rest:
        other.pop("RestartPreventExitStatus", None)
        assert other == first
    # Without the identity of the boot, leases cannot use the clock of the machine.
    assert "ProcSubset" not in first


def test_each_unit_that_is_started_exists_and_the_timer_starts_the_run() -> None:
    assert TIMER.one("OnCalendar") == "daily"
    assert TIMER.one("Persistent") == "true"
    assert TIMER.name.partition(".")[0] == ONCE.name.partition(".")[0]
    for unit in (ONCE, DAEMON):
        assert unit.one("OnFailure") == "blink-alarm@%n.service"
    assert "blink-alarm@.service" in UNITS
    assert len(UNITS) == 3


# The manifests of Kubernetes


@pytest.mark.parametrize("kind", PODS)
def test_a_container_runs_a_command_line_that_the_command_accepts(kind: str) -> None:
    container = PODS[kind].spec
    assert "command" not in container, "the entry point of the image is the command"
    options = options_of(container["args"])
    assert container["args"][0] == "keep-alive"
    assert (options["every"] is None) is (options["listen"] is None) is (kind == "CronJob")


def test_probes_ports_and_names_are_those_that_the_job_serves() -> None:
    container, service = PODS["Deployment"].spec, manifest("Service")
    options = options_of(container["args"])
    address = Address.parse(options["listen"])
    assert not address.is_loopback
    (port,) = container["ports"]
    assert port["containerPort"] == address.port
    pages = Monitor(1.0, tuple).pages(None, bool)  # type: ignore[arg-type]
    for probe, path in (("livenessProbe", "/healthz"), ("readinessProbe", "/readyz")):
        assert container[probe]["httpGet"] == {"path": path, "port": port["name"]}
        assert path in pages
    (served,) = service["spec"]["ports"]
    assert (served["port"], served["targetPort"]) == (address.port, port["name"])
    metadata = service["metadata"]
    assert options["hosts"] == (f"{metadata['name']}.{metadata['namespace']}.svc",)
    (ingress,) = manifest("NetworkPolicy")["spec"]["ingress"]
    assert [each["port"] for each in ingress["ports"]] == [address.port]
    assert stages()[-1].all("EXPOSE") == [str(address.port)]
    daemon = options_of(shlex.split(DAEMON.one("ExecStart"))[1:])["listen"]
    assert Address.parse(daemon) == Address("127.0.0.1", address.port)
    scrape = yaml.safe_load((PROJECT / "docs" / "monitoring" / "prometheus.yaml").read_text())
    assert scrape["scrape_configs"][0]["static_configs"][0]["targets"] == [daemon]


def test_the_selectors_find_the_pods() -> None:
    labels = manifest("Deployment")["spec"]["template"]["metadata"]["labels"]
    of_job = manifest("CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    assert manifest("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels != of_job
    allowed = manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"]
    assert allowed.items() <= labels.items()
    assert allowed.items() <= of_job.items()


def test_the_exit_codes_of_the_cron_job_are_those_that_no_repetition_changes() -> None:
    job = manifest("CronJob")["spec"]["jobTemplate"]["spec"]
    disruption, exits = job["podFailurePolicy"]["rules"]
    assert disruption["action"] == "Ignore"
    assert exits["action"] == "FailJob"
    assert exits["onExitCodes"]["containerName"] == PODS["CronJob"].spec["name"]
    assert set(exits["onExitCodes"]["values"]) == {
        ExitCode.USAGE,
        ExitCode.CONSENT_NEEDED,
        ExitCode.UNCERTAIN,
    }
    assert job["backoffLimit"] == 2
    assert PODS["CronJob"].pod["restartPolicy"] == "Never", "podFailurePolicy needs it"


def test_both_pods_differ_only_in_what_serves_the_figures() -> None:
    deployment, job = PODS["Deployment"], PODS["CronJob"]
    served = {"args", "ports", "livenessProbe", "readinessProbe"}
    assert {k: v for k, v in deployment.spec.items() if k not in served} == {
        k: v for k, v in job.spec.items() if k != "args"
    }
    only_here = {"containers", "restartPolicy"}
    assert {k: v for k, v in deployment.pod.items() if k not in only_here} == {
        k: v for k, v in job.pod.items() if k not in only_here
    }


def test_the_files_of_the_configuration_are_mounted_and_follow_the_secret(
    configuration_map: Path,
) -> None:
    pod = PODS["Deployment"].pod
    mounts = {each["name"]: each for each in PODS["Deployment"].spec["volumeMounts"]}
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert mounts.keys() == volumes.keys()
    # The kubelet renews no file of a subPath.
    assert not any(key.startswith("subPath") for mount in mounts.values() for key in mount)
    environment = {
        each["name"]: each["value"] for each in PODS["Deployment"].spec["env"] if "value" in each
    }
    paths = secret_paths(configuration_of(configuration_map, environment))
    folder = Path(mounts["secrets"]["mountPath"])
    assert paths == {name: folder / name for name in SECRETS}
    assert mounts["configuration"]["mountPath"] == str(ETC)
    assert (
        volumes["configuration"]["configMap"]["name"] == manifest("ConfigMap")["metadata"]["name"]
    )
    projected = volumes["secrets"]["projected"]
    assert projected["defaultMode"] == 0o400
    (source,) = projected["sources"]
    for name in SECRETS:
        assert f"--from-file={name}" in PAGE
    assert f"secret generic {source['secret']['name']} " in PAGE
    (variable,) = [
        each["valueFrom"] for each in PODS["Deployment"].spec["env"] if "valueFrom" in each
    ]
    assert f"secret generic {variable['secretKeyRef']['name']} " in PAGE
    assert f"--from-file={variable['secretKeyRef']['key']}=" in PAGE


@pytest.mark.parametrize("container", PODS.values(), ids=PODS)
def test_a_pod_has_no_right_that_it_does_not_need(container: Container) -> None:
    (user,) = stages()[-1].all("USER")
    context = container.pod["securityContext"]
    assert f"{context['runAsUser']}:{context['runAsGroup']}" == user
    assert context["fsGroup"] == context["runAsGroup"]
    assert context["runAsNonRoot"] is True
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container.spec["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert container.pod["automountServiceAccountToken"] is False
    assert manifest("ServiceAccount")["automountServiceAccountToken"] is False
    assert container.pod["serviceAccountName"] == manifest("ServiceAccount")["metadata"]["name"]
    (writable,) = [each for each in container.spec["volumeMounts"] if not each.get("readOnly")]
    assert writable["mountPath"] == "/tmp"
    volumes = {each["name"]: each for each in container.pod["volumes"]}
    assert volumes[writable["name"]]["emptyDir"]["medium"] == "Memory"


# What all have in common


def test_each_gives_a_job_that_ends_the_time_to_store_its_results() -> None:
    limits = {
        *(float(unit.one("TimeoutStopSec")) for unit in (ONCE, DAEMON)),
        *(float(each.pod["terminationGracePeriodSeconds"]) for each in PODS.values()),
    }
    (seconds,) = limits
    assert seconds >= Timeouts().total + CLOSING
    assert (
        int(ONCE.one("TimeoutStartSec").removesuffix("h")) * 3600
        == (manifest("CronJob")["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"])
    )


def test_unit_and_pod_name_the_same_client(configuration_map: Path) -> None:
    of_unit = tomllib.loads((FOLDER / "systemd" / "blink-oauth.toml").read_text("utf-8"))
    of_pod = tomllib.loads(configuration_map.read_text("utf-8"))
    assert of_unit["profile"] == of_pod["profile"] == "production"
    own = of_unit["profiles"]["production"]
    assert own.items() <= of_pod["profiles"]["production"].items()


# The image


def test_the_image_runs_the_command_as_a_user_without_name_or_rights() -> None:
    *_, last = stages()
    assert json.loads(last.all("ENTRYPOINT")[0]) == ["blink-oauth"]
    assert isinstance(json.loads(last.all("CMD")[0]), list), "no shell runs it"
    assert last.all("RUN") == [], "only the stage before has tools"
    (user,) = last.all("USER")
    assert re.fullmatch(r"[1-9]\d{4,}:[1-9]\d{4,}", user)
    assert last.all("STOPSIGNAL") == ["SIGTERM"]
    assert "PYTHONDONTWRITEBYTECODE=1" in last.all("ENV")[0]
    assert "org.opencontainers.image.licenses" in last.all("LABEL")[0]


def test_the_build_gets_what_the_wheel_is_made_of_and_nothing_else() -> None:
    _, build, _ = stages()
    copied = {word for words in build.all("COPY") for word in words.split()[:-1]}
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    sources = {each.partition("/")[0] for each in (*wheel["packages"], *wheel["force-include"])}
    pages = {
        each["path"]
        for each in project["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["fragments"]
    }
    pins = {"requirements/build.txt", "requirements/image.txt"}
    assert copied == {
        *sources,
        *pages,
        *project["project"]["license-files"],
        *pins,
        "pyproject.toml",
    }
    assert all((PROJECT / each).exists() for each in copied)


def test_the_build_verifies_the_hash_of_each_library() -> None:
    installs = [
        step for run in stages()[1].all("RUN") for step in run.split("&&") if " install" in step
    ]
    assert len(installs) == 3
    for step in installs:
        assert ("--require-hashes --requirement requirements/" in step) is (
            # The wheel was made in the step before.
            "--no-deps --no-index" not in step
        )
    assert "://" not in (FOLDER / "Containerfile").read_text("utf-8")


def test_the_image_has_the_libraries_of_its_extras_in_the_versions_of_the_tests() -> None:
    def versions(name: str) -> dict[str, str]:
        text = (PROJECT / "requirements" / name).read_text("utf-8")
        return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", text, re.MULTILINE))

    image, tests = versions("image.txt"), versions("test.txt")
    assert image.items() <= tests.items()
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text("utf-8"))["project"]
    extras = re.search(r"`\[([a-z,]+)\]`", PAGE)
    assert extras is not None
    assert extras[1] == "cli,postgresql,prometheus"
    declared = [*project["dependencies"]]
    for extra in extras[1].split(","):
        declared += project["optional-dependencies"][extra]
    assert {re.split(r"[\[<>=]", each)[0] for each in declared} <= image.keys()


# The page


def test_the_page_names_each_file() -> None:
    files = {path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*") if path.is_file()}
    assert len(files) == 10
    assert [name for name in sorted(files) if f"](../deployment/{name})" not in PAGE] == []


def test_one_page_quotes_the_units_and_manifests() -> None:
    quoted = set()
    for page in (PROJECT / "docs" / "how-to").glob("*.md"):
        for path in re.findall(
            r"^```\{literalinclude\} (\S+)$", page.read_text("utf-8"), re.MULTILINE
        ):
            assert (page.parent / path).is_file(), f"{page}: {path}"
            if "/deployment/" in path:
                quoted.add((page.stem, Path(path).name))
    names = {ONCE.name, TIMER.name, DAEMON.name, "deployment.yaml", "cron-job.yaml"}
    assert quoted == {("deployment", name) for name in names}
