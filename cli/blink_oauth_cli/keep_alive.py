"""`keep-alive`: refresh idle grants, once or at intervals."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click
from attrs import asdict, frozen

from .app import App
from .errors import ExitCode
from .options import configured
from .output import parse_duration

if TYPE_CHECKING:
    from blink_oauth_keeper import Event, Report, TokenManager

__all__ = ["keep_alive"]


def duration_option(text: str) -> timedelta:
    """Parse a duration; used as the type of a click option.

    Raises:
        click.BadParameter: The text is no duration.
    """
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}") from None


@frozen(kw_only=True)
class _Options:
    """The options of a run; `within` is the idle time left below which a grant is due."""

    within: timedelta
    limit: int
    concurrency: int
    dry_run: bool


@configured(
    """
blink-oauth keep-alive
blink-oauth keep-alive --dry-run
blink-oauth keep-alive --every 24h          # as a service; SIGTERM ends it
blink-oauth keep-alive | tee -a keep-alive.jsonl
""",
    name="keep-alive",
)
@click.option(
    "--within",
    type=duration_option,
    default="10d",
    show_default=True,
    metavar="TIME",
    help="Refresh the grants whose refresh token expires within this time if it is not used.",
)
@click.option(
    "--every", type=duration_option, metavar="TIME", help="Do it again and again, as a daemon."
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    default=10_000,
    help="The greatest number of grants in a run.",
)
@click.option(
    "--concurrency",
    type=click.IntRange(1, 100),
    default=32,
    help="Refreshes at one bank at the same time.",
)
@click.option("--dry-run", is_flag=True, help="Only count what is due.")
@click.pass_context
def keep_alive(
    ctx: click.Context,
    *,
    within: timedelta,
    every: timedelta | None,
    limit: int,
    concurrency: int,
    dry_run: bool,
) -> None:
    """Refresh idle grants before their refresh tokens expire, and finish failed revocations.

    Run it once a day, on every node if you like: no two refresh the same grant. On a terminal it
    shows its progress, anywhere else it prints one JSON line for each event. On SIGTERM or Ctrl-C
    it finishes the refreshes in progress, then exits.

    The exit code is 3 if a customer is needed for any grant of the store; 4 if a refresh is
    uncertain; 1 if a refresh or revocation failed, a due grant was not refreshed, a bank has
    refused a grant for more than a day, or a key is missing.
    """
    app: App = ctx.obj
    options = _Options(within=within, limit=limit, concurrency=concurrency, dry_run=dry_run)
    with (
        _stop_on_signals() as stop,
        app.manager(None if app.screen.is_terminal else _json_listener(app)) as manager,
    ):
        code = _run(app, manager, options, stop.is_set)
        while every is not None and not stop.wait(every.total_seconds()):
            code = _run(app, manager, options, stop.is_set)
    ctx.exit(code)


def _run(app: App, manager: TokenManager, options: _Options, stop: Callable[[], bool]) -> ExitCode:
    due = manager.refresh_due(within=options.within, limit=options.limit, dry_run=True).due
    if options.dry_run:
        _print(app, {"event": "keep_alive.dry_run", "due": due}, f"{due} due; nothing was changed.")
        return ExitCode.DONE
    with _progress(app, due) as on_progress:
        report = manager.refresh_due(
            within=options.within,
            limit=options.limit,
            concurrency=options.concurrency,
            on_progress=on_progress,
            stop=stop,
        )
    unopened = needing_consent = needing_attention = 0
    for each in manager.statuses():
        unopened += each.state == "unreadable"
        needing_consent += each.needs_consent and each.state not in {"revoking", "revoked"}
        needing_attention += each.state == "needs_attention"
    counts = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in asdict(report).items())
    _print(
        app,
        {
            "event": "keep_alive.finished",
            **asdict(report),
            "customers_needed": needing_consent,
            "keys_missing": unopened,
            "grants_refused": needing_attention,
        },
        f"{counts}. Grants that need their customer: {needing_consent}. "
        f"Sealed by a missing key: {unopened}. Refused for more than a day: {needing_attention}.",
    )
    return exit_code(report, needing_consent, unopened, needing_attention)


def exit_code(
    report: Report, needing_consent: int, unopened: int = 0, needing_attention: int = 0
) -> ExitCode:
    """Return the exit code of a run; a grant that needs consent counts most.

    Args:
        report: The counts of the run.
        needing_consent: The number of grants in the store that need consent.
        unopened: The number of grants that cannot be opened because a key is missing.
        needing_attention: The number of grants in the store that need a person's attention.
    """
    if needing_consent:
        return ExitCode.CONSENT_NEEDED
    if report.uncertain:
        return ExitCode.UNCERTAIN
    failed = report.failed or report.left or report.attention_needed or report.unreadable
    return ExitCode.FAILED if failed or unopened or needing_attention else ExitCode.DONE


def _print(app: App, content: dict[str, object], text: str) -> None:
    if app.screen.is_terminal:
        app.screen.line(text)
    else:
        app.screen.json(content)


def _json_listener(app: App) -> Callable[[Event], None]:
    def print_event(event: Event) -> None:
        content = event.log_fields()
        name, at = content.pop("name"), content.pop("at")
        app.screen.json({"event": name.value, "at": at.isoformat(), **content})

    return print_event


@contextmanager
def _progress(app: App, due: int) -> Iterator[Callable[[Report], None] | None]:
    """Show a progress bar on a terminal, and nothing elsewhere."""
    if not app.screen.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("Keeping alive"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=app.screen.console(sys.stdout)) as bar:
        task = bar.add_task("", total=due)

        def show(report: Report) -> None:
            finished = report.refreshed + report.failed + report.uncertain
            finished += report.consent_needed + report.attention_needed + report.left
            finished += report.revoked
            bar.update(task, completed=finished, total=max(due, report.due))

        yield show


@contextmanager
def _stop_on_signals() -> Iterator[threading.Event]:
    """Yield an event that the first SIGTERM or Ctrl-C sets; the second has its usual effect."""
    stop = threading.Event()
    previous: dict[int, Any] = {}

    def request_stop(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, previous[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        previous[number] = signal.getsignal(number)
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        for each, handler in previous.items():
            signal.signal(each, handler)
