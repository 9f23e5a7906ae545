"""`keep-alive --listen`: its pages, its refusals, and the job behind them."""

from __future__ import annotations

import io
import json
import os
import signal
import socket
import sqlite3
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime

import httpx
import pytest
from attrs import define, field, frozen
from prometheus_client.parser import text_string_to_metric_families

from blink_oauth import (
    BlinkOAuth,
    CertificateExpiry,
    CertificateReport,
    CertificateRole,
    ExpiryStage,
    check_certificate,
)
from blink_oauth_cli.errors import CommandError, ExitCode
from blink_oauth_cli.main import run
from blink_oauth_cli.monitor import Monitor
from blink_oauth_cli.monitoring_server import MAX_CONNECTIONS, Address, MonitoringServer, Page
from blink_oauth_keeper import (
    Event,
    EventName,
    GrantKey,
    MemoryTokenStore,
    Record,
    Report,
    StoreError,
    TokenManager,
)
from blink_oauth_keeper.figures import GrantFigures
from blink_oauth_testing.sandbox import Fault
from cli.cli_harness import TARGET, USERNAME, Harness, require_two_lines

TIMEOUT = 30.0
IDLE_LIFETIME = 29 * 86_400.0
LOOPBACK = Address("127.0.0.1", 0)
STORM = 24
"""Grants that are refreshed at once."""
LISTEN = ("keep-alive", "--within", "30d", "--every", "1h", "--listen", "127.0.0.1:0")


# The address


@pytest.mark.parametrize(
    ("text", "host", "port", "is_loopback"),
    [
        ("127.0.0.1:9464", "127.0.0.1", 9464, True),
        ("localhost:0", "127.0.0.1", 0, True),
        (" [::1]:9464 ", "::1", 9464, True),
        ("0.0.0.0:9464", "0.0.0.0", 9464, False),
        ("[::]:9464", "::", 9464, False),
        ("192.0.2.7:65535", "192.0.2.7", 65_535, False),
    ],
)
def test_an_address_is_an_ip_address_and_a_port(
    text: str, host: str, port: int, is_loopback: bool
) -> None:
    address = Address.parse(text)
    assert address == Address(host, port)
    assert address.is_loopback is is_loopback
    assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "9464",
        ":9464",
        "127.0.0.1",
        "127.0.0.1:65536",
        "127.0.0.1:x",
        "::1:9464",
        "metrics:9464",
    ],
)
def test_another_text_is_no_address(text: str) -> None:
    with pytest.raises(ValueError, match="write an IP address and a port"):
        Address.parse(text)


# The server


@pytest.fixture(scope="module")
def server() -> Iterator[MonitoringServer]:
    """Yield a server with one page and one further host name."""
    pages = {"/page": lambda: Page(b"content\n")}
    with MonitoringServer(LOOPBACK, pages, {"keep-alive.internal"}) as server:
        yield server


def send(server: MonitoringServer, request: str) -> tuple[int, Mapping[str, str], bytes]:
    """Send a request as it is, and return the status, the headers and the body."""
    address = (server.address.host, server.address.port)
    with socket.create_connection(address, timeout=TIMEOUT) as connection:
        connection.sendall(request.replace("\n", "\r\n").encode())
        with connection.makefile("rb") as file:
            head, _, body = file.read().partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    return int(first.split(" ")[1]), headers, body


HOSTS = {
    "127.0.0.1": 200,
    "127.0.0.1:9464": 200,
    "localhost:9464": 200,
    "LOCALHOST": 200,
    "[::1]:9464": 200,
    "keep-alive.internal:9464": 200,
    "rebinding.example": 400,
    "rebinding.example:9464": 400,
    "127.0.0.1.rebinding.example": 400,
    "localhost.rebinding.example": 400,
    "192.0.2.7:9464": 400,
    "127.0.0.1@rebinding.example": 400,
    "": 400,
}


@pytest.mark.parametrize(("host", "status"), HOSTS.items())
def test_a_request_must_name_the_server_as_its_host(
    server: MonitoringServer, host: str, status: int
) -> None:
    seen, headers, body = send(server, f"GET /page?a=b HTTP/1.1\nHost: {host}\n\n")
    assert seen == status
    assert body == (b"content\n" if status == 200 else b"400\n")
    assert (headers["Server"], headers["Connection"]) == ("blink-oauth", "close")


def test_a_server_that_other_machines_reach_answers_by_its_addresses_and_no_foreign_name() -> None:
    with MonitoringServer(Address("0.0.0.0", 0), {}) as server:
        assert server.accepts("192.0.2.7:9464")
        assert server.accepts("[2001:db8::7]:9464")
        assert not server.accepts("rebinding.example:9464")


