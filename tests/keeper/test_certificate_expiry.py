"""A run of the keep-alive job reports each certificate once for each stage."""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from attrs import define

from blink_oauth import BlinkOAuth, Settings
from blink_oauth_keeper import Event, MemoryTokenStore, TokenManager, TokenStore
from blink_oauth_testing.sandbox import Credentials
from blink_oauth_testing.sandbox.certificates import shared_authority
from flavours import FLAVOURS, Flavour
from wire import certificates
from wire.certificates import DAY, NAME, files

AUTHORITY = shared_authority()
START = datetime.now(UTC).replace(microsecond=0)
LOGGER = "blink_oauth_keeper"


def issued(*, lifetime: timedelta) -> Credentials:
    """Return a client certificate that is valid from now on."""
    return AUTHORITY.issue_client(NAME, not_before=START, not_after=START + lifetime)


@define
class Harness:
    """A manager without grants, whose clock and certificate files a test changes."""

    folder: Path
    flavour: Flavour
    events: list[Event]
    now: datetime = START

    def replace(self, credentials: Credentials) -> None:
        """Replace the files of the certificate."""
        files(credentials, self.folder, AUTHORITY.root_pem)

    def manager(self, *, listens: bool = True, store: TokenStore | None = None) -> TokenManager:
        """Return a manager with a certificate of 90 days."""
        settings = Settings(
            base_url="https://blink.example",
            client_id=NAME,
            user_agent="acme-books/1",
            certificate=files(issued(lifetime=90 * DAY), self.folder, AUTHORITY.root_pem),
        )
        return TokenManager(
            BlinkOAuth(settings),
            store or MemoryTokenStore(clock=lambda: self.now),
            clock=lambda: self.now,
            on_event=self.events.append if listens else None,
        )

    def run(self, manager: TokenManager, day: float, *, dry_run: bool = False) -> list[Event]:
        """Return the events of a run on a day after the start."""
        self.events.clear()
        self.now = START + day * DAY
        if self.flavour == "sync":
            manager.refresh_due(dry_run=dry_run)
        else:
            asyncio.run(manager.arefresh_due(dry_run=dry_run))
        return [*self.events]


@pytest.fixture(params=FLAVOURS)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    """Return a harness of each flavour in turn."""
    return Harness(tmp_path, request.param, [])


def test_a_run_reports_each_stage_once_and_a_renewed_certificate_anew(
    harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, LOGGER)
    renewed = issued(lifetime=120 * DAY)
    with harness.manager() as manager:
        seen = {
            day: [each.stage for each in harness.run(manager, day)]
            for day in (0, 60, 61, 62, 79, 81, 82, 91, 92)
        }
        assert seen == {
            **{day: [] for day in (0, 60, 62, 79, 82, 92)},
            61: ["renewal_due"],
            81: ["urgent"],
            91: ["expired"],
        }
        harness.replace(renewed)
        (event,) = harness.run(manager, 92)
    assert (event.name, event.stage, event.role) == (
        "certificate.expiring",
        "renewal_due",
        "client",
    )
    assert (event.certificate, event.expires_at) == (renewed.fingerprint, START + 120 * DAY)
    assert (event.at, event.grant, event.fingerprint, event.target_id) == (
        START + 92 * DAY,
        None,
        "",
        "",
    )
    records = [record for record in caplog.records if record.name == LOGGER]
    assert [record.levelname for record in records] == ["WARNING", "ERROR", "ERROR", "WARNING"]
    end = (START + 120 * DAY).isoformat()
    assert (
        records[-1]
        .getMessage()
        .endswith(
            f" expires_at={end} certificate={renewed.fingerprint} role=client stage=renewal_due"
        )
    )


def test_issuers_and_authorities_are_reported_and_a_new_process_reports_again(
    harness: Harness,
) -> None:
    for _ in range(2):
        with harness.manager() as manager:
            # The authorities of the tests are valid for a year.
            found = harness.run(manager, 359)
        assert [(each.role, each.stage) for each in found] == [
            ("client", "expired"),
            ("issuer", "urgent"),
            ("authority", "urgent"),
        ]


def test_a_dry_run_and_a_file_that_cannot_be_read_report_nothing(harness: Harness) -> None:
    with harness.manager() as manager:
        assert harness.run(manager, 89, dry_run=True) == []
        (harness.folder / "client.pem").write_bytes(b"fake")
        (harness.folder / "ca.pem").unlink()
        assert harness.run(manager, 89) == []
        harness.replace(certificates.good(AUTHORITY))
        assert harness.run(manager, 89) == []


@pytest.mark.parametrize(("day", "count"), [(61, 0), (81, 1)])
def test_an_urgent_certificate_is_logged_where_warnings_are_not(
    day: int, count: int, harness: Harness, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, LOGGER)
    with harness.manager(listens=False) as manager:
        harness.run(manager, day)
    assert len(caplog.records) == count
