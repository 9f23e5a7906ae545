"""Requests and responses as values, and how a response is delivered."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from functools import cached_property
from typing import Literal
from urllib.parse import parse_qsl
from uuid import uuid4

from attrs import evolve, field, frozen

from blink_oauth.headers import CACHE_CONTROL, CORRELATION_ID, LANGUAGE, PRAGMA, SOURCE

__all__ = []

PROBLEM = "application/problem+json"
TOKEN = "application/json;charset=utf-8"
JSON = "application/json"
HTML = "text/html;charset=utf-8"

Source = Literal["PLATFORM", "PROVIDER"]


@frozen
class Response:
    """A response before it is sent."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """Return the first header with this name, ignoring case, or None."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    @property
    def media_type(self) -> str:
        """The media type of the body, in lower case and without parameters; empty without one."""
        return (self.header("Content-Type") or "").partition(";")[0].strip().lower()

    def with_header(self, name: str, value: str) -> Response:
        """Return a copy with this header, replacing every other one with its name."""
        return evolve(self, headers=(*self.without_header(name).headers, (name, value)))

    def without_header(self, name: str) -> Response:
        """Return a copy without this header."""
        kept = tuple((k, v) for k, v in self.headers if k.lower() != name.lower())
        return evolve(self, headers=kept)

    def with_body(self, content_type: str, body: bytes) -> Response:
        """Return a copy with another body."""
        return evolve(self.with_header("Content-Type", content_type), body=body)

    def with_members(self, members: Mapping[str, object]) -> Response:
        """Return a copy with these members set in its JSON object, or itself for other bodies."""
        content = self._json_object()
        return self if content is None else evolve(self, body=_json({**content, **members}))

    def without_member(self, name: str) -> Response:
        """Return a copy without this member of its JSON object, or itself for other bodies."""
        content = self._json_object()
        if content is None:
            return self
        return evolve(self, body=_json({k: v for k, v in content.items() if k != name}))

    def _json_object(self) -> dict[str, object] | None:
        try:
            content = json.loads(self.body)
        except ValueError:
            return None
        return content if isinstance(content, dict) else None


def problem(
    status: int, kind: str, title: str, detail: str, source: Source = "PLATFORM"
) -> Response:
    """Return an error of the platform, in the form of RFC 9457."""
    content = {"type": f"/problems/{kind}", "title": title, "detail": detail, "status": status}
    return _from_source(source, _in_english(Response(status).with_body(PROBLEM, _json(content))))


def oauth_error(error: str, description: str) -> Response:
    """Return an error of a bank (RFC 6749 section 5.2)."""
    content = {"error": error, "error_description": description}
    return _from_source("PROVIDER", _in_english(Response(400).with_body(JSON, _json(content))))


def success(content: object, content_type: str = TOKEN) -> Response:
    """Return a success of a bank; the content `None` gives no body."""
    response = _from_source("PROVIDER", Response(200))
    response = response.with_header(CACHE_CONTROL, "no-store").with_header(PRAGMA, "no-cache")
    return response if content is None else response.with_body(content_type, _json(content))


def _in_english(response: Response) -> Response:
    return response.with_header(LANGUAGE, "en")


def _from_source(source: Source, response: Response) -> Response:
    return response.with_header(SOURCE, source)


def _json(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()


@frozen(slots=False)
class Request:
    """A request that arrived over mutual TLS.

    Attributes:
        method: HTTP method in capitals.
        path: Path without query.
        headers: Header fields in the order received.
        body: Body as received.
        certificate: SHA-256 fingerprint of the client certificate in hexadecimal.
        correlation_id: The id that the response must carry: that of the request, or a new one if
            the request has no id that can be sent back.
    """

    method: str
    path: str
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    certificate: str
    correlation_id: str = field(init=False)

    @correlation_id.default
    def _correlation_id(self) -> str:
        values = self.headers_named(CORRELATION_ID)
        usable = len(values) == 1 and re.fullmatch(r"[!-~]{1,64}", values[0])
        return values[0] if usable else str(uuid4())

    def header(self, name: str) -> str | None:
        """Return the first header with this name, ignoring case, or None."""
        return next(iter(self.headers_named(name)), None)

    def headers_named(self, name: str) -> tuple[str, ...]:
        """Return every header with this name, ignoring case."""
        return tuple(value for key, value in self.headers if key.lower() == name.lower())

    @property
    def media_type(self) -> str:
        """Return the media type of the body, in lower case and without parameters."""
        return (self.header("Content-Type") or "").partition(";")[0].strip().lower()

    @cached_property
    def form(self) -> tuple[tuple[str, str], ...]:
        """Return the form fields in the order received; empty for any other media type."""
        if self.media_type != "application/x-www-form-urlencoded":
            return ()
        text = self.body.decode("utf-8", errors="surrogateescape")
        return tuple(parse_qsl(text, keep_blank_values=True, errors="surrogateescape"))

    @property
    def field_names(self) -> tuple[str, ...]:
        """Return the names of the form fields; one that may be a secret is replaced."""
        return tuple(printable_name(name) for name, _ in self.form)

    def field(self, name: str) -> str:
        """Return a form field, or an empty string if it is absent."""
        return dict(self.form).get(name, "")


def printable_name(name: str) -> str:
    """Return the name of a form field, or `(odd name)` if it does not look like a field name.

    A body that is not a form parses as a single field, whose name may be a secret.
    """
    return name if re.fullmatch(r"[a-z_]{1,32}", name) else "(odd name)"


@frozen
class Delivery:
    """How a response is sent.

    Attributes:
        delay: Seconds before the first byte; the server handles other requests meanwhile.
        silent: Send nothing, until the client disconnects or the sandbox stops.
        reset: End the connection with a TCP reset instead of a response.
        head_interval: Seconds between the pieces of status line and headers; 0 sends them in
            one piece.
        body_interval: Seconds between the pieces of the body; 0 sends it in one piece.
        pieces: Number of pieces, which bounds the duration of a slow response.
        body_fraction: Share of the body that is sent. `Content-Length` is that of the whole body.
    """

    delay: float = 0.0
    silent: bool = False
    reset: bool = False
    head_interval: float = 0.0
    body_interval: float = 0.0
    pieces: int = 10
    body_fraction: float = 1.0


NORMAL_DELIVERY = Delivery()
