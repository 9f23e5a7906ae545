"""A renewed certificate reaches the banks' APIs without a restart, and the manager's listener."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from attrs import define

from blink_oauth import BlinkOAuth, Outcome
from blink_oauth_keeper import Event, GrantAuth, MemoryTokenStore, TokenManager
from blink_oauth_testing.sandbox import Sandbox
from flavours import FLAVOURS, Flavour
from keeper.harness import PSU
from wire import certificates
from wire.renewals import (
    LOOK,
    ManualClock,
    ReplacedFiles,
    Storm,
    issue,
)

CALLERS = 8


@define
class Harness:
    """A manager whose certificate files a test replaces."""

    sandbox: Sandbox
    files: ReplacedFiles
    clock: ManualClock
    manager: TokenManager
    auth: GrantAuth
    events: list[Event]

    @property
    def used(self) -> str:
        """The fingerprint of the certificate of the last request."""
        return self.sandbox.exchanges[-1].certificate

    @property
    def url(self) -> str:
        """The URL of the accounts."""
        return self.sandbox.accounts_url


@pytest.fixture
def harness(blink_sandbox: Sandbox, tmp_path: Path) -> Iterator[Harness]:
    """Return a manager with an authorized grant."""
    files, clock = ReplacedFiles(tmp_path, blink_sandbox.authority.root_pem), ManualClock()
    files.replace(issue(blink_sandbox, "first"))
    settings, events = blink_sandbox.settings(certificate=files.certificate), list[Event]()

    def now() -> datetime:
        return datetime.fromtimestamp(blink_sandbox.clock(), UTC)

    with (
        BlinkOAuth(settings, monotonic=clock) as blink,
        TokenManager(
            blink, MemoryTokenStore(clock=now), clock=now, on_event=events.append
        ) as manager,
    ):
        grant = blink_sandbox.grant()
        code = blink_sandbox.issue_code(grant)
        manager.authorize(grant, code=code, redirect_uri=blink_sandbox.redirect_uri, psu=PSU)
        auth = manager.auth(grant, psu=PSU)
        yield Harness(blink_sandbox, files, clock, manager, auth, events)


@pytest.fixture(params=FLAVOURS)
def requests(request: pytest.FixtureRequest, harness: Harness) -> Iterator[Requests]:
    """Return the shared client of each flavour in turn."""
    flavour: Flavour = request.param
    with asyncio.Runner() as runner:
        yield Requests(harness, flavour, runner)


@define
class Requests:
    """Requests with the shared client of one flavour."""

    harness: Harness
    flavour: Flavour
    runner: asyncio.Runner

    def get(self) -> httpx.Response:
        """Get the accounts."""
        return self.finish(self.begin())

    def begin(self) -> httpx.Response:
        """Send a request, and do not read the body of the response."""
        harness = self.harness
        if self.flavour == "sync":
            client = harness.manager.client()
            request = client.build_request("GET", harness.url)
            return client.send(request, auth=harness.auth, stream=True)
        asynchronous = harness.manager.async_client()
        request = asynchronous.build_request("GET", harness.url)
        return self.runner.run(asynchronous.send(request, auth=harness.auth, stream=True))

    def finish(self, response: httpx.Response) -> httpx.Response:
        """Read the body of a response."""
        if self.flavour == "sync":
            response.read()
        else:
            self.runner.run(response.aread())
        assert response.json()["accounts"]
        return response

    def look_twice(self) -> list[httpx.Response]:
        """Send a request after each of the next two looks at the files."""
        responses = []
        for _ in range(2):
            self.harness.clock.seconds += LOOK
            responses.append(self.get())
        return responses


def is_closed(response: httpx.Response) -> bool:
    """Return whether the connection of a response is closed."""
    stream = response.extensions["network_stream"]
    return bool(stream.get_extra_info("socket").fileno() == -1)


def test_new_requests_use_new_connections_and_idle_ones_are_closed(
    harness: Harness, requests: Requests
) -> None:
    first, before = requests.get(), harness.used
    new = issue(harness.sandbox, "second")
    harness.files.replace(new)
    _, second = requests.look_twice()
    assert harness.used == new.fingerprint != before
    assert is_closed(first)
    assert not is_closed(second)
    requests.get()
    assert harness.used == new.fingerprint


def test_a_response_in_progress_is_finished_before_its_connection_is_closed(
    harness: Harness, requests: Requests
) -> None:
    pending = [requests.begin() for _ in range(2)]
    harness.files.replace(issue(harness.sandbox, "second"))
    requests.look_twice()
    for response in pending:
        assert not is_closed(response)
        requests.finish(response)
    assert [is_closed(response) for response in pending] == [True, True]
    assert not is_closed(requests.get())


def test_the_end_of_the_manager_closes_the_connections_from_before(
    harness: Harness, requests: Requests
) -> None:
    pending = requests.begin()
    harness.files.replace(issue(harness.sandbox, "second"))
    _, second = requests.look_twice()
    harness.manager.close()
    # The event loop closes its connections when it runs.
    requests.runner.run(asyncio.sleep(0.01))
    assert is_closed(pending)
    assert is_closed(second)


def test_a_request_that_failed_does_not_keep_its_connections_open(
    harness: Harness, requests: Requests
) -> None:
    idle = [requests.finish(response) for response in [requests.begin(), requests.begin()]]
    assert [is_closed(response) for response in idle] == [False, False]
    harness.sandbox.fail("reset-before", operation="list_accounts")
    with pytest.raises(httpx.TransportError):
        requests.get()
    harness.files.replace(issue(harness.sandbox, "second"))
    requests.look_twice()
    assert [is_closed(response) for response in idle] == [True, True]


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_callers_of_a_bank_do_not_notice_that_the_files_are_replaced_ten_times(
    flavour: Flavour, tmp_path: Path
) -> None:
    with Sandbox(validate=False) as sandbox:
        files = ReplacedFiles(tmp_path, sandbox.authority.root_pem)
        files.replace(issue(sandbox, "first"))
        settings = sandbox.settings(certificate=files.certificate, max_connections=CALLERS // 2)
        storm, url = Storm(sandbox, files, CALLERS), sandbox.accounts_url
        # Each may have a connection from before.
        drained = storm.wait_for_each_caller
        with (
            BlinkOAuth(settings, monotonic=storm.clock) as blink,
            TokenManager(blink, MemoryTokenStore()) as manager,
        ):
            grant = sandbox.grant()
            code = sandbox.issue_code(grant)
            manager.authorize(grant, code=code, redirect_uri=sandbox.redirect_uri, psu=PSU)
            auth = manager.auth(grant, psu=PSU)

            def get() -> None:
                manager.client().get(url, auth=auth).raise_for_status()

            async def get_async() -> None:
                response = await manager.async_client().get(url, auth=auth)
                response.raise_for_status()

            with (
                storm.in_threads([get] * CALLERS)
                if flavour == "sync"
                else storm.in_tasks([get_async] * CALLERS, nullcontext())
            ):
                storm.replace_ten_times(blink.context_source, drained)


def test_the_calls_of_the_manager_use_the_certificate_that_a_request_has_found(
    harness: Harness, requests: Requests
) -> None:
    new = issue(harness.sandbox, "second")
    harness.files.replace(new)
    requests.look_twice()
    harness.manager.refresh(harness.sandbox.grant())
    assert harness.used == new.fingerprint
    assert harness.sandbox.exchanges[-1].operation == "request_token"


def test_a_renewal_and_a_refusal_are_events(
    harness: Harness, requests: Requests, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "blink_oauth_keeper")
    harness.events.clear()
    new = issue(harness.sandbox, "second")
    until = new.certificate.not_valid_after_utc
    harness.files.replace(new)
    requests.look_twice()
    harness.files.replace(certificates.expired(harness.sandbox.authority))
    requests.look_twice()
    renewed, refused = harness.events
    assert (renewed.name, renewed.outcome, renewed.error) == ("certificate.renewed", "done", None)
    assert (renewed.rules, renewed.expires_at) == ((), until)
    assert (refused.name, refused.outcome) == ("certificate.refused", Outcome.NOT_EXECUTED)
    assert (refused.error, refused.rules) == ("CertificateError", ("valid_now",))
    assert refused.expires_at == until
    for event in harness.events:
        assert (event.grant, event.fingerprint, event.target_id) == (None, "", "")
    records = [record for record in caplog.records if record.name == "blink_oauth_keeper"]
    first, second = (record.getMessage() for record in records)
    assert first.startswith("certificate.renewed ")
    assert first.endswith(f" expires_at={until.isoformat()}")
    assert second.startswith("certificate.refused ")
    assert second.endswith(
        f" error=CertificateError rules=valid_now expires_at={until.isoformat()}"
    )
