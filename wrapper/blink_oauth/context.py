"""For whom a call is made: the grant it concerns and the person behind it."""

from __future__ import annotations

import ipaddress
from typing import ClassVar

from attrs import Attribute, field, frozen

from .errors import InvalidInputError
from .tokens import sendable

__all__ = ["Grant", "Psu", "is_visible_ascii", "require_header_value"]

MAX_USERNAME = 64


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


def is_visible_ascii(text: str) -> bool:
    """Say whether a text is made of visible ASCII alone, without blanks."""
    return text.isascii() and text.isprintable() and " " not in text


def _header_value(instance: object, attribute: Attribute[str], value: str) -> None:
    require_header_value(f"{type(instance).__name__}.{attribute.name}", value)


def _header_text(instance: object, attribute: Attribute[str], value: str) -> None:
    require_header_value(f"{type(instance).__name__}.{attribute.name}", value, blanks=True)


def _username(instance: object, attribute: Attribute[str], value: str) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_USERNAME or not sendable(value):
        raise InvalidInputError(f"Grant.username must be a str of 1 to {MAX_USERNAME} characters.")
    if "\0" in value:
        # No database keeps it as text, so it could not be told from another name.
        raise InvalidInputError("Grant.username must not hold the character NUL.")


@frozen(weakref_slot=False)
class Grant:
    """One customer's consent at one bank.

    Args:
        target_id: The id of the target (the bank) in bLink's directory, such as `IIDX99999`.
        username: The customer's user name, 1 to 64 characters; sent with every token call.

    Raises:
        InvalidInputError: A value cannot be sent.

    Source: bLink consent-flow v2, request header `X-CorAPI-Target-ID` and form field `username`.
    """

    target_id: str = field(validator=_header_value)
    username: str = field(validator=_username)


def _ip_address(instance: Psu, attribute: Attribute[str], value: str) -> None:
    _header_value(instance, attribute, value)
    if value == Psu.AUTOMATIC:
        return
    try:
        ipaddress.ip_address(value)
    except ValueError:
        usable = False
    else:
        usable = "%" not in value
    if not usable:
        raise InvalidInputError("Psu.ip must be an IPv4 or IPv6 address, without a zone.")


@frozen
class Psu:
    """The payment service user (PSU): the person who sits at the device, if there is one.

    Use `Psu.AUTO` for a call that no person triggered, such as a refresh in the background.

    Args:
        ip: The IP address of the person's device.
        user_agent: The user agent of the person's device or browser.

    Raises:
        InvalidInputError: A value cannot be sent.

    Source: bLink custom headers `X-PSU-IP-Address` and `X-PSU-User-Agent`, both with the special
    value `AUTO`.
    """

    AUTOMATIC: ClassVar[str] = "AUTO"
    AUTO: ClassVar[Psu]

    ip: str = field(validator=_ip_address)
    user_agent: str = field(validator=_header_text)


Psu.AUTO = Psu(Psu.AUTOMATIC, Psu.AUTOMATIC)
