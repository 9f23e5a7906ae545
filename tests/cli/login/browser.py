"""What stands in for a browser: it follows the bank's redirect and keeps the page it lands on."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable
from urllib.parse import parse_qs, urlsplit

import httpx
from attrs import define, field

PATIENCE = 10.0
"""Real seconds after which a test gives up on what should have happened at once."""
AGENT = "Mozilla/5.0 (fake browser)"


def unchanged(location: str) -> str:
    """Follow the redirect as the bank gave it."""
    return location


@define(eq=False)
class Browser:
    """Opens the bank's page as `open_browser`.

    Args:
        change: Changes where the bank sends the browser.
        agent: What it calls itself.
    """

    change: Callable[[str], str] = unchanged
    agent: str = AGENT
    url: str = field(init=False, default="", repr=False)
    location: str = field(init=False, default="", repr=False)
    status: int = field(init=False, default=0)
    page: str = field(init=False, default="")
    _landed: threading.Event = field(init=False, factory=threading.Event, repr=False)

    def __call__(self, url: str) -> bool:
        self.url = url
        with httpx.Client(timeout=PATIENCE, headers=self._headers) as client:
            self.location = client.get(url).headers["Location"]
            answer = client.get(self.change(self.location))
        self.status, self.page = answer.status_code, answer.text
        self._landed.set()
        return True

    @property
    def _headers(self) -> dict[bytes, bytes]:
        return {b"User-Agent": self.agent.encode("latin-1")}

    def landed(self) -> str:
        """Return the text of the last page, once there is one."""
        assert self._landed.wait(PATIENCE), "the browser landed nowhere"
        return self.page

    @property
    def state(self) -> str:
        """The state of the authorization request."""
        return parse_qs(urlsplit(self.url).query)["state"][0]

    @property
    def secrets(self) -> list[str]:
        """The state, and the code where there is one."""
        answer = parse_qs(urlsplit(self.location).query)
        return [self.state, *answer.get("code", [])]


def ask(
    uri: str, query: str = "", *, method: str = "GET", path: str | None = None, host: str = ""
) -> tuple[int, str, http.client.HTTPMessage]:
    """Send one request to a listener; return status, page and headers."""
    parts = urlsplit(uri)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=PATIENCE)
    target = (path or parts.path or "/") + (f"?{query}" if query else "")
    try:
        connection.request(method, target, headers={"Host": host} if host else {})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()
