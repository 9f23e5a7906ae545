"""A bank's API for the tests of `GrantAuth`: prepared responses, and a record of the requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
from attrs import define, field, frozen

from blink_oauth_keeper.auth import GrantAuth
from flavours import Flavour

__all__ = [
    "URL",
    "ApiRequest",
    "BankApi",
    "PreparedResponse",
    "redirect",
    "request",
    "unauthorized",
    "unread",
]

URL = "https://bank.invalid/accounts"
CHUNKS = (b"fake ", b"payment")

PreparedResponse = httpx.Response | Callable[[httpx.Request], httpx.Response]


@frozen
class ApiRequest:
    """A request as the bank's API received it."""

    method: str
    url: str
    headers: httpx.Headers
    body: bytes

    @property
    def bearer(self) -> str:
        """The bearer token, or an empty string."""
        return str(self.headers.get("Authorization", "")).removeprefix("Bearer ")

    @property
    def correlation_id(self) -> str:
        """The correlation id."""
        return str(self.headers["X-Correlation-ID"])


def unauthorized(
    challenge: str | None = None, problem: str | None = None, **body: Any
) -> httpx.Response:
    """Make a 401.

    Args:
        challenge: The `WWW-Authenticate` header, if any.
        problem: The type of an RFC 9457 problem in the body, if any.
        **body: The body of a response without a problem, as `httpx.Response` takes it.
    """
    headers = {} if challenge is None else {"WWW-Authenticate": challenge}
    if problem is None:
        return httpx.Response(401, headers=headers, **body)
    headers["Content-Type"] = "application/problem+json; charset=utf-8"
    return httpx.Response(401, headers=headers, json={"type": problem, "title": "No."})


def redirect(url: str, status: int = 307) -> httpx.Response:
    """Make a redirect to a URL."""
    return httpx.Response(status, headers={"Location": url})


def unread(response: httpx.Response) -> httpx.Response:
    """Return a response whose body has not been read yet, like one from a socket."""
    content = response.read()

    async def chunks() -> AsyncIterator[bytes]:
        yield content

    class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
        def __iter__(self) -> Iterator[bytes]:
            yield content

        def __aiter__(self) -> AsyncIterator[bytes]:
            return chunks()

    return httpx.Response(response.status_code, headers=response.headers, stream=Body())


@define(eq=False)
class BankApi(httpx.BaseTransport, httpx.AsyncBaseTransport):
    """A bank's API: the prepared responses in turn, then always 200.

    It consumes a streamed request body, as a socket does.
    """

    responses: list[PreparedResponse] = field(factory=list)
    requests: list[ApiRequest] = field(init=False, factory=list)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        return self._respond(request, b"".join(request.stream))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        return self._respond(request, b"".join([chunk async for chunk in request.stream]))

    def _respond(self, request: httpx.Request, body: bytes) -> httpx.Response:
        headers = httpx.Headers(request.headers.raw)
        self.requests.append(ApiRequest(request.method, str(request.url), headers, body))
        default = httpx.Response(200, json={"accounts": []})
        response = self.responses.pop(0) if self.responses else default
        return response(request) if callable(response) else unread(response)


async def async_chunks() -> AsyncIterator[bytes]:
    for chunk in CHUNKS:
        yield chunk


def request(
    flavour: Flavour, auth: GrantAuth, api: BankApi, *, streaming: bool = False, **options: Any
) -> httpx.Response:
    """Send a request with a blocking or an asynchronous client that follows redirects.

    Args:
        flavour: `sync` or `async`.
        auth: The auth that signs the request.
        api: The bank's API.
        streaming: Whether the body of the request is a stream.
        **options: Further arguments of `httpx.Client.request`.
    """
    arguments: dict[str, Any] = {"method": "GET", "url": URL} | options
    if flavour == "sync":
        if streaming:
            arguments["content"] = iter(CHUNKS)
        with httpx.Client(auth=auth, transport=api, follow_redirects=True) as client:
            return client.request(**arguments)

    async def run() -> httpx.Response:
        if streaming:
            arguments["content"] = async_chunks()
        async with httpx.AsyncClient(auth=auth, transport=api, follow_redirects=True) as client:
            return await client.request(**arguments)

    return asyncio.run(run())
