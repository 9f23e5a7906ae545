"""Fake values, calls and a fake platform for the tests without a network.

`Platform` returns prepared responses and records the requests.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from urllib.parse import parse_qsl

import httpx

from blink_oauth import Grant, Psu, ResponseMeta, Settings, Token, TokenKind
from blink_oauth.headers import CORRELATION_ID
from flavours import Caller, Flavour, calling

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
BASE_URL = "https://blink.invalid/api/consent-flow/v2"
SETTINGS = Settings(base_url=BASE_URL, client_id="CIDX0000000002", user_agent="acme-books/3.2")
GRANT = Grant(target_id="IIDX99999", username="u-4711")
PSU = Psu(ip="203.0.113.7", user_agent="Mozilla/5.0 (X11; Linux x86_64)")
REDIRECT_URI = "https://books.example/callback?bank=1"

# Each contains characters that are escaped in a form, a URL or a JSON text.
CODE = "fake-code/sent+%2B="
REFRESH_TOKEN_SENT = "fake-refresh-token/sent+%2B="
ACCESS_TOKEN = "fake-access-token/received+%2B="
REFRESH_TOKEN = "fake-refresh-token/received+%2B="
SECRETS = (CODE, REFRESH_TOKEN_SENT, ACCESS_TOKEN, REFRESH_TOKEN)

FIRST_ID = "corr-1"
TOKEN_HEADERS = {
    "Content-Type": "application/json;charset=utf-8",
    "X-Correlation-ID": FIRST_ID,
    "X-CorAPI-Source": "PROVIDER",
    "Cache-Control": "no-store",
    "Pragma": "no-cache",
}
TOKEN_BODY: dict[str, object] = {
    "access_token": ACCESS_TOKEN,
    "token_type": "bearer",
    "expires_in": 3600,
    "refresh_token": REFRESH_TOKEN,
    "scope": "accounts payments",
}


App = Callable[[httpx.Request], httpx.Response]
Connect = Callable[[App], Caller]
Call = Callable[[Caller], object]


@contextmanager
def connected(
    flavour: Flavour,
    app: App | None,
    settings: Settings = SETTINGS,
    *,
    new_correlation_id: Callable[[], str] | None = None,
) -> Iterator[Caller]:
    """Open a client of one flavour whose clock always returns `NOW`.

    The correlation ids of its calls are corr-1, corr-2 and so on.

    Args:
        flavour: `sync` or `async`.
        app: The server; None for real sockets.
        settings: The settings.
        new_correlation_id: Returns other correlation ids.
    """
    numbers = itertools.count(1)
    with calling(
        flavour,
        settings,
        clock=lambda: NOW,
        new_correlation_id=new_correlation_id or (lambda: f"corr-{next(numbers)}"),
        transport=None if app is None else httpx.MockTransport(app),
    ) as blink:
        yield blink


def exchange(blink: Caller) -> Token:
    """Exchange the fake code."""
    return blink.exchange_code(GRANT, code=CODE, redirect_uri=REDIRECT_URI, psu=PSU)


def refresh(blink: Caller) -> Token:
    """Present the fake refresh token."""
    return blink.refresh(GRANT, REFRESH_TOKEN_SENT)


def revoke_access(blink: Caller) -> dict[TokenKind, ResponseMeta]:
    """Revoke a token without a refresh token, which takes one request."""
    return blink.revoke(GRANT, Token(access_token=ACCESS_TOKEN))


def revoke_pair(blink: Caller) -> dict[TokenKind, ResponseMeta]:
    """Revoke a pair."""
    return blink.revoke(GRANT, Token(access_token=ACCESS_TOKEN, refresh_token=REFRESH_TOKEN))


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body in chunks; an exception among them is raised in place of the next chunk.

    Attributes:
        read_count: The number of chunks that were read.
    """

    def __init__(self, *chunks: bytes | Exception) -> None:
        self._chunks = chunks
        self.read_count = 0

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._chunks:
            if isinstance(chunk, Exception):
                raise chunk
            self.read_count += 1
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self:
            yield chunk


Headers = dict[str, str] | list[tuple[bytes, bytes]]


def reply(
    status: int = 200,
    body: object = TOKEN_BODY,
    headers: Headers = TOKEN_HEADERS,
    *,
    cut: Exception | None = None,
) -> httpx.Response:
    """Return a raw response: its body is a stream that is not decoded yet.

    Args:
        status: The HTTP status.
        body: Bytes, or a value that is encoded as JSON.
        headers: All headers.
        cut: The exception of the connection after the body, or None.
    """
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    stream = Chunks(content) if cut is None else Chunks(content, cut)
    return httpx.Response(status, headers=headers, stream=stream)


class Platform:
    """Returns or raises prepared results in order, then repeats the last one. Records requests.

    A response with `FIRST_ID` gets the correlation id of its request.
    """

    def __init__(self, *results: httpx.Response | Exception) -> None:
        self._results = results or (reply(),)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        prepared = self._results[min(len(self.requests), len(self._results) - 1)]
        self.requests.append(request)
        if isinstance(prepared, Exception):
            raise prepared
        headers = prepared.headers.copy()
        if headers.get(CORRELATION_ID) == FIRST_ID and CORRELATION_ID in request.headers:
            headers[CORRELATION_ID] = request.headers[CORRELATION_ID]
        return httpx.Response(prepared.status_code, headers=headers, stream=prepared.stream)

    @property
    def forms(self) -> list[dict[str, str]]:
        """The form fields of each request."""
        return [form(request) for request in self.requests]


def form(request: httpx.Request) -> dict[str, str]:
    """Return the form fields of a request, each of which occurs only once."""
    pairs = parse_qsl(request.content.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    fields = dict(pairs)
    assert len(fields) == len(pairs)
    return fields
