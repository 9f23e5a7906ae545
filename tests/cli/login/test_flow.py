"""A login from end to end, against the sandbox."""

from __future__ import annotations

import logging
import os
import re
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

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
from blink_oauth_cli.login_flow import (
    is_public,
    local_address,
    log_in,
    open_in_browser,
    own_address,
)
from blink_oauth_cli.login_messages import LoginFailedError
from blink_oauth_keeper import MemoryTokenStore, TokenManager
from blink_oauth_testing.sandbox import Sandbox
from cli.login.browser import TIMEOUT, USER_AGENT, Browser, send_request

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
            "template": f"{self.sandbox.control_url}/{{target_id}}/oauth/authorize",
            "redirect_uri": self.sandbox.redirect_uri,
            "extra": {},
            "open_browser": self.browser,
            "notify": self.notes.append,
            "psu_ip": USER_IP,
            "timeout": 10.0,
        }
        return log_in(manager or self.manager(), **given | changes)

    def shown_states(self) -> list[str]:
        """The states of the URLs in the notes."""
        return re.findall(r"state=([\w-]{64})", "\n".join(self.notes))

    def exchange_count(self) -> int:
        return len(self.sandbox.exchanges)


@pytest.fixture
def harness(blink_sandbox: Sandbox, caplog: pytest.LogCaptureFixture) -> Iterator[LoginHarness]:
    """Yield a harness; afterwards, require that no page, note or log contains a secret."""
    caplog.set_level(logging.DEBUG)
    with ExitStack() as stack:
        harness = LoginHarness(blink_sandbox, stack)
        yield harness
    secrets = harness.browser.secrets if harness.browser.url else []
    assert not any(secret in "\n".join(harness.notes) for secret in secrets)
    for secret in [*secrets, *harness.shown_states()]:
        assert len(secret) > 10
        assert secret not in harness.browser.page
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
    assert harness.notes[0].startswith("Opening the bank's page in the browser.")
    assert "Waiting for the bank's answer at http://127.0.0.1:" in harness.notes[1]
    assert len(harness.notes) == 2


def test_the_exchange_names_the_browsers_user_agent(harness: LoginHarness) -> None:
    assert psu_of_exchange(harness) == Psu(USER_IP, USER_AGENT)


@pytest.mark.parametrize(
    ("user_agent", "sent"),
    [("Caf\xe9 1.0", "Caf%C3%A9 1.0"), ("x" * 1_500, "x" * 1_024), ("", "unknown")],
)
def test_a_user_agent_that_cannot_be_sent_is_changed_so_that_it_can(
    harness: LoginHarness, user_agent: str, sent: str
) -> None:
    harness.browser.user_agent = user_agent
    assert psu_of_exchange(harness) == Psu(USER_IP, sent)


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


def fails(url: str) -> bool:
    raise OSError("no browser")


@pytest.mark.parametrize("open_browser", [fails, lambda url: False, lambda url: True])
def test_whatever_the_opener_does_the_terminal_shows_a_url_that_works(
    harness: LoginHarness, open_browser: Callable[[str], bool]
) -> None:
    def notify(note: str) -> None:
        # The customer copies the URL into a browser.
        if note.startswith("Opening the bank's page"):
            _, url = note.split("\n")
            threading.Thread(target=harness.browser, args=(url,), daemon=True).start()

    assert harness.log_in(open_browser=open_browser, notify=notify).access_token
    assert "Logged in" in harness.browser.last_page()
    assert harness.browser.start_url == ""


def test_the_opener_gets_a_one_time_address_and_no_state(harness: LoginHarness) -> None:
    harness.log_in()
    harness.browser.last_page()
    address, shown = harness.browser.start_url, harness.notes[0].split("\n")[1]
    assert address.startswith(harness.browser.location.partition("callback?")[0] + "start/")
    assert "?" not in address
    states = [parse_qs(urlsplit(url).query)["state"][0] for url in (harness.browser.url, shown)]
    # A user who sees the terminal, and not the browser, cannot answer for the browser.
    assert len({*states}) == 2
    assert not any(state in address for state in states)


def test_a_start_page_that_another_program_opened_first_ends_the_login(
    harness: LoginHarness,
) -> None:
    pages = []

    def open_browser(address: str) -> None:
        pages.append(send_request(address))
        pages.append(send_request(address))

    with pytest.raises(LoginFailedError, match="asked for twice") as caught:
        harness.log_in(open_browser=open_browser)
    assert "nothing was spent" in caught.value.what
    [(first, _, _), (second, page, headers)] = pages
    assert (first, second) == (303, 403)
    assert "Not logged in" in page
    assert "asked for twice" in page
    assert (headers["Location"], headers["Set-Cookie"]) == (None, None)
    assert harness.exchange_count() == 0


