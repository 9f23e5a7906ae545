"""The names of the platform's headers, and functions that read the response headers."""

from __future__ import annotations

import re
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
    "foreign_uuid",
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
UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

DELAYS_OR_DATES = re.compile(
    r"(?:\s*(?:mon|tue|wed|thu|fri|sat|sun)[a-z]*\s*,)?[^,]+", re.IGNORECASE
)
"""The values of a repeated `Retry-After`: only the comma after a day belongs to a value."""
DELAY_SECONDS = re.compile(r"[0-9]+(\.[0-9]*)?")
"""RFC 9110 section 10.2.3, and the fraction that some servers add."""
MAX_DELAY = float(2**31)
"""Stands for any longer delay (RFC 9111 section 1.2.2)."""
OTHER_DIRECTIVES: Final = r'(([^",]|"([^"\\]|\\.)*")*,)*'
"""The elements of `Cache-Control` or `Pragma` before another one (RFC 9111 section 5.2).

An argument may be a quoted string, with commas. The patterns in the contract are the same.
"""
SHORT_YEAR = re.compile(r"[0-9]-[a-z]{3}-[0-9]{2}\s", re.IGNORECASE)
"""The year in the form of RFC 850."""


def is_visible_ascii(text: str) -> bool:
    """Return whether a text consists of visible ASCII characters only, without blanks."""
    return text.isascii() and text.isprintable() and " " not in text


SourceName = Literal["PLATFORM", "PROVIDER"]
"""The values that the contract lists for `X-CorAPI-Source`."""


class Source(StrEnum):
    """The origin of a response (`X-CorAPI-Source`)."""

    PLATFORM = "PLATFORM"
    PROVIDER = "PROVIDER"
    UNKNOWN = "UNKNOWN"


@frozen(kw_only=True)
class ResponseMeta:
    """The values of the response headers.

    Attributes:
        status: The HTTP status.
        correlation_id: The id that was sent.
        echoed: Whether the response returned the same id and no other; None if it returned none.
        source: The origin of the response: the platform, the provider or unknown.
        language: The language of the texts, or None.
        caching_forbidden: Whether `Cache-Control` and `Pragma` forbid caching, as they must in a
            response with tokens (RFC 6749 section 5.1). Errors need not.
        retry_after: Seconds to wait before the next attempt (RFC 9110 section 10.2.3), or None.
    """

    status: int
    correlation_id: str
    echoed: bool | None
    source: Source
    language: str | None
    caching_forbidden: bool
    retry_after: float | None


@frozen(kw_only=True)
class Probe:
    """The response to a request without a code or token.

    Attributes:
        status: The HTTP status.
        date: The server's time by its `Date` header (RFC 9110 section 6.6.1), or None.
        before: Our time before the request, timezone-aware UTC.
        after: Our time after the response, timezone-aware UTC.
    """

    status: int
    date: datetime | None
    before: datetime
    after: datetime


def read_date(value: str, now: datetime) -> datetime | None:
    """Return the time in an HTTP date of any of the three forms, or None if it is invalid.

    Source: RFC 9110 section 5.6.7.

    Args:
        value: The date.
        now: The current time, timezone-aware, to complete a year of two digits.
    """
    # Imported here: it is slow to load, and values and errors do not need it.
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(value)
        # The form of asctime has no zone, and `-0000` is an unknown one: HTTP dates are in UTC.
        date = date.replace(tzinfo=date.tzinfo or UTC)
        return _in_this_century(date, now) if SHORT_YEAR.search(value) else date
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _in_this_century(date: datetime, now: datetime) -> datetime:
    """Return a date with the latest year that is at most 50 years from now."""
    latest = now.year + 50
    year = latest - (latest - date.year) % 100
    # Without the year: in another one there may be no 29 February.
    is_later_in_the_year = date.timetuple()[1:6] > now.astimezone(UTC).timetuple()[1:6]
    return date.replace(year=year - 100 if year == latest and is_later_in_the_year else year)


def read_meta(
    status: int, headers: Mapping[str, str], *, correlation_id: str, now: datetime
) -> ResponseMeta:
    """Read the response headers; no value in them raises an exception.

    Args:
        status: The HTTP status.
        headers: The response headers, by their names as in this module.
        correlation_id: The id that was sent.
        now: The current time, timezone-aware, to turn a `Retry-After` date into seconds.
    """
    return ResponseMeta(
        status=status,
        correlation_id=correlation_id,
        echoed=_is_echoed(headers.get(CORRELATION_ID, ""), correlation_id),
        source=_source(headers.get(SOURCE, "")),
        language=_language(headers.get(LANGUAGE, "")),
        caching_forbidden=_has_directive(headers.get(CACHE_CONTROL, ""), "no-store")
        and _has_directive(headers.get(PRAGMA, ""), "no-cache"),
        retry_after=_retry_after(headers.get("Retry-After", ""), now),
    )


def _is_echoed(value: str, correlation_id: str) -> bool | None:
    """Return whether a header has the id that was sent, and no other; None if it has no id.

    A proxy may add a header of its own, so that the values are a list: if one of them is another
    id, the response may have been mixed up behind that proxy.
    """
    # An id of the application may contain a comma.
    if _is_same_id(value.strip(), correlation_id):
        return True
    ids = _ids(value)
    return all(_is_same_id(each, correlation_id) for each in ids) if ids else None


def foreign_uuid(value: str, correlation_id: str) -> str | None:
    """Return the other id in a header if it is a UUID, in lower case, otherwise None."""
    others = (each.lower() for each in _ids(value) if not _is_same_id(each, correlation_id))
    return next(filter(UUID.fullmatch, others), None)


def _ids(value: str) -> list[str]:
    return [part.strip() for part in value.split(",") if part.strip()]


def _is_same_id(value: str, correlation_id: str) -> bool:
    # A UUID is the same in upper and lower case (RFC 9562 section 4); any other id may not be.
    if UUID.fullmatch(correlation_id):
        return value.lower() == correlation_id.lower()
    return value == correlation_id


def _source(value: str) -> Source:
    try:
        return Source(value.strip().upper())
    except ValueError:
        return Source.UNKNOWN


def _language(value: str) -> str | None:
    # Only the primary subtag (RFC 5646): a longer value could be any text, even a secret.
    primary = value.strip().partition("-")[0].lower()
    return primary if 2 <= len(primary) <= 3 and primary.isascii() and primary.isalpha() else None


def _has_directive(value: str, directive: str) -> bool:
    """Return whether a list of directives has one as an element of its own, without an argument."""
    pattern = rf"^{OTHER_DIRECTIVES}[ \t]*{directive}[ \t]*(,|$)"
    return re.search(pattern, value, re.ASCII | re.IGNORECASE) is not None


def _retry_after(value: str, now: datetime) -> float | None:
    """Return the longest of the waits, of which a repeated header has several."""
    waits = [_wait(text.strip(), now) for text in DELAYS_OR_DATES.findall(value)]
    return max((wait for wait in waits if wait is not None), default=None)


def _wait(text: str, now: datetime) -> float | None:
    if DELAY_SECONDS.fullmatch(text):
        return min(float(text), MAX_DELAY)
    date = read_date(text, now)
    return None if date is None else max(0.0, (date - now).total_seconds())
