"""One harmless call through the platform to a bank: a token that does not exist is revoked.

A server that does not know a token answers as if it had revoked it (RFC 7009 section 2.2), so the
call can spend nothing. What matters is how far it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

from blink_oauth.client import BlinkOAuth
from blink_oauth.context import Grant
from blink_oauth.errors import (
    BlinkError,
    InvalidClientError,
    InvalidInputError,
    OAuthError,
    ProblemError,
    RevocationError,
)
from blink_oauth.headers import ResponseMeta, Source
from blink_oauth.settings import Settings
from blink_oauth.tokens import Token, TokenKind

from .check import Check, doubtful, failed, passed

__all__ = ["call_checks"]

CALL, HEADERS = "call", "headers"
BAD_FORM = frozenset({400, 406, 415})
NOTHING_SPENT = "The token was made up, so nothing can be spent."
SUPPORT = "ask the bLink support with the correlation id"


def call_checks(
    settings: Settings,
    target_id: str | None,
    username: str | None,
    clock: Callable[[], datetime],
    new_name: Callable[[], str],
    *,
    reached: bool,
) -> Iterator[Check]:
    """Revoke a made-up token at a bank, and tell what client id, certificate and headers are worth.

    Args:
        settings: What the client would use.
        target_id: The bank, or None to make no call.
        username: The user to name, or None for a made-up one.
        clock: Tells the present moment, aware UTC.
        new_name: Makes a random name.
        reached: Whether the server is reachable with the certificate.
    """
    if target_id is None:
        finding = "Client id and headers were not tried at the platform."
        yield doubtful(CALL, finding, "Give --target with the id of a bank.")
        return
    if not reached:
        finding = "Client id and headers were not tried at the platform."
        yield doubtful(CALL, finding, "Make the server reachable with the certificate first.")
        return
    try:
        grant = Grant(target_id, username or "blink-oauth-doctor")
        with BlinkOAuth(settings, clock=clock) as blink:
            metas = blink.revoke(grant, Token(access_token=f"not-a-token-{new_name()}"))
    except InvalidInputError as error:
        yield failed(CALL, str(error), "Correct the target or the username that were given.")
    except RevocationError as refusal:
        yield from _refusal_checks(target_id, refusal.errors[TokenKind.ACCESS_TOKEN])
    else:
        finding = f"The call to {target_id} was let through. {NOTHING_SPENT}"
        yield passed(CALL, finding)
        yield _headers_check(metas[TokenKind.ACCESS_TOKEN])


def _refusal_checks(target_id: str, error: BlinkError) -> Iterator[Check]:
    if error.meta is None:
        yield failed(CALL, str(error), "Look again; if it stays, tell the operator of the server.")
        return
    said = f"{_said(error)} {NOTHING_SPENT}"
    status, by_bank = error.meta.status, error.source is Source.PROVIDER
    if isinstance(error, InvalidClientError) or (status == 401 and not by_bank):
        yield failed(
            CALL,
            f"The client id is not the one that the certificate is registered for: {said}",
            "Set the client id of this certificate, or the certificate of this client id; for this "
            f"environment. If both are right, {SUPPORT}.",
        )
    elif status == 403:
        yield failed(
            CALL,
            f"{target_id} is not permitted to this client, or there is no such target: {said}",
            f"Check the target's id, and that its bank has approved this client; else {SUPPORT}.",
        )
    elif status in BAD_FORM and not by_bank:
        yield doubtful(CALL, "It came no further than the headers.", "Correct the headers first.")
        yield failed(
            HEADERS,
            f"The platform refuses the form of the call: {said}",
            f"Check user_agent, target and username; if they are right, {SUPPORT}.",
        )
        return
    elif by_bank and status < 500:
        yield passed(CALL, f"The platform let the call through to {target_id}: {said}")
    else:
        yield doubtful(
            CALL,
            f"Platform or bank are in trouble: {said}",
            f"Look again later; if it stays, {SUPPORT}.",
        )
    yield _headers_check(error.meta)


def _said(error: BlinkError) -> str:
    assert error.meta is not None
    words = [f"{error.meta.status}"]
    if isinstance(error, OAuthError):
        words += [error.error, error.description or ""]
    if isinstance(error, ProblemError):
        words += [error.type or error.title or "", error.detail or ""]
    text = ", ".join(word.rstrip(".") for word in words if word)
    return f"{text}. Correlation id {error.meta.correlation_id}."


def _headers_check(meta: ResponseMeta) -> Check:
    wrong = []
    if meta.source is Source.UNKNOWN:
        wrong.append("X-CorAPI-Source does not say who answered")
    if meta.echoed is None:
        wrong.append("X-Correlation-ID did not come back")
    elif not meta.echoed:
        wrong.append("X-Correlation-ID came back changed")
    if wrong:
        return doubtful(
            HEADERS,
            f"{' and '.join(wrong)}. Correlation id {meta.correlation_id}.",
            "Look for a proxy or gateway in between that drops or changes headers; else "
            f"{SUPPORT}.",
        )
    rules = "caches are told to keep nothing" if meta.cache_rules_held else "no word to caches"
    return passed(HEADERS, f"Both ways as they should; the {meta.source} answered; {rules}.")
