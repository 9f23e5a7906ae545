"""Events as metrics for Prometheus, read back with the parser of prometheus-client."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from blink_oauth import (
    BlinkError,
    BlinkOAuth,
    CertificateExpiry,
    CertificateRole,
    ExpiryStage,
    Grant,
    Psu,
)
from blink_oauth_keeper import (
    Event,
    EventName,
    GrantStatus,
    MemoryTokenStore,
    Report,
    State,
    TargetProfile,
    TokenManager,
    prometheus_listener,
)
from blink_oauth_keeper.figures import (
    GrantFigures,
    NoticeFigures,
    RunFigures,
    grant_figures,
    notice_figures,
)
from blink_oauth_keeper.prometheus import KeepAliveMetrics
from blink_oauth_keeper.store.outbox import Notice, NoticeKind, OutboxEntry
from blink_oauth_testing.sandbox import Sandbox
from keeper.harness import (
    START,
    TARGET,
    Execute,
    Harness,
    connection_refused,
    response_lost,
    status_response,
)

OTHER = "IIDX00002"
RESPONSE_SECONDS = 1.5
Labels = tuple[tuple[str, str], ...]


def samples(text: bytes) -> dict[str, dict[Labels, float]]:
    """Return the values of each sample's name by its labels, which are sorted."""
    found: dict[str, dict[Labels, float]] = {}
    for family in text_string_to_metric_families(text.decode("utf-8")):
        for sample in family.samples:
            values = found.setdefault(sample.name, {})
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in values, f"{sample.name} is there twice"
            values[labels] = sample.value
    return found


def labels(**values: str) -> Labels:
    return tuple(sorted(values.items()))


@pytest.fixture
def registry() -> CollectorRegistry:
    """Return an empty registry."""
    return CollectorRegistry()


@pytest.fixture
def manager(harness: Harness, registry: CollectorRegistry) -> TokenManager:
    """Return a manager that counts; each response takes `RESPONSE_SECONDS`."""

    def slow_response(execute: Execute) -> httpx.Response:
        harness.clock.elapse(RESPONSE_SECONDS)
        return execute()

    harness.banks.respond_always(slow_response)
    return harness.make_manager(on_event=prometheus_listener(registry))


def refresh(manager: TokenManager, grant: Grant) -> None:
    with suppress(BlinkError):
        manager.refresh(grant)


def test_refreshes_are_counted_by_target_and_outcome(
    harness: Harness, manager: TokenManager, registry: CollectorRegistry
) -> None:
    # Two failures in a row would open the circuit breaker of a target.
    responders = {
        "IIDX00003": connection_refused,
        "IIDX00004": response_lost,
        "IIDX00005": status_response(400, {"error": "invalid_grant"}),
    }
    refresh(manager, harness.authorize("u-0", TARGET, manager=manager))
    refresh(manager, harness.authorize("u-1", TARGET, manager=manager))
    for target_id, responder in responders.items():
        grant = harness.authorize("u-0", target_id, manager=manager)
        harness.banks.respond_next(responder)
        refresh(manager, grant)
    found = samples(generate_latest(registry))
    assert found["blink_oauth_refreshes_total"] == {
        labels(target=TARGET, outcome="done"): 2,
        labels(target="IIDX00003", outcome="not_executed"): 1,
        labels(target="IIDX00004", outcome="uncertain"): 1,
        labels(target="IIDX00005", outcome="rejected"): 1,
    }
    events = found["blink_oauth_events_total"]
    assert events[labels(target=TARGET, event="grant.authorized")] == 2
    assert events[labels(target="IIDX00005", event="grant.consent_needed")] == 1


