"""A client for the OAuth endpoints of SIX's bLink platform.

Each call returns a typed value, such as a `Token`, or raises one typed error.

The two clients, and the HTTP stack with them, are imported when they are first used: code that
handles only tokens and errors starts faster.
"""

from typing import TYPE_CHECKING

from ._version import __version__
from .answers import Answer, answer_to
from .authorization import (
    AuthorizationCode,
    AuthorizationRequest,
    FailedCallback,
    FailureReason,
)
from .context import Grant, Psu
from .errors import (
    BlinkError,
    CertificateError,
    ConnectionLostError,
    ForeignResponseError,
    InvalidClientError,
    InvalidGrantError,
    InvalidInputError,
    NetworkFault,
    NoResponseError,
    NotConnectedError,
    OAuthError,
    Outcome,
    ProblemError,
    ResponseError,
    RevocationError,
    StatusError,
    TimedOutError,
    TlsError,
    TlsFault,
    UnreadableResponseError,
)
from .expiry import CertificateExpiry, CertificateRole, ExpiryStage
from .headers import Probe, ResponseMeta, Source
from .settings import RevocationField, Settings, Timeouts
from .tls import (
    CertificateReport,
    ClientCertificate,
    Finding,
    PemCertificate,
    Pkcs12Certificate,
    Rule,
    check_certificate,
    ssl_context,
)
from .tokens import Oddity, Secret, Token, TokenKind

if TYPE_CHECKING:
    from .client import AsyncBlinkOAuth, BlinkOAuth

__all__ = [
    "Answer",
    "AsyncBlinkOAuth",
    "AuthorizationCode",
    "AuthorizationRequest",
    "BlinkError",
    "BlinkOAuth",
    "CertificateError",
    "CertificateExpiry",
    "CertificateReport",
    "CertificateRole",
    "ClientCertificate",
    "ConnectionLostError",
    "ExpiryStage",
    "FailedCallback",
    "FailureReason",
    "Finding",
    "ForeignResponseError",
    "Grant",
    "InvalidClientError",
    "InvalidGrantError",
    "InvalidInputError",
    "NetworkFault",
    "NoResponseError",
    "NotConnectedError",
    "OAuthError",
    "Oddity",
    "Outcome",
    "PemCertificate",
    "Pkcs12Certificate",
    "Probe",
    "ProblemError",
    "Psu",
    "ResponseError",
    "ResponseMeta",
    "RevocationError",
    "RevocationField",
    "Rule",
    "Secret",
    "Settings",
    "Source",
    "StatusError",
    "TimedOutError",
    "Timeouts",
    "TlsError",
    "TlsFault",
    "Token",
    "TokenKind",
    "UnreadableResponseError",
    "__version__",
    "answer_to",
    "check_certificate",
    "ssl_context",
]

# Hidden from type checkers, so that they report a misspelt name.
if not TYPE_CHECKING:  # pragma: no branch

    def __getattr__(name: str) -> object:
        if name not in {"AsyncBlinkOAuth", "BlinkOAuth"}:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from . import client

        return getattr(client, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
