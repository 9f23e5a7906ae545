"""Browser, sandbox and a place to come back to."""

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
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const ground = e => { for (; e; e = e.parentElement) {
    const c = parse(getComputedStyle(e).backgroundColor);
    if (c.length < 4 || c[3] > 0) return c; } return [255, 255, 255]; };
  const seen = [...document.querySelectorAll("main *")].filter(e =>
    e.checkVisibility() && [...e.childNodes].some(n => n.nodeType === 3 && n.data.trim()));
  return seen.map(e => {
    const [a, b] = [light(parse(getComputedStyle(e).color)), light(ground(e))];
    return [e.outerHTML.slice(0, 60), (Math.max(a, b) + .05) / (Math.min(a, b) + .05)];
  });
}"""
"""Returns each text of a page with the contrast to what is behind it."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return the browser, one for all tests of a module: while it is there, its loop runs."""
    with sync_playwright() as playwright, launched(playwright) as browser:
        yield browser


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    """Return the colours that a person prefers."""
    return str(request.param)


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Return an empty page; whatever it complains of on its console fails the test."""
    context = browser.new_context()
    page = context.new_page()
    complaints: list[str] = []
    # That a page was sent with the status 400 is what it is to say.
    page.on(
        "console",
        lambda message: (
            None
            if "the server responded with a status of" in message.text
            else complaints.append(message.text)
        ),
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page
    context.close()
    assert complaints == []


@define(eq=False)
class Application:
    """The application to which a bank sends the browser back."""

    server: ThreadingHTTPServer
    answers: queue.Queue[dict[str, str]] = field(factory=queue.Queue)

    @property
    def redirect_uri(self) -> str:
        """Where the browser comes back to."""
        return f"http://127.0.0.1:{self.server.server_address[1]}/callback"

    def answer(self) -> dict[str, str]:
        """Wait for the browser, and return what it brought."""
        return self.answers.get(timeout=10)


class _Handler(BaseHTTPRequestHandler):
    application: Application

    def do_GET(self) -> None:
        """Take in what the browser brings."""
        parts = urlsplit(self.path)
        self.application.answers.put(dict(parse_qsl(parts.query)))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>Back</title><link rel=icon href=data:,>Back")

    def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
        """Log nothing."""


@pytest.fixture
def application() -> Iterator[Application]:
    """Yield an application that waits for the browser."""

    class Handler(_Handler):
        pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Handler.application = Application(server)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield Handler.application
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def running() -> Iterator[Sandbox]:
    """Yield a sandbox for all tests."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Sandbox:
    """Return the sandbox, its banks with pages, nothing in it."""
    running.reset()
    for bank in running.banks.values():
        bank.policy = evolve(bank.policy, consent_page=True)
    return running
