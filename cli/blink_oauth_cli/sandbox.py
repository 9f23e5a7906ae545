"""`sandbox`: run the local platform, and print the environment that the other commands need."""

from __future__ import annotations

import shlex
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blink_oauth.settings import REVOCATION_FIELDS, RevocationField

from .app import App
from .errors import CommandError, ExitCode
from .key_files import make_private_folder
from .options import configured

if TYPE_CHECKING:
    from blink_oauth_testing.sandbox import Sandbox

__all__ = ["sandbox"]


@configured(
    """
blink-oauth sandbox                      # in one terminal; stop it with Ctrl-C
eval "$(blink-oauth sandbox --env)"      # in another one
blink-oauth sandbox --lifetime 60        # access tokens that are valid for a minute
"""
)
@click.option("--env", "show", is_flag=True, help="Print the environment of the running sandbox.")
@click.option("--port", type=click.IntRange(0, 65_535), default=0, help="Port of mutual TLS.")
@click.option("--http-port", type=click.IntRange(0, 65_535), default=0, help="Port of http.")
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
    kept in a store of their own, which is deleted when it stops.
    """
    env_file = app.data_folder / "sandbox.env"
    if show:
        app.screen.line(*_read_env_file(env_file).split("\n"))
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
    make_private_folder(
        env_file.parent, remedy=f"Make {env_file.parent} a folder that this user may write to."
    )
    banks = [
        evolve(
            bank,
            consent_page=not no_consent_page,
            access_token_lifetime=float(lifetime),
            refused_revocation_fields=refused,
        )
        for bank in DEFAULT_BANKS
    ]
    with Sandbox(banks=banks, port=port, http_port=http_port) as running:
        _run(app, running, env_file)
    app.screen.note("The sandbox has stopped; its keys, certificates and tokens are deleted.")


def _run(app: App, running: Sandbox, env_file: Path) -> None:
    stop = threading.Event()
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
        app.screen.line('# In another terminal: eval "$(blink-oauth sandbox --env)"')
        app.screen.line("# Stop it with Ctrl-C.")
        # Where Ctrl-C cannot interrupt a wait without a timeout, it takes effect within a second.
        while not stop.wait(timeout=1.0):
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


def _read_env_file(env_file: Path) -> str:
    try:
        return env_file.read_text("utf-8").rstrip("\n")
    except OSError:
        raise CommandError(
            "No sandbox runs in another terminal.",
            "Start one there: blink-oauth sandbox.",
            ExitCode.USAGE,
        ) from None
