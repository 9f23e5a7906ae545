"""The bearer token and the platform's headers, on each request of httpx or as a mapping."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Generator
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import httpx
from attrs import frozen

from blink_oauth.arguments import GRANT, PSU, require_type
from blink_oauth.context import Grant, Psu, request_headers
from blink_oauth.errors import REFUSED_CREDENTIAL, BlinkError, InvalidInputError, problem_code
from blink_oauth.headers import CORRELATION_ID, REQUEST_HEADERS, is_visible_ascii
from blink_oauth.settings import is_loopback
from blink_oauth.tokens import Secret, Token

from .errors import NoTokenError

if TYPE_CHECKING:
    from blink_oauth import BlinkOAuth

__all__ = ["GrantAuth", "HeaderWriter", "TokenSource", "headers_with", "require_addressed"]

AUTHORIZATION = "Authorization"
OUR_HEADERS = frozenset(name.lower().encode() for name in {AUTHORIZATION, *REQUEST_HEADERS})


class TokenSource(Protocol):
    """The part of a `TokenManager` that `GrantAuth` needs."""

    def get(self, grant: Grant, *, psu: Psu) -> Token:
        """Return a token that can be used now."""

    async def aget(self, grant: Grant, *, psu: Psu) -> Token:
        """Return a token that can be used now."""

    def invalidate(self, grant: Grant, token: Token, *, refresh: bool = True) -> bool:
        """Record that a token was refused; return whether a newer one may help."""


@frozen(eq=False, repr=False, init=False)
class HeaderWriter:
    """Puts a bearer token and the platform's five headers on requests.

    Args:
        grant: The grant that the requests concern.
        psu: The customer's device, or `Psu.AUTO`.
        user_agent: Name and version of the service user's software.
        new_correlation_id: Returns a new id for each request that is sent.

    Source: RFC 6750 section 2.1; bLink custom headers.
    """

    _new_correlation_id: Callable[[], str]
    _constant: tuple[tuple[bytes, bytes], ...]

    def __init__(
        self, grant: Grant, psu: Psu, *, user_agent: str, new_correlation_id: Callable[[], str]
    ) -> None:
        constant = request_headers(grant, psu, user_agent=user_agent, correlation_id="")
        del constant[CORRELATION_ID]
        self.__attrs_init__(
            new_correlation_id,
            tuple((name.encode(), value.encode()) for name, value in constant.items()),
        )

    def write(self, request: httpx.Request, access_token: Secret) -> None:
        """Set the headers on a request, in place of any of the same name."""
        before = request.headers
        # In one pass: setting a single header searches all the others.
        request.headers = httpx.Headers(
            [
                *(item for item in before.raw if item[0].lower() not in OUR_HEADERS),
                *self._constant,
                (CORRELATION_ID.encode(), self._new_correlation_id().encode()),
                (AUTHORIZATION.encode(), bearer(access_token).encode()),
            ],
            encoding=before.encoding,
        )


def bearer(access_token: Secret) -> str:
    """Return the value of the header that carries a token.

    Raises:
        NoTokenError: No header can carry it.
    """
    if not is_visible_ascii(access_token.reveal()):
        # The HTTP library would repeat the token in its own error.
        raise NoTokenError(
            "The bank issued an access token that no header can carry: it must be visible ASCII "
            "(RFC 6750 section 2.1). Nothing was sent. Invalidate it and refresh the grant."
        )
    return "Bearer " + access_token.reveal()


class HiddenText(str):
    """A text that its `repr` hides, and with it the `repr` of every mapping that contains it.

    It cannot be pickled. HTTP libraries use it like any other text.
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"

    def __copy__(self) -> HiddenText:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> HiddenText:
        return self

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("A header with a token is never pickled.")


