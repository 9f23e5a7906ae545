"""One attempt to log in: its `state` and its authorize URL. Pure."""

from __future__ import annotations

import base64
import hmac
import os
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from attrs import field, frozen

from blink_oauth.context import Grant, is_visible_ascii
from blink_oauth.errors import InvalidInputError
from blink_oauth.tokens import Secret

__all__ = ["Attempt", "LoginRefusedError", "authorize_url", "new_attempt", "printable"]

OURS = ("response_type", "client_id", "redirect_uri", "username", "state")
LOOPBACK = ("127.0.0.1", "::1", "localhost")

_NONCE_BYTES = 16


class LoginRefusedError(Exception):
    """A login ended before a code was sent to the platform.

    Args:
        what: What happened, and whether anything was spent.
        do: What to do next.
    """

    def __init__(self, what: str, do: str) -> None:
        super().__init__(what)
        self.what, self.do = what, do


@frozen
class Attempt:
    """One attempt to log in.

    Attributes:
        client_id: The service user.
        grant: What the customer is asked to consent to.
        redirect_uri: Where the bank sends the browser back, with the port that is listened on.
        state: What the callback must bring along.
    """

    client_id: str
    grant: Grant
    redirect_uri: str
    state: Secret = field(repr=False)


def new_attempt(
    client_id: str,
    grant: Grant,
    redirect_uri: str,
    *,
    random: Callable[[int], bytes] = os.urandom,
    key: bytes,
) -> Attempt:
    """Begin an attempt, with a state that is bound to all that it is about.

    Args:
        client_id: The service user.
        grant: What the customer is asked to consent to.
        redirect_uri: Where the bank sends the browser back.
        random: Returns that many random bytes.
        key: What the binding is made with; nobody else knows it.

    Source: RFC 6749 section 10.12; RFC 9700 sections 2.1 and 4.7.
    """
    nonce = random(_NONCE_BYTES)
    texts = (client_id, grant.target_id, grant.username, redirect_uri)
    parts = (nonce, *(text.encode() for text in texts))
    # With its length before it, no part can pass for the end of the one before.
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    state = base64.urlsafe_b64encode(nonce + hmac.digest(key, message, "sha256"))
    return Attempt(client_id, grant, redirect_uri, Secret(state.decode(), what="state"))


def authorize_url(template: str, attempt: Attempt, extra: Mapping[str, str]) -> str:
    """Return the page of the bank that asks the customer. It holds the state.

    Args:
        template: The bank's authorize URL; `{target_id}` and `{client_id}` are filled in. It may
            have a query.
        attempt: The attempt.
        extra: Further parameters that the bank wants.

    Raises:
        InvalidInputError: The template or a further parameter cannot be used.

    Source: RFC 6749 sections 3.1 and 4.1.1.
    """
    url = template.replace("{target_id}", quote(attempt.grant.target_id, safe=""))
    url = url.replace("{client_id}", quote(attempt.client_id, safe=""))
    problem = _problem_of(url)
    if problem is not None:
        raise InvalidInputError(f"The authorize URL {problem}. Nothing was sent.")
    parts = urlsplit(url)
    given = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    for name in (*given, *extra):
        if name in OURS or (name in given and name in extra) or given.count(name) > 1:
            raise InvalidInputError(
                f"The parameter {printable(name, 40)} is there already, and each may be there only "
                f"once. Those of the login itself are {', '.join(OURS)}. Nothing was sent."
            )
    values = ("code", attempt.client_id, attempt.redirect_uri, attempt.grant.username)
    ours = dict(zip(OURS, (*values, attempt.state.reveal()), strict=True))
    query = urlencode({**ours, **extra}, quote_via=quote)
    return urlunsplit(parts._replace(query=f"{parts.query}&{query}" if parts.query else query))


def _problem_of(url: str) -> str | None:
    """Say why no browser is sent to a URL, or None."""
    if not is_visible_ascii(url):
        return "must be visible ASCII, without blanks"
    if "{" in url or "}" in url:
        return "may hold {target_id} and {client_id}, and no other braces"
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is no URL"
    if "#" in url or "@" in parts.netloc or not host:
        return "must name a host, and neither a user nor a fragment"
    if parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK):
        return None
    return "must begin with https:// (http:// only on this machine)"


def printable(text: str, most: int) -> str:
    """Return a text from elsewhere so that it can do nothing to a terminal, and cut.

    Args:
        text: Any text.
        most: Characters that are kept.
    """
    plain = "".join(one if one.isprintable() else " " for one in text[: most + 1])
    return f"{plain[:most]}…" if len(text) > most else plain
