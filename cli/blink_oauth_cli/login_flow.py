"""A login from end to end: open the bank's page, take its answer, exchange the code, store it."""

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
    Attempt,
    Code,
    LoginRefusedError,
    Why,
    authorize_url,
    judge,
    new_attempt,
)
from .login_callback import (
    Callback,
    Listener,
    already_used_page,
    ended_page,
    failed_page,
    foreign_page,
    refused_page,
    succeeded_page,
)

if TYPE_CHECKING:
    from blink_oauth.tokens import Secret, Token
    from blink_oauth_keeper import TokenManager

__all__ = ["log_in", "own_address"]

PULSE = 0.2
"""Seconds after which a wait looks up: not every system lets Ctrl-C through to one that sleeps."""
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
    tell: Callable[[str], None],
    timeout: float = 300.0,
    psu_ip: str,
    random: Callable[[int], bytes] = os.urandom,
    monotonic: Callable[[], float] = time.monotonic,
) -> Token:
    """Ask the customer for consent in the browser, and store the token.

    Args:
        manager: Who exchanges the code and stores the token.
        client_id: The service user.
        grant: What the customer is asked to consent to.
        authorize_template: The bank's authorize URL, see `authorize_url`.
        redirect_uri: Where to listen, see `Listener`.
        extra: Further parameters that the bank wants.
        open_browser: Opens a URL and says whether it could; None to tell the URL instead.
        tell: Takes a line for the person at the terminal.
        timeout: Seconds to wait for the bank's answer.
        psu_ip: The customer's IP address, or `AUTO`.
        random: Returns that many random bytes.
        monotonic: Returns a time in seconds that never goes back.

    Raises:
        InvalidInputError: An argument cannot be used; nothing was sent.
        LoginRefusedError: No code came; nothing was sent or spent.
        BlinkError: The exchange failed; `outcome` says whether the code may be spent.

    Source: RFC 6749 section 4.1; RFC 8252; RFC 9700 section 4.7; bLink token management.
    """
    psu = Psu(psu_ip, Psu.AUTOMATIC)
    with Listener(redirect_uri) as listener:
        attempt = new_attempt(
            client_id, grant, listener.redirect_uri, random=random, key=random(32)
        )
        _show(authorize_url(authorize_template, attempt, extra), open_browser, tell)
        tell(f"Waiting for the bank's answer at {listener.redirect_uri}, {timeout:.0f} s at most.")
        callback, code = _code(listener, attempt, tell, monotonic() + timeout, monotonic)
        try:
            token = manager.authorize(
                grant,
                code=code,
                redirect_uri=attempt.redirect_uri,
                psu=_psu_of(callback, psu),
            )
        except BlinkError as error:
            callback.respond(failed_page(error), 502)
            raise
        except BaseException:
            callback.respond(ended_page("The login was interrupted; the code may be spent."), 500)
            raise
        callback.respond(succeeded_page(grant))
        return token


def _show(
    url: str, open_browser: Callable[[str], bool] | None, tell: Callable[[str], None]
) -> None:
    """Open the bank's page, or tell where it is."""

    def ask() -> None:
        tell(f"Open this page in a browser on this machine:\n{url}")

    def opening(open_it: Callable[[str], bool]) -> None:
        opened = False
        # Whatever goes wrong with a browser, a person can still open the page.
        with contextlib.suppress(Exception):
            opened = open_it(url)
        if not opened:
            ask()

    if open_browser is None:
        ask()
    else:
        tell("Opening the bank's page in the browser.")
        # A browser that lives in the terminal returns only when it is closed: after the answer.
        threading.Thread(target=opening, args=(open_browser,), daemon=True).start()


def _code(
    listener: Listener,
    attempt: Attempt,
    tell: Callable[[str], None],
    deadline: float,
    monotonic: Callable[[], float],
) -> tuple[Callback, Secret]:
    """Wait for the answer to this attempt; whatever else comes is told, once for each kind.

    Raises:
        LoginRefusedError: The answer brings no code, or did not come in time.
    """
    told: set[Why] = set()
    while (left := deadline - monotonic()) > 0:
        callback = listener.wait(min(left, PULSE))
        if callback is None:
            continue
        verdict = judge(attempt, callback.query)
        if isinstance(verdict, Code):
            listener.close_to_others(already_used_page(), 409)
            return callback, verdict.secret
        if verdict.ends_login:
            listener.close_to_others(already_used_page(), 409)
            callback.respond(refused_page(verdict), 400)
            raise LoginRefusedError(verdict.what, verdict.do)
        callback.respond(foreign_page(verdict), 400)
        if verdict.kind not in told:
            told.add(verdict.kind)
            tell(f"{verdict.what} {verdict.do}")
    raise LoginRefusedError(
        "The bank's answer did not come in time. No code was sent, nothing was spent.",
        "Start the login again; --timeout SECONDS waits longer.",
    )


def _psu_of(callback: Callback, psu: Psu) -> Psu:
    """Return the customer with the browser that brought the code, where it can be sent on."""
    if len(callback.user_agent) > MAX_USER_AGENT:
        return psu
    try:
        return Psu(psu.ip, callback.user_agent)
    except InvalidInputError:
        return psu


def own_address(base_url: str) -> str:
    """Return the address of this machine on the way to the platform, or `AUTO`.

    Nothing is sent: to connect a datagram socket only chooses the way.

    Args:
        base_url: The URL of the platform.
    """
    try:
        parts = urlsplit(base_url)
        ways = socket.getaddrinfo(parts.hostname, parts.port or 443, type=socket.SOCK_DGRAM)
        family, kind, protocol, _, there = ways[0]
        with socket.socket(family, kind, protocol) as way:
            way.connect(there)
            address = ipaddress.ip_address(way.getsockname()[0])
    except (OSError, ValueError):
        return Psu.AUTOMATIC
    usable = not (address.is_unspecified or getattr(address, "scope_id", None))
    return str(address) if usable else Psu.AUTOMATIC
