"""The operations of the contract: a `Call` in, a `Reply` out. Calls the generated client.

No other module imports the generated package. The constants of other modules that repeat the
contract (names of headers and members, statuses, enumerations, limits) are compared with
`blink_oauth_api.contract` at the end, so that a change of the contract is a type error here.

The generated parser reads a response first. If it fails, no token is lost: the transport has
recorded the response before, and `_reading` finds the tokens in its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, TypedDict

from attrs import Attribute, field, frozen

from blink_oauth_api import contract
from blink_oauth_api.api.oauth import request_token, revoke_token
from blink_oauth_api.client import Client
from blink_oauth_api.models.error_body import ErrorBody
from blink_oauth_api.models.revoke_request import RevokeRequest
from blink_oauth_api.models.token_request import TokenRequest
from blink_oauth_api.models.token_response import TokenResponse
from blink_oauth_api.types import UNSET

from . import _wire
from ._checks import require_header_value
from ._reply import Reply
from .arguments import GRANT, PSU, require_type
from .context import Grant, Psu, request_headers, require_redirect_uri
from .errors import InvalidInputError
from .headers import (
    CORRELATION_ID,
    MAX_CORRELATION_ID,
    PSU_IP_ADDRESS,
    PSU_USER_AGENT,
    TARGET_ID,
    USER_AGENT,
)
from .renewal import ContextSource
from .settings import Settings
from .tokens import NO_ACCESS_TOKEN, Secret, Token, TokenKind

if TYPE_CHECKING:
    import httpx

    from blink_oauth_api.models.source import Source as DocumentedSource

    from ._reply import DocumentedStatus, ErrorMember, TokenMember
    from .context import MAX_USERNAME
    from .headers import CACHE_CONTROL, LANGUAGE, PRAGMA, SOURCE, SourceName
    from .settings import RevocationField

__all__ = ["Api", "AsyncApi", "Call", "CallBuilder", "Operation"]

PARAMETER = re.compile(r"(?:^|[?&])(?:code|state)=.")
"""A parameter of a callback, which is no part of a code."""


class Operation(Enum):
    """The operation of a call; the value names the secret that it sends."""

    EXCHANGE_CODE = "authorization code"
    REFRESH = "refresh token"
    REVOKE = "token"


class _Headers(TypedDict):
    # mypy compares these names with the parameters of the generated functions.
    x_correlation_id: str
    user_agent: str
    x_cor_api_target_id: str
    x_psu_ip_address: str
    x_psu_user_agent: str


@frozen(kw_only=True, eq=False)
class Call:
    """One operation of the client, ready to be sent once.

    Attributes:
        operation: The operation.
        target_id: The id of the target.
        correlation_id: The id of this call.
        started_at: The start time, timezone-aware UTC.
        secrets: The code or token in the form; no error text may repeat it.
        kind: The kind of the token to revoke, otherwise None.
        accepts_foreign_id: Whether a response with another correlation id is believed.
        headers: The headers, by the parameter names of the generated functions.
        form: Builds the form, which contains the secrets in plain text. It is built just before
            it is sent, so that no traceback contains it.
    """

    operation: Operation
    target_id: str
    correlation_id: str
    started_at: datetime
    secrets: tuple[Secret, ...]
    kind: TokenKind | None = None
    accepts_foreign_id: bool = False
    headers: _Headers = field(repr=False)
    form: Callable[[], TokenRequest | RevokeRequest] = field(repr=False)


def _settings(instance: object, attribute: Attribute[Settings], value: Settings) -> None:
    require_type("settings", value, Settings, "Settings.from_env()")


@frozen(eq=False)
class CallBuilder:
    """Builds the calls of one client, and checks their arguments."""

    settings: Settings = field(validator=_settings)
    clock: Callable[[], datetime]
    new_correlation_id: Callable[[], str]

    def exchange_code(self, grant: Grant, code: Secret, redirect_uri: str, psu: Psu) -> Call:
        """Return the call that exchanges an authorization code (RFC 6749 section 4.1.3)."""
        require_redirect_uri(redirect_uri)
        if problem := _problem_of_code(code):
            raise InvalidInputError(
                f"The authorization code {problem}. Pass the code alone: the attribute code of "
                "what read_callback returned. Nothing was sent: the code is not spent, and is "
                "valid for 30 s."
            )

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
        """Return the call that presents a refresh token (RFC 6749 section 6)."""

        def form() -> TokenRequest:
            return TokenRequest(
                grant_type="refresh_token",
                client_id=self.settings.client_id,
                username=grant.username,
                refresh_token=refresh_token.reveal(),
            )

        return self._call(Operation.REFRESH, grant, psu, refresh_token, form)

    def revocations(self, grant: Grant, token: Token, psu: Psu) -> Iterator[Call]:
        """Yield the calls that revoke a pair: one for each token, the refresh token first.

        Each call revokes one token (bLink oauth/revoke). The refresh token is first, so that it
        cannot be used while the access token is being revoked.
        """
        require_type("token", token, Token, "Token(access_token=…, refresh_token=…)")
        if token.refresh_token is not None:
            yield self._revoke(grant, TokenKind.REFRESH_TOKEN, token.refresh_token, psu)
        if token.access_token != NO_ACCESS_TOKEN:
            yield self._revoke(grant, TokenKind.ACCESS_TOKEN, token.access_token, psu)

    def correlation_id(self) -> str:
        """Return the id of one call.

        Raises:
            InvalidInputError: `new_correlation_id` returned an id that cannot be sent.
        """
        correlation_id = self.new_correlation_id()
        require_header_value("The correlation id", correlation_id)
        if len(correlation_id) > MAX_CORRELATION_ID:
            raise InvalidInputError(f"The correlation id is longer than {MAX_CORRELATION_ID}.")
        return correlation_id

    def _revoke(self, grant: Grant, kind: TokenKind, token: Secret, psu: Psu) -> Call:
        def form() -> RevokeRequest:
            sent = self.settings.revocation_fields
            return RevokeRequest(
                token=token.reveal(),
                token_type_hint=kind.value if "token_type_hint" in sent else UNSET,
                client_id=self.settings.client_id if "client_id" in sent else UNSET,
                username=grant.username if "username" in sent else UNSET,
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
        require_type("grant", grant, Grant, GRANT)
        require_type("psu", psu, Psu, PSU)
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
            accepts_foreign_id=self.settings.accept_foreign_correlation_id,
            headers=_Headers(
                x_correlation_id=headers[CORRELATION_ID],
                user_agent=headers[USER_AGENT],
                x_cor_api_target_id=headers[TARGET_ID],
                x_psu_ip_address=headers[PSU_IP_ADDRESS],
                x_psu_user_agent=headers[PSU_USER_AGENT],
            ),
            form=form,
        )


def _problem_of_code(code: Secret) -> str | None:
    # The problem is returned and not raised: the traceback would include the plain code.
    text = code.reveal()
    if PARAMETER.search(text):
        return "is a part of the callback's URL, with the name of a parameter in it"
    return None if text.isprintable() else "contains a line break or another control character"


class Api:
    """Sends calls and returns the reply of each. An error of the network is a reply, too."""

    def __init__(
        self,
        settings: Settings,
        source: ContextSource,
        monotonic: Callable[[], float],
        transport: httpx.BaseTransport | None,
    ) -> None:
        self._settings, self._monotonic = settings, monotonic
        options = _wire.client_options(settings)
        self._transport = _wire.new_transport(settings, source, monotonic, transport)
        self._http = _wire.HttpClient(transport=self._transport, **options)
        self._closed = False
        self._client = Client(base_url=settings.base_url).set_httpx_client(self._http)

    def send(self, call: Call) -> Reply:
        """Send a call once, and return the reply."""
        with _round_trip(self._settings, self._monotonic, self._closed) as round_trip:
            round_trip.members = _members(_send(self._client, call))
        return round_trip.reply()

    def probe(self) -> Reply:
        """Send a request without a code or token, and return the reply."""
        with _round_trip(self._settings, self._monotonic, self._closed) as round_trip:
            self._http.get(contract.REQUEST_TOKEN_PATH, headers=_probe_headers(self._settings))
        return round_trip.reply()

    def close(self) -> None:
        """Close the connections, and refuse further calls."""
        # Closing httpx's client instead would break a call that is about to be sent.
        self._closed = True
        self._transport.close()


class AsyncApi:
    """Sends calls and returns the reply of each. An error of the network is a reply, too."""

    def __init__(
        self,
        settings: Settings,
        source: ContextSource,
        monotonic: Callable[[], float],
        transport: httpx.AsyncBaseTransport | None,
    ) -> None:
        self._settings, self._monotonic = settings, monotonic
        options = _wire.client_options(settings)
        self._transport = _wire.new_async_transport(settings, source, monotonic, transport)
        self._http = _wire.AsyncHttpClient(transport=self._transport, **options)
        self._closed = False
        self._client = Client(base_url=settings.base_url).set_async_httpx_client(self._http)

    async def send(self, call: Call) -> Reply:
        """Send a call once, and return the reply."""
        with _round_trip(self._settings, self._monotonic, self._closed) as round_trip:
            round_trip.members = _members(await _asend(self._client, call))
        return round_trip.reply()

    async def probe(self) -> Reply:
        """Send a request without a code or token, and return the reply."""
        with _round_trip(self._settings, self._monotonic, self._closed) as round_trip:
            await self._http.get(
                contract.REQUEST_TOKEN_PATH, headers=_probe_headers(self._settings)
            )
        return round_trip.reply()

    async def close(self) -> None:
        """Close the connections, and refuse further calls."""
        # Closing httpx's client instead would break a call that is about to be sent.
        self._closed = True
        await self._transport.aclose()


def _round_trip(
    settings: Settings, monotonic: Callable[[], float], closed: bool
) -> _wire.RoundTrip:
    if closed:
        raise InvalidInputError("The client is closed: make a new one. Nothing was sent.")
    return _wire.RoundTrip(settings.timeouts.total, monotonic)


def _probe_headers(settings: Settings) -> dict[str, str]:
    return {USER_AGENT: settings.user_agent}


# The frames of these two contain the form in plain text; `RoundTrip` removes them from tracebacks.
def _send(client: Client, call: Call) -> TokenResponse | ErrorBody | None:
    form = call.form()
    if isinstance(form, RevokeRequest):
        return revoke_token.sync_detailed(client=client, body=form, **call.headers).parsed
    return request_token.sync_detailed(client=client, body=form, **call.headers).parsed


async def _asend(client: Client, call: Call) -> TokenResponse | ErrorBody | None:
    form = call.form()
    if isinstance(form, RevokeRequest):
        revoked = await revoke_token.asyncio_detailed(client=client, body=form, **call.headers)
        return revoked.parsed
    response = await request_token.asyncio_detailed(client=client, body=form, **call.headers)
    return response.parsed


def _members(parsed: TokenResponse | ErrorBody | None) -> dict[str, object] | None:
    """Return the members of a parsed body by their names in JSON, unknown ones included."""
    return None if parsed is None else parsed.to_dict()


if TYPE_CHECKING:
    # The constants of other modules, compared with the contract. Names are looked up in it: one
    # that is removed or renamed is a type error, an optional addition is not. Statuses and
    # enumerations are compared in both directions, because an addition may need new code.

    def _names_of_members(
        token: contract.TokenResponseMembers,
        token_member: TokenMember,
        error: contract.ErrorBodyMembers,
        error_member: ErrorMember,
    ) -> tuple[object, ...]:
        return token[token_member], error[error_member]

    def _names_of_revocation_fields(
        form: contract.RevokeRequestMembers, name: RevocationField
    ) -> object:
        return form[name]

    def _names_of_request_headers(
        token: contract.RequestTokenRequestHeaders, revocation: contract.RevokeTokenRequestHeaders
    ) -> tuple[object, ...]:
        return (
            *(token[CORRELATION_ID], revocation[CORRELATION_ID]),
            *(token[USER_AGENT], revocation[USER_AGENT]),
            *(token[TARGET_ID], revocation[TARGET_ID]),
            *(token[PSU_IP_ADDRESS], revocation[PSU_IP_ADDRESS]),
            *(token[PSU_USER_AGENT], revocation[PSU_USER_AGENT]),
        )

    def _names_of_response_headers(
        token: contract.RequestTokenResponseHeaders, revocation: contract.RevokeTokenResponseHeaders
    ) -> tuple[object, ...]:
        return (
            *(token[CORRELATION_ID], revocation[CORRELATION_ID]),
            *(token[SOURCE], revocation[SOURCE]),
            *(token[LANGUAGE], revocation[LANGUAGE]),
            *(token[CACHE_CONTROL], revocation[CACHE_CONTROL]),
            *(token[PRAGMA], revocation[PRAGMA]),
        )

    def _every_status_is_known(
        token: contract.RequestTokenStatus, revocation: contract.RevokeTokenStatus
    ) -> tuple[DocumentedStatus, DocumentedStatus]:
        return token, revocation

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
