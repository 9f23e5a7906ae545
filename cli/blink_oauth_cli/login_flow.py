"""A login from end to end: open the bank's page, receive the code, exchange it, store the pair."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from blink_oauth.context import Grant, Psu
from blink_oauth.errors import BlinkError, InvalidInputError

from .login_authorization import (
    AuthorizationCode,
    AuthorizationRequest,
    FailureReason,
    LoginFailedError,
    authorize_url,
    new_authorization_request,
    read_callback,
)
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

if TYPE_CHECKING:
    from blink_oauth.tokens import Secret, Token
    from blink_oauth_keeper import TokenManager

__all__ = ["log_in", "own_address"]

POLL_INTERVAL = 0.2
"""Seconds between two checks; not every system lets Ctrl-C interrupt a longer wait."""
MAX_USER_AGENT = 500


def log_in(
    manager: TokenManager,
    *,
    client_id: str,
    grant: Grant,
    authorize_template: str,
    redirect_uri: str,
    extra: Mapping[str, str],
    open_browser: Callable[[str], bool] | None,
    notify: Callable[[str], None],
    timeout: float = 300.0,
    psu_ip: str,
    random: Callable[[int], bytes] = os.urandom,
    monotonic: Callable[[], float] = time.monotonic,
) -> Token:
    """Ask the customer for consent in the browser, store the token and return it.

    Args:
        manager: Exchanges the code and stores the token.
        client_id: The client's id in bLink's directory.
        grant: The grant that the customer is asked to consent to.
        authorize_template: The bank's authorize URL, see `authorize_url`.
        redirect_uri: The address to listen on, see `CallbackServer`.
        extra: Further parameters that the bank requires.
        open_browser: Opens a URL and returns whether it did; None to show the URL instead.
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
    psu = Psu(psu_ip, Psu.AUTOMATIC)
    with CallbackServer(redirect_uri) as server:
        request = new_authorization_request(
            client_id, grant, server.redirect_uri, random=random, key=random(32)
        )
        _open_bank_page(authorize_url(authorize_template, request, extra), open_browser, notify)
        notify(f"Waiting for the bank's answer at {server.redirect_uri}, {timeout:.0f} s at most.")
        callback, code = _wait_for_code(server, request, notify, monotonic() + timeout, monotonic)
        try:
            token = manager.authorize(
                grant, code=code, redirect_uri=request.redirect_uri, psu=_psu_of(callback, psu)
            )
        except BlinkError as error:
            callback.respond(failed_exchange_page(error), 502)
            raise
        except BaseException:
            callback.respond(ended_page("The login was interrupted; the code may be spent."), 500)
            raise
        callback.respond(succeeded_page(grant))
        return token


def _open_bank_page(
    url: str, open_browser: Callable[[str], bool] | None, notify: Callable[[str], None]
) -> None:
    """Open the bank's page in the browser, or show its URL."""

    def show_url() -> None:
        notify(f"Open this page in a browser on this machine:\n{url}")

    def open_page(opener: Callable[[str], bool]) -> None:
        opened = False
        # If the browser fails in any way, the customer can still open the page.
        with contextlib.suppress(Exception):
            opened = opener(url)
        if not opened:
            show_url()

    if open_browser is None:
        show_url()
    else:
        notify("Opening the bank's page in the browser.")
        # A browser that runs in the terminal returns only when it is closed, after the callback.
        threading.Thread(target=open_page, args=(open_browser,), daemon=True).start()


def _wait_for_code(
    server: CallbackServer,
    request: AuthorizationRequest,
    notify: Callable[[str], None],
    deadline: float,
    monotonic: Callable[[], float],
) -> tuple[Callback, Secret]:
    """Return the callback of this login and its code; report each kind of other callback once.

    Raises:
        LoginFailedError: The callback carries no code, or was not received in time.
    """
    reported: set[FailureReason] = set()
    while (remaining := deadline - monotonic()) > 0:
        callback = server.wait(min(remaining, POLL_INTERVAL))
        if callback is None:
            continue
        result = read_callback(request, callback.query)
        if isinstance(result, AuthorizationCode):
            server.stop_accepting(already_used_page(), 409)
            return callback, result.secret
        if result.ends_login:
            server.stop_accepting(already_used_page(), 409)
            callback.respond(failed_callback_page(result), 400)
            raise LoginFailedError(result.what, result.do)
        callback.respond(unmatched_page(result), 400)
        if result.reason not in reported:
            reported.add(result.reason)
            notify(f"{result.what} {result.do}")
    raise LoginFailedError(
        "The bank's answer did not come in time. No code was sent, nothing was spent.",
        "Start the login again; --timeout SECONDS waits longer.",
    )


def _psu_of(callback: Callback, psu: Psu) -> Psu:
    """Return the customer with the browser's user agent, if that can be sent to the bank."""
    if len(callback.user_agent) > MAX_USER_AGENT:
        return psu
    try:
        return Psu(psu.ip, callback.user_agent)
    except InvalidInputError:
        return psu


def own_address(base_url: str) -> str:
    """Return the local address of this machine towards the platform, or `AUTO`.

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
            address = ipaddress.ip_address(connection.getsockname()[0])
    except (OSError, ValueError):
        return Psu.AUTOMATIC
    usable = not (address.is_unspecified or getattr(address, "scope_id", None))
    return str(address) if usable else Psu.AUTOMATIC
