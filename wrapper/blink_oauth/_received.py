"""Turns received bytes into a response, without I/O.

The HTTP library parses a well-formed response. A response that it refuses is parsed here, because
it may contain the only copy of a token.
"""

from __future__ import annotations

import re
import zlib

from ._reply import RawResponse
from .headers import RESPONSE_HEADERS

__all__ = ["MAX_BODY", "is_one_response", "parse_malformed", "response_of"]

MAX_BODY = 1 << 20
"""Bytes of a body that are read at most; a token response is a thousand times smaller."""
RECORDED_HEADERS = {
    name.lower().encode(): name
    for name in RESPONSE_HEADERS | {"Content-Type", "Date", "Retry-After"}
}
STATUS_LINE = re.compile(rb"HTTP/\d\.\d ([1-5]\d\d)")


def response_of(
    status: int,
    headers: list[tuple[bytes, bytes]],
    body: bytes,
    incomplete_because: str | None,
) -> RawResponse:
    """Return the response with a status, header fields and body, decompressed."""
    selected, encoding = _select_headers(headers)
    return RawResponse(status, selected, _decompressed(body, encoding), incomplete_because)


def parse_malformed(received: bytes) -> RawResponse | None:
    """Return a response that the HTTP parser refused, or None if its head is incomplete."""
    head, blank, content = received.partition(b"\r\n\r\n")
    status = STATUS_LINE.match(head)
    if not blank or status is None:
        return None
    lines = [line.partition(b":") for line in head.split(b"\r\n")[1:]]
    fields = [(name.strip(), value.strip()) for name, _, value in lines]
    return response_of(int(status[1]), fields, content, "its head is malformed")


def _select_headers(headers: list[tuple[bytes, bytes]]) -> tuple[dict[str, str], str]:
    """Return the recorded headers by their names, and the content encoding."""
    selected: dict[str, str] = {}
    encoding = ""
    for field_name, value in headers:
        # A server may send any byte in a header, and Latin-1 decodes each.
        lower, text = field_name.lower(), value.decode("latin-1")
        if lower == b"content-encoding":
            encoding = f"{encoding},{text}" if encoding else text
        elif lower in RECORDED_HEADERS:
            name = RECORDED_HEADERS[lower]
            selected[name] = f"{selected[name]}, {text}" if name in selected else text
    return selected, encoding


def _decompressed(content: bytes, encoding: str) -> bytes:
    if encoding.strip().lower() not in {"gzip", "deflate"}:
        return content
    try:
        # `| 32` detects both formats. A limit is needed: a small body can expand a thousand times.
        return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(content, MAX_BODY)
    except zlib.error:
        return content


END_OF_STRICT_HEAD = re.compile(rb"\n\r?\n")
STRICT_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[^\r\n]*\r\n")


def is_one_response(received: bytes | bytearray, body: bytes | bytearray, *, chunked: bool) -> bool:
    """Return whether bytes are one complete response, with nothing behind it. False if in doubt.

    Args:
        received: The bytes that were read for a request.
        body: The body that the HTTP parser found in them.
        chunked: Whether the response has a `Transfer-Encoding`.
    """
    end, interim = 0, True
    while interim:
        start, blank = end, END_OF_STRICT_HEAD.search(received, end)
        if blank is None:
            return False
        end, interim = blank.end(), received[start + len("HTTP/1.1 ") :][:1] == b"1"
    return _ends_with_last_chunk(received, end) if chunked else received[end:] == body


def _ends_with_last_chunk(received: bytes | bytearray, at: int) -> bool:
    while (line := STRICT_CHUNK_SIZE.match(received, at)) is not None:
        size = int(line[1], 16)
        if not size:
            # Trailer fields are never needed: with them it stays in doubt.
            return received[line.end() :] == b"\r\n"
        at = line.end() + size + len(b"\r\n")
    return False
