"""The bank's pages in a real browser: by keyboard, with a screen reader, in light and dark."""

from __future__ import annotations

import re
from typing import Literal, cast

import pytest
from playwright.sync_api import Browser, Page, expect

from blink_oauth import BlinkOAuth, Psu
from blink_oauth_testing.sandbox import Sandbox
from browser.conftest import CONTRAST, CallbackServer

STATE = "fake-state & more"


def begin(page: Page, sandbox: Sandbox, application: CallbackServer) -> None:
    """Open the first page of the bank."""
    page.goto(sandbox.authorize_url(sandbox.grant(), application.redirect_uri, STATE))
    # The password field gets the focus after the page is loaded; an earlier key would be lost.
    expect(page.get_by_label("Password")).to_be_focused()


def sign_in(page: Page) -> None:
    """Sign in by keyboard; the password field has the focus."""
    expect(page.get_by_label("Password")).to_be_focused()
    page.keyboard.type("fake-password")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Consent at Musterbank Streng")


def press(page: Page, *keys: str) -> None:
    """Press keys, one after the other."""
    for key in keys:
        page.keyboard.press(key)


def focused(page: Page) -> str:
    """Return the label or text of the focused element, as a screen reader reads it."""
    return str(
        page.evaluate(
            "() => { const e = document.activeElement;"
            " return (e.labels && e.labels.length ? e.labels[0] : e).innerText }"
        )
    )


def test_a_customer_consents_by_keyboard_alone(
    page: Page, sandbox: Sandbox, application: CallbackServer
) -> None:
    begin(page, sandbox, application)
    sign_in(page)
    press(page, "Tab", "Tab")
    assert focused(page).startswith("Fake savings account")
    press(page, "Space", "Tab")
    assert focused(page) == "Approve"
    press(page, "Enter")
    callback = application.callback()
    assert callback["state"] == STATE
    expect(page).to_have_title("Back")
    with BlinkOAuth(sandbox.settings()) as blink:
        token = blink.exchange_code(
            sandbox.grant(),
            code=callback["code"],
            redirect_uri=application.redirect_uri,
            psu=Psu.AUTO,
        )
    assert token.refresh_token is not None


def test_a_customer_refuses_by_keyboard_alone(
    page: Page, sandbox: Sandbox, application: CallbackServer
) -> None:
    begin(page, sandbox, application)
    sign_in(page)
    press(page, "Tab", "Tab", "Tab", "Tab")
    assert focused(page) == "Refuse"
    press(page, "Enter")
    assert application.callback() == {"error": "access_denied", "state": STATE}


def test_a_missing_password_is_announced(
    page: Page, sandbox: Sandbox, application: CallbackServer
) -> None:
    begin(page, sandbox, application)
    press(page, "Enter")
    expect(page.get_by_role("alert")).to_have_text("Enter a password.")
    field = page.get_by_label("Password")
    expect(field).to_be_focused()
    expect(field).to_have_accessible_description("Any password will do. Enter a password.")
    sign_in(page)


def test_a_consent_without_an_account_is_announced(
    page: Page, sandbox: Sandbox, application: CallbackServer
) -> None:
    begin(page, sandbox, application)
    sign_in(page)
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert")).to_have_text("Choose at least one account, or refuse.")
    accounts = page.get_by_role("group", name="Accounts that it may read")
    expect(accounts).to_have_accessible_description("Choose at least one account, or refuse.")
    accounts.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Approve").click()
    assert "code" in application.callback()


def test_an_expired_page_shows_that_it_has_expired(
    page: Page, sandbox: Sandbox, application: CallbackServer
) -> None:
    begin(page, sandbox, application)
    sign_in(page)
    sandbox.clock.advance(seconds=601)
    page.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("This page has expired")
    expect(page.get_by_role("main")).to_contain_text("start again")
    assert application.callbacks.empty()


