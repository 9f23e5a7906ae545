"""What a reply means: a token, or one typed error. Everything here is decided without I/O.

Persist first, validate later: whatever else is wrong with a response, a token in it is kept. A body
may be in another encoding than it says, be cut short, or be no JSON at all; a complete pair of
tokens is found in it all the same. Results are returned up to `token_from` and `revocation_from`,
which alone raise, so that no traceback holds a frame with a plain secret.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, get_args

from attrs import evolve

from ._api import Call, Operation
from ._outcomes import no_probe, no_response, response_error, revocation_error
from ._reply import Body, NoResponse, RawResponse, Reply, TokenMember
from .errors import BlinkError
from .headers import Probe, ResponseMeta, read_date, read_meta
from .tokens import Oddity, Secret, Token, TokenKind

__all__ = ["probe_from", "revocation_from", "token_from"]

TOKEN_MEMBERS = get_args(TokenMember)

_VALUE = r'("(?:[^"\\]|\\.)*"|-?\d+(?=\s*[,}]))'
MEMBER = re.compile(rf'(?="({"|".join(TOKEN_MEMBERS)})"\s*:\s*{_VALUE})')
"""A complete member of a token response, in a text that is no complete JSON.

It looks ahead only: the wreck of a member must not swallow the sound one behind it.
"""


def read_body(answer: RawResponse) -> Body:
    """Read a body; nothing in it can make this fail."""
    text = _decode(answer.content)
    members = _members(answer, text)
    body = Body(
        members=members or {},
        broken=members is None or answer.cut is not None,
        description=_describe(answer, text, whole=members is not None),
    )
    if body.text("access_token"):
        return body
    for reading in (text, _as_ascii(answer.content)):
        wreck = Body(dict(_complete_members(reading)), broken=True, description=body.description)
        # A lone access token proves nothing: the refresh token may be in the part that is missing.
        if len(wreck.secrets()) == 2:
            return evolve(wreck, members={**body.members, **wreck.members})
    return body


def _members(answer: RawResponse, text: str) -> Mapping[str, object] | None:
    # The generated parser takes a list of pairs for an object.
    if answer.members is not None and text.lstrip().startswith("{"):
        return answer.members
    try:
        value = json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


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


def _describe(answer: RawResponse, text: str, *, whole: bool) -> str:
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
    answer: RawResponse, body: Body, meta: ResponseMeta, started_at: datetime
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
    seconds, lifetime_oddities = _lifetime(body.get("expires_in"))
    expires_at, overflow = _expiry(started_at, seconds)
    scope, scope_oddities = _scope(body.get("scope"))
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


def _form_oddities(answer: RawResponse, body: Body) -> Iterator[Oddity]:
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
        missing = body.get("refresh_token") in (None, "")
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


logger = logging.getLogger("blink_oauth")


def token_from(call: Call, reply: Reply, now: datetime) -> Token:
    """Return the token in a reply.

    Raises:
        BlinkError: There is none, or the status says that the call failed.
    """
    result = _token_or_error(call, reply, now)
    _log(call, result, now)
    if isinstance(result, BlinkError):
        raise result
    return result


def revocation_from(
    replies: Sequence[tuple[Call, Reply]], now: datetime
) -> dict[TokenKind, ResponseMeta]:
    """Return what the headers said for each token that was revoked.

    Raises:
        RevocationError: At least one is not surely revoked.
    """
    metas: dict[TokenKind, ResponseMeta] = {}
    errors: dict[TokenKind, BlinkError] = {}
    for call, reply in replies:
        assert call.kind is not None
        result = _meta_or_error(call, reply, now)
        _log(call, result, now)
        if isinstance(result, BlinkError):
            errors[call.kind] = result
        else:
            metas[call.kind] = result
    if errors:
        raise revocation_error(frozenset(metas), errors)
    return metas


def probe_from(reply: Reply, before: datetime, after: datetime) -> Probe:
    """Return what a probe found.

    Raises:
        NoResponseError: No response came.
    """
    if isinstance(reply, NoResponse):
        raise no_probe(reply)
    date = read_date(reply.headers.get("Date", ""))
    return Probe(status=reply.status, date=date, before=before, after=after)


def _token_or_error(call: Call, reply: Reply, now: datetime) -> Token | BlinkError:
    answer = reply.refused if isinstance(reply, NoResponse) else reply
    if answer is None:
        assert isinstance(reply, NoResponse)
        return no_response(call, reply)
    meta = read_meta(answer.status, answer.headers, correlation_id=call.correlation_id, now=now)
    body = read_body(answer)
    token = read_token(answer, body, meta, call.started_at)
    if token is not None and answer.succeeded:
        return _with_lasting_refresh_token(call, token)
    if isinstance(reply, NoResponse):
        return no_response(call, reply)
    return response_error(call, answer, body, meta, token)


def _with_lasting_refresh_token(call: Call, token: Token) -> Token:
    """Add the refresh token that was presented if no new one came: it stays in force then.

    Source: RFC 6749 section 6.
    """
    # Where a new one did come and could not be read, the old one may be spent.
    lasts = Oddity.REFRESH_TOKEN_MISSING in token.oddities
    if call.operation is Operation.REFRESH and lasts:
        return evolve(token, refresh_token=call.secrets[0])
    return token


def _meta_or_error(call: Call, reply: Reply, now: datetime) -> ResponseMeta | BlinkError:
    if isinstance(reply, NoResponse):
        return no_response(call, reply)
    meta = read_meta(reply.status, reply.headers, correlation_id=call.correlation_id, now=now)
    # The body of a success says nothing (RFC 7009 section 2.2).
    if reply.succeeded:
        return meta
    return response_error(call, reply, read_body(reply), meta, None)


def _log(call: Call, result: Token | ResponseMeta | BlinkError, now: datetime) -> None:
    error = result if isinstance(result, BlinkError) else None
    logger.debug(
        "%s target=%s correlation_id=%s outcome=%s error=%s duration=%.3f",
        call.operation.name.lower(),
        call.target_id,
        call.correlation_id,
        error.outcome if error else "done",
        type(error).__name__ if error else None,
        (now - call.started_at).total_seconds(),
    )
