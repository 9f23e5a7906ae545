"""The login's pages in a real browser: with a screen reader, in light and dark, on a phone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Literal, cast

import pytest
from playwright.sync_api import Browser, Page, expect

from blink_oauth import Grant, InvalidInputError
from blink_oauth_cli.login_callback import (
    CallbackServer,
    already_used_page,
    ended_page,
    failed_exchange_page,
    not_the_callback_page,
    succeeded_page,
)
from browser.conftest import CONTRAST
from browser.conftest import CallbackServer as CallbackApplication

GRANT = Grant("IIDX99999", "u-4711 <b>")
PAGES = {
    "Logged in": succeeded_page(GRANT),
    "Not logged in": failed_exchange_page(InvalidInputError("fake-detail " + "long" * 40)),
    "Already used": already_used_page(),
    "Not the bank's answer": not_the_callback_page(404),
}


def open_page(page: Page, html: bytes) -> None:
    """Redirect the browser to the login's listener, which responds with a page."""
    with ThreadPoolExecutor(1) as command, CallbackServer("http://127.0.0.1/callback") as listener:

        def respond() -> None:
            callback = listener.wait(10)
            assert callback is not None
            callback.respond(html)

        response = command.submit(respond)
        page.goto(listener.redirect_uri)
        response.result()


@pytest.mark.parametrize("title", PAGES)
def test_a_screen_reader_finds_title_heading_and_language(page: Page, title: str) -> None:
    open_page(page, PAGES[title])
    expect(page).to_have_title(title)
    expect(page.get_by_role("main").get_by_role("heading", level=1)).to_have_text(title)
    assert page.locator("html").get_attribute("lang") == "en"
    assert page.locator("h1").count() == 1
    assert page.locator("script").count() == 0


def test_the_names_of_a_grant_are_shown_unchanged(page: Page) -> None:
    open_page(page, PAGES["Logged in"])
    expect(page.get_by_role("paragraph").first).to_have_text(
        "User u-4711 <b> at IIDX99999: the token is stored."
    )


def test_every_text_has_enough_contrast(browser: Browser, scheme: str) -> None:
    colours = cast("Literal['light', 'dark']", scheme)
    with browser.new_context(color_scheme=colours) as context:
        page = context.new_page()
        open_page(page, PAGES["Not logged in"])
        found = page.evaluate(CONTRAST)
        background = page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert (background == "rgb(255, 255, 255)") is (scheme == "light")
    assert len(found) >= 3
    # WCAG 2.2, success criterion 1.4.3.
    assert [each for each in found if each[1] < 4.5] == []


def test_a_narrow_screen_needs_no_horizontal_scrolling(page: Page) -> None:
    page.set_viewport_size({"width": 320, "height": 640})
    open_page(page, PAGES["Not logged in"])
    # WCAG 2.2, success criterion 1.4.10.
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 320


def test_a_login_that_has_ended_shows_a_page(page: Page) -> None:
    with CallbackServer("http://127.0.0.1/callback") as listener:
        listener.stop_accepting(ended_page("The login was interrupted."), 410)
        page.goto(listener.redirect_uri)
    expect(page.get_by_role("main")).to_contain_text("Look at the terminal")


def test_a_browser_returns_the_cookie_of_the_start_page_from_the_banks_site(
    page: Page, application: CallbackApplication
) -> None:
    """The bank is `localhost`, which is another site than `127.0.0.1`."""
    bank = application.redirect_uri.replace("127.0.0.1", "localhost")
    with ThreadPoolExecutor(1) as command, CallbackServer("http://127.0.0.1/callback") as listener:

        def respond() -> bool:
            callback = listener.wait(10)
            assert callback is not None
            callback.respond(PAGES["Logged in"])
            return callback.has_cookie

        has_cookie = command.submit(respond)
        start = listener.add_start_page(bank, max_age=300, is_open=lambda: True)
        page.goto(start)
        expect(page).to_have_url(bank)
        page.evaluate("uri => { location = uri }", listener.redirect_uri)
        expect(page).to_have_title("Logged in")
        assert has_cookie.result()
        # The same browser may go back and start again.
        page.goto(start)
        expect(page).to_have_url(bank)
        assert not listener.start_page_was_taken
