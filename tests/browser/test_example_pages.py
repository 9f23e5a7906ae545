"""The pages of the example applications, each in its real server, in a real browser."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from blink_oauth_testing.sandbox import Sandbox
from browser.conftest import CONTRAST
from browser.example_servers import PORTS, Server, running, variables_for


@pytest.fixture(params=PORTS)
def server(request: pytest.FixtureRequest, sandbox: Sandbox, tmp_path: Path) -> Iterator[Server]:
    """Run the server of each application, and check all that it printed when it has stopped."""
    log = tmp_path / "log"
    with running(request.param, variables_for(sandbox, tmp_path), log) as server:
        yield server
    printed = log.read_text("utf-8")
    # Django's access log is off: it would have the query.
    assert printed.count("GET /callback") == {"fastapi": 3, "django": 0}[request.param]
    assert printed.count("GET /callback HTTP/1.1") == printed.count("GET /callback")
    # Codes, states, tokens and the username of this test.
    assert re.findall("code=|state=|fake-", printed) == []
    assert "Traceback" not in printed
    # The server of Django leaves the socket open that it listened on.
    assert re.findall("ResourceWarning: unclosed (?:.*raddr|database)", printed) == []


def heading(page: Page, text: str | re.Pattern[str]) -> None:
    """Require a page with this heading."""
    expect(page.get_by_role("heading", level=1)).to_have_text(text)


def press(page: Page, name: str) -> None:
    """Press the first button of this name."""
    page.get_by_role("button", name=name, exact=True).first.click()


def sign_in_at_the_bank(page: Page) -> None:
    """Sign in at the bank, up to the page of the consent."""
    heading(page, "Sign in to Musterbank Streng")
    page.get_by_label("Password").fill("fake-password")
    press(page, "Sign in")
    heading(page, "Consent at Musterbank Streng")


def agree(page: Page) -> None:
    """Agree at the bank."""
    sign_in_at_the_bank(page)
    page.get_by_role("checkbox").first.check()
    press(page, "Approve")


def require_readable(page: Page) -> None:
    """Require contrast, and no scrolling to the side on a phone (WCAG 2.2, 1.4.3 and 1.4.10)."""
    found = page.evaluate(CONTRAST)
    assert found
    assert [each for each in found if each[1] < 4.5] == []
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 320


def submit_from_another_site(page: Page, action: str) -> None:
    """Submit a form of another site, which another name of this machine is; it is refused."""
    form = (
        f"<link rel=icon href=data:,><form method=post action={action}><button>Win</button></form>"
    )
    page.route(
        "http://localhost:*/**",
        lambda route: route.fulfill(content_type="text/html", body=form),
    )
    page.goto("http://localhost:1/")
    with page.expect_response(action) as response:
        press(page, "Win")
    assert response.value.status == 403


def test_a_customer_connects_a_bank_and_sees_the_accounts(
    page: Page, sandbox: Sandbox, server: Server
) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    page.goto(server.origin)
    require_readable(page)
    page.get_by_label("User name").fill("fake-username")
    page.keyboard.press("Enter")
    heading(page, "Your banks")
    require_readable(page)

    press(page, "Connect")
    sign_in_at_the_bank(page)
    press(page, "Refuse")
    heading(page, "You did not agree")
    assert page.url == f"{server.origin}/failed"
    require_readable(page)

    press(page, "Connect Musterbank Streng")
    agree(page)
    heading(page, "Accounts at Musterbank Streng")
    assert page.url == f"{server.origin}/banks/IIDX00001/accounts"
    expect(page.get_by_role("listitem")).to_contain_text("CH0000000000000000001")
    require_readable(page)

    page.goto(server.origin)
    press(page, "Connect again")
    heading(page, "Connect Musterbank Streng again?")
    require_readable(page)
    press(page, "Connect again")
    agree(page)
    heading(page, "Accounts at Musterbank Streng")

    page.get_by_role("link", name="Your banks").click()
    press(page, "Disconnect")
    expect(page.get_by_role("button", name="Disconnect")).to_have_count(0)
    page.goto(f"{server.origin}/banks/IIDX00001/accounts")
    heading(page, "The bank needs your consent")
    require_readable(page)

    submit_from_another_site(page, f"{server.origin}/sign-out")
    page.goto(server.origin)
    heading(page, "Your banks")
    press(page, "Sign out")
    heading(page, "Sign in")

    page.get_by_label("User name").fill("fake-username")
    page.keyboard.press("Enter")
    page.get_by_text("Delete my data").click()
    require_readable(page)
    press(page, "Delete")
    heading(page, "Sign in")
