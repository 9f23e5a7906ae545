"""Events as OpenTelemetry metrics and spans, read back with the SDK."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from blink_oauth import BlinkError, Grant
from blink_oauth_keeper import Event, EventName, TokenManager
from blink_oauth_keeper.otel import otel_listener
from keeper.harness import (
    PSU,
    REDIRECT_URI,
    START,
    TARGET,
    Execute,
    Harness,
    connection_refused,
    status_response,
    with_members,
)

RESPONSE_SECONDS = 1.5


class Telemetry:
    """An SDK that exports to memory."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader])
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.listener = otel_listener(
            self.meters.get_meter("test"), self.tracers.get_tracer("test")
        )

    def points(self, name: str) -> list[Any]:
        """Return the points of a metric."""
        data = self.reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def counts(self) -> dict[tuple[object, ...], float]:
        """Return the event counts by event, target, outcome and error."""
        names = ("blink.event", "blink.target_id", "blink.outcome", "error.type")
        return {
            tuple(point.attributes.get(name) for name in names): point.value
            for point in self.points("blink_oauth.events")
        }

    def spans(self) -> tuple[ReadableSpan, ...]:
        """Return the spans that have ended."""
        return self.exporter.get_finished_spans()

    def texts(self) -> str:
        """Return everything that would be exported."""
        data = self.reader.get_metrics_data()
        return "".join([span.to_json() for span in self.spans()]) + (data.to_json() if data else "")


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """Yield an SDK, and shut it down."""
    telemetry = Telemetry()
    yield telemetry
    telemetry.meters.shutdown()
    telemetry.tracers.shutdown()


@pytest.fixture
def manager(harness: Harness, telemetry: Telemetry) -> TokenManager:
    """Return a manager with an SDK; each response takes `RESPONSE_SECONDS`."""

    def slow_response(execute: Execute) -> httpx.Response:
        harness.clock.elapse(RESPONSE_SECONDS)
        return execute()

    harness.banks.respond_always(slow_response)
    return harness.make_manager(on_event=telemetry.listener)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)


def test_events_about_odd_responses_are_counted_by_what_is_odd(
    harness: Harness, manager: TokenManager, telemetry: Telemetry
) -> None:
    for _ in range(3):
        harness.authorize(manager=manager, responder=with_members(token_type="MAC", scope=7))
    counts = {
        (point.attributes["blink.event"], point.attributes.get("blink.oddities")): point.value
        for point in telemetry.points("blink_oauth.events")
    }
    names = "scope_unusable,token_type_not_bearer"
    assert counts == {
        ("grant.authorized", None): 3,
        ("response.odd", names): 1,
        ("response.odd_again", names): 2,
    }
    assert len(telemetry.spans()) == 3


def test_events_are_counted_by_name_target_and_outcome(
    harness: Harness, manager: TokenManager, telemetry: Telemetry
) -> None:
    first = harness.authorize("u-1")
    other = harness.authorize("u-1", "IIDX00002")
    harness.advance(25 * 3600)
    harness.banks.respond_next(connection_refused)
    with pytest.raises(BlinkError):
        manager.get(first)
    manager.get(other)
    assert telemetry.counts() == {
        ("grant.authorized", TARGET, "done", None): 1,
        ("grant.authorized", "IIDX00002", "done", None): 1,
        ("refresh.failed", TARGET, "not_executed", "NotConnectedError"): 1,
        ("refresh.succeeded", "IIDX00002", "done", None): 1,
    }


def test_the_duration_of_each_request_is_recorded(
    harness: Harness, manager: TokenManager, telemetry: Telemetry
) -> None:
    for number in range(3):
        harness.authorize(f"u-{number}")
    harness.advance(25 * 3600)
    for number in range(3):
        manager.get(Grant(TARGET, f"u-{number}"))
    points = {
        point.attributes["blink.event"]: point
        for point in telemetry.points("blink_oauth.call.duration")
    }
    refreshes = points["refresh.succeeded"]
    assert (refreshes.count, refreshes.sum) == (3, 3 * RESPONSE_SECONDS)
    assert points["grant.authorized"].count == 3
    bucket = next(
        i for i, bound in enumerate(refreshes.explicit_bounds) if bound >= RESPONSE_SECONDS
    )
    assert refreshes.bucket_counts[bucket] == 3
    assert refreshes.explicit_bounds[-1] == 30.0


