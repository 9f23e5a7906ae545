"""The two clients of the token endpoint, synchronous and asynchronous, with the same methods.

A method builds the calls and sends them (`_api`), and interprets the replies (`_reading`).
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
from .arguments import require_clock
from .context import Grant, Psu
from .headers import Probe, ResponseMeta
from .renewal import ContextSource
from .settings import Settings
from .tokens import Secret, Token, TokenKind, hide, require_secret, utc_now

if TYPE_CHECKING:
    import httpx

__all__ = ["AsyncBlinkOAuth", "BlinkOAuth"]


def _uuid() -> str:
    # The same as `uuid.uuid4` (RFC 9562 section 5.4) in less than half the time: every request to
    # a bank's API needs one.
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"


class BlinkOAuth:
    """Get, refresh and revoke OAuth tokens over mutual TLS.

    Make one client for each client certificate, and share it between threads: it reuses its
    connections. It never resends a request by itself. After a fork the child process can use it,
    too: it opens new connections, and the parent keeps the existing ones.

    Args:
        settings: The settings.
        clock: Returns the current time, timezone-aware UTC.
        new_correlation_id: Returns a new id for each call, at most 64 characters.
        monotonic: Returns seconds of a clock that never goes back. It limits the total time of a
            call and the idle time of a connection.
        transport: A transport to use instead of the network, for tests.

    Attributes:
        settings: The settings.
        context_source: The TLS context for new connections. It is renewed when the files of
            `settings.certificate` change, and so the client need not be made anew.

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
        require_clock(clock)
        self.context_source: ContextSource = ContextSource(settings, clock, monotonic)
        self._api = Api(settings, self.context_source, monotonic, transport)

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

        A call in progress finishes, because its response may contain the only copy of a token. Its
        connection closes afterwards.
        """
        self._api.close()

    def exchange_code(
        self, grant: Grant, *, code: str | Secret, redirect_uri: str, psu: Psu
    ) -> Token:
        """Exchange an authorization code for tokens.

        A code is valid for 30 s and can be used once: send it at once, and never twice.

        Args:
            grant: The grant that the customer has just consented to.
            code: The authorization code from the callback.
            redirect_uri: The redirect URI of the authorization request, unchanged.
            psu: The customer's device, which sent the callback.

        Raises:
            InvalidInputError: An argument cannot be sent; the code is not spent.
            BlinkError: The call failed; `outcome` says whether the code may be spent.

        Source: RFC 6749 sections 4.1.2 (once) and 4.1.3; bLink token management (30 s).
        """
        secret = hide(code, "authorization code")
        del code
        call = self._calls.exchange_code(grant, require_secret(secret), redirect_uri, psu)
        return token_from(call, self._api.send(call), self._clock())

    def refresh(
        self, grant: Grant, refresh_token: str | Secret | None, *, psu: Psu = Psu.AUTO
    ) -> Token:
        """Exchange a refresh token for a new access token.

        Store the returned token first: its refresh token is the one to use next. It is a new one if
        the bank rotates refresh tokens, and the one that you sent if the response contained none.
        It is None only if the response contained one that cannot be read
        (`Oddity.REFRESH_TOKEN_UNUSABLE`).

        Args:
            grant: The grant that the refresh token belongs to.
            refresh_token: The refresh token. None, from a token without one, is refused.
            psu: The device of the customer who waits for the call, or `Psu.AUTO`.

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
        """Revoke the refresh token and then the access token.

        Both calls are made even if the first one fails. Repeating a revocation does no harm.

        Args:
            grant: The grant that the token belongs to.
            token: The pair. Without a refresh token only the access token is revoked.
            psu: The device of the customer who waits for the call, or `Psu.AUTO`.

        Returns:
            The values of the response headers, for each kind of token.

        Raises:
            InvalidInputError: A call cannot be made. If it is the second one, the refresh token may
                be revoked already.
            RevocationError: At least one token may still be valid; the error says which.

        Source: RFC 7009 section 2; bLink oauth/revoke.
        """
        calls = self._calls.revocations(grant, token, psu)
        replies = [(call, self._api.send(call)) for call in calls]
        return revocation_from(replies, self._clock())

    def probe(self) -> Probe:
        """Send a request without a code or token, to test whether the platform can be reached.

        It uses the same certificate, proxy and timeouts as every call. Any response proves that
        the connection works.

        Raises:
            InvalidInputError: The client is closed.
            NoResponseError: No response was received; `network_fault`, or `fault` of a `TlsError`,
                says why.

        Source: `GET /oauth/token`, which no page of the platform lists (RFC 9110 section 15.5.6).
        """
        before = self._clock()
        return probe_from(self._api.probe(), before, self._clock())

    def correlation_id(self) -> str:
        """Return a new correlation id for a request of your own.

        Raises:
            InvalidInputError: `new_correlation_id` returned an id that cannot be sent.

        Source: bLink custom header `X-Correlation-ID`.
        """
        return self._calls.correlation_id()


