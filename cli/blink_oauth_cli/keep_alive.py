"""`keep-alive`: refresh idle grants, once or at intervals."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

import click
from attrs import asdict, frozen

from blink_oauth_keeper.clocks import monotonic
from blink_oauth_keeper.errors import StoreError

from .app import App
from .delivery import Delivery
from .errors import ExitCode, to_command_error
from .options import configured
from .output import parse_duration
from .receiver import receiver_of
from .stopping import StopRequest, stop_on_signals

if TYPE_CHECKING:
    from blink_oauth.expiry import CertificateExpiry
    from blink_oauth_keeper import Event, Listener, Report, TokenManager

    from .monitor import Monitor
    from .monitoring_server import MonitoringServer, Page

__all__ = ["duration_option", "keep_alive"]

RETRY_AFTER = timedelta(minutes=5)
"""Time after which a watched job repeats a run that failed, unless the interval is shorter."""
DELIVERY_INTERVAL = 30.0
"""Seconds between two deliveries of notices, while a job waits for its next run."""


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
blink-oauth keep-alive --every 1h --listen 127.0.0.1:9464
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
    "--listen",
    metavar="ADDRESS:PORT",
    help="With --every, serve /metrics for Prometheus, /healthz and /readyz at this address.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Answer requests with this host name too; may be repeated.",
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
    listen: str | None,
    hosts: tuple[str, ...],
    limit: int,
    concurrency: int,
    dry_run: bool,
) -> None:
    """Refresh idle grants before their refresh tokens expire, and finish failed revocations.

    Run it once a day, on every node if you like: no two refresh the same grant. On a terminal it
    shows its progress, anywhere else it prints one JSON line for each event. On SIGTERM or Ctrl-C
    it finishes the refreshes in progress, then exits. With --every the first run is at once; with
    --listen, too, a run that cannot use the store is reported and tried again after five minutes.

    If a receiver is configured (BLINK_WEBHOOK_URL), the notices of lost consents are delivered to
    it after each run, and with --every also between two runs.

    The exit code is 3 if a customer is needed for any grant of the store; 4 if a refresh is
    uncertain; 1 if a refresh or revocation failed, a due grant was not refreshed, a bank has
    refused a grant for more than a day, a key is missing, a notice was not delivered, or a
    certificate has less than a ninth of its lifetime left (at most 10 days) or has expired.
    """
    app: App = ctx.obj
    options = _Options(within=within, limit=limit, concurrency=concurrency, dry_run=dry_run)
    if listen is not None and (every is None or dry_run):
        raise click.UsageError("--listen needs --every, and no --dry-run.")
    if hosts and listen is None:
        raise click.UsageError("--allow-host needs --listen.")
    monitor = None if listen is None or every is None else _monitor(app, every)
    receiver = receiver_of(app.configuration)
    if receiver is not None:
        # A receiver that cannot be used is a wrong configuration: nothing is sent.
        receiver.webhook()
    with (
        stop_on_signals() as stop,
        app.manager(_listener(app, monitor)) as manager,
        ExitStack() as serving,
    ):
        # Not for each run: the file of a passphrase may be missing while it is replaced.
        certificates = app.configuration.settings().certificate_expiries
        if monitor is not None and listen is not None:
            server = _server(app, listen, hosts, monitor.pages(manager, stop.is_set))
            serving.enter_context(server)
        delivery = Delivery(
            app.configuration,
            manager,
            app.screen,
            stop.is_set,
            show=None if monitor is None else monitor.notices_delivered,
            is_wanted=receiver is not None and not dry_run,
        )
        while True:
            try:
                code = _run(
                    app,
                    manager,
                    options,
                    stop.is_set,
                    monitor=monitor,
                    certificates=certificates,
                )
                pause = every
            except StoreError as error:
                if monitor is None:
                    delivery.deliver(scan=False)
                    # Only the end of the process shows that the run failed.
                    raise
                monitor.run_ended()
                delivery.deliver(scan=False)
                code, pause = _report_failure(app, error), min(every or RETRY_AFTER, RETRY_AFTER)
            else:
                delivery.deliver()
            if pause is None or _wait(stop, pause.total_seconds(), delivery):
                break
    ctx.exit(code or delivery.code)


def _wait(stop: StopRequest, seconds: float, delivery: Delivery) -> bool:
    """Wait for the next run, and deliver notices meanwhile; return whether to end instead."""
    interval = DELIVERY_INTERVAL if delivery.is_wanted else seconds
    end = monotonic() + seconds
    while (left := end - monotonic()) > 0:
        if stop.wait(min(left, interval)):
            break
        if left > interval:
            delivery.deliver(scan=False)
    return stop.is_set()


def _monitor(app: App, every: timedelta) -> Monitor:
    from .monitor import Monitor

    return Monitor(every.total_seconds(), app.configuration.settings().certificate_expiries)


def _server(
    app: App, listen: str, hosts: Collection[str], pages: Mapping[str, Callable[[], Page]]
) -> MonitoringServer:
    """Return the server of the pages, and print its address."""
    from .monitoring_server import Address, MonitoringServer

    try:
        address = Address.parse(listen)
    except ValueError as error:
        raise click.BadParameter(f"{listen!r}: {error}", param_hint="'--listen'") from None
    server = MonitoringServer(address, pages, frozenset(map(str.lower, hosts)))
    if not address.is_loopback:
        app.screen.note(
            f"Warning: other machines may reach {server.address}, where neither a password nor "
            "TLS protects the figures: the ids of your banks, and numbers of grants."
        )
    app.screen.report(
        {"event": "keep_alive.listening", "address": str(server.address)},
        f"Figures for Prometheus: http://{server.address}/metrics",
    )
    return server


def _run(
    app: App,
    manager: TokenManager,
    options: _Options,
    stop: Callable[[], bool],
    *,
    monitor: Monitor | None,
    certificates: Callable[[], Iterable[CertificateExpiry]],
) -> ExitCode:
    from blink_oauth_keeper.figures import grant_figures
    from blink_oauth_keeper.store.protocol import State

    if monitor is not None:
        monitor.run_begins()
    due = manager.refresh_due(within=options.within, limit=options.limit, dry_run=True).due
    if options.dry_run:
        app.screen.report(
            {"event": "keep_alive.dry_run", "due": due}, f"{due} due; nothing was changed."
        )
        return ExitCode.DONE
    with _progress(app, due) as on_progress:
        report = manager.refresh_due(
            within=options.within,
            limit=options.limit,
            concurrency=options.concurrency,
            on_progress=on_progress,
            stop=stop,
        )
    grants = grant_figures(manager.statuses())
    if monitor is not None:
        monitor.run_ended(report, grants)
    needing_consent = grants.needing_consent.total()
    unopened = grants.in_state(State.UNREADABLE)
    needing_attention = grants.in_state(State.NEEDS_ATTENTION)
    urgent = sum(each.stage.is_urgent for each in certificates())
    counts = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in asdict(report).items())
    app.screen.report(
        {
            "event": "keep_alive.finished",
            **asdict(report),
            "customers_needed": needing_consent,
            "keys_missing": unopened,
            "grants_refused": needing_attention,
            "certificates_urgent": urgent,
        },
        f"{counts}. Grants that need their customer: {needing_consent}. "
        f"Sealed by a missing key: {unopened}. Refused for more than a day: {needing_attention}. "
        f"Certificates to renew urgently: {urgent}.",
    )
    return exit_code(report, needing_consent, unopened, needing_attention, urgent)


def _report_failure(app: App, error: StoreError) -> ExitCode:
    reported = to_command_error(error)
    content: dict[str, object] = {"event": "keep_alive.failed", "error": type(error).__name__}
    content["reason"] = reported.what
    app.screen.report(content, f"The run failed: {reported.what}")
    return reported.code


def exit_code(
    report: Report,
    needing_consent: int,
    unopened: int = 0,
    needing_attention: int = 0,
    urgent_certificates: int = 0,
) -> ExitCode:
    """Return the exit code of a run; a grant that needs consent counts most.

    Args:
        report: The counts of the run.
        needing_consent: The number of grants in the store that need consent.
        unopened: The number of grants that cannot be opened because a key is missing.
        needing_attention: The number of grants in the store that need a person's attention.
        urgent_certificates: The number of certificates that have expired or expire soon.
    """
    if needing_consent:
        return ExitCode.CONSENT_NEEDED
    if report.uncertain:
        return ExitCode.UNCERTAIN
    failed = report.failed or report.left or report.attention_needed or report.unreadable
    failed = failed or unopened or needing_attention or urgent_certificates
    return ExitCode.FAILED if failed else ExitCode.DONE


def _listener(app: App, monitor: Monitor | None) -> Listener:
    """Return the listener that counts each event, and prints it unless to a terminal."""
    # Asked before: while a progress bar is shown, rich takes the place of standard output.
    is_printed = not app.screen.is_terminal

    def listen(event: Event) -> None:
        if monitor is not None:
            monitor.listener(event)
        if not is_printed:
            return
        content = event.log_fields()
        name, at = content.pop("name"), content.pop("at")
        app.screen.json({"event": name.value, "at": at.isoformat(), **content})

    return listen


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
