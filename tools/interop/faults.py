"""Faults that a relay plants: each breaks one line of the contract."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Literal
from urllib.parse import parse_qsl, urlencode

from attrs import evolve, frozen

from .relay import Change, Message

Call = Literal["issue", "refuse", "revoke"]


@frozen
class Planted:
    """A fault.

    Attributes:
        name: Its name in the report.
        call: The call whose request or response is changed: a token is issued, a refresh token is
            refused, a token is revoked.
        change: Makes the fault.
    """

    name: str
    call: Call
    change: Change


def member(name: str, value: object = None) -> Change:
    """Set a member of the JSON body; None removes it."""

    def change(message: Message) -> Message:
        members = {**json.loads(message.body), name: value}
        kept = {key: each for key, each in members.items() if each is not None}
        return evolve(message, body=json.dumps(kept).encode())

    return change


def form(name: str, value: str = "") -> Change:
    """Set a field of the form; an empty value removes it."""

    def change(message: Message) -> Message:
        fields = {**dict(parse_qsl(message.body.decode())), name: value}
        kept = {key: each for key, each in fields.items() if each}
        return evolve(message, body=urlencode(kept).encode())

    return change


def header(name: str, value: str = "") -> Change:
    """Set a header; an empty value removes it."""
    return lambda message: message.having(name, value) if value else message.without(name)


def body(content_type: str, content: bytes) -> Change:
    """Replace the body."""
    return lambda message: evolve(message.having("Content-Type", content_type), body=content)


def status(number: int) -> Change:
    """Replace the status."""
    return lambda message: evolve(message, status=number)


_JSON, _ID, _SOURCE = "application/json", "X-Correlation-ID", "X-CorAPI-Source"

IN_RESPONSES: tuple[Planted, ...] = (
    Planted("issued, Source missing", "issue", header(_SOURCE)),
    Planted("issued, Source GATEWAY", "issue", header(_SOURCE, "GATEWAY")),
    Planted("issued, Source in small letters", "issue", header(_SOURCE, "provider")),
    Planted("issued, correlation id missing", "issue", header(_ID)),
    Planted("issued, correlation id of 65 characters", "issue", header(_ID, "x" * 65)),
    Planted("issued, Cache-Control missing", "issue", header("Cache-Control")),
    Planted("issued, Cache-Control private", "issue", header("Cache-Control", "private")),
    Planted("issued, Pragma missing", "issue", header("Pragma")),
    Planted("issued, Pragma cache", "issue", header("Pragma", "cache")),
    Planted("issued, Content-Type text/html", "issue", header("Content-Type", "text/html")),
    Planted("issued, access_token missing", "issue", member("access_token")),
    Planted("issued, access_token empty", "issue", member("access_token", "")),
    Planted("issued, access_token a number", "issue", member("access_token", 7)),
    Planted("issued, token_type missing", "issue", member("token_type")),
    Planted("issued, expires_in a text", "issue", member("expires_in", "86400")),
    Planted("issued, expires_in a fraction", "issue", member("expires_in", 0.5)),
    Planted("issued, refresh_token a list", "issue", member("refresh_token", ["x"])),
    Planted("issued, scope a list", "issue", member("scope", ["accounts"])),
    Planted("issued, a JSON list", "issue", body(_JSON, b"[]")),
    Planted("issued, not JSON", "issue", body(_JSON, b"granted")),
    Planted("issued, no body", "issue", body(_JSON, b"")),
    Planted("issued, status 201", "issue", status(201)),
    Planted("refused, Content-Language missing", "refuse", header("Content-Language")),
    Planted("refused, Content-Language de", "refuse", header("Content-Language", "de")),
    Planted("refused, Source missing", "refuse", header(_SOURCE)),
    Planted("refused, correlation id missing", "refuse", header(_ID)),
    Planted("refused, neither error nor type", "refuse", body(_JSON, b'{"message": "no"}')),
    Planted("refused, error a number", "refuse", member("error", 400)),
    Planted("refused, status a text", "refuse", member("status", "400")),
    Planted("refused, title an object", "refuse", member("title", {})),
    Planted("refused, an HTML page", "refuse", body("text/html", b"<html></html>")),
    Planted("refused, status 404", "refuse", status(404)),
    Planted("refused, status 503", "refuse", status(503)),
    Planted("revoked, Source missing", "revoke", header(_SOURCE)),
    Planted("revoked, Cache-Control public", "revoke", header("Cache-Control", "public")),
    Planted("revoked, Pragma missing", "revoke", header("Pragma")),
    Planted("revoked, status 202", "revoke", status(202)),
)

IN_REQUESTS: tuple[Planted, ...] = (
    Planted("sent, correlation id missing", "issue", header(_ID)),
    Planted("sent, correlation id of 65 characters", "issue", header(_ID, "x" * 65)),
    Planted("sent, User-Agent missing", "issue", header("User-Agent")),
    Planted("sent, target missing", "refuse", header("X-CorAPI-Target-ID")),
    Planted("sent, target with a blank", "refuse", header("X-CorAPI-Target-ID", "IIDX 1")),
    Planted("sent, address missing", "revoke", header("X-PSU-IP-Address")),
    Planted("sent, address neither IP nor AUTO", "issue", header("X-PSU-IP-Address", "auto")),
    Planted("sent, device missing", "issue", header("X-PSU-User-Agent")),
    Planted("sent, a JSON body", "issue", body(_JSON, b"{}")),
    Planted("sent, client_id missing", "issue", form("client_id")),
    Planted("sent, username missing", "refuse", form("username")),
    Planted("sent, username of 65 characters", "issue", form("username", "u" * 65)),
    Planted("sent, grant type password", "issue", form("grant_type", "password")),
    Planted("sent, code missing", "issue", form("code")),
    Planted("sent, redirect_uri missing", "issue", form("redirect_uri")),
    Planted("sent, refresh_token missing", "refuse", form("refresh_token")),
    Planted("sent, fields of both grants", "issue", form("refresh_token", "fake-refresh-token")),
    Planted("sent, token missing", "revoke", form("token")),
    Planted("sent, unknown hint", "revoke", form("token_type_hint", "id_token")),
    Planted("sent, unknown field", "issue", form("scope", "accounts")),
)

NOT_CAUGHT: Mapping[str, str] = {
    "wrong-correlation-id": "OpenAPI cannot say that a response repeats a value of its request",
    "sent, unknown field": "The contract says it, but Prism reads only the fields that it names",
}
"""The faults that Prism lets pass, by name, and why."""