@pytest.mark.parametrize(
    ("request_text", "status"),
    [
        ("GET /page HTTP/1.1\n\n", 400),
        ("GET /page HTTP/1.1\nHost: localhost\nHost: localhost\n\n", 400),
        ("POST /page HTTP/1.1\nHost: localhost\n\n", 405),
        ("OPTIONS /page HTTP/1.1\nHost: localhost\n\n", 405),
        ("GET / HTTP/1.1\nHost: localhost\n\n", 404),
        ("GET /page/ HTTP/1.1\nHost: localhost\n\n", 404),
        (f"GET /{'x' * 3_000} HTTP/1.1\nHost: localhost\n\n", 414),
        ("GET http://rebinding.example/page HTTP/1.1\nHost: localhost\n\n", 404),
    ],
)
def test_any_other_request_is_refused_and_not_quoted(
    server: MonitoringServer, request_text: str, status: int
) -> None:
    seen, headers, body = send(server, request_text)
    assert (seen, body) == (status, f"{status}\n".encode())
    assert headers.get("Allow") == ("GET, HEAD" if status == 405 else None)


def test_a_request_of_http_0_9_is_refused(server: MonitoringServer) -> None:
    address = (server.address.host, server.address.port)
    with socket.create_connection(address, timeout=TIMEOUT) as connection:
        connection.sendall(b"GET /page\r\n\r\n")
        with connection.makefile("rb") as file:
            assert file.read() == b"400\n"


def test_head_has_the_headers_of_get_and_no_body(server: MonitoringServer) -> None:
    got = send(server, "GET /page HTTP/1.1\nHost: localhost\n\n")
    head = send(server, "HEAD /page HTTP/1.1\nHost: localhost\n\n")
    assert head[0] == 200
    assert {**head[1], "Date": ""} == {**got[1], "Date": ""}
    assert (head[2], head[1]["Content-Length"]) == (b"", "8")


