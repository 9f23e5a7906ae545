"""Deliver notices to the configured receiver, and report it as `keep-alive` reports its runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from attrs import asdict, define, field

from blink_oauth_keeper.errors import StoreError

from .errors import CommandError, ExitCode, to_command_error
from .output import Screen
from .receiver import Receiver, receiver_of

if TYPE_CHECKING:
    from blink_oauth_keeper import TokenManager, Webhook
    from blink_oauth_keeper.figures import NoticeFigures

    from .configuration import Configuration

__all__ = ["COUNTED", "Delivery"]

COUNTED = 10_000
"""Notices that are counted after a delivery."""


@define(eq=False)
class Delivery:
    """Delivers what is due, as often as it is called.

    Args:
        configuration: The configuration. The secrets of its receiver are read at each delivery:
            they may be replaced while the command runs.
        manager: The manager.
        screen: Prints to the two output streams.
        stop: Returns whether to begin no more deliveries.
        show: Receives the numbers of notices that are not delivered, after each delivery.
        is_wanted: Whether to deliver at all.

    Attributes:
        code: The exit code of the last delivery.
    """

    configuration: Configuration
    manager: TokenManager
    screen: Screen
    stop: Callable[[], bool]
    show: Callable[[NoticeFigures], None] | None = None
    is_wanted: bool = True
    code: ExitCode = field(init=False, default=ExitCode.DONE)
    _webhook: tuple[Receiver, Webhook] | None = field(init=False, default=None)

    def deliver(self, *, scan: bool = True) -> None:
        """Deliver what is due, and print what was done; a failure is printed and not raised.

        Args:
            scan: Whether to search for grants and certificates that end soon first.
        """
        if not self.is_wanted:
            return
        try:
            self.code = self._deliver(scan=scan)
        except (CommandError, StoreError) as error:
            reported = error if isinstance(error, CommandError) else to_command_error(error)
            content = {"event": "notices.failed", "error": type(error).__name__}
            self.screen.report(
                content | {"reason": reported.what}, f"No notice was delivered: {reported.what}"
            )
            self.code = ExitCode.FAILED

    def _deliver(self, *, scan: bool) -> ExitCode:
        from blink_oauth_keeper.figures import notice_figures

        webhook = self._current_webhook()
        if webhook is None:
            return ExitCode.DONE
        report = self.manager.deliver_notices(webhook, scan=scan, stop=self.stop)
        entries = self.manager.notices(limit=COUNTED)
        undelivered = notice_figures(entries)
        if self.show is not None:
            self.show(undelivered)
        tried = report.delivered + report.failed + report.dead
        if tried or (scan and (undelivered.pending or undelivered.dead)):
            self.screen.report(
                {
                    "event": "notices.finished",
                    **asdict(report),
                    "notices_dead": undelivered.dead,
                },
                f"Notices delivered: {report.delivered}. Failed: {report.failed + report.dead}. "
                f"Still to be delivered: {undelivered.pending}. Dead: {undelivered.dead}.",
            )
        # A notice that was claimed and given back may be tried at once; one that failed waits.
        failed = undelivered.dead or any(each.notice.tries and each.due_in > 0 for each in entries)
        return ExitCode.FAILED if failed else ExitCode.DONE

    def _current_webhook(self) -> Webhook | None:
        receiver = receiver_of(self.configuration)
        if receiver is None:
            return None
        # It is kept while the receiver stays the same, since it has the pause that one asked for.
        if self._webhook is None or self._webhook[0] != receiver:
            self._webhook = (receiver, receiver.webhook())
        return self._webhook[1]
