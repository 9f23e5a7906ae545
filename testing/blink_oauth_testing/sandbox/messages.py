"""A reply as a value, and the forms replies take on the platform."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal

from attrs import evolve, field, frozen

PROBLEM = "application/problem+json"
TOKEN = "application/json;charset=utf-8"
JSON = "application/json"
HTML = "text/html;charset=utf-8"

Source = Literal["PLATFORM", "PROVIDER"]


@frozen
class Reply:
    """Status, headers and body of a response, before they are put on the wire."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = field(default=b"", repr=False)

    def header(self, name: str) -> str | None:
        """Return the first header of that name, in any case, or None."""
        return next((v for k, v in self.headers if k.lower() == name.lower()), None)

    def with_header(self, name: str, value: str) -> Reply:
        """Return a copy in which this header has exactly this value."""
        return evolve(self, headers=(*self.without_header(name).headers, (name, value)))

    def without_header(self, name: str) -> Reply:
        """Return a copy without this header."""
        kept = tuple((k, v) for k, v in self.headers if k.lower() != name.lower())
        return evolve(self, headers=kept)

    def with_body(self, content_type: str, body: bytes) -> Reply:
        """Return a copy with another body."""
        return evolve(self.with_header("Content-Type", content_type), body=body)

    def with_members(self, members: Mapping[str, object]) -> Reply:
        """Return a copy with these members added to its JSON object; other bodies stay."""
        found = self._members()
        return self if found is None else evolve(self, body=_json({**found, **members}))

    def without_member(self, name: str) -> Reply:
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


def problem(status: int, kind: str, title: str, detail: str, source: Source = "PLATFORM") -> Reply:
    """Build a refusal in the form of RFC 9457, as the platform writes them."""
    content = {"type": f"/problems/{kind}", "title": title, "detail": detail, "status": status}
    return _from(source, _english(Reply(status).with_body(PROBLEM, _json(content))))


def oauth_error(error: str, description: str) -> Reply:
    """Build a bank's refusal (RFC 6749 section 5.2)."""
    content = {"error": error, "error_description": description}
    return _from("PROVIDER", _english(Reply(400).with_body(JSON, _json(content))))


def success(content: object, content_type: str = TOKEN) -> Reply:
    """Build a bank's answer; `None` is an answer without a body."""
    reply = _from("PROVIDER", Reply(200))
    return reply if content is None else reply.with_body(content_type, _json(content))


def _english(reply: Reply) -> Reply:
    return reply.with_header("Content-Language", "en")


def _from(source: Source, reply: Reply) -> Reply:
    return (
        reply.with_header("X-CorAPI-Source", source)
        .with_header("Cache-Control", "no-store")
        .with_header("Pragma", "no-cache")
    )


def _json(content: object) -> bytes:
    return json.dumps(content, ensure_ascii=False).encode()
