"""Draws mutated responses: status, headers, body, encoding and truncation."""

from __future__ import annotations

import json
import zlib
from urllib.parse import quote, quote_plus

import httpx
from attrs import field, frozen
from hypothesis import strategies as st

from wrapper.harness import (
    FIRST_ID,
    SECRETS,
    TOKEN_BODY,
    Chunks,
)
from wrapper.leaks import lower_case_escapes

STATUSES = st.one_of(
    st.sampled_from([200, 200, 200, 201, 204, 299, 302, 400, 404, 406, 408, 424, 429, 499]),
    st.sampled_from([401, 403, 415]),
    st.sampled_from([429, 503]),
    st.sampled_from([500, 502, 503, 504, 520, 599]),
    st.integers(101, 999),
)
ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["", "3600", 10**400, "\ud800", [], {}, ["fake"], {"a": {"b": [1]}}]),
)
ECHOES = st.sampled_from(SECRETS).flatmap(
    lambda secret: st.sampled_from(
        [
            f"{secret} is not good",
            f"got '{quote(secret, safe='')}'",
            f"got {lower_case_escapes(secret)}",
            f"code={quote_plus(secret)}&",
            secret * 2,
        ]
    )
)
OAUTH_ERRORS = st.fixed_dictionaries(
    {"error": st.sampled_from(["invalid_grant", "INVALID_GRANT", "x", ""]) | ODD_VALUES | ECHOES},
    optional={"error_description": ECHOES | ODD_VALUES, "error_uri": ECHOES | ODD_VALUES},
)
PROBLEMS = st.fixed_dictionaries(
    {"type": st.sampled_from(["/problems/INVALID_TOKEN", "about:blank"]) | ODD_VALUES | ECHOES},
    optional={"title": ECHOES | ODD_VALUES, "detail": ECHOES, "instance": ECHOES | ODD_VALUES},
)
SIDE_MEMBERS = st.dictionaries(
    st.sampled_from(["token_type", "expires_in", "scope", "extra", "error"]),
    ODD_VALUES,
    max_size=3,
)
TOKENS = SIDE_MEMBERS.map(lambda odd: TOKEN_BODY | odd)
DAMAGED_TOKENS = st.dictionaries(
    st.sampled_from(sorted(TOKEN_BODY)), ODD_VALUES, min_size=1, max_size=3
).map(lambda odd: TOKEN_BODY | odd)
KINDS: list[st.SearchStrategy[object]] = [
    *[TOKENS] * 5,
    DAMAGED_TOKENS,
    OAUTH_ERRORS,
    PROBLEMS,
    st.builds(lambda error, token: token | error, OAUTH_ERRORS, TOKENS),
    ODD_VALUES,
]
# Drawing the kind first keeps the weights: `one_of` would weight nested branches one by one.
BODIES = st.sampled_from(KINDS).flatmap(lambda kind: kind)
ENCODINGS = st.sampled_from(
    ["utf-8"] * 15 + ["utf-8-sig", "utf-16", "utf-16-be", "utf-32", "latin-1"]
)
# For each encoding that begins with a byte order mark, the same encoding without it.
CODECS = {"utf-8-sig": "utf-8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}
WRAPPINGS = st.sampled_from(
    [("", "")] * 20
    + [("\ufeff", ""), (" \r\n", "\n"), (")]}'\n", ""), ("<html><body>", "</body></html>")]
    + [("[", "]"), ("", ",,"), ("", "null"), ('{"data":', "}"), ("/* */", ";"), ("[" * 3000, "")]
)
HEADER_VALUES = st.one_of(
    st.sampled_from(["PLATFORM", "platform", "PROVIDER", FIRST_ID, "corr-9", "en", "no-store"]),
    st.sampled_from(["no-cache", "application/json", "text/html", "7", "-1", "https://["]),
    st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=12),
).map(lambda text: text.encode("latin-1"))
# Drawing from a list first: `|` would weight the branches of `HEADER_VALUES` one by one.
SOURCES = st.sampled_from(
    [b"PLATFORM"] * 3 + [b"platform "] * 2 + [b"PROVIDER"] * 2 + [b"\xfc", None]
).flatmap(lambda source: HEADER_VALUES if source is None else st.just(source))
HEADERS = st.builds(
    dict.__or__,
    st.dictionaries(
        st.sampled_from(
            [
                b"X-Correlation-ID",
                b"Content-Language",
                b"Cache-Control",
                b"Pragma",
                b"Set-Cookie",
                b"Content-Type",
                b"Retry-After",
                b"Location",
                b"Content-Length",
            ]
        ),
        HEADER_VALUES,
    ),
    st.sampled_from([True, True, False]).flatmap(
        lambda present: st.fixed_dictionaries({b"X-CorAPI-Source": SOURCES} if present else {})
    ),
)
BREAKS = st.sampled_from(
    [None] * 4
    + [
        httpx.ReadError("reset"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("peer closed connection without sending complete message body"),
    ]
)


@frozen
class MutatedResponse:
    """One mutated response.

    Attributes:
        status: The HTTP status.
        headers: The raw header fields.
        encoding: The encoding of the text.
        content: The part of the body that is received, before compression.
        wire: The body as it is sent.
        broken: The exception of the connection after the body, or None.
    """

    status: int
    headers: list[tuple[bytes, bytes]]
    encoding: str
    content: bytes = field(repr=lambda content: repr(content[:300]))
    wire: bytes = field(repr=False)
    broken: Exception | None

    def response(self) -> httpx.Response:
        """Return the raw response."""
        chunks = [self.wire] if self.broken is None else [self.wire, self.broken]
        return httpx.Response(self.status, headers=self.headers, stream=Chunks(*chunks))

    @property
    def tokens(self) -> set[str]:
        """The tokens whose complete member is in the body."""
        members = {name: str(TOKEN_BODY[name]) for name in ("access_token", "refresh_token")}
        return {
            token
            for name, token in members.items()
            if f'"{name}": "{token}"'.encode(CODECS.get(self.encoding, self.encoding))
            in self.content
        }

    @property
    def is_foreign(self) -> bool:
        """Whether the headers have the correlation id of another request."""
        values = [value for name, value in self.headers if name == b"X-Correlation-ID"]
        ids = {part.strip() for value in values for part in value.decode("latin-1").split(",")}
        return ids - {"", FIRST_ID} != set()

    @property
    def from_platform(self) -> bool:
        """Whether the headers name the platform as the source of the response."""
        values = [value for name, value in self.headers if name == b"X-CorAPI-Source"]
        return values != [] and values[0].decode("latin-1").strip().upper() == "PLATFORM"


@st.composite
def mutants(draw: st.DrawFn) -> MutatedResponse:
    """Draw a mutated response."""
    before, after = draw(WRAPPINGS)
    text = json.dumps(draw(BODIES), indent=draw(st.sampled_from([None, None, 2])))
    encoding = draw(ENCODINGS)
    content = damaged(draw, f"{before}{text}{after}".encode(encoding, "replace"))
    headers = list(draw(HEADERS).items())
    coding = draw(st.sampled_from([b""] * 6 + [b"gzip", b"deflate", b"br, x-odd", b"false gzip"]))
    wire = content
    if coding in {b"gzip", b"deflate"}:
        compressor = zlib.compressobj(wbits=31 if coding == b"gzip" else 15)
        wire = compressor.compress(content) + compressor.flush()
        wire = wire[: draw(st.integers(0, len(wire)) | st.just(len(wire)))]
        content = zlib.decompressobj(wbits=47).decompress(wire)
    if coding:
        headers.append((b"Content-Encoding", coding.replace(b"false gzip", b"gzip")))
    return MutatedResponse(draw(STATUSES), headers, encoding, content, wire, draw(BREAKS))


def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """Truncate a body, or overwrite, insert, drop or repeat a part, or return it unchanged."""
    damage = draw(
        st.sampled_from(["none"] * 4 + ["truncate", "overwrite", "insert", "drop", "repeat"])
    )
    if damage == "none" or not content:
        return content
    start = draw(st.integers(0, len(content) - 1))
    end = min(len(content), start + draw(st.integers(1, 40)))
    noise = draw(st.binary(min_size=1, max_size=4))
    match damage:
        case "truncate":
            return content[:start]
        case "overwrite":
            return content[:start] + noise + content[start + len(noise) :]
        case "insert":
            return content[:start] + noise + content[start:]
        case "drop":
            return content[:start] + content[end:]
        case _:
            return content[:end] + content[start:]
