"""Draws the bytes of responses that no HTTP library writes, and connections that send them.

A seeded generator instead of Hypothesis: thousands of responses take seconds. An index draws the
same response again.
"""

from __future__ import annotations

import gzip
import json
import random
import zlib
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import httpcore
import pytest
from attrs import Factory, define, field, frozen

from wrapper.harness import ACCESS_TOKEN, FIRST_ID, REFRESH_TOKEN, TOKEN_BODY

CANARY = "fake-canary/in+%2Bpeer-bytes="
"""A secret in each place of a response that an error might quote."""
FOREIGN = {"access_token": f"{CANARY}-access", "refresh_token": f"{CANARY}-refresh"}
NOISE = CANARY.encode()


def zipped(content: bytes) -> bytes:
    """Return content in gzip, always the same."""
    return gzip.compress(content, 1, mtime=0)


def raw_deflate(content: bytes) -> bytes:
    """Return deflated content without the header of zlib."""
    compressor = zlib.compressobj(wbits=-15)
    return compressor.compress(content) + compressor.flush()


def wrong_checksum(content: bytes) -> bytes:
    """Return content in gzip with a wrong checksum."""
    return zipped(content)[:-8] + bytes(4) + zipped(content)[-4:]


START_LINES = [
    *[b"HTTP/1.1 %d OK"] * 8,
    *[b"HTTP/1.1 %d " + NOISE, b"HTTP/1.0 %d", b"HTTP/1.1 %d"],
    *[b"HTTP/2 %d", b"ICY %d OK", b"http/1.1 %d OK", b"HTTP/1.1  %d OK", b"\r\nHTTP/1.1 %d OK"],
    *[b"HTTP/1.1 103 Hints\r\nLink\r\n\r\nHTTP/1.1 %d OK", b"HTTP/1.1 %d \x00" + NOISE],
]
UNREADABLE_START_LINES = [
    b"HTTP/1.1 " + NOISE,
    NOISE + b" %d",
    b'{"access_token":"' + NOISE + b'"} %d',
    b"HTTP/1.1 2OO " + NOISE,
    b"SSH-2.0-" + NOISE,
]
ODD_LINES = [
    NOISE,
    b"X Note: " + NOISE,
    b"X-Note : " + NOISE,
    b": " + NOISE,
    b"X-Note: \x00" + NOISE,
    b"X-\xfcber: " + NOISE,
    b" folded: " + NOISE,
    b"\tfolded",
    b"X-Note: a\rContent-Length: 3",
    b"Retry-After: " + NOISE,
    b"Content-Language: " + NOISE,
    b"X-CorAPI-Source: " + NOISE,
    b"Content-Type: " + NOISE,
    b"Set-Cookie: token=" + NOISE,
    b"X-Long: " + b"7" * 120_000,
]
CODINGS: list[tuple[bytes, Callable[[bytes], bytes]]] = [
    (b"gzip", zipped),
    (b"x-gzip", zipped),
    (b"GZIP", lambda content: zipped(content[:9]) + zipped(content[9:])),
    (b"", zipped),
    (b"identity", zipped),
    (b"deflate", zlib.compress),
    (b"deflate", raw_deflate),
    (b"deflate, gzip", lambda content: zipped(zlib.compress(content))),
    (b"gzip\r\nContent-Encoding: gzip", lambda content: zipped(zipped(content))),
    (b"gzip", lambda content: content),
    (b"br", lambda content: content),
    (NOISE, lambda content: content),
    (b"gzip", wrong_checksum),
    (b"gzip", lambda content: zipped(content)[:-8]),
    (b"gzip", lambda content: zipped(content) + NOISE),
    (b"gzip", lambda content: zipped(content)[:-4] + b"long"),
    (b"deflate", lambda content: zlib.compress(content)[:-4] + b"sums"),
]
ODD_SIZES = [b"odd", b"", b"-1", b"0x2c", NOISE.partition(b"=")[0], b"fff", b"3", b"f" * 18]
LENGTHS = [b"+%d", b'"%d"', b"%d, %d", b"%d\r\nContent-Length: 7", b"", b"-7", NOISE]


@frozen
class RawResponse:
    """One response.

    Attributes:
        raw: Its bytes.
        family: How it departs from a correct response.
        status: Its status; 0 if it has no readable one.
        is_whole: Whether it contains the complete pair, so that it has to be recovered.
    """

    raw: bytes = field(repr=False)
    family: str
    status: int
    is_whole: bool

    def parts(self) -> list[bytes]:
        """Return the bytes as they arrive: at once, or in parts that may split anything."""
        draw = random.Random(len(self.raw))
        cuts = sorted(draw.sample(range(len(self.raw)), draw.randrange(min(4, len(self.raw)))))
        return [self.raw[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True) if a != b]


