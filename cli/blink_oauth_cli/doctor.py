"""`doctor`: all checks, each with a remedy for what it finds."""

from __future__ import annotations

import secrets
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
from .errors import CommandError, ExitCode, to_command_error
from .options import configured, setting

if TYPE_CHECKING:
    from blink_oauth_keeper import TokenStore

__all__ = ["doctor", "run_checks"]


def run_checks(
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
    """Run every check, and yield each result as soon as it is known.

    No fault raises an error, and nothing is spent or changed: no code, no token, no row. A check
    that depends on one that failed reports that it was not made.

    Args:
        settings: The client's settings.
        environment: The environment of the settings, or None if it is not known.
        target_id: The id of a bank for a harmless call, or None to make none.
        username: The username of that call, or None for a made-up one.
        lease: The lease of a refresh in seconds, as the manager receives it.
        open_store: Opens the token store. It may raise `CommandError`, `BlinkError`, `OSError` and
            `ImportError`.
        store_path: The store's file, or None if it is not a file. A missing file is not created.
        keys_file: The file of the store's keys, or None if they are not in a file.
        clock: Returns the current time, aware UTC.
        new_name: Returns a random name, for a token and a grant that do not exist.
        free_bytes: Returns the free bytes of the disk of a folder.
    """
    from blink_oauth.headers import Probe

    from .checks_local import certificate_checks, identity_checks, lease_check
    from .checks_network import call_checks, clock_check, connection_checks, send_probe
    from .checks_store import storage_checks

    yield from identity_checks(settings, environment, target_id)
    yield from certificate_checks(settings, now=clock())
    yield lease_check(lease, settings.timeouts)
    probe = send_probe(settings, clock)
    probes = []
    for check, connection_probe in connection_checks(settings, probe, clock):
        yield check
        probes += [connection_probe] if connection_probe else []
    yield clock_check(probes[0] if probes else None)
    reached = isinstance(probe, Probe)
    yield from call_checks(settings, target_id, username, clock, new_name, reached=reached)
    yield from storage_checks(
        settings.client_id,
        open_store,
        path=store_path,
        keys_file=keys_file,
        new_name=new_name,
        free_bytes=free_bytes,
        now=clock(),
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

    The last line counts the checks. The exit code is 1 if one failed.
    """
    app: App = ctx.obj
    failed = False
    checks = []
    for check in _all_checks(app):
        failed = failed or check.level == "fail"
        checks.append(check)
        if not json_:
            _print(app, check)
    if json_:
        app.screen.json([asdict(check) for check in checks])
    else:
        app.screen.line(_summary(checks))
    if failed:
        ctx.exit(ExitCode.FAILED)


def _all_checks(app: App) -> Iterator[Check]:
    try:
        configuration = app.configuration
        # Not configuration.settings(): an id of another environment must be one of the findings.
        settings = Settings.from_env(configuration.values)
        lease, location = configuration.lease, app.store_location
    except (BlinkError, CommandError) as error:
        reported = error if isinstance(error, CommandError) else to_command_error(error)
        yield Check("configuration", Level.FAIL, reported.what, reported.do)
        return
    from .checks_local import receiver_checks

    origin = configuration.profile.origin or "variables and flags alone"
    yield Check("configuration", Level.OK, f"Complete; read from {origin}.", None)
    yield from receiver_checks(configuration)
    yield from run_checks(
        settings,
        environment=configuration.profile.environment,
        target_id=configuration.get("target"),
        username=configuration.get("username"),
        lease=lease,
        open_store=app.open_store,
        store_path=location.file,
        keys_file=None if location.keys else location.keys_file,
    )


def _summary(checks: Sequence[Check]) -> str:
    counts = Counter(check.level for check in checks)
    warnings = counts[Level.WARN]
    return (
        f"{len(checks)} {'check' if len(checks) == 1 else 'checks'}: {counts[Level.OK]} OK, "
        f"{warnings} {'warning' if warnings == 1 else 'warnings'}, {counts[Level.FAIL]} failed."
    )


def _print(app: App, check: Check) -> None:
    level = check.level.value.upper()
    app.screen.line(f"{check.name}: {check.finding}", label=f"{level:<5}")
    if check.remedy:
        app.screen.line(f"     → {check.remedy}")
