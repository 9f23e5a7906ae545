"""The result of sending a call, as a value: a response, or the reason why there is none."""

from __future__ import annotations

import os
import re
import socket
import ssl
from collections.abc import Iterator, Mapping
from typing import Literal

import httpx
from attrs import field, frozen

from ._checks import sendable
from .errors import (
    ConnectionLostError,
    NetworkFault,
    NoResponseError,
    NotConnectedError,
    TimedOutError,
    TlsError,
    TlsFault,
)

__all__ = [
    "Body",
    "DocumentedStatus",
    "ErrorMember",
    "NoResponse",
    "RawResponse",
    "Reply",
    "TokenMember",
    "no_response_from",
]

DocumentedStatus = Literal[200, 400, 401, 403, 406, 415, 500, 502, 504]
"""The statuses that the contract lists for both operations; `_outcomes` covers each of them."""
TokenMember = Literal["access_token", "refresh_token", "token_type", "expires_in", "scope"]
"""The members of a token response that are read here."""
ErrorMember = Literal[
    "error", "error_description", "error_uri", "type", "title", "detail", "instance"
]
"""The members of an error body that are read here."""


@frozen(eq=False)
class RawResponse:
    """A response, or the part of it that was received.

    Attributes:
        status: The HTTP status; 0 if a malformed head has none that can be read.
        headers: The headers that the client reads; no others are kept.
        content: The body, decompressed.
        incomplete_because: Why the body may be incomplete, or None if it is complete.
        members: The members of the body by their names in JSON, if the generated parser could
            read it.
        is_malformed: Whether the HTTP parser refused the head.
        coding: The content coding that the body is still in, because it cannot be undone.
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)
    incomplete_because: str | None = None
    members: Mapping[str, object] | None = field(default=None, repr=False)
    is_malformed: bool = False
    coding: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the status is a success (RFC 9110 section 15.3)."""
        return 200 <= self.status < 300


@frozen(eq=False)
class NoResponse:
    """The reason why a call has no response.

    Attributes:
        error: The class of the error to raise.
        reason: A text for the class of the network error; it quotes nothing.
        network_fault: The kind of fault, as far as it is known.
        fault: For a `TlsError`, the part of the authentication that failed.
        malformed: The response whose head the HTTP parser refused, if any byte was received.
    """

    error: type[NoResponseError]
    reason: str
    network_fault: NetworkFault
    fault: TlsFault | None = None
    malformed: RawResponse | None = None


@frozen(eq=False)
class Body:
    """A body that was read.

    Attributes:
        members: The members of the JSON object or of the form; empty if there are none.
        broken: Whether the body is not one complete JSON object, or one complete form.
        description: The kind and size of the body, without any of its text.
        is_form: Whether the body is form-encoded.
    """

    members: Mapping[str, object] = field(repr=False)
    broken: bool
    description: str
    is_form: bool = False

    def get(self, name: TokenMember | ErrorMember) -> object:
        """Return a member as received, or None."""
        return self.members.get(name)

    def text(self, name: TokenMember | ErrorMember) -> str | None:
        """Return a member if it is a non-empty text that can be encoded, else None."""
        value = self.members.get(name)
        if not isinstance(value, str) or not value:
            return None
        return value if value.isascii() or sendable(value) else None

    def secrets(self) -> tuple[str, ...]:
        """Return the tokens in the body, which no error text may repeat."""
        return tuple(filter(None, (self.text("access_token"), self.text("refresh_token"))))


Reply = RawResponse | NoResponse


PROXY_STATUS = re.compile(r"[1-5][0-9]{2}(?![0-9])")
OPENSSL_REASON = re.compile(r"[A-Z0-9_]{1,80}")

BEFORE_SENDING = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)

NETWORK_FAULTS: dict[type[Exception], NetworkFault] = {
    httpx.ProxyError: NetworkFault.PROXY,
    socket.gaierror: NetworkFault.HOST_UNKNOWN,
    ConnectionRefusedError: NetworkFault.CONNECTION_REFUSED,
    httpx.TimeoutException: NetworkFault.TIMED_OUT,
}

SERVER_FAULTS = {
    9: TlsFault.SERVER_CERTIFICATE_NOT_YET_VALID,
    10: TlsFault.SERVER_CERTIFICATE_EXPIRED,
    18: TlsFault.SERVER_AUTHORITY_UNKNOWN,
    19: TlsFault.SERVER_AUTHORITY_UNKNOWN,
    20: TlsFault.SERVER_AUTHORITY_UNKNOWN,
    21: TlsFault.SERVER_AUTHORITY_UNKNOWN,
    62: TlsFault.SERVER_NAME_MISMATCH,
    64: TlsFault.SERVER_NAME_MISMATCH,
}
"""OpenSSL's verification results (X509_V_ERR_…)."""

CLIENT_FAULTS = {
    "CERTIFICATE_REQUIRED": TlsFault.CLIENT_CERTIFICATE_MISSING,
    "BAD_CERTIFICATE": TlsFault.CLIENT_CERTIFICATE_REFUSED,
    "UNSUPPORTED_CERTIFICATE": TlsFault.CLIENT_CERTIFICATE_REFUSED,
    "CERTIFICATE_REVOKED": TlsFault.CLIENT_CERTIFICATE_REFUSED,
    "CERTIFICATE_EXPIRED": TlsFault.CLIENT_CERTIFICATE_REFUSED,
    "CERTIFICATE_UNKNOWN": TlsFault.CLIENT_CERTIFICATE_REFUSED,
    "UNKNOWN_CA": TlsFault.CLIENT_CERTIFICATE_REFUSED,
    "ACCESS_DENIED": TlsFault.CLIENT_CERTIFICATE_REFUSED,
}
"""Alerts that refuse the client's certificate (RFC 8446 section 6.2), by OpenSSL's name."""

