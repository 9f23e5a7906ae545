"""`sandbox`: run the local platform, and print the environment that the other commands need."""

from __future__ import annotations

import shlex
import signal
import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from blink_oauth.settings import REVOCATION_FIELDS, RevocationField

from .app import App
from .errors import CommandError, ExitCode
from .key_files import make_private_folder
from .options import configured
from .stopping import StopRequest

if TYPE_CHECKING:
    from blink_oauth_testing.sandbox import Sandbox

__all__ = ["sandbox"]

PREFIX = "sandbox-"
FAULT = """-H 'Content-Type: application/json' -d '{"fault": "service-unavailable"}'"""


@configured(
    """
blink-oauth sandbox                      # in one terminal; stop it with Ctrl-C
eval "$(blink-oauth sandbox --env)"      # in another one
blink-oauth sandbox --lifetime 60        # access tokens that are valid for a minute
blink-oauth sandbox --http-port 8081     # another sandbox; it leaves the first one alone
eval "$(blink-oauth sandbox --env --http-port 8081)"
""",
    flags=(),
)
@click.option("--env", "show", is_flag=True, help="Print the environment of the running sandbox.")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="Port of mutual TLS.")
@click.option(
    "--http-port",
    type=click.IntRange(0, 65_535),
    default=0,
    help="Port of http; with --env, that of the sandbox to use, if several run.",
)
@click.option(
    "--lifetime",
    type=click.IntRange(min=1),
    default=86_400,
    show_default=True,
    metavar="SECONDS",
    help="How long access tokens are valid.",
)
@click.option(
    "--refuse-revocation-field",
    "refused",
    type=click.Choice(REVOCATION_FIELDS),
    multiple=True,
    help="Refuse a revocation with this field, as a closed form does; may be repeated.",
)
@click.option("--no-consent-page", is_flag=True, help="Give codes immediately, without asking.")
@click.pass_obj
def sandbox(
    app: App,
    *,
    show: bool,
    port: int,
    http_port: int,
    lifetime: int,
    refused: tuple[RevocationField, ...],
    no_consent_page: bool,
) -> None:
    """Start a strict local bLink platform with banks behind it, and print its environment.

    It runs until it is stopped, over mutual TLS with certificates made on the spot. Its tokens are
    kept in a store of their own, which is deleted when it stops. Several sandboxes may run at the
    same time; --env prints the environment of the one that was started last.
    """
    folder = app.data_folder
    if show:
        _show(app, folder, http_port)
        return
    from attrs import evolve

    try:
        from blink_oauth_testing.sandbox import DEFAULT_BANKS, Sandbox
    except ImportError:
        raise CommandError(
            "The sandbox is not installed.",
            "pip install 'blink-oauth[cli,testing]'",
            ExitCode.USAGE,
        ) from None
    make_private_folder(folder, remedy=f"Make {folder} a folder that this user may write to.")
    banks = [
        evolve(
            bank,
            consent_page=not no_consent_page,
            access_token_lifetime=float(lifetime),
            refused_revocation_fields=refused,
        )
        for bank in DEFAULT_BANKS
    ]
    with ExitStack() as resources:
        try:
            running = resources.enter_context(Sandbox(banks=banks, port=port, http_port=http_port))
        except OSError as error:
            raise CommandError(
                f"A port of the sandbox cannot be used: {error.strerror}. It was not started.",
                "Leave --port and --http-port out: then free ports are used.",
                ExitCode.USAGE,
            ) from None
        _run(app, running, folder / f"{PREFIX}{urlsplit(running.control_url).port}.env")
    app.screen.note("The sandbox has stopped; its keys, certificates and tokens are deleted.")


def _run(app: App, running: Sandbox, env_file: Path) -> None:
    stop = StopRequest()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    text = "\n".join(f"export {k}={shlex.quote(v)}" for k, v in environment(running).items())
    env_file.unlink(missing_ok=True)
    env_file.touch(mode=0o600)
    env_file.write_text(f"{text}\n", "utf-8")
    try:
        app.screen.line(*text.split("\n"))
        for bank in running.banks.values():
            app.screen.line(f"# {bank.policy.target_id}  {bank.policy.name}")
        app.screen.line("# To make the next call fail, such as blink-oauth refresh:")
        app.screen.line(f"#   curl {running.control_url}/sandbox/faults {FAULT}")
        app.screen.line('# In another terminal: eval "$(blink-oauth sandbox --env)"')
        app.screen.line("# Stop it with Ctrl-C.")
        # Where Ctrl-C cannot interrupt a wait without a timeout, it takes effect within a second.
        while not stop.wait(1.0):
            pass
    finally:
        env_file.unlink(missing_ok=True)


def environment(running: Sandbox) -> dict[str, str]:
    """Return the environment variables that the other commands need to use a sandbox."""
    variables = running.environment()
    folder = Path(variables["BLINK_CA"]).parent
    grant = running.grant()
    return variables | {
        "BLINK_AUTHORIZE_URL": f"{running.control_url}/{{target_id}}/oauth/authorize",
        "BLINK_ACCOUNTS_URL": running.accounts_url,
        "BLINK_STORE": str(folder / "tokens.db"),
        "BLINK_TARGET": grant.target_id,
        "BLINK_USERNAME": grant.username,
        "BLINK_PROFILE": "test",
    }


def _show(app: App, folder: Path, http_port: int) -> None:
    files = [file for file in _env_files(folder) if http_port in {0, _port_of(file)}]
    running = [file for file in files if _answers(_port_of(file))]
    if not running:
        wanted = f" with --http-port {http_port}" if http_port else ""
        raise CommandError(
            f"No sandbox runs in another terminal{wanted}.",
            f"Start one there: blink-oauth sandbox{wanted.removeprefix(' with')}.",
            ExitCode.USAGE,
        )
    if len(running) > 1:
        ports = ", ".join(str(_port_of(file)) for file in running)
        app.screen.note(f"The last of {len(running)} sandboxes; choose by --http-port: {ports}.")
    app.screen.line(*running[0].read_text("utf-8").rstrip("\n").split("\n"))


def _env_files(folder: Path) -> list[Path]:
    """Return the files of the running sandboxes, and of killed ones; the newest comes first."""
    found = []
    for file in folder.glob(f"{PREFIX}*.env"):
        # A sandbox that stops at this moment deletes its file.
        with suppress(OSError):
            found.append((file.stat().st_mtime_ns, file))
    return [file for _, file in sorted(found, reverse=True)]


def _port_of(file: Path) -> int:
    return int(file.stem.removeprefix(PREFIX))


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
    except OSError:
        return False
    return True
