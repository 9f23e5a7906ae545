"""Commands that use one grant; `status` and `history` only read the store."""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING

import click
from attrs import asdict, evolve

from blink_oauth.headers import is_visible_ascii
from blink_oauth_keeper.events import EventName

from .app import App
from .confirmation import require_confirmation
from .errors import CommandError, ExitCode, not_stored_error
from .options import LISTING_FLAGS, configured, takes_grant
from .outbox import entry_json, sentence
from .output import expiry_phrase, grant_name, time_left, visible
from .store_opening import missing_key_ids

if TYPE_CHECKING:
    from datetime import datetime

    from blink_oauth.context import Grant
    from blink_oauth.tokens import Secret, Token
    from blink_oauth_keeper import GrantStatus
    from blink_oauth_keeper.store.outbox import OutboxEntry

__all__ = ["adopt", "forget", "refresh", "refresh_sentence", "revoke", "token"]


@configured(
    """
blink-oauth token IIDX99999/u-4711
blink-oauth token IIDX99999/u-4711 --header | curl --header @- https://…
TOKEN=$(blink-oauth token IIDX99999/u-4711 --reveal)
"""
)
@takes_grant
@click.option("--reveal", is_flag=True, help="Print the access token itself, and nothing else.")
@click.option("--header", is_flag=True, help="Print an Authorization header, for curl --header @-.")
@click.option("--json", "json_", is_flag=True, help="Print one JSON object, without the token.")
@click.option(
    "--min-validity",
    type=click.FloatRange(min=0),
    default=0.0,
    metavar="SECONDS",
    help="Seconds that the token must still be valid.",
)
@click.pass_obj
def token(
    app: App, *, grant: Grant, reveal: bool, header: bool, json_: bool, min_validity: float
) -> None:
    """Show when the token of a grant expires; refresh it first if necessary.

    Nothing secret is printed unless --reveal or --header asks for it. Do not put a token on a
    command line of your own: other users of the machine can see it there.
    """
    if reveal + header + json_ > 1:
        raise click.UsageError("--reveal, --header and --json exclude each other.")
    with app.manager() as manager:
        found = manager.get(grant, min_validity=min_validity)
    if reveal or header:
        _require_printable(grant, found.access_token, in_header=header)
        app.screen.line(f"{'Authorization: Bearer ' * header}{found.access_token.reveal()}")
    else:
        _print_token(app, grant, found, json_=json_)


def _require_printable(grant: Grant, token: Secret, *, in_header: bool) -> None:
    text = token.reveal()
    if is_visible_ascii(text) or (not in_header and visible(text) == text):
        return
    problem = "no header can carry" if in_header else "no terminal shows"
    raise CommandError(
        f"{grant_name(grant)}: the access token has characters that {problem} (RFC 6750 section "
        "2.1). It was not printed.",
        "Get another one: blink-oauth refresh. If that has them too, tell the bank.",
    )


@configured(
    """
blink-oauth refresh IIDX99999/u-4711
blink-oauth refresh --target IIDX99999 --username u-4711 --json
"""
)
@takes_grant
@click.option("--json", "json_", is_flag=True, help="Print one JSON object, without the token.")
@click.pass_obj
def refresh(app: App, *, grant: Grant, json_: bool) -> None:
    """Refresh the token of a grant now, although it may still be good.

    The new pair is stored before anything else. If another process refreshes the grant at this
    moment, its result is taken.
    """
    events: set[EventName] = set()
    with app.manager(lambda event: events.add(event.name)) as manager:
        found = manager.refresh(grant)
    refreshed = EventName.REFRESHED in events
    _print_token(app, grant, found, refresh_sentence(events), json_=json_, refreshed=refreshed)


def _print_token(
    app: App,
    grant: Grant,
    token: Token,
    done: str = "",
    *,
    json_: bool,
    **facts: bool,
) -> None:
    from blink_oauth.tokens import utc_now

    has_refresh_token = token.refresh_token is not None
    if json_:
        content = {
            "target_id": grant.target_id,
            "username": grant.username,
            "expires_at": token.expires_at.isoformat() if token.expires_at else None,
            "has_refresh_token": has_refresh_token,
        }
        app.screen.json(content | facts)
        return
    phrase = f"access token {expiry_phrase(token.expires_at, utc_now())}."
    phrase = f"{done} The {phrase}" if done else f"the {phrase}"
    app.screen.line(f"{grant_name(grant)}: {phrase}")
    if not has_refresh_token:
        app.screen.line("The bank gave no refresh token: the customer is needed again after that.")