def drawn(index: int) -> RawResponse:
    """Draw the response with a number."""
    draw = random.Random(index)
    family = draw.choice(sorted(FAMILIES))
    return FAMILIES[family](draw, family)


def _body(draw: random.Random) -> tuple[bytes, bool]:
    """Draw a body, and whether it contains the pair."""
    pair = TOKEN_BODY | {"expires_in": draw.choice([3600, 0, -1, 86_400_000, "3600", None, 10**12])}
    error = {"error": "invalid_grant", "error_description": f"got {CANARY}"}
    return draw.choice(
        [
            *[(json.dumps(pair, indent=draw.choice([None, 2])).encode(), True)] * 4,
            *[(urlencode(pair).encode(), True)] * 2,
            (json.dumps(error).replace(CANARY, "x").encode(), False),
            (urlencode(error).replace("fake-canary", "x").encode(), False),
            (b"<html>" + NOISE, False),
            (b"", False),
        ]
    )


def _head(draw: random.Random, start: bytes, status: int, *lines: bytes) -> bytes:
    usual = [b"Content-Type: application/json", b"Connection: close"]
    if draw.random() < 0.8:
        usual.append(b"X-Correlation-ID: " + FIRST_ID.encode())
    usual.insert(draw.randrange(3), b"X-CorAPI-Source: " + draw.choice([b"PLATFORM", b"PROVIDER"]))
    first = start.replace(b"%d", b"%d" % status)
    end = draw.choice([b"\r\n"] * 4 + [b"\n"])
    text = b"\r\n".join([first, *usual, *filter(None, lines)]).replace(b"\r\n", end)
    return text + end * 2


def _status(draw: random.Random) -> int:
    return draw.choice([200] * 6 + [201, 400, 401, 403, 429, 500, 502, 503])


def _behind(draw: random.Random) -> bytes:
    """Draw what follows a response on its connection: nothing, or what belongs to another call."""
    foreign = json.dumps(FOREIGN).encode()
    other = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(foreign) + foreign
    return draw.choice([b"", b"", other, other[:-9]])


