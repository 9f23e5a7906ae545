"""What goes out: each operation as a call of the generated client. The only importer of it.

The generated modules build the requests; `_reading` reads the responses. The generated parser is
left out on purpose: it drops a response that surprises it, and a rotated refresh token with it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from enum import Enum
from typing import Any, TypedDict
from urllib.parse import urlsplit

from attrs import field, frozen

from blink_oauth_api.api.oauth import request_token, revoke_token
from blink_oauth_api.models.revoke_request import RevokeRequest
from blink_oauth_api.models.token_request import TokenRequest

from ._checks import require_header_value
from .context import Grant, Psu, request_headers
from .errors import InvalidInputError
from .headers import (
    CORRELATION_ID,
    MAX_CORRELATION_ID,
    PSU_IP_ADDRESS,
    PSU_USER_AGENT,
    TARGET_ID,
    USER_AGENT,
)
from .settings import Settings
from .tokens import Secret, Token, TokenKind

__all__ = ["Call", "Gateway", "Operation"]

# The underscore says that the generator promises nothing about these names. Nothing is needed: the
# generated code is committed, pinned and type checked together with this module.
_token_request = request_token._get_kwargs  # noqa: SLF001
_revoke_request = revoke_token._get_kwargs  # noqa: SLF001


class Operation(Enum):
    """What a call does; the value names what it spends."""

    EXCHANGE_CODE = "authorization code"
    REFRESH = "refresh token"
    REVOKE = "token"


@frozen(kw_only=True, eq=False)
class Call:
    """One attempt at one operation.

    Attributes:
        operation: What it does.
        target_id: The bank it is for.
        correlation_id: Its own fresh id.
        started_at: When it began, aware UTC.
        secrets: What it carries that no error text may repeat.
        kind: For a revocation, the kind of the token.
        request: Builds the arguments of the HTTP request, secrets in plain text among them. They
            exist only while it is sent, so that no traceback of ours can hold them.
    """

    operation: Operation
    target_id: str
    correlation_id: str
    started_at: datetime
    secrets: tuple[Secret, ...]
    kind: TokenKind | None = None
    request: Callable[[], dict[str, Any]] = field(repr=False)


class _Headers(TypedDict):
    # The generated signatures are checked against this: a header renamed in the contract is a
    # type error here.
    x_correlation_id: str
    user_agent: str
    x_cor_api_target_id: str
    x_psu_ip_address: str
    x_psu_user_agent: str


@frozen(eq=False)
class Gateway:
    """Makes the calls of one client, and refuses bad input before there is one.

    Args:
        settings: Who we are.
        clock: Tells the present moment, aware UTC.
        new_correlation_id: Makes a fresh id for each attempt.
    """

    settings: Settings
    clock: Callable[[], datetime]
    new_correlation_id: Callable[[], str]

    def exchange_code(self, grant: Grant, code: Secret, redirect_uri: str, psu: Psu) -> Call:
        """Prepare the exchange of an authorization code (RFC 6749 section 4.1.3)."""
        _require_redirect_uri(redirect_uri)

        def request(headers: _Headers) -> dict[str, Any]:
            return _token_request(
                body=TokenRequest(
                    grant_type="authorization_code",
                    client_id=self.settings.client_id,
                    username=grant.username,
                    code=code.reveal(),
                    redirect_uri=redirect_uri,
                ),
                **headers,
            )

        return self._call(Operation.EXCHANGE_CODE, grant, psu, code, request)

    def refresh(self, grant: Grant, refresh_token: Secret, psu: Psu) -> Call:
        """Prepare a refresh (RFC 6749 section 6)."""

        def request(headers: _Headers) -> dict[str, Any]:
            return _token_request(
                body=TokenRequest(
                    grant_type="refresh_token",
                    client_id=self.settings.client_id,
                    username=grant.username,
                    refresh_token=refresh_token.reveal(),
                ),
                **headers,
            )

        return self._call(Operation.REFRESH, grant, psu, refresh_token, request)

    def revocations(self, grant: Grant, token: Token, psu: Psu) -> Iterator[Call]:
        """Prepare the revocation of each half of a token, the refresh token first.

        Each token is revoked in a call of its own (bLink oauth/revoke). The refresh token goes
        first so that nothing can be renewed while the access token is still being revoked.
        """
        if not isinstance(token, Token):
            raise InvalidInputError("Give revoke a Token(access_token=…, refresh_token=…).")
        if token.refresh_token is not None:
            yield self._revoke(grant, TokenKind.REFRESH_TOKEN, token.refresh_token, psu)
        yield self._revoke(grant, TokenKind.ACCESS_TOKEN, token.access_token, psu)

    def correlation_id(self) -> str:
        """Make the id of one attempt.

        Raises:
            InvalidInputError: What the client was given makes ids that cannot be sent.
        """
        correlation_id = self.new_correlation_id()
        require_header_value("correlation id", correlation_id)
        if len(correlation_id) > MAX_CORRELATION_ID:
            raise InvalidInputError(f"The correlation id is longer than {MAX_CORRELATION_ID}.")
        return correlation_id

    def _revoke(self, grant: Grant, kind: TokenKind, token: Secret, psu: Psu) -> Call:
        def request(headers: _Headers) -> dict[str, Any]:
            return _revoke_request(
                body=RevokeRequest(
                    token=token.reveal(),
                    token_type_hint=kind.value,
                    client_id=self.settings.client_id,
                    username=grant.username,
                ),
                **headers,
            )

        return self._call(Operation.REVOKE, grant, psu, token, request, kind=kind)

    def _call(
        self,
        operation: Operation,
        grant: Grant,
        psu: Psu,
        secret: Secret,
        request: Callable[[_Headers], dict[str, Any]],
        *,
        kind: TokenKind | None = None,
    ) -> Call:
        if not isinstance(grant, Grant) or not isinstance(psu, Psu):
            raise InvalidInputError("A call needs a Grant and a Psu. Nothing was sent.")
        correlation_id = self.correlation_id()
        headers = request_headers(
            grant, psu, user_agent=self.settings.user_agent, correlation_id=correlation_id
        )
        return Call(
            operation=operation,
            target_id=grant.target_id,
            correlation_id=correlation_id,
            started_at=self.clock(),
            secrets=(secret,),
            kind=kind,
            request=lambda: request(_parameters(headers)),
        )


def _parameters(headers: dict[str, str]) -> _Headers:
    return _Headers(
        x_correlation_id=headers[CORRELATION_ID],
        user_agent=headers[USER_AGENT],
        x_cor_api_target_id=headers[TARGET_ID],
        x_psu_ip_address=headers[PSU_IP_ADDRESS],
        x_psu_user_agent=headers[PSU_USER_AGENT],
    )


def _require_redirect_uri(value: object) -> None:
    require_header_value("redirect_uri", value)
    try:
        parts = urlsplit(str(value))
        absolute = parts.scheme and not parts.fragment and (parts.netloc or parts.path)
    except ValueError:
        absolute = False
    if not absolute:
        raise InvalidInputError(
            "The redirect_uri must be an absolute URI without a fragment, the same as in the "
            "authorization request (RFC 6749 section 3.1.2). The code was not sent."
        )
