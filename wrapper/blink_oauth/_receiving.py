"""Responses, read so that every byte that arrived is kept when the rest does not.

Only the headers that are read are kept: no cookie, no redirect target.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from ._reply import Answer
from .headers import RESPONSE_HEADERS

__all__ = ["areceive", "receive"]

MAX_BODY = 1 << 20
"""Bytes of a body that are read at most. A token response is a thousandth of that."""

KEPT_HEADERS = {
    name.lower().encode(): name for name in RESPONSE_HEADERS | {"Content-Type", "Retry-After"}
}


def receive(response: httpx.Response) -> Answer:
    """Read a response from its transport, as far as it comes."""
    body = _Body()
    try:
        with body.keeping():
            assert isinstance(response.stream, httpx.SyncByteStream)
            for chunk in response.stream:
                if body.add(chunk):
                    break
    finally:
        response.close()
    return body.answer(response)


async def areceive(response: httpx.Response) -> Answer:
    """Read a response from its transport, as far as it comes."""
    body = _Body()
    try:
        with body.keeping():
            assert isinstance(response.stream, httpx.AsyncByteStream)
            async for chunk in response.stream:
                if body.add(chunk):
                    break
    finally:
        await response.aclose()
    return body.answer(response)


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

    def answer(self, response: httpx.Response) -> Answer:
        headers = _kept(response.headers.raw)
        encoding = response.headers.get("Content-Encoding", "")
        content = _decoded(bytes(self._bytes), encoding) if encoding else bytes(self._bytes)
        return Answer(response.status_code, headers, content, self._cut)


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
