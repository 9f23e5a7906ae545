"""A login from end to end: open the bank's page, receive the code, exchange it, store the pair."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from attrs import frozen

from blink_oauth.authorization import (
    AuthorizationCode,
    AuthorizationRequest,
    FailedCallback,
    FailureReason,
)
from blink_oauth.context import Grant, Psu
from blink_oauth.errors import BlinkError
from blink_oauth.tokens import Secret

from .login_callback import (
    Callback,
    CallbackServer,
    already_used_page,
    ended_page,
    failed_callback_page,
    failed_exchange_page,
    succeeded_page,
    unmatched_page,
)
from .login_messages import NO_COOKIE, START_PAGE_TAKEN, LoginFailedError, Message, message_of

if TYPE_CHECKING:
    from blink_oauth.tokens import Token
    from blink_oauth_keeper import TokenManager

__all__ = ["log_in", "open_in_browser", "own_address"]

POLL_INTERVAL = 0.2
"""Seconds between two checks; not every system lets Ctrl-C interrupt a longer wait."""
START_PAGE_LIFETIME = 60.0
"""Seconds in which the browser must have started and opened its first page."""
OPENING = "Opening the bank's page in the browser. If none opens, open this one:"


def log_in(
    manager: TokenManager,
    *,
    client_id: str,
    grant: Grant,
    template: str,
    redirect_uri: str,
    extra: Mapping[str, str],
    open_browser: Callable[[str], object] | None,
    notify: Callable[[str], None],
    timeout: float = 300.0,
    psu_ip: str,
    random: Callable[[int], bytes] = os.urandom,
    monotonic: Callable[[], float] = time.monotonic,
) -> Token:
    """Ask the customer for consent in the browser, store the token and return it.

    Two URLs lead to the bank's page, each with a state of its own. The browser opens the start page
    of this machine, whose address is on a command line; a callback with its state needs the cookie
    of the start page. The terminal shows the bank's URL, which is on no command line; a callback
    with its state needs no cookie.

    Args:
        manager: Exchanges the code and stores the token.
        client_id: The client's id in bLink's directory.
        grant: The grant that the customer is asked to consent to.
        template: The bank's authorize URL, see `AuthorizationRequest.url`.
        redirect_uri: The address to listen on, see `CallbackServer`.
        extra: Further parameters that the bank requires.
        open_browser: Opens a URL; None to show a URL only.
        notify: Shows a line on the terminal.
        timeout: Seconds to wait for the callback.
        psu_ip: The customer's IP address, or `AUTO`.
        random: Returns the given number of random bytes.
        monotonic: Returns seconds of a clock that never goes back.

    Raises:
        InvalidInputError: An argument cannot be used; nothing was sent.
        LoginFailedError: No code was received; nothing was sent or spent.
        BlinkError: The exchange failed; `outcome` says whether the code may be spent.

    Source: RFC 6749 section 4.1; RFC 8252; RFC 9700 section 4.7; bLink token management.
    """
    psu, key = Psu(psu_ip, Psu.AUTOMATIC), Secret(random(32).hex())
    with CallbackServer(redirect_uri) as server:
        shown, opened = (
            AuthorizationRequest.new(client_id, grant, server.redirect_uri, key=key, random=random)
            for _ in range(2)
        )
        requests, began = _Requests(shown, opened), monotonic()
        if open_browser is None:
            notify(f"Open this page in a browser on this machine:\n{shown.url(template, extra)}")
        else:
            start = server.add_start_page(
                opened.url(template, extra),
                max_age=int(timeout) + 1,
                is_open=lambda: monotonic() < began + START_PAGE_LIFETIME,
                random=random,
            )
            # An opener may succeed and open no window.
            notify(f"{OPENING}\n{shown.url(template, extra)}")
            # A browser that runs in the terminal returns when it is closed, after the callback.
            threading.Thread(target=_open_page, args=(open_browser, start), daemon=True).start()
        notify(f"Waiting for the bank's answer at {server.redirect_uri}, {timeout:.0f} s at most.")
        callback, code = _wait_for_code(server, requests, notify, began + timeout, monotonic)
        try:
            token = manager.authorize(
                grant,
                code=code,
                redirect_uri=server.redirect_uri,
                psu=Psu(psu.ip, callback.user_agent),
            )
        except BlinkError as error:
            callback.respond(failed_exchange_page(error), 502)
            raise
        except BaseException:
            callback.respond(ended_page("The login was interrupted; the code may be spent."), 500)
            raise
        callback.respond(succeeded_page(grant))
        return token


def _open_page(open_browser: Callable[[str], object], url: str) -> None:
    # The terminal shows a URL that works without the opener.
    with contextlib.suppress(Exception):
        open_browser(url)


@frozen
class _Failure:
    message: Message
    ends_login: bool


@frozen
class _Requests:
    """The authorization requests of a login.

    Attributes:
        shown: The request of the URL on the terminal.
        opened: The request of the start page; its callback needs the cookie.
    """

    shown: AuthorizationRequest
    opened: AuthorizationRequest

    def read(self, callback: Callback) -> Secret | _Failure:
        """Return the code of a callback, or why it is not used."""
        result = self.shown.read_callback(callback.query)
        if result == FailedCallback(FailureReason.OTHER_LOGIN):
            result = self.opened.read_callback(callback.query)
            is_opened = isinstance(result, AuthorizationCode) or result.answers_request
            if is_opened and not callback.has_cookie:
                return _Failure(NO_COOKIE, ends_login=False)
        if isinstance(result, AuthorizationCode):
            return result.code
        return _Failure(message_of(result), result.answers_request)


def _wait_for_code(
    server: CallbackServer,
    requests: _Requests,
    notify: Callable[[str], None],
    deadline: float,
    monotonic: Callable[[], float],
) -> tuple[Callback, Secret]:
    """Return the callback of this login and its code; report each kind of other callback once.

    Raises:
        LoginFailedError: The callback carries no code, or was not received in time, or a second
            browser asked for the start page.
    """
    reported: set[Message] = set()
    while (remaining := deadline - monotonic()) > 0:
        callback = server.wait(min(remaining, POLL_INTERVAL))
        if server.start_page_was_taken:
            raise _ended(server, callback, START_PAGE_TAKEN)
        if callback is None:
            continue
        result = requests.read(callback)
        if isinstance(result, Secret):
            server.stop_accepting(already_used_page(), 409)
            # From here on, no browser gets the start page.
            if server.start_page_was_taken:
                raise _ended(server, callback, START_PAGE_TAKEN)
            return callback, result
        if result.ends_login:
            raise _ended(server, callback, result.message)
        callback.respond(unmatched_page(result.message), 400)
        if result.message not in reported:
            reported.add(result.message)
            notify(f"{result.message.what} {result.message.do}")
    raise LoginFailedError(
        "The bank's answer did not come in time. No code was sent, nothing was spent.",
        "Start the login again; --timeout SECONDS waits longer.",
    )


def _ended(server: CallbackServer, callback: Callback | None, message: Message) -> LoginFailedError:
    """Return the error of a login without a code, after its page was sent."""
    page = failed_callback_page(message)
    server.stop_accepting(page, 409)
    if callback is not None:
        callback.respond(page, 400)
    return LoginFailedError(message.what, message.do)


OPENERS: Mapping[str, tuple[str, ...]] = {
    "darwin": ("open",),
    "win32": ("rundll32", "url.dll,FileProtocolHandler"),
}
"""The system's own command that opens a URL; `xdg-open` elsewhere."""
_OPENER = "import sys, webbrowser; webbrowser.open(sys.argv[1])"
SECRET_VARIABLES = ("BLINK_", "PG")
"""How the names of variables begin that only this command and its store need."""


