"""Requests and replies as values, and how a reply travels."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Literal
from urllib.parse import parse_qsl
from uuid import uuid4

from attrs import evolve, field, frozen

__all__ = []

PROBLEM = "application/problem+json"
TOKEN = "application/json;charset=utf-8"
JSON = "application/json"
HTML = "text/html;charset=utf-8"

Source = Literal["PLATFORM", "PROVIDER"]


@frozen
class Response:
    """Status, headers and body of a response, before they are put on the wire."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """Return the first header of that name, in any case, or None."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    def with_header(self, name: str, value: str) -> Response:
        """Return a copy in which this header has exactly this value."""
        return evolve(self, headers=(*self.without_header(name).headers, (name, value)))

    def without_header(self, name: str) -> Response:
        """Return a copy without this header."""
        kept = tuple((k, v) for k, v in self.headers if k.lower() != name.lower())
        return evolve(self, headers=kept)

    def with_body(self, content_type: str, body: bytes) -> Response:
        """Return a copy with another body."""
        return evolve(self.with_header("Content-Type", content_type), body=body)

    def with_members(self, members: Mapping[str, object]) -> Response:
        """Return a copy with these members added to its JSON object; other bodies stay."""
        found = self._members()
        return self if found is None else evolve(self, body=_json({**found, **members}))

    def without_member(self, name: str) -> Response:
        """Return a copy without this member of its JSON object; other bodies stay."""
        found = self._members()
        if found is None:
            return self
        return evolve(self, body=_json({k: v for k, v in found.items() if k != name}))

    def _members(self) -> dict[str, object] | None:
        try:
            content = json.loads(self.body)
        except ValueError:
            return None
        return content if isinstance(content, dict) else None


def problem(
    status: int, kind: str, title: str, detail: str, source: Source = "PLATFORM"
) -> Response:
    """Build a refusal in the form of RFC 9457, as the platform writes them."""
    content = {"type": f"/problems/{kind}", "title": title, "detail": detail, "status": status}
    return _from(source, _english(Response(status).with_body(PROBLEM, _json(content))))


def oauth_error(error: str, description: str) -> Response:
    """Build a bank's refusal (RFC 6749 section 5.2)."""
    content = {"error": error, "error_description": description}
    return _from("PROVIDER", _english(Response(400).with_body(JSON, _json(content))))


def success(content: object, content_type: str = TOKEN) -> Response:
    """Build a bank's answer; `None` is an answer without a body."""
    reply = _from("PROVIDER", Response(200))
    return reply if content is None else reply.with_body(content_type, _json(content))


def _english(reply: Response) -> Response:
    return reply.with_header("Content-Language", "en")


def _from(source: Source, reply: Response) -> Response:
    return (
        reply.with_header("X-CorAPI-Source", source)
        .with_header("Cache-Control", "no-store")
        .with_header("Pragma", "no-cache")
    )


def _json(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


@frozen(slots=False)
class Call:
    """A request that arrived over mutual TLS.

    Attributes:
        method: HTTP method in capitals.
        path: Path without query.
        headers: Header fields in the order they came.
        body: Body as it came.
        certificate: SHA-256 fingerprint of the client certificate in hexadecimal.
        correlation_id: The id the response must carry: that of the request, or a fresh one where
            the request has none that could be sent back.
    """

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    certificate: str
    correlation_id: str = field(init=False)

    @correlation_id.default
    def _echo(self) -> str:
        values = self.headers_named("X-Correlation-ID")
        usable = len(values) == 1 and re.fullmatch(r"[!-~]{1,64}", values[0])
        return values[0] if usable else str(uuid4())

    def header(self, name: str) -> str | None:
        """Return the first header of that name, in any case, or None."""
        return next(iter(self.headers_named(name)), None)

    def headers_named(self, name: str) -> tuple[str, ...]:
        """Return every header of that name, in any case."""
        return tuple(value for key, value in self.headers if key.lower() == name.lower())

    @property
    def media_type(self) -> str:
        """Return the media type of the body, in small letters and without parameters."""
        return (self.header("Content-Type") or "").partition(";")[0].strip().lower()

    @cached_property
    def form(self) -> tuple[tuple[str, str], ...]:
        """Return the form fields in the order they came; empty for any other media type."""
        if self.media_type != "application/x-www-form-urlencoded":
            return ()
        text = self.body.decode("utf-8", errors="surrogateescape")
        return tuple(parse_qsl(text, keep_blank_values=True, errors="surrogateescape"))

    @property
    def field_names(self) -> tuple[str, ...]:
        """Return the names of the form fields, without any that might be a secret gone astray."""
        return tuple(printable_name(name) for name, _ in self.form)

    def field(self, name: str) -> str:
        """Return a form field, or an empty text where it is absent."""
        return dict(self.form).get(name, "")


def printable_name(name: str) -> str:
    """Return the name of a form field, or a stand-in for one that looks like anything else.

    A body that is no form at all reads as one field, whose name may be a secret.
    """
    return name if re.fullmatch(r"[a-z_]{1,32}", name) else "(odd name)"


@frozen
class Delivery:
    """How a reply is put on the wire.

    Attributes:
        after: Seconds until the first byte; the server serves others meanwhile.
        silent: Never answer. It ends when the client goes away or the sandbox stops.
        reset: End the connection with a TCP reset instead of an answer.
        head_interval: Seconds between the pieces of status line and headers; 0 sends them at once.
        body_interval: Seconds between the pieces of the body; 0 sends it at once.
        pieces: How many pieces that is, so that even a slow reply has an end.
        body_fraction: Share of the body that is sent. `Content-Length` announces all of it.
    """

    after: float = 0.0
    silent: bool = False
    reset: bool = False
    head_interval: float = 0.0
    body_interval: float = 0.0
    pieces: int = 10
    body_fraction: float = 1.0


AS_USUAL = Delivery()