def test_a_code_is_not_used_if_the_start_page_is_taken_before_the_callback_comes(
    harness: LoginHarness,
) -> None:
    def take_start_page(location: str) -> str:
        assert send_request(harness.browser.start_url)[0] == 403
        return location

    harness.browser.change_redirect = take_start_page
    with pytest.raises(LoginFailedError, match="asked for twice"):
        harness.log_in()
    # The callback may come after the listener has closed; then the browser has no page.
    assert harness.exchange_count() == 0


@pytest.mark.parametrize("error", ["", "&error=access_denied"])
def test_a_callback_of_the_browsers_request_needs_its_cookie(
    harness: LoginHarness, error: str
) -> None:
    pages: list[tuple[int, str]] = []

    def without_cookie(location: str) -> str:
        status, page, _ = send_request(*(location + error).split("?"))
        pages.append((status, page))
        return location

    harness.browser.change_redirect = without_cookie
    assert harness.log_in().access_token
    assert "Logged in" in harness.browser.last_page()
    [(status, page)] = pages
    assert status == 400
    assert "Not the answer to this login" in page
    assert "cookie" in page
    assert any("cookie" in note and "goes on waiting" in note for note in harness.notes)
    assert harness.exchange_count() == 1


def test_the_start_page_opens_for_a_minute_only(harness: LoginHarness) -> None:
    opened = threading.Event()
    pages = []

    def open_browser(address: str) -> None:
        pages.append(send_request(address))
        opened.set()

    def monotonic() -> float:
        """Return 0 at the beginning; the time of the request; the time after the timeout."""
        if threading.current_thread() is not threading.main_thread():
            return 60.0
        if not harness.notes:
            return 0.0
        assert opened.wait(TIMEOUT)
        return 301.0

    with pytest.raises(LoginFailedError, match="did not come in time"):
        harness.log_in(open_browser=open_browser, timeout=300.0, monotonic=monotonic)
    [(status, page, headers)] = pages
    assert (status, headers["Location"]) == (410, None)
    assert "Open the page that the terminal shows." in page


def test_the_browser_inherits_no_variable_of_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secrets = ("BLINK_KEY_PASSPHRASE", "BLINK_STORE_KEYS", "BLINK_PROXY", "BLINK_X", "PGPASSWORD")
    for name in secrets:
        monkeypatch.setenv(name, "fake-secret-4711")
    for name in ("browser", "xdg-open"):
        browser = tmp_path / name
        browser.write_text(f'#!/bin/sh\nenv > {tmp_path}/seen\necho "url=$1" >> {tmp_path}/seen\n')
        browser.chmod(0o700)
    # Nothing in the working folder is a module of the opener.
    (tmp_path / "webbrowser.py").write_text("raise SystemExit(1)", "ascii")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BROWSER", str(tmp_path / "browser"))
    for is_frozen in (False, True):
        monkeypatch.setattr("sys.frozen", is_frozen, raising=False)
        monkeypatch.setattr("sys.platform", "linux")
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        open_in_browser("http://127.0.0.1:1/start/x")
        seen = (tmp_path / "seen").read_text()
        (tmp_path / "seen").unlink()
        assert "url=http://127.0.0.1:1/start/x\n" in seen
        assert f"\nHOME={os.environ['HOME']}\n" in f"\n{seen}"
        assert "fake-secret-4711" not in seen


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
        {"template": "http://bank.example/"},
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


def test_the_local_address_is_the_one_towards_the_platform() -> None:
    assert str(local_address("https://127.0.0.1:1/x")) == "127.0.0.1"
    assert str(local_address("https://[::1]:1/x")) == "::1"


def test_an_own_address_that_is_not_public_is_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_address("https://127.0.0.1:1/x") == Psu.AUTOMATIC
    assert own_address("https://[::1]:1/x") == Psu.AUTOMATIC
    public = ip_address("2a00:1450:4001::1")
    monkeypatch.setattr("blink_oauth_cli.login_flow.local_address", lambda base_url: public)
    assert own_address("https://127.0.0.1:1/x") == "2a00:1450:4001::1"


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("2a00:1450:4001::1", True),
        ("::ffff:8.8.8.8", True),
        ("2002:808:808::1", True),
        ("0.0.0.0", False),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.17.0.2", False),
        ("192.168.1.5", False),
        ("169.254.1.1", False),
        ("100.64.0.1", False),
        ("192.0.2.1", False),
        ("198.18.0.1", False),
        ("198.51.100.3", False),
        ("203.0.113.7", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("2002:a00:1::1", False),
        ("64:ff9b::a00:1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("fec0::1", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
        ("3fff::1", False),
    ],
)
def test_only_an_address_on_the_internet_is_public(address: str, expected: bool) -> None:
    assert is_public(ip_address(address)) is expected


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
    for secret in [*harness.browser.secrets, *harness.shown_states()]:
        assert secret not in shown