def test_the_duration_of_each_refresh_request_is_observed(
    harness: Harness, manager: TokenManager, registry: CollectorRegistry
) -> None:
    for number in range(3):
        refresh(manager, harness.authorize(f"u-{number}", manager=manager))
    found = samples(generate_latest(registry))
    name = "blink_oauth_refresh_duration_seconds"
    assert found[f"{name}_count"] == {labels(target=TARGET): 3}
    assert found[f"{name}_sum"] == {labels(target=TARGET): 3 * RESPONSE_SECONDS}
    buckets = {dict(each)["le"]: count for each, count in found[f"{name}_bucket"].items()}
    assert (buckets["1.0"], buckets["2.0"], buckets["30.0"]) == (0, 3, 3)


def test_a_result_that_is_not_stored_is_shown_until_it_is(
    harness: Harness, manager: TokenManager, registry: CollectorRegistry
) -> None:
    def unsaved() -> float:
        return samples(generate_latest(registry))["blink_oauth_unsaved_results"][()]

    grant = harness.authorize(manager=manager)
    assert unsaved() == 0
    harness.faulty.fail("settle")
    manager.refresh(grant)
    assert unsaved() == 1
    harness.faulty.recover()
    harness.advance(60)
    assert unsaved() == 0
    assert samples(generate_latest(registry))["blink_oauth_refreshes_total"] == {
        labels(target=TARGET, outcome="done"): 1
    }


def test_a_lost_result_is_not_waited_for(registry: CollectorRegistry) -> None:
    listen = prometheus_listener(registry)
    for name in (EventName.UNSETTLED, EventName.UNSETTLED, EventName.LOST, EventName.SETTLED_LATE):
        listen(Event(name=name, at=START, grant=None, fingerprint="f", target_id=TARGET))
    assert samples(generate_latest(registry))["blink_oauth_unsaved_results"] == {(): 0}


def test_each_event_is_counted_and_no_label_names_a_grant(
    harness: Harness, registry: CollectorRegistry
) -> None:
    listen = prometheus_listener(registry)
    for username in ("u-1", "u-2"):
        for name in EventName:
            listen(
                Event(
                    name=name,
                    at=START,
                    grant=Grant(TARGET, username),
                    fingerprint=f"fingerprint-of-{username}",
                    target_id=TARGET,
                    seconds=0.5,
                )
            )
    text = generate_latest(registry)
    assert samples(text)["blink_oauth_events_total"] == {
        labels(target=TARGET, event=name.value): 2 for name in EventName
    }
    assert not any(word in text for word in (b"u-1", b"u-2", b"fingerprint-of"))


def test_a_registry_has_one_listener(registry: CollectorRegistry) -> None:
    prometheus_listener(registry)
    with pytest.raises(ValueError, match="blink_oauth_refreshes"):
        prometheus_listener(registry)


# The figures of runs


def status(target_id: str, state: State, **changes: object) -> GrantStatus:
    values: dict[str, object] = {
        "usable": True,
        "needs_consent": False,
        "expires_at": START,
        "refresh_at": START,
        "idle_until": START + timedelta(days=20),
        "generation": 1,
        "consent": 1,
        "attempts": 0,
        "retry_in": 0.0,
        "error": None,
        "correlation_id": None,
        "updated_at": START,
    }
    return GrantStatus(grant=Grant(target_id, "u"), state=state, **values | changes)  # type: ignore[arg-type]


def test_grants_are_counted_by_target_and_state() -> None:
    soon = START + timedelta(days=3)
    figures = grant_figures(
        [
            status(TARGET, State.ACTIVE),
            status(TARGET, State.ACTIVE, idle_until=soon),
            status(TARGET, State.ACTIVE, needs_consent=True, idle_until=None),
            status(TARGET, State.NEEDS_CONSENT, needs_consent=True, idle_until=START),
            status(TARGET, State.REVOKED, needs_consent=True, idle_until=START),
            status(OTHER, State.REVOKING, needs_consent=True, idle_until=START),
            status(OTHER, State.UNREADABLE, idle_until=None),
        ]
    )
    assert figures.states == {
        (TARGET, State.ACTIVE): 3,
        (TARGET, State.NEEDS_CONSENT): 1,
        (TARGET, State.REVOKED): 1,
        (OTHER, State.REVOKING): 1,
        (OTHER, State.UNREADABLE): 1,
    }
    assert figures.needing_consent == {TARGET: 2, OTHER: 0}
    assert figures.idle_ends == {TARGET: soon}
    assert (figures.in_state(State.ACTIVE), figures.in_state(State.UNCERTAIN)) == (3, 0)


