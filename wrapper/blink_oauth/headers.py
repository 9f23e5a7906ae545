"""The platform's headers: their names, and what those of a response say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final, Literal

from attrs import frozen

__all__ = [
    "CORRELATION_ID",
    "REQUEST_HEADERS",
    "RESPONSE_HEADERS",
    "Probe",
    "ResponseMeta",
    "Source",
    "is_visible_ascii",
    "read_date",
    "read_meta",
]

CORRELATION_ID: Final = "X-Correlation-ID"
USER_AGENT: Final = "User-Agent"
TARGET_ID: Final = "X-CorAPI-Target-ID"
PSU_IP_ADDRESS: Final = "X-PSU-IP-Address"
PSU_USER_AGENT: Final = "X-PSU-User-Agent"
SOURCE: Final = "X-CorAPI-Source"
LANGUAGE: Final = "Content-Language"
CACHE_CONTROL: Final = "Cache-Control"
PRAGMA: Final = "Pragma"

REQUEST_HEADERS = frozenset({CORRELATION_ID, USER_AGENT, TARGET_ID, PSU_IP_ADDRESS, PSU_USER_AGENT})
RESPONSE_HEADERS = frozenset({CORRELATION_ID, SOURCE, LANGUAGE, CACHE_CONTROL, PRAGMA})

MAX_CORRELATION_ID: Final = 64


def is_visible_ascii(text: str) -> bool:
    """Say whether a text is made of visible ASCII alone, without blanks."""
    return text.isascii() and text.isprintable() and " " not in text


SourceName = Literal["PLATFORM", "PROVIDER"]
"""What the contract lists for `X-CorAPI-Source`."""


class Source(StrEnum):
    """Who made a response (`X-CorAPI-Source`)."""

    PLATFORM = "PLATFORM"
    PROVIDER = "PROVIDER"
    UNKNOWN = "UNKNOWN"


@frozen(kw_only=True)
class ResponseMeta:
    """What the headers of a response said.

    Attributes:
        status: The HTTP status.
        correlation_id: The id that was sent.
        echoed: Whether the same id came back; None if none came back.
        source: Who made the response.
        language: The language of the texts, or None.
        cache_rules_held: Whether `Cache-Control` and `Pragma` forbade every cache to keep the
            response, as one with tokens must (RFC 6749 section 5.1). Errors need not.
        retry_after: Seconds to wait before another attempt (RFC 9110 section 10.2.3), or None.
    """

    status: int
    correlation_id: str
    echoed: bool | None
    source: Source
    language: str | None
    cache_rules_held: bool
    retry_after: float | None


@frozen(kw_only=True)
class Probe:
    """The answer to a request that asks for nothing.

    Attributes:
        status: The HTTP status.
        date: The server's time by its `Date` header (RFC 9110 section 6.6.1), or None.
        before: Our time before the request, aware UTC.
        after: Our time after the answer, aware UTC.
    """

    status: int
    date: datetime | None
    before: datetime
    after: datetime


def read_date(value: str) -> datetime | None:
    """Read a date of HTTP, or return None (RFC 9110 section 5.6.7)."""
    try:
        date = _parse_date(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)


def _parse_date(value: str) -> datetime:
    # Imported here: it is slow to load, and values and errors do without it.
    from email.utils import parsedate_to_datetime

    return parsedate_to_datetime(value)


def read_meta(
    status: int, headers: Mapping[str, str], *, correlation_id: str, now: datetime
) -> ResponseMeta:
    """Read the response headers; nothing in them can make this fail.

    Args:
        status: The HTTP status.
        headers: The response headers, looked up without regard to case.
        correlation_id: The id that was sent.
        now: The present moment, aware, to turn a `Retry-After` date into seconds.
    """
    echo = headers.get(CORRELATION_ID)
    return ResponseMeta(
        status=status,
        correlation_id=correlation_id,
        echoed=None if echo is None else echo == correlation_id,
        source=_source(headers.get(SOURCE, "")),
        language=_language(headers.get(LANGUAGE, "")),
        cache_rules_held=_holds(headers.get(CACHE_CONTROL, ""), "no-store")
        and _holds(headers.get(PRAGMA, ""), "no-cache"),
        retry_after=_retry_after(headers.get("Retry-After", ""), now),
    )


def _source(value: str) -> Source:
    try:
        return Source(value.strip().upper())
    except ValueError:
        return Source.UNKNOWN


def _language(value: str) -> str | None:
    # Only the primary subtag (RFC 5646): anything longer could be a text in a header's clothes.
    primary = value.strip().partition("-")[0].lower()
    return primary if 2 <= len(primary) <= 3 and primary.isascii() and primary.isalpha() else None


def _holds(value: str, directive: str) -> bool:
    return directive in {part.strip().lower() for part in value.split(",")}


def _retry_after(value: str, now: datetime) -> float | None:
    value = value.strip()
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        date = _parse_date(value)
        return max(0.0, (date - now).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None
