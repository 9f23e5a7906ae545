"""Dashboard, rules and page of the figures name only metrics and labels that the code exposes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

import pytest
import yaml
from attrs import asdict, frozen
from prometheus_client.parser import text_string_to_metric_families

from blink_oauth import CertificateExpiry, CertificateRole, ExpiryStage, Outcome
from blink_oauth_keeper import Event, EventName, Report, State
from blink_oauth_keeper.clocks import utc_now
from blink_oauth_keeper.figures import GrantFigures, NoticeFigures, RunFigures
from blink_oauth_keeper.prometheus import KeepAliveMetrics
from documents.examples import PROJECT

FOLDER = PROJECT / "docs" / "monitoring"
PAGE = (PROJECT / "docs" / "how-to" / "monitoring.md").read_text("utf-8")
RULES = yaml.safe_load((FOLDER / "alerts.yaml").read_text("utf-8"))["groups"][0]["rules"]
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text("utf-8"))
OF_PROMETHEUS = {"instance", "job", "le"}
"""The labels that Prometheus adds to each series, and that of the buckets of a histogram."""
VALUES = {
    "event": set(EventName),
    "outcome": {"done", *Outcome},
    "role": set(CertificateRole),
    "state": set(State),
    "result": set(asdict(Report())),
    "status": {"pending", "dead"},
}
"""The values of each label whose values are known."""


@frozen
class Exposed:
    """A metric that the code exposes."""

    kind: str
    labels: frozenset[str]


def exposed() -> dict[str, Exposed]:
    """Return the metrics of a job that has done everything, by the names that queries use."""
    now = utc_now()
    certificate = CertificateExpiry(
        role=CertificateRole.CLIENT,
        subject="CN=c",
        fingerprint="f",
        not_before=now,
        not_after=now + timedelta(days=47),
        stage=ExpiryStage.VALID,
    )
    metrics = KeepAliveMetrics(3600.0, [certificate])
    metrics.listener(
        Event(
            name=EventName.REFRESHED,
            at=now,
            grant=None,
            fingerprint="f",
            target_id="IIDX00001",
            seconds=1,
        )
    )
    metrics.notices = NoticeFigures(pending=1, dead=0, oldest=now)
    grants = GrantFigures()
    grants.states["IIDX00001", State.ACTIVE] = 1
    grants.needing_consent["IIDX00001"] = 0
    grants.idle_ends["IIDX00001"] = now + timedelta(days=1)
    metrics.ended(RunFigures(ended_at=now, seconds=1.0, report=Report(), grants=grants))
    found = {}
    for family in text_string_to_metric_families(metrics.exposition().decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        # Some versions of the library add the time at which each series began.
        if not name.endswith("_created"):
            assert family.samples, name
            labels = frozenset().union(*(sample.labels for sample in family.samples))
            found[name] = Exposed(family.type, labels - OF_PROMETHEUS)
    return found


EXPOSED = exposed()
ROW = re.compile(r"^\| `(blink_oauth_\w+)` \| (\w+) \|(.*?)\| .+ \|$", re.MULTILINE)
SELECTOR = re.compile(r"\b(blink_oauth_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)(=~|!~|!=|=)"([^"]*)"')
GROUPING = re.compile(r"\b(?:by|without|on|ignoring) \(([^)]*)\)")


def metric_of(name: str) -> Exposed | None:
    """Return the metric of a name in a query; a histogram is queried by the names of its parts."""
    histogram = EXPOSED.get(re.sub("_(bucket|sum|count)$", "", name))
    if name not in EXPOSED and histogram is not None and histogram.kind == "histogram":
        return histogram
    metric = EXPOSED.get(name)
    return None if metric is None or metric.kind == "histogram" else metric


def faults(query: str) -> Iterator[str]:
    """Yield what a query names and the code does not expose.

    Args:
        query: An expression of PromQL. It is not parsed as a whole.
    """
    known = set(OF_PROMETHEUS)
    for name, matchers in SELECTOR.findall(query):
        metric = metric_of(name)
        if metric is None:
            yield f"no metric {name}"
            continue
        known |= metric.labels
        for label, _, value in MATCHER.findall(matchers):
            if label not in metric.labels:
                yield f"no label {label} of {name}"
            values = VALUES.get(label, set(value.split("|")))
            yield from (f"no {label} {each}" for each in value.split("|") if each not in values)
    named = {label.strip() for labels in GROUPING.findall(query) for label in labels.split(",")}
    yield from (f"no label {label}" for label in sorted(named - known))


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("blink_oauth_refreshes", "no metric blink_oauth_refreshes"),
        ("rate(blink_oauth_refreshs_total[5m])", "no metric blink_oauth_refreshs_total"),
        (
            "blink_oauth_refresh_duration_seconds",
            "no metric blink_oauth_refresh_duration_seconds",
        ),
        ("blink_oauth_grants_sum", "no metric blink_oauth_grants_sum"),
        ('blink_oauth_grants{bank="x"}', "no label bank of blink_oauth_grants"),
        ('blink_oauth_grants{target="x",state=~"active|gone"}', "no state gone"),
        ('blink_oauth_events_total{event="refresh.lost"}', "no event refresh.lost"),
        ("sum by (target, outcome) (blink_oauth_grants)", "no label outcome"),
    ],
)
def test_a_name_that_is_not_exposed_is_found(query: str, fault: str) -> None:
    assert list(faults(query)) == [fault]


def test_the_page_has_a_row_for_each_metric_with_its_kind_and_labels() -> None:
    rows = {
        name: Exposed(kind, frozenset(re.findall(r"`(\w+)`", labels)))
        for name, kind, labels in ROW.findall(PAGE)
    }
    assert len(rows) == len(ROW.findall(PAGE))
    assert rows == EXPOSED


def test_the_names_follow_the_conventions_of_prometheus() -> None:
    for name, metric in EXPOSED.items():
        assert name.startswith("blink_oauth_")
        assert name.endswith("_total") is (metric.kind == "counter"), name
        labels = {"target", "outcome", "state", "event", "result", "role", "position", "status"}
        assert metric.labels <= labels


def test_the_queries_of_the_page_name_only_what_is_exposed() -> None:
    queries = [text for text in re.findall(r"`([^`\n]+)`", PAGE) if "time()" in text]
    assert len(queries) == 2
    assert [fault for query in queries for fault in faults(query)] == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_a_rule_names_only_what_is_exposed_and_says_what_to_do(rule: Mapping[str, Any]) -> None:
    assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}
    assert "blink_oauth_" in rule["expr"]
    assert list(faults(rule["expr"])) == []
    assert rule["labels"].keys() == {"severity"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert rule["annotations"].keys() == {"summary", "description"}
    # A summary may name a label only if the expression leaves it.
    named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    left = {name for group in GROUPING.findall(rule["expr"]) for name in group.split(", ")}
    assert named <= left or (not left and named <= OF_PROMETHEUS)


def test_the_page_tells_of_each_alert() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    assert set(re.findall(r"`(Blink[A-Z]\w+)`", PAGE)) == set(names)


def test_the_panels_show_only_what_is_exposed_and_each_metric_is_used() -> None:
    panels = DASHBOARD["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    (variable,) = (each for each in DASHBOARD["templating"]["list"] if each["type"] == "query")
    metric, label = re.findall(r"\((\w+), (\w+)\)", variable["query"])[0]
    assert label in EXPOSED[metric].labels
    assert [fault for query in queries for fault in faults(query)] == []
    used = " ".join([*queries, *(rule["expr"] for rule in RULES)])
    assert [name for name in EXPOSED if not re.search(rf"\b{name}(?=\b|_)", used)] == [
        # The time of the last success says more.
        "blink_oauth_keep_alive_last_run_timestamp_seconds"
    ]
    assert len({panel["id"] for panel in panels}) == len(panels)


def test_no_two_panels_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert cells.isdisjoint(own), panel["title"]
        cells |= own


def test_the_scrape_names_the_job_of_the_rules_and_their_file() -> None:
    configuration = yaml.safe_load((FOLDER / "prometheus.yaml").read_text("utf-8"))
    (job,) = configuration["scrape_configs"]
    assert any(f'job="{job["job_name"]}"' in rule["expr"] for rule in RULES)
    assert all((FOLDER / name).is_file() for name in configuration["rule_files"])
    (target,) = job["static_configs"][0]["targets"]
    assert f"--listen {target}" in PAGE