def refresh_sentence(events: Collection[EventName]) -> str:
    """Return the sentence that says what a refresh did.

    Args:
        events: The events of this process.
    """
    if EventName.REFRESHED not in events:
        return "another process refreshed it at this moment; this is its result."
    if EventName.SALVAGED in events:
        return "refreshed, with an earlier refresh token, since the bank refused the last one."
    if EventName.REPLAYED in events:
        return "refreshed, with a refresh token that had been presented before."
    return "refreshed; the new pair is stored."


@configured(
    """
blink-oauth adopt IIDX99999/u-4711 < refresh-token.txt
"""
)
@takes_grant
@click.option("--json", "json_", is_flag=True, help="Print one JSON object, without the token.")
@click.pass_obj
def adopt(app: App, *, grant: Grant, json_: bool) -> None:
    """Take over a consent whose tokens another program has kept so far.

    The refresh token is read from standard input, stored, and then presented. From then on no other
    program may present it. A second run with the same refresh token presents nothing.
    """
    events: set[EventName] = set()
    with app.manager(lambda event: events.add(event.name)) as manager:
        found = manager.adopt(grant, refresh_token=_read_refresh_token())
    adopted = EventName.ADOPTED in events
    if adopted:
        done = "adopted; a new pair is stored."
    elif EventName.REFRESHED in events:
        # An earlier run has stored the refresh token, and its refresh failed.
        done = refresh_sentence(events)
    else:
        done = "the store has it already; nothing was sent."
    _print_token(app, grant, found, done, json_=json_, adopted=adopted)


def _read_refresh_token() -> Secret:
    from blink_oauth.texts import decoded, trimmed
    from blink_oauth.tokens import Secret

    if sys.stdin.isatty():
        text = click.prompt("Refresh token", hide_input=True, err=True)
    else:
        text = decoded(sys.stdin.buffer.read()) or ""
    lines = trimmed(text).splitlines()
    if len(lines) == 1:
        return Secret(lines[0])
    raise CommandError(
        f"Standard input has {'several lines' if lines else 'no refresh token'}. Nothing was sent.",
        "Write the refresh token to it, and nothing else: blink-oauth adopt … < file.",
        ExitCode.USAGE,
    )


@configured(
    """
blink-oauth revoke IIDX99999/u-4711
blink-oauth revoke IIDX99999/u-4711 --yes
"""
)
@takes_grant
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def revoke(app: App, *, grant: Grant, yes: bool) -> None:
    """Stop using a grant, and revoke every token of it at the bank.

    This is for good: to use the bank again, its customer must log in there again.
    """
    name = grant_name(grant)
    if not yes:
        require_confirmation(
            f"Revoke {name} for good?", refusal=f"{name} is not revoked", advice="Nothing was sent."
        )
    with app.manager() as manager:
        manager.revoke(grant)
    app.screen.line(f"{name}: revoked. The bank has confirmed it for every token.")


@configured(
    """
blink-oauth forget IIDX99999/u-4711
blink-oauth forget IIDX99999/u-4711 --yes
"""
)
@takes_grant
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def forget(app: App, *, grant: Grant, yes: bool) -> None:
    """Revoke a grant as revoke does, then delete all that names the customer from the store.

    For a customer who asks that their data be deleted. Backups, logs and other stores are not
    changed. To use the bank again, the customer must log in there again.
    """
    name = grant_name(grant)
    if not yes:
        require_confirmation(
            f"Revoke {name} for good, and delete its history too?",
            refusal=f"{name} is not forgotten",
            advice="Nothing was sent.",
        )
    with app.manager() as manager:
        manager.forget(grant)
    app.screen.line(f"{name}: revoked and forgotten. The store does not name it.")


COLUMNS = ("Target", "Username", "State", "Expires", "Idle days", "Outcome", "Correlation id")
MAX_NOTICES = 1_000
"""Notices that are read; `blink-oauth notices list --limit` shows more."""
NAMED_NOTICES = 3
"""Notices that get a line each."""


