"""What may be sent: texts for header fields, and texts that can be encoded at all."""

from __future__ import annotations

from .errors import InvalidInputError
from .headers import is_visible_ascii

__all__ = ["require_header_value", "sendable"]


def require_header_value(what: str, value: object, *, blanks: bool = False) -> None:
    """Refuse a text that may not travel in a header field (RFC 9110 section 5.5).

    Args:
        what: What the value is, for the error message.
        value: The value to check.
        blanks: Whether there may be blanks inside.

    Raises:
        InvalidInputError: It is not a str, is empty, or holds anything but visible ASCII. A line
            break would let a value forge further headers.
    """
    if not isinstance(value, str):
        raise InvalidInputError(f"The {what} must be a str, but it is a {type(value).__name__}.")
    if not value:
        raise InvalidInputError(f"The {what} must not be empty.")
    text = value.replace(" ", "_") if blanks and value == value.strip() else value
    if not is_visible_ascii(text):
        allowed = "visible ASCII, blanks inside allowed" if blanks else "visible ASCII, no blanks"
        raise InvalidInputError(f"The {what} must be {allowed}. Nothing was sent.")


def sendable(text: str) -> bool:
    """Say whether a text can be encoded; a lone surrogate comes through JSON, and cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
