"""`doctor`: what is wrong, and what to do about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from attrs import asdict

from blink_oauth.errors import BlinkError
from blink_oauth.settings import Settings

from .app import App
from .errors import ExitCode, TroubleError, trouble_with
from .options import configured

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .check import Check

__all__ = ["doctor"]


@configured(
    """
blink-oauth doctor
blink-oauth doctor --target IIDX99999
blink-oauth doctor --json | jq '.[] | select(.level != "ok")'
"""
)
@click.option("--target", metavar="ID", help="The id of a bank to try client id and headers at.")
@click.option("--json", "json_", is_flag=True, help="Print a JSON array of the checks.")
@click.pass_context
def doctor(ctx: click.Context, target: str | None, json_: bool) -> None:
    """Find out what is wrong, and what to do about it.

    It looks at the certificate, asks the platform with and without it, compares clocks, and tries
    the store. No code and no token can be spent by it.

    The exit code is 1 if a check failed.
    """
    app: App = ctx.obj
    failed = False
    found = []
    for check in _checks(app, target):
        failed = failed or check.level == "fail"
        found.append(check)
        if not json_:
            _print(app, check)
    if json_:
        app.screen.json([asdict(check) for check in found])
    if failed:
        ctx.exit(ExitCode.FAILED)


def _checks(app: App, target: str | None) -> Iterator[Check]:
    from .check import Check, Level
    from .examine import examine

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
        environment=configuration.environment,
        target_id=target or configuration.get("target"),
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