def headers_with(
    access_token: Secret, grant: Grant, psu: Psu, *, user_agent: str, correlation_id: str
) -> dict[str, str]:
    """Return the headers of one request: the bearer token, which no `repr` shows, and the five.

    Args:
        access_token: The access token of the grant.
        grant: The grant that the request concerns.
        psu: The customer's device, or `Psu.AUTO`.
        user_agent: Name and version of the service user's software.
        correlation_id: A new id for this request.

    Raises:
        NoTokenError: No header can carry the token.

    Source: RFC 6750 section 2.1; bLink custom headers.
    """
    five = request_headers(grant, psu, user_agent=user_agent, correlation_id=correlation_id)
    return {AUTHORIZATION: HiddenText(bearer(access_token)), **five}


def require_addressed(grant: object, psu: object) -> None:
    """Require a grant and a device.

    Args:
        grant: The grant.
        psu: The device.

    Raises:
        InvalidInputError: The grant is not a `Grant`, or the psu is not a `Psu`.
    """
    require_type("grant", grant, Grant, GRANT)
    require_type("psu", psu, Psu, PSU)


UNAUTHORIZED, FORBIDDEN = 401, 403
REFUSALS = (UNAUTHORIZED, FORBIDDEN)
REFUSED_NOTE = (
    "The bank's API refused the last request with 401, so it was not executed (RFC 9110 section "
    "15.5.2). This error comes from the attempt to get a newer token for it."
)
PARAMETER = re.compile(r'([\w!#$%&\'*+.^`|~-]+)\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,"]+)')
"""One parameter of a challenge (RFC 9110 section 11.2); a quoted string is matched whole."""


class GrantAuth(httpx.Auth):
    """Put the bearer token of a grant and the platform's five headers on each request of httpx.

    `TokenManager.auth` makes it. The same object serves `httpx.Client` and, under asyncio,
    `httpx.AsyncClient`, from any thread. It holds no resource while a request is in progress.

    No request is sent without a token: if there is none, the error of `TokenManager.get` is raised.
    The six headers replace those of the same name on the request. The correlation id of the request
    that was sent last is in `response.request.headers`.

    On a 401 that may concern the token, the token is invalidated. If memory or the store has a
    newer one, also one that another process is just getting, or if the token is at least a minute
    old and can be refreshed, the refused request is sent once more with the newer token and a new
    correlation id. A 401 is returned as it is if

    * it gives another reason, in `WWW-Authenticate` or as a problem,
    * the refused request did not carry our token: after a redirect to another origin,
    * the token is less than a minute old, and the store has no newer one,
    * the refused request has a streamed body, which cannot be sent again,
    * it is the second one.

    A 403 is treated likewise, because a bank may send it for a replaced token (inferred). It never
    causes a refresh, and causes the store to be read for a grant at most once in five seconds.

    If the refresh after a 401 fails, its error is raised, with a note that the request was refused.
    After a refusal with a problem the body of a streamed response has been read: all methods but
    `iter_raw` still work.

    httpx follows redirects only if told to. On a redirect to another origin it removes the
    `Authorization` header, but not the five others, which contain the customer's IP address.

    Args:
        manager: The source of the tokens.
        blink: The client, for its correlation ids and user agent.
        grant: The grant.
        psu: The customer's device, or `Psu.AUTO`.

    Raises:
        InvalidInputError: The grant is not a `Grant`, or the psu is not a `Psu`.

    Source: RFC 6750 sections 2.1, 3.1 and 5.3; bLink custom headers and error codes.
    """

    def __init__(self, manager: TokenSource, blink: BlinkOAuth, grant: Grant, psu: Psu) -> None:
        require_addressed(grant, psu)
        self._manager, self._grant, self._psu = manager, grant, psu
        self._writer = HeaderWriter(
            grant,
            psu,
            user_agent=blink.settings.user_agent,
            new_correlation_id=blink.correlation_id,
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._grant!r})"

    def sync_auth_flow(
        self, request: httpx.Request
    ) -> Generator[httpx.Request, httpx.Response, None]:
        """Send a request with a token, and once more if the token is refused."""
        _require_confidential(request.url)
        token = self._manager.get(self._grant, psu=self._psu)
        self._writer.write(request, token.access_token)
        response = yield request
        if response.status_code not in REFUSALS:
            return
        if _is_problem(response):
            response.read()
        try:
            again = self._request_again(response, token)
            if again is None:
                return
            newer = self._manager.get(self._grant, psu=self._psu)
        except BlinkError as error:
            if response.status_code == FORBIDDEN:
                return
            error.add_note(REFUSED_NOTE)
            raise
        if newer.access_token != token.access_token:
            self._writer.write(again, newer.access_token)
            yield again

    async def async_auth_flow(
        self, request: httpx.Request
    ) -> AsyncGenerator[httpx.Request, httpx.Response]:
        """Send a request with a token, and once more if the token is refused."""
        _require_confidential(request.url)
        token = await self._manager.aget(self._grant, psu=self._psu)
        self._writer.write(request, token.access_token)
        response = yield request
        if response.status_code not in REFUSALS:
            return
        if _is_problem(response):
            await response.aread()
        try:
            again = self._request_again(response, token)
            if again is None:
                return
            newer = await self._manager.aget(self._grant, psu=self._psu)
        except BlinkError as error:
            if response.status_code == FORBIDDEN:
                return
            error.add_note(REFUSED_NOTE)
            raise
        if newer.access_token != token.access_token:
            self._writer.write(again, newer.access_token)
            yield again

    def _request_again(self, response: httpx.Response, token: Token) -> httpx.Request | None:
        """Return the request to send again with a newer token, or None to return the response."""
        # After a redirect this is the last request: an earlier one may have been executed.
        refused = response.request
        if not _carries_token(refused, token) or not _may_concern_the_token(response):
            return None
        forbidden = response.status_code == FORBIDDEN
        worth_it = self._manager.invalidate(self._grant, token, refresh=not forbidden)
        if forbidden and not worth_it:
            return None
        if not isinstance(refused.stream, httpx.ByteStream):
            return None
        # A new request, so that the refused one keeps its correlation id.
        again = httpx.Request(
            refused.method,
            refused.url,
            headers=refused.headers,
            stream=refused.stream,
            extensions=refused.extensions,
        )
        again.read()
        return again