@configured(
    """
blink-oauth status
blink-oauth status --json | jq '.[] | select(.needs_consent)'
""",
    flags=LISTING_FLAGS,
)
@click.option("--json", "json_", is_flag=True, help="Print a JSON array of all grants.")
@click.pass_obj
def status(app: App, json_: bool) -> None:
    """List the grants: state, expiry, idle days left, last outcome, id of the last call.

    It reads the store alone: no certificate is needed, and nothing is sent. “customer needed” means
    that the customer must consent again, at the latest when the access token expires. “needs
    attention” means that the bank has refused each refresh for more than a day, and not for the
    token's sake. “unreadable” means that none of the keys opens the grant. A line below the table
    names what was odd in the responses of a target. Others name notices that are not delivered, if
    a receiver is configured or a delivery was tried; the JSON has those of each grant.
    """
    from blink_oauth.tokens import utc_now
    from blink_oauth_keeper.profile import TargetProfile
    from blink_oauth_keeper.status import statuses_of

    configuration = app.configuration
    profiles, general = configuration.target_profiles(), TargetProfile()
    client_id = configuration.client_id

    def profile_of(target_id: str) -> TargetProfile:
        return profiles.get(target_id, general)

    unreadable = 0
    odd: Counter[tuple[str, tuple[str, ...]]] = Counter()

    def counted(status: GrantStatus) -> GrantStatus:
        nonlocal unreadable
        unreadable += status.state == "unreadable"
        if status.oddities:
            odd[status.grant.target_id, tuple(sorted(status.oddities))] += 1
        return _uncertain_after_lease(status)

    with app.store() as store:
        undelivered = store.notices(client_id, limit=MAX_NOTICES)
        found = map(counted, statuses_of(store, client_id, profile_of, utc_now))
        if json_:
            app.screen.json_array(_as_json(found, undelivered))
        elif first := next(found, None):
            rows = (_row(each, utc_now()) for each in chain([first], found))
            app.screen.table(COLUMNS, rows)
        else:
            app.screen.note(f"No grant of {client_id} is stored yet. Begin with blink-oauth login.")
    for (target_id, names), number in sorted(odd.items()):
        app.screen.note(
            f"{target_id}: odd responses to {number} {'grant' if number == 1 else 'grants'}: "
            f"{', '.join(names)}. docs/operations.md says what to do about each."
        )
    if configuration.get("webhook_url") or any(entry.notice.tries for entry in undelivered):
        app.screen.note(*_notice_lines(undelivered, utc_now()))
    if unreadable and (missing := missing_key_ids(app.store_location)):
        app.screen.note(
            f"Keys that are not given seal {unreadable} grants: {', '.join(missing)}. Give them "
            "back (BLINK_STORE_KEYS_FILE)."
        )


def _row(status: GrantStatus, now: datetime) -> tuple[str, ...]:
    idle = status.idle_until
    return (
        status.grant.target_id,
        status.grant.username,
        _state(status),
        time_left(status.expires_at, now),
        "-" if idle is None else str(max(0, (idle - now).days)),
        status.error or "ok",
        status.correlation_id or "-",
    )


def _uncertain_after_lease(status: GrantStatus) -> GrantStatus:
    """Return the status, with `uncertain` for a refresh whose lease has expired.

    The record itself stays `refreshing` until the next claim of the grant.
    """
    if status.state == "refreshing" and not status.retry_in:
        return evolve(status, state=type(status.state)("uncertain"))
    return status


def _state(status: GrantStatus) -> str:
    state = status.state.value.replace("_", " ")
    if status.needs_consent and state in {"active", "uncertain", "needs attention"}:
        return f"{state}, customer needed"
    return state


def _notice_lines(undelivered: Sequence[OutboxEntry], now: datetime) -> list[str]:
    """Return lines about notices that are not delivered; dead ones and older ones first."""
    ordered = sorted(undelivered, key=lambda entry: not entry.is_dead)
    lines = [sentence(entry, now) for entry in ordered[:NAMED_NOTICES]]
    if (more := len(ordered) - NAMED_NOTICES) > 0:
        lines.append(f"{more} more notices are not delivered: blink-oauth notices list.")
    return lines


def _as_json(
    statuses: Iterable[GrantStatus], undelivered: Iterable[OutboxEntry]
) -> Iterator[dict[str, object]]:
    notices: dict[Grant, list[dict[str, object]]] = defaultdict(list)
    for entry in undelivered:
        if entry.notice.grant is not None:
            notices[entry.notice.grant].append(entry_json(entry))
    for status in statuses:
        content = asdict(status, recurse=False)
        grant = content.pop("grant")
        content["oddities"] = sorted(status.oddities)
        content["notices"] = notices.get(grant, [])
        times = {
            name: value.isoformat() if value else None
            for name, value in content.items()
            if name.endswith("_at") or name == "idle_until"
        }
        yield {"target_id": grant.target_id, "username": grant.username, **content, **times}


@configured(
    """
blink-oauth history IIDX99999/u-4711
blink-oauth history IIDX99999/u-4711 --limit 1000 --json
""",
    flags=LISTING_FLAGS,
)
@takes_grant
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
    if not entries:
        raise not_stored_error(grant_name(grant), key.client_id)
    if not json_:
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
