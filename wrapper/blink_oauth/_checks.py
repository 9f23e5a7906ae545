"""Checks of the texts that are sent, in header fields and elsewhere."""

from __future__ import annotations

from .errors import InvalidInputError
from .headers import is_visible_ascii

__all__ = ["require_header_value", "sendable"]


def require_header_value(what: str, value: object, *, blanks: bool = False) -> None:
    """Require a text that is valid in a header field (RFC 9110 section 5.5).

    Args:
        what: The name of the value, for the error message.
        value: The value to check.
        blanks: Whether blanks are allowed between other characters.

    Raises:
        InvalidInputError: It is not a str, is empty, or contains anything but visible ASCII. A
            line break in a value could add further headers.
    """
    if not isinstance(value, str):
        raise InvalidInputError(f"The {what} must be a str, but it is a {type(value).__name__}.")
    if not value:
        raise InvalidInputError(f"The {what} must not be empty.")
    text = value.replace(" ", "_") if blanks and value == value.strip() else value
    if not is_visible_ascii(text):
        allowed = "with blanks only between other characters" if blanks else "without blanks"
        raise InvalidInputError(f"The {what} must be visible ASCII, {allowed}. Nothing was sent.")


def sendable(text: str) -> bool:
    """Return whether a text can be encoded; JSON can contain a lone surrogate, which cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
