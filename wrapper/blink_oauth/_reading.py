"""Turns a reply into a token or a typed error, without I/O.

Whatever else is wrong with a response, the tokens in it are kept. A complete pair is found even if
the body is truncated, in another encoding than declared, a form, or no JSON at all. Only
`token_from`, `revocation_from` and `probe_from` raise errors, so that no traceback has a frame that
contains a secret in plain text.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any, get_args
from urllib.parse import unquote, unquote_plus

from attrs import evolve

from ._api import Call, Operation
from ._outcomes import (
    foreign_response_error,
    no_response,
    probe_error,
    response_error,
    revocation_error,
)
from ._reply import Body, NoResponse, RawResponse, Reply, TokenMember
from .errors import BlinkError
from .headers import Probe, ResponseMeta, read_date, read_meta
from .tokens import LONGEST_LIFETIME, Oddity, Secret, Token, TokenKind

__all__ = ["probe_from", "revocation_from", "token_from"]

TOKEN_MEMBERS = get_args(TokenMember)
TOKEN_NAMES = frozenset({"access_token", "refresh_token"})

_VALUE = r'("(?:[^"\\]|\\.)*"|-?\d+(?=\s*[,}]))'
MEMBER = re.compile(rf'(?="({"|".join(TOKEN_MEMBERS)})"\s*:\s*{_VALUE})')
"""A complete member of a token response, in a text that is no valid JSON.

The whole pattern is a lookahead: a match of a broken member must not consume the one that follows.
"""

FORM_NAME = re.compile(r"[\w.\[\]%+-]*")


def read_body(response: RawResponse) -> Body:
    """Read a body. It raises no exception, whatever the body contains."""
    text = _decode(response.content)
    members = _members(response, text)
    fields = _form_fields(response, text) if members is None else None
    kind = "a JSON object" if members is not None else "a form" if fields is not None else None
    body = Body(
        members=members or fields or {},
        broken=kind is None or response.incomplete_because is not None,
        description=_describe(response, text, kind),
        is_form=fields is not None,
    )
    if body.text("access_token"):
        return body
    for decoded in (text, _as_ascii(response.content)):
        found = Body(dict(_complete_members(decoded)), broken=True, description=body.description)
        # An access token alone is not enough: the refresh token may be in the missing part.
        if len(found.secrets()) == 2:
            return evolve(found, members={**body.members, **found.members})
    return body


def _members(response: RawResponse, text: str) -> Mapping[str, object] | None:
    # The generated parser also accepts a list of pairs.
    if response.members is not None and text.lstrip().startswith("{"):
        return response.members
    try:
        value = json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _form_fields(response: RawResponse, text: str) -> dict[str, str] | None:
    """Return the fields of a form-encoded token or OAuth error, or None if the body is none.

    Servers label a form as JSON, so the text decides: all names must be those of a form's fields.
    """
    parts = [part.partition("=") for part in text.strip().split("&")]
    needed = {"access_token"}
    if response.incomplete_because is not None:
        # The last value may have been cut short, and the refresh token may be missing.
        del parts[-1:]
        needed = {"access_token", "refresh_token"}
    if not all(FORM_NAME.fullmatch(name) and value.isprintable() for name, _, value in parts):
        return None
    fields: dict[str, str] = {}
    for name, _, value in parts:
        if value or name not in fields:
            fields[_unescape(name)] = _unescape(value, is_token=name in TOKEN_NAMES)
    return fields if needed <= fields.keys() or "error" in fields else None


def _unescape(text: str, *, is_token: bool = False) -> str:
    # No bearer token contains a blank (RFC 6750 section 2.1): its server forgot to escape a plus.
    decode = unquote if is_token else unquote_plus
    try:
        return decode(text, errors="strict")
    except UnicodeDecodeError:
        return decode(text, "latin-1")


def _decode(content: bytes) -> str:
    try:
        return content.decode(json.detect_encoding(content))
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _as_ascii(content: bytes) -> str:
    # Without its zero bytes a text in UTF-16 or UTF-32 is readable, wherever it was truncated.
    return content.replace(b"\0", b"").decode("latin-1")


def _integer(digits: str) -> float:
    # `int` refuses thousands of digits, and the tokens in the same body would be lost.
    return int(digits) if len(digits) < 400 else float(digits)


def _complete_members(text: str) -> Iterator[tuple[str, Any]]:
    for name, value in MEMBER.findall(text):
        try:
            yield name, json.loads(value)
        except ValueError:
            continue


def _describe(response: RawResponse, text: str, kind: str | None) -> str:
    size = f"{len(response.content)} bytes"
    if response.incomplete_because is not None:
        return f"a body that was cut short after {size}"
    if response.coding is not None:
        return f"a body of {size} in the content coding {response.coding}, which cannot be undone"
    if not text.strip():
        return "an empty body"
    if kind is not None:
        return f"{kind} of {size}"
    if text.lstrip()[:1] == "<":
        return f"a page of HTML or XML of {size}"
    return f"a body of {size} that is no JSON object"


def read_token(
    response: RawResponse, body: Body, meta: ResponseMeta, started_at: datetime
) -> Token | None:
    """Return the token in a response, or None if there is none.

    Args:
        response: The response.
        body: Its body.
        meta: The values of its headers.
        started_at: The start time of the request, timezone-aware.
    """
    access_token = body.text("access_token")
    if access_token is None:
        return None
    refresh_token = body.text("refresh_token")
    seconds, lifetime_oddities = _lifetime(body.get("expires_in"))
    expires_at, expiry_oddities = _expiry(started_at, seconds)
    scope, scope_oddities = _scope(body.get("scope"))
    return Token(
        access_token=Secret(access_token),
        refresh_token=Secret(refresh_token) if refresh_token else None,
        token_type=body.text("token_type"),
        expires_at=expires_at,
        scope=scope,
        oddities=frozenset(
            {
                *_head_oddities(response, meta),
                *_body_oddities(body),
                *lifetime_oddities,
                *expiry_oddities,
                *scope_oddities,
            }
        ),
        extra={name: value for name, value in body.members.items() if name not in TOKEN_MEMBERS},
        meta=meta,
    )


def _head_oddities(response: RawResponse, meta: ResponseMeta) -> Iterator[Oddity]:
    if response.status != 200:
        yield Oddity.STATUS_UNDOCUMENTED
    if response.is_malformed:
        yield Oddity.HEAD_MALFORMED
    if meta.echoed is False:
        yield Oddity.FOREIGN_CORRELATION_ID
    # Without a status no header was read, and no cache keeps the response.
    if response.status and not meta.caching_forbidden:
        yield Oddity.CACHEABLE
    media_type = response.headers.get("Content-Type", "").partition(";")[0]
    if media_type.strip().lower() != "application/json":
        yield Oddity.CONTENT_TYPE


def _body_oddities(body: Body) -> Iterator[Oddity]:
    if body.broken:
        yield Oddity.BODY_BROKEN
    if body.is_form:
        yield Oddity.FORM_ENCODED
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
        expires_at = started_at + timedelta(seconds=seconds)
    except OverflowError:
        return None, (Oddity.EXPIRES_IN_UNUSABLE,)
    if not 1 <= seconds <= LONGEST_LIFETIME:
        return None, (Oddity.EXPIRES_IN_IMPLAUSIBLE,)
    return expires_at, ()


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
        BlinkError: The reply contains no token, or its status is no success.
    """
    result = _token_or_error(call, reply, now)
    _log(call, result, now)
    if isinstance(result, BlinkError):
        raise result
    return result


