"""A transport around the transport that keeps every byte of a response that arrived."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx

from ._deadline import running
from ._reply import Answer
from .headers import RESPONSE_HEADERS

__all__ = ["AsyncGuard", "Guard"]

MAX_BODY = 1 << 20
"""Bytes of a body that are read at most. A token response is a thousandth of that."""

KEPT_HEADERS = {
    name.lower().encode(): name for name in RESPONSE_HEADERS | {"Content-Type", "Retry-After"}
}


class Guard(httpx.BaseTransport):
    """Reads the whole response itself, so that what arrived is kept when the rest does not.

    Only the headers that are read pass: no cookie is kept, no redirect target is looked at.
    """

    def __init__(
        self, inner: httpx.BaseTransport, total: float, monotonic: Callable[[], float]
    ) -> None:
        self._inner = inner
        self._total = total
        self._monotonic = monotonic

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with running(self._total, self._monotonic):
            response = self._inner.handle_request(request)
            body = _Body()
            try:
                with body.keeping():
                    assert isinstance(response.stream, httpx.SyncByteStream)
                    for chunk in response.stream:
                        if body.add(chunk):
                            break
            finally:
                response.close()
        return body.response(response)

    def close(self) -> None:
        self._inner.close()


class AsyncGuard(httpx.AsyncBaseTransport):
    """Reads the whole response itself, so that what arrived is kept when the rest does not.

    Only the headers that are read pass: no cookie is kept, no redirect target is looked at.
    """

    def __init__(
        self, inner: httpx.AsyncBaseTransport, total: float, monotonic: Callable[[], float]
    ) -> None:
        self._inner = inner
        self._total = total
        self._monotonic = monotonic

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        with running(self._total, self._monotonic):
            response = await self._inner.handle_async_request(request)
            body = _Body()
            try:
                with body.keeping():
                    assert isinstance(response.stream, httpx.AsyncByteStream)
                    async for chunk in response.stream:
                        if body.add(chunk):
                            break
            finally:
                await response.aclose()
        return body.response(response)

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Body:
    """What arrived of a body."""

    def __init__(self) -> None:
        self._bytes = bytearray()
        self._cut: str | None = None

    def add(self, chunk: bytes) -> bool:
        """Keep a chunk, and say whether that is enough."""
        self._bytes += chunk
        if len(self._bytes) > MAX_BODY:
            self._cut = f"it is longer than {MAX_BODY} bytes"
        return self._cut is not None

    @contextmanager
    def keeping(self) -> Iterator[None]:
        try:
            yield
        except httpx.TransportError as exc:
            self._cut = str(exc) or type(exc).__name__

    def response(self, response: httpx.Response) -> httpx.Response:
        """Hand the response on as an `Answer`; httpx itself gets to see no more than the status."""
        headers = _kept(response.headers.raw)
        encoding = response.headers.get("Content-Encoding", "")
        content = _decoded(bytes(self._bytes), encoding) if encoding else bytes(self._bytes)
        answer = Answer(response.status_code, headers, content, self._cut)
        return httpx.Response(response.status_code, extensions={"answer": answer})


def _kept(raw: list[tuple[bytes, bytes]]) -> dict[str, str]:
    kept: dict[str, str] = {}
    for field, value in raw:
        name = KEPT_HEADERS.get(field.lower())
        if name is not None:
            # A server may send any byte in a header; none can fail to decode this way.
            text = value.decode("latin-1")
            kept[name] = f"{kept[name]}, {text}" if name in kept else text
    return kept


def _decoded(content: bytes, encoding: str) -> bytes:
    if encoding.strip().lower() not in {"gzip", "deflate"}:
        return content
    try:
        # Both formats, and never more than fits: a small body can be blown up a thousand times.
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(content, MAX_BODY)
    except zlib.error:
        return content
