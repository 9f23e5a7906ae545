"""A login from end to end, against the sandbox."""

from __future__ import annotations

import logging
import socket
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from attrs import define, field

from blink_oauth import BlinkOAuth, Grant, Token
from blink_oauth.context import Psu
from blink_oauth.errors import (
    BlinkError,
    InvalidGrantError,
    InvalidInputError,
    NotConnectedError,
    Outcome,
)
from blink_oauth.tokens import Secret
from blink_oauth_cli.login_authorization import LoginFailedError
from blink_oauth_cli.login_flow import log_in, own_address
from blink_oauth_keeper import MemoryTokenStore, TokenManager
from blink_oauth_testing.sandbox import Sandbox
from cli.login.browser import USER_AGENT, Browser, send_request

CLIENT, USER_IP = "CIDX0000000002", "203.0.113.7"


@define(eq=False)
class LoginHarness:
    """Logs in with a test browser at the sandbox's banks, and records the notes."""

    sandbox: Sandbox
    stack: ExitStack
    browser: Browser = field(factory=Browser)
    notes: list[str] = field(factory=list)

    @property
    def grant(self) -> Grant:
        return self.sandbox.grant()

    def manager(self, **changes: Any) -> TokenManager:
        blink = self.stack.enter_context(BlinkOAuth(self.sandbox.settings(**changes)))
        return self.stack.enter_context(TokenManager(blink, MemoryTokenStore()))

    def log_in(self, manager: TokenManager | None = None, **changes: Any) -> Token:
        given: dict[str, Any] = {
            "client_id": CLIENT,
            "grant": self.grant,
            "authorize_template": f"{self.sandbox.control_url}/{{target_id}}/oauth/authorize",
            "redirect_uri": self.sandbox.redirect_uri,
            "extra": {},
            "open_browser": self.browser,
            "notify": self.notes.append,
            "psu_ip": USER_IP,
            "timeout": 10.0,
        }
        return log_in(manager or self.manager(), **given | changes)

    def exchange_count(self) -> int:
        return len(self.sandbox.exchanges)


@pytest.fixture
def harness(blink_sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> Iterator[LoginHarness]:
    """Yield a harness; afterwards, require that no page, note or log contains a secret."""
    caplog.set_level(logging.DEBUG)
    with ExitStack() as stack:
        harness = LoginHarness(blink_sandbox, stack)
        yield harness
    for secret in harness.browser.secrets if harness.browser.url else []:
        assert len(secret) > 10
        assert secret not in harness.browser.page
        assert secret not in "\n".join(harness.notes)
        # The test browser logs its own requests.
        records = [
            record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))
        ]
        assert secret not in "\n".join(record.getMessage() for record in records)


def test_a_login_stores_the_token_and_shows_a_page(harness: LoginHarness) -> None:
    manager = harness.manager()
    token = harness.log_in(manager)
    assert manager.get(harness.grant).access_token == token.access_token
    page = harness.browser.last_page()
    assert harness.browser.status == 200
    assert "Logged in" in page
    assert (
        f"User {harness.grant.username} at {harness.grant.target_id}: the token is stored." in page
    )
    assert token.access_token.reveal() not in page
    assert harness.notes[0] == "Opening the bank's page in the browser."
    assert "Waiting for the bank's answer at http://127.0.0.1:" in harness.notes[1]
    assert len(harness.notes) == 2


def test_the_exchange_names_the_browsers_user_agent(harness: LoginHarness) -> None:
    assert psu_of_exchange(harness) == Psu(USER_IP, USER_AGENT)


@pytest.mark.parametrize("user_agent", ["Caf\xe9 1.0", "x" * 501, ""])
def test_a_user_agent_that_cannot_be_sent_is_replaced_by_auto(
    harness: LoginHarness, user_agent: str
) -> None:
    harness.browser.user_agent = user_agent
    assert psu_of_exchange(harness) == Psu(USER_IP, Psu.AUTOMATIC)


def psu_of_exchange(harness: LoginHarness) -> Psu:
    """Log in, and return the PSU of the exchange."""
    manager, psus = harness.manager(), []
    authorize = manager.authorize

    def recording_authorize(grant: Grant, *, code: Secret, redirect_uri: str, psu: Psu) -> Token:
        psus.append(psu)
        return authorize(grant, code=code, redirect_uri=redirect_uri, psu=psu)

    manager.authorize = recording_authorize  # type: ignore[method-assign, assignment]
    harness.log_in(manager)
    harness.browser.last_page()
    return psus[0]


def test_without_a_browser_the_url_is_shown(harness: LoginHarness) -> None:
    with pytest.raises(LoginFailedError):
        harness.log_in(open_browser=None, monotonic=iter([0.0, 301.0]).__next__)
    shown, waiting = harness.notes
    page = f"{harness.sandbox.control_url}/{harness.grant.target_id}/oauth/authorize?"
    assert shown.startswith(f"Open this page in a browser on this machine:\n{page}")
    assert waiting.startswith("Waiting")


