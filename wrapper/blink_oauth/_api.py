"""The operations of the contract: arguments out, a value of ours in. Imports the generated client.

No other module sees a generated name. What they spell of the contract (names of headers and
members, statuses, enumerations, limits) is held to `blink_oauth_api.contract` by the types at the
end, so that a change of the contract is a type error here.

The generated parser reads first. What it cannot read loses nothing: the transport has noted the
response before, and `_reading` finds the tokens in its bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, TypedDict
from urllib.parse import urlsplit

from attrs import field, frozen

from blink_oauth_api import contract
from blink_oauth_api.api.oauth import request_token, revoke_token
from blink_oauth_api.client import Client
from blink_oauth_api.models.error_body import ErrorBody
from blink_oauth_api.models.revoke_request import RevokeRequest
from blink_oauth_api.models.token_request import TokenRequest
from blink_oauth_api.models.token_response import TokenResponse

from . import _wire
from ._checks import require_header_value
from ._reply import Reply
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

if TYPE_CHECKING:
    import httpx

    from blink_oauth_api.models.source import Source as DocumentedSource

    from ._reply import DocumentedStatus, ErrorMember, TokenMember
    from .context import MAX_USERNAME
    from .headers import CACHE_CONTROL, LANGUAGE, PRAGMA, SOURCE, SourceName

__all__ = ["Api", "AsyncApi", "Call", "CallBuilder", "Operation"]


class Operation(Enum):
    """What a call does; the value names what it spends."""

    EXCHANGE_CODE = "authorization code"
    REFRESH = "refresh token"
    REVOKE = "token"


class _Headers(TypedDict):
    # The generated signatures are checked against this.
    x_correlation_id: str
    user_agent: str
    x_cor_api_target_id: str
    x_psu_ip_address: str
    x_psu_user_agent: str


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
        headers: The headers, as the generated functions name them.
        form: Builds the form, secrets in plain text among it. It exists only while it is sent, so
            that no traceback of ours can hold it.
    """

    operation: Operation
    target_id: str
    correlation_id: str
    started_at: datetime
    secrets: tuple[Secret, ...]
    kind: TokenKind | None = None
    headers: _Headers = field(repr=False)
    form: Callable[[], TokenRequest | RevokeRequest] = field(repr=False)


