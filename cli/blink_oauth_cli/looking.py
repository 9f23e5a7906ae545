"""`status` and `history`: what the store knows, without a call to anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from attrs import asdict, evolve

from blink_oauth_keeper.errors import SealError

from .app import App
from .options import configured, the_grant
from .wording import ahead, name_of

if TYPE_CHECKING:
    from datetime import datetime

    from blink_oauth.context import Grant
    from blink_oauth_keeper import GrantStatus

__all__ = ["history", "status"]

COLUMNS = ("Target", "Username", "State", "Expires", "Idle days", "Outcome", "Correlation id")


@configured(
    """
blink-oauth status
blink-oauth status --json | jq '.[] | select(.needs_consent)'
"""
)
@click.option("--json", "json_", is_flag=True, help="Print a JSON array of all grants.")
@click.pass_obj
def status(app: App, json_: bool) -> None:
    """List the grants: state, expiry, idle days left, last outcome, id of the last call.

    It reads the store alone: no certificate is needed, and nothing is sent. “customer needed” says
    that only a new consent helps, now or once the access token has expired; “key missing”, that
    the store was opened without the key that seals the grant.
    """
    from blink_oauth.client import utc_now
    from blink_oauth_keeper.profile import Profiles, TargetProfile
    from blink_oauth_keeper.status import statuses_of

    configuration = app.configuration
    profiles = Profiles(configuration.target_profiles(), TargetProfile())
    client_id = configuration.client_id
    with app.store() as store:
        found = [_once_over(each) for each in statuses_of(store, client_id, profiles, utc_now)]
    if json_:
        app.screen.json([_described(each) for each in found])
    elif found:
        app.screen.table(COLUMNS, [_row(each, utc_now()) for each in found])
    else:
        app.screen.note(f"No grant of {client_id} is stored yet. Begin with blink-oauth login.")


def _row(status: GrantStatus, now: datetime) -> tuple[str, ...]:
    idle = status.idle_until
    return (
        status.grant.target_id,
        status.grant.username,
        _state(status),
        ahead(status.expires_at, now),
        "-" if idle is None else str(max(0, (idle - now).days)),
        status.error or "ok",
        status.correlation_id or "-",
    )


def _once_over(status: GrantStatus) -> GrantStatus:
    """Return a status in which a refresh that has outlived its lease counts as uncertain.

    Whoever made it has left. The record says so only when the next one takes the grant.
    """
    if status.state == "refreshing" and not status.retry_in:
        return evolve(status, state=type(status.state)("uncertain"))
    return status


def _state(status: GrantStatus) -> str:
    state = status.state.value.replace("_", " ")
    if status.error == SealError.__name__:
        return f"{state}, key missing"
    if status.needs_consent and state in {"active", "uncertain"}:
        return f"{state}, customer needed"
    return state


def _described(status: GrantStatus) -> dict[str, object]:
    content = asdict(status, recurse=False)
    grant = content.pop("grant")
    moments = {
        name: value.isoformat() if value else None
        for name, value in content.items()
        if name.endswith("_at") or name == "idle_until"
    }
    return {"target_id": grant.target_id, "username": grant.username, **content, **moments}


@configured(
    """
blink-oauth history IIDX99999/u-4711
blink-oauth history IIDX99999/u-4711 --limit 1000 --json
"""
)
@the_grant
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=50,
    show_default=True,
    metavar="NUMBER",
    help="How many lines at most.",
)
@click.option("--json", "json_", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def history(app: App, *, grant: Grant, limit: int, json_: bool) -> None:
    """Show the audit history of a grant, the newest first.

    Times are UTC, by the clock of the store. The correlation id is what the bLink support asks for.
    """
    from blink_oauth_keeper.store.records import GrantKey

    key = GrantKey(app.configuration.client_id, grant)
    with app.store() as store:
        entries = store.history(key, limit=limit)
    if json_:
        app.screen.json(
            [
                {"at": entry.at.isoformat(), "generation": entry.generation, **asdict(entry.note)}
                for entry in entries
            ]
        )
    elif entries:
        rows = [
            (
                f"{entry.at:%Y-%m-%d %H:%M:%S}",
                entry.note.event,
                entry.note.detail or entry.note.outcome,
                entry.note.actor,
                entry.note.correlation_id or "-",
            )
            for entry in entries
        ]
        app.screen.table(("At (UTC)", "Event", "Outcome", "Actor", "Correlation id"), rows)
    else:
        app.screen.note(f"Nothing is known of {name_of(grant)}. blink-oauth status lists all.")
