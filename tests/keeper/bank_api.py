"""The API of a bank for the tests of the auth: it plays prepared answers and remembers requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx
from attrs import define, field, frozen

from blink_oauth_keeper.auth import GrantAuth
from flavours import Flavour

__all__ = ["URL", "Answer", "BankApi", "Seen", "calmly", "redirect", "refuse", "request"]

URL = "https://bank.invalid/accounts"
CHUNKS = (b"fake ", b"payment")

Answer = httpx.Response | Callable[[httpx.Request], httpx.Response]


@frozen
class Seen:
    """A request as it came over the wire."""

    method: str
    url: str
    headers: httpx.Headers
    body: bytes

    @property
    def bearer(self) -> str:
        """The token that it bore, or nothing."""
        return str(self.headers.get("Authorization", "")).removeprefix("Bearer ")

    @property
    def correlation_id(self) -> str:
        """The id of the attempt."""
        return str(self.headers["X-Correlation-ID"])


def refuse(challenge: str | None = None, problem: str | None = None, **body: Any) -> httpx.Response:
    """Make a 401.

    Args:
        challenge: The `WWW-Authenticate`, or none.
        problem: The type of a problem in the body, or none.
        **body: The content of another body.
    """
    headers = {} if challenge is None else {"WWW-Authenticate": challenge}
    if problem is None:
        return httpx.Response(401, headers=headers, **body)
    headers["Content-Type"] = "application/problem+json; charset=utf-8"
    return httpx.Response(401, headers=headers, json={"type": problem, "title": "No."})


def redirect(url: str, status: int = 307) -> httpx.Response:
    """Make a redirect."""
    return httpx.Response(status, headers={"Location": url})


def calmly(response: httpx.Response) -> httpx.Response:
    """Return a response whose body is still on its way, as it is from a socket."""
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
    """A bank's API: gives the prepared answers in turn, then 200 for good.

    It reads a streamed body as a socket does: afterwards it is gone.
    """

    answers: list[Answer] = field(factory=list)
    seen: list[Seen] = field(init=False, factory=list)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.SyncByteStream)
        return self._answer(request, b"".join(request.stream))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        assert isinstance(request.stream, httpx.AsyncByteStream)
        return self._answer(request, b"".join([chunk async for chunk in request.stream]))

    def _answer(self, request: httpx.Request, body: bytes) -> httpx.Response:
        headers = httpx.Headers(request.headers.raw)
        self.seen.append(Seen(request.method, str(request.url), headers, body))
        answer = self.answers.pop(0) if self.answers else httpx.Response(200, json={"accounts": []})
        return answer(request) if callable(answer) else calmly(answer)


async def async_chunks() -> AsyncIterator[bytes]:
    for chunk in CHUNKS:
        yield chunk


def request(
    flavour: Flavour, auth: GrantAuth, api: BankApi, *, streaming: bool = False, **options: Any
) -> httpx.Response:
    """Make one request with a client of a flavour, following redirects.

    Args:
        flavour: `sync` or `async`.
        auth: What signs it.
        api: Who answers.
        streaming: Whether its body is a stream.
        **options: What `httpx.Client.request` takes.
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
