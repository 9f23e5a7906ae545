"""OAuth tokens from the SIX bLink platform: never lost, never spent twice, never shown.

Everything is loaded when it is first named: what only handles tokens need not wait for the HTTP
stack, and `blink-oauth --help` waits for nothing.
"""

from typing import TYPE_CHECKING

from ._version import __version__

if TYPE_CHECKING:
    from .client import AsyncBlinkOAuth, BlinkOAuth
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
    from .lifecycle import TargetProfile, TokenManager
    from .settings import Settings, Timeouts
    from .tls import ClientCertificate
    from .tokens import Oddity, Secret, Token, TokenKind

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

_HOME = {
    "client": (
        "AsyncBlinkOAuth",
        "BlinkOAuth",
    ),
    "context": (
        "Grant",
        "Psu",
    ),
    "errors": (
        "BlinkError",
        "CertificateError",
        "ConnectionLostError",
        "ConsentNeededError",
        "InvalidClientError",
        "InvalidGrantError",
        "InvalidInputError",
        "NoResponseError",
        "NotConnectedError",
        "NoTokenError",
        "OAuthError",
        "Outcome",
        "ProblemError",
        "RefreshPausedError",
        "RefreshPendingError",
        "RefreshUncertainError",
        "ResponseError",
        "RevocationError",
        "SchemaError",
        "SealError",
        "StatusError",
        "StoreError",
        "TimedOutError",
        "TlsError",
        "TlsFault",
        "UnknownGrantError",
        "UnreadableResponseError",
    ),
    "headers": (
        "ResponseMeta",
        "Source",
    ),
    "lifecycle": (
        "TargetProfile",
        "TokenManager",
    ),
    "settings": (
        "Settings",
        "Timeouts",
    ),
    "tls": ("ClientCertificate",),
    "tokens": (
        "Oddity",
        "Secret",
        "Token",
        "TokenKind",
    ),
}
_HOME_OF = {name: module for module, names in _HOME.items() for name in names}


# Hidden from type checkers, so that a misspelt name stays an error.
if not TYPE_CHECKING:  # pragma: no branch

    def __getattr__(name: str) -> object:
        from importlib import import_module

        if name in _HOME:
            return import_module(f".{name}", __name__)
        if name not in _HOME_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_HOME_OF[name]}", __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