@pytest.mark.parametrize("raises", [False, True])
def test_if_the_browser_does_not_open_the_url_is_shown(harness: LoginHarness, raises: bool) -> None:
    def open_browser(url: str) -> bool:
        if raises:
            raise OSError("no browser")
        return False

    def notify(line: str) -> None:
        # The customer copies the URL into a browser.
        if line.startswith("Open this page"):
            harness.browser(line.split("\n")[1])

    assert harness.log_in(open_browser=open_browser, notify=notify).access_token
    assert "Logged in" in harness.browser.last_page()


def test_a_refused_consent_ends_the_login(harness: LoginHarness) -> None:
    def refuse_consent(location: str) -> str:
        parameters = {
            "error": "access_denied",
            "error_description": "<b>no</b>",
            "state": harness.browser.state,
        }
        return urlsplit(location)._replace(query=urlencode(parameters)).geturl()

    harness.browser.change_redirect = refuse_consent
    with pytest.raises(LoginFailedError, match="consent was refused") as caught:
        harness.log_in()
    assert "nothing was spent" in caught.value.what
    page = harness.browser.last_page()
    assert harness.browser.status == 400
    assert "Not logged in" in page
    assert "consent was refused" in page
    assert "&lt;b&gt;no&lt;/b&gt;" in page
    assert "<b>" not in page
    assert harness.exchange_count() == 0
    assert_no_secret(harness, caught.value)


def test_a_callback_without_a_code_ends_the_login(harness: LoginHarness) -> None:
    harness.browser.change_redirect = lambda location: location.replace("code=", "kode=")
    with pytest.raises(LoginFailedError, match="no usable code"):
        harness.log_in()
    assert "no usable code" in harness.browser.last_page()
    assert harness.exchange_count() == 0


def test_a_repeated_parameter_ends_the_login(harness: LoginHarness) -> None:
    harness.browser.change_redirect = lambda location: f"{location}&code=fake-code-2"
    with pytest.raises(LoginFailedError, match="more than once"):
        harness.log_in()
    assert "more than once" in harness.browser.last_page()
    assert harness.exchange_count() == 0


@pytest.mark.parametrize(
    ("query", "phrase"),
    [
        ("code=fake-code-2&state=fake-guess", "wrong state"),
        ("code=fake-code-2", "without a state"),
        ("error=access_denied&state=fake-guess", "wrong state"),
        (f"code=fake-code-2&state={'A' * 64}", "state of another login"),
    ],
)
def test_a_callback_without_the_state_is_reported_and_the_login_continues(
    harness: LoginHarness, query: str, phrase: str
) -> None:
    pages: list[tuple[int, str]] = []

    def with_other_callbacks(location: str) -> str:
        address = location.partition("?")[0]
        for _ in range(2):
            status, page, _ = send_request(address, query)
            pages.append((status, page))
        return location

    harness.browser.change_redirect = with_other_callbacks
    assert harness.log_in().access_token
    assert "Logged in" in harness.browser.last_page()
    assert [status for status, _ in pages] == [400, 400]
    assert all("Not the answer to this login" in page and phrase in page for _, page in pages)
    notes_of_kind = [line for line in harness.notes if phrase in line]
    assert len(notes_of_kind) == 1
    assert "goes on waiting" in notes_of_kind[0]
    assert "fake-" not in "".join([*harness.notes, *(page for _, page in pages)])
    assert harness.exchange_count() == 1


def test_the_callback_of_another_login_is_refused(harness: LoginHarness) -> None:
    """Two logins at once: the browser sends the callback of the other one to this one."""
    other = LoginHarness(harness.sandbox, harness.stack)
    other_responses: list[tuple[int, str]] = []

    def with_callback_of_other_login(location: str) -> str:
        def deliver_to_first_login(other_location: str) -> str:
            query = urlsplit(other_location).query
            status, page, _ = send_request(location.partition("?")[0], query)
            other_responses.append((status, page))
            return other_location

        other.browser.change_redirect = deliver_to_first_login
        other.log_in(grant=harness.sandbox.grant(username="u-4712"))
        return location

    harness.browser.change_redirect = with_callback_of_other_login
    harness.log_in()
    assert "u-4711" in harness.browser.last_page()
    assert "u-4712" in other.browser.last_page()
    [(status, page)] = other_responses
    assert status == 400
    assert "state of another login" in page
    assert any("state of another login" in line for line in harness.notes)
    assert harness.exchange_count() == 2


