"""The authorization request of a login, and its callback (RFC 6749 section 4.1). Pure."""

from __future__ import annotations

import base64
import hmac
import os
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from urllib.parse import parse_qsl, quote, urlencode, urlsplit, urlunsplit

from attrs import field, frozen

from blink_oauth.context import Grant
from blink_oauth.errors import InvalidInputError
from blink_oauth.headers import is_visible_ascii
from blink_oauth.tokens import Secret

from .errors import CommandError

__all__ = [
    "START_AGAIN",
    "AuthorizationCode",
    "AuthorizationRequest",
    "FailedCallback",
    "FailureReason",
    "LoginFailedError",
    "authorize_url",
    "new_authorization_request",
    "printable",
    "read_callback",
]

OWN_PARAMETERS = ("response_type", "client_id", "redirect_uri", "username", "state")
LOOPBACK = ("127.0.0.1", "::1", "localhost")

_NONCE_BYTES = 16


class LoginFailedError(CommandError):
    """A login that ended before a code was sent to the platform."""


@frozen
class AuthorizationRequest:
    """The authorization request of one login.

    Attributes:
        client_id: The client's id in bLink's directory.
        grant: The grant that the customer is asked to consent to.
        redirect_uri: The URI to which the bank redirects the browser, with its port.
        state: The value that the callback must return.
    """

    client_id: str
    grant: Grant
    redirect_uri: str
    state: Secret = field(repr=False)


def new_authorization_request(
    client_id: str,
    grant: Grant,
    redirect_uri: str,
    *,
    random: Callable[[int], bytes] = os.urandom,
    key: bytes,
) -> AuthorizationRequest:
    """Return a request whose state is bound to all its other fields.

    Args:
        client_id: The client's id in bLink's directory.
        grant: The grant that the customer is asked to consent to.
        redirect_uri: The URI to which the bank redirects the browser.
        random: Returns the given number of random bytes.
        key: The secret HMAC key of the binding.

    Source: RFC 6749 section 10.12; RFC 9700 sections 2.1 and 4.7.
    """
    nonce = random(_NONCE_BYTES)
    texts = (client_id, grant.target_id, grant.username, redirect_uri)
    parts = (nonce, *(text.encode() for text in texts))
    # The length before each part keeps a part from being read as the end of the previous one.
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    state = base64.urlsafe_b64encode(nonce + hmac.digest(key, message, "sha256"))
    return AuthorizationRequest(
        client_id, grant, redirect_uri, Secret(state.decode(), what="state")
    )


def authorize_url(template: str, request: AuthorizationRequest, extra: Mapping[str, str]) -> str:
    """Return the URL of the bank's consent page. It contains the state.

    Args:
        template: The bank's authorize URL; `{target_id}` and `{client_id}` are filled in. It may
            have a query.
        request: The authorization request.
        extra: Further parameters that the bank requires.

    Raises:
        InvalidInputError: The template or a further parameter cannot be used.

    Source: RFC 6749 sections 3.1 and 4.1.1.
    """
    url = template.replace("{target_id}", quote(request.grant.target_id, safe=""))
    url = url.replace("{client_id}", quote(request.client_id, safe=""))
    problem = _url_problem(url)
    if problem is not None:
        raise InvalidInputError(f"The authorize URL {problem}. Nothing was sent.")
    parts = urlsplit(url)
    given = [name for name, _ in parse_qsl(parts.query, keep_blank_values=True)]
    own = ", ".join(OWN_PARAMETERS)
    for name in (*given, *extra):
        if name in OWN_PARAMETERS or (name in given and name in extra) or given.count(name) > 1:
            raise InvalidInputError(
                f"The parameter {printable(name, 40)} is there already, and each may be there only "
                f"once. Those of the login itself are {own}. Nothing was sent."
            )
    values = ("code", request.client_id, request.redirect_uri, request.grant.username)
    parameters = dict(zip(OWN_PARAMETERS, (*values, request.state.reveal()), strict=True))
    query = urlencode({**parameters, **extra}, quote_via=quote)
    return urlunsplit(parts._replace(query=f"{parts.query}&{query}" if parts.query else query))


def _url_problem(url: str) -> str | None:
    """Return why a browser must not open a URL, or None."""
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


def printable(text: str, limit: int) -> str:
    """Return a text cut to `limit` characters (then `…`), with blanks for unprintable ones."""
    shown = "".join(char if char.isprintable() else " " for char in text[: limit + 1])
    return f"{shown[:limit]}…" if len(text) > limit else shown


MAX_PARAMETERS = 50
START_AGAIN = "Start the login again."
STILL_WAITING = "This login goes on waiting. Finish it on the bank's page that it opened."

_STATE = re.compile(r"[A-Za-z0-9_-]{64}")
_CODE = re.compile(r"[\x20-\x7e]+")

