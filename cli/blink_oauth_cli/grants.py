"""`token`, `refresh` and `revoke`: one grant at a time."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from .app import App
from .errors import ExitCode, TroubleError
from .options import configured, the_grant
from .wording import ahead, name_of

if TYPE_CHECKING:
    from blink_oauth.context import Grant
    from blink_oauth.tokens import Token

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
    from blink_oauth.client import utc_now

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