def test_connections_that_hang_do_not_keep_others_away(server: MonitoringServer) -> None:
    address = (server.address.host, server.address.port)
    silent = [
        socket.create_connection(address, timeout=TIMEOUT) for _ in range(MAX_CONNECTIONS + 1)
    ]
    try:
        assert send(server, "GET /page HTTP/1.1\nHost: localhost\n\n")[0] == 200
        # The oldest two were closed, for the last silent one and for the request.
        assert [each.recv(1) for each in silent[:2]] == [b"", b""]
        silent[-1].sendall(b"GET /page HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert silent[-1].recv(12) == b"HTTP/1.0 200"
    finally:
        for each in silent:
            each.close()


def test_nothing_is_printed_for_a_request(
    server: MonitoringServer, capfd: pytest.CaptureFixture[str]
) -> None:
    for line in ("GET /page", "GET /", "PUT /page"):
        for host in ("localhost", "rebinding.example"):
            send(server, f"{line} HTTP/1.1\nHost: {host}\n\n")
    assert capfd.readouterr() == ("", "")


def test_a_port_in_use_is_told(server: MonitoringServer) -> None:
    with pytest.raises(CommandError, match="cannot be listened on") as caught:
        MonitoringServer(server.address, {})
    assert caught.value.code is ExitCode.USAGE


# Readiness


class UnreadableStore(MemoryTokenStore):
    """A store that cannot be read while `is_unreadable`."""

    is_unreadable = False

    def load(self, key: GrantKey) -> Record | None:
        if self.is_unreadable:
            raise StoreError("The store is unavailable.")
        return super().load(key)


@define
class Job:
    """A job whose clock and whose end the test decides."""

    manager: TokenManager
    store: UnreadableStore
    seconds: float = 0.0
    stopping: bool = False
    certificates: tuple[CertificateExpiry, ...] = ()
    monitor: Monitor = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.monitor = Monitor(3600.0, lambda: self.certificates, monotonic=lambda: self.seconds)

    def page(self, path: str) -> tuple[int, str]:
        """Return the status and the text of a page."""
        page = self.monitor.pages(self.manager, lambda: self.stopping)[path]()
        return page.status, page.body.decode()


@pytest.fixture
def job(harness: Harness) -> Iterator[Job]:
    """Yield a job that has just started."""
    store = UnreadableStore()
    with (
        BlinkOAuth(harness.sandbox.settings(certificate=harness.context)) as blink,
        TokenManager(blink, store) as manager,
    ):
        yield Job(manager, store)


def test_a_job_is_ready_from_its_start_until_two_intervals_without_success(job: Job) -> None:
    assert job.page("/readyz") == (200, "ok\n")
    job.seconds = 2 * 3600.0
    assert job.page("/readyz")[0] == 200
    job.seconds += 1
    assert job.page("/readyz") == (503, "The last run that succeeded is too long ago.\n")
    job.monitor.run_ended()
    assert job.page("/readyz")[0] == 503
    job.monitor.run_ended(Report(), GrantFigures())
    assert job.page("/readyz") == (200, "ok\n")


def test_a_job_with_an_unreadable_store_lives_and_is_not_ready(job: Job) -> None:
    job.store.is_unreadable = True
    assert job.page("/readyz") == (503, "The store cannot be read: StoreError.\n")
    assert job.page("/healthz") == (200, "ok\n")
    job.store.is_unreadable = False
    assert job.page("/readyz")[0] == 200


def test_a_job_that_ends_is_not_ready(job: Job) -> None:
    job.stopping = True
    assert job.page("/readyz") == (503, "The job ends.\n")
    assert job.page("/healthz") == (200, "ok\n")


def expiring(year: int) -> CertificateExpiry:
    """Return a certificate that expires in a year."""
    return CertificateExpiry(
        role=CertificateRole.CLIENT,
        subject="CN=c",
        fingerprint="f",
        not_before=datetime(2026, 1, 1, tzinfo=UTC),
        not_after=datetime(year, 1, 1, tzinfo=UTC),
        stage=ExpiryStage.VALID,
    )


def test_the_end_of_a_renewed_certificate_is_shown_and_that_of_the_files_after_a_run(
    job: Job,
) -> None:
    job.certificates = (expiring(2030),)
    metric = 'blink_oauth_certificate_end_timestamp_seconds{position="0",role="client"}'
    assert metric not in job.page("/metrics")[1]
    job.monitor.listener(
        Event(
            name=EventName.CERTIFICATE_RENEWED,
            at=datetime.now(UTC),
            grant=None,
            fingerprint="",
            target_id="",
        )
    )
    assert f"{metric} {end_of(job):e}" in job.page("/metrics")[1]
    job.certificates = (expiring(2031),)
    job.monitor.run_ended()
    assert f"{metric} {end_of(job):e}" in job.page("/metrics")[1]


def end_of(job: Job) -> float:
    return job.certificates[0].not_after.timestamp()


# The job


@frozen
class Figures:
    """The pages of a running job."""

    address: str

    def get(self, path: str) -> httpx.Response:
        """Return a page."""
        return httpx.get(f"http://{self.address}{path}", trust_env=False, timeout=TIMEOUT)

    def value(self, name: str, **labels: str) -> float:
        """Return the value of a metric with exactly these labels."""
        response = self.get("/metrics")
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        (value,) = [
            sample.value
            for family in text_string_to_metric_families(response.text)
            for sample in family.samples
            if (sample.name, sample.labels) == (name, labels)
        ]
        return value


React = Callable[[Figures], None]


class Output(io.StringIO):
    """Standard output that calls a function as soon as an event is printed.

    So a test looks at the job in the middle of its work, without waiting for anything.
    """

    def __init__(self, reactions: Mapping[str, React]) -> None:
        super().__init__()
        self.reactions = reactions
        self.figures = Figures("")
        self.events: list[str] = []

    def write(self, text: str) -> int:
        content = json.loads(text)
        self.events.append(content["event"])
        if content["event"] == "keep_alive.listening":
            self.figures = Figures(content["address"])
        if reaction := self.reactions.get(content["event"]):
            reaction(self.figures)
        return super().write(text)


def run_job(harness: Harness, reactions: Mapping[str, React]) -> tuple[int, list[str], str]:
    """Run the job until a reaction ends it; return exit code, events and error output."""
    output = Output(reactions)
    harness.capture.readouterr()
    harness.monkeypatch.setattr(sys, "stdout", output)
    code = run(LISTEN)
    harness.monkeypatch.undo()
    return code, output.events, harness.capture.readouterr().err


def end(_: Figures) -> None:
    signal.raise_signal(signal.SIGTERM)


def test_a_watched_job_serves_its_figures_and_ends_on_sigterm(harness: Harness) -> None:
    harness.authorize(idle_lifetime=IDLE_LIFETIME)
    report: CertificateReport = check_certificate(
        harness.sandbox.client_certificate(), now=datetime.now(UTC)
    )
    seen = []

    def look(figures: Figures) -> None:
        assert figures.value("blink_oauth_refreshes_total", target=TARGET, outcome="done") == 1
        assert figures.value("blink_oauth_grants", target=TARGET, state="active") == 1
        assert figures.value("blink_oauth_keep_alive_interval_seconds") == 3600
        assert figures.value("blink_oauth_keep_alive_last_run_success") == 1
        name = "blink_oauth_certificate_end_timestamp_seconds"
        ends = [
            figures.value(name, role=role, position="0")
            for role in ("client", "issuer", "authority")
        ]
        assert ends == [each.not_after.timestamp() for each in report.expiries]
        assert USERNAME not in figures.get("/metrics").text
        pages = {path: figures.get(path).status_code for path in ("/healthz", "/readyz", "/")}
        assert pages == {"/healthz": 200, "/readyz": 200, "/": 404}
        seen.append(figures)
        end(figures)
        assert figures.get("/readyz").status_code == 503

    code, events, errors = run_job(harness, {"keep_alive.finished": look})
    assert (code, errors) == (0, "")
    assert events == ["keep_alive.listening", "refresh.succeeded", "keep_alive.finished"]
    with pytest.raises(httpx.ConnectError):
        seen[0].get("/healthz")


def test_pages_scraped_during_a_storm_parse_and_count_the_requests_of_the_sandbox_exactly(
    harness: Harness,
) -> None:
    harness.authorize(*(f"u-{number}" for number in range(STORM)), idle_lifetime=IDLE_LIFETIME)
    harness.sandbox.fail("too-many-requests", operation="request_token", times=1)
    name, is_over, totals = "blink_oauth_refreshes_total", threading.Event(), []

    def counts(figures: Figures) -> Counter[str]:
        return Counter(
            {
                sample.labels["outcome"]: int(sample.value)
                for family in text_string_to_metric_families(figures.get("/metrics").text)
                for sample in family.samples
                if sample.name == name
            }
        )

    def scrape(figures: Figures) -> None:
        while not is_over.is_set():
            totals.append(counts(figures).total())

    def look(figures: Figures) -> None:
        is_over.set()
        scraping.result()
        requests = Counter(
            "not_executed" if each.fault else "done"
            for each in harness.sandbox.exchanges
            if ("grant_type", "refresh_token") in each.form
        )
        assert requests.keys() == {"done", "not_executed"}
        assert counts(figures) == requests
        end(figures)

    scraping: Future[None] = Future()

    def begin(figures: Figures) -> None:
        nonlocal scraping
        scraping = threads.submit(scrape, figures)

    with ThreadPoolExecutor(1) as threads:
        run_job(harness, {"keep_alive.listening": begin, "keep_alive.finished": look})
    assert totals == sorted(totals)
    assert len(totals) > 1


def test_sigterm_during_a_refresh_ends_the_job_with_the_result_stored(harness: Harness) -> None:
    harness.authorize(idle_lifetime=IDLE_LIFETIME)
    before = harness.record()

    def interrupt(response: object) -> object:
        os.kill(os.getpid(), signal.SIGTERM)
        return response

    fault = Fault("interrupting", executes=True, change=interrupt)  # type: ignore[arg-type]
    harness.sandbox.fail(fault, operation="request_token")
    code, events, errors = run_job(harness, {})
    assert (code, errors) == (0, "")
    assert events == ["keep_alive.listening", "refresh.succeeded", "keep_alive.finished"]
    after = harness.record()
    assert (after.state, after.generation) == ("active", before.generation + 1)


def test_a_watched_job_survives_a_run_that_cannot_use_the_store(stored: Harness) -> None:
    def spoil(_: Figures) -> None:
        with closing(sqlite3.connect(stored.file)) as connection:
            connection.execute("ALTER TABLE blink_oauth_grants RENAME TO elsewhere")

    def look(figures: Figures) -> None:
        assert figures.value("blink_oauth_keep_alive_last_run_success") == 0
        assert figures.get("/healthz").status_code == 200
        response = figures.get("/readyz")
        assert response.status_code == 503
        assert response.text.startswith("The store cannot be read: ")
        end(figures)

    reactions = {"keep_alive.listening": spoil, "keep_alive.failed": look}
    code, events, _ = run_job(stored, reactions)
    assert (code, events) == (1, ["keep_alive.listening", "keep_alive.failed"])


def test_a_job_that_other_machines_reach_prints_a_warning(stored: Harness) -> None:
    output = Output({"keep_alive.finished": end})
    stored.monkeypatch.setattr(sys, "stdout", output)
    words = ("keep-alive", "--every", "1h", "--listen", "0.0.0.0:0")
    assert run([*words, "--allow-host", "keep-alive.internal"]) == 0
    assert "Warning: other machines may reach 0.0.0.0:" in stored.capture.readouterr().err


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("--listen", "127.0.0.1:0"), "--listen needs --every"),
        (("--every", "1h", "--listen", "127.0.0.1:0", "--dry-run"), "no --dry-run"),
        (("--every", "1h", "--allow-host", "a.example"), "--allow-host needs --listen"),
        (("--every", "1h", "--listen", "metrics:9464"), "write an IP address and a port"),
    ],
)
def test_a_wrong_use_of_listen_is_a_usage_error(
    stored: Harness, words: tuple[str, ...], what: str
) -> None:
    calls = len(stored.sandbox.exchanges)
    result = stored.run("keep-alive", *words)
    assert (result.code, result.out) == (ExitCode.USAGE, "")
    require_two_lines(result, what, "--help")
    assert len(stored.sandbox.exchanges) == calls