_ERRORS: Mapping[str, tuple[str, str]] = {
    "access_denied": (
        "consent was refused",
        "If that was not meant, start the login again and approve.",
    ),
    "invalid_request": (
        "the authorization request is wrong",
        "Compare the authorize URL and its parameters with what the bank asks for.",
    ),
    "unauthorized_client": (
        "this client may not ask for a code",
        "Check the client id, and that the bank has activated it.",
    ),
    "unsupported_response_type": (
        "it gives no authorization codes here",
        "Check the authorize URL.",
    ),
    "invalid_scope": (
        "the scope is wrong",
        "Give the scope that the bank asks for: --parameter scope=…",
    ),
    "server_error": ("it failed", "Start the login again, later if it goes on."),
    "temporarily_unavailable": ("it is not available now", "Start the login again later."),
}


class FailureReason(StrEnum):
    """Why a callback carries no usable code for this login."""

    UNREADABLE = "unreadable"
    NO_STATE = "no_state"
    REPEATED_STATE = "repeated_state"
    WRONG_STATE = "wrong_state"
    OTHER_LOGIN = "other_login"
    REPEATED_PARAMETER = "repeated_parameter"
    ACCESS_DENIED = "access_denied"
    BANK_ERROR = "bank_error"
    NO_CODE = "no_code"


_WITHOUT_VALID_STATE = {
    FailureReason.UNREADABLE,
    FailureReason.NO_STATE,
    FailureReason.REPEATED_STATE,
    FailureReason.WRONG_STATE,
    FailureReason.OTHER_LOGIN,
}


@frozen
class AuthorizationCode:
    """The authorization code of a callback of this login."""

    secret: Secret = field(repr=False)


@frozen
class FailedCallback:
    """A callback that carries no usable code for this login.

    Attributes:
        reason: The kind of failure.
        what: What happened, and that nothing is spent.
        do: What to do next.
    """

    reason: FailureReason
    what: str
    do: str

    @property
    def ends_login(self) -> bool:
        """Whether the callback belongs to this login, so that there is nothing left to wait for.

        Only a party that saw the request knows its state. Any page in the browser can send a
        callback without it, which must not end the login (RFC 9700 section 4.7).
        """
        return self.reason not in _WITHOUT_VALID_STATE


def read_callback(request: AuthorizationRequest, query: str) -> AuthorizationCode | FailedCallback:
    """Return the code of a callback, or why it carries none for this login.

    Args:
        request: The authorization request of this login.
        query: The query of the request to the redirect URI, as it was received.

    Source: RFC 6749 sections 3.1, 4.1.2 and 4.1.2.1; RFC 9700 section 4.7.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        what = "An answer came that cannot be read."
        return FailedCallback(FailureReason.UNREADABLE, what, STILL_WAITING)
    failure = _check_state(request, [value for name, value in pairs if name == "state"])
    if failure is not None:
        return failure
    parameters = dict(pairs)
    if len(parameters) < len(pairs):
        return FailedCallback(
            FailureReason.REPEATED_PARAMETER,
            "The bank's answer holds a parameter more than once. No code was sent or spent.",
            f"{START_AGAIN} If it goes on, tell the bank.",
        )
    if "error" in parameters:
        return _bank_error(parameters["error"], parameters.get("error_description", ""))
    if not _CODE.fullmatch(parameters.get("code", "")):
        return FailedCallback(
            FailureReason.NO_CODE,
            "The bank's answer holds no usable code, and no error either. Nothing was spent.",
            f"{START_AGAIN} If it goes on, tell the bank.",
        )
    return AuthorizationCode(Secret(parameters["code"], what="authorization code"))


def _check_state(request: AuthorizationRequest, states: list[str]) -> FailedCallback | None:
    """Return why a callback does not belong to this login, or None if it does."""
    if not states:
        return FailedCallback(
            FailureReason.NO_STATE, "An answer came without a state.", STILL_WAITING
        )
    if len(states) > 1:
        what = "An answer came with more than one state."
        return FailedCallback(FailureReason.REPEATED_STATE, what, STILL_WAITING)
    if hmac.compare_digest(states[0].encode(), request.state.reveal().encode()):
        return None
    if _STATE.fullmatch(states[0]):
        what = "An answer came with the state of another login. Its code was not used."
        return FailedCallback(FailureReason.OTHER_LOGIN, what, STILL_WAITING)
    what = "An answer came with a wrong state. Its code was not used."
    return FailedCallback(FailureReason.WRONG_STATE, what, STILL_WAITING)


def _bank_error(error: str, description: str) -> FailedCallback:
    meaning, do = _ERRORS.get(error, ("it gives no code", START_AGAIN))
    what = f"The bank says that {meaning} ({printable(error, 60) or 'no error code'})."
    if description.strip():
        what += f" In its words: “{printable(description, 200)}”."
    reason = FailureReason.ACCESS_DENIED if error == "access_denied" else FailureReason.BANK_ERROR
    return FailedCallback(reason, f"{what} No code was issued, nothing was spent.", do)
