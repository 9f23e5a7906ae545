"""Reads the errors in a body that are neither of RFC 6749 nor of RFC 9457.

| Format | Where its errors are |
| --- | --- |
| Berlin Group NextGenPSD2 (sections 4.13 and 14.11) | `tppMessages`: `code`, `text` |
| the same in problem details | `code`, `additionalErrors` |
| UK Open Banking, `OBErrorResponse1` | `Code`, `Message`, `Errors`: `ErrorCode`, `Message` |
| REST interfaces | `error` or `errors`: `code`, `message`; also `code`, `message` alone |
| gateways | `fault`: `faultstring`, `detail`: `errorcode` |
| Spring Boot | `message`, beside `error` |

Only these members are followed: a code at any other place is about something else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from attrs import field, frozen

from ._checks import sendable

__all__ = ["ServerError", "read_errors"]

CODES = frozenset({"code", "errorcode", "reasoncode", "error", "type"})
TEXTS = frozenset(
    {"text", "title", "message", "description", "errordescription", "errormessage", "detail"}
    | {"faultstring"}
)
CONTAINERS = frozenset({"tppmessages", "additionalerrors", "errors", "error", "fault", "detail"})
OF_A_STANDARD = frozenset({"error", "error_description", "type", "title", "detail"})
"""The members that are read as RFC 6749 or RFC 9457 if they are texts of the body itself."""

MAX_DEPTH, MAX_ERRORS, MAX_TEXTS = 4, 8, 4
"""Errors within each other, errors of a list and of a body, codes or texts of an error."""


@frozen
class ServerError:
    """One error in a body, as received.

    Attributes:
        codes: Its codes.
        texts: Its texts, and the codes of a warning.
    """

    codes: tuple[str, ...] = field(repr=False)
    texts: tuple[str, ...] = field(repr=False)


def read_errors(members: Mapping[str, object]) -> tuple[ServerError, ...]:
    """Return the errors in a body without those of RFC 6749 and RFC 9457."""
    rest = {
        name: value
        for name, value in members.items()
        if name not in OF_A_STANDARD or not isinstance(value, str)
    }
    return tuple(_errors(rest, MAX_DEPTH))[:MAX_ERRORS]


def _errors(value: object, depth: int) -> Iterator[ServerError]:
    if isinstance(value, str):
        yield ServerError((), _texts([value]))
    elif isinstance(value, list):
        for item in value[:MAX_ERRORS]:
            if not isinstance(item, list):
                yield from _errors(item, depth)
    elif isinstance(value, dict) and depth:
        # The formats differ in the spelling of the same names.
        named = [(name.lower().replace("_", ""), member) for name, member in value.items()]
        codes = _texts(member for name, member in named if name in CODES)
        texts = _texts(member for name, member in named if name in TEXTS)
        if ("category", "warning") in [(n, str(m).lower()) for n, m in named]:
            codes, texts = (), codes + texts
        if codes or texts:
            yield ServerError(codes, texts)
        for name, member in named:
            if name in CONTAINERS and isinstance(member, (dict, list)):
                yield from _errors(member, depth - 1)


def _texts(values: Iterable[object]) -> tuple[str, ...]:
    found = (v for v in values if isinstance(v, (str, int)) and not isinstance(v, bool))
    return tuple(text for text in map(str, islice(found, MAX_TEXTS)) if text and sendable(text))
