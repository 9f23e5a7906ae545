"""The two applications on a sandbox, in this process, and browsers of their customers."""

from __future__ import annotations

import importlib
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from anyio.from_thread import start_blocking_portal
from attrs import define, field
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.test import override_settings
from django.urls import clear_url_caches

from blink_oauth import BlinkOAuth
from blink_oauth_keeper import SqlTokenStore, TokenManager
from blink_oauth_testing import Sandbox
from blink_oauth_testing.sandbox import Exchange

BANK = "IIDX00001"
ORIGIN = "http://127.0.0.1:8000"
DEVICE = "2001:db8::7"
USER_AGENT = "Mozilla/5.0 (X11; Linux x86_64)"
FORGED = {"X-Forwarded-For": "203.0.113.66", "Forwarded": "for=203.0.113.66"}
"""What any browser can send, so that no application may believe it by itself."""
HIDDEN_FIELD = re.compile(r'<input type="hidden" name="(\w+)" value="([^"]*)">')

Send = Callable[[httpx.Request], httpx.Response]


@define(eq=False)
class Customer:
    """A customer with a browser of their own, signed in.

    Args:
        username: The customer.
        send: Sends a request to the application.
    """

    username: str
    send: Send
    _browser: httpx.Client = field(init=False)
    _hidden: dict[str, str] = field(init=False, factory=dict)

    def __attrs_post_init__(self) -> None:
        """Open the browser, and sign in."""
        self._browser = httpx.Client(
            base_url=ORIGIN,
            transport=httpx.MockTransport(self.send),
            headers={"User-Agent": USER_AGENT, **FORGED},
        )
        assert "Sign in" in self.get("/").text
        assert self.sign_in(self.username).headers["Location"] == "/"

    @property
    def cookies(self) -> httpx.Cookies:
        """The cookies of the browser."""
        return self._browser.cookies

    def get(self, path: str) -> httpx.Response:
        """Load a page."""
        return self._browser.get(path)

    def send_other(self, method: str, path: str) -> httpx.Response:
        """Send a request of a method that no link or form has."""
        return self._browser.request(method, path)

    def change_user_agent(self, user_agent: str) -> None:
        """Send another user agent from now on."""
        self._browser.headers["User-Agent"] = user_agent

    def sign_in(self, username: str) -> httpx.Response:
        """Sign in, with the same browser."""
        self.username = username
        return self.post("/sign-in", username=username)

    def post(self, path: str, **form: str) -> httpx.Response:
        """Submit a form of the application, with the hidden fields of its page."""
        if not self._hidden:
            self._hidden = dict(HIDDEN_FIELD.findall(self.get("/").text))
        headers = {"Sec-Fetch-Site": "same-origin", "Origin": ORIGIN}
        response = self._browser.post(path, data=self._hidden | form, headers=headers)
        if path in {"/sign-in", "/sign-out", "/forget"}:
            self._hidden = {}  # Each session has its own.
        return response

    def post_from_another_site(self, path: str) -> httpx.Response:
        """Submit a form of another site; a browser without SameSite would send the cookies."""
        headers = {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.invalid"}
        return self._browser.post(path, headers=headers)

    def begin(self, bank: str = BANK, **form: str) -> str:
        """Start a consent, and return the URL of the bank's page."""
        response = self.post(f"/banks/{bank}/connect", **form)
        assert response.is_redirect, response.text
        return response.headers["Location"]

    def connect(self, bank: str = BANK) -> httpx.Response:
        """Connect a bank, and return the page that the callback leads to."""
        return self.call_back(agreed(self.begin(bank)))

    def call_back(self, callback: str) -> httpx.Response:
        """Load the address that the bank leads to, and return the page that follows."""
        response = self.get(callback)
        # The code must not stay in the address bar, and must not become a Referer.
        assert response.is_redirect, response.text
        assert response.headers["Referrer-Policy"] == "no-referrer"
        # Nor may a callback lead to another site.
        assert re.fullmatch(r"/[\w/]*", response.headers["Location"])
        return self.get(response.headers["Location"])

    def use_cookies(self, cookies: httpx.Cookies) -> None:
        """Replace the cookies of the browser."""
        self._browser.cookies = cookies

    def call_back_twice(self, callback: str) -> tuple[httpx.Response, httpx.Response]:
        """Reload the callback before its response is there: both requests have the same cookies."""
        cookies = httpx.Cookies(self.cookies)
        first = self.call_back(callback)
        self.use_cookies(cookies)
        return first, self.call_back(callback)

    def get_at_once(self, path: str, number: int) -> Sequence[httpx.Response]:
        """Load a page some times at the same time."""
        with ThreadPoolExecutor(number) as threads:
            return list(threads.map(self.get, [path] * number))


def agreed(url: str) -> str:
    """Consent on the bank's page, and return the path and query of the callback."""
    response = httpx.get(url, trust_env=False)
    assert response.next_request is not None, response.text
    return response.next_request.url.raw_path.decode()


def refused(url: str) -> str:
    """Return the path and query of the callback after a refusal on the bank's page."""
    (state,) = parse_qs(urlsplit(url).query)["state"]
    return f"/callback?error=access_denied&state={state}"


@define(eq=False)
class Application:
    """An application that runs in this process.

    Args:
        send: Sends a request to it.
        sandbox: The platform that it uses.
        store: The file of its store.
    """

    send: Send
    sandbox: Sandbox
    store: Path

    def customer(self, username: str = "u-4711") -> Customer:
        """Return a customer who has signed in."""
        return Customer(username, self.send)

    def stored_usernames(self) -> set[str]:
        """Return whom the records of the store name."""
        with closing(sqlite3.connect(self.store)) as database:
            return {name for (name,) in database.execute("SELECT username FROM blink_oauth_grants")}

    @contextmanager
    def without_store(self) -> Iterator[None]:
        """Keep the tables of the store away."""
        with closing(sqlite3.connect(self.store)) as database:
            database.execute("ALTER TABLE blink_oauth_grants RENAME TO away")
            yield
            database.execute("ALTER TABLE away RENAME TO blink_oauth_grants")

    def exchanges(self, operation: str) -> list[Exchange]:
        """Return the requests of an operation that the platform got."""
        return [each for each in self.sandbox.exchanges if each.operation == operation]

    def form_values(self, name: str) -> list[str | None]:
        """Return a field of the form of each token request."""
        return [dict(each.form).get(name) for each in self.exchanges("request_token")]


def fresh_module(name: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module anew, as a new process does."""
    for each in [each for each in sys.modules if each.partition(".")[0] == name.partition(".")[0]]:
        monkeypatch.delitem(sys.modules, each)
    return importlib.import_module(name)


def on_clock(module: Any, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make client, store and manager of a module run on the clock of the sandbox."""
    clock = sandbox.clock
    for kind, options in (
        (BlinkOAuth, {"clock": clock.now}),
        (SqlTokenStore, {"clock": clock.now}),
        (TokenManager, {**clock.manager_options()}),
    ):
        monkeypatch.setattr(module, kind.__name__, partial(kind, **options))


@contextmanager
def fastapi_service(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Send]:
    """Run the FastAPI service in an event loop of its own."""
    module = fresh_module("accounts_service", monkeypatch)
    on_clock(module, sandbox, monkeypatch)
    with start_blocking_portal() as portal:
        lifespan = module.app.router.lifespan_context(module.app)
        with portal.wrap_async_context_manager(lifespan) as state:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                await module.app({**scope, "state": dict(state)}, receive, send)

            # A server, too, answers an error of the application, and logs it.
            transport = httpx.ASGITransport(app, raise_app_exceptions=False, client=(DEVICE, 1))

            async def respond(request: httpx.Request) -> httpx.Response:
                response = await transport.handle_async_request(request)
                await response.aread()
                return httpx.Response(
                    response.status_code, headers=response.headers, content=response.content
                )

            yield partial(portal.call, respond)


@contextmanager
def django_project(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Send]:
    """Run the Django project; its server would call it in a thread of each request."""
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "accounts_site.settings")
    configured = fresh_module("accounts_site.settings", monkeypatch)
    names = ("AUTHORIZE_URL", "ACCOUNTS_URL", "STORE", "KEYS_FILE", "CACHES")
    # Django reads the settings once. The handlers of its logging would outlive the test.
    settings.LOGGING_CONFIG = None
    clear_url_caches()
    with (
        override_settings(**{name: getattr(configured, name) for name in names}),
        ExitStack() as at_exit,
    ):
        tokens = importlib.import_module("accounts_site.tokens")
        on_clock(tokens, sandbox, monkeypatch)
        monkeypatch.setattr(tokens, "atexit", SimpleNamespace(register=at_exit.callback))
        application = get_wsgi_application()
        yield httpx.WSGITransport(application, remote_addr=DEVICE).handle_request


APPLICATIONS = (fastapi_service, django_project)
