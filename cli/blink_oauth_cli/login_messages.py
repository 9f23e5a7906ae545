"""What the command says of a callback: what happened, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import frozen

from blink_oauth.authorization import FailedCallback, FailureReason

from .errors import CommandError

__all__ = [
    "NO_COOKIE",
    "START_AGAIN",
    "START_PAGE_TAKEN",
    "LoginFailedError",
    "Message",
    "message_of",
]


class LoginFailedError(CommandError):
    """A login that ended before a code was sent to the platform."""


@frozen
class Message:
    """Two sentences about a callback.

    Attributes:
        what: What happened, and that nothing is spent.
        do: What to do next.
    """

    what: str
    do: str


START_AGAIN: Final = "Start the login again."
STILL_WAITING: Final = "This login goes on waiting. Finish it on the bank's page that it opened."
TELL_THE_BANK: Final = f"{START_AGAIN} If it goes on, tell the bank."

NO_COOKIE: Final = Message(
    "An answer came from a browser other than the one that this login opened, or without its "
    "cookie. Its code was not used.",
    "This login goes on waiting. Finish it in that browser, or open the page that the terminal "
    "shows.",
)
START_PAGE_TAKEN: Final = Message(
    "The page that the browser opened first was asked for twice: another program, perhaps of "
    "another user of this machine, has read its address. No code was sent, nothing was spent.",
    "Start the login again; with --no-browser no address is on a command line.",
)

_MESSAGES: Mapping[FailureReason, Message] = {
    FailureReason.UNREADABLE: Message("An answer came that cannot be read.", STILL_WAITING),
    FailureReason.WHOLE_URL: Message("An answer came that is no query.", STILL_WAITING),
    FailureReason.NO_STATE: Message("An answer came without a state.", STILL_WAITING),
    FailureReason.REPEATED_STATE: Message(
        "An answer came with more than one state.", STILL_WAITING
    ),
    FailureReason.WRONG_STATE: Message(
        "An answer came with a wrong state. Its code was not used.", STILL_WAITING
    ),
    FailureReason.OTHER_LOGIN: Message(
        "An answer came with the state of another login. Its code was not used.", STILL_WAITING
    ),
    FailureReason.REPEATED_PARAMETER: Message(
        "The bank's answer holds a parameter more than once. No code was sent or spent.",
        TELL_THE_BANK,
    ),
    FailureReason.NO_CODE: Message(
        "The bank's answer holds no usable code, and no error either. Nothing was spent.",
        TELL_THE_BANK,
    ),
}

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


def message_of(failure: FailedCallback) -> Message:
    """Return what happened and what to do after a callback without a usable code."""
    if failure.reason in _MESSAGES:
        return _MESSAGES[failure.reason]
    meaning, do = _ERRORS.get(failure.error or "", ("it gives no code", START_AGAIN))
    what = f"The bank says that {meaning} ({failure.error or 'no error code'})."
    if failure.description:
        what += f" In its words: “{failure.description}”."
    return Message(f"{what} No code was issued, nothing was spent.", do)
