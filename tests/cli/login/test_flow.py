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
from blink_oauth_cli.login_authorization import LoginRefusedError
from blink_oauth_cli.login_flow import log_in, own_address
from blink_oauth_keeper import MemoryTokenStore, TokenManager
from blink_oauth_testing.sandbox import Sandbox
from cli.login.browser import AGENT, Browser, ask

CLIENT, USER_IP = "CIDX0000000002", "203.0.113.7"


@define(eq=False)
class Desk:
    """A person at a terminal, with a browser, a manager and the sandbox's banks."""

    sandbox: Sandbox
    stack: ExitStack
    browser: Browser = field(factory=Browser)
    told: list[str] = field(factory=list)

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
            "tell": self.told.append,
            "psu_ip": USER_IP,
            "timeout": 10.0,
        }
        return log_in(manager or self.manager(), **given | changes)

    def exchanges(self) -> int:
        return len(self.sandbox.exchanges)


@pytest.fixture
def desk(blink_sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> Iterator[Desk]:
    """Sit down; afterwards no secret may be found in a page, a told line or a log."""
    caplog.set_level(logging.DEBUG)
    with ExitStack() as stack:
        desk = Desk(blink_sandbox, stack)
        yield desk
    for secret in desk.browser.secrets if desk.browser.url else []:
        assert len(secret) > 10
        assert secret not in desk.browser.page
        assert secret not in "\n".join(desk.told)
        # The stand-in for the browser logs its own requests.
        ours = [one for one in caplog.records if not one.name.startswith(("httpx", "httpcore"))]
        assert secret not in "\n".join(one.getMessage() for one in ours)


def test_a_login_stores_the_token_and_says_so(desk: Desk) -> None:
    manager = desk.manager()
    token = desk.log_in(manager)
    assert manager.get(desk.grant).access_token == token.access_token
    page = desk.browser.landed()
    assert desk.browser.status == 200
    assert "Logged in" in page
    assert f"User {desk.grant.username} at {desk.grant.target_id}: the token is stored." in page
    assert token.access_token.reveal() not in page
    assert desk.told[0] == "Opening the bank's page in the browser."
    assert "Waiting for the bank's answer at http://127.0.0.1:" in desk.told[1]
    assert len(desk.told) == 2


def test_the_bank_learns_whose_browser_brought_the_code(desk: Desk) -> None:
    seen = captured(desk)
    assert seen == Psu(USER_IP, AGENT)


@pytest.mark.parametrize("agent", ["Caf\xe9 1.0", "x" * 501, ""])
def test_a_browser_whose_name_cannot_be_sent_on_is_left_unnamed(desk: Desk, agent: str) -> None:
    desk.browser.agent = agent
    assert captured(desk) == Psu(USER_IP, Psu.AUTOMATIC)


def captured(desk: Desk) -> Psu:
    """Log in, and return the person that the exchange was made for."""
    manager, seen = desk.manager(), []
    authorize = manager.authorize

    def spy(grant: Grant, *, code: Secret, redirect_uri: str, psu: Psu) -> Token:
        seen.append(psu)
        return authorize(grant, code=code, redirect_uri=redirect_uri, psu=psu)

    manager.authorize = spy  # type: ignore[method-assign, assignment]
    desk.log_in(manager)
    desk.browser.landed()
    return seen[0]


def test_without_a_browser_the_page_is_told(desk: Desk) -> None:
    with pytest.raises(LoginRefusedError):
        desk.log_in(open_browser=None, monotonic=iter([0.0, 301.0]).__next__)
    asked, waiting = desk.told
    page = f"{desk.sandbox.control_url}/{desk.grant.target_id}/oauth/authorize?"
    assert asked.startswith(f"Open this page in a browser on this machine:\n{page}")
    assert waiting.startswith("Waiting")


@pytest.mark.parametrize("fails", [False, True])
def test_a_browser_that_does_not_open_is_no_obstacle(desk: Desk, fails: bool) -> None:
    def opens(url: str) -> bool:
        if fails:
            raise OSError("no browser")
        return False

    def tell(line: str) -> None:
        # A person copies the address into a browser.
        if line.startswith("Open this page"):
            desk.browser(line.split("\n")[1])

    assert desk.log_in(open_browser=opens, tell=tell).access_token
    assert "Logged in" in desk.browser.landed()


def test_a_refused_consent_ends_the_login(desk: Desk) -> None:
    def refuse(location: str) -> str:
        answer = {
            "error": "access_denied",
            "error_description": "<b>no</b>",
            "state": desk.browser.state,
        }
        return urlsplit(location)._replace(query=urlencode(answer)).geturl()

    desk.browser.change = refuse
    with pytest.raises(LoginRefusedError, match="consent was refused") as caught:
        desk.log_in()
    assert "nothing was spent" in caught.value.what
    page = desk.browser.landed()
    assert desk.browser.status == 400
    assert "Not logged in" in page
    assert "consent was refused" in page
    assert "&lt;b&gt;no&lt;/b&gt;" in page
    assert "<b>" not in page
    assert desk.exchanges() == 0
    assert_nothing_secret(desk, caught.value)


def test_an_answer_without_a_code_ends_the_login(desk: Desk) -> None:
    desk.browser.change = lambda location: location.replace("code=", "kode=")
    with pytest.raises(LoginRefusedError, match="no usable code"):
        desk.log_in()
    assert "no usable code" in desk.browser.landed()
    assert desk.exchanges() == 0


def test_a_repeated_parameter_ends_the_login(desk: Desk) -> None:
    desk.browser.change = lambda location: f"{location}&code=fake-code-2"
    with pytest.raises(LoginRefusedError, match="more than once"):
        desk.log_in()
    assert "more than once" in desk.browser.landed()
    assert desk.exchanges() == 0


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("code=fake-code-2&state=fake-guess", "wrong state"),
        ("code=fake-code-2", "without a state"),
        ("error=access_denied&state=fake-guess", "wrong state"),
        (f"code=fake-code-2&state={'A' * 64}", "state of another login"),
    ],
)
def test_a_foreign_answer_is_told_and_the_login_goes_on(desk: Desk, query: str, said: str) -> None:
    pages: list[tuple[int, str]] = []

    def attacked(location: str) -> str:
        address = location.partition("?")[0]
        for _ in range(2):
            status, page, _ = ask(address, query)
            pages.append((status, page))
        return location

    desk.browser.change = attacked
    assert desk.log_in().access_token
    assert "Logged in" in desk.browser.landed()
    assert [status for status, _ in pages] == [400, 400]
    assert all("Not the answer to this login" in page and said in page for _, page in pages)
    warnings = [line for line in desk.told if said in line]
    assert len(warnings) == 1
    assert "goes on waiting" in warnings[0]
    assert "fake-" not in "".join([*desk.told, *(page for _, page in pages)])
    assert desk.exchanges() == 1


