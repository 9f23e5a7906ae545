"""The pages on which a login ends in the browser. They never show a code or a state."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from blink_oauth.context import Grant
from blink_oauth.errors import BlinkError, Outcome
from blink_oauth_testing.sandbox.page import Tone, page

from .login_authorization import printable
from .verdict import START_AGAIN, Refusal

__all__ = [
    "already_used",
    "ended",
    "failed",
    "foreign",
    "not_the_callback",
    "refused",
    "spent",
    "succeeded",
]

NOT_LOGGED_IN = "Not logged in"
CLOSE = "You can close this window."

_SPENT: Mapping[Outcome, str] = {
    Outcome.NOT_EXECUTED: "The code is not spent, but it lives only 30 seconds.",
    Outcome.REJECTED: "The code was refused and is of no more use. No token was issued.",
    Outcome.UNCERTAIN: (
        "It is uncertain whether the code is spent: the bank may have issued a token that did not "
        "arrive. The code is not sent again."
    ),
}
_NOT_CALLBACK: Mapping[int, str] = {
    400: "The request was not made to this address by name, or cannot be read.",
    404: "There is nothing here but the address that the bank sends the browser back to.",
    405: "The bank's answer must come as a GET request.",
    414: "The request is too long.",
}


def spent(outcome: Outcome) -> str:
    """Say what is known of the code after an exchange that failed."""
    return _SPENT[outcome]


def succeeded(grant: Grant) -> bytes:
    """Say that the token is stored."""
    who = f"User {grant.username} at {grant.target_id}"
    return _page("Logged in", "good", f"{who}: the token is stored.", CLOSE)


def refused(refusal: Refusal) -> bytes:
    """Say why the bank's answer ended the login."""
    return _page(NOT_LOGGED_IN, "bad", refusal.what, refusal.do)


def foreign(refusal: Refusal) -> bytes:
    """Say that an answer does not belong to the login that waits."""
    return _page("Not the answer to this login", "bad", refusal.what, refusal.do)


def failed(error: BlinkError) -> bytes:
    """Say why the code could not be exchanged, and whether it is spent."""
    lines = [printable(str(error), 500), spent(error.outcome), START_AGAIN]
    if error.correlation_id:
        lines.append(f"Correlation id: {error.correlation_id}")
    return _page(NOT_LOGGED_IN, "bad", *lines)


def ended(what: str) -> bytes:
    """Say that the command ended before it could tell the result."""
    return _page(NOT_LOGGED_IN, "bad", what, "Look at the terminal, then start the login again.")


def already_used() -> bytes:
    """Say that a second answer changes nothing."""
    return _page(
        "Already used",
        "plain",
        "This login has had its answer already. The code was not sent a second time.",
        "The first page and the terminal tell the result.",
    )


def not_the_callback(status: int) -> bytes:
    """Say that a request is not the bank's answer, and that the login goes on."""
    what = _NOT_CALLBACK.get(status, _NOT_CALLBACK[400])
    return _page("Not the bank's answer", "plain", what, "The login goes on waiting.")


def _page(title: str, tone: Tone, *lines: str) -> bytes:
    return page(title, "\n".join(f"<p>{escape(line)}</p>" for line in lines), tone=tone)