NO_ALERT = (
    ssl.SSLWantReadError,
    ssl.SSLWantWriteError,
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
)
"""TLS errors for a timeout or the end of the connection; they report nothing on a certificate."""


CLOSED = "the server closed the connection without a response"
CLOSED_BY_PEER = (
    ssl.SSLEOFError,
    ssl.SSLZeroReturnError,
    BrokenPipeError,
    ConnectionAbortedError,
    ConnectionResetError,
)
REASONS: dict[type[Exception] | tuple[type[Exception], ...], str] = {
    httpx.PoolTimeout: "all connections were busy for too long",
    httpx.ConnectTimeout: "no connection was made in time",
    httpx.WriteTimeout: "the request was not sent in time",
    httpx.TimeoutException: "the response did not arrive in time",
    httpx.ProxyError: "the proxy refused the connection",
    (socket.gaierror, UnicodeError): "the host name cannot be resolved",
    CLOSED_BY_PEER: CLOSED,
    ssl.SSLError: "the TLS connection failed",
    httpx.ConnectError: "no connection was made",
    httpx.RemoteProtocolError: CLOSED,
    httpx.LocalProtocolError: "the request is not valid HTTP",
    httpx.UnsupportedProtocol: "the scheme of the URL is not supported",
    httpx.TransportError: "the connection broke before the end of the response",
}
"""The texts of the network errors; the first class counts of which the error or a cause is one.

No exception of a library is ever quoted: the HTTP parser repeats the bytes that it refuses, which
may contain a token, and a proxy chooses the text of its refusal.
"""
NOT_HTTP = "the server's response is not valid HTTP"


def no_response_from(
    exc: httpx.TransportError,
    *,
    sent: bool | None,
    answered: bool = False,
    malformed: RawResponse | None = None,
) -> NoResponse:
    """Return the value for a network error: whether the request was sent, and what failed.

    Args:
        exc: The network error.
        sent: Whether a part of the request was sent, if that is known.
        answered: Whether bytes of a response were received.
        malformed: The response that the HTTP parser refused, if one was received.
    """
    fault = _tls_fault(exc)
    error, reason = _error(exc, sent, fault), _reason(exc, answered=answered)
    return NoResponse(error, reason, _network_fault(exc), fault, malformed)


def _reason(exc: httpx.TransportError, *, answered: bool) -> str:
    if answered and isinstance(exc, httpx.RemoteProtocolError):
        return NOT_HTTP
    waits = (ssl.SSLWantReadError, ssl.SSLWantWriteError)
    causes = [cause for cause in _causes(exc) if not isinstance(cause, waits)]
    text = next(
        text for kind, text in REASONS.items() if any(isinstance(cause, kind) for cause in causes)
    )
    detail = next(filter(None, map(_detail, causes)), "")
    return f"{text} ({detail})" if detail else text


def _detail(cause: BaseException) -> str:
    """Return a number of an error, or its name in a list of this machine; never its text."""
    match cause:
        case ssl.SSLEOFError() | ssl.SSLZeroReturnError() | socket.gaierror() | TimeoutError():
            return ""
        case httpx.ProxyError():
            status = PROXY_STATUS.match(str(cause))
            return f"status {status[0]}" if status else ""
        case ssl.SSLCertVerificationError():
            return f"verification result {cause.verify_code}"
        case ssl.SSLError():
            reason = OPENSSL_REASON.fullmatch(cause.reason or "")
            return reason[0] if reason else ""
        case OSError(errno=int(number)):
            return os.strerror(number)
    return ""


def _error(
    exc: httpx.TransportError, sent: bool | None, fault: TlsFault | None
) -> type[NoResponseError]:
    if fault is not None:
        return TlsError
    if sent is False or isinstance(exc, BEFORE_SENDING):
        return NotConnectedError
    return TimedOutError if isinstance(exc, httpx.TimeoutException) else ConnectionLostError


def _network_fault(exc: httpx.TransportError) -> NetworkFault:
    causes = tuple(_causes(exc))
    for kind, fault in NETWORK_FAULTS.items():
        if any(isinstance(cause, kind) for cause in causes):
            return fault
    return NetworkFault.OTHER


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    while exc is not None:
        yield exc
        exc = exc.__cause__ or exc.__context__


def _tls_fault(exc: httpx.TransportError) -> TlsFault | None:
    errors = (
        cause
        for cause in _causes(exc)
        if isinstance(cause, ssl.SSLError) and not isinstance(cause, NO_ALERT)
    )
    cause = next(errors, None)
    if cause is None:
        return None
    if isinstance(cause, ssl.SSLCertVerificationError):
        return SERVER_FAULTS.get(cause.verify_code, TlsFault.SERVER_CERTIFICATE_INVALID)
    fault = CLIENT_FAULTS.get((cause.reason or "").rpartition("ALERT_")[2])
    if fault is None and isinstance(exc, BEFORE_SENDING):
        return TlsFault.HANDSHAKE_FAILED
    return fault