def test_the_answer_to_a_login_of_another_grant_is_refused(desk: Desk) -> None:
    """Two logins at a time: the browser takes the answer of the other one to this one."""
    other = Desk(desk.sandbox, desk.stack)
    strangers: list[tuple[int, str]] = []

    def crossed(location: str) -> str:
        def there(other_location: str) -> str:
            query = urlsplit(other_location).query
            status, page, _ = ask(location.partition("?")[0], query)
            strangers.append((status, page))
            return other_location

        other.browser.change = there
        other.log_in(grant=desk.sandbox.grant(username="u-4712"))
        return location

    desk.browser.change = crossed
    desk.log_in()
    assert "u-4711" in desk.browser.landed()
    assert "u-4712" in other.browser.landed()
    [(status, page)] = strangers
    assert status == 400
    assert "state of another login" in page
    assert any("state of another login" in line for line in desk.told)
    assert desk.exchanges() == 2


def test_a_second_callback_does_not_send_the_code_twice(desk: Desk) -> None:
    manager = desk.manager()
    authorize, late = manager.authorize, []

    def meanwhile(*args: Any, **named: Any) -> Token:
        late.append(ask(*desk.browser.location.split("?")))
        token = authorize(*args, **named)
        late.append(ask(*desk.browser.location.split("?")))
        return token

    manager.authorize = meanwhile  # type: ignore[method-assign]
    desk.log_in(manager)
    assert "Logged in" in desk.browser.landed()
    assert [status for status, _, _ in late] == [409, 409]
    assert all("not sent a second time" in page for _, page, _ in late)
    assert desk.exchanges() == 1