def certificate(role: str, *, days: int) -> CertificateExpiry:
    """Return a certificate with this lifetime."""
    return CertificateExpiry(
        role=CertificateRole(role),
        subject="CN=c",
        fingerprint="f",
        not_before=START,
        not_after=START + timedelta(days=days),
        stage=ExpiryStage.VALID,
    )


def test_a_run_changes_the_figures_and_a_failed_one_leaves_the_grants() -> None:
    certificates = [
        certificate("client", days=47),
        certificate("issuer", days=900),
        certificate("issuer", days=9),
    ]
    metrics = KeepAliveMetrics(3600.0, certificates)
    before = samples(metrics.exposition())
    prefix = "blink_oauth_keep_alive_"
    assert before[f"{prefix}interval_seconds"] == {(): 3600}
    days = {
        "end": (47, 900, 9),
        "renewal_due": (47 * 2 / 3, 870, 6),
        "urgent": (47 * 8 / 9, 890, 8),
    }
    positions = (("client", "0"), ("issuer", "0"), ("issuer", "1"))
    for name, each in days.items():
        assert before[f"blink_oauth_certificate_{name}_timestamp_seconds"] == {
            labels(role=role, position=position): pytest.approx(START.timestamp() + day * 86_400)
            for (role, position), day in zip(positions, each, strict=True)
        }
    assert not any("_last_" in name or name.startswith("blink_oauth_grants") for name in before)

    figures = grant_figures([status(TARGET, State.ACTIVE)])
    metrics.ended(
        RunFigures(
            ended_at=START, seconds=2.5, report=Report(due=3, refreshed=2, failed=1), grants=figures
        )
    )
    found = samples(metrics.exposition())
    assert found[f"{prefix}last_run_success"] == {(): 1}
    assert found[f"{prefix}last_run_duration_seconds"] == {(): 2.5}
    assert found[f"{prefix}last_run_timestamp_seconds"] == {(): START.timestamp()}
    results = found[f"{prefix}last_success_grants"]
    assert results[labels(result="refreshed")] == 2
    assert len(results) == 9
    assert found["blink_oauth_grants"] == {labels(target=TARGET, state="active"): 1}
    assert found["blink_oauth_grants_needing_consent"] == {labels(target=TARGET): 0}
    assert found["blink_oauth_idle_end_timestamp_seconds"] == {
        labels(target=TARGET): (START + timedelta(days=20)).timestamp()
    }

    metrics.ended(RunFigures(ended_at=START + timedelta(hours=1), seconds=0.5))
    failed = samples(metrics.exposition())
    assert failed[f"{prefix}last_run_success"] == {(): 0}
    assert failed[f"{prefix}last_run_timestamp_seconds"] == {(): START.timestamp() + 3600}
    same = ("last_success_timestamp_seconds", "last_success_grants")
    for name in ("blink_oauth_grants", *(f"{prefix}{each}" for each in same)):
        assert failed[name] == found[name]

    metrics.ended(RunFigures(ended_at=START, seconds=1, report=Report(), grants=GrantFigures()))
    assert "blink_oauth_grants" not in samples(metrics.exposition())


def entry(hours: int, *, is_dead: bool) -> OutboxEntry:
    notice = Notice(
        id=f"id-{hours}",
        kind=NoticeKind.LOST,
        client_id="CIDX0000000002",
        grant=Grant(TARGET, "u"),
        generation=1,
        at=START + timedelta(hours=hours),
    )
    return OutboxEntry(notice=notice, is_dead=is_dead, due_in=0.0)