def test_a_refresh_is_a_span_as_long_as_its_request(
    harness: Harness, manager: TokenManager, telemetry: Telemetry
) -> None:
    grant = harness.authorize()
    harness.advance(25 * 3600)
    manager.get(grant)
    _, span = telemetry.spans()
    assert span.name == "blink_oauth.refresh"
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    assert span.end_time == nanoseconds(harness.clock.now().timestamp())
    assert span.start_time == span.end_time - nanoseconds(RESPONSE_SECONDS)
    record = harness.record(grant)
    assert attributes(span) == {
        "blink.event": "refresh.succeeded",
        "blink.target_id": TARGET,
        "blink.outcome": "done",
        "blink.grant": harness.memory.fingerprint(
            f"{record.key.client_id} {TARGET} {grant.username}"
        ),
        "blink.generation": 2,
        "blink.state": "active",
        "blink.correlation_id": record.correlation_id,
    }


def test_an_authorization_is_a_span_whether_it_succeeds_or_not(
    harness: Harness, manager: TokenManager, telemetry: Telemetry
) -> None:
    grant = harness.authorize()
    harness.banks.respond_next(
        status_response(400, {"error": "invalid_grant"}), kind="authorization_code"
    )
    with pytest.raises(BlinkError):
        manager.authorize(grant, code="fake-code", redirect_uri=REDIRECT_URI, psu=PSU)
    succeeded, failed = telemetry.spans()
    assert succeeded.name == failed.name == "blink_oauth.authorize"
    assert succeeded.status.is_unset
    assert not failed.status.is_ok
    assert attributes(succeeded)["blink.event"] == "grant.authorized"
    assert attributes(failed)["blink.event"] == "grant.authorization_failed"


def test_the_span_of_a_failed_refresh_names_the_error_and_the_status(
    harness: Harness, manager: TokenManager, telemetry: Telemetry
) -> None:
    grant = harness.authorize()
    harness.advance(25 * 3600)
    harness.banks.respond_next(status_response(502, b"<html>"))
    with pytest.raises(BlinkError):
        manager.get(grant)
    span = telemetry.spans()[-1]
    assert span.status.status_code is StatusCode.ERROR
    assert span.status.description == "StatusError"
    wanted = {
        "blink.event": "refresh.uncertain",
        "blink.outcome": "uncertain",
        "error.type": "StatusError",
        "http.response.status_code": 502,
    }
    assert attributes(span).items() >= wanted.items()


def test_an_event_without_a_duration_is_counted_and_makes_no_span(telemetry: Telemetry) -> None:
    for name in EventName:
        telemetry.listener(
            Event(name=name, at=START, grant=None, fingerprint="fake-print", target_id=TARGET)
        )
    assert telemetry.counts() == {(name.value, TARGET, "done", None): 1 for name in EventName}
    assert telemetry.spans() == ()
    assert telemetry.points("blink_oauth.call.duration") == []


def test_times_of_spans_are_exact_to_the_microsecond(telemetry: Telemetry) -> None:
    time = START + timedelta(microseconds=123_457)
    telemetry.listener(
        Event(
            name=EventName.REFRESHED,
            at=time,
            grant=None,
            fingerprint="f",
            target_id=TARGET,
            seconds=0.25,
        )
    )
    (span,) = telemetry.spans()
    assert span.end_time is not None
    assert span.end_time % 1_000_000_000 == 123_457_000
    assert span.start_time == span.end_time - 250_000_000


def test_no_metric_and_no_span_contains_a_secret_or_a_username(
    harness: Harness, manager: TokenManager, telemetry: Telemetry
) -> None:
    grant = harness.authorize("u-of-the-customer")
    harness.advance(25 * 3600)
    manager.get(grant)
    manager.revoke(grant)
    texts = telemetry.texts()
    assert "grant.revoked" in texts
    secrets = {request.secret for request in harness.banks.requests} | {grant.username}
    assert len(secrets) > 3
    assert [secret for secret in secrets if secret in texts] == []


def test_metrics_have_no_attribute_of_a_single_grant(
    harness: Harness, manager: TokenManager, telemetry: Telemetry
) -> None:
    for number in range(5):
        harness.authorize(f"u-{number}")
    for name in ("blink_oauth.events", "blink_oauth.call.duration"):
        (point,) = telemetry.points(name)
        assert point.attributes.keys() == {"blink.event", "blink.target_id", "blink.outcome"}


def test_without_a_provider_the_listener_does_nothing(harness: Harness) -> None:
    assert isinstance(metrics.get_meter_provider(), metrics.MeterProvider)
    assert isinstance(trace.get_tracer_provider(), trace.TracerProvider)
    manager = harness.make_manager(on_event=otel_listener())
    grant = harness.authorize(manager=manager)
    assert manager.get(grant)
