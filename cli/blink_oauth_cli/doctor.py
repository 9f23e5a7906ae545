"""`doctor`: all checks, in the order in which a person would make them, and what to do."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from attrs import asdict

from blink_oauth.errors import BlinkError
from blink_oauth.settings import Settings

from .app import App
from .check import Check, Level
from .configuration import Environment
from .errors import ExitCode, TroubleError, trouble_with
from .options import configured, setting

if TYPE_CHECKING:
    from blink_oauth_keeper import TokenStore

__all__ = ["doctor", "examine"]


def examine(
    settings: Settings,
    *,
    environment: Environment | None,
    target_id: str | None,
    username: str | None,
    lease: float,
    open_store: Callable[[], TokenStore],
    store_path: Path | None,
    keys_file: Path | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    new_name: Callable[[], str] = secrets.token_hex,
    free_bytes: Callable[[Path], int] = lambda folder: shutil.disk_usage(folder).free,
) -> Iterator[Check]:
    """Make every check, and yield what each found as soon as it is known.

    Nothing that is wrong makes it raise, and nothing is spent or changed: no code, no token, no
    row. A check that needs another one to pass says that it was not made.

    Args:
        settings: What the client would use.
        environment: What the settings are meant for, or None if that is not known.
        target_id: A bank to make a harmless call to, or None to make none.
        username: The user of that call; a made-up one if None.
        lease: Seconds that a refresh has at most, as the manager will get it.
        open_store: Opens the token store. It may raise `TroubleError`, `BlinkError`, `OSError` and
            `ImportError`.
        store_path: The file of the store, or None if it is no file. A file that is not there yet
            is not created.
        keys_file: The file of the store's keys, or None if they are in none.
        clock: Tells the present moment, aware UTC.
        new_name: Makes a random name, for a token and a grant that do not exist.
        free_bytes: Tells how many bytes are free in a folder.
    """
    from blink_oauth.headers import Probe

    from .checks_local import certificate_checks, identity_checks, lease_check
    from .checks_network import call_checks, clock_check, line_checks, visit
    from .checks_store import storage_checks

    yield from identity_checks(settings, environment, target_id)
    yield from certificate_checks(settings, now=clock())
    yield lease_check(lease, settings.timeouts)
    ours = visit(settings, clock)
    answers = []
    for check, answer in line_checks(settings, ours, clock):
        yield check
        answers += [answer] if answer else []
    yield clock_check(answers[0] if answers else None)
    reached = isinstance(ours, Probe)
    yield from call_checks(settings, target_id, username, clock, new_name, reached=reached)
    yield from storage_checks(
        settings.client_id,
        open_store,
        path=store_path,
        keys_file=keys_file,
        new_name=new_name,
        free_bytes=free_bytes,
    )


@configured(
    """
blink-oauth doctor
blink-oauth doctor --target IIDX99999
blink-oauth doctor --json | jq '.[] | select(.level != "ok")'
"""
)
@setting("--target", metavar="ID", help="The id of a bank to try client id and headers at.")
@click.option("--json", "json_", is_flag=True, help="Print a JSON array of the checks.")
@click.pass_context
def doctor(ctx: click.Context, json_: bool) -> None:
    """Find out what is wrong, and what to do about it.

    It looks at the certificate, asks the platform with and without it, compares clocks, and tries
    the store. No code and no token can be spent by it.

    The exit code is 1 if a check failed.
    """
    app: App = ctx.obj
    failed = False
    found = []
    for check in _checks(app):
        failed = failed or check.level == "fail"
        found.append(check)
        if not json_:
            _print(app, check)
    if json_:
        app.screen.json([asdict(check) for check in found])
    if failed:
        ctx.exit(ExitCode.FAILED)


def _checks(app: App) -> Iterator[Check]:
    try:
        configuration = app.configuration
        # Not configuration.settings(): an id of another environment is one finding among others.
        settings = Settings.from_env(configuration.values)
        lease, place = configuration.lease, app.place
    except (BlinkError, TroubleError) as error:
        trouble = error if isinstance(error, TroubleError) else trouble_with(error)
        yield Check("configuration", Level.FAIL, trouble.what, trouble.do)
        return
    origin = configuration.profile.origin or "variables and flags alone"
    yield Check("configuration", Level.OK, f"Complete; read from {origin}.", None)
    yield from examine(
        settings,
        environment=configuration.profile.environment,
        target_id=configuration.get("target"),
        username=configuration.get("username"),
        lease=lease,
        open_store=app.open_store,
        store_path=place.file,
        keys_file=None if place.keys else place.keys_file,
    )


def _print(app: App, check: Check) -> None:
    level = check.level.value.upper()
    app.screen.line(app.screen.styled(f"{level:<5}", level) + f"{check.name}: {check.finding}")
    if check.remedy:
        app.screen.line(f"     → {check.remedy}")