def open_in_browser(url: str) -> None:
    """Open a URL in the customer's browser, which inherits no variable of this command.

    Args:
        url: The URL; other users of the machine may read it.
    """
    environ = {
        name: value for name, value in os.environ.items() if not name.startswith(SECRET_VARIABLES)
    }
    # A frozen command is no interpreter. `-I` keeps the modules of the working folder away.
    is_interpreter = sys.executable and not getattr(sys, "frozen", False)
    opener = (
        (sys.executable, "-I", "-c", _OPENER)
        if is_interpreter
        else OPENERS.get(sys.platform, ("xdg-open",))
    )
    subprocess.run((*opener, url), env=environ, check=False)  # noqa: S603


def own_address(base_url: str) -> str:
    """Return the address of this machine towards the platform if it is public, otherwise `AUTO`.

    Args:
        base_url: The URL of the platform.
    """
    address = local_address(base_url)
    return str(address) if address and is_public(address) else Psu.AUTOMATIC


IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


def local_address(base_url: str) -> IpAddress | None:
    """Return the local address of this machine towards the platform, or None.

    Nothing is sent: connecting a datagram socket only selects a route.

    Args:
        base_url: The URL of the platform.
    """
    try:
        parts = urlsplit(base_url)
        addresses = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, platform = addresses[0]
        with socket.socket(family, kind, protocol) as connection:
            connection.connect(platform)
            return ipaddress.ip_address(connection.getsockname()[0])
    except (OSError, ValueError):
        return None


GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
NOT_PUBLIC = (ipaddress.IPv6Network("3fff::/20"),)
"""Networks for documentation that `ipaddress` of Python 3.11 takes for public ones (RFC 9637)."""


def is_public(address: IpAddress) -> bool:
    """Return whether an address can be that of a customer on the internet."""
    if isinstance(address, ipaddress.IPv4Address):
        return address.is_global and not address.is_multicast
    embedded = address.ipv4_mapped or address.sixtofour
    if embedded is not None:
        return is_public(embedded)
    if address not in GLOBAL_UNICAST or any(address in network for network in NOT_PUBLIC):
        return False
    return address.is_global