def test_the_oldest_notice_is_one_that_is_pending() -> None:
    entries = [entry(1, is_dead=True), entry(3, is_dead=False), entry(2, is_dead=False)]
    assert notice_figures(entries) == NoticeFigures(
        pending=2, dead=1, oldest=START + timedelta(hours=2)
    )
    assert notice_figures(entries[:1]) == NoticeFigures(dead=1)


def test_a_job_that_delivers_shows_what_is_not_delivered_and_another_one_shows_nothing() -> None:
    metrics = KeepAliveMetrics(3600.0)
    name, oldest = "blink_oauth_notices", "blink_oauth_oldest_notice_timestamp_seconds"
    assert {name, oldest}.isdisjoint(samples(metrics.exposition()))
    metrics.notices = notice_figures([entry(1, is_dead=False), entry(2, is_dead=True)])
    found = samples(metrics.exposition())
    assert found[name] == {labels(status="pending"): 1, labels(status="dead"): 1}
    assert found[oldest] == {(): START.timestamp() + 3600}
    metrics.notices = NoticeFigures()
    found = samples(metrics.exposition())
    assert found[name] == {labels(status="pending"): 0, labels(status="dead"): 0}
    assert oldest not in found


# During a storm

THREADS, GRANTS = 8, 8


@pytest.fixture
def storm(blink_sandbox: Sandbox, registry: CollectorRegistry) -> Iterator[TokenManager]:
    """Yield a manager of the sandbox that counts; it does not replay by itself."""
    with (
        BlinkOAuth(blink_sandbox.settings()) as blink,
        TokenManager(
            blink,
            MemoryTokenStore(),
            profile=TargetProfile(after_uncertainty="hold"),
            on_event=prometheus_listener(registry),
        ) as manager,
    ):
        yield manager


def test_a_scrape_during_a_storm_parses_and_the_counters_fit_the_requests_exactly(
    blink_sandbox: Sandbox, registry: CollectorRegistry, storm: TokenManager
) -> None:
    grants = [
        Grant(target_id, f"u-{number}") for target_id in (TARGET, OTHER) for number in range(GRANTS)
    ]
    for grant in grants:
        storm.authorize(
            grant,
            code=blink_sandbox.issue_code(grant),
            redirect_uri=blink_sandbox.redirect_uri,
            psu=Psu.AUTO,
        )
    faults = {"too-many-requests": "not_executed", "reset-after": "uncertain"}
    for fault, target_id in zip(faults, (TARGET, OTHER), strict=True):
        blink_sandbox.fail(fault, target_id=target_id, operation="request_token", times=1)
    ended = threading.Event()

    def scrape() -> list[float]:
        totals = []
        while not ended.is_set():
            found = samples(generate_latest(registry))
            totals.append(sum(found.get("blink_oauth_refreshes_total", {}).values()))
        return totals

    with ThreadPoolExecutor(THREADS + 1) as threads:
        scraping = threads.submit(scrape)
        list(threads.map(lambda grant: refresh(storm, grant), grants * 2))
        ended.set()
        totals = scraping.result()
    requests = Counter(
        (str(each.target_id), faults.get(each.fault or "", "done"))
        for each in blink_sandbox.exchanges
        if ("grant_type", "refresh_token") in each.form
    )
    assert {outcome for _, outcome in requests} == {"done", "not_executed", "uncertain"}
    found = samples(generate_latest(registry))
    assert found["blink_oauth_refreshes_total"] == {
        labels(target=target_id, outcome=outcome): count
        for (target_id, outcome), count in requests.items()
    }
    assert sum(found["blink_oauth_refresh_duration_seconds_count"].values()) == requests.total()
    assert totals == sorted(totals)
    assert len(totals) > 1
