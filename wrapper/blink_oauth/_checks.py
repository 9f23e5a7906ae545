"""Checks of the texts that are sent, in header fields and elsewhere."""

from __future__ import annotations

from .arguments import type_of
from .errors import InvalidInputError
from .headers import is_visible_ascii

__all__ = ["require_header_value", "sendable"]

UNSENT = "Nothing was sent."


def require_header_value(
    what: str, value: object, *, blanks: bool = False, example: str = ""
) -> None:
    """Require a text that is valid in a header field (RFC 9110 section 5.5).

    Args:
        what: The name of the value, for the error message.
        value: The value to check.
        blanks: Whether blanks are allowed between other characters.
        example: An example for the error message.

    Raises:
        InvalidInputError: It is not a str, is empty, or contains anything but visible ASCII. A
            line break in a value could add further headers.
    """
    hint = f", such as {example}" if example else ""
    if not isinstance(value, str):
        raise InvalidInputError(f"{what} must be a str{hint}, but it is {type_of(value)}. {UNSENT}")
    if not value:
        raise InvalidInputError(f"{what} must not be empty{hint}. {UNSENT}")
    text = value.replace(" ", "_") if blanks and value == value.strip() else value
    if not is_visible_ascii(text):
        allowed = "with blanks only between other characters" if blanks else "without blanks"
        raise InvalidInputError(f"{what} must be visible ASCII, {allowed}{hint}. {UNSENT}")


def sendable(text: str) -> bool:
    """Return whether a text can be encoded; JSON can contain a lone surrogate, which cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
