"""A browser for tests: it follows the bank's redirect and records the page of the callback."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import httpx
from attrs import define, field

TIMEOUT = 10.0
"""Seconds after which a test fails that waits for something."""
USER_AGENT = "Mozilla/5.0 (fake browser)"


def keep_redirect(location: str) -> str:
    """Return the location of the redirect unchanged."""
    return location


@define(eq=False)
class Browser:
    """Opens a page and follows its redirects to the callback; a value for `open_browser`.

    The page is the start page of a login, or the bank's.

    Args:
        change_redirect: Returns the location to request instead of the redirect's.
        user_agent: The `User-Agent` header.
    """

    change_redirect: Callable[[str], str] = keep_redirect
    user_agent: str = USER_AGENT
    start_url: str = field(init=False, default="", repr=False)
    url: str = field(init=False, default="", repr=False)
    location: str = field(init=False, default="", repr=False)
    status: int = field(init=False, default=0)
    page: str = field(init=False, default="")
    _shown: threading.Event = field(init=False, factory=threading.Event, repr=False)

    def __call__(self, url: str) -> bool:
        self.url = url
        with httpx.Client(timeout=TIMEOUT, headers=self._headers) as client:
            if "/start/" in url:
                self.start_url, self.url = url, client.get(url).headers["Location"]
            self.location = client.get(self.url).headers["Location"]
            response = client.get(self.change_redirect(self.location))
        self.status, self.page = response.status_code, response.text
        self._shown.set()
        return True

    @property
    def _headers(self) -> dict[bytes, bytes]:
        return {b"User-Agent": self.user_agent.encode("latin-1")}

    def last_page(self) -> str:
        """Wait for the page of the callback, and return its text."""
        assert self._shown.wait(TIMEOUT), "the browser received no page"
        return self.page

    @property
    def state(self) -> str:
        """The state of the authorization request."""
        return parse_qs(urlsplit(self.url).query)["state"][0]

    @property
    def secrets(self) -> list[str]:
        """The state, and the code if there is one."""
        response = parse_qs(urlsplit(self.location).query)
        return [self.state, *response.get("code", [])]


def send_request(
    uri: str, query: str = "", *, method: str = "GET", path: str | None = None, host: str = ""
) -> tuple[int, str, http.client.HTTPMessage]:
    """Send one request to a server; return status, page and headers."""
    parts = urlsplit(uri)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=TIMEOUT)
    target = (path or parts.path or "/") + (f"?{query}" if query else "")
    try:
        connection.request(method, target, headers={"Host": host} if host else {})
        response = connection.getresponse()
        return response.status, response.read().decode(), response.headers
    finally:
        connection.close()
