"""The client of the token endpoint, in two flavours with the same methods.

What decides is pure and lives elsewhere: `_api` makes and sends the calls, `_reading` says what a
reply means. A method here takes the clock, sends and reads.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Self

from ._api import Api, AsyncApi, CallBuilder
from ._reading import probe_from, revocation_from, token_from
from .context import Grant, Psu
from .headers import Probe, ResponseMeta
from .settings import Settings
from .tokens import Secret, Token, TokenKind, hide, require_secret, utc_now

if TYPE_CHECKING:
    import httpx

__all__ = ["AsyncBlinkOAuth", "BlinkOAuth"]


def _uuid() -> str:
    # What `uuid.uuid4` makes (RFC 9562 section 5.4), in less than half its time: every request of
    # a bank's API has one.
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


class BlinkOAuth:
    """Get, refresh and revoke OAuth tokens over mutual TLS.

    One client serves one client certificate; share it between threads, and make it once: its
    connections are reused. Nothing is ever resent by itself. A process that is forked off can go on
    with it: it makes connections of its own, and its parent keeps those that were there.

    Args:
        settings: Where the platform is and who we are.
        clock: Tells the present moment, aware UTC.
        new_correlation_id: Makes a fresh id, at most 64 characters, for each attempt.
        monotonic: Tells seconds that never run backwards, to limit each call as a whole and to
            close the connections that were idle for too long.
        transport: A transport to use instead of the network, for tests.

    Raises:
        InvalidInputError: A setting cannot be used.
        CertificateError: The client certificate cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], datetime] = utc_now,
        new_correlation_id: Callable[[], str] = _uuid,
        monotonic: Callable[[], float] = time.monotonic,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._calls = CallBuilder(settings, clock, new_correlation_id)
        self._api = Api(settings, clock(), monotonic, transport)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings!r})"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. The client cannot be used any more.

        A call that is under way is not cut off: it may bring home the only copy of a token. Its
        connection is closed behind it.
        """
        self._api.close()

    def exchange_code(
        self, grant: Grant, *, code: str | Secret, redirect_uri: str, psu: Psu
    ) -> Token:
        """Exchange an authorization code for tokens.

        A code lives 30 s and is good for one call: send it at once, and never twice.

        Args:
            grant: The grant that the customer has just consented to.
            code: The authorization code from the callback.
            redirect_uri: The redirect URI of the authorization request, unchanged.
            psu: The customer whose browser brought the code.

        Raises:
            InvalidInputError: An argument cannot be sent; the code is not spent.
            BlinkError: The call failed; `outcome` says whether the code may be spent.

        Source: RFC 6749 section 4.1.3; bLink token management.
        """
        secret = hide(code, "authorization code")
        del code
        call = self._calls.exchange_code(grant, require_secret(secret), redirect_uri, psu)
        return token_from(call, self._api.send(call), self._clock())

    def refresh(
        self, grant: Grant, refresh_token: str | Secret | None, *, psu: Psu = Psu.AUTO
    ) -> Token:
        """Exchange a refresh token for a new access token.

        Store what comes back before anything else: its refresh token is the one to use next. It is
        a new one if the bank rotates, and the one you sent if the response held none. It is None
        in one case only: a new one came and could not be read (`Oddity.REFRESH_TOKEN_UNUSABLE`).

        Args:
            grant: The grant that the refresh token belongs to.
            refresh_token: The refresh token. None, from a token that has none, is refused.
            psu: The customer, if one triggered the call and waits for it.

        Raises:
            InvalidInputError: An argument cannot be sent; the refresh token is not spent.
            BlinkError: The call failed; `outcome` says whether the refresh token may be spent.

        Source: RFC 6749 section 6; bLink token management.
        """
        secret = hide(refresh_token, "refresh token")
        del refresh_token
        call = self._calls.refresh(grant, require_secret(secret), psu)
        return token_from(call, self._api.send(call), self._clock())

    def revoke(
        self, grant: Grant, token: Token, *, psu: Psu = Psu.AUTO
    ) -> dict[TokenKind, ResponseMeta]:
        """Revoke both halves of a token: first the refresh token, then the access token.

        Both calls are made even if the first one fails. Repeating a revocation does no harm.

        Args:
            grant: The grant that the token belongs to.
            token: The token; without a refresh token only the access token is revoked.
            psu: The customer, if one triggered the call and waits for it.

        Returns:
            What the response headers said, for each kind of token that was revoked.

        Raises:
            InvalidInputError: An argument cannot be sent; nothing is revoked.
            RevocationError: One of the two may still be alive; the error says which.

        Source: RFC 7009 section 2; bLink oauth/revoke.
        """
        calls = self._calls.revocations(grant, token, psu)
        replies = [(call, self._api.send(call)) for call in calls]
        return revocation_from(replies, self._clock())

    def probe(self) -> Probe:
        """Send a request that asks for nothing, to see whether the platform can be reached.

        It travels as every call does, with the same certificate, proxy and timeouts. Any response
        proves that the connection works; no code and no token is in it.

        Raises:
            InvalidInputError: The client is closed.
            NoResponseError: No response came; `network_fault` says why, or `fault` of a `TlsError`.

        Source: `GET /oauth/token`, which the platform does not offer (RFC 9110 section 15.5.6).
        """
        before = self._clock()
        return probe_from(self._api.probe(), before, self._clock())

    def correlation_id(self) -> str:
        """Make a fresh id for one request, as each call has one.

        Raises:
            InvalidInputError: `new_correlation_id` makes ids that cannot be sent.

        Source: bLink custom header `X-Correlation-ID`.
        """
        return self._calls.correlation_id()


class AsyncBlinkOAuth:
    """Get, refresh and revoke OAuth tokens over mutual TLS.

    One client serves one client certificate and one event loop; share it between tasks, and make it
    once: its connections are reused. Nothing is ever resent by itself. A process that is forked off
    can go on with it, in an event loop of its own: it makes new connections, and its parent keeps
    those that were there.

    Args:
        settings: Where the platform is and who we are.
        clock: Tells the present moment, aware UTC.
        new_correlation_id: Makes a fresh id, at most 64 characters, for each attempt.
        monotonic: Tells seconds that never run backwards, to limit each call as a whole and to
            close the connections that were idle for too long.
        transport: A transport to use instead of the network, for tests.

    Raises:
        InvalidInputError: A setting cannot be used.
        CertificateError: The client certificate cannot be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], datetime] = utc_now,
        new_correlation_id: Callable[[], str] = _uuid,
        monotonic: Callable[[], float] = time.monotonic,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._calls = CallBuilder(settings, clock, new_correlation_id)
        self._api = AsyncApi(settings, clock(), monotonic, transport)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.settings!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections. The client cannot be used any more.

        A call that is under way is not cut off: it may bring home the only copy of a token. Its
        connection is closed behind it.
        """
        await self._api.close()

    async def exchange_code(
        self, grant: Grant, *, code: str | Secret, redirect_uri: str, psu: Psu
    ) -> Token:
        """Exchange an authorization code for tokens.

        A code lives 30 s and is good for one call: send it at once, and never twice.

        Args:
            grant: The grant that the customer has just consented to.
            code: The authorization code from the callback.
            redirect_uri: The redirect URI of the authorization request, unchanged.
            psu: The customer whose browser brought the code.

        Raises:
            InvalidInputError: An argument cannot be sent; the code is not spent.
            BlinkError: The call failed; `outcome` says whether the code may be spent.

        Source: RFC 6749 section 4.1.3; bLink token management.
        """
        secret = hide(code, "authorization code")
        del code
        call = self._calls.exchange_code(grant, require_secret(secret), redirect_uri, psu)
        return token_from(call, await self._api.send(call), self._clock())

    async def refresh(
        self, grant: Grant, refresh_token: str | Secret | None, *, psu: Psu = Psu.AUTO
    ) -> Token:
        """Exchange a refresh token for a new access token.

        Store what comes back before anything else: its refresh token is the one to use next. It is
        a new one if the bank rotates, and the one you sent if the response held none. It is None
        in one case only: a new one came and could not be read (`Oddity.REFRESH_TOKEN_UNUSABLE`).

        Args:
            grant: The grant that the refresh token belongs to.
            refresh_token: The refresh token. None, from a token that has none, is refused.
            psu: The customer, if one triggered the call and waits for it.

        Raises:
            InvalidInputError: An argument cannot be sent; the refresh token is not spent.
            BlinkError: The call failed; `outcome` says whether the refresh token may be spent.

        Source: RFC 6749 section 6; bLink token management.
        """
        secret = hide(refresh_token, "refresh token")
        del refresh_token
        call = self._calls.refresh(grant, require_secret(secret), psu)
        return token_from(call, await self._api.send(call), self._clock())

    async def revoke(
        self, grant: Grant, token: Token, *, psu: Psu = Psu.AUTO
    ) -> dict[TokenKind, ResponseMeta]:
        """Revoke both halves of a token: first the refresh token, then the access token.

        Both calls are made even if the first one fails. Repeating a revocation does no harm.

        Args:
            grant: The grant that the token belongs to.
            token: The token; without a refresh token only the access token is revoked.
            psu: The customer, if one triggered the call and waits for it.

        Returns:
            What the response headers said, for each kind of token that was revoked.

        Raises:
            InvalidInputError: An argument cannot be sent; nothing is revoked.
            RevocationError: One of the two may still be alive; the error says which.

        Source: RFC 7009 section 2; bLink oauth/revoke.
        """
        calls = self._calls.revocations(grant, token, psu)
        replies = [(call, await self._api.send(call)) for call in calls]
        return revocation_from(replies, self._clock())

    async def probe(self) -> Probe:
        """Send a request that asks for nothing, to see whether the platform can be reached.

        It travels as every call does, with the same certificate, proxy and timeouts. Any response
        proves that the connection works; no code and no token is in it.

        Raises:
            InvalidInputError: The client is closed.
            NoResponseError: No response came; `network_fault` says why, or `fault` of a `TlsError`.

        Source: `GET /oauth/token`, which the platform does not offer (RFC 9110 section 15.5.6).
        """
        before = self._clock()
        return probe_from(await self._api.probe(), before, self._clock())

    def correlation_id(self) -> str:
        """Make a fresh id for one request, as each call has one.

        Raises:
            InvalidInputError: `new_correlation_id` makes ids that cannot be sent.

        Source: bLink custom header `X-Correlation-ID`.
        """
        return self._calls.correlation_id()
