"""The commands of `store`: make one, move the grants to another, finish an upgrade of tables."""

from __future__ import annotations

import time
from datetime import timedelta

import click

from .app import App
from .confirmation import require_confirmation
from .errors import CommandError, ExitCode
from .groups import Group
from .keep_alive import duration_option
from .options import STORE_FLAGS, Command
from .store_opening import StoreLocation, location_of, open_store

__all__ = ["store"]

AGAIN = "run blink-oauth store copy again: it goes on where it stopped"


@click.group(cls=Group)
def store(**_: object) -> None:
    """Make a store, move the grants to another one, or finish an upgrade of the tables."""


@store.command(
    cls=Command,
    examples="""
blink-oauth store init
blink-oauth store init --store /var/lib/acme/tokens.db --store-keys-file /etc/acme/tokens.keys
""",
    flags=STORE_FLAGS,
    short_help="Make the configured store, and its key.",
)
@click.pass_obj
def init(app: App) -> None:
    """Make the configured store: its file or tables, and its key unless keys are given.

    Besides login, no other command makes a store, so that a mistyped name is an error. If there is
    a store that a given key opens, nothing is changed, and the exit code is 0.
    """
    opened, made = open_store(app.store_location, create=True)
    opened.close()
    app.screen.line(*(made or ["The store is there already; nothing was changed."]))


@store.command(
    cls=Command,
    examples="""
blink-oauth store copy postgresql+psycopg://app@db.example/app --to-keys-file new.keys --dry-run
blink-oauth store copy postgresql+psycopg://app@db.example/app --to-keys-file new.keys
BLINK_COPY_TO=postgresql+psycopg://app:…@db.example/app blink-oauth store copy
""",
    flags=STORE_FLAGS,
    short_help="Move all grants to another store.",
)
@click.argument("to", envvar="BLINK_COPY_TO", metavar="STORE")
@click.option(
    "--to-keys-file",
    envvar="BLINK_COPY_TO_KEYS_FILE",
    metavar="FILE",
    help="The keys of the other store, one to a line. Without it: those beside its file.",
)
@click.option(
    "--wait",
    type=duration_option,
    default="60s",
    show_default=True,
    metavar="TIME",
    help="How long to wait for refreshes in progress.",
)
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.pass_obj
def copy(app: App, *, to: str, to_keys_file: str | None, wait: timedelta, dry_run: bool) -> None:
    """Move all grants from the configured store to another one, sealed with its keys.

    The other store must exist: blink-oauth store init makes one. No token is presented. A grant is
    in one store only: once the other store has it, processes that still use this store get an error
    that it was moved. A grant whose refresh is in progress is waited for. A newer pair is never
    replaced by an older one. Run the command again if it was interrupted, or if it says that grants
    are left.
    """
    from blink_oauth_keeper.store.moving import copy_grants

    location = location_of(
        to,
        keys_file=to_keys_file,
        commands=app.store_location.commands,
        name="the other store",
        flag="STORE (BLINK_COPY_TO)",
        keys_flag="--to-keys-file (BLINK_COPY_TO_KEYS_FILE)",
    )
    _require_different(app.store_location, location)
    try:
        with app.store() as source, app.store(location) as target:
            report = copy_grants(
                source,
                target,
                wait=wait.total_seconds(),
                monotonic=time.monotonic,
                sleep=time.sleep,
                dry_run=dry_run,
            )
    except KeyboardInterrupt:
        raise CommandError(
            "Interrupted. Each grant is in the store that has its pair, or its move is half done; "
            "nothing is lost or spent.",
            f"To finish, {AGAIN}.",
            ExitCode.INTERRUPTED,
        ) from None
    app.screen.line(
        f"{'To move' if dry_run else 'Moved'}: {report.moved}. Moved before: {report.moved_before}."
        f" As new or newer there: {report.kept}. Being refreshed: {report.in_progress}. "
        f"Not opened: {report.unreadable}."
    )
    if report.unreadable:
        raise CommandError(
            f"{report.unreadable} grants cannot be opened, and are unchanged.",
            f"Give the missing key of this or the other store; then {AGAIN}.",
        )
    if report.in_progress and not dry_run:
        raise CommandError(
            f"{report.in_progress} grants are being refreshed, and are still in this store.",
            f"In half a minute, {AGAIN}.",
        )


def _require_different(source: StoreLocation, target: StoreLocation) -> None:
    if (source.url, source.file) == (target.url, target.file):
        raise CommandError(
            "Both are the same store. Nothing was changed.",
            "Name another one; the store to move from is --store (BLINK_STORE).",
            ExitCode.USAGE,
        )


@store.command(
    cls=Command,
    examples="""
blink-oauth store upgrade --check
blink-oauth store upgrade --yes
""",
    flags=STORE_FLAGS,
    short_help="Finish an upgrade of the tables.",
)
@click.option("--check", is_flag=True, help="Only say whether it is needed: exit code 1 if it is.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_context
def upgrade(ctx: click.Context, *, check: bool, yes: bool) -> None:
    """Finish the upgrade of the tables, once no process of an older version runs any more.

    It seals and authenticates every row as this version does; processes of this version go on
    meanwhile. Afterwards an older version refuses to start on this store, for good. Run it again
    if it is interrupted.
    """
    app: App = ctx.obj
    with app.store() as opened:
        if not opened.needs_upgrade():
            app.screen.line("The tables are those of this version alone: there is nothing to do.")
            return
        if check:
            app.screen.line(
                "Processes of an older version may still write to this store. When the last one "
                "has stopped, run blink-oauth store upgrade."
            )
            ctx.exit(ExitCode.FAILED)
        if not yes:
            require_confirmation(
                "Has the last process of an older version stopped?",
                refusal="The upgrade is not finished",
                advice="Stop those processes first; nothing was changed.",
            )
        opened.finish_upgrade()
    app.screen.line(
        "Every row is sealed and authenticated by this version. An older version refuses to start "
        "on this store from now on."
    )
