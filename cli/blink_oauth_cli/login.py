"""`login`: obtain a customer's consent at the bank, and store the token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from blink_oauth.context import Grant, Psu
from blink_oauth.texts import trimmed
from blink_oauth.tokens import Secret

from .app import App
from .confirmation import require_confirmation
from .errors import CommandError, ExitCode
from .options import configured, setting, takes_grant
from .output import expiry_phrase, grant_name

if TYPE_CHECKING:
    from blink_oauth.tokens import Token

__all__ = ["login"]

DEFAULT_REDIRECT_URI = "http://127.0.0.1/callback"
"""Without a port, any free one is used (RFC 8252 section 7.3)."""
NO_ADDRESS = (
    "This machine has no public address, so the bank is told AUTO; --psu-ip gives the customer's."
)


@configured(
    """
blink-oauth login IIDX99999/u-4711
blink-oauth login --target IIDX99999 --username u-4711 --no-browser
blink-oauth login IIDX99999/u-4711 --redirect-uri http://127.0.0.1:8765/callback
blink-oauth login IIDX99999/u-4711 --yes
blink-oauth login IIDX99999/u-4711 --redirect-uri https://app.example/callback --code -
"""
)
@takes_grant
@setting("--authorize-url", metavar="URL", help="The bank's page; {target_id} is filled in.")
@setting(
    "--redirect-uri",
    metavar="URI",
    help="The registered redirect URI; without --code it must be on loopback.",
)
@click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="A further parameter that the bank's page wants, such as scope=….",
)
@click.option("--no-browser", is_flag=True, help="Print the URL instead of opening it.")
@click.option("--code", metavar="CODE", help="A code that was received elsewhere; - asks for it.")
@setting(
    "--psu-ip",
    metavar="IP",
    help="The customer's address; this machine's if that is public, otherwise AUTO.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the customer.",
)
@click.option("--yes", is_flag=True, help="Do not ask, although the consent may end another one.")
@click.pass_obj
def login(app: App, /, *, grant: Grant, code: str | None, **options: Any) -> None:
    """Log a customer in at the bank, and store the token.

    The bank's page opens in your browser. This command receives the redirect on this machine,
    exchanges the code immediately (it is valid for 30 s) and stores the pair.

    At some banks a second consent ends the first. So it asks before it opens the page if the store
    has a grant at that bank which needs no consent. With --code it does not: the customer has
    consented by then.

    A code is a secret until it is spent: with --code - it is asked for and not kept in the history
    of your shell.
    """
    from blink_oauth.tokens import utc_now

    if code == "-":
        code = trimmed(click.prompt("Code", hide_input=True, err=True))
    if code is None:
        token = _with_browser(app, grant, **options)
    else:
        token = _with_code(app, grant, Secret(code))
    phrase = expiry_phrase(token.expires_at, utc_now())
    app.screen.line(f"{grant_name(grant)}: logged in and stored. The access token {phrase}.")


def _with_browser(
    app: App,
    grant: Grant,
    *,
    parameters: tuple[str, ...],
    no_browser: bool,
    timeout: float,
    yes: bool,
) -> Token:
    from blink_oauth.tokens import utc_now
    from blink_oauth_keeper.store.protocol import GrantKey

    from .login_flow import log_in, open_in_browser, own_address
    from .stored_consents import consents_at_risk

    configuration = app.configuration
    settings = configuration.settings()
    template = configuration.authorize_url(grant.target_id)
    profiles = configuration.target_profiles()
    key = GrantKey(settings.client_id, grant)
    with app.store(create=True) as store:
        # Do not ask the customer for a consent that could not be stored.
        stored = store.load(key)
        at_risk = "" if yes else consents_at_risk(store, key, stored, profiles, utc_now())
    if at_risk:
        require_confirmation(
            "Log in at the bank all the same?",
            refusal="Nothing was opened or sent",
            advice="blink-oauth token uses the stored grant; blink-oauth status lists all.",
            reason=at_risk,
        )
    psu_ip = configuration.get("psu_ip") or own_address(settings.base_url)
    if psu_ip == Psu.AUTOMATIC and not configuration.get("psu_ip"):
        app.screen.note(NO_ADDRESS)
    with app.manager() as manager:
        return log_in(
            manager,
            client_id=settings.client_id,
            grant=grant,
            template=template,
            redirect_uri=configuration.get("redirect_uri") or DEFAULT_REDIRECT_URI,
            extra=dict(map(_parameter, parameters)),
            open_browser=None if no_browser else open_in_browser,
            notify=lambda text: app.screen.note(*text.split("\n")),
            timeout=timeout,
            psu_ip=psu_ip,
        )


def _with_code(app: App, grant: Grant, code: Secret) -> Token:
    configuration = app.configuration
    redirect_uri = configuration.get("redirect_uri")
    if redirect_uri is None:
        raise CommandError(
            "The redirect URI that the code was sent to is not known. The code is not spent.",
            "Give it unchanged with --redirect-uri; a code is valid for 30 s.",
            ExitCode.USAGE,
        )
    address = configuration.get("psu_ip") or Psu.AUTOMATIC
    app.open_store(create=True).close()
    with app.manager() as manager:
        psu = Psu(address, Psu.AUTOMATIC)
        return manager.authorize(grant, code=code, redirect_uri=redirect_uri, psu=psu)


def _parameter(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals):
        raise click.UsageError(f"--parameter {text!r}: write NAME=VALUE.")
    return name, value