def submit_in_new_window(page: Page, button: str) -> Page:
    """Submit with a button, and return the response in a new window; the first page stays."""
    page.evaluate("() => { document.forms[0].target = '_blank' }")
    with page.expect_popup() as opened:
        page.get_by_role("button", name=button).click()
    return opened.value


def test_a_consent_submitted_twice_issues_one_code(
    page: Page, sandbox: Sandbox, application: CallbackServer
) -> None:
    begin(page, sandbox, application)
    sign_in(page)
    page.get_by_role("checkbox").first.check()
    submit_in_new_window(page, "Approve")
    assert "code" in application.callback()
    second = submit_in_new_window(page, "Approve")
    expect(second.get_by_role("heading", level=1)).to_contain_text("This page has expired")
    assert application.callbacks.empty()


def test_a_sign_in_submitted_twice_does_not_refuse_the_consent(
    page: Page, sandbox: Sandbox, application: CallbackServer
) -> None:
    begin(page, sandbox, application)
    page.get_by_label("Password").fill("fake-password")
    first = submit_in_new_window(page, "Sign in")
    expect(first.get_by_role("button", name="Approve")).to_be_visible()
    second = submit_in_new_window(page, "Sign in")
    expect(second.get_by_role("heading", level=1)).to_contain_text("This page has expired")
    assert application.callbacks.empty()


def test_a_screen_reader_finds_the_structure_of_the_page(
    page: Page, sandbox: Sandbox, application: CallbackServer
) -> None:
    begin(page, sandbox, application)
    expect(page.get_by_role("textbox", name="User name")).to_have_value("u-4711")
    sign_in(page)
    expect(page.get_by_role("main")).to_match_aria_snapshot("""
        - main:
          - heading "Consent at Musterbank Streng" [level=1]
          - paragraph:
            - strong: CIDX0000000002
            - text: asks to read accounts of
            - strong: u-4711
          - group "Accounts that it may read":
            - checkbox /Fake current account/
            - checkbox /Fake savings account/
          - button "Approve"
          - button "Refuse"
          - paragraph: /This is a sandbox/
    """)
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").count() == 1


def test_every_text_has_enough_contrast(
    browser: Browser, sandbox: Sandbox, application: CallbackServer, scheme: str
) -> None:
    colours = cast("Literal['light', 'dark']", scheme)
    with browser.new_context(color_scheme=colours) as context:
        page = context.new_page()
        begin(page, sandbox, application)
        press(page, "Enter")
        expect(page.get_by_role("alert")).to_be_visible()
        found = page.evaluate(CONTRAST)
        sign_in(page)
        found += page.evaluate(CONTRAST)
        sandbox.clock.advance(seconds=601)
        page.get_by_role("button", name="Approve").click()
        expect(page.get_by_role("heading")).to_contain_text("expired")
        found += page.evaluate(CONTRAST)
    assert len(found) > 20
    # WCAG 2.2, success criterion 1.4.3.
    assert [each for each in found if each[1] < 4.5] == []


def test_a_narrow_screen_needs_no_horizontal_scrolling(
    page: Page, sandbox: Sandbox, application: CallbackServer
) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    begin(page, sandbox, application)
    sign_in(page)
    # WCAG 2.2, success criterion 1.4.10.
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 320
    for button in page.get_by_role("button").all():
        box = button.bounding_box()
        assert box is not None
        assert box["height"] >= 44


@pytest.mark.parametrize("step", ["sign in", "consent"])
def test_the_focused_element_has_a_visible_outline(
    page: Page, sandbox: Sandbox, application: CallbackServer, step: str
) -> None:
    begin(page, sandbox, application)
    if step == "consent":
        sign_in(page)
        press(page, "Tab")
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outline")
    assert re.search(r"solid 3px", outline), outline


def test_an_unregistered_redirect_uri_is_rejected_on_the_page(page: Page, sandbox: Sandbox) -> None:
    page.goto(sandbox.authorize_url(sandbox.grant(), "https://evil.invalid/", STATE))
    expect(page.get_by_role("main")).to_contain_text("The redirect URI is not registered.")
