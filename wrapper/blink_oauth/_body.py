"""The body of a response, read so that no token in it is lost.

A body may be in another encoding than it says, be cut short, or be no JSON at all. What can be
read is read; a complete pair of tokens is found even in the wreck of a body.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from attrs import evolve, field, frozen

from ._reply import Answer
from .headers import ResponseMeta
from .tokens import Oddity, Secret, Token, sendable

__all__ = ["Body", "read_body", "read_token"]

TOKEN_MEMBERS = frozenset({"access_token", "refresh_token", "token_type", "expires_in", "scope"})

MEMBER = re.compile(
    r'(?="(access_token|refresh_token|token_type|expires_in|scope)"\s*:\s*'
    r'("(?:[^"\\]|\\.)*"|-?\d+(?=\s*[,}])))'
)
"""A complete member of a token response, in a text that is no complete JSON.

It looks ahead only: the wreck of a member must not swallow the sound one behind it.
"""


@frozen(eq=False)
class Body:
    """What a body says.

    Attributes:
        members: Its members; empty if there are none.
        broken: Whether it is anything but one whole JSON object.
        description: What it is, in words, without any of its text.
    """

    members: dict[str, Any] = field(repr=False)
    broken: bool
    description: str

    def text(self, name: str) -> str | None:
        """Return a member that is a non-empty text that can be sent on, else None."""
        value = self.members.get(name)
        return value if isinstance(value, str) and value and sendable(value) else None

    def secrets(self) -> tuple[str, ...]:
        """Return the tokens in it, which no error text may repeat."""
        return tuple(filter(None, (self.text("access_token"), self.text("refresh_token"))))


def read_body(answer: Answer) -> Body:
    """Read a body; nothing in it can make this fail."""
    text = _decode(answer.content)
    try:
        value = json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError):
        value = None
    whole = isinstance(value, dict)
    body = Body(
        members=value if isinstance(value, dict) else {},
        broken=not whole or answer.cut is not None,
        description=_describe(answer, text, whole),
    )
    if body.text("access_token"):
        return body
    for reading in (text, _as_ascii(answer.content)):
        wreck = Body(dict(_complete_members(reading)), broken=True, description=body.description)
        # A lone access token proves nothing: the refresh token may be in the part that is missing.
        if len(wreck.secrets()) == 2:
            return evolve(wreck, members=body.members | wreck.members)
    return body


def _decode(content: bytes) -> str:
    try:
        return content.decode(json.detect_encoding(content))
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _as_ascii(content: bytes) -> str:
    # Without its zero bytes a text in UTF-16 or UTF-32 is readable too, wherever it was cut.
    return content.replace(b"\0", b"").decode("latin-1")


def _integer(digits: str) -> float:
    # Python refuses to read thousands of digits, and a token beside them would be lost.
    return int(digits) if len(digits) < 400 else float(digits)


def _complete_members(text: str) -> Iterator[tuple[str, Any]]:
    for name, value in MEMBER.findall(text):
        try:
            yield name, json.loads(value)
        except ValueError:
            continue


def _describe(answer: Answer, text: str, whole: bool) -> str:
    size = f"{len(answer.content)} bytes"
    if answer.cut is not None:
        return f"a body that was cut short after {size}"
    if not text.strip():
        return "an empty body"
    if whole:
        return f"a JSON object of {size}"
    if text.lstrip()[:1] == "<":
        return f"a page of HTML or XML of {size}"
    return f"a body of {size} that is no JSON object"


def read_token(
    answer: Answer, body: Body, meta: ResponseMeta, started_at: datetime
) -> Token | None:
    """Find the token in a response, or return None if it holds none.

    Args:
        answer: The response.
        body: Its body.
        meta: Its headers.
        started_at: When the request began, aware.
    """
    access_token = body.text("access_token")
    if access_token is None:
        return None
    refresh_token = body.text("refresh_token")
    seconds, lifetime_oddities = _lifetime(body.members.get("expires_in"))
    expires_at, overflow = _expiry(started_at, seconds)
    scope, scope_oddities = _scope(body.members.get("scope"))
    return Token(
        access_token=Secret(access_token),
        refresh_token=Secret(refresh_token) if refresh_token else None,
        token_type=body.text("token_type"),
        expires_at=expires_at,
        scope=scope,
        oddities=frozenset(
            {*_form_oddities(answer, body), *lifetime_oddities, *overflow, *scope_oddities}
        ),
        extra={name: value for name, value in body.members.items() if name not in TOKEN_MEMBERS},
        meta=meta,
    )


def _form_oddities(answer: Answer, body: Body) -> Iterator[Oddity]:
    if answer.status != 200:
        yield Oddity.STATUS_UNDOCUMENTED
    if body.broken:
        yield Oddity.BODY_BROKEN
    media_type = answer.headers.get("Content-Type", "").partition(";")[0]
    if media_type.strip().lower() != "application/json":
        yield Oddity.CONTENT_TYPE
    if not all(secret.isascii() and secret.isprintable() for secret in body.secrets()):
        yield Oddity.TOKEN_CHARACTERS
    token_type = body.text("token_type")
    if token_type is None:
        yield Oddity.TOKEN_TYPE_MISSING
    elif token_type.lower() != "bearer":
        yield Oddity.TOKEN_TYPE_NOT_BEARER
    if body.text("refresh_token") is None:
        missing = body.members.get("refresh_token") in (None, "")
        yield Oddity.REFRESH_TOKEN_MISSING if missing else Oddity.REFRESH_TOKEN_UNUSABLE


def _lifetime(value: object) -> tuple[float | None, tuple[Oddity, ...]]:
    if value is None:
        return None, (Oddity.EXPIRES_IN_MISSING,)
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None, (Oddity.EXPIRES_IN_UNUSABLE,)
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return None, (Oddity.EXPIRES_IN_UNUSABLE,)
    if not math.isfinite(seconds) or seconds < 0:
        return None, (Oddity.EXPIRES_IN_UNUSABLE,)
    return seconds, () if isinstance(value, int) else (Oddity.EXPIRES_IN_NOT_AN_INTEGER,)


def _expiry(
    started_at: datetime, seconds: float | None
) -> tuple[datetime | None, tuple[Oddity, ...]]:
    if seconds is None:
        return None, ()
    try:
        return started_at + timedelta(seconds=seconds), ()
    except OverflowError:
        return None, (Oddity.EXPIRES_IN_UNUSABLE,)


def _scope(value: object) -> tuple[frozenset[str] | None, tuple[Oddity, ...]]:
    if value is None:
        return None, ()
    if isinstance(value, str):
        return frozenset(value.split()), ()
    if isinstance(value, list) and all(isinstance(part, str) for part in value):
        return frozenset(value), (Oddity.SCOPE_UNUSABLE,)
    return None, (Oddity.SCOPE_UNUSABLE,)
