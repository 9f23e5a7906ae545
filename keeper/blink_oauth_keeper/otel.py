"""The keeper's events as OpenTelemetry metrics and spans (extra `otel`).

```python
manager = TokenManager(blink, store, on_event=otel_listener())
```

| Metric | Kind | Attributes |
| --- | --- | --- |
| `blink_oauth.events` | counter | `blink.event`, `blink.target_id`, `blink.outcome`, `error.type` |
| `blink_oauth.call.duration` | histogram, seconds | the same |

An event about an odd response has `blink.oddities` too, their names joined by commas.

Each code exchange and each refresh is a span, `blink_oauth.authorize` or `blink_oauth.refresh`. It
has the attributes above and `blink.grant` (a fingerprint), `blink.generation`, `blink.state`,
`blink.correlation_id` and `http.response.status_code`. None contains a secret or a username.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from opentelemetry import metrics, trace

from blink_oauth import __version__

from .events import Event, EventName, Listener

__all__ = ["otel_listener"]

NAME = "blink_oauth"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
AUTHORIZATIONS = frozenset({EventName.AUTHORIZED, EventName.AUTHORIZATION_FAILED})
# Banks respond in tenths of a second, and a lease ends after 30 s at most.
BOUNDARIES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 30.0)


def otel_listener(
    meter: metrics.Meter | None = None, tracer: trace.Tracer | None = None
) -> Listener:
    """Return a listener for `TokenManager(on_event=…)` that records metrics and spans.

    A span is as long as the call to the bank, but ends when the event is emitted, which is after
    the result is stored.

    Args:
        meter: The meter for the metrics; by default that of the global provider.
        tracer: The tracer for the spans; by default that of the global provider.
    """
    meter = meter or metrics.get_meter(NAME, __version__)
    spans = tracer or trace.get_tracer(NAME, __version__)
    events = meter.create_counter(
        "blink_oauth.events", unit="{event}", description="What happened to grants."
    )
    durations = meter.create_histogram(
        "blink_oauth.call.duration",
        unit="s",
        description="How long calls to the token endpoints of banks took.",
        explicit_bucket_boundaries_advisory=BOUNDARIES,
    )

    def listen(event: Event) -> None:
        attributes = _attributes(event)
        events.add(1, attributes)
        if event.seconds is not None:
            durations.record(event.seconds, attributes)
            _record_span(spans, event, event.seconds, attributes)

    return listen


def _attributes(event: Event) -> dict[str, str]:
    # Only attributes with few values: each combination is a time series of its own.
    attributes = {
        "blink.event": event.name.value,
        "blink.target_id": event.target_id,
        "blink.outcome": str(event.outcome),
    }
    if event.oddities:
        attributes["blink.oddities"] = ",".join(event.oddities)
    return attributes | ({} if event.error is None else {"error.type": event.error})


def _record_span(
    tracer: trace.Tracer, event: Event, seconds: float, attributes: Mapping[str, str]
) -> None:
    details = {
        "blink.grant": event.fingerprint,
        "blink.generation": event.generation,
        "blink.state": None if event.state is None else str(event.state),
        "blink.correlation_id": event.correlation_id,
        "http.response.status_code": event.status,
    }
    known = {name: value for name, value in details.items() if value is not None}
    span = tracer.start_span(
        f"{NAME}.{'authorize' if event.name in AUTHORIZATIONS else 'refresh'}",
        kind=trace.SpanKind.CLIENT,
        attributes={**attributes, **known},
        start_time=_nanoseconds(event.at - timedelta(seconds=seconds)),
    )
    if event.error is not None:
        span.set_status(trace.StatusCode.ERROR, event.error)
    span.end(end_time=_nanoseconds(event.at))


def _nanoseconds(moment: datetime) -> int:
    return (moment - EPOCH) // timedelta(microseconds=1) * 1000