def _require_confidential(url: httpx.URL) -> None:
    if url.scheme != "https" and not (url.scheme == "http" and is_loopback(url.host)):
        raise InvalidInputError(
            "A token is sent only to https://, or to http:// on this machine (RFC 6750 section "
            "5.3). Nothing was sent."
        )


def _carries_token(request: httpx.Request, token: Token) -> bool:
    return bool(request.headers.get(AUTHORIZATION) == bearer(token.access_token))


def _is_problem(response: httpx.Response) -> bool:
    media_type = response.headers.get("Content-Type", "").partition(";")[0]
    return bool(media_type.strip().lower() == "application/problem+json")


def _may_concern_the_token(response: httpx.Response) -> bool:
    """Return whether a refusal may concern the token: True unless it gives another reason."""
    challenge = response.headers.get("WWW-Authenticate", "")
    parameters = [(name.lower(), text.strip('"')) for name, text in PARAMETER.findall(challenge)]
    errors = {text.lower() for name, text in parameters if name == "error"}
    if errors:
        return "invalid_token" in errors
    return not _is_problem(response) or _problem_code(response) in {"", *REFUSED_CREDENTIAL}


def _problem_code(response: httpx.Response) -> str:
    """Return the last segment of the problem's type in upper case, or an empty string."""
    try:
        problem = response.json()
    except (ValueError, RecursionError):
        return ""
    kind = problem.get("type") if isinstance(problem, dict) else None
    # `about:blank` says no more than the status does (RFC 9457 section 4.2.1).
    if not isinstance(kind, str) or kind.lower() == "about:blank":
        return ""
    return problem_code(kind)
