"""The pages of a bank in a real browser: by keyboard, for a screen reader, in light and dark."""

from __future__ import annotations

import re
from typing import Literal, cast

import pytest
from playwright.sync_api import Browser, Page, expect

from blink_oauth import BlinkOAuth, Psu
from blink_oauth_testing.sandbox import Sandbox
from browser.conftest import CONTRAST, Application

STATE = "fake-state & more"


def begin(page: Page, sandbox: Sandbox, application: Application) -> None:
    """Open the first page of the bank."""
    page.goto(sandbox.authorize_url(sandbox.grant(), application.redirect_uri, STATE))
    # The focus comes after the page is loaded: a key pressed before would be lost.
    expect(page.get_by_label("Password")).to_be_focused()


def sign_in(page: Page) -> None:
    """Sign in by keyboard: the password has the focus already."""
    expect(page.get_by_label("Password")).to_be_focused()
    page.keyboard.type("fake-password")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_have_text("Consent at Musterbank Streng")


def press(page: Page, *keys: str) -> None:
    """Press keys, one after the other."""
    for key in keys:
        page.keyboard.press(key)


def focused(page: Page) -> str:
    """Return what a screen reader would say that has the focus."""
    return str(
        page.evaluate(
            "() => { const e = document.activeElement;"
            " return (e.labels && e.labels.length ? e.labels[0] : e).innerText }"
        )
    )


def test_a_person_consents_by_keyboard_alone(
    page: Page, sandbox: Sandbox, application: Application
) -> None:
    begin(page, sandbox, application)
    sign_in(page)
    press(page, "Tab", "Tab")
    assert focused(page).startswith("Fake savings account")
    press(page, "Space", "Tab")
    assert focused(page) == "Approve"
    press(page, "Enter")
    answer = application.answer()
    assert answer["state"] == STATE
    expect(page).to_have_title("Back")
    with BlinkOAuth(sandbox.settings()) as blink:
        token = blink.exchange_code(
            sandbox.grant(),
            code=answer["code"],
            redirect_uri=application.redirect_uri,
            psu=Psu.AUTO,
        )
    assert token.refresh_token is not None


def test_a_person_refuses_by_keyboard_alone(
    page: Page, sandbox: Sandbox, application: Application
) -> None:
    begin(page, sandbox, application)
    sign_in(page)
    press(page, "Tab", "Tab", "Tab", "Tab")
    assert focused(page) == "Refuse"
    press(page, "Enter")
    assert application.answer() == {"error": "access_denied", "state": STATE}


def test_a_missing_password_is_announced(
    page: Page, sandbox: Sandbox, application: Application
) -> None:
    begin(page, sandbox, application)
    press(page, "Enter")
    expect(page.get_by_role("alert")).to_have_text("Enter a password.")
    field = page.get_by_label("Password")
    expect(field).to_be_focused()
    expect(field).to_have_accessible_description("Any password will do. Enter a password.")
    sign_in(page)


def test_a_consent_without_an_account_is_announced(
    page: Page, sandbox: Sandbox, application: Application
) -> None:
    begin(page, sandbox, application)
    sign_in(page)
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("alert")).to_have_text("Choose at least one account, or refuse.")
    accounts = page.get_by_role("group", name="Accounts that it may read")
    expect(accounts).to_have_accessible_description("Choose at least one account, or refuse.")
    accounts.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Approve").click()
    assert "code" in application.answer()


def test_a_page_that_was_open_for_too_long_says_so(
    page: Page, sandbox: Sandbox, application: Application
) -> None:
    begin(page, sandbox, application)
    sign_in(page)
    sandbox.clock.advance(seconds=601)
    page.get_by_role("checkbox").first.check()
    page.get_by_role("button", name="Approve").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("This page has expired")
    expect(page.get_by_role("main")).to_contain_text("start again there")
    assert application.answers.empty()


def send_in_a_new_window(page: Page, button: str) -> Page:
    """Press a button whose answer leaves its own page as it was; return what was answered."""
    page.evaluate("() => { document.forms[0].target = '_blank' }")
    with page.expect_popup() as opened:
        page.get_by_role("button", name=button).click()
    return opened.value


def test_a_consent_that_is_sent_twice_gives_one_code(
    page: Page, sandbox: Sandbox, application: Application
) -> None:
    begin(page, sandbox, application)
    sign_in(page)
    page.get_by_role("checkbox").first.check()
    send_in_a_new_window(page, "Approve")
    assert "code" in application.answer()
    second = send_in_a_new_window(page, "Approve")
    expect(second.get_by_role("heading", level=1)).to_contain_text("This page has expired")
    assert application.answers.empty()


def test_a_sign_in_that_is_sent_twice_refuses_nothing(
    page: Page, sandbox: Sandbox, application: Application
) -> None:
    begin(page, sandbox, application)
    page.get_by_label("Password").fill("fake-password")
    first = send_in_a_new_window(page, "Sign in")
    expect(first.get_by_role("button", name="Approve")).to_be_visible()
    second = send_in_a_new_window(page, "Sign in")
    expect(second.get_by_role("heading", level=1)).to_contain_text("This page has expired")
    assert application.answers.empty()


def test_a_screen_reader_is_told_what_everything_is(
    page: Page, sandbox: Sandbox, application: Application
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


def test_every_text_stands_out_from_its_ground(
    browser: Browser, sandbox: Sandbox, application: Application, scheme: str
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


def test_nothing_is_cut_on_a_narrow_screen(
    page: Page, sandbox: Sandbox, application: Application
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


@pytest.mark.parametrize("tested", ["sign in", "consent"])
def test_what_has_the_focus_is_seen(
    page: Page, sandbox: Sandbox, application: Application, tested: str
) -> None:
    begin(page, sandbox, application)
    if tested == "consent":
        sign_in(page)
        press(page, "Tab")
    outline = page.evaluate("() => getComputedStyle(document.activeElement).outline")
    assert re.search(r"solid 3px", outline), outline


def test_a_redirect_that_is_not_registered_goes_nowhere(page: Page, sandbox: Sandbox) -> None:
    page.goto(sandbox.authorize_url(sandbox.grant(), "https://evil.invalid/", STATE))
    expect(page.get_by_role("main")).to_contain_text("The redirect URI is not registered.")
