"""What a callback means for the attempt that waits. Pure."""

from __future__ import annotations

import hmac
import re
from collections.abc import Mapping
from enum import StrEnum
from urllib.parse import parse_qsl

from attrs import field, frozen

from blink_oauth.tokens import Secret

from .login_authorization import Attempt, printable

__all__ = ["START_AGAIN", "Code", "Refusal", "Why", "judge"]

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