def revocation_from(
    replies: Sequence[tuple[Call, Reply]], now: datetime
) -> dict[TokenKind, ResponseMeta]:
    """Return the values of the response headers, for each kind of token.

    Raises:
        RevocationError: At least one token is not certainly revoked.
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
    """Return the result of a probe.

    Raises:
        NoResponseError: No response was received.
    """
    if isinstance(reply, NoResponse):
        raise probe_error(reply)
    date = read_date(reply.headers.get("Date", ""), after)
    return Probe(status=reply.status, date=date, before=before, after=after)


def _token_or_error(call: Call, reply: Reply, now: datetime) -> Token | BlinkError:
    response = _received(reply)
    if response is None:
        assert isinstance(reply, NoResponse)
        return no_response(call, reply)
    meta = _meta(call, response, now)
    body = read_body(response)
    token = read_token(response, body, meta, call.started_at)
    if _is_foreign(call, meta):
        return foreign_response_error(call, response, body, meta, token)
    if token is not None and response.succeeded:
        return _with_presented_refresh_token(call, token)
    if isinstance(reply, NoResponse) and response.status == 0:
        return no_response(call, reply, token and evolve(token, meta=None))
    return response_error(call, response, body, meta, token)


def _received(reply: Reply) -> RawResponse | None:
    """Return the response in a reply, also one that the HTTP parser refused, or None."""
    return reply.malformed if isinstance(reply, NoResponse) else reply


def _meta(call: Call, response: RawResponse, now: datetime) -> ResponseMeta:
    correlation_id = call.correlation_id
    return read_meta(response.status, response.headers, correlation_id=correlation_id, now=now)


def _is_foreign(call: Call, meta: ResponseMeta) -> bool:
    """Return whether a response belongs to another request. One without an id is believed."""
    return meta.echoed is False and not call.accepts_foreign_id


def _with_presented_refresh_token(call: Call, token: Token) -> Token:
    """Add the presented refresh token if the response contained none: it stays valid then.

    Source: RFC 6749 section 6.
    """
    # If the response contained one that cannot be read, the presented one may be spent.
    is_missing = Oddity.REFRESH_TOKEN_MISSING in token.oddities
    if call.operation is Operation.REFRESH and is_missing:
        return evolve(token, refresh_token=call.secrets[0])
    return token


def _meta_or_error(call: Call, reply: Reply, now: datetime) -> ResponseMeta | BlinkError:
    response = _received(reply)
    if response is None:
        assert isinstance(reply, NoResponse)
        return no_response(call, reply)
    meta = _meta(call, response, now)
    if _is_foreign(call, meta):
        body = read_body(response)
        token = read_token(response, body, meta, call.started_at)
        return foreign_response_error(call, response, body, meta, token)
    if isinstance(reply, NoResponse):
        return no_response(call, reply)
    # The body of a success is ignored (RFC 7009 section 2.2).
    if reply.succeeded:
        return meta
    return response_error(call, reply, read_body(reply), meta, None)


def _log(call: Call, result: Token | ResponseMeta | BlinkError, now: datetime) -> None:
    error = result if isinstance(result, BlinkError) else None
    token = result if isinstance(result, Token) else error and error.token
    # A received pair must not be lost because a log handler fails.
    with suppress(Exception):
        logger.debug(
            "%s target=%s correlation_id=%s outcome=%s error=%s duration=%.3f oddities=%s",
            call.operation.name.lower(),
            call.target_id,
            call.correlation_id,
            error.outcome if error else "done",
            type(error).__name__ if error else None,
            (now - call.started_at).total_seconds(),
            ",".join(sorted(token.oddities)) if token else "",
        )