def test_a_platform_that_is_down_leaves_the_code_unspent(desk: Desk) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        manager = desk.manager(base_url=f"https://127.0.0.1:{closed.getsockname()[1]}/v2")
        with pytest.raises(NotConnectedError) as caught:
            desk.log_in(manager)
    page = desk.browser.landed()
    assert desk.browser.status == 502
    assert "Not logged in" in page
    assert "The code is not spent" in page
    assert "Start the login again" in page
    assert desk.exchanges() == 0
    assert_nothing_secret(desk, caught.value)


def test_a_code_that_has_expired_is_said_to_be_of_no_use(desk: Desk) -> None:
    def late(location: str) -> str:
        desk.sandbox.clock.advance(seconds=31)
        return location

    desk.browser.change = late
    with pytest.raises(InvalidGrantError) as caught:
        desk.log_in()
    page = desk.browser.landed()
    assert desk.browser.status == 502
    assert "of no more use" in page
    assert str(caught.value.correlation_id) in page
    assert_nothing_secret(desk, caught.value)


def test_a_lost_answer_is_said_to_be_uncertain(desk: Desk) -> None:
    desk.sandbox.fail("reset-after", operation="request_token")
    with pytest.raises(BlinkError) as caught:
        desk.log_in()
    assert caught.value.outcome is Outcome.UNCERTAIN
    page = desk.browser.landed()
    assert "It is uncertain whether the code is spent" in page
    assert "not sent again" in page
    assert desk.exchanges() == 1
    assert_nothing_secret(desk, caught.value)


def test_ctrl_c_during_the_exchange_still_tells_the_browser(desk: Desk) -> None:
    manager = desk.manager()

    def interrupted(*_: Any, **__: Any) -> Token:
        raise KeyboardInterrupt

    manager.authorize = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        desk.log_in(manager)
    page = desk.browser.landed()
    assert desk.browser.status == 500
    assert "interrupted; the code may be spent" in page


def test_ctrl_c_while_waiting_stops_listening(desk: Desk) -> None:
    def interrupted() -> float:
        if len(readings) == 2:
            raise KeyboardInterrupt
        readings.append(0.0)
        return 0.0

    readings: list[float] = []
    with pytest.raises(KeyboardInterrupt):
        desk.log_in(open_browser=lambda url: True, monotonic=interrupted)
    assert_nobody_listens(desk)


def test_a_customer_who_never_comes_is_waited_for_until_the_time_is_up(desk: Desk) -> None:
    moments = iter([0.0, 299.999, 300.0])
    with pytest.raises(LoginRefusedError, match="did not come in time") as caught:
        desk.log_in(open_browser=lambda url: True, timeout=300.0, monotonic=moments.__next__)
    assert "nothing was spent" in caught.value.what
    assert "Start the login again" in caught.value.do
    assert list(moments) == []
    assert_nobody_listens(desk)


def assert_nobody_listens(desk: Desk) -> None:
    address = desk.told[1].split()[6].rstrip(",")
    with pytest.raises(ConnectionRefusedError):
        ask(address)


@pytest.mark.parametrize(
    "wrong",
    [
        {"redirect_uri": "https://app.example/callback"},
        {"authorize_template": "http://bank.example/"},
        {"extra": {"state": "fake-state"}},
        {"psu_ip": "nowhere"},
    ],
)
def test_a_wrong_argument_is_refused_before_the_browser_opens(
    desk: Desk, wrong: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError):
        desk.log_in(**wrong)
    assert (desk.browser.url, desk.told) == ("", [])


def test_the_own_address_is_that_on_the_way_to_the_platform() -> None:
    assert own_address("https://127.0.0.1:1/x") == "127.0.0.1"
    assert own_address("https://[::1]:1/x") == "::1"


@pytest.mark.parametrize("url", ["https://[::1", "https://a:99999", f"https://{'a' * 99}/"])
def test_without_a_way_to_the_platform_the_own_address_is_automatic(url: str) -> None:
    assert own_address(url) == Psu.AUTOMATIC


def assert_nothing_secret(desk: Desk, error: BaseException) -> None:
    """The error, its traceback and the locals of the command's own frames hold no secret."""
    frames = traceback.walk_tb(error.__traceback__)
    values = [
        f"{value!r}"
        for frame, _ in frames
        if "blink_oauth" in frame.f_globals.get("__name__", "")
        for value in frame.f_locals.values()
    ]
    assert values
    shown = "\n".join([*traceback.format_exception(error), *values])
    for secret in desk.browser.secrets:
        assert secret not in shown
