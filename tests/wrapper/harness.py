"""What tests without a network share: fake values, and a platform that plays prepared replies.

`Platform` remembers the requests, so that a test can look at what was sent.
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
from flavours import Caller, Flavour, calling

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
BASE_URL = "https://blink.invalid/api/consent-flow/v2"
SETTINGS = Settings(base_url=BASE_URL, client_id="CIDX0000000002", user_agent="acme-books/3.2")
GRANT = Grant(target_id="IIDX99999", username="u-4711")
PSU = Psu(ip="203.0.113.7", user_agent="Mozilla/5.0 (X11; Linux x86_64)")
REDIRECT_URI = "https://books.example/callback?bank=1"

# Each holds characters that a form, a URL or a JSON text writes in another way.
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
def connected(flavour: Flavour, app: App | None, settings: Settings = SETTINGS) -> Iterator[Caller]:
    """Open a client of one flavour for which time stands still.

    The correlation ids of its calls are corr-1, corr-2 and so on.

    Args:
        flavour: `sync` or `async`.
        app: The other side; None for real sockets.
        settings: Its settings.
    """
    numbers = itertools.count(1)
    with calling(
        flavour,
        settings,
        clock=lambda: NOW,
        new_correlation_id=lambda: f"corr-{next(numbers)}",
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
    """Revoke a token that has no refresh token: a single call."""
    return blink.revoke(GRANT, Token(access_token=ACCESS_TOKEN))


def revoke_pair(blink: Caller) -> dict[TokenKind, ResponseMeta]:
    """Revoke both halves of a token."""
    return blink.revoke(GRANT, Token(access_token=ACCESS_TOKEN, refresh_token=REFRESH_TOKEN))


class Chunks(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that arrives in pieces, and may break off with an exception."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = pieces
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            self.taken += 1
            yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


Headers = dict[str, str] | list[tuple[bytes, bytes]]


def reply(
    status: int = 200,
    body: object = TOKEN_BODY,
    headers: Headers = TOKEN_HEADERS,
    *,
    cut: Exception | None = None,
) -> httpx.Response:
    """Make a response as it comes off the wire: nothing in it is decoded yet.

    Args:
        status: The HTTP status.
        body: Bytes as they are; anything else is written as JSON.
        headers: All headers.
        cut: What the connection raises after the body, if it breaks.
    """
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    stream = Chunks(content) if cut is None else Chunks(content, cut)
    return httpx.Response(status, headers=headers, stream=stream)


class Platform:
    """Gives prepared replies in turn, the last one for ever, and remembers the requests."""

    def __init__(self, *replies: httpx.Response | Exception) -> None:
        self._replies = replies or (reply(),)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        prepared = self._replies[min(len(self.requests), len(self._replies) - 1)]
        self.requests.append(request)
        if isinstance(prepared, Exception):
            raise prepared
        return prepared

    @property
    def forms(self) -> list[dict[str, str]]:
        """The form fields of each request, none of them twice."""
        return [form(request) for request in self.requests]


def form(request: httpx.Request) -> dict[str, str]:
    """Read the form of a request."""
    pairs = parse_qsl(request.content.decode("ascii"), keep_blank_values=True, strict_parsing=True)
    fields = dict(pairs)
    assert len(fields) == len(pairs)
    return fields
