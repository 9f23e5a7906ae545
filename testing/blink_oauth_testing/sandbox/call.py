"""A request as a value: what arrived at the platform, before anything is decided."""

from __future__ import annotations

import re
from functools import cached_property
from urllib.parse import parse_qsl
from uuid import uuid4

from attrs import field, frozen


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
