"""OAuth tokens from the SIX bLink platform: never lost, never spent twice, never shown.

Values and errors are here at once. The clients with the whole HTTP stack and the manager are loaded
when one of them is first named: what only handles tokens need not wait for them.
"""

from typing import TYPE_CHECKING

from ._version import __version__
from .context import Grant, Psu
from .errors import (
    BlinkError,
    CertificateError,
    ConnectionLostError,
    ConsentNeededError,
    InvalidClientError,
    InvalidGrantError,
    InvalidInputError,
    NoResponseError,
    NotConnectedError,
    NoTokenError,
    OAuthError,
    Outcome,
    ProblemError,
    RefreshPausedError,
    RefreshPendingError,
    RefreshUncertainError,
    ResponseError,
    RevocationError,
    SchemaError,
    SealError,
    StatusError,
    StoreError,
    TimedOutError,
    TlsError,
    TlsFault,
    UnknownGrantError,
    UnreadableResponseError,
)
from .headers import ResponseMeta, Source
from .settings import Settings, Timeouts
from .tls import ClientCertificate
from .tokens import Oddity, Secret, Token, TokenKind

if TYPE_CHECKING:
    from .client import AsyncBlinkOAuth, BlinkOAuth
    from .lifecycle import TargetProfile, TokenManager

__all__ = [
    "AsyncBlinkOAuth",
    "BlinkError",
    "BlinkOAuth",
    "CertificateError",
    "ClientCertificate",
    "ConnectionLostError",
    "ConsentNeededError",
    "Grant",
    "InvalidClientError",
    "InvalidGrantError",
    "InvalidInputError",
    "NoResponseError",
    "NoTokenError",
    "NotConnectedError",
    "OAuthError",
    "Oddity",
    "Outcome",
    "ProblemError",
    "Psu",
    "RefreshPausedError",
    "RefreshPendingError",
    "RefreshUncertainError",
    "ResponseError",
    "ResponseMeta",
    "RevocationError",
    "SchemaError",
    "SealError",
    "Secret",
    "Settings",
    "Source",
    "StatusError",
    "StoreError",
    "TargetProfile",
    "TimedOutError",
    "Timeouts",
    "TlsError",
    "TlsFault",
    "Token",
    "TokenKind",
    "TokenManager",
    "UnknownGrantError",
    "UnreadableResponseError",
    "__version__",
]

_LATE = {
    "AsyncBlinkOAuth": "client",
    "BlinkOAuth": "client",
    "TargetProfile": "lifecycle",
    "TokenManager": "lifecycle",
}


# Hidden from type checkers, so that a misspelt name stays an error.
if not TYPE_CHECKING:  # pragma: no branch

    def __getattr__(name: str) -> object:
        if name not in _LATE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return getattr(import_module(f".{_LATE[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
