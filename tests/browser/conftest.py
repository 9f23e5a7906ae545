"""A browser, a sandbox, and an application that receives its redirects."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
from attrs import define, evolve, field
from playwright.sync_api import Browser, Page, sync_playwright

from blink_oauth_testing.sandbox import Sandbox
from browser.chromium import launched

CONTRAST = """() => {
  const parse = c => c.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const background = e => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const seen = [...document.querySelectorAll("main *")].filter(e =>
    e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
  return seen.map(e => {
    const [a, b] = [luminance(parse(getComputedStyle(e).color)), luminance(background(e))];
    return [e.outerHTML.slice(0, 60), (Math.max(a, b) + .05) / (Math.min(a, b) + .05)];
  });
}"""
"""JavaScript: returns each element with text, and the contrast of the text to its background."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Yield one browser for all tests of a module. Its event loop runs until it is closed."""
    with sync_playwright() as playwright, launched(playwright) as browser:
        yield browser


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Return the colour scheme that the browser prefers."""
    return str(request.param)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Yield an empty page. An error of the page or a message on its console fails the test."""
    context = browser.new_context()
    page = context.new_page()
    messages: list[str] = []
    # Chromium logs each response with an error status; these pages have one on purpose.
    page.on(
        "console",
        lambda message: (
            None
            if "the server responded with a status of" in message.text
            else messages.append(message.text)
        ),
    )
    page.on("pageerror", lambda error: messages.append(str(error)))
    yield page
    context.close()
    assert messages == []


@define(eq=False)
class CallbackServer:
    """The application to which the bank redirects the browser."""

    server: ThreadingHTTPServer
    callbacks: queue.Queue[dict[str, str]] = field(factory=queue.Queue)

    @property
    def redirect_uri(self) -> str:
        """The redirect URI."""
        return f"http://127.0.0.1:{self.server.server_address[1]}/callback"

    def callback(self) -> dict[str, str]:
        """Wait for the browser, and return the parameters of its redirect."""
        return self.callbacks.get(timeout=10)


class _Handler(BaseHTTPRequestHandler):
    application: CallbackServer

    def do_GET(self) -> None:
        """Store the parameters of the redirect."""
        parts = urlsplit(self.path)
        self.application.callbacks.put(dict(parse_qsl(parts.query)))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Back</title><link rel=icon href=data:,>Back")

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Log nothing."""


@pytest.fixture
def application() -> Iterator[CallbackServer]:
    """Yield an application that waits for the browser."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.application = CallbackServer(server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield Handler.application
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def shared_sandbox() -> Iterator[Sandbox]:
    """Yield one sandbox for all tests."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(shared_sandbox: Sandbox) -> Sandbox:
    """Return the sandbox without state, its banks with consent pages."""
    shared_sandbox.reset()
    for bank in shared_sandbox.banks.values():
        bank.policy = evolve(bank.policy, consent_page=True)
    return shared_sandbox