@frozen(eq=False)
class CallBuilder:
    """Makes the calls of one client, and refuses bad input before there is one."""

    settings: Settings
    clock: Callable[[], datetime]
    new_correlation_id: Callable[[], str]

    def exchange_code(self, grant: Grant, code: Secret, redirect_uri: str, psu: Psu) -> Call:
        """Prepare the exchange of an authorization code (RFC 6749 section 4.1.3)."""
        _require_redirect_uri(redirect_uri)

        def form() -> TokenRequest:
            return TokenRequest(
                grant_type="authorization_code",
                client_id=self.settings.client_id,
                username=grant.username,
                code=code.reveal(),
                redirect_uri=redirect_uri,
            )

        return self._call(Operation.EXCHANGE_CODE, grant, psu, code, form)

    def refresh(self, grant: Grant, refresh_token: Secret, psu: Psu) -> Call:
        """Prepare a refresh (RFC 6749 section 6)."""

        def form() -> TokenRequest:
            return TokenRequest(
                grant_type="refresh_token",
                client_id=self.settings.client_id,
                username=grant.username,
                refresh_token=refresh_token.reveal(),
            )

        return self._call(Operation.REFRESH, grant, psu, refresh_token, form)

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
        def form() -> RevokeRequest:
            return RevokeRequest(
                token=token.reveal(),
                token_type_hint=kind.value,
                client_id=self.settings.client_id,
                username=grant.username,
            )

        return self._call(Operation.REVOKE, grant, psu, token, form, kind=kind)

    def _call(
        self,
        operation: Operation,
        grant: Grant,
        psu: Psu,
        secret: Secret,
        form: Callable[[], TokenRequest | RevokeRequest],
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
            headers=_Headers(
                x_correlation_id=headers[CORRELATION_ID],
                user_agent=headers[USER_AGENT],
                x_cor_api_target_id=headers[TARGET_ID],
                x_psu_ip_address=headers[PSU_IP_ADDRESS],
                x_psu_user_agent=headers[PSU_USER_AGENT],
            ),
            form=form,
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


class Api:
    """Sends calls, and returns what came of each: what the network does raises nothing."""

    def __init__(
        self,
        settings: Settings,
        now: datetime,
        monotonic: Callable[[], float],
        transport: httpx.BaseTransport | None,
    ) -> None:
        self._settings, self._monotonic = settings, monotonic
        options = _wire.client_options(settings)
        self._transport = _wire.new_transport(settings, now, monotonic, transport)
        self._http = _wire.HttpClient(transport=self._transport, **options)
        self._closed = False
        self._client = Client(base_url=settings.base_url).set_httpx_client(self._http)

    def send(self, call: Call) -> Reply:
        """Send a call once, and return what came of it."""
        with _exchange(self._settings, self._monotonic, self._closed) as exchange:
            exchange.members = _members(_send(self._client, call))
        return exchange.reply()

    def probe(self) -> Reply:
        """Send a request that asks for nothing, and return what came of it."""
        with _exchange(self._settings, self._monotonic, self._closed) as exchange:
            self._http.get(contract.REQUEST_TOKEN_PATH, headers=_probing(self._settings))
        return exchange.reply()

    def close(self) -> None:
        """Close the connections, and send nothing more."""
        # Not httpx's client: it would break a call that is about to be sent.
        self._closed = True
        self._transport.close()


class AsyncApi:
    """Sends calls, and returns what came of each: what the network does raises nothing."""

    def __init__(
        self,
        settings: Settings,
        now: datetime,
        monotonic: Callable[[], float],
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self._settings, self._monotonic = settings, monotonic
        options = _wire.client_options(settings)
        self._transport = _wire.new_async_transport(settings, now, monotonic, transport)
        self._http = _wire.AsyncHttpClient(transport=self._transport, **options)
        self._closed = False
        self._client = Client(base_url=settings.base_url).set_async_httpx_client(self._http)

    async def send(self, call: Call) -> Reply:
        """Send a call once, and return what came of it."""
        with _exchange(self._settings, self._monotonic, self._closed) as exchange:
            exchange.members = _members(await _asend(self._client, call))
        return exchange.reply()

    async def probe(self) -> Reply:
        """Send a request that asks for nothing, and return what came of it."""
        with _exchange(self._settings, self._monotonic, self._closed) as exchange:
            await self._http.get(contract.REQUEST_TOKEN_PATH, headers=_probing(self._settings))
        return exchange.reply()

    async def close(self) -> None:
        """Close the connections, and send nothing more."""
        # Not httpx's client: it would break a call that is about to be sent.
        self._closed = True
        await self._transport.aclose()


def _exchange(settings: Settings, monotonic: Callable[[], float], closed: bool) -> _wire.RoundTrip:
    if closed:
        raise InvalidInputError("The client is closed: make a new one. Nothing was sent.")
    secure = settings.base_url.startswith("https:")
    return _wire.RoundTrip(settings.timeouts.total, monotonic, secure)


def _probing(settings: Settings) -> dict[str, str]:
    return {USER_AGENT: settings.user_agent}


# A frame below holds the form in plain text; the end of the exchange takes it off every traceback.
def _send(client: Client, call: Call) -> TokenResponse | ErrorBody | None:
    form = call.form()
    if isinstance(form, RevokeRequest):
        return revoke_token.sync_detailed(client=client, body=form, **call.headers).parsed
    return request_token.sync_detailed(client=client, body=form, **call.headers).parsed


async def _asend(client: Client, call: Call) -> TokenResponse | ErrorBody | None:
    form = call.form()
    if isinstance(form, RevokeRequest):
        done = await revoke_token.asyncio_detailed(client=client, body=form, **call.headers)
        return done.parsed
    answer = await request_token.asyncio_detailed(client=client, body=form, **call.headers)
    return answer.parsed


def _members(parsed: TokenResponse | ErrorBody | None) -> dict[str, object] | None:
    """Return the members of a parsed body by their names in JSON, unknown ones included."""
    return None if parsed is None else parsed.to_dict()


if TYPE_CHECKING:
    # What other modules spell of the contract. A name is looked up there, so that one that goes or
    # changes is an error and an optional addition is none. Statuses and enumerations are compared
    # both ways: whoever adds one must look at what depends on it.

    def _names_of_members(
        token: contract.TokenResponseMembers,
        token_member: TokenMember,
        error: contract.ErrorBodyMembers,
        error_member: ErrorMember,
    ) -> tuple[object, ...]:
        return token[token_member], error[error_member]

    def _names_of_request_headers(
        sent: contract.RequestTokenRequestHeaders, revoking: contract.RevokeTokenRequestHeaders
    ) -> tuple[object, ...]:
        return (
            *(sent[CORRELATION_ID], revoking[CORRELATION_ID]),
            *(sent[USER_AGENT], revoking[USER_AGENT]),
            *(sent[TARGET_ID], revoking[TARGET_ID]),
            *(sent[PSU_IP_ADDRESS], revoking[PSU_IP_ADDRESS]),
            *(sent[PSU_USER_AGENT], revoking[PSU_USER_AGENT]),
        )

    def _names_of_response_headers(
        token: contract.RequestTokenResponseHeaders, revoked: contract.RevokeTokenResponseHeaders
    ) -> tuple[object, ...]:
        return (
            *(token[CORRELATION_ID], revoked[CORRELATION_ID]),
            *(token[SOURCE], revoked[SOURCE]),
            *(token[LANGUAGE], revoked[LANGUAGE]),
            *(token[CACHE_CONTROL], revoked[CACHE_CONTROL]),
            *(token[PRAGMA], revoked[PRAGMA]),
        )

    def _every_status_is_known(
        token: contract.RequestTokenStatus, revoked: contract.RevokeTokenStatus
    ) -> tuple[DocumentedStatus, DocumentedStatus]:
        return token, revoked

    def _every_known_status_is_documented(
        status: DocumentedStatus,
    ) -> tuple[contract.RequestTokenStatus, contract.RevokeTokenStatus]:
        return status, status

    def _every_source_is_known(source: DocumentedSource) -> SourceName:
        return source

    def _every_known_source_is_documented(source: SourceName) -> DocumentedSource:
        return source

    assert MAX_CORRELATION_ID == contract.CORRELATION_ID_MAX_LENGTH
    assert MAX_USERNAME == contract.TOKEN_REQUEST_USERNAME_MAX_LENGTH
    assert MAX_USERNAME == contract.REVOKE_REQUEST_USERNAME_MAX_LENGTH
