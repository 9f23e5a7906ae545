"""The check of `doctor` that finds the form of a revocation that the platform accepts.

Of the form only `token` is certain; a closed form refuses any other field that it does not have.
Each trial revokes another token that does not exist, so that none can spend anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from enum import Enum

from attrs import evolve, frozen

from blink_oauth.client import BlinkOAuth
from blink_oauth.context import Grant
from blink_oauth.errors import (
    BlinkError,
    ForeignResponseError,
    InvalidClientError,
    ResponseError,
    RevocationError,
    is_about_form,
)
from blink_oauth.headers import ResponseMeta, Source
from blink_oauth.settings import NO_REVOCATION_FIELD, RevocationField, Settings
from blink_oauth.tokens import Token, TokenKind

from .check import Check, failed, passed, warning

__all__ = ["FormState", "Trial", "other_trials", "revocation_check", "trial"]

REVOCATION = "revocation"
CHOICES: tuple[tuple[RevocationField, ...], ...] = (
    ("token_type_hint", "client_id", "username"),
    ("token_type_hint", "client_id"),
    ("client_id", "username"),
    ("client_id",),
    ("token_type_hint", "username"),
    ("token_type_hint",),
    ("username",),
    (),
)
"""Every choice of fields, the likeliest first: RFC 7009 has all of them but `username`."""

UNPROVED = (
    "Only a real token can prove that it is revoked: a server accepts an unknown one, too "
    "(RFC 7009 section 2.2)."
)
SET_FIELDS = (
    "Write revocation_fields = [{listed}] into the profile of blink-oauth.toml, or set "
    "BLINK_REVOCATION_FIELDS={joined}. Then revoke a real token once, and see that the bank "
    "refuses it afterwards."
)


class FormState(Enum):
    """What a response says about the form of a revocation."""

    ACCEPTED = "accepted"
    """The token was looked at: revoked, or refused for its own sake."""
    REFUSED = "refused"
    """The form was refused."""
    UNKNOWN = "unknown"
    """It was not looked at, or no response was received."""


@frozen
class Trial:
    """A revocation of a made-up token.

    Attributes:
        fields: The fields that were sent beside the token.
        result: The values of the response headers of a success, or the error.
    """

    fields: tuple[RevocationField, ...]
    result: ResponseMeta | BlinkError

    @property
    def state(self) -> FormState:
        """What the response says about the form."""
        if isinstance(self.result, BlinkError):
            return _state(self.result, self.fields)
        return FormState.ACCEPTED


def _state(error: BlinkError, fields: Sequence[RevocationField]) -> FormState:
    if not isinstance(error, ResponseError) or isinstance(error, ForeignResponseError):
        return FormState.UNKNOWN
    by_bank = error.source is Source.PROVIDER
    if isinstance(error, InvalidClientError) or (error.status == 401 and not by_bank):
        # Without its id, the client itself may be what the server does not find.
        return FormState.UNKNOWN if "client_id" in fields else FormState.REFUSED
    if error.status in {400, 422} and (is_about_form(error) or not by_bank):
        return FormState.REFUSED
    # A bank that names another code has read the form.
    is_about_token = by_bank and error.status in {400, 401} and error.codes
    return FormState.ACCEPTED if is_about_token else FormState.UNKNOWN


def trial(
    settings: Settings, grant: Grant, clock: Callable[[], datetime], new_name: Callable[[], str]
) -> Trial:
    """Revoke a made-up token with the fields of the settings, and return the result.

    Args:
        settings: The client's settings.
        grant: The bank and the username of the call.
        clock: Returns the current time, aware UTC.
        new_name: Returns a random name.

    Raises:
        InvalidInputError: The settings or the grant cannot be used; nothing was sent.
    """
    made_up = Token(access_token=f"not-a-token-{new_name()}")
    try:
        with BlinkOAuth(settings, clock=clock) as blink:
            result: ResponseMeta | BlinkError = blink.revoke(grant, made_up)[TokenKind.ACCESS_TOKEN]
    except RevocationError as error:
        result = error.errors[TokenKind.ACCESS_TOKEN]
    return Trial(settings.revocation_fields, result)


def other_trials(
    settings: Settings, grant: Grant, clock: Callable[[], datetime], new_name: Callable[[], str]
) -> Iterator[Trial]:
    """Try every other choice of fields, until a response says nothing about the form.

    Args:
        settings: The client's settings, with the fields that were refused.
        grant: The bank and the username of the calls.
        clock: Returns the current time, aware UTC.
        new_name: Returns a random name.
    """
    for fields in CHOICES:
        if fields == settings.revocation_fields:
            continue
        tried = trial(evolve(settings, revocation_fields=fields), grant, clock, new_name)
        yield tried
        if tried.state is FormState.UNKNOWN:
            return


def revocation_check(first: Trial, others: Sequence[Trial], response: str) -> Check:
    """Return what the trials have found.

    Args:
        first: The trial with the configured fields.
        others: The trials with other fields; empty unless the first form was refused.
        response: The response to the first one, for messages.
    """
    form = f"The form of a revocation with {_named(first.fields)}"
    if first.state is FormState.ACCEPTED:
        return passed(REVOCATION, f"{form} is accepted. {UNPROVED}")
    refused = f"{form} is refused: {response}"
    accepted = [tried.fields for tried in others if tried.state is FormState.ACCEPTED]
    if accepted:
        forms = "; with ".join(map(_named, accepted))
        listed = ", ".join(f'"{name}"' for name in accepted[0])
        return failed(
            REVOCATION,
            f"{refused} Accepted is one with {forms}. {UNPROVED}",
            SET_FIELDS.format(listed=listed, joined=",".join(accepted[0]) or NO_REVOCATION_FIELD),
        )
    if any(tried.state is FormState.UNKNOWN for tried in others):
        return warning(
            REVOCATION,
            f"{refused} The trial of other fields ended early, because the response to number "
            f"{len(others)} says nothing about the form.",
            "Correct what the checks above have found, or look again later.",
        )
    return failed(
        REVOCATION,
        f"{refused} So is every other choice of fields.",
        "Correct what the checks above have found; if there is nothing, ask the bLink support for "
        "the form.",
    )


def _named(fields: Sequence[RevocationField]) -> str:
    if not fields:
        return "the token alone"
    return f"{', '.join(('token', *fields[:-1]))} and {fields[-1]}"
