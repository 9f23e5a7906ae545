"""What a keep-alive job shows to programs that watch it: its metrics, and whether it works."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from attrs import define, field

from blink_oauth.context import Grant
from blink_oauth.errors import BlinkError
from blink_oauth.expiry import CertificateExpiry
from blink_oauth_keeper.clocks import monotonic as monotonic_clock
from blink_oauth_keeper.clocks import utc_now
from blink_oauth_keeper.errors import UnknownGrantError
from blink_oauth_keeper.events import Event, EventName
from blink_oauth_keeper.figures import GrantFigures, NoticeFigures, RunFigures
from blink_oauth_keeper.prometheus import CONTENT_TYPE, KeepAliveMetrics

from .monitoring_server import Page

if TYPE_CHECKING:
    from blink_oauth_keeper import Report, TokenManager

__all__ = ["Monitor"]

LATE_AFTER = 2
"""Intervals without a run that succeeded, after which the job is not ready."""
OK = b"ok\n"
PROBE = Grant("readiness", "readiness")
"""A grant that no store has: to look for it is the cheapest way to read a store."""


@define(eq=False)
class Monitor:
    """The figures of a job, and its pages.

    Args:
        every: Seconds between two runs.
        read_certificates: Returns the certificates that the client uses.
        now: Returns the current time, aware UTC.
        monotonic: Returns seconds of a clock that never goes back.
    """

    every: float
    read_certificates: Callable[[], tuple[CertificateExpiry, ...]]
    now: Callable[[], datetime] = utc_now
    monotonic: Callable[[], float] = monotonic_clock
    _metrics: KeepAliveMetrics = field(init=False)
    _began: float = field(init=False)
    _good_at: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._metrics = KeepAliveMetrics(self.every, self.read_certificates())
        self._began = self._good_at = self.monotonic()

    def listener(self, event: Event) -> None:
        """Count an event of the manager; show the end of a renewed certificate."""
        self._metrics.listener(event)
        if event.name is EventName.CERTIFICATE_RENEWED:
            self._metrics.certificates = self.read_certificates()

    def pages(
        self, manager: TokenManager, stopping: Callable[[], bool]
    ) -> Mapping[str, Callable[[], Page]]:
        """Return what makes the page of each path.

        Args:
            manager: The manager of the job.
            stopping: Returns whether the job was told to end.
        """

        def metrics() -> Page:
            return Page(self._metrics.exposition(), content_type=CONTENT_TYPE)

        def health() -> Page:
            return Page(OK)

        def readiness() -> Page:
            fault = self._fault(manager, stopping)
            return Page(OK) if fault is None else Page(f"{fault}\n".encode(), status=503)

        return {"/metrics": metrics, "/healthz": health, "/readyz": readiness}

    def run_begins(self) -> None:
        """Note the time at which a run begins."""
        self._began = self.monotonic()

    def run_ended(self, report: Report | None = None, grants: GrantFigures | None = None) -> None:
        """Show the figures of a run, none if it failed, and the certificates of the files."""
        self._metrics.certificates = self.read_certificates()
        ended = self.monotonic()
        if report is not None:
            self._good_at = ended
        self._metrics.ended(
            RunFigures(
                ended_at=self.now(), seconds=ended - self._began, report=report, grants=grants
            )
        )

    def notices_delivered(self, undelivered: NoticeFigures) -> None:
        """Show the notices that are not delivered after a delivery."""
        self._metrics.notices = undelivered

    def _fault(self, manager: TokenManager, stopping: Callable[[], bool]) -> str | None:
        """Return why the job is not ready, or None."""
        if stopping():
            return "The job ends."
        if self.monotonic() - self._good_at > LATE_AFTER * self.every:
            return "The last run that succeeded is too long ago."
        try:
            manager.status(PROBE)
        except UnknownGrantError:
            return None
        except BlinkError as error:
            return f"The store cannot be read: {type(error).__name__}."
        return None
