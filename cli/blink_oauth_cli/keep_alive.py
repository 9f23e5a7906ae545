"""`keep-alive`: refresh what nobody uses, once or again and again."""

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

from blink_oauth_keeper.errors import SealError

from .app import App
from .errors import ExitCode
from .options import configured
from .output import parse_duration

if TYPE_CHECKING:
    from blink_oauth_keeper import Event, Report, TokenManager

__all__ = ["keep_alive"]


def duration(text: str) -> timedelta:
    """Read a length of time as click's types do.

    Raises:
        click.BadParameter: It is none.
    """
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}") from None


@frozen(kw_only=True)
class _Order:
    """What a run is to do."""

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
    type=duration,
    default="10d",
    show_default=True,
    metavar="TIME",
    help="Refresh the grants whose refresh token has no longer than this to live unused.",
)
@click.option("--every", type=duration, metavar="TIME", help="Do it again and again, as a daemon.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=10_000, help="Grants to a run at most."
)
@click.option("--concurrency", type=click.IntRange(1, 100), default=32, help="Refreshes at once.")
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
    """Refresh the grants that nobody uses, before their refresh tokens die of it.

    Run it once a day, on every node if you like: no two refresh the same grant. On a terminal it
    shows its progress, anywhere else it prints one JSON line for each event. SIGTERM and Ctrl-C
    end it when what is in the air has landed.

    The exit code is 3 if a customer is needed for any grant of the store, 4 if a refresh of this
    run is uncertain, 1 if one failed and is to be tried again, or if a key is missing.
    """
    app: App = ctx.obj
    order = _Order(within=within, limit=limit, concurrency=concurrency, dry_run=dry_run)
    with (
        _stopping() as stop,
        app.manager(None if app.screen.is_terminal else _line(app)) as manager,
    ):
        code = _run(app, manager, order, stop.is_set)
        while every is not None and not stop.wait(every.total_seconds()):
            code = _run(app, manager, order, stop.is_set)
    ctx.exit(code)


def _run(app: App, manager: TokenManager, order: _Order, stop: Callable[[], bool]) -> ExitCode:
    due = manager.refresh_due(within=order.within, limit=order.limit, dry_run=True).due
    if order.dry_run:
        _tell(app, {"event": "keep_alive.dry_run", "due": due}, f"{due} due; nothing was changed.")
        return ExitCode.DONE
    with _progress(app, due) as on_progress:
        report = manager.refresh_due(
            within=order.within,
            limit=order.limit,
            concurrency=order.concurrency,
            on_progress=on_progress,
            stop=stop,
        )
    statuses = list(manager.statuses())
    sealed = sum(each.error == SealError.__name__ for each in statuses)
    needy = sum(each.needs_consent and each.state != "revoked" for each in statuses) - sealed
    counts = ", ".join(
        f"{count} {name.replace('_', ' ')}" for name, count in asdict(report).items()
    )
    _tell(
        app,
        {
            "event": "keep_alive.finished",
            **asdict(report),
            "customers_needed": needy,
            "keys_missing": sealed,
        },
        f"{counts}. Grants that need their customer: {needy}. Sealed by a missing key: {sealed}.",
    )
    return exit_code(report, needy, sealed)


def exit_code(report: Report, needy: int, sealed: int = 0) -> ExitCode:
    """Say with a number how a run went; what needs a person comes first.

    Args:
        report: What the run did.
        needy: How many grants of the store need their customer.
        sealed: How many cannot be opened, as their key is missing.
    """
    if needy:
        return ExitCode.PERSON_NEEDED
    if report.uncertain:
        return ExitCode.UNCERTAIN
    return ExitCode.FAILED if report.failed or report.left or sealed else ExitCode.DONE


def _tell(app: App, content: dict[str, object], text: str) -> None:
    if app.screen.is_terminal:
        app.screen.line(text)
    else:
        app.screen.json(content)


def _line(app: App) -> Callable[[Event], None]:
    def tell(event: Event) -> None:
        content = asdict(event)
        name, at = content.pop("name"), content.pop("at")
        app.screen.json({"event": name.value, "at": at.isoformat(), **content})

    return tell


@contextmanager
def _progress(app: App, due: int) -> Iterator[Callable[[Report], None] | None]:
    """Show a bar on a terminal, and nothing elsewhere."""
    if not app.screen.is_terminal:
        yield None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("Keeping alive"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=app.screen.console(sys.stdout)) as bar:
        task = bar.add_task("", total=due)

        def show(report: Report) -> None:
            landed = report.refreshed + report.failed + report.uncertain
            landed += report.consent_needed + report.left
            bar.update(task, completed=landed, total=max(due, report.due))

        yield show


@contextmanager
def _stopping() -> Iterator[threading.Event]:
    """Let SIGTERM and Ctrl-C end the run in order; a second one is heard as usual."""
    stop = threading.Event()
    before: dict[int, Any] = {}

    def heed(number: int, _: object) -> None:
        stop.set()
        signal.signal(number, before[number])

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.getsignal(number)
        signal.signal(number, heed)
    try:
        yield stop
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
