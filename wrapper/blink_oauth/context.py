"""The context of a call: the grant, the customer's device, and the request headers."""

from __future__ import annotations

import ipaddress
from typing import ClassVar, Final
from urllib.parse import quote, urlsplit

from attrs import Attribute, field, frozen

from ._checks import require_header_value, sendable
from .arguments import require_type
from .errors import InvalidInputError
from .headers import CORRELATION_ID, PSU_IP_ADDRESS, PSU_USER_AGENT, TARGET_ID, USER_AGENT

__all__ = ["Grant", "Psu", "request_headers", "require_redirect_uri"]

MAX_USERNAME: Final = 64
MAX_USER_AGENT: Final = 1_024
"""Characters of a user agent that are sent at most: servers limit the size of a header."""
TARGET: Final = '"IIDX99999"'
ADDRESS: Final = '"203.0.113.7"'
REDIRECT_URI: Final = '"https://app.example/callback"'


def _target_id(instance: object, attribute: Attribute[str], value: str) -> None:
    require_header_value("Grant.target_id", value, example=TARGET)


def _user_agent(instance: object, attribute: Attribute[str], value: str) -> None:
    require_header_value("Psu.user_agent", value, blanks=True)


def _username(instance: object, attribute: Attribute[str], value: str) -> None:
    if not isinstance(value, str) or not 0 < len(value) <= MAX_USERNAME or not sendable(value):
        raise InvalidInputError(
            f'Grant.username must be a str of 1 to {MAX_USERNAME} characters, such as "u-4711". '
            "Nothing was sent."
        )
    if "\0" in value:
        # PostgreSQL cannot store it in a text, and SQLite may end the text at it.
        raise InvalidInputError("Grant.username must not hold the character NUL. Nothing was sent.")


@frozen(weakref_slot=False)
class Grant:
    """One customer's authorization for our client at one target.

    Args:
        target_id: The id of the target (the bank) in bLink's directory, such as `IIDX99999`.
        username: The resource owner's username, 1 to 64 characters; sent with every call.
            Presumably the customer's login at your own software, which the customer also enters at
            the bank: so says the help of one service user, but no page of the platform.

    Raises:
        InvalidInputError: A value cannot be sent.

    Source: bLink consent-flow v2, request header `X-CorAPI-Target-ID` and form field `username`.
    """

    target_id: str = field(validator=_target_id)
    username: str = field(validator=_username)


def _ip_address(instance: Psu, attribute: Attribute[str], value: str) -> None:
    require_type("Psu.ip", value, str, ADDRESS)
    if value == Psu.AUTOMATIC:
        return
    try:
        ipaddress.ip_address(value)
    except ValueError:
        usable = False
    else:
        usable = "%" not in value
    if not usable:
        raise InvalidInputError(
            f"Psu.ip must be one IPv4 or IPv6 address, such as {ADDRESS}, without port and zone. "
            "Behind a proxy, it is the customer's in X-Forwarded-For. Nothing was sent."
        )


def _sendable_user_agent(value: str | None) -> str:
    """Return a user agent as a header can carry it, the same text if it can already."""
    if value is not None and not isinstance(value, str):
        return value
    blank = "".join(char if char.isprintable() or ord(char) > 0x9F else " " for char in value or "")
    sent = ""
    for char in blank.strip(" "):
        piece = char if char.isascii() else quote(char, safe="", errors="replace")
        if len(sent) + len(piece) > MAX_USER_AGENT:
            break
        sent += piece
    return sent.rstrip(" ") or Psu.UNKNOWN


@frozen(init=False)
class Psu:
    """The payment service user (PSU): the customer's device, if the customer triggered the call.

    Use `Psu.AUTO` for a call that no customer triggered, such as a refresh in the background.

    Args:
        ip: The IP address of the customer's device.
        user_agent: The user agent as the customer's browser sent it, or None if it sent none. What
            a header cannot carry is changed and never refused, because the code that came with it
            is valid for 30 s: control characters become blanks, other characters are
            percent-encoded as UTF-8, blanks at the ends are removed, and 1,024 characters are sent
            at most. If nothing is left, `unknown` is sent: `AUTO` would say that no customer
            triggered the call.

    Attributes:
        user_agent_changed: Whether `user_agent` is not what was given.

    Raises:
        InvalidInputError: The address is none, or an argument has another type.

    Source: bLink custom headers `X-PSU-IP-Address` and `X-PSU-User-Agent`, both with the special
    value `AUTO`.
    """

    AUTOMATIC: ClassVar[str] = "AUTO"
    """The value of both headers if no customer triggered the call."""
    UNKNOWN: ClassVar[str] = "unknown"
    """The user agent of a customer whose browser sent none that a header can carry."""
    AUTO: ClassVar[Psu]
    """The device of a call that no customer triggered."""

    ip: str = field(validator=_ip_address)
    user_agent: str = field(validator=_user_agent)
    user_agent_changed: bool = field(eq=False, repr=False)

    def __init__(self, ip: str, user_agent: str | None) -> None:
        sent = _sendable_user_agent(user_agent)
        self.__attrs_init__(ip, sent, sent != user_agent)


Psu.AUTO = Psu(Psu.AUTOMATIC, Psu.AUTOMATIC)


def require_redirect_uri(value: object) -> None:
    """Require a redirect URI as RFC 6749 section 3.1.2 has it.

    Args:
        value: The argument `redirect_uri`.

    Raises:
        InvalidInputError: It is no absolute URI, or has a fragment.
    """
    require_header_value("The argument redirect_uri", value, example=REDIRECT_URI)
    try:
        parts = urlsplit(str(value))
        absolute = parts.scheme and not parts.fragment and (parts.netloc or parts.path)
    except ValueError:
        absolute = False
    if not absolute:
        raise InvalidInputError(
            f"The argument redirect_uri must be an absolute URI without a fragment, such as "
            f"{REDIRECT_URI}, and the same in the authorization request and the exchange (RFC 6749 "
            "section 3.1.2). Nothing was sent."
        )


def request_headers(
    grant: Grant, psu: Psu, *, user_agent: str, correlation_id: str
) -> dict[str, str]:
    """Return the five headers that the platform requires, for one call.

    Args:
        grant: The grant that the call concerns.
        psu: The customer's device, or `Psu.AUTO`.
        user_agent: Name and version of the service user's software.
        correlation_id: A new id for this call, at most 64 characters.

    Source: bLink custom headers.
    """
    return {
        CORRELATION_ID: correlation_id,
        USER_AGENT: user_agent,
        TARGET_ID: grant.target_id,
        PSU_IP_ADDRESS: psu.ip,
        PSU_USER_AGENT: psu.user_agent,
    }