def _chunks(draw: random.Random, body: bytes, *, odd: bool) -> bytes:
    cuts = sorted(draw.sample(range(1, len(body)), min(draw.randrange(3), len(body) - 1)))
    parts = [body[a:b] for a, b in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    wrong = draw.randrange(len(parts)) if odd else -1
    raw = b""
    for number, part in enumerate(parts):
        size = draw.choice(ODD_SIZES) if number == wrong else b"%x" % len(part)
        raw += size + draw.choice([b"", b"", b";ext=" + NOISE]) + b"\r\n" + part + b"\r\n"
    return raw + b"0\r\n\r\n"


def _malformed_head(draw: random.Random, family: str) -> RawResponse:
    status, (body, is_whole) = _status(draw), _body(draw)
    odd = draw.sample(ODD_LINES, draw.randrange(3))
    length = b"Content-Length: %d" % len(body)
    raw = _head(draw, draw.choice(START_LINES), status, *odd, length) + body + _behind(draw)
    return RawResponse(raw, family, status, is_whole)


def _odd_length(draw: random.Random, family: str) -> RawResponse:
    status, (body, is_whole) = _status(draw), _body(draw)
    text = draw.choice(LENGTHS)
    length = b"Content-Length: " + text.replace(b"%d", b"%d" % len(body))
    behind = _behind(draw) if b"%d" in text else b""
    raw = _head(draw, draw.choice(START_LINES), status, length) + body + behind
    return RawResponse(raw, family, status, is_whole)


def _short_length(draw: random.Random, family: str) -> RawResponse:
    """Draw a response of which a part is left over on its connection."""
    status, (body, _) = _status(draw), _body(draw)
    length = b"Content-Length: %d" % draw.randrange(len(body) or 1)
    raw = _head(draw, draw.choice(START_LINES), status, length) + body + _behind(draw)
    return RawResponse(raw, family, status, is_whole=False)


def _chunked(draw: random.Random, family: str) -> RawResponse:
    status, (body, is_whole) = _status(draw), _body(draw)
    body = body or b" "
    odd = draw.random() < 0.5
    line = draw.choice([*ODD_LINES, b"", b"", b"Content-Length: 7", b"Transfer-Encoding: chunked"])
    chunks = _chunks(draw, body, odd=odd)
    # A form has no end of its own, so that a part of it might be missing.
    is_whole = is_whole and (not odd or body.startswith(b"{"))
    head = _head(draw, draw.choice(START_LINES), status, b"Transfer-Encoding: chunked", line)
    return RawResponse(head + chunks + _behind(draw), family, status, is_whole)


def _compressed(draw: random.Random, family: str) -> RawResponse:
    status, (body, is_whole) = _status(draw), _body(draw)
    name, compress = draw.choice(CODINGS)
    content = compress(body)
    lines = (b"Content-Encoding: " + name, b"Content-Length: %d" % len(content))
    odd = draw.choice([b"", b"", *ODD_LINES])
    raw = _head(draw, draw.choice(START_LINES), status, *lines, odd) + content + _behind(draw)
    # The last field of a form counts only if nothing can be missing.
    is_whole = is_whole and not (body.startswith(b"access") and b"scope=" not in body)
    return RawResponse(raw, family, status, is_whole)


def _foreign(draw: random.Random, family: str) -> RawResponse:
    """Draw a response with the correlation id of another request."""
    status, (body, is_whole) = _status(draw), _body(draw)
    head = _head(draw, b"HTTP/1.1 %d OK", status, b"Content-Length: %d" % len(body))
    other = b"X-Correlation-ID: " + draw.choice([b"corr-of-another", NOISE])
    raw = head.replace(b"X-Correlation-ID: " + FIRST_ID.encode(), other) + body
    return RawResponse(raw, family, status, is_whole)


def _damaged(draw: random.Random, family: str) -> RawResponse:
    """Draw any other response with a part removed, repeated or overwritten."""
    other = FAMILIES[draw.choice(sorted(FAMILIES.keys() - {family}))](draw, family)
    raw = other.raw
    start = draw.randrange(len(raw))
    end = min(len(raw), start + draw.randrange(40))
    changed = draw.choice(
        [
            raw[:start],
            raw[:start] + raw[end:],
            raw[:end] + raw[start:],
            raw[:start] + draw.randbytes(end - start) + raw[end:],
            raw[:start] + NOISE + raw[start:],
        ]
    )
    return RawResponse(changed, family, 0, is_whole=False)


def _unreadable_start(draw: random.Random, family: str) -> RawResponse:
    """Draw a response without a status."""
    body, is_whole = _body(draw)
    lines = (draw.choice([*ODD_LINES, b""]), b"Content-Length: %d" % len(body))
    raw = _head(draw, draw.choice(UNREADABLE_START_LINES), 200, *lines) + body
    return RawResponse(raw, family, 0, is_whole and body.startswith(b"{"))


FAMILIES: dict[str, Callable[[random.Random, str], RawResponse]] = {
    "malformed head": _malformed_head,
    "odd length": _odd_length,
    "short length": _short_length,
    "chunks": _chunked,
    "compressed": _compressed,
    "foreign correlation id": _foreign,
    "damaged": _damaged,
    "no status": _unreadable_start,
}


class EndedStream(httpcore.MockStream):
    """A connection that the server ends after its response."""

    def get_extra_info(self, info: str) -> Any:
        """Return that the end can be read."""
        return info == "is_readable" or super().get_extra_info(info)


class AsyncEndedStream(httpcore.AsyncMockStream):
    """A connection that the server ends after its response."""

    def get_extra_info(self, info: str) -> Any:
        """Return that the end can be read."""
        return info == "is_readable" or super().get_extra_info(info)


@define
class RawNetwork:
    """Connections in memory on which each request gets the same bytes.

    Attributes:
        parts: The bytes, each element as one read of the client returns them.
    """

    parts: list[bytes] = Factory(list)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Open no sockets from now on: the client's connections come from here."""

        def connect(*_: object, **__: object) -> httpcore.NetworkStream:
            return EndedStream(list(self.parts))

        async def aconnect(*_: object, **__: object) -> httpcore.AsyncNetworkStream:
            return AsyncEndedStream(list(self.parts))

        monkeypatch.setattr(httpcore.SyncBackend, "connect_tcp", connect)
        monkeypatch.setattr(httpcore.AnyIOBackend, "connect_tcp", aconnect)


PAIR = (ACCESS_TOKEN, REFRESH_TOKEN)