class AsyncBlinkOAuth:
    """Get, refresh and revoke OAuth tokens over mutual TLS.

    Make one client for each client certificate and one event loop, and share it between tasks: it
    reuses its connections. It never resends a request by itself. After a fork the child process can
    use it, too, in an event loop of its own: it opens new connections, and the parent keeps the
    existing ones.

    Args:
        settings: The settings.
        clock: Returns the current time, timezone-aware UTC.
        new_correlation_id: Returns a new id for each call, at most 64 characters.
        monotonic: Returns seconds of a clock that never goes back. It limits the total time of a
            call and the idle time of a connection.
        transport: A transport to use instead of the network, for tests.

    Attributes:
        settings: The settings.
        context_source: The TLS context for new connections. It is renewed when the files of
            `settings.certificate` change, and so the client need not be made anew.

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
        require_clock(clock)
        self.context_source: ContextSource = ContextSource(settings, clock, monotonic)
        self._api = AsyncApi(settings, self.context_source, monotonic, transport)

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

        A call in progress finishes, because its response may contain the only copy of a token. Its
        connection closes afterwards.
        """
        await self._api.close()

    async def exchange_code(
        self, grant: Grant, *, code: str | Secret, redirect_uri: str, psu: Psu
    ) -> Token:
        """Exchange an authorization code for tokens.

        A code is valid for 30 s and can be used once: send it at once, and never twice.

        Args:
            grant: The grant that the customer has just consented to.
            code: The authorization code from the callback.
            redirect_uri: The redirect URI of the authorization request, unchanged.
            psu: The customer's device, which sent the callback.

        Raises:
            InvalidInputError: An argument cannot be sent; the code is not spent.
            BlinkError: The call failed; `outcome` says whether the code may be spent.

        Source: RFC 6749 sections 4.1.2 (once) and 4.1.3; bLink token management (30 s).
        """
        secret = hide(code, "authorization code")
        del code
        call = self._calls.exchange_code(grant, require_secret(secret), redirect_uri, psu)
        return token_from(call, await self._api.send(call), self._clock())

    async def refresh(
        self, grant: Grant, refresh_token: str | Secret | None, *, psu: Psu = Psu.AUTO
    ) -> Token:
        """Exchange a refresh token for a new access token.

        Store the returned token first: its refresh token is the one to use next. It is a new one if
        the bank rotates refresh tokens, and the one that you sent if the response contained none.
        It is None only if the response contained one that cannot be read
        (`Oddity.REFRESH_TOKEN_UNUSABLE`).

        Args:
            grant: The grant that the refresh token belongs to.
            refresh_token: The refresh token. None, from a token without one, is refused.
            psu: The device of the customer who waits for the call, or `Psu.AUTO`.

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
        """Revoke the refresh token and then the access token.

        Both calls are made even if the first one fails. Repeating a revocation does no harm.

        Args:
            grant: The grant that the token belongs to.
            token: The pair. Without a refresh token only the access token is revoked.
            psu: The device of the customer who waits for the call, or `Psu.AUTO`.

        Returns:
            The values of the response headers, for each kind of token.

        Raises:
            InvalidInputError: A call cannot be made. If it is the second one, the refresh token may
                be revoked already.
            RevocationError: At least one token may still be valid; the error says which.

        Source: RFC 7009 section 2; bLink oauth/revoke.
        """
        calls = self._calls.revocations(grant, token, psu)
        replies = [(call, await self._api.send(call)) for call in calls]
        return revocation_from(replies, self._clock())

    async def probe(self) -> Probe:
        """Send a request without a code or token, to test whether the platform can be reached.

        It uses the same certificate, proxy and timeouts as every call. Any response proves that
        the connection works.

        Raises:
            InvalidInputError: The client is closed.
            NoResponseError: No response was received; `network_fault`, or `fault` of a `TlsError`,
                says why.

        Source: `GET /oauth/token`, which no page of the platform lists (RFC 9110 section 15.5.6).
        """
        before = self._clock()
        return probe_from(await self._api.probe(), before, self._clock())

    def correlation_id(self) -> str:
        """Return a new correlation id for a request of your own.

        Raises:
            InvalidInputError: `new_correlation_id` returned an id that cannot be sent.

        Source: bLink custom header `X-Correlation-ID`.
        """
        return self._calls.correlation_id()
