"""What a reply means: a token, or one typed error. Everything here is decided without I/O.

Persist first, validate later: whatever else is wrong with a response, a token in it is brought
home. Results are returned up to `token_from` and `revocation_from`, which alone raise, so that no
traceback holds a frame with a plain secret.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime

from attrs import evolve

from ._api import Call, Operation
from ._body import read_body, read_token
from ._outcomes import no_response, response_error, revocation_error, succeeded
from ._reply import NoAnswer, Reply
from .errors import BlinkError
from .headers import ResponseMeta, read_meta
from .tokens import Oddity, Token, TokenKind

__all__ = ["revocation_from", "token_from"]

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


def _token_or_error(call: Call, reply: Reply, now: datetime) -> Token | BlinkError:
    if isinstance(reply, NoAnswer):
        return no_response(call, reply)
    meta = read_meta(reply.status, reply.headers, correlation_id=call.correlation_id, now=now)
    body = read_body(reply)
    token = read_token(reply, body, meta, call.started_at)
    if token is not None and succeeded(reply.status):
        return _with_lasting_refresh_token(call, token)
    return response_error(call, reply.status, body, meta, token)


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
    if isinstance(reply, NoAnswer):
        return no_response(call, reply)
    meta = read_meta(reply.status, reply.headers, correlation_id=call.correlation_id, now=now)
    # The body of a success says nothing (RFC 7009 section 2.2).
    if succeeded(reply.status):
        return meta
    return response_error(call, reply.status, read_body(reply), meta, None)


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
