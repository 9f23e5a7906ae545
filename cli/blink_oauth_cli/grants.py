"""`token`, `refresh`, `revoke` work on one grant; `status` and `history` read the store alone."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click
from attrs import asdict, evolve

from blink_oauth_keeper.errors import SealError

from .app import App
from .errors import ExitCode, TroubleError
from .options import configured, the_grant
from .output import ahead, name_of

if TYPE_CHECKING:
    from datetime import datetime

    from blink_oauth.context import Grant
    from blink_oauth.tokens import Token
    from blink_oauth_keeper import GrantStatus

__all__ = ["refresh", "revoke", "token"]


@configured(
    """
blink-oauth token IIDX99999/u-4711
blink-oauth token IIDX99999/u-4711 --header | curl --header @- https://…
TOKEN=$(blink-oauth token IIDX99999/u-4711 --reveal)
"""
)
@the_grant
@click.option("--reveal", is_flag=True, help="Print the access token itself, and nothing else.")
@click.option("--header", is_flag=True, help="Print an Authorization header, for curl --header @-.")
@click.option("--json", "json_", is_flag=True, help="Print one JSON object, without the token.")
@click.option(
    "--min-validity",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Seconds that it must still live.",
)
@click.pass_obj
def token(
    app: App, *, grant: Grant, reveal: bool, header: bool, json_: bool, min_validity: float
) -> None:
    """Say how the token of a grant is; refresh it first if it must be.

    Nothing secret is printed unless --reveal or --header asks for it. Do not put a token on a
    command line of your own: other users of the machine can see it there.
    """
    if reveal + header + json_ > 1:
        raise click.UsageError("--reveal, --header and --json exclude each other.")
    with app.manager() as manager:
        found = manager.get(grant, min_validity=min_validity)
    if reveal:
        app.screen.line(found.access_token.reveal())
    elif header:
        app.screen.line(f"Authorization: Bearer {found.access_token.reveal()}")
    else:
        _show(app, grant, found, json_)


@configured(
    """
blink-oauth refresh IIDX99999/u-4711
blink-oauth refresh --target IIDX99999 --username u-4711 --json
"""
)
@the_grant
@click.option("--json", "json_", is_flag=True, help="Print one JSON object, without the token.")
@click.pass_obj
def refresh(app: App, *, grant: Grant, json_: bool) -> None:
    """Refresh the token of a grant now, although it may still be good.

    What comes back is stored before anything else. If another process refreshes the grant at this
    moment, its result is taken.
    """
    with app.manager() as manager:
        found = manager.refresh(grant)
    _show(app, grant, found, json_)


def _show(app: App, grant: Grant, token: Token, json_: bool) -> None:
    from blink_oauth.tokens import utc_now

    has_refresh_token = token.refresh_token is not None
    if json_:
        app.screen.json(
            {
                "target_id": grant.target_id,
                "username": grant.username,
                "expires_at": token.expires_at.isoformat() if token.expires_at else None,
                "has_refresh_token": has_refresh_token,
            }
        )
        return
    left = ahead(token.expires_at, utc_now())
    app.screen.line(f"{name_of(grant)}: the access token is good; it expires in {left}.")
    if not has_refresh_token:
        app.screen.line("The bank gave no refresh token: the customer is needed again after that.")


@configured(
    """
blink-oauth revoke IIDX99999/u-4711
blink-oauth revoke IIDX99999/u-4711 --yes
"""
)
@the_grant
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def revoke(app: App, *, grant: Grant, yes: bool) -> None:
    """Stop using a grant, and revoke every token of it at the bank.

    This is for good: to use the bank again, its customer must log in there again.
    """
    if not yes:
        _ask(grant)
    with app.manager() as manager:
        manager.revoke(grant)
    app.screen.line(f"{name_of(grant)}: revoked. The bank has confirmed it for every token.")


def _ask(grant: Grant) -> None:
    if not sys.stdin.isatty():
        raise TroubleError(
            f"{name_of(grant)} is not revoked: nobody is there to be asked.",
            "Add --yes to do it without a question.",
            ExitCode.USAGE,
        )
    if not click.confirm(f"Revoke {name_of(grant)} for good?", err=True):
        raise TroubleError(f"{name_of(grant)} is not revoked.", "Nothing was sent.", ExitCode.USAGE)


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
    from blink_oauth.tokens import utc_now
    from blink_oauth_keeper.profile import TargetProfile
    from blink_oauth_keeper.status import statuses_of

    configuration = app.configuration
    profiles, general = configuration.target_profiles(), TargetProfile()
    client_id = configuration.client_id

    def profile_of(target_id: str) -> TargetProfile:
        return profiles.get(target_id, general)

    with app.store() as store:
        found = [_once_over(each) for each in statuses_of(store, client_id, profile_of, utc_now)]
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
    from blink_oauth_keeper.store.protocol import GrantKey

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
