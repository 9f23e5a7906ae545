"""The commands of `notices`: list what is not delivered, deliver it, try a receiver."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import click

from .app import App
from .errors import CommandError, ExitCode
from .groups import Group
from .key_files import write_new_file
from .options import LISTING_FLAGS, Command
from .outbox import about, entry_json, next_try

if TYPE_CHECKING:
    from blink_oauth_keeper import Webhook

__all__ = ["notices"]

NOT_REACHED = (
    "Look whether it runs, and whether a firewall lets this machine reach the host and port of "
    "BLINK_WEBHOOK_URL. For a certificate of a private authority set BLINK_WEBHOOK_CA."
)
NOT_TAKEN = (
    "Look at the receiver's log: it must take a POST of JSON, check its signature with the same "
    "secret, and answer with 2xx."
)
COLUMNS = ("At (UTC)", "Notice", "About", "Reason", "Tries", "Next try")


@click.group(cls=Group)
def notices(**_: object) -> None:
    """List the notices of lost consents, deliver them, and try the receiver.

    A notice says that a consent is lost, at risk or recovered, or that a certificate expires.
    keep-alive delivers them to the receiver (BLINK_WEBHOOK_URL), signed with a secret.
    """


@notices.command(
    "list",
    cls=Command,
    examples="""
blink-oauth notices list
blink-oauth notices list --json | jq '.[] | select(.is_dead)'
""",
    flags=LISTING_FLAGS,
    short_help="List the notices that are not delivered.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=100,
    show_default=True,
    metavar="NUMBER",
    help="How many at most.",
)
@click.option("--json", "json_", is_flag=True, help="Print a JSON array.")
@click.pass_obj
def list_(app: App, *, limit: int, json_: bool) -> None:
    """List the notices that are not delivered, the oldest first.

    It reads the store alone. Of each grant the oldest notice is delivered first; the others wait. A
    dead notice was tried for seven days: nothing tries it again until notices retry.
    """
    client_id = app.configuration.client_id
    with app.store() as store:
        entries = store.notices(client_id, limit=limit)
    if json_:
        app.screen.json_array(map(entry_json, entries))
    elif not entries:
        app.screen.note(f"Every notice of {client_id} is delivered.")
    else:
        rows = [
            (
                f"{entry.notice.at:%Y-%m-%d %H:%M:%S}",
                entry.notice.kind.value,
                about(entry.notice),
                entry.notice.reason or "-",
                str(entry.notice.tries),
                next_try(entry),
            )
            for entry in entries
        ]
        app.screen.table(COLUMNS, rows)


@notices.command(
    cls=Command,
    examples="""
blink-oauth notices deliver
""",
    short_help="Deliver what is due, as keep-alive does.",
)
@click.pass_context
def deliver(ctx: click.Context) -> None:
    """Deliver the notices that are due, as keep-alive does after each run.

    For a timer that runs more often than keep-alive. On SIGTERM or Ctrl-C it ends after the request
    in progress. The exit code is 1 if a notice was not delivered or is dead.
    """
    from .delivery import Delivery
    from .stopping import stop_on_signals

    app: App = ctx.obj
    _webhook(app)
    with stop_on_signals() as stop, app.manager() as manager:
        delivery = Delivery(app.configuration, manager, app.screen, stop.is_set)
        delivery.deliver()
    ctx.exit(delivery.code)


@notices.command(
    cls=Command,
    examples="""
blink-oauth notices retry
""",
    flags=LISTING_FLAGS,
    short_help="Let dead notices be tried again.",
)
@click.pass_obj
def retry(app: App) -> None:
    """Let all dead notices be tried again, once the receiver works; keep-alive delivers them."""
    client_id = app.configuration.client_id
    with app.store() as store:
        number = store.retry_notices(client_id)
    app.screen.line(f"Notices to try again: {number}.")


@notices.command(
    cls=Command,
    examples="""
blink-oauth notices test
""",
    short_help="Send a test notice to the receiver.",
)
@click.pass_obj
def test(app: App) -> None:
    """Send a notice of the kind webhook.test to the receiver, signed like every other.

    It names no grant. The store is neither read nor changed.
    """
    from blink_oauth.errors import Outcome
    from blink_oauth.tokens import utc_now
    from blink_oauth_keeper import DeliveryError, Notice, NoticeKind

    webhook = _webhook(app)
    notice = Notice(
        id=str(uuid4()),
        kind=NoticeKind.TEST,
        client_id=app.configuration.client_id,
        generation=0,
        at=utc_now(),
        tries=1,
    )
    try:
        webhook(notice)
    except DeliveryError as error:
        raise CommandError(
            f"The receiver has not taken the notice: {error}",
            NOT_REACHED if error.outcome is Outcome.NOT_EXECUTED else NOT_TAKEN,
        ) from None
    app.screen.line(f"The receiver has taken the notice {notice.id}.")


def _webhook(app: App) -> Webhook:
    from .receiver import receiver_of

    receiver = receiver_of(app.configuration)
    if receiver is None:
        raise CommandError(
            "No receiver of notices is configured. Nothing was sent.",
            "Set BLINK_WEBHOOK_URL and BLINK_WEBHOOK_SECRETS_FILE; blink-oauth notices secret "
            "makes a secret.",
            ExitCode.USAGE,
        )
    return receiver.webhook()


@notices.command(
    cls=Command,
    examples="""
blink-oauth notices secret --output webhook.secrets
blink-oauth notices secret --reveal >> webhook.secrets
""",
    flags=(),
    short_help="Make a new random secret for the receiver.",
)
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="A new file for it, readable for you alone.",
)
@click.option("--reveal", is_flag=True, help="Print the secret, for a vault.")
@click.pass_obj
def secret(app: App, output: Path | None, reveal: bool) -> None:
    """Make a new random secret, and write it to a new file or print it.

    Give it to the receiver, too. With several secrets in the file, one to a line, each notice has a
    signature of each: so a secret is replaced without a pause.
    """
    from blink_oauth_keeper import Webhook

    if (output is None) is not reveal:
        raise click.UsageError("Say where the secret goes: --output FILE, or --reveal to print it.")
    new = Webhook.new_secret()
    if output is None:
        app.screen.line(new.reveal())
        return
    write_new_file(
        output, [new], otherwise="To add a secret to a file: blink-oauth notices secret --reveal."
    )
    app.screen.note(
        f"A new secret: {output}. Name it in BLINK_WEBHOOK_SECRETS_FILE, and give it to the "
        "receiver."
    )
