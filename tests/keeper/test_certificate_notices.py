"""A certificate that ends soon has a notice for each stage, however many managers look."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from blink_oauth_keeper import MemoryTokenStore, Notice, NoticeKind, NoticeReport, TokenManager
from flavours import FLAVOURS
from keeper.test_certificate_expiry import START, Harness, issued
from wire.certificates import DAY


@pytest.fixture(params=FLAVOURS)
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    """Return a harness of each flavour in turn."""
    return Harness(tmp_path, request.param, [])


def notices_of(harness: Harness, manager: TokenManager, day: float) -> list[Notice]:
    """Return the notices that a run delivers on a day after the start."""
    harness.now = START + day * DAY
    received: list[Notice] = []
    if harness.flavour == "sync":
        report = manager.deliver_notices(received.append)
    else:
        report = asyncio.run(manager.adeliver_notices(received.append))
    assert report == NoticeReport(written=len(received), delivered=len(received))
    return received


def test_each_stage_of_a_certificate_has_one_notice(harness: Harness) -> None:
    store = MemoryTokenStore(clock=lambda: harness.now)
    renewed = issued(lifetime=120 * DAY)
    first, second = (harness.manager(store=store) for _ in range(2))
    days = (0, 60, 61, 62, 81, 82, 91, 92)
    reasons = {}
    for day in days:
        reasons[day] = [notice.reason for notice in notices_of(harness, first, day)]
        assert notices_of(harness, second, day) == []
    assert reasons == {
        **{day: [] for day in days},
        61: ["client_renewal_due"],
        81: ["client_urgent"],
        91: ["client_expired"],
    }
    harness.replace(renewed)
    (notice,) = notices_of(harness, second, 92)
    assert (notice.kind, notice.reason) == (NoticeKind.EXPIRING, "client_renewal_due")
    assert (notice.certificate, notice.generation) == (renewed.fingerprint, 1)
    assert (notice.grant, notice.ends_at) == (None, START + 120 * DAY)
    first.close()
    second.close()