def test_a_second_callback_does_not_send_the_code_twice(harness: LoginHarness) -> None:
    manager = harness.manager()
    authorize, late = manager.authorize, []

    def authorize_between_callbacks(*args: Any, **named: Any) -> Token:
        late.append(send_request(*harness.browser.location.split("?")))
        token = authorize(*args, **named)
        late.append(send_request(*harness.browser.location.split("?")))
        return token

    manager.authorize = authorize_between_callbacks  # type: ignore[method-assign]
    harness.log_in(manager)
    assert "Logged in" in harness.browser.last_page()
    assert [status for status, _, _ in late] == [409, 409]
    assert all("not sent a second time" in page for _, page, _ in late)
    assert harness.exchange_count() == 1


def test_an_unreachable_platform_leaves_the_code_unspent(harness: LoginHarness) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        manager = harness.manager(base_url=f"https://127.0.0.1:{closed.getsockname()[1]}/v2")
        with pytest.raises(NotConnectedError) as caught:
            harness.log_in(manager)
    page = harness.browser.last_page()
    assert harness.browser.status == 502
    assert "Not logged in" in page
    assert "The code is not spent" in page
    assert "Start the login again" in page
    assert harness.exchange_count() == 0
    assert_no_secret(harness, caught.value)


def test_the_page_says_that_an_expired_code_was_refused(harness: LoginHarness) -> None:
    def late(location: str) -> str:
        harness.sandbox.clock.advance(seconds=31)
        return location

    harness.browser.change_redirect = late
    with pytest.raises(InvalidGrantError) as caught:
        harness.log_in()
    page = harness.browser.last_page()
    assert harness.browser.status == 502
    assert "of no more use" in page
    assert str(caught.value.correlation_id) in page
    assert_no_secret(harness, caught.value)


def test_the_page_says_that_the_result_is_uncertain_after_a_lost_response(
    harness: LoginHarness,
) -> None:
    harness.sandbox.fail("reset-after", operation="request_token")
    with pytest.raises(BlinkError) as caught:
        harness.log_in()
    assert caught.value.outcome is Outcome.UNCERTAIN
    page = harness.browser.last_page()
    assert "It is uncertain whether the code is spent" in page
    assert "not sent again" in page
    assert harness.exchange_count() == 1
    assert_no_secret(harness, caught.value)


def test_ctrl_c_during_the_exchange_still_sends_a_page(harness: LoginHarness) -> None:
    manager = harness.manager()

    def interrupted(*_: Any, **__: Any) -> Token:
        raise KeyboardInterrupt

    manager.authorize = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        harness.log_in(manager)
    page = harness.browser.last_page()
    assert harness.browser.status == 500
    assert "interrupted; the code may be spent" in page


def test_ctrl_c_while_waiting_closes_the_server(harness: LoginHarness) -> None:
    def interrupted() -> float:
        if len(readings) == 2:
            raise KeyboardInterrupt
        readings.append(0.0)
        return 0.0

    readings: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        harness.log_in(open_browser=lambda url: True, monotonic=interrupted)
    assert_server_is_closed(harness)


def test_a_login_without_a_callback_ends_at_the_timeout(harness: LoginHarness) -> None:
    moments = iter([0.0, 299.999, 300.0])
    with pytest.raises(LoginFailedError, match="did not come in time") as caught:
        harness.log_in(open_browser=lambda url: True, timeout=300.0, monotonic=moments.__next__)
    assert "nothing was spent" in caught.value.what
    assert "Start the login again" in caught.value.do
    assert list(moments) == []
    assert_server_is_closed(harness)


def assert_server_is_closed(harness: LoginHarness) -> None:
    address = harness.notes[1].split()[6].rstrip(",")
    with pytest.raises(ConnectionRefusedError):
        send_request(address)


@pytest.mark.parametrize(
    "changes",
    [
        {"redirect_uri": "https://app.example/callback"},
        {"authorize_template": "http://bank.example/"},
        {"extra": {"state": "fake-state"}},
        {"psu_ip": "nowhere"},
    ],
)
def test_a_wrong_argument_is_refused_before_the_browser_opens(
    harness: LoginHarness, changes: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError):
        harness.log_in(**changes)
    assert (harness.browser.url, harness.notes) == ("", [])


def test_the_own_address_is_the_local_one_towards_the_platform() -> None:
    assert own_address("https://127.0.0.1:1/x") == "127.0.0.1"
    assert own_address("https://[::1]:1/x") == "::1"


@pytest.mark.parametrize("url", ["https://[::1", "https://a:99999", f"https://{'a' * 99}/"])
def test_for_an_unusable_url_own_address_is_auto(url: str) -> None:
    assert own_address(url) == Psu.AUTOMATIC


def assert_no_secret(harness: LoginHarness, error: BaseException) -> None:
    """Require that the error, its traceback and the locals of our frames contain no secret."""
    frames = traceback.walk_tb(error.__traceback__)
    values = [
        f"{value!r}"
        for frame, _ in frames
        if "blink_oauth" in frame.f_globals.get("__name__", "")
        for value in frame.f_locals.values()
    ]
    assert values
    shown = "\n".join([*traceback.format_exception(error), *values])
    for secret in harness.browser.secrets:
        assert secret not in shown
