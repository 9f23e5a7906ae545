"""Turns received bytes into a response, without I/O.

The HTTP library parses a well-formed response. A response that it refuses is parsed here, because
it may contain the only copy of a token: a head is read as far as it can be, a body in chunks is put
together whatever their sizes say, and compressed content is expanded as far as it goes.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Sequence

from attrs import frozen

from ._reply import RawResponse
from .headers import RESPONSE_HEADERS

__all__ = [
    "MAX_BODY",
    "body_of_refused",
    "is_one_response",
    "is_whole",
    "parse_malformed",
    "response_of",
]

MAX_BODY = 1 << 20
"""Bytes of a body that are read at most; a token response is a thousand times smaller."""
RECORDED_HEADERS = {
    name.lower().encode(): name
    for name in RESPONSE_HEADERS | {"Content-Type", "Date", "Retry-After"}
}
Field = tuple[bytes, bytes]

STATUS_LINE = re.compile(rb"[A-Za-z]+(?:/[\d.]*)?[ \t]+([1-9]\d\d)(?!\d)")
NEXT_RESPONSE = re.compile(rb"HTTP/\d(?:\.\d)?[ \t]+[1-5]\d\d")
HEAD_END = re.compile(rb"\r?\n\r?\n")
BLANK = b" \t\r"
"""What may surround a value (RFC 9110 section 5.6.3), and the end of a line."""
LENGTH = re.compile(rb'\+?"?(\d{1,15})"?')

_CHUNK_SIZE = rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\n]*)?\r?\n"
CHUNK_SIZE = re.compile(rb"[ \t]*" + _CHUNK_SIZE)
CHUNK_BORDER = re.compile(rb"\r?\n(?=" + _CHUNK_SIZE + rb")")
ODD_CHUNK_SIZE = re.compile(rb'[^\n"{}\[\]<>=&;]{0,32}(?:;[^\n]*)?\r?\n')
"""A line in the place of the size of a chunk that is none, but no line of JSON or of a form."""
LINE_END = re.compile(rb"\r?\n")

VALID_HEAD_END = re.compile(rb"\n\r?\n")
VALID_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[^\r\n]*\r\n")
"""Of a response that the HTTP parser has accepted; the patterns above find what it refuses, too."""

MEMBER = re.compile(rb'"[A-Za-z_]{4,}"\s*:|access_token=')
"""A member of JSON or of a form, by which a body that is labelled as compressed is plain text."""
GZIP = b"\x1f\x8b"
DEFLATING = frozenset({"gzip", "x-gzip", "deflate", "x-deflate", "zlib"})
UNSUPPORTED = frozenset({"br", "zstd", "compress", "x-compress"})
"""Content codings that the standard library cannot undo."""
MAX_LAYERS = 5
"""Compressions of a body that are undone at most, one after the other."""
MAX_MEMBERS = 64
"""Compressed streams in a row that are joined at most."""


@frozen
class _Message:
    """A response that was parsed as far as it can be.

    Attributes:
        status: The status; 0 if it cannot be read.
        fields: The header fields.
        body: The body, without its chunk sizes.
        is_short: Whether a part of the body is certainly missing or damaged.
        is_ended: Whether the end of the response was received; False if only the end of the
            connection marks it.
    """

    status: int
    fields: list[Field]
    body: bytes
    is_short: bool = False
    is_ended: bool = False


def response_of(
    status: int,
    headers: Sequence[Field],
    body: bytes,
    incomplete_because: str | None,
    *,
    is_malformed: bool = False,
) -> RawResponse:
    """Return the response with a status, header fields and body, decompressed."""
    selected, codings = _select_headers(headers)
    content, is_damaged = _decoded(body, codings)
    if is_damaged and incomplete_because is None:
        incomplete_because = "its compression is damaged"
    unsupported = next((coding for coding in codings if coding in UNSUPPORTED), None)
    return RawResponse(
        status,
        selected,
        content,
        incomplete_because,
        is_malformed=is_malformed,
        coding=None if _is_text(content) else unsupported,
    )


def parse_malformed(received: bytes) -> RawResponse | None:
    """Return a response whose head the HTTP parser refused, or None without any byte of it.

    Its status is 0 if none can be read, or if the head is incomplete.
    """
    if not received:
        return None
    message = _parse(received)
    incomplete_because = "its framing is malformed" if message.is_short else None
    return response_of(
        message.status, message.fields, message.body, incomplete_because, is_malformed=True
    )


def body_of_refused(received: bytes) -> bytes:
    """Return the body of a response whose framing the HTTP parser refused, still compressed."""
    return _parse(received).body


def is_whole(received: bytes) -> bool:
    """Return whether a response that the HTTP parser refused was received to its end."""
    return _parse(received).is_ended


def is_one_response(received: bytes | bytearray, body: bytes | bytearray, *, chunked: bool) -> bool:
    """Return whether bytes are one complete response, with nothing behind it. False if in doubt.

    Args:
        received: The bytes that were read for a request.
        body: The body that the HTTP parser found in them.
        chunked: Whether the response has a `Transfer-Encoding`.
    """
    end, interim = 0, True
    while interim:
        start, blank = end, VALID_HEAD_END.search(received, end)
        if blank is None:
            return False
        end, interim = blank.end(), received[start + len("HTTP/1.1 ") :][:1] == b"1"
    return _ends_with_last_chunk(received, end) if chunked else received[end:] == body


def _ends_with_last_chunk(received: bytes | bytearray, at: int) -> bool:
    while (line := VALID_CHUNK_SIZE.match(received, at)) is not None:
        size = int(line[1], 16)
        if not size:
            # Trailer fields are never needed: with them it stays in doubt.
            return received[line.end() :] == b"\r\n"
        at = line.end() + size + len(b"\r\n")
    return False


def _parse(received: bytes) -> _Message:
    """Parse a response, after any interim ones."""
    rest = received
    while True:
        rest = rest.lstrip(b"\r\n")
        start = STATUS_LINE.match(rest)
        end = HEAD_END.search(rest)
        # A server may end its lines with a carriage return only.
        head, blank, body = rest.partition(end[0] if end else b"\r\r")
        if start is None or not blank:
            return _Message(0, [], received)
        status = int(start[1])
        if status >= 200:
            fields = _fields(head)
            return _framed(status, fields, body)
        rest = body


def _fields(head: bytes) -> list[Field]:
    fields: list[Field] = []
    # A carriage return within a line must not begin another header field.
    for line in head.split(b"\n" if b"\n" in head else b"\r")[1:]:
        if line[:1] in {b" ", b"\t"} and fields:
            name, value = fields[-1]
            fields[-1] = (name, value + b" " + line.strip(BLANK))
        else:
            name, _, value = line.partition(b":")
            fields.append((name.strip(BLANK), value.strip(BLANK)))
    return fields


def _framed(status: int, fields: list[Field], body: bytes) -> _Message:
    """Cut a body where the response ends: what follows belongs to another request."""
    if any(b"chunked" in coding.lower() for coding in _values(fields, b"transfer-encoding")):
        content, is_damaged, is_ended = _joined_chunks(body)
        if not is_ended:
            content = _before_next_response(content)
        return _Message(status, fields, content, is_damaged or not is_ended, is_ended)
    parts = b",".join(_values(fields, b"content-length")).split(b",")
    lengths = {int(match[1]) for part in parts if (match := LENGTH.fullmatch(part.strip()))}
    if len(lengths) == 1:
        (length,) = lengths
        return _Message(status, fields, body[:length], len(body) < length, len(body) >= length)
    is_ended = bool(lengths) and len(body) >= max(lengths)
    return _Message(status, fields, _before_next_response(body), is_ended=is_ended)


def _values(fields: Iterable[Field], name: bytes) -> list[bytes]:
    return [value for field_name, value in fields if field_name.lower() == name]


def _before_next_response(body: bytes) -> bytes:
    following = NEXT_RESPONSE.search(body)
    return body[: following.start()] if following else body


def _joined_chunks(body: bytes) -> tuple[bytes, bool, bool]:
    """Return the content of chunks, whether it is damaged, and whether the last one was received.

    A chunk whose size is wrong or unreadable ends where the next size stands alone on a line.
    """
    content, is_damaged, position = bytearray(), False, 0
    while position < len(body):
        size = CHUNK_SIZE.match(body, position)
        length = int(size[1], 16) if size else -1
        if length == 0:
            return bytes(content), is_damaged, True
        line = size or ODD_CHUNK_SIZE.match(body, position)
        start = line.end() if line else position
        end = start + length
        if size is None or (end != len(body) and not LINE_END.match(body, end)):
            is_damaged = True
            border = CHUNK_BORDER.search(body, start)
            end = border.start() if border else len(body)
        content += body[start:end]
        line_end = LINE_END.match(body, end)
        position = line_end.end() if line_end else end
    return bytes(content), is_damaged, False


def _select_headers(headers: Iterable[Field]) -> tuple[dict[str, str], list[str]]:
    """Return the recorded headers by their names, and the codings of the content."""
    selected: dict[str, str] = {}
    codings: list[str] = []
    for field_name, value in headers:
        # A server may send any byte in a header, and Latin-1 decodes each.
        lower, text = field_name.lower(), value.decode("latin-1")
        if lower in {b"content-encoding", b"transfer-encoding"}:
            codings += [coding.strip().lower() for coding in text.split(",")]
        elif lower in RECORDED_HEADERS:
            name = RECORDED_HEADERS[lower]
            selected[name] = f"{selected[name]}, {text}" if name in selected else text
    return selected, codings


def _decoded(content: bytes, codings: Iterable[str]) -> tuple[bytes, bool]:
    """Undo all compressions of a body; return the content, and whether a compression is damaged.

    What the body begins with counts more than what the headers say: servers leave out a coding,
    name it in other words, name one that they did not apply, or apply it twice.
    """
    may_be_raw = not DEFLATING.isdisjoint(codings)
    is_damaged = False
    for _ in range(MAX_LAYERS):
        expanded = _expanded(content, may_be_raw=may_be_raw)
        if expanded is None:
            break
        content, is_layer_damaged = expanded
        is_damaged = is_damaged or is_layer_damaged
    return content, is_damaged


def _expanded(content: bytes, *, may_be_raw: bool) -> tuple[bytes, bool] | None:
    """Undo one compression; return None if there is none that can be undone."""
    if _is_text(content):
        return None
    is_plain = MEMBER.search(content.replace(b"\0", b"")) is not None
    # `| 32` detects the headers of gzip and zlib.
    attempts = [(zlib.MAX_WBITS | 32, content)] if _has_header(content) else []
    if may_be_raw and not is_plain:
        # Without a header, and behind a damaged one of zlib or gzip.
        attempts += [(-zlib.MAX_WBITS, content[skip:]) for skip in (0, 2, 10)]
    for wbits, compressed in attempts:
        expanded, is_damaged = _inflated(compressed, wbits)
        # Any bytes may begin like a stream without a header.
        if expanded and (wbits > 0 or _is_text(expanded)) and not (is_damaged and is_plain):
            return expanded, is_damaged
    return None


def _is_text(content: bytes) -> bool:
    # Without its mark and zero bytes, a text in UTF-16 or UTF-32 is one in Latin-1.
    start = (
        content[:32].lstrip(b"\0\xef\xbb\xbf\xfe\xff").replace(b"\0", b"")[:16].decode("latin-1")
    )
    return bool(start) and start.isascii() and all(c.isprintable() or c.isspace() for c in start)


def _has_header(content: bytes) -> bool:
    # Source: RFC 1952 section 2.3.1, RFC 1950 section 2.2.
    is_zlib = (
        content[:1] != b"" and content[0] & 0x8F == 8 and int.from_bytes(content[:2]) % 31 == 0
    )
    return content.startswith(GZIP) or is_zlib


def _inflated(content: bytes, wbits: int) -> tuple[bytes, bool]:
    """Return what compressed streams expand to, as far as that goes, and whether it is damaged.

    A limit is needed: a small body can expand a thousand times.
    """
    output = bytearray()
    for _ in range(MAX_MEMBERS):
        expanded, content, is_ended = _inflated_stream(content, wbits, MAX_BODY - len(output))
        output += expanded
        if len(output) >= MAX_BODY:
            return bytes(output), False
        if not is_ended or not _has_header(content):
            return bytes(output), not is_ended or content.strip(b"\0") != b""
    return bytes(output), True


def _inflated_stream(content: bytes, wbits: int, limit: int) -> tuple[bytes, bytes, bool]:
    """Return what a stream expands to, the bytes after it, and whether it is complete."""
    inflater, output, position = zlib.decompressobj(wbits), bytearray(), 0
    # If a piece has a damaged byte, all bytes before that one are expanded singly.
    for size in (1024, 1):
        before = inflater
        try:
            while position < len(content) and len(output) < limit and not inflater.eof:
                before = inflater.copy()
                piece = content[position : position + size]
                output += inflater.decompress(piece, limit - len(output))
                position += size
        except zlib.error:
            inflater = before
    return bytes(output), inflater.unused_data + content[position:], inflater.eof
