"""The keeper's events, and the figures of a keep-alive job, as metrics for Prometheus.

It needs the extra `prometheus`. `docs/how-to/monitoring.md` has a table of the metrics. No label
names a grant, so that the number of time series depends on the number of banks alone.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from attrs import asdict, define, field
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from blink_oauth.expiry import CertificateExpiry, CertificateRole

from .events import Event, EventName, Listener
from .figures import GrantFigures, NoticeFigures, RunFigures

__all__ = ["CONTENT_TYPE", "KeepAliveMetrics", "prometheus_listener"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
"""The media type of the text format, which every version of Prometheus reads."""
AUTHORIZATIONS = frozenset({EventName.AUTHORIZED, EventName.AUTHORIZATION_FAILED})
UNSAVED = {EventName.UNSETTLED: 1, EventName.SETTLED_LATE: -1, EventName.LOST: -1}
# Banks respond in tenths of a second, and a lease ends after 30 s at most.
BUCKETS = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0)


def prometheus_listener(registry: CollectorRegistry | None = None) -> Listener:
    """Return a listener for `TokenManager(on_event=…)` that counts in a registry of Prometheus.

    Call it once for each registry, and give the listener to all managers that count there.

    Args:
        registry: The registry; by default that of prometheus-client.

    Raises:
        ValueError: The registry has these metrics already.
    """
    registry = REGISTRY if registry is None else registry
    refreshes = Counter(
        "blink_oauth_refreshes",
        "Refresh requests to a bank that have ended, and whose result is stored.",
        ("target", "outcome"),
        registry=registry,
    )
    durations = Histogram(
        "blink_oauth_refresh_duration_seconds",
        "How long refresh requests to a bank took.",
        ("target",),
        buckets=BUCKETS,
        registry=registry,
    )
    events = Counter(
        "blink_oauth_events",
        "What happened to grants, by the name of the event.",
        ("target", "event"),
        registry=registry,
    )
    unsaved = Gauge(
        "blink_oauth_unsaved_results",
        "Results that could not be stored and are in the memory of this process only.",
        registry=registry,
        multiprocess_mode="livesum",
    )

    def listen(event: Event) -> None:
        events.labels(event.target_id, event.name.value).inc()
        unsaved.inc(UNSAVED.get(event.name, 0))
        # Each request that was sent has one event with a duration, whatever its name.
        if event.seconds is not None and event.name not in AUTHORIZATIONS:
            refreshes.labels(event.target_id, str(event.outcome)).inc()
            durations.labels(event.target_id).observe(event.seconds)

    return listen


@define(eq=False)
class KeepAliveMetrics(Collector):
    """The metrics of a keep-alive job, in a registry of their own.

    Those of its grants and runs change at the end of a run: a scrape reads no store. Where
    Prometheus can compute the time left or the age, the metric is a time.

    Args:
        every: Seconds between two runs.
        certificates: The certificates that the client uses, as `Settings.certificate_expiries`
            returns them.

    Attributes:
        listener: The listener that counts events.
        notices: The notices that are not delivered; None if the job delivers none.
    """

    every: float
    certificates: Sequence[CertificateExpiry] = ()
    notices: NoticeFigures | None = field(init=False, default=None)
    listener: Listener = field(init=False)
    _registry: CollectorRegistry = field(init=False, factory=CollectorRegistry)
    _last_run: RunFigures | None = field(init=False, default=None)
    _last_success: RunFigures | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.listener = prometheus_listener(self._registry)
        self._registry.register(self)

    def exposition(self) -> bytes:
        """Return all metrics in the text format of Prometheus."""
        return generate_latest(self._registry)

    def ended(self, run: RunFigures) -> None:
        """Show the figures of a run from now on; if it failed, the grants stay as they were."""
        if run.report is not None:
            self._last_success = run
        self._last_run = run

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield all metrics; those of runs have no sample before the first one has ended."""
        run, success = self._last_run, self._last_success
        yield from _grants((success and success.grants) or GrantFigures())
        yield from _certificates(self.certificates)
        yield from _notices(self.notices)
        yield _gauge("interval_seconds", "The time between two runs.", self.every)
        yield _gauge(
            "last_run_timestamp_seconds",
            "When the last run ended, whether it succeeded or not.",
            run.ended_at.timestamp() if run else None,
        )
        yield _gauge(
            "last_run_success",
            "1 if the last run succeeded, 0 if the store could not be used.",
            float(run.report is not None) if run else None,
        )
        yield _gauge(
            "last_run_duration_seconds", "How long the last run took.", run.seconds if run else None
        )
        yield _gauge(
            "last_success_timestamp_seconds",
            "When the last run that succeeded ended. The numbers of grants are of this time.",
            success.ended_at.timestamp() if success else None,
        )
        results = GaugeMetricFamily(
            "blink_oauth_keep_alive_last_success_grants",
            "What the last run that succeeded did, as the report of refresh_due.",
            labels=("result",),
        )
        report = success and success.report
        for name, count in asdict(report).items() if report else ():
            results.add_metric((name,), count)
        yield results


