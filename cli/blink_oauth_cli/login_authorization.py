"""One login at a bank: its `state`, its authorize URL, and what its callback means. Pure."""

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

from .errors import TroubleError

__all__ = [
    "START_AGAIN",
    "Attempt",
    "Code",
    "LoginRefusedError",
    "Refusal",
    "Why",
    "authorize_url",
    "judge",
    "new_attempt",
    "printable",
]

OURS = ("response_type", "client_id", "redirect_uri", "username", "state")
LOOPBACK = ("127.0.0.1", "::1", "localhost")

_NONCE_BYTES = 16


class LoginRefusedError(TroubleError):
    """A login ended before a code was sent to the platform."""


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


class Why(StrEnum):
    """Why a callback brings no code."""

    UNREADABLE = "unreadable"
    NO_STATE = "no_state"
    REPEATED_STATE = "repeated_state"
    WRONG_STATE = "wrong_state"
    OTHER_LOGIN = "other_login"
    REPEATED_PARAMETER = "repeated_parameter"
    ACCESS_DENIED = "access_denied"
    BANK_ERROR = "bank_error"
    NO_CODE = "no_code"


_ANYBODY = {Why.UNREADABLE, Why.NO_STATE, Why.REPEATED_STATE, Why.WRONG_STATE, Why.OTHER_LOGIN}


@frozen
class Code:
    """A callback that answers this attempt with an authorization code."""

    secret: Secret = field(repr=False)


@frozen
class Refusal:
    """A callback that brings no code.

    Attributes:
        kind: Why.
        what: What happened, and that nothing is spent.
        do: What to do next.
    """

    kind: Why
    what: str
    do: str

    @property
    def ends_login(self) -> bool:
        """Whether it surely answers this attempt, so that there is nothing left to wait for.

        Only who saw this attempt can know its state. Anything else may come from any page that the
        browser shows, and must not be able to end a login (RFC 9700 section 4.7).
        """
        return self.kind not in _ANYBODY


def judge(attempt: Attempt, query: str) -> Code | Refusal:
    """Decide what a callback means for an attempt.

    Args:
        attempt: The attempt that waits.
        query: The query of the request to the redirect URI, as it was received.

    Source: RFC 6749 sections 3.1, 4.1.2 and 4.1.2.1; RFC 9700 section 4.7.
    """
    try:
        pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=MAX_PARAMETERS)
    except ValueError:
        return Refusal(Why.UNREADABLE, "An answer came that cannot be read.", STILL_WAITING)
    stranger = _judge_state(attempt, [value for name, value in pairs if name == "state"])
    if stranger is not None:
        return stranger
    answer = dict(pairs)
    if len(answer) < len(pairs):
        return Refusal(
            Why.REPEATED_PARAMETER,
            "The bank's answer holds a parameter more than once. No code was sent or spent.",
            f"{START_AGAIN} If it goes on, tell the bank.",
        )
    if "error" in answer:
        return _bank_error(answer["error"], answer.get("error_description", ""))
    if not _CODE.fullmatch(answer.get("code", "")):
        return Refusal(
            Why.NO_CODE,
            "The bank's answer holds no usable code, and no error either. Nothing was spent.",
            f"{START_AGAIN} If it goes on, tell the bank.",
        )
    return Code(Secret(answer["code"], what="authorization code"))


def _judge_state(attempt: Attempt, states: list[str]) -> Refusal | None:
    """Say why a callback does not answer this attempt, or None where it does."""
    if not states:
        return Refusal(Why.NO_STATE, "An answer came without a state.", STILL_WAITING)
    if len(states) > 1:
        return Refusal(
            Why.REPEATED_STATE, "An answer came with more than one state.", STILL_WAITING
        )
    if hmac.compare_digest(states[0].encode(), attempt.state.reveal().encode()):
        return None
    if _STATE.fullmatch(states[0]):
        what = "An answer came with the state of another login. Its code was not used."
        return Refusal(Why.OTHER_LOGIN, what, STILL_WAITING)
    what = "An answer came with a wrong state. Its code was not used."
    return Refusal(Why.WRONG_STATE, what, STILL_WAITING)


def _bank_error(error: str, description: str) -> Refusal:
    meaning, do = _ERRORS.get(error, ("it gives no code", START_AGAIN))
    what = f"The bank says that {meaning} ({printable(error, 60) or 'no error code'})."
    if description.strip():
        what += f" In its words: “{printable(description, 200)}”."
    kind = Why.ACCESS_DENIED if error == "access_denied" else Why.BANK_ERROR
    return Refusal(kind, f"{what} No code was issued, nothing was spent.", do)