def _gauge(name: str, text: str, value: float | None) -> GaugeMetricFamily:
    """Return a metric without labels; without a value it has no sample."""
    return GaugeMetricFamily(f"blink_oauth_keep_alive_{name}", text, value)


def _certificates(certificates: Iterable[CertificateExpiry]) -> Iterator[GaugeMetricFamily]:
    texts = {
        "end": "When a certificate that the client uses expires.",
        "renewal_due": "The time after which its renewal is due, by its lifetime.",
        "urgent": "The time after which its renewal is urgent, by its lifetime.",
    }
    families = {
        name: GaugeMetricFamily(
            f"blink_oauth_certificate_{name}_timestamp_seconds", text, labels=("role", "position")
        )
        for name, text in texts.items()
    }
    counts: collections.Counter[CertificateRole] = collections.Counter()
    for each in certificates:
        labels = (each.role.value, str(counts[each.role]))
        counts[each.role] += 1
        families["end"].add_metric(labels, each.not_after.timestamp())
        families["renewal_due"].add_metric(labels, each.renewal_due_at.timestamp())
        families["urgent"].add_metric(labels, each.urgent_at.timestamp())
    yield from families.values()


def _notices(figures: NoticeFigures | None) -> Iterator[GaugeMetricFamily]:
    numbers = GaugeMetricFamily(
        "blink_oauth_notices",
        "Notices that are not delivered: pending, or dead, which are not tried again.",
        labels=("status",),
    )
    if figures is not None:
        numbers.add_metric(("pending",), figures.pending)
        numbers.add_metric(("dead",), figures.dead)
    yield numbers
    oldest = figures and figures.oldest
    yield GaugeMetricFamily(
        "blink_oauth_oldest_notice_timestamp_seconds",
        "When the oldest pending notice was written.",
        oldest.timestamp() if oldest else None,
    )


def _grants(figures: GrantFigures) -> Iterator[GaugeMetricFamily]:
    states = GaugeMetricFamily(
        "blink_oauth_grants", "Grants of the store by state.", labels=("target", "state")
    )
    for (target_id, state), count in sorted(figures.states.items()):
        states.add_metric((target_id, str(state)), count)
    yield states
    needing_consent = GaugeMetricFamily(
        "blink_oauth_grants_needing_consent",
        "Grants that need a new consent of their customer, now or once the access token expires.",
        labels=("target",),
    )
    for target_id, count in sorted(figures.needing_consent.items()):
        needing_consent.add_metric((target_id,), count)
    yield needing_consent
    idle_ends = GaugeMetricFamily(
        "blink_oauth_idle_end_timestamp_seconds",
        "When the first refresh token of a bank expires unless it is used.",
        labels=("target",),
    )
    for target_id, end in sorted(figures.idle_ends.items()):
        idle_ends.add_metric((target_id,), end.timestamp())
    yield idle_ends
